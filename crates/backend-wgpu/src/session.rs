//! A model in training: data and weights on the device, steps recorded ahead of it.

use crate::adapter::Seen;
use crate::attention::AttentionNetwork;
use crate::bindings::{PREDICTED_AT_ONCE, Resident};
use crate::cnn::CnnNetwork;
use crate::gpu::Gpu;
use crate::mlp::MlpNetwork;
use crate::network::{Network, Run};
use mnist::PIXELS;
use nn::backend::{Description, Job, Measured, Session, TrainError};
use nn::{Model, Parameters};
use std::collections::VecDeque;
use std::ops::Range;
use wgpu::BufferUsages;

/// Work of one submission: a slow GPU (100 GFLOP/s) does it in a fifth of a second, a tenth of what
/// an operating system allows before it takes the GPU for hung.
const SUBMISSION_FLOP: f64 = 2e10;
/// Steps of one submission at most, so that the device begins while the host still records.
const SUBMISSION_STEPS: usize = 256;
/// Submissions that the host is ahead by.
const AHEAD: usize = 4;

pub(crate) struct GpuSession<'data> {
    job: Job<'data>,
    seen: Seen,
    resident: Resident,
    network: Box<dyn Network>,
    clock: Option<Clock>,
    /// Losses and ticks, then the parameters, or predictions: whatever is read.
    readback: wgpu::Buffer,
    device_s: f64,
    samples: u64,
    steps: u64,
    pub(crate) gpu: Gpu,
}

/// Reads the device's time at the begin and the end of the steps of a call.
struct Clock {
    queries: wgpu::QuerySet,
    ticks: wgpu::Buffer, // (2) of u64
    tick_ns: f64,
}

impl Clock {
    fn new(gpu: &Gpu) -> Result<Option<Clock>, TrainError> {
        let Some(tick_ns) = gpu.tick_ns() else { return Ok(None) };
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let usage = BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC;
        let ticks = gpu.buffer("the ticks of the clock", TICKS_BYTES, usage)?;
        Ok(Some(Clock { queries, ticks, tick_ns }))
    }
}

const TICKS_BYTES: u64 = 16;

impl<'data> GpuSession<'data> {
    pub(crate) fn open(gpu: Gpu, seen: Seen, job: Job<'data>) -> Result<Self, TrainError> {
        let resident = Resident::new(&gpu, &job)?;
        let network: Box<dyn Network> = match job.model {
            Model::Mlp(shape) => Box::new(MlpNetwork::new(&gpu, &resident, &job, shape)?),
            Model::Cnn => Box::new(CnnNetwork::new(&gpu, &resident, &job)?),
            Model::Attention(shape) => {
                Box::new(AttentionNetwork::new(&gpu, &resident, &job, shape)?)
            }
        };
        let clock = Clock::new(&gpu)?;
        let largest = [
            resident.losses.size() + TICKS_BYTES,
            network.parameters().size(),
            resident.predicted.size(),
        ];
        let largest = largest.into_iter().max().unwrap_or(0); // never empty
        let readback = gpu.readback("what is read back", largest)?;
        // Some drivers, the software adapter's among them, compile when a kernel first runs.
        let mut encoder = gpu.encoder();
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        network.warm_up(&mut pass);
        network.predict(&mut pass, 1);
        drop(pass);
        gpu.submit(encoder);
        gpu.wait()?;
        Ok(GpuSession {
            job,
            seen,
            resident,
            network,
            clock,
            readback,
            device_s: 0.0,
            samples: 0,
            steps: 0,
            gpu,
        })
    }

