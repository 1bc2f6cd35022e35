//! `trainmark setup` from the outside, offline: real suites, real environments, small wheels made here.

use crate::support::harness;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    /// A folder with a suite of one trainer, `One`.
    fn new(program: &str, setup: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.suite(program, setup);
        place
    }

    fn suite(&self, program: &str, setup: &str) {
        let text = format!(
            r#"
            name = "s"
            config = {{ epochs = 1 }}
            [[trainers]]
            name = "One"
            program = "{program}"
            setup = {setup}
            command = ["{{program}}", "-c", "print('Test Accuracy: 50.00%')"]
            backends = ["cpu"]
            models.mlp = {{ prefix = "one" }}
            "#
        );
        fs::write(self.path("suite.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn trainmark(&self, words: &[&str]) -> Output {
        harness(self.0.path())
            .args(words)
            .args(["--suite", "suite.toml"])
            // No index is asked: what is not here does not exist.
            .env("PIP_NO_INDEX", "1")
            .env("PIP_FIND_LINKS", self.0.path())
            .env_remove("TRAINMARK_PYTHON")
            .output()
            .unwrap()
    }

    /// What was printed to standard output and to standard error, and whether all went well.
    fn setup(&self) -> (String, String, bool) {
        let output = self.trainmark(&["setup"]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr), output.status.success())
    }

    /// The status and the reason of the row that `trainmark run` makes.
    fn row(&self) -> (String, String) {
        let output = self.trainmark(&["run", "--data", "digits", "--out", "out"]);
        let files: Vec<_> = fs::read_dir(self.path("out")).unwrap().flatten().collect();
        let file = files.iter().find(|file| file.file_name().to_string_lossy().ends_with(".json"));
        let file = file.unwrap_or_else(|| panic!("{output:?}")).path();
        let result: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        fs::remove_dir_all(self.path("out")).unwrap();
        let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }
}

/// Counts its calls in the file `calls`, and makes the program.
const COMMANDS: &str = r#"{ commands = [["sh", "-c", "echo call >>calls; cp source made"]],
    inputs = ["source"] }"#;

fn calls(place: &Place) -> usize {
    fs::read_to_string(place.path("calls")).unwrap_or_default().lines().count()
}

