//! How long a word takes from one core to another and back, each way in a cache line of its own: what
//! every exchange between two threads costs, and all that a virtual machine can see of where its
//! cores are.
//!
//! A hypervisor may put two virtual cores on one physical core, behind one last cache or behind two,
//! and move them while they run; what the guest's system says of its cores does not change with it.
//! The round trip does, by about a factor of two or more. One line for both ways would not tell
//! siblings of one core from cores behind one cache: 60 and 50 ns where two lines take 45 and 100.

use crate::RoundTrip;

/// Round trips of a short round.
#[cfg(target_os = "linux")]
const TRIPS: u32 = 100;
/// Short rounds, of which the least counts: the first wakes the cores, and any may be interrupted.
#[cfg(target_os = "linux")]
const SHORT_ROUNDS: u32 = 8;
/// After this long it is over, with or without a figure.
#[cfg(target_os = "linux")]
const MOST: std::time::Duration = std::time::Duration::from_micros(800);
/// Cores that the first is paired with at most, itself included.
const MOST_CORES: usize = 64;

/// The cores that this process may use, by the system's numbers.
pub fn cores() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getaffinity};
        if let Ok(set) = sched_getaffinity(None) {
            return (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect();
        }
    }
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Nanoseconds of a round trip between two cores: the least of a few short rounds, which take less
/// than a millisecond together. The caller's own thread is not bound to anything.
///
/// # Errors
/// The reason why there is none.
#[cfg(target_os = "linux")]
pub fn round_trip_ns(cores: [usize; 2]) -> Result<u64, String> {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    /// Alone on its cache line, and on the one that the CPU may fetch with it.
    #[repr(align(128))]
    struct Line(AtomicU32);
    let (there, back) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    let end = Instant::now() + MOST;
    // Whether the number came in time. No pause instruction: on some CPUs it takes longer than a trip.
    let arrives = |line: &Line, number: u32| {
        let mut turns = 0u32;
        while line.0.load(Ordering::Acquire) != number {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(1024) && Instant::now() > end {
                return false;
            }
        }
        true
    };
    let first = || -> Result<u64, String> {
        bind(cores[0])?;
        let mut least = None;
        for round in 0..SHORT_ROUNDS {
            let start = Instant::now();
            let mut numbers = (1..=TRIPS).map(|trip| round * TRIPS + trip);
            let all = numbers.all(|number| {
                there.0.store(number, Ordering::Release);
                arrives(&back, number)
            });
            if !all {
                break;
            }
            let ns = start.elapsed().as_nanos() as u64 / u64::from(TRIPS);
            least = Some(least.map_or(ns, |least: u64| least.min(ns)));
        }
        least.ok_or_else(|| format!("the cores {} and {} were busy", cores[0], cores[1]))
    };
    let second = || -> Result<(), String> {
        bind(cores[1])?;
        for number in 1..=SHORT_ROUNDS * TRIPS {
            if !arrives(&there, number) {
                break;
            }
            back.0.store(number, Ordering::Release);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let thread = || std::thread::Builder::new().name("round trip".to_owned());
        let refused = |error: std::io::Error| format!("no thread can be started: {error}");
        let second = thread().spawn_scoped(scope, second).map_err(refused)?;
        let first = thread().spawn_scoped(scope, first).map_err(refused)?;
        let ended = "a thread that measures has panicked".to_owned();
        let ns = first.join().map_err(|_| ended.clone())?;
        second.join().map_err(|_| ended)??; // why it could not answer says more than that it did not
        ns
    })
}

/// Nanoseconds of a round trip between two cores.
///
/// # Errors
/// Always: only Linux binds a thread to a core.
#[cfg(not(target_os = "linux"))]
pub fn round_trip_ns(_cores: [usize; 2]) -> Result<u64, String> {
    Err("this system does not bind a thread to a core".to_owned())
}

#[cfg(target_os = "linux")]
fn bind(core: usize) -> Result<(), String> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    if core >= CpuSet::MAX_CPU {
        return Err(format!("core {core} is beyond those that can be asked for"));
    }
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).map_err(|error| format!("cannot run on core {core}: {error}"))
}

/// Measures between the first core and the others, once in each round of the rates.
pub(crate) struct Pairs {
    pairs: Vec<([usize; 2], Vec<u64>)>,
    /// Why one of them has no figure.
    reason: Option<String>,
}

impl Pairs {
    pub(crate) fn new(cores: &[usize]) -> Pairs {
        let others = cores.iter().skip(1).take(MOST_CORES - 1);
        let pairs: Vec<_> = others.map(|&other| ([cores[0], other], Vec::new())).collect();
        let reason = pairs.is_empty().then(|| "there is one core".to_owned());
        Pairs { pairs, reason }
    }

    pub(crate) fn look(&mut self) {
        for (cores, rounds) in &mut self.pairs {
            match round_trip_ns(*cores) {
                Ok(ns) => rounds.push(ns),
                Err(reason) => self.reason = Some(reason),
            }
        }
    }

    /// Of the pairs that have figures; the reason if none has.
    pub(crate) fn result(self) -> (Vec<RoundTrip>, Option<String>) {
        let measured = self.pairs.into_iter().filter(|(_, rounds)| !rounds.is_empty());
        let trips: Vec<RoundTrip> = measured
            .map(|(cores, mut rounds)| {
                rounds.sort_unstable();
                RoundTrip {
                    cores,
                    ns: rounds[rounds.len() / 2],
                    lowest_ns: rounds[0],
                    highest_ns: rounds[rounds.len() - 1],
                }
            })
            .collect();
        let reason = self.reason.filter(|_| trips.is_empty());
        (trips, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_of_the_first_core_and_figures_are_of_all_rounds() {
        let mut pairs = Pairs::new(&[3, 5, 8]);
        for (index, rounds) in [[110, 500, 100], [48, 48, 49]].into_iter().enumerate() {
            pairs.pairs[index].1.extend(rounds);
        }
        let (trips, reason) = pairs.result();
        let trip = |other, ns, lowest_ns, highest_ns| RoundTrip {
            cores: [3, other],
            ns,
            lowest_ns,
            highest_ns,
        };
        assert_eq!(trips, [trip(5, 110, 100, 500), trip(8, 48, 48, 49)]);
        assert!(trips[0].moved() && !trips[1].moved());
        assert_eq!(reason, None);
        let (none, reason) = Pairs::new(&[7]).result();
        assert_eq!((none.len(), reason.as_deref()), (0, Some("there is one core")));
        assert_eq!(Pairs::new(&Vec::from_iter(0..500)).pairs.len(), MOST_CORES - 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_round_trip_takes_nanoseconds_to_microseconds_and_leaves_the_caller_where_it_was() {
        let before = cores();
        if before.len() < 2 {
            return skip::skipped("this process may use one core");
        }
        let pair = [before[0], before[before.len() - 1]];
        // Beside other tests a core may be busy for a while.
        let figure = (0..200).find_map(|_| round_trip_ns(pair).ok());
        let ns = figure.expect("a figure when the cores are free for a moment");
        assert!((5..100_000).contains(&ns), "{ns} ns");
        assert_eq!(cores(), before);
        let start = std::time::Instant::now();
        assert!(round_trip_ns([before[0], 1023]).is_err() || before.contains(&1023));
        assert!(start.elapsed().as_secs() < 10);
    }
}
