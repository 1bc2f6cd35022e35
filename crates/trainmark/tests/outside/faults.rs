//! Trainers that crash, hang, flood, fork away and fight back: each ends as what it is, in bounded
//! memory and time, and nothing of it is left running.
#![cfg(target_os = "linux")]

use crate::support;
use measure::launch::{self, CancelToken, Exit, LaunchError, LimitedBy, MemoryLimit, Stream};
use skip::skipped;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{
    FAKE_TRAINER, MB, eventually, fake, is_alive, number_in, processes_with, program, run,
    run_quietly, run_with,
};

#[test]
fn a_signal_without_a_name_has_its_number() {
    match run_quietly(&fake(&["signal", "40"])).exit {
        Exit::Signal(signal) => {
            assert_eq!((signal.number, signal.name.as_str()), (40, "signal 40"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_cannot_be_started_says_why() {
    for (path, word) in [
        ("/no/such/trainer", "No such file"),
        ("no-such-trainer-in-the-path", "No such file"),
        ("/", "denied"),
        ("/etc/passwd", "denied"),
    ] {
        match run_quietly(&program(path, &[])).exit {
            Exit::NotStarted(reason) => assert!(reason.contains(word), "{path}: {reason}"),
            other => panic!("{path} ended as {other:?}"),
        }
    }
    let mut job = fake(&["succeed"]);
    job.cwd = Some("/no/such/folder".into());
    assert!(
        matches!(run_quietly(&job).exit, Exit::NotStarted(reason) if reason.contains("folder"))
    );
}

#[test]
fn a_launcher_that_is_none_is_an_error_or_lost_but_never_a_hang() {
    let mut job = fake(&["succeed"]);
    job.launcher_exe = "/no/such/harness".into();
    let cancel = CancelToken::default();
    let error = launch::run(&job, &mut |_, _| {}, &cancel).unwrap_err();
    assert!(matches!(error, LaunchError::Spawn { .. }), "{error}");
    job.launcher_exe = "/bin/true".into();
    assert!(matches!(run_quietly(&job).exit, Exit::Lost(_)));
    job.launcher_exe = "/bin/echo".into();
    assert!(matches!(run_quietly(&job).exit, Exit::Lost(_)));
}

#[test]
fn the_trainer_gets_its_environment_folder_and_clean_descriptors_and_signals() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = fake(&["environment"]);
    job.env = vec![("FAKE_VARIABLE".into(), "a b\"c".into())];
    job.cwd = Some(folder.path().into());
    let (outcome, lines) = run(&job);
    assert_eq!(outcome.exit, Exit::Code(0));
    let has = |line: &str| assert!(lines.iter().any(|l| l == line), "{line:?} not in {lines:?}");
    has("FAKE_VARIABLE a b\"c");
    has(&format!("cwd {}", folder.path().canonicalize().unwrap().display()));
    has(&format!("PATH {}", std::env::var("PATH").unwrap_or_default()));
    has("stdin 0 bytes");
    has("SigBlk:\t0000000000000000");
    // The harness may itself have been started with more than three; no other one leaks.
    let plain =
        Command::new(FAKE_TRAINER).arg("environment").stdin(Stdio::null()).output().unwrap();
    let plain = String::from_utf8(plain.stdout).unwrap();
    has(plain.lines().find(|line| line.starts_with("descriptors")).unwrap());
}

#[test]
fn what_leads_to_later_steps_of_a_workflow_is_kept_from_the_trainer() {
    // In a process of its own: this one's environment is that of all its tests.
    let test = "faults::a_harness_in_a_workflow";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(launch::WITHHELD.map(|name| (name, "/nobody/gets/this")))
        .env("GITHUB_SHA", "may-be-known")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("may-be-known"), "{said}");
    assert!(!said.contains("/nobody/gets/this"), "{said}");
}

#[test]
#[ignore = "not a test of its own: another runs it in a process of its own"]
fn a_harness_in_a_workflow() {
    let (_, lines) = run(&program("env", &[]));
    println!("{}", lines.join("\n"));
}

#[test]
fn a_trainer_that_ignores_sigterm_is_killed_with_all_its_children() {
    let mut job = fake(&["fork-bomb", "5"]);
    // Long enough for all 32 processes, also on a busy machine.
    job.timeout = Some(Duration::from_secs(6));
    let word = "fork-bomb-of-the-time-out-test";
    job.args.push(word.into());
    let outcome = run_quietly(&job);
    assert_eq!(outcome.exit, Exit::TimedOut);
    assert_eq!(outcome.survivors, 0);
    assert!(outcome.meters["processes"].count() > Some(5), "{:?}", outcome.meters["processes"]);
    assert_eq!(processes_with(word), Vec::<u32>::new());
}

#[test]
fn a_daemon_that_left_its_session_is_found_stopped_and_counted() {
    let (outcome, lines) = run(&fake(&["detach"]));
    let daemon = number_in(&lines, "daemon") as u32;
    assert!(!is_alive(daemon));
    assert_eq!(outcome.exit, Exit::Code(0));
    assert_eq!(outcome.stragglers.count, 1);
    assert!(outcome.stragglers.stopped && outcome.stragglers.cut_off);
    assert_eq!(outcome.survivors, 0);
    let wall_s = outcome.meters["wall_s"].value.unwrap();
    assert!((4.5..6.5).contains(&wall_s), "it computed until it was stopped, not for {wall_s} s");
    let cpu_s = outcome.meters["user_s"].value.unwrap();
    assert!(cpu_s > 0.2, "the daemon spun for eight seconds, but only {cpu_s} s were counted");
}

#[test]
fn work_that_goes_on_behind_the_main_process_when_the_time_is_up_has_timed_out() {
    let mut job = fake(&["detach"]);
    job.timeout = Some(Duration::from_secs(2));
    let outcome = run_quietly(&job);
    assert_eq!(outcome.exit, Exit::TimedOut);
    // One that waits has no work to be late with.
    let script = "setsid sleep 300 > /dev/null 2>&1 < /dev/null &";
    let mut job = program("/bin/sh", &["-c", script]);
    job.timeout = Some(Duration::from_secs(2));
    let outcome = run_quietly(&job);
    assert_eq!(outcome.exit, Exit::Code(0));
    assert!(outcome.stragglers.stopped && !outcome.stragglers.cut_off);
}

#[test]
fn a_daemon_that_only_waits_costs_no_wall_time_when_it_is_stopped() {
    let script = "setsid sleep 300 > /dev/null 2>&1 < /dev/null & sleep 0.3";
    let outcome = run_quietly(&program("/bin/sh", &["-c", script]));
    assert_eq!((outcome.exit, outcome.stragglers.count), (Exit::Code(0), 1));
    assert!(outcome.stragglers.stopped && !outcome.stragglers.cut_off);
    let wall_s = outcome.meters["wall_s"].value.unwrap();
    assert!((0.3..2.0).contains(&wall_s), "{wall_s} s");
}

#[test]
fn a_daemon_that_hides_and_kills_its_launcher_is_found_and_the_row_says_so() {
    let word = format!("hidden-daemon-of-{}", std::process::id());
    let hidden = format!("kill -9 $LAUNCHER; exec setsid sh -c 'sleep 304; # {word}'");
    let script = format!(
        "export LAUNCHER=$PPID; setsid env -i LAUNCHER=$PPID sh -c \"{}\" & sleep 305",
        hidden.replace('$', "\\$")
    );
    let outcome = run_quietly(&program("/bin/sh", &["-c", &script]));
    let Exit::Lost(reason) = &outcome.exit else { panic!("{:?}", outcome.exit) };
    assert!(reason.contains("processes that it left were found and killed"), "{reason}");
    assert_eq!(outcome.survivors, 0);
    assert_eq!(processes_with(&word), Vec::<u32>::new());
}

#[test]
fn a_killed_launcher_leaves_no_control_group() {
    let script = "cat /proc/self/cgroup; kill -9 $PPID; exec sleep 306";
    let (outcome, lines) = run(&program("/bin/sh", &["-c", script]));
    assert!(matches!(outcome.exit, Exit::Lost(_)), "{:?}", outcome.exit);
    let own = lines.iter().find_map(|line| line.split('/').find(|it| it.starts_with("trainmark-")));
    let Some(own) = own else {
        skipped("no control group may be made here");
        return;
    };
    let find = || Command::new("find").args(["/sys/fs/cgroup", "-name", own]).output().unwrap();
    eventually("its group is removed", || find().stdout.is_empty());
}

#[test]
fn a_cancelled_trainer_is_stopped_and_killed_after_a_grace() {
    assert_eq!(cancelled_when_it_prints(&["sleep", "300"], 1).0, Exit::Cancelled);
    let (exit, wall_s) = cancelled_when_it_prints(&["ignore-term"], 1);
    assert_eq!(exit, Exit::Cancelled);
    assert!(wall_s >= 3.0, "killed after {wall_s} s, in its grace");
}

#[test]
fn a_second_request_to_stop_skips_the_grace() {
    // On a busy machine the requests themselves may be late; not five times.
    let quick = (0..5).any(|_| {
        let (exit, wall_s) = cancelled_when_it_prints(&["ignore-term"], 2);
        assert_eq!(exit, Exit::Cancelled);
        wall_s < 3.0
    });
    assert!(quick, "always as slow as after one request");
}

#[test]
fn a_token_that_was_cancelled_before_stops_the_next_trainer_too() {
    let cancel = CancelToken::default();
    cancel.cancel();
    let (outcome, _) = run_with(&fake(&["sleep", "300"]), &cancel);
    assert_eq!(outcome.exit, Exit::Cancelled);
    assert!(outcome.meters["wall_s"].value.is_some(), "the launcher itself did not hear of it");
}

/// Returns how it ended, and the trainer's wall time in seconds.
fn cancelled_when_it_prints(arguments: &[&str], requests: usize) -> (Exit, f64) {
    let cancel = CancelToken::default();
    let mut on_line = |_: Stream, _: &str| (0..requests).for_each(|_| cancel.cancel());
    let outcome = launch::run(&fake(arguments), &mut on_line, &cancel).unwrap();
    (outcome.exit, outcome.meters["wall_s"].value.unwrap())
}

#[test]
fn polite_signals_do_not_end_the_launcher() {
    let script = "for i in 1 2 3; do kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; done";
    let script = format!("{script}; sleep 0.2; echo still here");
    let (outcome, lines) = run(&program("/bin/sh", &["-c", &script]));
    assert_eq!(outcome.exit, Exit::Code(0));
    assert_eq!(lines, ["still here"]);
}

#[test]
fn a_trainer_that_kills_its_launcher_is_lost_and_found() {
    let (outcome, lines) = run(&fake(&["kill-parent"]));
    assert!(matches!(outcome.exit, Exit::Lost(_)), "{:?}", outcome.exit);
    assert_eq!(outcome.survivors, 0);
    assert_eq!(outcome.meters["user_s"].value, None);
    assert!(!is_alive(number_in(&lines, "main") as u32));
}

#[test]
fn a_stopped_launcher_does_not_hang_the_harness() {
    let mut job = program("/bin/sh", &["-c", "kill -STOP $PPID; exec sleep 300"]);
    job.timeout = Some(Duration::from_secs(3)); // the shell has to stop it before
    let outcome = run_quietly(&job);
    assert!(matches!(outcome.exit, Exit::Lost(_)), "{:?}", outcome.exit);
    assert_eq!(outcome.survivors, 0);
}

#[test]
fn no_trainer_survives_the_harness_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let started = folder.path().join("started");
    let word = format!("late-orphan-of-{}", std::process::id());
    let mut harness = other_harness(&word, &started);
    eventually("the trainer of the other harness starts", || started.exists());
    eventually("all of its processes run", || processes_with(&word).len() >= 2);
    harness.kill().unwrap();
    harness.wait().unwrap();
    eventually("the trainer of the killed harness is gone", || processes_with(&word).is_empty());
}

#[test]
fn a_harness_that_is_killed_at_any_moment_of_its_start_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let word = format!("early-orphan-of-{}", std::process::id());
    for millisecond in 0..40 {
        let mut harness = other_harness(&word, &folder.path().join("started"));
        std::thread::sleep(Duration::from_millis(millisecond));
        harness.kill().unwrap();
        harness.wait().unwrap();
    }
    // A launcher that was just being started has neither trainer nor word yet.
    std::thread::sleep(Duration::from_millis(200));
    eventually("everything that was started is gone", || processes_with(&word).is_empty());
}

#[test]
fn a_group_that_nobody_was_left_to_remove_goes_with_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let started = folder.path().join("started");
    let word = format!("last-orphan-of-{}", std::process::id());
    let mut harness = other_harness(&word, &started);
    eventually("the trainer of the other harness starts", || started.exists());
    let (parent, launcher) = (harness.id().to_string(), launch::LAUNCHER_ARG);
    let found = Command::new("pgrep").args(["-P", &parent, "-f", launcher]).output().unwrap();
    let launcher = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    let kill = |pid: &str| assert!(Command::new("kill").args(["-9", pid]).status().is_ok());
    // The harness cannot clean up after its launcher, nor the launcher after itself.
    kill(&parent);
    kill(&launcher);
    harness.wait().unwrap();
    let name = format!("trainmark-{launcher}");
    let find = || {
        let found = Command::new("find").args(["/sys/fs/cgroup", "-name", &name]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().lines().next().map(str::to_owned)
    };
    let Some(group) = find() else {
        processes_with(&word).iter().for_each(|pid| kill(&pid.to_string()));
        skipped("no control group may be made here");
        return;
    };
    eventually("what it started is killed", || {
        let left = std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
        left.lines().for_each(&kill);
        left.is_empty()
    });
    // The kernel itself may need a moment to forget the last process of a group.
    eventually("the group is removed", || {
        run_quietly(&program("/bin/true", &[]));
        find().is_none()
    });
}

/// Another process of this very test file that runs a trainer, whose processes have the word in
/// their command lines.
fn other_harness(word: &str, started: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "faults::a_harness_for_the_tests_that_kill_it",
            "--ignored",
            "--nocapture",
        ])
        .env("FAULTS_WORD", word)
        .env("FAULTS_STARTED", started)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "not a test of its own: others run it in a process of its own and kill that"]
