//! The linear layer from pooled values to logits: forward, the gradient of its input, and its
//! update.
//!
//! Weights are (112, 10, 16): for each line of a pooled row and filter, ten rows of 14 weights and
//! two zeros, so that each pass reads them once from front to end. They do not fit into L1 together
//! with the rest (70 KB), so samples share each pass: [`SAMPLES_AT_ONCE`] of them forward, all of a
//! step in the update, which changes the weights in place and needs no gradient buffer. It is cut
//! between the threads by lines, and each line is a sum over the samples in order: equal at any
//! number of threads.

use super::{LINE_WEIGHTS, LINES, ROW, SAMPLE_STRIDE};
use crate::simd::{MAX_LANES, Simd};
use mnist::CLASSES;

/// Ten sums for each sample must stay in registers, two samples at most.
#[inline(always)]
pub fn samples_at_once<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 2 } else { 1 }
}

/// Logits of `N` samples, the last six of each zero.
#[inline(always)]
pub fn logits<S: Simd, const N: usize>(
    simd: S,
    weights: &[f32],
    bias: &[f32],
    pooled: [&[f32; LINES * ROW]; N],
) -> [[f32; MAX_LANES]; N] {
    assert_eq!((weights.len(), bias.len()), (LINES * LINE_WEIGHTS, MAX_LANES));
    let zero = simd.splat(0.0);
    let mut sums = [[zero; MAX_LANES]; N];
    for line in 0..LINES {
        for lane in (0..ROW).step_by(S::LANES) {
            let mut values = [zero; N];
            for (value, pooled) in values.iter_mut().zip(&pooled) {
                // SAFETY: lines of `ROW` elements, a multiple of the lanes.
                *value = unsafe { simd.load(pooled.as_ptr().add(line * ROW + lane)) };
            }
            for class in 0..CLASSES {
                // SAFETY: (112, 10, 16) as asserted above.
                let weight = unsafe {
                    simd.load(weights.as_ptr().add(line * LINE_WEIGHTS + class * ROW + lane))
                };
                for (sums, &value) in sums.iter_mut().zip(&values) {
                    sums[class] = simd.fma(value, weight, sums[class]);
                }
            }
        }
    }
    let mut logits = [[0.0; MAX_LANES]; N];
    for (logits, sums) in logits.iter_mut().zip(&sums) {
        for first in (0..MAX_LANES).step_by(S::LANES) {
            let mut rows = [zero; MAX_LANES];
            rows[..S::LANES].copy_from_slice(&sums[first..first + S::LANES]);
            // SAFETY: `MAX_LANES` elements each, a multiple of the lanes.
            unsafe {
                let bias = simd.load(bias.as_ptr().add(first));
                let sum = simd.add(simd.sum_rows(&rows), bias);
                simd.store(logits.as_mut_ptr().add(first), sum);
            }
        }
    }
    logits
}

/// Writes the gradient of `N` samples' pooled values. `d_logits`: 10 of 16 each.
#[inline(always)]
pub fn input_gradient<S: Simd, const N: usize>(
    simd: S,
    weights: &[f32],
    d_logits: [&[f32; MAX_LANES]; N],
    d_pooled: &mut [[f32; LINES * ROW]; N],
) {
    assert_eq!(weights.len(), LINES * LINE_WEIGHTS);
    let mut factors = [[simd.splat(0.0); CLASSES]; N];
    for (factors, d_logits) in factors.iter_mut().zip(d_logits) {
        for (factor, &d_logit) in factors.iter_mut().zip(d_logits) {
            *factor = simd.splat(d_logit);
        }
    }
    for line in 0..LINES {
        for lane in (0..ROW).step_by(S::LANES) {
            let mut sums = [simd.splat(0.0); N];
            for class in 0..CLASSES {
                // SAFETY: (112, 10, 16) as asserted above.
                let weight = unsafe {
                    simd.load(weights.as_ptr().add(line * LINE_WEIGHTS + class * ROW + lane))
                };
                for (sum, factors) in sums.iter_mut().zip(&factors) {
                    *sum = simd.fma(factors[class], weight, *sum);
                }
            }
            for (sum, d_pooled) in sums.iter().zip(d_pooled.iter_mut()) {
                // SAFETY: lines of `ROW` elements, a multiple of the lanes.
                unsafe { simd.store(d_pooled.as_mut_ptr().add(line * ROW + lane), *sum) };
            }
        }
    }
}

/// `weights -= rate * sum over samples of d_logit x pooled`, for the `lines` whose weights are
/// given. `pooled`: (samples, [`SAMPLE_STRIDE`]), `d_logits`: (samples, 16).
#[inline(always)]
pub fn update<S: Simd>(
    simd: S,
    weights: &mut [f32],
    lines: std::ops::Range<usize>,
    pooled: &[f32],
    d_logits: &[f32],
    rate: f32,
) {
    let mut line = lines.start;
    let mut rest = weights;
    // Two lines share the ten factors, where there are registers for twenty sums.
    while S::REGISTERS >= 32 && line + 2 <= lines.end {
        let (these, later) = rest.split_at_mut(2 * LINE_WEIGHTS);
        update_lines::<S, 2>(simd, these, line, pooled, d_logits, rate);
        (line, rest) = (line + 2, later);
    }
    while line < lines.end {
        let (these, later) = rest.split_at_mut(LINE_WEIGHTS);
        update_lines::<S, 1>(simd, these, line, pooled, d_logits, rate);
        (line, rest) = (line + 1, later);
    }
}

#[inline(always)]
fn update_lines<S: Simd, const N: usize>(
    simd: S,
    weights: &mut [f32],
    line: usize,
    pooled: &[f32],
    d_logits: &[f32],
    rate: f32,
) {
    let samples = d_logits.len() / MAX_LANES;
    assert!(pooled.len() >= samples * SAMPLE_STRIDE && line + N <= LINES);
    assert_eq!(weights.len(), N * LINE_WEIGHTS);
    let rate = simd.splat(rate);
    for lane in (0..ROW).step_by(S::LANES) {
        let mut sums = [[simd.splat(0.0); CLASSES]; N];
        for sample in 0..samples {
            let mut values = [simd.splat(0.0); N];
            for (n, value) in values.iter_mut().enumerate() {
                let place = sample * SAMPLE_STRIDE + (line + n) * ROW + lane;
                // SAFETY: the lines of each sample, of which this is a whole vector.
                *value = unsafe { simd.load(pooled.as_ptr().add(place)) };
            }
            for class in 0..CLASSES {
                // SAFETY: 16 elements for each sample.
                let factor = unsafe { *d_logits.get_unchecked(sample * MAX_LANES + class) };
                let factor = simd.splat(factor);
                for (sums, &value) in sums.iter_mut().zip(&values) {
                    sums[class] = simd.fma(factor, value, sums[class]);
                }
            }
        }
        for (n, sums) in sums.iter().enumerate() {
            for (class, &sum) in sums.iter().enumerate() {
                // SAFETY: (N, 10, 16) as asserted above.
                unsafe {
                    let place = weights.as_mut_ptr().add(n * LINE_WEIGHTS + class * ROW + lane);
                    simd.store(place, simd.fnma(rate, sum, simd.load(place)));
                }
            }
        }
    }
}
