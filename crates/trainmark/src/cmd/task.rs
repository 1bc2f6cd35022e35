//! `trainmark task`: one task of an order, in a process of its own and perhaps on another machine.
//!
//! Executors start it. It trains one row once, exactly as `trainmark run` would, and writes the result file of that
//! sample to the given path, completely or not at all. It does not touch the journal or other results: the process
//! that gave the order collects them.

use crate::command::Agenda;
use crate::data;
use crate::executor::Order;
use crate::runner::{Resources, Runner, cancelled_by_signals};
use crate::trainer::{self, Plain};
use anyhow::{Context, Result, bail};
use measure::text::one_line;
use record::write;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Run one task of an order.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The order, as JSON
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
    /// Index of the task in the order, from 0
    #[arg(long, value_name = "N")]
    index: usize,
    /// Result file to write or replace
    #[arg(long, value_name = "FILE")]
    result: PathBuf,
}

/// Runs the verb. A trainer that failed is a result, and no failure of the task.
///
/// # Errors
/// If the order cannot be carried out, or the result cannot be written.
pub fn run(args: &Args) -> Result<u8> {
    let named = || format!("--order {}", args.order.display());
    let text = files::read(&args.order, files::Kind::ORDER).with_context(named)?;
    let order: Order = serde_json::from_slice(&text).with_context(named)?;
    if order.harness != env!("CARGO_PKG_VERSION") {
        let own = env!("CARGO_PKG_VERSION");
        bail!("{}: written by version {}, but this is {own}", named(), order.harness);
    }
    let tasks = order.tasks.len();
    let task = order.tasks.get(args.index);
    let task = task.with_context(|| format!("--index {}: there are {tasks} tasks", args.index))?;
    let row = order.rows.get(task.row).context("the order's task has no row")?;
    let loaded = order.loaded()?;
    if row.trainer >= loaded.suite.trainers.len() {
        bail!("{}: its row has no trainer", named());
    }
    let cancel = cancelled_by_signals()?;
    let dataset = data::prepare(&loaded, Some(&order.data))?;
    if dataset.sha256 != order.dataset_sha256 {
        bail!(
            "{}: the data on this machine differs from the data of the order",
            order.data.display()
        );
    }
    let allow_software = order.settings.allow_software;
    let data = dataset.directory.clone();
    let resources = Resources::of(&order.settings)?;
    let agenda = Agenda { loaded: &loaded, data, allow_software, shown: resources.shown() };
    // It was built where the order was given.
    let ready = trainer::ready(&agenda, row.trainer, &cancel, &mut Plain);
    let trainers = BTreeMap::from([(row.trainer, ready)]);
    let mut runner =
        Runner::new(agenda, dataset, trainers, order.settings.clone(), resources, &cancel)?;
    runner.run = order.run.clone();
    let result = runner.sample(row, task.round, None, &mut |_| {})?;
    let hint = || format!("--result {}: cannot be written", args.result.display());
    write::replace(&args.result, &result).with_context(hint)?;
    let reason = result.reason.map_or(String::new(), |reason| format!(": {}", one_line(&reason)));
    eprintln!("{}{}: {}{reason}", one_line(&row.label), task.round, result.status);
    Ok(match cancel.is_cancelled() {
        true => protocol::exit::INTERRUPTED,
        false => protocol::exit::SUCCESS,
    })
}
