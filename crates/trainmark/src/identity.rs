//! When two trainings are of the same thing: same row, same dataset, same program.
//!
//! A finished row is skipped by this identity, so it must change whenever another training
//! would come out. What decides that is the program's bytes, its exact command (of which scripts are
//! a part), the files that the suite calls its inputs, what its set-up was made from (the interpreter of
//! a Python environment says nothing of what is installed in it), the configuration and the data; when
//! and where it ran does not.
//!
//! A grade of `trainmark verify` is held to the same, but for the configuration and the data, which it is
//! compared by itself: [`sources_digest`].

use crate::plan::{self, Places, Row};
use crate::setup::{self, Site};
use crate::suite::{LoadedSuite, Trainer};
use crate::template::Argument;
use crate::trainer::Ready;
use measure::provenance::{hexadecimal, sha256_of_file};
use record::fingerprint::Fingerprint;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Files named by a command that are larger than this are data, not scripts.
const LARGEST_SCRIPT_BYTES: u64 = 16 << 20;

/// The identity of a row. `ready` is its trainer, if that can be started.
pub fn of(
    loaded: &LoadedSuite,
    row: &Row,
    ready: Option<&Ready>,
    dataset_sha256: &str,
    allow_software: bool,
) -> Fingerprint {
    Fingerprint {
        trainer: loaded.suite.trainers[row.trainer].name.clone(),
        model: row.model.clone(),
        backend: row.backend.clone(),
        config: row.config.clone(),
        dataset_sha256: dataset_sha256.to_owned(),
        program_sha256: ready.and_then(|ready| ready.sha256.clone()),
        command_sha256: command_digest(loaded, row, allow_software),
    }
}

/// A digest of texts, of which no two lists look alike.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    /// The files of that name where the command runs, if there are any that it may mean as scripts; a line
    /// of shell may name several.
    fn add_script(&mut self, loaded: &LoadedSuite, trainer: &Trainer, word: &str) {
        let folder = trainer.directory.as_deref().unwrap_or(Path::new("."));
        let in_shell = trainer.shell.then(|| shlex::split(word)).flatten();
        for word in in_shell.unwrap_or_else(|| vec![word.to_owned()]) {
            let file = loaded.root.join(folder).join(word);
            let found = file.metadata().ok();
            let small = found.is_some_and(|it| it.is_file() && it.len() <= LARGEST_SCRIPT_BYTES);
            if small && let Ok(sha256) = sha256_of_file(&file) {
                self.add(&sha256);
            }
        }
    }

    fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

/// Places that differ from machine to machine, the program's and the data's, are left as they are
/// called: their contents have digests of their own.
fn words(loaded: &LoadedSuite, row: &Row, allow_software: bool) -> Vec<String> {
    let places = Places {
        program: Path::new("{program}"),
        data: Path::new("{data}"),
        predictions: Path::new("{predictions}"),
        allow_software,
    };
    // A command that cannot be filled in is an error when it is run, and the same one each time.
    plan::command(&loaded.suite, row, &places).unwrap_or_default()
}

fn command_digest(loaded: &LoadedSuite, row: &Row, allow_software: bool) -> String {
    let trainer = &loaded.suite.trainers[row.trainer];
    let mut parts = Parts::default();
    words(loaded, row, allow_software).iter().for_each(|word| parts.add(word));
    // Another rule would read another figure.
    trainer.read.iter().chain(trainer.read_json.values()).for_each(|rule| parts.add(rule));
    let environment = plan::environment(&loaded.suite, row);
    for (name, value) in &environment {
        parts.add(name);
        parts.add(value);
    }
    // Not which ones: equal devices make equal rows.
    if trainer.asks().iter().any(|(_, asked)| asked.is_some()) {
        parts.add(&format!("{:?}", row.needs));
    }
    parts.add(&sources_digest(loaded, row));
    parts.finish()
}

