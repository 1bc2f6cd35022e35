//! LayerNorm, GELU and causal attention of one window, forward and backward.

use super::product::{Factors, Size};
use super::real;
use crate::gpt::LAYER_NORM_EPSILON;
use crate::reference::Real;
use crate::reference::layers::softmax;

/// A LayerNorm's result and what its backward pass needs.
pub(super) struct Norm<R> {
    /// (rows, width): `normal * weight`.
    pub output: Vec<R>,
    /// (rows, width): mean 0 and variance 1.
    normal: Vec<R>,
    /// (rows): 1 / sqrt(variance + epsilon).
    scale: Vec<R>,
}

/// `input`: (rows, width), `weight`: (width).
pub(super) fn layer_norm<R: Real>(input: &[R], weight: &[R]) -> Norm<R> {
    let width = weight.len();
    let count: R = real(width as f64);
    let mut norm = Norm { output: Vec::new(), normal: Vec::new(), scale: Vec::new() };
    for row in input.chunks(width) {
        let mean = row.iter().copied().sum::<R>() / count;
        let variance = row.iter().map(|&x| (x - mean) * (x - mean)).sum::<R>() / count;
        let scale = R::one() / (variance + real(LAYER_NORM_EPSILON)).sqrt();
        norm.scale.push(scale);
        for (&x, &weight) in row.iter().zip(weight) {
            norm.normal.push((x - mean) * scale);
            norm.output.push((x - mean) * scale * weight);
        }
    }
    norm
}

impl<R: Real> Norm<R> {
    /// Adds to the gradients of input and weight. `d_output`, `d_input`: (rows, width).
    pub(super) fn backward(
        &self,
        weight: &[R],
        d_output: &[R],
        d_input: &mut [R],
        d_weight: &mut [R],
    ) {
        let width = weight.len();
        let count: R = real(width as f64);
        let rows = self.normal.chunks(width).zip(&self.scale).zip(d_output.chunks(width));
        for (((normal, &scale), d_output), d_input) in rows.zip(d_input.chunks_mut(width)) {
            let d_normal: Vec<R> = d_output.iter().zip(weight).map(|(&d, &w)| d * w).collect();
            let mean = d_normal.iter().copied().sum::<R>() / count;
            let along = d_normal.iter().zip(normal).map(|(&d, &n)| d * n).sum::<R>() / count;
            for column in 0..width {
                d_weight[column] += d_output[column] * normal[column];
                d_input[column] += scale * (d_normal[column] - mean - normal[column] * along);
            }
        }
    }
}

/// `sqrt(2 / pi)`.
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
const GELU_CUBE: f64 = 0.044_715;

/// The tanh form (Hendrycks and Gimpel, 2016).
pub(super) fn gelu<R: Real>(x: R) -> R {
    let inner = real::<R>(GELU_SCALE) * (x + real::<R>(GELU_CUBE) * x * x * x);
    real::<R>(0.5) * x * (R::one() + inner.tanh())
}

/// The derivative of [`gelu`].
pub(super) fn gelu_slope<R: Real>(x: R) -> R {
    let half: R = real(0.5);
    let inner = real::<R>(GELU_SCALE) * (x + real::<R>(GELU_CUBE) * x * x * x);
    let tanh = inner.tanh();
    let d_inner = real::<R>(GELU_SCALE) * (R::one() + real::<R>(3.0 * GELU_CUBE) * x * x);
    half * (R::one() + tanh) + half * x * (R::one() - tanh * tanh) * d_inner
}

/// The sizes of a window's attention.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub heads: usize,
    pub width: usize,
    pub tokens: usize,
    pub factors: Factors,
}

/// The place of a head's queries, keys or values within a row of (query, key, value).
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

impl Heads {
    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    fn scale<R: Real>(&self) -> R {
        real(1.0 / (self.head_width() as f64).sqrt())
    }

    /// One head's part of `qkv`, (tokens, 3 width), as (tokens, head_width).
    fn part<R: Real>(&self, qkv: &[R], part: Part, head: usize) -> Vec<R> {
        let columns = self.columns(part, head);
        qkv.chunks(3 * self.width).flat_map(|row| row[columns.clone()].to_vec()).collect()
    }

