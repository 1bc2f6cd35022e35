//! Where everything lies: the parameters as they are trained, the weights folded from them, and the
//! gradient of the folded weights. Widths are padded with zeros to whole vectors, which add nothing.

use crate::simd::MAX_LANES;
use mnist::CLASSES;
use nn::{AttentionShape, PATCH, PATCHES, Parameters};
use std::ops::Range;

/// Rows that are computed by one thread at a time, and transposed as a whole.
pub const BLOCK: usize = MAX_LANES;
/// Logits with padding.
pub const LOGITS: usize = MAX_LANES;

/// The model's widths, as they are and padded to whole vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    pub d_model: usize,
    pub ff: usize,
    /// `d_model` padded.
    pub d: usize,
    /// `ff` padded.
    pub f: usize,
}

impl Widths {
    pub fn new(AttentionShape { d_model, ff }: AttentionShape) -> Widths {
        let pad = |width: usize| width.next_multiple_of(MAX_LANES);
        Widths { d_model, ff, d: pad(d_model), f: pad(ff) }
    }
}

/// Hands out consecutive parts of a buffer.
#[derive(Default)]
struct Parts(usize);

impl Parts {
    fn next(&mut self, rows: usize, columns: usize) -> Range<usize> {
        let start = self.0;
        self.0 += rows * columns;
        start..self.0
    }
}

/// The parameters. A layer's inner weights are stored (in, out) with the bias as a last row, after
/// the padding; the outer weights of a folded pair both ways.
#[derive(Clone, Debug)]
pub struct Weights {
    pub query: Range<usize>,      // (d + 1, d): in, out
    pub key: Range<usize>,        // (d, d): out, in
    pub key_t: Range<usize>,      // (d, d): in, out
    pub key_bias: Range<usize>,   // (d)
    pub value: Range<usize>,      // (d + 1, d): in, out
    pub ff1: Range<usize>,        // (d, f): in, out
    pub ff1_t: Range<usize>,      // (f, d): out, in
    pub ff1_bias: Range<usize>,   // (f)
    pub ff2: Range<usize>,        // (f + 1, d): in, out
    pub out: Range<usize>,        // (d, 16): in, out
    pub out_t: Range<usize>,      // (16, d): out, in
    pub out_bias: Range<usize>,   // (16)
    pub patch: Range<usize>,      // (16, d): in, out
    pub patch_bias: Range<usize>, // (d)
    pub position: Range<usize>,   // (49, d)
    pub len: usize,
}

impl Weights {
    pub fn new(Widths { d, f, .. }: Widths) -> Weights {
        let mut parts = Parts::default();
        Weights {
            query: parts.next(d + 1, d),
            key: parts.next(d, d),
            key_t: parts.next(d, d),
            key_bias: parts.next(1, d),
            value: parts.next(d + 1, d),
            ff1: parts.next(d, f),
            ff1_t: parts.next(f, d),
            ff1_bias: parts.next(1, f),
            ff2: parts.next(f + 1, d),
            out: parts.next(d, LOGITS),
            out_t: parts.next(LOGITS, d),
            out_bias: parts.next(1, LOGITS),
            patch: parts.next(PATCH, d),
            patch_bias: parts.next(1, d),
            position: parts.next(PATCHES, d),
            len: parts.0,
        }
    }

    /// Each canonical tensor's elements with their places here: the element's index in the flat
    /// buffer of all parameters, and its place, or two where both orders are stored.
    pub fn places(&self, widths: Widths, parameters: &Parameters) -> Vec<(usize, [usize; 2])> {
        let Widths { d_model, ff, d, f } = widths;
        let mut places = Vec::with_capacity(parameters.values().len());
        for tensor in parameters.tensors() {
            let columns = tensor.shape.last().copied().unwrap_or(1);
            for (element, flat) in tensor.range().enumerate() {
                // A weight's row is an output, its column an input.
                let (row, column) = (element / columns, element % columns);
                let once = |place: usize| [place, place];
                let place = match tensor.name {
                    "patch.weight" => once(self.patch.start + column * d + row),
                    "patch.bias" => once(self.patch_bias.start + element),
                    "position" => once(self.position.start + row * d + column),
                    "query.weight" => once(self.query.start + column * d + row),
                    "query.bias" => once(self.query.start + d * d + element),
                    "key.weight" => {
                        [self.key.start + row * d + column, self.key_t.start + column * d + row]
                    }
                    "key.bias" => once(self.key_bias.start + element),
                    "value.weight" => once(self.value.start + column * d + row),
                    "value.bias" => once(self.value.start + d * d + element),
                    "ff1.weight" => {
                        [self.ff1.start + column * f + row, self.ff1_t.start + row * d + column]
                    }
                    "ff1.bias" => once(self.ff1_bias.start + element),
                    "ff2.weight" => once(self.ff2.start + column * d + row),
                    "ff2.bias" => once(self.ff2.start + f * d + element),
                    "out.weight" => {
                        let place = self.out.start + column * LOGITS + row;
                        [place, self.out_t.start + row * d + column]
                    }
                    "out.bias" => once(self.out_bias.start + element),
                    name => unreachable!("attention has no tensor {name}"),
                };
                places.push((flat, place));
            }
        }
        debug_assert!(d_model <= d && ff <= f && CLASSES <= LOGITS);
        places
    }
}

