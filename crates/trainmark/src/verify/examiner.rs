//! One row, verified: the trainer takes the steps twice; where it is different, again with
//! fewer, to find the first step and what went wrong in it.

use super::exchange::{Outcome, Reference, ask};
use crate::command::Purpose;
use crate::identity;
use crate::judge;
use crate::plan::Row;
use crate::runner::{Ended, Runner};
use crate::suite::Suite;
use crate::trainer::NotReady;
use anyhow::{Error, Result};
use measure::provenance::Moment;
use measure::text::visible;
use protocol::grade::{Comparison, Grade, Quantity};
use protocol::verify::Request;
use record::Status;
use record::verification::{QuantityRecord, Verification};
use serde_json::Map;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;
use tempfile::TempDir;

/// Quantities or tensors that a reason names.
const NAMED: usize = 3;

/// Examines the rows of a run.
pub struct Examiner<'a> {
    runner: &'a Runner<'a>,
    references: RefCell<References>,
}

/// The reference's steps, or why there are none, by its command and their number.
type References = HashMap<(String, usize), Result<Rc<Reference>, String>>;

/// The row of the reference that a row is compared with, in the same configuration.
///
/// # Errors
/// If its needs make no sense.
pub fn reference_row(suite: &Suite, row: &Row) -> Result<Option<Row>> {
    let Some(verify) = &suite.task().verify else { return Ok(None) };
    let named = suite.trainers.iter().position(|trainer| trainer.name == verify.reference);
    let Some(trainer) = named else { return Ok(None) };
    let backend = suite.trainers[trainer].backends.first().cloned().unwrap_or_default();
    let own = Row { trainer, backend, tags: Vec::new(), prefix: String::new(), ..row.clone() };
    own.completed(suite).map(Some)
}

