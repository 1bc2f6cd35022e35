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
//! Everything counted in floats: weights (8, 10), nine taps and the bias of each filter; pooled
//! values and their gradients (14, 8, 16), lanes 14 and 15 zero.

use super::planes::Planes;
use super::{FILTER, LINES, POOLED_SIDE, ROW};
use crate::simd::Simd;
use nn::CONV_FILTERS;

/// Which of the four outputs a pooled place has chosen.
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

/// The choices of one image: (14, 8, 16 / lanes).
pub struct Choices<S: Simd>(Vec<Choice<S>>);

impl<S: Simd> Choices<S> {
    pub fn new(simd: S) -> Choices<S> {
        let never = simd.gt(simd.splat(0.0), simd.splat(0.0));
        Choices(vec![Choice { right: never, below: never }; LINES * ROW / S::LANES])
    }
}

/// Ones where a pooled column is, zeros in the lanes without.
static COLUMN: [f32; ROW] = [1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 0., 0.];

/// Writes the pooled values, (14, 8, 16), and their choices.
#[inline(always)]
pub fn forward<S: Simd>(
    simd: S,
    weights: &[f32; CONV_FILTERS * FILTER],
    planes: &Planes,
    pooled: &mut [f32; LINES * ROW],
    choices: &mut Choices<S>,
) {
    let zero = simd.splat(0.0); // first in a maximum: a NaN in second place stays
    for lane in (0..ROW).step_by(S::LANES) {
        // SAFETY: `COLUMN` has `ROW` elements, a multiple of the lanes.
        let inside = simd.gt(unsafe { simd.load(COLUMN.as_ptr().add(lane)) }, zero);
        for row in 0..POOLED_SIDE {
            let start = row * CONV_FILTERS * ROW + lane;
            if !planes.sees(row) {
                for filter in 0..CONV_FILTERS {
                    let bias = simd.splat(weights[filter * FILTER + FILTER - 1]);
                    let value = simd.select(inside, simd.max(zero, bias), zero);
                    // SAFETY: lines of `ROW` elements, of which this is a whole vector.
                    unsafe { simd.store(pooled.as_mut_ptr().add(start + filter * ROW), value) };
                }
                continue;
            }
            let mut input = [[zero; 4]; 4];
            for (r, inputs) in input.iter_mut().enumerate() {
                for (c, input) in inputs.iter_mut().enumerate() {
                    *input = planes.input(simd, row, r, c, lane);
                }
            }
            for filter in 0..CONV_FILTERS {
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
                // SAFETY: as above.
                unsafe { simd.store(pooled.as_mut_ptr().add(start + filter * ROW), value) };
                choices.0[(start + filter * ROW) / S::LANES] =
                    Choice { right: choose_right, below };
            }
        }
    }
}

/// Adds the gradient of the weights, (8, 10, lanes): its lanes are still to be summed.
#[inline(always)]
pub fn backward<S: Simd>(
    simd: S,
    planes: &Planes,
    pooled: &[f32; LINES * ROW],
    choices: &Choices<S>,
    d_pooled: &[f32; LINES * ROW],
    gradient: &mut [f32],
) {
    assert_eq!(gradient.len(), CONV_FILTERS * FILTER * S::LANES);
    let zero = simd.splat(0.0);
    for filter in 0..CONV_FILTERS {
        let mut sums = [zero; FILTER];
        for lane in (0..ROW).step_by(S::LANES) {
            for row in 0..POOLED_SIDE {
                let place = (row * CONV_FILTERS + filter) * ROW + lane;
                // SAFETY: lines of `ROW` elements, of which this is a whole vector.
                let (value, d) = unsafe {
                    (simd.load(pooled.as_ptr().add(place)), simd.load(d_pooled.as_ptr().add(place)))
                };
                let d = simd.select(simd.gt(value, zero), d, zero);
                sums[FILTER - 1] = simd.add(sums[FILTER - 1], d);
                if !planes.sees(row) {
                    continue;
                }
                let Choice { right, below } = choices.0[place / S::LANES];
                let mut input = [[zero; 3]; 4];
                for (r, inputs) in input.iter_mut().enumerate() {
                    for (c, input) in inputs.iter_mut().enumerate() {
                        let left = planes.input(simd, row, r, c, lane);
                        *input = simd.select(right, planes.input(simd, row, r, c + 1, lane), left);
                    }
                }
                for tap in 0..FILTER - 1 {
                    let (r, c) = (tap / 3, tap % 3);
                    let chosen = simd.select(below, input[r + 1][c], input[r][c]);
                    sums[tap] = simd.fma(d, chosen, sums[tap]);
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
