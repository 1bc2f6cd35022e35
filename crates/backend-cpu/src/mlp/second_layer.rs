//! The second layer and the loss: small, but on the way of every step.

use super::batch::{GROUP, NO_SAMPLE, ROOM};
use crate::simd::{MAX_LANES, Simd, exp};
use mnist::CLASSES;

/// `1 / 255`: pixels are bytes in all sums.
pub(super) const PIXEL_UNIT: f32 = 1.0 / 255.0;

/// Turns the first layer's sums over bytes into hidden values: `relu(sum / 255 + bias)`.
///
/// # Safety
/// `values`: (vectors, ROOM, lanes), `bias`: (vectors, lanes), nobody else's.
#[inline(always)]
pub(super) unsafe fn activate<S: Simd>(
    simd: S,
    values: *mut f32,
    bias: *const f32,
    vectors: usize,
    samples: usize,
) {
    let unit = simd.splat(PIXEL_UNIT);
    for vector in 0..vectors {
        // SAFETY: within the shapes.
        unsafe {
            let bias = simd.load(bias.add(vector * S::LANES));
            for sample in 0..samples {
                let place = values.add((vector * ROOM + sample) * S::LANES);
                let sum = simd.fma(simd.load(place), unit, bias);
                simd.store(place, simd.max(simd.splat(0.0), sum)); // in this order: keeps NaN
            }
        }
    }
}

/// A block's part of a group's logits: `values weights^T`.
///
/// # Safety
/// `values`: (vectors, ROOM, lanes), `weights`: (vectors, 10, lanes), `logits`: (10, GROUP).
#[inline(always)]
pub(super) unsafe fn logits<S: Simd>(
    simd: S,
    values: *const f32,
    weights: *const f32,
    vectors: usize,
    samples: usize,
    logits: *mut f32,
) {
    for first in (0..samples).step_by(S::LANES) {
        for class in 0..CLASSES {
            let mut sums = [simd.splat(0.0); MAX_LANES];
            for vector in 0..vectors {
                // SAFETY: within the shapes; GROUP is a multiple of the lanes.
                unsafe {
                    let weight = simd.load(weights.add((vector * CLASSES + class) * S::LANES));
                    let values = values.add((vector * ROOM + first) * S::LANES);
                    for (sample, sum) in sums.iter_mut().enumerate().take(S::LANES) {
                        let value = simd.load(values.add(sample * S::LANES));
                        *sum = simd.fma(value, weight, *sum);
                    }
                }
            }
            // SAFETY: within the shape.
            unsafe { simd.store(logits.add(class * GROUP + first), simd.sum_rows(&sums)) };
        }
    }
}

/// The logits of `lanes` samples from `first` on: the bias and the sum of the blocks' parts, in
/// the order of the blocks.
///
/// # Safety
/// `parts`: (blocks)(10, GROUP), `stride` floats apart.
#[inline(always)]
pub(super) unsafe fn sum_logits<S: Simd>(
    simd: S,
    parts: *const f32,
    stride: usize,
    blocks: usize,
    bias: &[f32; CLASSES],
    first: usize,
) -> [S::F32; CLASSES] {
    let mut sums = [simd.splat(0.0); CLASSES];
    for (sum, &bias) in sums.iter_mut().zip(bias) {
        *sum = simd.splat(bias);
    }
    for block in 0..blocks {
        for (class, sum) in sums.iter_mut().enumerate() {
            // SAFETY: within the shape.
            let part = unsafe { simd.load(parts.add(block * stride + class * GROUP + first)) };
            *sum = simd.add(*sum, part);
        }
    }
    sums
}

/// The loss's gradient by the logits of `lanes` samples, times `scale`: `(softmax - one hot) *
/// scale`, zero for absent samples. Also the samples' losses in two parts: the first vector plus
/// the logarithm of the second (1 for absent samples).
#[inline(always)]
pub(super) fn softmax_gradient<S: Simd>(
    simd: S,
    logits: &[S::F32; CLASSES],
    labels: S::F32,
    scale: f32,
) -> ([S::F32; CLASSES], S::F32, S::F32) {
    let mut largest = logits[0];
    for &logit in &logits[1..] {
        largest = simd.max(largest, logit);
    }
    let zero = simd.splat(0.0);
    let one = simd.splat(1.0);
    let absent = simd.eq(labels, simd.splat(f32::from(NO_SAMPLE)));
    let mut powers = [zero; CLASSES];
    let mut total = zero;
    for (power, &logit) in powers.iter_mut().zip(logits) {
        *power = exp(simd, simd.sub(logit, largest));
        total = simd.add(total, *power);
    }
    let factor = simd.select(absent, zero, simd.div(simd.splat(scale), total));
    let scale = simd.splat(scale);
    let mut loss = zero;
    let mut gradient = [zero; CLASSES];
    for class in 0..CLASSES {
        let hit = simd.eq(labels, simd.splat(class as f32));
        loss = simd.select(hit, simd.sub(largest, logits[class]), loss);
        let gradient_if_missed = simd.mul(powers[class], factor);
        gradient[class] = simd.select(hit, simd.sub(gradient_if_missed, scale), gradient_if_missed);
    }
    (gradient, loss, simd.select(absent, one, total))
}

/// One vector of hidden units, backwards through all groups of a batch: adds the gradient to its
/// weights and biases, and puts the first layer's gradient per byte in place of the hidden values.
/// `gradient` has the learning rate in it, negative.
///
/// # Safety
/// `values`: (groups)(ROOM, lanes), `stride` floats apart; `gradient`: (groups, 10, GROUP);
/// `weights`: (10, lanes); `bias`: (lanes).
#[inline(always)]
pub(super) unsafe fn backward<S: Simd>(
    simd: S,
    samples: usize,
    values: *mut f32,
    stride: usize,
    gradient: *const f32,
    weights: *mut f32,
    bias: *mut f32,
) {
    let zero = simd.splat(0.0);
    let mut weight = [zero; CLASSES];
    let mut weight_gradient = [zero; CLASSES];
    let mut bias_gradient = zero;
    for (class, slot) in weight.iter_mut().enumerate() {
        // SAFETY: within the shape.
        *slot = unsafe { simd.load(weights.add(class * S::LANES)) };
    }
    for sample in 0..samples {
        let (group, slot) = (sample / GROUP, sample % GROUP);
        // SAFETY: within the shapes.
        unsafe {
            let place = values.add(group * stride + slot * S::LANES);
            let gradient = gradient.add(group * CLASSES * GROUP + slot);
            let value = simd.load(place);
            let mut hidden_gradient = zero;
            for class in 0..CLASSES {
                let d = simd.splat(*gradient.add(class * GROUP));
                weight_gradient[class] = simd.fma(d, value, weight_gradient[class]);
                hidden_gradient = simd.fma(d, weight[class], hidden_gradient);
            }
            let passed = simd.select(simd.gt(value, zero), hidden_gradient, zero);
            bias_gradient = simd.add(bias_gradient, passed);
            simd.store(place, simd.mul(passed, simd.splat(PIXEL_UNIT)));
        }
    }
    for class in 0..CLASSES {
        // SAFETY: within the shapes.
        unsafe {
            let sum = simd.add(weight[class], weight_gradient[class]);
            simd.store(weights.add(class * S::LANES), sum);
        }
    }
    // SAFETY: within the shape.
    unsafe { simd.store(bias, simd.add(simd.load(bias), bias_gradient)) };
}