#[test]
fn commands_run_once_and_again_when_their_inputs_change() {
    let place = Place::new("./made", COMMANDS);
    fs::write(place.path("source"), "#!/bin/sh\n").unwrap();
    let (said, _, good) = place.setup();
    assert!(good && said.starts_with("One") && said.contains("set up in"), "{said}");
    let (said, _, good) = place.setup();
    assert!(good && said.contains("already set up"), "{said}");
    assert_eq!(calls(&place), 1);
    fs::write(place.path("source"), "#!/bin/sh\n# new\n").unwrap();
    let list = place.trainmark(&["setup", "--list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("changed since"), "{list:?}");
    assert!(place.setup().2);
    assert_eq!(calls(&place), 2);
    // What was made is gone: it is made again.
    fs::remove_file(place.path("made")).unwrap();
    assert!(place.setup().2);
    assert_eq!(calls(&place), 3);
}

#[test]
fn run_installs_nothing_and_says_which_command_would() {
    let place = Place::new("./made", COMMANDS);
    fs::write(place.path("source"), "#!/bin/sh\necho 'Test Accuracy: 50.00%'\n").unwrap();
    let (status, reason) = place.row();
    assert_eq!(status, "unavailable");
    assert_eq!(reason, "not set up; `trainmark setup One --suite suite.toml` sets it up");
    assert_eq!(calls(&place), 0);
}

#[test]
fn a_program_that_the_set_up_needs_is_not_missed_by_a_trainer_that_is_set_up() {
    let place = Place::new("./made", "{}");
    let compiler = place.path("compiler");
    let commands = r#"["sh", "-c", "cp source made; chmod +x made"]"#;
    let needs = format!("{{ programs = [{compiler:?}], commands = [{commands}] }}");
    place.suite("./made", &needs);
    fs::write(place.path("source"), "#!/bin/sh\necho 'Test Accuracy: 50.00%'\n").unwrap();
    let lacks = format!("One needs {} in PATH", compiler.display());
    assert!(place.setup().0.contains(&lacks) && place.row() == ("unavailable".to_owned(), lacks));
    fs::copy("/bin/sh", &compiler).unwrap();
    assert!(place.setup().2);
    fs::remove_file(&compiler).unwrap();
    assert_eq!(place.row(), ("measured".to_owned(), String::new()));
}

#[test]
fn a_failure_is_one_line_and_the_next_set_up_goes_on() {
    let place = Place::new("./made", COMMANDS);
    fs::write(place.path("source"), "").unwrap();
    let broken = COMMANDS.replace("cp source made", "echo error: no luck >&2; exit 3");
    place.suite("./made", &broken);
    let (said, _, good) = place.setup();
    assert!(!good);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("failed:") && said.contains("error: no luck"), "{said}");
    assert!(place.row().1.contains("did not finish"));
    place.suite("./made", COMMANDS);
    assert!(place.setup().2);
}

#[test]
fn a_machine_that_no_lock_is_for_is_unavailable_and_no_failure() {
    let setup = r#"{ locks = [{ file = "a.lock", system = "plan9" }] }"#;
    let place = Place::new(".trainmark/environments/one/bin/python", setup);
    let (said, _, good) = place.setup();
    assert!(good && said.contains("unavailable: One has no lock file for"), "{said}");
    assert_eq!(place.row().0, "unavailable");
}

#[test]
fn a_missing_lock_file_is_named() {
    let place = Place::new("./made", r#"{ locks = [{ file = "no.lock" }] }"#);
    let (said, _, good) = place.setup();
    assert!(!good && said.contains("no.lock"), "{said}");
}

/// A wheel of one module; returns its SHA-256.
fn wheel(place: &Place) -> String {
    let script = r#"
import hashlib, sys, zipfile
info = "demo-1.0.dist-info/"
with zipfile.ZipFile("demo-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("demo.py", "answer = 42\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "demo.py,,\n%sMETADATA,,\n%sWHEEL,,\n%sRECORD,,\n" % ((info,) * 3))
print(hashlib.sha256(open("demo-1.0-py3-none-any.whl", "rb").read()).hexdigest())
"#;
    let mut command = Command::new("python3");
    let output = command.args(["-c", script]).current_dir(place.0.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_locked_environment_is_made_offline_and_a_forged_wheel_is_refused() {
    let has_venv = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if !has_venv.is_ok_and(|output| output.status.success()) {
        return skip::skipped("python3 has no venv module");
    }
    let setup = r#"{ python = "3.8", locks = [{ file = "demo.lock" }],
        commands = [["{program}", "-c", "import demo; assert demo.answer == 42"]] }"#;
    let place = Place::new(".trainmark/environments/one/bin/python", setup);
    let sha256 = wheel(&place);
    let lock = |sha256: &str| {
        fs::write(place.path("demo.lock"), format!("demo==1.0 --hash=sha256:{sha256}\n")).unwrap();
    };
    lock(&"0".repeat(64));
    let (said, _, good) = place.setup();
    assert!(!good, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    lock(&sha256);
    let dry = place.trainmark(&["setup", "--dry-run"]);
    let (said, errors, good) = place.setup();
    assert!(good && said.contains("set up in"), "{said}{errors}");
    // What was listed is what was done.
    let dry = String::from_utf8_lossy(&dry.stdout).into_owned();
    let listed = dry.lines().filter(|line| !line.starts_with('#'));
    let listed: Vec<String> = listed.map(|line| shlex::split(line).unwrap().join(" ")).collect();
    let done = errors.lines().filter_map(|line| line.strip_prefix("One: "));
    assert_eq!(listed, done.collect::<Vec<_>>());
    assert_eq!(listed.len(), 3);
    assert_eq!(place.row().0, "measured");
    let (said, _, good) = place.setup();
    assert!(good && said.contains("already set up"), "{said}");
}

#[test]
fn a_python_with_the_frameworks_is_used_as_it_is_and_nothing_is_installed() {
    let setup = r#"{ locks = [{ file = "no.lock", system = "plan9" }], commands = [["false"]] }"#;
    let place = Place::new(".trainmark/environments/one/bin/python", setup);
    let (said, _, good) = place.setup();
    assert!(good && said.contains("unavailable: One has no lock file"), "{said}");
    let installed = |python: &str| {
        let output = place.trainmark(&["setup", "--installed", python]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = installed("no-such-python");
    assert!(said.contains("failed: --installed no-such-python: "), "{said}");
    let said = installed("python3");
    assert!(said.contains("uses python3 and what it has"), "{said}");
    assert_eq!(place.row().0, "measured");
    let (said, _, good) = place.setup();
    assert!(good && said.contains("already set up"), "{said}");
    fs::remove_dir_all(place.path(".trainmark/environments")).unwrap();
    let (said, _, _) = place.setup();
    assert!(said.contains("unavailable"), "{said}");
}
