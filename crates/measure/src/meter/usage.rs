//! From the kernel's account of waited-for children to [`Meters`].

use super::{Cpu, EventCounts, Meters, Reading, TreeSample, Waited};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use std::time::Duration;

/// Bytes per unit of `ru_maxrss`.
const MAXRSS_UNIT: u64 = if cfg!(target_os = "linux") { 1024 } else { 1 };
/// `ru_inblock` and `ru_oublock` count these on Linux, whatever the device's block size.
const BLOCK_BYTES: u64 = 512;
/// Sampled CPU time counts as more than the kernel's account only beyond this much, in seconds and
/// as a factor: sampling rounds to clock ticks, of 10 ms each, per process.
const LOST_CPU_S: f64 = 0.2;
const LOST_CPU_FACTOR: f64 = 1.05;

/// How long a trainer took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// From just before the start of the main process until it was reaped.
    pub main: Duration,
    /// From the same start until the last process of the tree was reaped.
    pub tree: Duration,
}

impl Meters {
    /// What the kernel has added up for all waited-for descendants of this process, which must
    /// have had no other children than the one trainer. `survivors` are processes that could not be
    /// stopped, so that nobody could wait for them.
    pub(crate) fn of_children(
        span: Span,
        sample: &TreeSample,
        survivors: u64,
        cgroup_peak_bytes: Reading<u64>,
        events: EventCounts,
    ) -> Meters {
        let clock = "monotonic clock of the launcher";
        let wall_s = Reading::measured(
            span.main.as_secs_f64(),
            format!("{clock}, from before the main process started until it was reaped"),
        );
        let tree_wall_s = Reading::measured(
            span.tree.as_secs_f64(),
            format!("{clock}, from before the main process started until its tree was reaped"),
        );
        let usage = match getrusage(UsageWho::RUSAGE_CHILDREN) {
            Ok(usage) => usage,
            Err(error) => {
                let absent = Meters::absent(&format!("getrusage failed: {error}"));
                return Meters { wall_s, tree_wall_s, ..absent };
            }
        };
        let (user_s, system_s) = cpu_readings(&usage, sample, survivors);
        let largest_process_bytes = match &sample.waited {
            Some(waited) => largest_waited(waited),
            None => largest_process(&usage, survivors),
        };
        let tree_pss_bytes = tree_pss(sample);
        let count = |value: i64| {
            u64::try_from(value).map_or_else(
                |_| Reading::absent("the kernel's counter overflowed"),
                |value| Reading::measured(value, children_source(survivors)),
            )
        };
        let blocks = |value: i64| match storage_is_accounted() {
            Ok(()) => match u64::try_from(value).ok().and_then(|n| n.checked_mul(BLOCK_BYTES)) {
                Some(bytes) => Reading::measured(bytes, children_source(survivors)),
                None => Reading::absent("the kernel's counter overflowed"),
            },
            Err(reason) => Reading::absent(reason),
        };
        Meters {
            wall_s,
            tree_wall_s,
            user_s,
            system_s,
            peak_memory_bytes: larger(&largest_process_bytes, &tree_pss_bytes),
            largest_process_bytes,
            tree_pss_bytes,
            phys_footprint_bytes: phys_footprint(sample),
            processes: processes(sample),
            minor_faults: count(usage.minor_page_faults()),
            major_faults: count(usage.major_page_faults()),
            voluntary_switches: count(usage.voluntary_context_switches()),
            involuntary_switches: count(usage.involuntary_context_switches()),
            storage_read_bytes: blocks(usage.block_reads()),
            storage_written_bytes: blocks(usage.block_writes()),
            cgroup_peak_bytes,
            events,
        }
    }
}

/// Which processes the sums of `wait4` cover.
const WAIT4: &str = "wait4, by the launcher: the main process and all that it waited for";

/// Which processes the kernel's sums cover.
fn children_source(survivors: u64) -> String {
    let tree = if cfg!(target_os = "linux") {
        "getrusage(RUSAGE_CHILDREN) of the launcher, a subreaper: the whole process tree"
    } else {
        "getrusage(RUSAGE_CHILDREN) of the launcher: the main process and all that it waited for"
    };
    match survivors {
        0 => tree.to_owned(),
        n => format!("{tree}, less {n} process(es) that could not be killed"),
    }
}

