//! `trainmark run`: builds, trains, measures and records every row of a suite.

use crate::campaign::{Campaign, Executor, Keeper, Standing};
use crate::cmd::report::print;
use crate::cmd::what::{What, selection};
use crate::command::{Purpose, listing, quote};
use crate::executor::Local;
use crate::plan::{self, Row};
use crate::progress::Progress;
use crate::runner::{DATA_CHANGED, Limits, Settings, TIME_IS_UP, cancelled_by_signals, exit_code};
use crate::schedule::Schedule;
use crate::slurm::{self, Request, Slurm, Wishes};
use crate::suite::LoadedSuite;
use crate::units::{self, Cpus};
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args as _, FromArgMatches};
use files::WRITING;
use measure::launch::{LimitedBy, MemoryLimit};
use measure::text::one_line;
use record::journal::{Began, Journal, PastRun};
use record::name::file_nearby;
use record::number;
use record::{Status, race};
use report::console;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest time for rounds that --rounds-until adds, unless --max-time is given.
const LONGEST: Duration = Duration::from_secs(3600);

/// Below the short help.
const MORE: &str =
    "`trainmark run --help` explains every option; docs/get-started.md is for beginners.";

/// Build the trainers, train every row, and write one result file for each.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    /// The command line that `--resume` reads if another verb began the run.
    #[arg(skip)]
    words: Option<Vec<String>>,
    #[command(flatten)]
    what: What,
    /// Limit the memory of a trainer and of all that it starts, for example `2G` (2 x 10^9 bytes) or
    /// `2GiB`; above the limit it is killed, and its status is out of memory
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = units::size)]
    memory_limit: Option<u64>,
    /// The means that enforces --memory-limit [default: a control group if one can be made, else the harness]
    #[arg(
        long,
        help_heading = "Limits",
        hide_short_help = true,
        value_name = "HOW",
        requires = "memory_limit"
    )]
    memory_limit_by: Option<LimitedBy>,
    /// Logical cores that trainers may use, for example `0-3,8`
    #[arg(long, help_heading = "Limits", hide_short_help = true, value_name = "LIST", value_parser = units::cpus)]
    cpus: Option<Cpus>,
    /// Train rows side by side that have devices of their own (or `cores` of their own), not one after the other:
    /// they share memory, links and power, and each record names who ran beside it
    #[arg(long, help_heading = "Measuring", hide_short_help = true)]
    parallel_rows: bool,
    /// Time after which the whole run stops, with its trainer; `--resume` continues it
    #[arg(long, help_heading = "Limits", hide_short_help = true, value_name = "TIME", value_parser = units::duration)]
    run_timeout: Option<Duration>,
    /// Number of rounds; each trains every row once that has not failed before, and reports show medians [default: 1]
    #[arg(long, help_heading = "Measuring", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Add rounds until the 95 % interval of each row's median train time is within this, for example `2%`
    #[arg(long, help_heading = "Measuring", value_name = "PERCENT", value_parser = units::percent)]
    rounds_until: Option<f64>,
    /// Time after which no round begins [default: an hour with --rounds-until]
    #[arg(long, help_heading = "Measuring", hide_short_help = true, value_name = "TIME", value_parser = units::duration)]
    max_time: Option<Duration>,
    /// Race to this test accuracy: the trainer tests after each epoch, off its clock, and reports show the
    /// epochs and seconds until it is reached
    #[arg(long, help_heading = "Measuring", hide_short_help = true, value_name = "PERCENT", value_parser = units::percent, conflicts_with = "target")]
    target_accuracy: Option<f64>,
    /// Race to this value of the task's quality, in its own unit
    #[arg(long, help_heading = "Measuring", value_name = "VALUE", value_parser = units::number, allow_negative_numbers = true)]
    target: Option<f64>,
    /// Repeat a sample that was disturbed by other load, steal time, moved cores, a falling clock or
    /// throttling, up to N times [3 if no number is given]; the disturbed samples stay in the file and
    /// are marked
    #[arg(long, help_heading = "Measuring", hide_short_help = true, value_name = "N", num_args = 0..=1, default_missing_value = "3", require_equals = true)]
    retry_noisy: Option<u32>,
    /// Run one round first and do not record it
    #[arg(long, help_heading = "Measuring", hide_short_help = true)]
    warm_up: bool,
    /// Folder for the result files
    #[arg(long, help_heading = "Output", value_name = "DIR", default_value = "benchmarks")]
    out: PathBuf,
    /// Continue the run that stopped in the folder of --out, with the options that it began with; rows
    /// that have a result are skipped
    #[arg(long, help_heading = "Output", conflicts_with_all = [
        "suite", "quick", "preset", "trainer", "model", "backend", "hidden", "epochs", "batch", "seed", "lr",
        "threads", "set", "data", "devices", "parallel_rows", "allow_software", "target_accuracy", "target", "warm_up", "list", "dry_run", "memory_limit", "cpus",
    ])]
    resume: bool,
    /// Show the rows and run nothing
    #[arg(long, help_heading = "Output")]
    list: bool,
    /// Show every command that would be executed, word by word, and run nothing; with
    /// `--executor slurm` also show the batch script
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// Where samples are trained; docs/cluster.md explains `slurm`
    #[arg(long, value_enum, default_value = "local", help_heading = "Cluster")]
    executor: Kind,
    #[command(flatten)]
    cluster: Wishes,
}

