//! What a launch promises on every system: how a trainer ended, its last lines, what it cost.
//! `truth.rs` and `outside/faults.rs` have what only Linux can promise.

mod support;

use measure::launch::Exit;
use std::time::Duration;
use support::{MB, fake, number_in, run, run_quietly};

#[test]
fn a_good_trainer_ends_with_its_exit_code_and_its_last_lines() {
    let (outcome, lines) = run(&fake(&["succeed"]));
    assert_eq!(outcome.exit, Exit::Code(0));
    assert_eq!(lines, ["Epoch 1/1  loss 0.61", "Test Accuracy: 95.67%"]);
    assert_eq!(outcome.stdout_tail, "Epoch 1/1  loss 0.61\nTest Accuracy: 95.67%");
    assert_eq!(outcome.stderr_tail, "");
    assert_eq!((outcome.stragglers.count, outcome.survivors), (0, 0));
    assert_eq!(outcome.out_of_memory, None);
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    assert_eq!(run_quietly(&fake(&["exit", "69"])).exit, Exit::Code(69));
    // A shell would call this one 134 as well.
    assert_eq!(run_quietly(&fake(&["exit", "134"])).exit, Exit::Code(134));
    for (arguments, number, name) in [
        (&["abort"][..], 6, "SIGABRT"),
        (&["signal", "11"], 11, "SIGSEGV"),
        (&["signal", "9"], 9, "SIGKILL"),
    ] {
        match run_quietly(&fake(arguments)).exit {
            Exit::Signal(signal) => {
                assert_eq!((signal.number, signal.name.as_str()), (number, name));
            }
            other => panic!("{arguments:?} ended as {other:?}"),
        }
    }
}

#[test]
fn a_trainer_that_hangs_is_stopped_at_the_time_out() {
    let mut job = fake(&["sleep", "300"]);
    job.timeout = Some(Duration::from_secs(3)); // it has to start first, on a busy machine too
    let outcome = run_quietly(&job);
    assert_eq!(outcome.exit, Exit::TimedOut);
    assert_eq!(outcome.stdout_tail, "sleeping");
    assert!(outcome.meters["wall_s"].value.unwrap() >= 3.0);
}

#[test]
fn memory_and_cpu_time_are_the_trainers_own() {
    let outcome = run_quietly(&fake(&["hold", "100", "0"]));
    let peak = outcome.meters["peak_memory_bytes"].count().expect("a peak");
    assert!((100 * MB..115 * MB).contains(&peak), "{peak} bytes instead of 100 MB");

    let (outcome, lines) = run(&fake(&["burn", "2", "0.3"]));
    let own_s = number_in(&lines, "cpu_s");
    let meters = &outcome.meters;
    let measured_s = meters["user_s"].value.unwrap() + meters["system_s"].value.unwrap();
    assert!((own_s - 0.01..own_s + 0.3).contains(&measured_s), "{measured_s} s, not {own_s} s");
}

#[cfg(target_os = "linux")]
#[test]
fn a_gigabyte_on_either_stream_takes_bounded_memory() {
    let before = own_peak_bytes();
    let mut longest = 0;
    let mut count = 0_u64;
    let cancel = measure::launch::CancelToken::default();
    let outcome = measure::launch::run(
        &fake(&["stderr-without-newline", "1000"]),
        &mut |_, line: &str| longest = longest.max(line.len()),
        &cancel,
    );
    let outcome = outcome.unwrap();
    assert_eq!(outcome.exit, Exit::Code(0), "it has written all of it");
    assert_eq!(outcome.stdout_tail, "Test Accuracy: 50.00%");
    assert!(longest <= 64 * 1024);
    assert!(outcome.stderr_tail.len() <= 8 * 1024);

    let outcome = measure::launch::run(
        &fake(&["stdout-lines", "1000"]),
        &mut |_, _: &str| count += 1,
        &cancel,
    );
    let outcome = outcome.unwrap();
    assert_eq!(outcome.exit, Exit::Code(0));
    assert_eq!(count, 10_000_001);
    assert!(outcome.stdout_tail.ends_with("Test Accuracy: 50.00%"));
    assert_eq!(outcome.stdout_tail.lines().count(), 20);
    let grown = own_peak_bytes() - before;
    // Other tests of this process run at the same time; none of them keeps much either.
    assert!(grown < 30 * MB, "{grown} bytes more");
}

#[cfg(target_os = "linux")]
fn own_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
