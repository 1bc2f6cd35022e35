//! Once a step, between the samples: sums the gradient of the folded weights over the chunks, takes
//! it apart into the gradients of the parameters, updates them, and folds the new weights.
//!
//! A chain of linear layers with nothing between them is one linear layer: query and key (a score is
//! `x_i^T Wq^T Wk x_j` and terms in the biases), value and ff1 (the weights of a row of the softmax
//! sum to one, so value's bias passes through), ff2 and out (the mean over tokens passes through
//! both). With `P = A B`, the chain rule gives `dA = dP B^T` and `dB = A^T dP`: six small products a
//! step in place of three large ones forward and six backward for each token of each sample. A bias
//! is one more row of `A`, fed by a constant one; the outer layer's bias is added to that row.
//!
//! The key's bias adds the same to all scores of a row, which the softmax takes away again: its
//! gradient is zero, and it keeps its value.
//!
//! Work is cut into units that one thread computes whole; see [`Step`](super::Step) for the
//! barriers between the functions here.

use super::layout::{BLOCK, Folded, Gradient, LOGITS, Weights, Widths};
use super::product::{Add, Term, product};
use crate::buffer::{APART, Shared};
use crate::finish::{Finish, load, store};
use crate::simd::{MAX_LANES, Simd};
use crate::tree::Blocks;
use nn::PATCHES;
use std::ops::Range;

/// Chunks of a step at most: more threads than that have no sample to compute.
pub const MAX_CHUNKS: usize = 32;
/// Rows of a tile; blocks are two of them.
const TILE: usize = 8;
const TOKEN_TILE: usize = 7;
/// Multiply-adds of folding the weights up to which two threads fold all of them, each.
const SMALL: usize = 200_000;
const PIXEL_SCALE: f32 = 1.0 / 255.0;

/// The layouts of a model of some widths.
pub struct Layouts {
    pub widths: Widths,
    pub weights: Weights,
    pub folded: Folded,
    pub gradient: Gradient,
}

impl Layouts {
    pub fn new(widths: Widths) -> Layouts {
        Layouts {
            widths,
            weights: Weights::new(widths),
            folded: Folded::new(widths),
            gradient: Gradient::new(widths),
        }
    }

    /// Whether two threads had better both do all of a step's end than cut it between them.
    pub fn small(&self) -> bool {
        let Widths { d, f, .. } = self.widths;
        d * (d * d + d * f + f * LOGITS) <= SMALL
    }