/// Where samples are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// On this machine, one after the other
    Local,
    /// On a cluster: a Slurm job array with one task for each row and round
    Slurm,
}

/// Runs the verb.
///
/// # Errors
/// If the suite, the data or the output folder cannot be used. A trainer's failure is a row, not an error.
pub fn run(given: &Args) -> Result<u8> {
    if given.resume {
        let out = given.out.display();
        if !given.out.is_dir() {
            let nearby = file_nearby(&given.out);
            bail!("--resume: there is no folder {out}{nearby}; give --out the folder of the run");
        }
        let journal = open_folder(&given.out)?;
        let Some(past) = journal.unfinished().cloned() else {
            bail!(
                "--resume: no stopped run in {out} can be continued, and a complete one takes no further rounds; \
                 leave --resume out to begin another"
            );
        };
        let args = as_begun(&past.began, given)?;
        let (loaded, rows) = planned(&args, Some(&past.began))?;
        let progress = past.progress();
        let wanted = match args.rounds_until {
            None => format!("; it takes {} of each row", args.repeats.unwrap_or(1)),
            Some(_) => String::new(),
        };
        eprintln!("Continuing the run {}{wanted}", one_line(&progress));
        return begin(&args, &loaded, &rows, journal, Some(past));
    }
    let (loaded, rows) = planned(given, None)?;
    if given.list {
        list(&loaded, &rows)?;
        return Ok(protocol::exit::SUCCESS);
    }
    if given.dry_run {
        dry_run(given, &loaded, &rows)?;
        return Ok(protocol::exit::SUCCESS);
    }
    if given.executor == Kind::Slurm {
        if given.parallel_rows {
            bail!("--parallel-rows: Slurm decides which tasks run at the same time; leave it out");
        }
        slurm::check()?;
    }
    let journal = open_folder(&given.out)?;
    if let Some(past) = journal.unfinished() {
        let (out, resume) = (given.out.display(), resume_command(&given.out));
        eprintln!(
            "note: a run has stopped in {out} ({}): `{resume}` continues it; this is a new run",
            one_line(&past.progress())
        );
    }
    begin(given, &loaded, &rows, journal, None)
}

