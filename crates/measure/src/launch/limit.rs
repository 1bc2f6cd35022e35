//! A limit on a trainer's memory: how it is enforced, and the evidence when memory ran out.
//!
//! Three ways, best first. A *control group* of the trainer's own: the kernel counts all of the tree
//! and kills it at the limit. Where none can be made (no privilege, no delegation, another system),
//! the launcher *watches*: it sums the tree's resident memory every 20 ms and kills it above the
//! limit. It watches beside a control group too, since root can move itself out of one. *rlimit*
//! bounds each process's address space, so that an allocation fails inside the program; nobody gets
//! it unasked, since device runtimes reserve far more addresses than memory.
//!
//! Without a limit, or with one of the other two ways, the control group is there to measure.

use crate::group::{Group, Place};
use crate::meter::Reading;
use crate::process::counter;
use serde::{Deserialize, Serialize};
use std::fs;

/// The means that enforces a memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The kernel, by a control group
    Group,
    /// The kernel, by the address space of each process (RLIMIT_AS)
    Rlimit,
    /// The harness, by looking at the resident memory again and again
    Watch,
}

/// A limit on the memory of a trainer's whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimit {
    pub bytes: u64,
    /// `None` is a control group if there can be one, else the watch.
    pub by: Option<LimitedBy>,
}

/// The memory of one launch: limited or not, measured if there is a control group.
#[derive(Debug)]
pub struct Memory {
    /// With the way that was found.
    limit: Option<(u64, LimitedBy)>,
    /// Whether a way was asked for by name.
    named: bool,
    group: Result<Group, String>,
    oom_before: OomKills,
}

impl Memory {
    /// Makes ready what is needed before the trainer starts.
    ///
    /// # Errors
    /// In words, if a control group was asked for by name and there can be none.
    pub fn prepare(wanted: Option<MemoryLimit>) -> Result<Memory, String> {
        use LimitedBy::{Group as ByGroup, Watch};
        let oom_before = OomKills::read();
        let named = wanted.is_some_and(|limit| limit.by.is_some());
        let (limit, group) = match wanted {
            Some(MemoryLimit { bytes, by: by @ (None | Some(ByGroup)) }) => {
                match (Group::make(Some(bytes)), by) {
                    (Ok(group), _) => (Some((bytes, ByGroup)), Ok(group)),
                    (Err(why), Some(_)) => {
                        return Err(format!("no control group can be made for its memory: {why}"));
                    }
                    (Err(why), None) => (Some((bytes, Watch)), Err(why)),
                }
            }
            other => (other.and_then(|it| Some((it.bytes, it.by?))), Group::make(None)),
        };
        Ok(Memory { limit, named, group, oom_before })
    }

    /// Starts something inside the control group, if there is one. The launcher itself is back outside
    /// of it afterwards.
    ///
    /// # Errors
    /// In words, if the group that limits cannot be entered: then nothing was started.
    pub fn start<T>(&mut self, start: impl FnOnce() -> T) -> Result<T, String> {
        let Ok(group) = &self.group else { return Ok(start()) };
        if let Err(error) = group.enter() {
            let why = format!("cannot enter its control group: {error}");
            if self.way() == Some(LimitedBy::Group) {
                return Err(why);
            }
            self.group = Err(why);
            return Ok(start());
        }
        let started = start();
        group.leave();
        Ok(started)
    }

    /// Bounds what has just been started, where that is how the limit works: all that it has counts,
    /// so that nothing is won in the moment before.
    ///
    /// # Errors
    /// In words, if the system refuses.
    pub fn bound(&self, pid: i32) -> Result<(), String> {
        match self.limit {
            Some((bytes, LimitedBy::Rlimit)) => bound_address_space(pid, bytes),
            _ => Ok(()),
        }
    }

    fn way(&self) -> Option<LimitedBy> {
        self.limit.map(|(_, way)| way)
    }

    /// Whether the launcher itself has to look at the tree's resident memory.
    pub fn is_watched(&self) -> bool {
        matches!(self.way(), Some(LimitedBy::Watch | LimitedBy::Group))
    }

    /// Whether the trainer has to be stopped, with the evidence in words. `resident` is the tree's
    /// resident memory, `pids` are its processes.
    pub fn is_over(&self, resident: Option<u64>, pids: impl Fn() -> Vec<i32>) -> Option<String> {
        let (limit, _) = self.limit?;
        let held = resident.filter(|&resident| self.is_watched() && resident > limit);
        let words = |held| {
            let (held, limit) = (files::size(held), files::size(limit));
            format!("its processes held {held}, but the limit is {limit}")
        };
        match (&self.group, held) {
            // The kernel sees to those in the group, and counts what they share with others once.
            (Ok(group), Some(held)) if self.way() == Some(LimitedBy::Group) => {
                let left = pids().into_iter().filter(|&pid| !group.has(pid)).count();
                let left = (left > 0).then(|| format!("{left} of them had left its control group"));
                left.map(|left| format!("{} ({left})", words(held)))
            }
            (_, Some(held)) => Some(words(held)),
            // The kernel may have killed only one process of the tree.
            (Ok(group), None) if self.way() == Some(LimitedBy::Group) => group.evidence(),
            (_, None) => None,
        }
    }

