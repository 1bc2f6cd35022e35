//! Launches `attention.wgsl`.

use crate::bindings::{Bindings, Resident};
use crate::gpu::Gpu;
use crate::layout::{Layout, Padded};
use crate::network::{Batch, Network, Run};
use mnist::CLASSES;
use nn::backend::{Job, TrainError, Unavailable};
use nn::{AttentionShape, Model, PATCH, PATCHES};
use std::fmt::Write;
use std::ops::Range;

const PRELUDE: &str = include_str!("prelude.wgsl");
const SHADER: &str = include_str!("attention.wgsl");

/// Widths are padded to a multiple of this.
const CHUNK: usize = 32;
/// The largest widths for which the vectors of a mean token fit workgroup memory.
pub(crate) const MAX_D_MODEL: usize = 128;
pub(crate) const MAX_FF: usize = 256;
/// Workgroups of `differentiate` at most: more than any GPU runs at a time, and few enough that
/// their gradients fit a buffer at the largest widths.
const MAX_GROUPS: usize = 128;
/// Quads of parameters in a workgroup of `update`.
const UPDATE_QUADS: usize = 28;

pub(crate) struct AttentionNetwork {
    bindings: Bindings,
    differentiate: wgpu::ComputePipeline,
    update: wgpu::ComputePipeline,
    predict: wgpu::ComputePipeline,
    parameters: wgpu::Buffer,
    layout: Layout,
    groups: u32,
    update_groups: u32,
    batch_size: usize,
    shape: AttentionShape,
}

impl AttentionNetwork {
    pub(crate) fn new(
        gpu: &Gpu,
        resident: &Resident,
        job: &Job<'_>,
        shape: AttentionShape,
    ) -> Result<AttentionNetwork, TrainError> {
        if shape.d_model > MAX_D_MODEL || shape.ff > MAX_FF {
            let reason = format!("wgpu trains d_model up to {MAX_D_MODEL} and ff up to {MAX_FF}");
            return Err(Unavailable(reason).into());
        }
        let layout = Layout::padded(&tensors(shape).map(|(_, tensor)| tensor).collect::<Vec<_>>());
        let quads = layout.len() / 4;
        let groups = job.batch_size.min(MAX_GROUPS);
        let bytes = |quads: usize| 16 * quads as u64;
        let parameters = gpu.storage("the parameters", bytes(quads))?;
        // A quad more: the loss.
        let gradients = gpu.storage("the gradients of a batch", bytes(groups * (quads + 1)))?;
        let bindings = Bindings::new(gpu, resident, &[&parameters, &gradients])?;
        let module = gpu.module("attention", &shader(shape, gpu.software));
        let pipeline = |entry| gpu.pipeline(&bindings.layout, &module, entry, &[]);
        Ok(AttentionNetwork {
            differentiate: pipeline("differentiate")?,
            update: pipeline("update")?,
            predict: pipeline("predict")?,
            bindings,
            parameters,
            layout,
            groups: groups as u32, // at most MAX_GROUPS
            update_groups: (quads + 1).div_ceil(UPDATE_QUADS) as u32,
            batch_size: job.batch_size,
            shape,
        })
    }

    fn step(&self, pass: &mut wgpu::ComputePass<'_>, batch: Batch, index: usize, rate: f32) {
        assert!(batch.count as usize <= self.batch_size, "a larger batch");
        let rate = rate / batch.count.max(1) as f32;
        let step = [batch.first, batch.count, index as u32, rate.to_bits(), CHUNK as u32 / 4];
        pass.set_pipeline(&self.differentiate);
        pass.set_immediates(0, bytemuck::cast_slice(&step));
        pass.dispatch_workgroups(self.groups.min(batch.count.max(1)), 1, 1);
        pass.set_pipeline(&self.update);
        pass.set_immediates(0, bytemuck::cast_slice(&step));
        pass.dispatch_workgroups(self.update_groups, 1, 1);
    }
}

/// The tensors in canonical order, by the names of their constants in the shader.
fn tensors(shape: AttentionShape) -> impl Iterator<Item = (String, Padded)> {
    Model::Attention(shape).tensors().into_iter().map(move |tensor| {
        let chunks = |width: usize| width.next_multiple_of(CHUNK);
        let (shape, padded) = match (tensor.name, &tensor.shape[..]) {
            ("out.bias", &[classes]) => ([1, classes], [1, classes.next_multiple_of(4)]),
            (_, &[width]) => ([1, width], [1, chunks(width)]),
            ("patch.weight", &[rows, pixels]) => ([rows, pixels], [chunks(rows), pixels]),
            ("out.weight" | "position", &[rows, width]) => ([rows, width], [rows, chunks(width)]),
            (_, &[rows, width]) => ([rows, width], [chunks(rows), chunks(width)]),
            _ => unreachable!("{} is neither a vector nor a matrix", tensor.name),
        };
        let name = tensor.name.replace('.', "_").to_uppercase();
        (name, Padded { shape, padded })
    })
}

/// The shader's text, with its sizes; `rolled` for a software adapter.
pub(crate) fn shader(shape: AttentionShape, rolled: bool) -> String {
    let mut text = PRELUDE.to_owned();
    let mut size = |name: &str, value: usize| {
        let _ = writeln!(text, "const {name}: u32 = {value}u;"); // never fails
    };
    size("D_CHUNKS", shape.d_model.div_ceil(CHUNK));
    size("F_CHUNKS", shape.ff.div_ceil(CHUNK));
    size("GROUPS", MAX_GROUPS);
    let mut at = 0;
    for (name, tensor) in tensors(shape) {
        size(&name, at / 4);
        at += tensor.len();
    }
    size("QUADS", at / 4);
    let _ = writeln!(text, "const ROOT: f32 = {:?};", (shape.d_model as f32).sqrt());
    let _ = writeln!(text, "const ROLLED: bool = {rolled};");
    text.push_str(SHADER);
    text
}

impl Network for AttentionNetwork {
    fn parameters(&self) -> &wgpu::Buffer {
        &self.parameters
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn path(&self) -> String {
        "2 dispatches per step: all of a sample in a workgroup, then the update".to_owned()
    }

    fn executed_flop_per_sample(&self) -> Option<f64> {
        let AttentionShape { d_model: d, ff } = self.shape;
        // ff2 and out once per sample; the rest for each token, pairs with each other one.
        let per_token = 2 * PATCH * d + 9 * d * d + 6 * PATCHES * d + 3 * d * ff;
        Some(2.0 * (PATCHES * per_token + 3 * d * (ff + CLASSES)) as f64)
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
        pass.set_immediates(0, bytemuck::cast_slice(&[0, count as u32, 0, 0, CHUNK as u32 / 4]));
        pass.dispatch_workgroups(count as u32, 1, 1);
    }
}
