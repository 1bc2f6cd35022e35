//! Verification: a few steps that a reference and every other trainer take, from the same weights on the same
//! samples, and the files in which they say what came of it.
//!
//! Where [`crate::env::VERIFY`] names a folder, a trainer does not train. It gets ready as for a run
//! of the same command line, begins with the parameters in [`INITIAL`], takes one step for each
//! `batch_size` sample numbers in [`ORDER`] (the last step with what is left, as at the end of an
//! epoch), writes [`LOSSES`] and [`FINAL`] into the folder, and exits with 0. One that knows nothing
//! of verification trains as ever and writes neither, which is no failure.
//!
//! The task's reference is asked first ([`Request::reference`]) and finds [`REQUEST`] alone: it chooses the
//! parameters and the samples, writes them too, and may say in [`BOUNDS`] how far sound arithmetic strays.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is asked for, as one JSON object: [`Request`].
pub const REQUEST: &str = "request.json";
/// The parameters to begin with: safetensors, float32, PyTorch's names and shapes.
pub const INITIAL: &str = "initial.safetensors";
/// The samples in the order in which they are trained on: numbers of training images, counted from
/// 0, as unsigned 32-bit integers, little-endian, nothing else.
pub const ORDER: &str = "order.u32";
/// Written by the trainer: the mean loss of each step's samples before the step's update, as float32,
/// little-endian, nothing else.
pub const LOSSES: &str = "losses.f32";
/// Written by the trainer: the parameters after the last step, like [`INITIAL`].
pub const FINAL: &str = "final.safetensors";
/// Written by the reference, if it likes: [`Bounds`] by the name of a tensor, and of `loss`.
pub const BOUNDS: &str = "bounds.json";

/// What is asked for. The command line says the same; it is here for a trainer that would rather read
/// it from one place. Unknown keys are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`crate::VERSION`] of the harness.
    pub protocol: u32,
    pub model: String,
    pub backend: String,
    /// Number of losses that are expected.
    pub steps: usize,
    /// Whether this is the trainer that the others are compared with.
    #[serde(default)]
    pub reference: bool,
    /// The row's configuration, its keys beside those above.
    #[serde(flatten)]
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// How far a quantity may be from the reference's, by grade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// What its largest error is relative to.
    pub magnitude: f64,
    /// What the root mean square of its errors is relative to: that of the change that the steps made. Without
    /// it, only the largest error counts.
    #[serde(default)]
    pub change: Option<f64>,
    /// Whether `float32` bounds the largest error, relative to the magnitude.
    #[serde(default)]
    pub largest_error: bool,
    pub float32: f64,
    pub tf32: f64,
    pub bf16: f64,
    /// How far the change's projection onto the reference's may be from 1, beyond float32.
    #[serde(default)]
    pub gain: Option<f64>,
}

/// The content of [`BOUNDS`].
pub type BoundsFile = BTreeMap<String, Bounds>;
