//! A model in training: the data on the device, the chosen plan, the clock of the device.

use crate::attention::AttentionKernels;
use crate::cnn::CnnKernels;
use crate::driver::{Buffer, Event, Gpu};
use crate::epoch::{Chunk, EpochKernels, Progress, Resident, output_layer};
use crate::graph::Graph;
use crate::mlp::MlpKernels;
use crate::mlp_fused::MlpFused;
use crate::plan::{FusedKernel, Place, Plan, StepKernels};
use crate::{attention_fused, cnn_fused};
use mnist::PIXELS;
use nn::backend::{Description, Job, Measured, Session, TrainError};
use nn::{Model, Parameters};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The part of a session that knows the plan.
enum Steps {
    Kernels,
    Graph(Graphs),
    Fused(Box<dyn FusedKernel>),
}

/// Captured steps.
struct Graphs {
    many: Graph,
    one: Graph,
}

/// Steps of the larger graph: 15 replays are an epoch of 60,000 samples in batches of 32.
const GRAPH_STEPS: usize = 125;

/// Of the warm-up: enough of both graphs, and short for the slowest plan.
const WARM_UP_STEPS: usize = GRAPH_STEPS + 1;
/// A precaution, should the clock of a device that was idle rise slowly. (An H100 that a process has
/// held for some seconds is at its highest at once: `bench/floor.cu`.)
const WARM_UP: Duration = Duration::from_millis(50);

pub(crate) struct CudaSession<'data> {
    // Dropped in this order: graphs and kernels before the buffers that they point into.
    steps: Steps,
    kernels: Box<dyn StepKernels>,
    epoch: EpochKernels,
    chunk: Option<Chunk>,
    resident: Resident,
    parameters: Buffer<f32>,
    clock: [Event; 2],
    device_s: f64,
    compile_s: f64,
    model: Model,
    gpu: Rc<Gpu>,
    data: PhantomData<&'data ()>,
}

impl<'data> CudaSession<'data> {
    pub(crate) fn open(
        gpu: &Rc<Gpu>,
        job: Job<'data>,
        plan: Plan,
    ) -> Result<CudaSession<'data>, TrainError> {
        if job.batch_size == 0 {
            return Err(TrainError::Mismatch("the batch size is 0".to_owned()));
        }
        let resident = Resident::new(gpu, &job)?;
        gpu.synchronize()?;
        let compiling = Instant::now();
        let parameters: Buffer<f32> = gpu.allocate("parameters", job.model.parameter_count())?;
        let place = Place { gpu, resident: &resident, parameters: parameters.address() };
        let kernels: Box<dyn StepKernels> = match job.model {
            Model::Mlp(shape) => Box::new(MlpKernels::new(&place, shape)?),
            Model::Cnn => Box::new(CnnKernels::new(&place)?),
            Model::Attention(shape) => Box::new(AttentionKernels::new(&place, shape)?),
        };
        let fused = match plan {
            Plan::Kernels | Plan::Graph => None,
            Plan::Best => fused(&place, job.model)?.ok(),
            Plan::Fused => {
                let refused = |reason| TrainError::Option {
                    option: "plan",
                    value: "fused".to_owned(),
                    reason,
                };
                Some(fused(&place, job.model)?.map_err(refused)?)
            }
        };
        let steps = match (fused, plan) {
            (Some(fused), _) => Steps::Fused(fused),
            (None, Plan::Graph) => {
                let capture =
                    |steps| gpu.capture(|| (0..steps).try_for_each(|_| kernels.enqueue_step()));
                Steps::Graph(Graphs { many: capture(GRAPH_STEPS)?, one: capture(1)? })
            }
            (None, _) => Steps::Kernels,
        };
        let epoch = EpochKernels::new(gpu)?;
        let clock = gpu.clock()?;
        let mut session = CudaSession {
            steps,
            kernels,
            epoch,
            chunk: None,
            resident,
            parameters,
            clock,
            device_s: 0.0,
            compile_s: 0.0,
            model: job.model,
            gpu: Rc::clone(gpu),
            data: PhantomData,
        };
        session.warm_up()?;
        session.compile_s = compiling.elapsed().as_secs_f64();
        Ok(session)
    }

    /// Trains parameters that are zero, and forgets it. The driver loads code at its first launch,
    /// and an idle device's clock may be low. Under a tool that makes a step take as long as all of the
    /// warm-up, it is over after two.
    fn warm_up(&mut self) -> Result<(), TrainError> {
        let count = self.resident.labels.len();
        if count > 0 {
            let order: Vec<u32> = (0..WARM_UP_STEPS * self.resident.batch)
                .map(|index| (index % count) as u32)
                .collect();
            let mut losses = [0.0; WARM_UP_STEPS];
            let one_step = &order[..self.resident.batch];
            self.train(one_step, &mut losses[..1])?; // loads the code
            let clock = Instant::now();
            self.train(one_step, &mut losses[..1])?;
            while clock.elapsed() < WARM_UP {
                self.train(&order, &mut losses)?;
            }
            self.predict(&[0; PIXELS], &mut [0])?;
        }
        self.parameters.clear()?;
        self.device_s = 0.0;
        self.gpu.synchronize()
    }

    /// Enqueues the steps over `samples` uploaded samples.
    fn enqueue(&mut self, samples: usize) -> Result<(), TrainError> {
        let steps = samples.div_ceil(self.resident.batch);
        match &mut self.steps {
            Steps::Kernels => (0..steps).try_for_each(|_| self.kernels.enqueue_step())?,
            Steps::Graph(graphs) => {
                (0..steps / GRAPH_STEPS).try_for_each(|_| graphs.many.launch())?;
                (0..steps % GRAPH_STEPS).try_for_each(|_| graphs.one.launch())?;
            }
            Steps::Fused(fused) => fused.enqueue(samples)?,
        }
        self.epoch.mean_losses(&self.resident, samples)
    }
}

