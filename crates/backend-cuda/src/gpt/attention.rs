//! Causal attention by our own kernels: `kernels/gpt_attention.cu` in bf16,
//! `kernels/gpt_attention_float32.cu` in float32.

use super::memory::Memory;
use crate::cublaslt::Element;
use crate::driver::{Address, Gpu, Kernel, Ptx, Shape};
use nn::backend::TrainError;
use std::rc::Rc;

static BF16: Ptx =
    Ptx { name: "gpt_attention.ptx", packed: include_bytes!("../../ptx/gpt_attention.ptx.gz") };
static FLOAT32: Ptx = Ptx {
    name: "gpt_attention_float32.ptx",
    packed: include_bytes!("../../ptx/gpt_attention_float32.ptx.gz"),
};

// As the kernels have them.
const TILE: usize = 64;
const BF16_THREADS: u32 = 128;
const FLOAT32_THREADS: u32 = 256;

/// `Attention` of `kernels/gpt_attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    qkv: Address,
    out: Address,
    log_sums: Address,
    out_delta: Address,
    qkv_delta: Address,
    products: Address,
    context: u32,
    heads: u32,
    head_width: u32,
    scale: f32,
}

/// The three kernels for one width of heads.
pub(crate) struct Attention {
    attend: Kernel,
    query_gradient: Kernel,
    key_gradient: Kernel,
    threads: u32,
}

/// Names of the kernels for heads of so many elements, and their dynamic shared memory.
fn kernels(element: Element, head_width: usize) -> Result<([&'static str; 3], [usize; 3]), String> {
    let tile = |width: usize| match element {
        Element::Float32 => TILE * (width + 1) * 4,
        Element::Bf16 => TILE * width * 2,
    };
    macro_rules! named {
        ($suffix:literal) => {
            [
                concat!("attend_", $suffix),
                concat!("query_gradient_", $suffix),
                concat!("key_gradient_", $suffix),
            ]
        };
    }
    // Narrower heads are computed with zeros beside them.
    let (names, width) = match (element, head_width) {
        (Element::Bf16, _) if !head_width.is_multiple_of(8) => {
            return Err(format!("heads of {head_width}: in bf16 cuda takes multiples of 8"));
        }
        (Element::Bf16, ..=16) => (named!("bf16_16"), 16),
        (Element::Bf16, ..=32) => (named!("bf16_32"), 32),
        (Element::Bf16, ..=64) => (named!("bf16_64"), 64),
        (Element::Bf16, ..=128) => (named!("bf16_128"), 128),
        (Element::Float32, ..=32) => (named!("float32_32"), 32),
        (Element::Float32, ..=64) => (named!("float32_64"), 64),
        (Element::Float32, ..=128) => (named!("float32_128"), 128),
        _ => return Err(format!("heads of {head_width}: cuda takes up to 128")),
    };
    let shared = match element {
        Element::Float32 => {
            let scores = TILE * (TILE + 1) * 4;
            let gradient = 4 * tile(width) + scores;
            [3 * tile(width) + scores, gradient, gradient]
        }
        Element::Bf16 => [5 * tile(width), 6 * tile(width), 6 * tile(width) + 4 * TILE * 4],
    };
    Ok((names, shared))
}

/// Why there is no kernel for heads of this width, if there is none.
pub(crate) fn refusal(element: Element, head_width: usize) -> Option<String> {
    kernels(element, head_width).err()
}

impl Attention {
    /// The kernels for heads that [`refusal`] has nothing against.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        element: Element,
        head_width: usize,
    ) -> Result<Attention, TrainError> {
        let (ptx, threads) = match element {
            Element::Float32 => (&FLOAT32, FLOAT32_THREADS),
            Element::Bf16 => (&BF16, BF16_THREADS),
        };
        let (names, shared) = kernels(element, head_width).map_err(TrainError::Mismatch)?;
        let module = Rc::new(gpu.load(ptx)?);
        Ok(Attention {
            attend: module.kernel(names[0], shared[0])?,
            query_gradient: module.kernel(names[1], shared[1])?,
            key_gradient: module.kernel(names[2], shared[2])?,
            threads,
        })
    }

    fn shape(&self, memory: &Memory) -> Shape {
        let shape = memory.sizes.shape;
        let tiles = shape.context.div_ceil(TILE) as u32;
        Shape { grid: [tiles, (memory.sizes.batch * shape.heads) as u32], block: self.threads }
    }

    fn arguments(memory: &Memory, layer: usize) -> Arguments {
        let shape = memory.sizes.shape;
        let head_width = shape.head_width();
        Arguments {
            qkv: memory.qkv.at(layer),
            out: memory.attended.at(layer),
            log_sums: memory.log_sums.address_of(layer * memory.sizes.rows * shape.heads),
            out_delta: memory.normal_delta.at(0),
            qkv_delta: memory.qkv_delta.at(0),
            products: memory.products.address(),
            context: shape.context as u32,
            heads: shape.heads as u32,
            head_width: head_width as u32,
            scale: std::f32::consts::LOG2_E / (head_width as f32).sqrt(),
        }
    }

    /// `attended` of a layer from its `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let arguments = Attention::arguments(memory, layer);
        // SAFETY: the buffers were made for these sizes.
        unsafe { self.attend.launch(self.shape(memory), &arguments) }
    }

    /// `qkv_delta` from `normal_delta`, which holds the gradient of `attended`.
    pub(crate) fn backward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let (arguments, shape) = (Attention::arguments(memory, layer), self.shape(memory));
        // SAFETY: as above.
        unsafe {
            self.query_gradient.launch(shape, &arguments)?;
            self.key_gradient.launch(shape, &arguments)
        }
    }
}
