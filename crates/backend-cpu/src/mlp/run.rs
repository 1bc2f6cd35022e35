//! The work of each member of the team in a run of training steps.

use super::batch::{self, GROUP, GROUP_BYTES, LABELS, ROOM, SQUARES};
use super::first_layer::{Pass, Samples};
use super::layout::{Layout, Tile};
use super::plan::Plan;
use super::second_layer::{activate, backward, logits, softmax_gradient, sum_logits};
use crate::buffer::{Buffer, Shared};
use crate::simd::{Kernel, MAX_LANES, Simd};
use crate::team::Member;
use mnist::{CLASSES, Split};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Batches of pixels at hand: one updates, the next goes forward, the one after that is whole, and
/// while members wait for each other in a step, they turn the last.
pub(super) const BATCHES: usize = 4;

/// The buffers of a session, for all members.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a> {
    pub w1: Shared<'a, f32>,     // (tile)(784, tile's vectors, lanes)
    pub b1: Shared<'a, f32>,     // (vector, lanes)
    pub w2: Shared<'a, f32>,     // (vector, 10, lanes)
    pub b2: Shared<'a, f32>,     // (10)
    pub pixels: Shared<'a, u8>,  // (BATCHES, group)(GROUP_BYTES)
    pub hidden: Shared<'a, f32>, // (member)(2 batches, group, its vectors, ROOM, lanes)
    pub parts: Shared<'a, f32>,  // (2 batches, block, group, 10, GROUP)
}

/// What a member has to itself for a run: copies, as a CPU fetches ahead what lies behind the data that
/// it works on, and would take another member's from its core.
struct Own {
    b1: Buffer<f32>,       // (its vectors, lanes)
    w2: Buffer<f32>,       // (its vectors, 10, lanes)
    b2: [f32; CLASSES],    // updated by every member alike
    gradient: Buffer<f32>, // of the logits, (group, 10, GROUP)
}

/// Training steps over an order of samples.
pub(super) struct Train<'a> {
    pub member: &'a Member<'a>,
    pub layout: &'a Layout,
    pub memory: Memory<'a>,
    pub data: &'a Split,
    pub batch_size: usize,
    pub learning_rate: f32,
    pub order: &'a [u32],
    pub plan: Plan,
    pub step_loss: Shared<'a, f32>, // (steps)
    /// Counts the pairs of pixels that were computed, once for all hidden units.
    pub pairs: &'a AtomicU64,
}

