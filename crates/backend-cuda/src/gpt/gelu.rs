//! Launchers of `kernels/gpt_gelu.cu`: the MLP's products with GELU or its slope behind them, on Hopper.

use super::memory::{Memory, Sizes};
use crate::cublaslt::Element;
use crate::driver::{Address, Buffer, Gpu, Kernel, Ptx, Shape, TensorMap};
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "gpt_gelu.ptx", packed: include_bytes!("../../ptx/gpt_gelu.ptx.gz") };

// As the kernels have them.
const TILE: usize = 128;
const INNER: usize = 64;
const STAGES: usize = 4;
const THREADS: u32 = 384;
const SHARED_BYTES: usize =
    STAGES * 2 * TILE * INNER * 2 + 2 * TILE * TILE * 2 + 2 * STAGES * 8 + 1024;
const TURN_EDGE: usize = 32;
const TURN_THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct GeluProduct {
    left: TensorMap,
    right: TensorMap,
    aux: Address,
    result: Address,
    rows: u32,
    columns: u32,
    inner: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Turn {
    from: Address,
    to: Address,
    stride: u64,
    down: u32,
    across: u32,
}

/// The kernels, and the layers' `down` as (in, out).
pub(crate) struct GeluKernels {
    up: Kernel,
    down_gradient: Kernel,
    turn: Kernel,
    turned: Buffer<u16>, // (layers, 4 width, width)
    multiprocessors: usize,
    /// Whether they are asked for, even if they are slower.
    pub(crate) wanted: bool,
}

impl GeluKernels {
    /// None if they are not for this device or these sizes.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        sizes: &Sizes,
        wanted: bool,
    ) -> Result<Option<GeluKernels>, TrainError> {
        let width = sizes.shape.width;
        let fits = gpu.device().capability[0] == 9
            && sizes.element == Element::Bf16
            && sizes.rows.is_multiple_of(TILE)
            && width.is_multiple_of(INNER);
        if !fits {
            return Ok(None);
        }
        let module = Rc::new(gpu.load(&PTX)?);
        let elements = sizes.shape.layers * 4 * width * width;
        Ok(Some(GeluKernels {
            up: module.kernel("up_with_gelu", SHARED_BYTES)?,
            down_gradient: module.kernel("down_gradient_with_slope", SHARED_BYTES)?,
            turn: module.kernel("turn_matrices", 0)?,
            turned: gpu.allocate("the turned parameters", elements)?,
            multiprocessors: gpu.device().multiprocessors,
            wanted,
        }))
    }

    fn launch(
        &self,
        kernel: &Kernel,
        memory: &Memory,
        [left, right, aux, result]: [Address; 4],
    ) -> Result<(), TrainError> {
        let (rows, inner) = (memory.sizes.rows, memory.sizes.shape.width);
        let columns = 4 * inner;
        let arguments = GeluProduct {
            left: kernel.tensor_map(left, [rows, inner], [TILE, INNER])?,
            right: kernel.tensor_map(right, [columns, inner], [TILE, INNER])?,
            aux,
            result,
            rows: rows as u32,
            columns: columns as u32,
            inner: inner as u32,
            unused: 0,
        };
        let tiles = rows / TILE * (columns / TILE);
        let shape = Shape::row(tiles.min(self.multiprocessors), THREADS);
        // SAFETY: buffers of `memory`, whose sizes are whole tiles: see `new`.
        unsafe { kernel.launch(shape, &arguments) }
    }

    /// `up` and `active` of a layer.
    pub(crate) fn up(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let weight = memory.weight(memory.sizes.layout.layers[layer].up);
        let left = memory.normal.at(2 * layer + 1);
        let (up, active) = (memory.up.at(layer), memory.active.at(layer));
        self.launch(&self.up, memory, [left, weight, up, active])
    }

    /// `up_delta` from the gradient of the layer's result.
    pub(crate) fn down_gradient(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let width = memory.sizes.shape.width;
        let weight = self.turned.address_of(layer * 4 * width * width);
        let left = memory.x_delta(2 * layer + 2);
        let (up, delta) = (memory.up.at(layer), memory.up_delta(layer));
        self.launch(&self.down_gradient, memory, [left, weight, up, delta])
    }

    /// The turned weights, after the weights have changed.
    pub(crate) fn turn(&self, memory: &Memory) -> Result<(), TrainError> {
        let (layout, width) = (&memory.sizes.layout, memory.sizes.shape.width);
        let first = layout.layers[0];
        let arguments = Turn {
            from: memory.weight(first.down),
            to: self.turned.address(),
            stride: first.range().len() as u64,
            down: width as u32,
            across: 4 * width as u32,
        };
        let tiles = (width / TURN_EDGE) * (4 * width / TURN_EDGE);
        let grid = [tiles as u32, layout.layers.len() as u32];
        // SAFETY: layers are as far apart as their ranges are long; the turned ones have their own room.
        unsafe { self.turn.launch(Shape { grid, block: TURN_THREADS }, &arguments) }
    }
}
