//! How many threads are worth starting.

/// CPU cores that this process may use, not counting hardware threads that share one: a second
/// thread on a core adds nothing to code that keeps its arithmetic units busy. Respects affinity
/// and the quota of a control group.
pub fn available_cores() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    allowed_physical_cores().map_or(cpus, |cores| cores.clamp(1, cpus))
}

/// Distinct sets of sibling threads among the CPUs that the process may run on; Linux only.
fn allowed_physical_cores() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = std::collections::BTreeSet::new();
    for cpu in parse_cpu_list(list.trim())? {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        cores.insert(std::fs::read_to_string(path).ok()?);
    }
    Some(cores.len())
}

/// `0-3,8` as numbers.
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read() {
        assert_eq!(parse_cpu_list("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_cpu_list("5"), Some(vec![5]));
        assert_eq!(parse_cpu_list("x"), None);
        assert!(available_cores() >= 1);
    }
}
