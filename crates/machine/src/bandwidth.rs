//! Sequential reads, writes and copies of working sets that fit a level of the memory, with the
//! widest vectors that the CPU has.

use crate::rounds::{Probe, Rate};
use crate::working_set::{LINE_BYTES, Line, WorkingSet};
use crate::{Access, Bandwidth, Cache, Level, crew};
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

/// A set that main memory is measured with is so many times the last cache.
const BEYOND_CACHE: u64 = 4;
/// The same where the system does not tell the last cache's size, and at most.
const MEMORY_SET: std::ops::RangeInclusive<u64> = 64 << 20..=1 << 30;

/// One working set: what its probes are, but for the kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    level: Level,
    threads: usize,
    /// Bytes of each thread.
    bytes: u64,
}

/// Vectors that a kernel handles in one turn of its loop.
const TURN: usize = 8;

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Copy];

/// The working sets: of a cache half of a thread's share, of main memory several times the last
/// cache, all threads together.
pub(crate) fn sets(caches: &[Cache], counts: &[usize], memory_bytes: Option<u64>) -> Vec<Set> {
    let mut sets = Vec::new();
    for cache in caches {
        let level = match cache.level {
            1 => Level::L1,
            2 => Level::L2,
            3 => Level::L3,
            _ => continue,
        };
        for &threads in counts {
            let share = cache.bytes / cache.shared_by.min(threads).max(1) as u64;
            sets.push(Set { level, threads, bytes: whole_lines(share / 2) });
        }
    }
    let instances = |cache: &Cache, threads: usize| threads.div_ceil(cache.shared_by.max(1));
    for &threads in counts {
        let last = caches.last().map_or(0, |it| it.bytes * instances(it, threads) as u64);
        let total = (last * BEYOND_CACHE).clamp(*MEMORY_SET.start(), *MEMORY_SET.end());
        let total = memory_bytes.map_or(total, |memory| total.min(memory / 8));
        let bytes = whole_lines(total / threads as u64);
        sets.push(Set { level: Level::Memory, threads, bytes });
    }
    sets
}

/// Whole turns of each half of a copy.
fn whole_lines(bytes: u64) -> u64 {
    let unit = (2 * TURN * LINE_BYTES) as u64;
    (bytes / unit * unit).max(unit)
}

/// For each set, one probe per kind of access; all on the same memory.
pub(crate) fn probes<'a>(sets: &[Set]) -> Vec<Probe<'a>> {
    let largest = sets.iter().map(|set| set.bytes * set.threads as u64).max().unwrap_or(0);
    let mut memory = WorkingSet::zeroed(largest as usize);
    // Each thread's part of the memory is touched by a thread of its own first, so that on a
    // machine of several nodes it lies near to one of them.
    let threads = sets.iter().map(|set| set.threads).max().unwrap_or(1);
    let part = memory.lines_mut().len().div_ceil(threads);
    let parts = memory.lines_mut().chunks_mut(part).collect();
    crew::run(parts, |lines| run(Access::Write, lines, 1));

    let memory = Rc::new(RefCell::new(memory));
    let mut probes = Vec::new();
    for set in sets.iter().copied() {
        for access in ACCESSES {
            let memory = Rc::clone(&memory);
            probes.push(Probe {
                units: (set.bytes * set.threads as u64) as f64,
                run: Box::new(move |passes| {
                    let mut memory = memory.borrow_mut();
                    let lines = memory.lines_mut();
                    let stride = lines.len() / set.threads;
                    let length = set.bytes as usize / LINE_BYTES;
                    let parts = lines.chunks_exact_mut(stride).take(set.threads);
                    let parts = parts.map(|lines| &mut lines[..length]).collect();
                    crew::run(parts, |lines| run(access, lines, passes))
                }),
            });
        }
    }
    probes
}

/// The record of what [`probes`] measured.
pub(crate) fn rates(sets: &[Set], rates: &[Rate]) -> Vec<Bandwidth> {
    let names = sets.iter().flat_map(|&set| ACCESSES.map(|access| (set, access)));
    names
        .zip(rates)
        .map(|((set, access), rate)| Bandwidth {
            level: set.level,
            access,
            threads: set.threads,
            working_set_bytes: set.bytes,
            bytes_per_s: rate.median,
            highest_bytes_per_s: rate.highest,
        })
        .collect()
}

/// Passes over the lines so many times.
fn run(access: Access, lines: &mut [Line], passes: u64) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has it.
            return unsafe { avx512(access, lines, passes) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has it.
            return unsafe { avx2(access, lines, passes) };
        }
    }
    portable(access, lines, passes);
}

