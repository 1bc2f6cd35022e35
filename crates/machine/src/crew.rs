//! Threads that start together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Runs `work` once per part, each on a thread of its own (the first on the caller's), and returns
/// the seconds from the first start to the last end.
pub(crate) fn run<P: Send>(parts: Vec<P>, work: impl Fn(P) + Sync) -> f64 {
    let threads = parts.len();
    let ready = AtomicUsize::new(0);
    let one = |part: P| {
        ready.fetch_add(1, Ordering::AcqRel);
        let mut turns = 0u32;
        while ready.load(Ordering::Acquire) < threads {
            turns += 1;
            // A thread that is not running yet may need this one's core.
            if turns.is_multiple_of(1024) {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
        }
        let start = Instant::now();
        work(part);
        (start, Instant::now())
    };
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return 0.0 };
    let times =
        std::thread::scope(|scope| {
            let others: Vec<_> = parts.map(|part| scope.spawn(|| one(part))).collect();
            let mut times = vec![one(first)];
            times.extend(others.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }));
            times
        });
    let start = times.iter().map(|time| time.0).min();
    let end = times.iter().map(|time| time.1).max();
    start.zip(end).map_or(0.0, |(start, end)| (end - start).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_part_runs_at_the_same_time_and_the_slowest_counts() {
        let here = AtomicUsize::new(0);
        let seconds = run(vec![5, 20, 1], |milliseconds| {
            here.fetch_add(1, Ordering::Relaxed);
            while here.load(Ordering::Relaxed) < 3 {
                std::thread::yield_now(); // hangs unless all three run at once
            }
            std::thread::sleep(Duration::from_millis(milliseconds));
        });
        assert!(seconds >= 0.02, "{seconds}");
    }
}
