//! Causal attention of one head of one window, forward and backward.
//!
//! Scores lie transposed, keys by queries: a vector holds the scores of one key with as many queries,
//! so that maxima and sums over the keys go from vector to vector and no vector is ever summed across.
//! Only queries and the gradient of the output have to be transposed for that, once a head.
//!
//! Queries are taken in blocks of [`BLOCK`], so that the scores of one block stay in cache whatever the
//! context. What lies above the diagonal is skipped in steps of 16 keys or queries, and never read.
//! Backward computes the exponentials again, from each query's largest score and sum: to keep them
//! takes memory that grows with the square of the context, and at a context of 64 as long.

use super::product::{
    Add, ByColumns, ByRows, Matrix, PANEL, Product, Write, padded, place, product,
};
use crate::finish::{Finish, load, store};
use crate::simd::{Kernel, MAX_LANES, Simd, exp2_not_positive};
use std::f32::consts::LOG2_E;

/// Queries whose scores are in work at a time.
pub const BLOCK: usize = 64;

/// The sizes of a head.
#[derive(Clone, Copy)]
pub struct Head {
    /// Tokens of the window.
    pub context: usize,
    /// Rows of the matrices, of which the window's are the first.
    pub rows: usize,
    /// Width, padded.
    pub width: usize,
    /// The factor of the scores.
    pub scale: f32,
}

impl Head {
    /// The padding of a head's width adds nothing; the scale is by the width without it.
    pub fn new(context: usize, rows: usize, head_width: usize) -> Head {
        let scale = 1.0 / (head_width as f32).sqrt();
        Head { context, rows, width: padded(head_width), scale }
    }

    /// Elements of [`Scratch`]'s parts.
    pub fn scratch(self) -> [usize; 4] {
        let scores = BLOCK * self.context;
        [BLOCK * self.width, BLOCK * self.width, scores, scores]
    }
}

/// Room for one block of queries.
pub struct Scratch<'data> {
    pub turned: &'data mut [f32],   // (width, 64)
    pub d_turned: &'data mut [f32], // (width, 64)
    pub scores: &'data mut [f32],   // (context, 64)
    pub d_scores: &'data mut [f32], // (context, 64)
}

/// Queries, keys and values of a head: (context, width) each.
#[derive(Clone, Copy)]
pub struct Qkv<'data> {
    pub queries: &'data [f32],
    pub keys: &'data [f32],
    pub values: &'data [f32],
}

/// The values of each query's softmax that the backward pass needs.
pub struct Softmax<'data> {
    pub largest: &'data mut [f32],      // (context), padded
    pub inverse_sums: &'data mut [f32], // (context), padded
}

/// Writes what a head attends to, and what backward needs of the softmax.
pub struct Forward<'data> {
    pub head: Head,
    pub from: Qkv<'data>,
    pub softmax: Softmax<'data>,
    pub attended: &'data mut [f32], // (context, width)
    pub scratch: Scratch<'data>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Forward { head, from, mut softmax, attended, scratch } = self;
        let Head { context, rows: all, width, .. } = head;
        for first in (0..context).step_by(BLOCK) {
            let queries = BLOCK.min(context - first);
            turn(simd, head, from.queries, first, scratch.turned);
            scores(simd, head, first, from.keys, scratch.turned, scratch.scores);
            for panel in 0..queries.div_ceil(PANEL) {
                let query = first + panel * PANEL;
                let scores = &mut scratch.scores[panel * context * PANEL..][..context * PANEL];
                for lane in (0..PANEL).step_by(S::LANES) {
                    exponentials(simd, head, query, lane, scores, &mut softmax);
                }
            }
            for row in (0..queries).step_by(8) {
                let rows = row..queries.min(row + 8);
                product::<S, ByColumns>(
                    simd,
                    Product {
                        left: Matrix { data: scratch.scores, rows: context },
                        right: Matrix { data: from.values, rows: all },
                        depth: 0..first + rows.end,
                        rows,
                        panels: 0..width / PANEL,
                    },
                    &mut Scaled {
                        to: attended,
                        rows: all,
                        first,
                        factors: &softmax.inverse_sums[first..],
                    },
                );
            }
        }
    }
}

/// Writes the gradients of a head's queries, keys and values, (context, width) each.
pub struct Backward<'data> {
    pub head: Head,
    pub from: Qkv<'data>,
    pub softmax: Softmax<'data>,
    pub d_attended: &'data [f32], // (context, width)
    pub to: DQkv<'data>,
    pub scratch: Scratch<'data>,
}

