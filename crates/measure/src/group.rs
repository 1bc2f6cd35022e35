//! Linux's control groups, version 1 and 2: where this process stands in each hierarchy, and a group of
//! a trainer's own, which measures its memory and may limit it.
//!
//! The launcher makes the group, is in it while it forks, and leaves again. The kernel keeps the group's
//! peak exactly, for any number of processes; the page cache of the files that they read is in it, so it
//! stands beside the resident peaks and does not replace them. Where no group may be made, as for most
//! users, there is a reason instead. On other systems there is none.

use crate::meter::Reading;
use crate::process::{counter, is_launcher};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The names of our control groups begin with this; the launcher's process id follows.
const PREFIX: &str = "trainmark-";
/// A group can be removed only when the kernel has forgotten its last process, which on a busy
/// machine takes it a while after the last one was killed.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(10);
/// Groups lie so deep at most where they are looked for: a scope below a service below a user's slice.
const DEEPEST: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// This process's group in one hierarchy.
#[derive(Clone, Debug)]
pub struct Place {
    version: Version,
    /// As the kernel lists them: `cpu,cpuacct`; empty in version 2.
    controllers: String,
    mount: PathBuf,
    folder: PathBuf,
}

impl Place {
    /// In every hierarchy that is visible here.
    pub fn all() -> Vec<Place> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Place::among(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// By the lines `id:controllers:path` of `/proc/self/cgroup`. A container may not see the path of
    /// the host: then its own group is the mount's root.
    pub fn among(groups: &str, root: &Path) -> Vec<Place> {
        let place = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let first = controllers.split(',').next().unwrap_or_default();
            let (version, mount) = match controllers {
                "" if root.join("cgroup.controllers").is_file() => (Version::Two, root.to_owned()),
                "" => (Version::Two, root.join("unified")),
                all if root.join(all).is_dir() => (Version::One, root.join(all)),
                _ => (Version::One, root.join(first)),
            };
            let shown = mount.join(path.trim_start_matches('/'));
            let folder = if !path.contains("..") && shown.is_dir() { shown } else { mount.clone() };
            let controllers = controllers.to_owned();
            mount.is_dir().then_some(Place { version, controllers, mount, folder })
        };
        groups.lines().filter_map(place).collect()
    }

    /// Whether the hierarchy has this controller.
    pub fn has(&self, controller: &str) -> bool {
        let listed = |list: &str, by: fn(char) -> bool| list.split(by).any(|it| it == controller);
        match self.version {
            Version::One => listed(&self.controllers, |c| c == ','),
            Version::Two => fs::read_to_string(self.mount.join("cgroup.controllers"))
                .is_ok_and(|list| listed(&list, char::is_whitespace)),
        }
    }

    /// The group and those above it, nearest first.
    pub fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.folder.ancestors().take_while(|folder| folder.starts_with(&self.mount))
    }

    /// Processes of this very group that the kernel has killed for lack of memory.
    pub fn kills(&self) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join(self.version.files()[2])).ok()?;
        counter(&text, "oom_kill")
    }
}

impl Version {
    /// The names of the files that hold the limit, the peak, and the kills.
    fn files(self) -> [&'static str; 3] {
        match self {
            Version::One => {
                ["memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"]
            }
            Version::Two => ["memory.max", "memory.peak", "memory.events"],
        }
    }

    fn limit(self) -> &'static str {
        self.files()[0]
    }

    fn peak(self) -> &'static str {
        self.files()[1]
    }
}

/// A control group for one trainer, removed when dropped.
#[derive(Debug)]
pub struct Group {
    /// The launcher's own place; `own.folder` is the new group's.
    own: Place,
    home: PathBuf,
    limit: Option<u64>,
}

impl Group {
    /// Makes one, with a limit of so many bytes or with none.
    ///
    /// # Errors
    /// The reason why there can be none.
    pub fn make(limit: Option<u64>) -> Result<Group, String> {
        match &Place::all()[..] {
            [] => Err("this system shows no control groups".to_owned()),
            places => Group::among(places, limit),
        }
    }

    /// Below this process's own group, or beside it: below a group that has processes, version 2
    /// accounts for nothing.
    fn among(places: &[Place], limit: Option<u64>) -> Result<Group, String> {
        let mut reason = "the memory controller is not mounted".to_owned();
        for place in places.iter().filter(|place| place.has("memory")) {
            for parent in place.upwards().take(2) {
                match Group::below(parent, place, limit) {
                    Ok(group) => return Ok(group),
                    Err(error) => reason = format!("{}: {error}", parent.display()),
                }
            }
        }
        Err(reason)
    }

