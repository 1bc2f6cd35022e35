//! `trainmark setup`: makes trainers ready to run on this machine.

use crate::cmd::report::print;
use crate::command::{self, Agenda, Command};
use crate::runner::{cancelled_by_signals, exit_code};
use crate::setup::{OUTDATED, Site, State, Unavailable};
use crate::suite::{LoadedSuite, Trainer};
use crate::trainer::{self, Plain, Watch};
use anyhow::{Result, anyhow, bail};
use measure::launch::CancelToken;
use measure::text::one_line;
use record::name::{meant, unknown};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The suite with most of the trainers that need a set-up.
const DEFAULT: &str = "frameworks";

/// Make trainers ready to run: locked Python environments, release builds.
///
/// Everything goes into `.trainmark` beside the suite's sources or, for a built-in suite outside a checkout, into
/// the user's data folder. A trainer that is ready is left alone, which takes no time and needs no network. An
/// interrupted set-up continues where it stopped. A trainer that this machine cannot run is unavailable, with
/// the reason; that is not a failure. $TRAINMARK_PYTHON chooses the Python of the environments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these trainers
    #[arg(value_name = "TRAINER")]
    trainer: Vec<String>,
    /// Suite file, or the name of a built-in suite [default: frameworks]
    #[arg(long, value_name = "SUITE")]
    suite: Option<PathBuf>,
    /// Show which trainers are ready, and do nothing
    #[arg(long)]
    list: bool,
    /// Use this Python and the frameworks that it has, of whatever versions, for example `python3`, and install
    /// none; records name the versions. To go back, remove the trainer's folder in .trainmark/environments
    #[arg(long, value_name = "PYTHON", conflicts_with_all = ["list", "dry_run"])]
    installed: Option<PathBuf>,
    /// Show every command that would be executed, word by word, and run none of them
    #[arg(long)]
    dry_run: bool,
    /// Show the output of the commands instead of writing it to a file
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the suite cannot be used or has no such trainer. A set-up that fails is a line, not an error.
pub fn run(args: &Args) -> Result<u8> {
    let loaded = LoadedSuite::find(Some(args.suite.as_deref().unwrap_or(Path::new(DEFAULT))))?;
    let agenda = Agenda {
        loaded: &loaded,
        data: PathBuf::new(),
        allow_software: false,
        shown: BTreeMap::new(),
    };
    let selected = selected(&loaded, &args.trainer)?;
    if args.dry_run {
        let mut commands = Vec::new();
        for trainer in selected {
            commands.extend(due(&agenda, trainer)?);
        }
        print(&command::listing(&commands))?;
        return Ok(protocol::exit::SUCCESS);
    }
    let cancel = cancelled_by_signals()?;
    let mut failures = 0;
    for trainer in selected {
        if cancel.is_cancelled() {
            break;
        }
        let declared = &loaded.suite.trainers[trainer];
        let line = match args.list {
            true => Ok(look(&loaded, declared)),
            false => make_ready(&agenda, trainer, args, &cancel),
        };
        let line = line.unwrap_or_else(|reason| {
            failures += 1;
            format!("failed: {reason:#}")
        });
        print(&format!("{}\n", one_line(&format!("{:<20} {line}", declared.name))))?;
    }
    Ok(match (cancel.reason(), failures) {
        (Some(reason), _) => exit_code(reason),
        (None, 0) => protocol::exit::SUCCESS,
        (None, _) => protocol::exit::FAILURE,
    })
}

/// The indices of the named trainers.
fn selected(loaded: &LoadedSuite, names: &[String]) -> Result<Vec<usize>> {
    let trainers = &loaded.suite.trainers;
    let known: Vec<&str> = trainers.iter().map(|trainer| trainer.name.as_str()).collect();
    let mut wanted = Vec::new();
    for name in names {
        match meant(name, &known) {
            Some(known) => wanted.push(known),
            None => bail!(unknown("", "trainer", name, &known, "trainmark setup --list")),
        }
    }
    let wanted = |index: &usize| match names.is_empty() {
        true => !loaded.suite.trainers[*index].is_only_compared_with(),
        false => wanted.contains(&known[*index]),
    };
    Ok((0..trainers.len()).filter(wanted).collect())
}

/// The commands that would be executed for a trainer: its set-up or its build, and its probe. None of one that this
/// machine cannot have.
fn due(agenda: &Agenda, trainer: usize) -> Result<Vec<Command>> {
    let mut commands = match Site::of(agenda.loaded, &agenda.loaded.suite.trainers[trainer]) {
        Some(site) if matches!(site.state(), State::Unavailable(_)) => return Ok(Vec::new()),
        Some(site) => site.due()?,
        None => agenda.build(trainer)?.into_iter().collect(),
    };
    commands.extend(agenda.probe(trainer)?);
    Ok(commands)
}

/// The state of a trainer, for `--list`.
fn look(loaded: &LoadedSuite, declared: &Trainer) -> String {
    match Site::of(loaded, declared).map(|site| site.state()) {
        None if declared.build.is_empty() => "nothing to set up".to_owned(),
        None => "`trainmark run` builds it".to_owned(),
        Some(State::Ready) => "ready".to_owned(),
        Some(State::Due(why)) => why.to_owned(),
        Some(State::Outdated) => OUTDATED.to_owned(),
        Some(State::Unavailable(reason)) => format!("unavailable: {reason}"),
    }
}

/// Sets a trainer up and asks it whether it can run. Returns a line about the result, or the reason of a failure.
fn make_ready(
    agenda: &Agenda,
    trainer: usize,
    args: &Args,
    cancel: &CancelToken,
) -> Result<String> {
    let loaded = agenda.loaded;
    let declared = &loaded.suite.trainers[trainer];
    let clock = Instant::now();
    let mut did = "nothing to set up".to_owned();
    if let Some(site) = Site::of(loaded, declared) {
        did = "already set up".to_owned();
        if let Some(python) = args.installed.as_ref().filter(|_| site.has_packages()) {
            site.refer(python)?;
            did = format!("uses {} and what it has", python.display());
        } else if site.state() != State::Ready {
            let mut say = |step: &str| eprintln!("{}: {step}", declared.name);
            match site.make(args.verbose, cancel, &mut say) {
                Err(why) if why.is::<Unavailable>() => return Ok(why.to_string()),
                made => made?,
            }
            let (made, seconds) = (site.made(), clock.elapsed().as_secs_f64());
            let shown = made.strip_prefix(&loaded.root).unwrap_or(&made).display();
            did = format!("set up in {seconds:.1} s: {shown}");
        }
    } else if !declared.build.is_empty() {
        let built = trainer::build(agenda, trainer, cancel, &mut Plain);
        Plain.settled();
        built?;
        did = "built".to_owned();
    }
    let ready = trainer::ready(agenda, trainer, cancel, &mut Plain);
    let ready = ready.map_err(|reason| anyhow!("{did}, but {reason}"))?;
    let missing: Vec<String> = declared
        .backends
        .iter()
        .filter_map(|id| Some((id, ready.lacks(id)?)))
        .map(|(id, reason)| format!("{id} unavailable: {reason}"))
        .collect();
    match missing.is_empty() {
        true => Ok(did),
        false => Ok(format!("{did}; {}", missing.join("; "))),
    }
}
