//! Where the samples of a run are taken: on this machine, or by another process from an [`Order`].
//!
//! The unit of work is a [`Task`]: one row, one round. What comes of it is a result file with that one
//! sample ([`Runner::sample`] makes it, here or, through `trainmark task`, on another machine). An [`Executor`] decides
//! when and where tasks run; the [`Campaign`] decides whether a task is still wanted, keeps what comes of it and shows
//! it.

use crate::campaign::{Campaign, Executor, Task};
use crate::plan::Row;
use crate::runner::{Runner, Settings};
use crate::share::Share;
use crate::suite::LoadedSuite;
use crate::transcript::Transcript;
use anyhow::Result;
use record::RunIdentity;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

/// Runs tasks on this machine, one at a time: two at once would measure each other. If it is asked to, it trains
/// those side by side that have devices or cores of their own: as many as there is room for, and then the next.
pub struct Local<'a> {
    pub runner: &'a Runner<'a>,
    pub rows: &'a [Row],
    pub side_by_side: bool,
}

impl Executor for Local<'_> {
    fn run(&mut self, tasks: &[Task], campaign: &mut Campaign) -> Result<()> {
        let mut open = tasks.to_vec();
        while let Some(&task) = open.first() {
            let together = self.together(&mut open);
            if together.len() > 1 {
                self.train_together(together, campaign)?;
            } else if campaign.begin(task) {
                let mut on_line = |said: &Transcript| campaign.said(task, said);
                let row = &self.rows[task.row];
                let result = self.runner.sample(row, task.round, None, &mut on_line)?;
                campaign.end(task, result)?;
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

    fn train_together(
        &self,
        mut together: Vec<(Task, Share)>,
        campaign: &mut Campaign,
    ) -> Result<()> {
        together.retain(|(task, _)| campaign.begin(*task));
        let tasks: Vec<Task> = together.iter().map(|(task, _)| *task).collect();
        let (sender, ended) = mpsc::channel();
        thread::scope(|scope| {
            for (task, mut share) in together {
                let others = tasks.iter().filter(|other| **other != task);
                share.beside = others.map(|it| self.rows[it.row].label.clone()).collect();
                let sender = sender.clone();
                scope.spawn(move || {
                    let row = &self.rows[task.row];
                    let result = self.runner.sample(row, task.round, Some(share), &mut |_| {});
                    // Nobody listens any more if another one's result could not be kept.
                    let _ = sender.send((task, result));
                });
            }
            drop(sender);
            let kept = ended.into_iter().try_for_each(|(task, result)| campaign.end(task, result?));
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
    pub fn loaded(&self) -> Result<LoadedSuite> {
        LoadedSuite::of_text(self.suite.clone(), &self.origin, self.root.clone())
    }
}