    fn below(parent: &Path, place: &Place, limit: Option<u64>) -> io::Result<Group> {
        remove_left_over(parent);
        // Whether the way back is open.
        fs::write(place.folder.join("cgroup.procs"), "0")?;
        if place.version == Version::Two {
            let control = parent.join("cgroup.subtree_control");
            if !fs::read_to_string(&control)?.split_whitespace().any(|it| it == "memory") {
                fs::write(&control, "+memory")?;
            }
        }
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&folder)?;
        // From here on it is removed again whatever happens.
        let group =
            Group { own: Place { folder, ..place.clone() }, home: place.folder.clone(), limit };
        match (limit, place.version) {
            (None, version) if !group.own.folder.join(version.peak()).exists() => {
                return Err(io::Error::other(format!("there is no {}", version.peak())));
            }
            (None, _) => {}
            // Not every kernel accounts for swap; without it the limit is the same.
            (Some(bytes), Version::One) => {
                group.set(place.version.limit(), bytes)?;
                // Memory and swap together; there only once the first limit is set.
                let _ = group.set("memory.memsw.limit_in_bytes", bytes);
            }
            (Some(bytes), Version::Two) => {
                group.set(place.version.limit(), bytes)?;
                let _ = group.set("memory.swap.max", 0);
                // All of a tree or nothing: half of one trains on and says nonsense.
                let _ = group.set("memory.oom.group", 1);
            }
        }
        Ok(group)
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.own.folder.join(file), value.to_string())
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// If it may not.
    pub fn enter(&self) -> io::Result<()> {
        self.set("cgroup.procs", 0)
    }

    /// Moves this process back. Were it refused, the launcher's few megabytes would count as well.
    pub fn leave(&self) {
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
    }

    /// The largest memory that it ever held.
    pub fn peak(&self) -> Reading {
        let file = self.own.version.peak();
        let text = fs::read_to_string(self.own.folder.join(file)).unwrap_or_default();
        match text.trim().parse::<u64>() {
            Ok(bytes) => {
                let words = format!("{file} of a control group of its own: page cache included");
                Reading::measured(bytes as f64, words)
            }
            Err(_) => Reading::absent(format!("{file} of its control group cannot be read")),
        }
    }

    /// The evidence, in words, that the kernel killed some of its processes for lack of memory.
    pub fn evidence(&self) -> Option<String> {
        let kills = self.own.kills().filter(|&kills| kills > 0)?;
        let at = match self.limit {
            Some(bytes) => {
                format!("limit of {} ({})", files::size(bytes), self.own.version.limit())
            }
            None => "end of memory (oom_kill)".to_owned(),
        };
        Some(format!("the kernel killed {kills} of its processes at the control group's {at}"))
    }

    /// Whether a process is in it, or in one below it. One that is gone is.
    pub fn has(&self, pid: i32) -> bool {
        let name = self.own.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .map_or(true, |text| text.split(['/', '\n']).any(|part| part == name))
    }

    /// For the record: how it limits.
    pub fn words(&self) -> String {
        format!("control group ({})", self.own.version.limit())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.own.folder, REMOVAL_PATIENCE);
    }
}

/// Removes a group and those that a trainer made in it. One that cannot be removed is empty, and the next
/// launch tries again.
fn remove(folder: &Path, patience: Duration) {
    let give_up = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path(), Duration::ZERO);
            }
        }
        match fs::remove_dir(folder) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < give_up => {}
            _ => return,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Removes the groups of launchers that were killed, in all of the hierarchy: a session of its own, as
/// each terminal may be, leaves them elsewhere than the next run makes its own.
pub fn sweep() {
    let places = Place::all();
    for place in places.iter().filter(|place| place.has("memory")) {
        sweep_below(&place.mount, DEEPEST);
    }
}

fn sweep_below(parent: &Path, depth: usize) {
    remove_left_over(parent);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep_below(&entry.path(), depth - 1);
        }
    }
}

