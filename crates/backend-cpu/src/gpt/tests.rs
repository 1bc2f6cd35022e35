//! Each kernel on every instruction set that this CPU has, on ragged sizes, against plain loops in
//! float64. The whole model is compared with the reference in `whole.rs`.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx::{Amx, Parts};
use super::attention::{self, DQkv, Head, Qkv, Scratch, Softmax};
use super::gelu;
use super::loss;
use super::norm::{self, Rows};
use super::product::{self, Add, ByColumns, ByRows, Left, Matrix, PANEL, Product, Write, padded};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::tiled::{Blocks, Tiled};
use crate::buffer::Buffer;
use crate::simd::{Isa, Kernel, MAX_LANES, Simd};
use proptest::prelude::*;

/// Numbers between -1 and 1.
fn numbers(count: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-1.0f32..1.0, count)
}

/// A matrix of rows, (rows, columns), in panels; the padding is zero.
fn in_panels(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let mut result = vec![0.0; rows * padded(columns)];
    for (element, &value) in values.iter().enumerate() {
        let (row, column) = (element / columns, element % columns);
        result[(column / PANEL * rows + row) * PANEL + column % PANEL] = value;
    }
    result
}

/// The other way.
fn from_panels(values: &[f32], rows: usize, columns: usize) -> Vec<f64> {
    let place = |row: usize, column: usize| (column / PANEL * rows + row) * PANEL + column % PANEL;
    let all = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    all.map(|(row, column)| f64::from(values[place(row, column)])).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// `a b` with `a` (rows, depth) and `b` (depth, columns).
fn naive(a: &[f64], b: &[f64], rows: usize, depth: usize, columns: usize) -> Vec<f64> {
    let mut result = vec![0.0; rows * columns];
    for row in 0..rows {
        for k in 0..depth {
            for column in 0..columns {
                result[row * columns + column] += a[row * depth + k] * b[k * columns + column];
            }
        }
    }
    result
}

fn transposed<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    let rows = values.len() / columns;
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// The largest difference.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

struct Multiply<'data> {
    product: Product<'data>,
    by_columns: bool,
    to: &'data mut [f32],
    rows: usize,
    add: bool,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        fn by<S: Simd, L: Left>(simd: S, Multiply { product, to, rows, add, .. }: Multiply<'_>) {
            match add {
                true => product::product::<S, L>(simd, product, &mut Add { to, rows }),
                false => product::product::<S, L>(simd, product, &mut Write { to, rows }),
            }
        }
        match self.by_columns {
            true => by::<S, ByColumns>(simd, self),
            false => by::<S, ByRows>(simd, self),
        }
    }
}

