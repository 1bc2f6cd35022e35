//! Launchers of `kernels/gpt_products.cu`: the MLP's first product and its gradient with what comes before and
//! after them, on Hopper, for models up to 384 wide.

use super::memory::{Memory, Sizes};
use crate::cublaslt::Element;
use crate::driver::{Address, Buffer, Gpu, Kernel, Ptx, Shape, TensorMap};
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx =
    Ptx { name: "gpt_products.ptx", packed: include_bytes!("../../ptx/gpt_products.ptx.gz") };

// As the kernels have them.
const ROWS: usize = 128;
const TILE: usize = 128;
const EDGE: usize = 64;
const PARTS: usize = 6;
const STAGES: usize = 4;
const PEERS: usize = 2;
const THREADS: u32 = 288;
const SHARED_BYTES: usize = 2 * (PARTS * ROWS * EDGE + STAGES * TILE * EDGE + 2 * ROWS * TILE)
    + 8 * (2 * STAGES + 3)
    + 1024;
const TURN_EDGE: usize = 32;
const TURN_THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct RowProduct {
    left: TensorMap,
    right: TensorMap,
    slope: TensorMap,
    result: TensorMap,
    x: Address,
    gain: Address,
    moments: Address,
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
pub(crate) struct RowProducts {
    up: Kernel,
    down_gradient: Kernel,
    turn: Kernel,
    turned: Buffer<u16>, // (layers, 4 width, width)
    multiprocessors: usize,
}

impl RowProducts {
    /// None if they are not for this device or these sizes.
    pub(crate) fn new(gpu: &Rc<Gpu>, sizes: &Sizes) -> Result<Option<RowProducts>, TrainError> {
        let width = sizes.shape.width;
        let fits = gpu.device().capability[0] == 9
            && sizes.element == Element::Bf16
            && sizes.rows.is_multiple_of(ROWS)
            && width.is_multiple_of(EDGE)
            && width <= PARTS * EDGE;
        if !fits {
            return Ok(None);
        }
        let module = Rc::new(gpu.load(&PTX)?);
        let elements = sizes.shape.layers * 4 * width * width;
        Ok(Some(RowProducts {
            up: module.kernel("normalise_then_up", SHARED_BYTES)?,
            down_gradient: module.kernel("down_gradient_with_slope", SHARED_BYTES)?,
            turn: module.kernel("turn_matrices", 0)?,
            turned: gpu.allocate("the turned parameters", elements)?,
            multiprocessors: gpu.device().multiprocessors,
        }))
    }

    fn launch(
        &self,
        kernel: &Kernel,
        memory: &Memory,
        layer: usize,
        [left, right, result]: [Address; 3],
    ) -> Result<(), TrainError> {
        let (rows, inner) = (memory.sizes.rows, memory.sizes.shape.width);
        let (columns, norm) = (4 * inner, 2 * layer + 1);
        let map = |address, down, across| kernel.tensor_map(address, [down, across], [EDGE, EDGE]);
        let arguments = RowProduct {
            left: map(left, rows, inner)?,
            right: map(right, columns, inner)?,
            slope: map(memory.up.at(layer), rows, columns)?,
            result: map(result, rows, columns)?,
            x: memory.x.at(norm),
            gain: memory.gain(norm),
            moments: memory.moments(norm),
            rows: rows as u32,
            columns: columns as u32,
            inner: inner as u32,
            unused: 0,
        };
        let clusters = rows.div_ceil(PEERS * ROWS).min(self.multiprocessors / PEERS);
        let shape = Shape::row(PEERS * clusters, THREADS);
        // SAFETY: buffers of `memory`, for whose sizes the kernels are: see `new`.
        unsafe { kernel.launch(shape, &arguments) }
    }

    /// `active` of a layer from its second `x`, by way of `normal`; in `up` is GELU's slope.
    pub(crate) fn up(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let weight = memory.weight(memory.sizes.layout.layers[layer].up);
        let places = [memory.normal.at(2 * layer + 1), weight, memory.active.at(layer)];
        self.launch(&self.up, memory, layer, places)
    }

    /// `up_delta` from the gradient of the layer's result.
    pub(crate) fn down_gradient(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let width = memory.sizes.shape.width;
        let weight = self.turned.address_of(layer * 4 * width * width);
        let places = [memory.x_delta(2 * layer + 2), weight, memory.up_delta(layer)];
        self.launch(&self.down_gradient, memory, layer, places)
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
