//! The few fields of Linux's `/proc` that measuring and stopping a process tree need. On other systems
//! there is no such process.
//!
//! Read by hand and not through a library: the launcher does it fifty times a second beside the
//! trainer, so it reads only these fields and allocates next to nothing.

use std::fs;
use std::path::Path;

/// The first argument that turns the harness's binary into a launcher. `main` looks for it before
/// anything else, so that nothing that the harness sets up counts as the trainer's.
pub const LAUNCHER_ARG: &str = "__launch";

/// Whether this process is a launcher at work: its id may have passed to another program.
pub fn is_launcher(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|&byte| byte == 0).any(|word| word == LAUNCHER_ARG.as_bytes())
}

/// One process as `/proc/PID/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    state: u8,
    /// CPU time of the process itself, without its children, in clock ticks.
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// When it started, in clock ticks since boot: tells it from a later process of the same id.
    pub start_ticks: u64,
}

impl Stat {
    /// `None` if there is no such process any more.
    pub fn read(pid: i32) -> Option<Stat> {
        Stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The command's name stands in parentheses and may hold anything, parentheses too; the fields
    /// are counted from the last one.
    fn parse(stat: &[u8]) -> Option<Stat> {
        let text = String::from_utf8_lossy(stat);
        let (pid, _) = text.split_once(' ')?;
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().take(20).collect();
        let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
        Some(Stat {
            pid: pid.parse().ok()?,
            state: *fields.first()?.as_bytes().first()?,
            parent: number(1)?.try_into().ok()?,
            group: number(2)?.try_into().ok()?,
            session: number(3)?.try_into().ok()?,
            user_ticks: number(11)?.try_into().ok()?,
            system_ticks: number(12)?.try_into().ok()?,
            start_ticks: number(19)?.try_into().ok()?,
        })
    }

    /// Whether it still runs; one that has ended and waits for its parent does not.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Whether the process is still the one that was read before, not a successor of its id.
    pub fn is_still_there(&self) -> bool {
        Stat::read(self.pid)
            .is_some_and(|now| now.start_ticks == self.start_ticks && now.is_alive())
    }
}

/// The ids of all processes below `root`, ended ones that nobody has waited for included. While
/// processes come and go the list can miss one; whoever must have all of them asks again.
pub fn descendants(root: i32) -> Vec<i32> {
    match Path::new("/proc/thread-self/children").exists() {
        // Only the tree itself is read; needs a kernel with `CONFIG_PROC_CHILDREN`.
        true => below(root, children),
        false => descendants_by_parents(root, &all_processes()),
    }
}

/// All that lies below one process, by the children of each; one that moved meanwhile only once.
pub fn below(root: i32, children: impl Fn(i32) -> Vec<i32>) -> Vec<i32> {
    let mut found = children(root);
    let mut next = 0;
    while next < found.len() {
        let more = children(found[next]);
        found.extend(more.into_iter().filter(|pid| *pid != root));
        next += 1;
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
    let ids =
        |list: String| Vec::from_iter(list.split_whitespace().filter_map(|it| it.parse().ok()));
    lists.flat_map(ids).collect()
}

/// Every process that `/proc` shows.
pub fn all_processes() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(Stat::read).collect()
}

/// The same of a list of processes.
pub fn descendants_by_parents(root: i32, all: &[Stat]) -> Vec<i32> {
    let children = |pid| all.iter().filter(move |it| it.parent == pid).map(|it| it.pid).collect();
    below(root, children)
}

/// Proportional set size in bytes: private pages, and of each shared page the share that falls to
/// this process. `None` if the process is gone or not ours to look at.
pub fn pss_bytes(pid: i32) -> Option<u64> {
    let rollup = fs::read(format!("/proc/{pid}/smaps_rollup")).ok()?;
    kib_field(&rollup, "Pss:")
}

/// Resident set size in bytes, as exact as `/proc/PID/statm` is.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The variables in which launchers tell a process its rank among all: torchrun, Open MPI's mpirun, MPICH's mpiexec.
/// Those that srun starts are no processes of its tree.
const RANK: [&str; 3] = ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"];

/// A process's rank, as its launcher told it or a process above it. A variable that this process has too is none: all
/// processes of the tree have inherited it.
pub fn rank(pid: i32) -> Option<u32> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let told = |name: &&str| {
        let mut entries = environ.split(|&byte| byte == 0);
        let value =
            entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()?.parse().ok()
    };
    RANK.iter().filter(|name| std::env::var_os(name).is_none()).find_map(told)
}

/// The logical cores that a process may run on: `0-3,8`.
pub fn allowed_cpus(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(list.trim().to_owned())
}

/// This process's own peak resident set size in bytes.
pub fn own_peak_bytes() -> Option<u64> {
    kib_field(&fs::read("/proc/self/status").ok()?, "VmHWM:")
}

/// A line such as `Pss:    388 kB`, in bytes.
pub fn kib_field(text: &[u8], name: &str) -> Option<u64> {
    counter(&String::from_utf8_lossy(text), name)?.checked_mul(1024)
}

/// The number of a line `name number`, whatever its unit.
pub fn counter(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok();
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = b"1234 (a) R 9 (x y)) S 77 1234 1200 0 -1 4194560 1 2 3 4 55 66 7 8 20 0 1 0 \
                     987654 1000 200\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.pid, stat.parent, stat.group, stat.session), (1234, 77, 1234, 1200));
        assert_eq!((stat.user_ticks, stat.system_ticks, stat.start_ticks), (55, 66, 987_654));
        assert!(stat.is_alive());
    }

    #[test]
    fn a_truncated_or_hostile_stat_line_is_no_process() {
        for line in [&b""[..], b"12", b"12 (x", b"12 (x) S 1 2", b"x (x) S 1 1 1", b"\xff) \xff"] {
            assert_eq!(Stat::parse(line), None);
        }
    }

    #[test]
    fn kib_fields_are_found_whatever_stands_around_them() {
        let rollup = b"5597-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  1768 kB\nPss:   388 kB\n";
        assert_eq!(kib_field(rollup, "Pss:"), Some(388 * 1024));
        assert_eq!(kib_field(rollup, "Swap:"), None);
        assert_eq!(kib_field(b"Pss: many kB\n", "Pss:"), None);
        assert_eq!(kib_field(b"Pss: 99999999999999999999 kB\n", "Pss:"), None);
    }

    #[test]
    fn this_process_is_found_below_its_parent_both_ways() {
        let me = Stat::read(std::process::id() as i32).unwrap();
        assert!(descendants_by_parents(me.parent, &all_processes()).contains(&me.pid));
        assert!(descendants(me.parent).contains(&me.pid));
        assert!(me.is_still_there());
    }
}
