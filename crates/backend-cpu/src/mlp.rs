//! 784-H-10 with ReLU.

mod batch;
mod first_layer;
mod layout;
mod run;
mod second_layer;

use crate::Engine;
use crate::buffer::Buffer;
use crate::simd::{Kernel, Simd};
use batch::{GROUP, GROUP_BYTES};
use layout::Layout;
use mnist::{CLASSES, PIXELS};
use nn::backend::{Description, Job, Session, TrainError};
use nn::{MlpShape, Parameters};
use run::{Memory, Train};

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
    gradient: Buffer<f32>,
}

impl<'data> Mlp<'data> {
    /// Ready to train; parameters are zero.
    ///
    /// # Errors
    /// None yet.
    pub fn open(
        job: Job<'data>,
        shape: MlpShape,
        engine: Engine,
    ) -> Result<Mlp<'data>, TrainError> {
        let threads = engine.team.threads();
        let (lanes, widest) = engine.isa.run(Widths);
        let batch_size = job.batch_size.min(job.train.len().max(1));
        let layout = Layout::new(shape.hidden, batch_size, threads, lanes, widest);
        Ok(Mlp {
            job,
            w1: Buffer::zeroed(layout.w1_len()),
            b1: Buffer::zeroed(layout.vectors * lanes),
            w2: Buffer::zeroed(layout.w2_len()),
            b2: Buffer::zeroed(CLASSES),
            pixels: Buffer::zeroed(3 * layout.groups * GROUP_BYTES),
            hidden: Buffer::zeroed(2 * layout.hidden_len()),
            parts: Buffer::zeroed(2 * layout.logits_len()),
            gradient: Buffer::zeroed(threads * layout.groups * CLASSES * GROUP),
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
        self.engine.description("zero pixels skipped")
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
            gradient: self.gradient.share(),
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
                step_loss,
            });
        });
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        Job::check_images(images, labels)?;
        let parameters = self.parameters()?;
        let hidden = self.layout.hidden;
        let mut w1 = vec![0.0; PIXELS * hidden]; // (784, hidden)
        for (unit, row) in parameters.tensor("fc1.weight").chunks_exact(PIXELS).enumerate() {
            for (pixel, &weight) in row.iter().enumerate() {
                w1[pixel * hidden + unit] = weight;
            }
        }
        let mut values = vec![0.0; hidden];
        for (image, label) in images.chunks_exact(PIXELS).zip(labels) {
            values.copy_from_slice(parameters.tensor("fc1.bias"));
            for (&pixel, row) in image.iter().zip(w1.chunks_exact(hidden)) {
                if pixel > 0 {
                    let x = f32::from(pixel) / 255.0;
                    values.iter_mut().zip(row).for_each(|(value, weight)| *value += x * weight);
                }
            }
            values.iter_mut().for_each(|value| *value = value.max(0.0));
            let mut best = f32::NEG_INFINITY;
            let rows = parameters.tensor("fc2.weight").chunks_exact(hidden);
            for (class, (row, bias)) in rows.zip(parameters.tensor("fc2.bias")).enumerate() {
                let logit = bias + row.iter().zip(&values).map(|(w, value)| w * value).sum::<f32>();
                if logit > best {
                    (best, *label) = (logit, class as u8);
                }
            }
        }
        Ok(())
    }
}
