//! A model in training: data and weights on the device, steps recorded ahead of it. All that is
//! particular to Metal is behind [`Device`].

use super::attention::Attention;
use super::cnn::Cnn;
use super::mlp::Mlp;
use super::network::{Layout, Network, PREDICTED_AT_ONCE, Resident};
use super::plan::{At, BufferId, Buffers, Command};
use crate::job::{Sizes, check_bytes};
use crate::seen::Seen;
use mnist::PIXELS;
use nn::backend::{Description, Job, Measured, Session, TrainError};
use nn::{Model, Parameters};
use std::collections::BTreeMap;

/// A device that carries out commands.
pub(crate) trait Device {
    /// Commands made ready to be recorded again and again.
    type Sequence;

    /// Its description.
    fn seen(&self) -> Seen;

    /// Copies to the beginning of a buffer. Nothing that was submitted may be under way.
    fn write(&mut self, buffer: BufferId, bytes: &[u8]) -> Result<(), TrainError>;

    /// Copies from the beginning of a buffer. Nothing that was submitted may be under way.
    fn read(&mut self, buffer: BufferId, bytes: &mut [u8]) -> Result<(), TrainError>;

    /// Makes commands ready.
    fn prepare(&mut self, commands: &[Command]) -> Result<Self::Sequence, TrainError>;

    /// Appends a sequence to what will be submitted.
    fn record(&mut self, sequence: &Self::Sequence, at: At) -> Result<(), TrainError>;

    /// Has the device begin what was recorded.
    fn submit(&mut self) -> Result<(), TrainError>;

    /// Until all that was submitted is done.
    fn wait(&mut self) -> Result<(), TrainError>;

    /// Seconds that the device has worked so far.
    fn worked_s(&self) -> Option<f64>;
}

pub(crate) struct MpsSession<'data, D: Device> {
    job: Job<'data>,
    sizes: Sizes,
    device: D,
    buffers: Buffers,
    resident: Resident,
    layout: Layout,
    network: Box<dyn Network>,
    /// A step, by the number of its samples.
    steps: BTreeMap<usize, D::Sequence>,
    prediction: D::Sequence,
    packed: Vec<f32>, // as the parameters lie on the device
    compile_s: f64,
    device_s: f64,
}

/// The commands of a session, before there is a device.
pub(crate) struct Plan {
    pub(crate) buffers: Buffers,
    pub(crate) resident: Resident,
    pub(crate) layout: Layout,
    pub(crate) network: Box<dyn Network>,
}

impl Plan {
    /// # Errors
    /// [`TrainError::Unavailable`] if a buffer is larger than kernels can address.
    pub(crate) fn new(job: &Job<'_>, sizes: &Sizes) -> Result<Plan, TrainError> {
        let mut buffers = Buffers::default();
        let resident = Resident::new(&mut buffers, sizes);
        let layout = Layout::new(&mut buffers, job.model);
        let batch_size = job.batch_size;
        let network: Box<dyn Network> = match job.model {
            Model::Mlp(shape) => Box::new(Mlp::new(&mut buffers, &layout, shape, batch_size)),
            Model::Cnn => Box::new(Cnn::new(&mut buffers, &layout, batch_size)),
            Model::Attention(shape) => {
                Box::new(Attention::new(&mut buffers, &layout, shape, batch_size))
            }
        };
        for buffer in buffers.list() {
            check_bytes(buffer.name, buffer.bytes)?;
        }
        Ok(Plan { buffers, resident, layout, network })
    }
}

impl<'data, D: Device> MpsSession<'data, D> {
    /// `make` a device with these buffers, filled with zeros.
    pub(crate) fn open(
        job: Job<'data>,
        make: impl FnOnce(&Buffers) -> Result<D, TrainError>,
    ) -> Result<Self, TrainError> {
        let sizes = Sizes::new(&job);
        let Plan { buffers, resident, layout, network } = Plan::new(&job, &sizes)?;
        let mut device = make(&buffers)?;
        device.write(resident.images.buffer, job.train.images())?;
        device.write(resident.labels.buffer, job.train.labels())?;
        let as_they_come: Vec<u32> = (0..PREDICTED_AT_ONCE as u32).collect();
        device.write(resident.as_they_come.buffer, bytemuck::cast_slice(&as_they_come))?;

        let clock = std::time::Instant::now();
        let prediction = device.prepare(&network.predict(&resident))?;
        let packed = vec![0.0; layout.all.len()];
        let mut session = MpsSession {
            job,
            sizes,
            device,
            buffers,
            resident,
            layout,
            network,
            steps: BTreeMap::new(),
            prediction,
            packed,
            compile_s: 0.0,
            device_s: 0.0,
        };
        session.warm_up()?;
        session.compile_s = clock.elapsed().as_secs_f64();
        Ok(session)
    }

