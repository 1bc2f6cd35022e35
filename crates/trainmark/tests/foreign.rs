//! Trainers that nobody here wrote, from suite files of their own: no line of Rust is about them.
//! Their environments are made by `trainmark setup`; where they are not there, that is said.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a suite on the embedded digits and returns its one result.
fn result_of(suite: &str, more: &[&str]) -> Value {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_trainmark"))
        .arg("run")
        .arg("--suite")
        .arg(root().join(suite))
        .args(["--data", "digits", "--quick", "--out"])
        .arg(out.path())
        .args(more)
        .output()
        .unwrap();
    let files = fs::read_dir(out.path()).unwrap().flatten().map(|entry| entry.path());
    let mut results: Vec<Value> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
        .map(|file| serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap())
        .filter(|result| result["metrics"].is_object())
        .collect();
    assert_eq!(results.len(), 1, "{output:?}");
    results.remove(0)
}

/// Whether the environment is there. Where `TRAINMARK_REQUIRE_FRAMEWORKS` is set, it has to be.
fn is_set_up(folder: &str, command: &str) -> bool {
    let there = root().join(folder).join("bin/python").exists();
    if !there {
        let reason = format!("{folder} is not set up: `{command}` sees to it");
        skip::skipped_unless("TRAINMARK_REQUIRE_FRAMEWORKS", reason);
    }
    there
}

#[test]
fn one_line_of_shell_is_measured_and_scored() {
    let result = result_of("examples/shell/suite.toml", &[]);
    assert_eq!(result["status"], "measured", "{result}");
    assert_eq!(result["task"]["metrics"]["test_accuracy_percent"]["source"], "scored");
    let percent = result["metrics"]["test_accuracy_percent"].as_f64().unwrap();
    assert!((5.0..20.0).contains(&percent), "about a tenth of the digits are ones: {percent}");
}

#[test]
fn scikit_learn_trains_on_the_same_data_from_a_suite_of_its_own() {
    let folder = "examples/scikit-learn/.trainmark/environments/scikit-learn";
    if !is_set_up(folder, "trainmark setup --suite examples/scikit-learn/suite.toml") {
        return;
    }
    let result = result_of("examples/scikit-learn/suite.toml", &["--hidden", "64"]);
    let timing = &result["timing"];
    assert_eq!(result["task"]["metrics"]["test_accuracy_percent"]["source"], "scored", "{result}");
    assert!(result["metrics"]["test_accuracy_percent"].as_f64().unwrap() > 80.0, "{result}");
    assert!(timing["train_s"].as_f64().unwrap() < timing["wall_s"].as_f64().unwrap());
    assert_eq!(result["dataset"]["name"], "digits");
}

#[test]
fn jax_trains_each_model() {
    let folder = ".trainmark/environments/jax";
    if !is_set_up(folder, "trainmark setup JAX") {
        return;
    }
    for (model, least) in [("mlp", 85.0), ("cnn", 85.0), ("attention", 20.0)] {
        let result = result_of(
            "suites/frameworks.toml",
            &["--trainer", "JAX", "--backend", "cpu", "--model", model],
        );
        assert_eq!(
            result["task"]["metrics"]["test_accuracy_percent"]["source"], "scored",
            "{result}"
        );
        assert_eq!(result["compiled"], true);
        assert!(result["metrics"]["test_accuracy_percent"].as_f64().unwrap() > least, "{result}");
        assert!(result["timing"]["compile_s"].as_f64().unwrap() > 0.0);
    }
}
