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
mod vector;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use math::{exp, exp2_not_positive};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use scalar::Scalar;
pub use vector::{Kernel, MAX_LANES, Simd};

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
    /// The instruction sets that can be requested.
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
