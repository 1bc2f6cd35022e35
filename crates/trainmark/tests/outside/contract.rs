//! The examples of docs/trainer.md, straight out of the document, run, scored and verified; and a
//! program that logs for MLPerf.

#![cfg(unix)]

use crate::support::harness;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What stands under `<!-- example: NAME -->` in the document.
fn example(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/trainer.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- example: {name} -->\n```")).unwrap();
    let (_, rest) = rest.split_once('\n').unwrap(); // the language
    rest.split_once("\n```").unwrap().0.to_owned() + "\n"
}

/// A folder with the document's files and a small dataset.
fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
    write("suite.toml", &example("suite.toml"));
    write("commonest.sh", &example("commonest.sh"));
    let train = example("train.py");
    assert!(train.contains("\n# verification\n"));
    write("train.py", &train.replace("# verification\n", &example("verification.py")));
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // In the place of the native trainer, which the task names as its reference, if it has not been built.
    let program = place.path().join("bin/trainmark-native");
    std::fs::create_dir(program.parent().unwrap()).unwrap();
    let fake = env!("CARGO_BIN_EXE_fake-trainer");
    // --model M --backend cpu --data D --batch B --seed S --lr R --hidden H
    let words = r#"exec "$FAKE" verify reference "$2" "${14:-24}" "$8" "${12}""#;
    std::fs::write(&program, format!("#!/bin/sh\nFAKE='{fake}'\n{words}\n")).unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, all).unwrap();
    crate::verify::write_strokes(&data);
    place
}

fn trainmark(place: &Path, verb: &str, more: &[&str]) -> Output {
    let mut command = harness(place);
    command.arg(verb).env_remove("TRAINMARK_DATA");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [place.join("bin")].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).unwrap());
    command.args(["--suite", "suite.toml", "--data", "data", "--out", "out"]).args(more);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// The one result file whose name begins so.
fn result(place: &Path, prefix: &str) -> Value {
    let entries = std::fs::read_dir(place.join("out")).unwrap().flatten();
    let mut paths = entries.map(|entry| entry.path()).filter(|path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    serde_json::from_slice(&std::fs::read(paths.next().unwrap()).unwrap()).unwrap()
}

/// A Python that has NumPy; says loudly if there is none.
fn python_with_numpy() -> Option<&'static str> {
    let has = |python: &&str| {
        let output = Command::new(python).args(["-c", "import numpy"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has);
    if found.is_none() {
        skip::skipped("no python3 has numpy");
    }
    found
}

#[test]
fn the_documents_python_example_is_measured_scored_and_verified() {
    let Some(python) = python_with_numpy() else { return };
    let place = place();
    let suite = example("suite.toml");
    assert!(suite.contains(r#"program = "python3""#));
    let suite = suite.replace(r#"program = "python3""#, &format!("program = {python:?}"));
    std::fs::write(place.path().join("suite.toml"), suite).unwrap();
    let output = trainmark(place.path(), "run", &["--trainer", "NumPy"]);
    assert!(output.status.success(), "{}", said(&output));
    let result = result(place.path(), "numpy_cpu");
    assert_eq!(
        (&result["status"], &result["task"]["metrics"]["test_accuracy_percent"]["source"]),
        (&"measured".into(), &"scored".into())
    );
    assert!(result["timing"]["train_s"].as_f64().unwrap() > 0.0);

    let output = trainmark(place.path(), "verify", &["--trainer", "NumPy"]);
    assert!(output.status.success(), "{}", said(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("float32; the same bits twice"), "{}", said(&output));
}

#[test]
fn the_documents_shell_example_is_measured_and_scored_and_takes_no_part_in_verification() {
    let place = place();
    let output = trainmark(place.path(), "run", &["--trainer", "Commonest"]);
    assert!(output.status.success(), "{}", said(&output));
    let result = result(place.path(), "commonest_cpu");
    assert_eq!(
        (&result["status"], &result["task"]["metrics"]["test_accuracy_percent"]["source"]),
        (&"measured".into(), &"scored".into())
    );
    assert!(result["metrics"]["test_accuracy_percent"].as_f64().unwrap() > 5.0);
    let output = trainmark(place.path(), "verify", &["--trainer", "Commonest"]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains("not verified"), "{}", said(&output));
}

#[test]
fn a_program_that_logs_for_mlperf_is_measured_as_it_is() {
    let place = place();
    let at = |ms: u32, key: &str, value: &str, more: &str| {
        format!(
            r#"echo ':::MLLOG {{"namespace": "", "time_ms": {}, "event_type": "POINT_IN_TIME", "key": "{key}", "value": {value}, "metadata": {{"file": "t.py", "lineno": 1{more}}}}}'"#,
            1_700_000_000_000_u64 + u64::from(ms)
        )
    };
    let lines = [
        at(0, "init_start", "null", ""),
        at(10, "init_stop", "null", ""),
        at(10, "global_batch_size", "32", ""),
        at(10, "quality_target", "\"0.9\"", ""),
        at(10, "run_start", "null", ""),
        at(10, "epoch_start", "null", r#", "epoch_num": 1"#),
        at(40, "epoch_stop", "null", r#", "epoch_num": 1"#),
        at(40, "eval_start", "null", ""),
        at(45, "eval_stop", "null", ""),
        at(45, "eval_accuracy", "0.9567", r#", "epoch_num": 1"#),
        at(50, "run_stop", "null", r#", "status": "success""#),
        "sleep 0.1".to_owned(),
    ];
    std::fs::write(place.path().join("commonest.sh"), lines.join("\n")).unwrap();
    let output = trainmark(place.path(), "run", &["--trainer", "Commonest"]);
    assert!(output.status.success(), "{}", said(&output));
    let result = result(place.path(), "commonest_cpu");
    assert_eq!(
        (&result["status"], &result["task"]["metrics"]["test_accuracy_percent"]["source"]),
        (&"measured".into(), &"claimed".into())
    );
    assert_eq!(result["metrics"]["test_accuracy_percent"], 95.67);
    let timing = &result["timing"];
    assert_eq!((&timing["setup_s"], &timing["train_s"]), (&0.01.into(), &0.035.into()));
    assert_eq!(timing["eval_s"], 0.005);
    assert_eq!(result["samples"][0]["curve"][0]["seconds"], 0.03);
    let said = &result["samples"][0]["mlperf"];
    assert_eq!((&said["global_batch_size"], &said["quality_target"]), (&32.0.into(), &0.9.into()));
}
