//! The kernels against naive loops on every instruction set.

use super::convolution::Choice;
use super::layout::*;
use super::planes::Planes;
use super::*;
use crate::simd::{Isa, Kernel, Simd};
use mnist::SIDE;
use proptest::prelude::*;

/// Packed weights of the convolution.
const FILTERS: usize = CONV_FILTERS * FILTER;
/// Pooled values of a sample.
const POOLED_ROWS: usize = CONV_FILTERS * FILTER_ROWS;

/// What plain loops make of one image: pooled values and chosen places (row, column, filter).
struct Naive {
    pooled: Vec<f64>,            // (14, 14, 8)
    chosen: Vec<(usize, usize)>, // row and column in the image
}

fn pixel(image: &[u8], row: usize, column: usize, tap: usize) -> f64 {
    let (y, x) = (row + tap / 3, column + tap % 3); // one more than in the image
    let inside = (1..=SIDE).contains(&y) && (1..=SIDE).contains(&x);
    if inside { f64::from(image[(y - 1) * SIDE + x - 1]) } else { 0.0 }
}

fn naive(weights: &[f32; FILTERS], image: &[u8]) -> Naive {
    let (mut pooled, mut chosen) = (Vec::new(), Vec::new());
    for (row, column) in places() {
        for filter in 0..CONV_FILTERS {
            let taps = &weights[filter * FILTER..][..FILTER];
            let mut best = (f64::NEG_INFINITY, (0, 0));
            for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (y, x) = (2 * row + y, 2 * column + x);
                let sum = (0..9).map(|tap| f64::from(taps[tap]) * pixel(image, y, x, tap));
                let value = f64::from(taps[9]) + sum.sum::<f64>();
                if value > best.0 {
                    best = (value, (y, x));
                }
            }
            pooled.push(best.0.max(0.0));
            chosen.push(best.1);
        }
    }
    Naive { pooled, chosen }
}

fn places() -> impl Iterator<Item = (usize, usize)> {
    (0..POOLED_SIDE).flat_map(|row| (0..POOLED_SIDE).map(move |column| (row, column)))
}

struct Convolve<'a> {
    weights: &'a [f32; FILTERS],
    image: &'a [u8],
    d_pooled: &'a [f32; POOLED_ROWS],
}

impl Kernel for Convolve<'_> {
    /// Pooled values and the gradient of the weights.
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let mut planes = Planes::new();
        planes.unpack(simd, self.image);
        let mut pooled = vec![f32::NAN; POOLED_ROWS];
        let mut choices = Choice::of_filters(simd, CONV_FILTERS);
        convolution::forward(simd, self.weights, &planes, &mut pooled, &mut choices);
        let mut gradient = vec![1.0; FILTERS * S::LANES]; // is added to
        convolution::backward(simd, &planes, &pooled, &choices, self.d_pooled, &mut gradient);
        let lanes = gradient.chunks(S::LANES);
        (pooled, lanes.map(|lanes| lanes.iter().sum::<f32>() - S::LANES as f32).collect())
    }
}

/// Images with whole blank rows, blank parts and equal neighbours, so that ties occur.
fn image() -> impl Strategy<Value = Vec<u8>> {
    let pixel = prop_oneof![3 => Just(0), 1 => Just(255), 1 => any::<u8>()];
    let rows = (0..SIDE, 0..SIDE);
    (prop::collection::vec(pixel, PIXELS), rows).prop_map(|(mut image, (first, last))| {
        image[..first * SIDE].fill(0);
        if last > first {
            image[last * SIDE..].fill(0);
        }
        image
    })
}

/// Small whole numbers: every sum is exact, so equal outputs are equal in any arithmetic.
fn whole(len: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-8i8..=8).prop_map(f32::from), len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_convolution_is_that_of_plain_loops_ties_included(
        image in image(),
        weights in whole(FILTERS),
        gradients in whole(POOLED_ROWS),
    ) {
        let weights: [f32; FILTERS] = weights.try_into().unwrap();
        let mut d_pooled: [f32; POOLED_ROWS] = gradients.try_into().unwrap();
        for line in d_pooled.chunks_mut(ROW) {
            line[POOLED_SIDE..].fill(0.0);
        }
        let expected = naive(&weights, &image);
        let mut gradient = [0.0f64; FILTERS];
        for (place, (row, column)) in places().enumerate() {
            for filter in 0..CONV_FILTERS {
                let index = place * CONV_FILTERS + filter;
                if expected.pooled[index] > 0.0 {
                    let line = filter * POOLED_SIDE + row;
                    let d = f64::from(d_pooled[line * ROW + column]);
                    let (y, x) = expected.chosen[index];
                    for tap in 0..9 {
                        gradient[filter * FILTER + tap] += d * pixel(&image, y, x, tap);
                    }
                    gradient[filter * FILTER + 9] += d;
                }
            }
        }
        for isa in Isa::all() {
            let (weights, image, d_pooled) = (&weights, &image[..], &d_pooled);
            let (pooled, actual) = isa.run(Convolve { weights, image, d_pooled });
            for (place, (row, column)) in places().enumerate() {
                for filter in 0..CONV_FILTERS {
                    let line = filter * POOLED_SIDE + row;
                    prop_assert_eq!(
                        f64::from(pooled[line * ROW + column]),
                        expected.pooled[place * CONV_FILTERS + filter],
                        "{} filter {} at {}, {}", isa.name(), filter, row, column
                    );
                }
            }
            for line in pooled.chunks(ROW) {
                prop_assert_eq!(&line[POOLED_SIDE..], &[0.0, 0.0]);
            }
            for (index, (actual, expected)) in actual.iter().zip(&gradient).enumerate() {
                // The sums of lanes lose nothing below 2^24.
                prop_assert_eq!(f64::from(*actual), *expected, "{} {}", isa.name(), index);
            }
        }
    }
}

