//! AVX2 with FMA: 8 lanes, 16 registers, masks as vectors.

use super::{Kernel, MAX_LANES, Simd};
use std::arch::x86_64::*;

/// Proof that this CPU has AVX2, FMA and the bit instructions that came with them.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The token, if this CPU has the instruction set.
    pub fn detect() -> Option<Avx2> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        has.then_some(Avx2(()))
    }
}

/// An intrinsic, called on the strength of the token.
macro_rules! proven {
    ($call:expr) => {{
        // SAFETY: `self` exists only where `detect` found every feature that this needs.
        unsafe { $call }
    }};
}

/// Eight set lanes followed by eight clear ones: the mask of the first `n` starts at `8 - n`.
static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Simd for Avx2 {
    type F32 = __m256;
    type Mask = __m256;
    const NAME: &'static str = "avx2";
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        #[inline(never)] // functions that have many kernels inlined take minutes to compile
        fn compiled<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        proven!(compiled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        proven!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: readable, says the caller; the feature, says the token.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m256) {
        // SAFETY: writable, says the caller; the feature, says the token.
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        // SAFETY: masked lanes are not touched; the others are readable, says the caller.
        unsafe { _mm256_maskload_ps(from, first(count)) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, vector: __m256, count: usize) {
        // SAFETY: masked lanes are not touched; the others are writable, says the caller.
        unsafe { _mm256_maskstore_ps(to, first(count), vector) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m256 {
        // SAFETY: 8 readable bytes, says the caller; the feature, says the token.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_byte_pairs(self, from: *const u8) -> (__m256, __m256) {
        // SAFETY: 16 readable bytes, says the caller; the feature, says the token.
        unsafe {
            let pairs = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            let even = _mm256_and_si256(pairs, _mm256_set1_epi32(0xff));
            (_mm256_cvtepi32_ps(even), _mm256_cvtepi32_ps(_mm256_srli_epi32::<8>(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, vector: __m256) {
        // SAFETY: 8 writable bytes, says the caller; the feature, says the token.
        unsafe {
            let words = _mm256_cvtps_epi32(vector);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let halves = _mm_packus_epi32(low, high);
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(halves, halves));
        }
    }

    #[inline(always)]
    unsafe fn nonzero_bytes(self, from: *const u8) -> u32 {
        // SAFETY: 32 readable bytes, says the caller; the feature, says the token.
        unsafe {
            let zero = _mm256_cmpeq_epi8(_mm256_loadu_si256(from.cast()), _mm256_setzero_si256());
            !(_mm256_movemask_epi8(zero) as u32)
        }
    }

    #[inline(always)]
    unsafe fn transpose_bytes(self, rows: &[*const u8; 32], offset: usize, to: *mut u8) {
        // SAFETY: the caller's promises are the same; AVX2 comes with this token.
        unsafe { transpose_bytes(rows, offset, to) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        proven!(_mm256_sqrt_ps(a))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        proven!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        proven!(_mm256_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn gt(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b))
    }

    #[inline(always)]
    fn eq(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
    }

    #[inline(always)]
    fn select(self, mask: __m256, yes: __m256, no: __m256) -> __m256 {
        proven!(_mm256_blendv_ps(no, yes, mask))
    }

    #[inline(always)]
    fn sum(self, vector: __m256) -> f32 {
        proven!({
            let four =
                _mm_add_ps(_mm256_castps256_ps128(vector), _mm256_extractf128_ps::<1>(vector));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn sum_rows(self, rows: &[__m256; MAX_LANES]) -> __m256 {
        proven!({
            let mut a = [_mm256_setzero_ps(); 4];
            for (i, slot) in a.iter_mut().enumerate() {
                let (x, y) = (rows[i], rows[i + 4]);
                *slot = _mm256_add_ps(
                    _mm256_permute2f128_ps::<0x20>(x, y), // x0 y0
                    _mm256_permute2f128_ps::<0x31>(x, y), // x1 y1
                );
            }
            // The halves of a[i] are rows i and i + 4, four partial sums each.
            let b0 = _mm256_add_ps(_mm256_unpacklo_ps(a[0], a[2]), _mm256_unpackhi_ps(a[0], a[2]));
            let b1 = _mm256_add_ps(_mm256_unpacklo_ps(a[1], a[3]), _mm256_unpackhi_ps(a[1], a[3]));
            _mm256_add_ps(_mm256_unpacklo_ps(b0, b1), _mm256_unpackhi_ps(b0, b1))
        })
    }

    #[inline(always)]
    fn largest(self, vector: __m256) -> f32 {
        proven!({
            let four =
                _mm_max_ps(_mm256_castps256_ps128(vector), _mm256_extractf128_ps::<1>(vector));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // Each of three rounds interleaves row i with row i + 4, which moves one bit of the row's
        // number into the column's.
        // SAFETY: 8 floats of each of 8 rows, says the caller.
        unsafe {
            let mut a = [_mm256_setzero_ps(); 8];
            for (i, slot) in a.iter_mut().enumerate() {
                *slot = _mm256_loadu_ps(from.add(i * from_row));
            }
            for _ in 0..3 {
                let mut b = a;
                for i in 0..4 {
                    let low = _mm256_unpacklo_ps(a[i], a[i + 4]);
                    let high = _mm256_unpackhi_ps(a[i], a[i + 4]);
                    b[2 * i] = _mm256_permute2f128_ps::<0x20>(low, high);
                    b[2 * i + 1] = _mm256_permute2f128_ps::<0x31>(low, high);
                }
                a = b;
            }
            for (j, &row) in a.iter().enumerate() {
                _mm256_storeu_ps(to.add(j * to_row), row);
            }
        }
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, value: __m256, exponent: __m256) -> __m256 {
        proven!({
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
            _mm256_mul_ps(value, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        })
    }

    #[inline(always)]
    fn round(self, vector: __m256) -> __m256 {
        proven!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(vector))
    }
}

/// The mask of the first `count` lanes, at most 8.
///
/// # Safety
/// The CPU has AVX, and `count` is at most 8.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    debug_assert!(count <= 8);
    // SAFETY: 8 - count + 8 is at most 16 elements into the table.
    unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - count).cast()) }
}

/// [`Simd::transpose_bytes`]: two transposes of 16x16 bytes, one in each half of the registers.
/// Each of the four rounds interleaves row `i` with row `i + 8`, which moves one bit of the row's
/// number into the column's.
///
/// # Safety
/// As there, and the CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn transpose_bytes(rows: &[*const u8; 32], offset: usize, to: *mut u8) {
    // SAFETY: reads 16 bytes of each row and writes 16 x 32 bytes, as the caller allows.
    unsafe {
        let mut a = [_mm256_setzero_si256(); 16];
        for (i, slot) in a.iter_mut().enumerate() {
            let low = _mm_loadu_si128(rows[i].add(offset).cast());
            let high = _mm_loadu_si128(rows[i + 16].add(offset).cast());
            *slot = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
        }
        for _ in 0..4 {
            let mut b = [_mm256_setzero_si256(); 16];
            for i in 0..8 {
                b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + 8]);
                b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + 8]);
            }
            a = b;
        }
        for (i, &row) in a.iter().enumerate() {
            _mm256_storeu_si256(to.add(32 * i).cast(), row);
        }
    }
}
