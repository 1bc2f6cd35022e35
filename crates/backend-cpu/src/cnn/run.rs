//! The steps of training, and prediction: what each thread does.

use super::convolution::{self, Choice};
use super::layout::{FILTER, FILTER_ROWS, FILTER_WEIGHTS, pack};
use super::linear::{self, samples_at_once};
use super::planes::Planes;
use super::sums::{self, Blocks};
use crate::buffer::{Buffer, Shared};
use crate::cross_entropy::{LossSum, first_of_the_largest, softmax_cross_entropy};
use crate::prefetch::prefetch_image;
use crate::simd::{Kernel, MAX_LANES, Simd};
use crate::team::Member;
use mnist::{CLASSES, PIXELS};
use nn::CONV_FILTERS;
use nn::backend::Job;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Samples that go through a pass together, so that a filter's weights stay in L1 for all of them.
const GROUP: usize = 8;
/// Images that stay unpacked from the first phase to the second: at most half a megabyte. Those of
/// larger batches are unpacked again.
const KEPT: usize = 64;

/// What the threads share. Each has its filters' weights to itself for a run, as a copy: a CPU fetches
/// ahead what lies behind the data that it works on, and would take it away from another core.
#[derive(Clone, Copy)]
pub struct Memory<'run> {
    pub convolution: Shared<'run, f32>,
    pub packed: Shared<'run, f32>,
    pub linear: Shared<'run, f32>,
    pub linear_bias: Shared<'run, f32>,
    pub sums: Shared<'run, f32>,
    pub step_loss: Shared<'run, f32>,
    /// Counts the pooled rows that were computed, once for all filters.
    pub rows_seen: &'run AtomicU64,
}

/// Distance between the pooled values of samples: a line more than there are, as the update reads
/// the same rows of every sample, and at 3584 or 7168 bytes these would meet in a few of L1's sets.
fn sample_stride(filters: usize) -> usize {
    filters * FILTER_ROWS + MAX_LANES
}

/// Trains on all batches of an order.
pub struct Train<'run> {
    pub member: &'run Member<'run>,
    pub job: Job<'run>,
    pub order: &'run [u32],
    pub memory: Memory<'run>,
}

impl Kernel for Train<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Train { member, job, order, memory } = self;
        let mut thread = Thread::new(simd, member, job, memory);
        member.barrier(); // until all have their copies
        for (step, batch) in order.chunks(job.batch_size).enumerate() {
            let len = job.batch_size * CONV_FILTERS * MAX_LANES;
            let sums = step % 2 * len;
            thread.forward(simd, batch, sums);
            // One barrier a step: the sums of the next step lie elsewhere, and nobody can come to
            // the one after the next before all have come here again.
            member.barrier();
            let loss = thread.softmax(simd, batch, sums);
            if member.index() == 0 {
                // SAFETY: only this thread touches the losses.
                unsafe { memory.step_loss.slice_mut(step..step + 1)[0] = loss };
            }
            thread.backward(simd, batch);
            thread.update(simd, batch.len());
        }
        memory.rows_seen.fetch_add(thread.rows_seen, Ordering::Relaxed);
        thread.copy_back(member.index() == 0, memory);
    }
}

/// One thread with its filters.
struct Thread<'run, S: Simd> {
    job: Job<'run>,
    filters: Range<usize>,
    convolution: Buffer<f32>, // (filters, 10)
    packed: Buffer<f32>,      // (filters, 10)
    linear: Buffer<f32>,      // (filters, 14, 10, 16)
    bias: [f32; MAX_LANES],   // of the linear layer, updated by every thread alike
    pooled: Buffer<f32>,      // (batch, sample_stride)
    blocks: Blocks,           // of filters, of all threads
    parts: Buffer<f32>,       // (GROUP, filters, 16): of the logits
    sums: Shared<'run, f32>,  // (2, 8, batch, 16): of the blocks' parts, by first filter
    choices: Vec<Choice<S>>,  // (batch, filters, 14, 16 / lanes)
    d_logits: Buffer<f32>,    // (batch, 16)
    d_pooled: Buffer<f32>,    // (GROUP, filters, 14, 16)
    gradient: Buffer<f32>,    // (filters, 10, lanes): of the packed weights, by lane
    planes: Vec<Planes>,      // of the last images, by sample modulo their number
    finite: bool,             // all packed weights are
    rows_seen: u64,           // by the thread that has the first filter
}

