//! `trainmark fetch`: downloads MNIST into the user's cache, where every trainer finds it.

use crate::cmd::report::print;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use mnist::fetch::{Options, Progress};
use std::path::PathBuf;
use std::process::ExitCode;

/// Download MNIST into the user's cache.
///
/// The four files come from public mirrors over HTTPS and are verified by SHA-256. An interrupted
/// download goes on where it stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the files; without it the user's cache, where `trainmark run` finds them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Download from here instead of the public mirrors; may be given several times
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// If no mirror has the files, they are not MNIST, or the folder cannot be written to.
pub fn run(args: Args) -> Result<ExitCode> {
    let folder = match args.out {
        Some(folder) => folder,
        None => mnist::cache_directory()
            .context("there is no home directory; name a folder with --out")?
            .join("mnist"),
    };
    let mut options = Options::default();
    if !args.mirror.is_empty() {
        options.mirrors = args.mirror;
    }
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
    )?);
    mnist::fetch::fetch(&folder, &options, &mut |progress: Progress| {
        bar.set_message(progress.file.to_owned());
        bar.set_length(progress.total_bytes.unwrap_or(progress.bytes));
        bar.set_position(progress.bytes);
    })?;
    bar.finish_and_clear();
    print(&format!("MNIST is in {}\n", folder.display()))?;
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}
