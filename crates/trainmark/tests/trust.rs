//! What Trainmark does with words that are not its user's: a suite from elsewhere is shown first,
//! nothing in it or in a trainer's output is expanded or drives a terminal, and no secret is kept.
#![cfg(target_os = "linux")]

mod support;

use skip::skipped;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use support::place::{PLAIN, Place, said};

/// A suite that stands outside of the folder that the harness is run in.
struct Elsewhere {
    here: Place,
    there: Place,
    suite: PathBuf,
}

impl Elsewhere {
    fn new() -> Elsewhere {
        let (here, there) = (Place::new(), Place::new());
        let suite = there.suite(&format!("touch ran; {PLAIN}"), "root = '.'");
        Elsewhere { here, there, suite }
    }

    fn ran(&self) -> bool {
        std::fs::remove_file(self.there.path("ran")).is_ok()
    }

    /// As from a script: nobody can answer.
    fn run(&self, more: &[&str]) -> Output {
        self.here.run(&self.suite, more)
    }

    /// On a terminal, where a person types this.
    fn run_on_a_terminal(&self, typed: &str) -> Option<Output> {
        let line = format!(
            "{} run --suite {} --data {} --out {}",
            support::HARNESS,
            self.suite.display(),
            self.here.path("data").display(),
            self.here.path("out").display()
        );
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(self.here.path("."));
        command.env("XDG_STATE_HOME", self.here.path("no-state")).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        Some(child.wait_with_output().unwrap())
    }
}

#[test]
fn a_script_is_not_held_up_by_a_suite_from_elsewhere_and_its_log_shows_the_commands_once() {
    let elsewhere = Elsewhere::new();
    let first = elsewhere.run(&[]);
    assert!(first.status.success(), "{}", said(&first));
    assert!(said(&first).contains("run   Shell: sh -c touch ran; echo"), "{}", said(&first));
    assert!(said(&first).contains("Nobody can be asked here"), "{}", said(&first));
    assert!(elsewhere.ran());
    let second = elsewhere.run(&[]);
    assert!(!said(&second).contains("touch ran"), "{}", said(&second));
    // Another text is another suite.
    let text = std::fs::read_to_string(&elsewhere.suite).unwrap();
    std::fs::write(&elsewhere.suite, text.replace("touch ran", "touch ran now")).unwrap();
    assert!(said(&elsewhere.run(&[])).contains("touch ran now"));
}

#[test]
fn what_stands_in_this_folder_or_is_vouched_for_is_not_shown() {
    let elsewhere = Elsewhere::new();
    assert!(!said(&elsewhere.run(&["--yes"])).contains("touch ran"));
    assert!(elsewhere.ran());
    let place = Place::new();
    let output = place.run(&place.suite(PLAIN, ""), &[]);
    assert!(!said(&output).contains("it executes"), "{}", said(&output));
}

#[test]
fn on_a_terminal_a_person_is_asked_and_a_no_runs_nothing() {
    let elsewhere = Elsewhere::new();
    let Some(refused) = elsewhere.run_on_a_terminal("n\n") else {
        return skipped("there is no `script` to make a terminal");
    };
    assert!(said(&refused).contains("Run them? [y/N]"), "{}", said(&refused));
    assert!(said(&refused).contains("touch ran"), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(!elsewhere.ran() && !elsewhere.here.path("out").exists());

    let agreed = elsewhere.run_on_a_terminal("y\n").unwrap();
    assert!(agreed.status.success(), "{}", said(&agreed));
    assert!(elsewhere.ran());
    let again = elsewhere.run_on_a_terminal("").unwrap();
    assert!(again.status.success() && !said(&again).contains("Run them?"), "{}", said(&again));
}

#[test]
fn a_journal_from_elsewhere_does_not_vouch_for_the_suite_that_it_names() {
    let place = Place::new();
    let suite = place.suite(&format!("[ -e go ] || sleep 300; {PLAIN}"), "root = '.'");
    let output = place.run(&suite, &["--run-timeout", "1s"]);
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    std::fs::write(place.path("go"), "").unwrap();
    let resume = |state: &str| {
        let mut command = place.trainmark("run");
        command.env("XDG_STATE_HOME", place.path(state)).arg("--resume");
        command.arg("--out").arg(place.path("out")).output().unwrap()
    };
    // For another user, who has never run it, it is a stranger's, though it stands right here.
    let output = resume("of-another-user");
    assert!(output.status.success() && said(&output).contains("it executes"), "{}", said(&output));
}

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
