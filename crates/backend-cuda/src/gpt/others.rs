//! The exchanges with the other devices that share a step, in a stream of their own. Gradients are summed while the
//! way back goes on; those of a layer's matrices are summed in parts, and each device takes AdamW's step with its
//! part alone, after which all gather the weights. The moments of a part, and its parameters before they are rounded,
//! are up to date where the part is.
//!
//! All devices have to exchange the same in the same order, whatever kernels each of them chose.

use super::memory::{Memory, NORM_BLOCKS};
use super::rows::RowKernels;
use crate::driver::{Address, Buffer, Event, Gpu, Lane};
use crate::nccl::Communicator;
use nn::backend::TrainError;
use std::ops::Range;
use std::rc::Rc;

/// The first layers, whose gradients are found together and summed when the way back is done: on two H200 the embedded
/// rows of GPT-2 take as long as the gradients of so many layers' weights, 0.6 ms.
pub(crate) const LAST_LAYERS: usize = 2;

/// The ways to the other devices.
pub(crate) struct Ways {
    /// Of few multiprocessors, beside the way back.
    pub(crate) beside: Communicator,
    /// When there is little else to do.
    pub(crate) alone: Communicator,
}

/// The other devices.
pub(crate) struct Others {
    gpu: Rc<Gpu>,
    ways: Ways,
    ready: Event,
    summed: Event,
    gathered: Event,
    /// (layers + 2, NORM_BLOCKS): sums of squares of the gradients of layers and embeddings.
    squares: Buffer<f32>,
}

impl Others {
    pub(crate) fn new(gpu: &Rc<Gpu>, ways: Ways, layers: usize) -> Result<Others, TrainError> {
        Ok(Others {
            gpu: Rc::clone(gpu),
            ways,
            ready: gpu.event()?,
            summed: gpu.event()?,
            gathered: gpu.event()?,
            squares: gpu.allocate("squares of gradients", (layers + 2) * NORM_BLOCKS)?,
        })
    }

    /// `enqueue` exchanges what is ready where the current stream is now; `done` is when it and all before it are.
    fn exchange(
        &self,
        done: &Event,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.gpu.beside(Lane::Exchange, &self.ready, done, enqueue)
    }

    /// This device's part of a layer's matrices.
    fn part(&self, memory: &Memory, layer: usize) -> Range<usize> {
        let range = memory.sizes.layout.layers[layer].range();
        let len = range.len() / memory.sizes.devices;
        let start = range.start + self.ways.alone.rank() * len;
        start..start + len
    }

    /// Sums the gradients of `range`.
    pub(crate) fn sum(&self, memory: &Memory, range: Range<usize>) -> Result<(), TrainError> {
        // SAFETY: the range lies in the gradients, and all devices run the same step.
        let sum = || unsafe { self.ways.beside.sum(memory.gradient(range.start), range.len()) };
        self.exchange(&self.summed, sum)
    }

    /// Sums the gradients of all parameters, and waits until that is done.
    pub(crate) fn sum_all(&self, memory: &Memory) -> Result<(), TrainError> {
        let len = memory.sizes.layout.len;
        // SAFETY: as for `sum`.
        self.exchange(&self.summed, || unsafe { self.ways.alone.sum(memory.gradient(0), len) })?;
        self.gpu.wait_for(&self.summed)
    }

    /// Where a layer's sums of squares are; those of embeddings are behind the last.
    fn squares_of(&self, layer: usize) -> Address {
        self.squares.address_of(layer * NORM_BLOCKS)
    }

    /// Sums the gradients of this device's part of a layer.
    fn sum_part(
        &self,
        memory: &Memory,
        way: &Communicator,
        layer: usize,
    ) -> Result<(), TrainError> {
        let whole = memory.gradient(memory.sizes.layout.layers[layer].range().start);
        // SAFETY: a layer has one part for each device; as for `sum`.
        unsafe { way.sum_part(whole, self.part(memory, layer).len()) }
    }

    /// The same beside the way back, with their squares.
    pub(crate) fn sum_layer(
        &self,
        memory: &Memory,
        rows: &RowKernels,
        layer: usize,
    ) -> Result<(), TrainError> {
        self.exchange(&self.summed, || {
            self.sum_part(memory, &self.ways.beside, layer)?;
            rows.squares(memory, self.part(memory, layer), self.squares_of(layer))
        })
    }

