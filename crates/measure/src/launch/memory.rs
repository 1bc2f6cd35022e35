//! A limit on a trainer's memory: how it is enforced, and the evidence when it was reached.
//!
//! Three ways, best first. A *control group* of the trainer's own: the kernel counts all of the tree
//! and kills it at the limit. Where none can be made (no privilege, no delegation, another system),
//! the launcher *watches*: it sums the tree's resident memory every 20 ms and kills it above the
//! limit. *rlimit* bounds each process's address space, so that an allocation fails inside the
//! program; nobody gets it unasked, since device runtimes reserve far more addresses than memory.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Who enforces a memory limit.
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

/// A limit that is in force.
#[derive(Debug)]
pub enum Enforced {
    Nothing,
    Group(ControlGroup),
    Rlimit { bytes: u64 },
    Watch { bytes: u64, why_no_group: Option<String> },
}

impl Enforced {
    /// Makes ready what a limit needs before the trainer starts.
    ///
    /// # Errors
    /// In words, if a control group was asked for by name and there can be none.
    pub fn prepare(limit: Option<MemoryLimit>) -> Result<Enforced, String> {
        let Some(MemoryLimit { bytes, by }) = limit else { return Ok(Enforced::Nothing) };
        match by {
            Some(LimitedBy::Rlimit) => Ok(Enforced::Rlimit { bytes }),
            Some(LimitedBy::Watch) => Ok(Enforced::Watch { bytes, why_no_group: None }),
            Some(LimitedBy::Group) => ControlGroup::of_own(bytes)
                .map(Enforced::Group)
                .map_err(|why| format!("there can be no control group for its memory: {why}")),
            None => Ok(match ControlGroup::of_own(bytes) {
                Ok(group) => Enforced::Group(group),
                Err(why) => Enforced::Watch { bytes, why_no_group: Some(why) },
            }),
        }
    }

    /// Resident memory of the tree at which the launcher itself has to stop it.
    pub fn watched_bytes(&self) -> Option<u64> {
        match self {
            Enforced::Watch { bytes, .. } => Some(*bytes),
            _ => None,
        }
    }

    /// Starts something under the limit. The launcher itself is back outside of it afterwards.
    pub fn start<T>(&self, start: impl FnOnce() -> T) -> Result<T, String> {
        match self {
            Enforced::Nothing | Enforced::Watch { .. } | Enforced::Rlimit { .. } => Ok(start()),
            Enforced::Group(group) => {
                let failed = |error: io::Error| format!("cannot enter its control group: {error}");
                group.enter().map_err(failed)?;
                let started = start();
                group.leave().map_err(failed)?;
                Ok(started)
            }
        }
    }

    /// Bounds what has just been started, where that is how the limit works: all that it has counts,
    /// so that nothing is won in the moment before.
    pub fn bound(&self, pid: i32) -> Result<(), String> {
        match self {
            Enforced::Rlimit { bytes } => bound_address_space(pid, *bytes),
            _ => Ok(()),
        }
    }

    /// The evidence, in words, that the limit was reached.
    pub fn evidence(&self) -> Option<String> {
        match self {
            Enforced::Group(group) => group.evidence(),
            _ => None,
        }
    }
}

/// For the record: who limits, and how.
impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Enforced::Nothing => f.write_str("nothing"),
            Enforced::Group(group) => write!(f, "control group ({})", group.version.limit_file()),
            Enforced::Rlimit { .. } => f.write_str("rlimit (RLIMIT_AS of each process)"),
            Enforced::Watch { why_no_group: None, .. } => f.write_str("watch (resident memory)"),
            Enforced::Watch { why_no_group: Some(why), .. } => {
                write!(f, "watch (resident memory; no control group: {why})")
            }
        }
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

