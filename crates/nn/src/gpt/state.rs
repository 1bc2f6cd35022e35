//! Everything that a training needs to go on: parameters, AdamW's moments and the number of steps.

use super::{Shape, Tensor};

/// The state of a training, in flat buffers of [`Shape::tensors`]' order.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    shape: Shape,
    tensors: Vec<Tensor>,
    /// Steps that have been taken: the schedule goes on from there.
    pub steps: u64,
    /// (parameter_count)
    pub parameters: Vec<f32>,
    /// AdamW's first moment, PyTorch's `exp_avg`: (parameter_count)
    pub first_moment: Vec<f32>,
    /// AdamW's second moment, PyTorch's `exp_avg_sq`: (parameter_count)
    pub second_moment: Vec<f32>,
}

impl State {
    /// All of it zero.
    pub fn zeros(shape: Shape) -> State {
        let zeros = vec![0.0; shape.parameter_count()];
        State {
            shape,
            tensors: shape.tensors(),
            steps: 0,
            parameters: zeros.clone(),
            first_moment: zeros.clone(),
            second_moment: zeros,
        }
    }

    /// Of which model.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The tensors, in the order of the buffers.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }
}
