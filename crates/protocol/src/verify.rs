//! Verification: a few steps that harness and trainer both take, from the same weights on the same
//! samples, and the files by which they tell each other.
//!
//! Where [`crate::env::VERIFY`] names a folder, a trainer does not train. It gets ready as for a run
//! of the same command line, begins with the parameters in [`INITIAL`], takes one step for each
//! `batch_size` sample numbers in [`ORDER`] (the last step with what is left, as at the end of an
//! epoch), writes [`LOSSES`] and [`FINAL`] into the folder, and exits with 0. One that knows nothing
//! of verification trains as ever and writes neither, which is no failure.

use serde::{Deserialize, Serialize};

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
    /// Samples of every step but the last, which has what is left.
    pub batch_size: usize,
    /// Plain SGD: `w -= learning_rate * mean gradient over the step's samples`.
    pub learning_rate: f64,
}
