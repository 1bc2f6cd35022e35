//! The loss on the validation text: every position once.
//!
//! In a validation text of `n` tokens, the inputs are the first `n - 1` and the targets the last `n - 1`:
//! each token but the first is predicted once. The inputs are cut into windows of the model's context from
//! the first on, without overlap; each window begins anew at position 0, and the last has what is left.
//! The loss is the mean of `-log softmax(logits)[target]` over all `n - 1` targets, in nats, summed in
//! float64. So the first positions of a window are predicted from little: the figure is a little higher
//! than with a sliding window, and it is exact, where nanoGPT's published ones are estimates from samples
//! of random windows.

use crate::Text;

impl Text {
    /// The tokens after which a prediction is made.
    pub fn validation_inputs(&self) -> &[u16] {
        &self.validation[..self.validation.len() - 1]
    }

    /// The tokens that are to be predicted, one for each input.
    pub fn validation_targets(&self) -> &[u16] {
        &self.validation[1..]
    }
}

/// The sum of `-log softmax(logits)[target]` in nats. `logits`: (targets.len(), vocabulary). NaN if a
/// target is beyond the vocabulary.
pub fn nats(logits: &[f32], targets: &[u16]) -> f64 {
    if targets.is_empty() {
        return 0.0;
    }
    let vocabulary = logits.len() / targets.len();
    logits.chunks(vocabulary.max(1)).zip(targets).map(|(row, &target)| one(row, target)).sum()
}

fn one(logits: &[f32], target: u16) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = |logit: f32| f64::from(logit) - f64::from(largest);
    let sum: f64 = logits.iter().map(|&logit| shifted(logit).exp()).sum();
    logits.get(usize::from(target)).map_or(f64::NAN, |&logit| sum.ln() - shifted(logit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_give_the_logarithm_of_the_vocabulary() {
        let sum = nats(&[3.0; 4 * 65], &[0, 64, 7, 9]);
        assert!((sum - 4.0 * 65.0_f64.ln()).abs() < 1e-12);
        assert!((nats(&[1000.0, 0.0], &[1]) - 1000.0).abs() < 1e-9);
        assert!(nats(&[f32::NAN, 0.0], &[1]).is_nan());
        assert!(nats(&[0.0, 0.0], &[2]).is_nan());
    }

    #[test]
    fn every_token_but_the_first_is_a_target_once() {
        let text = Text::from_bytes("mine", b"abcdefghijklmnopqrstuvwxyz0123").unwrap();
        assert_eq!(text.validation_inputs().len(), text.validation.len() - 1);
        assert_eq!(text.validation_inputs()[1..], text.validation_targets()[..1]);
    }
}