impl Args {
    /// Reads words as if they came after `trainmark run`.
    ///
    /// # Errors
    /// If they are no arguments of it.
    pub(super) fn of_words(words: Vec<String>) -> Result<Args> {
        let command = Args::augment_args(clap::Command::new("run").no_binary_name(true));
        let read = command.try_get_matches_from(&words).and_then(|it| Args::from_arg_matches(&it));
        let first_line = |error: clap::Error| {
            anyhow!("{}", error.to_string().lines().next().unwrap_or_default())
        };
        Ok(Args { words: Some(words), ..read.map_err(first_line)? })
    }
}

/// The suite, and the rows that the arguments select.
fn planned(args: &Args, began: Option<&Began>) -> Result<(LoadedSuite, Vec<Row>)> {
    let loaded = match began {
        Some(Began { suite, suite_text, .. }) => {
            let name = args.what.suite.as_deref().and_then(Path::to_str);
            let (file, text) = (suite.as_deref(), suite_text.clone());
            let is_other =
                |it: &&Path| !files::read_text(it, files::Kind::SUITE).is_ok_and(|now| now == text);
            if let Some(file) = file.filter(is_other) {
                let file = file.display();
                eprintln!(
                    "note: {file} has changed; the run goes on with the suite that it began with"
                );
            }
            LoadedSuite::as_begun(file, name.unwrap_or(stock::SUITE), text)?
        }
        None => LoadedSuite::find(args.what.suite.as_deref())?,
    };
    let mut wanted = selection(&args.what)?;
    if let Some(share) = args.target_accuracy {
        let quality = loaded.suite.task().quality();
        let other =
            quality.filter(|(_, it)| it.unit != "%" || it.better != record::task::Better::Higher);
        if let Some((name, _)) = other {
            bail!(
                "--target-accuracy: the quality of the task is {name:?}, which is no accuracy in %; give --target with a value of {name}"
            );
        }
        // Rounded: 93 % is 93.0, not 93.00000000000001.
        let percent = (share * 1e8).round() / 1e6;
        wanted.config.insert(race::TARGET.to_owned(), vec![percent.into()]);
    }
    if let Some(target) = args.target {
        wanted.config.insert(race::TARGET.to_owned(), vec![target.into()]);
    }
    if wanted.config.contains_key(race::TARGET) && loaded.suite.task().quality.is_none() {
        bail!("--target: the task {:?} has no quality to race to", loaded.suite.task().name);
    }
    let rows = plan::plan(&loaded.suite, &wanted)?;
    for unused in plan::unused_keys(&loaded.suite) {
        eprintln!("warning: {}: [config] {}", one_line(&loaded.origin), one_line(&unused));
    }
    Ok((loaded, rows))
}

/// The arguments that a run began with, except for those that may have new values.
fn as_begun(began: &Began, given: &Args) -> Result<Args> {
    let begun = Args::of_words(began.words.clone())
        .context("--resume: the journal's command line is not understood")?;
    Ok(Args {
        out: given.out.clone(),
        what: What {
            suite: began.suite.clone().or(begun.what.suite),
            data: Some(began.data.clone()),
            timeout: given.what.timeout.or(begun.what.timeout),
            ..begun.what
        },
        repeats: given.repeats.or(begun.repeats),
        rounds_until: given.rounds_until.or(begun.rounds_until),
        max_time: given.max_time.or(begun.max_time),
        run_timeout: given.run_timeout.or(begun.run_timeout),
        ..begun
    })
}

