//! Making trainers ready: building them, and asking them what they can do here.

use crate::command::{self, Agenda, Command, quote};
use crate::plan::{self, Row};
use crate::setup::{self, OUTDATED, Site, State, is_there};
use crate::suite::{LoadedSuite, Suite, Trainer};
use anyhow::{Context, Result, anyhow};
use console::Term;
use measure::launch::CancelToken;
use measure::provenance::{resolve_program, sha256_of_file};
use measure::text::one_line;
use protocol::Probe;
use record::Status;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::time::Duration;

/// How long `--probe` may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
/// The number of a failed build's last lines that are shown.
const BUILDERS_LAST_LINES: usize = 100;

/// A trainer that can be started, as far as is known before a row of it is trained.
#[derive(Clone, Debug)]
pub struct Ready {
    pub sha256: Option<String>,
    /// Its answer to the probe; `None` if the suite declares no probe.
    pub probe: Option<Probe>,
}

/// Why a trainer cannot be started.
#[derive(Clone, Debug, PartialEq)]
pub struct NotReady {
    /// What its rows have come to: it could not be built, its program is not there or does not start, or it has
    /// to be set up first.
    pub status: Status,
    pub reason: String,
}

impl NotReady {
    pub fn new(status: Status, reason: impl fmt::Display) -> NotReady {
        NotReady { status, reason: format!("{reason:#}") }
    }

    /// If it is no longer wanted that anything starts.
    fn if_cancelled(cancel: &CancelToken) -> Option<NotReady> {
        cancel.reason().map(|reason| NotReady::new(Status::Interrupted, reason))
    }
}

impl std::error::Error for NotReady {}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Status::BuildFailed => write!(f, "{}: {}", self.status, self.reason),
            _ => f.write_str(&self.reason),
        }
    }
}

/// Shows how trainers are made ready.
pub trait Watch {
    /// A trainer is built, and its builder printed something. That is one line that changes; it is told in full
    /// only where the build fails.
    fn building(&mut self, trainer: &str, said: &str);

    /// A trainer is ready, or cannot be.
    fn settled(&mut self);

    /// A line that a person should see.
    fn tell(&mut self, line: &str);
}

/// Whether standard error is a terminal on which a line can be drawn over.
pub fn can_redraw() -> bool {
    Term::stderr().is_term() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// On standard error: one line that changes on a terminal, and one that stays elsewhere.
pub struct Plain;

impl Watch for Plain {
    fn building(&mut self, trainer: &str, said: &str) {
        if can_redraw() {
            let terminal = Term::stderr();
            let line = format!("Building {trainer}  {}", said.trim());
            let room = usize::from(terminal.size().1).saturating_sub(1);
            // Only looks: a terminal that takes nothing is no reason to stop.
            let _ = terminal.clear_line();
            let _ = terminal.write_str(&console::truncate_str(&one_line(&line), room, "…"));
        } else if said.is_empty() {
            eprintln!("Building {}", one_line(trainer));
        }
    }

    fn settled(&mut self) {
        if can_redraw() {
            let _ = Term::stderr().clear_line();
        }
    }

    fn tell(&mut self, line: &str) {
        self.settled();
        eprintln!("{line}");
    }
}

/// Trainers by their index in the suite.
pub type Trainers = BTreeMap<usize, Result<Ready, NotReady>>;

/// Builds and probes every trainer of some rows, each once.
pub fn make_ready(
    agenda: &Agenda,
    rows: &[Row],
    cancel: &CancelToken,
    watch: &mut dyn Watch,
) -> Trainers {
    let one = |trainer: usize| {
        let name = &agenda.loaded.suite.trainers[trainer].name;
        let ready = build(agenda, trainer, cancel, watch)
            .and_then(|()| ready(agenda, trainer, cancel, watch))
            .map_err(|reason| NotReady::if_cancelled(cancel).unwrap_or(reason));
        // Unavailable trainers are listed together later.
        if let Err(reason) = &ready
            && !matches!(reason.status, Status::Unavailable | Status::Interrupted)
        {
            watch.tell(&format!("warning: {}", one_line(&format!("{name}: {reason}"))));
        }
        watch.settled();
        (trainer, ready)
    };
    command::trainers(rows).into_iter().map(one).collect()
}

/// Builds a trainer as its suite says.
///
/// # Errors
/// If the builder cannot be started or ends badly, or if it is cancelled.
pub fn build(
    agenda: &Agenda,
    trainer: usize,
    cancel: &CancelToken,
    watch: &mut dyn Watch,
) -> Result<(), NotReady> {
    let declared = &agenda.loaded.suite.trainers[trainer];
    let name = &declared.name;
    let failed = |reason| NotReady::new(Status::BuildFailed, reason);
    let Some(command) = agenda.build(trainer).map_err(failed)? else { return Ok(()) };
    if let Some(cancelled) = NotReady::if_cancelled(cancel) {
        return Err(cancelled);
    }
    let shown = command.shown();
    watch.building(name, "");
    let mut last = VecDeque::new();
    let status = command.overhear(cancel, &mut |line| {
        watch.building(name, line);
        last.truncate(BUILDERS_LAST_LINES - 1);
        last.push_front(line.to_owned());
    });
    if let Some(cancelled) = NotReady::if_cancelled(cancel) {
        return Err(cancelled);
    }
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            last.iter().rev().for_each(|line| watch.tell(&one_line(line)));
            Err(failed(anyhow!("`{shown}` ended with {status}")))
        }
        // Without a compiler, a program that somebody built elsewhere will do. The record has its digest.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && is_there(agenda.loaded, declared) =>
        {
            let builder = &command.words[0];
            watch.tell(&one_line(&format!(
                "note: {name}: {builder} is not installed, so the program is used as it is"
            )));
            Ok(())
        }
        Err(error) => Err(failed(anyhow!("`{shown}` cannot be started: {error}"))),
    }
}

