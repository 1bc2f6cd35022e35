//! Making trainers ready: building them, and asking them what they can do here.

use crate::cmd::run::quote;
use crate::launch;
use crate::live::Step;
use crate::plan::{fixed_command, program};
use crate::provenance::{resolve_program, sha256_of_file};
use crate::report::console::one_line;
use crate::setup::{self, Due, Site, State};
use crate::suite::{LoadedSuite, Trainer};
use protocol::Probe;
use record::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long `--probe` may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a probe's answer that are read at most.
const PROBE_LIMIT: usize = 1 << 20;
/// Of a builder that ended badly, as many of its lines are shown.
const BUILDERS_LAST_LINES: usize = 100;
/// How long a builder's next line is waited for before it is asked whether it has ended.
const LISTEN: Duration = Duration::from_millis(100);

/// A trainer that can be started, as far as is known before a combination of it runs.
#[derive(Clone, Debug)]
pub struct Ready {
    pub program: PathBuf,
    pub sha256: Option<String>,
    /// What it said to `--probe`; `None` if the suite declares no probe.
    pub probe: Option<Probe>,
}

/// Why a trainer cannot be started.
#[derive(Clone, Debug, PartialEq)]
pub enum NotReady {
    /// Its build ended badly.
    BuildFailed(String),
    /// Its program is not there or does not start.
    NotStarted(String),
    /// It has to be set up first, or cannot be on this machine.
    NotSetUp(String),
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReady::BuildFailed(reason) => write!(f, "build failed: {reason}"),
            NotReady::NotStarted(reason) | NotReady::NotSetUp(reason) => f.write_str(reason),
        }
    }
}

impl NotReady {
    /// What its combinations have come to.
    pub fn status(&self) -> Status {
        match self {
            NotReady::BuildFailed(_) => Status::BuildFailed,
            NotReady::NotStarted(_) => Status::NotStarted,
            NotReady::NotSetUp(_) => Status::Unavailable,
        }
    }

    pub fn reason(&self) -> &str {
        let (NotReady::BuildFailed(it) | NotReady::NotStarted(it) | NotReady::NotSetUp(it)) = self;
        it
    }
}

/// Who looks on while trainers, by their names, are made ready.
pub trait Watch {
    /// Whether it shows each step itself. Else a builder's output goes to standard error as it comes.
    fn shows_steps(&self) -> bool;

    /// A step begins, or its program said something.
    fn step(&mut self, trainer: &str, step: Step, said: &str);

    /// A trainer is ready, or cannot be.
    fn settled(&mut self, trainer: &str, not_ready: Option<&NotReady>);

    /// A line that a person should see.
    fn tell(&mut self, line: &str);
}

/// Everything goes to standard error.
pub struct Plain;

impl Watch for Plain {
    fn shows_steps(&self) -> bool {
        false
    }

    fn step(&mut self, _: &str, _: Step, _: &str) {}

    fn settled(&mut self, _: &str, _: Option<&NotReady>) {}

    fn tell(&mut self, line: &str) {
        eprintln!("{line}");
    }
}

/// Builds a trainer as its suite says.
///
/// # Errors
/// If the builder cannot be started or ends badly.
pub fn build(
    loaded: &LoadedSuite,
    trainer: &Trainer,
    watch: &mut dyn Watch,
) -> Result<(), NotReady> {
    // The built-in suite comes without sources: its trainers were installed beside the harness.
    if trainer.build.is_empty() || loaded.is_built_in() {
        return Ok(());
    }
    let words = fixed_command(loaded, trainer, &trainer.build).map_err(NotReady::BuildFailed)?;
    let shown = words.join(" ");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(&loaded.root).stdin(Stdio::null());
    let status = if watch.shows_steps() {
        watch.step(&trainer.name, Step::Building, "");
        let mut last = VecDeque::new();
        let status = overheard(command, &mut |line| {
            watch.step(&trainer.name, Step::Building, line);
            last.truncate(BUILDERS_LAST_LINES - 1);
            last.push_front(line.to_owned());
        });
        if !matches!(&status, Ok(status) if status.success()) {
            for line in last.iter().rev() {
                watch.tell(&one_line(line));
            }
        }
        status
    } else {
        watch.tell(&one_line(&format!("Building {}: {shown}", trainer.name)));
        command.stdout(std::io::stderr()).status()
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(NotReady::BuildFailed(format!("`{shown}` ended with {status}"))),
        Err(error) => Err(NotReady::BuildFailed(format!("`{shown}` does not start: {error}"))),
    }
}

