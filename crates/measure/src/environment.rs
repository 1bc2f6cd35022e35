//! In what state the machine is: what no name of a CPU tells and what moves figures all the same.
//!
//! Read once for each run of a suite. What cannot be known is null, and `missing` says why.

use crate::surroundings::Gpus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// The state of a machine, for the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Instruction sets and other features of the CPU, as the kernel names them.
    pub cpu_flags: Vec<String>,
    /// What decides on the clock, for example `performance`; several where cores differ.
    pub governor: Option<String>,
    /// Whether clocks above the nominal one are allowed.
    pub turbo: Option<bool>,
    /// Whether cores run two threads each.
    pub smt: Option<bool>,
    /// Nodes of main memory.
    pub numa_nodes: Option<usize>,
    /// Sizes of caches by their level and kind, one instance each, for example `L1 data`.
    pub caches: BTreeMap<String, u64>,
    /// Whether the kernel gives large pages by itself: `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// Main memory that was free for programs when the run began.
    pub available_memory_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    /// Whether it is a virtual machine, as the CPU says.
    pub virtual_machine: Option<bool>,
    /// The kind of container, `none` if there are no signs of one.
    pub container: Option<String>,
    /// Limits of this process's control group; null where there is none.
    pub memory_limit_bytes: Option<u64>,
    pub cpu_limit_cores: Option<f64>,
    pub gpus: Vec<GpuState>,
    /// The driver of NVIDIA's GPUs.
    pub gpu_driver: Option<String>,
    /// Compilers that a build on this machine would use, by their command.
    pub compilers: BTreeMap<String, String>,
    /// Libraries that every program here uses.
    pub libraries: BTreeMap<String, String>,
    /// For each figure that is null, why.
    pub missing: BTreeMap<String, String>,
}

/// Clocks of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuState {
    pub sm_mhz_max: Option<u32>,
    /// The clock that an administrator has set for applications.
    pub sm_mhz_application: Option<u32>,
}

impl Environment {
    /// Asks the system.
    pub fn detect(gpus: &Gpus) -> Environment {
        let read = |path: &str| Some(std::fs::read_to_string(path).ok()?.trim().to_owned());
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let cpu_flags = cpu_flags(&cpuinfo);
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let (memory_limit_bytes, cpu_limit_cores) = limits(&read);
        let clocks = gpus.clocks();
        let mut environment = Environment {
            governor: governor(&read),
            turbo: turbo(&read),
            smt: read("/sys/devices/system/cpu/smt/active").map(|text| text == "1"),
            numa_nodes: read("/sys/devices/system/node/online").and_then(|it| listed(&it)),
            caches: caches(&read),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| bracketed(&text)),
            available_memory_bytes: kib(&meminfo, "MemAvailable:"),
            swap_bytes: kib(&meminfo, "SwapTotal:"),
            virtual_machine: (!cpu_flags.is_empty())
                .then(|| cpu_flags.iter().any(|flag| flag == "hypervisor")),
            container: container(&read),
            memory_limit_bytes,
            cpu_limit_cores,
            gpus: clocks
                .into_iter()
                .map(|(sm_mhz_max, sm_mhz_application)| GpuState { sm_mhz_max, sm_mhz_application })
                .collect(),
            gpu_driver: gpus.driver(),
            compilers: compilers(),
            libraries: libraries(),
            cpu_flags,
            missing: BTreeMap::new(),
        };
        environment.explain(gpus);
        environment
    }

    fn explain(&mut self, gpus: &Gpus) {
        let reasons = [
            (self.cpu_flags.is_empty(), "cpu_flags", "/proc/cpuinfo lists none"),
            (self.governor.is_none(), "governor", "the system does not show one (no cpufreq)"),
            (self.turbo.is_none(), "turbo", "the system does not show it (no cpufreq)"),
            (self.smt.is_none(), "smt", "the kernel does not say"),
            (self.numa_nodes.is_none(), "numa_nodes", "the kernel does not say"),
            (self.caches.is_empty(), "caches", "the kernel does not say"),
            (self.huge_pages.is_none(), "huge_pages", "the kernel has none"),
            (self.available_memory_bytes.is_none(), "available_memory_bytes", "no /proc/meminfo"),
            (self.swap_bytes.is_none(), "swap_bytes", "no /proc/meminfo"),
            (self.virtual_machine.is_none(), "virtual_machine", "the CPU's flags are not known"),
            (self.container.is_none(), "container", "this system has no such signs"),
            (self.memory_limit_bytes.is_none(), "memory_limit_bytes", "no limit is set or visible"),
            (self.cpu_limit_cores.is_none(), "cpu_limit_cores", "no limit is set or visible"),
        ];
        for (_, name, reason) in reasons.into_iter().filter(|(absent, ..)| *absent) {
            self.missing.insert(name.to_owned(), reason.to_owned());
        }
        if self.gpu_driver.is_none() {
            let reason = gpus.reason().unwrap_or("the driver does not say").to_owned();
            self.missing.insert("gpu_driver".to_owned(), reason);
        }
    }
}

