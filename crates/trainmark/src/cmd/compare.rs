//! `trainmark compare BASE NEW`: shows which rows became faster, slower or worse, and applies the gate.

use super::report::print;
use crate::cmd::baseline;
use anyhow::{Context, Result, bail};
use record::comparison::{self, Conclusion, Options};
use record::folder::Folder;
use record::name::file_nearby;
use record::verification::{FILE, VerificationFile};
use report::compare::{json, junit, markdown, table};
use report::console::{Style, one_line};
use std::path::Path;
use std::path::PathBuf;

/// Compare two sets of result files, and fail if something became worse.
///
/// A difference is claimed only if the 95 % interval of the ratio excludes 1. That needs at least four samples
/// of a row on each side (`trainmark run --repeats 4`).
///
/// The exit code is 1 if a row is shown to be worse and its estimate is worse by more than the gate, if a row no
/// longer completes or no longer reaches its target, or if its verification grade (`trainmark verify`) is worse.
/// It is 75 if too little is known to exclude a regression. It is 65 if the two sides cannot be compared.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder or file with results, or the name of a baseline
    base: PathBuf,
    /// Folder or file with results, or the name of a baseline
    new: PathBuf,
    /// Ignore a regression that is smaller than this, for example `3%`
    #[arg(long, value_name = "PERCENT", value_parser = crate::units::percent, default_value = "3%")]
    gate: f64,
    /// Figure or metric to compare, for example `train_s`, `throughput` or `quality` [default: train_s; wall_s of
    /// rows without a train time]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    metric: Vec<String>,
    /// Claim no difference smaller than this, for example `1%` [default: the noise floor that `trainmark noise`
    /// measured and the result files contain]
    #[arg(long, value_name = "PERCENT", value_parser = crate::units::percent)]
    noise_floor: Option<f64>,
    /// Format of the comparison
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Compare rows even if they differ in dataset, precision, threads or machine
    #[arg(long)]
    anyway: bool,
    /// Compare rows that differ in this key, for example `precision`
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    across: Vec<String>,
    /// End with 0 instead of 75 if too little is known
    #[arg(long)]
    allow_inconclusive: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For a terminal
    Table,
    /// For a comment on a pull request
    Markdown,
    /// For other programs
    Json,
    /// For a CI server
    Junit,
}

/// Runs the verb. Two sides that cannot be compared have an exit code of their own, so that a gate can tell them
/// from a regression.
///
/// # Errors
/// Never: errors are printed here.
pub fn run(args: Args) -> Result<u8> {
    gate(args).or_else(|error| {
        eprintln!("error: {}", one_line(&format!("{error:#}")));
        Ok(protocol::exit::DATA)
    })
}

fn gate(args: Args) -> Result<u8> {
    let (base, new) = (read(&args.base)?, read(&args.new)?);
    let options = Options {
        figures: args.metric,
        gate: args.gate,
        noise_floor: args.noise_floor,
        anyway: args.anyway,
        across: args.across,
        named: args.base.is_file() && args.new.is_file(),
    };
    let hint = || format!("{} and {}", args.base.display(), args.new.display());
    let comparison = comparison::compare(&base, &new, &options).with_context(hint)?;
    print(&match args.format {
        Format::Table => table(&comparison, Style::stdout()),
        Format::Markdown => markdown(&comparison),
        Format::Json => json(&comparison),
        Format::Junit => junit(&comparison),
    })?;
    Ok(match comparison.conclusion {
        Conclusion::Regression => protocol::exit::FAILURE,
        Conclusion::Inconclusive if !args.allow_inconclusive => protocol::exit::INCONCLUSIVE,
        Conclusion::Inconclusive | Conclusion::Pass => protocol::exit::SUCCESS,
    })
}

/// The records and verifications of one side.
fn read(side: &Path) -> Result<Folder> {
    let place = match side.exists() {
        true => side.to_owned(),
        false => baseline::folder(side).with_context(|| {
            let nearby = file_nearby(side);
            let name = side.display();
            match nearby.is_empty() {
                true => baseline::unknown(&name.to_string(), "folder, file or baseline"),
                false => format!("{name}: there is no such folder, file or baseline{nearby}"),
            }
        })?,
    };
    let (mut folder, _) = super::report::read(std::slice::from_ref(&place), None)?;
    if folder.entries.is_empty() {
        let name = side.display();
        bail!(
            "{name}: there is no result file in it; `trainmark run --out {name}` writes result files"
        );
    }
    if !place.is_dir() {
        // A file's verification is beside it.
        let beside = place.parent().unwrap_or(Path::new(""));
        match VerificationFile::read(beside) {
            Ok(found) => folder.verifications = found.unwrap_or_default().verifications,
            Err(reason) => eprintln!("warning: {FILE} {}; left out", one_line(&reason)),
        }
    }
    Ok(folder)
}
