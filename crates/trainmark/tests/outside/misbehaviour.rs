//! The whole harness against trainers with every vice: each is a row with its own status, the suite
//! goes on, and the harness's memory stays where it is.
#![cfg(target_os = "linux")]

use crate::support::place::{PLAIN, Place};
use crate::support::{FAKE_TRAINER, MB};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What the harness may hold at its peak, whatever a trainer does: twice what it holds when
/// nothing happens, and less than these trainers say.
const MOST_BYTES: u64 = 48 * MB;

/// Runs one trainer through the harness. Returns its result and the harness's peak memory.
fn run(script: &str, more: &[&str]) -> (Value, u64) {
    let place = Place::new();
    // Braces are placeholders in a suite, and only braces in a line of shell.
    let suite = place.suite(&script.replace('{', "{{").replace('}', "}}"), "");
    let mut command = place.trainmark("run");
    command.arg("--suite").arg(suite).args(["--data", "data", "--out", "out"]).args(more);
    let mut harness = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    let give_up = Instant::now() + Duration::from_secs(400);
    while harness.try_wait().unwrap().is_none() {
        peak = peak.max(peak_bytes(harness.id()).unwrap_or(0));
        assert!(Instant::now() < give_up, "{script}: the harness hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
    let result = place.results().pop().unwrap_or_else(|| panic!("{script}: no result"));
    assert!(peak > MB, "the harness was never looked at");
    (result, peak)
}

fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

fn check(script: &str, more: &[&str], status: &str, reason: &str) -> Value {
    let (result, peak) = run(script, more);
    let why = result["reason"].as_str().unwrap_or_default();
    assert_eq!(result["status"], status, "{script}: {why}");
    assert!(why.contains(reason), "{script}: {why}");
    println!("{script:.60}: {status}, the harness's peak is {:.1} MB", peak as f64 / 1e6);
    assert!(peak < MOST_BYTES, "{script}: {peak} bytes");
    result
}

fn fake(mode: &str) -> String {
    format!("exec {FAKE_TRAINER} {mode}")
}

#[test]
fn any_output_is_read_to_its_end_in_bounded_memory() {
    // More than the bound; garbage becomes twice as much text. tests/launch.rs reads a gigabyte of lines, and one
    // without any.
    check(&fake("stdout-lines 70"), &[], "measured", "");
    check(&fake("stderr-without-newline 200"), &[], "measured", "");
    check("head -c 200000000 /dev/zero", &[], "no_quality", "neither predictions");
    check(&fake("garbage 35"), &[], "no_quality", "neither predictions");
}

#[test]
fn a_million_events_and_names_without_end_are_bounded_too() {
    let epoch = r#":::TRAINMARK {"event":"epoch","epoch":1,"loss":0.5,"seconds":0.0}"#;
    let script = format!("yes '{epoch}' | head -n 300000; {PLAIN}");
    check(&script, &[], "misreported", "epoch 1 twice");
    let name = "head -c 60000 /dev/zero | tr '\\0' x";
    let started = r#"printf ':::TRAINMARK {"event":"started","protocol":1,"device":"%s"}\n' $NAME"#;
    let script = format!("NAME=$({name}); for i in $(seq 200); do {started}; done; {PLAIN}");
    check(&script, &[], "measured", "");
}

#[test]
fn trainers_that_hang_are_stopped_whatever_they_do_against_it() {
    check(&fake("sleep 300"), &["--timeout", "1s"], "timed_out", "--timeout");
    let stubborn = check(&fake("ignore-term"), &["--timeout", "4s"], "timed_out", "--timeout");
    assert!(stubborn["samples"][0]["timing"]["wall_s"].as_f64().unwrap() >= 7.0, "{stubborn}");
    check(&fake("fork-bomb 4"), &["--timeout", "2s"], "timed_out", "--timeout");
}

#[test]
fn one_that_forks_its_work_away_is_never_ranked_before_the_work_is_done() {
    let result = check(&fake("detach"), &[], "failed", "its work was not finished");
    let notes = result["samples"][0]["notes"].to_string();
    assert!(notes.contains("1 processes outlived the trainer, and had to be stopped"), "{notes}");
    let waiting = format!("setsid sleep 300 & {PLAIN}");
    let result = check(&waiting, &[], "measured", "");
    assert_eq!(result["samples"][0]["stopped_processes"], 1);
    let result = check(&fake("orphan-burn 0.5"), &[], "measured", "");
    assert_eq!(result["samples"][0]["stopped_processes"], Value::Null);
    let timing = &result["samples"][0]["timing"];
    assert!(timing["wall_s"].as_f64() >= Some(0.5), "{timing}");
    assert!(timing["user_s"].as_f64() >= Some(0.4), "{timing}");
}

#[test]
fn output_that_says_nothing_or_nonsense_has_its_own_status() {
    check(&fake("exit 0"), &[], "no_output", "");
    check(&fake("close-output"), &[], "measured", "");
    let result = check(&fake("invalid-utf8"), &[], "measured", "");
    assert_eq!(result["metrics"]["test_accuracy_percent"], 12.5);
    check("exec >&- 2>&-; exit 0", &[], "no_output", "");
}

#[test]
fn one_that_claims_a_hundred_percent_is_believed_only_as_far_as_its_predictions_go() {
    let zeros = r"printf '\0\0\0\0\0\0\0\0\0\0' > $TRAINMARK_PREDICTIONS";
    let claim = "echo Test Accuracy: 100.00%";
    check(&format!("{zeros}; {claim}"), &[], "misreported", "its predictions score 10.00 %");
    let claimed = check(claim, &[], "measured", "");
    assert_eq!(claimed["task"]["metrics"]["test_accuracy_percent"]["source"], "claimed");
    check(&fake("lie"), &[], "garbled", "more than 10 predictions");
}

#[test]
fn predictions_that_are_a_pipe_a_folder_or_a_device_are_garbled_and_block_nobody() {
    for trick in ["mkfifo", "mkdir", "ln -s /dev/zero"] {
        let script = format!("{trick} $TRAINMARK_PREDICTIONS; {PLAIN}");
        check(&script, &["--timeout", "60s"], "garbled", "not a regular file");
    }
}

#[test]
fn no_trainer_can_return_the_predictions_of_another() {
    let place = Place::new();
    // The first is right in all; the second takes whatever it finds of the first's.
    let right = r"printf '\0\1\2\3\4\5\6\7\10\11' > $TRAINMARK_PREDICTIONS";
    let steal = "find $(dirname $TRAINMARK_PREDICTIONS)/.. -type f -exec cp {{}} stolen \\; ; \
                 [ ! -e stolen ] || cp stolen $TRAINMARK_PREDICTIONS";
    let script = format!("if [ $1 = 1 ]; then {right}; else {steal}; fi; echo Test Accuracy: 100%");
    let suite = place.suite(&script, "root = '.'");
    place.run(&suite, &["--epochs", "1,2"]);
    let mut found: Vec<(i64, String)> = place
        .results()
        .iter()
        .map(|result| {
            let epochs = result["config"]["epochs"].as_i64().unwrap();
            (
                epochs,
                result["task"]["metrics"]["test_accuracy_percent"]["source"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )
        })
        .collect();
    found.sort();
    assert_eq!(found, [(1, "scored".to_owned()), (2, "claimed".to_owned())]);
    assert!(!place.path("stolen").exists());
}

#[test]
fn a_sample_that_fails_before_it_says_anything_takes_nothing_from_what_the_others_said() {
    let started =
        r#"echo ':::TRAINMARK {"event":"started","protocol":2,"device":"Own","precision":"bf16"}'"#;
    let trained = r#"echo ':::TRAINMARK {"event":"trained","train_s":0.125}'"#;
    let script =
        format!("[ ! -e once ] || exit 3; touch once; {started}; {trained}; {PLAIN}; sleep 0.2");
    let result = check(&script, &["--repeats", "2"], "failed", "1 of 2 samples");
    assert_eq!(result["timing"]["train_s"], 0.125, "{result}");
    let missing = result["missing"].as_object().unwrap();
    assert!(!missing.contains_key("train_s"), "{missing:?}");
    assert_eq!(result["trainer"]["precision"], "bf16", "{}", result["trainer"]);
}

#[test]
fn a_meter_without_a_reading_in_the_last_sample_keeps_what_the_others_had() {
    // Only several processes have a sum of their memory.
    let script = format!("[ -e once ] || {{ touch once; sleep 2 & sleep 2; wait; }}; {PLAIN}");
    let result = check(&script, &["--repeats", "2"], "measured", "");
    let meter = &result["meters"]["tree_pss_bytes"];
    assert_eq!(meter["valid"], true, "{meter}");
    assert!(meter["value"].is_number() && meter["source"].is_string(), "{meter}");
    assert_eq!(result["samples"][1]["counters"]["tree_pss_bytes"], Value::Null);
}
