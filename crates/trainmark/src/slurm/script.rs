//! The batch script: what `sbatch` is given, and what `--executor slurm --dry-run` prints.

use anyhow::{Result, bail};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the user wants of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// This program, at a path that is the nodes' too.
    pub program: PathBuf,
    pub partition: Option<String>,
    /// A feature that the nodes must have (`--constraint`).
    pub nodes_like: Option<String>,
    pub gpus: Option<u32>,
    pub cpus: Option<u32>,
    /// Tasks that run at the same time, at most.
    pub array_limit: Option<u32>,
    /// Nothing else on the node.
    pub exclusive: bool,
    /// After which the scheduler ends a task.
    pub time: Duration,
    /// The scheduler's memory limit of a task, in bytes.
    pub memory_bytes: Option<u64>,
    /// Further options of `sbatch`, as they are.
    pub more: Vec<String>,
    /// Whether a node is measured (`trainmark machine`) before its first task.
    pub measure_nodes: bool,
}

/// The script of an array over these indices of the order in `folder`.
///
/// # Errors
/// If something in it would break a line of the script.
pub fn render(
    request: &Request,
    folder: &Path,
    job_name: &str,
    indices: &[usize],
) -> Result<String> {
    let Some(folder_text) = folder.to_str() else {
        bail!("{}: Slurm takes only UTF-8 paths", folder.display());
    };
    let mut options = vec![
        format!("--job-name={job_name}"),
        format!("--array={}{}", ranges(indices), limit(request.array_limit)),
        // In file names Slurm reads %A as the job and %a as the index.
        format!("--output={}/logs/%A_%a.log", folder_text.replace('%', "%%")),
        "--open-mode=append".to_owned(), // a requeued task's second log behind its first
        "--requeue".to_owned(),          // a task of a failed node runs again
    ];
    options.extend(wishes(request));
    let mut script = String::from("#!/bin/bash\n");
    for option in &options {
        if option.contains(['\n', '\r', '"', '\\']) {
            bail!("{option:?}: cannot stand in a batch script");
        }
        // Writing to a string cannot fail.
        let _ = match option.contains([' ', '\t', '#']) {
            true => writeln!(script, "#SBATCH \"{option}\""),
            false => writeln!(script, "#SBATCH {option}"),
        };
    }
    let program = quoted(&request.program)?;
    let folder = quoted(folder)?;
    let _ = write!(script, "\nTRAINMARK={program}\nBATCH={folder}\n");
    if request.measure_nodes {
        script += "\
# What this node can do, once per type of node, one node at a time; the result files carry it.
if ! \"$TRAINMARK\" machine --stored > /dev/null 2>&1; then
    flock \"$BATCH/machine.lock\" sh -c '\"$0\" machine --stored > /dev/null 2>&1 || \"$0\" machine' \"$TRAINMARK\"
fi
";
    }
    script += "\
# In place of this shell, so that the scheduler's signals reach it.
exec \"$TRAINMARK\" task --order \"$BATCH/order.json\" --index \"$SLURM_ARRAY_TASK_ID\" \\
    --result \"$BATCH/results/$SLURM_ARRAY_TASK_ID.json\"
";
    Ok(script)
}

/// What is asked of the scheduler for a task, however it is submitted.
fn wishes(request: &Request) -> Vec<String> {
    let mut options = vec![format!("--time={}", minutes(request.time)), "--ntasks=1".to_owned()];
    options.extend(request.partition.iter().map(|name| format!("--partition={name}")));
    options.extend(request.nodes_like.iter().map(|name| format!("--constraint={name}")));
    options.extend(request.gpus.map(|number| format!("--gres=gpu:{number}")));
    options.extend(request.cpus.map(|number| format!("--cpus-per-task={number}")));
    options.extend(request.memory_bytes.map(|bytes| format!("--mem={}K", bytes.div_ceil(1024))));
    options.extend(request.exclusive.then(|| "--exclusive".to_owned()));
    options.extend(request.more.iter().cloned());
    options
}

fn limit(most: Option<u32>) -> String {
    most.map_or(String::new(), |most| format!("%{most}"))
}

/// `0-3,7` of 0, 1, 2, 3, 7.
fn ranges(indices: &[usize]) -> String {
    let runs = indices.chunk_by(|a, b| a + 1 == *b);
    let shown = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        one => one.iter().map(usize::to_string).collect(),
    });
    shown.collect::<Vec<_>>().join(",")
}

/// Slurm counts in minutes: rounded up.
fn minutes(time: Duration) -> u64 {
    time.as_secs().div_ceil(60).max(1)
}

fn quoted(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains('\n') => Ok(format!("'{}'", text.replace('\'', r"'\''"))),
        _ => bail!("{}: cannot stand in a batch script", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            program: "/opt/it's/trainmark".into(),
            partition: Some("gpu".into()),
            nodes_like: Some("h100".into()),
            gpus: Some(1),
            cpus: Some(8),
            array_limit: Some(4),
            exclusive: true,
            time: Duration::from_secs(601),
            memory_bytes: Some(1 << 30),
            more: vec!["--account=lab 7".into()],
            measure_nodes: true,
        }
    }

    #[test]
    fn the_script_says_everything_that_was_asked_for() {
        let folder = Path::new("/shared/100%/batch");
        insta::assert_snapshot!(
            render(&request(), folder, "trainmark-x", &[0, 1, 2, 5, 7, 8]).unwrap()
        );
    }

    #[test]
    fn nothing_can_break_out_of_its_line() {
        let folder = Path::new("/shared/batch");
        for evil in ["gpu\nrm -rf /", "gpu\"", "a\\"] {
            let request = Request { partition: Some(evil.into()), ..request() };
            assert!(render(&request, folder, "trainmark-x", &[0]).is_err(), "{evil}");
        }
        assert!(render(&request(), Path::new("/a\nb"), "trainmark-x", &[0]).is_err());
    }
}