/// The address space that a trainer may have, if that is limited, be it by whoever started the
/// harness (`ulimit -v`): an allocation that fails has its reason there.
pub fn address_space_bytes(enforced: &Enforced) -> Option<u64> {
    #[cfg(target_os = "linux")]
    let inherited = rustix::process::getrlimit(rustix::process::Resource::As).current;
    #[cfg(not(target_os = "linux"))]
    let inherited: Option<u64> = None;
    match enforced {
        Enforced::Rlimit { bytes } => Some(inherited.map_or(*bytes, |most| most.min(*bytes))),
        _ => inherited,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        }
    }

    fn swap_limit(self, bytes: u64) -> (&'static str, u64) {
        match self {
            // Memory and swap together; there only once the first limit is set.
            Version::One => ("memory.memsw.limit_in_bytes", bytes),
            Version::Two => ("memory.swap.max", 0),
        }
    }

    fn events_file(self) -> &'static str {
        match self {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        }
    }
}

/// What the names of our control groups begin with.
const PREFIX: &str = "trainmark-";
/// A group can be removed only when the kernel has forgotten its last process, which on a busy
/// machine takes it a while after the last one was killed.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(10);

/// A control group for one trainer, removed when dropped.
#[derive(Debug)]
pub struct ControlGroup {
    version: Version,
    folder: PathBuf,
    /// Where this process belongs.
    home: PathBuf,
    bytes: u64,
}

impl ControlGroup {
    /// Below this process's own group, or beside it: below a group that has processes, version 2
    /// has no limits.
    fn of_own(bytes: u64) -> Result<ControlGroup, String> {
        let groups = fs::read_to_string("/proc/self/cgroup")
            .map_err(|_| "this system has no control groups".to_owned())?;
        ControlGroup::among(&groups, Path::new("/sys/fs/cgroup"), bytes)
    }

    fn among(groups: &str, mount: &Path, bytes: u64) -> Result<ControlGroup, String> {
        let mut reason = "the memory controller is not mounted".to_owned();
        for (version, home) in homes(groups, mount) {
            let beside = home.parent().filter(|parent| parent.starts_with(mount));
            for parent in [Some(&*home), beside].into_iter().flatten() {
                match ControlGroup::make(version, parent, &home, bytes) {
                    Ok(group) => return Ok(group),
                    Err(error) => reason = format!("{}: {error}", parent.display()),
                }
            }
        }
        Err(reason)
    }