/// Trains.
fn begin(
    args: &Args,
    loaded: &LoadedSuite,
    rows: &[Row],
    mut journal: Journal,
    past: Option<PastRun>,
) -> Result<u8> {
    // A command that cannot be filled in is an error now: the journal would have a run that has stopped.
    args.what.check(loaded, rows, Purpose::Train)?;
    let cancel = cancelled_by_signals()?;
    if let Some(time) = args.run_timeout {
        let handle = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(time);
            handle.cancel_because(TIME_IS_UP);
        });
    }
    eprintln!("Suite {}, {}", loaded.shown(), number::count(rows.len(), "row"));
    let schedule = Schedule {
        repeats: args.repeats.unwrap_or(1),
        until: args.rounds_until,
        max_time: args.max_time.or(args.rounds_until.map(|_| LONGEST)),
        warm_up: args.warm_up,
        seed: loaded.suite.config.get("seed").and_then(Value::as_u64).unwrap_or(0),
    };
    let settings = Settings {
        retry_noisy: args.retry_noisy.unwrap_or(0),
        limits: Limits {
            memory: args.memory_limit.map(|bytes| MemoryLimit { bytes, by: args.memory_limit_by }),
            cpus: args.cpus.clone().map(|cpus| cpus.0),
        },
        ..args.what.settings(loaded)
    };
    let timeout = settings.timeout;
    let mut runner = args.what.runner(loaded, rows, settings, &cancel)?;
    if let (Some(_), Some(why)) = (&past, cancel.reason()) {
        // Trainers that are not ready would be taken for others than they were.
        let resume = resume_command(&args.out);
        print(&format!("The run was {why} before it went on; `{resume}` continues it\n"))?;
        return Ok(exit_code(why));
    }
    let cannot_write = || format!("--out {}: the journal cannot be written", args.out.display());
    runner.run = match &past {
        Some(past) => {
            journal.resume(&past.began.run.id).with_context(cannot_write)?;
            past.began.run.clone()
        }
        None => {
            let own =
                || std::env::args_os().skip(2).map(|word| word.to_string_lossy().into_owned());
            let words = args.words.clone().unwrap_or_else(|| own().collect());
            let (run, data) = (runner.run.clone(), runner.dataset.directory.clone());
            let suite = (loaded.file(), loaded.text.clone());
            let began = Began::new(run, words, suite, data, rows.len());
            journal.begin(began).with_context(cannot_write)?
        }
    };
    warn(&mut journal, &args.out);
    let progress = Progress::new(&loaded.suite, rows, &schedule, &runner.trainers);
    let keeper = Keeper { journal, out: args.out.clone() };
    let mut campaign = Campaign::new(&runner, rows, Some(keeper), progress);
    if let Some(past) = past {
        for remark in campaign.take_up(past)? {
            eprintln!("note: {}", one_line(&remark));
        }
    }
    let mut executor: Box<dyn Executor + '_> = match args.executor {
        Kind::Local => Box::new(Local { runner: &runner, rows, side_by_side: args.parallel_rows }),
        Kind::Slurm => Box::new(Slurm {
            runner: &runner,
            rows,
            request: Request::new(&args.cluster, timeout)?,
            out: std::path::absolute(&args.out).with_context(|| args.out.display().to_string())?,
        }),
    };
    campaign.train(&schedule, executor.as_mut())?;
    conclude(args, &campaign, cancel.reason())
}

/// Prints the table of all rows, the number that completed, the folder of the files, and the next command.
fn conclude(args: &Args, campaign: &Campaign, stopped: Option<&str>) -> Result<u8> {
    let mut text = String::new();
    if let Some(summary) = campaign.summary() {
        text += &console::summary(&summary, console::Detail::default(), console::Style::stdout());
        text.push('\n');
    }
    let known = || campaign.rows.iter().filter(|row| row.file().is_some());
    let count = |test: fn(Status) -> bool| known().filter(|row| test(row.result.status)).count();
    let failed = count(|status| status.failed() && status != Status::Interrupted);
    let mut line = format!("{} of {} completed", count(Status::completed), campaign.rows.len());
    let others =
        [(count(|status| status == Status::Unavailable), "unavailable here"), (failed, "failed")];
    for (number, words) in others.into_iter().filter(|(number, _)| *number > 0) {
        line += &format!(", {number} {words}");
    }
    let most = campaign.rows.iter().map(Standing::rounds).max().unwrap_or_default();
    let wanted = args.repeats.filter(|_| args.max_time.is_none()).unwrap_or(1);
    let rounds = most.max(wanted as usize);
    let is_left_out = |it: &&Standing| {
        (1..rounds).contains(&it.rounds()) && !it.repeatable() && stopped.is_none()
    };
    let left_out = campaign.rows.iter().filter(is_left_out).count();
    if left_out > 0 {
        let rows = number::count(left_out, "row");
        line += &format!("\nLeft out of later rounds after a failure: {rows}");
    }
    let files = number::count(known().count(), "file");
    let folder = args.out.display();
    let input = match args.out == Path::new("benchmarks") {
        true => String::new(),
        false => format!(" --input {}", quote(&folder.to_string())),
    };
    text +=
        &format!("{line}\nResults: {files} in {folder}\nNext: trainmark report{input} --open\n");
    if let Some(why) = stopped {
        let resume = resume_command(&args.out);
        let does = match why {
            DATA_CHANGED => {
                "continues it with the data as it was, and with other data trains every row again, \
                 into new files"
            }
            _ => "continues it",
        };
        text += &format!("The run was {why}: finished samples are kept; `{resume}` {does}\n");
    }
    print(&text)?;
    if let Some(why) = stopped {
        return Ok(exit_code(why));
    }
    Ok(if failed > 0 { protocol::exit::FAILURE } else { protocol::exit::SUCCESS })
}

