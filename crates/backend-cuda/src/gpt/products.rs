//! Launchers of `kernels/gpt_products.cu`: the MLP's first product with GELU, and the gradient that comes back to it
//! with its slope, on Hopper.

use super::memory::{Memory, Sizes};
use crate::cublaslt::Element;
use crate::driver::{Address, Gpu};
use crate::kernel::{Kernel, Ptx, Shape, TensorMap};
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx =
    Ptx { name: "gpt_products.ptx", packed: include_bytes!("../../ptx/gpt_products.ptx.gz") };

// As the kernels have them.
const ROWS: usize = 128;
const COLUMNS: usize = 192;
const EDGE: usize = 64;
const SLOTS: usize = 4;
const STAGES: usize = 4;
const PEERS: usize = 2;
const THREADS: u32 = 384;
const SHARED_BYTES: usize = 2 * (STAGES * (ROWS + COLUMNS) * EDGE + 2 * SLOTS * EDGE * EDGE)
    + 8 * (2 * STAGES + 2 * SLOTS)
    + 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct GeluProduct {
    left: TensorMap,
    right: TensorMap,
    slope: TensorMap,
    result: TensorMap,
    rows: u32,
    columns: u32,
    inner: u32,
    unused: u32,
}

/// The kernels.
pub(crate) struct GeluProducts {
    up: Kernel,
    down_gradient: Kernel,
    multiprocessors: usize,
}

impl GeluProducts {
    /// None if they are not for this device or these sizes.
    pub(crate) fn new(gpu: &Rc<Gpu>, sizes: &Sizes) -> Result<Option<GeluProducts>, TrainError> {
        let fits = gpu.device().capability[0] == 9
            && sizes.element == Element::Bf16
            && sizes.rows.is_multiple_of(ROWS)
            && sizes.shape.width.is_multiple_of(EDGE);
        if !fits {
            return Ok(None);
        }
        let module = Rc::new(gpu.load(&PTX)?);
        Ok(Some(GeluProducts {
            up: module.kernel("up_with_gelu", SHARED_BYTES)?,
            down_gradient: module.kernel("down_gradient_with_slope", SHARED_BYTES)?,
            multiprocessors: gpu.device().multiprocessors,
        }))
    }

    /// Launches `kernel`, whose right operand is a matrix of so many rows and columns and comes by so many rows at a
    /// time.
    fn launch(
        &self,
        kernel: &Kernel,
        memory: &Memory,
        layer: usize,
        [left, right, result]: [Address; 3],
        (right_sizes, right_rows): ([usize; 2], usize),
    ) -> Result<(), TrainError> {
        let (rows, inner) = (memory.sizes.rows, memory.sizes.shape.width);
        let columns = 4 * inner;
        let map = |address, sizes| kernel.tensor_map(address, sizes, [EDGE, EDGE]);
        let right = kernel.tensor_map(right, right_sizes, [right_rows, EDGE])?;
        let arguments = GeluProduct {
            left: map(left, [rows, inner])?,
            right,
            slope: map(memory.up.at(layer), [rows, columns])?,
            result: map(result, [rows, columns])?,
            rows: rows as u32,
            columns: columns as u32,
            inner: inner as u32,
            unused: 0,
        };
        let pairs = rows.div_ceil(PEERS * ROWS) * columns.div_ceil(COLUMNS);
        let clusters = pairs.min(self.multiprocessors / PEERS);
        let shape = Shape::row(PEERS * clusters, THREADS);
        // SAFETY: buffers of `memory`, for whose sizes the kernels are: see `new`.
        unsafe { kernel.launch(shape, &arguments) }
    }

    /// `active` of a layer from its second LayerNorm; in `up` is GELU's slope.
    pub(crate) fn up(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let width = memory.sizes.shape.width;
        let weight = memory.weight(memory.sizes.layout.layers[layer].up);
        let places = [memory.normal.at(2 * layer + 1), weight, memory.active.at(layer)];
        self.launch(&self.up, memory, layer, places, ([4 * width, width], COLUMNS / PEERS))
    }

    /// `up_delta` from the gradient of the layer's result.
    pub(crate) fn down_gradient(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let width = memory.sizes.shape.width;
        let weight = memory.weight(memory.sizes.layout.layers[layer].down);
        let places = [memory.x_delta(2 * layer + 2), weight, memory.up_delta(layer)];
        self.launch(&self.down_gradient, memory, layer, places, ([width, 4 * width], EDGE / PEERS))
    }
}
