//! Launchers of `kernels/gpt_weights.cu`: the gradients of all matrices of several layers at once, on Hopper.

use super::memory::{Memory, Sizes};
use crate::cublaslt::Element;
use crate::device::Device;
use crate::driver::{Address, Buffer, Gpu};
use crate::kernel::{Kernel, Ptx, Shape, TensorMap};
use nn::backend::TrainError;
use std::ops::Range;
use std::rc::Rc;

static PTX: Ptx =
    Ptx { name: "gpt_weights.ptx", packed: include_bytes!("../../ptx/gpt_weights.ptx.gz") };

// As the kernels have them.
const DOWN: usize = 128;
const ACROSS: usize = 384;
const EDGE: usize = 64;
const DEPTH: usize = 32;
const STAGES: usize = 7;
const PEERS: usize = 2;
const THREADS: u32 = 384;
const SHARED_BYTES: usize = 2 * STAGES * (DOWN + ACROSS) * DEPTH + 8 * 2 * STAGES + 1024;
const SUM_THREADS: u32 = 256;
const SUM_FOURS: usize = 8;
const SQUARES: usize = 8;

/// The layers whose gradients are found at once when the way back through `layer` is done, if any: all, or, where
/// several devices share a step, the first layer apart, so that the others are sent while the way back goes on through
/// it. Of GPT-2's, the first layer's are sent in less time than the embeddings' sums take.
pub(crate) fn group(sizes: &Sizes, layer: usize) -> Option<Range<usize>> {
    let layers = sizes.shape.layers;
    let last = if sizes.devices == 1 { layers } else { 1 };
    [0..last, last..layers].into_iter().find(|it| it.start == layer && !it.is_empty())
}

/// Whether the kernels are for this device and these sizes.
pub(crate) fn fits(device: &Device, sizes: &Sizes) -> bool {
    device.capability[0] == 9
        && sizes.element == Element::Bf16
        && sizes.rows.is_multiple_of(DEPTH)
        && sizes.shape.width.is_multiple_of(ACROSS)
}

/// The gradient of one matrix in every layer.
#[repr(C)]
#[derive(Clone, Copy)]
struct Product {
    down: TensorMap,
    across: TensorMap,
    result: Address,
    down_step: u32,
    across_step: u32,
    tiles_down: u32,
    tiles_across: u32,
    row_step: u32,
    column_step: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    products: [Product; 4],
    partial: Address,
    squares: Address,
    layer_step: u64,
    pairs: u32,
    depths: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SumParts {
    weights: Arguments,
    clusters: u32,
}

/// Of a layer's matrices.
fn tiles(width: usize) -> usize {
    12 * width * width / (DOWN * ACROSS)
}

/// Matrices of so many columns, one for each layer, so many of them apart.
#[derive(Clone, Copy)]
struct Operand {
    first: Address,
    columns: usize,
    apart: usize,
}

/// The kernels. What they leave unfinished is in the scratch memory: (2 clusters, PEERS, DOWN x ACROSS), float32.
pub(crate) struct WeightGradients {
    gradients: Kernel,
    sum: Kernel,
    squares: Buffer<f32>, // (layers, a layer's tiles, SQUARES): of a cut tile, the last are always 0
    clusters: usize,
}

impl WeightGradients {
    /// None if they are not for this device or these sizes.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        memory: &Memory,
    ) -> Result<Option<WeightGradients>, TrainError> {
        if !fits(gpu.device(), &memory.sizes) {
            return Ok(None);
        }
        let module = Rc::new(gpu.load(&PTX)?);
        let clusters = gpu.device().multiprocessors / PEERS;
        memory.scratch.reserve(2 * clusters * PEERS * DOWN * ACROSS * size_of::<f32>())?;
        Ok(Some(WeightGradients {
            gradients: module.kernel("weight_gradients", SHARED_BYTES)?,
            sum: module.kernel("sum_parts", 0)?,
            squares: gpu.allocate(
                "squares of gradients",
                memory.sizes.shape.layers * tiles(memory.sizes.shape.width) * SQUARES,
            )?,
            clusters,
        }))
    }

    /// Numbers whose sum is that of the squares of all these gradients, after the last launch.
    pub(crate) fn squares(&self) -> &Buffer<f32> {
        &self.squares
    }

