//! Jobs that have nothing to do with the built-in task: the acceptance suites, where they lie beside the
//! repository, and the examples of this repository.

use crate::support::{HARNESS, harness};
use serde_json::Value;
use skip::skipped;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A job's own copy of its folder, and what comes of it.
struct Job(TempDir);

impl Job {
    fn of(folder: &Path) -> Job {
        let job = Job(tempfile::tempdir().unwrap());
        copy(folder, &job.path("job"));
        job
    }

    /// The acceptance suite of that name; `None`, said loudly, without them.
    fn acceptance(name: &str) -> Option<Job> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/acceptance").join(name);
        if !root.is_dir() {
            skipped("../shared/acceptance is not here");
            return None;
        }
        if Command::new("python3").arg("--version").output().is_err() {
            skipped("there is no python3");
            return None;
        }
        Some(Job::of(&root))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn trainmark(&self, words: &[&str]) -> Output {
        let mut command = harness(self.0.path());
        command.args(words);
        let beside = Path::new(HARNESS).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(beside).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths).unwrap());
        command.output().unwrap()
    }

    /// Trains all rows three times; their records, in the order of their files' names.
    fn run(&self, out: &str, more: &[&str]) -> Vec<Value> {
        let words = ["run", "--suite", "job/suite.toml", "--repeats", "3", "--out", out];
        let output = self.trainmark(&[&words, more].concat());
        assert!(output.status.success(), "{}", said(&output));
        let mut files: Vec<PathBuf> =
            self.path(out).read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|it| it == "json"));
        files.sort();
        let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        files.iter().map(read).collect()
    }

    /// The JSON and the Markdown report.
    fn reports(&self, out: &str) -> (String, String) {
        let words = ["report", "--input", out, "--output", "r.json", "--markdown", "r.md"];
        let output = self.trainmark(&words);
        assert!(output.status.success(), "{}", said(&output));
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap();
        (read("r.json"), read("r.md"))
    }

    /// That other data is not compared unless somebody insists.
    fn refuses_other_data(&self, file: &str, before: &str) {
        let path = self.path("job").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        self.run("changed", &[]);
        let compared = |more: &[&str]| {
            let output = self.trainmark(&[&["compare", before, "changed"], more].concat());
            (output.status.code(), said(&output))
        };
        let (code, words) = compared(&[]);
        assert_eq!(code, Some(65), "{words}");
        let (code, words) = compared(&["--anyway"]);
        assert_ne!(code, Some(65), "{words}");
    }
}

/// Copies a job without what `trainmark setup` and `trainmark run` have left in it: an environment of
/// Python has links to folders, and no test reads it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if [".trainmark", "benchmarks", "__pycache__"].iter().any(|left| name == *left) {
            continue;
        }
        let target = to.join(name);
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            // Those there cannot be written to; ours can.
            false => std::fs::write(&target, std::fs::read(entry.path()).unwrap()).unwrap(),
        }
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_language_model_has_bits_per_character_a_curve_by_step_and_tokens_per_second() {
    let Some(job) = Job::acceptance("language-model") else { return };
    let records = job.run("out", &[]);
    let record = &records[0];
    assert_eq!(record["status"], "measured", "{}", record["reason"]);
    let task = &record["task"];
    assert_eq!(
        (&task["quality"], &task["metrics"]["bpc"]["unit"]),
        (&"bpc".into(), &"bit/char".into())
    );
    assert_eq!(task["metrics"]["bpc"]["better"], "lower");
    assert!(number(&record["metrics"]["bpc"]) < 3.6);
    assert_eq!(record["targets"]["bpc"], 3.6);
    assert_eq!(record["dataset"]["name"], "licence-text");
    let sample = &record["samples"][0];
    assert_eq!(sample["curve"][0]["step"], 50);
    assert_eq!(sample["work"], 300.0 * 16.0 * 32.0);
    let expected = number(&sample["work"]) / number(&sample["timing"]["train_s"]);
    assert!(number(&record["throughput"]["value"]) > 0.2 * expected);
    assert_eq!(record["throughput"]["unit"], "tokens");
    let (_, markdown) = job.reports("out");
    assert!(markdown.contains("tokens/s") && markdown.contains("bit/char"), "{markdown}");

    let slow = job.run("slow", &["--set", "learning_rate=0.0001"]);
    let reason = slow[0]["samples"][0]["reason"].as_str().unwrap_or_default();
    assert_eq!(slow[0]["status"], "not_converged");
    assert!(reason.contains("bpc") && reason.contains("above its target 3.6"), "{reason}");
    job.refuses_other_data("text.txt", "out");
}

