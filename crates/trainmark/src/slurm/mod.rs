//! Tasks on a cluster, through Slurm (<https://slurm.schedmd.com/>): an executor without an engine of its
//! own. Slurm schedules, limits, requeues and kills; here is only what is needed to hand it a job array
//! and to collect what its tasks leave behind.
//!
//! A *batch* is one job array. It has a folder of its own below the output folder, which all nodes
//! must see under the same path: the order ([`Order`]), the script, a log and a result file per task. Each array task runs `trainmark task`, which is `trainmark run`'s own inner half, so a
//! result from a node is the same file as one from here. The folder is there before Slurm knows of the batch:
//! a submitting process that dies at any moment is replaced by `--resume`, which finds the jobs again by
//! their name, and what they have finished in the meantime.

mod scheduler;
mod script;

pub use scheduler::check;
pub use script::{Request, Wishes};

use crate::campaign::{Campaign, Executor, Task};
use crate::executor::Order;
use crate::plan::Row;
use crate::runner::{Round, Runner};
use crate::share::Needs;
use anyhow::{Context, Result};
use files::Kind;
use record::number::count;
use record::{Record, Sample, Status};
use scheduler::{JobId, State};
use script::render;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Tasks in one array: Slurm's own default for `MaxArraySize` is 1001.
const LARGEST_ARRAY: usize = 1000;
/// A task whose node fails or that is preempted is submitted again so many times.
const MOST_SUBMISSIONS: u32 = 3;
/// Between two looks at the queue; a controller serves thousands of users.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After which a task that waits says why.
const WAIT_UNTOLD: Duration = Duration::from_secs(60);
/// A network file system may show a file this much later than the scheduler its task's end.
const FILE_PATIENCE: Duration = Duration::from_secs(30);
/// After a cancellation, for the tasks to write what they have.
const CANCEL_PATIENCE: Duration = Duration::from_secs(15);
/// How the reason of a row begins that lost one of its nodes ([`measure::launch::Exit::NodeLost`]).
const LOST_NODE: &str = "lost node ";
const OVER_MEMORY: &str = "over the scheduler's memory limit";
/// Bytes of a task's log that go into a record.
const TAIL: u64 = 4000;

/// Below the output folder.
const FOLDER: &str = "slurm";
/// Of a batch that is submitted, the file with the job's number.
const JOB: &str = "job";
/// What its tasks are.
const ORDER: &str = "order.json";

/// Runs tasks as arrays of jobs.
pub struct Slurm<'a> {
    pub runner: &'a Runner<'a>,
    pub rows: &'a [Row],
    pub request: Request,
    /// The output folder, absolute, on a file system that the nodes share.
    pub out: PathBuf,
}

/// A task that has been handed over and has not come back.
struct Open {
    task: Task,
    /// Its batch's folder, and its index in the batch's order.
    batch: PathBuf,
    index: usize,
    /// Of the array.
    job: JobId,
    submissions: u32,
    /// Since when its job has ended without a result file.
    ended: Option<Instant>,
}

/// The state of a task.
enum Step {
    /// It has not ended, or its result is on its way.
    Wait,
    /// A node of it failed, in words: it is to be submitted again.
    Again(String),
    Done(Box<Record>),
    /// There is no result to be had: what became of it, and why.
    Failed(Status, String),
}

impl Executor for Slurm<'_> {
    fn run(&mut self, tasks: &[Task], campaign: &mut Campaign) -> Result<()> {
        let (mut open, mut rest) = self.adopt(tasks)?;
        if !open.is_empty() {
            eprintln!("Submitted before and followed: {}", count(open.len(), "task"));
        }
        open.retain(|it| campaign.begin(it.task));
        rest.retain(|task| campaign.begin(*task));
        // All jobs of an array ask for the same.
        let mut sorted: BTreeMap<Needs, Vec<Task>> = BTreeMap::new();
        for task in rest {
            sorted.entry(self.rows[task.row].needs).or_default().push(task);
        }
        for (needs, tasks) in sorted {
            for part in tasks.chunks(LARGEST_ARRAY) {
                open.extend(self.submit(needs, part)?);
            }
        }
        self.follow(open, campaign)
    }

    fn takes_all_rounds(&self) -> bool {
        true
    }
}

