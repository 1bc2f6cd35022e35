//! A model in training: everything on the device, steps recorded ahead of it. All that is
//! particular to Metal is behind [`Device`].

use super::models::signed;
use super::step::{Description, Slot, prediction, step};
use crate::job::{PREDICTED_AT_ONCE, Sizes, check_bytes, first_of_the_largest};
use crate::seen::Seen;
use mnist::{CLASSES, PIXELS};
use nn::backend::{Description as Words, Job, Measured, Session, TrainError};
use nn::{Parameters, Tensor};
use std::collections::BTreeMap;

/// A buffer, in the order of allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BufferId(pub(crate) usize);

/// A device that compiles and runs graphs.
pub(crate) trait Device {
    /// A compiled graph.
    type Executable;
    /// An executable and the buffers that it takes and leaves.
    type Binding;

    /// Its description.
    fn seen(&self) -> Seen;

    /// A buffer, filled with zeros.
    fn allocate(&mut self, bytes: usize) -> Result<BufferId, TrainError>;

    /// Copies to the beginning of a buffer. Nothing that was submitted may be under way.
    fn write(&mut self, buffer: BufferId, bytes: &[u8]) -> Result<(), TrainError>;

    /// Copies from the beginning of a buffer. Nothing that was submitted may be under way.
    fn read(&mut self, buffer: BufferId, bytes: &mut [u8]) -> Result<(), TrainError>;

    /// Compiles a graph for its feeds and results.
    fn compile(&mut self, description: &Description) -> Result<Self::Executable, TrainError>;

    /// Binds the feeds and results, in the order of the description.
    fn bind(
        &mut self,
        executable: &Self::Executable,
        description: &Description,
        feeds: &[BufferId],
        results: &[BufferId],
    ) -> Result<Self::Binding, TrainError>;

    /// Appends a run to what will be submitted.
    fn record(&mut self, binding: &Self::Binding) -> Result<(), TrainError>;

    /// Has the device begin what was recorded.
    fn submit(&mut self) -> Result<(), TrainError>;

    /// Until all that was submitted is done.
    fn wait(&mut self) -> Result<(), TrainError>;

    /// Seconds that the device has worked so far.
    fn worked_s(&self) -> Option<f64>;
}

/// The buffers by what they hold; of what a step replaces, two that take turns.
#[derive(Default)]
struct Buffers {
    of: BTreeMap<Slot, [BufferId; 2]>,
    bytes: usize,
}

impl Buffers {
    /// Makes those that a graph needs and that are not there yet.
    fn provide<D: Device>(
        &mut self,
        device: &mut D,
        description: &Description,
    ) -> Result<(), TrainError> {
        for &(slot, node) in description.feeds.iter().chain(&description.results) {
            if self.of.contains_key(&slot) {
                continue;
            }
            let tensor = description.graph.tensor(node);
            check_bytes(&format!("the {slot:?}").to_lowercase(), tensor.bytes())?;
            let first = device.allocate(tensor.bytes())?;
            let second = if slot.is_state() { device.allocate(tensor.bytes())? } else { first };
            self.bytes += tensor.bytes() * if slot.is_state() { 2 } else { 1 };
            self.of.insert(slot, [first, second]);
        }
        Ok(())
    }

    /// Of each of these, the buffer whose turn it is.
    fn turn(&self, slots: &[(Slot, super::description::Node)], turn: usize) -> Vec<BufferId> {
        slots.iter().map(|(slot, _)| self.of[slot][turn]).collect()
    }
}

/// A compiled graph, bound so that either set of buffers is what it takes.
struct Bound<D: Device> {
    turns: [D::Binding; 2],
}

pub(crate) struct GraphSession<'data, D: Device> {
    job: Job<'data>,
    sizes: Sizes,
    device: D,
    tensors: Vec<Tensor>,
    buffers: Buffers,
    /// A step, by the number of its samples.
    steps: BTreeMap<usize, Bound<D>>,
    prediction: Bound<D>,
    /// Which set of buffers has the parameters.
    turn: usize,
    compile_s: f64,
    device_s: f64,
}

impl<'data, D: Device> GraphSession<'data, D> {
    pub(crate) fn open(job: Job<'data>, mut device: D) -> Result<Self, TrainError> {
        let sizes = Sizes::new(&job);
        let mut buffers = Buffers::default();
        let clock = std::time::Instant::now();
        let prediction = bind(&mut device, &mut buffers, &prediction(job.model))?;
        let mut session = GraphSession {
            job,
            sizes,
            device,
            tensors: job.model.tensors(),
            buffers,
            steps: BTreeMap::new(),
            prediction,
            turn: 0,
            compile_s: 0.0,
            device_s: 0.0,
        };
        for count in [job.batch_size, job.train.len() % job.batch_size] {
            if count > 0 {
                session.prepare(count)?;
            }
        }
        session.upload()?;
        session.warm_up()?;
        session.compile_s = clock.elapsed().as_secs_f64();
        Ok(session)
    }

    fn upload(&mut self) -> Result<(), TrainError> {
        let images: Vec<u8> = self.job.train.images().iter().map(|&byte| signed(byte)).collect();
        self.write(Slot::Images, &images)?;
        let labels = self.job.train.labels();
        let labels: Vec<i32> = labels.iter().map(|&label| label.into()).collect();
        self.write(Slot::Labels, bytemuck::cast_slice(&labels))
    }

