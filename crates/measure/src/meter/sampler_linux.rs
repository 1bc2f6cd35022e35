//! Linux: sampling a process tree.

use super::sample::{Cpu, RankUse, TreeSample};
use crate::account::Ended;
use crate::process::{self, Stat};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Least time between two looks at the tree.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);
/// A look may take one part in this many of the time between looks: reading the proportional set
/// size walks page tables, which takes milliseconds per gigabyte and holds a lock that the
/// trainer's own page faults need. Counted in CPU time: on a busy machine a look that had to wait
/// for a core has cost no more.
const INTERVAL_PER_COST: u32 = 100;
/// Ranks of one machine that are kept.
const MOST_RANKS: usize = 4096;

/// Looks at all processes below one, again and again.
///
/// While there is only one process it does no more than find that out: the kernel's own peak is
/// exact for a single process. For several it sums the proportional set sizes. A process counts
/// from the second look on: between `vfork` and `exec` a child shows all of its parent's memory
/// as its own, and that must not become a peak.
#[derive(Debug)]
pub struct TreeSampler {
    root: i32,
    /// By id and start time: the processes of the last look, with the user and system ticks that they
    /// had used.
    known: HashMap<(i32, u64), [u64; 2]>,
    /// Ticks of the processes that have gone since, as last seen.
    gone: [u64; 2],
    sample: TreeSample,
    last: Option<Instant>,
    next: Instant,
}

impl TreeSampler {
    /// `root` itself is not part of the tree.
    pub fn new(root: i32) -> Self {
        TreeSampler {
            root,
            known: HashMap::new(),
            gone: [0; 2],
            sample: TreeSample::default(),
            last: None,
            next: Instant::now(),
        }
    }

    /// When [`TreeSampler::look`] is due again.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Looks once. With `want_resident` it returns the tree's resident memory in bytes even if
    /// there is only one process.
    pub fn look(&mut self, want_resident: bool) -> Option<u64> {
        let start = Instant::now();
        if let Some(last) = self.last.replace(start) {
            self.sample.longest_interval = self.sample.longest_interval.max(start - last);
        }
        self.sample.looks += 1;
        let cpu_before = thread_cpu_time();
        let ids = process::descendants(self.root);
        let resident = if ids.len() > 1 || self.sample.most_processes > 1 {
            self.look_at_each(&ids, want_resident)
        } else {
            self.sample.note(ids.len() as u64, 0);
            ids.first().filter(|_| want_resident).and_then(|&id| process::resident_bytes(id))
        };
        let cost = thread_cpu_time().saturating_sub(cpu_before);
        self.next = start + SHORTEST_INTERVAL.max(cost * INTERVAL_PER_COST);
        resident
    }

    fn look_at_each(&mut self, ids: &[i32], want_resident: bool) -> Option<u64> {
        let stats: Vec<Stat> = ids.iter().filter_map(|&id| Stat::read(id)).collect();
        let identity = |stat: &Stat| (stat.pid, stat.start_ticks);
        let now = stats.iter().map(|stat| (identity(stat), [stat.user_ticks, stat.system_ticks]));
        let before = std::mem::replace(&mut self.known, now.collect());
        for (_, ticks) in before.iter().filter(|(identity, _)| !self.known.contains_key(identity)) {
            self.gone = sum(self.gone, ticks);
        }
        let alive: Vec<&Stat> = stats.iter().filter(|stat| stat.is_alive()).collect();
        let processes = alive.len() as u64;
        self.sample.note(processes, 0);
        if processes <= 1 && !want_resident {
            return None;
        }
        let mut bytes = 0;
        let mut ranks: BTreeMap<u32, RankUse> = BTreeMap::new();
        for stat in alive.iter().filter(|stat| before.contains_key(&identity(stat))) {
            // A process that changed its user cannot be looked into; its resident size can.
            let own = process::pss_bytes(stat.pid).or_else(|| {
                let resident = process::resident_bytes(stat.pid)?;
                self.sample.resident_stood_in = true;
                Some(resident)
            })?;
            bytes += own;
            if let Some(rank) = process::rank(stat.pid) {
                let known = ranks.entry(rank).or_default();
                known.peak_bytes += own;
                known.cpus = known.cpus.take().or_else(|| process::allowed_cpus(stat.pid));
            }
        }
        self.sample.note(processes, bytes);
        for (rank, now) in ranks {
            let room = self.sample.ranks.len() < MOST_RANKS;
            if room || self.sample.ranks.contains_key(&rank) {
                let known = self.sample.ranks.entry(rank).or_default();
                known.peak_bytes = known.peak_bytes.max(now.peak_bytes);
                known.cpus = now.cpus.or(known.cpus.take());
            }
        }
        Some(bytes)
    }

    /// A process was waited for. The kernel's sum over all of them is as good.
    #[allow(clippy::unused_self)] // on other systems it counts
    pub fn ended(&mut self, _ended: &Ended) {}

    /// CPU seconds of the processes that are there now, to the tick.
    pub fn running_cpu_s(&self) -> Option<f64> {
        let stats = process::descendants(self.root).into_iter().filter_map(Stat::read);
        Some(
            cpu(stats.fold([0; 2], |all, it| sum(all, &[it.user_ticks, it.system_ticks])))
                .total_s(),
        )
    }

    /// The result of all samples together.
    pub fn finish(mut self) -> TreeSample {
        self.sample.cpu = Some(cpu(self.known.values().fold(self.gone, sum)));
        self.sample
    }
}

fn sum(one: [u64; 2], other: &[u64; 2]) -> [u64; 2] {
    [one[0] + other[0], one[1] + other[1]]
}

fn cpu([user, system]: [u64; 2]) -> Cpu {
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    Cpu { user_s: user as f64 / ticks_per_s, system_s: system as f64 / ticks_per_s }
}

/// CPU time that the calling thread has used.
fn thread_cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}