/// The kernel's sums, unless more CPU time than that was seen: a process that ignores SIGCHLD lets
/// its children vanish without anybody waiting for them, and their time is in no sum.
fn cpu_readings(
    usage: &Usage,
    sample: &TreeSample,
    survivors: u64,
) -> (Reading<f64>, Reading<f64>) {
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    if let Some(Waited { cpu, .. }) = sample.waited {
        let [user, system] = [cpu.user_s, cpu.system_s].map(|s| Reading::measured(s, WAIT4));
        return (user, system);
    }
    let summed = Cpu { user_s: seconds(usage.user_time()), system_s: seconds(usage.system_time()) };
    let (cpu, source) = match sample.cpu {
        Some(seen) if seen.total_s() > summed.total_s() * LOST_CPU_FACTOR + LOST_CPU_S => (
            seen,
            "/proc/PID/stat, sampled: at least this much; some processes were never waited for, \
             so that the kernel's sum lacks them"
                .to_owned(),
        ),
        _ => (summed, children_source(survivors)),
    };
    (Reading::measured(cpu.user_s, source.clone()), Reading::measured(cpu.system_s, source))
}

/// The figure of a process cannot fall below the launcher's own peak, which its child inherits.
fn largest_process(usage: &Usage, survivors: u64) -> Reading<u64> {
    let peak = match u64::try_from(usage.max_rss()).ok().and_then(|n| n.checked_mul(MAXRSS_UNIT)) {
        Some(0) | None => return Reading::absent("the kernel gave no peak resident set size"),
        Some(peak) => peak,
    };
    let source = format!("ru_maxrss of the largest single process, {}", children_source(survivors));
    match own_peak_bytes() {
        Some(floor) if peak <= floor => Reading::measured(
            peak,
            format!("{source}; at most this much: the launcher's own peak hides anything less"),
        ),
        _ => Reading::measured(peak, source),
    }
}

/// Not `ru_maxrss` of this process: that one starts at the peak of the harness, its parent.
#[cfg(target_os = "linux")]
fn own_peak_bytes() -> Option<u64> {
    super::proc::own_peak_bytes()
}

#[cfg(not(target_os = "linux"))]
fn own_peak_bytes() -> Option<u64> {
    None
}

fn largest_waited(waited: &Waited) -> Reading<u64> {
    match waited.largest_resident_bytes {
        0 => Reading::absent("the kernel gave no peak resident set size"),
        peak => Reading::measured(peak, format!("ru_maxrss of the largest process, {WAIT4}")),
    }
}

/// The lifetime's peak of one process is exact; the sum over several is sampled, and can only be
/// too small.
fn phys_footprint(sample: &TreeSample) -> Reading<u64> {
    let largest = sample.waited.and_then(|waited| waited.largest_footprint_bytes);
    let looks = sample.looks;
    match largest {
        None => Reading::absent("only macOS counts physical footprints"),
        Some(largest) if sample.peak_bytes > largest => Reading::measured(
            sample.peak_bytes,
            format!(
                "ri_phys_footprint, largest sum over the tree's {} processes in {looks} looks",
                sample.peak_processes
            ),
        ),
        Some(largest) => Reading::measured(
            largest,
            "ri_lifetime_max_phys_footprint of the main process, read before it was buried",
        ),
    }
}

fn tree_pss(sample: &TreeSample) -> Reading<u64> {
    if !cfg!(target_os = "linux") || sample.waited.is_some() {
        return Reading::absent("this system does not show a process tree's shared memory");
    }
    let looks =
        format!("{} looks, at most {} ms apart", sample.looks, sample.longest_interval.as_millis());
    if sample.peak_bytes == 0 {
        return Reading::absent(format!("never more than one process was seen in {looks}"));
    }
    let measure = if sample.resident_stood_in {
        "proportional set sizes (of some only the resident size, which counts shared pages in full)"
    } else {
        "proportional set sizes"
    };
    Reading::measured(
        sample.peak_bytes,
        format!(
            "largest sum of {measure} of the tree's {} processes in {looks}",
            sample.peak_processes
        ),
    )
}