#[test]
fn a_regression_is_scored_and_nothing_speaks_of_epochs_steps_or_per_cent() {
    let Some(job) = Job::acceptance("regression") else { return };
    let records = job.run("out", &[]);
    let record = &records[0];
    assert_eq!(
        (&record["status"], &record["task"]["quality"]),
        (&"measured".into(), &"rmse".into())
    );
    assert_eq!(record["task"]["metrics"]["rmse"]["source"], "scored");
    assert_eq!(record["dataset"]["name"], "made-up-prices");
    let (json, markdown) = job.reports("out");
    for text in [&json, &markdown] {
        let lower = text.to_lowercase();
        for word in ["epoch", "step", "%", "percent", "per cent", "accuracy"] {
            let place = lower.find(word).map(|at| &text[at.saturating_sub(80)..]);
            assert!(place.is_none(), "{word}: {}", &place.unwrap()[..120]);
        }
    }
    assert!(markdown.contains("rmse (EUR)"), "{markdown}");
    job.refuses_other_data("table/test-rows.f32", "out");
}

#[test]
fn a_hundred_classes_are_scored_from_16_bit_labels_and_top_5_is_a_claim() {
    let Some(job) = Job::acceptance("hundred-classes") else { return };
    let records = job.run("out", &[]);
    let record = &records[0];
    assert_eq!(record["status"], "measured", "{}", record["reason"]);
    let metrics = &record["task"]["metrics"];
    assert_eq!(
        (&metrics["top1"]["source"], &metrics["top5"]["source"]),
        (&"scored".into(), &"claimed".into())
    );
    assert!(
        number(&record["metrics"]["top1"]) >= 80.0 && number(&record["metrics"]["top5"]) >= 80.0
    );
    assert_eq!(record["dataset"]["name"], "hundred-blobs");
    assert!(job.reports("out").1.contains('†'));
    job.refuses_other_data("points.f32", "out");
}

#[test]
fn ranks_are_one_training_and_make_a_scaling_panel() {
    let Some(job) = Job::acceptance("ranks") else { return };
    let records = job.run("out", &[]);
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(record["status"], "measured", "{}", record["reason"]);
        assert_eq!(record["samples"][0]["work"], 600_000.0);
        assert!(record["dataset"].is_null());
    }
    let (json, markdown) = job.reports("out");
    let report: Value = serde_json::from_str(&json).unwrap();
    let points = &report["summary"]["scaling"][0]["points"];
    assert_eq!((&points[0]["number"], &points[0]["efficiency"]), (&1.0.into(), &1.0.into()));
    assert!(number(&points[1]["efficiency"]) > 0.0);
    assert!(markdown.contains("## Scaling") && markdown.contains("Efficiency"), "{markdown}");
}

#[test]
fn foreign_logs_are_read_without_touching_the_program() {
    let Some(job) = Job::acceptance("foreign-logs") else { return };
    let records = job.run("out", &[]);
    let [hugging_face, keras] = &records[..] else { panic!("{} records", records.len()) };
    for (record, quality) in [(hugging_face, 0.9125), (keras, 0.8625)] {
        assert_eq!(record["status"], "measured", "{}", record["reason"]);
        assert_eq!(record["metrics"]["eval_accuracy"], quality);
        assert!(record["dataset"].is_null());
    }
    assert_eq!(hugging_face["timing"]["train_s"], 0.15);
    let curve = &keras["samples"][0]["curve"];
    assert_eq!(
        (&curve[0]["loss"], &curve[1]["epoch"], &curve[1]["loss"]),
        (&0.6.into(), &2.0.into(), &0.4.into())
    );
}

