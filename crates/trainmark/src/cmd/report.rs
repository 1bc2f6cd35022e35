//! `trainmark report`: makes reports from result files.

use crate::suite::{LoadedSuite, Suite};
use anyhow::{Context, Result, anyhow, bail};
use files::Kind;
use measure::helper::ended;
use rayon::prelude::*;
use record::folder::{self, Folder};
use record::number;
use record::summary::Options;
use record::{Record, Reference, Summary, old};
use report::{Exhibit, chart, console, html, json, markdown};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The most files that are listed one by one; further ones are counted.
const LISTED: usize = 50;
/// After which a browser has been found, if there is one.
const BROWSER_PATIENCE: Duration = Duration::from_secs(5);

/// The options of all verbs that read folders: which result files, and how they are compared.
#[derive(Debug, clap::Args)]
pub struct Input {
    /// Folders with result files, or single result files
    #[arg(long, value_name = "DIR", num_args = 1.., default_value = "benchmarks")]
    pub input: Vec<PathBuf>,
    #[arg(hide = true, value_name = "DIR", value_parser = belongs_to_input)]
    misplaced: Option<PathBuf>,
    /// Keep only the newest of rows that differ only in when they ran
    #[arg(long)]
    latest: bool,
    /// Compare rows with those of this trainer and backend, for example PyTorch/cpu
    #[arg(long, value_name = "EXECUTABLE/BACKEND")]
    reference: Option<Reference>,
    /// Compare rows that differ in this configuration key, for example `precision`
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    across: Vec<String>,
}

/// Refuses a folder without its option.
fn belongs_to_input(word: &str) -> Result<PathBuf, String> {
    Err(format!("give folders and files with --input: --input {word}"))
}

impl Input {
    /// Reads the files, prints a warning for each that is left out, and summarises the others. `except` is a file
    /// that is about to be replaced.
    ///
    /// # Errors
    /// If the input cannot be read or has no result file.
    pub fn summarize(&self, except: Option<&Path>) -> Result<Summary> {
        let (folder, suite) = read(&self.input, except)?;
        if folder.entries.is_empty() {
            return Err(nothing_to_report(&self.input, &folder));
        }
        let options = Options {
            reference: self.reference.clone(),
            preferred: declared(&folder).or(suite.reference.as_ref().map(Reference::from)),
            latest: self.latest,
            across: self.across.clone(),
        };
        Ok(Summary::new(folder, &options)?)
    }
}

/// The reference that the suites of all records name, if it is one.
fn declared(folder: &Folder) -> Option<Reference> {
    let runs = folder.entries.iter().map(|entry| entry.record.run.as_ref());
    let mut named = runs.map(|run| run.and_then(|run| run.reference.as_ref()));
    let first = named.next()??;
    named.all(|it| it == Some(first)).then(|| first.clone())
}

/// Reads result files, prints a warning for each that is left out, and holds the others to the targets of the default
/// suite, which comes with them.
///
/// # Errors
/// If one of the inputs is not there or cannot be read.
pub(super) fn read(input: &[PathBuf], except: Option<&Path>) -> Result<(Folder, Suite)> {
    let mut folder = folder::read(input, except)?;
    warn(&folder);
    let suite = LoadedSuite::built_in(stock::SUITE)?.suite;
    folder.hold_to(&|record| target(&suite, record));
    Ok((folder, suite))
}

/// The built-in suite's target, for files without one.
pub(super) fn target(suite: &Suite, record: &Record) -> Option<(String, f64)> {
    suite.targets(&record.model, Some(&old::TASK.name), &record.config).into_iter().next()
}

/// Make reports from result files: a table, JSON, Markdown, HTML, charts.
///
/// Without an option that names a report, the command prints the table, with a bar for each row's time.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// JSON report to write; `-` is standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Markdown report to write; `-` is standard output
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// HTML report to write, one file with everything in it; `-` is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Folder for the charts as SVG files; the Markdown report shows them
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    /// Open the HTML report in the browser [file without --html: report.html in the folder of the results]
    #[arg(long)]
    open: bool,
    /// Also print the table, with every note in full
    #[arg(long)]
    verbose: bool,
    /// Also print a row for each thing that this machine lacks
    #[arg(long)]
    all: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the input cannot be read or has no result file, or if a report cannot be written.
