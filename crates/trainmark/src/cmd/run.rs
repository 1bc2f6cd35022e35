//! `trainmark run`: builds, trains, measures and records every combination of a suite.

use crate::campaign::{Campaign, Row};
use crate::cmd::cluster::{Cluster, Kind};
use crate::execute::{Bench, Limits, Settings, new_run};
use crate::executor::{Executor, Local};
use crate::journal::{Began, Journal, PastRun};
use crate::live::Step;
use crate::plan::{self, Case, Places, Selection};
use crate::progress::Progress;
use crate::race;
use crate::report::{Collection, Options, Summary, console};
use crate::schedule::Schedule;
use crate::slurm::{self, Scheduler, Slurm};
use crate::suite::LoadedSuite;
use crate::trainer::Watch;
use crate::verify::FILE;
use crate::{data, launch, trainer};
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use record::Status;
use record::write::WRITING;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Why the run stops when its time is up.
const TIME_IS_UP: &str = "stopped when the time of the whole run was up (--run-timeout)";

/// How long rounds go on for a narrow interval if nobody says.
const LONGEST: Duration = Duration::from_secs(3600);

/// Build the trainers, train every combination, and write one result file for each.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Go on with the run that stopped in the folder for results, as it was begun: what has a result
    /// is skipped, the rest runs
    #[arg(long, conflicts_with_all = [
        "suite", "quick", "trainer", "model", "backend", "hidden", "epochs", "batch", "seed", "lr",
        "threads", "set", "data", "allow_software", "target_accuracy", "warm_up", "list", "dry_run", "memory_limit", "cpus",
    ])]
    resume: bool,
    #[command(flatten)]
    what: What,
    /// Folder for the result files
    #[arg(long, value_name = "DIR", default_value = "benchmarks")]
    out: PathBuf,
    /// Memory of a trainer and all that it starts, for example `2G`, `512MiB`; above it, it is killed
    /// and its status is out of memory
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_limit: Option<u64>,
    /// Who enforces --memory-limit [default: a control group if there can be one, else the harness]
    #[arg(long, value_name = "HOW", requires = "memory_limit")]
    memory_limit_by: Option<launch::LimitedBy>,
    /// Logical cores that trainers may run on, for example `0-3,8`
    #[arg(long, value_name = "LIST", value_parser = cpus)]
    cpus: Option<Cpus>,
    /// Train every combination so many times, in interleaved rounds; medians are reported
    /// [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Go on with rounds until each row's median train time is known this well, for example `2%`
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    rounds_until: Option<f64>,
    /// No round begins later than this; an hour with --rounds-until
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_time: Option<Duration>,
    /// Time after which the whole run stops, its trainer too; `--resume` goes on with it
    #[arg(long, value_name = "TIME", value_parser = duration)]
    run_timeout: Option<Duration>,
    /// A race to this test accuracy: each epoch is tested, off the clock, and reports show the epochs
    /// and seconds that it took
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    target_accuracy: Option<f64>,
    /// Repeat a run that was disturbed by other load, steal time, moved cores, a falling clock or
    /// throttling, up to so often [3 if no number is given]; the disturbed runs stay in the file,
    /// marked
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", require_equals = true)]
    retry_noisy: Option<u32>,
    /// Run one round first that is not recorded
    #[arg(long)]
    warm_up: bool,
    /// Show the combinations and run nothing
    #[arg(long)]
    list: bool,
    /// Show the exact commands and run nothing; with `--executor slurm` the batch script
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// What is trained.
#[derive(Clone, Debug, clap::Args)]
pub struct What {
    /// Suite file; without it the default suite (suites/mnist.toml, also built in)
    #[arg(long, value_name = "FILE")]
    pub(super) suite: Option<PathBuf>,
    /// Quick verification: one epoch instead of five
    #[arg(long)]
    pub(super) quick: bool,
    /// Only these trainers
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) trainer: Vec<String>,
    /// Only these models
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) model: Vec<String>,
    /// Only these backends
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(super) backend: Vec<String>,
    /// Hidden units to train with, of the models that have them
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(super) hidden: Vec<u64>,
    /// Epochs to train
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(super) epochs: Vec<u64>,
    /// Samples in a training step
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(super) batch: Vec<u64>,
    /// Seed of the initial weights and of the batch order
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(super) seed: Vec<u64>,
    /// Learning rate
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    pub(super) lr: Vec<f64>,
    /// Threads of each trainer; without it each trainer's own choice
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(super) threads: Vec<u64>,
    /// Any other configuration key of the suite, for example `d_model=64`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Folder with the four IDX files, or `digits` for the embedded dataset; without it
    /// $TRAINMARK_DATA, ./data, the user's cache, and at last `digits`
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Train on software imitations of devices too; their rows are marked and never ranked
    #[arg(long)]
    pub(super) allow_software: bool,
    /// Time after which a combination is stopped, for example `90s`, `10m`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