/// Gradients of queries, keys and values: (context, width) each.
pub struct DQkv<'data> {
    pub queries: &'data mut [f32],
    pub keys: &'data mut [f32],
    pub values: &'data mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Backward { head, from, softmax, d_attended, to, scratch } = self;
        let Head { context, rows: all, width, .. } = head;
        for panel in (0..width / PANEL).map(|panel| panel * all * PANEL) {
            to.keys[panel..][..context * PANEL].fill(0.0);
            to.values[panel..][..context * PANEL].fill(0.0);
        }
        for first in (0..context).step_by(BLOCK) {
            let queries = BLOCK.min(context - first);
            let end = first + queries;
            turn(simd, head, from.queries, first, scratch.turned);
            turn(simd, head, d_attended, first, scratch.d_turned);
            scores(simd, head, first, from.keys, scratch.turned, scratch.scores);
            scores(simd, head, first, from.values, scratch.d_turned, scratch.d_scores);
            for panel in 0..queries.div_ceil(PANEL) {
                let query = first + panel * PANEL;
                let part = panel * context * PANEL..(panel + 1) * context * PANEL;
                let scores = &mut scratch.scores[part.clone()];
                let d_scores = &mut scratch.d_scores[part];
                for lane in (0..PANEL).step_by(S::LANES) {
                    score_gradients(simd, head, query, lane, &softmax, scores, d_scores);
                }
            }
            let panels = 0..width / PANEL;
            for key in (0..end).step_by(PANEL) {
                // Keys attend to nobody before them: the block's queries from their own panel on.
                let depth = key.saturating_sub(first)..queries;
                for (scores, rows, to) in [
                    (&*scratch.scores, d_attended, &mut *to.values),
                    (&*scratch.d_scores, from.queries, &mut *to.keys),
                ] {
                    product::<S, ByRows>(
                        simd,
                        Product {
                            left: Matrix { data: scores, rows: context },
                            right: Matrix { data: &rows[first * PANEL..], rows: all },
                            rows: key..end.min(key + PANEL),
                            panels: panels.clone(),
                            depth: depth.clone(),
                        },
                        &mut Add { to, rows: all },
                    );
                }
            }
            for row in (0..queries).step_by(8) {
                let rows = row..queries.min(row + 8);
                product::<S, ByColumns>(
                    simd,
                    Product {
                        left: Matrix { data: scratch.d_scores, rows: context },
                        right: Matrix { data: from.keys, rows: all },
                        depth: 0..first + rows.end,
                        rows,
                        panels: panels.clone(),
                    },
                    &mut Write { to: &mut to.queries[first * PANEL..], rows: all },
                );
            }
        }
    }
}

/// Transposes the rows of a block of queries, (64, width), to (width, 64); zeros after the last.
#[inline(always)]
fn turn<S: Simd>(simd: S, head: Head, from: &[f32], first: usize, to: &mut [f32]) {
    let Head { context, rows, width, .. } = head;
    let queries = BLOCK.min(context - first);
    for lanes in 0..queries.div_ceil(PANEL) {
        let row = first + lanes * PANEL;
        let count = PANEL.min(context - row);
        for panel in 0..width / PANEL {
            let from = &from[(panel * rows + row) * PANEL..][..count * PANEL];
            let to = &mut to[(lanes * width + panel * PANEL) * PANEL..][..PANEL * PANEL];
            if count == PANEL {
                turn_square(simd, from, to);
            } else {
                let mut square = [0.0; PANEL * PANEL];
                square[..from.len()].copy_from_slice(from);
                turn_square(simd, &square, to);
            }
        }
    }
}

/// Transposes 16 rows of 16.
#[inline(always)]
pub fn turn_square<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    assert!(from.len() >= PANEL * PANEL && to.len() >= PANEL * PANEL);
    for i in (0..PANEL).step_by(S::LANES) {
        for j in (0..PANEL).step_by(S::LANES) {
            // SAFETY: a square within 16 x 16.
            unsafe {
                let from = from.as_ptr().add(i * PANEL + j);
                simd.transpose(from, PANEL, to.as_mut_ptr().add(j * PANEL + i), PANEL);
            }
        }
    }
}

/// Dot products of the rows of `left`, (context, width), with the queries of a block, (width, 64): to
/// (context, 64), as far as some query of a pair of panels comes after the row.
#[inline(always)]
fn scores<S: Simd>(
    simd: S,
    head: Head,
    first: usize,
    left: &[f32],
    turned: &[f32],
    to: &mut [f32],
) {
    let Head { context, rows, width, .. } = head;
    let count = BLOCK.min(context - first).div_ceil(PANEL);
    for panel in (0..count).step_by(2) {
        let panels = panel..count.min(panel + 2);
        product::<S, ByRows>(
            simd,
            Product {
                left: Matrix { data: left, rows },
                right: Matrix { data: turned, rows: width },
                rows: 0..context.min(first + panels.end * PANEL),
                panels,
                depth: 0..width,
            },
            &mut Write { to, rows: context },
        );
    }
}

