//! The kernels against naive loops on every instruction set.

use super::product::{Term, Write, product};
use super::softmax::{COLUMNS, STRIDE};
use super::softmax::{PerToken, exponentials, row_dots};
use super::subsets::{AddTokenSums, Gates, SumUnits, for_columns};
use crate::simd::{Isa, Kernel, MAX_LANES, Simd};
use nn::PATCHES;
use proptest::prelude::*;

/// Whole numbers so small that every sum is exact, in any order.
fn whole(len: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-8i8..=8).prop_map(f32::from), len)
}

/// The sum of two products: the second of the first few columns of `left` with the first few rows of
/// `right` again.
struct Product<'a> {
    rows: usize,
    columns: usize,
    depths: [usize; 2],
    left: &'a [f32], // (rows, depth), or (depth, rows) where transposed
    transposed: bool,
    right: &'a [f32], // (depth, columns)
}

impl Kernel for Product<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let Product { rows, columns, depths: [depth, again], left, transposed, right } = self;
        let (left_row, left_depth) = if transposed { (1, rows) } else { (depth, 1) };
        let term = Term { left, left_row, left_depth, right, right_row: columns, depth };
        let mut to = vec![f32::NAN; rows * columns];
        let finish = &mut Write { to: &mut to, stride: columns };
        product::<S, 7, 2>(simd, 0..rows, columns, [term, Term { depth: again, ..term }], finish);
        to
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_those_of_plain_loops_whichever_way_the_left_side_lies(
        (tiles, vectors, depth, again, transposed, left, right) in
            (1..=7usize, 1..=5usize, 0..=49usize, any::<bool>()).prop_flat_map(|(t, v, d, way)| (
                Just(t), Just(v), Just(d), 0..=d, Just(way),
                whole(7 * t * d), whole(d * v * MAX_LANES),
            )),
    ) {
        let (rows, columns) = (7 * tiles, vectors * MAX_LANES);
        for isa in Isa::all() {
            let (left, right, depths) = (&left[..], &right[..], [depth, again]);
            let actual = isa.run(Product { rows, columns, depths, left, transposed, right });
            for (index, &actual) in actual.iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let product = |k: usize| {
                    let place = if transposed { k * rows + row } else { row * depth + k };
                    left[place] * right[k * columns + column]
                };
                let expected: f32 = (0..depth).chain(0..again).map(product).sum();
                prop_assert_eq!(actual, expected, "{} at {}, {}", isa.name(), row, column);
            }
        }
    }

    #[test]
    fn row_dots_are_those_of_plain_loops(
        (width, a, b, one) in (1..=3usize, any::<bool>()).prop_flat_map(|(vectors, one)| (
            Just(vectors * MAX_LANES), whole(STRIDE * vectors * MAX_LANES),
            whole(STRIDE * vectors * MAX_LANES), Just(one),
        )),
    ) {
        struct Dots<'a>(&'a [f32], &'a [f32], usize, usize);
        impl Kernel for Dots<'_> {
            type Output = PerToken;
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> PerToken {
                let Dots(a, b, b_row, width) = self;
                let mut dots = [f32::NAN; STRIDE];
                row_dots(simd, a, b, b_row, width, &mut dots);
                dots
            }
        }
        let b_row = if one { 0 } else { width };
        for isa in Isa::all() {
            let dots = isa.run(Dots(&a, &b, b_row, width));
            for token in 0..PATCHES {
                let products = (0..width).map(|i| a[token * width + i] * b[token * b_row + i]);
                prop_assert_eq!(dots[token], products.sum::<f32>(), "{} {}", isa.name(), token);
            }
        }
    }

    #[test]
    fn exponentials_are_powers_of_two_of_the_distance_from_the_largest(
        scores in prop::collection::vec(-60.0f32..60.0, STRIDE * STRIDE),
        last in prop::collection::vec(-60.0f32..60.0, STRIDE),
    ) {
        struct Softmax<'a>(&'a [f32], &'a [f32]);
        impl Kernel for Softmax<'_> {
            type Output = (Vec<f32>, PerToken, PerToken);
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> Self::Output {
                let mut scores = self.0.to_vec();
                let mut last: PerToken = self.1.try_into().expect("a row");
                let mut inverse_sums = [f32::NAN; STRIDE];
                exponentials(simd, &mut scores, &mut last, &mut inverse_sums);
                (scores, last, inverse_sums)
            }
        }
        for isa in Isa::all() {
            let (weights, column, inverse_sums) = isa.run(Softmax(&scores, &last));
            for token in 0..PATCHES {
                let mut row: Vec<f64> =
                    scores[token * STRIDE..][..COLUMNS].iter().map(|&s| f64::from(s)).collect();
                row.push(f64::from(last[token]));
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = row.iter().map(|score| (score - largest).exp2()).collect();
                for (place, &power) in powers.iter().enumerate() {
                    let actual = f64::from(weights[token * STRIDE + place]);
                    let close = (actual - power).abs() <= 1e-5 * power + 1e-30;
                    prop_assert!(close, "{}: {actual} {power}", isa.name());
                }
                prop_assert_eq!(weights[token * STRIDE + COLUMNS], column[token]);
                let inverse = 1.0 / powers.iter().sum::<f64>();
                let actual = f64::from(inverse_sums[token]);
                prop_assert!((actual - inverse).abs() <= 1e-5 * inverse, "{}", isa.name());
            }
        }
    }
}

