//! Linux: sampling a process tree, and the traces of the out-of-memory killer.

use super::proc::{self, Stat};
use super::{Cpu, TreeSample};
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

/// Least time between two looks at the tree.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);
/// A look may take one part in this many of the time between looks: reading the proportional set
/// size walks page tables, which takes milliseconds per gigabyte and holds a lock that the
/// trainer's own page faults need. Counted in CPU time: on a busy machine a look that had to wait
/// for a core has cost no more.
const INTERVAL_PER_COST: u32 = 100;

/// Looks at all processes below one, again and again.
///
/// While there is only one process it does no more than find that out: the kernel's own peak is
/// exact for a single process. For several it sums the proportional set sizes. A process counts
/// from the second look on: between `vfork` and `exec` a child shows all of its parent's memory
/// as its own, and that must not become a peak.
#[derive(Debug)]
pub struct TreeSampler {
    root: i32,
    /// By id and start time: the processes of the last look, with the CPU time they had used.
    known: HashMap<(i32, u64), Ticks>,
    /// CPU time of the processes that have gone since, as last seen.
    gone: Ticks,
    sample: TreeSample,
    last: Option<Instant>,
    next: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    user: u64,
    system: u64,
}

impl TreeSampler {
    /// `root` itself is not part of the tree.
    pub fn new(root: i32) -> Self {
        TreeSampler {
            root,
            known: HashMap::new(),
            gone: Ticks::default(),
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
        let ids = proc::descendants(self.root);
        let resident = if ids.len() > 1 || self.sample.most_processes > 1 {
            self.look_at_each(&ids, want_resident)
        } else {
            self.sample.most_processes = self.sample.most_processes.max(ids.len() as u64);
            ids.first().filter(|_| want_resident).and_then(|&id| proc::resident_bytes(id))
        };
        let cost = thread_cpu_time().saturating_sub(cpu_before);
        self.next = start + SHORTEST_INTERVAL.max(cost * INTERVAL_PER_COST);
        resident
    }

    fn look_at_each(&mut self, ids: &[i32], want_resident: bool) -> Option<u64> {
        let stats: Vec<Stat> = ids.iter().filter_map(|&id| Stat::read(id)).collect();
        let before = std::mem::take(&mut self.known);
        for stat in &stats {
            let ticks = Ticks { user: stat.user_ticks, system: stat.system_ticks };
            self.known.insert((stat.pid, stat.start_ticks), ticks);
        }
        for (identity, ticks) in &before {
            if !self.known.contains_key(identity) {
                self.gone.user += ticks.user;
                self.gone.system += ticks.system;
            }
        }
        let alive: Vec<&Stat> = stats.iter().filter(|stat| stat.is_alive()).collect();
        let processes = alive.len() as u64;
        self.sample.most_processes = self.sample.most_processes.max(processes);
        if processes <= 1 && !want_resident {
            return None;
        }
        let mut sum = 0;
        for stat in alive.iter().filter(|s| before.contains_key(&(s.pid, s.start_ticks))) {
            // A process that changed its user cannot be looked into; its resident size can.
            sum += proc::pss_bytes(stat.pid).or_else(|| {
                let resident = proc::resident_bytes(stat.pid)?;
                self.sample.resident_stood_in = true;
                Some(resident)
            })?;
        }
        if processes > 1 && sum > self.sample.peak_bytes {
            self.sample.peak_bytes = sum;
            self.sample.peak_processes = processes;
        }
        Some(sum)
    }

    /// A process was waited for. The kernel's sum over all of them is as good.
    #[allow(clippy::unused_self)] // on other systems it counts
    pub fn ended(&mut self, _ended: &crate::account::Ended) {}

    /// What all looks together have seen.
    pub fn finish(mut self) -> TreeSample {
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let sum = self.known.values().fold(self.gone, |sum, ticks| Ticks {
            user: sum.user + ticks.user,
            system: sum.system + ticks.system,
        });
        self.sample.cpu = Some(Cpu {
            user_s: sum.user as f64 / ticks_per_s,
            system_s: sum.system as f64 / ticks_per_s,
        });
        self.sample
    }
}

/// CPU time that the calling thread has used.
fn thread_cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

/// How often the kernel's out-of-memory killer has struck, in this process's control group and on
/// the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKills {
    cgroup: Option<u64>,
    machine: Option<u64>,
}

