//! Slurm's commands, as far as they are needed: `sbatch`, `squeue`, `sacct`, `scancel`, for the cluster that the
//! environment names (`SLURM_CONF`).

use anyhow::{Context, Result, anyhow, bail};
use measure::helper::{LONG_PATIENCE, ask};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// The number of a job, of an array as a whole.
pub type JobId = u64;

/// The message of `squeue` for a job that ended long ago.
const FORGOTTEN: &str = "Invalid job id";

/// Why a job is held whose node could not start it, because its disk is full for example: not before somebody releases it
/// does Slurm try again.
const LAUNCH_FAILED: &str = "launch failed requeued held";

/// Where a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It computes nothing now, but has not ended. Why, in Slurm's words: the state of a job that has begun, and the
    /// reason (man squeue, JOB REASON CODES) where there is one.
    Waiting(String),
    Running,
    /// Ended with exit code 0.
    Completed,
    /// Ended otherwise; Slurm's word for it.
    Failed(String),
    TimedOut,
    OutOfMemory,
    /// Not the task's fault; Slurm's words for it.
    NodeFailed(String),
    Cancelled,
}

impl State {
    /// Slurm's word (man squeue, JOB STATE CODES), and whatever follows it; and why a job waits.
    fn parse(text: &str, reason: &str) -> State {
        let word = text.split_whitespace().next().unwrap_or_default();
        match word {
            _ if reason == LAUNCH_FAILED => State::NodeFailed(reason.to_owned()),
            "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT"
            | "RESV_DEL_HOLD" => State::Waiting(reason.to_owned()),
            "COMPLETING" | "CONFIGURING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT"
            | "RESIZING" => State::Waiting(match reason {
                "" | "None" => word.to_owned(),
                reason => format!("{word}, {reason}"),
            }),
            "RUNNING" => State::Running,
            "COMPLETED" => State::Completed,
            "TIMEOUT" | "DEADLINE" => State::TimedOut,
            "OUT_OF_MEMORY" => State::OutOfMemory,
            "NODE_FAIL" | "BOOT_FAIL" | "PREEMPTED" | "REVOKED" => {
                State::NodeFailed(word.to_owned())
            }
            "CANCELLED" => State::Cancelled,
            _ => State::Failed(word.to_owned()),
        }
    }
}

/// Whether there is a Slurm here at all, before anything is built for it.
///
/// # Errors
/// If not, or if it is not configured.
pub fn check() -> Result<()> {
    for program in ["sbatch", "squeue"] {
        // They read their configuration even for this.
        if let Err(said) = call(program, &["--version"])? {
            bail!(
                "--executor slurm: {program} knows no cluster here ({said}): run this on a submission host, or name \
                 the cluster's slurm.conf in $SLURM_CONF"
            );
        }
    }
    Ok(())
}

/// Submits a script.
///
/// # Errors
/// If Slurm is not there or refuses it.
pub fn submit(script: &Path) -> Result<JobId> {
    let said = required("sbatch", &["--parsable", &script.display().to_string()])?;
    // `1234` or `1234;cluster`.
    let number = said.split(';').next().unwrap_or_default().parse();
    number.with_context(|| format!("--executor slurm: sbatch: {said}"))
}

/// The states of an array's tasks, by index; those that the scheduler has forgotten are missing.
/// `None` while the controller does not answer: then nothing is known of any.
///
/// # Errors
/// If Slurm is not there.
pub fn states(job: JobId) -> Result<Option<BTreeMap<usize, State>>> {
    let read = |said: &str| -> BTreeMap<usize, State> {
        said.lines().filter_map(|line| task_state(line, job)).collect()
    };
    let id = job.to_string();
    let queued =
        match call("squeue", &["-h", "-r", "--states=all", "--format=%F_%K|%T|%r", "-j", &id])? {
            Ok(said) => read(&said),
            Err(said) if said.contains(FORGOTTEN) => BTreeMap::new(),
            Err(_) => return Ok(None),
        };
    // The accounting, where there is one, remembers longest; the queue knows best.
    let history = call("sacct", &["-n", "-P", "-X", "--format=JobID,State", "-j", &id]);
    let mut states = history.ok().and_then(Result::ok).map(|said| read(&said)).unwrap_or_default();
    states.extend(queued);
    Ok(Some(states))
}