    /// Scores are in units of log2(e): their softmax is taken in powers of two.
    fn scores_factor(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.widths.d_model as f32).sqrt()
    }

    fn blocks(&self) -> (usize, usize) {
        (self.widths.d / BLOCK, self.widths.f / BLOCK)
    }

    /// Parts that [`Layouts::fold`] is cut into.
    pub fn fold_units(&self) -> usize {
        let (d, f) = self.blocks();
        2 * d + f + 1
    }

    /// Folds the `units` of the weights. Other threads may fold other units at the same time.
    #[inline(always)]
    pub fn fold<S: Simd>(
        &self,
        simd: S,
        units: Range<usize>,
        weights: &[f32],
        folded: Shared<'_, f32>,
    ) {
        let Widths { d, f, .. } = self.widths;
        let (d_blocks, f_blocks) = self.blocks();
        let part = |range: &Range<usize>| &weights[range.clone()];
        let (key, ff1, out) =
            (part(&self.weights.key), part(&self.weights.ff1), part(&self.weights.out));
        let (query, value, ff2) =
            (part(&self.weights.query), part(&self.weights.value), part(&self.weights.ff2));
        let places = &self.folded;
        let scores = Fold {
            depth: self.widths.d_model,
            inner_row: d,
            columns: d,
            factor: self.scores_factor(),
        };
        let wide = Fold { columns: f, factor: 1.0, ..scores };
        let logits = Fold { columns: LOGITS, factor: 1.0, ..scores };
        for unit in units {
            if unit < d_blocks {
                let to = (folded, places.scores.start, places.scores_t.start, d);
                scores.block(simd, unit, query, key, to);
            } else if unit < 2 * d_blocks {
                let to = (folded, places.wide.start, places.wide_t.start, d);
                wide.block(simd, unit - d_blocks, value, ff1, to);
            } else if unit < 2 * d_blocks + f_blocks {
                let to = (folded, places.logits.start, places.logits_t.start, f);
                logits.block(simd, unit - 2 * d_blocks, ff2, out, to);
            } else {
                // SAFETY: the biases' rows, patches and bases belong to this unit.
                let last_row = |range: &Range<usize>, columns| unsafe {
                    folded.slice_mut(range.end - columns..range.end)
                };
                // Zero, unless a bias of the keys is not finite: that must reach the loss.
                let key_bias: f32 =
                    part(&self.weights.key_bias).iter().map(|bias| 0.0 * bias).sum();
                let bias = last_row(&places.scores, d);
                scores.row(simd, &query[d * d..], key, bias);
                bias.iter_mut().for_each(|bias| *bias += key_bias);
                let bias = last_row(&places.wide, f);
                wide.row(simd, &value[d * d..], ff1, bias);
                add(bias, part(&self.weights.ff1_bias));
                let bias = last_row(&places.logits, LOGITS);
                logits.row(simd, &ff2[f * d..], out, bias);
                add(bias, part(&self.weights.out_bias));
                self.fold_embedding(weights, folded);
            }
        }
    }

    fn fold_embedding(&self, weights: &[f32], folded: Shared<'_, f32>) {
        let part = |range: &Range<usize>| &weights[range.clone()];
        // SAFETY: both belong to the unit that this is called for.
        let (patch, base) = unsafe {
            (
                folded.slice_mut(self.folded.patch.clone()),
                folded.slice_mut(self.folded.base.clone()),
            )
        };
        for (patch, &weight) in patch.iter_mut().zip(part(&self.weights.patch)) {
            *patch = weight * PIXEL_SCALE;
        }
        base.copy_from_slice(part(&self.weights.position));
        for base in base.chunks_mut(self.widths.d) {
            add(base, part(&self.weights.patch_bias));
        }
    }

    /// Floats from a chunk's gradient to the next one's.
    pub fn gradient_stride(&self) -> usize {
        self.gradient.len + APART / size_of::<f32>()
    }

    /// Sums the gradients of a thread's chunks by block, each into that of the block's first chunk.
    #[inline(always)]
    pub fn sum_blocks<S: Simd>(
        &self,
        simd: S,
        chunks: Range<usize>,
        blocks: &Blocks<MAX_CHUNKS>,
        gradients: Shared<'_, f32>,
    ) {
        let (len, stride) = (self.gradient.len, self.gradient_stride());
        for first in blocks.starts(chunks) {
            let width = blocks.width(first);
            let start = first * stride;
            // SAFETY: these chunks are this thread's.
            let block = unsafe { gradients.slice_mut(start..start + (width - 1) * stride + len) };
            match width {
                1 => {}
                2 => sum_block::<S, 2>(simd, block, len, stride),
                4 => sum_block::<S, 4>(simd, block, len, stride),
                8 => sum_block::<S, 8>(simd, block, len, stride),
                16 => sum_block::<S, 16>(simd, block, len, stride),
                _ => sum_block::<S, MAX_CHUNKS>(simd, block, len, stride),
            }
        }
    }

    /// Sums a part of the gradient over all blocks.
    #[inline(always)]
    pub fn sum_total<S: Simd>(
        &self,
        simd: S,
        vectors: Range<usize>,
        chunks: usize,
        blocks: &Blocks<MAX_CHUNKS>,
        gradients: Shared<'_, f32>,
        total: Shared<'_, f32>,
    ) {
        let stride = self.gradient_stride();
        // SAFETY: nobody writes to the chunks' gradients in this phase.
        let gradients = unsafe { gradients.slice(0..(chunks - 1) * stride + self.gradient.len) };
        let places = vectors.start * BLOCK..vectors.end * BLOCK;
        // SAFETY: this part is this thread's.
        let total = unsafe { total.slice_mut(places.clone()) };
        let first = |chunk: usize| &gradients[chunk * stride..][places.clone()];
        let mut starts = blocks.starts(0..chunks);
        match [(); 3].map(|()| starts.next().map(first)) {
            [Some(only), None, _] => total.copy_from_slice(only),
            [Some(left), Some(right), None] => add_two(simd, left, right, total),
            _ => {
                let mut sums = [simd.splat(0.0); MAX_CHUNKS];
                for (place, total) in places.step_by(S::LANES).zip(total.chunks_exact_mut(S::LANES))
                {
                    for chunk in blocks.starts(0..chunks) {
                        sums[chunk] = load(simd, gradients, chunk * stride + place);
                    }
                    for (to, from) in blocks.rest() {
                        sums[to] = simd.add(sums[to], sums[from]);
                    }
                    store(simd, total, 0, sums[0]);
                }
            }
        }
    }

    /// Parts that [`Layouts::add_blank`] is cut into.
    pub fn blank_units(&self) -> usize {
        self.widths.d / BLOCK + PATCHES / TOKEN_TILE + 1
    }

    /// Adds what blank tokens contribute to the gradient, from the sums of their left sides'
    /// gradients over all samples. `blank_embedded`: (49, d).
    #[inline(always)]
    pub fn add_blank<S: Simd>(
        &self,
        simd: S,
        units: Range<usize>,
        blank_embedded: &[f32],
        scores_t: &[f32],
        total: Shared<'_, f32>,
    ) {
        let Widths { d, d_model, .. } = self.widths;
        let places = &self.gradient;
        // SAFETY: nobody writes to this part in this phase.
        let blank = unsafe { total.slice(places.blank.clone()) };
        for unit in units {
            if unit < d / BLOCK {
                let start = places.scores.start + unit * BLOCK * d;
                // SAFETY: these rows belong to this unit.
                let to = unsafe { total.slice_mut(start..start + BLOCK * d) };
                let term = Term {
                    left: &blank_embedded[unit * BLOCK..],
                    left_row: 1,
                    left_depth: d,
                    right: blank,
                    right_row: d,
                    depth: PATCHES,
                };
                product::<S, TILE, 1>(simd, 0..BLOCK, d, [term], &mut Add { to, stride: d });
            } else if unit < d / BLOCK + PATCHES / TOKEN_TILE {
                let first = (unit - d / BLOCK) * TOKEN_TILE * d;
                let start = places.base.start + first;
                // SAFETY: these rows belong to this unit.
                let to = unsafe { total.slice_mut(start..start + TOKEN_TILE * d) };
                let term = Term {
                    left: &blank[first..],
                    left_row: d,
                    left_depth: 1,
                    right: scores_t,
                    right_row: d,
                    depth: d_model,
                };
                let finish = &mut AddWhere { positive: &blank_embedded[first..], to, stride: d };
                product::<S, TOKEN_TILE, 1>(simd, 0..TOKEN_TILE, d, [term], finish);
            } else {
                // SAFETY: the bias' row belongs to this unit.
                let bias = unsafe { total.slice_mut(places.scores.end - d..places.scores.end) };
                blank.chunks(d).for_each(|row| add(bias, row));
            }
        }
    }

    /// Parts that [`Layouts::update`] is cut into.
    pub fn update_units(&self) -> usize {
        let (d, f) = self.blocks();
        3 * d + 2 * f + 2
    }

    /// Writes the `units` of the updated parameters: `new = old - rate * gradient`. Other threads
    /// may do other units at the same time.
    #[inline(always)]
    pub fn update<S: Simd>(
        &self,
        simd: S,
        units: Range<usize>,
        rate: f32,
        gradient: &[f32],
        old: &[f32],
        new: Shared<'_, f32>,
    ) {
        let Widths { d, f, d_model, ff } = self.widths;
        let (d_blocks, f_blocks) = self.blocks();
        let Weights { query, key, key_t, value, ff1, ff1_t, ff2, out, out_t, .. } = &self.weights;
        let part = |range: &Range<usize>| &gradient[range.clone()];
        let (d_scores, scores_bias) = part(&self.gradient.scores).split_at(d * d);
        let (d_logits, logits_bias) = part(&self.gradient.logits).split_at(f * LOGITS);
        let scores = Chain {
            d_folded: d_scores,
            row: d,
            column: 1,
            bias: scores_bias,
            rate: rate * self.scores_factor(),
            old,
            new,
            d,
        };
        let wide = Chain {
            d_folded: part(&self.gradient.wide_t),
            row: 1,
            column: d,
            bias: part(&self.gradient.wide_bias),
            rate,
            ..scores
        };
        let logits = Chain { d_folded: d_logits, row: LOGITS, bias: logits_bias, rate, ..scores };
        for unit in units {
            let f_unit = unit.wrapping_sub(3 * d_blocks);
            if unit < d_blocks {
                scores.inner_block(simd, unit, query, key_t, d_model);
            } else if unit < 2 * d_blocks {
                scores.outer_block(simd, unit - d_blocks, query, key, key_t);
            } else if unit < 3 * d_blocks {
                wide.inner_block(simd, unit - 2 * d_blocks, value, ff1_t, ff);
            } else if f_unit < f_blocks {
                wide.outer_block(simd, f_unit, value, ff1, ff1_t);
            } else if f_unit < 2 * f_blocks {
                logits.inner_block(simd, f_unit - f_blocks, ff2, out_t, LOGITS);
            } else if f_unit == 2 * f_blocks {
                logits.outer_block(simd, 0, ff2, out, out_t);
            } else {
                scores.inner_bias(simd, query, key_t, d_model);
                wide.inner_bias(simd, value, ff1_t, ff);
                logits.inner_bias(simd, ff2, out_t, LOGITS);
                self.update_rest(rate, gradient, old, new);
            }
        }
    }

    /// What is no part of a chain: outer biases and the embedding.
    fn update_rest(&self, rate: f32, gradient: &[f32], old: &[f32], new: Shared<'_, f32>) {
        let Widths { d, f, .. } = self.widths;
        let weights = &self.weights;
        let part = |range: &Range<usize>| &gradient[range.clone()];
        let step = |range: &Range<usize>, rate: f32, gradient: &[f32]| {
            // SAFETY: these parts belong to the unit that this is called for.
            let new = unsafe { new.slice_mut(range.clone()) };
            for ((new, &old), &slope) in new.iter_mut().zip(&old[range.clone()]).zip(gradient) {
                *new = old - rate * slope;
            }
        };
        step(&weights.ff1_bias, rate, part(&self.gradient.wide_bias));
        step(&weights.out_bias, rate, &part(&self.gradient.logits)[f * LOGITS..]);
        step(&weights.patch, rate * PIXEL_SCALE, part(&self.gradient.patch));
        let base = part(&self.gradient.base);
        step(&weights.position, rate, base);
        // SAFETY: as above.
        let bias = unsafe { new.slice_mut(weights.patch_bias.clone()) };
        bias.fill(0.0);
        base.chunks(d).for_each(|row| add(bias, row));
        for (bias, &old) in bias.iter_mut().zip(&old[weights.patch_bias.clone()]) {
            *bias = old - rate * *bias;
        }
        // SAFETY: as above.
        unsafe { new.slice_mut(weights.key_bias.clone()) }
            .copy_from_slice(&old[weights.key_bias.clone()]);
    }
}

