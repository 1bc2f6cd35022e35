//! The commands that a verb executes: set-ups, builds, probes, trainings, verifications.
//!
//! An [`Agenda`] makes each of them, in one place. `--dry-run` prints what it makes, and nothing else of a
//! suite is ever executed: whoever starts a program of a suite takes a [`Command`].

use crate::nodes;
use crate::plan::{self, Places, Row};
use crate::share;
use crate::suite::LoadedSuite;
use anyhow::{Context, Result, bail};
use indexmap::IndexSet;
use measure::helper::ended;
use measure::launch::{self, CancelToken, Exit, Job, LaunchError, Stream};
use measure::provenance::resolve_program;
use measure::text::one_line;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Bytes of an answer that are kept at most.
const LONGEST_ANSWER: usize = 1 << 20;
/// How long the next line of a program is waited for before it is asked whether it has ended.
const LISTEN: Duration = Duration::from_millis(100);
/// After SIGTERM, for a program to clean up: `make` removes what is half-written.
const TERM_GRACE: Duration = Duration::from_secs(3);
/// Stands for the folder of a single attempt, which has a new name each time, and for its devices.
const EACH_TIME: &str = "EACH-TIME";

/// The purpose of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    SetUp,
    Build,
    Probe,
    Train,
    /// Scores what a training predicted.
    Score,
    Verify,
    /// Verifies the reference that others are compared with.
    Refer,
}

/// For `--dry-run`.
impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::SetUp => "set up",
            Purpose::Build => "build",
            Purpose::Probe => "probe",
            Purpose::Train => "train",
            Purpose::Score => "score",
            Purpose::Verify => "verify, in ten steps or fewer, several times",
            Purpose::Refer => "verify the reference, which the rows are compared with",
        })
    }
}

/// One program to be started, with all that it is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub purpose: Purpose,
    /// The program and its arguments; never empty.
    pub words: Vec<String>,
    /// On top of the harness's own environment.
    pub environment: BTreeMap<String, String>,
    pub directory: PathBuf,
}

impl Command {
    /// Without an environment of its own.
    pub fn plain(purpose: Purpose, words: Vec<String>, directory: &Path) -> Command {
        Command { purpose, words, environment: BTreeMap::new(), directory: directory.to_owned() }
    }

    /// To be launched and measured.
    ///
    /// # Errors
    /// If the path of this executable cannot be found out.
    pub fn job(&self) -> Result<Job, LaunchError> {
        let mut job = Job::new(&self.words[0])?;
        job.args = self.words[1..].iter().map(Into::into).collect();
        let variables = self.environment.iter();
        job.env = variables.map(|(name, value)| (name.into(), value.into())).collect();
        job.cwd = Some(self.directory.clone().into());
        Ok(job)
    }

    /// Runs it as it is and hears each line that it prints. What it leaves behind (compilers have daemons) may
    /// keep its output open: that is not waited for. When it is cancelled, it is asked to end, with all of its process
    /// group unless that is the terminal's, and killed 3 s later.
    ///
    /// # Errors
    /// If it does not start.
    pub fn overhear(
        &self,
        cancel: &CancelToken,
        on_line: &mut dyn FnMut(&str),
    ) -> io::Result<ExitStatus> {
        let (output, input) = io::pipe()?;
        let mut process = std::process::Command::new(&self.words[0]);
        process.args(&self.words[1..]).envs(&self.environment).current_dir(&self.directory);
        process.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        // At a terminal it stays in the group that Ctrl-C reaches, and may ask for a passphrase.
        let has_group = File::open("/dev/tty").is_err();
        if has_group {
            process.process_group(0);
        }
        let mut child = launch::withhold(&mut process).spawn()?;
        // It holds the other ends of the pipe.
        drop(process);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            lines.map(|line| sender.send(line)).take_while(Result::is_ok).count()
        });
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let (mut status, mut is_silent) = (None, false);
        loop {
            if status.is_none() && cancel.is_cancelled() {
                return stop(&mut child, Pid::from_raw(if has_group { -pid } else { pid }), cancel);
            }
            if is_silent {
                status = status.map_or_else(|| ended(&mut child, LISTEN), |it| Ok(Some(it)))?;
                let Some(status) = status else { continue };
                return Ok(status);
            }
            match lines.recv_timeout(LISTEN) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line);
                    // A progress bar overwrites its line: the last state counts.
                    let last = line.trim_end().rsplit('\r').next().unwrap_or_default();
                    if !last.is_empty() {
                        on_line(last);
                    }
                }
                // Or what it printed before its end has arrived by then.
                Err(RecvTimeoutError::Timeout) if status.is_some() => is_silent = true,
                Err(RecvTimeoutError::Timeout) => status = child.try_wait()?,
                Err(RecvTimeoutError::Disconnected) => is_silent = true,
            }
        }
    }

    /// Its standard output, if it ends with 0 in time.
    ///
    /// # Errors
    /// One line on what went wrong.
    pub fn answer(&self, timeout: Duration, cancel: &CancelToken) -> Result<String> {
        let mut job = self.job()?;
        job.timeout = Some(timeout);
        let mut answer = String::new();
        let mut collect = |stream: Stream, line: &str| {
            if stream == Stream::Stdout && answer.len() + line.len() < LONGEST_ANSWER {
                answer.push_str(line);
                answer.push('\n');
            }
        };
        let named = || format!("`{}`", self.shown());
        let outcome = launch::run(&job, &mut collect, cancel).with_context(named)?;
        let after = match outcome.exit {
            Exit::Code(0) => return Ok(answer),
            Exit::TimedOut => format!(" after {} s", timeout.as_secs()),
            _ => String::new(),
        };
        let said = outcome.stderr_tail.trim();
        let colon = if said.is_empty() { "" } else { ": " };
        bail!("`{}`: {}{after}{colon}{said}", self.shown(), outcome.exit)
    }

    /// The words in one line, for messages.
    pub fn shown(&self) -> String {
        self.words.join(" ")
    }
}