impl Train<'_> {
    fn steps(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    /// The samples of a step; none after the last.
    fn batch(&self, step: usize) -> &[u32] {
        let start = (step * self.batch_size).min(self.order.len());
        let end = (start + self.batch_size).min(self.order.len());
        &self.order[start..end]
    }

    fn pixels(&self, step: usize, group: usize) -> *mut u8 {
        let batch = step % BATCHES * self.layout.groups;
        self.memory.pixels.as_ptr().wrapping_add((batch + group) * GROUP_BYTES)
    }

    /// (group, vector, ROOM, lanes) from this vector on, one of this member's.
    fn hidden(&self, step: usize, vector: usize) -> *mut f32 {
        let (layout, member) = (self.layout, self.member.index());
        let batch = layout.hidden_start(member) + step % 2 * layout.hidden_len(member);
        let within = (vector - layout.share(member).start) * ROOM * layout.lanes;
        self.memory.hidden.as_ptr().wrapping_add(batch + within)
    }

    fn parts(&self, step: usize) -> *mut f32 {
        self.memory.parts.as_ptr().wrapping_add(step % 2 * self.layout.logits_len())
    }

    /// Floats between groups in [`Train::hidden`].
    fn hidden_stride(&self) -> usize {
        self.layout.share(self.member.index()).len() * ROOM * self.layout.lanes
    }

    /// Where in `b1` this member's part lies, and in `w2`.
    fn own_ranges(&self) -> [Range<usize>; 2] {
        let Range { start, end } = self.layout.share(self.member.index());
        [1, CLASSES].map(|rows| {
            let vector = rows * self.layout.lanes;
            start * vector..end * vector
        })
    }

    /// # Safety
    /// Nobody writes to the weights now.
    unsafe fn copies(&self) -> Own {
        let [b1, w2] = self.own_ranges();
        let mut b2 = [0.0; CLASSES];
        // SAFETY: says the caller.
        unsafe {
            b2.copy_from_slice(self.memory.b2.slice(0..CLASSES));
            Own {
                b1: Buffer::from(self.memory.b1.slice(b1)),
                w2: Buffer::from(self.memory.w2.slice(w2)),
                b2,
                gradient: Buffer::zeroed(self.layout.groups * CLASSES * GROUP),
            }
        }
    }

    /// # Safety
    /// Every member has its copies.
    unsafe fn copy_back(&self, own: &Own) {
        let [b1, w2] = self.own_ranges();
        // SAFETY: each member's own parts, and the last bias by one; nobody reads them now.
        unsafe {
            self.memory.b1.slice_mut(b1).copy_from_slice(&own.b1);
            self.memory.w2.slice_mut(w2).copy_from_slice(&own.w2);
            if self.member.index() == 0 {
                self.memory.b2.slice_mut(0..CLASSES).copy_from_slice(&own.b2);
            }
        }
    }

    /// Turns this member's part of a step's images and asks for those of the next.
    #[inline(always)]
    fn prepare<S: Simd>(&self, simd: S, step: usize) {
        let squares = self.member.share(SQUARES);
        for (group, samples) in self.batch(step).chunks(GROUP).enumerate() {
            // SAFETY: a group of the buffer; other members turn other squares, and nobody reads
            // this batch, or has yet to read another in its place, before the next barrier.
            unsafe {
                let group = self.pixels(step, group);
                let indices = samples.iter().map(|&sample| sample as usize);
                batch::turn(simd, self.data.images(), indices, squares.clone(), group);
                if squares.start == 0 {
                    batch::label(self.data.labels(), samples, group);
                }
            }
        }
        batch::prefetch(simd, self.data, self.batch(step + 1), squares);
    }

    /// First-layer passes of a tile: updates from one step's batch, then the sums of the next.
    /// Returns how many pairs of pixels the next one's samples have that were not skipped.
    #[inline(always)]
    fn first_layer<S: Simd>(
        &self,
        simd: S,
        tile: &Tile,
        update: Option<usize>,
        forward: usize,
    ) -> u64 {
        let samples = |step: usize, group: usize| Samples {
            pixels: self.pixels(step, group),
            values: self
                .hidden(step, tile.vectors.start)
                .wrapping_add(group * self.hidden_stride()),
            count: (self.batch(step).len() - group * GROUP).min(GROUP),
        };
        let mut pairs = 0;
        let groups = |step| self.batch(step).len().div_ceil(GROUP);
        let weights = self.memory.w1.as_ptr().wrapping_add(self.layout.w1_offset(tile));
        let (vectors, plan) = (tile.vectors.len(), self.plan);
        let updates = update.map_or(0, groups);
        let forwards = groups(forward);
        for group in 0..forwards {
            let start = samples(forward, group).values;
            let len = vectors * ROOM * S::LANES;
            // SAFETY: this member's hidden values.
            unsafe { std::slice::from_raw_parts_mut(start, len).fill(0.0) };
        }
        // The last update and the first forward share one pass over the weights.
        for index in 0..(updates + forwards).saturating_sub(usize::from(updates.min(forwards) > 0))
        {
            let update = update.filter(|_| index < updates).map(|step| samples(step, index));
            let first = updates.saturating_sub(usize::from(forwards > 0));
            let next = self.pixels(forward + 1, index.saturating_sub(first));
            let forward = (index >= first).then(|| samples(forward, index - first));
            let pass = Pass { weights, vectors, update, forward, next, plan };
            // SAFETY: this member's weights and values; the pixels are not written to now.
            pairs += unsafe { pass.run(simd) };
        }
        pairs
    }

    /// The hidden values and this member's parts of the logits, from the first layer's sums.
    #[inline(always)]
    fn finish_forward<S: Simd>(&self, simd: S, own: &Own, step: usize) {
        let layout = self.layout;
        let first = layout.share(self.member.index()).start;
        for block in self.member.share(layout.blocks) {
            let vectors = layout.block(block);
            for (group, samples) in self.batch(step).chunks(GROUP).enumerate() {
                let values =
                    self.hidden(step, vectors.start).wrapping_add(group * self.hidden_stride());
                let part = (block * layout.groups + group) * CLASSES * GROUP;
                // SAFETY: this member's values and parts.
                unsafe {
                    let within = (vectors.start - first) * S::LANES;
                    let bias = own.b1.as_ptr().add(within);
                    let weights = own.w2.as_ptr().add(within * CLASSES);
                    activate(simd, values, bias, vectors.len(), samples.len());
                    let part = self.parts(step).add(part);
                    logits(simd, values, weights, vectors.len(), samples.len(), part);
                }
            }
        }
    }

    /// Loss and gradient of a step's logits, which every member computes for itself rather than
    /// wait for another. Returns the mean loss.
    #[inline(always)]
    fn loss_gradient<S: Simd>(&self, simd: S, step: usize, own: &mut Own) -> f32 {
        let layout = self.layout;
        let gradient = own.gradient.as_mut_ptr();
        let count = self.batch(step).len();
        let scale = -self.learning_rate / count as f32;
        let mut loss = 0.0f64;
        let mut bias_gradient = [simd.splat(0.0); CLASSES];
        for (group, samples) in self.batch(step).chunks(GROUP).enumerate() {
            let mut product = 1.0f64; // at most 10^32: one logarithm for all
            for first in (0..samples.len()).step_by(S::LANES) {
                // SAFETY: the parts were written before the barrier, the labels too.
                unsafe {
                    let parts = self.parts(step).add(group * CLASSES * GROUP);
                    let stride = layout.groups * CLASSES * GROUP;
                    let logits = sum_logits(simd, parts, stride, layout.blocks, &own.b2, first);
                    let labels = simd.load_bytes(self.pixels(step, group).add(LABELS + first));
                    let (d, plain, inside_log) = softmax_gradient(simd, &logits, labels, scale);
                    for class in 0..CLASSES {
                        let place = gradient.add((group * CLASSES + class) * GROUP + first);
                        simd.store(place, d[class]);
                        bias_gradient[class] = simd.add(bias_gradient[class], d[class]);
                    }
                    if self.member.index() == 0 {
                        let mut factors = [1.0f32; MAX_LANES];
                        simd.store(factors.as_mut_ptr(), inside_log);
                        for factor in factors {
                            product *= f64::from(factor);
                        }
                        loss += f64::from(simd.sum(plain));
                    }
                }
            }
            if self.member.index() == 0 {
                loss += product.ln();
            }
        }
        for (bias, &d) in own.b2.iter_mut().zip(&bias_gradient) {
            *bias += simd.sum(d);
        }
        (loss / count as f64) as f32
    }
}

