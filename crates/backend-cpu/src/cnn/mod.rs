//! The CNN: convolution 3x3, ReLU, 2x2 max-pool, linear, trained whole.
//!
//! A step has two phases with a barrier after each:
//! 1. Per sample, in pairs, with everything in L1 and L2: unpack the pixels, convolve and pool,
//!    logits and loss, the gradients of logits and pooled values, the gradient of the convolution.
//!    Only pooled values and logit gradients of the step's samples are kept.
//! 2. The linear layer's gradient of the whole step at once, straight into its weights, cut between
//!    the threads by weights; the convolution's update from its gradients by chunk.
//!
//! Sums do not depend on the number of threads: phase 1 adds up the convolution's gradient by
//! chunks of samples whose number depends on the step's size alone, phase 2 adds chunks and samples
//! in order.

mod convolution;
mod linear;
mod planes;
#[cfg(test)]
mod tests;

use crate::buffer::{Buffer, Shared};
use crate::cross_entropy::{LossSum, first_of_the_largest, softmax_cross_entropy};
use crate::simd::{Kernel, MAX_LANES, Simd};
use crate::team::Member;
use crate::{Engine, check_images, check_order};
use convolution::Choices;
use mnist::{CLASSES, PIXELS};
use nn::backend::{Description, Job, Session, TrainError};
use nn::{CONV_FILTERS, Model, POOLED, Parameters};
use planes::Planes;

/// Rows and columns of the pooled image.
const POOLED_SIDE: usize = 14;
/// A row of pooled places in floats: 14 and two zeros.
const ROW: usize = MAX_LANES;
/// Rows of pooled values of a sample, (row, filter).
const LINES: usize = POOLED_SIDE * CONV_FILTERS;
/// Packed weights of a filter: nine taps and the bias.
const FILTER: usize = 10;
/// Packed weights of the convolution.
const FILTERS: usize = CONV_FILTERS * FILTER;
/// Packed weights of the linear layer for one line: (10, 16).
const LINE_WEIGHTS: usize = CLASSES * ROW;
/// Pooled values of a sample in floats, and a line more: the update reads one line of every sample,
/// and with a distance of 7168 bytes these would meet in a quarter of the L1's sets.
const SAMPLE_STRIDE: usize = (LINES + 1) * ROW;
/// A step's samples are cut into chunks of at least this many ...
const CHUNK_SAMPLES: usize = 2;
/// ... and into at most this many chunks: more threads than that have nothing to do in phase 1.
const MAX_CHUNKS: usize = 64;
/// What a pixel's byte is divided by; the packed weights are, instead.
const PIXEL_SCALE: f32 = 1.0 / 255.0;

/// The CNN in training.
pub struct CnnSession<'data> {
    engine: Engine,
    job: Job<'data>,
    convolution: Buffer<f32>, // (8, 10): weights and bias
    packed: Buffer<f32>,      // (8, 10): weights / 255 and bias
    linear: Buffer<f32>,      // (112, 10, 16)
    linear_bias: Buffer<f32>, // (16)
    pooled: Buffer<f32>,      // (batch, SAMPLE_STRIDE)
    d_logits: Buffer<f32>,    // (batch, 16)
    gradients: Buffer<f32>,   // (chunks, 8, 10, 16): of the packed weights, by chunk and lane
    losses: Buffer<f32>,      // (chunks): sums
}

