//! `trainmark history`: every combination over many runs, and where it changed.

use super::report::{nothing_to_report, warn};
use crate::compare::Metric;
use crate::history::{History, json, markdown, table};
use crate::report::console::Style;
use crate::report::read::read;
use crate::report::{Options, Summary};
use crate::suite::{BUILT_IN, Suite};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show each combination over time, from the result files of many runs, and where it changed.
///
/// A change is claimed where a permutation test says that chance alone makes one in at most 1 % of
/// stretches without any; that needs four runs on either side. The commits are those that the result
/// files name.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with result files; single files and several of either are taken too
    #[arg(long, value_name = "DIR", num_args = 1.., default_value = "benchmarks")]
    input: Vec<PathBuf>,
    /// Which figure
    #[arg(long, value_enum, default_value = "train-s")]
    metric: Metric,
    /// Report no change smaller than this, for example `2%`
    #[arg(long, value_name = "PERCENT", value_parser = crate::units::percent, default_value = "1%")]
    noise_floor: f64,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For a terminal
    Table,
    /// For a page
    Markdown,
    /// For other programs
    Json,
}

/// Runs the verb.
///
/// # Errors
/// If the input cannot be read or holds nothing to show.
pub fn run(args: Args) -> Result<ExitCode> {
    let collection = read(&args.input, None)?;
    warn(&collection);
    if collection.is_empty() {
        return Err(nothing_to_report(&args.input, &collection));
    }
    let suite = Suite::parse(BUILT_IN, "built in")?;
    let options = Options { suite: Some(&suite), ..Options::default() };
    let summary = Summary::new(collection, &options)?;
    let history = History::new(&summary, args.metric, args.noise_floor);
    let text = match args.format {
        Format::Table => table::render(&history, Style::stdout()),
        Format::Markdown => markdown::render(&history),
        Format::Json => json::render(&history).context("the history as JSON")?,
    };
    super::report::print(&text)?;
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}
