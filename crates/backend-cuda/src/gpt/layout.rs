//! Where each tensor lies on the device: matrices first, which AdamW shrinks, then all LayerNorms'
//! gains, one row for each. The token embedding has rows of zeros up to a multiple of 64, so that its
//! products have even sizes; they stay zero, since their gradient is.

use nn::gpt::Shape;

/// Rows of the token embedding come in as many.
const VOCABULARY_STEP: usize = 64;
/// Tensors begin at a multiple of this: 256 bytes of bf16, which cuBLASLt takes for granted when it proposes algorithms.
/// Activations do where a layer's are a multiple of it, others at 16 bytes.
const ALIGNMENT: usize = 128;

/// The matrices of a block, as offsets in the flat buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub(crate) qkv: usize,  // (3 width, width)
    pub(crate) out: usize,  // (width, width)
    pub(crate) up: usize,   // (4 width, width)
    pub(crate) down: usize, // (width, 4 width)
    end: usize,
}

impl Layer {
    /// All its matrices.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.qkv..self.end
    }
}

/// Offsets in the flat buffers of parameters, gradients and moments.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Of each canonical tensor.
    places: Vec<usize>,
    pub(crate) tokens: usize, // (padded_vocabulary, width)
    pub(crate) positions: usize,
    pub(crate) layers: Vec<Layer>,
    /// (2 layers + 1, width): ln_1 and ln_2 of each block, ln_f.
    pub(crate) gains: usize,
    /// Of the whole, a multiple of `ALIGNMENT`. All before `gains` decays.
    pub(crate) len: usize,
    pub(crate) padded_vocabulary: usize,
    shape: Shape,
}

impl Layout {
    /// In which a layer can be cut into so many equal parts.
    pub(crate) fn new(shape: Shape, parts: usize) -> Layout {
        let Shape { layers, width, context, vocabulary, .. } = shape;
        let padded_vocabulary = vocabulary.next_multiple_of(VOCABULARY_STEP);
        let mut end = 0;
        let mut place = |len: usize| {
            let start = end;
            end = (start + len).next_multiple_of(ALIGNMENT);
            start
        };
        let tokens = place(padded_vocabulary * width);
        let positions = place(context * width);
        let layer_places: Vec<Layer> = (0..layers)
            .map(|_| {
                let qkv = place(3 * width * width);
                let out = place(width * width);
                let [up, down] = [(); 2].map(|()| place(4 * width * width));
                let used = place(0) - qkv;
                place(used.next_multiple_of(ALIGNMENT * parts) - used);
                Layer { qkv, out, up, down, end: place(0) }
            })
            .collect();
        let gains = place((2 * layers + 1) * width);
        // In the canonical order.
        let mut places = vec![tokens, positions];
        for (index, layer) in layer_places.iter().enumerate() {
            let gain = |norm: usize| gains + (2 * index + norm) * width;
            places.extend([gain(0), layer.qkv, layer.out, gain(1), layer.up, layer.down]);
        }
        places.push(gains + 2 * layers * width);
        Layout {
            places,
            tokens,
            positions,
            layers: layer_places,
            gains,
            len: end,
            padded_vocabulary,
            shape,
        }
    }

    /// The matrices of all layers.
    pub(crate) fn matrices(&self) -> std::ops::Range<usize> {
        self.layers[0].qkv..self.gains
    }

    /// Canonical values in this layout.
    pub(crate) fn spread(&self, canonical: &[f32]) -> Vec<f32> {
        let mut spread = vec![0.0; self.len];
        for (tensor, &place) in self.shape.tensors().iter().zip(&self.places) {
            spread[place..place + tensor.len()].copy_from_slice(&canonical[tensor.range()]);
        }
        spread
    }

    /// Values of this layout in the canonical one.
    pub(crate) fn gather(&self, spread: &[f32], canonical: &mut [f32]) {
        for (tensor, &place) in self.shape.tensors().iter().zip(&self.places) {
            canonical[tensor.range()].copy_from_slice(&spread[place..place + tensor.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_canonical_value_has_a_place_of_its_own() {
        let odd = Shape { width: 12, heads: 3, ..Shape::small(7) };
        for (shape, parts) in [(Shape::small(65), 1), (odd, 1), (odd, 2), (odd, 5)] {
            let layout = Layout::new(shape, parts);
            let canonical: Vec<f32> = (1..=shape.parameter_count()).map(|it| it as f32).collect();
            let spread = layout.spread(&canonical);
            let mut back = vec![0.0; canonical.len()];
            layout.gather(&spread, &mut back);
            assert_eq!(back, canonical);
            assert_eq!(spread.iter().filter(|&&value| value != 0.0).count(), canonical.len());
            assert!(layout.len.is_multiple_of(ALIGNMENT) && layout.gains.is_multiple_of(ALIGNMENT));
            let [first, second] = [0, 1].map(|layer| layout.layers[layer].range());
            assert_eq!((first.len() % (ALIGNMENT * parts), first.len()), (0, second.len()));
        }
    }
}
