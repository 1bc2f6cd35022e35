//! `trainmark node`: one node's part of a row that several nodes train together. `srun` starts it on each of them.

use crate::nodes;
use crate::runner::{Limits, cancelled_by_signals};
use anyhow::{Context, Result};
use measure::launch::{Exit, Job};

/// Run one node's part of a row.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trainer's command; `{node}` is this node's number, `{first_node}` the first one's address
    #[arg(required = true, last = true)]
    words: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// If this is no process of `srun`, or nothing can be launched.
pub fn run(args: Args) -> Result<u8> {
    let cancel = cancelled_by_signals()?;
    let mut words = args.words.into_iter();
    let mut job = Job::new(words.next().unwrap_or_default())?;
    job.args = words.map(Into::into).collect();
    if let Ok(text) = std::env::var(nodes::LIMITS) {
        let limits: Limits = serde_json::from_str(&text).context(nodes::LIMITS)?;
        (job.memory_limit, job.cpus) = (limits.memory, limits.cpus);
    }
    let exit = nodes::launch(job, &cancel).context("this is for srun to start")?;
    let well = exit == Exit::Code(i32::from(protocol::exit::SUCCESS));
    Ok(if well { protocol::exit::SUCCESS } else { protocol::exit::FAILURE })
}
