//! A team of persistent threads that run one piece of work together, with barriers inside it.
//!
//! A training step of these models takes some ten microseconds, so a barrier must cost well under
//! one: members spin. But a machine has other work too, and a thread that spins while the one it
//! waits for is not running only keeps it from running (other frameworks become 5 to 15 times
//! slower beside one busy process). So a member spins for 50 us, then gives its CPU away to
//! whatever else could run there, again and again, and sleeps only after 4 ms. It does not spin at
//! all if the team is larger than the CPUs that it may use.
//!
//! To sleep soon is a trap. Waking a thread takes longer than a step, on a virtual machine 100 us
//! and more, so that the one who woke it waits for it at the next barrier, sleeps as well, and has
//! to be woken in its turn: one hiccup goes on for dozens of steps. Nor does the system always run
//! two members on two CPUs that are free: see `Seats`.
//!
//! With one member there is no thread and no atomic operation. The team never decides what is
//! computed: kernels split their sums into blocks that depend on the sizes alone, so that results
//! are equal bit for bit at any number of threads.

mod barrier;
mod cores;
mod line;
#[cfg(target_os = "linux")]
mod seats;

/// On other systems members run where they are put.
#[cfg(not(target_os = "linux"))]
mod seats {
    pub struct Seats;

    impl Seats {
        pub fn new(_threads: usize, _cpus: usize) -> Seats {
            Seats
        }

        #[allow(clippy::unused_self)] // on Linux it looks
        pub fn keep_apart(&self, _member: usize) {}
    }
}

pub use cores::available_cores;

use barrier::Barrier;
use seats::Seats;
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A fixed number of threads, the calling one among them.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// One thread's place in a run.
pub struct Member<'run> {
    shared: &'run Shared,
    index: usize,
}

struct Shared {
    threads: usize,
    /// Everyone meets here before and after a run.
    gate: Barrier,
    /// The members of a run meet here within it.
    inner: Barrier,
    seats: Seats,
    work: Mutex<Work>,
}

/// The job of the workers when they have passed the gate.
#[derive(Clone, Copy)]
enum Work {
    Run(&'static (dyn Fn(&Member<'_>) + Sync)),
    Leave,
}

