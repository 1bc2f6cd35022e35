//! The truth of the models: their shapes ([`Model`], [`Parameters`]), the recipe that fixes initial
//! weights and batch order ([`recipe`]), a float64 [`mod@reference`] with backward passes, the one
//! trait that every [`backend`] implements, and the [`conformance`] check that holds each backend
//! to the reference. The model [`gpt`], which learns texts, has all of that in a module of its own.
//!
//! The canonical layout of a tensor is PyTorch's: a linear layer's weight is (out, in), a
//! convolution's is (out, in, height, width), all row-major. A backend may keep its weights in any
//! layout of its own; it converts when they are set and read.
#![forbid(unsafe_code)]

pub mod backend;
pub mod conformance;
mod flop;
pub mod gpt;
mod model;
mod parameters;
pub mod recipe;
pub mod reference;
mod weights;

pub use model::{
    AttentionShape, CONV_FILTERS, MlpShape, Model, PATCH, PATCHES, POOLED, Tensor, TensorRole,
};
pub use parameters::Parameters;
pub use reference::Reference;
pub use weights::WeightsError;