fn a_harness_for_the_tests_that_kill_it() {
    let (Ok(word), Ok(started)) = (std::env::var("FAULTS_WORD"), std::env::var("FAULTS_STARTED"))
    else {
        return skipped("not run by another test");
    };
    let script = format!(
        "trap '' TERM HUP INT; touch '{started}'
        setsid sh -c 'sleep 301; # {word}' &
        sleep 302 # {word}"
    );
    run_quietly(&program("/bin/sh", &["-c", &script]));
}

#[test]
fn garbage_and_invalid_utf8_are_lines_like_any_other() {
    let outcome = run_quietly(&fake(&["garbage", "3"]));
    assert_eq!(outcome.exit, Exit::Code(0));
    assert!(!outcome.stdout_tail.is_empty() && outcome.stdout_tail.len() <= 8 * 1024);

    let (outcome, lines) = run(&fake(&["invalid-utf8"]));
    assert_eq!(lines, ["loss \u{fffd}\u{fffd}\u{fffd} nan", "Test Accuracy: 12.50%"]);
    assert!(outcome.stdout_tail.starts_with("loss \u{fffd}"));
}

#[test]
fn a_trainer_that_closes_its_output_is_waited_for() {
    let (outcome, lines) = run(&fake(&["close-output"]));
    assert_eq!(outcome.exit, Exit::Code(0));
    assert_eq!(lines, ["Test Accuracy: 50.00%"]);
    assert!(outcome.meters["wall_s"].value.unwrap() >= 0.3);
}

