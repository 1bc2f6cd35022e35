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
struct Set {
    isa: &'static str,
    flop: f64,
    run: fn(u64),
}

/// The instruction sets of this CPU, the widest first.
fn sets() -> Vec<Set> {
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

/// For each instruction set, one probe per number of threads.
pub(crate) fn probes<'a>(counts: &[usize]) -> Vec<Probe<'a>> {
    let mut probes = Vec::new();
    for set in sets() {
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
pub(crate) fn rates(counts: &[usize], rates: &[Rate]) -> Vec<FmaRate> {
    let names = sets().into_iter().flat_map(|set| counts.iter().map(move |&n| (set.isa, n)));
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

/// What portable code reaches: vectors of the architecture's oldest CPU.
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