/// The examples of this repository whose programs are here: each is measured.
#[test]
fn every_example_runs_where_its_programs_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut ran = 0;
    for folder in root.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(folder.join("suite.toml")).unwrap();
        let needs = |line: &str| line.strip_prefix("# Needs: ").map(str::to_owned);
        // `# Needs: FILE`, `# Needs: python MODULE` or `# Needs: program NAME`, for what is not in the repository.
        let missing = text.lines().filter_map(needs).find(|need| match need.split_once(' ') {
            Some(("python", module)) => !Command::new("python3")
                .args(["-c", &format!("import {module}")])
                .output()
                .is_ok_and(|output| output.status.success()),
            // Our own trainer is built with the workspace's tests.
            Some(("program", name)) => !Path::new(HARNESS).with_file_name(name).exists(),
            _ => !Path::new(need).exists() && !folder.join(need).exists(),
        });
        if let Some(need) = missing {
            skipped(format!("example {name}: {need} is not here"));
            continue;
        }
        let job = Job::of(&folder);
        let words = ["run", "--suite", "job/suite.toml", "--quick", "--out", "out"];
        let output = job.trainmark(&words);
        assert!(output.status.success(), "{name}: {}", said(&output));
        ran += 1;
    }
    assert!(ran > 0, "no example ran");
}

#[cfg(unix)]
#[test]
fn where_the_first_program_fails_the_next_one_is_compared_with_and_names_have_their_commands() {
    let job = Job(tempfile::tempdir().unwrap());
    for (name, ends) in [("z", "exit 1"), ("y", "sleep 0.05"), ("b", "sleep 0.1")] {
        std::fs::write(job.path(&format!("{name}.sh")), ends).unwrap();
    }
    let words = ["time", "sh z.sh", "sh y.sh", "sh b.sh", "sh b.sh 7", "--repeats", "2"];
    let text = said(&job.trainmark(&[&words[..], &["--out", "out"]].concat()));
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("compared with y/default, not z/default"), "{text}");
    assert!(flat.contains("sh b.sh b 2: ") && flat.contains("sh b.sh 7"), "{text}");
    let markdown = said(&job.trainmark(&["report", "--input", "out", "--markdown", "-"]));
    assert!(markdown.contains("\n- b 2: ") && markdown.contains("sh b.sh 7\n"), "{markdown}");
}

#[cfg(unix)]
#[test]
fn a_throughput_that_cannot_be_computed_is_missing_for_its_reason() {
    let job = Job(tempfile::tempdir().unwrap());
    std::fs::create_dir(job.path("job")).unwrap();
    let suite = r#"
        name = "s"
        [task]
        name = "t"
        throughput = { unit = "samples", per_run = "{b} / {z}" }
        [config]
        b = 16
        z = 0
        [[trainers]]
        name = "T"
        program = "echo"
        command = ["{program}", ':::TRAINMARK {{"event":"trained","train_s":0.001}}']
        backends = ["default"]
        models.m = { prefix = "m" }
    "#;
    std::fs::write(job.path("job/suite.toml"), suite).unwrap();
    let record = &job.run("out", &[])[0];
    assert!(record["throughput"]["value"].is_null(), "{record}");
    assert_eq!(record["missing"]["throughput"], "per_run: its value is inf");
}