    /// The evidence, in words, that memory ran out. The machine's counter alone convinces only if the
    /// trainer's main process was killed by a SIGKILL that was not ours (`foreign_sigkill`).
    pub fn evidence(&self, foreign_sigkill: bool) -> Option<String> {
        let own = self.group.as_ref().ok().and_then(Group::evidence);
        own.or_else(|| self.oom_before.evidence(OomKills::read(), foreign_sigkill))
    }

    /// The peak of the control group.
    pub fn peak(&self) -> Reading {
        match &self.group {
            Ok(group) => group.peak(),
            Err(why) => Reading::absent(format!("no control group of its own: {why}")),
        }
    }

    /// The means of the limit, for the record; `None` without a limit.
    pub fn limited_by(&self) -> Option<String> {
        Some(match (self.way()?, &self.group) {
            (LimitedBy::Group, Ok(group)) => group.words(),
            (LimitedBy::Rlimit, _) => "rlimit (RLIMIT_AS of each process)".to_owned(),
            (_, Err(why)) if !self.named => {
                format!("watch (resident memory; no control group: {why})")
            }
            _ => "watch (resident memory)".to_owned(),
        })
    }

    /// The address space that a trainer may have, if that is limited, be it by whoever started the
    /// harness (`ulimit -v`): an allocation that fails has its reason there.
    pub fn address_space_bytes(&self) -> Option<u64> {
        #[cfg(target_os = "linux")]
        let inherited = rustix::process::getrlimit(rustix::process::Resource::As).current;
        #[cfg(not(target_os = "linux"))]
        let inherited: Option<u64> = None;
        let own = self.limit.filter(|(_, by)| matches!(by, LimitedBy::Rlimit));
        inherited.into_iter().chain(own.map(|(bytes, _)| bytes)).min()
    }
}

/// Of the process, not of the launcher while it starts it: a launcher that has more itself could not
/// start anything.
#[cfg(target_os = "linux")]
fn bound_address_space(pid: i32, bytes: u64) -> Result<(), String> {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let maximum = getrlimit(Resource::As).maximum;
    let lowered = Rlimit { current: Some(bytes), maximum };
    match prlimit(Pid::from_raw(pid), Resource::As, lowered) {
        Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()), // it may have ended
        Err(error) => Err(format!("cannot limit the address space: {error}")),
    }
}

#[cfg(not(target_os = "linux"))]
fn bound_address_space(_pid: i32, _bytes: u64) -> Result<(), String> {
    Err("this system does not limit the address space".to_owned())
}

/// How often the kernel's out-of-memory killer has struck, in this process's control group and on
/// the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OomKills {
    group: Option<u64>,
    machine: Option<u64>,
}

impl OomKills {
    fn read() -> Self {
        let group = Place::all().iter().filter(|it| it.has("memory")).find_map(Place::kills);
        let machine = fs::read_to_string("/proc/vmstat").ok();
        OomKills { group, machine: machine.and_then(|text| counter(&text, "oom_kill")) }
    }

    /// That it struck the trainer between the two readings: others on the machine run out of memory
    /// too.
    fn evidence(self, later: OomKills, foreign_sigkill: bool) -> Option<String> {
        let rose = |before: Option<u64>, after: Option<u64>| after?.checked_sub(before?);
        if let Some(kills @ 1..) = rose(self.group, later.group) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: OomKills = OomKills { group: Some(2), machine: Some(10) };

    #[test]
    fn a_kill_in_the_own_control_group_is_evidence_whatever_the_exit_was() {
        let later = OomKills { group: Some(3), machine: Some(11) };
        assert!(BEFORE.evidence(later, false).unwrap().contains("killed 1 process"));
    }

    #[test]
    fn a_kill_elsewhere_on_the_machine_is_evidence_only_for_a_trainer_that_was_killed() {
        let later = OomKills { group: Some(2), machine: Some(11) };
        assert_eq!(BEFORE.evidence(later, false), None);
        assert!(BEFORE.evidence(later, true).is_some());
        assert_eq!(BEFORE.evidence(BEFORE, true), None);
    }

    #[test]
    fn without_counters_there_is_no_evidence() {
        let blind = OomKills { group: None, machine: None };
        assert_eq!(blind.evidence(BEFORE, true), None);
        assert_eq!(BEFORE.evidence(blind, true), None);
    }

    #[test]
    fn without_a_group_the_watch_takes_over_and_says_why() {
        let memory = |limit, named| Memory {
            limit,
            named,
            group: Err("no delegation".to_owned()),
            oom_before: BEFORE,
        };
        let watched = memory(Some((7, LimitedBy::Watch)), false);
        let words = "watch (resident memory; no control group: no delegation)";
        assert_eq!(watched.limited_by().as_deref(), Some(words));
        assert!(watched.is_watched());
        assert_eq!(watched.is_over(Some(7), Vec::new), None);
        let evidence = watched.is_over(Some(8), Vec::new).unwrap();
        assert_eq!(evidence, "its processes held 8 bytes, but the limit is 7 bytes");
        let free = memory(None, false);
        assert_eq!((free.limited_by(), free.is_over(Some(8), Vec::new)), (None, None));
        assert!(free.peak().reason().unwrap().ends_with("no delegation"));
    }
}
