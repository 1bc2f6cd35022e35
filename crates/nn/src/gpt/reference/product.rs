//! Matrix products, the only place where a coarse arithmetic rounds. All matrices are row-major.

use crate::reference::Real;

/// The rounding of the factors of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factors {
    /// They stay as they are.
    Exact,
    /// They are rounded to tf32, 10 bits of mantissa, as tensor cores do.
    Tf32,
    /// They are rounded to bf16, 7 bits of mantissa.
    Bf16,
}

/// The sizes of a product: `rows` x `inner` times `inner` x `columns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub rows: usize,
    pub inner: usize,
    pub columns: usize,
}

impl Factors {
    /// `a b`. `a`: (rows, inner), `b`: (inner, columns), returns (rows, columns).
    pub(super) fn product<R: Real>(self, a: &[R], b: &[R], size: Size) -> Vec<R> {
        let mut out = vec![R::zero(); size.rows * size.columns];
        self.add_product(a, b, size, &mut out);
        out
    }

    /// `a b^T`. `a`: (rows, inner), `b`: (columns, inner), returns (rows, columns).
    pub(super) fn product_transposed<R: Real>(self, a: &[R], b: &[R], size: Size) -> Vec<R> {
        self.product(a, &transposed(b, size.inner), size)
    }

    /// `out += a^T b`. `a`: (inner, rows), `b`: (inner, columns), `out`: (rows, columns).
    pub(super) fn add_transposed_product<R: Real>(
        self,
        a: &[R],
        b: &[R],
        size: Size,
        out: &mut [R],
    ) {
        self.add_product(&transposed(a, size.rows), b, size, out);
    }

    fn add_product<R: Real>(self, a: &[R], b: &[R], size: Size, out: &mut [R]) {
        let Size { inner, columns, .. } = size;
        let (a, b) = (self.rounded(a), self.rounded(b));
        for (a_row, out_row) in a.chunks(inner).zip(out.chunks_mut(columns)) {
            for (&factor, b_row) in a_row.iter().zip(b.chunks(columns)) {
                for (out, &value) in out_row.iter_mut().zip(b_row) {
                    *out += factor * value;
                }
            }
        }
    }

    fn rounded<R: Real>(self, values: &[R]) -> std::borrow::Cow<'_, [R]> {
        let dropped = match self {
            Factors::Exact => return values.into(),
            Factors::Tf32 => 13,
            Factors::Bf16 => 16,
        };
        values.iter().map(|&value| short(value, dropped)).collect()
    }
}

/// To the nearest float32 whose last `dropped` bits are 0, ties to even. Infinite and NaN stay.
fn short<R: Real>(value: R, dropped: u32) -> R {
    let wide: f64 = value.into();
    let single = wide as f32;
    if !single.is_finite() {
        return value;
    }
    let bits = single.to_bits();
    let half_less_one = (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
    f32::from_bits((bits + half_less_one) >> dropped << dropped).into()
}

/// `values`: (rows, columns), returns (columns, rows).
fn transposed<R: Real>(values: &[R], columns: usize) -> Vec<R> {
    let rows = values.len() / columns;
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| values[row * columns + column]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { rows: 2, inner: 3, columns: 2 };

    #[test]
    fn the_three_products_are_those_of_the_definition() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let expected = [4.0, 5.0, 10.0, 11.0];
        assert_eq!(Factors::Exact.product(&a, &b, SIZE), expected);
        assert_eq!(Factors::Exact.product_transposed(&a, &transposed(&b, 2), SIZE), expected);
        let mut out = [1.0; 4];
        Factors::Exact.add_transposed_product(&transposed(&a, 3), &b, SIZE, &mut out);
        assert_eq!(out, expected.map(|value| value + 1.0));
    }

    #[test]
    fn coarse_factors_keep_few_bits_and_round_to_even() {
        assert_eq!(short(1.0 + 2.0_f32.powi(-8), 16), 1.0);
        assert_eq!(short(1.0 + 3.0 * 2.0_f32.powi(-8), 16), 1.0 + 2.0_f32.powi(-6));
        assert_eq!(short(1.0 + 2.0_f32.powi(-10), 13), 1.0 + 2.0_f32.powi(-10));
        assert!(short(f32::NAN, 16).is_nan());
    }
}
