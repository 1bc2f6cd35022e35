//! The GitHub Action's scripts, as the action runs them: a real repository with a base and a head, a
//! trainer in shell, and a stand-in for GitHub's command-line tool.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `action/rehearse.py` has these two as well.
const SUITE: &str = include_str!("../../../../action/rehearsal/suite.toml");
const TRAINER: &str = include_str!("../../../../action/rehearsal/train.sh");

fn trainer(train_s: &str, ending: &str) -> String {
    TRAINER.replace("TRAIN_S", train_s) + ending
}

/// Answers with the identifier of a comment if the test left one, writes down what it was asked, and
/// fails where the test wants it to.
const GH: &str = "#!/bin/sh\necho \"$@\" >> \"$HOME/gh.log\"\n[ ! -e \"$HOME/gh.refuses\" ] || exit 1\n\
                  case \"$*\" in *--paginate*) cat \"$HOME/gh.comment\" 2>/dev/null || true;; esac\n\
                  for word; do case $word in body=@*) cp \"${word#body=@}\" \"$HOME/gh.body\";; esac; done\n";

struct Place {
    home: tempfile::TempDir,
}

impl Place {
    /// A repository whose first commit trains as `base` and whose second as `head`.
    fn new(base: &str, head: &str) -> Place {
        let place = Place { home: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.path("repository")).unwrap();
        fs::create_dir_all(place.path("bin")).unwrap();
        place.program("bin/gh", GH);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_trainmark"), place.path("bin/trainmark"))
            .unwrap();
        fs::write(place.path("repository/suite.toml"), SUITE).unwrap();
        place.git(&["init", "--quiet"]);
        for text in [base, head] {
            place.program("repository/train.sh", text);
            place.git(&["add", "."]);
            place.git(&["commit", "--quiet", "--allow-empty", "--message", "x"]);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn program(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn git(&self, words: &[&str]) {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let output = self.command("git").args(identity).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap();
        command
            .current_dir(self.path("repository"))
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("HOME", self.home.path())
            .env("GITHUB_OUTPUT", self.path("output"))
            .env("GITHUB_STEP_SUMMARY", self.path("summary"))
            .env("GITHUB_REPOSITORY", "owner/name")
            .env("GITHUB_WORKFLOW", "benchmark")
            .env("GITHUB_JOB", "trainmark");
        command
    }

    fn script(&self, name: &str, variables: &[(&str, &str)]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../action").join(name);
        let defaults = [
            ("BASE", "HEAD~1"),
            ("SUITE", "suite.toml"),
            ("ROUNDS", "4"),
            ("METRIC", ""),
            ("GATE", "3%"),
            ("RUN_ARGS", "--data digits"),
            ("COMMENT", "true"),
            ("PULL_REQUEST", "7"),
        ];
        let mut command = self.command("bash");
        command.arg(script).envs(defaults).env("OUT", self.path("results"));
        command.env("COMPARISON", self.path("results/comparison.md"));
        command.envs(variables.iter().copied()).output().unwrap()
    }
}

#[test]
fn base_and_head_take_turns_and_a_regression_is_shown_in_summary_and_comment() {
    let place = Place::new(&trainer("0.0100", ""), &trainer("0.0150", ""));
    let output = place.script("compare.sh", &[]);
    assert!(output.status.success(), "{output:?}");
    let outputs = place.text("output");
    assert!(outputs.contains("regression=true\n"), "{outputs}");
    let comparison = place.text("results/comparison.md");
    assert!(comparison.starts_with("### Trainmark: regression shown"), "{comparison}");
    assert!(
        comparison.contains("+50.0 %") && comparison.contains("4 rounds in turns"),
        "{comparison}"
    );
    for side in ["base", "head"] {
        let files = fs::read_dir(place.path("results").join(side)).unwrap();
        let results = files
            .filter(|it| it.as_ref().unwrap().path().extension().is_some_and(|it| it == "json"));
        assert_eq!(results.count(), 4, "{side}");
    }
    assert!(!place.path("results/base-tree").exists(), "the worktree is gone");

    assert!(place.script("publish.sh", &[]).status.success());
    assert_eq!(place.text("summary"), comparison);
    let asked = place.text("gh.log");
    assert!(asked.contains("--method POST repos/owner/name/issues/7/comments"), "{asked}");
    fs::write(place.path("gh.comment"), "4711\n").unwrap();
    assert!(place.script("publish.sh", &[]).status.success());
    let asked = place.text("gh.log");
    assert!(asked.contains("--method PATCH repos/owner/name/issues/comments/4711"), "{asked}");
    assert_eq!(asked.matches("POST").count(), 1, "{asked}");
}

#[test]
fn each_leg_of_a_matrix_has_its_own_comment_and_none_can_forge_anothers() {
    let place = Place::new("", "");
    fs::create_dir(place.path("results")).unwrap();
    fs::write(place.path("results/comparison.md"), "x\n").unwrap();
    let marker = |variables: &[(&str, &str)]| {
        fs::write(place.path("gh.body"), "").unwrap();
        let output = place.script("publish.sh", variables);
        assert!(output.status.success(), "{output:?}");
        place.text("gh.body").lines().next().unwrap().to_owned()
    };
    let legs = ["null", "{\"os\": \"a\"}", "{\"os\": \"b\"}", "--> @all <!--"];
    let mut markers: Vec<String> = legs.map(|leg| marker(&[("LEG", leg)])).into();
    markers.push(marker(&[("LEG", "null"), ("SUITE", "other.toml")]));
    markers.push(marker(&[("LEG", "null"), ("GITHUB_JOB", "other")]));
    assert_eq!(markers[0], marker(&[("LEG", "null")]), "a later run finds its own");
    for (index, one) in markers.iter().enumerate() {
        assert!(!markers[..index].contains(one), "{markers:?}");
        let digest = one.strip_prefix("<!-- trainmark ").and_then(|it| it.strip_suffix(" -->"));
        assert!(digest.is_some_and(|it| it.bytes().all(|b| b.is_ascii_alphanumeric())), "{one}");
    }
}

#[test]
fn a_pull_request_target_is_refused_before_anything_of_it_runs() {
    let place = Place::new("#!/bin/sh\ntouch \"$HOME/ran\"\n", "#!/bin/sh\ntouch \"$HOME/ran\"\n");
    let output = place.script("compare.sh", &[("GITHUB_EVENT_NAME", "pull_request_target")]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("::error::") && said.contains("use pull_request"), "{said}");
    assert!(!place.path("ran").exists());
    let action = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../action.yml");
    let action = fs::read_to_string(action).unwrap();
    let first = action.split("- name: ").nth(1).unwrap();
    assert!(first.contains("if: github.event_name == 'pull_request_target'"), "{first}");
}

#[test]
fn a_trainer_finds_no_way_into_later_steps_and_its_names_mention_nobody() {
    let spy = "env > \"$HOME/environment-$$\"";
    let place = Place::new(&trainer("0.0100", spy), &trainer("0.0100", spy));
    let suite = SUITE.replace("\"Shell\"", "\"@octocat https://a.example #1\"");
    fs::write(place.path("repository/suite.toml"), suite).unwrap();
    place.git(&["commit", "--all", "--quiet", "--message", "x"]);
    let base = [("BASE", "HEAD"), ("ROUNDS", "1")];
    let ways = measure::launch::WITHHELD.map(|name| (name, "/a/way/into/later/steps"));
    // Two of them the script itself needs.
    let others =
        ways.iter().filter(|(name, _)| !["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"].contains(name));
    let variables: Vec<_> = base.into_iter().chain(others.copied()).collect();
    let output = place.script("compare.sh", &variables);
    assert!(output.status.success(), "{output:?}");
    let seen = fs::read_dir(place.home.path()).unwrap().flatten();
    let seen: Vec<_> = seen
        .filter(|it| it.file_name().to_string_lossy().starts_with("environment-"))
        .map(|it| fs::read_to_string(it.path()).unwrap())
        .collect();
    assert_eq!(seen.len(), 2);
    for environment in seen {
        for name in measure::launch::WITHHELD {
            assert!(!environment.contains(&format!("{name}=")), "{name}");
        }
        assert!(environment.contains("GITHUB_JOB="), "what leads nowhere is inherited");
    }
    let comparison = place.text("results/comparison.md");
    let name = "@&#8203;octocat https:&#8203;//a.example #&#8203;1";
    assert!(comparison.contains(name), "{comparison}");
}

#[test]
fn no_difference_is_no_regression_and_a_crash_is_one() {
    let sound = trainer("0.0100", "");
    for (head, expected) in [
        (sound.clone(), "conclusion=pass\n"),
        (trainer("0.0100", "exit 3"), "conclusion=regression\n"),
    ] {
        let place = Place::new(&sound, &head);
        let output = place.script("compare.sh", &[]);
        assert!(output.status.success(), "{output:?}");
        assert!(place.text("output").contains(expected), "{output:?}");
    }
}

#[test]
fn too_few_rounds_are_inconclusive_in_outputs_and_summary() {
    let place = Place::new(&trainer("0.0100", ""), &trainer("0.1000", ""));
    let output = place.script("compare.sh", &[("ROUNDS", "1")]);
    assert!(output.status.success(), "{output:?}");
    let outputs = place.text("output");
    for line in ["conclusion=inconclusive", "regression=false", "inconclusive=true"] {
        assert!(outputs.lines().any(|it| it == line), "{line}: {outputs}");
    }
    let comparison = place.text("results/comparison.md");
    assert!(comparison.starts_with("### Trainmark: inconclusive"), "{comparison}");
    assert!(comparison.contains("--repeats 4"), "{comparison}");
}

#[test]
fn a_token_that_may_not_comment_is_a_warning_and_a_push_has_no_comment() {
    let place = Place::new("", "");
    fs::create_dir(place.path("results")).unwrap();
    fs::write(place.path("results/comparison.md"), "x\n").unwrap();
    fs::write(place.path("gh.refuses"), "").unwrap();
    let output = place.script("publish.sh", &[]);
    assert!(output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("::warning::no comment"),
        "{output:?}"
    );
    assert_eq!(place.text("summary"), "x\n");
    fs::remove_file(place.path("gh.log")).unwrap();
    assert!(place.script("publish.sh", &[("PULL_REQUEST", "")]).status.success());
    assert!(place.script("publish.sh", &[("COMMENT", "false")]).status.success());
    assert!(!place.path("gh.log").exists());
}

#[test]
fn what_is_wrong_is_said_in_one_line_and_inputs_are_never_run() {
    let place = Place::new("", "");
    let proof = place.path("proof");
    let evil = format!("$(touch {0}) `touch {0}` ; touch {0}", proof.display());
    for (variable, value, expected) in [
        ("BASE", "0000000000000000000000000000000000000000", "fetch-depth: 0"),
        ("BASE", "", "there is no commit to compare with"),
        ("ROUNDS", "many", "is not a positive number"),
        ("ROUNDS", &evil, "is not a positive number"),
        ("BASE", &evil, "is not in this clone"),
        ("SUITE", &evil, "could not be compared"),
        ("RUN_ARGS", &evil, "could not be compared"),
        ("GATE", &evil, "could not be compared"),
    ] {
        let output = place.script("compare.sh", &[("ROUNDS", "1"), (variable, value)]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{variable}");
        assert!(stderr.contains("::error::") && stderr.contains(expected), "{stderr}");
        assert!(!proof.exists(), "{variable}");
    }
}