struct Linear<'a> {
    weights: &'a mut [f32],
    pooled: &'a [f32],
    d_logits: &'a [f32],
}

/// Distance of samples: more than there is.
const STRIDE: usize = FILTER_ROWS + 3 * ROW;

impl Kernel for Linear<'_> {
    /// Logits and gradients of the first two samples' inputs; the weights are updated.
    type Output = ([[f32; MAX_LANES]; 2], Vec<f32>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let [first, second] = [0, 1].map(|n| &self.pooled[n * STRIDE..][..FILTER_ROWS]);
        let logits = linear::logits(simd, self.weights, [first, second]);
        let [one] = linear::logits(simd, self.weights, [second]);
        assert_eq!(one, logits[1], "a sample's logits do not depend on its company");
        let factors = [0, 1].map(|n| self.d_logits[n * MAX_LANES..][..MAX_LANES].try_into());
        let [Ok(first), Ok(second)] = factors else { panic!("16 for each sample") };
        let mut d_pooled = vec![f32::NAN; 2 * FILTER_ROWS];
        let (d_first, d_second) = d_pooled.split_at_mut(FILTER_ROWS);
        linear::input_gradient(simd, self.weights, [first, second], [d_first, d_second]);
        linear::update(simd, self.weights, self.pooled, STRIDE, self.d_logits, 0.5);
        (logits, d_pooled)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_linear_layer_is_that_of_plain_loops(
        weights in whole(FILTER_WEIGHTS),
        pooled in whole(5 * STRIDE),
        d_logits in whole(5 * MAX_LANES),
        samples in 2..=5usize,
    ) {
        let (pooled, d_logits) = (&pooled[..samples * STRIDE], &d_logits[..samples * MAX_LANES]);
        let weight = |class: usize, place: usize| {
            weights[place / ROW * ROW_WEIGHTS + class * ROW + place % ROW]
        };
        let value = |sample: usize, place: usize| pooled[sample * STRIDE + place];
        for isa in Isa::all() {
            let mut updated = weights.clone();
            let (logits, d_pooled) =
                isa.run(Linear { weights: &mut updated, pooled, d_logits });
            for sample in 0..2 {
                for (class, &logit) in logits[sample].iter().enumerate().take(CLASSES) {
                    let products =
                        (0..FILTER_ROWS).map(|place| value(sample, place) * weight(class, place));
                    prop_assert_eq!(logit, products.sum::<f32>());
                }
                for place in 0..FILTER_ROWS {
                    let products = (0..CLASSES).map(|class| {
                        d_logits[sample * MAX_LANES + class] * weight(class, place)
                    });
                    prop_assert_eq!(d_pooled[sample * FILTER_ROWS + place], products.sum::<f32>());
                }
            }
            for (index, (&updated, &weight)) in updated.iter().zip(&weights).enumerate() {
                let (row, class, column) =
                    (index / ROW_WEIGHTS, index / ROW % CLASSES, index % ROW);
                let products = (0..samples)
                    .map(|s| d_logits[s * MAX_LANES + class] * value(s, row * ROW + column));
                prop_assert_eq!(updated, weight - 0.5 * products.sum::<f32>());
            }
        }
    }
}

#[test]
fn the_record_says_how_many_operations_were_carried_out() {
    use nn::backend::{Backend, Options};
    let mut image = vec![0; PIXELS];
    image[9 * SIDE + 3] = 1; // seen by pooled rows 4 (rows 7 to 10) and 5 (rows 9 to 12)
    let data = mnist::Split::new(image.repeat(5), vec![1; 5]).unwrap();
    let job = Job { model: Model::Cnn, batch_size: 2, learning_rate: 0.01, train: &data };
    for threads in [1, 2, 11] {
        let options = Options { threads: Some(threads), ..Options::default() };
        let mut session = crate::Cpu.open(job, &options).unwrap();
        session.train(&[0, 1, 2, 3, 4], &mut [0.0; 3]).unwrap();
        let skipped = 2.0 * 5.0 * 12.0 * (8 * 14 * 45) as f64;
        let executed = session.measured().executed_flop.unwrap();
        assert_eq!(executed, Model::Cnn.dense_flop(5, 3) - skipped, "{threads} threads");
    }
}
