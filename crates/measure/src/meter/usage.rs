//! From the kernel's account of waited-for children to [`Meters`].

use super::meters::Meters;
use super::reading::Reading;
use super::sample::{Cpu, TreeSample};
use crate::process;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use std::time::Duration;

/// `ru_inblock` and `ru_oublock` count these on Linux, whatever the device's block size.
const BLOCK_BYTES: f64 = 512.0;
/// Sampled CPU time counts as more than the kernel's account only beyond this much, in seconds and
/// as a factor: sampling rounds to clock ticks, of 10 ms each, per process.
const LOST_CPU_S: f64 = 0.2;
const LOST_CPU_FACTOR: f64 = 1.05;
/// Bytes per unit of `ru_maxrss`.
const MAXRSS_UNIT: f64 = if cfg!(target_vendor = "apple") { 1.0 } else { 1024.0 };

/// How long a trainer took, from just before the start of its main process: until that was reaped, and until the last
/// process that worked ended.
pub type Wall = (Duration, Duration);

/// CPU seconds of this process, or of all that it has waited for.
pub fn cpu_s(of: UsageWho) -> f64 {
    getrusage(of).map_or(0.0, |usage| cpu_of(&usage).total_s())
}

/// What the kernel has added up for all waited-for descendants of this process, which must have had
/// no other children than the one trainer. `survivors` are processes that could not be stopped, so
/// that nobody could wait for them.
pub fn meters(wall: Wall, sample: &TreeSample, survivors: u64) -> Meters {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    let mut meters = match &usage {
        Ok(_) => Meters::absent("this system does not report it"),
        Err(error) => Meters::absent(&format!("getrusage failed: {error}")),
    };
    meters.set("wall_s", wall_reading(wall));
    let Ok(usage) = usage else { return meters };
    let children = children_source(survivors);
    let (cpu, source) = cpu_reading(&usage, sample, &children);
    meters.set("user_s", Reading::measured(cpu.user_s, source.clone()));
    meters.set("system_s", Reading::measured(cpu.system_s, source));
    let (largest, tree) = (largest_process(&usage, &children), tree_pss(sample));
    meters.set("peak_memory_bytes", larger(&largest, &tree));
    meters.set("largest_process_bytes", largest);
    meters.set("tree_pss_bytes", tree);
    meters.set("phys_footprint_bytes", phys_footprint(sample));
    if sample.most_processes > 0 {
        let source = "most processes seen at once, sampled";
        meters.set("processes", Reading::measured(sample.most_processes as f64, source));
    }
    for (name, value) in [
        ("minor_faults", usage.minor_page_faults()),
        ("major_faults", usage.major_page_faults()),
        ("voluntary_switches", usage.voluntary_context_switches()),
        ("involuntary_switches", usage.involuntary_context_switches()),
    ] {
        meters.set(name, Reading::measured(value as f64, children.clone()));
    }
    for (name, blocks) in [
        ("storage_read_bytes", usage.block_reads()),
        ("storage_written_bytes", usage.block_writes()),
    ] {
        // Other systems count operations, not bytes; so does a kernel without accounting of them.
        if cfg!(target_os = "linux") && std::path::Path::new("/proc/self/io").exists() {
            meters.set(name, Reading::measured(blocks as f64 * BLOCK_BYTES, children.clone()));
        }
    }
    meters
}

fn wall_reading((main, work): Wall) -> Reading {
    let later_s = work.saturating_sub(main).as_secs_f64();
    let clock = "monotonic clock of the launcher, from before the main process started until";
    let until = match later_s < 0.01 {
        true => "it was reaped".to_owned(),
        false => format!("the last process that worked ended, {later_s:.2} s after the main one"),
    };
    Reading::measured(work.max(main).as_secs_f64(), format!("{clock} {until}"))
}

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

fn cpu_of(usage: &Usage) -> Cpu {
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Cpu { user_s: seconds(usage.user_time()), system_s: seconds(usage.system_time()) }
}