    /// Takes a step of each size that an epoch has, and a prediction, and forgets what came of it:
    /// what the device does only once (translating kernels, choosing those of a product) is then
    /// done.
    fn warm_up(&mut self) -> Result<(), TrainError> {
        let Job { batch_size, train, .. } = self.job;
        let sizes = [batch_size.min(train.len()), train.len() % batch_size];
        for count in sizes.into_iter().filter(|&count| count > 0) {
            self.prepare(count)?;
            self.device.record(&self.steps[&count], At::default())?;
        }
        self.device.record(&self.prediction, At::default())?;
        self.device.submit()?;
        self.device.wait()?;
        let zeros = vec![0; self.layout.all.bytes()];
        self.device.write(self.layout.all.buffer, &zeros)
    }

    /// Makes a step of that many samples ready.
    fn prepare(&mut self, count: usize) -> Result<(), TrainError> {
        if !self.steps.contains_key(&count) {
            let commands = self.network.step(&self.resident, count, self.job.learning_rate);
            let sequence = self.device.prepare(&commands)?;
            self.steps.insert(count, sequence);
        }
        Ok(())
    }

    /// Takes the steps of as much of an order as fits the device's buffer.
    fn train_stretch(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        let batch_size = self.job.batch_size;
        self.device.write(self.resident.order.buffer, bytemuck::cast_slice(order))?;
        for (step, batch) in order.chunks(batch_size).enumerate() {
            let at = At { first: (step * batch_size) as u32, step: step as u32 };
            self.device.record(&self.steps[&batch.len()], at)?;
            if (step + 1) % self.sizes.steps_at_once == 0 {
                self.device.submit()?;
            }
        }
        self.device.submit()?;
        self.device.wait()?;
        self.device.read(self.resident.losses.buffer, bytemuck::cast_slice_mut(step_loss))
    }
}

impl<D: Device> Session for MpsSession<'_, D> {
    fn description(&self) -> Description {
        let Seen { name, software } = self.device.seen();
        Description {
            device: name,
            path: "Metal's products, own kernels".to_owned(),
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
        let packed = self.layout.pack(parameters);
        self.device.write(self.layout.all.buffer, bytemuck::cast_slice(&packed))
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let packed = bytemuck::cast_slice_mut(&mut self.packed);
        self.device.read(self.layout.all.buffer, packed)?;
        let mut parameters = Parameters::zeros(self.job.model);
        self.layout.unpack(&self.packed, &mut parameters);
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check(order, step_loss)?;
        let batch_size = self.job.batch_size;
        if order.len() >= batch_size {
            self.prepare(batch_size)?;
        }
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
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        Job::check_images(images, labels)?;
        let mut predicted = [0_u32; PREDICTED_AT_ONCE];
        let uploads = images.chunks(PREDICTED_AT_ONCE * PIXELS);
        for (images, labels) in uploads.zip(labels.chunks_mut(PREDICTED_AT_ONCE)) {
            self.device.write(self.resident.images_to_predict.buffer, images)?;
            self.device.record(&self.prediction, At::default())?;
            self.device.submit()?;
            self.device.wait()?;
            let predicted = &mut predicted[..labels.len()];
            let bytes = bytemuck::cast_slice_mut(predicted);
            self.device.read(self.resident.predicted.buffer, bytes)?;
            for (label, &predicted) in labels.iter_mut().zip(predicted.iter()) {
                *label = predicted as u8; // below 10
            }
        }
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured {
            device_s: self.device.worked_s().is_some().then_some(self.device_s),
            device_peak_bytes: Some(self.buffers.bytes() as u64),
            executed_flop: None,
        }
    }
}