/// Sums the first `len` floats of each of `N` chunks, `stride` apart, into those of the first.
#[inline(always)]
fn sum_block<S: Simd, const N: usize>(simd: S, chunks: &mut [f32], len: usize, stride: usize) {
    for place in (0..len).step_by(S::LANES) {
        let mut sums = [simd.splat(0.0); N];
        for (chunk, sum) in sums.iter_mut().enumerate() {
            *sum = load(simd, chunks, chunk * stride + place);
        }
        let mut half = 1;
        while half < N {
            for left in (0..N).step_by(2 * half) {
                sums[left] = simd.add(sums[left], sums[left + half]);
            }
            half *= 2;
        }
        store(simd, chunks, place, sums[0]);
    }
}

/// `to = left + right`, of which one comes from another core: asked for well before, as that takes
/// long.
#[inline(always)]
fn add_two<S: Simd>(simd: S, left: &[f32], right: &[f32], to: &mut [f32]) {
    const AHEAD: usize = 32 * MAX_LANES;
    assert!(left.len() == to.len() && right.len() == to.len());
    for place in (0..to.len()).step_by(S::LANES) {
        simd.prefetch(left.as_ptr().wrapping_add(place + AHEAD).cast());
        simd.prefetch(right.as_ptr().wrapping_add(place + AHEAD).cast());
        let sum = simd.add(load(simd, left, place), load(simd, right, place));
        store(simd, to, place, sum);
    }
}

