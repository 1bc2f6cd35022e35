//! The 3x3 convolution with ReLU and 2x2 max-pool, forward and backward, fused: what lies between
//! them stays in registers.
//!
//! Sixteen input vectors (4 rows, 4 columns of [`Planes`]) give the four outputs that each pooled
//! place of a row chooses among; lanes are pooled columns. Forward: 36 FMAs per filter and row.
//! Backward: the gradient reaches one output in four, so the nine inputs of the chosen output are
//! selected first (21 selects, which do not occupy the FMA pipes) and then take 9 FMAs.
//!
//! Pooled rows that see only zero pixels cost nothing: all their outputs are the bias, and the
//! gradient of the weights gets nothing from them.
//!
//! Everything is for as many filters as `weights` holds, (filters, 10): nine taps and the bias of
//! each. Pooled values and their gradients are (filters, 14, 16), lanes 14 and 15 zero.

use super::layout::{FILTER, FILTER_ROWS, POOLED_SIDE, ROW};
use super::planes::Planes;
use crate::simd::Simd;

/// Which of the four outputs a vector of pooled places has chosen.
pub struct Choice<S: Simd> {
    right: S::Mask,
    below: S::Mask,
}

impl<S: Simd> Clone for Choice<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd> Copy for Choice<S> {}

impl<S: Simd> Choice<S> {
    /// Choices for so many filters, (filters, 14, 16 / lanes).
    pub fn of_filters(simd: S, filters: usize) -> Vec<Choice<S>> {
        let never = simd.gt(simd.splat(0.0), simd.splat(0.0));
        vec![Choice { right: never, below: never }; filters * Self::per_filter()]
    }

    /// Choices of one filter.
    pub fn per_filter() -> usize {
        FILTER_ROWS / S::LANES
    }
}

/// Ones where a pooled column is, zeros in the lanes without.
static COLUMN: [f32; ROW] = [1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 0., 0.];

/// Writes the pooled values and their choices.
///
/// # Panics
/// If the slices are not for the same number of filters.
#[inline(always)]
pub fn forward<S: Simd>(
    simd: S,
    weights: &[f32],
    planes: &Planes,
    pooled: &mut [f32],
    choices: &mut [Choice<S>],
) {
    let filters = weights.len() / FILTER;
    assert!(weights.len() == filters * FILTER && pooled.len() == filters * FILTER_ROWS);
    assert!(choices.len() == filters * Choice::<S>::per_filter());
    let zero = simd.splat(0.0); // first in a maximum: a NaN in second place stays
    for lane in (0..ROW).step_by(S::LANES) {
        // SAFETY: `COLUMN` has `ROW` elements, a multiple of the lanes.
        let inside = simd.gt(unsafe { simd.load(COLUMN.as_ptr().add(lane)) }, zero);
        for row in 0..POOLED_SIDE {
            if !planes.sees(row) {
                for filter in 0..filters {
                    let bias = simd.splat(weights[filter * FILTER + FILTER - 1]);
                    let value = simd.select(inside, simd.max(zero, bias), zero);
                    let place = filter * FILTER_ROWS + row * ROW + lane;
                    // SAFETY: rows of `ROW` elements, of which this is a whole vector.
                    unsafe { simd.store(pooled.as_mut_ptr().add(place), value) };
                }
                continue;
            }
            let mut input = [[zero; 4]; 4];
            for (r, inputs) in input.iter_mut().enumerate() {
                for (c, input) in inputs.iter_mut().enumerate() {
                    *input = planes.input(simd, row, r, c, lane);
                }
            }
            for filter in 0..filters {
                let taps = &weights[filter * FILTER..][..FILTER];
                let mut output = [[simd.splat(taps[FILTER - 1]); 2]; 2];
                for tap in 0..FILTER - 1 {
                    let weight = simd.splat(taps[tap]);
                    for (y, outputs) in output.iter_mut().enumerate() {
                        for (x, output) in outputs.iter_mut().enumerate() {
                            *output = simd.fma(weight, input[y + tap / 3][x + tap % 3], *output);
                        }
                    }
                }
                // Of equal outputs the first in row order is chosen: below and right only if
                // greater.
                let [[a, b], [c, d]] = output;
                let below = simd.gt(simd.max(c, d), simd.max(a, b));
                let (left, right) = (simd.select(below, c, a), simd.select(below, d, b));
                let choose_right = simd.gt(right, left);
                let largest = simd.select(choose_right, right, left);
                let value = simd.select(inside, simd.max(zero, largest), zero);
                let place = filter * FILTER_ROWS + row * ROW + lane;
                // SAFETY: as above.
                unsafe { simd.store(pooled.as_mut_ptr().add(place), value) };
                choices[place / S::LANES] = Choice { right: choose_right, below };
            }
        }
    }
}

/// Adds the gradient of the weights, (filters, 10, lanes): its lanes are still to be summed.
///
/// # Panics
/// If the slices are not for the same number of filters.
#[inline(always)]
pub fn backward<S: Simd>(
    simd: S,
    planes: &Planes,
    pooled: &[f32],
    choices: &[Choice<S>],
    d_pooled: &[f32],
    gradient: &mut [f32],
) {
    let filters = pooled.len() / FILTER_ROWS;
    assert!(pooled.len() == filters * FILTER_ROWS && d_pooled.len() == pooled.len());
    assert!(choices.len() == filters * Choice::<S>::per_filter());
    assert!(gradient.len() == filters * FILTER * S::LANES);
    let zero = simd.splat(0.0);
    for filter in 0..filters {
        let mut sums = [zero; FILTER];
        for lane in (0..ROW).step_by(S::LANES) {
            for row in 0..POOLED_SIDE {
                let place = filter * FILTER_ROWS + row * ROW + lane;
                // SAFETY: rows of `ROW` elements, of which this is a whole vector.
                let (value, d) = unsafe {
                    (simd.load(pooled.as_ptr().add(place)), simd.load(d_pooled.as_ptr().add(place)))
                };
                let d = simd.select(simd.gt(value, zero), d, zero);
                sums[FILTER - 1] = simd.add(sums[FILTER - 1], d);
                if !planes.sees(row) {
                    continue;
                }
                let Choice { right, below } = choices[place / S::LANES];
                let mut input = [[zero; 3]; 4];
                for (r, inputs) in input.iter_mut().enumerate() {
                    for (c, input) in inputs.iter_mut().enumerate() {
                        let left = planes.input(simd, row, r, c, lane);
                        *input = simd.select(right, planes.input(simd, row, r, c + 1, lane), left);
                    }
                }
                for (tap, sum) in sums.iter_mut().enumerate().take(FILTER - 1) {
                    let (r, c) = (tap / 3, tap % 3);
                    let chosen = simd.select(below, input[r + 1][c], input[r][c]);
                    *sum = simd.fma(d, chosen, *sum);
                }
            }
        }
        for (tap, &sum) in sums.iter().enumerate() {
            let start = (filter * FILTER + tap) * S::LANES;
            // SAFETY: `gradient` has a vector for each weight, as asserted above.
            unsafe {
                let place = gradient.as_mut_ptr().add(start);
                simd.store(place, simd.add(simd.load(place), sum));
            }
        }
    }
}
