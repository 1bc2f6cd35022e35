//! `trainmark history`: shows every row over many runs, and where it changed.

use super::report::{Input, print};
use anyhow::{Result, anyhow};
use record::figures::{self, CLOCKS};
use record::history::History;
use record::verdict;
use report::console::Style;
use report::history::{json, markdown, table};
use std::path::{Path, PathBuf};

/// The noise floor where none was measured.
const LEAST_FLOOR: f64 = 0.01;

/// Show each row over time, from the result files of many runs, and where it changed.
///
/// A change is claimed if a permutation test finds it. At most 1 % of series without a change make the test claim
/// one. A change needs four runs on either side. The commits come from the result files.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// Figure or metric to show, for example `train_s`, `throughput` or `quality` [default: train_s; wall_s if no row
    /// has a train time]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Claim no change smaller than this, for example `2%` [default: the noise floor in the result files, at least 1%]
    #[arg(long, value_name = "PERCENT", value_parser = crate::units::percent)]
    noise_floor: Option<f64>,
    /// Format of the list
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// HTML page to write, with a chart of each row; `-` is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Open the page of --html in the browser
    #[arg(long, requires = "html")]
    open: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For a terminal
    Table,
    /// For a document
    Markdown,
    /// For other programs
    Json,
}

/// Runs the verb.
///
/// # Errors
/// If the input cannot be read or has no result file.
pub fn run(args: Args) -> Result<()> {
    let summary = args.input.summarize(None)?;
    let records = summary.rows.iter().map(|row| &row.record);
    let ranked = || summary.rows.iter().filter(|row| row.is_ranked());
    let has = |name: &&str| {
        figures::named(name, ranked().map(|row| &row.record))
            .is_some_and(|it| ranked().any(|row| it.of(&row.record).is_some()))
    };
    let clock = || CLOCKS.into_iter().find(has).unwrap_or(CLOCKS[0]);
    let name = args.metric.as_deref().unwrap_or_else(clock);
    let figure = figures::required(name, records.clone()).map_err(|reason| anyhow!(reason))?;
    // What does not depend on the machine does not drift with it.
    let known = || verdict::floor(records.filter(|_| figure.is_of_machine()), false);
    let floor = args.noise_floor.unwrap_or_else(|| known().max(LEAST_FLOOR));
    let label = |row: &record::summary::Row| report::table::label(&summary, row, false);
    let history = History::new(&summary, &figure, floor, label);
    if let Some(page) = &args.html {
        super::report::check_target("--html", page)?;
        super::report::write("--html", page, |to| report::html::write_history(&history, to))?;
        if page != Path::new("-") {
            eprintln!("HTML page saved to {}", page.display());
        }
        if args.open {
            super::report::open(page);
        }
        return Ok(());
    }
    print(&match args.format {
        Format::Table => table(&history, Style::stdout()),
        Format::Markdown => markdown(&history),
        Format::Json => json(&history),
    })
}
