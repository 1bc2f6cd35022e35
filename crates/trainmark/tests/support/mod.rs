//! The fake trainer, launched as the harness launches a real one.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub mod place;

use measure::launch::{self, CancelToken, Job, Outcome, Stream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub const HARNESS: &str = env!("CARGO_BIN_EXE_trainmark");
pub const FAKE_TRAINER: &str = env!("CARGO_BIN_EXE_fake-trainer");

pub const MB: u64 = 1_000_000;

/// The harness, which works and keeps what it knows in a folder: nothing of the person who tests is read or changed.
pub fn harness(home: &Path) -> Command {
    let mut command = Command::new(HARNESS);
    command.current_dir(home);
    for (name, folder) in [("CACHE", "cache"), ("DATA", "share"), ("STATE", "state")] {
        command.env(format!("XDG_{name}_HOME"), home.join(folder));
    }
    command
}

/// A job for the fake trainer. The time-out only keeps a broken test from hanging.
pub fn fake(arguments: &[&str]) -> Job {
    program(FAKE_TRAINER, arguments)
}

pub fn program(program: &str, arguments: &[&str]) -> Job {
    let mut job = Job::new(program).expect("the path of this test");
    job.launcher_exe = HARNESS.into();
    job.args = arguments.iter().map(Into::into).collect();
    job.timeout = Some(Duration::from_secs(240));
    job
}

/// Runs it and keeps the lines of both streams.
pub fn run_with(job: &Job, cancel: &CancelToken) -> (Outcome, Vec<String>) {
    let mut lines = Vec::new();
    let outcome =
        launch::run(job, &mut |_: Stream, line: &str| lines.push(line.to_owned()), cancel);
    (outcome.expect("the launcher starts"), lines)
}

pub fn run(job: &Job) -> (Outcome, Vec<String>) {
    run_with(job, &CancelToken::default())
}

/// Runs it without keeping anything.
pub fn run_quietly(job: &Job) -> Outcome {
    let cancel = CancelToken::default();
    launch::run(job, &mut |_, _| {}, &cancel).expect("the launcher starts")
}

/// The number in a line `name 123`.
pub fn number_in(lines: &[String], name: &str) -> f64 {
    let rest = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    rest.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no line {name:?} with a number in {lines:?}"))
}

/// Whether the process exists and has not ended.
#[cfg(target_os = "linux")]
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().chars().next());
        !matches!(state, Some(Some('Z' | 'X')))
    })
}

/// Processes whose command line contains the word.
#[cfg(target_os = "linux")]
pub fn processes_with(word: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("Linux has /proc");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(word)
        })
        .filter(|&pid| is_alive(pid))
        .collect()
}

/// Waits, generously, until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
