//! What every model needs on the device: the data, the order, the losses, and the kernels that
//! average the losses and choose the labels.

use crate::driver::{Address, Buffer, Gpu, Plain};
use crate::kernel::{Kernel, Module, Ptx, Shape};
use mnist::{CLASSES, PIXELS};
use nn::backend::{Job, TrainError};
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "epoch.ptx", packed: include_bytes!("../ptx/epoch.ptx.gz") };

/// `Progress` of `kernels/device.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) next: u32,
    pub(crate) current: u32,
    pub(crate) samples: u32,
    pub(crate) learning_rate: f32,
}

// SAFETY: four words.
unsafe impl Plain for Progress {}

/// What a run of steps goes over: everything that the steps read or write beside parameters.
pub(crate) struct Resident {
    pub(crate) images: Buffer<u8>,       // (count, 784)
    pub(crate) labels: Buffer<u8>,       // (count)
    pub(crate) order: Buffer<u32>,       // (capacity)
    pub(crate) sample_loss: Buffer<f32>, // (capacity)
    pub(crate) step_loss: Buffer<f32>,   // (capacity / batch)
    pub(crate) progress: Buffer<Progress>,
    /// Samples of one run, a multiple of the batch size: an epoch.
    pub(crate) capacity: usize,
    pub(crate) batch: usize,
    pub(crate) learning_rate: f32,
}

impl Resident {
    pub(crate) fn new(gpu: &Rc<Gpu>, job: &Job<'_>) -> Result<Resident, TrainError> {
        let (batch, count) = (job.batch_size, job.train.len());
        let capacity = count.div_ceil(batch).max(1) * batch;
        if u32::try_from(capacity).is_err() {
            let message = format!("{count} samples in batches of {batch} are too many to count");
            return Err(TrainError::Mismatch(message));
        }
        Ok(Resident {
            images: gpu.upload("the images", job.train.images())?,
            labels: gpu.upload("the labels", job.train.labels())?,
            order: gpu.allocate("the order of the samples", capacity)?,
            sample_loss: gpu.allocate("the losses", capacity)?,
            step_loss: gpu.allocate("the losses", capacity / batch)?,
            progress: gpu.allocate("the progress", 1)?,
            capacity,
            batch,
            learning_rate: job.learning_rate,
        })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MeanLosses {
    sample_loss: Address,
    step_loss: Address,
    samples: u32,
    batch: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Classify {
    features: Address,
    weight: Address,
    bias: Address,
    labels: Address,
    samples: u32,
    width: u32,
}

/// A linear layer with ten outputs, in the canonical layout on the device.
pub(crate) struct OutputLayer {
    pub(crate) weight: Address, // (10, width)
    pub(crate) bias: Address,   // (10)
    pub(crate) width: usize,
}

/// The kernels of `kernels/epoch.cu`.
pub(crate) struct EpochKernels {
    mean_losses: Kernel,
    classify: Kernel,
}

/// Threads of their blocks: one warp per step or sample.
const THREADS: usize = 256;
const WARP: usize = 32;

impl EpochKernels {
    pub(crate) fn new(gpu: &Rc<Gpu>) -> Result<EpochKernels, TrainError> {
        let module: Rc<Module> = Rc::new(gpu.load(&PTX)?);
        Ok(EpochKernels {
            mean_losses: module.kernel("mean_losses", 0)?,
            classify: module.kernel("classify", 0)?,
        })
    }

    /// `step_loss` = the mean of `sample_loss` over each step of the first `samples`.
    pub(crate) fn mean_losses(
        &self,
        resident: &Resident,
        samples: usize,
    ) -> Result<(), TrainError> {
        assert!(samples <= resident.capacity);
        let steps = samples.div_ceil(resident.batch);
        let arguments = MeanLosses {
            sample_loss: resident.sample_loss.address(),
            step_loss: resident.step_loss.address(),
            samples: samples as u32,
            batch: resident.batch as u32,
        };
        let shape = Shape::row((steps * WARP).div_ceil(THREADS), THREADS as u32);
        // SAFETY: both buffers have `capacity` samples' worth, checked.
        unsafe { self.mean_losses.launch(shape, &arguments) }
    }

    /// `labels` = the first of the largest outputs of `layer`, for each of `samples` rows of
    /// `features`: (samples, width).
    pub(crate) fn classify(
        &self,
        features: &Buffer<f32>,
        layer: &OutputLayer,
        labels: &Buffer<u8>,
        samples: usize,
    ) -> Result<(), TrainError> {
        assert!(samples * layer.width <= features.len() && samples <= labels.len());
        let arguments = Classify {
            features: features.address(),
            weight: layer.weight,
            bias: layer.bias,
            labels: labels.address(),
            samples: samples as u32,
            width: layer.width as u32,
        };
        let shape = Shape::row((samples * WARP).div_ceil(THREADS), THREADS as u32);
        // SAFETY: sizes are checked; an output layer's addresses are those of a model's parameters.
        unsafe { self.classify.launch(shape, &arguments) }
    }
}

/// Images to be predicted, a chunk at a time.
pub(crate) struct Chunk {
    pub(crate) images: Buffer<u8>,    // (CHUNK, 784)
    pub(crate) labels: Buffer<u8>,    // (CHUNK)
    pub(crate) features: Buffer<f32>, // (CHUNK, width)
    pub(crate) progress: Buffer<Progress>,
}

impl Chunk {
    /// Images that are predicted at a time: enough to fill any device, 8 MB of features for an MLP
    /// with 1024 hidden units.
    pub(crate) const IMAGES: usize = 2048;

    pub(crate) fn new(gpu: &Rc<Gpu>, width: usize) -> Result<Chunk, TrainError> {
        Ok(Chunk {
            images: gpu.allocate("images to predict", Chunk::IMAGES * PIXELS)?,
            labels: gpu.allocate("predicted labels", Chunk::IMAGES)?,
            features: gpu.allocate("features to predict from", Chunk::IMAGES * width)?,
            progress: gpu.allocate("the progress", 1)?,
        })
    }

    /// Uploads up to [`Chunk::IMAGES`] images as one batch.
    pub(crate) fn fill(&self, images: &[u8]) -> Result<(), TrainError> {
        let samples = (images.len() / PIXELS) as u32;
        self.images.write(images)?;
        self.progress.write(&[Progress { samples, ..Progress::default() }])
    }
}

/// Where the parameters of a model are on the device, canonical layout.
pub(crate) fn output_layer(parameters: &Buffer<f32>, width: usize) -> OutputLayer {
    // In every model the last tensors are the output layer's weight and bias.
    let bias = parameters.len() - CLASSES;
    let weight = bias - CLASSES * width;
    OutputLayer { weight: parameters.address_of(weight), bias: parameters.address_of(bias), width }
}
