//! A run's trainings, one after the other: start a row's trainer, measure it, judge what it did, and say what
//! came of it as a result file of one sample. Nothing is written here: whoever asked keeps it.
//!
//! Everything that starts a row's trainer comes through [`Runner::start`]: rounds, noise, verification, and
//! the tasks of a cluster.

use crate::command::{Agenda, Command, Purpose};
use crate::data::{self, Dataset};
use crate::facts::{Fact, Who};
use crate::identity;
use crate::judge::{self, Evidence};
use crate::nodes::{self, Nodes};
use crate::plan::Row;
use crate::sample;
use crate::seal::Seal;
use crate::share::{self, Needs, Pool, Share};
use crate::suite::LoadedSuite;
use crate::task::Task;
use crate::trainer::{NotReady, Ready, Trainers};
use crate::transcript::Transcript;
use anyhow::{Context, Result, anyhow};
use measure::Attempt;
use measure::environment::Environment;
use measure::launch::{self, CancelToken, MemoryLimit, Outcome, STOPPED_BY_USER, Stream};
use measure::machine::Machine;
use measure::meter::Reading;
use measure::provenance::{self, Moment};
use measure::scratch::Scratch;
use measure::secret::Secrets;
use measure::surroundings::{Look, Observer, placement};
use record::fingerprint::Fingerprint;
use record::noise::{NoiseFloor, NoiseRecord};
use record::number::short_digest;
use record::task::TaskRecord;
use record::{
    DatasetRecord, LimitsRecord, NodeSample, Record, Reference, RunIdentity, SCHEMA_VERSION,
    Sample, Status, Timing, TrainerRecord, noise_store, race, roofline,
};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// Why a run stops whose data a trainer has changed.
pub const DATA_CHANGED: &str = "stopped because a file of the data has changed";

/// Why trainings are stopped whose results would not be kept.
const CANNOT_GO_ON: &str = "stopped because a result beside it could not be kept";

/// Why the run stops when its time is up.
pub const TIME_IS_UP: &str = "stopped because its time was up (--run-timeout)";

/// How long a program that is cancelled may take to stop. What it waits for then does not end: a trainer has 3 s, and
/// tasks on a cluster 15 s.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Which sample of a row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Round {
    /// Trained, and not recorded.
    WarmUp,
    /// Counted from 0.
    Number(u32),
}

/// Behind the label of a row.
impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Round::WarmUp => f.write_str(" (warm-up)"),
            Round::Number(number) => write!(f, " (round {})", number + 1),
        }
    }
}

/// The options of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub quick: bool,
    /// Whether software imitations of devices may be trained on.
    pub allow_software: bool,
    /// Of one sample.
    pub timeout: Duration,
    /// How often a noisy sample is repeated.
    #[serde(default)]
    pub retry_noisy: u32,
    pub limits: Limits,
    /// Those that rows may be given, by number or UUID.
    #[serde(default)]
    pub devices: Option<Vec<String>>,
}

/// The limits of a trainer; `None` is no limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub memory: Option<MemoryLimit>,
    /// Logical cores.
    pub cpus: Option<Vec<usize>>,
}

/// The identity of a run of the suite that begins now.
fn new_run(loaded: &LoadedSuite, quick: bool) -> RunIdentity {
    let started = Moment::now();
    RunIdentity {
        id: format!("{}-{}", started.timestamp, std::process::id()),
        suite: loaded.suite.name.clone(),
        quick,
        started: started.utc,
        git_commit: provenance::git_commit(&loaded.root),
        harness: env!("CARGO_PKG_VERSION").to_owned(),
        reference: loaded.suite.reference.as_ref().map(Reference::from),
    }
}