#[cfg(unix)]
#[test]
fn two_programs_are_compared_without_a_suite() {
    let job = Job::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shell"));
    let words = ["time", "echo loss: 0.5", "sleep 0.1; echo loss: 0.25", "--repeats", "2"];
    let output = job
        .trainmark(&[&words[..], &["--read", r"loss: (?<val_loss>\S+)", "--out", "out"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("2 of 2 completed") && said(&output).contains("val_loss"),
        "{}",
        said(&output)
    );
    let words = ["time", "LC_ALL=C echo {steps}", "--repeats", "1", "--out", "variable"];
    let text = said(&job.trainmark(&words));
    assert!(text.contains("note: {steps} stays") && text.contains("1 of 1 completed"), "{text}");
    // A loss that ends as NaN: never ranked, with its reason in every format.
    let words = ["time", "echo loss: nan", "sleep 0.1; echo loss: 0.25", "--repeats", "2"];
    job.trainmark(&[&words[..], &["--read", r"loss: (?<loss>\S+)", "--out", "nan"]].concat());
    let report =
        |more: &[&str]| said(&job.trainmark(&[&["report", "--input", "nan"], more].concat()));
    let pages = [report(&[]), report(&["--markdown", "-"]), report(&["--html", "-"])];
    for text in pages {
        assert!(text.contains("its last loss is NaN, which is not finite"), "{text}");
        assert!(!text.contains("()") || text.contains("<html"), "{text}");
    }
    // One that is not the quality is missing, with the reason.
    let rule = r"nll: (?<nll>\S+) acc: (?<acc>\S+)";
    let words = ["time", "echo nll: 1 acc: nan", "--repeats", "1", "--out", "acc", "--read", rule];
    job.trainmark(&words);
    let files = std::fs::read_dir(job.path("acc")).unwrap().map(|it| it.unwrap().path());
    let file =
        files.filter_map(|it| Some(it.to_str()?.to_owned())).find(|it| it.contains("_default_"));
    let shown = said(&job.trainmark(&["show", &file.unwrap()]));
    assert!(shown.contains("none that is finite"), "{shown}");
    let written = ["new", "--command", "python3 train.py", "--read", r"loss: (?<val_loss>\S+)"];
    assert!(job.trainmark(&written).status.success());
    let wrong = ["run", "--suite", "suite.toml", "--target-accuracy", "90", "--list"];
    let wrong = job.trainmark(&wrong);
    assert!(!wrong.status.success());
    assert!(
        said(&wrong).contains("\"val_loss\"") && said(&wrong).contains("--target "),
        "{}",
        said(&wrong)
    );
    let listed = job.trainmark(&["run", "--suite", "suite.toml", "--list"]);
    assert!(said(&listed).contains("train job default"), "{}", said(&listed));
    assert!(!job.trainmark(&written).status.success(), "a file that is there is not replaced");
}

#[test]
fn a_key_that_nobody_is_told_is_an_error_with_a_suggestion() {
    let job = Job::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/language-model"));
    let output = job.trainmark(&["run", "--suite", "job/suite.toml", "--set", "step=3", "--list"]);
    assert!(
        said(&output).contains("step: there is no such key; did you mean steps?"),
        "{}",
        said(&output)
    );
    let suite = job.path("job/suite.toml");
    let text = std::fs::read_to_string(&suite).unwrap();
    std::fs::write(&suite, text.replacen("[config]", "[config]\nstesp = 3", 1)).unwrap();
    let listed = said(&job.trainmark(&["run", "--suite", "job/suite.toml", "--list"]));
    let warning = "[config] stesp: there is no such key; did you mean steps?";
    assert_eq!(listed.matches("warning:").count(), 1, "{listed}");
    assert!(listed.contains(warning), "{listed}");
    let described = format!(
        "{}\n[keys.stesp]\nlabel = \"as it is\"\n",
        text.replacen("[config]", "[config]\nstesp = 3", 1)
    );
    std::fs::write(&suite, described).unwrap();
    let listed = said(&job.trainmark(&["run", "--suite", "job/suite.toml", "--list"]));
    assert!(!listed.contains("warning:"), "{listed}");
    let output = job.trainmark(&["run", "--suite", "job/suite.toml", "--epochs", "3", "--list"]);
    assert!(said(&output).contains("no command of the suite uses it"), "{}", said(&output));
    // What the harness counts by, and what targets hold for, is used too.
    let counted = text.replacen("[config]", "[config]\nepochs = 3", 1);
    std::fs::write(&suite, counted).unwrap();
    let listed = said(&job.trainmark(&["run", "--suite", "job/suite.toml", "--list"]));
    assert!(!listed.contains("warning:"), "{listed}");
}
