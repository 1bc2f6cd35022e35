//! One step of training, enqueued: forward, loss, backward, update. Gradients of weights need not be
//! ready before the update, so they are found those of several layers at once, or beside the way back
//! through the layers, where they fill the multiprocessors that its products leave idle.

use super::attention::{Attention, Choice};
use super::linear::Linear;
use super::memory::Memory;
use super::narrow::NarrowKernels;
use super::others::Others;
use super::peers::Seat;
use super::rows::{RowKernels, Source};
use crate::driver::{Event, Gpu, Lane};
use nn::backend::TrainError;
use std::cell::Cell;
use std::ops::Range;
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
    done: Vec<Event>,
    /// Whether something was enqueued that nobody has waited for yet.
    pending: [Cell<bool>; TASKS],
}

/// The kernels and products of a step.
pub(crate) struct StepKernels {
    pub(crate) rows: RowKernels,
    pub(crate) attention: Attention,
    pub(crate) linear: Linear,
    /// In place of most of the others, for sizes that they are made for.
    pub(crate) narrow: Option<NarrowKernels>,
}

/// All that a step runs.
pub(crate) struct Step {
    pub(crate) gpu: Rc<Gpu>,
    pub(crate) kernels: StepKernels,
    /// None: all in one stream.
    beside: Option<Beside>,
    /// None: there is one device.
    others: Option<Others>,
    // Dropped last: kernels point into it.
    pub(crate) memory: Memory,
}

