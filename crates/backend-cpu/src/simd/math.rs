//! Elementary functions over the vector trait.

use super::Simd;

/// `e^x` in each lane, to within 2 units in the last place where the result is a normal number.
/// Below -87.3 the result is about 1e-38, not smaller; above 88 it is about 1.6e38, not larger: a softmax
/// subtracts the largest element first and cannot tell. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (ln 2 in two parts, after Cody and Waite), then a
/// polynomial of degree 6 for `e^r`: its Taylor coefficients, whose error there is 1.2e-7 relative.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const LN2_HIGH: f32 = 0.693_359_4; // 355 / 512: exact products with small whole numbers
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = simd.min(simd.splat(88.0), simd.max(simd.splat(-87.3), x)); // in this order: keeps NaN
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.fnma(n, simd.splat(LN2_HIGH), x);
    let r = simd.fnma(n, simd.splat(LN2_LOW), r);
    let mut p = simd.splat(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = simd.fma(p, r, simd.splat(coefficient));
    }
    simd.scale_by_power_of_two(p, n)
}