/// Asks a child to end, or its group, the child and all that it has started, and kills what is left 3 s later, or when
/// that is urgent.
fn stop(child: &mut Child, target: Pid, cancel: &CancelToken) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + TERM_GRACE;
    let mut signal = Some(Signal::SIGTERM);
    // Until there is none left that a signal can reach.
    while kill(target, signal).is_ok() && signal != Some(Signal::SIGKILL) {
        child.try_wait()?;
        std::thread::sleep(LISTEN);
        let now = Instant::now() >= deadline || cancel.is_urgent();
        signal = now.then_some(Signal::SIGKILL);
    }
    child.wait()
}

/// As a POSIX shell takes it.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quote(value))?;
        }
        let words: Vec<String> = self.words.iter().map(|word| quote(word)).collect();
        f.write_str(&words.join(" "))
    }
}

/// A word as a POSIX shell takes it. Control characters, which a terminal would obey, are shown and no longer
/// the word's own.
pub fn quote(word: &str) -> String {
    let quoted = shlex::try_quote(word).map(|word| word.into_owned());
    one_line(&quoted.unwrap_or_else(|_| format!("{word:?}"))).into_owned()
}

/// The commands of a list, a line each, under a comment wherever something else is done.
pub fn listing(commands: &[Command]) -> String {
    let mut text = String::new();
    let mut last = None;
    for command in commands {
        let head = (command.purpose, &command.directory);
        if last != Some(head) {
            let folder = command.directory.display().to_string();
            text += &format!("# {}, in {}\n", command.purpose, one_line(&folder));
            last = Some(head);
        }
        text += &format!("{command}\n");
    }
    text
}

/// A suite with its data and options: all that its commands are made from.
pub struct Agenda<'a> {
    pub loaded: &'a LoadedSuite,
    /// The file or folder of the data; empty if there is none.
    pub data: PathBuf,
    pub allow_software: bool,
    /// The variables that show probes and scores the run's devices, if any are named: on others they would disturb
    /// whoever trains there.
    pub shown: BTreeMap<String, String>,
}