/// The words after `trainmark run`, read again.
#[derive(Parser)]
struct Words {
    #[command(flatten)]
    args: Args,
}

/// Runs the verb.
///
/// # Errors
/// If the suite, the data or the output folder cannot be used. What a trainer does wrong is a row.
pub fn run(given: &Args) -> Result<ExitCode> {
    if given.resume {
        let journal = open_folder(&given.out)?;
        let Some(past) = journal.unfinished().cloned() else {
            let out = given.out.display();
            bail!("--resume: no run has stopped in {out} that could go on; leave --resume out");
        };
        let args = as_begun(&past.began, given)?;
        let (loaded, cases) = planned(&args, Some(&past.began))?;
        let progress = past.progress();
        eprintln!("Going on with the run {}", console::one_line(&progress));
        return begin(&args, &loaded, &cases, journal, Some(past));
    }
    let (loaded, cases) = planned(given, None)?;
    if given.list {
        list(&loaded, &cases)?;
        return Ok(ExitCode::from(protocol::exit::SUCCESS));
    }
    if given.dry_run {
        dry_run(given, &loaded, &cases)?;
        return Ok(ExitCode::from(protocol::exit::SUCCESS));
    }
    if given.cluster.executor == Kind::Slurm {
        Scheduler.check()?;
    }
    let journal = open_folder(&given.out)?;
    if let Some(past) = journal.unfinished() {
        let (out, resume) = (given.out.display(), resume_command(&given.out));
        eprintln!(
            "note: a run has stopped in {out} ({}): `{resume}` goes on with it; this is a new one",
            console::one_line(&past.progress())
        );
    }
    begin(given, &loaded, &cases, journal, None)
}

/// The suite, and its combinations that are wanted.
fn planned(args: &Args, began: Option<&Began>) -> Result<(LoadedSuite, Vec<Case>)> {
    let loaded = match began {
        Some(Began { suite: None, .. }) => LoadedSuite::built_in()?,
        _ => LoadedSuite::find(args.what.suite.as_deref())?,
    };
    let mut wanted = selection(&args.what)?;
    if let Some(share) = args.target_accuracy {
        // Rounded: 93 % is 93.0, not 93.00000000000001.
        let percent = (share * 1e8).round() / 1e6;
        wanted.config.insert(race::TARGET.to_owned(), vec![percent.into()]);
    }
    let cases = plan::plan(&loaded.suite, &wanted).map_err(|reason| anyhow!(reason))?;
    Ok((loaded, cases))
}

/// The arguments that a run was begun with, and what may be given anew.
fn as_begun(began: &Began, given: &Args) -> Result<Args> {
    let words = std::iter::once("run").chain(began.words.iter().map(String::as_str));
    let begun = Words::try_parse_from(words)
        .map_err(|error| anyhow!("{}", error.to_string().lines().next().unwrap_or_default()))
        .context("--resume: the journal's command line is not understood")?;
    Ok(Args {
        out: given.out.clone(),
        what: What {
            suite: began.suite.clone(),
            data: Some(began.data.clone()),
            timeout: given.what.timeout.or(begun.args.what.timeout),
            ..begun.args.what
        },
        repeats: given.repeats.or(begun.args.repeats),
        rounds_until: given.rounds_until.or(begun.args.rounds_until),
        max_time: given.max_time.or(begun.args.max_time),
        run_timeout: given.run_timeout.or(begun.args.run_timeout),
        ..begun.args
    })
}

