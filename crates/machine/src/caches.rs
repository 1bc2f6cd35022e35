//! Sizes of the caches, as the system tells them.

use crate::Cache;

/// Data and unified caches of the first core, the nearest first.
pub fn detect() -> Vec<Cache> {
    let mut caches = system_caches();
    caches.sort_by_key(|cache| cache.level);
    caches.dedup_by_key(|cache| cache.level);
    caches
}

#[cfg(target_os = "linux")]
fn system_caches() -> Vec<Cache> {
    use std::path::Path;
    let read = |folder: &Path, file: &str| -> Option<String> {
        Some(std::fs::read_to_string(folder.join(file)).ok()?.trim().to_owned())
    };
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache") else {
        return Vec::new();
    };
    let cache = |folder: &Path| -> Option<Cache> {
        if read(folder, "type")? == "Instruction" {
            return None;
        }
        Some(Cache {
            level: read(folder, "level")?.parse().ok()?,
            bytes: parse_size(&read(folder, "size")?)?,
            shared_by: read(folder, "shared_cpu_list").map_or(1, |list| count_listed(&list)),
        })
    };
    entries.flatten().filter_map(|entry| cache(&entry.path())).collect()
}

#[cfg(target_os = "macos")]
fn system_caches() -> Vec<Cache> {
    // The performance cores' own where there are two kinds of cores.
    let number = |name: &str| -> Option<u64> {
        let output = std::process::Command::new("sysctl").args(["-n", name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    let first = |names: &[&str]| names.iter().find_map(|name| number(name));
    let l1 = first(&["hw.perflevel0.l1dcachesize", "hw.l1dcachesize"]);
    let l2 = first(&["hw.perflevel0.l2cachesize", "hw.l2cachesize"]);
    let l2_shared = first(&["hw.perflevel0.cpusperl2"]).unwrap_or(1) as usize;
    let l3 = first(&["hw.perflevel0.l3cachesize", "hw.l3cachesize"]);
    let l3_shared = first(&["hw.perflevel0.cpusperl3", "hw.ncpu"]).unwrap_or(1) as usize;
    [(1, l1, 1), (2, l2, l2_shared), (3, l3, l3_shared)]
        .into_iter()
        .filter_map(|(level, bytes, shared_by)| {
            Some(Cache { level, bytes: bytes.filter(|&bytes| bytes > 0)?, shared_by })
        })
        .collect()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn system_caches() -> Vec<Cache> {
    Vec::new()
}

/// `48K`, `1024K`, `32M`.
#[cfg(any(target_os = "linux", test))]
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => match text.strip_suffix('M') {
            Some(number) => (number, 1 << 20),
            None => (text, 1),
        },
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// How many are in `0-3,8`; at least 1.
pub fn count_listed(list: &str) -> usize {
    let count = |part: &str| -> Option<usize> {
        match part.split_once('-') {
            None => part.parse().ok().map(|_: usize| 1),
            Some((first, last)) => {
                (last.parse::<usize>().ok()? + 1).checked_sub(first.parse::<usize>().ok()?)
            }
        }
    };
    list.split(',').filter_map(count).sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lists_of_cpus_are_read() {
        assert_eq!(parse_size("48K"), Some(48 << 10));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("many"), None);
        assert_eq!(count_listed("0-3,8"), 5);
        assert_eq!(count_listed("7"), 1);
        assert_eq!(count_listed(""), 1);
    }

    #[test]
    fn caches_grow_with_their_level() {
        let caches = detect();
        if caches.is_empty() {
            skip::skipped("this system does not tell the sizes of its caches");
        }
        for pair in caches.windows(2) {
            assert!(pair[0].level < pair[1].level && pair[0].bytes <= pair[1].bytes, "{pair:?}");
        }
    }
}
