//! The one trait between a trainer and a device family. Its grain is a whole model and a run of
//! steps, so that a backend may fuse a layer, a step or an epoch as it likes.

use crate::{Model, Parameters, gpt};
use mnist::{PIXELS, Split};
use protocol::DeviceProbe;

/// A device family that can train the models.
pub trait Backend: Sync {
    /// The id, in lower case: the same word on the command line, in suites and in results.
    fn id(&self) -> &'static str;

    /// Whether a step is compiled or captured as a whole before training.
    fn compiled(&self) -> bool {
        false
    }

    /// The ids of the models that it trains: those of [`Model`], and [`gpt::ID`] if it has
    /// [`Backend::open_gpt`].
    fn models(&self) -> &'static [&'static str] {
        &Model::IDS
    }

    /// The devices that this machine has for it.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason if there is none.
    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable>;

    /// Which of the options this machine cannot honour, and why: an instruction set, say, that its CPU
    /// lacks.
    fn lacks(&self, _options: &Options) -> Option<String> {
        None
    }

    /// Makes everything ready to train: allocates, uploads, compiles. Parameters are zero.
    ///
    /// # Errors
    /// [`TrainError::Unavailable`] if the machine or the backend lacks what the job asks for,
    /// others if making it ready failed.
    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError>;

    /// The same for the model `gpt`, which learns a text and not images: see [`crate::gpt`].
    ///
    /// # Errors
    /// As [`Backend::open`]; [`TrainError::Unavailable`] if this backend does not train it.
    fn open_gpt<'data>(
        &self,
        _job: gpt::Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn gpt::Session + 'data>, TrainError> {
        Err(Unavailable(format!("{} does not train the model {}", self.id(), gpt::ID)).into())
    }
}

/// A training job.
#[derive(Clone, Copy)]
pub struct Job<'data> {
    pub model: Model,
    /// Samples in a step; the last step of an epoch may have fewer.
    pub batch_size: usize,
    /// Plain SGD: `w -= learning_rate * mean gradient over the step's samples`.
    pub learning_rate: f32,
    /// The data that the order's indices point into.
    pub train: &'data Split,
}

impl Job<'_> {
    /// Whether the arguments of [`Session::train`] fit each other and the data. One pass over the
    /// order, for every backend to call first.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if they do not.
    pub fn check(&self, order: &[u32], step_loss: &[f32]) -> Result<(), TrainError> {
        let steps = order.len().div_ceil(self.batch_size);
        if step_loss.len() != steps {
            return Err(TrainError::Mismatch(format!(
                "room for {} losses, but {} samples in batches of {} are {steps} steps",
                step_loss.len(),
                order.len(),
                self.batch_size,
            )));
        }
        match order.iter().max() {
            Some(&index) if index as usize >= self.train.len() => Err(TrainError::Mismatch(
                format!("sample {index} of {} samples, counted from 0", self.train.len()),
            )),
            _ => Ok(()),
        }
    }

    /// Whether the arguments of [`Session::predict`] fit each other.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if they do not.
    pub fn check_images(images: &[u8], labels: &[u8]) -> Result<(), TrainError> {
        if images.len() == labels.len() * PIXELS {
            return Ok(());
        }
        Err(TrainError::Mismatch(format!(
            "{} bytes of images for {} labels: each image has {PIXELS}",
            images.len(),
            labels.len(),
        )))
    }
}

/// How it is to be trained. `None` leaves the choice to the backend.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads that compute.
    pub threads: Option<usize>,
    /// Instruction set: `avx512`, `avx2`, `neon`, `scalar`.
    pub isa: Option<String>,
    /// Index or part of the name of a device.
    pub device: Option<String>,
    /// Whether a software imitation of a device may be used.
    pub allow_software: bool,
    /// `float32` unless said: `tf32`, `bf16`.
    pub precision: Option<String>,
    /// Which of the backend's ways to do it, for comparison.
    pub plan: Option<String>,
}

/// A model in training on a device.
pub trait Session {
    /// A description of the session, for the record.
    fn description(&self) -> Description;

    /// Seconds that making it ready spent on compiling or capturing steps, and on warming up, if
    /// there was any of that.
    fn compile_s(&self) -> Option<f64> {
        None
    }

    /// Replaces all parameters. Not part of any timed region.
    ///
    /// # Errors
    /// If the device fails.
    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError>;

    /// Copies all parameters out, in the canonical layout.
    ///
    /// # Errors
    /// If the device fails.
    fn parameters(&mut self) -> Result<Parameters, TrainError>;

    /// Takes one step for each `batch_size` indices of `order`, the last step with what is left,
    /// and writes each step's mean loss (before its update). All the work is done when it returns:
    /// devices are synchronised. `step_loss.len() == order.len().div_ceil(batch_size)`; every index
    /// is below `train.len()`; both are checked once, not per step. Host code does not allocate
    /// per step.
    ///
    /// # Errors
    /// If the device fails. A loss that is not finite is no error here: the caller looks.
    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError>;

    /// Predicts a label for each image, the first of the largest logits.
    /// `images`: (labels.len(), 28, 28).
    ///
    /// # Errors
    /// If the device fails.
    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError>;

    /// The time that the device measured for all `train` calls so far.
    fn measured(&self) -> Measured {
        Measured::default()
    }
}

/// A description of a session.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The device's name, for example the CPU model.
    pub device: String,
    /// Which code runs, for example `avx512, zero pixels skipped`.
    pub path: String,
    /// Threads that compute, on a CPU.
    pub threads: Option<usize>,
    /// Arithmetic of the step.
    pub precision: &'static str,
    /// A software imitation of a device.
    pub software: bool,
}

/// Counters of a session. `None` where the backend does not know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Seconds between device events around the steps.
    pub device_s: Option<f64>,
    /// Peak of our own allocations on the device.
    pub device_peak_bytes: Option<u64>,
    /// Floating-point operations really carried out, where fewer than the dense count.
    pub executed_flop: Option<f64>,
}

/// Why a backend cannot run here: one sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Why training did not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("unavailable: {0}")]
    Unavailable(Unavailable),
    /// An option that this backend does not understand or cannot honour.
    #[error("--{option} {value}: {reason}")]
    Option { option: &'static str, value: String, reason: String },
    /// The arguments of a call do not fit each other.
    #[error("{0}")]
    Mismatch(String),
    /// The device or its driver failed.
    #[error("{backend}: {message}")]
    Device { backend: &'static str, message: String },
}

// By hand: it is the whole message and not a cause beside it, which would be printed again.
impl From<Unavailable> for TrainError {
    fn from(unavailable: Unavailable) -> TrainError {
        TrainError::Unavailable(unavailable)
    }
}
