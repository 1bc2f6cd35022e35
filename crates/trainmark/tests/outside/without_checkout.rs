//! What the program does on a machine that has nothing but it: no checkout, no cargo.
#![cfg(target_os = "linux")]

use crate::support::place::{PLAIN, Place, said};
use std::process::Output;

/// In a folder of no checkout, with a home of its own.
fn call(place: &Place, words: &[&str]) -> Output {
    let mut command = place.trainmark(words[0]);
    command.args(&words[1..]).output().unwrap()
}

#[test]
fn built_in_suites_are_listed_and_taken_by_name() {
    let place = Place::new();
    let listed = call(&place, &["suites"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["mnist", "frameworks", "gpt", "scaling"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
    }
    let rows = call(&place, &["run", "--suite", "Frameworks", "--model", "cnn", "--list"]);
    assert!(said(&rows).contains("PyTorch cnn cpu"), "{}", said(&rows));
    let unknown = call(&place, &["run", "--suite", "framework"]);
    assert!(said(&unknown).contains("did you mean frameworks?"), "{}", said(&unknown));
    assert!(!unknown.status.success());
}

#[test]
fn a_file_comes_before_a_built_in_suite_of_its_name() {
    let place = Place::new();
    std::fs::copy(place.suite(PLAIN, ""), place.path("gpt")).unwrap();
    let rows = call(&place, &["run", "--suite", "gpt", "--list"]);
    assert!(said(&rows).contains("Shell mlp cpu"), "{}", said(&rows));
}

#[test]
fn setup_unpacks_the_trainers_and_says_which_need_a_checkout() {
    let place = Place::new();
    let listed = said(&call(&place, &["setup", "--list"]));
    assert!(
        listed.contains("candle") && listed.contains("only in a checkout of the project"),
        "{listed}"
    );
    assert!(listed.lines().any(|line| line.starts_with("JAX ") && line.ends_with("not set up")));
    // What this machine cannot have is asked nothing.
    let dry = call(&place, &["setup", "candle", "--dry-run"]);
    assert!(dry.status.success() && dry.stdout.is_empty(), "{}", said(&dry));
    let root = place.path("share/trainmark/built-in");
    assert!(root.join("implementations/jax/train.py").is_file());
    let dry = said(&call(&place, &["setup", "JAX", "--dry-run"]));
    assert!(dry.contains(&format!("{}/.trainmark/environments/jax", root.display())), "{dry}");
}

#[test]
fn in_a_checkout_without_a_compiler_the_program_beside_the_harness_is_used() {
    let place = Place::new();
    let suite = place.suite("echo \"Test Accuracy: 95.67%\"", "");
    let text = std::fs::read_to_string(&suite).unwrap();
    // The fake trainer is built beside the harness, and nowhere else.
    let text = text
        .replace("program = \"sh\"", "program = \"{cargo_target}/release/fake-trainer\"\nbuild = [\"no-such-cargo\"]")
        .replace("command = [", "command = [\"sh\", \"-c\", 'echo \"$0\"; echo Test Accuracy: 95.67%', \"{program}\"]\n# [");
    std::fs::write(&suite, text).unwrap();
    let output = place.run(&suite, &[]);
    assert!(said(&output).contains("no-such-cargo is not installed"), "{}", said(&output));
    let result = &place.results()[0];
    assert_eq!(result["status"], "measured", "{}", said(&output));
    assert_eq!(result["trainer"]["command"][3], env!("CARGO_BIN_EXE_fake-trainer"));
}

#[test]
fn without_a_compiler_a_program_that_is_there_is_used_and_one_that_is_not_has_no_result() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let text = std::fs::read_to_string(&suite).unwrap();
    let built = text
        .replace("program = \"sh\"", "program = \"sh\"\nbuild = [\"no-such-cargo\", \"build\"]");
    std::fs::write(&suite, &built).unwrap();
    let output = place.run(&suite, &[]);
    assert!(said(&output).contains("no-such-cargo is not installed"), "{}", said(&output));
    assert_eq!(place.results()[0]["status"], "measured", "{}", said(&output));
    std::fs::write(&suite, built.replace("program = \"sh\"", "program = \"no-such-program\""))
        .unwrap();
    let output = place.run(&suite, &["--out", place.path("other").to_str().unwrap()]);
    assert!(said(&output).contains("build failed"), "{}", said(&output));
}