fn add(to: &mut [f32], values: &[f32]) {
    for (to, &value) in to.iter_mut().zip(values) {
        *to += value;
    }
}

/// A product of weights that is folded.
#[derive(Clone, Copy)]
struct Fold {
    depth: usize,
    inner_row: usize,
    columns: usize,
    factor: f32,
}

impl Fold {
    /// Folds a block of rows and transposes it. `to`: buffer, start of the rows, start of the
    /// transposed matrix, length of its rows.
    #[inline(always)]
    fn block<S: Simd>(
        self,
        simd: S,
        block: usize,
        inner: &[f32],
        outer: &[f32],
        (folded, start, start_t, row_t): (Shared<'_, f32>, usize, usize, usize),
    ) {
        let first = start + block * BLOCK * self.columns;
        // SAFETY: these rows belong to one unit.
        let to = unsafe { folded.slice_mut(first..first + BLOCK * self.columns) };
        let term = self.term(&inner[block * BLOCK * self.inner_row..], outer);
        let finish = &mut WriteScaled { factor: self.factor, to, stride: self.columns };
        product::<S, TILE, 1>(simd, 0..BLOCK, self.columns, [term], finish);
        // SAFETY: so do these columns of the transposed matrix.
        unsafe { transpose_block(simd, to, self.columns, folded, start_t + block * BLOCK, row_t) };
    }

    /// Folds one row.
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, inner: &[f32], outer: &[f32], to: &mut [f32]) {
        let term = self.term(inner, outer);
        let finish = &mut WriteScaled { factor: self.factor, to, stride: self.columns };
        product::<S, 1, 1>(simd, 0..1, self.columns, [term], finish);
    }