/// Rows, depth and columns, with the operands.
fn operands() -> impl Strategy<Value = (usize, usize, usize, Vec<f32>, Vec<f32>)> {
    (1..=40usize, 1..=70usize, 1..=80usize).prop_flat_map(|(rows, depth, columns)| {
        let (a, b) = (numbers(rows * depth), numbers(depth * columns));
        (Just(rows), Just(depth), Just(columns), a, b)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_by_rows_and_by_columns_are_those_of_plain_loops(
        (rows, depth, columns, a, b) in operands(),
    ) {
        let expected = naive(&wide(&a), &wide(&b), rows, depth, columns);
        let right = in_panels(&b, columns);
        let by_rows = in_panels(&a, depth);
        let by_columns = in_panels(&transposed(&a, depth), rows);
        for isa in Isa::all() {
            for (left, by_columns) in [(&by_rows, false), (&by_columns, true)] {
                let left = Matrix { data: left, rows: if by_columns { depth } else { rows } };
                let right = Matrix { data: &right, rows: depth };
                let panels = 0..columns.div_ceil(PANEL);
                let product = Product { left, right, rows: 0..rows, panels, depth: 0..depth };
                let mut to = vec![0.0; rows * padded(columns)];
                for (add, times) in [(false, 1.0), (true, 2.0)] {
                    let product = product.clone();
                    isa.run(Multiply { product, by_columns, to: &mut to, rows, add });
                    let got = from_panels(&to, rows, columns);
                    let expected: Vec<f64> = expected.iter().map(|value| times * value).collect();
                    let error = distance(&got, &expected);
                    prop_assert!(error < 2e-5, "{} {by_columns} {add}: {error}", isa.name());
                }
            }
        }
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn amx_multiplies_as_exactly_as_float32_and_in_one_part_as_bfloat16(
        (rows, depth, columns, a, b) in operands(),
    ) {
        let Some(amx) = Amx::detect() else {
            return Ok(()); // a test of its own says so
        };
        let expected = naive(&wide(&a), &wide(&b), rows, depth, columns);
        let (left, right) = (in_panels(&a, depth), in_panels(&b, columns));
        let turned = in_panels(&transposed(&a, depth), rows);
        for (parts, bound) in [(Parts::Three, 2e-5), (Parts::One, 0.2)] {
            for by_columns in [false, true] {
                let left = if by_columns { &turned } else { &left };
                let size = (rows, depth, columns);
                let got = Isa::detect().run(Tiles { amx, parts, size, left, right: &right, by_columns });
                let error = distance(&got, &expected);
                prop_assert!(error < bound, "{parts:?} by columns {by_columns}: {error}");
            }
        }
    }

    #[test]
    fn layer_norm_and_its_gradients_are_those_of_plain_loops(
        (rows, width, x, weight, d, past) in (1..=40usize, 2..=70usize)
            .prop_flat_map(|(rows, width)| {
                let all = || numbers(rows * width);
                (Just(rows), Just(width), all(), numbers(width), all(), all())
            }),
    ) {
        let (expected, d_expected, d_weight_expected) =
            plain_norm(width, &wide(&x), &wide(&weight), &wide(&d), &wide(&past));
        for isa in Isa::all() {
            let norm = Norm { rows, width, x: &x, weight: &weight, d: &d, past: &past };
            let (scaled, d_x, d_weight) = isa.run(norm);
            // Rows whose elements are nearly equal have large slopes.
            let largest = d_expected.iter().fold(1.0, |most: f64, d| most.max(d.abs()));
            prop_assert!(distance(&scaled, &expected) < 1e-4, "{}", isa.name());
            prop_assert!(distance(&d_x, &d_expected) < 1e-4 * largest * largest, "{}", isa.name());
            prop_assert!(distance(&d_weight, &d_weight_expected) < 1e-3, "{}", isa.name());
        }
    }

    #[test]
    fn causal_attention_and_its_gradients_are_those_of_plain_loops(
        (context, width, qkv, d) in (1..=140usize, 1..=40usize).prop_flat_map(|(context, width)| {
            let all = || numbers(context * width);
            (Just(context), Just(width), [all(), all(), all()], all())
        }),
    ) {
        let plain: [Vec<f64>; 3] = qkv.clone().map(|values| wide(&values));
        let expected = plain_attention(context, width, &plain, &wide(&d));
        for isa in Isa::all() {
            let got = isa.run(Attend { context, width, qkv: &qkv, d: &d });
            for (name, (got, expected)) in
                ["attended", "queries", "keys", "values"].iter().zip(got.iter().zip(&expected))
            {
                let error = distance(got, expected);
                prop_assert!(error < 1e-4, "{}: {name} {error}", isa.name());
            }
        }
    }

    #[test]
    fn cross_entropy_and_its_gradient_are_those_of_plain_loops(
        (rows, vocabulary, logits, targets) in (1..=20usize, 1..=100usize)
            .prop_flat_map(|(rows, vocabulary)| {
                let logits = prop::collection::vec(-30.0f32..30.0, rows * vocabulary);
                let targets = prop::collection::vec(0..vocabulary as u16, rows);
                (Just(rows), Just(vocabulary), logits, targets)
            }),
    ) {
        let mut expected = vec![0.0; rows * vocabulary];
        let mut loss_expected = 0.0;
        for row in 0..rows {
            let logits = wide(&logits[row * vocabulary..][..vocabulary]);
            let target = usize::from(targets[row]);
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            loss_expected += sum.ln() - logits[target];
            for token in 0..vocabulary {
                let one = f64::from(u8::from(token == target));
                expected[row * vocabulary + token] = 0.5 * (logits[token].exp() / sum - one);
            }
        }
        for isa in Isa::all() {
            let (loss, d) = isa.run(Loss { vocabulary, targets: &targets, logits: &logits });
            prop_assert!((loss - loss_expected).abs() < 1e-5 * loss_expected.max(1.0));
            prop_assert!(distance(&d, &expected) < 1e-6, "{}", isa.name());
        }
    }
}

#[test]
fn amx_is_here_or_its_products_are_not_tested() {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if Amx::detect().is_some() {
        return;
    }
    skip::skipped("this CPU has no AMX");
}

/// `left right` by AMX, (rows, columns).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
struct Tiles<'data> {
    amx: Amx,
    parts: Parts,
    /// Rows, depth, columns.
    size: (usize, usize, usize),
    left: &'data [f32],
    right: &'data [f32],
    by_columns: bool,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Kernel for Tiles<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f64> {
        let Tiles { amx, parts, size: (rows, depth, columns), left, right, by_columns } = self;
        let mut tiled = Tiled::new(amx, parts, 96, 96);
        match by_columns {
            true => tiled.split_columns(simd, left, depth, padded(rows)),
            false => tiled.split_rows(left, rows, depth),
        }
        tiled.split_right(right, depth, padded(columns));
        let mut to = vec![0.0; rows * padded(columns)];
        let size = (rows, columns.div_ceil(PANEL), depth);
        amx.configure();
        let finish = &mut Write { to: &mut to, rows };
        simd.enter(Blocks { tiled: &mut tiled, right: None, size, finish });
        amx.release();
        from_panels(&to, rows, columns)
    }
}

struct Norm<'data> {
    rows: usize,
    width: usize,
    x: &'data [f32],
    weight: &'data [f32],
    d: &'data [f32],
    past: &'data [f32],
}

impl Kernel for Norm<'_> {
    /// Result, and gradients of `x` and of the weight.
    type Output = (Vec<f64>, Vec<f64>, Vec<f64>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let Norm { rows, width, x, weight, d, past } = self;
        let size = Rows { rows, width };
        let padded_weight = in_panels(weight, width);
        let zeros = || vec![0.0; rows * padded(width)];
        let (mut normal, mut scaled, mut d_x) = (zeros(), zeros(), zeros());
        let mut inverse = vec![0.0; padded(rows)];
        let x = in_panels(x, width);
        simd.enter(norm::Normalise {
            size,
            x: &x,
            weight: &padded_weight,
            normal: &mut normal,
            scaled: &mut scaled,
            inverse: &mut inverse,
        });
        let (d, past) = (in_panels(d, width), in_panels(past, width));
        let mut d_weight = vec![0.0; padded(width)];
        simd.enter(norm::Backward {
            size,
            weight: &padded_weight,
            normal: &normal,
            inverse: &inverse,
            d_scaled: &d,
            past: &past,
            d_x: &mut d_x,
            d_weight: &mut d_weight,
        });
        for padding in [&normal, &scaled, &d_x] {
            let all: f64 = wide(padding).iter().map(|value| value.abs()).sum();
            let inside: f64 = from_panels(padding, rows, width).iter().map(|v| v.abs()).sum();
            assert!((all - inside).abs() < 1e-9 * all.max(1.0), "the padding stays zero");
        }
        let d_weight = wide(&d_weight[..width]);
        (from_panels(&scaled, rows, width), from_panels(&d_x, rows, width), d_weight)
    }
}