    /// Takes the steps of as much of an order as fits the device's buffer.
    fn train_stretch(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        let Job { batch_size, learning_rate, .. } = self.job;
        let run = Run { samples: order.len(), batch_size, learning_rate };
        self.gpu.write(&self.resident.order, bytemuck::cast_slice(order));

        let marks = run.steps() + 1;
        let flop = self.job.model.dense_flop(batch_size as u64, 1);
        let at_once = ((SUBMISSION_FLOP / flop) as usize).clamp(1, SUBMISSION_STEPS);
        let mut ahead = VecDeque::with_capacity(AHEAD);
        for first in (0..marks).step_by(at_once) {
            let next = (first + at_once).min(marks);
            let mut encoder = self.gpu.encoder();
            self.record(&mut encoder, &run, first..next);
            if next == marks {
                self.record_results(&mut encoder);
            }
            if ahead.len() == AHEAD {
                self.gpu.wait_for(ahead.pop_front())?;
            }
            ahead.push_back(self.gpu.submit(encoder));
        }

        let losses_bytes = self.resident.losses.size();
        let ticks = self.gpu.read(&self.readback, losses_bytes + TICKS_BYTES, |bytes| {
            let (losses, ticks) = bytes.split_at(losses_bytes as usize);
            let step_loss: &mut [u8] = bytemuck::cast_slice_mut(step_loss);
            step_loss.copy_from_slice(&losses[..step_loss.len()]);
            let mut read = [0_u64; 2];
            bytemuck::cast_slice_mut::<_, u8>(&mut read).copy_from_slice(ticks);
            read
        })?;
        self.samples += order.len() as u64;
        self.steps += step_loss.len() as u64;
        if let Some(clock) = &self.clock {
            self.device_s += ticks[1].saturating_sub(ticks[0]) as f64 * clock.tick_ns * 1e-9;
        }
        Ok(())
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder, run: &Run, marks: Range<usize>) {
        let timestamp_writes = self.clock.as_ref().and_then(|clock| {
            let begin = (marks.start == 0).then_some(0);
            let end = (marks.end > run.steps()).then_some(1);
            (begin.is_some() || end.is_some()).then_some(wgpu::ComputePassTimestampWrites {
                query_set: &clock.queries,
                beginning_of_pass_write_index: begin,
                end_of_pass_write_index: end,
            })
        });
        let description = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        let mut pass = encoder.begin_compute_pass(&description);
        self.network.train(&mut pass, run, marks);
    }

    /// Losses, then ticks, into the readback buffer.
    fn record_results(&self, encoder: &mut wgpu::CommandEncoder) {
        let losses = &self.resident.losses;
        encoder.copy_buffer_to_buffer(losses, 0, &self.readback, 0, losses.size());
        if let Some(Clock { queries, ticks, .. }) = &self.clock {
            encoder.resolve_query_set(queries, 0..2, ticks, 0);
            let offset = losses.size();
            encoder.copy_buffer_to_buffer(ticks, 0, &self.readback, offset, TICKS_BYTES);
        }
    }
}

impl Session for GpuSession<'_> {
    fn description(&self) -> Description {
        Description {
            device: format!("{} ({})", self.seen.name, self.seen.detail),
            path: self.network.path(),
            threads: None,
            precision: "float32",
            software: self.seen.software,
        }
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        if parameters.model() != self.job.model {
            let (given, job) = (parameters.model(), self.job.model);
            return Err(TrainError::Mismatch(format!("parameters of {given:?} for {job:?}")));
        }
        let packed = self.network.layout().pack(parameters);
        self.gpu.write(self.network.parameters(), bytemuck::cast_slice(&packed));
        self.gpu.submit(self.gpu.encoder());
        self.gpu.wait()
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let layout = self.network.layout();
        let bytes = 4 * layout.len() as u64;
        let mut encoder = self.gpu.encoder();
        encoder.copy_buffer_to_buffer(self.network.parameters(), 0, &self.readback, 0, bytes);
        self.gpu.submit(encoder);
        let mut parameters = Parameters::zeros(self.job.model);
        self.gpu.read(&self.readback, bytes, |bytes| {
            layout.unpack(bytemuck::cast_slice(bytes), &mut parameters);
        })?;
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check(order, step_loss)?;
        let capacity = self.resident.order_capacity;
        let losses = step_loss.chunks_mut(capacity / self.job.batch_size);
        for (order, losses) in order.chunks(capacity).zip(losses) {
            self.train_stretch(order, losses)?;
        }
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        Job::check_images(images, labels)?;
        let uploads = images.chunks(PREDICTED_AT_ONCE * PIXELS);
        for (images, labels) in uploads.zip(labels.chunks_mut(PREDICTED_AT_ONCE)) {
            self.gpu.write(&self.resident.images_to_predict, images);
            let mut encoder = self.gpu.encoder();
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.network.predict(&mut pass, labels.len());
            drop(pass);
            let bytes = 4 * labels.len() as u64;
            let predicted = &self.resident.predicted;
            encoder.copy_buffer_to_buffer(predicted, 0, &self.readback, 0, bytes);
            self.gpu.submit(encoder);
            self.gpu.read(&self.readback, bytes, |bytes| {
                let predicted: &[u32] = bytemuck::cast_slice(bytes);
                for (label, &predicted) in labels.iter_mut().zip(predicted) {
                    *label = predicted as u8; // below 10
                }
            })?;
        }
        Ok(())
    }

    fn measured(&self) -> Measured {
        let executed = |per_sample| {
            self.samples as f64 * per_sample + self.job.model.dense_flop(0, self.steps)
        };
        Measured {
            device_s: self.clock.is_some().then_some(self.device_s),
            device_peak_bytes: Some(self.gpu.allocated_bytes()),
            executed_flop: self.network.executed_flop_per_sample().map(executed),
        }
    }
}