/// What a sample is computed with: each chain of linear layers without anything between them
/// folded into one.
#[derive(Clone, Debug)]
pub struct Folded {
    /// Query and key by log2(e) / sqrt(d_model): scores = (x scores + last row) x^T.
    pub scores: Range<usize>, // (d + 1, d)
    pub scores_t: Range<usize>, // (d, d)
    /// Value and ff1.
    pub wide: Range<usize>, // (d + 1, f)
    pub wide_t: Range<usize>,   // (f, d)
    /// ff2 and out.
    pub logits: Range<usize>, // (f + 1, 16)
    pub logits_t: Range<usize>, // (16, f)
    /// Over 255, for pixels as bytes.
    pub patch: Range<usize>, // (16, d)
    /// Bias and position.
    pub base: Range<usize>, // (49, d)
    pub len: usize,
}

impl Folded {
    pub fn new(Widths { d, f, .. }: Widths) -> Folded {
        let mut parts = Parts::default();
        Folded {
            scores: parts.next(d + 1, d),
            scores_t: parts.next(d, d),
            wide: parts.next(d + 1, f),
            wide_t: parts.next(f, d),
            logits: parts.next(f + 1, LOGITS),
            logits_t: parts.next(LOGITS, f),
            patch: parts.next(PATCH, d),
            base: parts.next(PATCHES, d),
            len: parts.0,
        }
    }

    /// The parts of a buffer.
    pub fn of<'data>(&self, buffer: &'data [f32]) -> FoldedWeights<'data> {
        let part = |range: &Range<usize>| &buffer[range.clone()];
        FoldedWeights {
            scores: part(&self.scores),
            scores_t: part(&self.scores_t),
            wide: part(&self.wide),
            wide_t: part(&self.wide_t),
            logits: part(&self.logits),
            logits_t: part(&self.logits_t),
            patch: part(&self.patch),
            base: part(&self.base),
        }
    }
}

/// The parts of a buffer laid out as [`Folded`].
#[derive(Clone, Copy)]
pub struct FoldedWeights<'data> {
    pub scores: &'data [f32],
    pub scores_t: &'data [f32],
    pub wide: &'data [f32],
    pub wide_t: &'data [f32],
    pub logits: &'data [f32],
    pub logits_t: &'data [f32],
    pub patch: &'data [f32],
    pub base: &'data [f32],
}

/// The gradient of the folded weights, of one chunk of samples or all.
#[derive(Clone, Debug)]
pub struct Gradient {
    pub scores: Range<usize>,    // (d + 1, d)
    pub wide_t: Range<usize>,    // (f, d)
    pub wide_bias: Range<usize>, // (f)
    pub logits: Range<usize>,    // (f + 1, 16)
    pub patch: Range<usize>,     // (16, d)
    pub base: Range<usize>,      // (49, d)
    /// Of what blank tokens contribute to the scores' left side.
    pub blank: Range<usize>, // (49, d)
    pub len: usize,
}

impl Gradient {
    pub fn new(Widths { d, f, .. }: Widths) -> Gradient {
        let mut parts = Parts::default();
        Gradient {
            scores: parts.next(d + 1, d),
            wide_t: parts.next(f, d),
            wide_bias: parts.next(1, f),
            logits: parts.next(f + 1, LOGITS),
            patch: parts.next(PATCH, d),
            base: parts.next(PATCHES, d),
            blank: parts.next(PATCHES, d),
            len: parts.0,
        }
    }

    /// The parts of a buffer.
    pub fn of<'data>(&self, buffer: &'data mut [f32]) -> GradientParts<'data> {
        assert_eq!(buffer.len(), self.len);
        let (scores, rest) = buffer.split_at_mut(self.scores.len());
        let (wide_t, rest) = rest.split_at_mut(self.wide_t.len());
        let (wide_bias, rest) = rest.split_at_mut(self.wide_bias.len());
        let (logits, rest) = rest.split_at_mut(self.logits.len());
        let (patch, rest) = rest.split_at_mut(self.patch.len());
        let (base, blank) = rest.split_at_mut(self.base.len());
        GradientParts { scores, wide_t, wide_bias, logits, patch, base, blank }
    }
}

/// The parts of a buffer laid out as [`Gradient`].
pub struct GradientParts<'data> {
    pub scores: &'data mut [f32],
    pub wide_t: &'data mut [f32],
    pub wide_bias: &'data mut [f32],
    pub logits: &'data mut [f32],
    pub patch: &'data mut [f32],
    pub base: &'data mut [f32],
    pub blank: &'data mut [f32],
}
