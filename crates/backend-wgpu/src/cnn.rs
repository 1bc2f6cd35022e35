//! Launches `cnn.wgsl`.

use crate::bindings::{Bindings, Resident};
use crate::gpu::Gpu;
use crate::layout::Layout;
use crate::network::{Batch, Network, Run};
use mnist::CLASSES;
use nn::backend::{Job, TrainError};
use nn::{CONV_FILTERS, POOLED};
use std::ops::Range;

/// The shader's text.
pub(crate) const SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("cnn.wgsl"));

/// Weights and biases of conv, first on the device.
const CONV: usize = 10 * CONV_FILTERS;
/// Places of a pooled image.
const PLACES: usize = POOLED / CONV_FILTERS;
/// Values that `differentiate` leaves of each sample, beside what it pooled.
const SAMPLE: usize = 96;
/// Workgroups of `update`: a filter and four classes each, and one for all the rest.
const UPDATE_GROUPS: u32 = 25;

pub(crate) struct CnnNetwork {
    bindings: Bindings,
    differentiate: wgpu::ComputePipeline,
    update: wgpu::ComputePipeline,
    predict: wgpu::ComputePipeline,
    parameters: wgpu::Buffer,
    layout: Layout,
    batch_size: usize,
}

impl CnnNetwork {
    pub(crate) fn new(
        gpu: &Gpu,
        resident: &Resident,
        job: &Job<'_>,
    ) -> Result<CnnNetwork, TrainError> {
        let layout = layout();
        let batch_size = job.batch_size;
        let floats = |count: usize| 4 * count as u64;
        let parameters = gpu.storage("the parameters", floats(layout.len()))?;
        // No batch that fits has more samples than a dispatch may have workgroups.
        let pooled = gpu.storage("the pooled images of a batch", floats(batch_size * POOLED))?;
        let samples = gpu.storage("the gradients of a batch", floats(batch_size * SAMPLE))?;
        let bindings = Bindings::new(gpu, resident, &[&parameters, &pooled, &samples])?;
        let module = gpu.module("cnn", SHADER);
        let pipeline = |entry| gpu.pipeline(&bindings.layout, &module, entry, &[]);
        Ok(CnnNetwork {
            differentiate: pipeline("differentiate")?,
            update: pipeline("update")?,
            predict: pipeline("predict")?,
            bindings,
            parameters,
            layout,
            batch_size,
        })
    }

    fn step(&self, pass: &mut wgpu::ComputePass<'_>, batch: Batch, index: usize, rate: f32) {
        assert!(batch.count as usize <= self.batch_size, "a larger batch");
        let rate = rate / batch.count.max(1) as f32;
        let step = [batch.first, batch.count, index as u32, rate.to_bits()];
        pass.set_pipeline(&self.differentiate);
        pass.set_immediates(0, bytemuck::cast_slice(&step));
        pass.dispatch_workgroups(batch.count.max(1), 1, 1);
        pass.set_pipeline(&self.update);
        pass.set_immediates(0, bytemuck::cast_slice(&step));
        pass.dispatch_workgroups(UPDATE_GROUPS, 1, 1);
    }
}

/// conv as it is, then fc.weight as (filter, three quads of classes, place, four classes), fc.bias.
fn layout() -> Layout {
    let weight = (0..CLASSES * POOLED).map(|element| {
        let (class, column) = (element / POOLED, element % POOLED);
        let (filter, place) = (column / PLACES, column % PLACES);
        CONV + ((filter * 3 + class / 4) * PLACES + place) * 4 + class % 4
    });
    let bias = CONV + POOLED * 12;
    let places = (0..CONV).chain(weight).chain(bias..bias + CLASSES).collect();
    Layout::new(places, bias + 12)
}

impl Network for CnnNetwork {
    fn parameters(&self) -> &wgpu::Buffer {
        &self.parameters
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn path(&self) -> String {
        "2 dispatches per step: all of a sample in a workgroup, then the update".to_owned()
    }

    fn warm_up(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.bindings.train(pass, 0);
        self.step(pass, Batch::default(), 0, 0.0);
    }

    fn train(&self, pass: &mut wgpu::ComputePass<'_>, run: &Run, marks: Range<usize>) {
        self.bindings.train(pass, run.samples);
        for index in marks.start..marks.end.min(run.steps()) {
            self.step(pass, run.batch(index), index, run.learning_rate);
        }
    }

    fn predict(&self, pass: &mut wgpu::ComputePass<'_>, count: usize) {
        self.bindings.predict(pass, count);
        pass.set_pipeline(&self.predict);
        pass.set_immediates(0, bytemuck::cast_slice(&[0, count as u32, 0, 0]));
        pass.dispatch_workgroups(count as u32, 1, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::{Model, Parameters};

    #[test]
    fn a_weight_of_fc_lies_beside_its_other_classes_and_then_its_neighbours() {
        let mut parameters = Parameters::zeros(Model::Cnn);
        let (class, filter, place) = (6, 2, 100);
        parameters.tensor_mut("fc.weight")[class * POOLED + filter * PLACES + place] = 1.0;
        parameters.tensor_mut("fc.bias")[9] = 2.0;
        let packed = layout().pack(&parameters);
        assert_eq!(packed[80 + ((2 * 3 + 1) * 196 + 100) * 4 + 2], 1.0);
        assert_eq!(packed[4 * 4724 + 9], 2.0, "where the shader has FC_BIAS");
        assert_eq!(packed.len() % 4, 0);
    }
}
