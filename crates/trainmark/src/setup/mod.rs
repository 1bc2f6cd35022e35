//! Setting trainers up: what has to be on this machine before a trainer's program can run.
//!
//! A suite declares it ([`Setup`]): a locked Python environment, commands, or both. `trainmark setup`
//! carries it out, and nothing else ever does. Everything goes into `.trainmark/` under the suite's
//! root. A *stamp* there says what was made and from what; it is written last, so that an interrupted
//! set-up is no set-up, and one whose lock or files have changed is made anew.

mod environment;
mod stamp;

use crate::plan;
use crate::suite::{LoadedSuite, Trainer};
use serde::Deserialize;
use stamp::Stamp;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where everything of a set-up is, under the suite's root.
const FOLDER: &str = ".trainmark";

/// What a trainer needs, in the suite file.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Declared {
    /// The same as the trainer of that name.
    SameAs(String),
    Own(Box<Setup>),
}

/// A set-up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Lock files of a Python environment (pip's requirements, with hashes); the first that is for
    /// this machine is installed into `.trainmark/environments/NAME`.
    #[serde(default)]
    pub locks: Vec<Lock>,
    /// The oldest Python that the locks are for, for example `3.11`.
    #[serde(default)]
    pub python: Option<String>,
    /// Commands that are run from the suite's root, after the environment is there.
    #[serde(default)]
    pub commands: Vec<Vec<String>>,
    /// Files and folders of which a change calls for another set-up.
    #[serde(default)]
    pub inputs: Vec<PathBuf>,
}

/// A lock file and the machines that it is for; what is left out matches all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    pub file: PathBuf,
    /// `linux`, `macos`, `windows`.
    #[serde(default)]
    pub system: Option<String>,
    /// `x86_64`, `aarch64`.
    #[serde(default)]
    pub machine: Option<String>,
    /// Only where this file is, for example a GPU's device.
    #[serde(default)]
    pub if_exists: Option<PathBuf>,
}

impl Lock {
    fn is_for_this_machine(&self) -> bool {
        self.system.as_deref().is_none_or(|system| system == std::env::consts::OS)
            && self.machine.as_deref().is_none_or(|machine| machine == std::env::consts::ARCH)
            && self.if_exists.as_deref().is_none_or(Path::exists)
    }
}

/// How far a trainer is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Everything is there.
    Ready,
    /// Something is to be done: `trainmark setup` does it.
    Due(Due),
    /// It cannot be set up on this machine.
    Unavailable(String),
}

/// Why something is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    New,
    Interrupted,
    Changed,
}

impl Due {
    pub fn words(self) -> &'static str {
        match self {
            Due::New => "not set up",
            Due::Interrupted => "not set up: an earlier set-up was not finished",
            Due::Changed => "set up from what has changed since",
        }
    }
}

/// Why a set-up did not succeed: one line.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not to be had on this machine.
    #[error("{0}")]
    Unavailable(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

/// The set-up of one trainer.
pub struct Site<'a> {
    loaded: &'a LoadedSuite,
    trainer: &'a Trainer,
    setup: &'a Setup,
    lock: Option<&'a Lock>,
    /// The name of its folder and files: that of the trainer that declares it.
    name: String,
}

