//! Measured figures against known answers: memory that is held, CPU time that is used.
//!
//! CPU time is compared with the CPU clocks that the fake trainer itself reads, never with wall time,
//! so that the tests hold on a busy machine.
#![cfg(target_os = "linux")]

mod support;

use measure::launch::{Exit, Outcome};
use measure::meter::Reading;
use skip::skipped;
use support::{FAKE_TRAINER, HARNESS, MB, exists, fake, number_in, program, run, run_quietly};

/// What a fake trainer needs beside the memory that it is told to hold, and what counters that the
/// kernel keeps per core may be off.
const SLACK: u64 = 12 * MB;

#[track_caller]
fn assert_holds(reading: &Reading, expected: u64) {
    let value = reading.count().unwrap_or_else(|| panic!("absent: {:?}", reading.reason()));
    assert!(
        (expected..expected + SLACK).contains(&value),
        "{value} bytes instead of {expected}; source: {:?}",
        reading.source()
    );
}

fn cpu_s(outcome: &Outcome) -> f64 {
    let meters = &outcome.meters;
    meters["user_s"].value.expect("user time") + meters["system_s"].value.expect("system time")
}

#[track_caller]
fn assert_succeeded(outcome: &Outcome) {
    assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.stderr_tail);
}

#[test]
fn a_child_that_holds_300_mb_reads_300_mb() {
    let outcome = run_quietly(&fake(&["hold", "300", "0"]));
    assert_succeeded(&outcome);
    assert_holds(&outcome.meters["largest_process_bytes"], 300 * MB);
    assert_holds(&outcome.meters["peak_memory_bytes"], 300 * MB);
    assert_eq!(outcome.meters["tree_pss_bytes"].value, None);
    assert!(outcome.meters["tree_pss_bytes"].reason().is_some());
}

#[test]
fn two_children_that_hold_300_mb_each_read_600_mb_together_and_300_mb_as_the_largest() {
    let outcome = run_quietly(&fake(&["hold-twice", "300", "3"]));
    assert_succeeded(&outcome);
    assert_holds(&outcome.meters["largest_process_bytes"], 300 * MB);
    assert_holds(&outcome.meters["tree_pss_bytes"], 600 * MB);
    assert_holds(&outcome.meters["peak_memory_bytes"], 600 * MB);
    assert_eq!(outcome.meters["processes"].count(), Some(3));
}

#[test]
fn pages_that_two_processes_share_are_counted_once() {
    let outcome = run_quietly(&fake(&["share", "200", "2"]));
    assert_succeeded(&outcome);
    assert_eq!(outcome.meters["processes"].count(), Some(2));
    assert_holds(&outcome.meters["tree_pss_bytes"], 200 * MB);
    assert_holds(&outcome.meters["peak_memory_bytes"], 200 * MB);
}

#[test]
fn a_parent_that_once_held_300_mb_leaves_no_trace_in_the_figures_of_a_small_child() {
    let held = vec![1_u8; 300_000_000];
    assert_eq!(std::hint::black_box(&held).len(), 300_000_000);
    drop(held);
    let outcome = run_quietly(&program("/bin/true", &[]));
    assert_succeeded(&outcome);
    let peak = outcome.meters["peak_memory_bytes"].count().expect("a peak");
    assert!(peak < 20 * MB, "{peak} bytes for /bin/true");

    // The trap is real: an ordinary parent reads its own past as its child's memory.
    let (outcome, lines) = run(&fake(&["held-then", "300", "/bin/true"]));
    assert_succeeded(&outcome);
    assert!(number_in(&lines, "children_maxrss") * 1024.0 > 300e6);
}

#[test]
fn a_figure_below_the_launchers_own_peak_says_so() {
    let outcome = run_quietly(&program("/bin/true", &[]));
    let reading = &outcome.meters["largest_process_bytes"];
    assert!(reading.source().expect("a source").contains("at most this much"), "{reading:?}");
}

