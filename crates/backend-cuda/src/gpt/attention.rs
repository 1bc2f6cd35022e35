//! Causal attention by our own kernels, `kernels/gpt_attention.cu` and on Hopper `gpt_head.cu` in bf16 and
//! `kernels/gpt_attention_float32.cu` in float32, or by cuDNN: whichever is faster for the sizes.

use super::memory::Memory;
use super::sdpa::Sdpa;
use crate::cublaslt::Element;
use crate::cudnn::Cudnn;
use crate::driver::{Address, Gpu};
use crate::kernel::{Kernel, Ptx, Shape};
use nn::backend::TrainError;
use std::f32::consts::LOG2_E;
use std::rc::Rc;

static BF16: Ptx =
    Ptx { name: "gpt_attention.ptx", packed: include_bytes!("../../ptx/gpt_attention.ptx.gz") };
static HOPPER: Ptx =
    Ptx { name: "gpt_head.ptx", packed: include_bytes!("../../ptx/gpt_head.ptx.gz") };
static FLOAT32: Ptx = Ptx {
    name: "gpt_attention_float32.ptx",
    packed: include_bytes!("../../ptx/gpt_attention_float32.ptx.gz"),
};

// As the kernels have them.
const TILE: usize = 64;
const BF16_THREADS: u32 = 128;
const FLOAT32_THREADS: u32 = 256;
/// Tiles of the longest context that one block takes, in bf16.
const HEAD_TILES: usize = 4;
const HEAD_THREADS: u32 = 256;
const HEAD_WIDTH: usize = 64;
const HEAD_FORWARD_SHARED: usize = HEAD_TILES * 3 * TILE * HEAD_WIDTH * 2;
const HEAD_SHARED: usize =
    HEAD_TILES * (4 * TILE * HEAD_WIDTH * 2 + 2 * TILE * TILE * 2 + 2 * TILE * 4);
const HOPPER_FORWARD_SHARED: usize = HEAD_FORWARD_SHARED + 1024;
/// Four tiles of queries, keys, values and gradients of outputs, ten of gradients of scores.
const HOPPER_SHARED: usize =
    (4 * HEAD_TILES + 10) * TILE * HEAD_WIDTH * 2 + 2 * HEAD_TILES * TILE * 4 + 1024;

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
    log_unit: f32,
    unused: u32,
}

/// The kernels for one width of heads.
pub(crate) struct OwnAttention {
    attend: Kernel,
    query_gradient: Kernel,
    key_gradient: Kernel,
    /// Both, where all of the context is one tile; not in float32.
    tile_gradient: Option<Kernel>,
    /// `attend` and both gradients, where a head has room on a multiprocessor.
    whole_head: Option<[Kernel; 2]>,
    /// In place of those, for heads of 64 and a context of 256 on Hopper.
    hopper_head: Option<[Kernel; 2]>,
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
        let has_room = element == Element::Bf16
            && (HEAD_WIDTH / 2 + 1..=HEAD_WIDTH).contains(&head_width)
            && HEAD_SHARED <= gpu.device().shared_bytes;
        let whole_head = match has_room {
            true => Some([
                module.kernel("head_attend_bf16_64", HEAD_FORWARD_SHARED)?,
                module.kernel("head_gradient_bf16_64", HEAD_SHARED)?,
            ]),
            false => None,
        };
        let on_hopper = has_room && head_width == HEAD_WIDTH && gpu.device().capability[0] == 9;
        let hopper_head = match on_hopper {
            true => {
                let module = Rc::new(gpu.load(&HOPPER)?);
                Some([
                    module.kernel("head_attend_bf16_64x256", HOPPER_FORWARD_SHARED)?,
                    module.kernel("head_gradient_bf16_64x256", HOPPER_SHARED)?,
                ])
            }
            false => None,
        };
        Ok(OwnAttention {
            tile_gradient,
            whole_head,
            hopper_head,
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

    fn arguments(memory: &Memory, layer: usize, log_unit: f32) -> Arguments {
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
            scale: LOG2_E / (head_width as f32).sqrt(),
            log_unit,
            unused: 0,
        }
    }

    /// `attended` of a layer from its `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let (arguments, shape) = (OwnAttention::arguments(memory, layer, 1.0), self.shape(memory));
        let (kernel, shape) = match self.whole_head(memory) {
            Some(([kernel, _], whole)) => (kernel, whole),
            None => (&self.attend, shape),
        };
        // SAFETY: the buffers were made for these sizes.
        unsafe { kernel.launch(shape, &arguments) }
    }