/// Of what the trainer's program is given to run, whatever the configuration: its command and environment
/// as the suite has them, the scripts that the command names, its `inputs`, and what its set-up was made
/// from. An interpreter's own bytes say nothing of what it trains.
pub fn sources_digest(loaded: &LoadedSuite, row: &Row) -> String {
    let trainer = &loaded.suite.trainers[row.trainer];
    let mut parts = Parts::default();
    trainer.command.iter().flat_map(Argument::words).for_each(|word| parts.add(word));
    for (name, value) in &trainer.environment {
        parts.add(name);
        parts.add(value);
    }
    for word in words(loaded, row, false) {
        parts.add_script(loaded, trainer, &word);
    }
    if !trainer.inputs.is_empty() {
        // Without one of them the trainer is not ready, and says so: nothing is run under this identity.
        parts.add(&setup::digest_of(&loaded.root, &trainer.inputs).unwrap_or_default());
    }
    // Not what a set-up would be made from today: until it is renewed, what is there is what runs.
    if let Some(made_from) = Site::of(loaded, trainer).and_then(|site| site.made_from()) {
        parts.add(&made_from);
    }
    parts.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::launch::CancelToken;

    fn suite(folder: &Path, more: &str) -> LoadedSuite {
        let text = format!(
            r#"
            name = "s"
            config = {{ epochs = 1 }}
            [[trainers]]
            name = "t"
            program = "sh"
            command = ["{{program}}", "train.sh", "--data", "{{data}}"]
            backends = ["cpu"]
            models.mlp.prefix = "t"
            {more}
            "#
        );
        LoadedSuite::of_text(text, "s.toml", folder.to_owned()).unwrap()
    }

    fn identity(loaded: &LoadedSuite, program_sha256: &str) -> Fingerprint {
        let row = plan::plan(&loaded.suite, &plan::Selection::default()).unwrap().remove(0);
        let sha256 = Some(program_sha256.to_owned());
        let ready = Ready { sha256, probe: None };
        of(loaded, &row, Some(&ready), "data", false)
    }

    #[test]
    fn what_would_train_otherwise_is_another_identity() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("train.sh");
        std::fs::write(&script, "one").unwrap();
        let loaded = suite(folder.path(), "");
        let first = identity(&loaded, "aa");
        assert_eq!(first, identity(&loaded, "aa"));
        assert_ne!(first, identity(&loaded, "bb"), "another program");
        let environment = suite(folder.path(), "environment = { SPEED = \"2\" }");
        assert_ne!(first, identity(&environment, "aa"), "another environment");
        std::fs::write(&script, "two").unwrap();
        let edited = identity(&loaded, "aa");
        assert_ne!(first, edited, "another script under the same interpreter");
        assert!(first.same_row(&edited));
    }

    #[test]
    fn sources_are_the_script_and_the_command_and_not_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("train.sh");
        std::fs::write(&script, "one").unwrap();
        let digest = |more: &str, epochs: u64| {
            let loaded = suite(folder.path(), more);
            let selection = plan::Selection::default();
            let mut row = plan::plan(&loaded.suite, &selection).unwrap().remove(0);
            row.config.insert("epochs".into(), epochs.into());
            sources_digest(&loaded, &row)
        };
        let first = digest("", 1);
        assert_eq!(first, digest("", 5), "verified with one epoch, run with five");
        assert_ne!(first, digest("environment = { SPEED = \"2\" }", 1));
        assert_ne!(first, digest("inputs = [\"train.sh\"]", 1));
        std::fs::write(&script, "two").unwrap();
        assert_ne!(first, digest("", 1), "another script under the same interpreter");
    }

    #[test]
    fn a_byte_of_a_module_that_the_script_imports_changes_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("shared")).unwrap();
        let module = folder.path().join("shared/recipe.py");
        std::fs::write(&module, "rate = 1").unwrap();
        let loaded = suite(folder.path(), "inputs = [\"shared\"]");
        let first = identity(&loaded, "aa");
        assert_eq!(first, identity(&loaded, "aa"));
        assert_ne!(first, identity(&suite(folder.path(), ""), "aa"));
        std::fs::create_dir(folder.path().join("shared/__pycache__")).unwrap();
        std::fs::write(folder.path().join("shared/__pycache__/recipe.pyc"), "made").unwrap();
        assert_eq!(first, identity(&loaded, "aa"), "what Python makes of it is no input");
        std::fs::write(&module, "rate = 2").unwrap();
        assert_ne!(first, identity(&loaded, "aa"));
    }

    #[cfg(unix)]
    #[test]
    fn another_set_up_under_the_same_program_changes_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lock"), "version 1").unwrap();
        let set_up = "setup = { commands = [[\"true\"]], inputs = [\"lock\"] }";
        let loaded = suite(folder.path(), set_up);
        let make = || {
            let trainer = &loaded.suite.trainers[0];
            Site::of(&loaded, trainer)
                .unwrap()
                .make(false, &CancelToken::default(), &mut |_| ())
                .unwrap();
            identity(&loaded, "aa")
        };
        let first = make();
        std::fs::write(folder.path().join("lock"), "version 2").unwrap();
        assert_eq!(first, identity(&loaded, "aa"), "what is there has not changed yet");
        assert_ne!(first, make());
    }
}
