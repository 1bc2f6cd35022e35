//! Multiply-adds from registers: the rate that no kernel can exceed.
//!
//! As many independent chains as hide the latency on every CPU known (Zen and Intel: 4 cycles, two
//! a cycle; Apple: 4 cycles, four a cycle), or as the registers hold beside the two factors.

use crate::rounds::{Probe, Rate};
use crate::{FmaRate, crew};
use std::hint::black_box;

/// Steps of all chains in one repetition.
const STEPS: usize = 4096;

/// An instruction set: its name, the operations of a repetition, and the repetition.
pub(crate) struct Set {
    isa: &'static str,
    flop: f64,
    run: fn(u64),
}

/// The instruction sets of this CPU, the widest first.
pub(crate) fn float32() -> Vec<Set> {
    let mut sets = Vec::new();
    let flop = |chains: usize, lanes: usize| (2 * chains * lanes * STEPS) as f64;
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has it.
            let run = |repetitions| unsafe { x86::avx512(repetitions) };
            sets.push(Set { isa: "avx512", flop: flop(x86::AVX512_CHAINS, 16), run });
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            // SAFETY: the CPU has it.
            let run = |repetitions| unsafe { x86::avx2(repetitions) };
            sets.push(Set { isa: "avx2", flop: flop(x86::AVX2_CHAINS, 8), run });
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the CPU has it.
        let run = |repetitions| unsafe { arm::neon(repetitions) };
        sets.push(Set { isa: "neon", flop: flop(arm::CHAINS, 4), run });
    }
    sets.push(Set { isa: "scalar", flop: flop(SCALAR_CHAINS, SCALAR_LANES), run: scalar });
    sets
}

/// Those that multiply bfloat16 numbers and sum in float32.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn bf16() -> Vec<Set> {
    Vec::new()
}

/// Those that multiply bfloat16 numbers and sum in float32.
#[cfg(target_arch = "x86_64")]
pub(crate) fn bf16() -> Vec<Set> {
    let mut sets = Vec::new();
    #[cfg(target_os = "linux")]
    if amx::there() {
        // SAFETY: the CPU has it, and the system allows it.
        let run = |repetitions| unsafe { amx::tiles(repetitions) };
        sets.push(Set { isa: "amx", flop: (amx::FLOP * STEPS) as f64, run });
    }
    if std::arch::is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the CPU has it.
        let run = |repetitions| unsafe { x86::avx512_bf16(repetitions) };
        let flop = (2 * x86::AVX512_CHAINS * 32 * STEPS) as f64;
        sets.push(Set { isa: "avx512bf16", flop, run });
    }
    sets
}

/// For each instruction set, one probe per number of threads.
pub(crate) fn probes<'a>(sets: &[Set], counts: &[usize]) -> Vec<Probe<'a>> {
    let mut probes = Vec::new();
    for set in sets {
        for &threads in counts {
            let run = set.run;
            probes.push(Probe {
                units: set.flop * threads as f64,
                run: Box::new(move |repetitions| {
                    crew::run(vec![(); threads], |()| run(repetitions))
                }),
            });
        }
    }
    probes
}

/// The record of what [`probes`] measured.
pub(crate) fn rates(sets: &[Set], counts: &[usize], rates: &[Rate]) -> Vec<FmaRate> {
    let names = sets.iter().flat_map(|set| counts.iter().map(move |&n| (set.isa, n)));
    names
        .zip(rates)
        .map(|((isa, threads), rate)| FmaRate {
            isa: isa.to_owned(),
            threads,
            flop_per_s: rate.median,
            highest_flop_per_s: rate.highest,
        })
        .collect()
}

/// The factors: a chain tends to 1, far from overflow and from denormal numbers.
const FACTOR: f32 = 0.75;
const SUMMAND: f32 = 0.25;

const SCALAR_LANES: usize = 4;
const SCALAR_CHAINS: usize = 12;

