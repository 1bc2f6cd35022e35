//! Elementary functions over the vector trait.

use super::Simd;

/// `2^x` in each lane for `x` not above 0, to within 2 units in the last place where the result is a
/// normal number. Below -126 the result is about 1e-38, not smaller. NaN stays NaN.
///
/// `x = n + r` with `|r| <= 1/2`, exactly; then the polynomial of degree 5 that is 1 at 0 and whose
/// largest relative error for `2^r` is the smallest, 9.2e-8 (by Lawson's algorithm).
#[inline(always)]
#[allow(clippy::approx_constant)] // near ln 2, but not it: the best polynomial's coefficient
pub fn exp2_not_positive<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let x = simd.max(simd.splat(-126.0), x); // in this order: keeps NaN
    let n = simd.round(x);
    let r = simd.sub(x, n);
    let mut p = simd.splat(1.326_474_6e-3);
    for coefficient in [9.671_513e-3, 5.550_733_7e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        p = simd.fma(p, r, simd.splat(coefficient));
    }
    simd.scale_by_power_of_two(p, n)
}

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
