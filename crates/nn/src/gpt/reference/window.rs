//! The model on one window: the forward pass, which keeps what the backward pass needs, and the
//! backward pass, which adds (`+=`) the window's share to the gradient.

use super::layers::{Heads, Norm, gelu, gelu_slope, layer_norm};
use super::product::{Factors, Size};
use crate::gpt::Shape;
use crate::reference::Real;
use std::ops::Range;

/// Where each tensor is in the flat buffer.
#[derive(Clone, Debug)]
pub(super) struct Places {
    token: Range<usize>,    // (vocabulary, width)
    position: Range<usize>, // (context, width)
    blocks: Vec<BlockPlaces>,
    last_norm: Range<usize>, // (width)
}

#[derive(Clone, Debug)]
struct BlockPlaces {
    norm1: Range<usize>,   // (width)
    attend: Range<usize>,  // (3 width, width)
    project: Range<usize>, // (width, width)
    norm2: Range<usize>,   // (width)
    expand: Range<usize>,  // (4 width, width)
    shrink: Range<usize>,  // (width, 4 width)
}

impl Places {
    pub(super) fn new(shape: &Shape) -> Places {
        let ranges: Vec<_> = shape.tensors().iter().map(|tensor| tensor.range()).collect();
        let block = |ranges: &[Range<usize>]| BlockPlaces {
            norm1: ranges[0].clone(),
            attend: ranges[1].clone(),
            project: ranges[2].clone(),
            norm2: ranges[3].clone(),
            expand: ranges[4].clone(),
            shrink: ranges[5].clone(),
        };
        Places {
            token: ranges[0].clone(),
            position: ranges[1].clone(),
            blocks: ranges[2..ranges.len() - 1].chunks(6).map(block).collect(),
            last_norm: ranges[ranges.len() - 1].clone(),
        }
    }
}

/// A model to be run on windows.
pub(super) struct Network<'a, R> {
    pub shape: Shape,
    pub places: &'a Places,
    pub parameters: &'a [R],
    pub factors: Factors,
}

/// The values that a forward pass keeps.
pub(super) struct Activations<R> {
    blocks: Vec<Block<R>>,
    last_norm: Norm<R>,
    /// (tokens, vocabulary)
    pub logits: Vec<R>,
}

struct Block<R> {
    norm1: Norm<R>,
    qkv: Vec<R>,     // (tokens, 3 width)
    weights: Vec<R>, // (heads, tokens, tokens)
    mixed: Vec<R>,   // (tokens, width)
    norm2: Norm<R>,
    hidden: Vec<R>, // (tokens, 4 width): before GELU
    active: Vec<R>, // (tokens, 4 width): after
}