/// Finds a trainer's program and asks it what it can do on this machine.
///
/// # Errors
/// If the program is not there, or its probe does not answer as it should.
pub fn ready(
    agenda: &Agenda,
    trainer: usize,
    cancel: &CancelToken,
    watch: &mut dyn Watch,
) -> Result<Ready, NotReady> {
    let loaded = agenda.loaded;
    let declared = &loaded.suite.trainers[trainer];
    let not_started = |reason| NotReady::new(Status::NotStarted, reason);
    let named = plan::program(loaded, declared).map_err(not_started)?;
    if let Some(reason) = not_set_up(loaded, declared, watch) {
        return Err(NotReady::new(Status::Unavailable, reason));
    }
    let inputs = setup::digest_of(&loaded.root, &declared.inputs);
    inputs.context("the suite's `inputs`").map_err(not_started)?;
    let Some(program) = resolve_program(&named) else {
        let hint = match declared.build.is_empty() {
            true => "install it, or give its path as the program".to_owned(),
            // Nothing was built: its sources are not here.
            false if loaded.is_built_in() => format!(
                "the built-in suite looks for it in the folder of `trainmark`; install {} there, run in a \
                 checkout of the project, or name another suite with --suite",
                named.file_name().unwrap_or_default().display()
            ),
            false => "the build did not make it; check the suite's `program`".to_owned(),
        };
        return Err(not_started(anyhow!("the program {} is not there: {hint}", named.display())));
    };
    let probe = agenda.probe(trainer).map_err(not_started)?;
    let probe = probe.map(|command| ask(&command, cancel)).transpose().map_err(not_started)?;
    Ok(Ready { sha256: sha256_of_file(&program).ok(), probe })
}

/// Why a trainer's set-up keeps it from running. One that is out of date does not: that is said, and
/// the record has the versions that ran.
fn not_set_up(loaded: &LoadedSuite, trainer: &Trainer, watch: &mut dyn Watch) -> Option<String> {
    let site = Site::of(loaded, trainer)?;
    let command =
        format!("`trainmark setup {} --suite {}`", quote(&trainer.name), quote(loaded.named()));
    match site.state() {
        State::Ready => None,
        State::Unavailable(reason) => Some(reason),
        State::Outdated => {
            let warning = format!("{}: {OUTDATED}; {command} updates it", trainer.name);
            watch.tell(&format!("warning: {}", one_line(&warning)));
            None
        }
        State::Due(why) => Some(format!("{why}; {command} sets it up")),
    }
}

fn ask(command: &Command, cancel: &CancelToken) -> Result<Probe> {
    let answer = command.answer(PROBE_TIMEOUT, cancel)?;
    let none = || format!("`{}` did not answer the probe", command.shown());
    serde_json::from_str(&answer).with_context(none)
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

/// Why a row cannot be trained on this machine, as far as its trainer knows.
pub fn lacking(trainers: &Trainers, suite: &Suite, row: &Row) -> Option<String> {
    match trainers.get(&row.trainer)? {
        Ok(ready) => ready.unavailable(&suite.trainers[row.trainer].name, &row.backend, &row.model),
        Err(reason) => (reason.status == Status::Unavailable).then(|| reason.reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::BackendProbe;

    /// Shows steps, and keeps all lines.
    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Watch for Heard {
        fn building(&mut self, trainer: &str, said: &str) {
            self.0.push(format!("{trainer} Build {said}"));
        }

        fn settled(&mut self) {}

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
        let data = "data".into();
        let agenda =
            Agenda { loaded: &loaded, data, allow_software: false, shown: BTreeMap::new() };
        let result = build(&agenda, 0, &CancelToken::default(), &mut heard);
        (result, heard.0)
    }

    #[test]
    fn a_build_is_heard_line_by_line_and_what_it_leaves_behind_is_not_waited_for() {
        let (result, heard) = built("echo one; echo 'a bar\\ranother' >&2; sleep 20 & echo two");
        assert_eq!(result, Ok(()));
        let lines = ["", "one", "another", "two"].map(|line| format!("T Build {line}"));
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
        let ready = Ready { sha256: None, probe: Some(probe) };
        assert_eq!(ready.unavailable("T", "cpu", "mlp"), None);
        assert_eq!(ready.unavailable("T", "cpu", "cnn").unwrap(), "T does not train cnn on cpu");
        assert_eq!(ready.unavailable("T", "mps", "mlp").unwrap(), "needs macOS");
        assert_eq!(
            ready.unavailable("T", "tpu", "mlp").unwrap(),
            "T does not know the backend tpu"
        );
    }
}