impl<'a> Site<'a> {
    /// `None` if the suite declares no set-up for the trainer.
    pub fn of(loaded: &'a LoadedSuite, trainer: &'a Trainer) -> Option<Site<'a>> {
        let declarer = match trainer.setup.as_ref()? {
            Declared::Own(_) => trainer,
            Declared::SameAs(name) => {
                loaded.suite.trainers.iter().find(|other| other.name == *name)?
            }
        };
        let Some(Declared::Own(setup)) = &declarer.setup else {
            return None; // the suite was checked: it names a trainer with a set-up of its own
        };
        let lock = setup.locks.iter().find(|lock| lock.is_for_this_machine());
        Some(Site { loaded, trainer, setup, lock, name: slug(&declarer.name) })
    }

    /// A digest of what the set-up that is there was made from; `None` if there is none.
    pub fn made_from(&self) -> Option<String> {
        Stamp::read(&self.stamp()).map(|stamp| stamp.fingerprint)
    }

    /// How far it is. Reads files only.
    pub fn state(&self) -> State {
        if self.lock.is_none() && !self.setup.locks.is_empty() {
            let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
            return State::Unavailable(format!(
                "{} has no lock file for {system} on {machine}",
                self.trainer.name
            ));
        }
        let due = match Stamp::read(&self.stamp()) {
            None if self.unfinished().exists() => Due::Interrupted,
            None => Due::New,
            Some(stamp) if self.fingerprint().ok() != Some(stamp.fingerprint.clone()) => {
                Due::Changed
            }
            Some(stamp) if !environment::is_of_the_chosen_python(&stamp) => Due::Changed,
            Some(_) if !self.program_is_there() => Due::Interrupted,
            Some(_) => return State::Ready,
        };
        State::Due(due)
    }

    /// What was made: the environment's folder, or the program.
    pub fn made(&self) -> PathBuf {
        match self.lock {
            Some(_) => self.environment(),
            None => plan::program(self.loaded, self.trainer).unwrap_or_default(),
        }
    }

    /// Where the commands' output goes.
    pub fn log(&self) -> PathBuf {
        self.folder().join(format!("{}.log", self.name))
    }

    /// Makes everything that is missing. `say` is told of each step; with `verbose` the commands'
    /// output goes to standard error and not into [`Site::log`].
    ///
    /// # Errors
    /// [`SetupError::Unavailable`] if this machine cannot have it.
    pub fn make(&self, verbose: bool, say: &mut dyn FnMut(&str)) -> Result<(), SetupError> {
        let failed = |what: &str, error: std::io::Error| {
            SetupError::Failed(format!("{}: {what}: {error}", self.folder().display()))
        };
        fs::create_dir_all(self.folder()).map_err(|error| failed("cannot be made", error))?;
        // Two at once would work in the same environment; the second waits, and finds all done.
        let turn = File::create(self.folder().join(format!("{}.lock", self.name)))
            .map_err(|error| failed("cannot be written to", error))?;
        if turn.try_lock().is_err() {
            say("waiting for another set-up of it");
            turn.lock().map_err(|error| failed("cannot be locked", error))?;
        }
        let due = match self.state() {
            State::Ready => return Ok(()),
            State::Unavailable(reason) => return Err(SetupError::Unavailable(reason)),
            State::Due(due) => due,
        };
        let fingerprint = self.fingerprint()?;
        let continues = due == Due::Interrupted
            && fs::read_to_string(self.unfinished()).is_ok_and(|begun| begun == fingerprint);
        let _ = fs::remove_file(self.stamp());
        fs::write(self.unfinished(), &fingerprint)
            .map_err(|error| failed("cannot be written to", error))?;
        let runner = Runner { folder: &self.loaded.root, log: (!verbose).then(|| self.log()) };
        if !verbose {
            let _ = fs::remove_file(self.log());
        }
        let mut python = None;
        if let Some(lock) = self.lock {
            let place = self.environment();
            let lock = self.loaded.root.join(&lock.file);
            let oldest = self.setup.python.as_deref();
            python = Some(environment::make(&place, &lock, oldest, continues, &runner, say)?);
        }
        for command in &self.setup.commands {
            let words = plan::fixed_command(self.loaded, self.trainer, command)
                .map_err(SetupError::Failed)?;
            say(&words.join(" "));
            runner.run(&words)?;
        }
        if !self.program_is_there() {
            let program = plan::program(self.loaded, self.trainer).unwrap_or_default();
            let reason = format!("everything ran, but {} is not there", program.display());
            return Err(SetupError::Failed(reason));
        }
        Stamp { fingerprint, python }
            .write(&self.stamp())
            .map_err(|error| failed("cannot be written to", error))?;
        let _ = fs::remove_file(self.unfinished());
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        self.loaded.root.join(FOLDER).join("setup")
    }

    fn stamp(&self) -> PathBuf {
        self.folder().join(format!("{}.json", self.name))
    }

    /// Is there while a set-up is under way, or after one that was interrupted.
    fn unfinished(&self) -> PathBuf {
        self.folder().join(format!("{}.unfinished", self.name))
    }

    fn environment(&self) -> PathBuf {
        self.loaded.root.join(FOLDER).join("environments").join(&self.name)
    }

    fn program_is_there(&self) -> bool {
        plan::program(self.loaded, self.trainer)
            .ok()
            .and_then(|program| crate::provenance::resolve_program(&program))
            .is_some()
    }

    /// What the set-up is made from: a change of it calls for another.
    fn fingerprint(&self) -> Result<String, SetupError> {
        let lock = self.lock.map(|lock| lock.file.as_path());
        let files = lock.into_iter().chain(self.setup.inputs.iter().map(PathBuf::as_path));
        stamp::fingerprint(&self.loaded.root, files, &self.setup.commands)
            .map_err(|reason| SetupError::Failed(format!("{}: {reason}", self.trainer.name)))
    }
}