impl<'run, S: Simd> Thread<'run, S> {
    fn new(simd: S, member: &Member<'_>, job: Job<'run>, memory: Memory<'run>) -> Thread<'run, S> {
        let filters = member.share(CONV_FILTERS);
        let batch = job.batch_size;
        // SAFETY: written only after the next barrier.
        let copy = |from: Shared<'_, f32>, len: usize| unsafe {
            Buffer::from(from.slice(filters.start * len..filters.end * len))
        };
        // SAFETY: as above.
        let bias = unsafe { memory.linear_bias.slice(0..MAX_LANES) };
        Thread {
            job,
            convolution: copy(memory.convolution, FILTER),
            packed: copy(memory.packed, FILTER),
            linear: copy(memory.linear, FILTER_WEIGHTS),
            bias: bias.try_into().expect("sixteen"),
            pooled: Buffer::zeroed(batch * sample_stride(filters.len())),
            blocks: Blocks::new(member.shares(CONV_FILTERS)),
            parts: Buffer::zeroed(GROUP * filters.len() * MAX_LANES),
            sums: memory.sums,
            choices: Choice::of_filters(simd, batch * filters.len()),
            d_logits: Buffer::zeroed(batch * MAX_LANES),
            d_pooled: Buffer::zeroed(GROUP * filters.len() * FILTER_ROWS),
            gradient: Buffer::zeroed(filters.len() * FILTER * S::LANES),
            planes: vec![Planes::new(); batch.clamp(GROUP, KEPT)],
            finite: false,
            rows_seen: 0,
            filters,
        }
    }

