//! Launchers of `kernels/gpt_narrow.cu`: everything of a layer but attention in one launch, for narrow
//! models in bf16, whose steps are bound by launches.

use super::memory::{Memory, NARROW_ROWS as ROWS};
use crate::cublaslt::Element;
use crate::device::Device;
use crate::driver::{Address, Buffer, Gpu, Kernel, Ptx, Shape, TensorMap};
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx =
    Ptx { name: "gpt_narrow.ptx", packed: include_bytes!("../../ptx/gpt_narrow.ptx.gz") };

// As the kernels have them.
const WIDTH: usize = 128;
const CLASSES: usize = 128;
const THREADS: u32 = 256 + 32;
const BOX: [usize; 2] = [128, 64];
const SLOTS: usize = 10;
const FLOAT_STRIDE: usize = WIDTH + 4;
const SHARED_BYTES: usize = (SLOTS * BOX[0] * BOX[1] * 2
    + ROWS * ((WIDTH + 8) * 2 + 2 * (4 * WIDTH + 8) * 2 + 2 * FLOAT_STRIDE * 4)
    + 2 * SLOTS * 8)
    .next_multiple_of(1024)
    + 1024;
const TURN_THREADS: u32 = 256;
/// Tiles of 32 x 32 elements: of the token embedding, and of a layer's matrices.
const TOKEN_TILES: usize = 16;
const LAYER_TILES: usize = 192;

/// Whether the kernels are for this device and these sizes.
pub(crate) fn fits(device: &Device, shape: nn::gpt::Shape, rows: usize, element: Element) -> bool {
    device.capability[0] >= 9
        && device.shared_bytes >= SHARED_BYTES
        && element == Element::Bf16
        && shape.width == WIDTH
        && shape.vocabulary.next_multiple_of(64) == CLASSES
        && rows.is_multiple_of(ROWS)
}

