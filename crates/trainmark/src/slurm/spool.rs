//! Tasks on a cluster whose nodes share no folder with the submitting host.
//!
//! Each task has an `srun` of its own here: it carries the order to the node on standard input and the
//! result back on standard output, into a folder of this host, the *spool*. At most so many run or wait at
//! the same time. They are in a process group of their own and write straight into the spool, so that
//! they outlive a submitting process that is killed; whether one is still there, a later `--resume` sees by
//! the lock that it holds on its output. What has arrived whole is kept then, who is still at work is
//! followed, and all else runs again: of a task without its `srun` nothing can arrive any more.

use super::script::{quoted, srun_options};
use super::{Batch, CANCEL_PATIENCE, LOOK_EVERY, Note, Open, Slurm, State, Step, read_order};
use crate::executor::{Desk, Task};
use crate::result::ResultFile;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What the line begins with that carries a task's result.
pub const RESULT_LINE: &str = "TRAINMARK_RESULT ";
/// More than any result of one task; a node that sends more is not listened to.
const LARGEST_RESULT: u64 = 64 << 20;
/// Tasks at the same time without `--array-limit`: each is a process here.
pub const MOST_CLIENTS: u32 = 32;

/// A task that has been handed over, and its `srun`.
struct Client {
    open: Open,
    /// The name of its job, which is all that connects the two.
    job_name: String,
    /// `None` if an earlier process has started it.
    child: Option<Child>,
}

