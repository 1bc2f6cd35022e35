//! `trainmark export`: result files in, the formats of other programs out.

use super::report::{self, nothing_to_report};
use crate::report::read::read;
use crate::report::{Options, Reference, Summary, bmf, csv, jsonl, mlperf, openmetrics, parquet};
use crate::suite::{BUILT_IN, Suite};
use anyhow::Result;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Turn result files into the formats of other programs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with result files; single files and several of either are taken too
    #[arg(long, value_name = "DIR", num_args = 1.., default_value = "benchmarks")]
    input: Vec<PathBuf>,
    /// What to write
    #[arg(long)]
    format: Format,
    /// Where it goes; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Of rows that differ in nothing but when they ran, keep only the newest
    #[arg(long)]
    latest: bool,
    /// Whose rows the speed-ups are against, for example MNISTClassic/cpu
    #[arg(long, value_name = "EXECUTABLE/BACKEND")]
    reference: Option<Reference>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// Comma-separated values, for spreadsheets
    Csv,
    /// Apache Parquet, for pandas, polars and DuckDB
    Parquet,
    /// JSON Lines, one object per row
    Jsonl,
    /// Bencher Metric Format, for bencher.dev
    Bmf,
    /// MLPerf log lines, for mlperf-logging
    Mlperf,
    /// OpenMetrics text, for Prometheus
    Openmetrics,
}

/// Runs the verb.
///
/// # Errors
/// If the input cannot be read, holds nothing to export, or the file cannot be written.
pub fn run(args: Args) -> Result<ExitCode> {
    report::check_target("--output", &args.output)?;
    let collection = read(&args.input, Some(&args.output))?;
    report::warn(&collection);
    if collection.is_empty() {
        return Err(nothing_to_report(&args.input, &collection));
    }
    let suite = Suite::parse(BUILT_IN, "built in")?;
    let options = Options { reference: args.reference, latest: args.latest, suite: Some(&suite) };
    let summary = Summary::new(collection, &options)?;
    report::write("--output", &args.output, |to: &mut dyn Write| match args.format {
        Format::Csv => csv::write(&summary, to),
        Format::Jsonl => jsonl::write(&summary, to),
        Format::Bmf => bmf::write(&summary, to),
        Format::Mlperf => mlperf::write(&summary, to),
        Format::Openmetrics => openmetrics::write(&summary, to),
        Format::Parquet => {
            // Its writer wants an output that another thread could take over; a Vec is one.
            let mut bytes = Vec::new();
            parquet::write(&summary, &mut bytes)?;
            to.write_all(&bytes)
        }
    })?;
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}