    /// Takes the first step with each size and makes a prediction, and forgets what came of it:
    /// what the device does only once is then done. Without samples there is nothing to train on.
    fn warm_up(&mut self) -> Result<(), TrainError> {
        if !self.job.train.is_empty() {
            for step in self.steps.values() {
                self.device.record(&step.turns[0])?;
            }
        }
        self.device.record(&self.prediction.turns[0])?;
        self.device.submit()?;
        self.device.wait()?;
        self.set_parameters(&Parameters::zeros(self.job.model))
    }

    /// Compiles a step of that many samples.
    fn prepare(&mut self, count: usize) -> Result<(), TrainError> {
        if !self.steps.contains_key(&count) {
            let description = step(&self.job, &self.sizes, count);
            let bound = bind(&mut self.device, &mut self.buffers, &description)?;
            self.steps.insert(count, bound);
        }
        Ok(())
    }

    /// To the buffer whose turn it is.
    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), TrainError> {
        self.device.write(self.buffers.of[&slot][self.turn], bytes)
    }

    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.device.read(self.buffers.of[&slot][self.turn], bytes)
    }

    /// Takes the steps of as much of an order as fits the device's buffer.
    fn train_stretch(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.write(Slot::Order, bytemuck::cast_slice(order))?;
        self.write(Slot::Step, &[0; 4])?;
        for (step, batch) in order.chunks(self.job.batch_size).enumerate() {
            self.device.record(&self.steps[&batch.len()].turns[self.turn])?;
            self.turn = 1 - self.turn;
            if (step + 1) % self.sizes.steps_at_once == 0 {
                self.device.submit()?;
            }
        }
        self.device.submit()?;
        self.device.wait()?;
        self.read(Slot::Losses, bytemuck::cast_slice_mut(step_loss))
    }
}

/// Compiles a graph and binds it both ways, with the buffers that it needs.
fn bind<D: Device>(
    device: &mut D,
    buffers: &mut Buffers,
    description: &Description,
) -> Result<Bound<D>, TrainError> {
    buffers.provide(device, description)?;
    let executable = device.compile(description)?;
    let mut turn = |turn: usize| {
        let feeds = buffers.turn(&description.feeds, turn);
        let results = buffers.turn(&description.results, 1 - turn);
        device.bind(&executable, description, &feeds, &results)
    };
    Ok(Bound { turns: [turn(0)?, turn(1)?] })
}

impl<D: Device> Session for GraphSession<'_, D> {
    fn description(&self) -> Words {
        let Seen { name, software } = self.device.seen();
        Words {
            device: name,
            path: "1 compiled graph per step, gradients by the graph".to_owned(),
            threads: None,
            precision: "float32",
            software,
        }
    }

    fn compile_s(&self) -> Option<f64> {
        Some(self.compile_s)
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        if parameters.model() != self.job.model {
            let (given, job) = (parameters.model(), self.job.model);
            return Err(TrainError::Mismatch(format!("parameters of {given:?} for {job:?}")));
        }
        for index in 0..self.tensors.len() {
            let values = &parameters.values()[self.tensors[index].range()];
            self.write(Slot::Parameter(index), bytemuck::cast_slice(values))?;
        }
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let mut parameters = Parameters::zeros(self.job.model);
        for index in 0..self.tensors.len() {
            let values = &mut parameters.values_mut()[self.tensors[index].range()];
            self.read(Slot::Parameter(index), bytemuck::cast_slice_mut(values))?;
        }
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check(order, step_loss)?;
        let batch_size = self.job.batch_size;
        let rest = order.len() % batch_size;
        if rest > 0 {
            self.prepare(rest)?;
        }
        let worked_s = self.device.worked_s().unwrap_or(0.0);
        let capacity = self.sizes.order_capacity;
        let losses = step_loss.chunks_mut(capacity / batch_size);
        for (order, losses) in order.chunks(capacity).zip(losses) {
            self.train_stretch(order, losses)?;
        }
        self.device_s += self.device.worked_s().unwrap_or(0.0) - worked_s;

        // A graph's ReLU may make 0 of NaN, so that a broken weight never reaches the loss. But a
        // parameter that is not a number stays so: one look at them all, once a call, finds it.
        if let Some(last) = step_loss.last_mut()
            && self.parameters()?.values().iter().any(|value| value.is_nan())
        {
            *last = f32::NAN;
        }
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        Job::check_images(images, labels)?;
        let mut bytes = Vec::with_capacity(PREDICTED_AT_ONCE * PIXELS);
        let mut logits = [0.0_f32; PREDICTED_AT_ONCE * CLASSES];
        let uploads = images.chunks(PREDICTED_AT_ONCE * PIXELS);
        for (images, labels) in uploads.zip(labels.chunks_mut(PREDICTED_AT_ONCE)) {
            bytes.clear();
            bytes.extend(images.iter().map(|&byte| signed(byte)));
            self.write(Slot::ImagesToPredict, &bytes)?;
            self.device.record(&self.prediction.turns[self.turn])?;
            self.device.submit()?;
            self.device.wait()?;
            let logits = &mut logits[..labels.len() * CLASSES];
            self.read(Slot::Logits, bytemuck::cast_slice_mut(logits))?;
            first_of_the_largest(logits, labels);
        }
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured {
            device_s: self.device.worked_s().is_some().then_some(self.device_s),
            device_peak_bytes: None, // the graph allocates what it wants besides our buffers
            executed_flop: None,
        }
    }
}
