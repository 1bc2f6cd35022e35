//! `trainmark report`: result files in, reports out.

use crate::report::collection::Collection;
use crate::report::exhibit::{self, Exhibit};
use crate::report::read::{read, whole};
use crate::report::{Options, Reference, Summary, chart, console, html, json, markdown};
use crate::suite::{BUILT_IN, Suite};
use anyhow::{Context, Result, anyhow, bail};
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Files left out that are listed one by one; the rest are counted.
const LISTED: usize = 50;
/// Bytes of an existing file that are looked at before it is replaced.
const LOOKED_AT: u64 = 16 << 20;
/// Of these, as many are enough to tell a report of ours by how it begins, white space aside.
const HEAD: u64 = 256;
const REPORT_BEGINS: &str = "{\"summary\":{\"total_benchmarks\":";
const MARKDOWN_BEGINS: &str = "# ";

/// Make reports from a folder of result files: JSON, Markdown, HTML, charts.
///
/// Without any of the options that name a report, the table is printed, with a bar for each row's time.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with result files; single files and several of either are taken too
    #[arg(long, value_name = "DIR", num_args = 1.., default_value = "benchmarks")]
    input: Vec<PathBuf>,
    /// Where the JSON report goes; `-` is standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where a Markdown report goes; `-` is standard output
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Where an HTML report goes, one file with everything in it; `-` is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Folder for the charts as SVG files; a Markdown report shows them
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    /// Print the summary too, with its notes
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
    let reports: Vec<(&str, &Path)> =
        [("--output", &args.output), ("--markdown", &args.markdown), ("--html", &args.html)]
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path.as_deref()?)))
            .collect();
    for (index, (flag, path)) in reports.iter().enumerate() {
        check_target(flag, path)?;
        if let Some((other, _)) = reports[..index].iter().find(|(_, other)| other == path) {
            bail!("{flag} {}: is the name for {other} too", path.display());
        }
    }
    let summary = summarize(&args)?;
    let charts = match &args.charts {
        Some(folder) => write_charts(folder, &summary)?,
        None => Vec::new(),
    };
    let links = links(&charts, args.markdown.as_deref());
    let written: Vec<Result<()>> = reports
        .par_iter()
        .map(|(flag, path)| {
            write(flag, path, |to| match *flag {
                "--output" => json::write(&summary, to),
                "--markdown" => markdown::write(&summary, &links, to),
                _ => html::write(&summary, to),
            })
        })
        .collect();
    written.into_iter().collect::<Result<()>>()?;
    if args.verbose || (reports.is_empty() && args.charts.is_none()) {
        show(reports.iter().any(|(_, path)| is_stdout(path)), &summary)?;
    }
    // The process ends: nobody needs its hundred thousand pieces of memory one by one.
    std::mem::forget(summary);
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}

/// Reads the input and sums it up.
fn summarize(args: &Args) -> Result<Summary> {
    let collection = read(&args.input, args.output.as_deref())?;
    warn(&collection);
    if collection.is_empty() {
        return Err(nothing_to_report(&args.input, &collection));
    }
    let suite = Suite::parse(BUILT_IN, "built in")?;
    let reference = args.reference.clone();
    let options = Options { reference, latest: args.latest, suite: Some(&suite) };
    let mut summary = Summary::new(collection, &options)?;
    if args.html.is_some() || args.charts.is_some() {
        let needed = exhibit::needed(&summary);
        summary.keep_files(needed, |row| whole(&args.input, row.file()));
    }
    Ok(summary)
}

/// Writes every chart as a file. Their titles and paths.
fn write_charts(folder: &Path, summary: &Summary) -> Result<Vec<(String, PathBuf)>> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("--charts {}: cannot be made", folder.display()))?;
    let mut charts = Vec::new();
    for chart in chart::sections(&Exhibit::new(summary)).iter().flat_map(|it| &it.charts) {
        let path = folder.join(format!("{}.svg", chart.name));
        write("--charts", &path, |to| to.write_all(chart.file().as_bytes()))?;
        charts.push((chart.title.clone(), path));
    }
    if charts.is_empty() {
        eprintln!("warning: --charts: there is nothing to draw: no row was measured");
    }
    Ok(charts)
}

/// The charts' paths as seen from the Markdown report, so that both can be moved together.
fn links(charts: &[(String, PathBuf)], markdown: Option<&Path>) -> Vec<markdown::Link> {
    let folder = markdown.and_then(Path::parent).unwrap_or(Path::new(""));
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let link = |(title, path): &(String, PathBuf)| {
        let path = absolute(path);
        let mut steps = String::new();
        let mut base = folder.as_path();
        while !path.starts_with(base) {
            steps += "../";
            base = base.parent().unwrap_or(Path::new("/"));
        }
        let rest = path.strip_prefix(base).unwrap_or(&path);
        let rest: Vec<_> = rest.iter().map(|part| part.to_string_lossy()).collect();
        markdown::Link { title: title.clone(), path: steps + &rest.join("/") }
    };
    charts.iter().map(link).collect()
}

/// Why there is nothing in these inputs.
pub(super) fn nothing_to_report(inputs: &[PathBuf], collection: &Collection) -> anyhow::Error {
    let inputs: Vec<String> = inputs.iter().map(|it| it.display().to_string()).collect();
    let reason = match collection.skipped.len() {
        0 => "there is no .json file".to_owned(),
        number => format!("no result file among {number} .json"),
    };
    anyhow!("--input {}: nothing to report: {reason}", inputs.join(" "))
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Refuses to replace a result file: it cannot be made again.
pub(super) fn check_target(flag: &str, path: &Path) -> Result<()> {
    if is_stdout(path) || !path.is_file() {
        return Ok(());
    }
    // What cannot be read is no reason: writing it will say more.
    if is_result_file(path).unwrap_or(false) {
        bail!("{flag} {}: is a result file, which a report must not replace", path.display());
    }
    Ok(())
}

fn is_result_file(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    // Mostly it is the report of before, which may be large: its first words tell.
    (&mut file).take(HEAD).read_to_end(&mut bytes)?;
    let head = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    let is_report = head.take(REPORT_BEGINS.len()).eq(REPORT_BEGINS.bytes());
    if is_report || bytes.starts_with(MARKDOWN_BEGINS.as_bytes()) {
        return Ok(false);
    }
    file.take(LOOKED_AT).read_to_end(&mut bytes)?;
    Ok(Collection::default().add_bytes("", &bytes).is_ok())
}

/// Names the files that are left out.
pub(super) fn warn(collection: &Collection) {
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
fn show(stdout_is_taken: bool, summary: &Summary) -> Result<()> {
    let shown = if stdout_is_taken {
        let text = console::summary(summary, console::Style::stderr());
        std::io::stderr().lock().write_all(text.as_bytes())
    } else {
        let text = console::summary(summary, console::Style::stdout());
        std::io::stdout().lock().write_all(text.as_bytes())
    };
    unless_closed(shown).context("cannot print the summary")
}

/// Prints a text whole; a reader that stops reading is no error.
pub(super) fn print(text: &str) -> Result<()> {
    unless_closed(std::io::stdout().lock().write_all(text.as_bytes())).context("cannot print")
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
pub(super) fn write(
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