/// A token that Ctrl-C, SIGTERM and SIGHUP cancel; its reason says which of them came first. Once it is cancelled, by
/// whomever, the program ends: by itself, else after a minute, else at the third signal.
///
/// # Errors
/// If the system does not let us listen.
pub fn cancelled_by_signals() -> Result<CancelToken> {
    let cancel = CancelToken::default();
    let (handle, watched) = (cancel.clone(), cancel.clone());
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.context("cannot listen for Ctrl-C and other signals")?;
    std::thread::spawn(move || {
        for (earlier, signal) in signals.forever().enumerate() {
            handle.cancel_because(match signal {
                SIGTERM => "stopped by SIGTERM",
                SIGHUP => "stopped by SIGHUP",
                _ => STOPPED_BY_USER,
            });
            if earlier == 2 {
                end_now(handle.wait());
            }
        }
    });
    std::thread::spawn(move || {
        let reason = watched.wait();
        std::thread::sleep(STOP_PATIENCE);
        // In a thread: perhaps nobody takes what is printed, and that is what the program waits for.
        std::thread::spawn(|| {
            eprintln!("error: did not stop within {} s", STOP_PATIENCE.as_secs())
        });
        std::thread::sleep(Duration::from_secs(1));
        end_now(reason);
    });
    Ok(cancel)
}

/// Ends the program as a kill does, which waits for nothing: launchers end with their trainers, and what a journal has
/// is kept.
fn end_now(reason: &str) -> ! {
    signal_hook::low_level::exit(exit_code(reason).into())
}

/// The exit code of a program that was cancelled.
pub fn exit_code(reason: &str) -> u8 {
    match reason {
        TIME_IS_UP => protocol::exit::TIMED_OUT,
        DATA_CHANGED | CANNOT_GO_ON => protocol::exit::FAILURE,
        _ => protocol::exit::INTERRUPTED,
    }
}

/// Everything that the samples of one run share.
pub struct Runner<'a> {
    pub agenda: Agenda<'a>,
    pub dataset: Dataset,
    pub trainers: Trainers,
    pub settings: Settings,
    pub run: RunIdentity,
    pub machine: Machine,
    pub cancel: CancelToken,
    capability: Option<::machine::Capability>,
    observer: Mutex<Observer>,
    pool: Pool,
    noise: Vec<NoiseRecord>,
    environment: Environment,
    scratch: Scratch,
    secrets: Secrets,
    seal: Mutex<Seal>,
}

/// The devices and cores that a run may use, and who looks at them.
pub struct Resources {
    observer: Observer,
    pool: Pool,
}

impl Resources {
    /// Looks which devices there are.
    ///
    /// # Errors
    /// If a device is named that there is not.
    pub fn of(settings: &Settings) -> Result<Resources> {
        let observer = Observer::new();
        let known = observer.gpus().list();
        let gpus = observer.gpus().reason().map_or(Ok(&*known), |why| Err(why.to_owned()));
        let cores = settings.limits.cpus.clone().unwrap_or_else(::machine::cores);
        let inherited = std::env::var(share::INHERITED).ok();
        let pool = Pool::new(gpus, settings.devices.as_deref(), inherited, cores)?;
        Ok(Resources { observer, pool })
    }

    /// The variables that show a program the devices that were named, if any were.
    pub fn shown(&self) -> BTreeMap<String, String> {
        self.pool.shown()
    }
}

/// One start of a row's trainer that is being prepared.
pub struct Prepared {
    pub command: Command,
    share: Share,
    /// The folder of this attempt. It is removed with it, so no trainer finds the predictions of another one.
    /// Predictions are in it, and what a verification exchanges.
    pub folder: TempDir,
}

/// A start that has ended.
pub struct Ended<'a> {
    pub attempt: Attempt,
    /// Of each of several nodes.
    pub nodes: Vec<NodeSample>,
    pub said: Transcript<'a>,
    /// The file of the data that is no longer what it was, if there is one, and the data's digests then and now.
    pub changed: Option<String>,
}

