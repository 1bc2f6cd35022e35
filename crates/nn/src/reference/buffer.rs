//! A number and a flat buffer of them, generic over the precision.

use crate::{Model, Tensor};
use num_traits::Float;
use std::iter::Sum;
use std::ops::{AddAssign, MulAssign, SubAssign};

/// `f32` or `f64`.
pub trait Real:
    Float + From<u8> + From<f32> + Into<f64> + Sum + AddAssign + SubAssign + MulAssign
{
}

impl<T> Real for T where
    T: Float + From<u8> + From<f32> + Into<f64> + Sum + AddAssign + SubAssign + MulAssign
{
}

/// A value for each parameter of a model: the parameters themselves, or their gradient.
#[derive(Clone, Debug)]
pub struct Buffer<R> {
    tensors: Vec<Tensor>,
    pub(super) values: Vec<R>, // (parameter_count)
}

impl<R: Real> Buffer<R> {
    pub(super) fn zeros(model: Model) -> Buffer<R> {
        Buffer { tensors: model.tensors(), values: vec![R::zero(); model.parameter_count()] }
    }

    /// The flat buffer, in the canonical layout.
    pub fn values(&self) -> &[R] {
        &self.values
    }

    /// The flat buffer, in the canonical layout.
    pub fn values_mut(&mut self) -> &mut [R] {
        &mut self.values
    }

    /// One tensor's elements, row-major.
    ///
    /// # Panics
    /// If the model has no tensor of that name: names are constants of the code.
    pub fn tensor(&self, name: &str) -> &[R] {
        &self.values[self.range(name)]
    }

    /// One tensor's elements, row-major.
    ///
    /// # Panics
    /// As [`Buffer::tensor`].
    pub fn tensor_mut(&mut self, name: &str) -> &mut [R] {
        let range = self.range(name);
        &mut self.values[range]
    }

    fn range(&self, name: &str) -> std::ops::Range<usize> {
        match self.tensors.iter().find(|tensor| tensor.name == name) {
            Some(tensor) => tensor.range(),
            None => panic!("no tensor is called {name}"),
        }
    }
}
