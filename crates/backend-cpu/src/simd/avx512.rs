//! AVX-512 (F, BW, VL, DQ): 16 lanes, 32 registers, masks in registers of their own.

use super::{Kernel, MAX_LANES, Simd};
use std::arch::x86_64::*;

/// Proof that this CPU has AVX-512 F, BW, VL and DQ, with AVX2, FMA and the bit instructions.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if this CPU has the instruction set.
    pub fn detect() -> Option<Avx512> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && super::avx2::Avx2::detect().is_some();
        has.then_some(Avx512(()))
    }
}

/// An intrinsic, called on the strength of the token.
macro_rules! proven {
    ($call:expr) => {{
        // SAFETY: `self` exists only where `detect` found every feature that this needs.
        unsafe { $call }
    }};
}

impl Simd for Avx512 {
    type F32 = __m512;
    type Mask = __mmask16;
    const NAME: &'static str = "avx512";
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
        #[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt")]
        #[inline(never)] // functions that have many kernels inlined take minutes to compile
        fn compiled<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        proven!(compiled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        proven!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: readable, says the caller; the feature, says the token.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m512) {
        // SAFETY: writable, says the caller; the feature, says the token.
        unsafe { _mm512_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        // SAFETY: masked lanes are not touched; the others are readable, says the caller.
        unsafe { _mm512_maskz_loadu_ps(first(count), from) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, vector: __m512, count: usize) {
        // SAFETY: masked lanes are not touched; the others are writable, says the caller.
        unsafe { _mm512_mask_storeu_ps(to, first(count), vector) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m512 {
        // SAFETY: 16 readable bytes, says the caller; the feature, says the token.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_byte_pairs(self, from: *const u8) -> (__m512, __m512) {
        // SAFETY: 32 readable bytes, says the caller; the feature, says the token.
        unsafe {
            let pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            let even = _mm512_and_si512(pairs, _mm512_set1_epi32(0xff));
            (_mm512_cvtepi32_ps(even), _mm512_cvtepi32_ps(_mm512_srli_epi32::<8>(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, vector: __m512) {
        // SAFETY: 16 writable bytes, says the caller; the feature, says the token.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vector))) }
    }

    #[inline(always)]
    unsafe fn nonzero_bytes(self, from: *const u8) -> u32 {
        // SAFETY: 32 readable bytes, says the caller; the feature, says the token.
        unsafe {
            let bytes = _mm256_loadu_si256(from.cast());
            _mm256_test_epi8_mask(bytes, bytes)
        }
    }

    #[inline(always)]
    unsafe fn transpose_bytes(self, rows: &[*const u8; 32], offset: usize, to: *mut u8) {
        // SAFETY: the caller's promises are the same; AVX2 comes with this token.
        unsafe { super::avx2::transpose_bytes(rows, offset, to) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        proven!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn gt(self, a: __m512, b: __m512) -> __mmask16 {
        proven!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b))
    }

    #[inline(always)]
    fn eq(self, a: __m512, b: __m512) -> __mmask16 {
        proven!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b))
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        proven!(_mm512_mask_blend_ps(mask, no, yes))
    }

    #[inline(always)]
    fn sum(self, vector: __m512) -> f32 {
        proven!(_mm512_reduce_add_ps(vector))
    }

    #[inline(always)]
    fn sum_rows(self, rows: &[__m512; MAX_LANES]) -> __m512 {
        // Four rounds halve the number of vectors; each adds the two halves of two vectors.
        proven!({
            let mut a = [_mm512_setzero_ps(); 8];
            for (i, slot) in a.iter_mut().enumerate() {
                let (x, y) = (rows[i], rows[i + 8]);
                *slot = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0x44>(x, y), // x0 x1 y0 y1
                    _mm512_shuffle_f32x4::<0xee>(x, y), // x2 x3 y2 y3
                );
            }
            let mut b = [_mm512_setzero_ps(); 4];
            for (i, slot) in b.iter_mut().enumerate() {
                let (x, y) = (a[i], a[i + 4]);
                *slot = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0x88>(x, y), // rows i, i+8 | i+4, i+12
                    _mm512_shuffle_f32x4::<0xdd>(x, y),
                );
            }
            // Quarter q of b[i] is row i + [0, 8, 4, 12][q], four partial sums each.
            let (b0, b1, b2, b3) = (b[0], b[1], b[2], b[3]);
            let c0 = _mm512_add_ps(_mm512_unpacklo_ps(b0, b2), _mm512_unpackhi_ps(b0, b2));
            let c1 = _mm512_add_ps(_mm512_unpacklo_ps(b1, b3), _mm512_unpackhi_ps(b1, b3));
            let sums = _mm512_add_ps(_mm512_unpacklo_ps(c0, c1), _mm512_unpackhi_ps(c0, c1));
            _mm512_shuffle_f32x4::<0b11_01_10_00>(sums, sums) // quarters 0, 8, 4, 12 to 0, 4, 8, 12
        })
    }

    #[inline(always)]
    fn largest(self, vector: __m512) -> f32 {
        proven!(_mm512_reduce_max_ps(vector))
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // Each of four rounds interleaves row i with row i + 8, which moves one bit of the row's
        // number into the column's.
        // SAFETY: 16 floats of each of 16 rows, says the caller.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            let mut a = [_mm512_setzero_ps(); 16];
            for (i, slot) in a.iter_mut().enumerate() {
                *slot = _mm512_loadu_ps(from.add(i * from_row));
            }
            for _ in 0..4 {
                let mut b = a;
                for i in 0..8 {
                    b[2 * i] = _mm512_permutex2var_ps(a[i], low, a[i + 8]);
                    b[2 * i + 1] = _mm512_permutex2var_ps(a[i], high, a[i + 8]);
                }
                a = b;
            }
            for (j, &row) in a.iter().enumerate() {
                _mm512_storeu_ps(to.add(j * to_row), row);
            }
        }
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, value: __m512, exponent: __m512) -> __m512 {
        proven!(_mm512_scalef_ps(value, exponent))
    }

    #[inline(always)]
    fn round(self, vector: __m512) -> __m512 {
        proven!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(vector))
    }
}

/// The mask of the first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}
