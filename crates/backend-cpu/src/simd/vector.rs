//! The operations that every instruction set has, and code that is generic over them.

/// The largest [`Simd::LANES`]: buffers padded to a multiple of it suit every instruction set.
pub const MAX_LANES: usize = 16;

/// Operations of one instruction set on vectors of `f32`.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector of [`Simd::LANES`] floats.
    type F32: Copy;
    /// One truth value per lane.
    type Mask: Copy;

    /// The word on the command line and in records.
    const NAME: &'static str;
    /// Floats in a vector; divides [`MAX_LANES`].
    const LANES: usize;
    /// Vector registers: how many values a kernel may keep at hand.
    const REGISTERS: usize;

    /// Runs a kernel compiled for this instruction set.
    fn enter<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, value: f32) -> Self::F32;

    /// # Safety
    /// `from` must be readable for [`Simd::LANES`] floats; any alignment.
    unsafe fn load(self, from: *const f32) -> Self::F32;

    /// # Safety
    /// `to` must be writable for [`Simd::LANES`] floats; any alignment.
    unsafe fn store(self, to: *mut f32, vector: Self::F32);

    /// The first `count` floats, at most [`Simd::LANES`]; the other lanes are zero.
    ///
    /// # Safety
    /// `from` must be readable for `count` floats.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F32;

    /// Stores the first `count` lanes, at most [`Simd::LANES`].
    ///
    /// # Safety
    /// `to` must be writable for `count` floats.
    unsafe fn store_first(self, to: *mut f32, vector: Self::F32, count: usize);

    /// [`Simd::LANES`] bytes as floats 0 to 255.
    ///
    /// # Safety
    /// `from` must be readable for [`Simd::LANES`] bytes.
    unsafe fn load_bytes(self, from: *const u8) -> Self::F32;

    /// Twice [`Simd::LANES`] bytes as floats 0 to 255: those at even places, and those at odd ones.
    ///
    /// # Safety
    /// `from` must be readable for twice [`Simd::LANES`] bytes.
    unsafe fn load_byte_pairs(self, from: *const u8) -> (Self::F32, Self::F32);

    /// Stores whole numbers 0 to 255 as [`Simd::LANES`] bytes.
    ///
    /// # Safety
    /// `to` must be writable for [`Simd::LANES`] bytes.
    unsafe fn store_bytes(self, to: *mut u8, vector: Self::F32);

    /// Which of 32 bytes are not zero: bit `i` for byte `i`.
    ///
    /// # Safety
    /// `from` must be readable for 32 bytes.
    unsafe fn nonzero_bytes(self, from: *const u8) -> u32;

    /// Transposes 32 rows of 16 bytes into 16 rows of 32 bytes.
    ///
    /// # Safety
    /// Each of `rows` must be readable for 16 bytes from `offset`, `to` writable for 512.
    unsafe fn transpose_bytes(self, rows: &[*const u8; 32], offset: usize, to: *mut u8);

    /// Asks for the cache line of an address that will be read soon. Any address will do.
    fn prefetch(self, address: *const u8);

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the instruction set fuses.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c - a * b`, rounded once where the instruction set fuses.
    fn fnma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of the two in each lane; NaN where `b` is, `b` or NaN where `a` is.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of the two in each lane; NaN where `b` is, `b` or NaN where `a` is.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `a > b`; false where one is NaN.
    fn gt(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// `a == b`; false where one is NaN.
    fn eq(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// `yes` where the mask is true, `no` elsewhere.
    fn select(self, mask: Self::Mask, yes: Self::F32, no: Self::F32) -> Self::F32;

    /// The sum of the lanes.
    fn sum(self, vector: Self::F32) -> f32;

    /// Lane `i` is the sum of the lanes of `rows[i]`, for `i` below [`Simd::LANES`]; the rest of
    /// `rows` is not read. Far cheaper than as many calls of [`Simd::sum`].
    fn sum_rows(self, rows: &[Self::F32; MAX_LANES]) -> Self::F32;

    /// The largest of the lanes; unspecified where one is NaN.
    fn largest(self, vector: Self::F32) -> f32;

    /// Transposes a square of [`Simd::LANES`] floats a side: element `(i, j)` is read from
    /// `from + i * from_row + j` and written to `to + j * to_row + i`.
    ///
    /// # Safety
    /// `from` must be readable and `to` writable at these places, and they must not overlap.
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize);

    /// `value * 2^exponent` for whole `exponent` within -126..=127.
    fn scale_by_power_of_two(self, value: Self::F32, exponent: Self::F32) -> Self::F32;
    /// The nearest whole number, ties to even, for magnitudes below 2^22.
    fn round(self, vector: Self::F32) -> Self::F32;
}

/// Code generic over the instruction set.
pub trait Kernel {
    type Output;

    /// Implementations are marked `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
