//! Predictions: each member of the team takes whole groups of images.

use super::batch::{GROUP, GROUP_BYTES, ROOM, SQUARES, turn};
use super::first_layer::{Pass, Samples};
use super::layout::Layout;
use super::plan::Plan;
use super::second_layer::{activate, logits};
use crate::buffer::{Buffer, Shared};
use crate::simd::{Kernel, Simd};
use crate::team::Member;
use mnist::{CLASSES, PIXELS};

/// The labels of some images.
pub(super) struct Predict<'a> {
    pub member: &'a Member<'a>,
    pub layout: &'a Layout,
    /// Laid out as in training; only read.
    pub w1: Shared<'a, f32>,
    pub b1: &'a [f32],
    pub w2: &'a [f32],
    pub b2: &'a [f32],
    pub plan: Plan,
    pub images: &'a [u8],       // (count, 784)
    pub labels: Shared<'a, u8>, // (count)
}

impl Kernel for Predict<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Predict { layout, plan, images, .. } = self;
        let count = images.len() / PIXELS;
        let mut pixels = Buffer::<u8>::zeroed(GROUP_BYTES);
        let mut values = Buffer::zeroed(layout.vectors * ROOM * S::LANES);
        let mut sums = Buffer::zeroed(CLASSES * GROUP);
        for group in self.member.share(count.div_ceil(GROUP)) {
            let samples = group * GROUP..count.min((group + 1) * GROUP);
            // SAFETY: the buffer is this thread's and has room for a group.
            unsafe { turn(simd, images, samples.clone(), 0..SQUARES, pixels.as_mut_ptr()) };
            values.fill(0.0);
            for tile in layout.tiles.iter().flatten() {
                let forward = Samples {
                    pixels: pixels.as_ptr(),
                    values: values[tile.vectors.start * ROOM * S::LANES..].as_mut_ptr(),
                    count: samples.len(),
                };
                let weights = self.w1.as_ptr().wrapping_add(layout.w1_offset(tile));
                let pass = Pass {
                    weights,
                    vectors: tile.vectors.len(),
                    update: None,
                    forward: Some(forward),
                    next: forward.pixels,
                    plan,
                };
                // SAFETY: the tile's weights, which all threads only read; this thread's values.
                unsafe { pass.run(simd) };
            }
            // SAFETY: the shapes of all vectors, as one block, and this thread's buffers.
            unsafe {
                let (values, sums) = (values.as_mut_ptr(), sums.as_mut_ptr());
                activate(simd, values, self.b1.as_ptr(), layout.vectors, samples.len());
                logits(simd, values, self.w2.as_ptr(), layout.vectors, samples.len(), sums);
            }
            // SAFETY: groups are disjoint.
            let labels = unsafe { self.labels.slice_mut(samples) };
            for (sample, label) in labels.iter_mut().enumerate() {
                let mut best = f32::NEG_INFINITY;
                *label = 0;
                for class in 0..CLASSES {
                    let logit = self.b2[class] + sums[class * GROUP + sample];
                    if logit > best {
                        (best, *label) = (logit, class as u8);
                    }
                }
            }
        }
    }
}