#[test]
fn a_trainer_that_outgrows_its_memory_limit_is_killed_and_says_why() {
    let mut job = fake(&["leak", "200"]);
    job.memory_limit = Some(MemoryLimit { bytes: 100 * MB, by: Some(LimitedBy::Watch) });
    let outcome = run_quietly(&job);
    assert_eq!(outcome.exit, Exit::OverMemoryLimit);
    assert!(outcome.out_of_memory.unwrap().contains("100.00 MB"));
    let peak = outcome.meters["peak_memory_bytes"].count().unwrap();
    assert!(peak >= 100 * MB, "{peak} bytes");

    let mut job = fake(&["hold-twice", "80", "300"]);
    job.memory_limit = Some(MemoryLimit { bytes: 100 * MB, by: Some(LimitedBy::Watch) });
    let outcome = run_quietly(&job);
    assert_eq!(outcome.exit, Exit::OverMemoryLimit, "the limit is for the whole tree");
}

#[test]
fn a_callback_that_panics_leaves_no_trainer_behind() {
    let word = format!("panic-{}", std::process::id());
    let script = format!("echo go; sleep 303 # {word}");
    let job = program("/bin/sh", &["-c", &script]);
    let cancel = CancelToken::default();
    let panicked = std::panic::catch_unwind(|| {
        let _ = launch::run(&job, &mut |_, _| panic!("on purpose"), &cancel);
    });
    assert!(panicked.is_err());
    assert_eq!(processes_with(&word), Vec::<u32>::new());
}

#[test]
fn a_relative_path_is_meant_from_the_harness_not_from_the_trainers_folder() {
    let here = std::env::current_dir().unwrap();
    let depth = here.components().count() - 1;
    let relative = format!("{}{}", "../".repeat(depth), FAKE_TRAINER.trim_start_matches('/'));
    let mut job = program(&relative, &["succeed"]);
    job.cwd = Some("/".into());
    assert_eq!(run_quietly(&job).exit, Exit::Code(0));
}
