//! `trainmark task`: one task of an order, in a process of its own and perhaps on another machine.
//!
//! Executors start it; it runs one combination once, exactly as `trainmark run` would, and writes the
//! result file of that one sample where it is told, whole or not at all. It touches no journal and no
//! other result: whoever gave the order collects.

use crate::execute::{Bench, Round};
use crate::executor::Order;
use crate::report::console;
use crate::{data, launch, trainer};
use anyhow::{Context, Result, bail};
use record::write;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run one task of an order.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The order, as JSON
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
    /// Which of its tasks, from 0
    #[arg(long, value_name = "N")]
    index: usize,
    /// Where the result file goes; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    result: PathBuf,
}

/// Runs the verb. A trainer that failed is a result, and no failure of the task.
///
/// # Errors
/// If the order cannot be carried out, or the result cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let named = || format!("--order {}", args.order.display());
    let text = files::read(&args.order, files::Kind::ORDER).with_context(named)?;
    let order: Order = serde_json::from_slice(&text).with_context(named)?;
    if order.harness != env!("CARGO_PKG_VERSION") {
        let own = env!("CARGO_PKG_VERSION");
        bail!("{}: written by version {}, this is {own}", named(), order.harness);
    }
    let tasks = order.tasks.len();
    let task = order.tasks.get(args.index);
    let task = task.with_context(|| format!("--index {}: there are {tasks} tasks", args.index))?;
    let case = order.cases.get(task.row).context("the order's task has no combination")?;
    let loaded = order.loaded()?;
    let declared = loaded.suite.trainers.get(case.trainer).context("no such trainer")?;

    let cancel = launch::CancelToken::new().context("cannot listen for signals")?;
    let handle = cancel.clone();
    ctrlc::set_handler(move || handle.cancel()).context("cannot listen for signals")?;
    let dataset = data::prepare(Some(&order.data))?;
    if dataset.sha256 != order.dataset_sha256 {
        bail!("{}: is other data here than where the order was given", order.data.display());
    }
    let ready = trainer::ready(
        &loaded,
        declared,
        order.settings.allow_software,
        &cancel,
        &mut trainer::Plain,
    );
    let trainers = BTreeMap::from([(case.trainer, ready)]);
    let bench =
        Bench::new(&loaded, &dataset, &trainers, order.settings.clone(), order.run.clone())?;
    let result = bench.run_once(case, task.round, &cancel, &mut |_| {})?;
    let hint = || format!("--result {}: cannot be written", args.result.display());
    write::replace(&args.result, &result).with_context(hint)?;
    let round = match task.round {
        Round::WarmUp => "warm-up".to_owned(),
        Round::Number(number) => format!("round {}", number + 1),
    };
    let label = case.label(&loaded.suite);
    eprintln!("{}, {round}: {}", console::one_line(&label), result.status);
    Ok(ExitCode::from(match cancel.is_cancelled() {
        true => protocol::exit::INTERRUPTED,
        false => protocol::exit::SUCCESS,
    }))
}