impl<'data> CnnSession<'data> {
    /// With all parameters zero.
    pub fn new(engine: Engine, job: Job<'data>) -> CnnSession<'data> {
        let chunks = chunks(job.batch_size);
        CnnSession {
            engine,
            job,
            convolution: Buffer::zeroed(FILTERS),
            packed: Buffer::zeroed(FILTERS),
            linear: Buffer::zeroed(LINES * LINE_WEIGHTS),
            linear_bias: Buffer::zeroed(ROW),
            pooled: Buffer::zeroed(job.batch_size * SAMPLE_STRIDE),
            d_logits: Buffer::zeroed(job.batch_size * MAX_LANES),
            gradients: Buffer::zeroed(chunks * FILTERS * MAX_LANES),
            losses: Buffer::zeroed(chunks),
        }
    }
}

/// Chunks of a step of so many samples.
fn chunks(samples: usize) -> usize {
    samples.div_ceil(CHUNK_SAMPLES).min(MAX_CHUNKS)
}

/// Where the weight of a class for place `place` of (filter, row, column) is packed.
fn packed_place(class: usize, place: usize) -> usize {
    let (filter, row, column) = (
        place / (POOLED_SIDE * POOLED_SIDE),
        place / POOLED_SIDE % POOLED_SIDE,
        place % POOLED_SIDE,
    );
    (row * CONV_FILTERS + filter) * LINE_WEIGHTS + class * ROW + column
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
        let mut losses = Buffer::zeroed(step_loss.len());
        let step = Step {
            job: self.job,
            convolution: self.convolution.share(),
            packed: self.packed.share(),
            linear: self.linear.share(),
            linear_bias: self.linear_bias.share(),
            pooled: self.pooled.share(),
            d_logits: self.d_logits.share(),
            gradients: self.gradients.share(),
            losses: self.losses.share(),
            step_loss: losses.share(),
        };
        let isa = self.engine.isa;
        self.engine.team.run(&|member| isa.run(Train { member, order, step: &step }));
        step_loss.copy_from_slice(&losses);
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        check_images(images, labels)?;
        let mut found = Buffer::zeroed(labels.len());
        let shared = found.share();
        let (packed, linear, bias) = (&*self.packed, &*self.linear, &*self.linear_bias);
        let isa = self.engine.isa;
        self.engine.team.run(&|member| {
            let share = member.share(images.len() / PIXELS);
            let images = &images[share.start * PIXELS..share.end * PIXELS];
            // SAFETY: shares are disjoint.
            let labels = unsafe { shared.slice_mut(share) };
            isa.run(Predict { images, labels, packed, linear, bias });
        });
        labels.copy_from_slice(&found);
        Ok(())
    }
}

/// A weight of a filter as packed: taps are divided by 255 in place of the pixels.
fn pack(tap: usize, weight: f32) -> f32 {
    if tap < FILTER - 1 { weight * PIXEL_SCALE } else { weight }
}

/// What the threads share.
struct Step<'run> {
    job: Job<'run>,
    convolution: Shared<'run, f32>,
    packed: Shared<'run, f32>,
    linear: Shared<'run, f32>,
    linear_bias: Shared<'run, f32>,
    pooled: Shared<'run, f32>,
    d_logits: Shared<'run, f32>,
    gradients: Shared<'run, f32>,
    losses: Shared<'run, f32>,
    step_loss: Shared<'run, f32>,
}

/// One sample's work space.
struct Sample<S: Simd> {
    planes: Planes,
    choices: Choices<S>,
}

impl<S: Simd> Sample<S> {
    fn new(simd: S) -> Sample<S> {
        Sample { planes: Planes::new(), choices: Choices::new(simd) }
    }

    /// Unpacks, convolves and pools.
    #[inline(always)]
    fn forward(
        &mut self,
        simd: S,
        packed: &[f32; FILTERS],
        image: &[u8],
        pooled: &mut [f32; LINES * ROW],
    ) {
        self.planes.unpack(simd, image);
        if !packed.iter().all(|weight| weight.is_finite()) {
            self.planes.see_all(); // NaN times zero is NaN, and must reach the loss
        }
        convolution::forward(simd, packed, &self.planes, pooled, &mut self.choices);
    }
}

struct Train<'run> {
    member: &'run Member<'run>,
    order: &'run [u32],
    step: &'run Step<'run>,
}

impl Kernel for Train<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Train { member, order, step } = self;
        let mut work = Box::new((
            [Sample::new(simd), Sample::new(simd)],
            [[0.0; LINES * ROW]; 2], // gradients of the pooled values
        ));
        for (index, batch) in order.chunks(step.job.batch_size).enumerate() {
            let chunks = chunks(batch.len());
            for chunk in member.share(chunks) {
                let samples = batch.len() * chunk / chunks..batch.len() * (chunk + 1) / chunks;
                let (samples_work, d_pooled) = &mut *work;
                step.chunk(simd, batch, samples, chunk, samples_work, d_pooled);
            }
            member.barrier();
            step.update(simd, member, batch.len());
            if member.index() == 0 {
                // SAFETY: only this thread touches it, and phase 1 is over.
                let (all, losses) = unsafe {
                    (step.step_loss.slice_mut(index..index + 1), step.losses.slice(0..chunks))
                };
                all[0] = (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>()
                    / batch.len() as f64) as f32;
            }
            member.barrier();
        }
    }
}