/// Runs a program and hears each line that it says. What it leaves behind (compilers have daemons) may
/// keep its output open: that is not waited for.
fn overheard(
    mut command: Command,
    on_line: &mut dyn FnMut(&str),
) -> std::io::Result<std::process::ExitStatus> {
    let (mut output, input) = std::io::pipe()?;
    let mut child = command.stdout(input.try_clone()?).stderr(input).spawn()?;
    drop(command); // it has the pipe open too
    let listen = Timespec { tv_sec: 0, tv_nsec: LISTEN.subsec_nanos().into() };
    let (mut ended, mut heard, mut chunk) = (None, Vec::new(), [0; 4096]);
    loop {
        // What it said before its end is in the pipe by then, however late this process is to look.
        match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&listen)) {
            Ok(0) if ended.is_some() => break,
            Ok(0) => {
                ended = child.try_wait()?;
                continue;
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let count = output.read(&mut chunk)?;
        heard.extend_from_slice(&chunk[..count]);
        while let Some(end) = memchr::memchr(b'\n', &heard) {
            say(&heard.drain(..=end).collect::<Vec<u8>>(), on_line);
        }
        if count == 0 {
            break;
        }
    }
    say(&heard, on_line);
    ended.map_or_else(|| child.wait(), Ok)
}

/// What a bar was drawn over with is its last state.
fn say(line: &[u8], on_line: &mut dyn FnMut(&str)) {
    let line = String::from_utf8_lossy(line);
    let last = line.trim_end().rsplit('\r').next().unwrap_or_default();
    if !last.is_empty() {
        on_line(last);
    }
}

/// Finds a trainer's program and asks it what it can do on this machine.
///
/// # Errors
/// If the program is not there, or its probe does not answer as it should.
pub fn ready(
    loaded: &LoadedSuite,
    trainer: &Trainer,
    allow_software: bool,
    cancel: &launch::CancelToken,
    watch: &mut dyn Watch,
) -> Result<Ready, NotReady> {
    let named = program(loaded, trainer).map_err(NotReady::NotStarted)?;
    if let Some(reason) = not_set_up(loaded, trainer, watch) {
        return Err(NotReady::NotSetUp(reason));
    }
    if let Err(reason) = setup::digest_of(&loaded.root, &trainer.inputs) {
        return Err(NotReady::NotStarted(format!("the suite's `inputs`: {reason}")));
    }
    let Some(program) = resolve_program(&named) else {
        let hint = match trainer.build.is_empty() {
            true => "install it, or name its path in the suite's `program`".to_owned(),
            // Nothing was built: its sources are not here.
            false if loaded.is_built_in() => format!(
                "the built-in suite takes its trainer from beside `trainmark`: install {} there, or run \
                 in a checkout of the project, or name another suite with --suite",
                named.file_name().unwrap_or_default().display()
            ),
            false => "its build did not make it; check the suite's `program`".to_owned(),
        };
        let reason = format!("the program {} is not there: {hint}", named.display());
        return Err(NotReady::NotStarted(reason));
    };
    let probe = match trainer.probe.is_empty() {
        true => None,
        false => Some(ask(loaded, trainer, allow_software, cancel)?),
    };
    Ok(Ready { sha256: sha256_of_file(&program).ok(), program, probe })
}

/// Why a trainer's set-up keeps it from running. One that is out of date does not: that is said, and
/// the record has the versions that ran.
fn not_set_up(loaded: &LoadedSuite, trainer: &Trainer, watch: &mut dyn Watch) -> Option<String> {
    let site = Site::of(loaded, trainer)?;
    let command =
        format!("`trainmark setup {} --suite {}`", quote(&trainer.name), quote(&loaded.origin));
    match site.state() {
        State::Ready => None,
        State::Unavailable(reason) => Some(reason),
        State::Due(Due::Changed) => {
            let words = Due::Changed.words();
            let warning = format!("{}: {words}; {command} renews it", trainer.name);
            watch.tell(&format!("warning: {}", one_line(&warning)));
            None
        }
        State::Due(due) => Some(format!("{}; {command} sees to it", due.words())),
    }
}

fn ask(
    loaded: &LoadedSuite,
    trainer: &Trainer,
    allow_software: bool,
    cancel: &launch::CancelToken,
) -> Result<Probe, NotReady> {
    let mut words = fixed_command(loaded, trainer, &trainer.probe).map_err(NotReady::NotStarted)?;
    if allow_software {
        words.extend(trainer.allow_software.iter().cloned());
    }
    let shown = words.join(" ");
    let failed = |what: String| NotReady::NotStarted(format!("`{shown}` {what}"));
    let mut job = launch::Job::new(&words[0]).map_err(|error| failed(error.to_string()))?;
    job.args = words[1..].iter().map(Into::into).collect();
    job.cwd = Some(loaded.root.clone().into());
    job.timeout = Some(PROBE_TIMEOUT);
    let mut answer = String::new();
    let mut collect = |stream: launch::Stream, line: &str| {
        if stream == launch::Stream::Stdout && answer.len() + line.len() < PROBE_LIMIT {
            answer.push_str(line);
            answer.push('\n');
        }
    };
    let outcome =
        launch::run(&job, &mut collect, cancel).map_err(|error| failed(error.to_string()))?;
    if outcome.exit != launch::Exit::Code(0) {
        return Err(failed(format!("ended with {}", outcome.exit)));
    }
    serde_json::from_str(&answer).map_err(|error| failed(format!("gave no probe: {error}")))
}

