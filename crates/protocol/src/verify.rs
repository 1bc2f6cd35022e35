//! Verification: a few steps that a reference and every other trainer take, from the same weights on the same
//! samples, and the files in which they return their results.
//!
//! If [`crate::env::VERIFY`] names a folder, a trainer does not train. It gets ready as for a run of the same command
//! line, starts from the parameters in [`INITIAL`], and takes one step for each `batch_size` sample numbers in
//! [`ORDER`]; the last step takes the rest, as at the end of an epoch. It writes [`LOSSES`] and [`FINAL`] into the
//! folder and exits with 0. A trainer that does not know verification trains as usual and writes neither file, which
//! is not a failure.
//!
//! The task's reference starts first ([`Request::reference`]) and finds only [`REQUEST`]. It chooses the parameters and
//! the samples and writes them too. In [`BOUNDS`] it may give error bounds for sound arithmetic.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The request, as one JSON object: [`Request`].
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
/// Optional, written by the reference: [`Bounds`] by the name of a tensor, and for `loss`.
pub const BOUNDS: &str = "bounds.json";

/// A request for steps. The command line says the same; this is for a trainer that prefers to read
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

/// The bounds of a quantity's error, by grade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The magnitude that its largest error is relative to.
    pub magnitude: f64,
    /// The root mean square of the change that the steps made; that of the errors is relative to it. Without it,
    /// only the largest error counts.
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