    /// The weights as they are now to where they came from; the bias, which all threads have, by one.
    fn copy_back(&self, with_bias: bool, memory: Memory<'_>) {
        let copy = |from: &[f32], to: Shared<'_, f32>, len: usize| {
            // SAFETY: shares are disjoint, and all threads have passed the last barrier.
            unsafe { to.slice_mut(self.filters.start * len..self.filters.end * len) }
                .copy_from_slice(from);
        };
        copy(&self.convolution, memory.convolution, FILTER);
        copy(&self.packed, memory.packed, FILTER);
        copy(&self.linear, memory.linear, FILTER_WEIGHTS);
        if with_bias {
            // SAFETY: by one thread, after the last barrier.
            unsafe { memory.linear_bias.slice_mut(0..MAX_LANES) }.copy_from_slice(&self.bias);
        }
    }

    /// Phase 1: pooled values, choices and the sums of the filters' parts of the logits, to be
    /// written from `sums` on.
    #[inline(always)]
    fn forward(&mut self, simd: S, batch: &[u32], sums: usize) {
        if self.filters.is_empty() {
            return;
        }
        // NaN times zero is NaN and must reach the loss: then no zero is skipped.
        self.finite = self.packed.iter().all(|weight| weight.is_finite());
        let filters = self.filters.len();
        let (stride, choices) = (sample_stride(filters), filters * Choice::<S>::per_filter());
        for (group, samples) in batch.chunks(GROUP).enumerate() {
            let first = group * GROUP;
            for (n, &index) in samples.iter().enumerate() {
                if let Some(&next) = batch.get(first + n + GROUP / 2) {
                    prefetch_image(simd, self.job.train.images(), next);
                }
                let sample = first + n;
                self.unpack(simd, sample, index);
                let planes = &self.planes[sample % self.planes.len()];
                if self.filters.start == 0 {
                    self.rows_seen += u64::from(planes.rows_seen());
                }
                let pooled = &mut self.pooled[sample * stride..][..filters * FILTER_ROWS];
                let choices = &mut self.choices[sample * choices..][..choices];
                convolution::forward(simd, &self.packed, planes, pooled, choices);
            }
            for filter in 0..filters {
                let at_once = samples_at_once::<S>();
                for n in (0..samples.len()).step_by(at_once) {
                    if at_once == 2 && n + 2 <= samples.len() {
                        self.logits::<2>(simd, filter, first, n);
                    } else {
                        self.logits::<1>(simd, filter, first, n);
                    }
                }
            }
            for n in 0..samples.len() {
                let len = filters * MAX_LANES;
                let to = |filter: usize| {
                    let start = self.sum_place(sums, filter, first + n);
                    // SAFETY: these sums are this thread's, each block's its own.
                    unsafe { self.sums.slice_mut(start..start + MAX_LANES) }
                };
                let parts = &self.parts[n * len..][..len];
                sums::sum_parts(simd, &self.blocks, &self.filters, parts, to);
            }
        }
    }

    /// Unpacks the image of a sample of the batch.
    #[inline(always)]
    fn unpack(&mut self, simd: S, sample: usize, index: u32) {
        let kept = self.planes.len();
        let planes = &mut self.planes[sample % kept];
        planes.unpack(simd, &self.job.train.images()[index as usize * PIXELS..][..PIXELS]);
        if !self.finite {
            planes.see_all();
        }
    }

    /// Where the sum of a sample's parts begins, of the block that begins at a filter.
    fn sum_place(&self, sums: usize, filter: usize, sample: usize) -> usize {
        sums + (filter * self.job.batch_size + sample) * MAX_LANES
    }

    /// A filter's part of the logits of `N` samples, from the `n`th of a group on that begins with
    /// sample `first`.
    #[inline(always)]
    fn logits<const N: usize>(&mut self, simd: S, filter: usize, first: usize, n: usize) {
        let filters = self.filters.len();
        let stride = sample_stride(filters);
        let weights = &self.linear[filter * FILTER_WEIGHTS..][..FILTER_WEIGHTS];
        let mut pooled: [&[f32]; N] = [&[]; N];
        for (i, pooled) in pooled.iter_mut().enumerate() {
            let sample = &self.pooled[(first + n + i) * stride..];
            *pooled = &sample[filter * FILTER_ROWS..][..FILTER_ROWS];
        }
        for (i, logits) in linear::logits(simd, weights, pooled).iter().enumerate() {
            let part = (n + i) * filters + filter;
            self.parts[part * MAX_LANES..][..MAX_LANES].copy_from_slice(logits);
        }
    }

    /// The gradients of all logits, and the mean loss.
    #[inline(always)]
    fn softmax(&mut self, simd: S, batch: &[u32], sums: usize) -> f32 {
        let mut loss = LossSum::new();
        for (sample, &index) in batch.iter().enumerate() {
            let sum = |filter: usize| {
                let start = self.sum_place(sums, filter, sample);
                // SAFETY: written before the barrier, and again after the next.
                unsafe { self.sums.slice(start..start + MAX_LANES) }
            };
            let logits = sums::logits(simd, &self.blocks, &self.bias, sum);
            let label = self.job.train.labels()[index as usize];
            let d_logits = softmax_cross_entropy(simd, &logits, label, &mut loss);
            self.d_logits[sample * MAX_LANES..][..MAX_LANES].copy_from_slice(&d_logits);
        }
        (loss.total() / batch.len() as f64) as f32
    }

    /// The gradient of the convolution, summed over the samples in order.
    #[inline(always)]
    fn backward(&mut self, simd: S, batch: &[u32]) {
        self.gradient.fill(0.0);
        if self.filters.is_empty() {
            return;
        }
        let filters = self.filters.len();
        let (stride, choices) = (sample_stride(filters), filters * Choice::<S>::per_filter());
        let len = filters * FILTER_ROWS;
        for (group, samples) in batch.chunks(GROUP).enumerate() {
            let first = group * GROUP;
            for filter in 0..filters {
                let at_once = samples_at_once::<S>();
                for n in (0..samples.len()).step_by(at_once) {
                    if at_once == 2 && n + 2 <= samples.len() {
                        self.input_gradient::<2>(simd, filter, first, n);
                    } else {
                        self.input_gradient::<1>(simd, filter, first, n);
                    }
                }
            }
            for (n, &index) in samples.iter().enumerate() {
                let sample = first + n;
                if batch.len() > self.planes.len() {
                    self.unpack(simd, sample, index);
                }
                let planes = &self.planes[sample % self.planes.len()];
                let pooled = &self.pooled[sample * stride..][..len];
                let choices = &self.choices[sample * choices..][..choices];
                let d_pooled = &self.d_pooled[n * len..][..len];
                convolution::backward(simd, planes, pooled, choices, d_pooled, &mut self.gradient);
            }
        }
    }

    /// The gradient of a filter's pooled values of `N` samples, from the `n`th of a group on that
    /// begins with sample `first`.
    #[inline(always)]
    fn input_gradient<const N: usize>(&mut self, simd: S, filter: usize, first: usize, n: usize) {
        let weights = &self.linear[filter * FILTER_WEIGHTS..][..FILTER_WEIGHTS];
        let mut d_logits = [&[0.0; MAX_LANES]; N];
        for (i, d_logits) in d_logits.iter_mut().enumerate() {
            let start = (first + n + i) * MAX_LANES;
            *d_logits = self.d_logits[start..][..MAX_LANES].try_into().expect("sixteen");
        }
        let len = self.filters.len() * FILTER_ROWS;
        let mut d_pooled = self.d_pooled.chunks_exact_mut(len).skip(n);
        let d_pooled = [(); N].map(|()| {
            let sample = d_pooled.next().expect("room for a group");
            &mut sample[filter * FILTER_ROWS..][..FILTER_ROWS]
        });
        linear::input_gradient(simd, weights, d_logits, d_pooled);
    }

    /// Updates the filters' weights and the thread's copy of the bias.
    #[inline(always)]
    fn update(&mut self, simd: S, samples: usize) {
        let rate = self.job.learning_rate / samples as f32;
        let stride = sample_stride(self.filters.len());
        let d_logits = &self.d_logits[..samples * MAX_LANES];
        linear::update(simd, &mut self.linear, &self.pooled, stride, d_logits, rate);
        let gradient = self.gradient.chunks_exact(S::LANES);
        for (index, lanes) in gradient.enumerate() {
            let tap = index % FILTER;
            // SAFETY: a whole vector.
            let slope = simd.sum(unsafe { simd.load(lanes.as_ptr()) });
            self.convolution[index] -= rate * pack(tap, slope);
            self.packed[index] = pack(tap, self.convolution[index]);
        }
        let mut slopes = [0.0; MAX_LANES];
        for d_logits in d_logits.chunks_exact(MAX_LANES) {
            for (slope, d_logit) in slopes.iter_mut().zip(d_logits) {
                *slope += d_logit;
            }
        }
        for (bias, slope) in self.bias.iter_mut().zip(slopes).take(CLASSES) {
            *bias -= rate * slope;
        }
    }
}