pub fn run(mut args: Args) -> Result<()> {
    if args.open && args.html.is_none() {
        let first = &args.input.input[0];
        let folder = if first.is_dir() { Some(first.as_path()) } else { first.parent() };
        args.html = folder.map(|folder| folder.join("report.html"));
    }
    let mut reports: Vec<(&str, &str, &Path)> = Vec::new();
    reports.extend(args.output.as_deref().map(|path| ("--output", "JSON", path)));
    reports.extend(args.markdown.as_deref().map(|path| ("--markdown", "Markdown", path)));
    reports.extend(args.html.as_deref().map(|path| ("--html", "HTML", path)));
    for (index, (flag, _, path)) in reports.iter().enumerate() {
        check_target(flag, path)?;
        if let Some((other, ..)) = reports[..index].iter().find(|(.., other)| other == path) {
            bail!("{flag} {}: {other} names the same file; choose another name", path.display());
        }
    }
    let summary = args.input.summarize(args.output.as_deref())?;
    let charts = args.charts.as_ref().map(|folder| write_charts(folder, &summary)).transpose()?;
    let charts = charts.unwrap_or_default();
    let links = links(&charts, args.markdown.as_deref());
    reports.par_iter().try_for_each(|(flag, _, path)| {
        write(flag, path, |to| match *flag {
            "--output" => json::write(&summary, to),
            "--markdown" => markdown::write(&summary, &links, to),
            _ => html::write(&summary, to),
        })
    })?;
    let stdout_is_taken = reports.iter().any(|(.., path)| is_stdout(path));
    if args.verbose || (reports.is_empty() && args.charts.is_none()) {
        let detail = console::Detail { all: args.all, notes: args.verbose };
        // On standard error if standard output has a report.
        match stdout_is_taken {
            true => eprint!("{}", console::summary(&summary, detail, console::Style::stderr())),
            false => print(&console::summary(&summary, detail, console::Style::stdout()))?,
        }
    }
    for (_, kind, path) in reports.iter().filter(|(.., path)| !is_stdout(path)) {
        let line = format!("{kind} report saved to {}\n", path.display());
        if stdout_is_taken { eprint!("{line}") } else { print(&line)? }
    }
    if let (true, Some(page)) = (args.open, &args.html) {
        open(page);
    }
    // The process ends: freeing a hundred thousand pieces of memory would only take time.
    std::mem::forget(summary);
    Ok(())
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
        eprintln!("warning: --charts: there is nothing to draw, because no row was measured");
    }
    eprintln!("{} saved to {}", number::count(charts.len(), "chart"), folder.display());
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

/// The error for inputs without a result file.
fn nothing_to_report(inputs: &[PathBuf], folder: &Folder) -> anyhow::Error {
    let inputs: Vec<String> = inputs.iter().map(|it| it.display().to_string()).collect();
    let reason = match folder.skipped.len() {
        0 => "there is no .json file; `trainmark run --out DIR` writes result files".to_owned(),
        1 => format!("{} is not a result file", folder.skipped[0].file),
        number => format!("none of {number} files is a result file"),
    };
    anyhow!("--input {}: nothing to report: {reason}", inputs.join(" "))
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Refuses to replace a result file, which cannot be made again.
pub(super) fn check_target(flag: &str, path: &Path) -> Result<()> {
    // An unreadable file is not refused here: the error of writing it says more.
    let is_record =
        || files::read(path, Kind::RESULT).is_ok_and(|bytes| Record::parse(&bytes).is_ok());
    if !is_stdout(path) && is_record() {
        bail!("{flag} {}: is a result file; name another file for the report", path.display());
    }
    Ok(())
}

/// Prints a warning for each file that is left out or only repeats others.
fn warn(folder: &Folder) {
    let left_out = folder.skipped.iter().map(|it| format!("{}: {}", it.file, it.reason));
    let repeated = folder.duplicates.iter();
    let repeated =
        repeated.map(|it| format!("{}: {}; it is not counted twice", it.file, it.reason));
    let lines: Vec<String> = left_out.chain(repeated).collect();
    for line in lines.iter().take(LISTED) {
        eprintln!("warning: {}", console::one_line(line));
    }
    let more = lines.len().saturating_sub(LISTED);
    if more > 0 {
        eprintln!("warning: {more} more files are left out");
    }
}

/// Opens a page with the system's browser. If that fails, prints its path.
pub(super) fn open(page: &Path) {
    let page = std::path::absolute(page).unwrap_or_else(|_| page.to_owned());
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = std::process::Command::new(program);
    command.arg(&page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // One that goes on is the browser itself.
    let opened = command.spawn().and_then(|mut child| ended(&mut child, BROWSER_PATIENCE));
    if !opened.is_ok_and(|status| status.is_none_or(|status| status.success())) {
        eprintln!("note: no browser could be opened; the page is {}", page.display());
    }
}

/// Prints a text whole; a reader that stops reading is no error.
pub(super) fn print(text: &str) -> Result<()> {
    unless_closed(std::io::stdout().lock().write_all(text.as_bytes())).context("cannot print")
}

/// A closed pipe, for example of `head`, is no error.
fn unless_closed(written: std::io::Result<()>) -> std::io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a report so that it is there whole or not at all.
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
                bail!("{flag} {}: is a folder; name a file in it", path.display())
            }
            Ok(_) if leads_elsewhere(path) => {
                bail!("{flag} {}: is a link; remove it, or name its target", path.display())
            }
            // A device or a pipe cannot be replaced, only written to.
            Ok(metadata) if !metadata.is_file() || path.starts_with("/dev") => {
                File::options().write(true).open(path).and_then(|mut file| buffered(&mut file))
            }
            _ => {
                let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
                folder.and_then(|()| files::render(path, |file| buffered(file)))
            }
        }
    };
    written.with_context(|| format!("{flag} {}: cannot be written", path.display()))
}

/// Whether the last part of a path is a link, except for the system's links in `/dev`.
fn leads_elsewhere(path: &Path) -> bool {
    !path.starts_with("/dev") && path.symlink_metadata().is_ok_and(|found| found.is_symlink())
}
