//! A model's kernels as the session sees them, and the stretches of the order that it hands to them.

use crate::layout::Layout;
use std::ops::Range;

/// A stretch of the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Consecutive steps over the order that is on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) samples: usize,
    pub(crate) batch_size: usize,
    pub(crate) learning_rate: f32,
}

impl Run {
    pub(crate) fn steps(&self) -> usize {
        self.samples.div_ceil(self.batch_size)
    }

    /// Of a step: empty beyond the last.
    pub(crate) fn batch(&self, step: usize) -> Batch {
        let first = (step * self.batch_size).min(self.samples);
        let count = (self.samples - first).min(self.batch_size);
        Batch { first: first as u32, count: count as u32 } // orders have less than 2^32 samples
    }
}

/// A model's kernels.
pub(crate) trait Network {
    /// The parameters on the device.
    fn parameters(&self) -> &wgpu::Buffer;

    /// How they lie there.
    fn layout(&self) -> &Layout;

    /// A description in a few words.
    fn path(&self) -> String;

    /// Floating-point operations per sample beside the update, where they are fewer than the dense
    /// count.
    fn executed_flop_per_sample(&self) -> Option<f64> {
        None
    }

    /// Records what a step dispatches, over an empty batch: it changes nothing that counts.
    fn warm_up(&self, pass: &mut wgpu::ComputePass<'_>);

    /// Records what is to be done at these marks of a run. Mark i, from 0, is the begin of step i,
    /// and the last mark, `run.steps()`, the end of the last.
    fn train(&self, pass: &mut wgpu::ComputePass<'_>, run: &Run, marks: Range<usize>);

    /// Records the prediction of the first `count` uploaded images.
    fn predict(&self, pass: &mut wgpu::ComputePass<'_>, count: usize);
}