/// Of the queries from `query + lane` on, which are at or after the `key`.
#[inline(always)]
fn seen<S: Simd>(simd: S, query: usize, lane: usize, key: usize) -> S::Mask {
    let mut lanes = [0.0; MAX_LANES];
    for (i, value) in lanes.iter_mut().enumerate() {
        *value = i as f32;
    }
    let least = key as f32 - (query + lane) as f32 - 0.5;
    simd.gt(load(simd, &lanes, 0), simd.splat(least))
}

/// Turns the scores of [`Simd::LANES`] queries, of a panel that begins at `query`, into exponentials,
/// not divided by their sums. `scores`: (context, 16).
#[inline(always)]
fn exponentials<S: Simd>(
    simd: S,
    head: Head,
    query: usize,
    lane: usize,
    scores: &mut [f32],
    softmax: &mut Softmax<'_>,
) {
    let end = head.context.min(query + PANEL);
    let mut largest = load(simd, scores, lane); // the first key is everyone's
    for key in 1..query {
        largest = simd.max(largest, load(simd, scores, key * PANEL + lane));
    }
    for key in query.max(1)..end {
        let larger = simd.max(largest, load(simd, scores, key * PANEL + lane));
        largest = simd.select(seen(simd, query, lane, key), larger, largest);
    }
    let scale = simd.splat(head.scale * LOG2_E);
    let shift = simd.mul(largest, scale);
    let zero = simd.splat(0.0);
    let mut sum = zero;
    for key in 0..query {
        let score = load(simd, scores, key * PANEL + lane);
        let exponential = exp2_not_positive(simd, not_above(simd, score, scale, shift));
        store(simd, scores, key * PANEL + lane, exponential);
        sum = simd.add(sum, exponential);
    }
    for key in query..end {
        let score = load(simd, scores, key * PANEL + lane);
        let exponential = exp2_not_positive(simd, not_above(simd, score, scale, shift));
        let exponential = simd.select(seen(simd, query, lane, key), exponential, zero);
        store(simd, scores, key * PANEL + lane, exponential);
        sum = simd.add(sum, exponential);
    }
    store(simd, softmax.largest, query + lane, shift);
    store(simd, softmax.inverse_sums, query + lane, simd.div(simd.splat(1.0), sum));
}

/// `score * scale - shift`, and 0 where rounding or an unseen key would have it above.
#[inline(always)]
fn not_above<S: Simd>(simd: S, score: S::F32, scale: S::F32, shift: S::F32) -> S::F32 {
    let distance = simd.fma(score, scale, simd.sub(simd.splat(0.0), shift));
    simd.min(simd.splat(0.0), distance) // in this order: keeps NaN
}

/// Of [`Simd::LANES`] queries: the scores become probabilities, and the gradients of the probabilities
/// those of the products of queries and keys. Both: (context, 16).
#[inline(always)]
fn score_gradients<S: Simd>(
    simd: S,
    head: Head,
    query: usize,
    lane: usize,
    softmax: &Softmax<'_>,
    scores: &mut [f32],
    d_scores: &mut [f32],
) {
    let end = head.context.min(query + PANEL);
    let scale = simd.splat(head.scale * LOG2_E);
    let shift = load(simd, softmax.largest, query + lane);
    let inverse = load(simd, softmax.inverse_sums, query + lane);
    let zero = simd.splat(0.0);
    let mut dot = zero;
    for key in 0..end {
        let at = key * PANEL + lane;
        let distance = not_above(simd, load(simd, scores, at), scale, shift);
        let mut probability = simd.mul(exp2_not_positive(simd, distance), inverse);
        if key >= query {
            probability = simd.select(seen(simd, query, lane, key), probability, zero);
        }
        store(simd, scores, at, probability);
        dot = simd.fma(probability, load(simd, d_scores, at), dot);
    }
    let scale = simd.splat(head.scale);
    for key in 0..end {
        let at = key * PANEL + lane;
        let probability = simd.mul(load(simd, scores, at), scale);
        let d = simd.mul(probability, simd.sub(load(simd, d_scores, at), dot));
        store(simd, d_scores, at, d);
    }
}

/// Writes the result from the row `first` on, each row multiplied with a factor.
struct Scaled<'data> {
    to: &'data mut [f32],
    rows: usize,
    first: usize,
    factors: &'data [f32],
}

impl Finish for Scaled<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = place::<S>(self.rows, self.first + row, vector);
        store(simd, self.to, place, simd.mul(sum, simd.splat(self.factors[row])));
    }
}
