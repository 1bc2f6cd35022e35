//! `trainmark show`: one result file, in full.

use crate::suite::LoadedSuite;
use anyhow::{Context, Result, bail};
use record::Record;
use record::folder::hold_to;
use report::console::Style;
use report::full;
use std::path::PathBuf;

/// Show one result file in full: figures with their intervals and sources, every sample, the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Result files to show
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// If a file cannot be read or is not a result file.
pub fn run(args: &Args) -> Result<()> {
    let suite = LoadedSuite::built_in(stock::SUITE)?.suite;
    for (index, path) in args.files.iter().enumerate() {
        let name = path.display();
        if path.is_dir() {
            bail!(
                "{name}: is a folder; name a file in it, or use `trainmark report --input {name}`"
            );
        }
        let text = files::read(path, files::Kind::RESULT).with_context(|| {
            format!("{name}: cannot be read{}", record::name::file_nearby(path))
        })?;
        let mut record = Record::parse(&text)
            .with_context(|| format!("{name}: is not a result file of `trainmark run`"))?;
        hold_to(&mut record, &|record| super::report::target(&suite, record));
        let separator = if index > 0 { "\n" } else { "" };
        super::report::print(&(separator.to_owned() + &full::text(&record, Style::stdout())))?;
    }
    Ok(())
}