fn list(loaded: &LoadedSuite, rows: &[Row]) -> Result<()> {
    let line = |text: &str| one_line(text).into_owned();
    let mut text = format!("Suite {}\n", loaded.shown());
    for row in rows {
        let config: Vec<String> =
            row.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        text += &format!("{:<36} {}\n", line(&row.label), line(&config.join(" ")));
    }
    text += &format!("{}\n", number::count(rows.len(), "row"));
    let presets: Vec<&str> = loaded.suite.presets.keys().map(String::as_str).collect();
    if !presets.is_empty() {
        text += &format!("Other values: --preset {}\n", line(&presets.join(" or ")));
    }
    print(&text)
}

/// The commands, and how they are submitted.
fn dry_run(args: &Args, loaded: &LoadedSuite, rows: &[Row]) -> Result<()> {
    let mut text = String::new();
    if args.executor == Kind::Slurm {
        let out = std::path::absolute(&args.out).with_context(|| args.out.display().to_string())?;
        let repeats = args.repeats.unwrap_or(1) as usize;
        let request = Request::new(&args.cluster, args.what.timeout_of(loaded))?;
        text += &format!("{}\n", slurm::preview(&request, &out, rows, repeats)?);
    }
    print(&(text + &listing(&args.what.commands(loaded, rows, Purpose::Train)?)))
}

/// Makes the output folder, locks it, and checks now, not after an hour, that it can be written to. Removes
/// half-written files of a run that was killed.
fn open_folder(folder: &Path) -> Result<Journal> {
    let hint = || cannot_write(folder);
    make_folder(folder)?;
    let mut journal =
        Journal::open(folder).with_context(|| format!("--out {}", folder.display()))?;
    warn(&mut journal, folder);
    for entry in std::fs::read_dir(folder).with_context(hint)?.flatten() {
        let half_written = entry.file_name().as_encoded_bytes().starts_with(WRITING.as_bytes());
        if half_written && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    tempfile::Builder::new().prefix(WRITING).tempfile_in(folder).with_context(hint)?;
    Ok(journal)
}

/// # Errors
/// If it cannot be made.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_file() {
        bail!("--out {}: this is a file; give a folder", folder.display());
    }
    std::fs::create_dir_all(folder).with_context(|| cannot_write(folder))
}

fn cannot_write(folder: &Path) -> String {
    format!("--out {}: result files cannot be written there", folder.display())
}

/// Prints the journal's warnings once.
fn warn(journal: &mut Journal, folder: &Path) {
    for warning in journal.warnings.drain(..) {
        eprintln!("warning: {}: {}", folder.display(), one_line(&warning));
    }
}

/// The command that continues a run.
fn resume_command(out: &Path) -> String {
    format!("trainmark run --resume --out {}", quote(&out.display().to_string()))
}