impl<'a> Runner<'a> {
    /// Looks at the machine once, for a run that begins now.
    ///
    /// # Errors
    /// If there is no place for temporary files.
    pub fn new(
        agenda: Agenda<'a>,
        dataset: Dataset,
        trainers: Trainers,
        settings: Settings,
        resources: Resources,
        cancel: &CancelToken,
    ) -> Result<Runner<'a>> {
        let machine = Machine::detect();
        let capability = ::machine::kept().unwrap_or_else(|error| {
            eprintln!("warning: {error}");
            None
        });
        if capability.is_none() {
            eprintln!(
                "note: this machine was not measured yet; run `trainmark machine` to see each row's share \
                 of its peak in reports"
            );
        }
        let Resources { observer, pool } = resources;
        let environment = Environment::detect(observer.gpus());
        Ok(Runner {
            pool,
            run: new_run(agenda.loaded, settings.quick),
            cancel: cancel.clone(),
            capability,
            noise: noise_store::of_machine(&machine),
            environment,
            observer: Mutex::new(observer),
            scratch: Scratch::new()?,
            secrets: Secrets::of_environment(),
            seal: Mutex::new(Seal::of(&dataset.directory)),
            machine,
            agenda,
            dataset,
            trainers,
            settings,
        })
    }

    /// The suite of the rows.
    pub fn loaded(&self) -> &'a LoadedSuite {
        self.agenda.loaded
    }

    /// The identity of a row: samples with the same identity are comparable.
    pub fn identity(&self, row: &Row) -> Fingerprint {
        let ready = self.trainers[&row.trainer].as_ref().ok();
        let software = self.settings.allow_software;
        identity::of(self.loaded(), row, ready, &self.dataset.sha256, software)
    }

    /// Stops whatever trains, since the harness cannot go on.
    pub fn stop(&self) {
        self.cancel.cancel_because(CANNOT_GO_ON);
    }

    /// A row's trainer, if it can run it here.
    ///
    /// # Errors
    /// What its rows have come to, and why.
    pub fn ready(&self, row: &Row) -> Result<&Ready, NotReady> {
        let name = &self.loaded().suite.trainers[row.trainer].name;
        let ready = self.trainers[&row.trainer].as_ref().map_err(NotReady::clone)?;
        let here = ready.unavailable(name, &row.backend, &row.model);
        let lacks = here.or_else(|| nodes::unavailable(row.needs.nodes));
        match lacks.or_else(|| Some(self.share(row, &[]).err()?.to_string())) {
            None => Ok(ready),
            Some(reason) => Err(NotReady::new(Status::Unavailable, reason)),
        }
    }

    /// What of the machine a row gets beside others that have theirs.
    ///
    /// # Errors
    /// If there is not as much as it asks for.
    pub fn share(&self, row: &Row, taken: &[Share]) -> Result<Share> {
        // The devices of several nodes are theirs, as their scheduler gives them.
        let needs = if row.needs.nodes == 1 { row.needs } else { Needs::default() };
        let mut share = self.pool.share(needs, taken)?;
        share.any_device = row.backend != "cpu" && share.devices.is_empty();
        Ok(share)
    }

    /// Prepares a training or a verification of a row.
    ///
    /// # Errors
    /// If there is no place for its files, or its command cannot be filled in.
    pub fn prepare(&self, row: &Row, purpose: Purpose, share: Share) -> Result<Prepared> {
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(self.scratch.path());
        let folder = folder.context("cannot make a folder for the predictions")?;
        let command = self.agenda.attempt(row, purpose, folder.path(), &share.environment)?;
        Ok(Prepared { command, share, folder })
    }

    /// Starts it, and returns when nothing of it is left. `on_line` sees what the trainer has said so far,
    /// after each of its lines.
    ///
    /// # Errors
    /// If the harness itself cannot go on: the launcher fails.
    pub fn start(
        &self,
        prepared: &Prepared,
        row: &Row,
        on_line: &mut dyn FnMut(&Transcript),
    ) -> Result<Ended<'a>> {
        let mut job = prepared.command.job()?;
        job.timeout = Some(self.settings.timeout);
        let suite = &self.agenda.loaded.suite;
        let (task, trainer) = (suite.task(), &suite.trainers[row.trainer]);
        let mut said = Transcript::new(task, suite.rules(trainer)?, trainer.ranks);
        let mut nodes = Nodes::new(row.needs.nodes);
        let alone = row.needs.nodes == 1;
        let mut listen = |_: Stream, line: &str| {
            if alone || !nodes.heard(line) {
                said.line(line);
                on_line(&said);
            }
        };
        let limits = &self.settings.limits;
        let (attempt, nodes) = if alone {
            let Share { cores, devices, beside, .. } = &prepared.share;
            let cpus = cores.as_ref().or(limits.cpus.as_ref());
            (job.memory_limit, job.cpus) = (limits.memory, cpus.cloned());
            let (pair, gpus) = if beside.is_empty() {
                let cpus = cpus.map(Vec::as_slice);
                (placement::pair(&row.backend, row.config.get("threads"), cpus), None)
            } else {
                (Err("other rows ran beside it".to_owned()), Some(devices.clone()))
            };
            let look = Look { pair, gpus, on_gpus: row.backend != "cpu" };
            let attempt = measure::attempt(&job, look, &self.observer, &mut listen, &self.cancel)?;
            (attempt, Vec::new())
        } else {
            // `srun` starts here; what it starts is limited and measured where that runs.
            job.env.push((nodes::LIMITS.into(), serde_json::to_string(limits)?.into()));
            let outcome = launch::run(&job, &mut listen, &self.cancel)?;
            nodes.attempt(outcome)
        };
        Ok(Ended { attempt, nodes, said, changed: self.changed_data() })
    }

    /// A file of the data that is not as it was: then nothing that follows would train on what the record
    /// says, and the run stops.
    fn changed_data(&self) -> Option<String> {
        // Whoever panicked while holding it has at worst not renewed it.
        let mut known = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = known.broken()?.display().to_string();
        // Perhaps somebody has only touched it.
        let directory = &self.dataset.directory;
        let seal = Seal::of(directory);
        let was = &self.dataset.sha256;
        let now = match data::prepare(self.loaded(), Some(directory)) {
            Ok(now) if now.sha256 == *was => {
                *known = seal;
                return None;
            }
            Ok(now) => format!("is now {}", short_digest(&now.sha256)),
            Err(error) => format!("cannot be computed now: {error:#}"),
        };
        self.cancel.cancel_because(DATA_CHANGED);
        Some(format!("{broken}: the data's SHA-256 was {} and {now}", short_digest(was)))
    }

    /// Trains a row once: a result file of one sample, or of none and a reason if it could not be trained.
    /// A noisy sample may be repeated: the result has each of them then, of which only the last counts. Without
    /// a share the row gets what it asks for, alone.
    ///
    /// # Errors
    /// If the harness itself cannot go on.
    pub fn sample(
        &self,
        row: &Row,
        round: Round,
        share: Option<Share>,
        on_line: &mut dyn FnMut(&Transcript),
    ) -> Result<Record> {
        let mut result = self.blank(row);
        let ready = match self.ready(row) {
            Ok(ready) => ready,
            Err(why) => return Ok(sample::not_trained(result, why)),
        };
        let share = share.map_or_else(|| self.share(row, &[]), Ok)?;
        for again in 0..=self.settings.retry_noisy {
            let mut sample = self.train(row, ready, &share, &mut result, on_line)?;
            if sample.status == Status::Unavailable {
                // The cost of finding that out is not a figure of this row.
                let why = NotReady::new(sample.status, sample.reason.unwrap_or_default());
                return Ok(sample::not_trained(self.blank(row), why));
            }
            if let Round::Number(number) = round {
                sample.round = number;
            }
            sample.superseded = again < self.settings.retry_noisy
                && round != Round::WarmUp
                && sample.status.completed()
                && !sample.disturbances.is_empty()
                && !self.cancel.is_cancelled();
            let done = !sample.superseded;
            result.add_sample(sample);
            if done {
                break;
            }
        }
        Ok(result)
    }

    /// A row before its first sample, begun now.
    pub fn blank(&self, row: &Row) -> Record {
        let moment = Moment::now();
        let suite = &self.loaded().suite;
        let declared = &suite.trainers[row.trainer];
        let (task, given) = (suite.task(), self.dataset.given());
        let mut targets = suite.targets(&row.model, given.map(|(name, _)| name), &row.config);
        if let (Some(target), Some(quality)) = (race::target(&row.config), &task.quality) {
            targets.insert(quality.clone(), target);
        }
        // A command that is not told where the data is was not given it, whatever it may turn out to read.
        let given = given.filter(|_| declared.is_told("data"));
        let noise_floor = NoiseFloor::of(&self.noise, &declared.name, &row.model, &row.backend);
        Record {
            executable: declared.name.clone(),
            model: row.model.clone(),
            backend: row.backend.clone(),
            timestamp: moment.timestamp,
            config: row.config.clone(),
            schema_version: SCHEMA_VERSION,
            compiled: declared.compiled.contains(&row.backend),
            run: Some(Box::new(RunIdentity { started: moment.utc, ..self.run.clone() })),
            place: u32::try_from(row.trainer).ok(),
            dataset: given.map(dataset_record),
            task: Some(Box::new(TaskRecord { scaling: suite.scaling.clone(), ..task.record() })),
            keys: task.key_records(),
            targets,
            machine: Some(Box::new(self.machine.clone())),
            capability: self.capability.clone().map(Box::new),
            environment: Some(Box::new(self.environment.clone())),
            noise_floor: noise_floor.map(Box::new),
            ..Record::default()
        }
    }

    /// One training: its sample, and what it tells of its row besides that.
    fn train(
        &self,
        row: &Row,
        ready: &Ready,
        share: &Share,
        result: &mut Record,
        on_line: &mut dyn FnMut(&Transcript),
    ) -> Result<Sample> {
        let sources = identity::sources_digest(self.loaded(), row);
        let prepared = self.prepare(row, Purpose::Train, share.clone())?;
        let Ended { attempt, nodes, mut said, changed } = self.start(&prepared, row, on_line)?;
        let task = self.agenda.loaded.suite.task();
        let predictions = prepared.folder.path().join("predictions");
        let mut ask = |words| {
            let answer = self.agenda.score(words).answer(self.settings.timeout, &self.cancel);
            answer.map_err(|reason| anyhow!("the scoring command {reason:#}"))
        };
        let scored = task.scores(&predictions, &self.dataset.directory, &mut ask);
        for (name, score) in scored.iter().flatten() {
            said.facts.state(Fact::Metric(name.clone()), Who::Harness, *score);
        }
        let uncounted = compute(task, row, &mut said);
        let (outcome, said) = (&attempt.outcome, &said);
        if said.dataset.is_some() || scored.as_ref().is_ok_and(|scores| !scores.is_empty()) {
            result.dataset = self.dataset.given().map(dataset_record);
        }
        let trainer = TrainerRecord {
            command: prepared.command.words.clone(),
            environment: prepared.command.environment.clone(),
            sha256: ready.sha256.clone(),
            sources_sha256: Some(sources),
            limits: self.limits(outcome, share),
            ..said.trainer.clone()
        };
        let claim = Sample {
            devices: share.devices.clone(),
            nodes: nodes.clone(),
            surroundings: Some(attempt.surroundings.clone()),
            dense_flop: said.facts.value(&Fact::DenseFlop),
            executed_flop: said.facts.value(&Fact::ExecutedFlop),
            timing: Timing { train_s: said.facts.value(&Fact::TrainS), ..Timing::default() },
            ..Sample::default()
        };
        let (capability, unscored) = (self.capability.as_ref(), scored.is_err());
        let (mut status, mut reason) = judge::judge(&Evidence {
            outcome,
            timeout: self.settings.timeout,
            said,
            unscored: scored.err().map(|error| format!("{error:#}")),
            task,
            epochs: row.epochs(),
            given: self.dataset.given(),
            targets: &result.targets,
            implausible: roofline::implausible(&claim, &trainer, &row.backend, capability),
        });
        if let Some(file) = changed {
            let words = format!("the data changed while it trained: {file}");
            (status, reason) = (Status::Misreported, Some(words));
        } else if unscored && self.cancel.is_cancelled() || status == Status::Interrupted {
            status = Status::Interrupted; // perhaps while it was scored
            reason = self.cancel.reason().map(str::to_owned).or(reason);
        }
        let metrics = judge::metrics(task, said);
        let mut sample = sample::sample((status, reason), outcome, said, &metrics);
        sample.notes.extend(uncounted.iter().map(|(name, reason)| format!("{name}: {reason}")));
        sample.notes.extend(sample::other_devices(&share.devices, &attempt.surroundings));
        let cpus = share.cores.as_ref().or(self.settings.limits.cpus.as_ref());
        sample.notes.extend(sample::other_cores(cpus, &sample.ranks));
        (sample.devices, sample.beside) = (share.devices.clone(), share.beside.clone());
        sample.disturbances = attempt.disturbances;
        sample.surroundings = Some(attempt.surroundings);
        sample.nodes = nodes;
        self.hide_secrets(&mut sample);
        let named = task.metrics.keys().map(|name| (name, metrics.get(name).map(|it| it.1)));
        (result.sources, result.missing) = sample::origins(&outcome.meters, &sample, named);
        if task.throughput.is_some() && sample.throughput().is_none() {
            let no_rate = "the trainer reports no work, or no time that it trained".to_owned();
            let reason = uncounted.get("throughput").map_or(no_rate, |it| format!("per_run: {it}"));
            result.missing.insert("throughput".to_owned(), reason);
        }
        for (name, (_, source)) in metrics {
            if let Some(metric) = result.task.as_mut().and_then(|task| task.metrics.get_mut(&name))
            {
                metric.source = Some(source);
            }
        }
        let details = outcome.meters.details();
        result.meters = details.map(|(name, reading)| (name.to_owned(), reading.clone())).collect();
        let counts = result.meters.iter().map(|(name, it)| Some((name.clone(), it.count()?)));
        sample.counters.extend(counts.flatten());
        let invalid = result.meters.iter().filter(|(name, _)| sample.counters.contains_key(*name));
        let reason = |(name, it): (&String, &Reading)| Some((name.clone(), it.reason.clone()?));
        sample.invalid = invalid.filter(|(_, it)| !it.valid).filter_map(reason).collect();
        result.compiled = said.compiled.unwrap_or(result.compiled);
        result.trainer = Some(Box::new(trainer));
        Ok(sample)
    }

    /// In all that a trainer's own words may have got into.
    fn hide_secrets(&self, sample: &mut Sample) {
        let texts = [&mut sample.reason, &mut sample.stdout_tail, &mut sample.stderr_tail];
        let texts = texts.into_iter().flatten().chain(&mut sample.notes);
        texts.for_each(|text| self.secrets.hide(text));
    }

    fn limits(&self, outcome: &Outcome, share: &Share) -> LimitsRecord {
        LimitsRecord {
            timeout_s: Some(self.settings.timeout.as_secs_f64()),
            memory_bytes: self.settings.limits.memory.map(|limit| limit.bytes),
            memory_by: outcome.memory_limited_by.clone(),
            address_space_bytes: outcome.address_space_bytes,
            cpus: share.cores.clone().or_else(|| self.settings.limits.cpus.clone()),
        }
    }
}

fn dataset_record((name, sha256): (&str, &str)) -> Box<DatasetRecord> {
    Box::new(DatasetRecord { name: name.to_owned(), sha256: Some(sha256.to_owned()) })
}

/// Adds what the suite computes from the configuration: work, and operations where the trainer counts none.
/// Returns why a figure cannot be computed.
fn compute(task: &Task, row: &Row, said: &mut Transcript) -> BTreeMap<&'static str, String> {
    let work = task.throughput.as_ref().and_then(|it| it.per_run.as_ref());
    let work = work.map(|expression| (Fact::Work, "throughput", expression));
    let flop = task.flop_per_run.as_ref().filter(|_| said.facts.value(&Fact::DenseFlop).is_none());
    let flop = flop.map(|expression| (Fact::DenseFlop, "flop_per_run", expression));
    let mut trouble = BTreeMap::new();
    for (fact, name, expression) in work.into_iter().chain(flop) {
        match expression.value(&row.config) {
            Ok(value) if value >= 0.0 => said.facts.state(fact, Who::Harness, value),
            Ok(value) => _ = trouble.insert(name, format!("its value is {value}")),
            Err(reason) => _ = trouble.insert(name, format!("{reason:#}")),
        }
    }
    trouble
}
