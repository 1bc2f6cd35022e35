//! Linux's counters of what the whole machine does: `/proc/stat`, the processes beside ours, heat,
//! quotas.

use super::{Busy, Surroundings};
use crate::meter::proc::{self, Stat};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::collections::{HashMap, HashSet};
use std::fs;

/// Processes that are named.
const NAMED: usize = 3;

/// The counters at one moment.
pub struct Counters {
    /// The cores that this process may use.
    cores: Vec<usize>,
    cpu: Option<CpuTicks>,
    /// CPU seconds of this process and of all that it has waited for.
    own_s: f64,
    processes: HashMap<(i32, u64), u64>,
    load_average: Option<f64>,
    thermal_throttles: Option<u64>,
    quota_throttled_s: Option<f64>,
}

/// Of some cores together, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct CpuTicks {
    /// Of processes: user, nice and system. Interrupts are nobody's.
    busy: u64,
    steal: u64,
}

impl Counters {
    pub fn read() -> Counters {
        let cores = ::machine::cores();
        let stat = fs::read_to_string("/proc/stat").ok();
        let thermal_throttles = thermal_throttles(&cores);
        Counters {
            cpu: stat.and_then(|text| cpu_ticks(&text, &cores)),
            own_s: own_s(),
            processes: proc::all_processes().iter().map(identity_and_ticks).collect(),
            load_average: fs::read_to_string("/proc/loadavg").ok().and_then(|text| first(&text)),
            thermal_throttles,
            quota_throttled_s: quota_throttled_s(),
            cores,
        }
    }

    /// What happened between these counters and later ones, read when the trainer's whole tree has
    /// been waited for.
    pub fn until(self, after: Counters, window_s: f64) -> Surroundings {
        let mut seen = Surroundings {
            window_s,
            cores: after.cores.len(),
            load_average: self.load_average,
            ..Surroundings::default()
        };
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let mut absent = |name: &str, reason: &str| {
            seen.missing.insert(name.to_owned(), reason.to_owned());
        };
        if self.load_average.is_none() {
            absent("load_average", "/proc/loadavg cannot be read");
        }
        match (self.cpu, after.cpu) {
            (Some(before), Some(now)) => {
                let busy_s = now.busy.saturating_sub(before.busy) as f64 / ticks_per_s;
                let own_s = after.own_s - self.own_s;
                // Ticks and exact times differ by a little, either way.
                seen.other_cpu_s = Some((busy_s - own_s).max(0.0));
                let steal = now.steal.saturating_sub(before.steal);
                seen.steal_s = Some(steal as f64 / ticks_per_s);
            }
            _ => {
                absent("other_cpu_s", "/proc/stat cannot be read");
                absent("steal_s", "/proc/stat cannot be read");
            }
        }
        match (self.thermal_throttles, after.thermal_throttles) {
            (Some(before), Some(now)) => {
                seen.thermal_throttles = Some(now.saturating_sub(before));
            }
            _ => absent("thermal_throttles", "the kernel does not count them on this CPU"),
        }
        match (self.quota_throttled_s, after.quota_throttled_s) {
            (Some(before), Some(now)) => seen.quota_throttled_s = Some((now - before).max(0.0)),
            _ => absent("quota_throttled_s", "no control group with a CPU controller is visible"),
        }
        seen.busiest = busiest(&self.processes, &after.processes, ticks_per_s);
        seen
    }
}

fn identity_and_ticks(stat: &Stat) -> ((i32, u64), u64) {
    ((stat.pid, stat.start_ticks), stat.user_ticks + stat.system_ticks)
}

/// Those that were there all the time, but for this process.
fn busiest(
    before: &HashMap<(i32, u64), u64>,
    after: &HashMap<(i32, u64), u64>,
    ticks_per_s: f64,
) -> Vec<Busy> {
    let own = std::process::id() as i32;
    let mut used: Vec<(u64, i32)> = after
        .iter()
        .filter(|((pid, _), _)| *pid != own)
        .filter_map(|(identity, ticks)| Some((ticks - before.get(identity)?, identity.0)))
        .filter(|(ticks, _)| *ticks > 0)
        .collect();
    used.sort_unstable_by(|a, b| b.cmp(a));
    let name = |pid: i32| {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        crate::text::one_line(String::from_utf8_lossy(&name).trim()).into_owned()
    };
    used.iter()
        .take(NAMED)
        .map(|(ticks, pid)| Busy { name: name(*pid), cpu_s: *ticks as f64 / ticks_per_s })
        .collect()
}