fn processes(sample: &TreeSample) -> Reading<u64> {
    match sample.most_processes {
        0 => Reading::absent("the process tree was not looked at"),
        n if cfg!(target_os = "linux") => {
            Reading::measured(n, "most processes seen at once in /proc, sampled")
        }
        n => Reading::measured(n, "most processes seen at once, sampled"),
    }
}

/// The peak of the tree. A control group's `memory.peak` is deliberately no candidate: it counts
/// the page cache of the files that the trainer read as well.
fn larger(process: &Reading<u64>, tree: &Reading<u64>) -> Reading<u64> {
    match (process.value(), tree.value()) {
        (Some(process_bytes), Some(tree_bytes)) if tree_bytes > process_bytes => tree.clone(),
        (None, Some(_)) => tree.clone(),
        _ => process.clone(),
    }
}

fn storage_is_accounted() -> Result<(), &'static str> {
    if !cfg!(target_os = "linux") {
        Err("this system counts operations, not bytes")
    } else if !std::path::Path::new("/proc/self/io").exists() {
        Err("the kernel does not account for input and output of processes")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: u64) -> Reading<u64> {
        Reading::measured(value, value.to_string())
    }

    #[test]
    fn the_peak_is_the_larger_figure_with_its_own_source() {
        let absent = Reading::absent("none");
        assert_eq!(larger(&bytes(300), &bytes(600)), bytes(600));
        assert_eq!(larger(&bytes(300), &bytes(200)), bytes(300));
        assert_eq!(larger(&bytes(300), &absent), bytes(300));
        assert_eq!(larger(&absent, &bytes(5)), bytes(5));
        assert_eq!(larger(&absent, &absent), absent);
    }

    fn ended(user_ms: u64, resident: u64, footprint_bytes: Option<u64>) -> crate::account::Ended {
        crate::account::Ended {
            pid: 1,
            status: std::process::ExitStatus::default(),
            user: Duration::from_millis(user_ms),
            system: Duration::from_millis(1),
            largest_resident_bytes: resident,
            footprint_bytes,
        }
    }

    #[test]
    fn what_wait4_says_adds_up_its_times_and_keeps_its_largest_memory() {
        let mut waited = Waited::default();
        waited.note(&ended(250, 3000, Some(500)));
        waited.note(&ended(500, 2000, Some(700)));
        let sample = TreeSample { waited: Some(waited), ..TreeSample::default() };
        let span = Span { main: Duration::from_secs(1), tree: Duration::from_secs(1) };
        let absent = Reading::absent("not here");
        let events = EventCounts::absent("not here");
        let meters = Meters::of_children(span, &sample, 0, absent, events);
        assert_eq!(meters.user_s, Reading::measured(0.75, WAIT4));
        assert_eq!(meters.system_s, Reading::measured(0.002, WAIT4));
        assert_eq!(meters.largest_process_bytes.value(), Some(3000));
        assert_eq!(meters.peak_memory_bytes, meters.largest_process_bytes, "as `time -l` has it");
        assert_eq!(meters.phys_footprint_bytes.value(), Some(700));
        assert!(meters.phys_footprint_bytes.source().unwrap().contains("lifetime_max"));
    }

    #[test]
    fn the_footprints_of_several_processes_count_together_where_they_were_seen_together() {
        let mut waited = Waited::default();
        waited.note(&ended(1, 1, Some(700)));
        let several = TreeSample {
            waited: Some(waited),
            peak_bytes: 900,
            peak_processes: 3,
            looks: 5,
            ..TreeSample::default()
        };
        assert_eq!(phys_footprint(&several).value(), Some(900));
        assert!(phys_footprint(&several).source().unwrap().contains("3 processes in 5 looks"));
        assert_eq!(phys_footprint(&TreeSample::default()).value(), None);
    }

    #[test]
    fn a_tree_that_never_had_two_processes_has_no_sampled_peak_instead_of_zero() {
        let reading = tree_pss(&TreeSample { most_processes: 1, ..TreeSample::default() });
        assert_eq!(reading.value(), None);
        assert!(reading.reason().is_some());
        assert_eq!(processes(&TreeSample::default()).value(), None);
    }
}
