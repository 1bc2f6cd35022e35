//! What a step exchanges with the other devices that share it. Gradients are sent while the way back goes on, by copies
//! that take no multiprocessor; each device sums its part of each layer's matrices and takes AdamW's step with it
//! alone, after which it sends the weights to all others. The moments of a part, and its parameters before they are
//! rounded, are up to date where the part is. All other gradients every device sums by itself.

use super::memory::{Memory, Sizes};
use super::peers::{Peers, Seat, Summed, Word};
use super::rows::RowKernels;
use crate::driver::{Event, Gpu, Lane};
use nn::backend::TrainError;
use std::ops::Range;
use std::rc::Rc;

/// The other devices.
pub(crate) struct Others {
    gpu: Rc<Gpu>,
    peers: Peers,
    ready: Event,
    /// All so far.
    sent: Event,
    embeddings_sent: Event,
}

impl Others {
    pub(crate) fn new(gpu: &Rc<Gpu>, memory: &Memory, seat: &Seat) -> Result<Others, TrainError> {
        let peers = Peers::new(gpu, memory, seat, place_len(&memory.sizes))?;
        let [ready, sent, embeddings_sent] = [gpu.event()?, gpu.event()?, gpu.event()?];
        Ok(Others { gpu: Rc::clone(gpu), peers, ready, sent, embeddings_sent })
    }

    /// See [`Peers::assemble`].
    pub(crate) fn assemble(&self) -> Result<(), TrainError> {
        self.peers.assemble()
    }

    /// `enqueue` sends what is ready where the current stream is now; `done` is when it and all before it are sent.
    fn exchange(
        &self,
        done: &Event,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.gpu.beside(Lane::Exchange, &self.ready, done, enqueue)
    }

    /// Sends the gradient of the output's matrix, where that of the embedding is not added to it here.
    pub(crate) fn send_output(&self, memory: &Memory) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        if !memory.sizes.gathers_rows() {
            return Ok(());
        }
        self.exchange(&self.sent, || self.send_all(memory, layout.tokens..layout.positions))
    }

    /// Sends what is left of the gradients of embeddings and gains.
    pub(crate) fn send_embeddings(
        &self,
        memory: &Memory,
        rows: &RowKernels,
    ) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        let gathers = memory.sizes.gathers_rows();
        let first = if gathers { layout.positions } else { layout.tokens };
        self.exchange(&self.embeddings_sent, || {
            self.send_all(memory, first..layout.matrices().start)?;
            self.send_all(memory, layout.gains..layout.len)?;
            if gathers {
                self.peers.send_rows(memory, rows.embedded(memory))?;
            }
            self.peers.tell(Word::Embeddings)
        })
    }

    /// A range of the embeddings, or of the gains.
    fn send_all(&self, memory: &Memory, range: Range<usize>) -> Result<(), TrainError> {
        let to = place_beside(&memory.sizes, range.start);
        self.peers.send(memory, |_| range.start, range.len(), to)
    }

    /// Sends each device its part of the gradients of these layers' matrices; the first layers' come last.
    pub(crate) fn send_layers(
        &self,
        memory: &Memory,
        layers: Range<usize>,
    ) -> Result<(), TrainError> {
        self.exchange(&self.sent, || {
            layers.clone().rev().try_for_each(|layer| {
                let sizes = &memory.sizes;
                let first = |rank| part(sizes, rank, layer).start;
                let len = part(sizes, 0, layer).len();
                self.peers.send(memory, first, len, place_of_part(sizes, layer))
            })?;
            if layers.start == 0 { self.peers.tell(Word::Gradients) } else { Ok(()) }
        })
    }

    /// Sums the gradients of all parameters on every device.
    pub(crate) fn sum_all(&self, memory: &Memory) -> Result<(), TrainError> {
        let len = memory.sizes.layout.len;
        self.exchange(&self.sent, || {
            self.peers.send(memory, |_| 0, len, 0)?;
            self.peers.tell(Word::Gradients)
        })?;
        self.gpu.wait_for(&self.sent)?;
        self.peers.hear(Word::Gradients)?;
        let all = Summed { first: 0, len, out: (len, 0), count: 1, apart: 0, received: (0, 0) };
        self.peers.sum(memory, &all, false)?;
        // None sends again before all have their sums.
        self.peers.tell(Word::Weights)?;
        self.peers.hear(Word::Weights)
    }

    /// AdamW, when all gradients are on their way. What the last of them take is time for the embeddings' sums, and
    /// what weights take for AdamW's step with all else.
    pub(crate) fn update(&self, memory: &Memory, rows: &RowKernels) -> Result<(), TrainError> {
        self.gpu.wait_for(&self.embeddings_sent)?;
        self.peers.hear(Word::Embeddings)?;
        self.sum_embeddings(memory, rows)?;
        self.gpu.wait_for(&self.sent)?; // nobody hears before he has told: streams need not run at the same time
        self.peers.hear(Word::Gradients)?;
        self.sum_parts(memory)?;
        self.peers.share_squares()?;
        self.peers.hear(Word::Squares)?;
        let layout = &memory.sizes.layout;
        rows.square_sum(memory, layout.matrices(), Some(&self.peers.shared))?;
        let (layers, rank) = (layout.layers.len(), self.peers.rank());
        for half in [0..layers / 2, layers / 2..layers] {
            rows.adamw_in_layers(memory, part(&memory.sizes, rank, half.start), half.len())?;
            self.exchange(&self.sent, || self.send_weights(memory, half))?;
        }
        rows.adamw_beside_layers(memory)?;
        self.gpu.wait_for(&self.sent)?;
        self.peers.hear(Word::Weights)
    }

    fn sum_embeddings(&self, memory: &Memory, rows: &RowKernels) -> Result<(), TrainError> {
        let layout = &memory.sizes.layout;
        let embeddings = Summed {
            first: 0,
            len: beside_layers(&memory.sizes),
            out: (layout.matrices().start, layout.matrices().len()),
            count: 1,
            apart: 0,
            received: (0, 0),
        };
        self.peers.sum(memory, &embeddings, false)?;
        let devices = if memory.sizes.gathers_rows() { memory.sizes.devices } else { 0 };
        (0..devices).try_for_each(|device| {
            let embedded = match device == self.peers.rank() {
                true => rows.embedded(memory),
                false => self.peers.rows_of(memory, device),
            };
            rows.token_gradient(memory, embedded)
        })
    }

    /// This device's parts of all layers' matrices.
    fn sum_parts(&self, memory: &Memory) -> Result<(), TrainError> {
        let own = part(&memory.sizes, self.peers.rank(), 0);
        let parts = Summed {
            first: own.start,
            len: own.len(),
            out: (own.len(), 0),
            count: memory.sizes.shape.layers,
            apart: memory.sizes.layout.layers[0].range().len(),
            received: (place_of_part(&memory.sizes, 0), own.len()),
        };
        self.peers.sum(memory, &parts, true)
    }

    /// Its part of the weights of these layers; the last layers' come last.
    fn send_weights(&self, memory: &Memory, layers: Range<usize>) -> Result<(), TrainError> {
        let bytes = memory.sizes.element.bytes();
        layers.clone().try_for_each(|layer| {
            let part = part(&memory.sizes, self.peers.rank(), layer);
            self.peers.send_weights(part.start * bytes, part.len() * bytes)
        })?;
        let last = layers.end == memory.sizes.shape.layers;
        if last { self.peers.tell(Word::Weights) } else { Ok(()) }
    }

    /// Fetches the layers' parts of the parameters and moments that only their device has.
    pub(crate) fn fetch_state(&self, memory: &Memory) -> Result<(), TrainError> {
        let devices = (0..memory.sizes.devices).filter(|&device| device != self.peers.rank());
        for device in devices {
            for layer in 0..memory.sizes.shape.layers {
                let part = part(&memory.sizes, device, layer);
                let [behind, bytes] = [part.start, part.len()].map(|it| it * size_of::<f32>());
                self.peers.fetch_state(device, behind, bytes)?;
            }
        }
        Ok(())
    }
}

