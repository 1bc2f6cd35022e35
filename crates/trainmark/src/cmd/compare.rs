//! `trainmark compare BASE NEW`: what became faster, slower, larger, worse; and the gate.

use crate::cmd::baseline;
use crate::compare::{self, Metric, Options, Set, json, junit, markdown, table};
use crate::report::console::{Style, one_line};
use crate::report::old_result::{ResultFile, SCHEMA_VERSION};
use crate::verify::{FILE, VerificationFile};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compare two sets of result files, and fail if something became worse.
///
/// A difference is claimed only where the 95 % interval of the ratio excludes 1; that needs at least
/// four runs of a row on each side (`trainmark run --repeats 4`). The exit code is 1 only for a shown
/// regression beyond the gate, or for a row that no longer completes, no longer reaches its target, or
/// whose verification grade (`trainmark verify`) is worse than it was. It is 65 where the two sides cannot
/// be compared.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder or file with results, or the name of a baseline
    base: PathBuf,
    /// Folder or file with results, or the name of a baseline
    new: PathBuf,
    /// A regression below this does not count, for example `3%`
    #[arg(long, value_name = "PERCENT", value_parser = crate::units::percent, default_value = "3%")]
    gate: f64,
    /// What to compare
    #[arg(long, value_enum, value_delimiter = ',', default_value = "train-s")]
    metric: Vec<Metric>,
    /// Claim no difference smaller than this, for example `1%`; without it, the noise floor that
    /// `trainmark noise` found and the files carry
    #[arg(long, value_name = "PERCENT", value_parser = crate::units::percent)]
    noise_floor: Option<f64>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Compare even what differs in dataset, precision or threads, and times of different machines
    #[arg(long)]
    anyway: bool,
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

/// Runs the verb. A gate must be able to tell a regression from two sides that cannot be compared: those
/// end with another exit code.
///
/// # Errors
/// Never: what goes wrong is printed here.
pub fn run(args: Args) -> Result<ExitCode> {
    gate(args).or_else(|error| {
        eprintln!("error: {}", one_line(&format!("{error:#}")));
        Ok(ExitCode::from(protocol::exit::DATA))
    })
}

fn gate(args: Args) -> Result<ExitCode> {
    let (base, new) = (read(&args.base)?, read(&args.new)?);
    let options = Options {
        metrics: args.metric,
        gate: args.gate,
        noise_floor: args.noise_floor,
        anyway: args.anyway,
    };
    let hint = || format!("{} and {}", args.base.display(), args.new.display());
    let comparison = compare::compare(&base, &new, &options).with_context(hint)?;
    let text = match args.format {
        Format::Table => table::render(&comparison, Style::stdout()),
        Format::Markdown => markdown::render(&comparison),
        Format::Json => json::render(&comparison),
        Format::Junit => junit::render(&comparison),
    };
    super::report::print(&text)?;
    let code = match comparison.has_regression() {
        true => protocol::exit::FAILURE,
        false => protocol::exit::SUCCESS,
    };
    Ok(ExitCode::from(code))
}

/// The result files of a side, with their samples, and what was verified. Files that are neither are
/// named and left out.
fn read(side: &Path) -> Result<Set> {
    let place = match side.exists() {
        true => side.to_owned(),
        false => baseline::folder(side).with_context(|| {
            format!("{}: there is no such folder, file or baseline", side.display())
        })?,
    };
    // A file's verification is beside it.
    let mut folder = place.parent().unwrap_or(Path::new("")).to_owned();
    let mut files = vec![place.clone()];
    if place.is_dir() {
        let entries = std::fs::read_dir(&place).with_context(|| place.display().to_string())?;
        files = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.retain(|file| !file.ends_with(FILE));
        files.sort();
        folder = place.clone();
    }
    let mut set = Set::default();
    for file in files {
        match read_file(&file) {
            Ok(result) => set.results.push(result),
            Err(error) => warn(&format!("{}: {error:#}; left out", file.display())),
        }
    }
    if set.results.is_empty() {
        bail!("{}: there is no result file", side.display());
    }
    match VerificationFile::read(&folder) {
        Ok(found) => set.verifications = found.unwrap_or_default().verifications,
        Err(reason) => warn(&format!("{} {reason}; left out", folder.join(FILE).display())),
    }
    Ok(set)
}

fn warn(text: &str) {
    eprintln!("warning: {}", one_line(text));
}

fn read_file(file: &Path) -> Result<ResultFile> {
    let result: ResultFile = serde_json::from_slice(&std::fs::read(file)?)?;
    if result.schema_version > SCHEMA_VERSION {
        bail!("schema_version {} is newer than this program", result.schema_version);
    }
    Ok(result)
}