    /// The kernels for whole heads and their launch, if these have few enough tiles and more than one.
    fn whole_head(&self, memory: &Memory) -> Option<(&[Kernel; 2], Shape)> {
        let [tiles, heads] = self.shape(memory).grid;
        let exact = memory.sizes.shape.context == HEAD_TILES * TILE;
        let kernels = self.hopper_head.as_ref().filter(|_| exact).or(self.whole_head.as_ref())?;
        (2..=HEAD_TILES)
            .contains(&(tiles as usize))
            .then_some((kernels, Shape { grid: [1, heads], block: HEAD_THREADS }))
    }

    /// `qkv_delta` from `normal_delta`, which holds the gradient of `attended`.
    /// Logarithms of sums are in units of `log_unit` to the base of two, which only whole heads allow not to
    /// be 1.
    fn backward(&self, memory: &Memory, layer: usize, log_unit: f32) -> Result<(), TrainError> {
        let arguments = OwnAttention::arguments(memory, layer, log_unit);
        let shape = self.shape(memory);
        if let (Some(kernel), 1) = (&self.tile_gradient, shape.grid[0]) {
            let both = Shape { grid: [2, shape.grid[1]], ..shape };
            // SAFETY: as above.
            return unsafe { kernel.launch(both, &arguments) };
        }
        if let Some(([_, kernel], whole)) = self.whole_head(memory) {
            // SAFETY: as above.
            return unsafe { kernel.launch(whole, &arguments) };
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
    /// By cuDNN, with its version; the way back by our kernels for whole heads, if those are faster.
    Cudnn(Box<Sdpa>, String, Option<OwnAttention>),
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
            Ok((Box::new(Sdpa::new(&library, memory)?), name))
        });
        let (sdpa, name) = match (cudnn, choice) {
            (Ok(cudnn), _) => cudnn,
            (Err(reason), Choice::Cudnn) => return Err(gpu.failure(reason)),
            (Err(_), _) => return Ok(()),
        };
        let own_s = self.seconds(gpu, memory)?;
        let mut cudnn = Attention::Cudnn(sdpa, name, None);
        let mut cudnn_s = cudnn.seconds(gpu, memory)?;
        let back = OwnAttention::new(gpu, Element::Bf16, memory.sizes.shape.head_width())?;
        if choice == Choice::Faster && back.whole_head(memory).is_some() {
            let Attention::Cudnn(_, _, own) = &mut cudnn else { unreachable!("it was just made") };
            *own = Some(back);
            let mixed_s = cudnn.seconds(gpu, memory)?;
            if mixed_s < cudnn_s {
                cudnn_s = mixed_s;
            } else if let Attention::Cudnn(_, _, own) = &mut cudnn {
                *own = None;
            }
        }
        if choice == Choice::Cudnn || cudnn_s < GAIN * own_s {
            *self = cudnn;
        }
        Ok(())
    }

    /// Seconds of a layer's attention, forward and backward.
    fn seconds(&self, gpu: &Rc<Gpu>, memory: &Memory) -> Result<f64, TrainError> {
        let clock = gpu.clock()?;
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
    pub(crate) fn name(&self) -> String {
        match self {
            Attention::Own(_) => "own attention".to_owned(),
            Attention::Cudnn(_, name, None) => name.clone(),
            Attention::Cudnn(_, name, Some(_)) => format!("{name} and back by own attention"),
        }
    }

    /// `attended` of a layer from its `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        match self {
            Attention::Own(own) => own.forward(memory, layer),
            Attention::Cudnn(sdpa, ..) => sdpa.forward(memory, layer),
        }
    }

    /// `qkv_delta` from `normal_delta`, which holds the gradient of `attended`.
    pub(crate) fn backward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        match self {
            Attention::Own(own) => own.backward(memory, layer, 1.0),
            Attention::Cudnn(_, _, Some(own)) => own.backward(memory, layer, LOG2_E),
            Attention::Cudnn(sdpa, _, None) => sdpa.backward(memory, layer),
        }
    }
}
