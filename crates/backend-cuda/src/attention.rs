//! Launchers of `kernels/attention.cu`: the attention model in two launches per step, any widths.

use crate::driver::{Address, Buffer};
use crate::epoch::Chunk;
use crate::kernel::{Kernel, Ptx, Shape};
use crate::plan::{Place, StepKernels};
use mnist::{CLASSES, PIXELS};
use nn::backend::TrainError;
use nn::{AttentionShape, Model, PATCH, PATCHES};
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "attention.ptx", packed: include_bytes!("../ptx/attention.ptx.gz") };

// As the kernels have them.
const PADDED_TOKENS: usize = 52;
pub(crate) const THREADS: usize = 20 * 32;
const UPDATE_THREADS: usize = 256;
const STRIPS: usize = 13;
const CLASS_STRIDE: usize = 12;

fn fours(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn stride(width: usize) -> usize {
    4 * (width.div_ceil(4) | 1)
}

/// Elements of the parameters in an arena, and of a sample's gradient, which lies as they do:
/// `Layout::gradient` of `kernels/attention.cuh`.
pub(crate) fn gradient_len(AttentionShape { d_model, ff }: AttentionShape) -> usize {
    let (d, f) = (stride(d_model), stride(ff));
    let linear = |rows: usize, stride: usize| fours(rows * stride) + fours(rows);
    linear(d_model, stride(PATCH))
        + fours(PATCHES * d)
        + 3 * linear(d_model, d)
        + linear(ff, d)
        + linear(d_model, f)
        + linear(CLASSES, d)
}

/// Elements of an arena: `Layout::size`.
pub(crate) fn arena_len(shape: AttentionShape) -> usize {
    let AttentionShape { d_model, ff } = shape;
    let tokens = |width: usize| PADDED_TOKENS * stride(width);
    let activations = tokens(PATCH) + 10 * tokens(d_model) + 2 * tokens(PADDED_TOKENS) + tokens(ff);
    let vectors = fours(STRIPS * ff) + 2 * fours(ff) + 2 * fours(d_model) + 2 * CLASS_STRIDE;
    gradient_len(shape) + activations + vectors
}

/// `AttentionStep` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionStep {
    images: Address,
    labels: Address,
    order: Address,
    progress: Address,
    parameters: Address,
    gradients: Address,
    arenas: Address,
    features: Address,
    sample_loss: Address,
    batch: u32,
    d_model: u32,
    ff: u32,
    parameter_count: u32,
}

pub(crate) struct AttentionKernels {
    sample: Kernel,
    features: Kernel,
    update: Kernel,
    step: AttentionStep,
    shape: AttentionShape,
    batch: usize,
    /// Blocks that may work at a time: arenas, if they are in global memory.
    workers: usize,
    // Owned for `step`'s addresses.
    _gradients: Buffer<f32>,
    _arenas: Option<Buffer<f32>>,
}

impl AttentionKernels {
    pub(crate) fn new(
        place: &Place<'_>,
        shape: AttentionShape,
    ) -> Result<AttentionKernels, TrainError> {
        let (gpu, resident) = (place.gpu, place.resident);
        let batch = resident.batch;
        let parameter_count = Model::Attention(shape).parameter_count();
        let module = Rc::new(gpu.load(&PTX)?);
        let gradients: Buffer<f32> = gpu.allocate("gradients", batch * gradient_len(shape))?;
        let workers = batch.max(gpu.device().multiprocessors);
        let len = arena_len(shape);
        let in_shared = len * size_of::<f32>() <= gpu.device().shared_bytes;
        let arenas: Option<Buffer<f32>> = match in_shared {
            true => None,
            false => Some(gpu.allocate("activations", workers * len)?),
        };
        let shared_bytes = if in_shared { len * size_of::<f32>() } else { 0 };
        let step = AttentionStep {
            images: resident.images.address(),
            labels: resident.labels.address(),
            order: resident.order.address(),
            progress: resident.progress.address(),
            parameters: place.parameters,
            gradients: gradients.address(),
            arenas: arenas.as_ref().map_or(0, Buffer::address),
            features: 0,
            sample_loss: resident.sample_loss.address(),
            batch: batch as u32,
            d_model: shape.d_model as u32,
            ff: shape.ff as u32,
            parameter_count: parameter_count as u32,
        };
        Ok(AttentionKernels {
            sample: module.kernel("attention_sample", shared_bytes)?,
            features: module.kernel("attention_features", shared_bytes)?,
            update: module.kernel("attention_update", 0)?,
            step,
            shape,
            batch,
            workers,
            _gradients: gradients,
            _arenas: arenas,
        })
    }
}

impl StepKernels for AttentionKernels {
    fn enqueue_step(&self) -> Result<(), TrainError> {
        let blocks = (self.step.parameter_count as usize).div_ceil(UPDATE_THREADS);
        // SAFETY: gradients and arenas are as many as the batch, the data as `Resident` makes it,
        // and the order's indices were checked.
        unsafe {
            self.sample.launch(Shape::row(self.batch, THREADS as u32), &self.step)?;
            self.update.launch(Shape::row(blocks, UPDATE_THREADS as u32), &self.step)
        }
    }

    fn feature_width(&self) -> usize {
        self.shape.d_model
    }

    fn enqueue_features(&self, chunk: &Chunk, samples: usize) -> Result<(), TrainError> {
        assert!(samples * PIXELS <= chunk.images.len());
        assert!(samples * self.shape.d_model <= chunk.features.len());
        let step = AttentionStep {
            images: chunk.images.address(),
            order: 0,
            progress: chunk.progress.address(),
            features: chunk.features.address(),
            ..self.step
        };
        let blocks = samples.min(self.workers);
        // SAFETY: sizes are checked; there are as many arenas as blocks.
        unsafe { self.features.launch(Shape::row(blocks, THREADS as u32), &step) }
    }

    fn launches(&self) -> usize {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_of_the_usual_widths_is_what_the_kernels_take_it_to_be() {
        // `kernels/attention_fused.cu` asserts the same numbers.
        let usual = AttentionShape { d_model: 32, ff: 64 };
        assert_eq!((arena_len(usual), gradient_len(usual)), (40_688, 10_936));
    }
}
