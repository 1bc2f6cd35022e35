//! Observations of a process tree, while it runs and when its processes are reaped.

use crate::account::Ended;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The processes of one rank: that which its launcher started, and all that it did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankUse {
    /// Largest sum of their proportional set sizes.
    pub peak_bytes: u64,
    /// The logical cores that the first of them may run on, in the kernel's words: `0-3,8`.
    pub cpus: Option<String>,
}

/// The result of sampling a process tree.
#[derive(Clone, Debug, Default)]
pub struct TreeSample {
    /// Most processes alive at one look.
    pub most_processes: u64,
    /// Largest sum of the memory of several processes, and of how many; 0 if there was never more than
    /// one. Proportional set sizes on Linux, physical footprints on macOS.
    pub peak_bytes: u64,
    pub peak_processes: u64,
    /// Of each rank, where the processes' environment tells it; on Linux.
    pub ranks: BTreeMap<u32, RankUse>,
    /// For some process the resident size had to stand in for the proportional one.
    pub resident_stood_in: bool,
    pub looks: u64,
    /// Longest time between two looks.
    pub longest_interval: Duration,
    /// CPU time that was seen in the processes: less than they used, for each by what it used after
    /// it was last looked at.
    pub cpu: Option<Cpu>,
    /// What `wait4` said of each process that was waited for; not where the kernel's own sum over
    /// them is all of the tree.
    pub waited: Option<Waited>,
}

impl TreeSample {
    /// Another look, at so many processes.
    pub fn note(&mut self, processes: u64, bytes: u64) {
        self.most_processes = self.most_processes.max(processes);
        if processes > 1 && bytes > self.peak_bytes {
            (self.peak_bytes, self.peak_processes) = (bytes, processes);
        }
    }
}

/// The sum of `wait4`'s accounts of the processes that were reaped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waited {
    pub cpu: Cpu,
    pub largest_resident_bytes: u64,
    /// Peak of the largest physical footprint, where the system has such a thing.
    pub largest_footprint_bytes: Option<u64>,
}

impl Waited {
    #[cfg_attr(target_os = "linux", allow(dead_code))] // there only its tests do
    pub fn note(&mut self, ended: &Ended) {
        self.cpu.user_s += ended.user.as_secs_f64();
        self.cpu.system_s += ended.system.as_secs_f64();
        self.largest_resident_bytes = self.largest_resident_bytes.max(ended.largest_resident_bytes);
        self.largest_footprint_bytes = self.largest_footprint_bytes.max(ended.footprint_bytes);
    }
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub user_s: f64,
    pub system_s: f64,
}

impl Cpu {
    pub fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}
