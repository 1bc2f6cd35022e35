//! Portable code without intrinsics, for every CPU: 8 lanes as an array, which the compiler may
//! put into whatever vectors its baseline has. Products are not fused: `mul_add` is a library call
//! where the baseline lacks the instruction, and the sums would differ between platforms.

use super::{Kernel, MAX_LANES, Simd};

/// The portable instruction set: always there.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

const LANES: usize = 8;

/// Applies an operation lane by lane.
macro_rules! lanes {
    ($lane:ident => $value:expr) => {{
        let mut result = [0.0f32; LANES];
        for $lane in 0..LANES {
            result[$lane] = $value;
        }
        result
    }};
}

impl Simd for Scalar {
    type F32 = [f32; LANES];
    type Mask = [bool; LANES];
    const NAME: &'static str = "scalar";
    const LANES: usize = LANES;
    const REGISTERS: usize = 8; // a vector takes two of the sixteen that x86-64 has

    #[inline(never)] // functions that have many kernels inlined take minutes to compile
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; LANES] {
        // SAFETY: readable, says the caller.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: [f32; LANES]) {
        // SAFETY: writable, says the caller.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(vector) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> [f32; LANES] {
        // SAFETY: only the first `count` are read.
        lanes!(i => if i < count { unsafe { *from.add(i) } } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, vector: [f32; LANES], count: usize) {
        for (i, &value) in vector.iter().enumerate().take(count) {
            // SAFETY: only the first `count` are written.
            unsafe { *to.add(i) = value };
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> [f32; LANES] {
        // SAFETY: readable, says the caller.
        let bytes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        lanes!(i => f32::from(bytes[i]))
    }

    #[inline(always)]
    unsafe fn load_byte_pairs(self, from: *const u8) -> ([f32; LANES], [f32; LANES]) {
        // SAFETY: readable, says the caller.
        let pairs = unsafe { from.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        (lanes!(i => f32::from(pairs[i][0])), lanes!(i => f32::from(pairs[i][1])))
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, vector: [f32; LANES]) {
        // SAFETY: writable, says the caller.
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(vector.map(|lane| lane as u8)) }
    }

    #[inline(always)]
    unsafe fn nonzero_bytes(self, from: *const u8) -> u32 {
        // SAFETY: readable, says the caller.
        let bytes = unsafe { from.cast::<[u8; 32]>().read_unaligned() };
        let mut bits = 0;
        for (i, &byte) in bytes.iter().enumerate() {
            bits |= u32::from(byte != 0) << i;
        }
        bits
    }

    #[inline(always)]
    unsafe fn transpose_bytes(self, rows: &[*const u8; 32], offset: usize, to: *mut u8) {
        for (i, row) in rows.iter().enumerate() {
            for j in 0..16 {
                // SAFETY: 16 bytes of each row, 16 x 32 bytes of the result, says the caller.
                unsafe { *to.add(32 * j + i) = *row.add(offset + j) };
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] / b[i])
    }

    #[inline(always)]
    fn sqrt(self, a: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i].sqrt())
    }

    #[inline(always)]
    fn fma(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn fnma(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => c[i] - a[i] * b[i])
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn gt(self, a: [f32; LANES], b: [f32; LANES]) -> [bool; LANES] {
        let mut mask = [false; LANES];
        for (i, slot) in mask.iter_mut().enumerate() {
            *slot = a[i] > b[i];
        }
        mask
    }

    #[inline(always)]
    fn eq(self, a: [f32; LANES], b: [f32; LANES]) -> [bool; LANES] {
        let mut mask = [false; LANES];
        for (i, slot) in mask.iter_mut().enumerate() {
            *slot = a[i] == b[i];
        }
        mask
    }

    #[inline(always)]
    fn select(self, mask: [bool; LANES], yes: [f32; LANES], no: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if mask[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn sum(self, v: [f32; LANES]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    fn sum_rows(self, rows: &[[f32; LANES]; MAX_LANES]) -> [f32; LANES] {
        lanes!(i => self.sum(rows[i]))
    }

    #[inline(always)]
    fn largest(self, v: [f32; LANES]) -> f32 {
        let mut largest = v[0];
        for &lane in &v[1..] {
            largest = if lane > largest { lane } else { largest };
        }
        largest
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for i in 0..LANES {
            for j in 0..LANES {
                // SAFETY: 8 floats of each of 8 rows, says the caller.
                unsafe { *to.add(j * to_row + i) = *from.add(i * from_row + j) };
            }
        }
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, value: [f32; LANES], exponent: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => value[i] * f32::from_bits(((exponent[i] as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn round(self, vector: [f32; LANES]) -> [f32; LANES] {
        // Adding and taking away 1.5 * 2^23 leaves no bits for a fraction.
        const SHIFT: f32 = 12_582_912.0;
        lanes!(i => (vector[i] + SHIFT) - SHIFT)
    }
}
