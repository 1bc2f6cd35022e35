//! The CNN: convolution 3x3, ReLU, 2x2 max-pool, linear, trained whole.
//!
//! The filters are cut between the threads. A filter never needs to know of another but for the
//! logits, which are the sum of the filters' parts: so each thread has its filters' weights, pooled
//! values and gradients to itself, in its own cache, and the threads exchange only [the sums of
//! their filters' parts](sums), 64 bytes for each sample and thread. (With the samples cut between them instead, they exchange the linear layer's
//! weights and all pooled values in each step, 150 KB at a batch of 32. Where two cores are far apart,
//! that took as long as the second thread saved.)
//!
//! A step has two phases with one barrier between them:
//! 1. For each sample: unpack the pixels, convolve and pool, the sums of the parts of the logits.
//! 2. For each sample: softmax and loss, the gradients of logits and pooled values, the gradient of
//!    the convolution. Then the linear layer's gradient of the whole step at once, straight into its
//!    weights, and the convolution's update. The next step's first phase needs no other thread.
//!
//! All sums over samples are in order, and the logits' sum over filters is a tree: equal at any number
//! of threads, of which eight have something to do.

mod convolution;
mod layout;
mod linear;
mod planes;
mod run;
mod sums;
#[cfg(test)]
mod tests;

use crate::buffer::{Buffer, Shared};
use crate::simd::MAX_LANES;
use crate::{Engine, check_images, check_order};
use layout::{FILTER, FILTER_WEIGHTS, POOLED_SIDE, pack, packed_place};
use mnist::{CLASSES, PIXELS};
use nn::backend::{Description, Job, Measured, Session, TrainError};
use nn::{CONV_FILTERS, Model, POOLED, Parameters};
use std::sync::atomic::{AtomicU64, Ordering};

/// The CNN in training.
pub struct CnnSession<'data> {
    engine: Engine,
    job: Job<'data>,
    convolution: Buffer<f32>, // (8, 10): weights and bias
    packed: Buffer<f32>,      // (8, 10): weights / 255 and bias
    linear: Buffer<f32>,      // (8, 14, 10, 16)
    linear_bias: Buffer<f32>, // (16)
    sums: Buffer<f32>,        // (2, 8, batch, 16): of the logits' parts, in even and odd steps
    counts: Counts,
}

/// Counts of the work so far.
#[derive(Default)]
struct Counts {
    steps: u64,
    samples: u64,
    /// Pooled rows that see a pixel that is not zero, over all samples.
    rows_seen: AtomicU64,
}

impl<'data> CnnSession<'data> {
    /// With all parameters zero.
    pub fn new(engine: Engine, job: Job<'data>) -> CnnSession<'data> {
        CnnSession {
            convolution: Buffer::zeroed(CONV_FILTERS * FILTER),
            packed: Buffer::zeroed(CONV_FILTERS * FILTER),
            linear: Buffer::zeroed(CONV_FILTERS * FILTER_WEIGHTS),
            linear_bias: Buffer::zeroed(MAX_LANES),
            sums: Buffer::zeroed(2 * job.batch_size * CONV_FILTERS * MAX_LANES),
            counts: Counts::default(),
            engine,
            job,
        }
    }

    /// As [`Model::dense_flop`], with the convolution's products in the pooled rows that see
    /// something.
    fn executed_flop(&self) -> f64 {
        let Counts { steps, samples, rows_seen } = &self.counts;
        let rows = (*samples * POOLED_SIDE as u64) as f64;
        let blank = rows - rows_seen.load(Ordering::Relaxed) as f64;
        // Nine taps for each of the four outputs that a pooled place chooses among, and back for one.
        let row = (CONV_FILTERS * POOLED_SIDE * 9 * (4 + 1)) as f64;
        Model::Cnn.dense_flop(*samples, *steps) - 2.0 * blank * row
    }
}

impl Session for CnnSession<'_> {
    fn description(&self) -> Description {
        self.engine.description("blank rows skipped")
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        let weight = parameters.tensor("conv.weight"); // (8, 1, 3, 3)
        let bias = parameters.tensor("conv.bias"); // (8)
        for filter in 0..CONV_FILTERS {
            let packed = &mut self.convolution[filter * FILTER..][..FILTER];
            packed[..FILTER - 1].copy_from_slice(&weight[filter * 9..][..9]);
            packed[FILTER - 1] = bias[filter];
        }
        for (index, (packed, &weight)) in self.packed.iter_mut().zip(&*self.convolution).enumerate()
        {
            *packed = pack(index % FILTER, weight);
        }
        let weight = parameters.tensor("fc.weight"); // (10, 1568)
        for (index, &weight) in weight.iter().enumerate() {
            self.linear[packed_place(index / POOLED, index % POOLED)] = weight;
        }
        self.linear_bias[..CLASSES].copy_from_slice(parameters.tensor("fc.bias"));
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let mut parameters = Parameters::zeros(Model::Cnn);
        for filter in 0..CONV_FILTERS {
            let packed = &self.convolution[filter * FILTER..][..FILTER];
            parameters.tensor_mut("conv.weight")[filter * 9..][..9].copy_from_slice(&packed[..9]);
            parameters.tensor_mut("conv.bias")[filter] = packed[FILTER - 1];
        }
        for (index, weight) in parameters.tensor_mut("fc.weight").iter_mut().enumerate() {
            *weight = self.linear[packed_place(index / POOLED, index % POOLED)];
        }
        parameters.tensor_mut("fc.bias").copy_from_slice(&self.linear_bias[..CLASSES]);
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        check_order(&self.job, order, step_loss)?;
        let memory = run::Memory {
            convolution: self.convolution.share(),
            packed: self.packed.share(),
            linear: self.linear.share(),
            linear_bias: self.linear_bias.share(),
            sums: self.sums.share(),
            step_loss: Shared::new(step_loss),
            rows_seen: &self.counts.rows_seen,
        };
        let (isa, job) = (self.engine.isa, self.job);
        self.engine.team.run(&|member| isa.run(run::Train { member, job, order, memory }));
        self.counts.steps += order.len().div_ceil(job.batch_size) as u64;
        self.counts.samples += order.len() as u64;
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured { executed_flop: Some(self.executed_flop()), ..Measured::default() }
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        check_images(images, labels)?;
        let shared = Shared::new(labels);
        let (packed, linear, bias) = (&*self.packed, &*self.linear, &*self.linear_bias);
        let isa = self.engine.isa;
        self.engine.team.run(&|member| {
            let share = member.share(images.len() / PIXELS);
            let images = &images[share.start * PIXELS..share.end * PIXELS];
            // SAFETY: shares are disjoint.
            let labels = unsafe { shared.slice_mut(share) };
            isa.run(run::Predict { images, labels, packed, linear, bias });
        });
        Ok(())
    }
}
