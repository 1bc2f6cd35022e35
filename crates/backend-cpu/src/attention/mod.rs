//! The attention model, trained whole.
//!
//! A step's samples are cut into chunks, and these between the threads. Each thread sums the gradients
//! of its chunks, as far as they make up blocks of [a tree](crate::tree), and after a barrier the
//! blocks' sums are added up and the parameters updated ([`fold`]). Two threads do all of that end
//! alike, each with a model of its own, as long as the model is small: to cut it between them means
//! to exchange the sum, the new weights and the folded ones, which between cores that are far apart
//! takes much longer than to compute them twice, and between near ones as long. More threads, or a
//! larger model, cut it.
mod fold;
mod layout;
mod product;
mod sample;
mod softmax;
mod subsets;
#[cfg(test)]
mod tests;

use crate::buffer::{Buffer, Shared};
use crate::cross_entropy::{LossSum, first_of_the_largest, softmax_cross_entropy};
use crate::prefetch::prefetch_image;
use crate::simd::{Kernel, Simd};
use crate::team::Member;
use crate::tree::Blocks;
use crate::{Engine, check_images, check_order};
use fold::{Layouts, MAX_CHUNKS};
use layout::{BLOCK, Widths};
use mnist::PIXELS;
use nn::backend::{Description, Job, Measured, Session, TrainError};
use nn::{AttentionShape, PATCH, PATCHES, Parameters};
use sample::Work;
use std::sync::atomic::{AtomicU64, Ordering};

/// A step's samples are cut into chunks of at least this many, and into at most [`MAX_CHUNKS`].
const CHUNK_SAMPLES: usize = 4;

/// The attention model in training.
pub struct AttentionSession<'data> {
    engine: Engine,
    job: Job<'data>,
    layouts: Layouts,
    /// The parameters, and room for the next step's: [`Layouts::update`] reads one and writes the
    /// other.
    weights: [Buffer<f32>; 2],
    current: usize,
    folded: Buffer<f32>,
    gradients: Buffer<f32>, // (chunks, gradient.len), apart
    total: Buffer<f32>,     // (gradient.len)
    losses: Buffer<f32>,    // (chunks): sums
    counts: Counts,
}

/// Counts of the work so far.
#[derive(Default)]
struct Counts {
    steps: u64,
    samples: u64,
    active_tokens: AtomicU64,
}

impl<'data> AttentionSession<'data> {
    /// With all parameters zero.
    pub fn new(engine: Engine, job: Job<'data>, shape: AttentionShape) -> AttentionSession<'data> {
        let layouts = Layouts::new(Widths::new(shape));
        let chunks = chunks(job.batch_size);
        AttentionSession {
            weights: [(); 2].map(|()| Buffer::zeroed(layouts.weights.len)),
            current: 0,
            folded: Buffer::zeroed(layouts.folded.len),
            gradients: Buffer::zeroed(chunks * layouts.gradient_stride()),
            total: Buffer::zeroed(layouts.gradient.len),
            losses: Buffer::zeroed(chunks),
            counts: Counts::default(),
            engine,
            job,
            layouts,
        }
    }
}

/// Chunks of a step of so many samples.
fn chunks(samples: usize) -> usize {
    samples.div_ceil(CHUNK_SAMPLES).min(MAX_CHUNKS)
}

impl Session for AttentionSession<'_> {
    fn description(&self) -> Description {
        self.engine.description("linear chains folded, blank patches shared")
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        let Layouts { weights, widths, .. } = &self.layouts;
        for (flat, places) in weights.places(*widths, parameters) {
            for place in places {
                self.weights[self.current][place] = parameters.values()[flat];
            }
        }
        let (layouts, current) = (&self.layouts, &*self.weights[self.current]);
        self.engine.isa.run(FoldAll { layouts, weights: current, folded: self.folded.share() });
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let mut parameters = Parameters::zeros(self.job.model);
        let Layouts { weights, widths, .. } = &self.layouts;
        for (flat, [place, _]) in weights.places(*widths, &parameters) {
            parameters.values_mut()[flat] = self.weights[self.current][place];
        }
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        check_order(&self.job, order, step_loss)?;
        let steps = step_loss.len();
        let [first, second] = &mut self.weights;
        let step = Step {
            job: self.job,
            layouts: &self.layouts,
            model: Model {
                weights: [first.share(), second.share()],
                folded: self.folded.share(),
                total: self.total.share(),
                own: false,
            },
            first: self.current,
            gradients: self.gradients.share(),
            losses: self.losses.share(),
            step_loss: Shared::new(step_loss),
            active_tokens: &self.counts.active_tokens,
        };
        let isa = self.engine.isa;
        self.engine.team.run(&|member| isa.run(Train { member, order, step: &step }));
        self.current = (self.current + steps) % 2;
        self.counts.steps += steps as u64;
        self.counts.samples += order.len() as u64;
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        check_images(images, labels)?;
        let shared = Shared::new(labels);
        let (layouts, folded) = (&self.layouts, &*self.folded);
        let isa = self.engine.isa;
        self.engine.team.run(&|member| {
            let share = member.share(images.len() / PIXELS);
            let images = &images[share.start * PIXELS..share.end * PIXELS];
            // SAFETY: shares are disjoint.
            let labels = unsafe { shared.slice_mut(share) };
            isa.run(Predict { images, labels, layouts, folded });
        });
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured { executed_flop: Some(self.executed_flop()), ..Measured::default() }
    }
}

