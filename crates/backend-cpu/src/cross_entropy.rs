//! Softmax and cross-entropy of one sample's ten logits.

use crate::simd::{MAX_LANES, Simd, exp};
use mnist::CLASSES;

/// A sum of losses, kept so that many samples share one logarithm: each sample's loss is
/// `shift - logit + ln(sum of exponentials)`, and a product of up to 256 such sums of ten
/// exponentials, each between 1 and 10, is an `f64`.
#[derive(Clone, Copy)]
pub struct LossSum {
    shifted: f64,
    product: f64,
    factors: u32,
}

impl LossSum {
    /// No samples.
    #[inline(always)]
    pub fn new() -> LossSum {
        LossSum { shifted: 0.0, product: 1.0, factors: 0 }
    }

    #[inline(always)]
    fn add(&mut self, shifted: f32, sum: f32) {
        self.shifted += f64::from(shifted);
        self.product *= f64::from(sum);
        self.factors += 1;
        if self.factors == 256 {
            *self = LossSum { shifted: self.total(), product: 1.0, factors: 0 };
        }
    }

    /// The sum of the losses, not finite if one of them is not.
    pub fn total(&self) -> f64 {
        self.shifted + self.product.ln()
    }
}

/// Adds the sample's loss and returns its gradient with respect to the logits: the softmax less
/// one at the label. `logits`: 10 of 16, the rest ignored; the rest of the gradient is zero.
#[inline(always)]
pub fn softmax_cross_entropy<S: Simd>(
    simd: S,
    logits: &[f32; MAX_LANES],
    label: u8,
    loss: &mut LossSum,
) -> [f32; MAX_LANES] {
    let label = usize::from(label);
    let mut largest = logits[0];
    for &logit in &logits[1..CLASSES] {
        // Not `max`: a NaN must stay.
        largest = if largest.is_nan() || logit <= largest { largest } else { logit };
    }
    let mut d_logits = [0.0; MAX_LANES];
    for lane in (0..MAX_LANES).step_by(S::LANES) {
        // SAFETY: `MAX_LANES` elements, a multiple of the lanes.
        unsafe {
            let shifted = simd.sub(simd.load(logits.as_ptr().add(lane)), simd.splat(largest));
            simd.store(d_logits.as_mut_ptr().add(lane), exp(simd, shifted));
        }
    }
    let mut sum = 0.0;
    for &exponential in &d_logits[..CLASSES] {
        sum += exponential;
    }
    loss.add(largest - logits[label], sum);
    let scale = 1.0 / sum;
    for d_logit in &mut d_logits[..CLASSES] {
        *d_logit *= scale;
    }
    d_logits[CLASSES..].fill(0.0);
    d_logits[label] -= 1.0;
    d_logits
}

/// The first of the largest of ten logits.
#[inline(always)]
pub fn first_of_the_largest(logits: &[f32; MAX_LANES]) -> u8 {
    let mut best = 0;
    for class in 1..CLASSES {
        if logits[class] > logits[best] {
            best = class;
        }
    }
    best as u8 // below 10
}