/// The model's persistent kernel, or why its sizes or the device rule it out.
fn fused(
    place: &Place<'_>,
    model: Model,
) -> Result<Result<Box<dyn FusedKernel>, String>, TrainError> {
    fn boxed<F: FusedKernel + 'static>(fused: F) -> Box<dyn FusedKernel> {
        Box::new(fused)
    }
    Ok(match model {
        Model::Mlp(shape) => MlpFused::new(place, shape)?.map(boxed),
        Model::Cnn => cnn_fused::open(place)?.map(boxed),
        Model::Attention(shape) => attention_fused::open(place, shape)?.map(boxed),
    })
}

impl Session for CudaSession<'_> {
    fn description(&self) -> Description {
        let launches = self.kernels.launches();
        let path = match &self.steps {
            Steps::Kernels => format!("plan kernels, {launches} launches per step"),
            Steps::Graph(_) => {
                format!("plan kernels, {launches} launches per step, graphs of {GRAPH_STEPS} steps")
            }
            Steps::Fused(fused) => format!("plan fused, {}", fused.path()),
        };
        Description {
            device: self.gpu.device().name.clone(),
            path,
            threads: None,
            precision: "float32",
            software: false,
        }
    }

    fn compile_s(&self) -> Option<f64> {
        Some(self.compile_s)
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        if parameters.model() != self.model {
            return Err(TrainError::Mismatch(format!(
                "parameters of {:?} for a session of {:?}",
                parameters.model(),
                self.model
            )));
        }
        self.parameters.write(parameters.values())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let mut parameters = Parameters::zeros(self.model);
        self.parameters.read(parameters.values_mut())?;
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        let batch = self.resident.batch;
        let count = self.resident.labels.len();
        if step_loss.len() != order.len().div_ceil(batch) {
            return Err(TrainError::Mismatch(format!(
                "{} losses for {} samples in batches of {batch}",
                step_loss.len(),
                order.len()
            )));
        }
        if let Some(index) = order.iter().find(|&&index| index as usize >= count) {
            return Err(TrainError::Mismatch(format!("sample {index} of {count}")));
        }
        // A call may be longer than the buffers: an epoch's worth at a time.
        let capacity = self.resident.capacity;
        for (order, step_loss) in order.chunks(capacity).zip(step_loss.chunks_mut(capacity / batch))
        {
            let progress = Progress {
                samples: order.len() as u32,
                learning_rate: self.resident.learning_rate,
                ..Progress::default()
            };
            self.resident.order.write(order)?;
            if !matches!(self.steps, Steps::Fused(_)) {
                self.resident.progress.write(&[progress])?; // a persistent kernel counts for itself
            }
            self.gpu.record(&self.clock[0])?;
            self.enqueue(order.len())?;
            self.gpu.record(&self.clock[1])?;
            self.resident.step_loss.read(step_loss)?;
            self.device_s += self.clock[0].seconds_until(&self.clock[1])?;
        }
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        if images.len() != labels.len() * PIXELS {
            return Err(TrainError::Mismatch(format!(
                "{} bytes of images for {} labels",
                images.len(),
                labels.len()
            )));
        }
        let width = self.kernels.feature_width();
        if self.chunk.is_none() {
            self.chunk = Some(Chunk::new(&self.gpu, width)?);
        }
        let Some(chunk) = &self.chunk else { unreachable!("it was just made") };
        let layer = output_layer(&self.parameters, width);
        for (images, labels) in
            images.chunks(Chunk::IMAGES * PIXELS).zip(labels.chunks_mut(Chunk::IMAGES))
        {
            chunk.fill(images)?;
            self.kernels.enqueue_features(chunk, labels.len())?;
            self.epoch.classify(&chunk.features, &layer, &chunk.labels, labels.len())?;
            chunk.labels.read(labels)?;
        }
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured {
            device_s: Some(self.device_s),
            device_peak_bytes: Some(self.gpu.peak_bytes()),
            executed_flop: None,
        }
    }
}