    fn make(version: Version, parent: &Path, home: &Path, bytes: u64) -> io::Result<ControlGroup> {
        // Whether the way back is open.
        fs::write(home.join("cgroup.procs"), "0")?;
        if version == Version::Two {
            let control = parent.join("cgroup.subtree_control");
            if !fs::read_to_string(&control)?.split_whitespace().any(|it| it == "memory") {
                fs::write(&control, "+memory")?;
            }
        }
        remove_left_over(parent, std::process::id());
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&folder)?;
        // From here on it is removed again whatever happens.
        let group = ControlGroup { version, folder, home: home.to_owned(), bytes };
        group.set(version.limit_file(), bytes)?;
        let (swap, most) = version.swap_limit(bytes);
        // Not every kernel accounts for swap; without it the limit is the same.
        let _ = group.set(swap, most);
        if version == Version::Two {
            // All of a tree or nothing: half of one trains on and says nonsense.
            let _ = group.set("memory.oom.group", 1);
        }
        Ok(group)
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.folder.join(file), value.to_string())
    }

    fn enter(&self) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), "0")
    }

    fn leave(&self) -> io::Result<()> {
        fs::write(self.home.join("cgroup.procs"), "0")
    }

    fn evidence(&self) -> Option<String> {
        let events = fs::read_to_string(self.folder.join(self.version.events_file())).ok()?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")).map(str::trim);
        let kills: u64 = kills?.parse().ok().filter(|&kills| kills > 0)?;
        let file = self.version.limit_file();
        Some(format!(
            "the kernel killed {kills} of its processes at the control group's limit of {} bytes ({file})",
            self.bytes
        ))
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let give_up = Instant::now() + REMOVAL_PATIENCE;
        let mut pause = Duration::from_millis(1);
        // What cannot be removed is empty, and the next launch tries again.
        while let Err(error) = fs::remove_dir(&self.folder)
            && error.kind() == io::ErrorKind::ResourceBusy
            && Instant::now() < give_up
        {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Removes the groups of launchers that were killed, among them one whose number this process has got. That
/// of a launcher at work is empty too before its trainer starts and after it has ended, when its evidence is
/// still to be read.
fn remove_left_over(parent: &Path, own: u32) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let launcher =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let is_at_work = |pid: u32| pid != own && Path::new(&format!("/proc/{pid}")).exists();
        if launcher.is_some_and(|pid| !is_at_work(pid)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The group of this process that can limit memory, as the kernel lists its groups; in a container
/// that does not see the path, the mount's root.
fn homes(groups: &str, mount: &Path) -> Vec<(Version, PathBuf)> {
    let mut homes = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (version, base) = if controllers.is_empty() {
            (Version::Two, mount.to_owned())
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (Version::One, mount.join("memory"))
        } else {
            continue;
        };
        let shown = base.join(path.trim_start_matches('/'));
        let home = if shown.is_dir() { shown } else { base };
        // A mount of version 2 without controllers stands beside version 1's on many systems.
        if version == Version::One || home.join("cgroup.controllers").is_file() {
            homes.push((version, home));
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a mount of version 2; the files that the kernel would make in a new
    /// group are made by hand, since no test may count on the privilege for real ones.
    fn mount() -> (tempfile::TempDir, PathBuf) {
        let mount = tempfile::tempdir().unwrap();
        let home = mount.path().join("user.slice/run.scope");
        fs::create_dir_all(&home).unwrap();
        for folder in [mount.path(), &mount.path().join("user.slice"), &home] {
            for (file, text) in
                [("cgroup.controllers", "cpu memory"), ("cgroup.subtree_control", "cpu memory")]
            {
                fs::write(folder.join(file), text).unwrap();
            }
        }
        (mount, home)
    }

    #[test]
    fn a_group_of_version_two_is_made_below_the_own_one_limited_and_read() {
        let (mount, home) = mount();
        let groups = "5:cpu:/x\n0::/user.slice/run.scope\n";
        let group = ControlGroup::among(groups, mount.path(), 5000).unwrap();
        assert_eq!(group.folder.parent(), Some(&*home));
        let file = |name: &str| fs::read_to_string(group.folder.join(name)).unwrap();
        assert_eq!((file("memory.max"), file("memory.swap.max")), ("5000".into(), "0".into()));
        assert_eq!(file("memory.oom.group"), "1");
        assert_eq!(group.evidence(), None);
        fs::write(group.folder.join("memory.events"), "oom 3\noom_kill 2\n").unwrap();
        let evidence = group.evidence().unwrap();
        assert!(evidence.contains("killed 2 of its processes"), "{evidence}");
        assert!(evidence.contains("limit of 5000 bytes (memory.max)"), "{evidence}");
        group.enter().unwrap();
        assert_eq!(file("cgroup.procs"), "0");
        fs::remove_dir_all(&group.folder).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_empty_group_of_a_launcher_at_work_stays_and_those_of_the_dead_go() {
        let parent = tempfile::tempdir().unwrap();
        // Process 1 is always there, and so many there cannot be.
        for name in ["trainmark-1", "trainmark-7", "trainmark-4294967295", "trainmark-x", "other"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        remove_left_over(parent.path(), 7);
        let left = fs::read_dir(parent.path()).unwrap().flatten().map(|entry| entry.file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["other", "trainmark-1", "trainmark-x"]);
    }

    #[test]
    fn where_there_can_be_no_group_the_reason_is_named_and_the_watch_takes_over() {
        let (mount, _) = mount();
        let refused = ControlGroup::among("5:cpu:/x\n", mount.path(), 1).unwrap_err();
        assert_eq!(refused, "the memory controller is not mounted");
        let enforced = Enforced::Watch { bytes: 7, why_no_group: Some(refused) };
        assert_eq!(enforced.watched_bytes(), Some(7));
        let words =
            "watch (resident memory; no control group: the memory controller is not mounted)";
        assert_eq!(enforced.to_string(), words);
    }
}
