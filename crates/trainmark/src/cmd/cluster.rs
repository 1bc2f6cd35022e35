//! The options of `trainmark run` that say where its samples are taken.

use crate::slurm::Request;
use crate::units;
use anyhow::{Context, Result};
use std::time::Duration;

/// What a task needs besides the time of its training: data, probe, start of the job.
const OVERHEAD: Duration = Duration::from_secs(120);

/// Where samples are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// On this machine, one after the other
    Local,
    /// On a cluster, as a Slurm job array with one task for each row and round
    Slurm,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct Cluster {
    /// Where samples are taken; docs/cluster.md explains `slurm`
    #[arg(long, value_enum, default_value = "local")]
    pub executor: Kind,
    /// Partition of the nodes
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// A feature that the nodes must have, for example `h100`
    #[arg(long, value_name = "FEATURE")]
    nodes_like: Option<String>,
    /// GPUs of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    gpus: Option<u32>,
    /// CPUs of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus_per_task: Option<u32>,
    /// Tasks that run at the same time, at most
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    array_limit: Option<u32>,
    /// Each task has its node to itself
    #[arg(long)]
    exclusive: bool,
    /// After which the scheduler ends a task; without it the sample's time-out and two minutes
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    task_time: Option<Duration>,
    /// The scheduler's memory limit of a task, for example `8G` (of 10^9 bytes) or
    /// `8GiB`
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    task_memory: Option<u64>,
    /// A further option of sbatch, as it is, for example `--account=lab`
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    sbatch: Vec<String>,
    /// Do not measure each type of node (`trainmark machine`) before its first task
    #[arg(long)]
    no_node_measure: bool,
}

impl Cluster {
    /// What is asked of the scheduler for samples that may take so long.
    ///
    /// # Errors
    /// If it is not known where this program is.
    pub fn request(&self, timeout: Duration) -> Result<Request> {
        Ok(Request {
            program: std::env::current_exe().context("cannot find out where this program is")?,
            partition: self.partition.clone(),
            nodes_like: self.nodes_like.clone(),
            gpus: self.gpus,
            cpus: self.cpus_per_task,
            array_limit: self.array_limit,
            exclusive: self.exclusive,
            time: self.task_time.unwrap_or(timeout + OVERHEAD),
            memory_bytes: self.task_memory,
            more: self.sbatch.clone(),
            measure_nodes: !self.no_node_measure,
        })
    }
}
