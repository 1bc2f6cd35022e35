//! What the operating system says of a trainer's process tree.
//!
//! Every figure is a [`Reading`]: a value with the source that it comes from, or the reason why
//! there is none. A figure that cannot be had is never 0.

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod events;
mod usage;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) mod proc;
#[cfg(target_os = "linux")]
pub(crate) use cgroup::Group;
#[cfg(target_os = "linux")]
pub(crate) use events::Events;
#[cfg(target_os = "linux")]
pub(crate) use linux::{OomKills, TreeSampler};

#[cfg(not(target_os = "linux"))]
mod macos;
#[cfg(not(target_os = "linux"))]
pub(crate) use macos::{Events, Group, OomKills, TreeSampler};

pub(crate) use usage::Span;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One figure: measured, with its source, or absent, with the reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reading<T> {
    Measured {
        value: T,
        /// Where the figure comes from and what it covers, in words for the record.
        source: String,
    },
    Absent {
        /// Why there is no figure, in words for the record.
        reason: String,
    },
}

impl<T: Copy> Reading<T> {
    pub fn measured(value: T, source: impl Into<String>) -> Self {
        Reading::Measured { value, source: source.into() }
    }

    pub fn absent(reason: impl Into<String>) -> Self {
        Reading::Absent { reason: reason.into() }
    }

    pub fn value(&self) -> Option<T> {
        match self {
            Reading::Measured { value, .. } => Some(*value),
            Reading::Absent { .. } => None,
        }
    }

    /// The source of a measured figure.
    pub fn source(&self) -> Option<&str> {
        match self {
            Reading::Measured { source, .. } => Some(source),
            Reading::Absent { .. } => None,
        }
    }

    /// The reason for an absent figure.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Reading::Measured { .. } => None,
            Reading::Absent { reason } => Some(reason),
        }
    }
}

/// What looking at a process tree again and again has shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TreeSample {
    /// Most processes alive at one look.
    most_processes: u64,
    /// Largest sum of proportional set sizes of several processes, and of how many; 0 if there was
    /// never more than one.
    peak_bytes: u64,
    peak_processes: u64,
    /// For some process the resident size had to stand in for the proportional one.
    resident_stood_in: bool,
    looks: u64,
    /// Longest time between two looks.
    longest_interval: Duration,
    /// CPU time that was seen in the processes: less than they used, for each by what it used after
    /// it was last looked at.
    cpu: Option<Cpu>,
    /// What `wait4` said of each process that was waited for; not where the kernel's own sum over
    /// them is all of the tree.
    waited: Option<Waited>,
}

/// What `wait4` has said of the processes that were waited for, together.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(target_os = "linux", allow(dead_code))] // made by its tests only
pub(crate) struct Waited {
    cpu: Cpu,
    largest_resident_bytes: u64,
    /// Peak of the largest physical footprint, where the system has such a thing.
    largest_footprint_bytes: Option<u64>,
}

#[cfg_attr(target_os = "linux", allow(dead_code))]
impl Waited {
    fn note(&mut self, ended: &crate::account::Ended) {
        self.cpu.user_s += ended.user.as_secs_f64();
        self.cpu.system_s += ended.system.as_secs_f64();
        self.largest_resident_bytes = self.largest_resident_bytes.max(ended.largest_resident_bytes);
        self.largest_footprint_bytes = self.largest_footprint_bytes.max(ended.footprint_bytes);
    }
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    user_s: f64,
    system_s: f64,
}

impl Cpu {
    fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}

/// What one trainer cost, its whole process tree included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meters {
    /// Seconds from just before the start of the trainer's main process until it was reaped.
    pub wall_s: Reading<f64>,
    /// Seconds from the same start until the last process of the tree was reaped.
    pub tree_wall_s: Reading<f64>,
    /// User CPU seconds of all processes of the tree.
    pub user_s: Reading<f64>,
    /// System CPU seconds of all processes of the tree.
    pub system_s: Reading<f64>,
    /// Peak resident memory of the tree: the larger of the two figures below.
    pub peak_memory_bytes: Reading<u64>,
    /// Peak resident memory of the largest single process.
    pub largest_process_bytes: Reading<u64>,
    /// Largest sampled sum of the proportional set sizes of simultaneous processes, pages that
    /// they share counted once. Absent for a trainer of one process.
    pub tree_pss_bytes: Reading<u64>,
    /// Peak physical footprint: resident, compressed and GPU memory, as Activity Monitor counts it.
    /// Of the largest process, or of several at once, the largest sampled sum. macOS only.
    pub phys_footprint_bytes: Reading<u64>,
    /// Most processes that were seen alive at once.
    pub processes: Reading<u64>,
    /// Page faults served without input or output.
    pub minor_faults: Reading<u64>,
    /// Page faults that waited for storage.
    pub major_faults: Reading<u64>,
    /// Context switches because a thread waited.
    pub voluntary_switches: Reading<u64>,
    /// Context switches because a thread was pushed off its core.
    pub involuntary_switches: Reading<u64>,
    /// Bytes fetched from storage; what the page cache served is not in it.
    pub storage_read_bytes: Reading<u64>,
    /// Bytes that the tree caused to be written to storage.
    pub storage_written_bytes: Reading<u64>,
    /// Peak of a control group of its own, page cache included.
    pub cgroup_peak_bytes: Reading<u64>,
    pub events: EventCounts,
}

impl Meters {
    /// Nothing was measured, all for one reason.
    pub fn absent(reason: &str) -> Self {
        Meters {
            wall_s: Reading::absent(reason),
            tree_wall_s: Reading::absent(reason),
            user_s: Reading::absent(reason),
            system_s: Reading::absent(reason),
            peak_memory_bytes: Reading::absent(reason),
            largest_process_bytes: Reading::absent(reason),
            tree_pss_bytes: Reading::absent(reason),
            phys_footprint_bytes: Reading::absent(reason),
            processes: Reading::absent(reason),
            minor_faults: Reading::absent(reason),
            major_faults: Reading::absent(reason),
            voluntary_switches: Reading::absent(reason),
            involuntary_switches: Reading::absent(reason),
            storage_read_bytes: Reading::absent(reason),
            storage_written_bytes: Reading::absent(reason),
            cgroup_peak_bytes: Reading::absent(reason),
            events: EventCounts::absent(reason),
        }
    }
}

/// What perf events counted of a process tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Instructions retired in user space, and so on.
    pub instructions: Reading<u64>,
    pub cycles: Reading<u64>,
    /// Of the last level, as the kernel maps it for this CPU.
    pub cache_misses: Reading<u64>,
    pub branch_misses: Reading<u64>,
    /// Times that a thread went on on another core.
    pub cpu_migrations: Reading<u64>,
    /// CPU time by the scheduler's own clock, in nanoseconds.
    pub task_clock_ns: Reading<u64>,
}

impl EventCounts {
    pub fn absent(reason: &str) -> EventCounts {
        let absent = || Reading::absent(reason);
        EventCounts {
            instructions: absent(),
            cycles: absent(),
            cache_misses: absent(),
            branch_misses: absent(),
            cpu_migrations: absent(),
            task_clock_ns: absent(),
        }
    }
}
