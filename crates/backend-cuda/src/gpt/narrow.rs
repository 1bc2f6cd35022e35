//! Launchers of `kernels/gpt_narrow.cu`: everything of a layer but attention in one launch, for narrow
//! models in bf16, whose steps are bound by launches.

use super::memory::Memory;
use crate::cublaslt::Element;
use crate::driver::{Address, Buffer, Gpu, Kernel, Ptx, Shape};
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx =
    Ptx { name: "gpt_narrow.ptx", packed: include_bytes!("../../ptx/gpt_narrow.ptx.gz") };

// As the kernels have them.
const WIDTH: usize = 128;
const CLASSES: usize = 128;
const THREADS: u32 = 256;
const PAD: usize = 32;
const FLOAT_STRIDE: usize = WIDTH + 4;
/// Rows of a block.
pub(crate) const ROWS: usize = 16;
const SHARED_BYTES: usize =
    ROWS * ((WIDTH + PAD) * 2 + 2 * (4 * WIDTH + PAD) * 2 + 2 * FLOAT_STRIDE * 4);
/// Tiles of 32 x 32 elements: of the token embedding, and of a layer's matrices.
const TOKEN_TILES: usize = 16;
const LAYER_TILES: usize = 192;

/// Whether the kernels are for these sizes.
pub(crate) fn fits(shape: nn::gpt::Shape, rows: usize, element: Element) -> bool {
    element == Element::Bf16
        && shape.width == WIDTH
        && shape.vocabulary <= CLASSES
        && rows.is_multiple_of(ROWS)
}

/// `NarrowLayer` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Layer {
    qkv: Address,
    out: Address,
    up: Address,
    down: Address,
}