/// Trains.
fn begin(
    args: &Args,
    loaded: &LoadedSuite,
    cases: &[Case],
    mut journal: Journal,
    past: Option<PastRun>,
) -> Result<ExitCode> {
    let cancel = launch::CancelToken::new().context("cannot listen for Ctrl-C")?;
    let handle = cancel.clone();
    ctrlc::set_handler(move || handle.cancel()).context("cannot listen for Ctrl-C")?;
    if let Some(time) = args.run_timeout {
        let handle = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(time);
            handle.cancel_because(TIME_IS_UP);
        });
    }
    let dataset = data::prepare(args.what.data.as_deref())?;
    let suite = format!("{} ({})", loaded.suite.name, loaded.origin);
    eprintln!("Suite {}, {} combinations", console::one_line(&suite), cases.len());
    eprintln!("Data  {dataset}");
    let schedule = Schedule {
        repeats: args.repeats.unwrap_or(1),
        until: args.rounds_until,
        max_time: args.max_time.or(args.rounds_until.map(|_| LONGEST)),
        warm_up: args.warm_up,
        seed: loaded.suite.config.get("seed").and_then(Value::as_u64).unwrap_or(0),
    };
    let mut progress = Progress::new(&loaded.suite, cases, &schedule);
    let trainers = make_ready(loaded, cases, args.what.allow_software, &cancel, &mut progress);

    let cannot_write = || format!("--out {}: the journal cannot be written", args.out.display());
    let run = match &past {
        Some(past) => {
            journal.resume(&past.began.run.id).with_context(cannot_write)?;
            past.began.run.clone()
        }
        None => {
            let words = std::env::args_os().skip(2);
            let words = words.map(|word| word.to_string_lossy().into_owned()).collect();
            let (run, data) = (new_run(loaded, args.what.quick), dataset.directory.clone());
            let began = Began::new(run, words, loaded.file(), data, cases.len());
            journal.begin(began).with_context(cannot_write)?
        }
    };
    let settings = Settings {
        quick: args.what.quick,
        allow_software: args.what.allow_software,
        timeout: args.what.timeout.unwrap_or(Duration::from_secs_f64(loaded.suite.timeout_s)),
        retry_noisy: args.retry_noisy.unwrap_or(0),
        limits: Limits {
            memory: args
                .memory_limit
                .map(|bytes| launch::MemoryLimit { bytes, by: args.memory_limit_by }),
            cpus: args.cpus.clone().map(|cpus| cpus.0),
        },
    };
    let bench = progress.aside(|| Bench::new(loaded, &dataset, &trainers, settings, run))?;
    let mut campaign = Campaign::new(&bench, cases, journal, &args.out, progress, &cancel);
    if let Some(past) = past {
        for remark in campaign.take_up(past)? {
            eprintln!("note: {}", console::one_line(&remark));
        }
    }
    let mut executor: Box<dyn Executor + '_> = match args.cluster.executor {
        Kind::Local => Box::new(Local { bench: &bench, cases, cancel: &cancel }),
        Kind::Slurm => Box::new(Slurm {
            bench: &bench,
            cases,
            cancel: &cancel,
            scheduler: Scheduler,
            request: args.cluster.request(bench.settings().timeout)?,
            out: std::path::absolute(&args.out).with_context(|| args.out.display().to_string())?,
        }),
    };
    campaign.train(&schedule, executor.as_mut())?;
    conclude(args, loaded, &campaign.rows, cancel.reason())
}

/// The table of all rows, how many completed, where the files are, and what to type next.
fn conclude(
    args: &Args,
    loaded: &LoadedSuite,
    rows: &[Row],
    stopped: Option<&str>,
) -> Result<ExitCode> {
    let mut results = Collection::default();
    for (row, file) in rows.iter().filter_map(|row| Some((row, row.file()?))) {
        results.add(file, &(&row.result).into()).map_err(|reason| anyhow!("{file}: {reason}"))?;
    }
    if let Ok(bytes) = std::fs::read(args.out.join(FILE)) {
        // What is wrong with it, `trainmark report` says.
        let _ = results.add_bytes(FILE, &bytes);
    }
    let files = results.files().count();
    let mut text = String::new();
    if !results.is_empty() {
        let options = Options { suite: Some(&loaded.suite), ..Options::default() };
        let (summary, style) = (Summary::new(results, &options)?, console::Style::stdout());
        text += &console::table(&summary, style);
        let notes = console::notes(&summary, style);
        if !notes.is_empty() {
            text += &format!("\n{notes}\n");
        }
    }
    let count = |test: fn(Status) -> bool| {
        rows.iter().filter(|row| row.file().is_some() && test(row.result.status)).count()
    };
    let failed = count(|status| status.failed() && status != Status::Interrupted);
    let mut line = format!("{} of {} completed", count(Status::completed), rows.len());
    let others =
        [(count(|status| status == Status::Unavailable), "unavailable here"), (failed, "failed")];
    for (number, words) in others.into_iter().filter(|(number, _)| *number > 0) {
        line += &format!(", {number} {words}");
    }
    let (folder, out) = (args.out.display(), quote(&args.out.display().to_string()));
    text += &format!(
        "{line}\nResults: {files} files in {folder}\n\
         Next: trainmark report --input {out} --html report.html --output report.json\n"
    );
    if let Some(why) = stopped {
        let resume = resume_command(&args.out);
        text +=
            &format!("The run was {why}: what had finished is kept; `{resume}` goes on with it\n");
    }
    super::report::print(&text)?;
    if let Some(why) = stopped {
        let time_is_up = why == TIME_IS_UP;
        let code = if time_is_up { protocol::exit::TIMED_OUT } else { protocol::exit::INTERRUPTED };
        return Ok(ExitCode::from(code));
    }
    Ok(ExitCode::from(if failed > 0 { protocol::exit::FAILURE } else { protocol::exit::SUCCESS }))
}

