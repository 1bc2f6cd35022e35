//! Words and files that are not the user's: nothing in a suite or in a trainer's output is expanded or drives
//! a terminal, no secret is kept, and spoilt files, links and full disks cost no more than an error.
#![cfg(target_os = "linux")]

use crate::support;
use crate::support::place::{Place, said};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

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
    assert!(said(&output).contains("a file of the data has changed"), "{}", said(&output));
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
    assert!(reason.contains("SHA-256 was ") && reason.contains(" and is now "), "{reason}");
    let advice = "and with other data trains every row again, into new files";
    assert!(said(&output).contains(advice), "{}", said(&output));
    let output = place.trainmark("run").args(["--resume", "--out", "out"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let results = place.results();
    assert!(results.len() == 2 && results.contains(&result), "{}", said(&output));
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
        let made = Command::new("mkfifo").arg(out.join(name)).status().unwrap();
        assert!(made.success());
    };
    pipe("verification.json");
    pipe("another.json");
    let output = place.run(&suite, &["--timeout", "60s"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut verify = place.trainmark("verify");
    verify.arg("--suite").arg(&suite).args(["--data", "data", "--out", "out"]);
    let output = verify.output().unwrap();
    assert!(said(&output).contains("is not a regular file"), "{}", said(&output));
    // Every reader of results, beside a link to what never ends and a file of a terabyte.
    symlink("/dev/zero", out.join("zero.json")).unwrap();
    std::fs::File::create(out.join("vast.json")).unwrap().set_len(1 << 40).unwrap();
    let show = ["show", "out/another.json", "out/zero.json", "out/vast.json"];
    for words in [
        &["compare", "out", "out"][..],
        &show,
        &["report", "--input", "out", "--output", "x.json"],
        &["export", "--input", "out", "--format", "csv"],
        &["history", "--input", "out"],
        &["baseline", "save", "kept", "--input", "out"],
        &["task", "--order", "out/another.json", "--index", "0", "--result", "part.json"],
    ] {
        let mut command = place.trainmark(words[0]);
        let output = command.args(&words[1..]).output().unwrap();
        let says = ["is not a regular file", "may have at most"]
            .iter()
            .any(|it| said(&output).contains(it));
        assert!(says, "{words:?}: {}", said(&output));
    }
    let saving = std::fs::read_dir(place.path("kept/trainmark/baselines")).into_iter().flatten();
    assert_eq!(saving.count(), 0, "nothing of a baseline that failed is left");
    for name in ["zero.json", "vast.json"] {
        std::fs::remove_file(out.join(name)).unwrap();
    }
    // A cloned repository in which the journal is a link to something precious.
    let precious = place.path("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::fs::remove_file(out.join("journal.jsonl")).unwrap();
    symlink(&precious, out.join("journal.jsonl")).unwrap();
    let output = place.run(&suite, &[]);
    assert!(said(&output).contains("is a link, which"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
}

/// Files that are no longer what they were: the ways to spoil one.
const SPOILT: [&str; 5] =
    ["random bytes", "half of it", "a pipe", "a link to a device", "a terabyte"];

fn spoil(path: &Path, way: &str) {
    let text = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    match way {
        "random bytes" => {
            let bytes: Vec<u8> =
                (0..5000u32).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            std::fs::write(path, bytes).unwrap();
        }
        "half of it" => std::fs::write(path, &text[..text.len() / 2]).unwrap(),
        "a pipe" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "a link to a device" => symlink("/dev/zero", path).unwrap(),
        _ => std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
    }
    std::fs::write(path.with_extension("whole"), text).unwrap();
}

#[test]
fn spoilt_caches_and_baselines_cost_an_error_that_names_them_and_no_run() {
    let place = Place::new();
    let suite = place.suite("echo 'Test Accuracy: 95.67%'", "root = '.'");
    let trainmark = |verb: &str, words: &[&str]| {
        let mut command = place.trainmark(verb);
        command.args(words).output().unwrap()
    };
    let run = ["--suite", "suite.toml", "--data", "data", "--out", "out"];
    let noise = ["--suite", "suite.toml", "--data", "data", "--rounds", "6"];
    for output in [
        trainmark("machine", &[]),
        trainmark("noise", &noise),
        trainmark("run", &run),
        trainmark("baseline", &["save", "before", "--input", "out"]),
    ] {
        assert!(output.status.success(), "{}", said(&output));
    }
    let only = |folder: &str| {
        let entries = std::fs::read_dir(place.path(folder)).unwrap().flatten();
        let mut json =
            entries.map(|it| it.path()).filter(|it| it.extension() == Some("json".as_ref()));
        json.next().unwrap_or_else(|| panic!("nothing in {folder}"))
    };
    let kept =
        ["cache/trainmark/machine", "state/trainmark/noise", "share/trainmark/baselines/before"]
            .map(only);
    for way in SPOILT {
        kept.iter().for_each(|path| spoil(path, way));
        let output = trainmark("run", &run);
        assert!(output.status.success(), "{way}: {}", said(&output));
        assert!(
            said(&output).contains("`trainmark machine` measures it again"),
            "{way}: {}",
            said(&output)
        );
        let output = trainmark("machine", &["--stored"]);
        assert_eq!(output.status.code(), Some(1), "{way}: {}", said(&output));
        let output = trainmark("compare", &["before", "out"]);
        let name = kept[2].file_name().unwrap().to_str().unwrap();
        assert!(!output.status.success(), "{way}: {}", said(&output));
        assert!(said(&output).contains(name), "{way}: {}", said(&output));
        for path in &kept {
            std::fs::rename(path.with_extension("whole"), path).unwrap();
        }
    }
    drop(suite);
}

#[test]
fn a_report_on_a_full_disk_is_one_error_and_the_old_one_stays() {
    let place = Place::new();
    let output = place.run(&place.suite("echo 'Test Accuracy: 95.67%'", ""), &[]);
    assert!(output.status.success(), "{}", said(&output));
    std::fs::create_dir(place.path("reports")).unwrap();
    let old = place.path("reports/old");
    let targets = [
        ("report", &["--input", "out", "--output"][..]),
        ("report", &["--input", "out", "--output", "-", "--markdown"]),
        ("report", &["--input", "out", "--output", "-", "--html"]),
        ("export", &["--input", "out", "--format", "csv", "--output"]),
        ("export", &["--input", "out", "--format", "parquet", "--output"]),
    ];
    for (verb, words) in targets {
        let output = place.trainmark(verb).args(words).arg("/dev/full").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", said(&output));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("cannot be written: No space left on device"), "{words:?}: {error}");
        // A limit on the size of files ends the writer itself, by SIGXFSZ.
        std::fs::write(&old, "old").unwrap();
        let script = "ulimit -f 0; exec \"$@\"";
        let mut limited = Command::new("sh");
        limited.args(["-c", script, "sh", support::HARNESS, verb]).args(words).arg(&old);
        let output = limited.current_dir(place.path("")).output().unwrap();
        assert!(!output.status.success(), "{words:?}: {}", said(&output));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "old", "{words:?}");
    }
    for words in [&["show"][..], &["history", "--input", "out"], &["compare", "out", "out"]] {
        let mut command = place.trainmark(words[0]);
        command.args(&words[1..]);
        if words == ["show"] {
            command.arg(place.path("out").join(&place.result_names()[0]));
        }
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 65)), "{words:?}: {}", said(&output));
        assert!(said(&output).contains("No space left on device"), "{words:?}: {}", said(&output));
    }
}

#[test]
fn an_error_says_its_cause_once() {
    let place = Place::new();
    let files = [("{\"status\": 5}", "expected string or map"), ("[suite]", "expected value")];
    for (text, cause) in files {
        std::fs::write(place.path("odd.json"), text).unwrap();
        let output = place.trainmark("show").arg("odd.json").output().unwrap();
        assert_eq!(said(&output).matches(cause).count(), 1, "{}", said(&output));
    }
}

#[test]
fn a_link_above_an_output_is_followed_and_nothing_of_others_there_is_touched() {
    let place = Place::new();
    let elsewhere = place.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for name in ["notes.txt", "mlp.json", "journal.txt"] {
        std::fs::write(elsewhere.join(name), "precious").unwrap();
    }
    symlink(&elsewhere, place.path("out")).unwrap();
    let output = place.run(&place.suite("echo 'Test Accuracy: 95.67%'", ""), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(elsewhere.join("journal.jsonl").is_file());
    for name in ["notes.txt", "mlp.json", "journal.txt"] {
        assert_eq!(std::fs::read_to_string(elsewhere.join(name)).unwrap(), "precious");
    }
}

#[test]
fn a_folder_from_elsewhere_names_no_program_through_git_or_rustup() {
    let place = Place::new();
    let suite = place.suite("echo 'Test Accuracy: 95.67%'", "root = '.'");
    let proof = place.path("proof");
    let spy = place.path("spy");
    std::fs::write(&spy, format!("#!/bin/sh\ntouch '{}'\n", proof.display())).unwrap();
    let script = format!(
        "chmod +x spy; mkdir -p toolchain/bin; cp spy toolchain/bin/rustc; git init --quiet .; git add suite.toml; \
         git -c user.name=a -c user.email=a@b commit --quiet -m x; git config core.fsmonitor {0}; \
         git config core.hooksPath hooks; mkdir hooks; cp spy hooks/post-index-change; touch suite.toml",
        spy.display()
    );
    std::fs::write(place.path("rust-toolchain.toml"), "[toolchain]\npath = \"toolchain\"\n")
        .unwrap();
    let made =
        Command::new("sh").args(["-ec", &script]).current_dir(place.path("")).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let output = place.run(&suite, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(place.results()[0]["run"]["git_commit"].is_string(), "git was asked");
    assert!(!proof.exists(), "and started nothing else");
}
