//! Where the members of a team meet.

use super::line::Line;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a member spins at a barrier: a step's worth.
const SPIN: Duration = Duration::from_micros(50);
/// How long a member waits before it sleeps: about a turn of another process on the CPU of the one
/// that it waits for, and well over what waking takes.
const PATIENCE: Duration = Duration::from_millis(4);

/// A barrier for a fixed number of threads; [the team](super) says how they wait.
pub struct Barrier {
    threads: usize,
    spin: Duration,
    /// Members that wait in this generation.
    arrived: Line<AtomicUsize>,
    /// Counts the meetings: waiting is waiting for it to change.
    generation: Line<AtomicU32>,
    /// Members that sleep, or are about to.
    sleepers: AtomicUsize,
    broken: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    /// Members do not spin where there are more of them than CPUs.
    pub fn new(threads: usize, cpus: usize) -> Barrier {
        Barrier {
            threads,
            spin: if threads > cpus { Duration::ZERO } else { SPIN },
            arrived: Line(AtomicUsize::new(0)),
            generation: Line(AtomicU32::new(0)),
            sleepers: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Arrives and waits for all; false if the barrier is broken.
    pub fn meet(&self) -> bool {
        self.wait(self.arrive(), || {})
    }

    /// Says that this member is here. Returns the generation whose end is to be waited for.
    #[inline]
    pub fn arrive(&self) -> u32 {
        // Cannot change before this member has arrived.
        let generation = self.generation.0.load(Ordering::Relaxed);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.0.store(0, Ordering::Relaxed);
            // SeqCst here and in `sleep`: either this thread sees the sleeper, or the sleeper
            // sees the new generation.
            self.generation.0.store(generation.wrapping_add(1), Ordering::SeqCst);
            if self.sleepers.load(Ordering::SeqCst) > 0 {
                self.wake_all();
            }
        }
        generation
    }

    /// Waits until all have arrived; false if the barrier is broken. A wait that is not over within
    /// a microsecond or two begins with `long`.
    #[inline]
    pub fn wait(&self, generation: u32, long: impl FnOnce()) -> bool {
        const LOOKS: usize = 64;
        for _ in 0..LOOKS {
            if self.generation.0.load(Ordering::Acquire) != generation {
                return !self.broken.load(Ordering::Relaxed);
            }
            std::hint::spin_loop();
        }
        long();
        self.wait_long(generation)
    }

    #[cold]
    fn wait_long(&self, generation: u32) -> bool {
        let start = Instant::now();
        while self.generation.0.load(Ordering::Acquire) == generation
            && !self.broken.load(Ordering::Relaxed)
        {
            let waited = start.elapsed(); // takes about as long as a look by another core
            if waited < self.spin {
                std::hint::spin_loop();
            } else if waited < PATIENCE {
                std::thread::yield_now();
            } else {
                self.sleep(generation);
            }
        }
        !self.broken.load(Ordering::Relaxed)
    }

    #[cold]
    fn sleep(&self, generation: u32) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.generation.0.load(Ordering::SeqCst) == generation
            && !self.broken.load(Ordering::SeqCst)
        {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    #[cold]
    fn wake_all(&self) {
        // The lock: a sleeper that has looked but not yet slept must not miss this.
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }

    /// Lets everyone through, now and later.
    pub fn poison(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    /// Makes a broken barrier whole, while nobody waits at it; whether it was broken.
    pub fn reset(&self) -> bool {
        self.arrived.0.store(0, Ordering::Relaxed);
        self.broken.swap(false, Ordering::SeqCst)
    }
}
