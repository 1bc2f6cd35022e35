//! `trainmark fetch`: downloads the files that a task declares. Those of a built-in task go into the user's cache,
//! where every trainer finds them.

use crate::cmd::report::print;
use crate::content::digest_of_content;
use crate::suite::LoadedSuite;
use crate::task::{self, Task};
use anyhow::{Context, Result, bail};
use fetch::{Options, Progress, download};
use indicatif::{ProgressBar, ProgressStyle};
use measure::provenance::sha256_of_file;
use record::number::count;
use std::path::{Path, PathBuf};

/// Download the data of a built-in task into the user's cache, or with --suite the data that the suite declares.
///
/// The files come over HTTPS and are checked by SHA-256. If a connection breaks, the download is tried again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Built-in task [default: the task of the default suite]
    #[arg(long, value_name = "NAME", conflicts_with = "suite")]
    task: Option<String>,
    /// Download the files that this suite declares, beside it
    #[arg(long, value_name = "FILE")]
    suite: Option<PathBuf>,
    /// Folder for the files [default: the user's cache, where `trainmark run` finds them]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Download from this address of a folder instead; can be repeated
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Allow mirrors without TLS (`http://`)
    #[arg(long)]
    without_tls: bool,
}

/// Runs the verb.
///
/// # Errors
/// If no mirror has the files, they are not the right ones, or the folder cannot be written to.
pub fn run(args: Args) -> Result<()> {
    let (task, beside) = task_of(&args)?;
    let files: Vec<_> = task.files.iter().filter(|file| !file.url.is_empty()).collect();
    if files.is_empty() {
        bail!(
            "the task {:?} has nothing to download: it declares no [[task.files]] with a `url`",
            task.name
        );
    }
    let folder = match (args.out, beside) {
        (Some(folder), _) | (None, Some(folder)) => folder,
        (None, None) => files::cache_directory()
            .context("there is no home directory; name a folder with --out")?
            .join(&task.name),
    };
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
    )?);
    let mut show = |progress: Progress| {
        bar.set_message(progress.file.to_owned());
        bar.set_length(progress.total_bytes.unwrap_or(progress.bytes));
        bar.set_position(progress.bytes);
    };
    let options = Options { without_tls: args.without_tls, ..Options::default() };
    for file in &files {
        let path = task.destination(&folder, file);
        let wanted = file.sha256.as_deref().unwrap_or_default();
        let is_right = |path: &Path| {
            let is = |digest: String| digest.eq_ignore_ascii_case(wanted);
            sha256_of_file(path).is_ok_and(is) || digest_of_content(path).is_ok_and(is)
        };
        let from = |url: &String| -> Vec<String> {
            let name = url.rsplit('/').next().unwrap_or_default();
            args.mirror.iter().map(|it| format!("{}/{name}", it.trim_end_matches('/'))).collect()
        };
        let urls = match args.mirror.is_empty() {
            true => file.url.clone(),
            false => file.url.first().map(from).unwrap_or_default(),
        };
        download(&path, &urls, &is_right, &options, &mut show)?;
    }
    bar.finish_and_clear();
    print(&format!("{}: {} in {}\n", task.name, count(files.len(), "file"), folder.display()))
}

/// The task and, if its files do not belong in the cache, their folder.
fn task_of(args: &Args) -> Result<(Task, Option<PathBuf>)> {
    if let Some(name) = &args.task {
        return Ok((task::built_in(name)?, None));
    }
    let loaded = match &args.suite {
        Some(suite) => LoadedSuite::find(Some(suite))?,
        None => LoadedSuite::built_in(stock::SUITE)?,
    };
    let task = loaded.suite.task().clone();
    let beside = task.find.is_none().then_some(loaded.folder);
    Ok((task, beside))
}
