//! Tasks on a cluster, through Slurm (<https://slurm.schedmd.com/>): an executor without an engine of its
//! own. Slurm schedules, limits, requeues and kills; here is only what is needed to hand it a job array
//! and to collect what its tasks leave behind.
//!
//! A *batch* is one job array. It has a folder of its own below the output folder, which all nodes
//! must see under the same path: the order ([`Order`]), the script, a log and a result file per
//! task. Each array task runs `trainmark task`, which is `trainmark run`'s own inner half, so a
//! result from a node is the same file as one from here. The journal knows a batch before Slurm does:
//! a submitting process that dies at any moment is replaced by `--resume`, which finds the jobs again by
//! their name, and what they have finished in the meantime.

mod scheduler;
mod script;

pub use scheduler::{JobId, Scheduler, SchedulerError, State};
pub use script::{Request, render};

use crate::execute::{Bench, Round};
use crate::executor::{Desk, Executor, Order, Task};
use crate::launch::CancelToken;
use crate::plan::Case;
use crate::result::{ResultFile, Sample, Status};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Tasks in one array: Slurm's own default for `MaxArraySize` is 1001.
const LARGEST_ARRAY: usize = 1000;
/// A task whose node fails or that is preempted is submitted again so many times.
const MOST_SUBMISSIONS: u32 = 3;
/// Between two looks at the queue; a controller serves thousands of users.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A network file system may show a file this much later than the scheduler its task's end.
const FILE_PATIENCE: Duration = Duration::from_secs(30);
/// After a cancellation, for the tasks to write what they have.
const CANCEL_PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of a task's log that go into a record.
const TAIL: usize = 4000;

/// What the journal keeps of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Its folder's name below [`FOLDER`].
    slurm_batch: String,
    job_name: String,
    /// `None` before it is submitted.
    job: Option<JobId>,
}

/// Below the output folder.
pub const FOLDER: &str = "slurm";

/// Runs tasks as arrays of jobs.
pub struct Slurm<'a> {
    pub bench: &'a Bench<'a>,
    pub cases: &'a [Case],
    pub cancel: &'a CancelToken,
    pub scheduler: Scheduler,
    pub request: Request,
    /// The output folder, absolute, on a file system that the nodes share.
    pub out: PathBuf,
}

/// A task that has been handed over and has not come back.
struct Open {
    task: Task,
    /// Its batch's folder, and its index in the batch's order.
    folder: PathBuf,
    index: usize,
    job: JobId,
    submissions: u32,
    /// Since when its job has ended without a result file.
    ended: Option<Instant>,
}

impl Executor for Slurm<'_> {
    fn run(&mut self, tasks: &[Task], desk: &mut dyn Desk) -> Result<()> {
        let (mut open, mut rest) = self.adopt(tasks, desk)?;
        if !open.is_empty() {
            eprintln!("{} tasks were submitted before and are followed", open.len());
        }
        open.retain(|it| desk.begin(it.task));
        rest.retain(|task| desk.begin(*task));
        for part in rest.chunks(LARGEST_ARRAY) {
            open.extend(self.submit(part, desk)?);
        }
        self.follow(open, desk)
    }

    fn takes_all_rounds(&self) -> bool {
        true
    }
}

