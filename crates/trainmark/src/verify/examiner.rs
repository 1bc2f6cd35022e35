//! One combination, verified: the trainer takes the steps twice; where it is different, again with
//! fewer, to find the first step and what went wrong in it.

use super::exchange::{Answer, answer, ask};
use super::record::{Grade, QuantityRecord, Verification};
use super::yardstick::Yardsticks;
use crate::identity;
use crate::judge;
use crate::launch::{self, CancelToken, Stream};
use crate::machine::Machine;
use crate::plan::{self, Case, Places};
use crate::provenance::Moment;
use crate::result::Status;
use crate::scratch::Scratch;
use crate::suite::LoadedSuite;
use crate::trainer::{NotReady, Ready};
use crate::transcript::Transcript;
use anyhow::{Context, Result, anyhow};
use nn::conformance::{Comparison, Outcome, Quantity, Trial};
use protocol::verify::Request;
use std::path::Path;
use std::time::Duration;

/// Quantities that a reason names.
const NAMED: usize = 3;

/// What all examinations share.
pub struct Examiner<'a> {
    pub loaded: &'a LoadedSuite,
    /// The folder of the data and the dataset's name.
    pub data: (&'a Path, &'a str),
    pub machine: Machine,
    pub timeout: Duration,
    pub allow_software: bool,
    pub cancel: &'a CancelToken,
}

/// What a trainer made of some steps.
struct Take {
    outcome: Outcome,
    precision: Option<String>,
}

/// Why there is nothing to compare.
enum Trouble {
    /// The grade and its reason.
    Known(Grade, String),
    /// The user stopped it.
    Cancelled,
}

