//! Everything that a training has on the device.

use super::layout::Layout;
use crate::cublaslt::Element;
use crate::driver::{Address, Buffer, Gpu, Plain};
use crate::scratch::Scratch;
use nn::backend::TrainError;
use nn::gpt::{Job, Shape};
use std::rc::Rc;

/// `GptProgress` of `kernels/gpt.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    next: u32,
    current: u32,
}

// SAFETY: two words.
unsafe impl Plain for Progress {}

/// `StepRates` of `kernels/gpt.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepRates {
    pub(crate) learning_rate: f32,
    pub(crate) first_correction: f32,
    pub(crate) second_correction: f32,
    unused: f32,
}

// SAFETY: four words.
unsafe impl Plain for StepRates {}

impl From<nn::gpt::Step> for StepRates {
    fn from(step: nn::gpt::Step) -> StepRates {
        StepRates {
            learning_rate: step.rate as f32,
            first_correction: (1.0 / step.correction1) as f32,
            second_correction: (1.0 / step.correction2) as f32,
            unused: 0.0,
        }
    }
}

/// Matrices of one shape, each `len` elements of `element`.
pub(crate) struct Matrices {
    buffer: Buffer<u8>,
    element: Element,
    len: usize,
}

impl Matrices {
    fn new(
        gpu: &Rc<Gpu>,
        what: &'static str,
        element: Element,
        count: usize,
        len: usize,
    ) -> Result<Matrices, TrainError> {
        let buffer = gpu.allocate(what, count * len * element.bytes())?;
        Ok(Matrices { buffer, element, len })
    }

    pub(crate) fn at(&self, index: usize) -> Address {
        self.buffer.address_of(index * self.len * self.element.bytes())
    }

    pub(crate) fn read(&self, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.buffer.read(bytes)
    }
}

/// Flat buffers of the [`Layout`].
pub(crate) struct State {
    pub(crate) parameters: Buffer<f32>,
    pub(crate) gradients: Buffer<f32>,
    pub(crate) first_moment: Buffer<f32>,
    pub(crate) second_moment: Buffer<f32>,
    /// The parameters rounded to bf16, where that is computed in.
    pub(crate) half: Option<Buffer<u16>>,
}

/// Most logits, in bytes, that are in memory at a time.
const LOGITS_BYTES: usize = 2 << 30;
/// Rows of a block of the kernels for narrow models: `ROWS` of `kernels/gpt_narrow.cuh`.
pub(crate) const NARROW_ROWS: usize = 16;
/// Steps of one upload of windows.
pub(crate) const CAPACITY: usize = 1024;
/// Partial sums of the gradient's norm: `NORM_BLOCKS` of `kernels/gpt_update.cu`.
pub(crate) const NORM_BLOCKS: usize = 512;

/// Tokens that a block sorts: `RUN` of `kernels/gpt_embed.cu`.
pub(crate) const TOKEN_RUN: usize = 1024;

/// The buffers. `rows` are batch x context.
pub(crate) struct Memory {
    pub(crate) state: State,
    pub(crate) text: Buffer<u16>,
    pub(crate) windows: Buffer<u32>,     // (CAPACITY, batch)
    pub(crate) rates: Buffer<StepRates>, // (CAPACITY)
    pub(crate) step_loss: Buffer<f32>,   // (CAPACITY)
    pub(crate) progress: Buffer<Progress>,
    pub(crate) inputs: Buffer<u32>,         // (rows)
    pub(crate) targets: Buffer<u32>,        // (rows)
    pub(crate) token_runs: Buffer<u32>,     // (rows up to a multiple of TOKEN_RUN)
    pub(crate) sorted: Buffer<u32>,         // (rows)
    pub(crate) row_loss: Buffer<f32>,       // (rows)
    pub(crate) moments: Buffer<f32>,        // (2 layers + 1, rows, 2)
    pub(crate) log_sums: Buffer<f32>,       // (layers, rows x heads)
    pub(crate) products: Buffer<f32>,       // (rows x heads)
    pub(crate) gain_partial: Buffer<f32>,   // (2 layers + 1, norm_blocks, width)
    pub(crate) square_partial: Buffer<f32>, // (NORM_BLOCKS)
    pub(crate) x: Matrices,                 // 2 layers + 1: (rows, width), before each LayerNorm
    pub(crate) normal: Matrices,            // 2 layers + 1: (rows, width), after it
    pub(crate) qkv: Matrices,               // layers, and more for gradients: (rows, 3 width)
    pub(crate) attended: Matrices,          // layers: (rows, width)
    pub(crate) up: Matrices, // layers, and more for gradients: (rows, 4 width), before GELU
    pub(crate) active: Matrices, // layers: (rows, 4 width), after it
    pub(crate) normal_delta: Matrices, // 1: (rows, width)
    pub(crate) logits: Matrices, // 1: (chunk_rows, padded vocabulary)
    pub(crate) scratch: Rc<Scratch>,
    pub(crate) sizes: Sizes,
}