/// `Narrow` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Arguments {
    layer: Layer,
    next_qkv: Address,
    tokens: Address,
    turned_tokens: Address,
    gain: Address,
    next_gain: Address,
    attended: Address,
    attended_delta: Address,
    x_before: Address,
    x_middle: Address,
    x_after: Address,
    normal_middle: Address,
    normal_after: Address,
    moments_middle: Address,
    moments_after: Address,
    up: Address,
    active: Address,
    qkv: Address,
    qkv_delta: Address,
    up_delta: Address,
    x_delta_before: Address,
    x_delta_after: Address,
    x_delta_middle: Address,
    gain_partial_first: Address,
    gain_partial_second: Address,
    text: Address,
    windows: Address,
    progress: Address,
    token_table: Address,
    place_table: Address,
    inputs: Address,
    targets: Address,
    logits: Address,
    losses: Address,
    context: u32,
    batch: u32,
    vocabulary: u32,
    loss_scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct TurnArguments {
    forward: Arguments,
    backward: Arguments,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct TurnMatrix {
    from: Address,
    to: Address,
    tokens: u64,
    first_layer: u64,
    layer_stride: u64,
}

/// The kernels, and the weights as (in, out), which the way back takes.
pub(crate) struct NarrowKernels {
    begin: Kernel,
    forward: Kernel,
    turn: Kernel,
    backward: Kernel,
    end: Kernel,
    turn_weights: Kernel,
    turned: Buffer<u16>, // as the layout, each matrix turned
}

impl NarrowKernels {
    pub(crate) fn new(gpu: &Rc<Gpu>, memory: &Memory) -> Result<NarrowKernels, TrainError> {
        let module = Rc::new(gpu.load(&PTX)?);
        Ok(NarrowKernels {
            begin: module.kernel("narrow_begin", SHARED_BYTES)?,
            forward: module.kernel("narrow_forward", SHARED_BYTES)?,
            turn: module.kernel("narrow_turn", SHARED_BYTES)?,
            backward: module.kernel("narrow_backward", SHARED_BYTES)?,
            end: module.kernel("narrow_end", SHARED_BYTES)?,
            turn_weights: module.kernel("narrow_turn_weights", 0)?,
            turned: gpu.allocate("the turned parameters", memory.sizes.layout.len)?,
        })
    }

    fn blocks(memory: &Memory) -> Shape {
        Shape::row(memory.sizes.rows / ROWS, THREADS)
    }

    /// What is the same in all launches.
    fn common(memory: &Memory) -> Arguments {
        let sizes = &memory.sizes;
        Arguments {
            inputs: memory.inputs.address(),
            targets: memory.targets.address(),
            attended_delta: memory.normal_delta.at(0),
            context: sizes.shape.context as u32,
            batch: sizes.batch as u32,
            vocabulary: sizes.shape.vocabulary as u32,
            loss_scale: 1.0 / (sizes.rows * sizes.devices) as f32,
            ..Arguments::default()
        }
    }

    fn gain_partial(memory: &Memory, norm: usize) -> Address {
        memory.gain_partial.address_of(norm * memory.sizes.norm_blocks * WIDTH)
    }

    /// Embeddings, and the first layer's `qkv`.
    pub(crate) fn begin(&self, memory: &Memory) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        let arguments = Arguments {
            text: memory.text.address(),
            windows: memory.windows.address(),
            progress: memory.progress.address(),
            token_table: memory.state.parameters.address_of(layout.tokens),
            place_table: memory.state.parameters.address_of(layout.positions),
            gain: memory.gain(0),
            x_after: memory.x.at(0),
            normal_after: memory.normal.at(0),
            moments_after: memory.moments(0),
            next_qkv: memory.weight(layout.layers[0].qkv),
            qkv: memory.qkv.at(0),
            ..NarrowKernels::common(memory)
        };
        // SAFETY: buffers of `memory`, made for these sizes; windows lie in the text, checked by the
        // session.
        unsafe { self.begin.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// What a layer has after its attention, up to the next LayerNorm.
    fn layer_forward(memory: &Memory, layer: usize) -> Arguments {
        let matrices = memory.sizes.layout.layers[layer];
        let (middle, after) = (2 * layer + 1, 2 * layer + 2);
        Arguments {
            layer: Layer {
                qkv: 0,
                out: memory.weight(matrices.out),
                up: memory.weight(matrices.up),
                down: memory.weight(matrices.down),
            },
            gain: memory.gain(middle),
            next_gain: memory.gain(after),
            attended: memory.attended.at(layer),
            x_before: memory.x.at(2 * layer),
            x_middle: memory.x.at(middle),
            x_after: memory.x.at(after),
            normal_middle: memory.normal.at(middle),
            normal_after: memory.normal.at(after),
            moments_middle: memory.moments(middle),
            moments_after: memory.moments(after),
            up: memory.up.at(layer),
            active: memory.active.at(layer),
            ..NarrowKernels::common(memory)
        }
    }

    /// A layer after its attention, and the next layer's `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let arguments = Arguments {
            next_qkv: memory.weight(memory.sizes.layout.layers[layer + 1].qkv),
            qkv: memory.qkv.at(layer + 1),
            ..NarrowKernels::layer_forward(memory, layer)
        };
        // SAFETY: as above.
        unsafe { self.forward.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// What a layer needs on the way back to its attention.
    fn layer_backward(&self, memory: &Memory, layer: usize) -> Arguments {
        let matrices = memory.sizes.layout.layers[layer];
        let middle = 2 * layer + 1;
        Arguments {
            layer: Layer {
                qkv: 0,
                out: self.turned.address_of(matrices.out),
                up: self.turned.address_of(matrices.up),
                down: self.turned.address_of(matrices.down),
            },
            gain: memory.gain(middle),
            x_middle: memory.x.at(middle),
            moments_middle: memory.moments(middle),
            up: memory.up.at(layer),
            up_delta: memory.up_delta(layer),
            x_delta_middle: memory.x_delta(middle),
            gain_partial_first: NarrowKernels::gain_partial(memory, middle),
            ..NarrowKernels::common(memory)
        }
    }

    /// The last layer after its attention, the loss, and the way back to that attention.
    pub(crate) fn turn(&self, memory: &Memory) -> Result<(), TrainError> {
        let (layers, layout) = (memory.sizes.shape.layers, &memory.sizes.layout);
        let forward = Arguments {
            tokens: memory.weight(layout.tokens),
            turned_tokens: self.turned.address_of(layout.tokens),
            logits: memory.logits.at(0),
            losses: memory.row_loss.address(),
            ..NarrowKernels::layer_forward(memory, layers - 1)
        };
        let backward = Arguments {
            x_delta_after: memory.x_delta(2 * layers),
            gain_partial_second: NarrowKernels::gain_partial(memory, 2 * layers),
            ..self.layer_backward(memory, layers - 1)
        };
        let arguments = TurnArguments { forward, backward };
        // SAFETY: as above.
        unsafe { self.turn.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// From the gradient of a layer's attention, in `qkv_delta`, to that of its first `x`.
    fn qkv_backward(&self, memory: &Memory, layer: usize, rest: Arguments) -> Arguments {
        let (before, middle) = (2 * layer, 2 * layer + 1);
        Arguments {
            next_qkv: self.turned.address_of(memory.sizes.layout.layers[layer].qkv),
            next_gain: memory.gain(before),
            qkv_delta: memory.qkv_delta(layer),
            x_after: memory.x.at(before),
            moments_after: memory.moments(before),
            x_delta_before: memory.x_delta(middle),
            x_delta_after: memory.x_delta(before),
            gain_partial_second: NarrowKernels::gain_partial(memory, before),
            ..rest
        }
    }

    /// From a layer's attention back to that of the layer before.
    pub(crate) fn backward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let rest = self.layer_backward(memory, layer - 1);
        let arguments = self.qkv_backward(memory, layer, rest);
        // SAFETY: as above.
        unsafe { self.backward.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// From the first attention to the embeddings.
    pub(crate) fn end(&self, memory: &Memory) -> Result<(), TrainError> {
        let arguments = self.qkv_backward(memory, 0, NarrowKernels::common(memory));
        // SAFETY: as above.
        unsafe { self.end.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// The turned weights, after the weights have changed.
    pub(crate) fn turn_weights(&self, memory: &Memory) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        let first = layout.layers[0].range();
        let arguments = TurnMatrix {
            from: memory.weight(0),
            to: self.turned.address(),
            tokens: layout.tokens as u64,
            first_layer: first.start as u64,
            layer_stride: first.len() as u64,
        };
        let tiles = TOKEN_TILES + LAYER_TILES * layout.layers.len();
        // SAFETY: both buffers are as long as the layout.
        unsafe { self.turn_weights.launch(Shape::row(tiles, THREADS), &arguments) }
    }
}
