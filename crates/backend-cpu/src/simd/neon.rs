//! NEON (AArch64): 4 lanes, 32 registers, masks as vectors.

use super::{Kernel, MAX_LANES, Simd};
use std::arch::aarch64::*;

/// Proof that this CPU has NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The token, if this CPU has the instruction set.
    pub fn detect() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

/// An intrinsic, called on the strength of the token.
macro_rules! proven {
    ($call:expr) => {{
        // SAFETY: `self` exists only where `detect` found NEON.
        unsafe { $call }
    }};
}

impl Simd for Neon {
    type F32 = float32x4_t;
    type Mask = uint32x4_t;
    const NAME: &'static str = "neon";
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        #[inline(never)] // functions that have many kernels inlined take minutes to compile
        fn compiled<K: Kernel>(simd: Neon, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        proven!(compiled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        proven!(vdupq_n_f32(value))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: readable, says the caller; the feature, says the token.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: float32x4_t) {
        // SAFETY: writable, says the caller; the feature, says the token.
        unsafe { vst1q_f32(to, vector) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> float32x4_t {
        let mut lanes = [0.0f32; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: only the first `count` are read.
            *lane = unsafe { *from.add(i) };
        }
        proven!(vld1q_f32(lanes.as_ptr()))
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, vector: float32x4_t, count: usize) {
        let mut lanes = [0.0f32; 4];
        proven!(vst1q_f32(lanes.as_mut_ptr(), vector));
        for (i, &lane) in lanes.iter().enumerate().take(count) {
            // SAFETY: only the first `count` are written.
            unsafe { *to.add(i) = lane };
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> float32x4_t {
        // SAFETY: 4 readable bytes, says the caller; the feature, says the token.
        unsafe {
            let bytes = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
        }
    }

    #[inline(always)]
    unsafe fn load_byte_pairs(self, from: *const u8) -> (float32x4_t, float32x4_t) {
        // SAFETY: 8 readable bytes, says the caller; the feature, says the token.
        unsafe {
            let pairs = vmovl_u16(vreinterpret_u16_u8(vld1_u8(from)));
            let even = vandq_u32(pairs, vdupq_n_u32(0xff));
            (vcvtq_f32_u32(even), vcvtq_f32_u32(vshrq_n_u32::<8>(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, vector: float32x4_t) {
        // SAFETY: 4 writable bytes, says the caller; the feature, says the token.
        unsafe {
            let halves = vmovn_u32(vcvtq_u32_f32(vector));
            let bytes = vreinterpret_u32_u8(vmovn_u16(vcombine_u16(halves, halves)));
            to.cast::<u32>().write_unaligned(vget_lane_u32::<0>(bytes));
        }
    }

    #[inline(always)]
    unsafe fn nonzero_bytes(self, from: *const u8) -> u32 {
        const WEIGHTS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        // SAFETY: 32 readable bytes, says the caller; the feature, says the token.
        unsafe {
            let weights = vld1q_u8(WEIGHTS.as_ptr());
            let mut bits = 0;
            for half in 0..2 {
                let bytes = vld1q_u8(from.add(16 * half));
                let set = vandq_u8(vtstq_u8(bytes, bytes), weights);
                let low = u32::from(vaddv_u8(vget_low_u8(set)));
                let high = u32::from(vaddv_u8(vget_high_u8(set)));
                bits |= (low | high << 8) << (16 * half);
            }
            bits
        }
    }

    #[inline(always)]
    unsafe fn transpose_bytes(self, rows: &[*const u8; 32], offset: usize, to: *mut u8) {
        // Each of four rounds interleaves row i with row i + 8, which moves one bit of the row's
        // number into the column's.
        // SAFETY: 16 bytes of each row, 16 x 32 bytes of the result, says the caller.
        unsafe {
            for half in 0..2 {
                let mut a = [vdupq_n_u8(0); 16];
                for (i, slot) in a.iter_mut().enumerate() {
                    *slot = vld1q_u8(rows[16 * half + i].add(offset));
                }
                for _ in 0..4 {
                    let mut b = a;
                    for i in 0..8 {
                        b[2 * i] = vzip1q_u8(a[i], a[i + 8]);
                        b[2 * i + 1] = vzip2q_u8(a[i], a[i + 8]);
                    }
                    a = b;
                }
                for (i, &row) in a.iter().enumerate() {
                    vst1q_u8(to.add(32 * i + 16 * half), row);
                }
            }
        }
    }

    /// The intrinsic is not stable yet; these cores' own prefetchers follow the streams well.
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(vdivq_f32(a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: float32x4_t) -> float32x4_t {
        proven!(vsqrtq_f32(a))
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        proven!(vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn fnma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        proven!(vfmsq_f32(c, a, b))
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(vmaxq_f32(a, b))
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(vminq_f32(a, b))
    }

    #[inline(always)]
    fn gt(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        proven!(vcgtq_f32(a, b))
    }

    #[inline(always)]
    fn eq(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        proven!(vceqq_f32(a, b))
    }

    #[inline(always)]
    fn select(self, mask: uint32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        proven!(vbslq_f32(mask, yes, no))
    }

    #[inline(always)]
    fn sum(self, vector: float32x4_t) -> f32 {
        proven!(vaddvq_f32(vector))
    }

    #[inline(always)]
    fn sum_rows(self, rows: &[float32x4_t; MAX_LANES]) -> float32x4_t {
        proven!(vpaddq_f32(vpaddq_f32(rows[0], rows[1]), vpaddq_f32(rows[2], rows[3])))
    }

    #[inline(always)]
    fn largest(self, vector: float32x4_t) -> f32 {
        proven!(vmaxvq_f32(vector))
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // Each of two rounds interleaves row i with row i + 2, which moves one bit of the row's
        // number into the column's.
        // SAFETY: 4 floats of each of 4 rows, says the caller.
        unsafe {
            let mut a = [vdupq_n_f32(0.0); 4];
            for (i, slot) in a.iter_mut().enumerate() {
                *slot = vld1q_f32(from.add(i * from_row));
            }
            for _ in 0..2 {
                let mut b = a;
                for i in 0..2 {
                    b[2 * i] = vzip1q_f32(a[i], a[i + 2]);
                    b[2 * i + 1] = vzip2q_f32(a[i], a[i + 2]);
                }
                a = b;
            }
            for (j, &row) in a.iter().enumerate() {
                vst1q_f32(to.add(j * to_row), row);
            }
        }
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, value: float32x4_t, exponent: float32x4_t) -> float32x4_t {
        proven!({
            let biased = vaddq_s32(vcvtnq_s32_f32(exponent), vdupq_n_s32(127));
            vmulq_f32(value, vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
        })
    }

    #[inline(always)]
    fn round(self, vector: float32x4_t) -> float32x4_t {
        proven!(vrndnq_f32(vector))
    }
}