/// A reader of small files; the tests have one of their own.
type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// x86 calls them `flags`, ARM `Features`.
fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let named = |line: &str| {
        let (name, flags) = line.split_once(':')?;
        matches!(name.trim(), "flags" | "Features").then(|| flags.to_owned())
    };
    let flags = cpuinfo.lines().find_map(named).unwrap_or_default();
    flags.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Of the first cores; all governors if they differ.
fn governor(read: Read) -> Option<String> {
    let of =
        |core: usize| read(&format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"));
    let mut governors: Vec<String> = (0..1024).map_while(of).collect();
    governors.sort();
    governors.dedup();
    (!governors.is_empty()).then(|| governors.join(", "))
}

fn turbo(read: Read) -> Option<bool> {
    let intel = read("/sys/devices/system/cpu/intel_pstate/no_turbo").map(|text| text == "0");
    intel.or_else(|| read("/sys/devices/system/cpu/cpufreq/boost").map(|text| text == "1"))
}

/// How many numbers `0-3,8` stands for.
fn listed(text: &str) -> Option<usize> {
    let mut count = 0;
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        count += (to.parse::<usize>().ok()? + 1).checked_sub(from.parse().ok()?)?;
    }
    Some(count)
}

fn caches(read: Read) -> BTreeMap<String, u64> {
    let mut caches = BTreeMap::new();
    for index in 0..16 {
        let field =
            |name: &str| read(&format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"));
        let (Some(level), Some(kind), Some(size)) = (field("level"), field("type"), field("size"))
        else {
            break;
        };
        let bytes = match size.strip_suffix('K') {
            Some(kib) => kib.parse::<u64>().ok().map(|kib| kib << 10),
            None => size.strip_suffix('M').and_then(|it| it.parse::<u64>().ok()).map(|it| it << 20),
        };
        if let Some(bytes) = bytes {
            caches.insert(format!("L{level} {}", kind.to_lowercase()), bytes);
        }
    }
    caches
}

/// The chosen one of `always [madvise] never`.
fn bracketed(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Signs of a container.
fn container(read: Read) -> Option<String> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    for (file, kind) in [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")] {
        if Path::new(file).exists() {
            return Some(kind.to_owned());
        }
    }
    let groups = read("/proc/1/cgroup").unwrap_or_default();
    let kinds = ["kubepods", "docker", "containerd", "lxc", "machine.slice"];
    let kind = kinds.into_iter().find(|kind| groups.contains(kind));
    Some(kind.unwrap_or("none").to_owned())
}

/// The least memory in bytes and the fewest cores that any group on the way up allows.
fn limits(read: Read) -> (Option<u64>, Option<f64>) {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let (mut memory, mut cores): (Option<u64>, Option<f64>) = (None, None);
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let mount = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            names => format!("/sys/fs/cgroup/{names}"),
        };
        let mut place = path.trim_end_matches('/').to_owned();
        loop {
            let file = |name: &str| read(&format!("{mount}{place}/{name}"));
            let bytes = file("memory.max").or_else(|| file("memory.limit_in_bytes"));
            // Version 1 says "no limit" with a number beyond any memory.
            let bytes = bytes.and_then(|text| text.parse::<u64>().ok()).filter(|it| *it < 1 << 60);
            memory = [memory, bytes].into_iter().flatten().min();
            let quota = file("cpu.max").and_then(|text| quota_of(&text)).or_else(|| {
                let (quota, period) = (file("cpu.cfs_quota_us")?, file("cpu.cfs_period_us")?);
                quota_of(&format!("{quota} {period}"))
            });
            cores = [cores, quota].into_iter().flatten().reduce(f64::min);
            match place.rfind('/') {
                Some(end) => place.truncate(end),
                None => break,
            }
        }
    }
    (memory, cores)
}

