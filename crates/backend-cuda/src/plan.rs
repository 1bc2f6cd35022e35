//! The kernels that a model gives to a plan: several for a step, or one for all steps. The session asks for them;
//! the launchers, a file per model, are them.

use crate::driver::{Address, Gpu};
use crate::epoch::{Chunk, Resident};
use nn::backend::TrainError;
use std::rc::Rc;

/// How steps get to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// [`Plan::Fused`] if the model's sizes allow it, else [`Plan::Kernels`].
    Best,
    /// One launch of a persistent kernel for all steps of a call.
    Fused,
    /// One launch for each fused kernel of each step.
    Kernels,
    /// The same launches, captured and replayed.
    Graph,
}

/// A model's kernels, one step at a time. Parameters are canonical.
pub(crate) trait StepKernels {
    /// Enqueues the step that `resident.progress` names, and advances it.
    fn enqueue_step(&self) -> Result<(), TrainError>;

    /// Width of what the output layer takes.
    fn feature_width(&self) -> usize;

    /// Enqueues the computation of what the output layer takes, for the images of `chunk`.
    fn enqueue_features(&self, chunk: &Chunk, samples: usize) -> Result<(), TrainError>;

    /// Kernels of a step.
    fn launches(&self) -> usize;
}

/// A model's persistent kernel.
pub(crate) trait FusedKernel {
    /// Enqueues all steps over the first `samples` samples of the order.
    fn enqueue(&mut self, samples: usize) -> Result<(), TrainError>;

    /// A description in a few words.
    fn path(&self) -> &str;
}

/// The arguments of a model's kernels: their place and their data.
pub(crate) struct Place<'a> {
    pub(crate) gpu: &'a Rc<Gpu>,
    pub(crate) resident: &'a Resident,
    /// All parameters, canonical layout.
    pub(crate) parameters: Address,
}
