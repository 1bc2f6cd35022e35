//! GELU in its tanh form, and its derivative, computed together: backward is then one
//! multiplication, and the exponential and the division are done once.
//!
//! `x/2 (1 + tanh u)` is `x s` with the logistic function `s = 1 / (1 + e^(-2u))`, and its derivative is
//! `s + x s (1 - s) 2u'`.

use super::product::place;
use crate::finish::{Finish, load, store};
use crate::simd::Simd;
use std::f32::consts::LOG2_E;

/// `2 sqrt(2 / pi)`.
const FACTOR: f32 = 1.595_769_2;
const CUBE: f32 = 0.044_715;

/// `gelu(x)` and `gelu'(x)` in each lane, to within 4e-7 of the larger of 1 and the result, and 4e-6;
/// for `|x|` below 1e19.
#[inline(always)]
pub fn gelu<S: Simd>(simd: S, x: S::F32) -> (S::F32, S::F32) {
    let square = simd.mul(x, x);
    let inner = simd.fma(square, simd.splat(-FACTOR * CUBE * LOG2_E), simd.splat(-FACTOR * LOG2_E));
    // Beyond, `s` is 0 or 1 to the last bit of what counts; in this order, NaN stays.
    let exponent = simd.mul(x, inner);
    let exponent = simd.min(simd.splat(100.0), simd.max(simd.splat(-100.0), exponent));
    let exponential = exp2(simd, exponent);
    let logistic = simd.div(simd.splat(1.0), simd.add(exponential, simd.splat(1.0)));
    let value = simd.mul(x, logistic);
    let slope = simd.fma(square, simd.splat(3.0 * FACTOR * CUBE), simd.splat(FACTOR));
    let rest = simd.fnma(value, logistic, value);
    let derivative = simd.fma(rest, slope, logistic);
    (value, derivative)
}

/// `2^x` for `x` within -100..=100: [`crate::simd::exp2_not_positive`] without its bound.
#[inline(always)]
#[allow(clippy::approx_constant)] // near ln 2, but not it: the best polynomial's coefficient
fn exp2<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let n = simd.round(x);
    let r = simd.sub(x, n);
    let mut p = simd.splat(1.326_474_6e-3);
    for coefficient in [9.671_513e-3, 5.550_733_7e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        p = simd.fma(p, r, simd.splat(coefficient));
    }
    simd.scale_by_power_of_two(p, n)
}

/// Writes `gelu` of the result, and `gelu'`.
pub struct Gelu<'data> {
    pub value: &'data mut [f32],
    pub slope: &'data mut [f32],
    pub rows: usize,
}

impl Finish for Gelu<'_> {
    const NEEDS_REGISTERS: bool = true;

    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = place::<S>(self.rows, row, vector);
        let (value, slope) = gelu(simd, sum);
        store(simd, self.value, place, value);
        store(simd, self.slope, place, slope);
    }
}

/// Multiplies what is there, the slopes, with the result.
pub struct TimesSlope<'data> {
    pub slope: &'data mut [f32],
    pub rows: usize,
}

impl Finish for TimesSlope<'_> {
    const NEEDS_REGISTERS: bool = true;

    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = place::<S>(self.rows, row, vector);
        store(simd, self.slope, place, simd.mul(load(simd, self.slope, place), sum));
    }
}