    /// The gradients of the matrices of `layers`, from all that the way back through them has left.
    pub(crate) fn enqueue(&self, memory: &Memory, layers: Range<usize>) -> Result<(), TrainError> {
        let (layout, width) = (&memory.sizes.layout, memory.sizes.shape.width);
        let (first, count) = (layers.start, layers.len());
        let operand = |first, columns, apart| Operand { first, columns, apart };
        let normal = |norm| operand(memory.normal.at(norm), width, 2);
        let x_delta = |norm| operand(memory.x_delta(norm), width, 2);
        let up_delta = operand(memory.up_delta(first), 4 * width, 1);
        let qkv_delta = operand(memory.qkv_delta(first), 3 * width, 1);
        let attended = operand(memory.attended.at(first), width, 1);
        let active = operand(memory.active.at(first), 4 * width, 1);
        let own = layout.layers[first];
        let product = |down, across, result| self.product(memory, count, [down, across], result);
        let turned = Product {
            row_step: 1,
            column_step: 4 * width as u32,
            ..product(active, x_delta(2 * first + 2), own.down)?
        };
        let arguments = Arguments {
            products: [
                product(qkv_delta, normal(2 * first), own.qkv)?,
                product(x_delta(2 * first + 1), attended, own.out)?,
                product(up_delta, normal(2 * first + 1), own.up)?,
                turned,
            ],
            partial: memory.scratch.address(),
            squares: self.squares.address_of(first * tiles(width) * SQUARES),
            layer_step: own.range().len() as u64,
            pairs: (count * tiles(width) / PEERS) as u32,
            depths: (memory.sizes.rows / DEPTH) as u32,
        };
        let cut = arguments.pairs as usize % self.clusters;
        let shape = Shape::row(PEERS * self.clusters, THREADS);
        let sum = SumParts { weights: arguments, clusters: self.clusters as u32 };
        let slices = DOWN * ACROSS / (4 * SUM_FOURS * SUM_THREADS as usize);
        let grid = [(PEERS * cut) as u32, slices as u32];
        // SAFETY: buffers of `memory`, for whose sizes the kernels are: see `new`.
        unsafe {
            self.gradients.launch(shape, &arguments)?;
            match cut {
                0 => Ok(()),
                _ => self.sum.launch(Shape { grid, block: SUM_THREADS }, &sum),
            }
        }
    }

    /// The gradient at `result` of the first of `count` layers.
    fn product(
        &self,
        memory: &Memory,
        count: usize,
        [down, across]: [Operand; 2],
        result: usize,
    ) -> Result<Product, TrainError> {
        let rows = memory.sizes.rows;
        let map = |operand: Operand| {
            let sizes = [((count - 1) * operand.apart + 1) * rows, operand.columns];
            self.gradients.tensor_map(operand.first, sizes, [DEPTH, EDGE])
        };
        Ok(Product {
            down: map(down)?,
            across: map(across)?,
            result: memory.gradient(result),
            down_step: (down.apart * rows) as u32,
            across_step: (across.apart * rows) as u32,
            tiles_down: (down.columns / DOWN) as u32,
            tiles_across: (across.columns / ACROSS) as u32,
            row_step: across.columns as u32,
            column_step: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_in_one_group_and_several_devices_keep_the_first_layer_apart() {
        let groups = |layers, devices| {
            let shape = nn::gpt::Shape { layers, ..nn::gpt::Shape::gpt2() };
            let optimiser = nn::gpt::AdamW { learning_rate: 1e-3, warmup: 1, steps: 2 };
            let job = nn::gpt::Job { shape, batch_size: 1, optimiser, text: &[] };
            let sizes = Sizes::new(&job, Element::Bf16, 132, devices, false);
            let begun_at = |layer| {
                let layers = group(&sizes, layer)?;
                assert_eq!(layers.start, layer, "their way back is done");
                Some(layers)
            };
            (0..layers).rev().filter_map(begun_at).collect::<Vec<_>>()
        };
        let lens =
            |layers, devices| groups(layers, devices).iter().map(Range::len).collect::<Vec<_>>();
        assert_eq!((lens(12, 1), lens(12, 2), lens(1, 2)), (vec![12], vec![11, 1], vec![1]));
        for layers in 1..=30 {
            let all: Vec<usize> = groups(layers, 2).into_iter().rev().flatten().collect();
            assert_eq!(all, (0..layers).collect::<Vec<_>>());
        }
    }
}