impl AttentionSession<'_> {
    /// Two for each multiply and add of the products; everything else is small beside them.
    fn executed_flop(&self) -> f64 {
        let Widths { d_model, ff, .. } = self.layouts.widths;
        let [tokens, patch, d, ff, classes] =
            [PATCHES, PATCH, d_model, ff, mnist::CLASSES].map(|n| n as f64);
        let active = 2.0 * patch * d + 3.0 * d * d; // embedding and left side, and back
        let sample = 6.0 * tokens * tokens * d + 3.0 * tokens * d * ff + 3.0 * ff * classes;
        let chains = 3.0 * (d * d * d + d * d * ff + ff * d * classes);
        let step = chains + 3.0 * tokens * d * d;
        let active_tokens = self.counts.active_tokens.load(Ordering::Relaxed) as f64;
        let (samples, steps) = (self.counts.samples as f64, self.counts.steps as f64);
        2.0 * (active * active_tokens + sample * samples + step * steps)
    }
}

struct FoldAll<'run> {
    layouts: &'run Layouts,
    weights: &'run [f32],
    folded: Shared<'run, f32>,
}

impl Kernel for FoldAll<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let units = 0..self.layouts.fold_units();
        self.layouts.fold(simd, units, self.weights, self.folded);
    }
}

/// The state that the threads share.
struct Step<'run> {
    job: Job<'run>,
    layouts: &'run Layouts,
    model: Model<'run>,
    /// Which of the two has the parameters before the first step.
    first: usize,
    gradients: Shared<'run, f32>,
    losses: Shared<'run, f32>,
    step_loss: Shared<'run, f32>,
    active_tokens: &'run AtomicU64,
}

/// The parameters and what a step makes of them.
#[derive(Clone, Copy)]
struct Model<'run> {
    weights: [Shared<'run, f32>; 2],
    folded: Shared<'run, f32>,
    total: Shared<'run, f32>,
    /// One thread's own: it computes all of it.
    own: bool,
}

/// A thread's own model.
struct OwnModel {
    weights: [Buffer<f32>; 2],
    folded: Buffer<f32>,
    total: Buffer<f32>,
}

impl OwnModel {
    /// Of the parameters in the `current` of the two, and what is folded from them.
    ///
    /// # Safety
    /// Nobody writes to the model now.
    unsafe fn of(layouts: &Layouts, model: Model<'_>, current: usize) -> OwnModel {
        // SAFETY: says the caller.
        let (weights, folded) = unsafe {
            let weights = model.weights[current].slice(0..layouts.weights.len);
            (weights, model.folded.slice(0..layouts.folded.len))
        };
        OwnModel {
            weights: [(); 2].map(|()| Buffer::from(weights)),
            folded: Buffer::from(folded),
            total: Buffer::zeroed(layouts.gradient.len),
        }
    }

    fn model(&mut self) -> Model<'_> {
        let [first, second] = &mut self.weights;
        Model {
            weights: [first.share(), second.share()],
            folded: self.folded.share(),
            total: self.total.share(),
            own: true,
        }
    }

    /// Writes the parameters, now in the `current` of the two, and what is folded from them back.
    ///
    /// # Safety
    /// Nobody else uses the model now.
    unsafe fn write_back(&self, model: Model<'_>, current: usize) {
        // SAFETY: says the caller.
        unsafe {
            let weights = &*self.weights[current];
            model.weights[current].slice_mut(0..weights.len()).copy_from_slice(weights);
            model.folded.slice_mut(0..self.folded.len()).copy_from_slice(&self.folded);
        }
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
        // SAFETY: it is written back only after the next barrier.
        let own = || unsafe { OwnModel::of(step.layouts, step.model, step.first) };
        let mut own = (member.threads() == 2 && step.layouts.small()).then(own);
        member.barrier(); // until all have their copies
        let model = own.as_mut().map_or(step.model, OwnModel::model);
        let blocks = |samples: usize| Blocks::new(member.shares(chunks(samples)));
        let whole = blocks(step.job.batch_size);
        let mut work = Work::new(step.layouts.widths);
        let mut active_tokens = 0;
        for (index, batch) in order.chunks(step.job.batch_size).enumerate() {
            let blocks =
                if batch.len() == step.job.batch_size { whole } else { blocks(batch.len()) };
            active_tokens += step.samples(simd, member, model, batch, &mut work);
            step.finish(simd, member, model, (index, batch.len()), &blocks, &work);
        }
        step.active_tokens.fetch_add(active_tokens, Ordering::Relaxed);
        if let (0, Some(own)) = (member.index(), own) {
            let steps = order.len().div_ceil(step.job.batch_size);
            // SAFETY: the others have copies of their own, which they have made.
            unsafe { own.write_back(step.model, (step.first + steps) % 2) };
        }
    }
}