impl Step<'_> {
    /// Phase 1 for a chunk: `samples` of the batch.
    #[inline(always)]
    fn chunk<S: Simd>(
        &self,
        simd: S,
        batch: &[u32],
        samples: std::ops::Range<usize>,
        chunk: usize,
        work: &mut [Sample<S>; 2],
        d_pooled: &mut [[f32; LINES * ROW]; 2],
    ) {
        // SAFETY: this chunk and these samples are this thread's alone, and weights change in
        // phase 2 only.
        let (gradient, loss, pooled, d_logits) = unsafe {
            (
                self.gradients.slice_mut(gradient_range::<S>(chunk)),
                &mut self.losses.slice_mut(chunk..chunk + 1)[0],
                self.pooled.slice_mut(samples.start * SAMPLE_STRIDE..samples.end * SAMPLE_STRIDE),
                self.d_logits.slice_mut(samples.start * MAX_LANES..samples.end * MAX_LANES),
            )
        };
        gradient.fill(0.0);
        let mut sum = LossSum::new();
        let batch = &batch[samples];
        let at_once = linear::samples_at_once::<S>();
        for ((batch, pooled), d_logits) in batch
            .chunks(at_once)
            .zip(pooled.chunks_mut(at_once * SAMPLE_STRIDE))
            .zip(d_logits.chunks_mut(at_once * MAX_LANES))
        {
            if let [first, second] = *batch {
                let indices = [first, second];
                self.samples::<S, 2>(
                    simd, indices, pooled, d_logits, work, d_pooled, gradient, &mut sum,
                );
            } else {
                let (work, _) = work.split_first_chunk_mut().expect("two samples");
                let (d_pooled, _) = d_pooled.split_first_chunk_mut().expect("two samples");
                let indices = [batch[0]];
                self.samples::<S, 1>(
                    simd, indices, pooled, d_logits, work, d_pooled, gradient, &mut sum,
                );
            }
        }
        *loss = sum.total() as f32;
    }

    #[inline(always)]
    fn samples<S: Simd, const N: usize>(
        &self,
        simd: S,
        indices: [u32; N],
        pooled: &mut [f32],
        d_logits: &mut [f32],
        work: &mut [Sample<S>; N],
        d_pooled: &mut [[f32; LINES * ROW]; N],
        gradient: &mut [f32],
        loss: &mut LossSum,
    ) {
        // SAFETY: weights change in phase 2 only.
        let (packed, linear, bias) = unsafe {
            (
                self.packed.slice(0..FILTERS),
                self.linear.slice(0..LINES * LINE_WEIGHTS),
                self.linear_bias.slice(0..ROW),
            )
        };
        let packed: &[f32; FILTERS] = packed.try_into().expect("all of them");
        let (images, labels) = (self.job.train.images(), self.job.train.labels());
        for n in 0..N {
            let image = &images[indices[n] as usize * PIXELS..][..PIXELS];
            work[n].forward(simd, packed, image, lines_mut(pooled, n));
        }
        let values: [_; N] = std::array::from_fn(|n| lines(pooled, n));
        let logits = linear::logits(simd, linear, bias, values);
        let mut d = [[0.0; MAX_LANES]; N];
        for n in 0..N {
            let label = labels[indices[n] as usize];
            d[n] = softmax_cross_entropy(simd, &logits[n], label, loss);
            d_logits[n * MAX_LANES..][..MAX_LANES].copy_from_slice(&d[n]);
        }
        linear::input_gradient(simd, linear, d.each_ref(), d_pooled);
        for n in 0..N {
            let Sample { planes, choices } = &work[n];
            convolution::backward(simd, planes, values[n], choices, &d_pooled[n], gradient);
        }
    }

    /// Phase 2: this member's share of all weights.
    #[inline(always)]
    fn update<S: Simd>(&self, simd: S, member: &Member<'_>, samples: usize) {
        let rate = self.job.learning_rate / samples as f32;
        let lines = member.share(LINES / 2); // pairs
        let lines = 2 * lines.start..2 * lines.end;
        // SAFETY: each line is one member's; what phase 1 wrote is not written now.
        let (weights, pooled, d_logits) = unsafe {
            (
                self.linear.slice_mut(lines.start * LINE_WEIGHTS..lines.end * LINE_WEIGHTS),
                self.pooled.slice(0..samples * SAMPLE_STRIDE),
                self.d_logits.slice(0..samples * MAX_LANES),
            )
        };
        linear::update(simd, weights, lines, pooled, d_logits, rate);
        for filter in member.share(CONV_FILTERS) {
            self.update_filter(simd, filter, chunks(samples), rate);
        }
        if member.index() + 1 == member.threads() {
            // SAFETY: only this thread touches it in this phase.
            let bias = unsafe { self.linear_bias.slice_mut(0..CLASSES) };
            for (class, bias) in bias.iter_mut().enumerate() {
                let sum: f32 = d_logits.iter().skip(class).step_by(MAX_LANES).sum();
                *bias -= rate * sum;
            }
        }
    }

    /// Updates a filter from its gradients by chunk.
    #[inline(always)]
    fn update_filter<S: Simd>(&self, simd: S, filter: usize, chunks: usize, rate: f32) {
        let places = filter * FILTER..(filter + 1) * FILTER;
        // SAFETY: each filter is one member's, and phase 1 is over.
        let (weights, packed) =
            unsafe { (self.convolution.slice_mut(places.clone()), self.packed.slice_mut(places)) };
        for (tap, (weight, packed)) in weights.iter_mut().zip(packed).enumerate() {
            let mut sum = simd.splat(0.0);
            for chunk in 0..chunks {
                let start = gradient_range::<S>(chunk).start + (filter * FILTER + tap) * S::LANES;
                // SAFETY: phase 1 is over.
                let part = unsafe { self.gradients.slice(start..start + S::LANES) };
                // SAFETY: the slice has a vector.
                sum = simd.add(sum, unsafe { simd.load(part.as_ptr()) });
            }
            *weight -= rate * pack(tap, simd.sum(sum));
            *packed = pack(tap, *weight);
        }
    }
}

