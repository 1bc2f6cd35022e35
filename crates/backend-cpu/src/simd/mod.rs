//! A small vector type over the instruction sets, chosen at run time.
//!
//! A value of a [`Simd`] type is a token: it exists only if this CPU has the instruction set, so
//! holding one is the proof that its operations may run (the idea of the crate `pulp`; ours is
//! smaller, has masks and byte loads shaped for these models, and one file per instruction set).
//! A [`Kernel`] is written once over the trait and marked `#[inline(always)]` together with all it
//! calls; [`Isa::run`] enters it through the one `#[target_feature]` function of that instruction
//! set, into which everything is inlined. Closures do not inherit `inline(always)`: kernels use
//! plain loops.
//!
//! Lanes are added in a fixed order within an instruction set; different sets may round
//! differently (other lane counts, and the portable set does not fuse multiply and add).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use math::{exp, exp2_not_positive};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use scalar::Scalar;

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
    fn sqrt(self, a: Self::F32) -> Self::F32;
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

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Scalar(Scalar),
}

/// The name is not that of an instruction set, or this CPU lacks it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this CPU has {}", available.join(", "))]
pub struct UnknownIsa {
    /// What can be asked for instead.
    pub available: Vec<&'static str>,
}

impl Isa {
    /// Every instruction set that this CPU has, the widest first.
    pub fn all() -> Vec<Isa> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx512::detect().map(Isa::Avx512));
            all.extend(Avx2::detect().map(Isa::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(Neon::detect().map(Isa::Neon));
        all.push(Isa::Scalar(Scalar));
        all
    }

    /// The widest that this CPU has.
    pub fn detect() -> Isa {
        Isa::all()[0] // never empty: the portable one is always there
    }

    /// The instruction set of that name.
    ///
    /// # Errors
    /// If there is none of that name, or this CPU lacks it.
    pub fn parse(name: &str) -> Result<Isa, UnknownIsa> {
        let all = Isa::all();
        match all.iter().find(|isa| isa.name() == name) {
            Some(isa) => Ok(*isa),
            None => Err(UnknownIsa { available: all.iter().map(|isa| isa.name()).collect() }),
        }
    }

    /// `avx512`, `avx2`, `neon` or `scalar`.
    pub fn name(self) -> &'static str {
        struct Name;
        impl Kernel for Name {
            type Output = &'static str;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> &'static str {
                S::NAME
            }
        }
        self.run(Name)
    }

    /// Runs a kernel with this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(simd) => simd.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(simd) => simd.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(simd) => simd.enter(kernel),
            Isa::Scalar(simd) => simd.enter(kernel),
        }
    }
}

#[cfg(test)]
mod tests;