fn plain_norm(
    width: usize,
    x: &[f64],
    weight: &[f64],
    d: &[f64],
    past: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut scaled, mut d_x, mut d_weight) = (Vec::new(), Vec::new(), vec![0.0; width]);
    let rows = x.chunks(width).zip(d.chunks(width)).zip(past.chunks(width));
    for ((x, d), past) in rows {
        let mean = x.iter().sum::<f64>() / width as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let inverse = 1.0 / (variance + 1e-5).sqrt();
        let normal: Vec<f64> = x.iter().map(|x| (x - mean) * inverse).collect();
        let d_normal: Vec<f64> = d.iter().zip(weight).map(|(d, weight)| d * weight).collect();
        let d_mean = d_normal.iter().sum::<f64>() / width as f64;
        let slope =
            d_normal.iter().zip(&normal).map(|(d, normal)| d * normal).sum::<f64>() / width as f64;
        for i in 0..width {
            scaled.push(normal[i] * weight[i]);
            d_x.push(past[i] + inverse * (d_normal[i] - d_mean - normal[i] * slope));
            d_weight[i] += d[i] * normal[i];
        }
    }
    (scaled, d_x, d_weight)
}

fn scratch([turned, d_turned, scores, d_scores]: &mut [Buffer<f32>; 4]) -> Scratch<'_> {
    Scratch { turned, d_turned, scores, d_scores }
}

struct Attend<'data> {
    context: usize,
    width: usize,
    qkv: &'data [Vec<f32>; 3],
    d: &'data [f32],
}