/// Both products with the gates.
struct Gated<'a> {
    d: usize,
    f: usize,
    open: &'a [bool],         // (49, f)
    units: &'a [f32],         // (f, d)
    unit_factors: &'a [f32],  // (f)
    tokens: &'a [f32],        // (49, d)
    token_factors: &'a [f32], // (49)
}

impl Kernel for Gated<'_> {
    /// Sums of units, (49, d), and of tokens, (f, d), added to ones.
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let Gated { d, f, open, .. } = self;
        let mut gates = Gates::new(f);
        let values: Vec<f32> = open.iter().map(|&open| f32::from(u8::from(open))).collect();
        for unit in (0..f).step_by(S::LANES) {
            for token in (0..PATCHES).step_by(7) {
                let mut tile = [[simd.gt(simd.splat(0.0), simd.splat(0.0))]; 7];
                for (r, open) in tile.iter_mut().enumerate() {
                    // SAFETY: `f` is a multiple of the lanes.
                    let row = unsafe { simd.load(values.as_ptr().add((token + r) * f + unit)) };
                    *open = [simd.gt(row, simd.splat(0.0))];
                }
                gates.record::<S, 7, 1>(simd, token, unit, &tile);
            }
        }
        gates.close(simd);
        let mut of_units = vec![f32::NAN; PATCHES * d];
        let sums = &mut SumUnits {
            gates: &mut gates,
            rows: self.units,
            unit_factors: self.unit_factors,
            factors: self.token_factors,
            to: &mut of_units,
            d,
        };
        for_columns(simd, d, sums);
        let mut of_tokens = vec![1.0; f * d];
        let sums = &mut AddTokenSums {
            gates: &mut gates,
            rows: self.tokens,
            factors: self.unit_factors,
            to: &mut of_tokens,
            d,
        };
        for_columns(simd, d, sums);
        (of_units, of_tokens)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sums_by_tables_of_subsets_are_those_of_plain_loops(
        (d, f, open, units, unit_factors, tokens, token_factors) in
            (1..=4usize, 1..=9usize, 0..=4u8).prop_flat_map(|(d, f, level)| {
                let (d, f) = (d * MAX_LANES, f * MAX_LANES);
                let open = (0..4u8).prop_map(move |value| value < level); // all shut and all open too
                (
                    Just(d), Just(f), prop::collection::vec(open, PATCHES * f), whole(f * d),
                    whole(f), whole(PATCHES * d), whole(PATCHES),
                )
            }),
    ) {
        for isa in Isa::all() {
            let (of_units, of_tokens) = isa.run(Gated {
                d, f, open: &open, units: &units, unit_factors: &unit_factors, tokens: &tokens,
                token_factors: &token_factors,
            });
            for token in 0..PATCHES {
                for column in 0..d {
                    let open_units = (0..f).filter(|unit| open[token * f + unit]);
                    let sum: f32 =
                        open_units.map(|unit| unit_factors[unit] * units[unit * d + column]).sum();
                    let expected = token_factors[token] * sum;
                    prop_assert_eq!(of_units[token * d + column], expected, "{}", isa.name());
                }
            }
            for unit in 0..f {
                for column in 0..d {
                    let open_tokens = (0..PATCHES).filter(|token| open[token * f + unit]);
                    let sum: f32 = open_tokens.map(|token| tokens[token * d + column]).sum();
                    let expected = 1.0 + unit_factors[unit] * sum;
                    prop_assert_eq!(of_tokens[unit * d + column], expected, "{}", isa.name());
                }
            }
        }
    }
}