/// Where a chunk's gradient of the packed weights lies, (8, 10, lanes).
#[inline(always)]
fn gradient_range<S: Simd>(chunk: usize) -> std::ops::Range<usize> {
    let len = FILTERS * S::LANES;
    chunk * len..(chunk + 1) * len
}

/// The pooled values of the `n`th sample.
#[inline(always)]
fn lines(pooled: &[f32], n: usize) -> &[f32; LINES * ROW] {
    pooled[n * SAMPLE_STRIDE..][..LINES * ROW].try_into().expect("of this length")
}

#[inline(always)]
fn lines_mut(pooled: &mut [f32], n: usize) -> &mut [f32; LINES * ROW] {
    (&mut pooled[n * SAMPLE_STRIDE..][..LINES * ROW]).try_into().expect("of this length")
}

struct Predict<'run> {
    images: &'run [u8],
    labels: &'run mut [u8],
    packed: &'run [f32],
    linear: &'run [f32],
    bias: &'run [f32],
}

impl Kernel for Predict<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let packed: &[f32; FILTERS] = self.packed.try_into().expect("all of them");
        let mut sample = Box::new(Sample::new(simd));
        let mut pooled = Box::new([[0.0; LINES * ROW]; 2]);
        for (images, labels) in self.images.chunks(2 * PIXELS).zip(self.labels.chunks_mut(2)) {
            for (image, pooled) in images.chunks(PIXELS).zip(pooled.iter_mut()) {
                sample.forward(simd, packed, image, pooled);
            }
            // Of a last single image the second is left over from before, and not looked at.
            let logits = if linear::samples_at_once::<S>() == 2 {
                linear::logits(simd, self.linear, self.bias, pooled.each_ref())
            } else {
                let [first, second] = &*pooled;
                let [first] = linear::logits(simd, self.linear, self.bias, [first]);
                let [second] = linear::logits(simd, self.linear, self.bias, [second]);
                [first, second]
            };
            for (label, logits) in labels.iter_mut().zip(&logits) {
                *label = first_of_the_largest(logits);
            }
        }
    }
}
