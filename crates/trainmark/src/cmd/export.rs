//! `trainmark export`: converts result files into the formats of other programs.

use super::report::{self as files, Input};
use anyhow::Result;
use report::{bmf, export, openmetrics};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Convert result files into the formats of other programs.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// Format to write
    #[arg(long)]
    format: Format,
    /// File to write; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// Comma-separated values, for spreadsheets
    Csv,
    /// Apache Parquet, for pandas, polars and DuckDB
    Parquet,
    /// Bencher Metric Format, for bencher.dev
    Bmf,
    /// OpenMetrics text, for Prometheus
    Openmetrics,
}

/// Runs the verb.
///
/// # Errors
/// If the input cannot be read or has no result file, or if the file cannot be written.
pub fn run(args: Args) -> Result<()> {
    #[cfg(not(feature = "parquet"))]
    if let Format::Parquet = args.format {
        anyhow::bail!(
            "this trainmark was built without Parquet: `cargo build --release --features parquet` in the checkout \
             builds it in"
        );
    }
    files::check_target("--output", &args.output)?;
    let summary = args.input.summarize(Some(&args.output))?;
    files::write("--output", &args.output, |to: &mut dyn Write| match args.format {
        Format::Csv => export::csv(&summary, to),
        Format::Bmf => bmf::write(&summary, to),
        Format::Openmetrics => openmetrics::write(&summary, to),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => unreachable!("refused above"),
        #[cfg(feature = "parquet")]
        Format::Parquet => {
            // The writer needs an output that can be sent to another thread, such as a Vec.
            let mut bytes = Vec::new();
            report::parquet::write(&summary, &mut bytes)?;
            to.write_all(&bytes)
        }
    })?;
    if args.output != Path::new("-") {
        eprintln!("Saved to {}", args.output.display());
    }
    Ok(())
}