/// A device's part of a layer's matrices.
fn part(sizes: &Sizes, rank: usize, layer: usize) -> Range<usize> {
    let range = sizes.layout.layers[layer].range();
    let len = range.len() / sizes.devices;
    let start = range.start + rank * len;
    start..start + len
}

/// How many parameters are not matrices of layers.
fn beside_layers(sizes: &Sizes) -> usize {
    sizes.layout.len - sizes.layout.matrices().len()
}

/// Gradients that a device gets from another one: all that are not of layers' matrices, and its part of each layer. Of
/// narrow models all.
fn place_len(sizes: &Sizes) -> usize {
    match sizes.narrow {
        true => sizes.layout.len,
        false => place_of_part(sizes, sizes.shape.layers),
    }
}

/// Where the gradient of a parameter that is not in a layer's matrices lies among them.
fn place_beside(sizes: &Sizes, parameter: usize) -> usize {
    let matrices = sizes.layout.matrices();
    if parameter < matrices.start { parameter } else { parameter - matrices.len() }
}

/// Where the part of a layer lies among them.
fn place_of_part(sizes: &Sizes, layer: usize) -> usize {
    beside_layers(sizes) + layer * part(sizes, 0, 0).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cublaslt::Element;
    use nn::gpt::{AdamW, Job, Shape};

    fn sizes(shape: Shape, devices: usize) -> Sizes {
        let optimiser = AdamW { learning_rate: 1e-3, warmup: 1, steps: 2 };
        let job = Job { shape, batch_size: 1, optimiser, text: &[] };
        Sizes::new(&job, Element::Bf16, 132, devices, false)
    }

    #[test]
    fn what_a_device_gets_from_another_one_fills_its_place_there_without_overlap() {
        let odd = Shape { layers: 1, width: 24, heads: 3, vocabulary: 7, ..Shape::gpt2() };
        for (shape, devices) in [(Shape::gpt2(), 2), (Shape::gpt2(), 3), (odd, 2), (odd, 5)] {
            let sizes = sizes(shape, devices);
            let layout = &sizes.layout;
            let beside = [
                0..layout.positions,
                layout.positions..layout.matrices().start,
                layout.gains..layout.len,
            ]
            .map(|range| (place_beside(&sizes, range.start), range.len()));
            let layers = 0..sizes.shape.layers;
            let parts =
                layers.map(|layer| (place_of_part(&sizes, layer), part(&sizes, 0, layer).len()));
            let mut end = 0;
            for (start, len) in beside.into_iter().chain(parts) {
                assert_eq!((start, len % 4), (end, 0));
                end += len;
            }
            assert_eq!(end, place_len(&sizes));
        }
    }

    #[test]
    fn the_parts_of_all_devices_are_a_layer() {
        let sizes = sizes(Shape::gpt2(), 3);
        let of = |rank| part(&sizes, rank, 5);
        let layer = sizes.layout.layers[5].range();
        assert_eq!([of(0).start, of(1).start, of(2).start], [layer.start, of(0).end, of(1).end]);
        assert_eq!((of(2).end, of(0).start % 4), (layer.end, 0));
    }
}
