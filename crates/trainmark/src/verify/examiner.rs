//! One row, verified: the trainer takes the steps twice; where it is different, again with
//! fewer, to find the first step and what went wrong in it.

use super::exchange::{Answer, answer, ask};
use super::yardstick::Yardsticks;
use crate::command::Purpose;
use crate::identity;
use crate::judge;
use crate::plan::Row;
use crate::runner::{Ended, Runner};
use anyhow::{Context, Error, Result};
use measure::provenance::Moment;
use nn::conformance::{Comparison, Outcome, Quantity, Trial};
use protocol::verify::Request;
use record::Status;
use record::verification::{Grade, QuantityRecord, Verification};

/// Quantities that a reason names.
const NAMED: usize = 3;

/// Examines the rows of a run.
pub struct Examiner<'a> {
    pub runner: &'a Runner<'a>,
}

/// What a trainer made of some steps.
struct Take {
    outcome: Outcome,
    precision: Option<String>,
}

/// Why there is nothing to compare.
enum Stop {
    /// The grade and its reason.
    Known(Grade, String),
    /// The user stopped it.
    Cancelled,
    /// The harness itself cannot go on.
    Broken(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Broken(error)
    }
}

fn failed(status: Status, reason: String) -> Stop {
    match status {
        Status::Interrupted => Stop::Cancelled,
        Status::Unavailable => Stop::Known(Grade::Unavailable, reason),
        status => Stop::Known(Grade::Failed, format!("{status}: {reason}")),
    }
}