/// The kernel's sums, unless more CPU time than that was seen: a process that ignores SIGCHLD lets
/// its children vanish without anybody waiting for them, and their time is in no sum.
fn cpu_reading(usage: &Usage, sample: &TreeSample, children: &str) -> (Cpu, String) {
    let summed = cpu_of(usage);
    match sample.cpu {
        Some(seen) if seen.total_s() > summed.total_s() * LOST_CPU_FACTOR + LOST_CPU_S => {
            let words = "/proc/PID/stat, sampled: at least this much; some processes were never \
                         waited for, so that the kernel's sum lacks them";
            (seen, words.to_owned())
        }
        _ => (summed, children.to_owned()),
    }
}

/// The figure of a process cannot fall below the launcher's own peak, which its child inherits: the
/// launcher's own, not its `ru_maxrss`, which starts at the peak of the harness, its parent.
fn largest_process(usage: &Usage, children: &str) -> Reading {
    let peak = usage.max_rss() as f64 * MAXRSS_UNIT;
    let source = format!("ru_maxrss of the largest single process, {children}");
    match process::own_peak_bytes() {
        _ if peak <= 0.0 => Reading::absent("the kernel gave no peak resident set size"),
        Some(floor) if peak <= floor as f64 => Reading::measured(
            peak,
            format!("{source}; at most this much: the launcher's own peak hides anything less"),
        ),
        _ => Reading::measured(peak, source),
    }
}

/// The lifetime's peak of one process is exact; the sum over several is sampled, and can only be
/// too small.
fn phys_footprint(sample: &TreeSample) -> Reading {
    let looks = sample.looks;
    match sample.footprint_bytes {
        None => Reading::absent("only macOS counts physical footprints"),
        Some(largest) if sample.peak_bytes > largest => Reading::measured(
            sample.peak_bytes as f64,
            format!(
                "ri_phys_footprint, largest sum over the tree's {} processes in {looks} looks",
                sample.peak_processes
            ),
        ),
        Some(largest) => Reading::measured(
            largest as f64,
            "ri_lifetime_max_phys_footprint of the main process, read before it was reaped",
        ),
    }
}

fn tree_pss(sample: &TreeSample) -> Reading {
    if !cfg!(target_os = "linux") {
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
        sample.peak_bytes as f64,
        format!(
            "largest sum of {measure} of the tree's {} processes in {looks}",
            sample.peak_processes
        ),
    )
}

/// The peak of the tree; what is absent is less than anything. A control group's `memory.peak` is
/// deliberately no candidate: it counts the page cache of the files that the trainer read as well.
fn larger(process: &Reading, tree: &Reading) -> Reading {
    if tree.value > process.value { tree.clone() } else { process.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: u64) -> Reading {
        Reading::measured(value as f64, value.to_string())
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

    #[test]
    fn what_nobody_has_measured_is_absent_with_a_reason() {
        let second = Duration::from_secs(1);
        let meters = meters((second, second), &TreeSample::default(), 0);
        assert!(meters["user_s"].value.is_some());
        assert!(meters["cgroup_peak_bytes"].reason().is_some(), "nobody has set it");
    }

    #[test]
    fn wall_time_reaches_to_the_last_process_that_worked_and_says_so() {
        let wall =
            |work_ms| wall_reading((Duration::from_millis(20), Duration::from_millis(work_ms)));
        assert_eq!(wall(1120).value, Some(1.12));
        assert!(wall(1120).source().unwrap().ends_with("ended, 1.10 s after the main one"));
        assert_eq!(wall(20).value, Some(0.02));
        assert!(wall(20).source().unwrap().ends_with("until it was reaped"));
    }

    #[test]
    fn the_footprints_of_several_processes_count_together_where_they_were_seen_together() {
        let several = TreeSample {
            footprint_bytes: Some(700),
            peak_bytes: 900,
            peak_processes: 3,
            looks: 5,
            ..TreeSample::default()
        };
        assert_eq!(phys_footprint(&several).value, Some(900.0));
        assert!(phys_footprint(&several).source().unwrap().contains("3 processes in 5 looks"));
        assert_eq!(phys_footprint(&TreeSample::default()).value, None);
    }

    #[test]
    fn a_tree_that_never_had_two_processes_has_no_sampled_peak_instead_of_zero() {
        let reading = tree_pss(&TreeSample { most_processes: 1, ..TreeSample::default() });
        assert_eq!(reading.value, None);
        assert!(reading.reason().is_some());
    }
}
