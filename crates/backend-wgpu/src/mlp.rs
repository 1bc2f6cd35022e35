//! Launches `mlp.wgsl`.

use crate::bindings::{Bindings, Resident};
use crate::gpu::Gpu;
use crate::layout::{Layout, Padded};
use crate::network::{Batch, Network, Run};
use mnist::{CLASSES, PIXELS};
use nn::MlpShape;
use nn::backend::{Job, TrainError, Unavailable};

/// The shader's text.
pub(crate) const SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("mlp.wgsl"));

/// Hidden units of a workgroup.
const UNITS_PER_GROUP: usize = 8;
/// Samples of a tile.
const TILE: usize = 32;
/// Workgroups that a dispatch can have.
const MAX_GROUPS: usize = 65_535;

pub(crate) struct MlpNetwork {
    bindings: Bindings,
    advance: wgpu::ComputePipeline,
    predict: wgpu::ComputePipeline,
    parameters: wgpu::Buffer,
    layout: Layout,
    groups: u32,
    tiles: u32,
}

impl MlpNetwork {
    pub(crate) fn new(
        gpu: &Gpu,
        resident: &Resident,
        job: &Job<'_>,
        shape: MlpShape,
    ) -> Result<MlpNetwork, TrainError> {
        let hidden = shape.hidden;
        let groups = hidden.div_ceil(UNITS_PER_GROUP);
        if groups > MAX_GROUPS {
            let most = MAX_GROUPS * UNITS_PER_GROUP;
            return Err(Unavailable(format!("wgpu trains at most {most} hidden units")).into());
        }
        let units = groups * UNITS_PER_GROUP;
        let share_groups = groups.next_multiple_of(16);
        let tiles = job.batch_size.div_ceil(TILE);
        let layout = Layout::padded(&[
            Padded { shape: [hidden, PIXELS], padded: [units, PIXELS] },
            Padded { shape: [1, hidden], padded: [1, units] },
            Padded { shape: [CLASSES, hidden], padded: [CLASSES, units] },
            Padded { shape: [1, CLASSES], padded: [1, 12] },
        ]);

        let floats = |count: usize| 4 * count as u64;
        let samples = tiles * TILE;
        let parameters = gpu.storage("the parameters", floats(layout.len()))?;
        let activations = gpu.storage("the activations of a batch", floats(samples * units))?;
        let shares_len = 2 * share_groups * samples * CLASSES;
        let shares = gpu.storage("the partial logits of a batch", floats(shares_len))?;
        let bindings = Bindings::new(gpu, resident, &[&parameters, &activations, &shares])?;

        let module = gpu.module("mlp", SHADER);
        let sizes =
            [("UNITS", units as f64), ("GROUPS", share_groups as f64), ("TILES", tiles as f64)];
        let advance = gpu.pipeline(&bindings.layout, &module, "advance", &sizes)?;
        let predict = gpu.pipeline(&bindings.layout, &module, "predict", &sizes)?;
        let (groups, tiles) = (groups as u32, tiles as u32); // at most 65,535 and 2^27
        Ok(MlpNetwork { bindings, advance, predict, parameters, layout, groups, tiles })
    }

    /// Finishes the step `index` and begins the one after it; either batch may be empty.
    fn advance(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        index: u32,
        [finish, begin]: [Batch; 2],
        learning_rate: f32,
    ) {
        assert!(finish.count.max(begin.count) <= self.tiles * TILE as u32, "a larger batch");
        let rate = learning_rate / finish.count.max(1) as f32;
        let step = [finish.first, finish.count, begin.first, begin.count, index, rate.to_bits()];
        pass.set_immediates(0, bytemuck::cast_slice(&step));
        pass.dispatch_workgroups(self.groups, 1, 1);
    }
}

impl Network for MlpNetwork {
    fn parameters(&self) -> &wgpu::Buffer {
        &self.parameters
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn path(&self) -> String {
        "1 dispatch per step: end of a step and begin of the next fused".to_owned()
    }

    fn warm_up(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.bindings.train(pass, 0);
        pass.set_pipeline(&self.advance);
        self.advance(pass, u32::MAX, [Batch::default(); 2], 0.0);
    }

    fn train(&self, pass: &mut wgpu::ComputePass<'_>, run: &Run, marks: std::ops::Range<usize>) {
        self.bindings.train(pass, run.samples);
        pass.set_pipeline(&self.advance);
        for mark in marks {
            // At mark i step i begins and the one before it is finished.
            let finish = mark.checked_sub(1).map_or(Batch::default(), |index| run.batch(index));
            let index = (mark as u32).wrapping_sub(1);
            self.advance(pass, index, [finish, run.batch(mark)], run.learning_rate);
        }
    }

    fn predict(&self, pass: &mut wgpu::ComputePass<'_>, count: usize) {
        self.bindings.predict(pass, count);
        let run =
            Run { samples: count, batch_size: self.tiles as usize * TILE, learning_rate: 0.0 };
        for batch in (0..run.steps()).map(|index| run.batch(index)) {
            pass.set_pipeline(&self.advance);
            self.advance(pass, u32::MAX, [Batch::default(), batch], 0.0);
            pass.set_pipeline(&self.predict);
            pass.dispatch_workgroups(batch.count.div_ceil(TILE as u32), 1, 1);
        }
    }
}
