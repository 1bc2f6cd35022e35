//! One step of training, enqueued: forward, loss, backward, update. Gradients of weights need not be
//! ready before the update, so they are found beside the way back through the layers and fill the
//! multiprocessors that its products leave idle.

use super::attention::Attention;
use super::linear::Linear;
use super::memory::Memory;
use super::rows::{RowKernels, Source};
use crate::driver::{Event, Gpu};
use nn::backend::TrainError;
use std::cell::Cell;
use std::rc::Rc;

/// What runs beside the way back, each known by what it reads last.
#[derive(Clone, Copy)]
enum Task {
    Down,
    Up,
    Out,
    Qkv,
    Logits,
    Tokens,
    Loss,
}

const TASKS: usize = 7;

/// Where each task got to.
struct Beside {
    ready: Event,
    done: [Event; TASKS],
    /// Whether something was enqueued that nobody has waited for yet.
    pending: [Cell<bool>; TASKS],
}

/// All that a step runs.
pub(crate) struct Step {
    pub(crate) gpu: Rc<Gpu>,
    pub(crate) rows: RowKernels,
    pub(crate) attention: Attention,
    pub(crate) linear: Linear,
    /// None: all in one stream.
    beside: Option<Beside>,
    // Dropped last: kernels point into it.
    pub(crate) memory: Memory,
}

impl Step {
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        memory: Memory,
        rows: RowKernels,
        attention: Attention,
        linear: Linear,
        overlap: bool,
    ) -> Result<Step, TrainError> {
        let beside = if overlap {
            let event = || gpu.event();
            let done = [event()?, event()?, event()?, event()?, event()?, event()?, event()?];
            Some(Beside { ready: event()?, done, pending: Default::default() })
        } else {
            None
        };
        Ok(Step { gpu: Rc::clone(gpu), rows, attention, linear, beside, memory })
    }

    /// Runs `enqueue` beside what comes next, until [`Step::wait_for`] of the same task.
    fn beside(
        &self,
        task: Task,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let Some(beside) = &self.beside else { return enqueue() };
        beside.pending[task as usize].set(true);
        self.gpu.beside(&beside.ready, &beside.done[task as usize], enqueue)
    }

    fn wait_for(&self, task: Task) -> Result<(), TrainError> {
        match &self.beside {
            Some(beside) if beside.pending[task as usize].replace(false) => {
                self.gpu.wait_for(&beside.done[task as usize])
            }
            _ => Ok(()),
        }
    }

    /// Enqueues the step that the progress names, and counts it.
    pub(crate) fn enqueue(&self) -> Result<(), TrainError> {
        let memory = &self.memory;
        let progress = memory.progress.address();
        let (text, windows) = (&memory.text, &memory.windows);
        self.forward(&Source { text, windows, progress })?;
        self.beside(Task::Tokens, || self.rows.sort_tokens(memory))?;
        self.loss()?;
        self.backward()?;
        self.wait_for(Task::Loss)?;
        self.rows.update(memory)
    }

    /// All activations up to the last LayerNorm.
    pub(crate) fn forward(&self, source: &Source<'_>) -> Result<(), TrainError> {
        let (memory, rows, linear) = (&self.memory, &self.rows, &self.linear);
        rows.embed(memory, source)?;
        for layer in 0..memory.sizes.shape.layers {
            linear.qkv(memory, layer)?;
            self.attention.forward(memory, layer)?;
            linear.out(memory, layer)?;
            rows.normalise(memory, 2 * layer + 1)?;
            linear.up(memory, layer)?;
            if !linear.fused_gelu() {
                rows.gelu(memory, layer)?;
            }
            linear.down(memory, layer)?;
            rows.normalise(memory, 2 * layer + 2)?;
        }
        Ok(())
    }

    /// Logits, losses and what goes back from them, a chunk of rows at a time.
    fn loss(&self) -> Result<(), TrainError> {
        let (memory, linear) = (&self.memory, &self.linear);
        let chunks = memory.sizes.rows / memory.sizes.chunk_rows;
        for chunk in 0..chunks {
            linear.logits(memory, chunk)?;
            self.rows.cross_entropy(memory, chunk)?;
            if chunk + 1 < chunks {
                linear.logits_weight(memory, chunk)?; // before the next chunk's logits
            } else {
                self.beside(Task::Logits, || linear.logits_weight(memory, chunk))?;
            }
            linear.logits_gradient(memory, chunk)?;
        }
        self.beside(Task::Loss, || self.rows.mean_loss(memory))
    }

    fn backward(&self) -> Result<(), TrainError> {
        let (memory, rows, linear) = (&self.memory, &self.rows, &self.linear);
        let layers = memory.sizes.shape.layers;
        rows.normalise_gradient(memory, 2 * layers, None, 0)?;
        for layer in (0..layers).rev() {
            self.beside(Task::Down, || linear.down_weight(memory, layer, 0))?;
            self.wait_for(Task::Up)?; // it reads `up_delta`
            linear.down_gradient(memory, layer, 0)?;
            if !linear.fused_gelu() {
                rows.gelu_gradient(memory, layer)?;
            }
            self.beside(Task::Up, || linear.up_weight(memory, layer))?;
            linear.up_gradient(memory, layer)?;
            self.wait_for(Task::Out)?; // it reads `x_delta[1]`
            rows.normalise_gradient(memory, 2 * layer + 1, Some(0), 1)?;

            self.beside(Task::Out, || linear.out_weight(memory, layer, 1))?;
            linear.out_gradient(memory, layer, 1)?;
            self.wait_for(Task::Qkv)?; // it reads `qkv_delta`
            self.attention.backward(memory, layer)?;
            self.beside(Task::Qkv, || linear.qkv_weight(memory, layer))?;
            linear.qkv_gradient(memory, layer)?;
            self.wait_for(Task::Down)?; // it reads `x_delta[0]`
            rows.normalise_gradient(memory, 2 * layer, Some(1), 0)?;
        }
        rows.gain_sums(memory)?;
        self.wait_for(Task::Tokens)?;
        self.wait_for(Task::Logits)?;
        rows.embed_gradient(memory, 0)?;
        for task in [Task::Up, Task::Out, Task::Qkv] {
            self.wait_for(task)?;
        }
        Ok(())
    }

    /// The logits of a chunk of the rows that were embedded last, as they are in memory.
    pub(crate) fn read_logits(&self, chunk: usize, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.linear.logits(&self.memory, chunk)?;
        self.memory.logits.read(bytes)
    }
}
