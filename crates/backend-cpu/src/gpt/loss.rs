//! Softmax and cross-entropy of the logits of a window.

use super::product::{PANEL, padded};
use crate::finish::{load, store};
use crate::simd::{MAX_LANES, Simd, exp2_not_positive};
use std::f32::consts::LOG2_E;

/// Room for a row of so many logits.
pub fn scratch(vocabulary: usize) -> usize {
    padded(vocabulary)
}

/// The sum of the losses of `targets.len()` rows of logits, in nats; the logits become the gradient
/// of this sum by `scale`. `logits`: (all, vocabulary), of which the window's rows begin at `first`;
/// `row`: [`scratch`].
#[inline(always)]
pub fn softmax_cross_entropy<S: Simd>(
    simd: S,
    vocabulary: usize,
    (targets, scale): (&[u16], f32),
    (first, all): (usize, usize),
    logits: &mut [f32],
    row: &mut [f32],
) -> f64 {
    let at = |token: usize, column: usize| {
        (column / PANEL * all + first + token) * PANEL + column % PANEL
    };
    // Many rows share a logarithm: of the product of their sums, as long as that is an `f64`.
    let (mut shifted, mut product) = (0.0f64, 1.0f64);
    for (token, &target) in targets.iter().enumerate() {
        let mut most = simd.splat(f32::NEG_INFINITY);
        for column in (0..vocabulary).step_by(S::LANES) {
            let logits = load(simd, logits, at(token, column));
            most = simd.max(most, fill(simd, vocabulary, column, logits, most));
        }
        let largest = simd.largest(most);
        let target_logit = logits[at(token, usize::from(target))];
        let (log2_e, shift) = (simd.splat(LOG2_E), simd.splat(largest));
        let zero = simd.splat(0.0);
        let mut sum = zero;
        for column in (0..vocabulary).step_by(S::LANES) {
            let logit = load(simd, logits, at(token, column));
            let power = simd.mul(simd.sub(logit, shift), log2_e);
            let exponential = exp2_not_positive(simd, simd.min(zero, power));
            let exponential = fill(simd, vocabulary, column, exponential, zero);
            store(simd, row, column, exponential);
            sum = simd.add(sum, exponential);
        }
        let sum = simd.sum(sum);
        shifted += f64::from(largest - target_logit);
        product *= f64::from(sum);
        // The next factor is at most 65,536, and at least 1.
        if product > 1e300 {
            shifted += product.ln();
            product = 1.0;
        }
        let factor = simd.splat(scale / sum);
        for column in (0..vocabulary).step_by(S::LANES) {
            let gradient = simd.mul(load(simd, row, column), factor);
            store(simd, logits, at(token, column), gradient);
        }
        logits[at(token, usize::from(target))] -= scale;
    }
    shifted + product.ln()
}

/// `other` in the lanes beyond the vocabulary.
#[inline(always)]
fn fill<S: Simd>(
    simd: S,
    vocabulary: usize,
    column: usize,
    vector: S::F32,
    other: S::F32,
) -> S::F32 {
    if column + S::LANES <= vocabulary {
        return vector;
    }
    let mut lanes = [0.0; MAX_LANES];
    lanes[..vocabulary - column].fill(1.0);
    simd.select(simd.gt(load(simd, &lanes, 0), simd.splat(0.5)), vector, other)
}