impl Agenda<'_> {
    /// Builds a trainer; `None` if there is nothing to build.
    ///
    /// # Errors
    /// If the suite's words cannot be filled in.
    pub fn build(&self, trainer: usize) -> Result<Option<Command>> {
        let declared = &self.loaded.suite.trainers[trainer];
        // The built-in suite comes without sources: its trainers were installed beside the harness.
        if declared.build.is_empty() || self.loaded.is_built_in() {
            return Ok(None);
        }
        let words =
            plan::fixed_command(self.loaded, declared, &declared.build, self.allow_software)?;
        Ok(Some(Command::plain(Purpose::Build, words, &self.loaded.root)))
    }

    /// Asks a trainer what it can do here; `None` if the suite declares no such command.
    ///
    /// # Errors
    /// If the suite's words cannot be filled in.
    pub fn probe(&self, trainer: usize) -> Result<Option<Command>> {
        let declared = &self.loaded.suite.trainers[trainer];
        if declared.probe.is_empty() {
            return Ok(None);
        }
        let mut words = plan::fixed_command(self.loaded, declared, &declared.probe, false)?;
        if self.allow_software {
            words.extend(declared.allow_software.iter().cloned());
        }
        Ok(Some(self.plain(Purpose::Probe, words)))
    }

    /// Trains a row, or verifies it: the same command, and another environment. `folder` belongs to this
    /// attempt alone; `shown` are the variables that show it its devices.
    ///
    /// # Errors
    /// If the suite's words cannot be filled in.
    pub fn attempt(
        &self,
        row: &Row,
        purpose: Purpose,
        folder: &Path,
        shown: &BTreeMap<String, String>,
    ) -> Result<Command> {
        let declared = &self.loaded.suite.trainers[row.trainer];
        let named = plan::program(self.loaded, declared)?;
        let program = resolve_program(&named).unwrap_or(named);
        let predictions = folder.join("predictions");
        let (data, allow_software) = (&*self.data, self.allow_software);
        let places = Places { program: &program, data, predictions: &predictions, allow_software };
        let mut words = plan::command(&self.loaded.suite, row, &places)?;
        if row.needs.nodes > 1 {
            words = nodes::srun(row.needs.nodes, words)?;
        }
        let mut environment = plan::environment(&self.loaded.suite, row);
        environment.extend(shown.clone());
        let text = |path: &Path| path.display().to_string();
        if self.loaded.suite.task().has_data() {
            environment.insert(protocol::env::DATA.to_owned(), text(data));
        }
        environment.extend([
            (protocol::env::PROTOCOL.to_owned(), protocol::VERSION.to_string()),
            (protocol::env::PREDICTIONS.to_owned(), text(&predictions)),
        ]);
        if purpose == Purpose::Verify {
            environment.insert(protocol::env::VERIFY.to_owned(), text(folder));
        }
        let directory =
            self.loaded.root.join(declared.directory.as_deref().unwrap_or(Path::new("")));
        Ok(Command { purpose, words, environment, directory })
    }

    /// Scores what a training predicted.
    pub fn score(&self, words: Vec<String>) -> Command {
        self.plain(Purpose::Score, words)
    }

    /// A command that is no row's. It sees the devices of the run.
    fn plain(&self, purpose: Purpose, words: Vec<String>) -> Command {
        let plain = Command::plain(purpose, words, &self.loaded.root);
        Command { environment: self.shown.clone(), ..plain }
    }

    /// All that is executed for these rows, each command once however often it is repeated: of every trainer
    /// the build and the probe, then the rows.
    ///
    /// # Errors
    /// If the suite's words cannot be filled in.
    pub fn commands(&self, rows: &[Row], purpose: Purpose) -> Result<Vec<Command>> {
        let mut commands = Vec::new();
        for trainer in trainers(rows) {
            commands.extend(self.build(trainer)?);
            commands.extend(self.probe(trainer)?);
        }
        for row in rows {
            let shown = match row.needs.devices.filter(|_| row.needs.nodes == 1) {
                Some(_) => BTreeMap::from([(share::INHERITED.to_owned(), EACH_TIME.to_owned())]),
                None => self.shown.clone(),
            };
            commands.push(self.attempt(row, purpose, Path::new(EACH_TIME), &shown)?);
        }
        if purpose == Purpose::Train {
            let predictions = Path::new(EACH_TIME).join("predictions");
            let scores =
                self.loaded.suite.task().metrics.values().filter_map(|it| it.score.as_ref());
            let words = scores.filter_map(|score| score.command(&predictions, &self.data));
            commands.extend(words.map(|words| self.score(words)));
        }
        Ok(commands)
    }
}

/// The trainers of some rows, each once, in the order of their first rows.
pub fn trainers(rows: &[Row]) -> IndexSet<usize> {
    rows.iter().map(|row| row.trainer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell_and_drive_no_terminal() {
        assert_eq!(quote("--epochs"), "--epochs");
        assert_eq!(quote("--lr=0.01"), "'--lr=0.01'");
        assert_eq!(quote("it's; rm"), r#""it's; rm""#);
        assert_eq!(quote(""), "''");
        assert!(!quote("a\u{1b}[2J'\\ü").contains('\u{1b}'));
    }
}