/// `Narrow` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    out: TensorMap,
    up: TensorMap,
    down: TensorMap,
    qkv: TensorMap,
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
    up_values: Address,
    active: Address,
    packed: Address,
    packed_delta: Address,
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
    tokens: TensorMap,
    turned_tokens: TensorMap,
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
        // SAFETY: numbers, of which a kernel reads only those that are set for it below.
        let nothing: Arguments = unsafe { std::mem::zeroed() };
        Arguments {
            inputs: memory.inputs.address(),
            targets: memory.targets.address(),
            attended_delta: memory.normal_delta.at(0),
            context: sizes.shape.context as u32,
            batch: sizes.batch as u32,
            vocabulary: sizes.shape.vocabulary as u32,
            loss_scale: 1.0 / (sizes.rows * sizes.devices) as f32,
            ..nothing
        }
    }

    fn gain_partial(memory: &Memory, norm: usize) -> Address {
        memory.gain_partial.address_of(norm * memory.sizes.norm_blocks * WIDTH)
    }

    /// A matrix of weights, (out, in) of so many times the width.
    fn map(&self, matrix: Address, [out, inner]: [usize; 2]) -> Result<TensorMap, TrainError> {
        self.forward.tensor_map(matrix, [out * WIDTH, inner * WIDTH], BOX)
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
            qkv: self.map(memory.weight(layout.layers[0].qkv), [3, 1])?,
            packed: memory.qkv.at(0),
            ..NarrowKernels::common(memory)
        };
        // SAFETY: buffers of `memory`, made for these sizes; windows lie in the text, checked by the
        // session.
        unsafe { self.begin.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// What a layer has after its attention, up to the next LayerNorm.
    fn layer_forward(&self, memory: &Memory, layer: usize) -> Result<Arguments, TrainError> {
        let matrices = memory.sizes.layout.layers[layer];
        let (middle, after) = (2 * layer + 1, 2 * layer + 2);
        Ok(Arguments {
            out: self.map(memory.weight(matrices.out), [1, 1])?,
            up: self.map(memory.weight(matrices.up), [4, 1])?,
            down: self.map(memory.weight(matrices.down), [1, 4])?,
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
            up_values: memory.up.at(layer),
            active: memory.active.at(layer),
            ..NarrowKernels::common(memory)
        })
    }

    /// A layer after its attention, and the next layer's `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let next = memory.sizes.layout.layers[layer + 1];
        let arguments = Arguments {
            qkv: self.map(memory.weight(next.qkv), [3, 1])?,
            packed: memory.qkv.at(layer + 1),
            ..self.layer_forward(memory, layer)?
        };
        // SAFETY: as above.
        unsafe { self.forward.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// What a layer needs on the way back to its attention.
    fn layer_backward(&self, memory: &Memory, layer: usize) -> Result<Arguments, TrainError> {
        let matrices = memory.sizes.layout.layers[layer];
        let middle = 2 * layer + 1;
        Ok(Arguments {
            out: self.map(self.turned.address_of(matrices.out), [1, 1])?,
            up: self.map(self.turned.address_of(matrices.up), [1, 4])?,
            down: self.map(self.turned.address_of(matrices.down), [4, 1])?,
            gain: memory.gain(middle),
            x_middle: memory.x.at(middle),
            moments_middle: memory.moments(middle),
            up_values: memory.up.at(layer),
            up_delta: memory.up_delta(layer),
            x_delta_middle: memory.x_delta(middle),
            gain_partial_first: NarrowKernels::gain_partial(memory, middle),
            ..NarrowKernels::common(memory)
        })
    }

    /// The last layer after its attention, the loss, and the way back to that attention.
    pub(crate) fn turn(&self, memory: &Memory) -> Result<(), TrainError> {
        let (layers, layout) = (memory.sizes.shape.layers, &memory.sizes.layout);
        let forward = Arguments {
            logits: memory.logits.at(0),
            losses: memory.row_loss.address(),
            ..self.layer_forward(memory, layers - 1)?
        };
        let backward = Arguments {
            x_delta_after: memory.x_delta(2 * layers),
            gain_partial_second: NarrowKernels::gain_partial(memory, 2 * layers),
            ..self.layer_backward(memory, layers - 1)?
        };
        let tokens = self.map(memory.weight(layout.tokens), [1, 1])?;
        let turned_tokens = self.map(self.turned.address_of(layout.tokens), [1, 1])?;
        let arguments = TurnArguments { forward, backward, tokens, turned_tokens };
        // SAFETY: as above.
        unsafe { self.turn.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// From the gradient of a layer's attention, in `qkv_delta`, to that of its first `x`.
    fn qkv_backward(
        &self,
        memory: &Memory,
        layer: usize,
        rest: Arguments,
    ) -> Result<Arguments, TrainError> {
        let (before, middle) = (2 * layer, 2 * layer + 1);
        let weight = self.turned.address_of(memory.sizes.layout.layers[layer].qkv);
        Ok(Arguments {
            qkv: self.map(weight, [1, 3])?,
            next_gain: memory.gain(before),
            packed_delta: memory.qkv_delta(layer),
            x_after: memory.x.at(before),
            moments_after: memory.moments(before),
            x_delta_before: memory.x_delta(middle),
            x_delta_after: memory.x_delta(before),
            gain_partial_second: NarrowKernels::gain_partial(memory, before),
            ..rest
        })
    }

    /// From a layer's attention back to that of the layer before.
    pub(crate) fn backward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let rest = self.layer_backward(memory, layer - 1)?;
        let arguments = self.qkv_backward(memory, layer, rest)?;
        // SAFETY: as above.
        unsafe { self.backward.launch(NarrowKernels::blocks(memory), &arguments) }
    }

    /// From the first attention to the embeddings.
    pub(crate) fn end(&self, memory: &Memory) -> Result<(), TrainError> {
        let arguments = self.qkv_backward(memory, 0, NarrowKernels::common(memory))?;
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
        unsafe { self.turn_weights.launch(Shape::row(tiles, TURN_THREADS), &arguments) }
    }
}