/// Builds and probes every trainer that a combination needs, each once.
pub(super) fn make_ready(
    loaded: &LoadedSuite,
    cases: &[Case],
    allow_software: bool,
    cancel: &launch::CancelToken,
    watch: &mut dyn Watch,
) -> BTreeMap<usize, Result<trainer::Ready, trainer::NotReady>> {
    let mut trainers = BTreeMap::new();
    for case in cases {
        trainers.entry(case.trainer).or_insert_with(|| {
            let declared = &loaded.suite.trainers[case.trainer];
            let ready = trainer::build(loaded, declared, watch).and_then(|()| {
                watch.step(&declared.name, Step::Probing, "");
                trainer::ready(loaded, declared, allow_software, cancel, watch)
            });
            if let Err(reason) = &ready {
                let warning = format!("{}: {reason}", declared.name);
                watch.tell(&format!("warning: {}", console::one_line(&warning)));
            }
            watch.settled(&declared.name, ready.as_ref().err());
            ready
        });
    }
    trainers
}

pub(super) fn selection(args: &What) -> Result<Selection> {
    let mut config = BTreeMap::new();
    let numbers = [
        ("hidden_size", "--hidden", &args.hidden),
        ("epochs", "--epochs", &args.epochs),
        ("batch_size", "--batch", &args.batch),
        ("threads", "--threads", &args.threads),
    ];
    for (key, flag, values) in numbers {
        if values.contains(&0) {
            bail!("{flag} 0: give at least 1");
        }
        if !values.is_empty() {
            config.insert(key.to_owned(), values.iter().map(|&value| value.into()).collect());
        }
    }
    if !args.seed.is_empty() {
        config.insert("seed".to_owned(), args.seed.iter().map(|&seed| seed.into()).collect());
    }
    if let Some(rate) = args.lr.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
        bail!("--lr {rate}: give a positive number");
    }
    if !args.lr.is_empty() {
        config.insert("learning_rate".to_owned(), args.lr.iter().map(|&lr| lr.into()).collect());
    }
    set(&args.set, &mut config)?;
    Ok(Selection {
        trainers: args.trainer.clone(),
        models: args.model.clone(),
        backends: args.backend.clone(),
        config,
        quick: args.quick,
    })
}

/// Adds the values of `--set KEY=VALUE`.
pub(super) fn set(settings: &[String], config: &mut BTreeMap<String, Vec<Value>>) -> Result<()> {
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .with_context(|| format!("--set {setting}: give KEY=VALUE"))?;
        let value = serde_json::from_str::<Value>(value)
            .ok()
            .filter(|value| value.is_number() || value.is_boolean())
            .unwrap_or_else(|| Value::from(value));
        config.entry(key.to_owned()).or_default().push(value);
    }
    Ok(())
}

/// `2%` or `2` as 0.02.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim();
    let percent = number.parse::<f64>().map_err(|error| error.to_string())?;
    match percent > 0.0 && percent < 100.0 {
        true => Ok(percent / 100.0),
        false => Err("give a percentage between 0 and 100".to_owned()),
    }
}

/// `90`, `90s`, `10m`, `2h`; at least a millisecond, at most a year.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| c.is_ascii_alphabetic()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("give seconds, or a number with s, m or h".to_owned()),
    };
    let seconds = number.trim().parse::<f64>().map_err(|error| error.to_string())? * factor;
    match (0.001..=365.0 * 86400.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("give a time between 0.001s and a year".to_owned()),
    }
}

/// `512M`, `2G`, `2GiB`: powers of ten unless it says `i`.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| c.is_ascii_alphabetic()) {
        Some((at, _)) => text.split_at(at),
        None => (text, ""),
    };
    let unit = unit.to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("give bytes, or a number with K, M, G, KiB, MiB or GiB".to_owned()),
    };
    let bytes = number.trim().parse::<f64>().map_err(|error| error.to_string())? * factor;
    match (1e6..=1e15).contains(&bytes) {
        true => Ok(bytes.round() as u64),
        false => Err("give a size between 1M and 1000T".to_owned()),
    }
}

/// Logical cores.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cpus(Vec<usize>);