impl OomKills {
    pub fn read() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let cgroup = oom_counter_files(&groups)
            .iter()
            .find_map(|file| counter(&fs::read_to_string(file).ok()?, "oom_kill"));
        let vmstat = fs::read_to_string("/proc/vmstat").ok();
        OomKills { cgroup, machine: vmstat.and_then(|text| counter(&text, "oom_kill")) }
    }

    /// The evidence, in words, that it struck the trainer between the two readings. The machine's
    /// counter alone convinces only if the trainer's main process was killed by a SIGKILL that was
    /// not ours: others on the machine run out of memory too.
    pub fn evidence(self, later: OomKills, foreign_sigkill: bool) -> Option<String> {
        let rose = |before: Option<u64>, after: Option<u64>| after?.checked_sub(before?);
        if let Some(kills @ 1..) = rose(self.cgroup, later.cgroup) {
            return Some(format!(
                "the kernel killed {kills} process(es) of the control group (oom_kill)"
            ));
        }
        match rose(self.machine, later.machine) {
            Some(kills @ 1..) if foreign_sigkill => Some(format!(
                "SIGKILL while the kernel's out-of-memory killer struck {kills} time(s) on this machine"
            )),
            _ => None,
        }
    }
}

/// The files that may hold the counter, best first: version 2's, then version 1's memory
/// controller's, each at the group's path and, for a container that sees only its own group, at
/// the root.
fn oom_counter_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.events")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.oom_control")
        } else {
            continue;
        };
        files.push(format!("{mount}{}/{file}", path.trim_end_matches('/')));
        files.push(format!("{mount}/{file}"));
    }
    files
}

/// The value of a line `name value`.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: OomKills = OomKills { cgroup: Some(2), machine: Some(10) };

    #[test]
    fn a_kill_in_the_own_control_group_is_evidence_whatever_the_exit_was() {
        let later = OomKills { cgroup: Some(3), machine: Some(11) };
        assert!(BEFORE.evidence(later, false).unwrap().contains("killed 1 process"));
    }

    #[test]
    fn a_kill_elsewhere_on_the_machine_is_evidence_only_for_a_trainer_that_was_killed() {
        let later = OomKills { cgroup: Some(2), machine: Some(11) };
        assert_eq!(BEFORE.evidence(later, false), None);
        assert!(BEFORE.evidence(later, true).is_some());
        assert_eq!(BEFORE.evidence(BEFORE, true), None);
    }

    #[test]
    fn without_counters_there_is_no_evidence() {
        let blind = OomKills { cgroup: None, machine: None };
        assert_eq!(blind.evidence(BEFORE, true), None);
        assert_eq!(BEFORE.evidence(blind, true), None);
    }

    #[test]
    fn the_counter_is_looked_for_where_either_version_of_control_groups_keeps_it() {
        assert_eq!(
            oom_counter_files("0::/user.slice/app.scope\n"),
            ["/sys/fs/cgroup/user.slice/app.scope/memory.events", "/sys/fs/cgroup/memory.events"]
        );
        assert_eq!(
            oom_counter_files("5:cpu,cpuacct:/x\n4:memory:/\n"),
            [
                "/sys/fs/cgroup/memory/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control"
            ]
        );
        assert!(oom_counter_files("garbage\n1:cpu\n").is_empty());
    }

    #[test]
    fn counters_are_matched_by_their_whole_name() {
        assert_eq!(counter("oom 4\noom_kill 3\noom_group_kill 0\n", "oom_kill"), Some(3));
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), Some(7));
        assert_eq!(counter("low 0\n", "oom_kill"), None);
    }
}