/// A row as it is verified: what the task changes in its configuration for that.
///
/// # Errors
/// If its needs make no sense then.
pub fn to_verify(suite: &Suite, row: &Row) -> Result<Row> {
    let mut row = row.clone();
    let changed = suite.task().verify.iter().flat_map(|verify| &verify.config);
    row.config.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
    row.completed(suite)
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

impl From<NotReady> for Stop {
    fn from(NotReady { status, reason }: NotReady) -> Stop {
        match status {
            Status::Interrupted => Stop::Cancelled,
            Status::Unavailable => Stop::Known(Grade::Unavailable, reason),
            status => Stop::Known(Grade::Failed, format!("{status}: {reason}")),
        }
    }
}

impl<'a> Examiner<'a> {
    /// An examiner for the rows of this runner.
    pub fn new(runner: &'a Runner<'a>) -> Examiner<'a> {
        Examiner { runner, references: RefCell::default() }
    }

    /// Verifies a row; `None` if the user stopped it.
    ///
    /// # Errors
    /// If the harness itself cannot go on.
    pub fn examine(&self, row: &Row) -> Result<Option<Verification>> {
        let mut found = self.blank(row);
        let lacks = |error: Error| Stop::Known(Grade::Unavailable, format!("{error:#}"));
        let smaller = to_verify(&self.runner.loaded().suite, row).map_err(lacks);
        match smaller.and_then(|row| self.grade(&row, &mut found)) {
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
        let task = loaded.suite.task();
        // How long it trains is no part of what was verified; where it was smaller, that is said.
        let (mut config, mut verified_with) = (row.config.clone(), Map::new());
        for (key, value) in task.verify.iter().flat_map(|verify| &verify.config) {
            match task.keys.get(key).is_none_or(|key| key.changes_steps) {
                true if config.get(key) != Some(value) => {
                    verified_with.insert(key.clone(), value.clone());
                }
                true => {}
                false => drop(config.shift_remove(key)),
            }
        }
        Verification {
            executable: loaded.suite.trainers[row.trainer].name.clone(),
            model: row.model.clone(),
            backend: row.backend.clone(),
            config,
            verified_with,
            dataset: Some(runner.dataset.name.clone()),
            program_sha256: ready.and_then(|ready| ready.sha256.clone()),
            sources_sha256: Some(identity::sources_digest(loaded, row)),
            machine: Some(runner.machine.clone()),
            verified: Moment::now().utc,
            ..Verification::default()
        }
    }

    /// Two takes of all steps: the worse one's grade, and whether they have the same bits.
    fn grade(&self, row: &Row, found: &mut Verification) -> Result<(), Stop> {
        self.runner.ready(row)?;
        found.steps = self.runner.loaded().suite.task().verify.as_ref().map_or(0, |it| it.steps);
        let reference = self.reference(row, found.steps)?;
        let (first, precision) = self.take(row, &reference)?;
        let (second, _) = self.take(row, &reference).map_err(|stop| match stop {
            Stop::Known(grade, reason) => Stop::Known(grade, format!("the second time: {reason}")),
            other => other,
        })?;
        found.precision = precision;
        found.nondeterminism = difference(&first, &second);
        found.deterministic = Some(found.nondeterminism.is_none());
        let (one, other) = (reference.grade(&first), reference.grade(&second));
        let worse = if other.grade > one.grade { other } else { one };
        note(found, &worse);
        if found.grade == Grade::Different {
            return self.locate(row, &reference, found);
        }
        let (said, precision, allowed) = match (&found.precision, found.stated()) {
            (Some(precision), Some(stated)) => ("though it says", visible(precision, 40), stated),
            (None, _) => ("not within", "float32".into(), Grade::Float32),
            (Some(_), None) => return Ok(()),
        };
        if found.grade > allowed {
            let coarse = named(&worse, |quantity| quantity.grade > allowed);
            found.reason = Some(format!("{}, {said} {precision}: {coarse}", found.grade));
        }
        Ok(())
    }

    /// The first step after which it is different, by taking fewer.
    fn locate(&self, row: &Row, all: &Reference, found: &mut Verification) -> Result<(), Stop> {
        let (mut equal, mut different) = (0, all.steps);
        let mut at = None;
        let mut next = 1; // most faults show at once
        while equal + 1 < different {
            let reference = self.reference(row, next)?;
            if !reference.begins(all) {
                return Ok(()); // it chooses other samples for fewer steps
            }
            let (outcome, _) = match self.take(row, &reference) {
                // It does not take fewer steps: what is known of all of them has to do.
                Err(Stop::Known(_, reason)) => {
                    let known = found.reason.as_deref().unwrap_or("different");
                    let steps = all.steps;
                    found.reason =
                        Some(format!("{known} after {steps} steps; after {next} {reason}"));
                    return Ok(());
                }
                other => other?,
            };
            let comparison = reference.grade(&outcome);
            if comparison.grade == Grade::Different {
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

    /// The reference's steps in a row's configuration.
    fn reference(&self, row: &Row, steps: usize) -> Result<Rc<Reference>, Stop> {
        let suite = &self.runner.loaded().suite;
        let none = || {
            Stop::Known(
                Grade::NotVerified,
                "the task names no reference; `verify` in [task] names one".to_owned(),
            )
        };
        let name = &suite.task().verify.as_ref().ok_or_else(none)?.reference;
        let row = reference_row(suite, row).map_err(|it| known(name, &format!("{it:#}")))?;
        let row = row.ok_or_else(none)?;
        let command =
            self.runner.agenda.attempt(&row, Purpose::Verify, Path::new(""), &BTreeMap::new());
        let key = (command.map_err(|it| known(name, &format!("{it:#}")))?.to_string(), steps);
        if let Some(reference) = self.references.borrow().get(&key) {
            return reference.clone().map_err(|reason| known(name, &reason));
        }
        let found = match self.runner.ready(&row) {
            Ok(_) => match self.start(&row, None, steps) {
                Ok((folder, _)) => Reference::read(folder.path(), steps).map(Rc::new),
                Err(Stop::Known(_, reason)) => Err(reason),
                Err(stop) => return Err(stop),
            },
            Err(why) if why.status == Status::Interrupted => return Err(why.into()),
            Err(why) => Err(why.reason),
        };
        self.references.borrow_mut().insert(key, found.clone());
        found.map_err(|reason| known(name, &reason))
    }

    /// Starts a trainer for some steps; returns what it wrote, and the precision that it says it has.
    fn start(
        &self,
        row: &Row,
        from: Option<&Reference>,
        steps: usize,
    ) -> Result<(TempDir, Option<String>), Stop> {
        let own = ["protocol", "model", "backend", "steps", "reference"];
        let config = row.config.iter().filter(|(key, _)| !own.contains(&key.as_str()));
        let request = Request {
            protocol: protocol::VERSION,
            model: row.model.clone(),
            backend: row.backend.clone(),
            steps,
            reference: from.is_none(),
            config: config.map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        let lacks = |reason| NotReady::new(Status::Unavailable, reason);
        let share = self.runner.share(row, &[]).map_err(lacks)?;
        let prepared = self.runner.prepare(row, Purpose::Verify, share)?;
        ask(prepared.folder.path(), from, &request)?;
        let Ended { attempt, said, changed, .. } =
            self.runner.start(&prepared, row, &mut |_| {})?;
        if let Some(file) = changed {
            return Err(Stop::Known(
                Grade::Failed,
                format!("a file of the data changed meanwhile: {file}"),
            ));
        }
        match judge::ended(&attempt.outcome, self.runner.settings.timeout) {
            Some((status, reason)) => Err(NotReady::new(status, reason).into()),
            None => Ok((prepared.folder, said.trainer.precision)),
        }
    }

    /// What a trainer made of the reference's steps, and the precision that it says it has.
    fn take(&self, row: &Row, reference: &Reference) -> Result<(Outcome, Option<String>), Stop> {
        let steps = reference.steps;
        let (folder, precision) = self.start(row, Some(reference), steps)?;
        let answer = reference.answer(folder.path());
        let outcome =
            answer.map_err(|reason| Stop::Known(Grade::Failed, reason))?.ok_or_else(|| {
                let reason = "it does not take part in verification (docs/trainer.md explains how)";
                Stop::Known(Grade::NotVerified, reason.to_owned())
            })?;
        let number = outcome.losses.len();
        if number != steps {
            let dropped = number + 1 == steps;
            let hint = if dropped { "; perhaps it drops a smaller last batch" } else { "" };
            let reason = format!("it took {number} of {steps} steps{hint}");
            return Err(Stop::Known(Grade::Different, reason));
        }
        Ok((outcome, precision))
    }
}

fn known(reference: &str, reason: &str) -> Stop {
    Stop::Known(Grade::NotVerified, format!("the reference {reference} gave no steps: {reason}"))
}

/// Takes over a comparison: its grade, its quantities, and in words what is different.
fn note(found: &mut Verification, comparison: &Comparison) {
    found.grade = comparison.grade;
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let quantities = comparison.quantities.iter().map(|quantity| {
        let record = QuantityRecord {
            grade: quantity.grade,
            of_magnitude: finite(quantity.of_magnitude),
            of_change: finite(quantity.of_change),
        };
        (quantity.name.to_string(), record)
    });
    found.quantities = quantities.collect();
    found.reason = (found.grade == Grade::Different)
        .then(|| named(comparison, |quantity| quantity.grade == Grade::Different));
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

/// The difference between two outcomes, bit by bit, the tensors that differ most first; `None` if there is none.
fn difference(one: &Outcome, other: &Outcome) -> Option<String> {
    let pairs = one.losses.iter().zip(&other.losses);
    let losses = pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    let mut parts = Vec::new();
    if losses > 0 {
        parts.push(format!("{losses} of {} losses", one.losses.len()));
    }
    let mut tensors = Vec::new();
    for (name, tensor) in &one.tensors {
        let (a, b) = (&tensor.values, &other.tensors[name].values);
        let differing = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits());
        let apart = |(a, b): (&f32, &f32)| Some((a - b).abs()).filter(|it| !it.is_nan());
        let distances = differing.clone().map(|pair| apart(pair).unwrap_or(f32::INFINITY));
        let largest = distances.fold(0.0, f32::max);
        let count = differing.count();
        if count > 0 {
            let what = format!("{count} of {} in {name}, by up to {largest:e}", a.len());
            tensors.push((largest, what));
        }
    }
    tensors.sort_by(|a, b| b.0.total_cmp(&a.0));
    let more = tensors.len().saturating_sub(NAMED);
    parts.extend(tensors.into_iter().take(NAMED).map(|it| it.1));
    if more > 0 {
        parts.push(format!("{more} more tensors"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