/// `0-3,8`.
fn cpus(text: &str) -> Result<Cpus, String> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|error| error.to_string());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > 1 << 16 {
            return Err(format!("{part} is no range of cores"));
        }
        list.extend(first..=last);
    }
    list.sort_unstable();
    list.dedup();
    Ok(Cpus(list))
}

fn list(loaded: &LoadedSuite, cases: &[Case]) -> Result<()> {
    let line = |text: &str| console::one_line(text).into_owned();
    let mut text =
        format!("Suite {}\n", line(&format!("{} ({})", loaded.suite.name, loaded.origin)));
    for case in cases {
        let config: Vec<String> =
            case.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let label = line(&case.label(&loaded.suite));
        text += &format!("{label:<36} {}\n", line(&config.join(" ")));
    }
    text += &format!("{} combinations\n", cases.len());
    super::report::print(&text)
}

fn dry_run(args: &Args, loaded: &LoadedSuite, cases: &[Case]) -> Result<()> {
    if args.cluster.executor == Kind::Slurm {
        let timeout = args.what.timeout.unwrap_or(Duration::from_secs_f64(loaded.suite.timeout_s));
        let out = std::path::absolute(&args.out).with_context(|| args.out.display().to_string())?;
        let tasks = cases.len() * args.repeats.unwrap_or(1) as usize;
        return super::report::print(&slurm::preview(
            &args.cluster.request(timeout)?,
            &out,
            tasks,
        )?);
    }
    let data = data::place(args.what.data.as_deref())?;
    let mut text = String::new();
    for case in cases {
        let program = plan::program(loaded, &loaded.suite.trainers[case.trainer]);
        let program = program.map_err(|reason| anyhow!(reason))?;
        let predictions = Path::new("PREDICTIONS");
        let allow_software = args.what.allow_software;
        let places = Places { program: &program, data: &data, predictions, allow_software };
        let words =
            plan::command(&loaded.suite, case, &places).map_err(|reason| anyhow!(reason))?;
        let environment = plan::environment(&loaded.suite, case);
        let assignments =
            environment.iter().map(|(name, value)| format!("{name}={}", quote(value)));
        let words = words.iter().map(|word| quote(word));
        text += &format!("{}\n", assignments.chain(words).collect::<Vec<_>>().join(" "));
    }
    super::report::print(&text)
}

/// A word as a POSIX shell takes it, and a terminal too: control characters are escaped as in POSIX of
/// 2024 (`$'...'`).
pub(crate) fn quote(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if word.chars().any(char::is_control) {
        let escape = |byte: &u8| match byte {
            b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
            0x20..0x7f => char::from(*byte).to_string(),
            byte => format!("\\{byte:03o}"),
        };
        return format!("$'{}'", word.as_bytes().iter().map(escape).collect::<String>());
    }
    match !word.is_empty() && word.chars().all(safe) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Makes the output folder, locks it, and finds out now, not after an hour, whether it can be written
/// to. What a run that was killed was just writing is removed.
fn open_folder(folder: &Path) -> Result<Journal> {
    let hint = || format!("--out {}: result files cannot be written there", folder.display());
    std::fs::create_dir_all(folder).with_context(hint)?;
    let journal = Journal::open(folder).with_context(|| format!("--out {}", folder.display()))?;
    for warning in &journal.warnings {
        eprintln!("warning: {}: {warning}", folder.display());
    }
    for entry in std::fs::read_dir(folder).with_context(hint)?.flatten() {
        let half_written = entry.file_name().as_encoded_bytes().starts_with(WRITING.as_bytes());
        if half_written && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    tempfile::Builder::new().prefix(WRITING).tempfile_in(folder).with_context(hint)?;
    Ok(journal)
}

/// What a person types to go on.
fn resume_command(out: &Path) -> String {
    format!("trainmark run --resume --out {}", quote(&out.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "0", "-1", "nan", "ten", "5 days", "1e99h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_cores_are_read() {
        assert_eq!(size("2G"), Ok(2_000_000_000));
        assert_eq!(size("1.5MiB"), Ok(1_572_864));
        assert_eq!(size("3000000"), Ok(3_000_000));
        for wrong in ["", "2X", "-1G", "nanG", "10k", "1e99T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(cpus("0-2,8,1"), Ok(Cpus(vec![0, 1, 2, 8])));
        for wrong in ["", "3-1", "a", "0-", "0-99999999"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("--lr=0.01"), "--lr=0.01");
        assert_eq!(quote("it's; rm"), r"'it'\''s; rm'");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("a\u{1b}[2J'\\ü"), r"$'a\033[2J\'\\\303\274'");
    }
}