impl Slurm<'_> {
    /// As [`Executor::run`](crate::executor::Executor::run), through the spool.
    pub(super) fn run_spooled(&self, tasks: &[Task], desk: &mut dyn Desk) -> Result<()> {
        let (mut clients, rest) = self.adopt_spooled(tasks, desk)?;
        if !clients.is_empty() {
            eprintln!("{} tasks were submitted before and are followed", clients.len());
        }
        clients.retain(|it| desk.begin(it.open.task));
        let mut waiting = VecDeque::new();
        if !rest.is_empty() {
            let batch = self.new_batch(&rest, desk)?;
            eprintln!("{} tasks through srun, spool {}", rest.len(), batch.folder.display());
            waiting.extend(
                rest.into_iter().enumerate().map(|(index, task)| (batch.clone(), index, task)),
            );
        }
        let most = self.request.array_limit.unwrap_or(MOST_CLIENTS) as usize;
        while !(clients.is_empty() && waiting.is_empty()) {
            if self.cancel.is_cancelled() {
                return self.give_up_spooled(clients, desk);
            }
            while clients.len() < most
                && let Some((batch, index, task)) = waiting.pop_front()
            {
                if desk.begin(task) {
                    clients.push(self.start(&batch, index, task, 1)?);
                }
            }
            let states = self.scheduler.states_by_name(&prefixes(&clients))?;
            let mut still = Vec::new();
            for mut it in clients {
                // Nothing is decided while the task can still speak, or the controller does not answer.
                let (true, Some(states)) = (it.has_ended(), &states) else {
                    still.push(it);
                    continue;
                };
                let state = states.get(&it.job_name).map(|(_, state)| state.clone());
                let written = read_spooled(&it.open.spooled_path());
                match self.look_at(&mut it.open, state, written) {
                    Step::Wait => still.push(it),
                    Step::Done(result) => desk.end(it.open.task, *result)?,
                    Step::Again(word) => {
                        eprintln!("Slurm {}: {word}; submitted again", it.job_name);
                        let Open { batch, index, task, submissions, .. } = it.open;
                        still.push(self.start(&batch, index, task, submissions + 1)?);
                    }
                }
            }
            clients = still;
            let until = Instant::now() + LOOK_EVERY;
            while !clients.is_empty() && Instant::now() < until && !self.cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Tasks of which an earlier process has brought the result or is still awaited, and the others.
    fn adopt_spooled(&self, tasks: &[Task], desk: &dyn Desk) -> Result<(Vec<Client>, Vec<Task>)> {
        let (mut clients, mut rest) = (Vec::new(), tasks.to_vec());
        let notes =
            desk.notes().iter().filter_map(|note| serde_json::from_value(note.clone()).ok());
        let names: std::collections::BTreeSet<String> =
            notes.map(|note: Note| note.slurm_batch).collect();
        // The newest first.
        for name in names.into_iter().rev() {
            let batch = self.batch(&name);
            let Ok(order) = read_order(&batch.folder) else { continue };
            let states = self.scheduler.states_by_name(&[batch.job_name()])?.unwrap_or_default();
            for (index, ordered) in order.tasks.iter().enumerate() {
                let same = |task: &Task| {
                    task.round == ordered.round
                        && order.cases.get(ordered.row) == self.cases.get(task.row)
                };
                let Some(at) = rest.iter().position(same) else { continue };
                let mut client = Client::new(&batch, index, rest[at], 1);
                // The latest submission of those that an earlier process made.
                let latest = (1..=super::MOST_SUBMISSIONS)
                    .rfind(|number| states.contains_key(&job_name(&batch, index, *number)));
                client.open.submissions = latest.unwrap_or(1);
                client.job_name = job_name(&batch, index, client.open.submissions);
                let arrived = read_spooled(&client.open.spooled_path());
                if !client.has_ended() || arrived.is_some_and(|it| it.status.completed()) {
                    rest.remove(at);
                    clients.push(client);
                } else if let Some((job, State::Waiting | State::Running)) =
                    states.get(&client.job_name)
                {
                    // Nobody listens to it: it would only keep a node from the one that takes its place.
                    self.scheduler.cancel(job)?;
                }
            }
        }
        Ok((clients, rest))
    }

    /// Starts the `srun` of a task.
    fn start(&self, batch: &Batch, index: usize, task: Task, submission: u32) -> Result<Client> {
        let mut client = Client::new(batch, index, task, submission);
        let path = client.open.spooled_path();
        let hint = || format!("{}: no result can be received there", path.display());
        let output = File::create(&path).with_context(hint)?;
        // Held by srun from now on, and by nobody when it has ended.
        output.lock().with_context(hint)?;
        let log = File::create(client.open.log_path()).with_context(hint)?;
        let order = File::open(batch.folder.join("order.json")).with_context(hint)?;
        let words = self.srun_words(&client.job_name, index)?;
        let child = Command::new("srun")
            .args(&words)
            .stdin(order)
            .stdout(output)
            .stderr(log)
            // Inside another job it would become a step of that one.
            .env_remove("SLURM_JOB_ID")
            .env_remove("SLURM_JOBID")
            .process_group(0)
            .spawn()
            .map_err(|reason| super::SchedulerError::NotThere { program: "srun", reason })?;
        client.child = Some(child);
        Ok(client)
    }

    fn srun_words(&self, job_name: &str, index: usize) -> Result<Vec<String>> {
        let mut words = srun_options(&self.request, job_name);
        words.extend(task_words(&self.request, &index.to_string())?);
        Ok(words)
    }

    /// The user cancels: so do the jobs, and then those that wait for them. What has arrived is kept.
    fn give_up_spooled(&self, mut clients: Vec<Client>, desk: &mut dyn Desk) -> Result<()> {
        let deadline = Instant::now() + CANCEL_PATIENCE;
        loop {
            let states = self.scheduler.states_by_name(&prefixes(&clients))?.unwrap_or_default();
            let busy =
                |it: &&(super::JobId, State)| matches!(it.1, State::Waiting | State::Running);
            let mut active = 0;
            for (job, _) in states.values().filter(busy) {
                self.scheduler.cancel(job)?;
                active += 1;
            }
            let ended = clients.iter_mut().filter_map(|it| it.has_ended().then_some(())).count();
            if (active == 0 && ended == clients.len()) || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        for it in &mut clients {
            if let Some(child) = &mut it.child {
                let _ = child.kill(); // it may have ended
                let _ = child.wait();
            }
            match read_spooled(&it.open.spooled_path()) {
                Some(result) if result.status.completed() => desk.end(it.open.task, result)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Client {
    fn new(batch: &Batch, index: usize, task: Task, submission: u32) -> Client {
        let job_name = job_name(batch, index, submission);
        let open = Open {
            task,
            batch: batch.clone(),
            index,
            job: None,
            submissions: submission,
            ended: None,
        };
        Client { open, job_name, child: None }
    }

    /// Whether its `srun` has ended, so that nothing more can arrive.
    fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => match File::open(self.open.spooled_path()) {
                Ok(output) => output.try_lock().is_ok(),
                Err(_) => true, // it was never started
            },
        }
    }
}

impl Open {
    fn spooled_path(&self) -> PathBuf {
        self.batch.folder.join("results").join(format!("{}.out", self.index))
    }
}

/// The job of a task, each time that it is submitted.
fn job_name(batch: &Batch, index: usize, submission: u32) -> String {
    format!("{}.{index}.{submission}", batch.job_name())
}

/// What the names of these tasks' jobs begin with.
fn prefixes(clients: &[Client]) -> Vec<String> {
    let mut names: Vec<String> = clients.iter().map(|it| it.open.batch.job_name()).collect();
    names.sort();
    names.dedup();
    names
}

/// What `srun` runs on the node: the task, and before it, once for each node, its measurement.
fn task_words(request: &super::Request, index: &str) -> Result<Vec<String>> {
    // A path that cannot stand in a script cannot stand in a log either.
    quoted(&request.program)?;
    let program = request.program.display().to_string();
    let task = ["task", "--order", "-", "--result", "-", "--index", index].map(str::to_owned);
    if !request.measure_nodes {
        return Ok(std::iter::once(program).chain(task).collect());
    }
    // The order on standard input is the task's alone; standard output is the result's alone.
    let script = "\"$0\" machine --stored > /dev/null 2>&1 < /dev/null || flock \"$0\" sh -c \
                  '\"$0\" machine --stored || \"$0\" machine' \"$0\" > /dev/null < /dev/null; \
                  exec \"$0\" \"$@\"";
    let shell = ["/bin/sh", "-c", script].map(str::to_owned);
    Ok(shell.into_iter().chain(std::iter::once(program)).chain(task).collect())
}

/// What has arrived of a task, if all of it has.
fn read_spooled(path: &Path) -> Option<ResultFile> {
    let mut text = String::new();
    File::open(path).ok()?.take(LARGEST_RESULT).read_to_string(&mut text).ok()?;
    parse(&text)
}

/// Whatever else a node's prolog prints. Half an object is none.
fn parse(text: &str) -> Option<ResultFile> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix(RESULT_LINE))?;
    serde_json::from_str(line).ok()
}

/// The line that carries a result.
///
/// # Errors
/// If it cannot be written as JSON, which it always can.
pub fn result_line(result: &ResultFile) -> Result<String> {
    Ok(format!("{RESULT_LINE}{}\n", serde_json::to_string(result)?))
}

/// The `srun` of one task, for `--dry-run`.
///
/// # Errors
/// If a path cannot stand in it.
pub fn preview(request: &super::Request) -> Result<String> {
    let mut words = vec!["srun".to_owned()];
    words.extend(srun_options(request, "trainmark-BATCH.0.1"));
    words.extend(task_words(request, "0")?);
    let words: Vec<String> = words.iter().map(|word| crate::cmd::run::quote(word)).collect();
    Ok(format!("{} < order.json\n", words.join(" ")))
}

/// Jobs by their name, as [`super::Scheduler::states_by_name`] gives them.
pub(super) type ByName = BTreeMap<String, (super::JobId, State)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_result_has_arrived() {
        let result = ResultFile { model: "mlp".into(), ..ResultFile::default() };
        let line = result_line(&result).unwrap();
        let noisy = format!("Welcome to node7\n{line}Goodbye\n");
        assert_eq!(parse(&noisy), Some(result));
        for cut in [0, 1, RESULT_LINE.len(), line.len() / 2, line.len() - 2] {
            assert_eq!(parse(&line[..cut]), None, "{cut}");
        }
    }
}
