//! The linear layer from pooled values to logits: forward, the gradient of its input, and its
//! update.
//!
//! Weights are (8, 14, 10, 16): for each row of pooled values of a filter, ten rows of 14 weights and
//! two zeros, so that each pass reads them once from front to end. A filter's part of the logits is
//! summed on its own, and each thread has the weights of its filters to itself. They do not fit into
//! L1 together with the rest (70 KB), so samples share each pass: [`samples_at_once`] forward, all of
//! a step in the update, which changes the weights in place and needs no gradient buffer.

use super::layout::{FILTER_ROWS, FILTER_WEIGHTS, POOLED_SIDE, ROW, ROW_WEIGHTS};
use crate::simd::{MAX_LANES, Simd};
use mnist::CLASSES;

/// Ten sums for each sample must stay in registers, two samples at most.
#[inline(always)]
pub fn samples_at_once<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 2 } else { 1 }
}

/// A filter's part of the logits of `N` samples, the last six of each zero. `weights`: of the filter,
/// (14, 10, 16), `pooled`: (14, 16) each.
#[inline(always)]
pub fn logits<S: Simd, const N: usize>(
    simd: S,
    weights: &[f32],
    pooled: [&[f32]; N],
) -> [[f32; MAX_LANES]; N] {
    assert!(weights.len() == FILTER_WEIGHTS);
    assert!(pooled.iter().all(|pooled| pooled.len() == FILTER_ROWS));
    let zero = simd.splat(0.0);
    let mut sums = [[zero; MAX_LANES]; N];
    for row in 0..POOLED_SIDE {
        for lane in (0..ROW).step_by(S::LANES) {
            let mut values = [zero; N];
            for (value, pooled) in values.iter_mut().zip(&pooled) {
                // SAFETY: rows of `ROW` elements, a multiple of the lanes.
                *value = unsafe { simd.load(pooled.as_ptr().add(row * ROW + lane)) };
            }
            for class in 0..CLASSES {
                // SAFETY: (14, 10, 16) as asserted above.
                let weight = unsafe {
                    simd.load(weights.as_ptr().add(row * ROW_WEIGHTS + class * ROW + lane))
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
            // SAFETY: `MAX_LANES` elements, a multiple of the lanes.
            unsafe { simd.store(logits.as_mut_ptr().add(first), simd.sum_rows(&rows)) };
        }
    }
    logits
}

/// Writes the gradient of a filter's pooled values of `N` samples, (14, 16) each. `weights`: of the
/// filter, (14, 10, 16), `d_logits`: 10 of 16 each.
#[inline(always)]
pub fn input_gradient<S: Simd, const N: usize>(
    simd: S,
    weights: &[f32],
    d_logits: [&[f32; MAX_LANES]; N],
    d_pooled: [&mut [f32]; N],
) {
    assert!(weights.len() == FILTER_WEIGHTS);
    assert!(d_pooled.iter().all(|d_pooled| d_pooled.len() == FILTER_ROWS));
    let d_pooled = d_pooled.map(<[f32]>::as_mut_ptr);
    let mut factors = [[simd.splat(0.0); CLASSES]; N];
    for (factors, d_logits) in factors.iter_mut().zip(d_logits) {
        for (factor, &d_logit) in factors.iter_mut().zip(d_logits) {
            *factor = simd.splat(d_logit);
        }
    }
    for row in 0..POOLED_SIDE {
        for lane in (0..ROW).step_by(S::LANES) {
            let mut sums = [simd.splat(0.0); N];
            for class in 0..CLASSES {
                // SAFETY: (14, 10, 16) as asserted above.
                let weight = unsafe {
                    simd.load(weights.as_ptr().add(row * ROW_WEIGHTS + class * ROW + lane))
                };
                for (sum, factors) in sums.iter_mut().zip(&factors) {
                    *sum = simd.fma(factors[class], weight, *sum);
                }
            }
            for (sum, d_pooled) in sums.iter().zip(&d_pooled) {
                // SAFETY: rows of `ROW` elements, a multiple of the lanes.
                unsafe { simd.store(d_pooled.add(row * ROW + lane), *sum) };
            }
        }
    }
}

/// `weights -= rate * sum over samples of d_logit x pooled`, in order. `weights`: (rows, 10, 16) for
/// an even number of rows; `pooled`: (samples, `stride`), of which each sample's first elements are
/// those rows; `d_logits`: (samples, 16).
#[inline(always)]
pub fn update<S: Simd>(
    simd: S,
    weights: &mut [f32],
    pooled: &[f32],
    stride: usize,
    d_logits: &[f32],
    rate: f32,
) {
    assert!(weights.len().is_multiple_of(2 * ROW_WEIGHTS));
    if S::REGISTERS >= 32 {
        // Two rows share the ten factors: there are registers for twenty sums.
        for (pair, weights) in weights.chunks_exact_mut(2 * ROW_WEIGHTS).enumerate() {
            update_rows::<S, 2>(simd, weights, &pooled[2 * pair * ROW..], stride, d_logits, rate);
        }
    } else {
        for (row, weights) in weights.chunks_exact_mut(ROW_WEIGHTS).enumerate() {
            update_rows::<S, 1>(simd, weights, &pooled[row * ROW..], stride, d_logits, rate);
        }
    }
}

#[inline(always)]
fn update_rows<S: Simd, const N: usize>(
    simd: S,
    weights: &mut [f32],
    pooled: &[f32],
    stride: usize,
    d_logits: &[f32],
    rate: f32,
) {
    let samples = d_logits.len() / MAX_LANES;
    assert!(samples == 0 || pooled.len() >= (samples - 1) * stride + N * ROW);
    assert!(weights.len() == N * ROW_WEIGHTS);
    let rate = simd.splat(rate);
    for lane in (0..ROW).step_by(S::LANES) {
        let mut sums = [[simd.splat(0.0); CLASSES]; N];
        for sample in 0..samples {
            let mut values = [simd.splat(0.0); N];
            for (n, value) in values.iter_mut().enumerate() {
                let place = sample * stride + n * ROW + lane;
                // SAFETY: the rows of each sample, of which this is a whole vector.
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
                    let place = weights.as_mut_ptr().add(n * ROW_WEIGHTS + class * ROW + lane);
                    simd.store(place, simd.fnma(rate, sum, simd.load(place)));
                }
            }
        }
    }
}