impl Kernel for Attend<'_> {
    /// What is attended to, and the gradients of queries, keys and values.
    type Output = [Vec<f64>; 4];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let Attend { context, width, qkv, d } = self;
        let head = Head::new(context, context, width);
        let mut buffers = head.scratch().map(|len| {
            let mut scratch = Buffer::zeroed(len);
            scratch.fill(f32::NAN); // what is not written is not to be read
            scratch
        });
        let [queries, keys, values] = qkv.each_ref().map(|values| in_panels(values, width));
        let qkv = Qkv { queries: &queries, keys: &keys, values: &values };
        let zeros = || vec![0.0; context * padded(width)];
        let (mut largest, mut inverse_sums) =
            (vec![0.0; padded(context)], vec![0.0; padded(context)]);
        let (mut attended, mut results) = (zeros(), [zeros(), zeros(), zeros()]);
        simd.enter(attention::Forward {
            head,
            from: qkv,
            softmax: Softmax { largest: &mut largest, inverse_sums: &mut inverse_sums },
            attended: &mut attended,
            scratch: scratch(&mut buffers),
        });
        let [queries, keys, values] = &mut results;
        let to = DQkv { queries, keys, values };
        simd.enter(attention::Backward {
            head,
            from: qkv,
            softmax: Softmax { largest: &mut largest, inverse_sums: &mut inverse_sums },
            d_attended: &in_panels(d, width),
            to,
            scratch: scratch(&mut buffers),
        });
        let [queries, keys, values] = results;
        [attended, queries, keys, values].map(|values| from_panels(&values, context, width))
    }
}

fn plain_attention(
    context: usize,
    width: usize,
    [queries, keys, values]: &[Vec<f64>; 3],
    d: &[f64],
) -> [Vec<f64>; 4] {
    let scale = 1.0 / (width as f64).sqrt();
    let scores = naive(queries, &transposed(keys, width), context, width, context);
    let mut probabilities = vec![0.0; context * context];
    for row in 0..context {
        let exponentials: Vec<f64> =
            (0..=row).map(|key| (scale * scores[row * context + key]).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        for (key, exponential) in exponentials.iter().enumerate() {
            probabilities[row * context + key] = exponential / sum;
        }
    }
    let attended = naive(&probabilities, values, context, context, width);
    let d_values = naive(&transposed(&probabilities, context), d, context, context, width);
    let d_probabilities = naive(d, &transposed(values, width), context, width, context);
    let mut d_scores = vec![0.0; context * context];
    for row in 0..context {
        let range = row * context..(row + 1) * context;
        let (p, d_p) = (&probabilities[range.clone()], &d_probabilities[range.clone()]);
        let dot: f64 = p.iter().zip(d_p).map(|(p, d)| p * d).sum();
        for (to, (p, d)) in d_scores[range].iter_mut().zip(p.iter().zip(d_p)) {
            *to = scale * p * (d - dot);
        }
    }
    let d_queries = naive(&d_scores, keys, context, context, width);
    let d_keys = naive(&transposed(&d_scores, context), queries, context, context, width);
    [attended, d_queries, d_keys, d_values]
}

struct Loss<'data> {
    vocabulary: usize,
    targets: &'data [u16],
    logits: &'data [f32],
}

impl Kernel for Loss<'_> {
    type Output = (f64, Vec<f64>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let Loss { vocabulary, targets, logits } = self;
        let mut logits = in_panels(logits, vocabulary);
        let mut row = vec![0.0; loss::scratch(vocabulary)];
        let loss = loss::softmax_cross_entropy(
            simd,
            vocabulary,
            (targets, 0.5),
            (0, targets.len()),
            &mut logits,
            &mut row,
        );
        (loss, from_panels(&logits, targets.len(), vocabulary))
    }
}

struct Gelu(f32);

impl Kernel for Gelu {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, f32) {
        let (value, slope) = gelu::gelu(simd, simd.splat(self.0));
        let mut lanes = [[0.0; MAX_LANES]; 2];
        crate::finish::store(simd, &mut lanes[0], 0, value);
        crate::finish::store(simd, &mut lanes[1], 0, slope);
        (lanes[0][0], lanes[1][0])
    }
}

#[test]
fn gelu_and_its_derivative_are_within_their_bounds() {
    for isa in Isa::all() {
        let (mut worst, mut worst_slope) = (0.0f64, 0.0f64);
        for step in -20_000..=20_000 {
            let x = step as f32 * 1e-3;
            let (value, slope) = isa.run(Gelu(x));
            let x = f64::from(x);
            let factor = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (factor * (x + 0.044_715 * x.powi(3))).tanh();
            let inner = factor * (1.0 + 3.0 * 0.044_715 * x * x);
            let expected = 0.5 * x * (1.0 + tanh);
            let slope_expected = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner;
            let error = (f64::from(value) - expected).abs() / expected.abs().max(1.0);
            worst = worst.max(error);
            worst_slope = worst_slope.max((f64::from(slope) - slope_expected).abs());
        }
        assert!(worst < 4e-7, "{}: {worst:e}", isa.name());
        assert!(worst_slope < 4e-6, "{}: {worst_slope:e}", isa.name());
        let (value, slope) = isa.run(Gelu(f32::NAN));
        assert!(value.is_nan() && slope.is_nan(), "{}", isa.name());
    }
}