impl Kernel for Train<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (layout, member) = (self.layout, self.member);
        let steps = self.steps();
        if steps == 0 {
            return;
        }
        let tiles = &layout.tiles[member.index()];
        // SAFETY: nobody writes before the last barrier.
        let mut own = unsafe { self.copies() };
        let first = layout.share(member.index()).start;

        self.prepare(simd, 0);
        member.barrier();
        let mut pairs = 0;
        for tile in tiles {
            let computed = self.first_layer(simd, tile, None, 0);
            pairs += if tile.vectors.start == 0 { computed } else { 0 };
        }
        self.finish_forward(simd, &own, 0);
        self.prepare(simd, 1);
        self.prepare(simd, 2);
        member.barrier();
        for step in 0..steps {
            let loss = self.loss_gradient(simd, step, &mut own);
            if member.index() == 0 {
                // SAFETY: only this member writes losses, one per step.
                unsafe { self.step_loss.slice_mut(step..step + 1)[0] = loss };
            }
            for tile in tiles {
                for vector in tile.vectors.clone() {
                    let within = (vector - first) * S::LANES;
                    // SAFETY: this member's vectors.
                    unsafe {
                        backward(
                            simd,
                            self.batch(step).len(),
                            self.hidden(step, vector),
                            self.hidden_stride(),
                            own.gradient.as_ptr(),
                            own.w2.as_mut_ptr().add(within * CLASSES),
                            own.b1.as_mut_ptr().add(within),
                        );
                    }
                }
                let computed = self.first_layer(simd, tile, Some(step), step + 1);
                pairs += if tile.vectors.start == 0 { computed } else { 0 };
            }
            self.finish_forward(simd, &own, step + 1);
            let arrival = member.arrive();
            self.prepare(simd, step + 3);
            member.wait(arrival);
        }
        self.pairs.fetch_add(pairs, Ordering::Relaxed);
        // SAFETY: they were made before the first barrier.
        unsafe { self.copy_back(&own) };
    }
}
