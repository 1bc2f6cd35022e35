//! On which CPUs the members of a team run.
//!
//! A system may run two threads on one CPU and leave another idle for many milliseconds: one slept
//! or was not running when its CPU had a moment's other work, was woken where its team-mate runs,
//! and is not fetched away because it has run just now. For a team that meets every 50 us that is
//! two to four times the time. So a member that waits long notes its CPU, and if one with a lower
//! number has noted the same, it moves to another. It is free to be moved again at once: threads
//! that are tied to CPUs do badly beside any other process. Linux only.

use super::line::Line;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A member moves no more often than this: where other processes want the CPUs too, the system
/// knows better.
const LEAST_STAY: Duration = Duration::from_millis(1);

/// The members' CPUs. Empty where they cannot be kept apart: more members than CPUs.
pub struct Seats {
    seats: Vec<Line<Seat>>,
    start: Instant,
}

struct Seat {
    /// As last noted, and one more; 0 before.
    cpu: AtomicU64,
    /// Nanoseconds from the start until the member moved last.
    moved: AtomicU64,
}

impl Seats {
    pub fn new(threads: usize, cpus: usize) -> Seats {
        let seats = if threads > cpus { 0 } else { threads };
        let seat = |_| Line(Seat { cpu: AtomicU64::new(0), moved: AtomicU64::new(0) });
        Seats { seats: (0..seats).map(seat).collect(), start: Instant::now() }
    }

    /// To be called by a member that waits: moves it if one with a lower number runs on its CPU.
    pub fn keep_apart(&self, member: usize) {
        let Some(Line(own)) = self.seats.get(member) else { return };
        let cpu = rustix::thread::sched_getcpu();
        own.cpu.store(cpu as u64 + 1, Ordering::Relaxed);
        let noted = |Line(seat): &Line<Seat>| seat.cpu.load(Ordering::Relaxed) as usize;
        if self.seats[..member].iter().all(|seat| noted(seat) != cpu + 1) {
            return;
        }
        let now = self.start.elapsed().as_nanos() as u64;
        let stayed = now.saturating_sub(own.moved.load(Ordering::Relaxed));
        if stayed < LEAST_STAY.as_nanos() as u64 {
            return;
        }
        own.moved.store(now, Ordering::Relaxed);
        if let Some(cpu) = leave(self.seats.iter().filter_map(|seat| noted(seat).checked_sub(1))) {
            own.cpu.store(cpu as u64 + 1, Ordering::Relaxed);
        }
    }
}

/// Moves the calling thread to a CPU that is not `taken`, of those that it may run on, and ties it
/// to none. Returns the CPU; none if there is no such CPU or the system refuses.
fn leave(taken: impl Iterator<Item = usize>) -> Option<usize> {
    use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};
    let allowed = sched_getaffinity(None).ok()?;
    let mut free = allowed;
    taken.for_each(|cpu| free.unset(cpu));
    if free.count() == 0 {
        return None;
    }
    sched_setaffinity(None, &free).ok()?;
    let cpu = sched_getcpu();
    sched_setaffinity(None, &allowed).ok()?;
    Some(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

    #[test]
    fn a_member_on_the_cpu_of_one_before_it_moves_and_is_free_to_be_moved() {
        let allowed = sched_getaffinity(None).unwrap();
        if allowed.count() < 2 {
            return skip::skipped("this process may use one CPU only");
        }
        std::thread::spawn(move || {
            let cpu = sched_getcpu();
            let mut here = CpuSet::new();
            here.set(cpu);
            sched_setaffinity(None, &here).unwrap(); // stay until the test has looked
            let seats = Seats::new(2, 2);
            seats.keep_apart(0);
            std::thread::sleep(LEAST_STAY);
            seats.keep_apart(1);
            assert_eq!(sched_getcpu(), cpu, "it may run nowhere else");
            assert!(seats.seats[1].0.moved.load(Ordering::Relaxed) > 0, "it has tried");

            sched_setaffinity(None, &allowed).unwrap();
            std::thread::sleep(LEAST_STAY);
            seats.keep_apart(0);
            seats.keep_apart(1);
            let noted = |member: usize| seats.seats[member].0.cpu.load(Ordering::Relaxed);
            assert_ne!(noted(0), noted(1));
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_member_that_is_alone_stays() {
        std::thread::spawn(|| {
            let seats = Seats::new(2, 2);
            std::thread::sleep(LEAST_STAY);
            seats.keep_apart(1);
            assert_eq!(seats.seats[1].0.moved.load(Ordering::Relaxed), 0);
            seats.keep_apart(0);
            assert_eq!(seats.seats[0].0.moved.load(Ordering::Relaxed), 0, "the first never moves");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn more_members_than_cpus_are_left_where_they_are() {
        assert!(Seats::new(3, 2).seats.is_empty());
        Seats::new(3, 2).keep_apart(2);
    }
}
