//! Launchers of `kernels/mlp.cu`: the MLP in three launches per step.

use crate::driver::{Address, Buffer};
use crate::epoch::Chunk;
use crate::kernel::{Kernel, Ptx, Shape};
use crate::plan::{Place, StepKernels};
use mnist::{CLASSES, PIXELS};
use nn::MlpShape;
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "mlp.ptx", packed: include_bytes!("../ptx/mlp.ptx.gz") };

// As the kernels have them.
const UNITS: usize = 4;
const TILE: usize = 32;
const THREADS: usize = 256;
const OUTPUT_THREADS: usize = 128;
/// Weights (784, 4), partial sums (8, 32, 4), pixels (32, 784).
const HIDDEN_SHARED_BYTES: usize = PIXELS * 16 + 8 * TILE * 16 + TILE * PIXELS;
/// Logits (16), deltas (16).
const OUTPUT_SHARED_BYTES: usize = 2 * 16 * 4;
/// Pixels (32, 784), deltas (32, 4).
const UPDATE_SHARED_BYTES: usize = TILE * PIXELS + TILE * 16;

/// `MlpStep` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct MlpStep {
    images: Address,
    labels: Address,
    order: Address,
    progress: Address,
    parameters: Address,
    hidden: Address,
    hidden_delta: Address,
    logit_delta: Address,
    sample_loss: Address,
    batch: u32,
    hidden_units: u32,
}

pub(crate) struct MlpKernels {
    hidden: Kernel,
    output: Kernel,
    update: Kernel,
    step: MlpStep,
    hidden_units: usize,
    batch: usize,
    // Owned for `step`'s addresses.
    _scratch: [Buffer<f32>; 3],
}

impl MlpKernels {
    pub(crate) fn new(place: &Place<'_>, shape: MlpShape) -> Result<MlpKernels, TrainError> {
        let (gpu, resident) = (place.gpu, place.resident);
        let (batch, hidden_units) = (resident.batch, shape.hidden);
        let module = Rc::new(gpu.load(&PTX)?);
        let hidden = gpu.allocate("hidden values", batch * hidden_units)?;
        let hidden_delta = gpu.allocate("hidden deltas", batch * hidden_units)?;
        let logit_delta = gpu.allocate("logit deltas", batch * CLASSES)?;
        let step = MlpStep {
            images: resident.images.address(),
            labels: resident.labels.address(),
            order: resident.order.address(),
            progress: resident.progress.address(),
            parameters: place.parameters,
            hidden: hidden.address(),
            hidden_delta: hidden_delta.address(),
            logit_delta: logit_delta.address(),
            sample_loss: resident.sample_loss.address(),
            batch: batch as u32,
            hidden_units: hidden_units as u32,
        };
        Ok(MlpKernels {
            hidden: module.kernel("mlp_hidden", HIDDEN_SHARED_BYTES)?,
            output: module.kernel("mlp_output", OUTPUT_SHARED_BYTES)?,
            update: module.kernel("mlp_update", UPDATE_SHARED_BYTES)?,
            step,
            hidden_units,
            batch,
            _scratch: [hidden, hidden_delta, logit_delta],
        })
    }

    fn unit_blocks(&self) -> usize {
        self.hidden_units.div_ceil(UNITS)
    }

    fn hidden_shape(&self, batch: usize) -> Shape {
        let grid = [self.unit_blocks() as u32, batch.div_ceil(TILE) as u32];
        Shape { grid, block: THREADS as u32 }
    }
}

impl StepKernels for MlpKernels {
    fn enqueue_step(&self) -> Result<(), TrainError> {
        let output = Shape::row(self.batch, OUTPUT_THREADS as u32);
        let update = Shape::row(self.unit_blocks(), THREADS as u32);
        // SAFETY: the scratch is as large as the batch and the layer, the data as `Resident` makes
        // it, and the order's indices were checked.
        unsafe {
            self.hidden.launch(self.hidden_shape(self.batch), &self.step)?;
            self.output.launch(output, &self.step)?;
            self.update.launch(update, &self.step)
        }
    }

    fn feature_width(&self) -> usize {
        self.hidden_units
    }

    fn enqueue_features(&self, chunk: &Chunk, samples: usize) -> Result<(), TrainError> {
        assert!(samples * PIXELS <= chunk.images.len());
        assert!(samples * self.hidden_units <= chunk.features.len());
        let step = MlpStep {
            images: chunk.images.address(),
            order: 0,
            progress: chunk.progress.address(),
            hidden: chunk.features.address(),
            batch: samples as u32,
            ..self.step
        };
        // SAFETY: sizes are checked.
        unsafe { self.hidden.launch(self.hidden_shape(samples), &step) }
    }

    fn launches(&self) -> usize {
        3
    }
}
