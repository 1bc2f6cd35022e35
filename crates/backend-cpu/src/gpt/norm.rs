//! LayerNorm without bias, forward and backward, on rows of a matrix in panels.
//!
//! The weight is kept out of what backward needs: `normal = (x - mean) / deviation` is stored, and the
//! layer after it reads `normal * weight` from scratch memory. The weight gradient of that layer is
//! `normal^T dy` with its rows scaled by the weight, which is done once a step and not once a token.

use super::product::PANEL;
use crate::finish::{load, store};
use crate::simd::{Kernel, MAX_LANES, Simd};
use nn::gpt::LAYER_NORM_EPSILON;

/// The sizes of what is normalised.
#[derive(Clone, Copy)]
pub struct Rows {
    pub rows: usize,
    /// Columns, not padded: the padding takes no part, and stays zero.
    pub width: usize,
}

impl Rows {
    fn padded(self) -> usize {
        self.width.next_multiple_of(PANEL)
    }

    /// Zeroes the columns that are padding of a vector at this column.
    #[inline(always)]
    fn keep<S: Simd>(self, simd: S, column: usize, vector: S::F32) -> S::F32 {
        if column + S::LANES <= self.width {
            return vector;
        }
        let mut lanes = [0.0; MAX_LANES];
        lanes[..self.width.saturating_sub(column)].fill(1.0);
        simd.mul(vector, load(simd, &lanes, 0))
    }

    #[inline(always)]
    fn place(self, row: usize, column: usize) -> usize {
        (column / PANEL * self.rows + row) * PANEL + column % PANEL
    }
}

/// Writes `normal` and `scaled`, its product with the weight, from `x`, all (rows, width) in panels; and
/// `inverse`, one over the deviation of each row, with room for whole vectors.
pub struct Normalise<'data> {
    pub size: Rows,
    pub x: &'data [f32],
    pub weight: &'data [f32],
    pub normal: &'data mut [f32],
    pub scaled: &'data mut [f32],
    pub inverse: &'data mut [f32],
}

impl Kernel for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Normalise { size, x, weight, normal, scaled, inverse: inverses } = self;
        let over_width = simd.splat(1.0 / size.width as f32);
        let epsilon = simd.splat(LAYER_NORM_EPSILON as f32);
        for first in (0..size.rows).step_by(S::LANES) {
            let count = S::LANES.min(size.rows - first);
            let mut sums = [simd.splat(0.0); MAX_LANES];
            for (r, sum) in sums.iter_mut().enumerate().take(count) {
                for column in (0..size.padded()).step_by(S::LANES) {
                    *sum = simd.add(*sum, load(simd, x, size.place(first + r, column)));
                }
            }
            let mut means = [0.0; MAX_LANES];
            store(simd, &mut means, 0, simd.mul(simd.sum_rows(&sums), over_width));
            for (r, sum) in sums.iter_mut().enumerate().take(count) {
                let mean = simd.splat(means[r]);
                *sum = simd.splat(0.0);
                for column in (0..size.padded()).step_by(S::LANES) {
                    let place = size.place(first + r, column);
                    let centred = size.keep(simd, column, simd.sub(load(simd, x, place), mean));
                    store(simd, normal, place, centred);
                    *sum = simd.fma(centred, centred, *sum);
                }
            }
            let variance = simd.fma(simd.sum_rows(&sums), over_width, epsilon);
            store(simd, inverses, first, simd.div(simd.splat(1.0), simd.sqrt(variance)));
            for r in 0..count {
                let inverse = simd.splat(inverses[first + r]);
                for column in (0..size.padded()).step_by(S::LANES) {
                    let place = size.place(first + r, column);
                    let value = simd.mul(load(simd, normal, place), inverse);
                    store(simd, normal, place, value);
                    store(simd, scaled, place, simd.mul(value, load(simd, weight, column)));
                }
            }
        }
    }
}

/// Writes `d_x`, (rows, width), the gradient of what was normalised, and of what goes past; adds to
/// `d_weight`, (width).
pub struct Backward<'data> {
    pub size: Rows,
    pub weight: &'data [f32],  // (width)
    pub normal: &'data [f32],  // (rows, width)
    pub inverse: &'data [f32], // (rows)
    /// Gradient of `scaled`.
    pub d_scaled: &'data [f32], // (rows, width)
    /// Gradient that goes past the norm.
    pub past: &'data [f32], // (rows, width)
    pub d_x: &'data mut [f32],
    pub d_weight: &'data mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Backward {
            size,
            weight,
            normal: normals,
            inverse: inverses,
            d_scaled,
            past,
            d_x,
            d_weight,
        } = self;
        let over_width = simd.splat(1.0 / size.width as f32);
        for first in (0..size.rows).step_by(S::LANES) {
            let count = S::LANES.min(size.rows - first);
            let mut sums = [simd.splat(0.0); MAX_LANES];
            let mut products = [simd.splat(0.0); MAX_LANES];
            for r in 0..count {
                for column in (0..size.padded()).step_by(S::LANES) {
                    let place = size.place(first + r, column);
                    let (d, normal) = (load(simd, d_scaled, place), load(simd, normals, place));
                    let d_normal = simd.mul(d, load(simd, weight, column));
                    sums[r] = simd.add(sums[r], d_normal);
                    products[r] = simd.fma(d_normal, normal, products[r]);
                    let sum = simd.fma(d, normal, load(simd, d_weight, column));
                    store(simd, d_weight, column, sum);
                }
            }
            let (mut means, mut slopes) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            store(simd, &mut means, 0, simd.mul(simd.sum_rows(&sums), over_width));
            store(simd, &mut slopes, 0, simd.mul(simd.sum_rows(&products), over_width));
            for r in 0..count {
                let (mean, slope) = (simd.splat(means[r]), simd.splat(slopes[r]));
                let inverse = simd.splat(inverses[first + r]);
                for column in (0..size.padded()).step_by(S::LANES) {
                    let place = size.place(first + r, column);
                    let (d, normal) = (load(simd, d_scaled, place), load(simd, normals, place));
                    let d_normal = simd.mul(d, load(simd, weight, column));
                    let d = simd.fnma(normal, slope, simd.sub(d_normal, mean));
                    let d = size.keep(simd, column, simd.mul(d, inverse));
                    store(simd, d_x, place, simd.add(d, load(simd, past, place)));
                }
            }
        }
    }
}