    #[inline(always)]
    fn term<'data>(self, inner: &'data [f32], outer: &'data [f32]) -> Term<'data> {
        Term {
            left: inner,
            left_row: self.inner_row,
            left_depth: 1,
            right: outer,
            right_row: self.columns,
            depth: self.depth,
        }
    }
}

/// A folded product's gradient, and where the weights are that it is taken apart into.
#[derive(Clone, Copy)]
struct Chain<'data> {
    /// Element (row of the inner weights, column of the outer ones) is at
    /// `row * self.row + column * self.column`.
    d_folded: &'data [f32],
    row: usize,
    column: usize,
    bias: &'data [f32], // (columns)
    rate: f32,
    old: &'data [f32],
    new: Shared<'data, f32>,
    d: usize,
}

impl Chain<'_> {
    /// A block of rows of the inner weights: their gradient is `d_folded x outer^T`.
    #[inline(always)]
    fn inner_block<S: Simd>(
        self,
        simd: S,
        block: usize,
        inner: &Range<usize>,
        outer_t: &Range<usize>,
        depth: usize,
    ) {
        let term = Term {
            left: &self.d_folded[block * BLOCK * self.row..],
            left_row: self.row,
            left_depth: self.column,
            right: &self.old[outer_t.clone()],
            right_row: self.d,
            depth,
        };
        let first = inner.start + block * BLOCK * self.d;
        // SAFETY: these rows belong to one unit.
        unsafe { self.descend::<S, TILE, 1>(simd, first, BLOCK, [term]) };
    }

    /// The bias of the inner weights, after their last row.
    #[inline(always)]
    fn inner_bias<S: Simd>(
        self,
        simd: S,
        inner: &Range<usize>,
        outer_t: &Range<usize>,
        depth: usize,
    ) {
        let term = Term {
            left: self.bias,
            left_row: 0,
            left_depth: 1,
            right: &self.old[outer_t.clone()],
            right_row: self.d,
            depth,
        };
        // SAFETY: the row belongs to one unit.
        unsafe { self.descend::<S, 1, 1>(simd, inner.end - self.d, 1, [term]) };
    }

    /// A block of rows of the outer weights, transposed: their gradient is `d_folded^T x inner`,
    /// biases included.
    #[inline(always)]
    fn outer_block<S: Simd>(
        self,
        simd: S,
        block: usize,
        inner: &Range<usize>,
        outer: &Range<usize>,
        outer_t: &Range<usize>,
    ) {
        let (rows, bias) = self.old[inner.clone()].split_at(inner.len() - self.d);
        let weights = Term {
            left: &self.d_folded[block * BLOCK * self.column..],
            left_row: self.column,
            left_depth: self.row,
            right: rows,
            right_row: self.d,
            depth: rows.len() / self.d,
        };
        let biases = Term {
            left: &self.bias[block * BLOCK..],
            left_row: 1,
            left_depth: 0,
            right: bias,
            right_row: 0,
            depth: 1,
        };
        let first = outer_t.start + block * BLOCK * self.d;
        // SAFETY: these rows belong to one unit, and so do these columns of the transposed matrix.
        unsafe {
            self.descend::<S, TILE, 2>(simd, first, BLOCK, [weights, biases]);
            let rows = self.new.slice(first..first + BLOCK * self.d);
            let columns = self.bias.len();
            transpose_block(simd, rows, self.d, self.new, outer.start + block * BLOCK, columns);
        }
    }

    /// Writes `rows` updated rows from the place `first` on; the terms are their gradient.
    ///
    /// # Safety
    /// Nobody else touches these rows.
    #[inline(always)]
    unsafe fn descend<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        first: usize,
        rows: usize,
        terms: [Term<'_>; N],
    ) {
        let places = first..first + rows * self.d;
        // SAFETY: says the caller.
        let to = unsafe { self.new.slice_mut(places.clone()) };
        let finish = &mut Descend { old: &self.old[places], rate: self.rate, to, stride: self.d };
        product::<S, R, N>(simd, 0..rows, self.d, terms, finish);
    }
}