    fn columns(&self, part: Part, head: usize) -> std::ops::Range<usize> {
        let begin = part as usize * self.width + head * self.head_width();
        begin..begin + self.head_width()
    }

    /// Returns the weights of each head, (heads, tokens, tokens), 0 after the diagonal, and the mixed
    /// values, (tokens, width). `qkv`: (tokens, 3 width).
    pub(super) fn forward<R: Real>(&self, qkv: &[R]) -> (Vec<R>, Vec<R>) {
        let (tokens, head_width) = (self.tokens, self.head_width());
        let mut weights = Vec::with_capacity(self.heads * tokens * tokens);
        let mut mixed = vec![R::zero(); tokens * self.width];
        for head in 0..self.heads {
            let [query, key, value] =
                [Part::Query, Part::Key, Part::Value].map(|part| self.part(qkv, part, head));
            let size = Size { rows: tokens, inner: head_width, columns: tokens };
            let scores = self.factors.product_transposed(&query, &key, size);
            let begin = weights.len();
            for (row, scores) in scores.chunks(tokens).enumerate() {
                let scaled: Vec<R> = scores[..=row].iter().map(|&s| s * self.scale()).collect();
                weights.extend(softmax(&scaled));
                weights.resize(begin + (row + 1) * tokens, R::zero());
            }
            let size = Size { rows: tokens, inner: tokens, columns: head_width };
            let out = self.factors.product(&weights[begin..], &value, size);
            let columns = self.columns(Part::Query, head); // of the first third: those of the output
            for (row, out) in mixed.chunks_mut(self.width).zip(out.chunks(head_width)) {
                row[columns.clone()].copy_from_slice(out);
            }
        }
        (weights, mixed)
    }

    /// Returns the gradient of `qkv`, (tokens, 3 width). `d_mixed`: (tokens, width).
    pub(super) fn backward<R: Real>(&self, qkv: &[R], weights: &[R], d_mixed: &[R]) -> Vec<R> {
        let (tokens, head_width) = (self.tokens, self.head_width());
        let mut d_qkv = vec![R::zero(); qkv.len()];
        for (head, weights) in weights.chunks(tokens * tokens).enumerate() {
            let [query, key, value] =
                [Part::Query, Part::Key, Part::Value].map(|part| self.part(qkv, part, head));
            let columns = self.columns(Part::Query, head);
            let d_out: Vec<R> =
                d_mixed.chunks(self.width).flat_map(|row| row[columns.clone()].to_vec()).collect();
            let size = Size { rows: tokens, inner: head_width, columns: tokens };
            let mut d_scores = self.factors.product_transposed(&d_out, &value, size);
            let rows = weights.chunks(tokens).zip(d_scores.chunks_mut(tokens));
            for (row, (weights, d)) in rows.enumerate() {
                let seen = 0..=row;
                let along: R =
                    weights[seen.clone()].iter().zip(&d[seen]).map(|(&w, &d)| w * d).sum();
                for (d, &weight) in d.iter_mut().zip(weights) {
                    // 0 after the diagonal, as the weight is
                    *d = weight * (*d - along) * self.scale();
                }
            }
            let size = Size { rows: tokens, inner: tokens, columns: head_width };
            let d_query = self.factors.product(&d_scores, &key, size);
            let mut d_key = vec![R::zero(); tokens * head_width];
            self.factors.add_transposed_product(&d_scores, &query, size, &mut d_key);
            let mut d_value = vec![R::zero(); tokens * head_width];
            self.factors.add_transposed_product(weights, &d_out, size, &mut d_value);
            let parts = [(Part::Query, d_query), (Part::Key, d_key), (Part::Value, d_value)];
            for (part, d) in parts {
                let columns = self.columns(part, head);
                for (row, d) in d_qkv.chunks_mut(3 * self.width).zip(d.chunks(head_width)) {
                    row[columns.clone()].copy_from_slice(d);
                }
            }
        }
        d_qkv
    }
}
