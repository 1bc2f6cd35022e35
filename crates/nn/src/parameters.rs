//! All parameters of a model in one flat buffer, in the canonical layout.

use crate::{Model, Tensor};

/// A model's parameters: one flat `f32` buffer and the tensors in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    model: Model,
    tensors: Vec<Tensor>,
    values: Vec<f32>, // (parameter_count)
}

impl Parameters {
    /// All zeros.
    pub fn zeros(model: Model) -> Parameters {
        let tensors = model.tensors();
        let values = vec![0.0; model.parameter_count()];
        Parameters { model, tensors, values }
    }

    /// Which model they belong to.
    pub fn model(&self) -> Model {
        self.model
    }

    /// The tensors, in the order of the buffer.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The flat buffer.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The flat buffer.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// One tensor's elements, row-major.
    ///
    /// # Panics
    /// If the model has no tensor of that name: names are constants of the code.
    pub fn tensor(&self, name: &str) -> &[f32] {
        let range = self.range(name);
        &self.values[range]
    }

    /// One tensor's elements, row-major.
    ///
    /// # Panics
    /// As [`Parameters::tensor`].
    pub fn tensor_mut(&mut self, name: &str) -> &mut [f32] {
        let range = self.range(name);
        &mut self.values[range]
    }

    fn range(&self, name: &str) -> std::ops::Range<usize> {
        match self.tensors.iter().find(|tensor| tensor.name == name) {
            Some(tensor) => tensor.range(),
            None => panic!("the model {} has no tensor {name}", self.model.id()),
        }
    }
}
