//! Launchers of `kernels/cnn.cu`: the CNN in two launches per step.

use crate::driver::{Address, Buffer};
use crate::epoch::Chunk;
use crate::kernel::{Kernel, Ptx, Shape};
use crate::plan::{Place, StepKernels};
use mnist::{CLASSES, PIXELS};
use nn::backend::TrainError;
use nn::{CONV_FILTERS, POOLED};
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "cnn.ptx", packed: include_bytes!("../ptx/cnn.ptx.gz") };

// As the kernels have them.
const CONV: usize = CONV_FILTERS * 10;
const THREADS: u32 = 256;
const UPDATE_THREADS: u32 = 224;
/// The image with its border, pooled values and their deltas, conv, logits and deltas; which of four
/// values was pooled.
const SHARED_BYTES: usize = (30 * 30 + 2 * POOLED + CONV + 2 * 12) * 4 + POOLED;

/// `CnnStep` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct CnnStep {
    images: Address,
    labels: Address,
    order: Address,
    progress: Address,
    parameters: Address,
    pooled: Address,
    logit_delta: Address,
    conv_delta: Address,
    sample_loss: Address,
    batch: u32,
}

pub(crate) struct CnnKernels {
    features: Kernel,
    sample: Kernel,
    update: Kernel,
    step: CnnStep,
    batch: usize,
    // Owned for `step`'s addresses.
    _scratch: [Buffer<f32>; 3],
}

impl CnnKernels {
    pub(crate) fn new(place: &Place<'_>) -> Result<CnnKernels, TrainError> {
        let (gpu, resident) = (place.gpu, place.resident);
        let batch = resident.batch;
        let module = Rc::new(gpu.load(&PTX)?);
        let pooled = gpu.allocate("pooled values", batch * POOLED)?;
        let logit_delta = gpu.allocate("logit deltas", batch * CLASSES)?;
        let conv_delta = gpu.allocate("gradients of the convolution", batch * CONV)?;
        let step = CnnStep {
            images: resident.images.address(),
            labels: resident.labels.address(),
            order: resident.order.address(),
            progress: resident.progress.address(),
            parameters: place.parameters,
            pooled: pooled.address(),
            logit_delta: logit_delta.address(),
            conv_delta: conv_delta.address(),
            sample_loss: resident.sample_loss.address(),
            batch: batch as u32,
        };
        Ok(CnnKernels {
            features: module.kernel("cnn_features", SHARED_BYTES)?,
            sample: module.kernel("cnn_sample", SHARED_BYTES)?,
            update: module.kernel("cnn_update", 0)?,
            step,
            batch,
            _scratch: [pooled, logit_delta, conv_delta],
        })
    }
}

impl StepKernels for CnnKernels {
    fn enqueue_step(&self) -> Result<(), TrainError> {
        let update = Shape {
            grid: [POOLED as u32 / UPDATE_THREADS + 1, CLASSES as u32],
            block: UPDATE_THREADS,
        };
        // SAFETY: the scratch is as large as the batch, the data as `Resident` makes it, and the
        // order's indices were checked.
        unsafe {
            self.sample.launch(Shape::row(self.batch, THREADS), &self.step)?;
            self.update.launch(update, &self.step)
        }
    }

    fn feature_width(&self) -> usize {
        POOLED
    }

    fn enqueue_features(&self, chunk: &Chunk, samples: usize) -> Result<(), TrainError> {
        assert!(samples * PIXELS <= chunk.images.len());
        assert!(samples * POOLED <= chunk.features.len());
        let step = CnnStep {
            images: chunk.images.address(),
            order: 0,
            pooled: chunk.features.address(),
            ..self.step
        };
        // SAFETY: sizes are checked.
        unsafe { self.features.launch(Shape::row(samples, THREADS), &step) }
    }

    fn launches(&self) -> usize {
        2
    }
}
