//! The state of the machine: settings that the name of a CPU does not tell but that change figures.
//!
//! It is read once for each run of a suite. An unknown value is null, and `missing` says why.

use crate::group::Place;
use crate::process::kib_field;
use crate::provenance::said;
use crate::surroundings::{Gpu, Gpus};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const NO_CPUFREQ: &str = "the system does not show it (no cpufreq)";
const UNSAID: &str = "the kernel does not report it";
const NO_MEMINFO: &str = "no /proc/meminfo";
const NO_LIMIT: &str = "no limit is set or visible";

/// The state of a machine, for the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The governor of the clock, for example `performance`; several if cores differ.
    pub governor: Option<String>,
    /// NVIDIA's.
    pub gpus: Vec<Gpu>,
    /// The driver of NVIDIA's GPUs.
    pub gpu_driver: Option<String>,
    /// This machine's compilers by their command; a project may choose others.
    pub compilers: BTreeMap<String, String>,
    /// What is only told and never compared, as `schema/result.schema.json` lists it; null where it is not known.
    #[serde(flatten)]
    pub facts: BTreeMap<String, Value>,
    /// For each figure that is null, why.
    pub missing: BTreeMap<String, String>,
}

impl Environment {
    /// Asks the system.
    pub fn detect(gpus: &Gpus) -> Environment {
        let read = |path: &str| Some(std::fs::read_to_string(path).ok()?.trim().to_owned());
        let cpu_flags = cpu_flags(&read("/proc/cpuinfo").unwrap_or_default());
        let hypervisor = cpu_flags.iter().any(|flag| flag == "hypervisor");
        let smt = read("/sys/devices/system/cpu/smt/active").map(|text| text == "1");
        let virtual_machine = (!cpu_flags.is_empty()).then_some(hypervisor);
        let meminfo = std::fs::read("/proc/meminfo").unwrap_or_default();
        let (memory_limit, cpu_limit) = limits(&Place::all());
        let nodes = read("/sys/devices/system/node/online").map(|it| ::machine::count_listed(&it));
        let caches = ::machine::caches();
        let caches = caches.iter().map(|cache| (format!("L{}", cache.level), cache.bytes));
        let huge_pages = read("/sys/kernel/mm/transparent_hugepage/enabled");
        let huge_pages = huge_pages.and_then(|text| bracketed(&text));
        let facts = [
            ("turbo", json!(turbo(&read)), NO_CPUFREQ),
            ("smt", json!(smt), UNSAID),
            ("numa_nodes", json!(nodes), UNSAID),
            ("caches", json!(caches.collect::<BTreeMap<_, _>>()), UNSAID),
            ("huge_pages", json!(huge_pages), "the kernel has none"),
            ("available_memory_bytes", json!(kib_field(&meminfo, "MemAvailable:")), NO_MEMINFO),
            ("swap_bytes", json!(kib_field(&meminfo, "SwapTotal:")), NO_MEMINFO),
            ("virtual_machine", json!(virtual_machine), "the CPU's flags are not known"),
            ("container", json!(container(&read)), "this system does not report it"),
            ("memory_limit_bytes", json!(memory_limit), NO_LIMIT),
            ("cpu_limit_cores", json!(cpu_limit), NO_LIMIT),
            ("cpu_flags", json!(cpu_flags), "/proc/cpuinfo lists none"),
            ("libraries", json!(versions(&[("libc", "ldd")])), "ldd does not tell its version"),
        ];
        let (governor, gpu_driver) = (governor(&read), gpus.driver());
        let no_driver = gpus.reason().unwrap_or("the driver does not report it");
        let told = [
            ("governor", &json!(governor), NO_CPUFREQ),
            ("gpu_driver", &json!(gpu_driver), no_driver),
        ];
        let told = facts.iter().map(|(name, value, why)| (*name, value, *why)).chain(told);
        let nothing = [Value::Null, json!([]), json!({})];
        let missing = told.filter(|(_, value, _)| nothing.contains(value));
        Environment {
            missing: missing.map(|(name, _, why)| (name.to_owned(), why.to_owned())).collect(),
            facts: facts.into_iter().map(|(name, value, _)| (name.to_owned(), value)).collect(),
            governor,
            gpus: gpus.list(),
            gpu_driver,
            compilers: versions(&[("rustc", "rustc"), ("cc", "cc"), ("nvcc", "nvcc")]),
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

/// The governor of the first cores; all governors if they differ.
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

/// The chosen one of `always [madvise] never`.
fn bracketed(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
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
fn limits(places: &[Place]) -> (Option<u64>, Option<f64>) {
    let folders = |controller| {
        let places = places.iter().filter(move |place| place.has(controller));
        places.flat_map(Place::upwards).map(|folder| {
            |name: &str| Some(std::fs::read_to_string(folder.join(name)).ok()?.trim().to_owned())
        })
    };
    let memory = folders("memory").filter_map(|file| {
        let bytes = file("memory.max").or_else(|| file("memory.limit_in_bytes"))?;
        // Version 1 says "no limit" with a number beyond any memory.
        bytes.parse::<u64>().ok().filter(|bytes| *bytes < 1 << 60)
    });
    let cores = folders("cpu").filter_map(|file| {
        quota_of(&file("cpu.max").or_else(|| {
            Some(format!("{} {}", file("cpu.cfs_quota_us")?, file("cpu.cfs_period_us")?))
        })?)
    });
    (memory.min(), cores.reduce(f64::min))
}

/// `200000 100000` is two cores; `max` and -1 are no limit.
fn quota_of(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.trim().parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// The first lines of `--version` of programs, each under a name.
fn versions(programs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let version = |&(name, program): &(&str, &str)| Some((name.to_owned(), version(program)?));
    programs.iter().filter_map(version).collect()
}

fn version(program: &str) -> Option<String> {
    // Outside of any project, whose files could name another program for this one (rust-toolchain.toml).
    let text = said(Command::new(program).arg("--version").current_dir("/"))?;
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
    fn the_choice_of_a_list_is_the_one_in_brackets() {
        assert_eq!(bracketed("always [madvise] never"), Some("madvise".into()));
    }

    #[test]
    fn the_narrowest_limit_on_the_way_up_counts_in_both_versions() {
        let limits_of = |groups: &str, files: &[(&str, &str)]| {
            let mount = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = mount.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            limits(&Place::among(groups, mount.path()))
        };
        let second = [
            ("cgroup.controllers", "cpu memory"),
            ("a/memory.max", "1000000\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/cpu.max", "150000 100000\n"),
            ("a/cpu.max", "max 100000\n"),
        ];
        assert_eq!(limits_of("0::/a/b\n", &second), (Some(1_000_000), Some(1.5)));
        let first = [
            ("memory/x/memory.limit_in_bytes", "9223372036854771712"),
            ("cpu/x/cpu.cfs_quota_us", "-1"),
            ("cpu/x/cpu.cfs_period_us", "100000"),
        ];
        assert_eq!(limits_of("4:memory:/x\n2:cpu:/x\n", &first), (None, None));
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
