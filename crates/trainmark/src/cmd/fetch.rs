//! `trainmark fetch`: downloads MNIST into the user's cache, where every trainer finds it.

use crate::cmd::report::print;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use mnist::fetch::{MIRRORS, Options, Progress};
use std::path::PathBuf;
use std::process::ExitCode;

/// Download MNIST into the user's cache.
///
/// The four files come from public mirrors over HTTPS and are verified by SHA-256. A
/// connection that breaks is tried again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the files; without it the user's cache, where `trainmark run` finds them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Download from here instead of the public mirrors; may be given several times
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Allow mirrors whose address begins with `http://`
    #[arg(long)]
    without_tls: bool,
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
    let mirrors = match args.mirror.is_empty() {
        true => MIRRORS.map(str::to_owned).to_vec(),
        false => args.mirror,
    };
    let options = Options { without_tls: args.without_tls, ..Options::default() };
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
    )?);
    mnist::fetch::fetch(&folder, &mirrors, &options, &mut |progress: Progress| {
        bar.set_message(progress.file.to_owned());
        bar.set_length(progress.total_bytes.unwrap_or(progress.bytes));
        bar.set_position(progress.bytes);
    })?;
    bar.finish_and_clear();
    print(&format!("MNIST is in {}\n", folder.display()))?;
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}
