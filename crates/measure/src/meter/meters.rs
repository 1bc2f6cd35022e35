//! All figures of one launch, by name.

use super::reading::{Over, Reading};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Index;

/// What a row is about: seconds from the start to the end of the last process that worked, CPU seconds of
/// the whole tree, and the peak of its resident memory.
const HEADLINES: [&str; 4] = ["wall_s", "user_s", "system_s", "peak_memory_bytes"];

/// All others, of the whole tree. Resident memory: the largest single process, and the largest sampled sum
/// of simultaneous ones, with the pages that they share counted once. The footprint is macOS's (resident,
/// compressed and GPU memory); the group's peak has the page cache in it. Minor faults are served without
/// storage, major ones wait for it; switches are voluntary when a thread waits. `storage_read_bytes` lacks
/// what the page cache served. Events are counted by the CPU and the scheduler (`events.rs`); energy and
/// GPU memory come from the surroundings.
const DETAILS: [&str; 22] = [
    "largest_process_bytes",
    "tree_pss_bytes",
    "phys_footprint_bytes",
    "cgroup_peak_bytes",
    "processes",
    "minor_faults",
    "major_faults",
    "voluntary_switches",
    "involuntary_switches",
    "storage_read_bytes",
    "storage_written_bytes",
    "instructions",
    "cycles",
    "cache_misses",
    "branch_misses",
    "cpu_migrations",
    "task_clock_ns",
    "cpu_energy_uj",
    "device_energy_uj",
    "device_memory_bytes",
    "device_memory_largest_bytes",
    "device_busy_least_percent",
];

/// What several nodes' figures of this name come to.
fn over(name: &str) -> Over {
    match name {
        "wall_s" | "largest_process_bytes" | "device_memory_largest_bytes" => Over::Largest,
        "device_busy_least_percent" => Over::Least,
        _ => Over::Sum,
    }
}

const NEVER_HEARD_OF: Reading = Reading { value: None, source: None, valid: false, reason: None };

/// What one launch cost, its whole process tree included: `meters["wall_s"].value`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meters(BTreeMap<String, Reading>);

impl Meters {
    /// Nothing was measured, all for one reason.
    pub fn absent(reason: &str) -> Meters {
        let names = HEADLINES.into_iter().chain(DETAILS);
        Meters(names.map(|name| (name.to_owned(), Reading::absent(reason))).collect())
    }

    /// Of nodes that trained together, by their names: the sum of each figure, or the largest or least where a sum
    /// means nothing. What one of them does not know is not known.
    pub fn together(nodes: &[(&str, &Meters)]) -> Meters {
        let names: BTreeSet<&String> =
            nodes.iter().flat_map(|(_, meters)| meters.0.keys()).collect();
        let reading = |name: &str| {
            let readings = nodes.iter().map(|&(node, meters)| (node, &meters[name]));
            Reading::together(&readings.collect::<Vec<_>>(), over(name))
        };
        Meters(names.into_iter().map(|name| (name.clone(), reading(name))).collect())
    }

    /// The values that are known.
    pub fn values(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(|(name, reading)| Some((name.as_str(), reading.value?)))
    }

    pub fn set(&mut self, name: &str, reading: Reading) {
        self.0.insert(name.to_owned(), reading);
    }

    /// All but the headlines.
    pub fn details(&self) -> impl Iterator<Item = (&str, &Reading)> {
        let details = self.0.iter().filter(|(name, _)| !HEADLINES.contains(&name.as_str()));
        details.map(|(name, reading)| (name.as_str(), reading))
    }
}

/// A name that is none reads as a figure that is absent.
impl Index<&str> for Meters {
    type Output = Reading;

    fn index(&self, name: &str) -> &Reading {
        self.0.get(name).unwrap_or(&NEVER_HEARD_OF)
    }
}