impl Examiner<'_> {
    /// Verifies a combination; `None` if the user stopped it.
    ///
    /// # Errors
    /// If the harness itself cannot go on.
    pub fn examine(
        &self,
        case: &Case,
        ready: &Result<Ready, NotReady>,
        yardsticks: &mut Yardsticks,
    ) -> Result<Option<Verification>> {
        let declared = &self.loaded.suite.trainers[case.trainer];
        let mut found = self.blank(case, ready.as_ref().ok());
        let ready = match ready {
            Err(reason) => return Ok(Some(with(found, Grade::Failed, reason.to_string()))),
            Ok(ready) => ready,
        };
        if let Some(reason) = ready.unavailable(&declared.name, &case.backend, &case.model) {
            return Ok(Some(with(found, Grade::Unavailable, reason)));
        }
        let trial = match yardsticks.trial(case) {
            Err(reason) => return Ok(Some(with(found, Grade::NotVerified, reason))),
            Ok(trial) => trial,
        };
        found.steps = trial.steps().count;
        let examined = self.both(case, ready, &trial, &mut found)?;
        match examined {
            Ok(()) => Ok(Some(found)),
            Err(Trouble::Known(grade, reason)) => Ok(Some(with(found, grade, reason))),
            Err(Trouble::Cancelled) => Ok(None),
        }
    }

    fn blank(&self, case: &Case, ready: Option<&Ready>) -> Verification {
        let mut config = case.config.clone();
        config.shift_remove("epochs");
        Verification {
            executable: self.loaded.suite.trainers[case.trainer].name.clone(),
            model: case.model.clone(),
            backend: case.backend.clone(),
            config,
            grade: Grade::NotVerified,
            reason: None,
            deterministic: None,
            nondeterminism: None,
            first_step: None,
            quantities: Default::default(),
            steps: 0,
            precision: None,
            dataset: Some(self.data.1.to_owned()),
            program_sha256: ready.and_then(|ready| ready.sha256.clone()),
            sources_sha256: Some(identity::sources_digest(self.loaded, case)),
            machine: Some(self.machine.clone()),
            verified: Moment::now().utc,
        }
    }

    /// Two takes of all steps: the worse one's grade, and whether they have the same bits.
    fn both(
        &self,
        case: &Case,
        ready: &Ready,
        trial: &Trial,
        found: &mut Verification,
    ) -> Result<Result<(), Trouble>> {
        let steps = trial.steps().count;
        let first = match self.take(case, ready, trial, steps)? {
            Ok(take) => take,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let second = match self.take(case, ready, trial, steps)? {
            Ok(take) => take,
            Err(Trouble::Known(grade, reason)) => {
                let reason = format!("the second of two times: {reason}");
                return Ok(Err(Trouble::Known(grade, reason)));
            }
            Err(trouble) => return Ok(Err(trouble)),
        };
        found.precision = first.precision.clone();
        let difference = difference(&first.outcome, &second.outcome);
        found.deterministic = Some(difference.is_none());
        found.nondeterminism = difference;
        let comparisons = [trial.grade(&first.outcome), trial.grade(&second.outcome)];
        let [one, other] = comparisons;
        let worse = if other.grade > one.grade { other } else { one };
        note(found, &worse);
        if found.grade == Grade::Different {
            return self.locate(case, ready, trial, found);
        }
        let claimed = found.precision.as_deref().unwrap_or("float32");
        if found.grade > Grade::Float32 && claimed == "float32" {
            let said = if found.precision.is_some() { "though it says" } else { "not within" };
            found.reason = Some(format!(
                "{}, {said} float32: {}",
                found.grade.sentence(),
                named(&worse, |quantity| Grade::from(quantity.grade) > Grade::Float32)
            ));
        }
        Ok(Ok(()))
    }

    /// The first step after which it is different, by taking fewer.
    fn locate(
        &self,
        case: &Case,
        ready: &Ready,
        trial: &Trial,
        found: &mut Verification,
    ) -> Result<Result<(), Trouble>> {
        let (mut equal, mut different) = (0, trial.steps().count);
        let mut at = None;
        let mut next = 1; // most faults show at once
        while equal + 1 < different {
            match self.take(case, ready, trial, next)? {
                Ok(take) => {
                    let comparison = trial.grade(&take.outcome);
                    if comparison.grade == nn::conformance::Grade::Different {
                        different = next;
                        at = Some(comparison);
                    } else {
                        equal = next;
                    }
                }
                Err(Trouble::Cancelled) => return Ok(Err(Trouble::Cancelled)),
                // It does not take fewer steps: what is known of all of them has to do.
                Err(Trouble::Known(_, reason)) => {
                    found.reason = Some(format!(
                        "{} after {} steps; after {next} {reason}",
                        found.reason.as_deref().unwrap_or("different"),
                        trial.steps().count,
                    ));
                    return Ok(Ok(()));
                }
            }
            next = equal.midpoint(different);
        }
        if let Some(comparison) = &at {
            note(found, comparison);
        }
        found.first_step = Some(different);
        let what = found.reason.take().unwrap_or_default();
        found.reason = Some(format!("different from step {different} on: {what}"));
        Ok(Ok(()))
    }

    /// Starts the trainer for the first so many steps.
    fn take(
        &self,
        case: &Case,
        ready: &Ready,
        trial: &Trial,
        steps: usize,
    ) -> Result<Result<Take, Trouble>> {
        let folder = Scratch::new()?;
        let Steps { batch_size, learning_rate } = Steps::of(case, trial);
        let request = Request {
            protocol: protocol::VERSION,
            model: case.model.clone(),
            backend: case.backend.clone(),
            steps,
            batch_size,
            learning_rate,
        };
        ask(folder.path(), trial, &request).context("cannot write a verification's files")?;
        let job = self.job(case, ready, folder.path())?;
        let mut said = Transcript::default();
        let mut listen = |stream: Stream, line: &str| {
            if stream == Stream::Stdout {
                said.line(line);
            }
        };
        let outcome = launch::run(&job, &mut listen, self.cancel)?;
        match judge::ended(&outcome) {
            None => {}
            Some((Status::Interrupted, _)) => return Ok(Err(Trouble::Cancelled)),
            Some((Status::Unavailable, reason)) => {
                return Ok(Err(Trouble::Known(Grade::Unavailable, reason)));
            }
            Some((status, reason)) => {
                let reason = format!("{status}: {reason}");
                return Ok(Err(Trouble::Known(Grade::Failed, reason)));
            }
        }
        let trouble = match answer(folder.path(), trial.initial().model(), steps) {
            Ok(Answer::Steps(outcome)) => {
                return Ok(Ok(Take { outcome, precision: said.precision }));
            }
            Ok(Answer::Nothing) => {
                let reason = "it takes no part in verification (docs/trainer.md says how)";
                Trouble::Known(Grade::NotVerified, reason.to_owned())
            }
            Ok(Answer::OtherSteps(number)) => {
                let last = trial.order(steps).len() - (steps - 1) * batch_size;
                let hint = match number + 1 == steps && last < batch_size {
                    true => format!("; is the last batch, of {last} samples, dropped?"),
                    false => String::new(),
                };
                let reason = format!("it took {number} steps of {steps}{hint}");
                Trouble::Known(Grade::Different, reason)
            }
            Err(reason) => Trouble::Known(Grade::Failed, reason),
        };
        Ok(Err(trouble))
    }

    /// The command of a run, with the folder of the verification in the environment.
    fn job(&self, case: &Case, ready: &Ready, folder: &Path) -> Result<launch::Job> {
        let suite = &self.loaded.suite;
        let predictions = folder.join("predictions");
        let places = Places {
            program: &ready.program,
            data: self.data.0,
            predictions: &predictions,
            allow_software: self.allow_software,
        };
        let words = plan::command(suite, case, &places).map_err(|reason| anyhow!(reason))?;
        let mut environment = plan::environment(suite, case);
        let text = |path: &Path| path.display().to_string();
        environment.extend([
            (protocol::env::PROTOCOL.to_owned(), protocol::VERSION.to_string()),
            (protocol::env::DATA.to_owned(), text(self.data.0)),
            (protocol::env::PREDICTIONS.to_owned(), text(&predictions)),
            (protocol::env::VERIFY.to_owned(), text(folder)),
        ]);
        let mut job = launch::Job::new(&words[0])?;
        job.args = words[1..].iter().map(Into::into).collect();
        job.env = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        job.cwd = Some(self.loaded.root.clone());
        job.timeout = Some(self.timeout);
        Ok(job)
    }
}

