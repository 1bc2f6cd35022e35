//! `trainmark fetch`: downloads what a suite declares, or the built-in task's images into the user's cache,
//! where every trainer finds them.

use crate::cmd::report::print;
use crate::suite::LoadedSuite;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use measure::provenance::sha256_of_file;
use mnist::fetch::{MIRRORS, Options, Progress, download};
use record::number::count;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Files that a suite declares may be so large.
const MOST_BYTES: u64 = 64 << 30;

/// Download a task's data: MNIST into the user's cache, or with --suite what that suite declares.
///
/// The files come over HTTPS and are verified by SHA-256. A connection that breaks is tried again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Download the files that this suite declares, beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "mirror"])]
    suite: Option<PathBuf>,
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
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
    )?);
    let mut show = |progress: Progress| {
        bar.set_message(progress.file.to_owned());
        bar.set_length(progress.total_bytes.unwrap_or(progress.bytes));
        bar.set_position(progress.bytes);
    };
    let mut options = Options { without_tls: args.without_tls, ..Options::default() };
    if let Some(suite) = &args.suite {
        options.most_bytes = MOST_BYTES;
        let loaded = LoadedSuite::find(Some(suite))?;
        let task = loaded.suite.task();
        if task.files.is_empty() {
            bail!("{}: its task declares no [[task.files]]", suite.display());
        }
        for file in &task.files {
            let path = task.destination(&loaded.folder, file);
            let is_right = |path: &Path| {
                sha256_of_file(path).is_ok_and(|it| it.eq_ignore_ascii_case(&file.sha256))
            };
            download(&path, std::slice::from_ref(&file.url), &is_right, &options, &mut show)?;
        }
        bar.finish_and_clear();
        print(&format!("{} in {}\n", count(task.files.len(), "file"), loaded.folder.display()))?;
        return Ok(ExitCode::from(protocol::exit::SUCCESS));
    }
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
    mnist::fetch::fetch(&folder, &mirrors, &options, &mut show)?;
    bar.finish_and_clear();
    print(&format!("MNIST is in {}\n", folder.display()))?;
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}