/// Predicts the labels of some images.
pub struct Predict<'run> {
    pub images: &'run [u8],
    pub labels: &'run mut [u8],
    pub packed: &'run [f32],
    pub linear: &'run [f32],
    pub bias: &'run [f32],
}

impl Kernel for Predict<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut planes = Box::new(Planes::new());
        let mut choices = Choice::of_filters(simd, CONV_FILTERS);
        let mut pooled = Buffer::zeroed(2 * CONV_FILTERS * FILTER_ROWS);
        let blocks = Blocks::new((0..CONV_FILTERS).map(|filter| filter..filter + 1));
        let bias: &[f32; MAX_LANES] = self.bias.try_into().expect("sixteen");
        for (images, labels) in self.images.chunks(2 * PIXELS).zip(self.labels.chunks_mut(2)) {
            let pooled_images = pooled.chunks_exact_mut(CONV_FILTERS * FILTER_ROWS);
            for (image, pooled) in images.chunks(PIXELS).zip(pooled_images) {
                planes.unpack(simd, image);
                convolution::forward(simd, self.packed, &planes, pooled, &mut choices);
            }
            // Of a last single image the second is left over from before, and not looked at.
            let mut parts = [[0.0; CONV_FILTERS * MAX_LANES]; 2];
            for filter in 0..CONV_FILTERS {
                let weights = &self.linear[filter * FILTER_WEIGHTS..][..FILTER_WEIGHTS];
                let [first, second] = [0, 1].map(|image| {
                    &pooled[(image * CONV_FILTERS + filter) * FILTER_ROWS..][..FILTER_ROWS]
                });
                let logits = if samples_at_once::<S>() == 2 {
                    linear::logits(simd, weights, [first, second])
                } else {
                    let [first] = linear::logits(simd, weights, [first]);
                    let [second] = linear::logits(simd, weights, [second]);
                    [first, second]
                };
                for (parts, logits) in parts.iter_mut().zip(&logits) {
                    parts[filter * MAX_LANES..][..MAX_LANES].copy_from_slice(logits);
                }
            }
            for (label, parts) in labels.iter_mut().zip(&parts) {
                let part = |filter: usize| &parts[filter * MAX_LANES..][..MAX_LANES];
                *label = first_of_the_largest(&sums::logits(simd, &blocks, bias, part));
            }
        }
    }
}