    /// The same of all that is left at the end of the way back.
    pub(crate) fn sum_last(&self, memory: &Memory, rows: &RowKernels) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        let (layers, way) = (layout.layers.len(), &self.ways.alone);
        let gathers = memory.sizes.gathers_rows();
        let first = if gathers { layout.positions } else { layout.tokens };
        let embeddings = first..layout.matrices().start;
        let last = || 0..layers.min(LAST_LAYERS);
        if gathers && memory.sizes.devices > 2 {
            self.gather_rows(memory, rows, way)?;
        }
        self.exchange(&self.summed, || {
            way.together(|| {
                for range in [embeddings.clone(), layout.gains..layout.len] {
                    // SAFETY: as for `sum`.
                    unsafe { way.sum(memory.gradient(range.start), range.len()) }?;
                }
                last().try_for_each(|layer| self.sum_part(memory, way, layer))
            })?;
            rows.squares(memory, embeddings, self.squares_of(layers))?;
            last().try_for_each(|layer| {
                rows.squares(memory, self.part(memory, layer), self.squares_of(layer))
            })?;
            // SAFETY: as for `sum`; devices have the others of the embeddings from the same sums.
            unsafe { way.sum(self.squares.address(), layers * NORM_BLOCKS) }
        })?;
        if !gathers {
            return Ok(());
        }
        self.gpu.wait_for(&self.gathered)?;
        rows.token_gradient(memory)?;
        let tokens = layout.tokens..layout.positions;
        rows.squares(memory, tokens, self.squares_of(layers + 1))
    }

    /// Gathers the gradients of all devices' embedded rows, with the tokens that say in which order they are added.
    fn gather_rows(
        &self,
        memory: &Memory,
        rows: &RowKernels,
        way: &Communicator,
    ) -> Result<(), TrainError> {
        let from = [memory.x_delta(0), rows.token_order(memory)];
        let exchanged = from.into_iter().zip(memory.gathered(0)).zip(memory.sizes.embedded_bytes());
        self.exchange(&self.gathered, || {
            exchanged.into_iter().try_for_each(|((from, to), bytes)| {
                // SAFETY: `Sizes::gathers_rows` has found room, and all devices run the same step.
                unsafe { way.gather(from, to, bytes) }
            })
        })
    }

    /// The same beside the last gradients of weights, if these take long enough for the rows of one other device.
    pub(crate) fn gather_rows_early(
        &self,
        memory: &Memory,
        rows: &RowKernels,
    ) -> Result<(), TrainError> {
        match memory.sizes.devices {
            2 => self.gather_rows(memory, rows, &self.ways.beside),
            _ => Ok(()),
        }
    }

    /// AdamW, when the last sums are on their way. The gathering follows in the same stream, so that it has its
    /// multiprocessors before the blocks of what runs beside it take all of them.
    pub(crate) fn update(&self, memory: &Memory, rows: &RowKernels) -> Result<(), TrainError> {
        self.exchange(&self.summed, || {
            rows.square_sum(memory, 0..memory.sizes.layout.gains, Some(&self.squares))?;
            rows.adamw_in_layers(memory, self.part(memory, 0))
        })?;
        self.exchange(&self.gathered, || self.gather_parts(memory, memory.weights()))?;
        self.gpu.wait_for(&self.summed)?;
        rows.adamw_beside_layers(memory)?;
        self.gpu.wait_for(&self.gathered)
    }

    /// Gathers the layers' parts of the parameters and moments that only their device has.
    pub(crate) fn gather_state(&self, memory: &Memory) -> Result<(), TrainError> {
        let state = &memory.state;
        [&state.parameters, &state.first_moment, &state.second_moment]
            .into_iter()
            .try_for_each(|buffer| self.gather_parts(memory, (buffer.address(), size_of::<f32>())))
    }

    /// Gathers the parts of all layers, at `first` with so many bytes for each parameter.
    fn gather_parts(
        &self,
        memory: &Memory,
        (first, bytes): (Address, usize),
    ) -> Result<(), TrainError> {
        let at = |parameter: usize| first + (parameter * bytes) as u64;
        self.ways.alone.together(|| {
            (0..memory.sizes.shape.layers).try_for_each(|layer| {
                let part = self.part(memory, layer);
                let whole = memory.sizes.layout.layers[layer].range().start;
                // SAFETY: a layer has one part for each device; as for `sum`.
                unsafe { self.ways.alone.gather(at(part.start), at(whole), part.len() * bytes) }
            })
        })
    }
}