impl Team {
    /// Starts `threads - 1` threads, which sleep until there is a run.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Team> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            threads,
            gate: Barrier::new(threads, cpus),
            inner: Barrier::new(threads, cpus),
            seats: Seats::new(threads, cpus),
            work: Mutex::new(Work::Leave),
        });
        let mut team = Team { shared, workers: Vec::with_capacity(threads.saturating_sub(1)) };
        for index in 1..threads {
            let shared = Arc::clone(&team.shared);
            let worker = std::thread::Builder::new().name(format!("cpu-{index}"));
            match worker.spawn(move || shared.serve(index)) {
                Ok(handle) => team.workers.push(handle),
                Err(error) => {
                    // Nobody can pass the gate without the missing ones: break it open.
                    team.shared.gate.poison();
                    return Err(error);
                }
            }
        }
        Ok(team)
    }

    /// Number of members, the calling thread included.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `work` on every member at once and returns when all are done.
    ///
    /// # Panics
    /// If a member panics; the others are released from their barriers and the team stays usable.
    pub fn run(&mut self, work: &(dyn Fn(&Member<'_>) + Sync)) {
        let shared = &*self.shared;
        let here = Member { shared, index: 0 };
        if shared.threads == 1 {
            return work(&here);
        }
        // SAFETY: only the lifetime is changed. The workers use the reference between the two
        // meetings at the gate, and this function leaves only after the second.
        let forever = unsafe {
            std::mem::transmute::<
                &(dyn Fn(&Member<'_>) + Sync),
                &'static (dyn Fn(&Member<'_>) + Sync),
            >(work)
        };
        *shared.lock_work() = Work::Run(forever);
        shared.gate.meet();
        let result = shared.take_part(&here, work);
        shared.gate.meet();
        let broken = shared.inner.reset();
        match result {
            Err(panic) => resume_unwind(panic),
            Ok(()) => assert!(!broken, "a thread of the team panicked"),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.workers.len() + 1 == self.shared.threads {
            *self.shared.lock_work() = Work::Leave;
            self.shared.gate.meet();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its work and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock_work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, index: usize) {
        loop {
            if !self.gate.meet() {
                return;
            }
            let work = *self.lock_work();
            match work {
                Work::Run(work) => {
                    // The panic's message was printed by the hook; `run` panics in its turn.
                    let _ = self.take_part(&Member { shared: self, index }, work);
                    self.gate.meet();
                }
                Work::Leave => return,
            }
        }
    }

    /// Does a member's share; a panic releases the others from the inner barrier.
    fn take_part(
        &self,
        member: &Member<'_>,
        work: &(dyn Fn(&Member<'_>) + Sync),
    ) -> Result<(), Box<dyn Any + Send>> {
        let result = catch_unwind(AssertUnwindSafe(|| work(member)));
        if result.is_err() {
            self.inner.poison();
        }
        result
    }
}

impl Member<'_> {
    /// From 0, the calling thread, up.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of members.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// This member's part of `0..count`, contiguous, as even as can be.
    pub fn share(&self, count: usize) -> Range<usize> {
        self.share_of(self.index, count)
    }

    /// The shares of all members, in order.
    pub fn shares(&self, count: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.threads()).map(move |index| self.share_of(index, count))
    }

    fn share_of(&self, index: usize, count: usize) -> Range<usize> {
        let at = |index: usize| count * index / self.shared.threads;
        at(index)..at(index + 1)
    }

    /// Waits for all members. What each wrote before is visible to each after.
    ///
    /// # Panics
    /// If another member panicked and can never arrive.
    #[inline]
    pub fn barrier(&self) {
        self.wait(self.arrive());
    }

    /// The first half of a barrier: says that this member is here. What it writes from now on is
    /// visible to the others only after the next barrier, but it need not be idle while it waits.
    #[inline]
    pub fn arrive(&self) -> Arrival {
        Arrival(if self.shared.threads > 1 { self.shared.inner.arrive() } else { 0 })
    }

    /// The second half: waits until all have arrived.
    ///
    /// # Panics
    /// If another member panicked and can never arrive.
    #[inline]
    pub fn wait(&self, arrival: Arrival) {
        if self.shared.threads > 1 {
            let keep_apart = || self.shared.seats.keep_apart(self.index);
            let whole = self.shared.inner.wait(arrival.0, keep_apart);
            assert!(whole, "another thread of the team panicked");
        }
    }
}

/// A member has arrived at a barrier and has to wait there.
#[must_use = "the others wait for this member at the next barrier"]
pub struct Arrival(u32);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn every_member_runs_once_and_sees_what_the_others_wrote_before_a_barrier() {
        for threads in [1, 2, 3, 8] {
            let mut team = Team::new(threads).unwrap();
            let slots: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..200 {
                team.run(&|member| {
                    assert_eq!(member.threads(), threads);
                    for step in 0..5 {
                        let stamp = round * 10 + step;
                        slots[member.index()].store(stamp, Ordering::Relaxed);
                        member.barrier();
                        for slot in &slots {
                            assert_eq!(slot.load(Ordering::Relaxed), stamp);
                        }
                        member.barrier();
                    }
                });
            }
        }
    }

    #[test]
    fn what_is_written_between_arriving_and_waiting_is_seen_after_the_next_barrier() {
        for threads in [1, 2, 3, 8] {
            let mut team = Team::new(threads).unwrap();
            let slots: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            team.run(&|member| {
                for step in 1..500 {
                    let arrival = member.arrive();
                    slots[member.index()].store(step, Ordering::Relaxed);
                    member.wait(arrival);
                    member.barrier();
                    for slot in &slots {
                        let seen = slot.load(Ordering::Relaxed); // or written since
                        assert!((step..=step + 1).contains(&seen), "{seen} at {step}");
                    }
                }
            });
        }
    }

    #[test]
    fn shares_cover_everything_in_order() {
        for threads in [1, 2, 3, 5] {
            let mut team = Team::new(threads).unwrap();
            for count in [0, 1, 4, 17] {
                let shares = Mutex::new(vec![0..0; threads]);
                team.run(&|member| shares.lock().unwrap()[member.index()] = member.share(count));
                let mut next = 0;
                for share in shares.into_inner().unwrap() {
                    assert_eq!(share.start, next);
                    next = share.end;
                }
                assert_eq!(next, count);
            }
        }
    }

    #[test]
    fn a_panic_in_any_member_reaches_the_caller_and_the_team_survives() {
        let mut team = Team::new(3).unwrap();
        for culprit in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|member| {
                    member.barrier();
                    assert_ne!(member.index(), culprit);
                    member.barrier();
                });
            }));
            assert!(result.is_err());
        }
        let count = AtomicUsize::new(0);
        team.run(&|member| {
            member.barrier();
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
    }

    #[test]
    fn a_sleeping_member_is_woken() {
        let mut team = Team::new(2).unwrap();
        for _ in 0..3 {
            team.run(&|member| {
                if member.index() == 0 {
                    std::thread::sleep(Duration::from_millis(5)); // longer than it waits awake
                }
                member.barrier();
            });
            std::thread::sleep(Duration::from_millis(5)); // now the worker sleeps at the gate
        }
    }
}