#[test]
fn the_cpu_time_of_two_spinning_threads_adds_up() {
    let (outcome, lines) = run(&fake(&["burn", "2", "1"]));
    assert_succeeded(&outcome);
    let own_s = number_in(&lines, "cpu_s");
    assert!(own_s >= 2.0);
    let measured_s = cpu_s(&outcome);
    assert!(
        (own_s - 0.01..own_s + 0.3).contains(&measured_s),
        "measured {measured_s} s, the trainer itself {own_s} s"
    );
    assert!(outcome.meters["user_s"].value > outcome.meters["system_s"].value);
    let wall_s = outcome.meters["wall_s"].value.expect("wall time");
    assert!(wall_s >= 1.0, "two threads need a second of wall time, not {wall_s}");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(measured_s <= wall_s * cores as f64 + 0.05);
}

#[test]
fn a_sleeping_trainer_takes_wall_time_and_no_cpu_time() {
    let outcome = run_quietly(&fake(&["sleep", "0.5"]));
    assert!(outcome.meters["wall_s"].value.expect("wall time") >= 0.5);
    assert!(cpu_s(&outcome) < 0.4);
}

#[test]
fn a_grandchild_that_outlives_its_parent_is_waited_for_and_counted() {
    let (outcome, lines) = run(&fake(&["orphan-burn", "0.3"]));
    assert_succeeded(&outcome);
    let own_s = number_in(&lines, "cpu_s");
    assert!(own_s >= 0.3);
    let measured_s = cpu_s(&outcome);
    assert!(measured_s >= own_s - 0.01, "measured {measured_s} s, the grandchild alone {own_s} s");
    assert_eq!(outcome.stragglers.count, 1);
    assert!(!outcome.stragglers.stopped);
    // The main process forked its work away and ended: the clock stops with the work.
    let wall = &outcome.meters["wall_s"];
    assert!(wall.value >= Some(0.3), "{wall:?}");
    assert!(wall.source().unwrap().contains("s after the main one"), "{wall:?}");
}

#[test]
fn the_time_of_a_child_that_its_parent_never_waits_for_is_seen_by_sampling() {
    let (outcome, _) = run(&fake(&["unwaited-burn", "1.5"]));
    assert_succeeded(&outcome);
    let measured_s = cpu_s(&outcome);
    assert!(measured_s > 0.7, "only {measured_s} s of 1.5 s");
    assert!(outcome.meters["user_s"].source().expect("a source").contains("sampled"));
}

#[test]
fn bytes_written_to_storage_are_counted_or_said_to_be_unknown() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = format!("of={}", folder.path().join("zeros").display());
    let arguments = ["if=/dev/zero", file.as_str(), "bs=1M", "count=8", "conv=fsync"];
    let outcome = run_quietly(&program("dd", &arguments));
    assert_succeeded(&outcome);
    let written = &outcome.meters["storage_written_bytes"];
    match written.count() {
        // A scratch folder in memory reaches no storage.
        Some(bytes) => assert!(bytes == 0 || (8 << 20..16 << 20).contains(&bytes), "{bytes} bytes"),
        None => assert!(written.reason().is_some()),
    }
    assert!(outcome.meters["minor_faults"].count() > Some(0));
}

/// Perf events count from the trainer's `exec` to its end, in all of its processes, and nothing of the
/// launcher's.
#[test]
fn the_schedulers_clock_agrees_with_the_cpu_time_that_was_burnt() {
    let (outcome, lines) = run(&fake(&["burn", "1", "0.5"]));
    assert_succeeded(&outcome);
    let clock = &outcome.meters["task_clock_ns"];
    let Some(nanoseconds) = clock.value else {
        let why = clock.reason().expect("no figure without a reason");
        return skipped(why);
    };
    let (own_s, clock_s) = (number_in(&lines, "cpu_s"), nanoseconds / 1e9);
    // A hypervisor's time may count as the thread's, so that more than half a second is possible.
    assert!(own_s >= 0.5, "{own_s} s");
    assert!((own_s - 0.01..own_s + 0.2).contains(&clock_s), "{clock_s} s, the trainer {own_s} s");
    // Two processes: the sum of both.
    let (outcome, lines) = run(&fake(&["orphan-burn", "0.3"]));
    let clock_s = outcome.meters["task_clock_ns"].value.expect("as before") / 1e9;
    assert!(clock_s >= number_in(&lines, "cpu_s") - 0.01, "{clock_s} s");
}

