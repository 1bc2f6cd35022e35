//! What kernels read and write: the data on the device, and the one set of bindings that every
//! model's shader has (`prelude.wgsl`, and the model's own buffers).

use crate::gpu::Gpu;
use crate::requirements::IMMEDIATE_BYTES;
use mnist::PIXELS;
use nn::backend::{Job, TrainError};

/// Images of one upload in `predict`.
pub(crate) const PREDICTED_AT_ONCE: usize = 2048;

/// The data on the device, and room for what a run of steps needs and leaves.
pub(crate) struct Resident {
    images: wgpu::Buffer, // (train, 784) bytes
    labels: wgpu::Buffer, // (train) bytes
    /// (`order_capacity`)
    pub(crate) order: wgpu::Buffer,
    /// (steps of `order_capacity`)
    pub(crate) losses: wgpu::Buffer,
    /// Samples that one upload of the order holds: an epoch, in whole steps.
    pub(crate) order_capacity: usize,
    /// ([`PREDICTED_AT_ONCE`], 784) bytes.
    pub(crate) images_to_predict: wgpu::Buffer,
    /// ([`PREDICTED_AT_ONCE`]).
    pub(crate) predicted: wgpu::Buffer,
    as_they_come: wgpu::Buffer, // (PREDICTED_AT_ONCE): 0, 1, 2, ...
}

impl Resident {
    pub(crate) fn new(gpu: &Gpu, job: &Job<'_>) -> Result<Resident, TrainError> {
        let steps = job.train.len().div_ceil(job.batch_size).max(1);
        let order_capacity = steps * job.batch_size;
        let as_they_come: Vec<u32> = (0..PREDICTED_AT_ONCE as u32).collect();
        let words = |count: usize| 4 * count as u64;
        Ok(Resident {
            images: gpu.resident("the training images", job.train.images())?,
            labels: gpu.resident("the training labels", job.train.labels())?,
            order: gpu.storage("the order of an epoch", words(order_capacity))?,
            losses: gpu.storage("the losses of an epoch", words(steps))?,
            order_capacity,
            images_to_predict: gpu
                .storage("the images to predict", (PREDICTED_AT_ONCE * PIXELS) as u64)?,
            predicted: gpu.storage("the predictions", words(PREDICTED_AT_ONCE))?,
            as_they_come: gpu
                .resident("the order to predict in", bytemuck::cast_slice(&as_they_come))?,
        })
    }
}

/// A model's bindings: to the training data, and to images to predict.
pub(crate) struct Bindings {
    pub(crate) layout: wgpu::PipelineLayout,
    training: wgpu::BindGroup,
    prediction: wgpu::BindGroup,
    order_capacity: usize,
}

impl Bindings {
    /// `own` are the model's buffers, bindings 5 and following.
    pub(crate) fn new(
        gpu: &Gpu,
        resident: &Resident,
        own: &[&wgpu::Buffer],
    ) -> Result<Bindings, TrainError> {
        let count = 5 + own.len() as u32;
        let entries: Vec<_> =
            (0..count).map(|binding| storage_entry(binding, binding < 3)).collect();
        let device = &gpu.device;
        let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &entries,
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&group)],
            immediate_size: IMMEDIATE_BYTES,
        });
        let bind = |data: [&wgpu::Buffer; 2]| {
            let [images, order] = data;
            let shared = [images, &resident.labels, order, &resident.losses, &resident.predicted];
            let buffers = shared.into_iter().chain(own.iter().copied());
            let entries: Vec<_> = (0..)
                .zip(buffers)
                .map(|(binding, buffer)| wgpu::BindGroupEntry {
                    binding,
                    resource: buffer.as_entire_binding(),
                })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &group,
                entries: &entries,
            })
        };
        let training = bind([&resident.images, &resident.order]);
        let prediction = bind([&resident.images_to_predict, &resident.as_they_come]);
        gpu.check()?;
        let order_capacity = resident.order_capacity;
        Ok(Bindings { layout, training, prediction, order_capacity })
    }

    /// Binds the training data, for steps over this much of the order.
    ///
    /// # Panics
    /// If the order on the device is shorter.
    pub(crate) fn train(&self, pass: &mut wgpu::ComputePass<'_>, samples: usize) {
        assert!(samples <= self.order_capacity, "{samples} samples in one upload");
        pass.set_bind_group(0, &self.training, &[]);
    }

    /// Binds the images to predict, for this many of them.
    ///
    /// # Panics
    /// If one upload has fewer.
    pub(crate) fn predict(&self, pass: &mut wgpu::ComputePass<'_>, images: usize) {
        assert!(images <= PREDICTED_AT_ONCE, "{images} images in one upload");
        pass.set_bind_group(0, &self.prediction, &[]);
    }
}

fn storage_entry(binding: u32, read_only: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: wgpu::BufferSize::new(16), // checked now and not at every dispatch
        },
        count: None,
    }
}
