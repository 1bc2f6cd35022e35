//! The launchers of everything in a step that is neither a product nor attention: `kernels/gpt_rows.cu`,
//! `gpt_embed.cu` and `gpt_update.cu`. Each takes its buffers from [`Memory`], which made them for the
//! sizes that are launched.

use super::memory::{Memory, NORM_BLOCKS, TOKEN_RUN};
use crate::cublaslt::Element;
use crate::driver::{Address, Buffer, Gpu};
use crate::kernel::{Kernel, Ptx, Shape};
use nn::backend::TrainError;
use nn::gpt::optimiser::{BETA1, BETA2, CLIP, EPSILON, WEIGHT_DECAY};
use std::ops::Range;
use std::rc::Rc;

static ROWS: Ptx =
    Ptx { name: "gpt_rows.ptx", packed: include_bytes!("../../ptx/gpt_rows.ptx.gz") };
static EMBED: Ptx =
    Ptx { name: "gpt_embed.ptx", packed: include_bytes!("../../ptx/gpt_embed.ptx.gz") };
static UPDATE: Ptx =
    Ptx { name: "gpt_update.ptx", packed: include_bytes!("../../ptx/gpt_update.ptx.gz") };

// As the kernels have them.
const THREADS: usize = 256;
const WARPS: usize = THREADS / 32;
const COLUMNS: usize = 128; // of a warp
const MANY_THREADS: usize = 1024;
/// The widest row, and the largest vocabulary, that kernels were made for.
const WIDEST: usize = 1280;
const LARGEST_VOCABULARY: usize = 57_344;
/// Up to this vocabulary a warp has a row of logits, and beyond a block.
const WARP_VOCABULARY: usize = 1024;
/// Up to this vocabulary a block has a token's gradient, and beyond a warp.
const BLOCK_TOKENS: usize = 2048;
/// What a thread of GELU's kernels takes: so many packs of so many bytes.
const PACKS: usize = 2;
const PACK_BYTES: usize = 16;
/// Blocks of AdamW for each multiprocessor: as many as are resident, at 256 threads.
const UPDATE_BLOCKS: usize = 8;

