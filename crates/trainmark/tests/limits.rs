//! Limits on what a trainer may have: each is enforced, each way to enforce it is told apart, and all
//! of it is in the result file.
#![cfg(target_os = "linux")]

mod support;

use serde_json::Value;
use skip::skipped;
use std::path::PathBuf;
use std::process::Command;
use support::place::{PLAIN, Place, said};
use support::{FAKE_TRAINER, processes_with};

/// The result of a line of shell under these limits.
fn result_under(script: &str, limits: &[&str]) -> Value {
    Place::new().result_of(script, limits)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn limits(result: &Value) -> &Value {
    &result["trainer"]["limits"]
}

/// Grows by 300 MB a second until somebody stops it.
fn leak() -> String {
    format!("exec {FAKE_TRAINER} leak 300")
}

#[test]
fn a_trainer_that_outgrows_its_limit_is_out_of_memory_and_the_record_says_who_noticed() {
    let watched = result_under(&leak(), &["--memory-limit", "60M", "--memory-limit-by", "watch"]);
    assert_eq!(watched["status"], "out_of_memory", "{watched}");
    assert!(text(&watched, "reason").contains("the limit is 60.00 MB"), "{watched}");
    assert_eq!(limits(&watched)["memory_bytes"], 60_000_000);
    assert_eq!(limits(&watched)["memory_by"], "watch (resident memory)");

    let bounded = result_under(&leak(), &["--memory-limit", "60M", "--memory-limit-by", "rlimit"]);
    assert_eq!(bounded["status"], "out_of_memory", "{bounded}");
    let reason = text(&bounded, "reason");
    assert!(reason.contains("memory allocation of "), "{reason}");
    assert!(reason.contains("limited to 60000000 bytes (RLIMIT_AS)"), "{reason}");
    assert_eq!(limits(&bounded)["memory_by"], "rlimit (RLIMIT_AS of each process)");
    assert_eq!(limits(&bounded)["address_space_bytes"], 60_000_000);
}

/// The control groups on this machine that launchers made.
fn control_groups() -> Vec<PathBuf> {
    let found = Command::new("find").args(["/sys/fs/cgroup", "-name", "trainmark-*"]).output();
    let found = String::from_utf8(found.unwrap().stdout).unwrap();
    found.lines().map(PathBuf::from).collect()
}

#[test]
fn a_control_group_of_its_own_ends_a_trainer_with_all_its_children_at_the_limit() {
    // A harness that was killed, on this machine, at some time, may have left one of its own.
    let others = control_groups();
    // Two processes that are within the limit one by one.
    let word = format!("held-twice-{}", std::process::id());
    let script = format!("{FAKE_TRAINER} hold-twice 50 300; exit 7 # {word}");
    let result = result_under(&script, &["--memory-limit", "80M", "--memory-limit-by", "group"]);
    if text(&result, "reason").contains("no control group can be made") {
        return skipped(text(&result, "reason"));
    }
    assert_eq!(result["status"], "out_of_memory", "{result}");
    assert!(text(&result, "reason").contains("at the control group's limit of 80.00 MB"));
    assert!(text(limits(&result), "memory_by").starts_with("control group (memory."), "{result}");
    assert_eq!(processes_with(&word), Vec::<u32>::new());

    let fine = result_under(PLAIN, &["--memory-limit", "80M", "--memory-limit-by", "group"]);
    assert_eq!(fine["status"], "measured", "{fine}");
    // The group that limits measures too.
    for result in [&result, &fine] {
        let peak =
            result["samples"][0]["counters"]["cgroup_peak_bytes"].as_f64().unwrap_or_default();
        assert!(peak > 100e3 && peak <= 80e6, "{result}");
    }
    // Other tests of this file may have one of their own just now; none has for long.
    let left: Vec<PathBuf> =
        control_groups().into_iter().filter(|folder| !others.contains(folder)).collect();
    support::eventually("all groups are removed", || left.iter().all(|folder| !folder.exists()));
}

#[test]
fn one_that_moves_itself_out_of_its_control_group_is_limited_all_the_same() {
    let move_out = "for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/cgroup.procs; do \
                    echo $$ > $procs; done 2>/dev/null; grep -q trainmark- /proc/self/cgroup && exit 7; ";
    let result = result_under(&format!("{move_out}{}", leak()), &["--memory-limit", "60M"]);
    if !text(limits(&result), "memory_by").starts_with("control group") {
        skipped(text(limits(&result), "memory_by"));
    } else if result["status"] == "failed" {
        skipped("a trainer may not leave its group here");
    } else {
        assert_eq!(result["status"], "out_of_memory", "{result}");
        assert!(text(&result, "reason").contains("had left its control group"), "{result}");
    }
}

#[test]
fn without_a_choice_the_best_way_there_is_enforces_the_limit() {
    let result = result_under(&leak(), &["--memory-limit", "60M"]);
    assert_eq!(result["status"], "out_of_memory", "{result}");
    let by = text(limits(&result), "memory_by");
    assert!(
        by.starts_with("control group (") || by.starts_with("watch (resident memory; "),
        "{by}"
    );
}

#[test]
fn a_limit_that_the_harness_was_started_under_is_recognised_too() {
    let place = Place::new();
    let suite = place.suite(&leak(), "");
    // The harness itself maps a stack for each of its threads.
    let script = "ulimit -v 400000; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", support::HARNESS, "run", "--suite"]).arg(&suite);
    command.arg("--data").arg(place.path("data")).arg("--out").arg(place.path("out"));
    let output = command.output().unwrap();
    let result = place.results().pop().unwrap_or_else(|| panic!("{}", said(&output)));
    assert_eq!(result["status"], "out_of_memory", "{result}");
    assert!(text(&result, "reason").contains("409600000 bytes (RLIMIT_AS)"), "{result}");
    assert_eq!(limits(&result)["memory_bytes"], Value::Null);
    assert_eq!(limits(&result)["address_space_bytes"], 409_600_000);
}

#[test]
fn a_trainer_runs_on_the_cores_it_is_given_and_the_file_says_which() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    let first = list.split([',', '-']).next().unwrap();
    let script = format!("grep -q 'Cpus_allowed_list:.{first}$' /proc/self/status && {PLAIN}");
    let result = result_under(&script, &["--cpus", first]);
    assert_eq!(result["status"], "measured", "{result}");
    assert_eq!(limits(&result)["cpus"], serde_json::json!([first.parse::<usize>().unwrap()]));
    let result = result_under(PLAIN, &["--cpus", "60000"]);
    assert_eq!(result["status"], "not_started", "{result}");
    assert!(text(&result, "reason").contains("60000"), "{result}");
}

#[test]
fn at_its_time_out_a_trainer_may_end_in_order_before_it_is_killed() {
    let script = "trap 'echo saved; exit 0' TERM; echo started; while :; do sleep 0.05; done";
    // Long enough for a shell to start on a busy machine. That it was not killed, its last word says.
    let result = result_under(script, &["--timeout", "5s"]);
    assert_eq!(result["status"], "timed_out", "{result}");
    assert_eq!(result["samples"][0]["stdout_tail"], "started\nsaved");
    assert_eq!(limits(&result)["timeout_s"], 5.0);
}
