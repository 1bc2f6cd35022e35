//! Setting trainers up: what has to be on this machine before a trainer's program can run.
//!
//! A suite declares it ([`Setup`]): a locked Python environment, commands, or both. `trainmark setup`
//! carries it out, and nothing else ever does. Everything goes into `.trainmark/` under the suite's
//! root. A *stamp* there says what was made, from what, and whether it was finished, so that an interrupted
//! set-up is no set-up, and one whose lock or files have changed is made anew.

mod environment;
pub mod needs;
mod runner;
mod stamp;

use crate::command::{Command, Purpose};
use crate::plan;
use crate::suite::{LoadedSuite, Trainer};
use anyhow::{Context, Result, bail, ensure};
use measure::launch::CancelToken;
use measure::provenance::resolve_program;
use needs::{Declared, Lock, Setup};
pub use runner::Unavailable;
use stamp::Stamp;
use std::fs::{self, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where everything of a set-up is, under the suite's root.
const FOLDER: &str = ".trainmark";
/// Between two looks whether another process has finished.
const TURN_INTERVAL: Duration = Duration::from_millis(100);

/// How far a trainer is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Everything is there.
    Ready,
    /// Something is to be done, and `trainmark setup` does it: why.
    Due(&'static str),
    /// Everything is there, made from files that have changed since.
    Outdated,
    /// It cannot be set up on this machine.
    Unavailable(String),
}

/// What is said of one that is outdated.
pub const OUTDATED: &str = "set up from files that have changed since";

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
        let finished = Stamp::read(&self.stamp()).filter(|stamp| !stamp.unfinished);
        finished.map(|stamp| stamp.fingerprint)
    }

    /// How far it is. Reads files only.
    pub fn state(&self) -> State {
        let stamp = Stamp::read(&self.stamp());
        if stamp.as_ref().is_some_and(|it| it.installed) && is_there(self.loaded, self.trainer) {
            return State::Ready;
        }
        if self.lock.is_none() && self.has_packages() {
            let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
            return State::Unavailable(format!(
                "{} has no lock file for {system} on {machine}",
                self.trainer.name
            ));
        }
        if let Some(device) = self.setup.missing_device() {
            return State::Unavailable(format!("{} needs {device}", self.trainer.name));
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
        let due = match stamp {
            None => "not set up",
            Some(stamp) if !stamp.unfinished && !self.is_of(&stamp) => return State::Outdated,
            Some(stamp) if !stamp.unfinished && is_there(self.loaded, self.trainer) => {
                return State::Ready;
            }
            Some(_) => "not set up: an earlier set-up did not finish",
        };
        match self.setup.missing_program() {
            Some(program) => State::Unavailable(format!(
                "{} needs {} in PATH",
                self.trainer.name,
                program.display()
            )),
            None => State::Due(due),
        }
    }

    /// Whether it is a Python environment.
    pub fn has_packages(&self) -> bool {
        !self.setup.locks.is_empty()
    }

    /// Uses a Python of the user's and the packages that it has, in the place of an environment. What else the
    /// set-up would do is left out: it is for the locked packages.
    ///
    /// # Errors
    /// If that Python does not start, or the folder cannot be written to.
    pub fn refer(&self, python: &Path) -> Result<()> {
        let named = || format!("--installed {}", python.display());
        let found = resolve_program(python).context("it is not there").with_context(named)?;
        let packages = environment::packages(&found).with_context(named)?;
        let refer = || {
            if self.environment().exists() {
                fs::remove_dir_all(self.environment())?;
            }
            environment::refer(&self.environment(), &found)?;
            fs::create_dir_all(self.folder())?;
            let fingerprint = stamp::of_packages(&packages);
            let python = Some(found.clone());
            Stamp { fingerprint, python, installed: true, unfinished: false }.write(&self.stamp())
        };
        refer().with_context(|| self.folder().display().to_string())
    }

    /// The result: the environment's folder, or the program.
    pub fn made(&self) -> PathBuf {
        match self.has_packages() {
            true => self.environment(),
            false => plan::program(self.loaded, self.trainer).unwrap_or_default(),
        }
    }

    /// Where the commands' output goes.
    pub fn log(&self) -> PathBuf {
        self.folder().join(format!("{}.log", self.name))
    }

    /// Makes everything that is missing, until it is cancelled. `say` is told of each step; with `verbose` the commands'
    /// output goes to standard error and not into [`Site::log`].
    ///
    /// # Errors
    /// [`Unavailable`] if this machine cannot have it.
    pub fn make(
        &self,
        verbose: bool,
        cancel: &CancelToken,
        say: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let cannot = || format!("{}: cannot be written to", self.folder().display());
        fs::create_dir_all(self.folder()).with_context(cannot)?;
        // Two at once would work in the same environment; the second waits, and finds all done.
        let turn = files::create(&self.folder().join(format!("{}.lock", self.name)));
        let turn = turn.with_context(cannot)?;
        let mut waits = false;
        while let Err(error) = turn.try_lock() {
            if let TryLockError::Error(error) = error {
                return Err(error).with_context(cannot);
            }
            if let Some(reason) = cancel.reason() {
                bail!(reason);
            }
            if !waits {
                say("waiting for another process that sets it up");
            }
            waits = true;
            std::thread::sleep(TURN_INTERVAL);
        }
        match self.state() {
            State::Ready => return Ok(()),
            State::Unavailable(reason) => bail!(Unavailable(reason)),
            State::Due(_) | State::Outdated => {}
        }
        let fingerprint = self.fingerprint()?;
        let mut stamp = Stamp { fingerprint, python: None, installed: false, unfinished: true };
        let earlier = Stamp::read(&self.stamp());
        stamp.write(&self.stamp()).with_context(cannot)?;
        let mut log = files::create(&self.log()).with_context(cannot)?;
        let mut hear = |line: &str| match verbose {
            true => eprintln!("{line}"),
            // Without a log there is still the reason.
            false => drop(writeln!(log, "{line}")),
        };
        stamp.python = self.base()?;
        // As an interrupted set-up left it.
        let goes_on =
            earlier.is_some_and(|it| it.unfinished && it.fingerprint == stamp.fingerprint);
        let made = self.lock.is_some() && goes_on && environment::works(&self.environment());
        if self.lock.is_some() && !made && self.environment().exists() {
            fs::remove_dir_all(self.environment()).with_context(cannot)?;
        }
        let see = if verbose { String::new() } else { format!("; see {}", self.log().display()) };
        for command in self.commands(stamp.python.as_deref(), made)? {
            say(&command.shown());
            runner::run(&command, cancel, &mut hear, &see)?;
        }
        let program = plan::program(self.loaded, self.trainer)?;
        let there = is_there(self.loaded, self.trainer);
        ensure!(there, "all commands succeeded, but {} is not there", program.display());
        stamp.unfinished = false;
        stamp.write(&self.stamp()).with_context(cannot)
    }

    /// What a set-up would execute now; nothing where all is there. Which Python it would be is asked of those
    /// in `PATH`; nothing of the suite is run.
    ///
    /// # Errors
    /// If it cannot be set up on this machine, or the suite's words cannot be filled in.
    pub fn due(&self) -> Result<Vec<Command>> {
        match self.state() {
            State::Due(_) | State::Outdated => self.commands(self.base()?.as_deref(), false),
            State::Ready | State::Unavailable(_) => Ok(Vec::new()),
        }
    }

    /// The Python that the environment is made with, if there is to be one.
    fn base(&self) -> Result<Option<PathBuf>> {
        self.lock.map(|_| environment::find(self.setup.python.as_deref())).transpose()
    }

    /// All commands of a set-up, but for the making of an environment that is `made` already.
    fn commands(&self, python: Option<&Path>, made: bool) -> Result<Vec<Command>> {
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

    fn environment(&self) -> PathBuf {
        self.loaded.root.join(FOLDER).join("environments").join(&self.name)
    }

    /// Whether a set-up made now would be the same.
    fn is_of(&self, stamp: &Stamp) -> bool {
        environment::is_of_the_chosen_python(stamp)
            && self.fingerprint().is_ok_and(|fingerprint| fingerprint == stamp.fingerprint)
    }

    /// The digest of the sources of the set-up: if it changes, the set-up is made again.
    fn fingerprint(&self) -> Result<String> {
        let lock = self.lock.map(|lock| lock.file.as_path());
        let files = lock.into_iter().chain(self.setup.inputs.iter().map(PathBuf::as_path));
        stamp::fingerprint(&self.loaded.root, files, &self.setup.commands)
            .with_context(|| self.trainer.name.clone())
    }
}

/// Whether a trainer's program is on this machine.
pub fn is_there(loaded: &LoadedSuite, trainer: &Trainer) -> bool {
    plan::program(loaded, trainer).is_ok_and(|program| resolve_program(&program).is_some())
}

/// A digest of files and folders under a suite's root; what is made in them (`target`, `__pycache__`) is
/// left out.
///
/// # Errors
/// If one of them cannot be read; the message names it.
pub fn digest_of(root: &Path, inputs: &[PathBuf]) -> Result<String> {
    stamp::fingerprint(root, inputs.iter().map(PathBuf::as_path), &[])
}

/// A name as a file's: `PyTorch compiled` is `pytorch-compiled`.
fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(plain).collect()
}