/// The lines `cpuN user nice system idle iowait irq softirq steal ...` of these cores.
fn cpu_ticks(stat: &str, cores: &[usize]) -> Option<CpuTicks> {
    let cores: HashSet<usize> = cores.iter().copied().collect();
    let mut sum = CpuTicks::default();
    let mut found = false;
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        let core = words.next().and_then(|name| name.strip_prefix("cpu")?.parse().ok());
        if core.is_none_or(|core| !cores.contains(&core)) {
            continue;
        }
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        sum.busy += ticks.iter().take(3).sum::<u64>();
        sum.steal += ticks.get(7).copied().unwrap_or(0);
        found = true;
    }
    found.then_some(sum)
}

/// CPU seconds of this process and of all that it, and its launchers, have waited for.
fn own_s() -> f64 {
    let seconds =
        |usage: Usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6;
    let of = |who| getrusage(who).map(seconds).unwrap_or(0.0);
    of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)
}

/// Of all cores and packages together; `None` where the kernel does not count them (most AMD and
/// virtual machines).
fn thermal_throttles(cores: &[usize]) -> Option<u64> {
    let read = |core: usize, name: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/thermal_throttle/{name}");
        fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    let of_cores = cores.iter().filter_map(|&core| read(core, "core_throttle_count"));
    let of_cores: Vec<u64> = of_cores.collect();
    let package = cores.first().and_then(|&core| read(core, "package_throttle_count"));
    (!of_cores.is_empty() || package.is_some())
        .then(|| of_cores.iter().sum::<u64>() + package.unwrap_or(0))
}

/// The time that this process's control group, or one above it, was kept from running.
fn quota_throttled_s() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut longest: Option<f64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let mount = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            names if names.split(',').any(|name| name == "cpu") => {
                format!("/sys/fs/cgroup/{}", if names == "cpu" { "cpu" } else { "cpu,cpuacct" })
            }
            _ => continue,
        };
        // In a container the path is the host's; its own group is then at the root.
        for place in
            [format!("{mount}{}/cpu.stat", path.trim_end_matches('/')), format!("{mount}/cpu.stat")]
        {
            let seconds = fs::read_to_string(place).ok().and_then(|text| throttled_s(&text));
            longest = [longest, seconds].into_iter().flatten().reduce(f64::max);
        }
    }
    longest
}

/// `throttled_usec` of version 2, `throttled_time` in nanoseconds of version 1.
fn throttled_s(text: &str) -> Option<f64> {
    text.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", value) => value.trim().parse::<f64>().ok().map(|us| us / 1e6),
        ("throttled_time", value) => value.trim().parse::<f64>().ok().map(|ns| ns / 1e9),
        _ => None,
    })
}

fn first(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  48736 0 8305 22662 192 0 58 111 0 0\n\
                        cpu0 24393 7 3850 11670 58 0 3 50 0 0\n\
                        cpu1 24343 0 4455 10992 133 0 54 60 0 0\nintr 1 2 3\n";

    #[test]
    fn only_the_cores_in_reach_are_summed() {
        let both = CpuTicks { busy: 24393 + 7 + 3850 + 24343 + 4455, steal: 110 };
        assert_eq!(cpu_ticks(STAT, &[0, 1]), Some(both));
        assert_eq!(cpu_ticks(STAT, &[1]), Some(CpuTicks { busy: 28798, steal: 60 }));
        assert_eq!(cpu_ticks(STAT, &[7]), None);
        assert_eq!(cpu_ticks("garbage", &[0]), None);
    }

    #[test]
    fn quotas_are_read_in_both_versions_units() {
        assert_eq!(throttled_s("nr_throttled 3\nthrottled_usec 1500000\n"), Some(1.5));
        assert_eq!(throttled_s("nr_periods 1\nthrottled_time 2000000000\n"), Some(2.0));
        assert_eq!(throttled_s("usage_usec 5\n"), None);
    }

    #[test]
    fn what_lies_between_two_counters_is_told_apart() {
        let counters = |busy, own_s| Counters {
            cores: vec![0, 1],
            cpu: Some(CpuTicks { busy, steal: busy / 10 }),
            own_s,
            processes: HashMap::new(),
            load_average: Some(0.5),
            thermal_throttles: None,
            quota_throttled_s: Some(0.0),
        };
        let seen = counters(1000, 1.0).until(counters(1300, 3.0), 2.0);
        assert_eq!(seen.other_cpu_s, Some(1.0)); // 3 s of ticks, 2 s of them ours
        assert_eq!(seen.steal_s, Some(0.3));
        assert_eq!(seen.load_average, Some(0.5));
        assert!(seen.missing.contains_key("thermal_throttles"));
    }
}
