//! The softmax of 49 rows of 49 scores, and the dot products of rows that go with it.
//!
//! 49 columns are three vectors of 16 and one element more. The products compute 48 columns; the
//! last one is computed apart, as dot products of rows, and lies in a vector of its own, where its
//! exponentials take a sixteenth of the time that a fourth vector in each row would.
//!
//! Scores come in units of log2(e), so that the exponentials are powers of two, which need no
//! rounding of the exponent.
//!
//! Exponentials are not divided by their sums here: the rows of what they are multiplied with
//! are, 32 elements instead of 49.

use crate::finish::{load, store};
use crate::simd::{MAX_LANES, Simd, exp2_not_positive};
use nn::PATCHES;

/// Distance of the rows of scores, and tokens with padding for whole vectors of them.
pub const STRIDE: usize = 64;
/// Scores in whole vectors; the 49th is computed apart.
pub const COLUMNS: usize = 48;

/// A value for each token, with room for whole vectors.
pub type PerToken = [f32; STRIDE];

/// Dot products of the rows of `a`, (64, width), with those of `b`, (64, width), or with `b` itself
/// if `b_row` is 0.
#[inline(always)]
pub fn row_dots<S: Simd>(
    simd: S,
    a: &[f32],
    b: &[f32],
    b_row: usize,
    width: usize,
    dots: &mut PerToken,
) {
    for first in (0..PATCHES).step_by(S::LANES) {
        let mut rows = [simd.splat(0.0); MAX_LANES];
        for (i, row) in rows.iter_mut().enumerate().take(S::LANES.min(PATCHES - first)) {
            let token = first + i;
            for column in (0..width).step_by(S::LANES) {
                let a = load(simd, a, token * width + column);
                *row = simd.fma(a, load(simd, b, token * b_row + column), *row);
            }
        }
        store(simd, dots, first, simd.sum_rows(&rows));
    }
}

/// Turns scores, (64, 64), into two to the power of their distance from the row's largest, and
/// writes the inverse of their sums. `last`: scores of column 48, which become exponentials both
/// here and in the row.
#[inline(always)]
pub fn exponentials<S: Simd>(
    simd: S,
    scores: &mut [f32],
    last: &mut PerToken,
    inverse_sums: &mut PerToken,
) {
    let mut largest = [0.0; STRIDE];
    for first in (0..PATCHES).step_by(S::LANES) {
        let mut sums = [simd.splat(0.0); MAX_LANES];
        let tokens = S::LANES.min(PATCHES - first);
        for (i, sum) in sums.iter_mut().enumerate().take(tokens) {
            let token = first + i;
            let mut most = simd.splat(last[token]);
            for column in (0..COLUMNS).step_by(S::LANES) {
                most = simd.max(most, load(simd, scores, token * STRIDE + column));
            }
            largest[token] = simd.largest(most);
            let most = simd.splat(largest[token]);
            for column in (0..COLUMNS).step_by(S::LANES) {
                let score = load(simd, scores, token * STRIDE + column);
                let exponential = exp2_not_positive(simd, simd.sub(score, most));
                store(simd, scores, token * STRIDE + column, exponential);
                *sum = simd.add(*sum, exponential);
            }
        }
        let most = load(simd, &largest, first);
        let exponential = exp2_not_positive(simd, simd.sub(load(simd, last, first), most));
        store(simd, last, first, exponential);
        let sum = simd.add(simd.sum_rows(&sums), exponential);
        store(simd, inverse_sums, first, simd.div(simd.splat(1.0), sum));
        for token in first..first + tokens {
            scores[token * STRIDE + COLUMNS] = last[token];
        }
    }
}
