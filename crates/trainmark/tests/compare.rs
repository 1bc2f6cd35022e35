//! `trainmark compare` and `trainmark baseline` from the outside.

use std::path::Path;
use std::process::{Command, Output};

fn trainmark(home: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainmark"));
    command.args(words).current_dir(home).env("XDG_DATA_HOME", home.join("share"));
    command.output().unwrap()
}

fn write(folder: &Path, times: &[f64], status: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let samples = times.iter().map(|time| {
        serde_json::json!({ "status": status, "timing": { "train_s": time }, "test_accuracy_percent": 95.0 })
    });
    let result = serde_json::json!({
        "executable": "T", "model": "mlp", "backend": "cpu", "timestamp": "20240315_143022",
        "config": { "epochs": 5 }, "metrics": { "test_accuracy_percent": 95.0 },
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