/// The sizes that buffers and launches have in common.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) batch: usize,
    /// Devices that share a step; all sizes here are of one of them.
    pub(crate) devices: usize,
    /// Tokens of a step.
    pub(crate) rows: usize,
    /// Of them, so many have their logits in memory at a time.
    pub(crate) chunk_rows: usize,
    /// Blocks of the LayerNorms' gradients.
    pub(crate) norm_blocks: usize,
    /// What activations and products' operands are.
    pub(crate) element: Element,
    /// Whether the kernels for narrow models run, which leave the gradients of all weights to the end.
    pub(crate) narrow: bool,
}

impl Sizes {
    pub(crate) fn new(
        job: &Job<'_>,
        element: Element,
        multiprocessors: usize,
        devices: usize,
        narrow: bool,
    ) -> Sizes {
        let layout = Layout::new(job.shape, if narrow { 1 } else { devices });
        let rows = job.batch_size * job.shape.context;
        let row_bytes = layout.padded_vocabulary * element.bytes();
        let chunks = (1..=rows)
            .find(|&chunks| {
                rows.is_multiple_of(chunks) && rows / chunks * row_bytes <= LOGITS_BYTES
            })
            .unwrap_or(rows);
        Sizes {
            shape: job.shape,
            batch: job.batch_size,
            devices,
            rows,
            chunk_rows: rows / chunks,
            norm_blocks: match narrow {
                true => rows / NARROW_ROWS,
                false => (2 * multiprocessors).min(rows.div_ceil(8)),
            },
            element,
            narrow,
            layout,
        }
    }

    pub(crate) fn norms(&self) -> usize {
        2 * self.shape.layers + 1
    }

    /// Layers from a layer's `qkv` and `up` to where their gradients are. On the way back those of the layer above
    /// are no longer needed; the kernels for narrow models need all of them.
    fn delta_layers(&self) -> usize {
        if self.narrow { self.shape.layers } else { 1 }
    }

    /// The same for a LayerNorm's input.
    fn x_delta_norms(&self) -> usize {
        if self.narrow { self.norms() } else { 0 }
    }

    /// Bytes of the gradient of `x[0]`, and of the tokens in order.
    pub(crate) fn embedded_bytes(&self) -> [usize; 2] {
        [self.rows * self.shape.width * self.element.bytes(), 4 * self.rows]
    }

    /// Whether devices exchange the gradients of embedded rows in place of the embedding's whole gradient, of which that
    /// of the output can be exchanged early then.
    pub(crate) fn gathers_rows(&self) -> bool {
        let whole = size_of::<f32>() * self.layout.padded_vocabulary * self.shape.width;
        self.devices > 1 && !self.narrow && self.embedded_bytes().iter().sum::<usize>() <= whole
    }
}

