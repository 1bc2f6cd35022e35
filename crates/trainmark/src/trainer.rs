//! Making trainers ready: building them, and asking them what they can do here.

use crate::cmd::run::quote;
use crate::launch;
use crate::plan::{fixed_command, program};
use crate::provenance::{resolve_program, sha256_of_file};
use crate::report::console::one_line;
use crate::setup::{self, Due, Site, State};
use crate::suite::{LoadedSuite, Trainer};
use protocol::Probe;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long `--probe` may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a probe's answer that are read at most.
const PROBE_LIMIT: usize = 1 << 20;

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

/// Builds a trainer as its suite says, with the builder's own progress on standard error.
///
/// # Errors
/// If the builder cannot be started or ends badly.
pub fn build(loaded: &LoadedSuite, trainer: &Trainer) -> Result<(), NotReady> {
    // The built-in suite comes without sources: its trainers were installed beside the harness.
    if trainer.build.is_empty() || loaded.is_built_in() {
        return Ok(());
    }
    let words = fixed_command(loaded, trainer, &trainer.build).map_err(NotReady::BuildFailed)?;
    let shown = words.join(" ");
    eprintln!("{}", one_line(&format!("Building {}: {shown}", trainer.name)));
    let status = Command::new(&words[0])
        .args(&words[1..])
        .current_dir(&loaded.root)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(NotReady::BuildFailed(format!("`{shown}` ended with {status}"))),
        Err(error) => Err(NotReady::BuildFailed(format!("`{shown}` does not start: {error}"))),
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
) -> Result<Ready, NotReady> {
    let named = program(loaded, trainer).map_err(NotReady::NotStarted)?;
    if let Some(reason) = not_set_up(loaded, trainer) {
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
fn not_set_up(loaded: &LoadedSuite, trainer: &Trainer) -> Option<String> {
    let site = Site::of(loaded, trainer)?;
    let command =
        format!("`trainmark setup {} --suite {}`", quote(&trainer.name), quote(&loaded.origin));
    match site.state() {
        State::Ready => None,
        State::Unavailable(reason) => Some(reason),
        State::Due(Due::Changed) => {
            let words = Due::Changed.words();
            let warning = format!("{}: {words}; {command} renews it", trainer.name);
            eprintln!("warning: {}", one_line(&warning));
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
    job.cwd = Some(loaded.root.clone());
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