/// Instructions of a loop of known length, where the hardware counts them.
#[test]
fn hardware_counters_are_there_or_say_why_not() {
    let outcome = run_quietly(&fake(&["burn", "1", "0.5"]));
    for name in ["instructions", "cycles", "cache_misses"] {
        let reading = &outcome.meters[name];
        match (reading.value, reading.reason()) {
            // Half a second of any CPU.
            (Some(count), None) => assert!(count > 0.0, "{reading:?}"),
            (None, Some(reason)) => {
                skipped(reason);
                assert!(!reason.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_control_groups_peak_holds_all_processes_or_says_why_there_is_none() {
    // A harness that was killed, by another test or another day, may have left its group.
    let before = groups_without_a_launcher();
    let outcome = run_quietly(&fake(&["hold-twice", "100", "0.5"]));
    assert_succeeded(&outcome);
    let peak = &outcome.meters["cgroup_peak_bytes"];
    match peak.count() {
        Some(bytes) => assert!((200 * MB..260 * MB).contains(&bytes), "{bytes} bytes"),
        None => skipped(peak.reason().expect("no figure without a reason")),
    }
    // Another test's launcher may end, with its group, between a look at the one and at the other.
    support::eventually("all groups are removed", || {
        groups_without_a_launcher().iter().all(|group| before.contains(group))
    });
}

/// Control groups below this process's own whose launcher is gone.
fn groups_without_a_launcher() -> Vec<String> {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("this process has groups");
    let mut groups = Vec::new();
    for line in own.lines() {
        let path = line.rsplit(':').next().unwrap_or_default();
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"] {
            let Ok(entries) = std::fs::read_dir(format!("{mount}{path}")) else { continue };
            // Other tests of this process run launchers of their own; theirs are alive.
            groups.extend(entries.flatten().filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let pid: u32 = name.strip_prefix("trainmark-")?.parse().ok()?;
                (!support::is_alive(pid)).then_some(name)
            }));
        }
    }
    groups
}

/// `perf stat` reads the same scheduler's clock from outside.
#[test]
fn the_schedulers_clock_agrees_with_perf_stat() {
    let judged = std::process::Command::new("perf")
        .args(["stat", "-x,", "-e", "task-clock", FAKE_TRAINER, "burn", "1", "0.5"])
        .output();
    let Ok(output) = judged else { return skipped("there is no perf") };
    let judged = String::from_utf8_lossy(&output.stderr).into_owned();
    let field = judged.lines().find(|line| line.contains("task-clock"));
    let Some(judged_ms) = field.and_then(|line| line.split(',').next()?.parse::<f64>().ok()) else {
        return skipped(format!("perf stat does not work here: {}", judged.trim()));
    };
    let (outcome, lines) = run(&fake(&["burn", "1", "0.5"]));
    let Some(nanoseconds) = outcome.meters["task_clock_ns"].value else {
        return skipped("no perf events for this user");
    };
    // Two trainings, which never use the same: what each judge adds to the trainer's own figure is compared.
    let judged_ms = judged_ms - 1e3 * number_in(&said_lines(&output.stdout), "cpu_s");
    let measured_ms = nanoseconds / 1e6 - 1e3 * number_in(&lines, "cpu_s");
    assert!((measured_ms - judged_ms).abs() < 150.0, "{measured_ms} ms, perf {judged_ms} ms");
}

fn said_lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// BenchExec's `runexec`: an independent judge, where it can work (control groups that it may use).
#[test]
fn cpu_time_and_memory_agree_with_runexec() {
    let runexec = std::env::var_os("TRAINMARK_RUNEXEC").unwrap_or_else(|| "runexec".into());
    let judge = |arguments: &[&str]| -> Result<String, String> {
        let output = std::process::Command::new(&runexec)
            .args(["--no-container", "--quiet", "--output", "/dev/null", "--"])
            .arg(FAKE_TRAINER)
            .args(arguments)
            .output()
            .map_err(|error| format!("runexec cannot be started: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    };
    // `cputime=0.512s`, `memory=104857600B`
    let figure = |text: &str, name: &str, unit: &str| -> Option<f64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        value.trim().strip_suffix(unit)?.parse().ok()
    };
    let judged = match judge(&["burn", "1", "0.5"]) {
        Ok(text) => text,
        Err(why) => return skipped(why.lines().next().unwrap_or("runexec failed")),
    };
    let Some(judged_s) = figure(&judged, "cputime", "s") else {
        return skipped("runexec tells no CPU time");
    };
    // Two trainings, of which a hypervisor's time may count as either's: the closest of some pairs counts.
    let judge_again =
        || judge(&["burn", "1", "0.5"]).ok().and_then(|it| figure(&it, "cputime", "s"));
    let mut pairs = vec![(cpu_s(&run_quietly(&fake(&["burn", "1", "0.5"]))), judged_s)];
    let agree = |pairs: &[(f64, f64)]| pairs.iter().any(|(ours, its)| (ours - its).abs() < 0.15);
    while !agree(&pairs) && pairs.len() < 5 {
        let judged_s = judge_again().expect("as before");
        pairs.push((cpu_s(&run_quietly(&fake(&["burn", "1", "0.5"]))), judged_s));
    }
    assert!(agree(&pairs), "seconds, ours and runexec's: {pairs:?}");
    let held = judge(&["hold", "100", "0.2"]).expect("as before");
    let Some(judged_bytes) = figure(&held, "memory", "B") else {
        return skipped("runexec tells no memory: it may use no control group");
    };
    let outcome = run_quietly(&fake(&["hold", "100", "0.2"]));
    let measured = outcome.meters["peak_memory_bytes"].value.expect("a peak");
    // runexec counts what the group is charged for, of which shared libraries may be no part.
    assert!((measured - judged_bytes).abs() < 15e6, "{measured} bytes, runexec {judged_bytes}");
}

/// `time -v` is the judge that everybody has.
#[test]
fn user_and_system_time_and_memory_agree_with_gnu_time() {
    const JUDGE: &str = "/usr/bin/time";
    if !exists(JUDGE) {
        return skipped("no /usr/bin/time");
    }
    let (outcome, lines) = run(&program(JUDGE, &["-v", FAKE_TRAINER, "burn", "2", "0.5"]));
    assert_succeeded(&outcome);
    let Some(user_s) = field(&lines, "User time (seconds):") else {
        return skipped("it is not GNU time");
    };
    let judged_s = user_s + field(&lines, "System time (seconds):").expect("system time");
    let measured_s = cpu_s(&outcome);
    // It prints hundredths, cut off, twice, and costs a little itself.
    assert!(
        (judged_s - 0.02..judged_s + 0.3).contains(&measured_s),
        "measured {measured_s} s, GNU time {judged_s} s"
    );

    let (outcome, lines) = run(&program(JUDGE, &["-v", FAKE_TRAINER, "hold", "100", "0"]));
    let judged_kib = field(&lines, "Maximum resident set size (kbytes):").expect("a peak");
    let judged_bytes = judged_kib as u64 * 1024;
    let measured_bytes = outcome.meters["largest_process_bytes"].count().expect("a peak");
    assert!(measured_bytes.abs_diff(judged_bytes) < MB, "{measured_bytes} against {judged_bytes}");
}

/// The number in a line of the judge's, `name 123`.
fn field(lines: &[String], name: &str) -> Option<f64> {
    lines.iter().find_map(|line| line.trim().strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn the_launcher_stays_small() {
    // A trainer that prints the launcher's peak as the kernel shows it.
    let script = "grep VmHWM /proc/$PPID/status | tr -s ' \\t' ' '";
    let (outcome, lines) = run(&program("/bin/sh", &["-c", script]));
    assert_succeeded(&outcome);
    let line = lines.first().and_then(|line| line.strip_suffix(" kB")).expect("a peak");
    let peak_kib = line.strip_prefix("VmHWM: ").and_then(|text| text.parse::<u64>().ok());
    let peak = peak_kib.expect("a number") * 1024;
    // The unoptimised binary has more to map.
    let most = if cfg!(debug_assertions) { 24 * MB } else { 8 * MB };
    assert!(peak < most, "{peak} bytes for {HARNESS}");
}