/// The job of a name, if it was submitted.
///
/// # Errors
/// If Slurm is not there, or does not answer: what was submitted must not be submitted again.
pub fn find(name: &str) -> Result<Option<JobId>> {
    let queue = required("squeue", &["-h", "--states=all", "--format=%F", "--name", name])?;
    let number = |said: String| said.lines().next().and_then(|line| line.parse().ok());
    if let Some(job) = number(queue) {
        return Ok(Some(job));
    }
    let history = call("sacct", &["-n", "-P", "-X", "--format=JobIDRaw", "--name", name])?;
    Ok(history.ok().and_then(number))
}

/// Ends a job, `12`, or one task of an array, `12_3`.
///
/// # Errors
/// If Slurm is not there or refuses.
pub fn cancel(job: &str) -> Result<()> {
    required("scancel", &[job]).map(drop)
}

/// `123_4|PENDING|Resources`, or without a reason.
fn task_state(line: &str, job: JobId) -> Option<(usize, State)> {
    let (task, state) = line.split_once('|')?;
    let (number, index) = task.split_once('_')?;
    (number.parse() == Ok(job)).then_some(())?;
    let (state, reason) = state.split_once('|').unwrap_or((state, ""));
    Some((index.parse().ok()?, State::parse(state, reason)))
}

/// What a command prints, or else why it refused, or that it did not answer.
///
/// # Errors
/// If it is not there.
fn call(program: &str, words: &[&str]) -> Result<Result<String, String>> {
    let output = match ask(Command::new(program).args(words), LONG_PATIENCE) {
        Err(reason) if reason.kind() == ErrorKind::TimedOut => return Ok(Err(reason.to_string())),
        answer => answer.map_err(|reason| {
            anyhow!(
                "--executor slurm: {program} cannot be started ({reason}): run this on a submission host of the \
                 cluster, where Slurm's commands are, or without --executor slurm on this machine alone"
            )
        })?,
    };
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(Ok(said(&output.stdout)));
    }
    let said = said(&output.stderr);
    let said = said.lines().last().unwrap_or("it failed and printed nothing");
    let said = said.strip_prefix(program).and_then(|it| it.strip_prefix(": ")).unwrap_or(said);
    let said = ["fatal: ", "error: "].iter().find_map(|it| said.strip_prefix(it)).unwrap_or(said);
    Ok(Err(said.to_owned()))
}

fn required(program: &str, words: &[&str]) -> Result<String> {
    call(program, words)?.map_err(|said| anyhow!("--executor slurm: {program}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_words_become_states() {
        for (word, state) in [
            ("PENDING", State::Waiting("Resources".into())),
            ("REQUEUE_HOLD", State::Waiting("Resources".into())),
            ("RUNNING", State::Running),
            ("COMPLETING", State::Waiting("COMPLETING, Resources".into())),
            ("COMPLETED", State::Completed),
            ("TIMEOUT", State::TimedOut),
            ("OUT_OF_MEMORY", State::OutOfMemory),
            ("NODE_FAIL", State::NodeFailed("NODE_FAIL".into())),
            ("CANCELLED by 1000", State::Cancelled),
            ("FAILED", State::Failed("FAILED".into())),
            ("SOMETHING_NEW", State::Failed("SOMETHING_NEW".into())),
        ] {
            assert_eq!(State::parse(word, "Resources"), state, "{word}");
        }
        assert_eq!(State::parse("SUSPENDED", "None"), State::Waiting("SUSPENDED".into()));
    }

    #[test]
    fn only_lines_of_the_job_are_taken() {
        assert_eq!(task_state("12_3|RUNNING", 12), Some((3, State::Running)));
        let failed = State::NodeFailed("launch failed requeued held".into());
        assert_eq!(task_state("12_3|PENDING|launch failed requeued held", 12), Some((3, failed)));
        for line in ["12|RUNNING", "13_3|RUNNING", "12_[4-9]|PENDING", "12_3.batch|FAILED", ""] {
            assert_eq!(task_state(line, 12), None, "{line}");
        }
    }
}