impl Step<'_> {
    /// This member's chunks of the batch; returns how many tokens were active.
    #[inline(always)]
    fn samples<S: Simd>(
        &self,
        simd: S,
        member: &Member<'_>,
        model: Model<'_>,
        batch: &[u32],
        work: &mut Work,
    ) -> u64 {
        let widths = self.layouts.widths;
        let chunks = chunks(batch.len());
        // SAFETY: written after the next barrier only.
        let folded = unsafe { model.folded.slice(0..self.layouts.folded.len) };
        let folded = self.layouts.folded.of(folded);
        let skip_blank = folded.patch.iter().all(|weight| weight.is_finite());
        let (images, labels) = (self.job.train.images(), self.job.train.labels());
        let (stride, len) = (self.layouts.gradient_stride(), self.layouts.gradient.len);
        let mut active_tokens = 0;
        work.blank_tokens(simd, widths, folded);
        for chunk in member.share(chunks) {
            // SAFETY: this chunk is this thread's alone.
            let (gradient, loss) = unsafe {
                (
                    self.gradients.slice_mut(chunk * stride..chunk * stride + len),
                    &mut self.losses.slice_mut(chunk..chunk + 1)[0],
                )
            };
            gradient.fill(0.0);
            let mut gradient = self.layouts.gradient.of(gradient);
            let mut sum = LossSum::new();
            for sample in batch.len() * chunk / chunks..batch.len() * (chunk + 1) / chunks {
                let index = batch[sample];
                if let Some(&next) = batch.get(sample + 1) {
                    prefetch_image(simd, images, next);
                }
                let image = &images[index as usize * PIXELS..][..PIXELS];
                let logits = work.forward(simd, widths, folded, image, skip_blank);
                let label = labels[index as usize];
                let d_logits = softmax_cross_entropy(simd, &logits, label, &mut sum);
                work.backward(simd, widths, folded, &d_logits, &mut gradient);
                active_tokens += work.active() as u64;
            }
            *loss = sum.total() as f32;
        }
        active_tokens
    }

    /// From the chunks' gradients to the next step's weights. A thread with a model of its own does
    /// all of it after the sum, and meets the others less often.
    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        simd: S,
        member: &Member<'_>,
        model: Model<'_>,
        (index, samples): (usize, usize),
        blocks: &Blocks<MAX_CHUNKS>,
        work: &Work,
    ) {
        let (layouts, chunks) = (self.layouts, chunks(samples));
        layouts.sum_blocks(simd, member.share(chunks), blocks, self.gradients);
        member.barrier();

        let share = |units: usize| if model.own { 0..units } else { member.share(units) };
        let meet = || {
            if !model.own {
                member.barrier();
            }
        };
        let vectors = share(layouts.gradient.len / BLOCK);
        layouts.sum_total(simd, vectors, chunks, blocks, self.gradients, model.total);
        if member.index() == 0 {
            // SAFETY: only this thread touches the step's loss, and the chunks' are written.
            let (all, losses) = unsafe {
                (self.step_loss.slice_mut(index..index + 1), self.losses.slice(0..chunks))
            };
            let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
            all[0] = (sum / samples as f64) as f32;
        }
        // With a model of its own a thread need not wait until it writes to the chunks again.
        let read = model.own.then(|| member.arrive());
        meet();

        // SAFETY: folded weights are written when all have come to the meeting after the next.
        let scores_t = unsafe { model.folded.slice(layouts.folded.scores_t.clone()) };
        let units = share(layouts.blank_units());
        layouts.add_blank(simd, units, work.blank_embedded(), scores_t, model.total);
        meet();

        let rate = self.job.learning_rate / samples as f32;
        let old = model.weights[(self.first + index) % 2];
        let new = model.weights[(self.first + index + 1) % 2];
        // SAFETY: nobody writes to either before the meeting after the next.
        let (gradient, old) = unsafe {
            (model.total.slice(0..layouts.gradient.len), old.slice(0..layouts.weights.len))
        };
        layouts.update(simd, share(layouts.update_units()), rate, gradient, old, new);
        meet();

        // SAFETY: nobody writes to it in this phase.
        let weights = unsafe { new.slice(0..layouts.weights.len) };
        layouts.fold(simd, share(layouts.fold_units()), weights, model.folded);
        meet();
        if let Some(read) = read {
            member.wait(read);
        }
    }
}

struct Predict<'run> {
    images: &'run [u8],
    labels: &'run mut [u8],
    layouts: &'run Layouts,
    folded: &'run [f32],
}

impl Kernel for Predict<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let widths = self.layouts.widths;
        let folded = self.layouts.folded.of(self.folded);
        let mut work = Work::new(widths);
        work.blank_tokens(simd, widths, folded);
        for (image, label) in self.images.chunks(PIXELS).zip(self.labels) {
            let logits = work.forward(simd, widths, folded, image, true);
            *label = first_of_the_largest(&logits);
        }
    }
}
