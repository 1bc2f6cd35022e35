//! The batch script: what `sbatch` is given, and what `--executor slurm --dry-run` prints.

use crate::share::Needs;
use crate::units;
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time that a task needs besides its training: data, probe, start of the job.
const OVERHEAD: Duration = Duration::from_secs(120);

/// The options of `trainmark run` for the scheduler.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct Wishes {
    /// Partition of the nodes
    #[arg(long, hide_short_help = true, value_name = "NAME")]
    partition: Option<String>,
    /// Feature that the nodes must have, for example `h100`
    #[arg(long, hide_short_help = true, value_name = "FEATURE")]
    nodes_like: Option<String>,
    /// Number of GPUs on each node, for rows that do not say how many
    #[arg(long, hide_short_help = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    gpus: Option<u32>,
    /// Number of CPUs on each node, for rows that do not say how many
    #[arg(long, hide_short_help = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus_per_task: Option<u32>,
    /// Highest number of tasks that run at the same time
    #[arg(long, hide_short_help = true, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    array_limit: Option<u32>,
    /// Give each task a node of its own
    #[arg(long, hide_short_help = true)]
    exclusive: bool,
    /// Time after which the scheduler ends a task [default: the sample's time-out plus two minutes]
    #[arg(long, hide_short_help = true, value_name = "TIME", value_parser = units::duration)]
    task_time: Option<Duration>,
    /// The scheduler's memory limit of a task, for example `8G` (8 x 10^9 bytes) or `8GiB`
    #[arg(long, hide_short_help = true, value_name = "SIZE", value_parser = units::size)]
    task_memory: Option<u64>,
    /// Further option of sbatch, passed unchanged, for example `--account=lab`
    #[arg(long, hide_short_help = true, value_name = "OPTION", allow_hyphen_values = true)]
    sbatch: Vec<String>,
    /// Do not measure each type of node (`trainmark machine`) before its first task
    #[arg(long, hide_short_help = true)]
    no_node_measure: bool,
}

/// The request to the scheduler.
#[derive(Clone, Debug)]
pub struct Request {
    pub wishes: Wishes,
    /// This program, at a path that is the nodes' too.
    pub program: PathBuf,
    /// After which the harness ends a training.
    pub timeout: Duration,
}

impl Request {
    /// For samples that may take so long.
    ///
    /// # Errors
    /// If it is not known where this program is.
    pub fn new(wishes: &Wishes, timeout: Duration) -> Result<Request> {
        let program = std::env::current_exe().context("cannot find out where this program is")?;
        Ok(Request { wishes: wishes.clone(), program, timeout })
    }
}

/// The script of an array over the tasks of the order in `folder`, of which there is one at least.
///
/// # Errors
/// If something in it would break a line of the script.
pub fn render(
    request: &Request,
    needs: Needs,
    folder: &Path,
    job_name: &str,
    tasks: usize,
) -> Result<String> {
    let Some(folder_text) = folder.to_str() else {
        bail!("{}: Slurm takes only UTF-8 paths", folder.display());
    };
    let limit = request.wishes.array_limit.map_or(String::new(), |most| format!("%{most}"));
    let mut options = vec![
        format!("--job-name={job_name}"),
        format!("--array=0-{}{limit}", tasks - 1),
        // In file names Slurm reads %A as the job and %a as the index.
        format!("--output={}/logs/%A_%a.log", folder_text.replace('%', "%%")),
        "--open-mode=append".to_owned(), // a requeued task's second log behind its first
        "--requeue".to_owned(),          // a task of a failed node runs again
    ];
    options.extend(task_options(request, needs));
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
    if !request.wishes.no_node_measure {
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

/// The resources of one task.
fn task_options(request: &Request, needs: Needs) -> Vec<String> {
    let wishes = &request.wishes;
    let time = wishes.task_time.unwrap_or(request.timeout + OVERHEAD);
    let mut options = vec![format!("--time={}", minutes(time))];
    options.extend([format!("--nodes={}", needs.nodes), "--ntasks-per-node=1".to_owned()]);
    options.extend(wishes.partition.iter().map(|name| format!("--partition={name}")));
    options.extend(wishes.nodes_like.iter().map(|name| format!("--constraint={name}")));
    let either = |row: Option<usize>, all: Option<u32>| row.or(all.map(|number| number as usize));
    let (gpus, cpus) =
        (either(needs.devices, wishes.gpus), either(needs.cores, wishes.cpus_per_task));
    options.extend(gpus.map(|number| format!("--gres=gpu:{number}")));
    options.extend(cpus.map(|number| format!("--cpus-per-task={number}")));
    options.extend(wishes.task_memory.map(|bytes| format!("--mem={}K", bytes.div_ceil(1024))));
    options.extend(wishes.exclusive.then(|| "--exclusive".to_owned()));
    options.extend(wishes.sbatch.iter().cloned());
    options
}

/// Slurm counts in minutes: rounded up.
fn minutes(time: Duration) -> u64 {
    time.as_secs().div_ceil(60).max(1)
}

fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.contains('\n'));
    let text =
        text.with_context(|| format!("{}: cannot stand in a batch script", path.display()))?;
    Ok(shlex::try_quote(text)?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Needs = Needs { nodes: 1, devices: None, cores: None };

    fn request() -> Request {
        let wishes = Wishes {
            partition: Some("gpu".into()),
            nodes_like: Some("h100".into()),
            gpus: Some(1),
            cpus_per_task: Some(8),
            array_limit: Some(4),
            exclusive: true,
            task_memory: Some(1 << 30),
            sbatch: vec!["--account=lab 7".into()],
            ..Wishes::default()
        };
        let program = "/opt/it's/trainmark".into();
        Request { wishes, program, timeout: Duration::from_secs(481) }
    }

    #[test]
    fn the_script_says_everything_that_was_asked_for() {
        let folder = Path::new("/shared/100%/batch");
        insta::assert_snapshot!(render(&request(), ONE, folder, "trainmark-x", 9).unwrap());
    }

    #[test]
    fn what_a_row_takes_is_asked_for_and_not_what_others_take() {
        let needs = Needs { nodes: 4, devices: Some(8), cores: Some(96) };
        let script = render(&request(), needs, Path::new("/b"), "trainmark-x", 1).unwrap();
        for line in ["--nodes=4", "--ntasks-per-node=1", "--gres=gpu:8", "--cpus-per-task=96"] {
            assert!(script.contains(&format!("#SBATCH {line}\n")), "{script}");
        }
        assert!(!script.contains("gpu:1"), "{script}");
    }

    #[test]
    fn nothing_can_break_out_of_its_line() {
        let folder = Path::new("/shared/batch");
        for evil in ["gpu\nrm -rf /", "gpu\"", "a\\"] {
            let wishes = Wishes { partition: Some(evil.into()), ..Wishes::default() };
            let request = Request { wishes, ..request() };
            assert!(render(&request, ONE, folder, "trainmark-x", 1).is_err(), "{evil}");
        }
        assert!(render(&request(), ONE, Path::new("/a\nb"), "trainmark-x", 1).is_err());
    }
}
