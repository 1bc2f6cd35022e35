//! `trainmark compare` and `trainmark baseline` from the outside.

use crate::support::harness;
use std::path::Path;
use std::process::{Output, Stdio};

fn trainmark(home: &Path, words: &[&str]) -> Output {
    harness(home).args(words).output().unwrap()
}

fn write(folder: &Path, times: &[f64], status: &str) {
    write_on(folder, times, status, "mnist");
}

fn write_on(folder: &Path, times: &[f64], status: &str, dataset: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let samples = times.iter().enumerate().map(|(round, time)| {
        serde_json::json!({ "round": round, "status": status, "timing": { "train_s": time }, "test_accuracy_percent": 95.0,
                            "reason": (status != "measured").then_some("it said why") })
    });
    let result = serde_json::json!({
        "executable": "T", "model": "mlp", "backend": "cpu", "timestamp": "20240315_143022",
        "config": { "epochs": 5 }, "dataset": { "name": dataset, "sha256": null },
        "metrics": { "test_accuracy_percent": 95.0 },
        "schema_version": 1, "status": status, "reason": (status != "measured").then_some("it said why"), "samples": samples.collect::<Vec<_>>(),
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
    // Its interval begins below the gate.
    write(&path("wide"), &[1.01, 1.02, 1.05, 1.1, 1.2], "measured");
    let wide = trainmark(home.path(), &["compare", "base", "wide"]);
    let text = String::from_utf8_lossy(&wide.stdout).into_owned();
    assert_eq!(wide.status.code(), Some(1), "{text}");
    assert!(
        text.contains("REGRESSION") && text.contains("the estimate is beyond the gate"),
        "{text}"
    );
    write(&path("lost"), &[1.0, 1.0, 1.0, 1.0, 1.0], "not_converged");
    let named = trainmark(home.path(), &["compare", "base", "slow", "--metric", "train_s,wall_s"]);
    assert_eq!(named.status.code(), Some(1), "{named:?}");
    for (new, gate, code) in
        [("same", "3%", 0), ("slow", "3%", 1), ("slow", "30%", 0), ("lost", "3%", 1)]
    {
        let output = trainmark(home.path(), &["compare", "base", new, "--gate", gate]);
        assert_eq!(output.status.code(), Some(code), "{new} {gate}: {output:?}");
    }
    for (format, reason) in [
        ("table", "Status lost: T mlp cpu epochs=5: not converged: it said why"),
        ("markdown", "not converged: it said why"),
        ("junit", "it said why"),
        ("json", "\"reason\": \"it said why\""),
    ] {
        let output = trainmark(home.path(), &["compare", "base", "lost", "--format", format]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn without_a_train_time_rows_are_compared_by_their_wall_time_as_in_reports() {
    let home = tempfile::tempdir().unwrap();
    for (name, time) in [("base", 1.0), ("same", 1.0), ("slow", 1.2)] {
        let folder = home.path().join(name);
        write(&folder, &[time, time * 1.01, time * 0.99, time, time], "measured");
        let file = folder.join("t_cpu_20240315_143022.json");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, text.replace("train_s", "wall_s")).unwrap();
    }
    for (new, code) in [("same", 0), ("slow", 1)] {
        let output = trainmark(home.path(), &["compare", "base", new]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains("Wall Time (s)"), "{text}");
        assert_eq!(text.matches("did not take turns").count(), 1, "{text}");
    }
    let output = trainmark(home.path(), &["history", "--input", "base"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("Wall Time (s)") && text.contains("(1 run)"), "{text}");
    // A row that only one side has a train time of.
    write(&home.path().join("base"), &[1.0, 1.01, 0.99, 1.0, 1.0], "measured");
    let output = trainmark(home.path(), &["compare", "base", "same"]);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let advice = "this is not a pass (--allow-inconclusive makes the exit code 0)";
    assert!(text.contains(advice), "{text}");
}

#[test]
fn each_side_says_how_many_of_its_samples_were_disturbed() {
    let home = tempfile::tempdir().unwrap();
    for (name, status) in
        [("base", "\"status\""), ("new", "\"disturbances\":[\"load\"],\"status\"")]
    {
        let folder = home.path().join(name);
        write(&folder, &[1.0, 1.01, 0.99, 1.0], "measured");
        let file = folder.join("t_cpu_20240315_143022.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let (head, samples) = text.split_once("\"samples\"").unwrap();
        let samples = samples.replacen("\"status\"", status, 3);
        std::fs::write(file, format!("{head}\"samples\"{samples}")).unwrap();
    }
    for format in ["table", "markdown"] {
        let output = trainmark(home.path(), &["compare", "base", "new", "--format", format]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Caution: 3 of 4 samples disturbed in new"), "{text}");
        assert!(!text.contains("disturbed in base"), "{text}");
    }
}

#[test]
fn history_claims_no_change_below_the_floor_of_runs_one_after_the_other() {
    let home = tempfile::tempdir().unwrap();
    for run in 0..16 {
        let time = if run < 8 { 1.0 } else { 1.03 } + f64::from(run % 4) * 1e-3;
        write(home.path(), &[time], "measured");
        let file = home.path().join("t_cpu_20240315_143022.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let when = format!("20240315_1430{run:02}");
        record["timestamp"] = when.as_str().into();
        record["noise_floor"] = serde_json::json!({ "share": 0.01, "share_apart": 0.05 });
        std::fs::create_dir_all(home.path().join("all")).unwrap();
        let file = home.path().join(format!("all/t_cpu_{when}.json"));
        std::fs::write(file, record.to_string()).unwrap();
    }
    let changes = |more: &[&str]| {
        let words = [&["history", "--input", "all", "--format", "json"], more].concat();
        let output = trainmark(home.path(), &words);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["series"][0]["changes"].as_array().unwrap().len()
    };
    assert_eq!((changes(&[]), changes(&["--noise-floor", "1%"])), (0, 1));
}

#[test]
fn a_baseline_is_kept_by_name_compared_with_and_forgotten() {
    let home = tempfile::tempdir().unwrap();
    write(&home.path().join("benchmarks"), &[1.0, 1.01, 0.99, 1.0], "measured");
    let run = |words: &[&str]| trainmark(home.path(), words);
    assert!(run(&["baseline", "save", "main"]).stdout.starts_with(b"1 file kept as main"));
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
        let output = harness(home.path())
            .args(words)
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
    assert!(told.contains("1 of 7 samples. They are kept"), "{told}");
    assert!(!report("even").contains("outlier"));
}

/// A record of version 2: samples of one figure each, of a run of that name.
fn write_metric(
    path: &Path,
    run: &str,
    (metric, better): (&str, &str),
    values: &[f64],
    keys: serde_json::Value,
) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let samples = values.iter().enumerate().map(|(round, value)| {
        serde_json::json!({ "round": round, "status": "measured", "metrics": { metric: value },
                            "timing": { "train_s": 0.0 } })
    });
    let mut result = serde_json::json!({
        "executable": "T", "model": "m", "backend": "cpu", "timestamp": "20240315_143022", "config": {},
        "metrics": {}, "schema_version": 2, "status": "measured",
        "task": { "name": "t", "quality": metric, "metrics": { metric: { "better": better } } },
        "run": { "id": run, "suite": "s", "quick": false, "started": "2026-01-01T00:00:00Z", "harness": "0" },
        "samples": samples.collect::<Vec<_>>(),
    });
    result.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    std::fs::write(path, result.to_string()).unwrap();
}

#[test]
fn a_metric_below_zero_is_compared_by_its_difference_in_its_own_direction() {
    let home = tempfile::tempdir().unwrap();
    let log_likelihood = ("log_likelihood", "higher");
    let none = serde_json::json!({});
    let base = [-3.2, -3.21, -3.19, -3.2, -3.22, -3.18];
    write_metric(&home.path().join("base/a.json"), "b", log_likelihood, &base, none.clone());
    write_metric(
        &home.path().join("worse/a.json"),
        "w",
        log_likelihood,
        &base.map(|it| it - 0.3),
        none.clone(),
    );
    write_metric(
        &home.path().join("better/a.json"),
        "g",
        log_likelihood,
        &base.map(|it| it + 0.3),
        none,
    );
    let compare = |new: &str, format: &str| {
        let words = ["compare", "base", new, "--metric", "log_likelihood", "--format", format];
        let output = trainmark(home.path(), &words);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = compare("worse", "table");
    assert!(code == Some(1) && text.contains("REGRESSION") && text.contains("-0.3000 ["), "{text}");
    let (code, text) = compare("better", "table");
    assert!(code == Some(0) && text.contains("+0.3000 ["), "{text}");
    let (_, text) = compare("worse", "json");
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["rows"][0]["ratio"], serde_json::Value::Null);
    assert!((found["rows"][0]["difference"].as_f64().unwrap() + 0.3).abs() < 1e-9, "{found}");
    // 0 s are no time that anybody measured.
    let times = trainmark(home.path(), &["compare", "base", "better"]);
    let text = String::from_utf8_lossy(&times.stdout).into_owned();
    assert!(times.status.code() == Some(75) && text.contains("not comparable"), "{text}");
}

#[test]
fn what_nobody_compared_passes_no_gate_and_the_remedy_is_named() {
    let home = tempfile::tempdir().unwrap();
    let times = [1.0, 1.01, 0.99, 1.0, 1.0];
    let path = |name: &str| home.path().join(name);
    write(&path("base"), &times, "measured");
    write(&path("new"), &times, "measured");
    let gpu = |folder: &str, status: &str| {
        let text =
            std::fs::read_to_string(path(folder).join("t_cpu_20240315_143022.json")).unwrap();
        let text =
            text.replace("\"cpu\"", "\"gpu\"").replace("\"measured\"", &format!("\"{status}\""));
        std::fs::write(path(folder).join("t_gpu.json"), text).unwrap();
    };
    let compare = |more: &[&str]| {
        let output = trainmark(home.path(), &[&["compare", "base", "new"], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(compare(&[]).0, Some(0));
    // A row that is gone, and one that is new.
    for folder in ["base", "new"] {
        gpu(folder, "measured");
        let (code, text) = compare(&[]);
        assert!(code == Some(75) && text.contains("on one side only"), "{text}");
        assert!(text.contains("--allow-inconclusive"), "{text}");
        assert_eq!(compare(&["--allow-inconclusive"]).0, Some(0));
        std::fs::remove_file(path(folder).join("t_gpu.json")).unwrap();
    }
    // What neither machine has holds nothing up.
    gpu("base", "unavailable");
    gpu("new", "unavailable");
    assert_eq!(compare(&[]).0, Some(0), "{:?}", compare(&[]));
}

#[test]
fn a_measurement_is_not_held_against_itself() {
    let home = tempfile::tempdir().unwrap();
    let loss = ("loss", "lower");
    let values = [3.2, 3.21, 3.19, 3.2, 3.22, 3.18];
    let none = serde_json::json!({});
    let file = |name: &str, run: &str, by: f64| {
        write_metric(&home.path().join(name), run, loss, &values.map(|it| it * by), none.clone());
    };
    file("base/a.json", "b", 1.0);
    file("same/x.json", "b", 1.0);
    file("new/a.json", "n", 1.2);
    let code = |new: &str| {
        let words = ["compare", "base", new, "--metric", "loss"];
        trainmark(home.path(), &words).status.code()
    };
    assert_eq!(code("same"), Some(75));
    assert_eq!(code("new"), Some(1));
    // The base's own file in the new folder too: nothing changes.
    file("new/b.json", "b", 1.0);
    assert_eq!(code("new"), Some(1));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(home.path().join("new/a.json"), home.path().join("new/0.json"))
            .unwrap();
        assert_eq!(code("new"), Some(1));
    }
}

#[test]
fn show_and_report_agree_on_what_converged_and_show_tells_disturbances() {
    let home = tempfile::tempdir().unwrap();
    let keys = serde_json::json!({ "targets": { "loss": 3.0 } });
    let path = home.path().join("out/a.json");
    write_metric(&path, "b", ("loss", "lower"), &[3.2, 3.3], keys);
    let text = std::fs::read_to_string(&path).unwrap();
    let noisy =
        text.replacen("\"round\":0", "\"disturbances\":[\"other load: 1.3 cores\"],\"round\":0", 1);
    assert_ne!(noisy, text);
    std::fs::write(&path, noisy).unwrap();
    let said = |words: &[&str]| {
        let output = trainmark(home.path(), words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = said(&["show", "out/a.json"]);
    assert!(shown.contains("not converged") && shown.contains("other load: 1.3 cores"), "{shown}");
    let report = said(&["report", "--input", "out"]);
    assert!(report.contains("not converged"), "{report}");
    // The largest caveat stands first: before the table, in every format.
    let caveat = "1 of 2 samples disturbed";
    assert!(report.find(caveat).unwrap() < report.find("3.25").unwrap(), "{report}");
    let markdown = said(&["report", "--input", "out", "--markdown", "-"]);
    assert!(markdown.find(caveat).unwrap() < markdown.find("## Summary").unwrap(), "{markdown}");
    let page = said(&["report", "--input", "out", "--html", "-"]);
    assert!(page.find(caveat).unwrap() < page.find("<table").unwrap());
    let json: serde_json::Value =
        serde_json::from_str(&said(&["report", "--input", "out", "--output", "-"])).unwrap();
    let first = json["summary"]["notes"][0].as_str().unwrap();
    assert!(first.starts_with("Disturbed by") && first.contains("1 of 2 samples"), "{first}");
    // Nobody scored anything, and nobody says so.
    for text in [&report, &markdown, &page, &json.to_string()] {
        assert!(!text.contains("scored the other metrics"), "{text}");
    }
}
