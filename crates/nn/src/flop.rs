//! How much arithmetic training takes: the work that implied FLOP/s are computed from.
//!
//! Counted are the products (a multiply and an add are two operations) of the forward pass, of the
//! gradients of weights and activations, and of the update. Not counted: the gradient of the input
//! image, which nobody needs; biases, activations, softmax and pooling, which are small beside the
//! products; the convolution's gradient where the max-pool lets none through, three positions in
//! four. Nothing is taken off for pixels that are zero.

use crate::{AttentionShape, CONV_FILTERS, MlpShape, Model, PATCH, PATCHES, POOLED};
use mnist::{CLASSES, PIXELS};

impl Model {
    /// Floating-point operations of training on `samples` samples (each as often as it is used) in
    /// `steps` steps, as if nothing were skipped.
    pub fn dense_flop(&self, samples: u64, steps: u64) -> f64 {
        let multiply_adds = match *self {
            Model::Mlp(MlpShape { hidden }) => 2 * PIXELS * hidden + 3 * hidden * CLASSES,
            Model::Cnn => {
                let taps = 9 * CONV_FILTERS;
                taps * PIXELS + taps * PIXELS / 4 + 3 * POOLED * CLASSES
            }
            Model::Attention(AttentionShape { d_model, ff }) => {
                let projections = 3 * PATCHES * d_model * d_model;
                let scores_and_mix = 2 * PATCHES * PATCHES * d_model;
                let feed_forward = 2 * PATCHES * d_model * ff;
                let head = d_model * CLASSES;
                2 * PATCHES * PATCH * d_model
                    + 3 * (projections + scores_and_mix + feed_forward + head)
            }
        };
        let update = self.parameter_count();
        2.0 * (samples as f64 * multiply_adds as f64 + steps as f64 * update as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_takes_what_counting_by_hand_gives() {
        let epoch = |model: Model| (model.dense_flop(60_000, 0) / 1e8).round() / 10.0;
        assert_eq!(epoch(Model::Mlp(MlpShape { hidden: 512 })), 98.2);
        assert_eq!(epoch(Model::Cnn), 14.1);
        assert_eq!(epoch(Model::Attention(AttentionShape { d_model: 32, ff: 64 })), 187.9);
        assert_eq!(Model::Cnn.dense_flop(0, 3), 3.0 * 2.0 * 15_770.0);
    }
}
