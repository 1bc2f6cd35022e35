//! Setting trainers up: what has to be on this machine before a trainer's program can run.
//!
//! A suite declares it ([`Setup`]): a locked Python environment, commands, or both. `trainmark setup`
//! carries it out, and nothing else ever does. Everything goes into `.trainmark/` under the suite's
//! root. A *stamp* there says what was made and from what; it is written last, so that an interrupted
//! set-up is no set-up, and one whose lock or files have changed is made anew.

mod environment;
pub mod needs;
mod runner;
mod stamp;

use crate::command::{Command, Purpose};
use crate::plan;
use crate::suite::{LoadedSuite, Trainer};
use files::Kind;
use measure::provenance::resolve_program;
use needs::{Declared, Lock, Setup};
use runner::Runner;
pub use runner::SetupError;
use stamp::Stamp;
use std::fs;
use std::path::{Path, PathBuf};

/// Where everything of a set-up is, under the suite's root.
const FOLDER: &str = ".trainmark";

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
            Due::Interrupted => "not set up: an earlier set-up did not finish",
            Due::Changed => "set up from files that have changed since",
        }
    }
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
        let inputs = &self.setup.inputs;
        if let Some(missing) = inputs.iter().find(|path| !self.loaded.root.join(path).exists())
            && self.loaded.is_built_in()
        {
            let (name, missing) = (&self.trainer.name, missing.display());
            return State::Unavailable(format!(
                "{name} is compiled from {missing}, which is only in a checkout of the project"
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

    /// The result: the environment's folder, or the program.
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
        let turn = files::create(&self.folder().join(format!("{}.lock", self.name)))
            .map_err(|error| failed("cannot be written to", error))?;
        if turn.try_lock().is_err() {
            say("waiting for another process that sets it up");
            turn.lock().map_err(|error| failed("cannot be locked", error))?;
        }
        let due = match self.state() {
            State::Ready => return Ok(()),
            State::Unavailable(reason) => return Err(SetupError::Unavailable(reason)),
            State::Due(due) => due,
        };
        let fingerprint = self.fingerprint()?;
        let continues = due == Due::Interrupted
            && files::read_text(&self.unfinished(), Kind::NOTE).is_ok_and(|it| it == fingerprint);
        let _ = fs::remove_file(self.stamp());
        files::replace(&self.unfinished(), fingerprint.as_bytes())
            .map_err(|error| failed("cannot be written to", error))?;
        let runner = Runner { log: (!verbose).then(|| self.log()) };
        if !verbose {
            let _ = fs::remove_file(self.log());
        }
        let base = self.base()?;
        let made = self.lock.is_some() && continues && environment::works(&self.environment());
        if self.lock.is_some() && !made && self.environment().exists() {
            fs::remove_dir_all(self.environment())
                .map_err(|error| failed("the old environment cannot be removed", error))?;
        }
        for command in self.commands(base.as_deref(), made).map_err(SetupError::Failed)? {
            say(&command.shown());
            runner.run(&command)?;
        }
        if !self.program_is_there() {
            let program = plan::program(self.loaded, self.trainer).unwrap_or_default();
            let reason = format!("all commands succeeded, but {} is not there", program.display());
            return Err(SetupError::Failed(reason));
        }
        Stamp { fingerprint, python: base }
            .write(&self.stamp())
            .map_err(|error| failed("cannot be written to", error))?;
        let _ = fs::remove_file(self.unfinished());
        Ok(())
    }

    /// What a set-up would execute now; nothing where all is there. Which Python it would be is asked of those
    /// in `PATH`; nothing of the suite is run.
    ///
    /// # Errors
    /// If it cannot be set up on this machine, or the suite's words cannot be filled in.
    pub fn due(&self) -> Result<Vec<Command>, String> {
        match self.state() {
            State::Due(_) => {
                let base = self.base().map_err(|error| error.to_string())?;
                self.commands(base.as_deref(), false)
            }
            State::Ready | State::Unavailable(_) => Ok(Vec::new()),
        }
    }

    /// The Python that the environment is made with, if there is to be one.
    fn base(&self) -> Result<Option<PathBuf>, SetupError> {
        self.lock.map(|_| environment::find(self.setup.python.as_deref())).transpose()
    }

    /// All commands of a set-up, but for the making of an environment that is `made` already.
    fn commands(&self, python: Option<&Path>, made: bool) -> Result<Vec<Command>, String> {
        let root = &self.loaded.root;
        let plain = |words| Command::plain(Purpose::SetUp, words, root);
        let mut commands = Vec::new();
        if let Some(lock) = self.lock {
            let (place, lock) = (self.environment(), root.join(&lock.file));
            let python = python.unwrap_or(Path::new("python3"));
            commands.extend((!made).then(|| plain(environment::make(python, &place))));
            commands.push(plain(environment::install(&place, &lock)));
        }
        for words in &self.setup.commands {
            commands.push(plain(plan::fixed_command(self.loaded, self.trainer, words, false)?));
        }
        Ok(commands)
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
            .and_then(|program| resolve_program(&program))
            .is_some()
    }

    /// The digest of the sources of the set-up: if it changes, the set-up is made again.
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