/// A pass, compiled for a vector type. Pointers go through `black_box` once a pass: to the
/// compiler, every pass meets other memory.
macro_rules! passes {
    ($access:expr, $lines:expr, $passes:expr, $vector:ty, $zero:expr, $any:expr, $mix:expr) => {{
        const PER_LINE: usize = LINE_BYTES / size_of::<$vector>();
        let start = $lines.as_mut_ptr().cast::<$vector>();
        let count = $lines.len() * PER_LINE;
        let mut mixed = [$zero; TURN];
        for _ in 0..$passes {
            // SAFETY (of all below): `count` vectors from `start` on, aligned to a cache line and
            // borrowed mutably; a half of them for each side of a copy.
            match $access {
                Access::Read => {
                    let from: *const $vector = black_box(start);
                    for turn in 0..count / TURN {
                        for (slot, mixed) in mixed.iter_mut().enumerate() {
                            // SAFETY: see above.
                            let value = unsafe { from.add(turn * TURN + slot).read() };
                            *mixed = $mix(*mixed, value);
                        }
                    }
                }
                Access::Write => {
                    let (to, value) = (black_box(start), black_box($any));
                    for turn in 0..count / TURN {
                        for slot in 0..TURN {
                            // SAFETY: see above.
                            unsafe { to.add(turn * TURN + slot).write(value) };
                        }
                    }
                }
                Access::Copy => {
                    // SAFETY: see above.
                    let (from, to) = unsafe { (black_box(start), black_box(start.add(count / 2))) };
                    for turn in 0..count / 2 / TURN {
                        for slot in 0..TURN {
                            // SAFETY: see above.
                            unsafe {
                                to.add(turn * TURN + slot)
                                    .write(from.add(turn * TURN + slot).read())
                            };
                        }
                    }
                }
            }
        }
        black_box(mixed);
    }};
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(access: Access, lines: &mut [Line], passes: u64) {
    use std::arch::x86_64::*;
    let (zero, any) = (_mm512_setzero_si512(), _mm512_set1_epi32(0x3f80_1234));
    passes!(access, lines, passes, __m512i, zero, any, |a, b| _mm512_or_si512(a, b));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(access: Access, lines: &mut [Line], passes: u64) {
    use std::arch::x86_64::*;
    let (zero, any) = (_mm256_setzero_si256(), _mm256_set1_epi32(0x3f80_1234));
    passes!(access, lines, passes, __m256i, zero, any, |a, b| _mm256_or_si256(a, b));
}

/// 128-bit integers: vectors of the architecture's oldest CPU (NEON on ARM, SSE2 on x86-64).
fn portable(access: Access, lines: &mut [Line], passes: u64) {
    type Vector = [u64; 2];
    let any = [0x3f80_1234_3f80_1234u64; 2];
    let or = |a: Vector, b: Vector| [a[0] | b[0], a[1] | b[1]];
    passes!(access, lines, passes, Vector, [0u64; 2], any, or);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_halves_of_shares_and_main_memory_is_beyond_the_last_cache() {
        let caches = [
            Cache { level: 1, bytes: 32 << 10, shared_by: 2 },
            Cache { level: 2, bytes: 1 << 20, shared_by: 2 },
            Cache { level: 3, bytes: 32 << 20, shared_by: 16 },
        ];
        let sets = sets(&caches, &[1, 32], Some(1 << 40));
        let find = |level, threads| {
            let set = sets.iter().find(|set| (set.level, set.threads) == (level, threads));
            set.expect("a set").bytes
        };
        assert_eq!(find(Level::L1, 1), 16 << 10);
        assert_eq!(find(Level::L1, 32), 8 << 10);
        assert_eq!(find(Level::L3, 32), 1 << 20);
        assert_eq!(find(Level::Memory, 1), 128 << 20);
        assert_eq!(find(Level::Memory, 32) * 32, 256 << 20); // two L3 caches
    }

    #[test]
    fn unknown_caches_leave_main_memory_and_little_memory_is_respected() {
        let sets = sets(&[], &[1], Some(256 << 20));
        assert_eq!(sets, [Set { level: Level::Memory, threads: 1, bytes: 32 << 20 }]);
    }

    #[test]
    fn every_variant_writes_what_it_should_and_copies_one_half_to_the_other() {
        type Variant = fn(Access, &mut [Line], u64);
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "more on x86-64"))]
        let mut variants: Vec<Variant> = vec![portable];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: the CPU has it.
                variants.push(|access, lines, passes| unsafe { avx512(access, lines, passes) });
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU has it.
                variants.push(|access, lines, passes| unsafe { avx2(access, lines, passes) });
            }
        }
        for variant in variants {
            let mut memory = WorkingSet::zeroed(32 * LINE_BYTES);
            let bits = |lines: &mut [Line]| -> Vec<u32> {
                lines.iter().map(|line| line.0[0].to_bits()).collect()
            };
            variant(Access::Write, &mut memory.lines_mut()[..16], 1);
            variant(Access::Read, memory.lines_mut(), 3);
            let (full, empty) = (0x3f80_1234, 0);
            assert_eq!(bits(memory.lines_mut()), [[full; 16], [empty; 16]].concat());
            variant(Access::Copy, memory.lines_mut(), 1);
            assert_eq!(bits(memory.lines_mut()), [full; 32]);
        }
    }
}
