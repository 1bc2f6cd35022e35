//! `--dry-run` lists every command that a verb executes: a trainer that logs how it was started is asked.
#![cfg(target_os = "linux")]

use crate::support::place::{Place, said};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A suite whose every command is `./log`, which writes down how it was started.
fn logging(place: &Place) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let script = r#"#!/bin/sh
cd "$(dirname "$0")"
printf '%s' "$0" >> started
for word in "$@"; do printf ' %s' "$word" >> started; done
echo >> started
if [ "$1" = probe ]; then
    echo '{"trainer":"Log","version":"1","backends":[{"backend":"cpu"}]}'
    exit
fi
if [ "$1" = reference ]; then # no tensors, one sample, ten losses
    cd "$TRAINMARK_VERIFY"
    printf '\002\000\000\000\000\000\000\000{}' | tee initial.safetensors > final.safetensors
    head -c 4 /dev/zero > order.u32
    head -c 40 /dev/zero > losses.f32
fi
echo 'Test Accuracy: 95.67%'
"#;
    let log = place.path("log");
    std::fs::write(&log, script).unwrap();
    std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o755)).unwrap();
    let suite = r#"
        name = "log"
        root = "."
        config = { epochs = 2, batch_size = 32, learning_rate = 0.01, seed = 42 }
        [[trainers]]
        name = "Log"
        program = "./log"
        build = ["{program}", "build"]
        probe = ["{program}", "probe"]
        command = ["{program}", "train", "{epochs}", "{batch_size}", "{hidden_size}", "{predictions}"]
        backends = ["cpu"]
        models.mlp = { prefix = "log", matrix = { hidden_size = [4, 8] } }
        [trainers.setup]
        commands = [["{program}", "setup one"], ["{program}", "setup two"]]
    "#;
    std::fs::write(place.path("suite.toml"), suite).unwrap();
    place.path("suite.toml")
}

/// What was started since the last call, each once, without the folder that is another each time.
fn started(place: &Place) -> BTreeSet<String> {
    let text = std::fs::read_to_string(place.path("started")).unwrap_or_default();
    let _ = std::fs::remove_file(place.path("started"));
    text.lines().map(without_folder).collect()
}

/// A word that names a file of one attempt.
fn without_folder(line: &str) -> String {
    let word = |word: &str| match word.ends_with("/predictions") {
        true => "PREDICTIONS".to_owned(),
        false => word.to_owned(),
    };
    line.replace("/./", "/").split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The commands that a dry run lists, as the shell would start them.
fn listed(place: &Place, output: &Output) -> BTreeSet<String> {
    assert!(output.status.success(), "{}", said(output));
    assert_eq!(started(place), BTreeSet::new(), "a dry run runs nothing");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let command = |line: &str| {
        let words = shlex::split(line).unwrap();
        let own = words.into_iter().skip_while(|word| word.starts_with("TRAINMARK_"));
        without_folder(&own.collect::<Vec<_>>().join(" "))
    };
    lines.map(command).collect()
}

fn call(place: &Place, verb: &str, suite: &Path, more: &[&str]) -> Output {
    let mut command = place.trainmark(verb);
    command.arg("--suite").arg(suite).args(more).output().unwrap()
}

#[test]
fn a_dry_run_lists_what_is_executed_and_nothing_else_is() {
    let place = Place::new();
    let suite = logging(&place);
    let text = std::fs::read_to_string(&suite).unwrap();
    let task = r#"
        [task]
        name = "log"
        like = "mnist"
        [task.verify]
        reference = "Truth"
        config = { epochs = 1, batch_size = 8 }
        program = "./log"
        command = ["{program}", "reference", "{hidden_size}"]
        [[trainers]]"#;
    std::fs::write(&suite, text.replacen("[[trainers]]", task, 1)).unwrap();
    let trained = ["--data", "data"];
    let kept = ["--data", "data", "--out", "out"];
    let noise = ["--data", "data", "--no-store", "--rounds", "6", "--window", "6"];
    let verbs: [(&str, &[&str]); 4] =
        [("setup", &[]), ("run", &kept), ("verify", &kept), ("noise", &noise)];
    for (verb, more) in verbs {
        let dry = match verb {
            "setup" => call(&place, verb, &suite, &["--dry-run"]),
            _ => call(&place, verb, &suite, &[&trained[..], &["--dry-run"]].concat()),
        };
        let listed = listed(&place, &dry);
        if verb == "verify" {
            let text = said(&dry);
            let (reference, rows) = text.split_once("# verify, in ten steps").unwrap();
            assert!(
                reference.contains("# verify the reference")
                    && reference.contains("log reference 4"),
                "{text}"
            );
            assert!(!rows.contains(" reference "), "{text}");
        }
        let output = call(&place, verb, &suite, more);
        assert_eq!(listed, started(&place), "{verb}: {}\n{}", said(&dry), said(&output));
        assert!(listed.len() >= 3, "{verb}: {listed:?}");
    }
    // Everything is set up by now.
    let again = call(&place, "setup", &suite, &["--dry-run"]);
    assert_eq!(listed(&place, &again).len(), 1, "{}", said(&again));
}

#[test]
fn a_scoring_command_is_listed_too() {
    let place = Place::new();
    let suite = logging(&place);
    std::fs::write(place.path("truth.u8"), [1, 2, 3]).unwrap();
    let text = std::fs::read_to_string(&suite).unwrap();
    let task = r#"
        [task]
        name = "three"
        data = "truth.u8"
        quality = "distance"
        [task.metrics.distance]
        better = "lower"
        score = { by = "command", predictions = "u8", truth = "truth.u8", command = ["./log", "score", "{predictions}"] }
        [[trainers]]"#;
    let text = text.replacen("[[trainers]]", task, 1);
    // What scores prints a number, and what trains predicts something.
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    let log = log.replace(
        "echo 'Test Accuracy: 95.67%'",
        "[ \"$1\" != score ] || echo 1.5\n[ \"$1\" != train ] || printf abc > \"$TRAINMARK_PREDICTIONS\"",
    );
    std::fs::write(place.path("log"), log).unwrap();
    std::fs::write(
        &suite,
        text.replace("[trainers.setup]", "").replace(
            "commands = [[\"{program}\", \"setup one\"], [\"{program}\", \"setup two\"]]",
            "",
        ),
    )
    .unwrap();
    let dry = call(&place, "run", &suite, &["--dry-run"]);
    let listed = listed(&place, &dry);
    let output = call(&place, "run", &suite, &["--out", "out"]);
    let ran: BTreeSet<String> = started(&place);
    let plain = |lines: &BTreeSet<String>| -> BTreeSet<String> {
        lines.iter().map(|line| line.rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(plain(&listed), plain(&ran), "{}\n{}", said(&dry), said(&output));
    assert!(plain(&listed).contains("log score PREDICTIONS"), "{listed:?}");
    assert!(output.status.success(), "{}", said(&output));
}