/// Transposes [`BLOCK`] rows of `columns` elements into as many columns.
///
/// # Safety
/// Nobody else touches these columns.
#[inline(always)]
unsafe fn transpose_block<S: Simd>(
    simd: S,
    rows: &[f32],
    columns: usize,
    to: Shared<'_, f32>,
    start: usize,
    row: usize,
) {
    assert!(rows.len() == BLOCK * columns && columns.is_multiple_of(S::LANES));
    for i in (0..BLOCK).step_by(S::LANES) {
        for j in (0..columns).step_by(S::LANES) {
            // SAFETY: the last element is within the buffer, which `slice` asserts; nobody else
            // touches the places, says the caller.
            unsafe {
                let first = start + j * row + i;
                let _ = to.slice(first..first + (S::LANES - 1) * row + S::LANES);
                let from = rows.as_ptr().add(i * columns + j);
                simd.transpose(from, columns, to.as_ptr().add(first), row);
            }
        }
    }
}

/// Writes the sums by a factor.
struct WriteScaled<'data> {
    factor: f32,
    to: &'data mut [f32],
    stride: usize,
}

impl Finish for WriteScaled<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = row * self.stride + vector * S::LANES;
        store(simd, self.to, place, simd.mul(simd.splat(self.factor), sum));
    }
}

/// Writes `old - rate * sum`.
struct Descend<'data> {
    old: &'data [f32],
    rate: f32,
    to: &'data mut [f32],
    stride: usize,
}

impl Finish for Descend<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = row * self.stride + vector * S::LANES;
        let value = simd.fnma(simd.splat(self.rate), sum, load(simd, self.old, place));
        store(simd, self.to, place, value);
    }
}

/// Adds the sums where `positive` is.
struct AddWhere<'data> {
    positive: &'data [f32],
    to: &'data mut [f32],
    stride: usize,
}

impl Finish for AddWhere<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = row * self.stride + vector * S::LANES;
        let zero = simd.splat(0.0);
        let positive = simd.gt(load(simd, self.positive, place), zero);
        let sum = simd.add(load(simd, self.to, place), simd.select(positive, sum, zero));
        store(simd, self.to, place, sum);
    }
}