/// `200000 100000` is two cores; `max` and -1 are no limit.
fn quota_of(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.trim().parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// First lines of `--version`.
fn compilers() -> BTreeMap<String, String> {
    let versions = ["rustc", "cc", "nvcc"].map(|name| (name, version(name, "--version")));
    let known = versions.into_iter().filter_map(|(name, line)| Some((name.to_owned(), line?)));
    known.collect()
}

fn libraries() -> BTreeMap<String, String> {
    let libc = version("ldd", "--version").map(|line| ("libc".to_owned(), line));
    libc.into_iter().collect()
}

fn version(program: &str, flag: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    // nvcc's version stands in its last lines.
    let line = text.lines().find(|line| line.chars().any(|c| c.is_ascii_digit()))?;
    Some(crate::text::one_line(line.trim()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |path| files.iter().find(|file| file.0 == path).map(|file| file.1.trim().to_owned())
    }

    #[test]
    fn flags_are_read_of_x86_and_of_arm() {
        assert_eq!(cpu_flags("model name\t: X\nflags\t\t: fpu avx2\n"), ["fpu", "avx2"]);
        assert_eq!(cpu_flags("Features\t: fp asimd\n"), ["fp", "asimd"]);
        assert!(cpu_flags("").is_empty());
    }

    #[test]
    fn lists_of_nodes_are_counted() {
        assert_eq!(
            (listed("0"), listed("0-3,8"), listed("x"), listed("3-1")),
            (Some(1), Some(5), None, None)
        );
        assert_eq!(bracketed("always [madvise] never"), Some("madvise".into()));
    }

    #[test]
    fn the_narrowest_limit_on_the_way_up_counts_in_both_versions() {
        let second = files(&[
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/memory.max", "1000000"),
            ("/sys/fs/cgroup/a/b/memory.max", "max"),
            ("/sys/fs/cgroup/a/b/cpu.max", "150000 100000"),
            ("/sys/fs/cgroup/a/cpu.max", "max 100000"),
        ]);
        assert_eq!(limits(&second), (Some(1_000_000), Some(1.5)));
        let first = files(&[
            ("/proc/self/cgroup", "4:memory:/x\n2:cpu:/x\n"),
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712"),
            ("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1"),
            ("/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000"),
        ]);
        assert_eq!(limits(&first), (None, None));
    }

    #[test]
    fn turbo_and_governors_are_read_where_there_is_cpufreq() {
        let intel = files(&[("/sys/devices/system/cpu/intel_pstate/no_turbo", "1")]);
        let amd = files(&[("/sys/devices/system/cpu/cpufreq/boost", "1")]);
        assert_eq!(
            (turbo(&intel), turbo(&amd), turbo(&files(&[]))),
            (Some(false), Some(true), None)
        );
        let mixed = files(&[
            ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil"),
            ("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
        ]);
        assert_eq!(governor(&mixed), Some("performance, schedutil".into()));
    }

    #[test]
    fn every_figure_that_is_null_has_its_reason() {
        let environment = Environment::detect(&Gpus::load());
        let json = serde_json::to_value(&environment).unwrap();
        for (name, value) in json.as_object().unwrap() {
            let known = !value.is_null() || environment.missing.contains_key(name);
            assert!(known, "{name} is null without a reason");
        }
        assert!(environment.compilers.contains_key("rustc"), "this test was built with one");
    }
}