impl Memory {
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        sizes: Sizes,
        text: &[u16],
        scratch: Rc<Scratch>,
    ) -> Result<Memory, TrainError> {
        let Sizes { rows, batch, element, .. } = sizes;
        let Shape { layers, heads, width, .. } = sizes.shape;
        let (norms, len) = (sizes.norms(), sizes.layout.len);
        let of_width =
            |what, count, times| Matrices::new(gpu, what, element, count, rows * times * width);
        let half = match element {
            Element::Float32 => None,
            Element::Bf16 => Some(gpu.allocate("the rounded parameters", len)?),
        };
        let state = State {
            parameters: gpu.allocate("parameters", len)?,
            gradients: gpu.allocate("gradients", len)?,
            first_moment: gpu.allocate("moments", len)?,
            second_moment: gpu.allocate("moments", len)?,
            half,
        };
        let logits = sizes.chunk_rows * sizes.layout.padded_vocabulary;
        let with_deltas = layers + sizes.delta_layers();
        Ok(Memory {
            state,
            text: gpu.upload("the text", text)?,
            windows: gpu.allocate("the windows", CAPACITY * batch)?,
            rates: gpu.allocate("the learning rates", CAPACITY)?,
            step_loss: gpu.allocate("the losses", CAPACITY)?,
            progress: gpu.allocate("the progress", 1)?,
            inputs: gpu.allocate("the tokens", rows)?,
            targets: gpu.allocate("the tokens", rows)?,
            token_runs: gpu.allocate("the tokens", rows.next_multiple_of(TOKEN_RUN))?,
            sorted: gpu.allocate("the tokens", rows)?,
            row_loss: gpu.allocate("the losses", rows)?,
            moments: gpu.allocate("statistics", norms * rows * 2)?,
            log_sums: gpu.allocate("statistics", layers * rows * heads)?,
            products: gpu.allocate("statistics", rows * heads)?,
            gain_partial: gpu.allocate("sums of gradients", norms * sizes.norm_blocks * width)?,
            square_partial: gpu.allocate("sums of gradients", NORM_BLOCKS)?,
            x: of_width("the residual stream", norms + sizes.x_delta_norms(), 1)?,
            normal: of_width("LayerNorms' results", norms, 1)?,
            qkv: of_width("queries, keys and values", with_deltas, 3)?,
            attended: of_width("attention's results", layers, 1)?,
            up: of_width("inputs of GELU", with_deltas, 4)?,
            active: of_width("results of GELU", layers, 4)?,
            normal_delta: of_width("gradients of LayerNorms' results", 1, 1)?,
            logits: Matrices::new(gpu, "logits", element, 1, logits)?,
            scratch,
            sizes,
        })
    }

    /// The parameters that products take, from `offset` on.
    pub(crate) fn weight(&self, offset: usize) -> Address {
        match &self.state.half {
            Some(half) => half.address_of(offset),
            None => self.state.parameters.address_of(offset),
        }
    }

    pub(crate) fn gradient(&self, offset: usize) -> Address {
        self.state.gradients.address_of(offset)
    }

    /// The gain of LayerNorm `norm`, in float32.
    pub(crate) fn gain(&self, norm: usize) -> Address {
        let Sizes { shape, layout, .. } = &self.sizes;
        self.state.parameters.address_of(layout.gains + norm * shape.width)
    }

    pub(crate) fn moments(&self, norm: usize) -> Address {
        self.moments.address_of(norm * self.sizes.rows * 2)
    }

    /// The gradient of `x[norm]`, in whose place it is unless the model is narrow.
    pub(crate) fn x_delta(&self, norm: usize) -> Address {
        self.x.at(norm + self.sizes.x_delta_norms())
    }

    /// The gradient of a layer's `qkv`.
    pub(crate) fn qkv_delta(&self, layer: usize) -> Address {
        self.qkv.at(layer + self.sizes.delta_layers())
    }

    /// The gradient of a layer's `up`.
    pub(crate) fn up_delta(&self, layer: usize) -> Address {
        self.up.at(layer + self.sizes.delta_layers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(shape: Shape, batch_size: usize, element: Element, devices: usize) -> Sizes {
        let optimiser = nn::gpt::AdamW { learning_rate: 1e-3, warmup: 1, steps: 2 };
        let job = Job { shape, batch_size, optimiser, text: &[] };
        Sizes::new(&job, element, 132, devices, false)
    }

    #[test]
    fn devices_gather_embedded_rows_where_that_is_less_than_the_embedding() {
        let gathers = |shape, devices| sizes(shape, 16, Element::Bf16, devices).gathers_rows();
        assert!(!gathers(Shape::gpt2(), 1));
        for devices in [2, 4, 8] {
            assert!(gathers(Shape::gpt2(), devices));
            assert!(!gathers(Shape::char(65), devices));
        }
    }
}
