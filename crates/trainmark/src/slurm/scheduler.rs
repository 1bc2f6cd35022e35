//! Slurm's commands, as far as they are needed: `sbatch`, `squeue`, `sacct`, `scancel`.

use measure::launch::withhold;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// The number of a job, of an array as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JobId {
    /// Only digits are taken: it becomes a word of a command and a part of a file's name.
    fn parse(text: &str) -> Option<JobId> {
        let text = text.trim();
        let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        number.then(|| JobId(text.to_owned()))
    }
}

/// The message of `squeue` for a job that ended long ago.
const FORGOTTEN: &str = "Invalid job id";

/// Where a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Running,
    /// Ended with exit code 0.
    Completed,
    /// Ended otherwise; Slurm's word for it.
    Failed(String),
    TimedOut,
    OutOfMemory,
    /// Not the task's fault; Slurm's word for it.
    NodeFailed(String),
    Cancelled,
}

impl State {
    /// Slurm's word (man squeue, JOB STATE CODES), and whatever follows it.
    fn parse(text: &str) -> State {
        let word = text.split_whitespace().next().unwrap_or_default();
        match word {
            "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT"
            | "RESV_DEL_HOLD" => State::Waiting,
            "RUNNING" | "COMPLETING" | "CONFIGURING" | "SUSPENDED" | "STOPPED" | "SIGNALING"
            | "STAGE_OUT" | "RESIZING" => State::Running,
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

/// Why the scheduler could not be asked: one line.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error(
        "--executor slurm: {program} cannot be started ({reason}): run this on a submission host of the \
         cluster, where Slurm's commands are, or without --executor slurm on this machine alone"
    )]
    NotThere { program: &'static str, reason: std::io::Error },
    #[error(
        "--executor slurm: {program} knows no cluster here ({said}): run this on a submission host, or name \
         the cluster's slurm.conf in $SLURM_CONF"
    )]
    NotConfigured { program: &'static str, said: String },
    #[error("--executor slurm: {program}: {said}")]
    Refused { program: &'static str, said: String },
}

/// The cluster that the environment names (`SLURM_CONF`).
#[derive(Clone, Debug, Default)]
pub struct Scheduler;

impl Scheduler {
    /// Whether there is a Slurm here at all, before anything is built for it.
    ///
    /// # Errors
    /// If not, or if it is not configured.
    pub fn check(&self) -> Result<(), SchedulerError> {
        // They read their configuration even for this.
        let check = |program| match call(program, &["--version"]) {
            Err(SchedulerError::Refused { program, said }) => {
                Err(SchedulerError::NotConfigured { program, said })
            }
            other => other.map(|_| ()),
        };
        ["sbatch", "squeue"].into_iter().try_for_each(check)
    }

    /// Submits a script.
    ///
    /// # Errors
    /// If Slurm is not there or refuses it.
    pub fn submit(&self, script: &Path) -> Result<JobId, SchedulerError> {
        let script = script.display().to_string();
        let said = call("sbatch", &["--parsable", &script])?;
        // `1234` or `1234;cluster`.
        let number = said.split(';').next().unwrap_or_default();
        JobId::parse(number).ok_or(SchedulerError::Refused { program: "sbatch", said })
    }

    /// The states of an array's tasks, by index; those that the scheduler has forgotten are missing.
    /// `None` while the controller does not answer: then nothing is known of any.
    ///
    /// # Errors
    /// If Slurm is not there.
    pub fn states(&self, job: &JobId) -> Result<Option<BTreeMap<usize, State>>, SchedulerError> {
        let read = |said: &str| -> BTreeMap<usize, State> {
            said.lines().filter_map(|line| task_state(line, job)).collect()
        };
        let queue = ["-h", "-r", "--states=all", "--format=%F_%K|%T", "-j", &job.0];
        let queued = match call("squeue", &queue) {
            Ok(said) => read(&said),
            Err(SchedulerError::Refused { said, .. }) if said.contains(FORGOTTEN) => {
                BTreeMap::new()
            }
            Err(SchedulerError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The accounting, where there is one, remembers longest; the queue knows best.
        let history = ["-n", "-P", "-X", "--format=JobID,State", "-j", &job.0];
        let mut states = call("sacct", &history).map(|said| read(&said)).unwrap_or_default();
        states.extend(queued);
        Ok(Some(states))
    }

    /// The job of a name, if it was submitted.
    ///
    /// # Errors
    /// If Slurm is not there.
    pub fn find(&self, name: &str) -> Result<Option<JobId>, SchedulerError> {
        for (program, words) in [
            ("squeue", vec!["-h", "--states=all", "--format=%F", "--name", name]),
            ("sacct", vec!["-n", "-P", "-X", "--format=JobIDRaw", "--name", name]),
        ] {
            let said = match call(program, &words) {
                Err(SchedulerError::Refused { .. }) => continue,
                other => other?,
            };
            if let Some(job) = said.lines().next().and_then(JobId::parse) {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    /// Ends all of an array.
    ///
    /// # Errors
    /// If Slurm is not there or refuses.
    pub fn cancel(&self, job: &JobId) -> Result<(), SchedulerError> {
        call("scancel", &[&job.0]).map(|_| ())
    }
}

/// `123_4|RUNNING`.
fn task_state(line: &str, job: &JobId) -> Option<(usize, State)> {
    let (task, state) = line.split_once('|')?;
    let (number, index) = task.split_once('_')?;
    (number == job.0).then_some(())?;
    Some((index.parse().ok()?, State::parse(state)))
}

fn call(program: &'static str, words: &[&str]) -> Result<String, SchedulerError> {
    let output = withhold(&mut Command::new(program))
        .args(words)
        .output()
        .map_err(|reason| SchedulerError::NotThere { program, reason })?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    let said = said(&output.stderr);
    let said = said.lines().last().unwrap_or("it failed and printed nothing");
    let said =
        [program, ": "].iter().try_fold(said, |said, it| said.strip_prefix(it)).unwrap_or(said);
    let said = ["fatal: ", "error: "].iter().find_map(|it| said.strip_prefix(it)).unwrap_or(said);
    let said = said.to_owned();
    Err(SchedulerError::Refused { program, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_words_become_states() {
        for (word, state) in [
            ("PENDING", State::Waiting),
            ("RUNNING", State::Running),
            ("COMPLETING", State::Running),
            ("COMPLETED", State::Completed),
            ("TIMEOUT", State::TimedOut),
            ("OUT_OF_MEMORY", State::OutOfMemory),
            ("NODE_FAIL", State::NodeFailed("NODE_FAIL".into())),
            ("CANCELLED by 1000", State::Cancelled),
            ("FAILED", State::Failed("FAILED".into())),
            ("SOMETHING_NEW", State::Failed("SOMETHING_NEW".into())),
        ] {
            assert_eq!(State::parse(word), state, "{word}");
        }
    }

    #[test]
    fn only_lines_of_the_job_are_taken() {
        let job = JobId::parse("12").unwrap();
        assert_eq!(task_state("12_3|RUNNING", &job), Some((3, State::Running)));
        for line in ["12|RUNNING", "13_3|RUNNING", "12_[4-9]|PENDING", "12_3.batch|FAILED", ""] {
            assert_eq!(task_state(line, &job), None, "{line}");
        }
        assert!(JobId::parse("12; rm").is_none());
        assert!(JobId::parse("").is_none());
    }
}
