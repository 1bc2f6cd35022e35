//! `fc1`, ReLU, `fc2`.

use super::layers::{
    Linear, linear, linear_gradient, linear_input_gradient, relu, relu_backward, relu_kink_distance,
};
use super::{Buffer, Real};

const FC1: Linear = ["fc1.weight", "fc1.bias"];
const FC2: Linear = ["fc2.weight", "fc2.bias"];

pub(super) struct Activations<R> {
    before_relu: Vec<R>,       // (hidden)
    hidden: Vec<R>,            // (hidden)
    pub(super) logits: Vec<R>, // (10)
}

impl<R: Real> Activations<R> {
    pub(super) fn kink_distance(&self) -> R {
        relu_kink_distance(&self.before_relu)
    }
}

/// `pixels`: (784).
pub(super) fn forward<R: Real>(parameters: &Buffer<R>, pixels: &[R]) -> Activations<R> {
    let before_relu = linear(parameters, FC1, pixels);
    let hidden = relu(&before_relu);
    let logits = linear(parameters, FC2, &hidden);
    Activations { before_relu, hidden, logits }
}

/// `pixels`: (784), `d_logits`: (10).
pub(super) fn backward<R: Real>(
    parameters: &Buffer<R>,
    pixels: &[R],
    kept: &Activations<R>,
    d_logits: &[R],
    gradient: &mut Buffer<R>,
) {
    linear_gradient(gradient, FC2, &kept.hidden, d_logits);
    let mut d_hidden = linear_input_gradient(parameters, FC2, d_logits);
    relu_backward(&kept.before_relu, &mut d_hidden);
    linear_gradient(gradient, FC1, pixels, &d_hidden);
}

#[cfg(test)]
mod tests {
    use crate::reference::finite_differences::prove;
    use crate::{MlpShape, Model};

    #[test]
    fn every_gradient_agrees_with_finite_differences_at_ragged_widths() {
        for (seed, hidden) in [(1, 1), (2, 17), (3, 33), (4, 130)] {
            prove(Model::Mlp(MlpShape { hidden }), seed);
        }
    }
}
