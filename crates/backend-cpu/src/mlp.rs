//! 784-H-10 with ReLU.

mod batch;
mod first_layer;
mod layout;
mod plan;
mod predict;
mod run;
mod second_layer;
#[cfg(test)]
mod tests;

use crate::Engine;
use crate::buffer::Buffer;
use crate::simd::{Kernel, Simd};
use batch::{GROUP, GROUP_BYTES};
use layout::Layout;
use mnist::{CLASSES, PIXELS};
use nn::backend::{Description, Job, Measured, Session, TrainError};
use nn::{MlpShape, Parameters};
use plan::Plan;
use predict::Predict;
use run::{BATCHES, Memory, Train};
use std::sync::atomic::{AtomicU64, Ordering};

/// An MLP in training.
pub struct Mlp<'data> {
    job: Job<'data>,
    engine: Engine,
    layout: Layout,
    w1: Buffer<f32>,
    b1: Buffer<f32>,
    w2: Buffer<f32>,
    b2: Buffer<f32>,
    pixels: Buffer<u8>,
    hidden: Buffer<f32>,
    parts: Buffer<f32>,
    plan: Plan,
    counts: Counts,
}

/// Counts of the work so far.
#[derive(Default)]
struct Counts {
    steps: u64,
    samples: u64,
    /// Pairs of pixels that were not skipped, over all samples.
    pairs: AtomicU64,
}

impl<'data> Mlp<'data> {
    /// Ready to train; parameters are zero.
    ///
    /// # Errors
    /// [`TrainError::Option`] if there is no such plan.
    pub fn open(
        job: Job<'data>,
        shape: MlpShape,
        engine: Engine,
    ) -> Result<Mlp<'data>, TrainError> {
        let threads = engine.team.threads();
        let plan = match &engine.plan {
            None => Plan::for_density(plan::density(job.train)),
            Some(name) => Plan::parse(name).ok_or_else(|| TrainError::Option {
                option: "plan",
                value: name.clone(),
                reason: "the mlp on cpu has sparse and dense".to_owned(),
            })?,
        };
        let (lanes, widest) = engine.isa.run(Widths);
        let batch_size = job.batch_size.min(job.train.len().max(1));
        let layout = Layout::new(shape.hidden, batch_size, threads, lanes, widest);
        Ok(Mlp {
            job,
            w1: Buffer::zeroed(layout.w1_len()),
            b1: Buffer::zeroed(layout.vectors * lanes),
            w2: Buffer::zeroed(layout.w2_len()),
            b2: Buffer::zeroed(CLASSES),
            pixels: Buffer::zeroed(BATCHES * layout.groups * GROUP_BYTES),
            hidden: Buffer::zeroed(layout.hidden_start(threads)),
            parts: Buffer::zeroed(2 * layout.logits_len()),
            plan,
            counts: Counts::default(),
            engine,
            layout,
        })
    }
}

/// Lanes, and the widest tile: with two rows of a tile's weights, half the registers are left.
struct Widths;

impl Kernel for Widths {
    type Output = (usize, usize);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (S::LANES, S::REGISTERS / 4)
    }
}

impl Session for Mlp<'_> {
    fn description(&self) -> Description {
        self.engine.description(self.plan.path())
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        let layout = &self.layout;
        let w1 = parameters.tensor("fc1.weight");
        let w2 = parameters.tensor("fc2.weight");
        for unit in 0..layout.hidden {
            for pixel in 0..PIXELS {
                self.w1[layout.w1_index(unit, pixel)] = w1[unit * PIXELS + pixel];
            }
            for class in 0..CLASSES {
                self.w2[layout.w2_index(unit, class)] = w2[class * layout.hidden + unit];
            }
        }
        self.b1[..layout.hidden].copy_from_slice(parameters.tensor("fc1.bias"));
        self.b2.copy_from_slice(parameters.tensor("fc2.bias"));
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let layout = &self.layout;
        let mut parameters = Parameters::zeros(self.job.model);
        let w1 = parameters.tensor_mut("fc1.weight");
        for unit in 0..layout.hidden {
            for pixel in 0..PIXELS {
                w1[unit * PIXELS + pixel] = self.w1[layout.w1_index(unit, pixel)];
            }
        }
        let w2 = parameters.tensor_mut("fc2.weight");
        for unit in 0..layout.hidden {
            for class in 0..CLASSES {
                w2[class * layout.hidden + unit] = self.w2[layout.w2_index(unit, class)];
            }
        }
        parameters.tensor_mut("fc1.bias").copy_from_slice(&self.b1[..layout.hidden]);
        parameters.tensor_mut("fc2.bias").copy_from_slice(&self.b2);
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        crate::check_order(&self.job, order, step_loss)?;
        let isa = self.engine.isa;
        let memory = Memory {
            w1: self.w1.share(),
            b1: self.b1.share(),
            w2: self.w2.share(),
            b2: self.b2.share(),
            pixels: self.pixels.share(),
            hidden: self.hidden.share(),
            parts: self.parts.share(),
        };
        let layout = &self.layout;
        let job = &self.job;
        let step_loss = crate::buffer::Shared::new(step_loss);
        self.engine.team.run(&|member| {
            isa.run(Train {
                member,
                layout,
                memory,
                data: job.train,
                batch_size: job.batch_size,
                learning_rate: job.learning_rate,
                order,
                plan: self.plan,
                step_loss,
                pairs: &self.counts.pairs,
            });
        });
        self.counts.steps += order.len().div_ceil(job.batch_size) as u64;
        self.counts.samples += order.len() as u64;
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        crate::check_images(images, labels)?;
        let labels = crate::buffer::Shared::new(labels);
        let (w1, layout, plan) = (self.w1.share(), &self.layout, self.plan);
        let (b1, w2, b2) = (&*self.b1, &*self.w2, &*self.b2);
        let isa = self.engine.isa;
        self.engine.team.run(&|member| {
            isa.run(Predict { member, layout, w1, b1, w2, b2, plan, images, labels });
        });
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured { executed_flop: self.executed_flop(), ..Measured::default() }
    }
}

impl Mlp<'_> {
    /// As [`nn::Model::dense_flop`], with the first layer's products for the pairs of pixels that
    /// were not skipped.
    fn executed_flop(&self) -> Option<f64> {
        if self.plan == Plan::Dense {
            return None; // all of them
        }
        let Counts { steps, samples, pairs } = &self.counts;
        let model = self.job.model;
        let pixels = 2.0 * pairs.load(Ordering::Relaxed) as f64;
        let skipped = (*samples * PIXELS as u64) as f64 - pixels;
        let multiply_adds = 2.0 * skipped * self.layout.hidden as f64; // forward and back
        Some(model.dense_flop(*samples, *steps) - 2.0 * multiply_adds)
    }
}
