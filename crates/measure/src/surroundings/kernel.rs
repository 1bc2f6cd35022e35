//! Linux's counters of what the whole machine does: `/proc/stat`, the processes beside ours, heat,
//! quotas. On other systems there is none of it.

use super::seen::{Busy, Surroundings};
use crate::group::Place;
use crate::meter::cpu_s;
use crate::process::{self, Stat, counter};
use nix::sys::resource::UsageWho;
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

/// Ticks of some cores together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct CpuTicks {
    /// Ticks of processes: user, nice and system. Interrupts belong to no process.
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
            own_s: cpu_s(UsageWho::RUSAGE_SELF) + cpu_s(UsageWho::RUSAGE_CHILDREN),
            processes: process::all_processes().iter().map(identity_and_ticks).collect(),
            load_average: fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split_once(' ')?.0.parse().ok()),
            thermal_throttles,
            quota_throttled_s: quota_throttled_s(),
            cores,
        }
    }

    /// What happened between these counters and later ones, read when the trainer's whole tree has
    /// been waited for.
    pub fn until(self, after: Counters, window_s: f64) -> Surroundings {
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let mut seen = Surroundings { window_s, cores: after.cores.len(), ..Default::default() };
        let load = self.load_average.ok_or("the system shows no /proc/loadavg");
        seen.load_average = seen.known("load_average", load);
        let ticks = self.cpu.zip(after.cpu).ok_or("the system shows no /proc/stat");
        let seconds = |before: u64, now: u64| now.saturating_sub(before) as f64 / ticks_per_s;
        // Ticks and exact times differ by a little, either way.
        let own_s = after.own_s - self.own_s;
        let others = ticks.map(|(before, now)| (seconds(before.busy, now.busy) - own_s).max(0.0));
        seen.other_cpu_s = seen.known("other_cpu_s", others);
        let steal = ticks.map(|(before, now)| seconds(before.steal, now.steal));
        seen.steal_s = seen.known("steal_s", steal);
        let heat = self.thermal_throttles.zip(after.thermal_throttles);
        let heat = heat.map(|(before, now)| now.saturating_sub(before));
        let heat = heat.ok_or("the kernel does not count them on this CPU");
        seen.thermal_throttles = seen.known("thermal_throttles", heat);
        let quota = self.quota_throttled_s.zip(after.quota_throttled_s);
        let quota = quota.map(|(before, now)| (now - before).max(0.0));
        let quota = quota.ok_or("no control group with a CPU controller is visible");
        seen.quota_throttled_s = seen.known("quota_throttled_s", quota);
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

/// The time that this process's control group, or one above it, was kept from running:
/// `throttled_usec` of version 2, `throttled_time` in nanoseconds of version 1.
fn quota_throttled_s() -> Option<f64> {
    let places = Place::all();
    let folders = places.iter().filter(|place| place.has("cpu")).flat_map(Place::upwards);
    let texts = folders.filter_map(|folder| fs::read_to_string(folder.join("cpu.stat")).ok());
    texts.filter_map(|text| throttled_s(&text)).reduce(f64::max)
}

fn throttled_s(text: &str) -> Option<f64> {
    let microseconds = counter(text, "throttled_usec").map(|us| us as f64 / 1e6);
    microseconds.or_else(|| counter(text, "throttled_time").map(|ns| ns as f64 / 1e9))
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