impl Slurm<'_> {
    /// Tasks that an earlier process has submitted, and the other tasks.
    fn adopt(&self, tasks: &[Task]) -> Result<(Vec<Open>, Vec<Task>)> {
        let (mut open, mut rest) = (Vec::new(), tasks.to_vec());
        let folders = std::fs::read_dir(self.out.join(FOLDER)).into_iter().flatten().flatten();
        let mut batches: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
        let own = format!("{}-", job_name(Path::new(&self.runner.run.id)));
        batches.retain(|batch| job_name(batch).starts_with(&own));
        batches.sort();
        // The newest first: of a task that was submitted twice it is the one that counts.
        for batch in batches.into_iter().rev() {
            let read = |name| files::read(&batch.join(name), Kind::ORDER).ok();
            let Some(order) = read(ORDER) else { continue };
            let order: Order = serde_json::from_slice(&order).with_context(|| {
                let (batch, name) = (batch.display(), job_name(&batch));
                format!("the order in {batch} is of another build and cannot be read; cancel its jobs with `scancel --name {name}`, and remove the folder")
            })?;
            let job = read(JOB).and_then(|bytes| serde_json::from_slice(&bytes).ok());
            // It may have died between the submission and the note of it.
            let job =
                job.map_or_else(|| scheduler::find(&job_name(&batch)), |job| Ok(Some(job)))?;
            let Some(job) = job else { continue };
            let states = scheduler::states(job)?.unwrap_or_default();
            for (index, ordered) in order.tasks.iter().enumerate() {
                let same = |task: &&Task| {
                    task.round == ordered.round
                        && order.rows.get(ordered.row) == self.rows.get(task.row)
                };
                // A cancelled task runs again.
                if states.get(&index) == Some(&State::Cancelled) {
                    continue;
                }
                if let Some(at) = rest.iter().position(|task| same(&task)) {
                    let (task, batch) = (rest.remove(at), batch.clone());
                    open.push(Open { task, batch, index, job, submissions: 1, ended: None });
                }
            }
        }
        Ok((open, rest))
    }

    /// Writes a batch, submits it, and notes the job.
    fn submit(&self, needs: Needs, tasks: &[Task]) -> Result<Vec<Open>> {
        let parent = self.out.join(FOLDER);
        let hint = || format!("{}: no batch can be written there", parent.display());
        std::fs::create_dir_all(&parent).with_context(hint)?;
        let mut number = 1;
        let batch = loop {
            // Sorted by name, the newest is last.
            let batch = parent.join(format!("{}-{number:04}", self.runner.run.id));
            match std::fs::create_dir(&batch) {
                Ok(()) => break batch,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(hint),
            }
        };
        for inner in ["results", "logs"] {
            std::fs::create_dir(batch.join(inner)).with_context(hint)?;
        }
        let order = serde_json::to_vec(&Order::new(self.runner, self.rows, tasks))?;
        files::replace(&batch.join(ORDER), &order).with_context(hint)?;
        let script = render(&self.request, needs, &batch, &job_name(&batch), tasks.len())?;
        let path = batch.join("job.sh");
        files::replace(&path, script.as_bytes()).with_context(hint)?;
        let job = scheduler::submit(&path)?;
        let (logs, tasks_of) = (batch.join("logs"), count(tasks.len(), "task"));
        eprintln!("Slurm job {job}: {tasks_of}, logs in {}", logs.display());
        files::replace(&batch.join(JOB), job.to_string().as_bytes()).with_context(hint)?;
        let opened = |(index, &task): (usize, &Task)| {
            let batch = batch.clone();
            Open { task, batch, index, job, submissions: 1, ended: None }
        };
        Ok(tasks.iter().enumerate().map(opened).collect())
    }

    /// Looks at the queue until nothing is open.
    fn follow(&self, mut open: Vec<Open>, campaign: &mut Campaign) -> Result<()> {
        let mut waits = Waits::default();
        while !open.is_empty() {
            if self.runner.cancel.is_cancelled() {
                return self.give_up(open, campaign);
            }
            let states = self.states(&open)?;
            for line in waits.told(reasons(&open, &states), Instant::now()) {
                eprintln!("{line}");
            }
            let mut still = Vec::new();
            for mut it in open {
                let Some(states) = states.get(&it.job) else {
                    still.push(it); // the controller does not answer: nothing is known
                    continue;
                };
                let (written, log) = (Record::read_back(&it.result_path()), it.log());
                let state = states.get(&it.index).cloned();
                match state {
                    Some(State::Waiting(_) | State::Running) => it.ended = None,
                    _ => drop(it.ended.get_or_insert_with(Instant::now)),
                }
                if matches!(state, Some(State::NodeFailed(_))) {
                    let _ = scheduler::cancel(&format!("{}_{}", it.job, it.index)); // it may be held
                }
                let patient = it.ended.is_some_and(|since| since.elapsed() < FILE_PATIENCE);
                match step((state, written), it.submissions < MOST_SUBMISSIONS, patient, &log) {
                    Step::Wait => still.push(it),
                    Step::Done(result) => campaign.end(it.task, *result)?,
                    Step::Failed(status, what) => {
                        let reason = format!("job {}_{}: {what}", it.job, it.index);
                        campaign.end(it.task, self.failure(&it, status, reason, log))?;
                    }
                    Step::Again(word) => {
                        eprintln!("Slurm job {}_{}: {word}; submitted again", it.job, it.index);
                        let again = self.submit(self.rows[it.task.row].needs, &[it.task])?;
                        let submissions = it.submissions + 1;
                        still.extend(again.into_iter().map(|new| Open { submissions, ..new }));
                    }
                }
            }
            open = still;
            let until = Instant::now() + LOOK_EVERY;
            while !open.is_empty() && Instant::now() < until && !self.runner.cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// The states of all open jobs' tasks; a job of which nothing can be known now is missing.
    fn states(&self, open: &[Open]) -> Result<BTreeMap<JobId, BTreeMap<usize, State>>> {
        let mut all = BTreeMap::new();
        for job in jobs(open) {
            if let Some(states) = scheduler::states(job)? {
                all.insert(job, states);
            }
        }
        Ok(all)
    }

    /// A record of what the scheduler did to a task.
    fn failure(&self, open: &Open, status: Status, reason: String, log: String) -> Record {
        let mut result = self.runner.blank(&self.rows[open.task.row]);
        // Not this machine's: nobody has said what the node is.
        (result.machine, result.capability) = (None, None);
        let round = match open.task.round {
            Round::Number(number) => number,
            Round::WarmUp => 0,
        };
        let reason = Some(reason);
        let stderr_tail = (!log.is_empty()).then_some(log);
        result.add_sample(Sample { round, status, reason, stderr_tail, ..Sample::default() });
        result
    }

    /// The user cancels: so do the jobs. What has a result is kept.
    fn give_up(&self, open: Vec<Open>, campaign: &mut Campaign) -> Result<()> {
        for job in jobs(&open) {
            scheduler::cancel(&job.to_string())?;
        }
        let deadline = Instant::now() + CANCEL_PATIENCE;
        while Instant::now() < deadline {
            let states = self.states(&open)?;
            let busy = |state: &State| matches!(state, State::Waiting(_) | State::Running);
            if !states.values().flat_map(BTreeMap::values).any(busy) {
                break;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        for it in &open {
            // The signal reaches the trainer as well as the harness: whatever became of a task that
            // did not complete is the cancellation's doing. It runs again after --resume.
            match Record::read_back(&it.result_path()) {
                Some(result) if result.status.completed() => campaign.end(it.task, result)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Open {
    fn result_path(&self) -> PathBuf {
        self.batch.join("results").join(format!("{}.json", self.index))
    }

    /// The end of what the task printed.
    fn log(&self) -> String {
        let path = self.batch.join("logs").join(format!("{}_{}.log", self.job, self.index));
        let tail = files::read_end(&path, Kind::LOG, TAIL).unwrap_or_default();
        String::from_utf8_lossy(&tail).trim().to_owned()
    }
}

/// Why tasks wait: how many of a job, for each reason.
type Reasons = BTreeMap<(JobId, String), usize>;

fn reasons(open: &[Open], states: &BTreeMap<JobId, BTreeMap<usize, State>>) -> Reasons {
    let mut reasons = Reasons::new();
    for it in open {
        let why = match states.get(&it.job).map(|states| states.get(&it.index)) {
            None => "the controller does not answer",
            Some(Some(State::Waiting(why))) => why,
            Some(_) => continue,
        };
        *reasons.entry((it.job, why.to_owned())).or_default() += 1;
    }
    reasons
}

/// For each reason since when there are tasks that wait for it, and whether that was told. A job that is held, or whose
/// nodes are all down, waits for ever.
#[derive(Default)]
struct Waits(BTreeMap<(JobId, String), (Instant, bool)>);

impl Waits {
    /// What is to be told now: each reason once.
    fn told(&mut self, reasons: Reasons, now: Instant) -> Vec<String> {
        self.0.retain(|key, _| reasons.contains_key(key));
        let mut lines = Vec::new();
        for (key, tasks) in reasons {
            let (job, why) = &key;
            let line = format!("Slurm job {job}: {} waiting: {why}", count(tasks, "task"));
            let (since, told) = self.0.entry(key).or_insert((now, false));
            if !*told && now.duration_since(*since) >= WAIT_UNTOLD {
                *told = true;
                lines.push(line);
            }
        }
        lines
    }
}

/// What came of a task: its job's state, if the scheduler still knows it, and its result, if there is one.
/// `again` is whether it may be submitted once more, `patient` whether a file may still be on its way.
fn step(known: (Option<State>, Option<Record>), again: bool, patient: bool, log: &str) -> Step {
    // Its harness lived to tell that another of its nodes did not.
    let lost = |it: &Record| it.reason.as_ref().is_some_and(|it| it.starts_with(LOST_NODE));
    let done = |result| Step::Done(Box::new(result));
    match known {
        // Where Slurm itself watches the memory (OverMemoryKill), only the log tells why it failed.
        (Some(State::Failed(_) | State::Cancelled), _) if is_over_memory(log) => {
            Step::Failed(Status::OutOfMemory, OVER_MEMORY.to_owned())
        }
        // The kernel killed the trainer, the harness lived to tell of it.
        (Some(State::OutOfMemory), Some(it)) if it.status == Status::OutOfMemory => done(it),
        (Some(State::Waiting(_) | State::Running), _) => Step::Wait,
        (Some(State::Completed) | None, Some(it)) if again && lost(&it) => {
            Step::Again(it.reason.unwrap_or_default())
        }
        (Some(State::Completed) | None, Some(it)) => done(it),
        // Ended or forgotten, but no file yet: wait for a slow file system.
        (Some(State::Completed) | None, None) if patient => Step::Wait,
        (Some(State::Completed) | None, None) => {
            Step::Failed(Status::Failed, format!("ended and left no result: {}", last_line(log)))
        }
        (Some(State::NodeFailed(word)), _) if again => Step::Again(word),
        (Some(State::NodeFailed(_)), Some(it)) if lost(&it) => done(it),
        (Some(State::NodeFailed(word)), _) => {
            Step::Failed(Status::NotStarted, format!("{word}, {MOST_SUBMISSIONS} times"))
        }
        (Some(State::TimedOut), _) => {
            Step::Failed(Status::TimedOut, "over the scheduler's time limit".to_owned())
        }
        (Some(State::OutOfMemory), _) => Step::Failed(Status::OutOfMemory, OVER_MEMORY.to_owned()),
        (Some(State::Cancelled), _) => Step::Failed(Status::Interrupted, "cancelled".to_owned()),
        (Some(State::Failed(word)), _) => {
            Step::Failed(Status::NotStarted, format!("{word}: {}", last_line(log)))
        }
    }
}

/// Each once.
fn jobs(open: &[Open]) -> BTreeSet<JobId> {
    open.iter().map(|it| it.job).collect()
}

/// What a batch's job is called.
fn job_name(batch: &Path) -> String {
    format!("trainmark-{}", batch.file_name().unwrap_or_default().display())
}

/// Slurm's own lines in a task's log begin with it, `slurmstepd-node1: error:` for example.
const STEP_DAEMON: &str = "slurmstepd";

/// Whether Slurm says in the log that the task had more memory than it may.
fn is_over_memory(log: &str) -> bool {
    let says =
        |line: &str| ["memory limit", "oom_kill", "oom-kill"].iter().any(|it| line.contains(it));
    log.lines().any(|line| line.starts_with(STEP_DAEMON) && says(line))
}

/// Of what the task said itself, if it did: Slurm's commands only say that it failed.
fn last_line(log: &str) -> &str {
    let own = |line: &&str| !["srun: ", STEP_DAEMON].iter().any(|it| line.starts_with(it));
    let last = log.lines().rfind(own).or(log.lines().last());
    last.unwrap_or("it printed nothing")
}

/// The scripts of batches that are not submitted, for `--dry-run`.
///
/// # Errors
/// If a path cannot stand in a script.
pub fn preview(request: &Request, out: &Path, rows: &[Row], repeats: usize) -> Result<String> {
    let mut tasks: BTreeMap<Needs, usize> = BTreeMap::new();
    for row in rows {
        *tasks.entry(row.needs).or_default() += repeats;
    }
    let script = |(needs, tasks): (Needs, usize)| {
        let batch = out.join(FOLDER).join("BATCH");
        render(request, needs, &batch, "trainmark-BATCH", tasks.min(LARGEST_ARRAY))
    };
    let scripts: Vec<String> = tasks.into_iter().map(script).collect::<Result<_>>()?;
    Ok(scripts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_node_is_submitted_again_and_at_last_failed() {
        let lost = || {
            let reason = Some(measure::launch::Exit::NodeLost("1 (n4)".into()).to_string());
            Some(Record { status: Status::Failed, reason, ..Record::default() })
        };
        let again = |known| match step(known, true, false, "") {
            Step::Again(words) => words,
            _ => panic!("not again"),
        };
        assert_eq!(again((Some(State::Completed), lost())), "lost node 1 (n4)");
        assert_eq!(again((Some(State::NodeFailed("NODE_FAIL".into())), lost())), "NODE_FAIL");
        for state in [State::Completed, State::NodeFailed("NODE_FAIL".into())] {
            let Step::Done(result) = step((Some(state), lost()), false, false, "") else {
                panic!()
            };
            assert_eq!(result.reason.as_deref(), Some("lost node 1 (n4)"));
        }
        let alone = (Some(State::NodeFailed("NODE_FAIL".into())), None);
        let Step::Failed(status, words) = step(alone, false, false, "") else { panic!() };
        assert_eq!((status, words.as_str()), (Status::NotStarted, "NODE_FAIL, 3 times"));
    }

    #[test]
    fn a_task_that_waits_for_a_minute_says_why_once() {
        let held = || Reasons::from([((7, "JobHeldUser".to_owned()), 2)]);
        let (mut waits, start) = (Waits::default(), Instant::now());
        let mut at =
            |seconds, reasons| waits.told(reasons, start + Duration::from_secs(seconds)).join("|");
        let told = "Slurm job 7: 2 tasks waiting: JobHeldUser";
        assert_eq!(at(0, held()), "");
        assert_eq!(at(59, held()), "");
        assert_eq!(at(60, held()), told);
        assert_eq!(at(200, held()), "");
        assert_eq!(at(202, Reasons::new()), "");
        assert_eq!(at(204, held()), "", "it waits again, since now");
        assert_eq!(at(264, held()), told);
    }

    #[test]
    fn what_slurm_says_of_memory_is_told_from_what_a_task_says() {
        let log = "warning: slow\nslurmstepd-node1: error: StepId=1.batch exceeded memory limit \
                   (168566784 > 104857600), being killed\nsrun: error: node1: task 0: Killed";
        assert!(is_over_memory(log));
        assert!(is_over_memory("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0."));
        assert!(!is_over_memory("error: over the memory limit"));
        assert_eq!(last_line(log), "warning: slow");
        assert_eq!(
            last_line("srun: error: Unable to allocate resources"),
            "srun: error: Unable to allocate resources"
        );
        assert_eq!(last_line(""), "it printed nothing");
    }
}
