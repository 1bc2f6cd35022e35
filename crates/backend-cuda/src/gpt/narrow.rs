//! Launchers of `kernels/gpt_narrow.cu` and `gpt_narrow_weights.cu`: a step of a narrow model in bf16 in two
//! launches.

use super::memory::{Memory, NARROW_ROWS as ROWS, NORM_BLOCKS};
use super::rows::{ADAMW, AdamWConstants};
use crate::cublaslt::Element;
use crate::device::Device;
use crate::driver::{Address, Buffer, Gpu};
use crate::kernel::{Kernel, Ptx, Shape, TensorMap};
use nn::backend::TrainError;
use std::rc::Rc;

static STEP: Ptx =
    Ptx { name: "gpt_narrow.ptx", packed: include_bytes!("../../ptx/gpt_narrow.ptx.gz") };
static WEIGHTS: Ptx = Ptx {
    name: "gpt_narrow_weights.ptx",
    packed: include_bytes!("../../ptx/gpt_narrow_weights.ptx.gz"),
};

// As the kernels have them.
const WIDTH: usize = 128;
const WIDE: usize = 4 * WIDTH;
const CLASSES: usize = 128;
const HEADS: usize = 4;
/// Of the longest window.
const CONTEXT: usize = 64;
const THREADS: u32 = 256 + 32;
const BOX: [usize; 2] = [128, 64];
const SLOTS: usize = 5;
const SHARED_BYTES: usize = (SLOTS * 2 * BOX[0] * BOX[1] * 2
    + ROWS * ((WIDTH + 8) * 2 + (WIDE + 8) * 2)
    + (CONTEXT + ROWS) * (2 * WIDTH + 8) * 2
    + ROWS * 8 * 8
    + 2 * HEADS * CONTEXT * 4
    + 2 * ROWS * 4
    + (2 * SLOTS + 2) * 8)
    .next_multiple_of(1024);
const WEIGHTS_THREADS: u32 = 256;
const WEIGHTS_SHARED_BYTES: usize = 6 * 64 * (64 + 128) * 2;
/// Blocks for tiles of the gradients: of the token embedding, and of a layer's matrices.
const TOKEN_TILES: usize = 8;
const LAYER_TILES: usize = 24;

/// Blocks for the gradients: tiles, places, gains, the loss. Each leaves a part of the norm.
fn weights_blocks(shape: nn::gpt::Shape) -> usize {
    let places = (shape.context * WIDTH / 2).div_ceil(WEIGHTS_THREADS as usize);
    TOKEN_TILES + shape.layers * LAYER_TILES + places + 2 * shape.layers + 1 + 1
}

/// Whether the kernels are for this device and these sizes. A window is a cluster of one, two or four blocks.
pub(crate) fn fits(device: &Device, shape: nn::gpt::Shape, element: Element) -> bool {
    device.capability[0] >= 9
        && device.shared_bytes >= SHARED_BYTES
        && element == Element::Bf16
        && shape.width == WIDTH
        && shape.heads == HEADS
        && shape.vocabulary.next_multiple_of(64) == CLASSES
        && [ROWS, 2 * ROWS, CONTEXT].contains(&shape.context)
        && weights_blocks(shape) <= NORM_BLOCKS
}

/// `NarrowTrail` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Trail {
    one_hot: Address,
    normal: Address,
    attended: Address,
    active: Address,
    x_delta: Address,
    up_delta: Address,
    packed_delta: Address,
    logits_delta: Address,
    gain_partial: Address,
    losses: Address,
}

/// `NarrowStep` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct StepArguments {
    by_width: TensorMap,
    by_wide: TensorMap,
    text: Address,
    windows: Address,
    progress: Address,
    token_table: Address,
    place_table: Address,
    gains: Address,
    trail: Trail,
    finished: Address,
    value: Address,
    scales: Address,
    packed: Address,
    up: Address,
    log_sums: Address,
    first_layer: u32,
    layers: u32,
    context: u32,
    batch: u32,
    vocabulary: u32,
    loss_scale: f32,
}

/// `NarrowWeights` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct WeightsArguments {
    trail: Trail,
    gradient: Address,
    parameter: Address,
    first: Address,
    second: Address,
    half: Address,
    square_partial: Address,
    finished: Address,
    rates: Address,
    step_loss: Address,
    progress: Address,
    rows: u32,
    layers: u32,
    context: u32,
    blocks: u32,
    adamw: AdamWConstants,
}

