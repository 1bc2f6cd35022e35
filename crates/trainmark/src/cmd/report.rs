//! `trainmark report`: result files in, reports out.

use crate::report::collection::Collection;
use crate::report::read::read;
use crate::report::{Options, Reference, Summary, console, json, markdown};
use crate::suite::{BUILT_IN, Suite};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Files left out that are listed one by one; the rest are counted.
const LISTED: usize = 50;
/// Bytes of an existing file that are looked at before it is replaced.
const LOOKED_AT: u64 = 16 << 20;

/// Make one JSON report, and a Markdown one if wanted, from a folder of result files.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with result files; single files and several of either are taken too
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// Where the JSON report goes; `-` is standard output
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Where a Markdown report goes; `-` is standard output
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Print the summary too
    #[arg(long)]
    verbose: bool,
    /// Of rows that differ in nothing but when they ran, keep only the newest
    #[arg(long)]
    latest: bool,
    /// Whose rows the speed-ups are against, for example MNISTClassic/cpu
    #[arg(long, value_name = "EXECUTABLE/BACKEND")]
    reference: Option<Reference>,
}

/// Runs the verb.
///
/// # Errors
/// If the input cannot be read, holds nothing to report, or a report cannot be written.
pub fn run(args: Args) -> Result<ExitCode> {
    let reports = [("--output", Some(&args.output)), ("--markdown", args.markdown.as_ref())];
    for (flag, path) in reports {
        path.map_or(Ok(()), |path| check_target(flag, path))?;
    }
    if args.markdown.as_ref() == Some(&args.output) {
        bail!("--markdown {}: is the JSON report's name too", args.output.display());
    }
    let collection = read(&args.input, Some(&args.output))?;
    warn(&collection);
    if collection.is_empty() {
        let inputs: Vec<String> = args.input.iter().map(|it| it.display().to_string()).collect();
        let reason = match collection.skipped.len() {
            0 => "there is no .json file".to_owned(),
            number => format!("no result file among {number} .json"),
        };
        bail!("--input {}: nothing to report: {reason}", inputs.join(" "));
    }
    let suite = Suite::parse(BUILT_IN, "built in")?;
    let options = Options { reference: args.reference, latest: args.latest, suite: Some(&suite) };
    let summary = Summary::new(collection, &options)?;
    let (json, markdown) = rayon::join(
        || write("--output", &args.output, |to| json::write(&summary, to)),
        || match &args.markdown {
            Some(path) => write("--markdown", path, |to| markdown::write(&summary, to)),
            None => Ok(()),
        },
    );
    json.and(markdown)?;
    if args.verbose {
        show(&args.output, args.markdown.as_deref(), &summary)?;
    }
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Refuses to replace a result file: it cannot be made again.
fn check_target(flag: &str, path: &Path) -> Result<()> {
    if is_stdout(path) || !path.is_file() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LOOKED_AT).read_to_end(&mut bytes));
    if read.is_ok() && Collection::default().add_bytes("", &bytes).is_ok() {
        bail!("{flag} {}: is a result file, which a report must not replace", path.display());
    }
    Ok(())
}

/// Names the files that are left out.
fn warn(collection: &Collection) {
    for skipped in collection.skipped.iter().take(LISTED) {
        let line = format!("{}: {}", skipped.file, skipped.reason);
        eprintln!("warning: {}", console::one_line(&line));
    }
    let more = collection.skipped.len().saturating_sub(LISTED);
    if more > 0 {
        eprintln!("warning: {more} more files are left out");
    }
}

/// Prints the summary where it does not disturb a report on standard output.
fn show(output: &Path, markdown: Option<&Path>, summary: &Summary) -> Result<()> {
    let shown = if is_stdout(output) || markdown.is_some_and(is_stdout) {
        let text = console::summary(summary, console::Style::stderr());
        std::io::stderr().lock().write_all(text.as_bytes())
    } else {
        let text = console::summary(summary, console::Style::stdout());
        std::io::stdout().lock().write_all(text.as_bytes())
    };
    unless_closed(shown).context("cannot print the summary")
}

/// A reader that has seen enough, such as `head`, is no error.
fn unless_closed(written: std::io::Result<()>) -> std::io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a report so that it is there whole or not at all. Without fsync, which takes longer than
/// all the rest: after a power cut a report can be made again.
fn write(
    flag: &str,
    path: &Path,
    render: impl Fn(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let buffered = |to: &mut dyn Write| {
        let mut to = BufWriter::with_capacity(1 << 16, to);
        render(&mut to).and_then(|()| to.flush())
    };
    let written = if is_stdout(path) {
        unless_closed(buffered(&mut std::io::stdout().lock()))
    } else {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                bail!("{flag} {}: is a folder: name a file in it", path.display())
            }
            // A device or a pipe cannot be replaced, only written to.
            Ok(metadata) if !metadata.is_file() => {
                File::options().write(true).open(path).and_then(|mut file| buffered(&mut file))
            }
            _ => replace(path, buffered),
        }
    };
    written.with_context(|| format!("{flag} {}: cannot be written", path.display()))
}

fn replace(
    path: &Path,
    render: impl Fn(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    // Through a link: the link stays.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What any new file gets: the user's mask is taken off by the system.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    render(&mut file)?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}