/// The rate of portable code: vectors of the architecture's oldest CPU.
fn scalar(repetitions: u64) {
    let (factor, summand) = (black_box(FACTOR), black_box(SUMMAND));
    let mut chains = [[0.5f32; SCALAR_LANES]; SCALAR_CHAINS];
    for _ in 0..repetitions {
        for _ in 0..STEPS {
            for chain in &mut chains {
                for value in chain {
                    *value = *value * factor + summand;
                }
            }
        }
        black_box(&mut chains);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{FACTOR, STEPS, SUMMAND};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    pub(super) const AVX512_CHAINS: usize = 16;
    pub(super) const AVX2_CHAINS: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(repetitions: u64) {
        let factor = _mm512_set1_ps(black_box(FACTOR));
        let summand = _mm512_set1_ps(black_box(SUMMAND));
        let mut chains = [_mm512_set1_ps(0.5); AVX512_CHAINS];
        for _ in 0..repetitions {
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = _mm512_fmadd_ps(*chain, factor, summand);
                }
            }
            black_box(&mut chains);
        }
    }

    /// The factors' bits do not matter to the time; these are pairs of 1, and the sums stay finite.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn avx512_bf16(repetitions: u64) {
        let pairs = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(black_box(1.0)));
        let mut chains = [_mm512_set1_ps(0.5); AVX512_CHAINS];
        for _ in 0..repetitions {
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = _mm512_dpbf16_ps(*chain, pairs, pairs);
                }
            }
            black_box(&mut chains);
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(repetitions: u64) {
        let factor = _mm256_set1_ps(black_box(FACTOR));
        let summand = _mm256_set1_ps(black_box(SUMMAND));
        let mut chains = [_mm256_set1_ps(0.5); AVX2_CHAINS];
        for _ in 0..repetitions {
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = _mm256_fmadd_ps(*chain, factor, summand);
                }
            }
            black_box(&mut chains);
        }
    }
}

/// AMX: 16 x 16 sums of 32 products in an instruction. The intrinsics are not stable yet, so the
/// instructions are written out, as in the CPU trainer (crates/backend-cpu/src/gpt/amx.rs).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::STEPS;
    use std::arch::asm;

    /// Operations of a step: one product of tiles into each of four.
    pub(super) const FLOP: usize = 4 * 2 * 16 * 16 * 32;

    /// Whether this CPU has AMX with bfloat16 and the system lets this process use it.
    pub(super) fn there() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const TILE_DATA: u64 = 18;
        #[allow(unused_unsafe)] // a safe function only in later compilers than the oldest supported
        // SAFETY: every x86-64 CPU has the instruction.
        let features = unsafe {
            if std::arch::x86_64::__cpuid(0).eax < 7 {
                return false;
            }
            std::arch::x86_64::__cpuid_count(7, 0).edx
        };
        if features >> 22 & 1 == 0 || features >> 24 & 1 == 0 {
            return false;
        }
        let result: i64;
        // SAFETY: the system call takes two numbers and changes nothing but the permission.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") TILE_DATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    /// The tiles' shapes, as the instruction `ldtilecfg` reads them: eight of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);

    /// Products of zeros: the time of a product does not depend on the numbers.
    ///
    /// # Safety
    /// [`there`] has said so.
    pub(super) unsafe fn tiles(repetitions: u64) {
        let mut configuration = Configuration([0; 64]);
        configuration.0[0] = 1; // the palette
        for tile in 0..8 {
            configuration.0[16 + 2 * tile] = 64;
            configuration.0[48 + tile] = 16;
        }
        // SAFETY: says the caller; the tiles are shaped first and released at last.
        unsafe {
            asm!(
                "ldtilecfg [{configuration}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tilezero tmm4",
                "tilezero tmm5",
                "tilezero tmm6",
                "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {steps}",
                "jnz 2b",
                "tilerelease",
                configuration = in(reg) &raw const configuration,
                steps = inout(reg) repetitions * STEPS as u64 => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{FACTOR, STEPS, SUMMAND};
    use std::arch::aarch64::*;
    use std::hint::black_box;

    pub(super) const CHAINS: usize = 24;

    #[target_feature(enable = "neon")]
    pub(super) fn neon(repetitions: u64) {
        let factor = vdupq_n_f32(black_box(FACTOR));
        let summand = vdupq_n_f32(black_box(SUMMAND));
        let mut chains = [vdupq_n_f32(0.5); CHAINS];
        for _ in 0..repetitions {
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = vfmaq_f32(summand, *chain, factor);
                }
            }
            black_box(&mut chains);
        }
    }
}
