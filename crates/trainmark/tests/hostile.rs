//! Words that are not the user's: nothing in a suite or in a trainer's output is expanded or drives a
//! terminal, and no secret is kept.
#![cfg(target_os = "linux")]

mod support;

use std::process::Output;
use support::place::{Place, said};

#[test]
fn escape_sequences_in_names_and_last_words_never_reach_a_terminal() {
    let place = Place::new();
    // To clear the screen, to set the title, and to forge a line; in a name, a reason and an error.
    let script =
        "printf 'a\\033[2J\\033]0;owned\\007\\rforged\\n' >&2; printf '\\033[2J\\n'; exit 3";
    let suite = place.suite(script, "");
    let text = std::fs::read_to_string(&suite).unwrap();
    let hostile = text.replace("\"Shell\"", "\"Sh\\u001b[2Jell\"");
    let hostile = hostile.replace("models.mlp", "models.\"m\\u001b]0;owned\\u0007\"");
    let hostile = hostile.replace("\"shell\"", "\"\\u001b[2J\"");
    std::fs::write(&suite, &hostile).unwrap();
    let clean = |output: &Output| {
        let text =
            String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
        let bad = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(bad, None, "{text:?}");
    };
    let output = place.run(&suite, &[]);
    assert_eq!(output.status.code(), Some(1));
    clean(&output);
    for flag in ["--list", "--dry-run"] {
        clean(&place.run(&suite, &[flag]));
    }
    // An error that quotes it, and the same from the result file.
    clean(&place.run(&suite, &["--model", "\u{1b}[2J"]));
    let mut report = place.trainmark("report");
    report.args(["--input", "out", "--output", "report.json", "--markdown", "-", "--verbose"]);
    clean(&report.output().unwrap());
    // A builder and a probe that say it.
    std::fs::write(
        &suite,
        hostile.replace("program =", "probe = ['printf', '\\033[2J']\nprogram ="),
    )
    .unwrap();
    clean(&place.run(&suite, &[]));
    assert_eq!(place.results().len(), 2);
}

#[test]
fn nothing_that_looks_like_a_command_or_a_placeholder_is_executed_or_filled_in() {
    let place = Place::new();
    let suite = place
        .suite("printf '%s\\n' \"$0\" \"$@\" > words; echo 'Test Accuracy: 50%'", "root = '.'");
    let text = std::fs::read_to_string(&suite).unwrap();
    std::fs::write(&suite, text.replace("\"{epochs}\"", "\"{trap}\"")).unwrap();
    let trap = "$(touch pwned)`touch pwned`;touch pwned;{seed}{{data}}";
    let output = place.run(&suite, &["--set", &format!("trap={trap}")]);
    assert!(output.status.success(), "{}", said(&output));
    let words = std::fs::read_to_string(place.path("words")).unwrap();
    assert_eq!(words, format!("trainer\n{trap}\n"), "what was put in is not looked into again");
    assert!(!place.path("pwned").exists());
    // Through the result file and the journal.
    let mut command = place.trainmark("report");
    command.args(["--input", "out", "--output", "report.json", "--markdown", "report.md"]);
    assert!(command.output().unwrap().status.success());
    assert!(!place.path("pwned").exists());
}

#[test]
fn of_the_environment_only_what_the_harness_set_is_recorded_and_no_secret_at_all() {
    let place = Place::new();
    let suite = place.suite("env; env >&2; echo \"token $MY_API_TOKEN\" >&2; exit 3", "");
    let text = std::fs::read_to_string(&suite).unwrap();
    let declared = "environment = { DECLARED = 'yes' }\nprogram = ";
    std::fs::write(&suite, text.replace("program = ", declared)).unwrap();
    let mut command = place.trainmark("run");
    command.args(["--suite", "suite.toml", "--data", "data", "--out", "out"]);
    command.env("MY_API_TOKEN", "tok-0123456789").env("UNRELATED", "inherited-and-not-recorded");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let result = place.results().pop().unwrap();
    let recorded: Vec<&String> =
        result["trainer"]["environment"].as_object().unwrap().keys().collect();
    let allowed = ["DECLARED", "TRAINMARK_DATA", "TRAINMARK_PREDICTIONS", "TRAINMARK_PROTOCOL"];
    assert_eq!(recorded, allowed);
    assert!(result["reason"].as_str().unwrap().contains("token [MY_API_TOKEN of the environment]"));
    let tail = result["samples"][0]["stderr_tail"].as_str().unwrap();
    assert!(tail.contains("DECLARED=yes") || tail.contains("token ["), "{tail}");
    for entry in std::fs::read_dir(place.path("out")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("tok-0123456789"), "{}", path.display());
    }
    assert!(!said(&output).contains("tok-0123456789"), "{}", said(&output));
}

#[test]
fn a_trainer_that_changes_the_data_is_misreported_and_stops_the_run() {
    let place = Place::new();
    let labels = place.path("data").join("t10k-labels-idx1-ubyte");
    let script = format!(
        "[ \"$(wc -l < starts)\" != 2 ] || printf 7 | dd of='{}' bs=1 seek=9 conv=notrunc; \
         echo 'Test Accuracy: 95.67%'",
        labels.display()
    );
    let suite = place.suite(&format!("echo x >> starts; {script}"), "root = '.'");
    let output = place.run(&suite, &["--repeats", "4"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("the data is no longer what it was"), "{}", said(&output));
    let result = place.results().pop().unwrap();
    let statuses: Vec<&str> = result["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["measured", "misreported"]);
    let reason = result["samples"][1]["reason"].as_str().unwrap();
    assert!(reason.contains("t10k-labels-idx1-ubyte"), "{reason}");
}

#[test]
fn data_that_was_only_touched_is_the_same_data() {
    let place = Place::new();
    let script = "touch ../data/t10k-labels-idx1-ubyte data/t10k-labels-idx1-ubyte; \
                  echo 'Test Accuracy: 95.67%'";
    let output = place.run(&place.suite(script, "root = '.'"), &["--repeats", "2"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(place.results()[0]["samples"].as_array().unwrap().len(), 2);
}

#[test]
fn files_that_never_end_or_lead_elsewhere_stop_nothing_and_are_not_written_through() {
    let place = Place::new();
    let suite = place.suite("echo 'Test Accuracy: 95.67%'", "root = '.'");
    let out = place.path("out");
    std::fs::create_dir(&out).unwrap();
    let pipe = |name: &str| {
        let made = std::process::Command::new("mkfifo").arg(out.join(name)).status().unwrap();
        assert!(made.success());
    };
    pipe("verification.json");
    pipe("another.json");
    let output = place.run(&suite, &["--timeout", "60s"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut verify = place.trainmark("verify");
    verify.arg("--suite").arg(&suite).args(["--data", "data", "--out", "out"]);
    let output = verify.output().unwrap();
    assert!(said(&output).contains("is no regular file"), "{}", said(&output));
    // A cloned repository in which the journal is a link to something precious.
    let precious = place.path("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::fs::remove_file(out.join("journal.jsonl")).unwrap();
    std::os::unix::fs::symlink(&precious, out.join("journal.jsonl")).unwrap();
    let output = place.run(&suite, &[]);
    assert!(said(&output).contains("a link has this name"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
}