/// The kernels, and what they alone have in memory.
pub(crate) struct NarrowKernels {
    step: Kernel,
    weights: Kernel,
    one_hot: Buffer<u16>,  // (rows, 128): the tokens as rows of zeros with a one
    finished: Buffer<u32>, // (1)
    /// Whether `weights` takes AdamW's step too: its blocks wait for each other's part of the norm.
    pub(crate) updates: bool,
}

impl NarrowKernels {
    /// For sizes that fit.
    pub(crate) fn new(gpu: &Rc<Gpu>, memory: &Memory) -> Result<NarrowKernels, TrainError> {
        let sizes = &memory.sizes;
        let weights = Rc::new(gpu.load(&WEIGHTS)?);
        let weights = weights.kernel("narrow_weights", WEIGHTS_SHARED_BYTES)?;
        let resident = weights.resident_blocks(WEIGHTS_THREADS as usize)?;
        Ok(NarrowKernels {
            step: Rc::new(gpu.load(&STEP)?).kernel("narrow_step", SHARED_BYTES)?,
            weights,
            one_hot: gpu.allocate("the tokens", sizes.rows * CLASSES)?,
            finished: gpu.allocate("a count of blocks", 1)?,
            updates: sizes.devices == 1 && weights_blocks(sizes.shape) <= resident,
        })
    }

    fn trail(&self, memory: &Memory) -> Trail {
        Trail {
            one_hot: self.one_hot.address(),
            normal: memory.normal.at(0),
            attended: memory.attended.at(0),
            active: memory.active.at(0),
            x_delta: memory.x_delta(0),
            up_delta: memory.up_delta(0),
            packed_delta: memory.qkv_delta(0),
            logits_delta: memory.logits.at(0),
            gain_partial: memory.gain_partial.address(),
            losses: memory.row_loss.address(),
        }
    }

    /// The way forward and back, up to what the gradients of the weights need.
    pub(crate) fn step(&self, memory: &Memory) -> Result<(), TrainError> {
        let (sizes, layout) = (&memory.sizes, &memory.sizes.layout);
        let map =
            |columns| self.step.tensor_map(memory.weight(0), [layout.len / columns, columns], BOX);
        let arguments = StepArguments {
            by_width: map(WIDTH)?,
            by_wide: map(WIDE)?,
            text: memory.text.address(),
            windows: memory.windows.address(),
            progress: memory.progress.address(),
            token_table: memory.state.parameters.address_of(layout.tokens),
            place_table: memory.state.parameters.address_of(layout.positions),
            gains: memory.gain(0),
            trail: self.trail(memory),
            finished: self.finished.address(),
            value: memory.x.at(0),
            scales: memory.moments(0),
            packed: memory.qkv.at(0),
            up: memory.up.at(0),
            log_sums: memory.log_sums.address(),
            first_layer: (layout.layers[0].qkv / WIDTH) as u32,
            layers: sizes.shape.layers as u32,
            context: sizes.shape.context as u32,
            batch: sizes.batch as u32,
            vocabulary: sizes.shape.vocabulary as u32,
            loss_scale: 1.0 / (sizes.rows * sizes.devices) as f32,
        };
        let shape = Shape::row(sizes.rows / ROWS, THREADS);
        let cluster = (sizes.shape.context / ROWS) as u32;
        // SAFETY: buffers of `memory`, made for these sizes; windows lie in the text, checked by the
        // session.
        unsafe { self.step.launch_in_clusters(shape, cluster, &arguments) }
    }

    /// The gradients of all parameters, or AdamW's step with them; the parts of their norm, the loss; counts the
    /// step.
    pub(crate) fn weights(&self, memory: &Memory) -> Result<(), TrainError> {
        let (sizes, state) = (&memory.sizes, &memory.state);
        let arguments = WeightsArguments {
            trail: self.trail(memory),
            gradient: state.gradients.address(),
            parameter: if self.updates { state.parameters.address() } else { 0 },
            first: state.first_moment.address(),
            second: state.second_moment.address(),
            half: memory.weight(0),
            square_partial: memory.square_partial.address(),
            finished: self.finished.address(),
            rates: memory.rates.address(),
            step_loss: memory.step_loss.address(),
            progress: memory.progress.address(),
            rows: sizes.rows as u32,
            layers: sizes.shape.layers as u32,
            context: sizes.shape.context as u32,
            blocks: sizes.norm_blocks as u32,
            adamw: ADAMW,
        };
        let shape = Shape::row(weights_blocks(sizes.shape), WEIGHTS_THREADS);
        // SAFETY: buffers of `memory`, in the layout that the kernel knows; a call has at most as many steps
        // as they have room for.
        unsafe {
            match self.updates {
                true => self.weights.launch_resident(shape, &arguments),
                false => self.weights.launch(shape, &arguments),
            }
        }
    }
}