impl Slurm<'_> {
    /// Tasks that an earlier process has submitted, and those that nobody has.
    fn adopt(&self, tasks: &[Task], desk: &dyn Desk) -> Result<(Vec<Open>, Vec<Task>)> {
        let mut batches: BTreeMap<String, Note> = BTreeMap::new();
        for note in desk.notes() {
            if let Ok(note) = serde_json::from_value::<Note>(note.clone()) {
                batches.insert(note.slurm_batch.clone(), note);
            }
        }
        let (mut open, mut rest) = (Vec::new(), tasks.to_vec());
        // The newest first: of a task that was submitted twice it is the one that counts.
        for note in batches.values().rev() {
            let name = Path::new(&note.slurm_batch).file_name().unwrap_or_default();
            let folder = self.out.join(FOLDER).join(name);
            let Ok(order) = read_order(&folder) else { continue };
            let job = match &note.job {
                Some(job) => Some(job.clone()),
                // It may have died between the submission and the note of it.
                None => self.scheduler.find(&note.job_name)?,
            };
            let Some(job) = job else { continue };
            let states = self.scheduler.states(&job)?.unwrap_or_default();
            for (index, ordered) in order.tasks.iter().enumerate() {
                let same = |task: &&Task| {
                    task.round == ordered.round
                        && order.cases.get(ordered.row) == self.cases.get(task.row)
                };
                // What the user cancelled is to be run again.
                if states.get(&index) == Some(&State::Cancelled) {
                    continue;
                }
                if let Some(at) = rest.iter().position(|task| same(&task)) {
                    let task = rest.remove(at);
                    let (folder, job) = (folder.clone(), job.clone());
                    open.push(Open { task, folder, index, job, submissions: 1, ended: None });
                }
            }
        }
        Ok((open, rest))
    }

    /// Writes a batch, submits it, and notes both before and after.
    fn submit(&self, tasks: &[Task], desk: &mut dyn Desk) -> Result<Vec<Open>> {
        let order = Order::new(self.bench, self.cases, tasks);
        let run = &self.bench.run().id;
        let parent = self.out.join(FOLDER);
        let hint = || format!("{}: no batch can be written there", parent.display());
        std::fs::create_dir_all(&parent).with_context(hint)?;
        let mut number = 1;
        let (name, folder) = loop {
            // Sorted by name, the newest is last.
            let name = format!("{run}-{number:04}");
            let folder = parent.join(&name);
            match std::fs::create_dir(&folder) {
                Ok(()) => break (name, folder),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(hint),
            }
        };
        for inner in ["results", "logs"] {
            std::fs::create_dir(folder.join(inner)).with_context(hint)?;
        }
        std::fs::write(folder.join("order.json"), serde_json::to_vec(&order)?)
            .with_context(hint)?;
        let job_name = format!("trainmark-{name}");
        let mut note = Note { slurm_batch: name, job_name: job_name.clone(), job: None };
        desk.note(serde_json::to_value(&note)?)?;
        let indices: Vec<usize> = (0..tasks.len()).collect();
        let job = self.submit_script(&folder, &job_name, &indices)?;
        eprintln!(
            "Slurm job {job}: {} tasks, logs in {}",
            tasks.len(),
            folder.join("logs").display()
        );
        note.job = Some(job.clone());
        desk.note(serde_json::to_value(&note)?)?;
        let opened = |(index, &task): (usize, &Task)| {
            let (folder, job) = (folder.clone(), job.clone());
            Open { task, folder, index, job, submissions: 1, ended: None }
        };
        Ok(tasks.iter().enumerate().map(opened).collect())
    }

    fn submit_script(&self, folder: &Path, job_name: &str, indices: &[usize]) -> Result<JobId> {
        let script = render(&self.request, folder, job_name, indices)?;
        let path = folder.join("job.sh");
        std::fs::write(&path, script).with_context(|| path.display().to_string())?;
        Ok(self.scheduler.submit(&path)?)
    }

    /// Looks at the queue until nothing is open.
    fn follow(&self, mut open: Vec<Open>, desk: &mut dyn Desk) -> Result<()> {
        while !open.is_empty() {
            if self.cancel.is_cancelled() {
                return self.give_up(open, desk);
            }
            let states = self.states(&open)?;
            let mut still = Vec::new();
            for mut it in open {
                let Some(states) = states.get(&it.job) else {
                    still.push(it); // the controller does not answer: nothing is known
                    continue;
                };
                match self.look_at(&mut it, states)? {
                    Some(result) => desk.end(it.task, result)?,
                    None => still.push(it),
                }
            }
            open = still;
            let until = Instant::now() + LOOK_EVERY;
            while !open.is_empty() && Instant::now() < until && !self.cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// The states of all open jobs' tasks; a job of which nothing can be known now is missing.
    fn states(&self, open: &[Open]) -> Result<BTreeMap<JobId, BTreeMap<usize, State>>> {
        let mut all = BTreeMap::new();
        for job in jobs(open) {
            if let Some(states) = self.scheduler.states(job)? {
                all.insert(job.clone(), states);
            }
        }
        Ok(all)
    }

    /// What came of a task, if anything has.
    fn look_at(
        &self,
        open: &mut Open,
        states: &BTreeMap<usize, State>,
    ) -> Result<Option<ResultFile>> {
        let state = states.get(&open.index).cloned();
        let written = read_result(&open.result_path());
        let job = format!("job {}_{}", open.job, open.index);
        match state {
            Some(State::Waiting | State::Running) => {
                open.ended = None;
                Ok(None)
            }
            Some(State::Completed) | None if written.is_some() => Ok(written),
            // Ended or forgotten, but no file yet: wait for a slow file system.
            Some(State::Completed) | None => {
                let since = *open.ended.get_or_insert_with(Instant::now);
                if since.elapsed() < FILE_PATIENCE {
                    return Ok(None);
                }
                let reason = format!("{job} ended and left no result");
                Ok(Some(self.failure(open, Status::Failed, reason)))
            }
            Some(State::NodeFailed(word)) if open.submissions < MOST_SUBMISSIONS => {
                open.submissions += 1;
                open.ended = None;
                let name = format!("trainmark-again-{}", open.job);
                eprintln!("Slurm {job}: {word}; submitted again");
                open.job = self.submit_script(&open.folder, &name, &[open.index])?;
                Ok(None)
            }
            Some(State::NodeFailed(word)) => {
                let reason = format!("{job}: {word}, {MOST_SUBMISSIONS} times");
                Ok(Some(self.failure(open, Status::NotStarted, reason)))
            }
            Some(State::TimedOut) => {
                let reason = format!("{job}: over the scheduler's time limit");
                Ok(Some(self.failure(open, Status::TimedOut, reason)))
            }
            Some(State::OutOfMemory) => {
                let reason = format!("{job}: over the scheduler's memory limit");
                Ok(Some(self.failure(open, Status::OutOfMemory, reason)))
            }
            Some(State::Cancelled) => {
                let reason = format!("{job}: cancelled");
                Ok(Some(self.failure(open, Status::Interrupted, reason)))
            }
            Some(State::Failed(word)) => {
                let reason = format!("{job}: {word}: {}", last_line(&open.log()));
                Ok(Some(self.failure(open, Status::NotStarted, reason)))
            }
        }
    }

    /// A record of what the scheduler did to a task.
    fn failure(&self, open: &Open, status: Status, reason: String) -> ResultFile {
        let mut result = self.bench.blank(&self.cases[open.task.row]);
        // Not this machine's: nobody has said what the node is.
        (result.machine, result.capability) = (None, None);
        let round = match open.task.round {
            Round::Number(number) => number,
            Round::WarmUp => 0,
        };
        let reason = Some(reason);
        let log = open.log();
        let stderr_tail = (!log.is_empty()).then_some(log);
        result.add_sample(Sample { round, status, reason, stderr_tail, ..Sample::default() });
        result
    }

    /// The user cancels: so do the jobs. What has a result is kept.
    fn give_up(&self, open: Vec<Open>, desk: &mut dyn Desk) -> Result<()> {
        for job in jobs(&open) {
            self.scheduler.cancel(job)?;
        }
        let deadline = Instant::now() + CANCEL_PATIENCE;
        while Instant::now() < deadline {
            let states = self.states(&open)?;
            let busy = |state: &State| matches!(state, State::Waiting | State::Running);
            if !states.values().flat_map(BTreeMap::values).any(busy) {
                break;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        for it in &open {
            // The signal reaches the trainer as well as the harness: whatever became of a task that
            // did not complete is the cancellation's doing. It runs again after --resume.
            match read_result(&it.result_path()) {
                Some(result) if result.status.completed() => desk.end(it.task, result)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Open {
    fn result_path(&self) -> PathBuf {
        self.folder.join("results").join(format!("{}.json", self.index))
    }

    /// The end of what the task printed, on its latest submission.
    fn log(&self) -> String {
        let path = self.folder.join("logs").join(format!("{}_{}.log", self.job, self.index));
        let bytes = std::fs::read(path).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }
}

/// Each once.
fn jobs(open: &[Open]) -> BTreeSet<&JobId> {
    open.iter().map(|it| &it.job).collect()
}

fn last_line(log: &str) -> &str {
    log.lines().last().unwrap_or("it printed nothing")
}

fn read_order(folder: &Path) -> Result<Order> {
    Ok(serde_json::from_slice(&std::fs::read(folder.join("order.json"))?)?)
}

/// Result files are there whole or not at all.
fn read_result(path: &Path) -> Option<ResultFile> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The script of a batch that is not submitted, for `--dry-run`.
///
/// # Errors
/// If a path cannot stand in a script.
pub fn preview(request: &Request, out: &Path, tasks: usize) -> Result<String> {
    let indices: Vec<usize> = (0..tasks.min(LARGEST_ARRAY)).collect();
    render(request, &out.join(FOLDER).join("BATCH"), "trainmark-BATCH", &indices)
}