/// How the steps are taken, as the combination says it.
struct Steps {
    batch_size: usize,
    learning_rate: f64,
}

impl Steps {
    fn of(case: &Case, trial: &Trial) -> Steps {
        let nn::conformance::Steps { batch_size, learning_rate, .. } = trial.steps();
        // As the suite writes it, not what float32 makes of it.
        let written = case.config.get("learning_rate").and_then(serde_json::Value::as_f64);
        Steps { batch_size, learning_rate: written.unwrap_or(learning_rate.into()) }
    }
}

fn with(mut found: Verification, grade: Grade, reason: String) -> Verification {
    (found.grade, found.reason) = (grade, Some(reason));
    found
}

/// Takes over a comparison: its grade, its quantities, and in words what is different.
fn note(found: &mut Verification, comparison: &Comparison) {
    found.grade = comparison.grade.into();
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let quantities = comparison.quantities.iter().map(|quantity| {
        let record = QuantityRecord {
            grade: quantity.grade.into(),
            of_magnitude: finite(quantity.of_magnitude),
            of_change: finite(quantity.of_change),
        };
        (quantity.name.to_string(), record)
    });
    found.quantities = quantities.collect();
    found.reason = (found.grade == Grade::Different)
        .then(|| named(comparison, |quantity| quantity.grade == nn::conformance::Grade::Different));
}

/// The quantities that a test picks, the worst first.
fn named(comparison: &Comparison, test: impl Fn(&Quantity) -> bool) -> String {
    let mut picked: Vec<&Quantity> =
        comparison.quantities.iter().filter(|quantity| test(quantity)).collect();
    picked.sort_by(|a, b| b.of_change.total_cmp(&a.of_change));
    let mut words: Vec<String> = picked.iter().take(NAMED).map(|quantity| one(quantity)).collect();
    if picked.len() > NAMED {
        words.push(format!("{} more", picked.len() - NAMED));
    }
    words.join(", ")
}

/// `conv.weight by 75 % of its change`, `loss 2.5 instead of 2.3 at step 3`.
fn one(quantity: &Quantity) -> String {
    let Quantity { name, of_change, place, expected, actual, .. } = quantity;
    if *name == "loss" {
        return format!("loss {actual:.6} instead of {expected:.6} at step {}", place + 1);
    }
    if of_change.is_finite() {
        return format!("{name} by {} of its change", percent(*of_change));
    }
    format!("{name}[{place}] is {actual:e} instead of {expected:e}")
}

fn percent(part: f64) -> String {
    let percent = 100.0 * part;
    let decimals = match percent {
        percent if percent >= 10.0 => 0,
        percent if percent >= 0.1 => 1,
        _ => 3,
    };
    format!("{percent:.decimals$} %")
}

/// What differs between two outcomes, bit by bit; `None` if nothing.
fn difference(one: &Outcome, other: &Outcome) -> Option<String> {
    let pairs = one.losses.iter().zip(&other.losses);
    let losses = pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    let mut parts = Vec::new();
    if losses > 0 {
        parts.push(format!("{losses} of {} losses", one.losses.len()));
    }
    for tensor in one.parameters.tensors() {
        let values = |outcome: &Outcome| outcome.parameters.values()[tensor.range()].to_vec();
        let (a, b) = (values(one), values(other));
        let differing = a.iter().zip(&b).filter(|(a, b)| a.to_bits() != b.to_bits());
        let largest = differing.clone().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let count = differing.count();
        if count > 0 {
            parts.push(format!("{count} of {} in {}, by up to {largest:e}", a.len(), tensor.name));
        }
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
