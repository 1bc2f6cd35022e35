//! Waits for something that never comes: each has an end, by itself or with the run.
#![cfg(target_os = "linux")]

use crate::support::place::{PLAIN, Place, said};
use crate::support::{eventually, processes_with};
use std::io::{PipeReader, Write, pipe};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A pipe that is full: whoever prints into it waits as long as nobody reads.
fn full() -> (PipeReader, Stdio) {
    let (reader, mut writer) = pipe().unwrap();
    let theirs = writer.try_clone().unwrap();
    std::thread::spawn(move || writer.write_all(&vec![0; 1 << 20]));
    (reader, theirs.into())
}

/// A run whose commands are those of a suite.
fn run(place: &Place, more: &str, words: &[&str]) -> Command {
    let mut command = place.trainmark("run");
    command.arg("--suite").arg(place.suite(PLAIN, more)).arg("--data").arg(place.path("data"));
    command.arg("--out").arg(place.path("out")).args(words);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Puts a script before all programs of its name.
fn program(place: &Place, name: &str, script: &str) {
    let file = place.path("bin").join(name);
    std::fs::create_dir_all(place.path("bin")).unwrap();
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Finds those scripts first.
fn with_programs(place: &Place, mut command: Command) -> Output {
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", place.path("bin").display()));
    command.output().unwrap()
}

fn terminate(child: &Child) {
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
}

/// The exit code, and what was printed to standard error.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_program_that_does_not_stop_when_its_time_is_up_ends_a_minute_later() {
    let (place, (_reader, stdout)) = (Place::new(), full());
    let began = Instant::now();
    let child = run(&place, "", &["--run-timeout", "2s"]).stdout(stdout).spawn().unwrap();
    let (code, said) = ended(child);
    assert_eq!(code, Some(124), "{said}");
    assert!(said.ends_with("error: did not stop within 60 s\n"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(90));
}

#[test]
fn the_third_signal_ends_a_program_that_does_not_stop() {
    let (place, (_reader, stdout)) = (Place::new(), full());
    let mut child = run(&place, "", &[]).stdout(stdout).spawn().unwrap();
    eventually("the row is there", || !place.result_names().is_empty());
    let began = Instant::now();
    eventually("it ends", || {
        terminate(&child);
        std::thread::sleep(Duration::from_millis(50));
        child.try_wait().unwrap().is_some()
    });
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(ended(child).0, Some(130));
}

#[test]
fn a_build_ends_when_the_time_of_the_run_is_up_and_no_other_begins() {
    for (number, quiet) in ["", "exec > built.log 2>&1; "].into_iter().enumerate() {
        a_build_ends(&format!("hanging-build-{number}-{}", std::process::id()), quiet);
    }
}

fn a_build_ends(word: &str, quiet: &str) {
    let place = Place::new();
    let suite = place.suite(PLAIN, "root = '.'");
    let text = std::fs::read_to_string(&suite).unwrap();
    // A process below it ignores SIGTERM.
    let build =
        format!("{quiet}echo x >> builds; sh -c 'trap : TERM; sleep 300; sleep 300; : {word}'; :");
    let (head, trainer) = text.split_once("[[trainers]]").unwrap();
    let one = format!("[[trainers]]\nbuild = ['sh', '-c', \"\"\"{build}\"\"\"]\n{trainer}");
    let other = one.replace("Shell", "Other").replace("\"shell\"", "\"other\"");
    std::fs::write(&suite, format!("{head}{one}{other}")).unwrap();
    let began = Instant::now();
    let output = place.run(&suite, &["--run-timeout", "2s"]);
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    assert!(began.elapsed() < Duration::from_secs(40), "{}", said(&output));
    assert!(!said(&output).contains("warning: "), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(place.path("builds")).unwrap(), "x\n");
    eventually("nothing of the build is left", || processes_with(word).is_empty());
    assert!(place.results().is_empty(), "{}", said(&output));
}

#[test]
fn a_stop_while_it_is_scored_leaves_a_row_that_runs_again() {
    let place = Place::new();
    let suite = place.suite("printf 1 > $TRAINMARK_PREDICTIONS; echo x >> starts", "root = '.'");
    let text = std::fs::read_to_string(&suite).unwrap();
    let task = "[task]\nname = 'guess'\ndata = ['data']\nquality = 'share'\n[task.metrics.share]\nunit = ''\n\
                better = 'higher'\nscore = { by = 'command', predictions = 'u8', truth_type = 'u8', \
                command = ['sh', '-c', 'echo x >> scores; sleep 300'] }\n[[trainers]]";
    std::fs::write(&suite, text.replace("[[trainers]]", task)).unwrap();
    let output = place.run(&suite, &["--run-timeout", "3s", "--repeats", "2"]);
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    assert!(place.path("scores").exists(), "{}", said(&output));
    let results = place.results();
    assert_eq!(results[0]["samples"][0]["status"], "interrupted", "{}", said(&output));
}

#[test]
fn a_set_up_ends_with_one_signal_and_so_does_the_one_that_waits_for_it() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "root = '.'");
    let setup = "[[trainers]]\nsetup = { commands = [['sh', '-c', 'echo x >> began; sleep 300']] }";
    let text = std::fs::read_to_string(&suite).unwrap();
    let text = text.replace("\"sh\"", "\"./made\"").replace("[[trainers]]", setup);
    std::fs::write(&suite, text).unwrap();
    let start = || {
        let mut command = place.trainmark("setup");
        command.arg("--suite").arg(&suite).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let first = start();
    eventually("the set-up begins", || place.path("began").exists());
    let second = start();
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    for child in [second, first] {
        terminate(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", said(&output));
        assert!(said(&output).contains("failed: stopped by SIGTERM"), "{}", said(&output));
    }
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(std::fs::read_to_string(place.path("began")).unwrap(), "x\n");
}

#[test]
fn a_git_that_hangs_and_a_compiler_that_leaves_something_behind_cost_no_run() {
    let place = Place::new();
    program(&place, "git", "exec sleep 300");
    program(&place, "cc", "sleep 300 & echo cc 12.3");
    let began = Instant::now();
    let output = with_programs(&place, run(&place, "", &[]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(began.elapsed() < Duration::from_secs(60));
    let record = &place.results()[0];
    assert_eq!(record["run"]["git_commit"], serde_json::Value::Null);
    assert!(record["environment"].to_string().contains("cc 12.3"), "{}", record["environment"]);
}

#[test]
fn a_scheduler_that_takes_no_job_is_named_after_a_minute() {
    let place = Place::new();
    program(&place, "squeue", "echo slurm 22");
    program(&place, "sbatch", "[ \"$1\" = --version ] || exec sleep 300");
    let output = with_programs(&place, run(&place, "", &["--executor", "slurm"]));
    let named = "error: --executor slurm: sbatch: it did not answer within 60 s";
    assert!(said(&output).contains(named), "{}", said(&output));
}

#[test]
fn a_browser_that_stays_open_is_not_waited_for() {
    let place = Place::new();
    let output = place.run(&place.suite(PLAIN, ""), &[]);
    assert!(output.status.success(), "{}", said(&output));
    program(&place, "xdg-open", "exec sleep 50");
    let mut report = place.trainmark("report");
    report.args(["--input", "out", "--open"]);
    let began = Instant::now();
    let output = with_programs(&place, report);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("no browser"), "{}", said(&output));
    assert!(began.elapsed() < Duration::from_secs(40));
}

#[test]
fn that_much_data_is_read_is_said_before() {
    let place = Place::new();
    let much = std::fs::File::create(place.path("much")).unwrap();
    much.set_len(1_200_000_000).unwrap();
    let suite = place.suite(PLAIN, "[task]\nname = 't'\ndata = 'much'");
    let output = place.run(&suite, &["--data", place.path("much").to_str().unwrap()]);
    assert!(said(&output).contains("\nReading 1.2 GB of data\nData  "), "{}", said(&output));
}