impl Ready {
    /// Why a backend cannot be used here, whatever the model.
    pub fn lacks(&self, backend: &str) -> Option<String> {
        let found = self.probe.as_ref()?.backends.iter().find(|known| known.backend == backend)?;
        found.unavailable.clone()
    }

    /// Why a backend cannot train a model here; `None` if it can, as far as the trainer knows.
    pub fn unavailable(&self, trainer: &str, backend: &str, model: &str) -> Option<String> {
        let probe = self.probe.as_ref()?;
        let Some(found) = probe.backends.iter().find(|known| known.backend == backend) else {
            return Some(format!("{trainer} does not know the backend {backend}"));
        };
        if let Some(reason) = &found.unavailable {
            return Some(reason.clone());
        }
        let trains = found.models.is_empty() || found.models.iter().any(|known| known == model);
        (!trains).then(|| format!("{trainer} does not train {model} on {backend}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::BackendProbe;

    /// Shows steps, and keeps all that it is told.
    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Watch for Heard {
        fn shows_steps(&self) -> bool {
            true
        }

        fn step(&mut self, trainer: &str, step: Step, said: &str) {
            self.0.push(format!("{trainer} {step:?} {said}"));
        }

        fn settled(&mut self, _: &str, _: Option<&NotReady>) {}

        fn tell(&mut self, line: &str) {
            self.0.push(line.to_owned());
        }
    }

    fn built(script: &str) -> (Result<(), NotReady>, Vec<String>) {
        let text = format!(
            "name = \"s\"\n[models.m]\n[[trainers]]\nname = \"T\"\nprogram = \"t\"\ncommand = [\"t\"]\n\
             backends = [\"cpu\"]\nbuild = [\"sh\", \"-c\", {script:?}]\n[trainers.models.m]\nprefix = \"p\"\n"
        );
        let loaded = LoadedSuite::of_text(text, "mine.toml", std::env::temp_dir()).unwrap();
        let mut heard = Heard::default();
        let result = build(&loaded, &loaded.suite.trainers[0], &mut heard);
        (result, heard.0)
    }

    #[test]
    fn a_build_is_heard_line_by_line_and_what_it_leaves_behind_is_not_waited_for() {
        let (result, heard) = built("echo one; echo 'a bar\\ranother' >&2; sleep 20 & echo two");
        assert_eq!(result, Ok(()));
        let lines = ["", "one", "another", "two"].map(|line| format!("T Building {line}"));
        assert_eq!(heard, lines);
    }

    #[test]
    fn of_a_build_that_ends_badly_the_last_lines_stay() {
        let (result, heard) = built("seq 1 150; exit 3");
        assert!(result.unwrap_err().to_string().ends_with("ended with exit status: 3"));
        let stays: Vec<&str> = heard[151..].iter().map(String::as_str).collect();
        let expected: Vec<String> = (51..=150).map(|number| number.to_string()).collect();
        assert_eq!(stays, expected);
    }

    #[test]
    fn what_the_probe_does_not_offer_is_unavailable_with_its_reason() {
        let backend = |backend: &str, unavailable: Option<&str>, models: &[&str]| BackendProbe {
            backend: backend.into(),
            unavailable: unavailable.map(Into::into),
            models: models.iter().map(|&model| model.into()).collect(),
            devices: Vec::new(),
        };
        let probe = Probe {
            trainer: "t".into(),
            version: "1".into(),
            backends: vec![
                backend("cpu", None, &["mlp"]),
                backend("mps", Some("needs macOS"), &[]),
            ],
        };
        let ready = Ready { program: "t".into(), sha256: None, probe: Some(probe) };
        assert_eq!(ready.unavailable("T", "cpu", "mlp"), None);
        assert_eq!(ready.unavailable("T", "cpu", "cnn").unwrap(), "T does not train cnn on cpu");
        assert_eq!(ready.unavailable("T", "mps", "mlp").unwrap(), "needs macOS");
        assert_eq!(
            ready.unavailable("T", "tpu", "mlp").unwrap(),
            "T does not know the backend tpu"
        );
    }
}
