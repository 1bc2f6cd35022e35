//! `trainmark show`: one result file, in full.

use crate::report::console::Style;
use crate::report::full;
use crate::report::old_result::{ResultFile, SCHEMA_VERSION};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show one result file in full: figures with their intervals and sources, every run, the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A result file; several are shown one after the other
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// If a file cannot be read or is no result file.
pub fn run(args: &Args) -> Result<ExitCode> {
    for (index, path) in args.files.iter().enumerate() {
        let name = path.display();
        let text = std::fs::read(path).with_context(|| format!("{name}: cannot be read"))?;
        let result: ResultFile = serde_json::from_slice(&text)
            .with_context(|| format!("{name}: is no result file of `trainmark run`"))?;
        if result.schema_version > SCHEMA_VERSION {
            bail!("{name}: was written by a newer trainmark: update this one");
        }
        let separator = if index > 0 { "\n" } else { "" };
        super::report::print(&(separator.to_owned() + &full::text(&result, Style::stdout())))?;
    }
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}
