//! Observations of a process tree, while it runs and when its processes are reaped.

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
    /// Peak of the largest physical footprint of a process that was waited for; on macOS.
    pub footprint_bytes: Option<u64>,
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