impl<R: Real> Network<'_, R> {
    /// `tokens`: at most a context of them, each below the vocabulary.
    pub(super) fn forward(&self, tokens: &[u16]) -> Activations<R> {
        let width = self.shape.width;
        let (token, position) = (self.of(&self.places.token), self.of(&self.places.position));
        let mut x = Vec::with_capacity(tokens.len() * width);
        for (&number, position) in tokens.iter().zip(position.chunks(width)) {
            let row = &token[usize::from(number) * width..][..width];
            x.extend(row.iter().zip(position).map(|(&token, &position)| token + position));
        }
        let blocks = self.places.blocks.iter().map(|places| self.block(places, &mut x)).collect();
        let last_norm = layer_norm(&x, self.of(&self.places.last_norm));
        let logits = self.linear(&last_norm.output, &self.places.token, width);
        Activations { blocks, last_norm, logits }
    }

    /// `x`, (tokens, width), becomes the block's output.
    fn block(&self, places: &BlockPlaces, x: &mut [R]) -> Block<R> {
        let width = self.shape.width;
        let norm1 = layer_norm(x, self.of(&places.norm1));
        let qkv = self.linear(&norm1.output, &places.attend, width);
        let (weights, mixed) = self.heads(x.len() / width).forward(&qkv);
        add(x, &self.linear(&mixed, &places.project, width));
        let norm2 = layer_norm(x, self.of(&places.norm2));
        let hidden = self.linear(&norm2.output, &places.expand, width);
        let active: Vec<R> = hidden.iter().map(|&value| gelu(value)).collect();
        add(x, &self.linear(&active, &places.shrink, 4 * width));
        Block { norm1, qkv, weights, mixed, norm2, hidden, active }
    }

    /// Adds to the gradient what `d_logits`, (tokens, vocabulary), brings.
    pub(super) fn backward(
        &self,
        tokens: &[u16],
        kept: &Activations<R>,
        d_logits: &[R],
        gradient: &mut [R],
    ) {
        let Places { token, position, last_norm, .. } = self.places;
        let width = self.shape.width;
        let d =
            self.linear_backward(tokens.len(), &kept.last_norm.output, token, d_logits, gradient);
        let mut d_x = vec![R::zero(); tokens.len() * width];
        let weight = self.of(last_norm);
        kept.last_norm.backward(weight, &d, &mut d_x, &mut gradient[last_norm.clone()]);
        for (places, kept) in self.places.blocks.iter().zip(&kept.blocks).rev() {
            self.block_backward(places, kept, &mut d_x, gradient);
        }
        for (row, &number) in d_x.chunks(width).zip(tokens) {
            add(&mut gradient[token.start + usize::from(number) * width..][..width], row);
        }
        add(&mut gradient[position.clone()], &d_x);
    }

    /// `d_x`, (tokens, width), the gradient of the block's output, becomes that of its input.
    fn block_backward(
        &self,
        places: &BlockPlaces,
        kept: &Block<R>,
        d_x: &mut [R],
        gradient: &mut [R],
    ) {
        let tokens = d_x.len() / self.shape.width;
        let mut d = self.linear_backward(tokens, &kept.active, &places.shrink, d_x, gradient);
        for (d, &value) in d.iter_mut().zip(&kept.hidden) {
            *d *= gelu_slope(value);
        }
        let d = self.linear_backward(tokens, &kept.norm2.output, &places.expand, &d, gradient);
        let weight = self.of(&places.norm2);
        kept.norm2.backward(weight, &d, d_x, &mut gradient[places.norm2.clone()]);

        let d = self.linear_backward(tokens, &kept.mixed, &places.project, d_x, gradient);
        let d = self.heads(tokens).backward(&kept.qkv, &kept.weights, &d);
        let d = self.linear_backward(tokens, &kept.norm1.output, &places.attend, &d, gradient);
        let weight = self.of(&places.norm1);
        kept.norm1.backward(weight, &d, d_x, &mut gradient[places.norm1.clone()]);
    }

    /// `input weight^T`. `input`: (tokens, inner), weight: (out, inner), returns (tokens, out).
    fn linear(&self, input: &[R], place: &Range<usize>, inner: usize) -> Vec<R> {
        let weight = self.of(place);
        let size = Size { rows: input.len() / inner, inner, columns: weight.len() / inner };
        self.factors.product_transposed(input, weight, size)
    }

    /// Adds `d_output^T input` to the weight's gradient and returns the input's, `d_output weight`.
    /// `d_output`: (tokens, out), input: (tokens, inner), weight: (out, inner).
    fn linear_backward(
        &self,
        tokens: usize,
        input: &[R],
        place: &Range<usize>,
        d_output: &[R],
        gradient: &mut [R],
    ) -> Vec<R> {
        let (inner, out) = (input.len() / tokens, d_output.len() / tokens);
        let size = Size { rows: out, inner: tokens, columns: inner };
        let d_weight = &mut gradient[place.clone()];
        self.factors.add_transposed_product(d_output, input, size, d_weight);
        let size = Size { rows: tokens, inner: out, columns: inner };
        self.factors.product(d_output, self.of(place), size)
    }

    fn heads(&self, tokens: usize) -> Heads {
        let Shape { heads, width, .. } = self.shape;
        Heads { heads, width, tokens, factors: self.factors }
    }

    fn of(&self, place: &Range<usize>) -> &[R] {
        &self.parameters[place.clone()]
    }
}

fn add<R: Real>(to: &mut [R], values: &[R]) {
    for (to, &value) in to.iter_mut().zip(values) {
        *to += value;
    }
}