/// Why there are no kernels for these sizes, if there are none.
pub(crate) fn refusal(shape: nn::gpt::Shape, rows: usize, element: Element) -> Option<String> {
    let step = match element {
        Element::Float32 => 4,
        Element::Bf16 => 8,
    };
    if !shape.width.is_multiple_of(step) || shape.width > WIDEST {
        return Some(format!(
            "width {}: cuda takes multiples of {step} up to {WIDEST}",
            shape.width
        ));
    }
    if shape.vocabulary > LARGEST_VOCABULARY {
        return Some(format!(
            "a vocabulary of {}: cuda takes up to {LARGEST_VOCABULARY}",
            shape.vocabulary
        ));
    }
    // Tokens are sorted by keys of 32 bits.
    if u32::try_from(shape.vocabulary * rows).is_err() {
        return Some(format!("{rows} tokens in a step are too many for this vocabulary"));
    }
    None
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Embed {
    tokens: Address,
    windows: Address,
    progress: Address,
    token_table: Address,
    place_table: Address,
    gain: Address,
    inputs: Address,
    targets: Address,
    x: Address,
    normal: Address,
    moments: Address,
    rows: u32,
    context: u32,
    batch: u32,
    width: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Normalise {
    x: Address,
    gain: Address,
    normal: Address,
    moments: Address,
    rows: u32,
    width: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct NormaliseGradient {
    normal_delta: Address,
    x: Address,
    gain: Address,
    moments: Address,
    residual: Address,
    x_delta: Address,
    gain_partial: Address,
    rows: u32,
    width: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GainSums {
    partial: Address,
    gradient: Address,
    blocks: u32,
    width: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Gelu {
    value: Address,
    result: Address,
    packs: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SortTokens {
    inputs: Address,
    runs: Address,
    sorted: Address,
    rows: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct EmbedGradient {
    x_delta: Address,
    inputs: Address,
    sorted: Address,
    token_gradient: Address,
    place_gradient: Address,
    rows: u32,
    context: u32,
    width: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CrossEntropy {
    logits: Address,
    targets: Address,
    losses: Address,
    rows: u32,
    vocabulary: u32,
    stride: u32,
    scale: f32,
    grade: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MeanLoss {
    losses: Address,
    step_loss: Address,
    progress: Address,
    rows: u32,
    at: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SquareSum {
    gradient: Address,
    partial: Address,
    fours: u64,
    first_out: u64,
    out: u64,
    known: Address,
    known_count: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AdamW {
    parameter: Address,
    gradient: Address,
    first: Address,
    second: Address,
    half: Address,
    square_partial: Address,
    rates: Address,
    progress: Address,
    begin: u64,
    fours: u64,
    first_out: u64,
    out: u64,
    apart: u64,
    decayed_fours: u64,
    constants: AdamWConstants,
}

/// `AdamWConstants` of `kernels/gpt.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AdamWConstants {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    decay: f32,
    clip: f32,
    unused: f32,
}

pub(crate) const ADAMW: AdamWConstants = AdamWConstants {
    beta1: BETA1 as f32,
    beta2: BETA2 as f32,
    epsilon: EPSILON as f32,
    decay: WEIGHT_DECAY as f32,
    clip: CLIP as f32,
    unused: 0.0,
};

#[repr(C)]
#[derive(Clone, Copy)]
struct Halve {
    value: Address,
    half: Address,
    fours: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Noise {
    parameter: Address,
    fours: u64,
    decayed_fours: u64,
}

/// What windows are embedded.
pub(crate) struct Source<'a> {
    pub(crate) text: &'a Buffer<u16>,
    pub(crate) windows: &'a Buffer<u32>,
    pub(crate) progress: Address,
}

/// The kernels for one type of elements and one width.
pub(crate) struct RowKernels {
    embed: Kernel,
    normalise: Kernel,
    normalise_gradient: Kernel,
    gain_sums: Kernel,
    gelu: Kernel,
    gelu_gradient: Kernel,
    sort_runs: Kernel,
    merge_runs: Kernel,
    place_gradient: Kernel,
    token_gradient: Kernel,
    cross_entropy: Kernel,
    /// How many blocks of how many threads take how many rows of logits: see [`Loss`].
    loss: Loss,
    mean_loss: Kernel,
    square_sum: Kernel,
    adamw: Kernel,
    halve: Kernel,
    noise: Kernel,
    update_blocks: usize,
    multiprocessors: usize,
    many_tokens: bool,
}

/// Who has a row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Warp,
    Block,
    /// A block for each multiprocessor, with room for two rows in shared memory.
    Stream,
}

/// Names of the kernels that come in widths.
fn row_names(element: Element, width: usize) -> [&'static str; 3] {
    macro_rules! named {
        ($suffix:literal) => {
            [
                concat!("embed_", $suffix),
                concat!("normalise_", $suffix),
                concat!("normalise_gradient_", $suffix),
            ]
        };
    }
    match (element, width) {
        (Element::Float32, ..=128) => named!("float32_128"),
        (Element::Float32, ..=384) => named!("float32_384"),
        (Element::Float32, ..=768) => named!("float32_768"),
        (Element::Float32, _) => named!("float32_1280"),
        (Element::Bf16, ..=128) => named!("bf16_128"),
        (Element::Bf16, ..=384) => named!("bf16_384"),
        (Element::Bf16, ..=768) => named!("bf16_768"),
        (Element::Bf16, _) => named!("bf16_1280"),
    }
}

impl RowKernels {
    /// The kernels for sizes that [`refusal`] has nothing against.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        shape: nn::gpt::Shape,
        element: Element,
    ) -> Result<RowKernels, TrainError> {
        let rows = Rc::new(gpu.load(&ROWS)?);
        let embed = Rc::new(gpu.load(&EMBED)?);
        let update = Rc::new(gpu.load(&UPDATE)?);
        let [embed_name, normalise, normalise_gradient] = row_names(element, shape.width);
        let pick = |float32, bf16| if element == Element::Float32 { float32 } else { bf16 };
        let token_gradient = if shape.vocabulary <= BLOCK_TOKENS {
            pick("token_gradient_block_float32", "token_gradient_block_bf16")
        } else {
            pick("token_gradient_runs_float32", "token_gradient_runs_bf16")
        };
        let padded = shape.vocabulary.next_multiple_of(64);
        let two_rows = 2 * padded * element.bytes();
        let (loss, cross_entropy, shared) = if padded <= WARP_VOCABULARY {
            (Loss::Warp, pick("cross_entropy_float32_1024", "cross_entropy_bf16_1024"), 0)
        } else if element == Element::Bf16 && two_rows + 1024 <= gpu.device().shared_bytes {
            (Loss::Stream, "cross_entropy_stream_bf16", two_rows)
        } else {
            (Loss::Block, pick("cross_entropy_float32_57344", "cross_entropy_bf16_57344"), 0)
        };
        Ok(RowKernels {
            embed: rows.kernel(embed_name, 0)?,
            normalise: rows.kernel(normalise, 0)?,
            normalise_gradient: rows.kernel(normalise_gradient, 0)?,
            gain_sums: rows.kernel("gain_sums", 0)?,
            gelu: rows.kernel(pick("gelu_float32", "gelu_bf16"), 0)?,
            gelu_gradient: rows.kernel(pick("gelu_gradient_float32", "gelu_gradient_bf16"), 0)?,
            sort_runs: embed.kernel("sort_runs", 0)?,
            merge_runs: embed.kernel("merge_runs", 0)?,
            place_gradient: embed
                .kernel(pick("place_gradient_float32", "place_gradient_bf16"), 0)?,
            token_gradient: embed.kernel(token_gradient, 0)?,
            cross_entropy: update.kernel(cross_entropy, shared)?,
            loss,
            mean_loss: update.kernel("mean_loss", 0)?,
            square_sum: update.kernel("square_sum", 0)?,
            adamw: update.kernel("adamw", 0)?,
            halve: update.kernel("halve", 0)?,
            noise: update.kernel("noise", 0)?,
            multiprocessors: gpu.device().multiprocessors,
            many_tokens: shape.vocabulary > BLOCK_TOKENS,
            update_blocks: UPDATE_BLOCKS * gpu.device().multiprocessors,
        })
    }

    /// A warp for each row.
    fn row_warps(memory: &Memory) -> Shape {
        Shape::row(memory.sizes.rows.div_ceil(WARPS), THREADS as u32)
    }

    /// `x[0]`, `normal[0]`, inputs and targets of the windows of `source`.
    pub(crate) fn embed(&self, memory: &Memory, source: &Source<'_>) -> Result<(), TrainError> {
        let sizes = &memory.sizes;
        let parameters = &memory.state.parameters;
        let arguments = Embed {
            tokens: source.text.address(),
            windows: source.windows.address(),
            progress: source.progress,
            token_table: parameters.address_of(sizes.layout.tokens),
            place_table: parameters.address_of(sizes.layout.positions),
            gain: memory.gain(0),
            inputs: memory.inputs.address(),
            targets: memory.targets.address(),
            x: memory.x.at(0),
            normal: memory.normal.at(0),
            moments: memory.moments(0),
            rows: sizes.rows as u32,
            context: sizes.shape.context as u32,
            batch: sizes.batch as u32,
            width: sizes.shape.width as u32,
        };
        // SAFETY: buffers of `memory`; windows lie in the text, checked by the session.
        unsafe { self.embed.launch(RowKernels::row_warps(memory), &arguments) }
    }

    /// `normal[norm]` = LayerNorm of `x[norm]`.
    pub(crate) fn normalise(&self, memory: &Memory, norm: usize) -> Result<(), TrainError> {
        let arguments = Normalise {
            x: memory.x.at(norm),
            gain: memory.gain(norm),
            normal: memory.normal.at(norm),
            moments: memory.moments(norm),
            rows: memory.sizes.rows as u32,
            width: memory.sizes.shape.width as u32,
        };
        // SAFETY: buffers of `memory`.
        unsafe { self.normalise.launch(RowKernels::row_warps(memory), &arguments) }
    }

    /// The gradient of `x[norm]`: that of the next `x`, if there is any, plus what comes through the
    /// LayerNorm from `normal_delta`.
    pub(crate) fn normalise_gradient(
        &self,
        memory: &Memory,
        norm: usize,
    ) -> Result<(), TrainError> {
        let sizes = &memory.sizes;
        let partial = norm * sizes.norm_blocks * sizes.shape.width;
        let arguments = NormaliseGradient {
            normal_delta: memory.normal_delta.at(0),
            x: memory.x.at(norm),
            gain: memory.gain(norm),
            moments: memory.moments(norm),
            residual: if norm + 1 < sizes.norms() { memory.x_delta(norm + 1) } else { 0 },
            x_delta: memory.x_delta(norm),
            gain_partial: memory.gain_partial.address_of(partial),
            rows: sizes.rows as u32,
            width: sizes.shape.width as u32,
        };
        let shape = Shape::row(sizes.norm_blocks, THREADS as u32);
        // SAFETY: buffers of `memory`.
        unsafe { self.normalise_gradient.launch(shape, &arguments) }
    }

    /// The gradients of all gains.
    pub(crate) fn gain_sums(&self, memory: &Memory) -> Result<(), TrainError> {
        let sizes = &memory.sizes;
        let arguments = GainSums {
            partial: memory.gain_partial.address(),
            gradient: memory.gradient(sizes.layout.gains),
            blocks: sizes.norm_blocks as u32,
            width: sizes.shape.width as u32,
        };
        let grid = [sizes.shape.width.div_ceil(32) as u32, sizes.norms() as u32];
        // SAFETY: buffers of `memory`.
        unsafe { self.gain_sums.launch(Shape { grid, block: THREADS as u32 }, &arguments) }
    }

    /// `active[layer]` = GELU of `up[layer]`.
    pub(crate) fn gelu(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let result = memory.active.at(layer);
        RowKernels::each_activation(&self.gelu, memory, layer, result)
    }

    /// `up_delta` times GELU's slope at `up[layer]`.
    pub(crate) fn gelu_gradient(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let result = memory.up_delta(layer);
        RowKernels::each_activation(&self.gelu_gradient, memory, layer, result)
    }

    fn each_activation(
        kernel: &Kernel,
        memory: &Memory,
        layer: usize,
        result: Address,
    ) -> Result<(), TrainError> {
        let sizes = &memory.sizes;
        let packs = sizes.rows * 4 * sizes.shape.width * sizes.element.bytes() / PACK_BYTES;
        let arguments = Gelu { value: memory.up.at(layer), result, packs: packs as u32, unused: 0 };
        let shape = Shape::row(packs.div_ceil(PACKS * THREADS), THREADS as u32);
        // SAFETY: buffers of `memory`.
        unsafe { kernel.launch(shape, &arguments) }
    }

    /// `sorted`, for the gradient of the token embedding.
    pub(crate) fn sort_tokens(&self, memory: &Memory) -> Result<(), TrainError> {
        if !self.many_tokens {
            return Ok(()); // a block for each token looks for its rows
        }
        let rows = memory.sizes.rows;
        let arguments = SortTokens {
            inputs: memory.inputs.address(),
            runs: memory.token_runs.address(),
            sorted: memory.sorted.address(),
            rows: rows as u32,
            unused: 0,
        };
        let runs = rows.div_ceil(TOKEN_RUN);
        // SAFETY: buffers of `memory`, whose `token_runs` has room for whole runs; a block merges 32 keys.
        unsafe {
            self.sort_runs.launch(Shape::row(runs, TOKEN_RUN as u32 / 2), &arguments)?;
            self.merge_runs.launch(Shape::row(rows.div_ceil(32), THREADS as u32), &arguments)
        }
    }

    /// What both embeddings' gradients take, from that of `x[0]`.
    fn embed_arguments(memory: &Memory) -> EmbedGradient {
        let sizes = &memory.sizes;
        EmbedGradient {
            x_delta: memory.x_delta(0),
            inputs: memory.inputs.address(),
            sorted: memory.sorted.address(),
            token_gradient: memory.gradient(sizes.layout.tokens),
            place_gradient: memory.gradient(sizes.layout.positions),
            rows: sizes.rows as u32,
            context: sizes.shape.context as u32,
            width: sizes.shape.width as u32,
            unused: 0,
        }
    }

    /// The gradient of the position embedding.
    pub(crate) fn place_gradient(&self, memory: &Memory) -> Result<(), TrainError> {
        let arguments = RowKernels::embed_arguments(memory);
        let fours = memory.sizes.shape.context * memory.sizes.shape.width / 4;
        let shape = Shape::row(fours.div_ceil(THREADS), THREADS as u32);
        // SAFETY: buffers of `memory`.
        unsafe { self.place_gradient.launch(shape, &arguments) }
    }

    /// The gradient of the rows that were embedded, and what tells which are a token's: the tokens, sorted or not.
    pub(crate) fn embedded(&self, memory: &Memory) -> [Address; 2] {
        let order = if self.many_tokens { &memory.sorted } else { &memory.inputs };
        [memory.x_delta(0), order.address()]
    }

    /// The gradient of the token embedding, added to the output's, from rows that were [embedded](RowKernels::embedded)
    /// here or on another device.
    pub(crate) fn token_gradient(
        &self,
        memory: &Memory,
        [x_delta, tokens]: [Address; 2],
    ) -> Result<(), TrainError> {
        let sizes = &memory.sizes;
        let across = sizes.shape.width.div_ceil(COLUMNS) as u32;
        let shape = if self.many_tokens {
            Shape { grid: [sizes.rows.div_ceil(WARPS) as u32, across], block: THREADS as u32 }
        } else {
            Shape { grid: [sizes.shape.vocabulary as u32, across], block: MANY_THREADS as u32 }
        };
        let arguments = EmbedGradient {
            x_delta,
            inputs: tokens,
            sorted: tokens,
            ..RowKernels::embed_arguments(memory)
        };
        // SAFETY: buffers of `memory`, or as large; tokens are in the vocabulary, checked by the session.
        unsafe { self.token_gradient.launch(shape, &arguments) }
    }

    /// Losses of the rows of chunk `chunk`, whose logits become their gradient.
    pub(crate) fn cross_entropy(&self, memory: &Memory, chunk: usize) -> Result<(), TrainError> {
        let sizes = &memory.sizes;
        let (rows, first) = (sizes.chunk_rows, chunk * sizes.chunk_rows);
        let arguments = CrossEntropy {
            logits: memory.logits.at(0),
            targets: memory.targets.address_of(first),
            losses: memory.row_loss.address_of(first),
            rows: rows as u32,
            vocabulary: sizes.shape.vocabulary as u32,
            stride: sizes.layout.padded_vocabulary as u32,
            scale: 1.0 / (sizes.rows * sizes.devices) as f32,
            grade: 1,
            unused: 0,
        };
        let shape = match self.loss {
            Loss::Warp => Shape::row(rows.div_ceil(WARPS), THREADS as u32),
            Loss::Block => Shape::row(rows, MANY_THREADS as u32),
            Loss::Stream => Shape::row(rows.min(self.multiprocessors), MANY_THREADS as u32),
        };
        // SAFETY: buffers of `memory`.
        unsafe { self.cross_entropy.launch(shape, &arguments) }
    }

    /// The step's mean loss; counts the step.
    pub(crate) fn mean_loss(&self, memory: &Memory) -> Result<(), TrainError> {
        let arguments = MeanLoss {
            losses: memory.row_loss.address(),
            step_loss: memory.step_loss.address(),
            progress: memory.progress.address(),
            rows: memory.sizes.rows as u32,
            at: 0,
        };
        // SAFETY: buffers of `memory`; a call has at most as many steps as they have room for.
        unsafe { self.mean_loss.launch(Shape::row(1, MANY_THREADS as u32), &arguments) }
    }

    /// The parts of the gradient's norm. Of the gradients `out`, `known` numbers add up to the squares.
    pub(crate) fn square_sum(
        &self,
        memory: &Memory,
        out: Range<usize>,
        known: Option<&Buffer<f32>>,
    ) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        let square_sum = SquareSum {
            gradient: memory.state.gradients.address(),
            partial: memory.square_partial.address(),
            fours: ((layout.len - out.len()) / 4) as u64,
            first_out: (out.start / 4) as u64,
            out: (out.len() / 4) as u64,
            known: known.map_or(0, Buffer::address),
            known_count: known.map_or(0, Buffer::len) as u64,
        };
        // SAFETY: buffers of `memory`, the gradients as long as the layout.
        unsafe { self.square_sum.launch(Shape::row(NORM_BLOCKS, THREADS as u32), &square_sum) }
    }

    /// AdamW on all parameters, after clipping by the whole gradient's norm, whose parts are there.
    pub(crate) fn adamw(&self, memory: &Memory) -> Result<(), TrainError> {
        self.adamw_of(memory, 0..memory.sizes.layout.len, 0..0, [self.update_blocks, 1])
    }

    /// The same on the parameters in `part` of a layer, and at the same place in the layers behind it, so many in all.
    pub(crate) fn adamw_in_layers(
        &self,
        memory: &Memory,
        part: Range<usize>,
        layers: usize,
    ) -> Result<(), TrainError> {
        if layers == 0 {
            return Ok(());
        }
        self.adamw_of(memory, part, 0..0, [self.update_blocks / layers, layers])
    }

    /// The same on all parameters but the layers' matrices.
    pub(crate) fn adamw_beside_layers(&self, memory: &Memory) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        self.adamw_of(memory, 0..layout.len, layout.matrices(), [self.update_blocks, 1])
    }

    /// On `range` without those `out` of it, by at most so many blocks, and the same in so many layers.
    fn adamw_of(
        &self,
        memory: &Memory,
        range: Range<usize>,
        out: Range<usize>,
        [blocks, layers]: [usize; 2],
    ) -> Result<(), TrainError> {
        let (state, layout) = (&memory.state, &memory.sizes.layout);
        let count = (range.len() - out.len()) / 4;
        let fours = |parameters: usize| (parameters / 4) as u64;
        let adamw = AdamW {
            parameter: state.parameters.address(),
            gradient: state.gradients.address(),
            first: state.first_moment.address(),
            second: state.second_moment.address(),
            half: state.half.as_ref().map_or(0, Buffer::address),
            square_partial: memory.square_partial.address(),
            rates: memory.rates.address(),
            progress: memory.progress.address(),
            begin: fours(range.start),
            fours: count as u64,
            first_out: if out.is_empty() { u64::MAX } else { fours(out.start - range.start) },
            out: fours(out.len()),
            apart: fours(layout.layers[0].range().len()),
            decayed_fours: fours(layout.gains),
            constants: ADAMW,
        };
        let across = count.div_ceil(THREADS).min(blocks).max(1);
        let grid = [across as u32, layers as u32];
        // SAFETY: buffers of `memory`, all as long as the layout, in which the range and all layers lie.
        unsafe { self.adamw.launch(Shape { grid, block: THREADS as u32 }, &adamw) }
    }

    fn update_shape(&self, memory: &Memory) -> Shape {
        let needed = (memory.sizes.layout.len / 4).div_ceil(THREADS);
        Shape::row(needed.min(self.update_blocks), THREADS as u32)
    }

    /// The rounded parameters, after the parameters were set.
    pub(crate) fn halve(&self, memory: &Memory) -> Result<(), TrainError> {
        let Some(half) = &memory.state.half else { return Ok(()) };
        let arguments = Halve {
            value: memory.state.parameters.address(),
            half: half.address(),
            fours: (memory.sizes.layout.len / 4) as u64,
        };
        // SAFETY: both as long as the layout.
        unsafe { self.halve.launch(self.update_shape(memory), &arguments) }
    }

    /// Parameters of the usual size, for products to be timed on.
    pub(crate) fn noise(&self, memory: &Memory) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        let arguments = Noise {
            parameter: memory.state.parameters.address(),
            fours: (layout.len / 4) as u64,
            decayed_fours: (layout.gains / 4) as u64,
        };
        // SAFETY: the buffer is as long as the layout.
        unsafe { self.noise.launch(self.update_shape(memory), &arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_kernel_is_made_for_are_refused_by_name() {
        let small = nn::gpt::Shape::small(65);
        let refused = |shape, element| refusal(shape, 768, element).unwrap_or_default();
        assert_eq!(refused(small, Element::Bf16), "");
        let odd = nn::gpt::Shape { width: 132, ..small };
        assert_eq!(refused(odd, Element::Float32), "");
        let reason = refused(odd, Element::Bf16);
        assert_eq!(reason, "width 132: cuda takes multiples of 8 up to 1280");
        let large = nn::gpt::Shape { vocabulary: 60_000, ..small };
        let reason = refused(large, Element::Bf16);
        assert_eq!(reason, "a vocabulary of 60000: cuda takes up to 57344");
    }
}