/// A digest of files and folders under a suite's root; what is made in them (`target`, `__pycache__`) is
/// left out.
///
/// # Errors
/// If one of them cannot be read; the message names it.
pub fn digest_of(root: &Path, inputs: &[PathBuf]) -> Result<String, String> {
    stamp::fingerprint(root, inputs.iter().map(PathBuf::as_path), &[])
}

/// A name as a file's: `PyTorch compiled` is `pytorch-compiled`.
fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(plain).collect()
}

/// Runs the commands of a set-up.
struct Runner<'a> {
    folder: &'a Path,
    /// Where their output goes; standard error if there is none.
    log: Option<PathBuf>,
}

impl Runner<'_> {
    fn run(&self, words: &[String]) -> Result<(), SetupError> {
        let shown = words.join(" ");
        let (output, errors) = self.streams()?;
        let status = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(self.folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .status()
            .map_err(|error| SetupError::Failed(format!("`{shown}` does not start: {error}")))?;
        if status.success() {
            return Ok(());
        }
        let said = self.log.as_deref().map(last_words).unwrap_or_default();
        let log = self.log.as_ref().map_or(String::new(), |log| format!("; see {}", log.display()));
        let reason = format!("`{}` ended with {status}: {said}{log}", shorten(&shown));
        match said.contains("No matching distribution found") && !self.is_offline() {
            true => Err(SetupError::Unavailable(said)),
            false => Err(SetupError::Failed(reason)),
        }
    }

    fn streams(&self) -> Result<(Stdio, Stdio), SetupError> {
        let Some(log) = &self.log else {
            return Ok((std::io::stderr().into(), Stdio::inherit()));
        };
        let open = || -> std::io::Result<(Stdio, Stdio)> {
            let file = File::options().create(true).append(true).open(log)?;
            Ok((file.try_clone()?.into(), file.into()))
        };
        open().map_err(|error| SetupError::Failed(format!("{}: {error}", log.display())))
    }

    /// Whether pip said that it reached nobody: it then finds no version of anything either.
    fn is_offline(&self) -> bool {
        let log = self.log.as_deref().and_then(|log| fs::read_to_string(log).ok());
        log.is_some_and(|log| {
            log.contains("connection broken") || log.contains("Failed to establish")
        })
    }
}

/// The line of a log that says what went wrong: the last that begins like an error, else the last.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| line.to_ascii_lowercase().starts_with("error");
    let line = lines().find(is_error).or_else(|| lines().next()).unwrap_or("it said nothing");
    shorten(line)
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_for_the_machines_that_it_names() {
        let lock = |text: &str| toml::from_str::<Lock>(text).unwrap();
        assert!(lock("file = \"a\"").is_for_this_machine());
        let here = format!(
            "file = \"a\"\nsystem = \"{}\"\nmachine = \"{}\"",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        assert!(lock(&here).is_for_this_machine());
        assert!(!lock("file = \"a\"\nsystem = \"plan9\"").is_for_this_machine());
        assert!(!lock("file = \"a\"\nif_exists = \"/no/such/device\"").is_for_this_machine());
    }

    #[test]
    fn the_line_that_says_what_went_wrong_is_found() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text = "Collecting x\nERROR: Hash mismatch\n  Expected aa\n  Got bb\n\n";
        fs::write(log.path(), text).unwrap();
        assert_eq!(last_words(log.path()), "ERROR: Hash mismatch");
        fs::write(log.path(), "one\ntwo\n").unwrap();
        assert_eq!(last_words(log.path()), "two");
        assert_eq!(slug("PyTorch compiled"), "pytorch-compiled");
    }
}