impl Step {
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        memory: Memory,
        kernels: StepKernels,
        seat: Option<&Seat>,
    ) -> Result<Step, TrainError> {
        let others = seat.map(|seat| Others::new(gpu, &memory, seat)).transpose()?;
        Ok(Step { gpu: Rc::clone(gpu), kernels, beside: None, others, memory })
    }

    /// Whether the gradients of weights, which would run beside the others, are found at the end instead.
    pub(crate) fn groups_weights(&self) -> bool {
        self.kernels.linear.groups_weights()
    }

    /// Lets tasks run beside the way back from now on, with so much scratch memory for products.
    pub(crate) fn overlap(&mut self, workspace_bytes: usize) -> Result<(), TrainError> {
        self.memory.scratch.reserve_beside(workspace_bytes)?;
        let event = || self.gpu.event();
        let done: Vec<Event> = (0..TASKS).map(|_| event()).collect::<Result<_, _>>()?;
        self.beside = Some(Beside { ready: event()?, done, pending: Default::default() });
        Ok(())
    }

    pub(crate) fn overlaps(&self) -> bool {
        self.beside.is_some()
    }

    /// Whether a step is captured in pieces: where other devices share it. Narrow models' steps are too short for so
    /// many launches, and those with tasks beside the way back would have a piece for each task.
    pub(crate) fn is_captured_in_pieces(&self) -> bool {
        self.others.is_some() && self.kernels.narrow.is_none() && !self.overlaps()
    }

    /// Runs `enqueue` beside what comes next, until [`Step::wait_for`] of the same task.
    fn beside(
        &self,
        task: Task,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let Some(beside) = &self.beside else { return enqueue() };
        beside.pending[task as usize].set(true);
        let done = &beside.done[task as usize];
        self.gpu.beside(Lane::Beside, &beside.ready, done, enqueue)
    }

    /// The gradient of one matrix, unless those of several layers are found at once.
    fn weight(
        &self,
        task: Task,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        match self.groups_weights() {
            true => Ok(()),
            false => self.beside(task, enqueue),
        }
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
        if let Some(narrow) = &self.kernels.narrow {
            return self.enqueue_narrow(narrow);
        }
        let memory = &self.memory;
        let progress = memory.progress.address();
        let (text, windows) = (&memory.text, &memory.windows);
        self.forward(&Source { text, windows, progress })?;
        self.beside(Task::Tokens, || self.kernels.rows.sort_tokens(memory))?;
        self.loss()?;
        self.backward()?;
        self.wait_for(Task::Loss)?;
        let StepKernels { rows, linear, .. } = &self.kernels;
        if let Some(others) = &self.others {
            return others.update(memory, rows);
        }
        let known = linear.weight_squares();
        let out = if known.is_some() { memory.sizes.layout.matrices() } else { 0..0 };
        rows.square_sum(memory, out, known)?;
        rows.adamw(memory)
    }

    /// Chooses algorithms by what is fastest on the data that a step leaves. Spoils the state. The kernels for
    /// narrow models leave only predictions to what could be chosen.
    pub(crate) fn tune(&mut self, choice: Choice) -> Result<(), TrainError> {
        if self.kernels.narrow.is_some() {
            return Ok(());
        }
        self.kernels.rows.noise(&self.memory)?;
        self.after_parameters()?;
        self.assemble()?;
        self.enqueue()?;
        self.gpu.synchronize()?; // other devices may wait for this step
        let StepKernels { rows, attention, linear, .. } = &mut self.kernels;
        attention.choose(&self.gpu, &self.memory, choice)?;
        linear.tune(&self.gpu, &self.memory, rows)?;
        linear.tune_weights(&self.gpu, &self.memory)
    }

    /// Waits until the threads of all devices are about to enqueue steps, if there are several.
    pub(crate) fn assemble(&self) -> Result<(), TrainError> {
        self.others.as_ref().map_or(Ok(()), Others::assemble)
    }

    /// Fetches what of the state only other devices have, which do not work now.
    pub(crate) fn fetch_state(&self) -> Result<(), TrainError> {
        match &self.others {
            Some(others) if self.kernels.narrow.is_none() => others.fetch_state(&self.memory),
            _ => Ok(()),
        }
    }

    /// The rounded parameters, after the parameters were set.
    pub(crate) fn after_parameters(&self) -> Result<(), TrainError> {
        self.kernels.rows.halve(&self.memory)
    }

    /// The same by the kernels for narrow models.
    fn enqueue_narrow(&self, narrow: &NarrowKernels) -> Result<(), TrainError> {
        let (memory, rows) = (&self.memory, &self.kernels.rows);
        narrow.step(memory)?;
        narrow.weights(memory)?;
        let Some(others) = &self.others else {
            return if narrow.updates { Ok(()) } else { rows.adamw(memory) };
        };
        others.sum_all(memory)?;
        rows.square_sum(memory, 0..0, None)?;
        rows.adamw(memory)
    }

    /// All activations up to the last LayerNorm.
    pub(crate) fn forward(&self, source: &Source<'_>) -> Result<(), TrainError> {
        let memory = &self.memory;
        let StepKernels { rows, linear, .. } = &self.kernels;
        rows.embed(memory, source)?;
        for layer in 0..memory.sizes.shape.layers {
            linear.qkv(memory, rows, layer)?;
            self.kernels.attention.forward(memory, layer)?;
            linear.out(memory, layer)?;
            linear.up(memory, rows, layer)?;
            linear.down(memory, layer)?;
        }
        rows.normalise(memory, 2 * memory.sizes.shape.layers)
    }

    /// Logits, losses and what goes back from them, a chunk of rows at a time.
    fn loss(&self) -> Result<(), TrainError> {
        let memory = &self.memory;
        let StepKernels { rows, linear, .. } = &self.kernels;
        let chunks = memory.sizes.rows / memory.sizes.chunk_rows;
        for chunk in 0..chunks {
            linear.logits(memory, chunk)?;
            rows.cross_entropy(memory, chunk)?;
            if chunk + 1 < chunks {
                linear.logits_weight(memory, chunk)?; // before the next chunk's logits
            } else {
                self.beside(Task::Logits, || {
                    linear.logits_weight(memory, chunk)?;
                    self.others.as_ref().map_or(Ok(()), |others| others.send_output(memory))
                })?;
            }
            linear.logits_gradient(memory, chunk)?;
        }
        self.beside(Task::Loss, || rows.mean_loss(memory))
    }

    fn backward(&self) -> Result<(), TrainError> {
        let memory = &self.memory;
        let StepKernels { rows, linear, .. } = &self.kernels;
        let layers = memory.sizes.shape.layers;
        rows.normalise_gradient(memory, 2 * layers)?;
        for layer in (0..layers).rev() {
            self.weight(Task::Down, || linear.down_weight(memory, layer))?;
            linear.down_gradient(memory, rows, layer)?;
            self.weight(Task::Up, || linear.up_weight(memory, layer))?;
            linear.up_gradient(memory, layer)?;
            rows.normalise_gradient(memory, 2 * layer + 1)?;

            self.weight(Task::Out, || linear.out_weight(memory, layer))?;
            linear.out_gradient(memory, layer)?;
            self.kernels.attention.backward(memory, layer)?;
            self.weight(Task::Qkv, || {
                linear.qkv_weight(memory, layer)?;
                self.send_layers(layer..layer + 1) // its last one
            })?;
            linear.qkv_gradient(memory, layer)?;
            rows.normalise_gradient(memory, 2 * layer)?;
            if layer == 0 {
                self.embedding_gradients()?;
            }
            if let Some(layers) = linear.weights(memory, layer)? {
                self.send_layers(layers)?;
            }
        }
        let last = [Task::Up, Task::Out, Task::Qkv, Task::Down];
        last.into_iter().try_for_each(|task| self.wait_for(task))
    }

    /// Sends other devices their parts of the gradients of these layers' matrices.
    fn send_layers(&self, layers: Range<usize>) -> Result<(), TrainError> {
        match &self.others {
            Some(others) => others.send_layers(&self.memory, layers),
            None => Ok(()),
        }
    }

    /// The gradients of gains and embeddings, from those of all LayerNorms' inputs. That of the tokens has to wait
    /// where devices exchange their rows.
    fn embedding_gradients(&self) -> Result<(), TrainError> {
        let (memory, rows) = (&self.memory, &self.kernels.rows);
        self.wait_for(Task::Tokens)?;
        self.beside(Task::Down, || {
            rows.gain_sums(memory)?;
            rows.place_gradient(memory)
        })?;
        self.wait_for(Task::Logits)?;
        if !memory.sizes.gathers_rows() {
            rows.token_gradient(memory, rows.embedded(memory))?;
        }
        let Some(others) = &self.others else { return Ok(()) };
        self.wait_for(Task::Down)?;
        others.send_embeddings(memory, rows)
    }

    /// The logits of a chunk of the rows that were embedded last, as they are in memory.
    pub(crate) fn read_logits(&self, chunk: usize, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.kernels.linear.logits(&self.memory, chunk)?;
        self.memory.logits.read(bytes)
    }
}
