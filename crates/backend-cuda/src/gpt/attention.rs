//! Causal attention by our own kernels, `kernels/gpt_attention.cu` in bf16 and
//! `kernels/gpt_attention_float32.cu` in float32, or by cuDNN: whichever is faster for the sizes.

use super::memory::Memory;
use super::sdpa::Sdpa;
use crate::cublaslt::Element;
use crate::cudnn::Cudnn;
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

/// The kernels for one width of heads.
pub(crate) struct OwnAttention {
    attend: Kernel,
    query_gradient: Kernel,
    key_gradient: Kernel,
    /// Both, where all of the context is one tile; not in float32.
    tile_gradient: Option<Kernel>,
    threads: u32,
}

/// Names of the kernels for heads of so many elements, and their dynamic shared memory.
fn kernels(
    element: Element,
    head_width: usize,
) -> Result<(&'static [&'static str], [usize; 3]), String> {
    let tile = |width: usize| match element {
        Element::Float32 => TILE * (width + 1) * 4,
        Element::Bf16 => TILE * width * 2,
    };
    macro_rules! named {
        ($suffix:literal) => {
            &[
                concat!("attend_", $suffix),
                concat!("query_gradient_", $suffix),
                concat!("key_gradient_", $suffix),
            ]
        };
        ($suffix:literal, tile) => {
            &[
                concat!("attend_", $suffix),
                concat!("query_gradient_", $suffix),
                concat!("key_gradient_", $suffix),
                concat!("tile_gradient_", $suffix),
            ]
        };
    }
    // Narrower heads are computed with zeros beside them.
    let (names, width): (&[&str], usize) = match (element, head_width) {
        (Element::Bf16, _) if !head_width.is_multiple_of(8) => {
            return Err(format!("heads of {head_width}: in bf16 cuda takes multiples of 8"));
        }
        (Element::Bf16, ..=16) => (named!("bf16_16", tile), 16),
        (Element::Bf16, ..=32) => (named!("bf16_32", tile), 32),
        (Element::Bf16, ..=64) => (named!("bf16_64", tile), 64),
        (Element::Bf16, ..=128) => (named!("bf16_128", tile), 128),
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

impl OwnAttention {
    /// The kernels for heads that [`refusal`] has nothing against.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        element: Element,
        head_width: usize,
    ) -> Result<OwnAttention, TrainError> {
        let (ptx, threads) = match element {
            Element::Float32 => (&FLOAT32, FLOAT32_THREADS),
            Element::Bf16 => (&BF16, BF16_THREADS),
        };
        let (names, shared) = kernels(element, head_width).map_err(TrainError::Mismatch)?;
        let module = Rc::new(gpu.load(ptx)?);
        let tile_gradient = match names.get(3) {
            Some(name) => Some(module.kernel(name, shared[2])?),
            None => None,
        };
        Ok(OwnAttention {
            tile_gradient,
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
            qkv_delta: memory.qkv_delta(layer),
            products: memory.products.address(),
            context: shape.context as u32,
            heads: shape.heads as u32,
            head_width: head_width as u32,
            scale: std::f32::consts::LOG2_E / (head_width as f32).sqrt(),
        }
    }

    /// `attended` of a layer from its `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let arguments = OwnAttention::arguments(memory, layer);
        // SAFETY: the buffers were made for these sizes.
        unsafe { self.attend.launch(self.shape(memory), &arguments) }
    }

    /// `qkv_delta` from `normal_delta`, which holds the gradient of `attended`.
    pub(crate) fn backward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let (arguments, shape) = (OwnAttention::arguments(memory, layer), self.shape(memory));
        if let (Some(kernel), 1) = (&self.tile_gradient, shape.grid[0]) {
            let both = Shape { grid: [2, shape.grid[1]], ..shape };
            // SAFETY: as above.
            return unsafe { kernel.launch(both, &arguments) };
        }
        // SAFETY: as above.
        unsafe {
            self.query_gradient.launch(shape, &arguments)?;
            self.key_gradient.launch(shape, &arguments)
        }
    }
}

/// Who computes attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The faster one of those that there are.
    Faster,
    Own,
    Cudnn,
}

/// Attention, by whom it was chosen.
pub(crate) enum Attention {
    Own(OwnAttention),
    Cudnn(Box<Sdpa>, String),
}

/// How often each is timed, once more than that to load code.
const REPEATS: usize = 5;
/// What cuDNN has to gain: our kernels give the same bits each time.
const GAIN: f64 = 0.98;

impl Attention {
    /// Our own kernels, until [`Attention::choose`].
    pub(crate) fn new(gpu: &Rc<Gpu>, memory: &Memory) -> Result<Attention, TrainError> {
        let (element, head_width) = (memory.sizes.element, memory.sizes.shape.head_width());
        Ok(Attention::Own(OwnAttention::new(gpu, element, head_width)?))
    }

    /// Goes over to cuDNN if that is asked for, or faster on what a step left in memory.
    pub(crate) fn choose(
        &mut self,
        gpu: &Rc<Gpu>,
        memory: &Memory,
        choice: Choice,
    ) -> Result<(), TrainError> {
        if choice == Choice::Own || memory.sizes.element == Element::Float32 {
            return Ok(());
        }
        let cudnn = Cudnn::open(gpu).and_then(|library| {
            let name = format!("cuDNN {}", library.version());
            Ok(Attention::Cudnn(Box::new(Sdpa::new(gpu, &library, memory)?), name))
        });
        match (cudnn, choice) {
            (Ok(cudnn), Choice::Cudnn) => *self = cudnn,
            (Err(reason), Choice::Cudnn) => return Err(gpu.failure(reason)),
            (Err(_), _) => {}
            (Ok(cudnn), _) => {
                let (own_s, cudnn_s) = (self.seconds(gpu, memory)?, cudnn.seconds(gpu, memory)?);
                if cudnn_s < GAIN * own_s {
                    *self = cudnn;
                }
            }
        }
        Ok(())
    }

    /// Seconds of a layer's attention, forward and backward.
    fn seconds(&self, gpu: &Rc<Gpu>, memory: &Memory) -> Result<f64, TrainError> {
        let clock = [gpu.event()?, gpu.event()?];
        let mut fastest = f64::INFINITY;
        for _ in 0..=REPEATS {
            gpu.record(&clock[0])?;
            self.forward(memory, 0)?;
            self.backward(memory, 0)?;
            gpu.record(&clock[1])?;
            gpu.synchronize()?;
            fastest = fastest.min(clock[0].seconds_until(&clock[1])?);
        }
        Ok(fastest)
    }

    /// In a few words.
    pub(crate) fn name(&self) -> &str {
        match self {
            Attention::Own(_) => "own attention",
            Attention::Cudnn(_, name) => name,
        }
    }

    /// `attended` of a layer from its `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        match self {
            Attention::Own(own) => own.forward(memory, layer),
            Attention::Cudnn(sdpa, _) => sdpa.forward(memory, layer),
        }
    }

    /// `qkv_delta` from `normal_delta`, which holds the gradient of `attended`.
    pub(crate) fn backward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        match self {
            Attention::Own(own) => own.backward(memory, layer),
            Attention::Cudnn(sdpa, _) => sdpa.backward(memory, layer),
        }
    }
}
