//! `trainmark compare` and `trainmark baseline` from the outside.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn trainmark(home: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainmark"));
    command.args(words).current_dir(home).env("XDG_DATA_HOME", home.join("share"));
    command.output().unwrap()
}

fn write(folder: &Path, times: &[f64], status: &str) {
    write_on(folder, times, status, "mnist");
}

fn write_on(folder: &Path, times: &[f64], status: &str, dataset: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let samples = times.iter().enumerate().map(|(round, time)| {
        serde_json::json!({ "round": round, "status": status, "timing": { "train_s": time }, "test_accuracy_percent": 95.0 })
    });
    let result = serde_json::json!({
        "executable": "T", "model": "mlp", "backend": "cpu", "timestamp": "20240315_143022",
        "config": { "epochs": 5 }, "dataset": { "name": dataset, "sha256": null },
        "metrics": { "test_accuracy_percent": 95.0 },
        "schema_version": 1, "status": status, "samples": samples.collect::<Vec<_>>(),
    });
    std::fs::write(folder.join("t_cpu_20240315_143022.json"), result.to_string()).unwrap();
}

#[test]
fn the_exit_code_is_1_only_for_a_shown_regression() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    write(&path("base"), &[1.0, 1.01, 0.99, 1.0, 1.0], "measured");
    write(&path("same"), &[1.0, 0.99, 1.01, 1.0, 1.0], "measured");
    write(&path("slow"), &[1.2, 1.21, 1.19, 1.2, 1.2], "measured");
    write(&path("lost"), &[1.0, 1.0, 1.0, 1.0, 1.0], "not_converged");
    let named = trainmark(home.path(), &["compare", "base", "slow", "--metric", "train_s,wall"]);
    assert_eq!(named.status.code(), Some(1), "{named:?}");
    for (new, gate, code) in
        [("same", "3%", 0), ("slow", "3%", 1), ("slow", "30%", 0), ("lost", "3%", 1)]
    {
        let output = trainmark(home.path(), &["compare", "base", new, "--gate", gate]);
        assert_eq!(output.status.code(), Some(code), "{new} {gate}: {output:?}");
    }
}

#[test]
fn a_baseline_is_kept_by_name_compared_with_and_forgotten() {
    let home = tempfile::tempdir().unwrap();
    write(&home.path().join("benchmarks"), &[1.0, 1.01, 0.99, 1.0], "measured");
    let run = |words: &[&str]| trainmark(home.path(), words);
    assert!(run(&["baseline", "save", "main"]).status.success());
    assert!(!run(&["baseline", "save", "main"]).status.success(), "a name is taken once");
    assert!(!run(&["baseline", "save", "../x"]).status.success());
    assert_eq!(run(&["baseline", "list"]).stdout, b"main\n");
    let compared = run(&["compare", "main", "benchmarks"]);
    assert!(compared.status.success(), "{compared:?}");
    assert!(run(&["baseline", "rm", "main"]).status.success());
    let gone = run(&["compare", "main", "benchmarks"]);
    let error = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(error.contains("no such folder, file or baseline"), "{error}");
}

fn verify(folder: &Path, grade: &str) {
    let verification = serde_json::json!({
        "executable": "T", "model": "mlp", "backend": "cpu", "grade": grade,
        "reason": "W1 differs from step 1",
    });
    let file = serde_json::json!({ "schema_version": 1, "verifications": [verification] });
    std::fs::write(folder.join("verification.json"), file.to_string()).unwrap();
}

#[test]
fn a_worse_verification_grade_closes_the_gate_and_every_format_names_it() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    for (name, grade) in [("base", "float32"), ("new", "different"), ("same", "float32")] {
        write(&path(name), &[1.0, 1.01, 0.99, 1.0, 1.0], "measured");
        verify(&path(name), grade);
    }
    for (format, named) in [
        ("table", "GRADE LOST"),
        ("markdown", "| verification | float32 | DIFFERENT |  | **GRADE LOST** |"),
        ("json", "\"outcome\": \"grade_lost\""),
        (
            "junit",
            "<failure message=\"GRADE LOST: float32 -&gt; DIFFERENT: W1 differs from step 1\"/>",
        ),
    ] {
        let output = trainmark(home.path(), &["compare", "base", "new", "--format", format]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{format}: {output:?}");
        assert!(text.contains(named), "{format}: {text}");
        assert_eq!(output.stderr, b"", "the verifications are no broken result file");
        let same = trainmark(home.path(), &["compare", "base", "same", "--format", format]);
        assert_eq!(same.status.code(), Some(0), "{format}: {same:?}");
    }
    // A single file's verification is beside it.
    let file = "new/t_cpu_20240315_143022.json";
    assert_eq!(trainmark(home.path(), &["compare", "base", file]).status.code(), Some(1));
    // A baseline keeps it.
    let save = ["baseline", "save", "main", "--input", "base"];
    assert!(trainmark(home.path(), &save).status.success());
    assert_eq!(trainmark(home.path(), &["compare", "main", "new"]).status.code(), Some(1));
}

#[test]
fn another_dataset_is_refused_by_name_with_another_exit_code_than_a_regression() {
    let home = tempfile::tempdir().unwrap();
    let times = [1.0, 1.01, 0.99, 1.0, 1.0];
    write_on(&home.path().join("base"), &times, "measured", "mnist");
    write_on(&home.path().join("new"), &times, "measured", "digits");
    let refused = trainmark(home.path(), &["compare", "base", "new"]);
    assert_eq!(refused.status.code(), Some(i32::from(protocol::exit::DATA)));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("dataset: mnist, then digits") && error.contains("--anyway"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for format in ["table", "markdown", "json", "junit"] {
        let words = ["compare", "base", "new", "--anyway", "--format", format];
        let compared = trainmark(home.path(), &words);
        assert_eq!(compared.status.code(), Some(0), "{compared:?}");
        let text = String::from_utf8_lossy(&compared.stdout).into_owned();
        assert!(format == "junit" || text.contains("dataset: mnist, then digits"), "{text}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    write(&home.path().join("base"), &[1.0, 1.01, 0.99, 1.0], "measured");
    for words in [
        &["compare", "base", "base"][..],
        &["baseline", "list"],
        &["run", "--list"],
        &["run", "--dry-run", "--data", "digits"],
        &["run", "--dry-run", "--executor", "slurm"],
        &["show", "base/t_cpu_20240315_143022.json"],
        &["history", "--input", "base"],
        &["export", "--input", "base", "--format", "csv"],
        &["completions", "bash"],
        &["man"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_trainmark"))
            .args(words)
            .current_dir(home.path())
            .env("XDG_DATA_HOME", home.path().join("share"))
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("panicked"), "{words:?}: {error}");
        assert!(output.status.success(), "{words:?}: {error}");
    }
}

#[test]
fn an_outlier_is_told_in_the_report_and_still_counted() {
    let home = tempfile::tempdir().unwrap();
    let times = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 5.0];
    write(&home.path().join("odd"), &times, "measured");
    write(&home.path().join("even"), &times[..6], "measured");
    let report = |folder: &str| {
        let words = ["report", "--input", folder, "--markdown", "r.md", "--output", "r.json"];
        let output = trainmark(home.path(), &words);
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(home.path().join("r.md")).unwrap()
    };
    let told = report("odd");
    assert!(told.contains("1 of 7 samples was an outlier"), "{told}");
    assert!(!report("even").contains("outlier"));
}
