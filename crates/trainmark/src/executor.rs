//! Where the samples of a run are taken: the seam between what has to be trained and what trains it.
//!
//! The unit of work is a [`Task`]: one row, one round. What comes of it is a result file with that one
//! sample ([`Runner::sample`] makes it, here or, through `trainmark task`, on another machine). An [`Executor`] decides when and where tasks run; a [`Desk`] decides whether a task is
//! still wanted, keeps what comes of it and shows it. Neither knows how the other does it.

use crate::plan::Row;
use crate::runner::{Round, Runner, Settings};
use crate::share::Share;
use crate::suite::{LoadedSuite, SuiteError};
use crate::transcript::Transcript;
use anyhow::Result;
use record::{Record, RunIdentity};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

/// One sample of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// As an index into the plan.
    pub row: usize,
    pub round: Round,
}

/// Runs tasks.
pub trait Executor {
    /// Runs these tasks, one after the other or many at once, and returns when no more of them
    /// will come to an end. Each is announced with [`Desk::begin`], and left out if that says no;
    /// each that ended is handed over with [`Desk::end`], in any order, as soon as it has ended.
    /// When the user cancels, it stops what runs and returns.
    ///
    /// # Errors
    /// If the executor itself, or the desk, cannot go on. What a trainer does wrong is a result.
    fn run(&mut self, tasks: &[Task], desk: &mut dyn Desk) -> Result<()>;

    /// Whether it wants all rounds in one call, since it runs many tasks at once. Else it is called
    /// for each round, and takes a decision that depends on the round before into account.
    fn takes_all_rounds(&self) -> bool {
        false
    }
}

/// Keeps what an executor brings.
pub trait Desk {
    /// A task is about to start. False if it is no longer wanted: the user has cancelled, or its
    /// row has failed before, which a repeat would not mend.
    fn begin(&mut self, task: Task) -> bool;

    /// Called with the trainer's statements so far, for display.
    fn said(&mut self, task: Task, said: &Transcript);

    /// A task has ended: its result file, of one sample or of none.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn end(&mut self, task: Task, result: Record) -> Result<()>;

    /// Keeps a note of the executor's in the journal, on the disk when this returns: for example
    /// the number of a job that a later `--resume` has to find again.
    ///
    /// # Errors
    /// If it cannot be written.
    fn note(&mut self, note: Value) -> Result<()>;

    /// All notes of this run, those before a `--resume` too, in order.
    fn notes(&self) -> &[Value];
}

/// Runs tasks on this machine, one at a time: two at once would measure each other. If it is asked to, it trains
/// those side by side that have devices or cores of their own: as many as there is room for, and then the next.
pub struct Local<'a> {
    pub runner: &'a Runner<'a>,
    pub rows: &'a [Row],
    pub side_by_side: bool,
}

impl Executor for Local<'_> {
    fn run(&mut self, tasks: &[Task], desk: &mut dyn Desk) -> Result<()> {
        let mut open = tasks.to_vec();
        while let Some(&task) = open.first() {
            let together = self.together(&mut open);
            if together.len() > 1 {
                self.train_together(together, desk)?;
            } else if desk.begin(task) {
                let mut on_line = |said: &Transcript| desk.said(task, said);
                let row = &self.rows[task.row];
                let result = self.runner.sample(row, task.round, None, &mut on_line)?;
                desk.end(task, result)?;
            }
        }
        Ok(())
    }
}

impl Local<'_> {
    /// Takes the next task, and those that fit beside it, with what each of them gets.
    fn together(&self, open: &mut Vec<Task>) -> Vec<(Task, Share)> {
        let first = open.remove(0);
        let ready = |task: Task| self.runner.ready(&self.rows[task.row]).is_ok();
        let of = |task: Task, taken: &[Share]| self.runner.share(&self.rows[task.row], taken).ok();
        let Some(share) = of(first, &[]).filter(|_| self.side_by_side && ready(first)) else {
            return Vec::new();
        };
        let (mut tasks, mut shares) = (vec![first], vec![share]);
        open.retain(|&task| {
            let fits = |it: &Share| shares.iter().all(|other| it.stands_beside(other));
            let share = of(task, &shares).filter(|it| fits(it) && ready(task));
            let waits = share.is_none();
            shares.extend(share);
            if !waits {
                tasks.push(task);
            }
            waits
        });
        tasks.into_iter().zip(shares).collect()
    }

    fn train_together(&self, mut together: Vec<(Task, Share)>, desk: &mut dyn Desk) -> Result<()> {
        together.retain(|(task, _)| desk.begin(*task));
        let suite = &self.runner.loaded().suite;
        let labels: Vec<(Task, String)> =
            together.iter().map(|(task, _)| (*task, self.rows[task.row].label(suite))).collect();
        let (sender, ended) = mpsc::channel();
        thread::scope(|scope| {
            for (task, mut share) in together {
                let others = labels.iter().filter(|(other, _)| *other != task);
                share.beside = others.map(|(_, label)| label.clone()).collect();
                let sender = sender.clone();
                scope.spawn(move || {
                    let row = &self.rows[task.row];
                    let result = self.runner.sample(row, task.round, Some(share), &mut |_| {});
                    // Nobody listens any more if another one's result could not be kept.
                    let _ = sender.send((task, result));
                });
            }
            drop(sender);
            let kept = ended.into_iter().try_for_each(|(task, result)| desk.end(task, result?));
            // What still trains would be lost too.
            kept.inspect_err(|_| self.runner.stop())
        })
    }
}

/// All that another process, perhaps on another machine, needs to run any task of a run: what
/// `trainmark task --order FILE --index N --result FILE` reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The version of the harness that wrote it; only the same version reads it.
    pub harness: String,
    pub run: RunIdentity,
    /// The suite's text and where it came from: the file may change while tasks wait.
    pub suite: String,
    pub origin: String,
    /// Where relative programs are run from, on the machine that runs the task.
    pub root: PathBuf,
    pub data: PathBuf,
    pub dataset_sha256: String,
    pub settings: Settings,
    pub rows: Vec<Row>,
    /// What an index means.
    pub tasks: Vec<Task>,
}

impl Order {
    /// For these tasks of a run.
    pub fn new(runner: &Runner, rows: &[Row], tasks: &[Task]) -> Order {
        let loaded = runner.loaded();
        Order {
            harness: env!("CARGO_PKG_VERSION").to_owned(),
            run: runner.run.clone(),
            suite: loaded.text.clone(),
            origin: loaded.origin.clone(),
            root: loaded.root.clone(),
            data: runner.dataset.directory.clone(),
            dataset_sha256: runner.dataset.sha256.clone(),
            settings: runner.settings.clone(),
            rows: rows.to_vec(),
            tasks: tasks.to_vec(),
        }
    }

    /// The suite that the order is of.
    ///
    /// # Errors
    /// If it is none: then the order was not written by [`Order::new`].
    pub fn loaded(&self) -> Result<LoadedSuite, SuiteError> {
        LoadedSuite::of_text(self.suite.clone(), &self.origin, self.root.clone())
    }
}