impl Examiner<'_> {
    /// Verifies a row; `None` if the user stopped it.
    ///
    /// # Errors
    /// If the harness itself cannot go on.
    pub fn examine(&self, row: &Row, yardsticks: &mut Yardsticks) -> Result<Option<Verification>> {
        let mut found = self.blank(row);
        match self.grade(row, yardsticks, &mut found) {
            Ok(()) => {}
            Err(Stop::Known(grade, reason)) => (found.grade, found.reason) = (grade, Some(reason)),
            Err(Stop::Cancelled) => return Ok(None),
            Err(Stop::Broken(error)) => return Err(error),
        }
        Ok(Some(found))
    }

    fn blank(&self, row: &Row) -> Verification {
        let (runner, loaded) = (self.runner, self.runner.loaded());
        let ready = runner.trainers[&row.trainer].as_ref().ok();
        let mut config = row.config.clone();
        config.shift_remove("epochs");
        Verification {
            executable: loaded.suite.trainers[row.trainer].name.clone(),
            model: row.model.clone(),
            backend: row.backend.clone(),
            config,
            grade: Grade::NotVerified,
            reason: None,
            deterministic: None,
            nondeterminism: None,
            first_step: None,
            quantities: Default::default(),
            steps: 0,
            precision: None,
            dataset: Some(runner.dataset.name.clone()),
            program_sha256: ready.and_then(|ready| ready.sha256.clone()),
            sources_sha256: Some(identity::sources_digest(loaded, row)),
            machine: Some(runner.machine.clone()),
            verified: Moment::now().utc,
        }
    }

    /// Two takes of all steps: the worse one's grade, and whether they have the same bits.
    fn grade(
        &self,
        row: &Row,
        yardsticks: &mut Yardsticks,
        found: &mut Verification,
    ) -> Result<(), Stop> {
        self.runner.ready(row).map_err(|(status, reason)| failed(status, reason))?;
        let trial = yardsticks.trial(row).map_err(|it| Stop::Known(Grade::NotVerified, it))?;
        found.steps = trial.steps().count;
        let first = self.take(row, &trial, found.steps)?;
        let second = self.take(row, &trial, found.steps).map_err(|stop| match stop {
            Stop::Known(grade, reason) => {
                Stop::Known(grade, format!("the second of two times: {reason}"))
            }
            other => other,
        })?;
        found.precision = first.precision.clone();
        found.nondeterminism = difference(&first.outcome, &second.outcome);
        found.deterministic = Some(found.nondeterminism.is_none());
        let (one, other) = (trial.grade(&first.outcome), trial.grade(&second.outcome));
        let worse = if other.grade > one.grade { other } else { one };
        note(found, &worse);
        if found.grade == Grade::Different {
            return self.locate(row, &trial, found);
        }
        let claimed = found.precision.as_deref().unwrap_or("float32");
        if found.grade > Grade::Float32 && claimed == "float32" {
            let said = if found.precision.is_some() { "though it says" } else { "not within" };
            found.reason = Some(format!(
                "{}, {said} float32: {}",
                found.grade.sentence(),
                named(&worse, |quantity| grade_of(quantity.grade) > Grade::Float32)
            ));
        }
        Ok(())
    }

    /// The first step after which it is different, by taking fewer.
    fn locate(&self, row: &Row, trial: &Trial, found: &mut Verification) -> Result<(), Stop> {
        let (mut equal, mut different) = (0, trial.steps().count);
        let mut at = None;
        let mut next = 1; // most faults show at once
        while equal + 1 < different {
            let take = match self.take(row, trial, next) {
                // It does not take fewer steps: what is known of all of them has to do.
                Err(Stop::Known(_, reason)) => {
                    let known = found.reason.as_deref().unwrap_or("different");
                    let steps = trial.steps().count;
                    found.reason =
                        Some(format!("{known} after {steps} steps; after {next} {reason}"));
                    return Ok(());
                }
                other => other?,
            };
            let comparison = trial.grade(&take.outcome);
            if comparison.grade == nn::conformance::Grade::Different {
                (different, at) = (next, Some(comparison));
            } else {
                equal = next;
            }
            next = equal.midpoint(different);
        }
        if let Some(comparison) = &at {
            note(found, comparison);
        }
        found.first_step = Some(different);
        let what = found.reason.take().unwrap_or_default();
        found.reason = Some(format!("different from step {different} on: {what}"));
        Ok(())
    }

    /// Starts the trainer for the first so many steps.
    fn take(&self, row: &Row, trial: &Trial, steps: usize) -> Result<Take, Stop> {
        let nn::conformance::Steps { batch_size, learning_rate, .. } = trial.steps();
        // As the suite writes it, not what float32 makes of it.
        let written = row.config.get("learning_rate").and_then(serde_json::Value::as_f64);
        let request = Request {
            protocol: protocol::VERSION,
            model: row.model.clone(),
            backend: row.backend.clone(),
            steps,
            batch_size,
            learning_rate: written.unwrap_or(learning_rate.into()),
        };
        let prepared = self.runner.prepare(row, Purpose::Verify)?;
        ask(prepared.folder(), trial, &request).context("cannot write a verification's files")?;
        let Ended { attempt, said, changed } = self.runner.start(&prepared, row, &mut |_| {})?;
        if let Some(file) = changed {
            return Err(Stop::Known(Grade::Failed, format!("the data changed meanwhile: {file}")));
        }
        if let Some((status, reason)) = judge::ended(&attempt.outcome) {
            return Err(failed(status, reason));
        }
        let answer = answer(prepared.folder(), trial.initial().model(), steps);
        match answer.map_err(|reason| Stop::Known(Grade::Failed, reason))? {
            Answer::Steps(outcome) => Ok(Take { outcome, precision: said.precision }),
            Answer::Nothing => {
                let reason = "it takes no part in verification (docs/trainer.md says how)";
                Err(Stop::Known(Grade::NotVerified, reason.to_owned()))
            }
            Answer::OtherSteps(number) => {
                let last = trial.order(steps).len() - (steps - 1) * batch_size;
                let hint = match number + 1 == steps && last < batch_size {
                    true => format!("; is the last batch, of {last} samples, dropped?"),
                    false => String::new(),
                };
                let reason = format!("it took {number} steps of {steps}{hint}");
                Err(Stop::Known(Grade::Different, reason))
            }
        }
    }
}

/// Takes over a comparison: its grade, its quantities, and in words what is different.
fn note(found: &mut Verification, comparison: &Comparison) {
    found.grade = grade_of(comparison.grade);
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let quantities = comparison.quantities.iter().map(|quantity| {
        let record = QuantityRecord {
            grade: grade_of(quantity.grade),
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

/// The reference's grade as records have it.
fn grade_of(grade: nn::conformance::Grade) -> Grade {
    match grade {
        nn::conformance::Grade::BitEqual => Grade::BitEqual,
        nn::conformance::Grade::Float32 => Grade::Float32,
        nn::conformance::Grade::Tf32 => Grade::Tf32,
        nn::conformance::Grade::Bf16 => Grade::Bf16,
        nn::conformance::Grade::Different => Grade::Different,
    }
}