/// The group of a launcher at work is empty too before its trainer starts and after it has ended, when
/// its evidence is still to be read. An id may have passed to another program. A launcher in another
/// container looks dead from here: for all but some milliseconds its group has processes, and stays.
fn remove_left_over(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let launcher = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let is_at_work = |pid: u32| pid != std::process::id() && is_launcher(pid);
        if launcher.is_some_and(|pid| !is_at_work(pid)) {
            remove(&entry.path(), Duration::ZERO);
        }
    }
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

    fn group(mount: &Path, groups: &str, limit: Option<u64>) -> Result<Group, String> {
        Group::among(&Place::among(groups, mount), limit)
    }

    #[test]
    fn a_group_of_version_two_is_made_below_the_own_one_limited_measured_and_read() {
        let (mount, home) = mount();
        let groups = "5:cpu:/x\n0::/user.slice/run.scope\n";
        let group = group(mount.path(), groups, Some(5000)).unwrap();
        assert_eq!(group.own.folder.parent(), Some(&*home));
        let file = |name: &str| fs::read_to_string(group.own.folder.join(name)).unwrap();
        assert_eq!((file("memory.max"), file("memory.swap.max")), ("5000".into(), "0".into()));
        assert_eq!(file("memory.oom.group"), "1");
        assert_eq!((group.evidence(), group.peak().value), (None, None));
        fs::write(group.own.folder.join("memory.events"), "oom 3\noom_kill 2\n").unwrap();
        fs::write(group.own.folder.join("memory.peak"), "4096\n").unwrap();
        let evidence = group.evidence().unwrap();
        assert!(evidence.contains("killed 2 of its processes"), "{evidence}");
        assert!(evidence.contains("limit of 5000 bytes (memory.max)"), "{evidence}");
        assert_eq!(group.peak().value, Some(4096.0));
        group.enter().unwrap();
        assert_eq!(file("cgroup.procs"), "0");
        assert!(!group.has(std::process::id() as i32));
        fs::remove_dir_all(&group.own.folder).unwrap();
    }

    #[test]
    fn where_there_can_be_no_group_the_reason_is_named() {
        let (mount, _) = mount();
        let refused = group(mount.path(), "5:cpu:/x\n", Some(1)).unwrap_err();
        assert_eq!(refused, "the memory controller is not mounted");
        // The kernel made no file with a peak: nothing to measure, and nothing is left.
        let refused = group(mount.path(), "0::/user.slice/run.scope\n", None).unwrap_err();
        assert!(refused.contains("there is no memory.peak"), "{refused}");
    }

    #[test]
    fn the_group_that_a_container_does_not_see_is_the_mounts_root() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir_all(mount.path().join("memory/a")).unwrap();
        fs::create_dir_all(mount.path().join("cpu,cpuacct")).unwrap();
        let groups = "4:memory:/a\n3:memory:/gone\n2:cpu,cpuacct:/../x\n1:name=systemd:/\nnonsense";
        let places = Place::among(groups, mount.path());
        let folders: Vec<_> =
            places.iter().map(|it| it.folder.strip_prefix(mount.path()).unwrap()).collect();
        assert_eq!(folders, ["memory/a", "memory", "cpu,cpuacct"].map(Path::new));
        assert!(places[2].has("cpuacct") && !places[2].has("memory"));
        assert_eq!(places[0].upwards().count(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_empty_group_of_a_launcher_at_work_stays_and_those_of_the_dead_go() {
        use std::io::Read;
        let parent = tempfile::tempdir().unwrap();
        let mut launcher = std::process::Command::new("sh")
            .args(["-c", "echo; read wait", crate::process::LAUNCHER_ARG])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // For a moment after its start a process has no arguments yet, and is nobody's launcher.
        launcher.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let at_work = format!("trainmark-{}", launcher.id());
        // Process 1 is always there and no launcher; so many there cannot be.
        let dead = ["trainmark-1".to_owned(), format!("trainmark-{}", std::process::id())];
        let others = [&*at_work, "trainmark-4294967295/made/inside", "trainmark-x", "other"];
        for name in dead.iter().map(String::as_str).chain(others) {
            fs::create_dir_all(parent.path().join(name)).unwrap();
        }
        let elsewhere = parent.path().join("session-1/trainmark-1");
        fs::create_dir_all(&elsewhere).unwrap();
        sweep_below(parent.path(), DEEPEST);
        assert!(!elsewhere.exists());
        let left = fs::read_dir(parent.path()).unwrap().flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = ["other", "session-1", "trainmark-x", &at_work];
        expected.sort();
        assert_eq!(left, expected);
        drop(launcher.stdin.take());
        launcher.wait().unwrap();
    }

    #[test]
    fn counters_are_matched_by_their_whole_name() {
        assert_eq!(counter("oom 4\noom_kill 3\noom_group_kill 0\n", "oom_kill"), Some(3));
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), Some(7));
        assert_eq!(counter("low 0\n", "oom_kill"), None);
    }
}
