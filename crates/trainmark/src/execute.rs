//! One run of one combination: train it, judge it, and say what came of it as a result file of one
//! sample. Nothing is written here: whoever asked for the run keeps it (`campaign.rs`).

use crate::data::Dataset;
use crate::environment::Environment;
use crate::identity::{self, Identity};
use crate::judge::{self, Evidence};
use crate::launch::{self, CancelToken, MemoryLimit, Outcome, Stream};
use crate::machine::Machine;
use crate::meter::{Meters, Reading};
use crate::meters::{self, MeterRecord};
use crate::noise::{self, NoiseFloor, NoiseRecord};
use crate::plan::{self, Case, Places};
use crate::provenance::{self, Moment};
use crate::race;
use crate::result::{
    AccuracySource, DatasetRecord, LimitsRecord, ResultFile, RunIdentity, SCHEMA_VERSION, Sample,
    Status, Timing, TrainerRecord,
};
use crate::roofline;
use crate::score;
use crate::scratch::Scratch;
use crate::secret::Secrets;
use crate::suite::LoadedSuite;
use crate::surroundings::{Observer, Surroundings, placement};
use crate::trainer::{NotReady, Ready};
use crate::transcript::Transcript;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which run of a combination it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Round {
    /// Run, and not recorded.
    WarmUp,
    /// Counted from 0.
    Number(u32),
}

/// What a run tells of its combination besides the sample.
struct Record {
    trainer: TrainerRecord,
    /// Whether it compiled the step, if it said so.
    compiled: Option<bool>,
    sources: Origins,
    missing: Origins,
    meters: BTreeMap<String, MeterRecord>,
}

/// A text for each figure, by its name.
type Origins = BTreeMap<String, String>;

/// Everything that the combinations of one run share.
pub struct Bench<'a> {
    loaded: &'a LoadedSuite,
    dataset: &'a Dataset,
    trainers: &'a BTreeMap<usize, Result<Ready, NotReady>>,
    settings: Settings,
    run: RunIdentity,
    machine: Machine,
    capability: Option<::machine::Capability>,
    observer: RefCell<Observer>,
    noise: Vec<NoiseRecord>,
    environment: Environment,
    scratch: Scratch,
    secrets: Secrets,
}

/// What the user decides of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub quick: bool,
    /// Whether software imitations of devices may be trained on.
    pub allow_software: bool,
    /// Of one combination.
    pub timeout: Duration,
    /// How often a noisy run is repeated.
    #[serde(default)]
    pub retry_noisy: u32,
    pub limits: Limits,
}

/// What a trainer may have of the machine; all of it where nothing is said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub memory: Option<MemoryLimit>,
    /// Logical cores.
    pub cpus: Option<Vec<usize>>,
}

/// The identity of a run of the suite that begins now.
pub fn new_run(loaded: &LoadedSuite, quick: bool) -> RunIdentity {
    let started = Moment::now();
    RunIdentity {
        id: format!("{}-{}", started.timestamp, std::process::id()),
        suite: loaded.suite.name.clone(),
        quick,
        started: started.utc,
        git_commit: provenance::git_commit(&loaded.root),
        harness: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

impl<'a> Bench<'a> {
    /// Looks at the machine once.
    ///
    /// # Errors
    /// If there is no place for temporary files.
    pub fn new(
        loaded: &'a LoadedSuite,
        dataset: &'a Dataset,
        trainers: &'a BTreeMap<usize, Result<Ready, NotReady>>,
        settings: Settings,
        run: RunIdentity,
    ) -> Result<Bench<'a>> {
        let scratch = Scratch::new()?;
        let machine = Machine::detect();
        let capability = crate::capability::kept().unwrap_or_else(|error| {
            eprintln!("warning: {error}");
            None
        });
        if capability.is_none() {
            eprintln!(
                "note: this machine was not measured yet; `trainmark machine` does it, for the share \
                 of its peak in reports"
            );
        }
        let noise = noise::store::of_machine(&machine);
        let observer = Observer::new();
        let environment = Environment::detect(observer.gpus());
        Ok(Bench {
            loaded,
            dataset,
            trainers,
            settings,
            run,
            machine,
            capability,
            observer: RefCell::new(observer),
            noise,
            environment,
            scratch,
            secrets: Secrets::of_environment(),
        })
    }

    /// The run that the combinations belong to.
    pub fn run(&self) -> &RunIdentity {
        &self.run
    }

    /// The suite that the combinations are of.
    pub fn loaded(&self) -> &LoadedSuite {
        self.loaded
    }

    /// The data that they train on.
    pub fn dataset(&self) -> &Dataset {
        self.dataset
    }

    /// What the user decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What makes two runs of a combination comparable.
    pub fn identity(&self, case: &Case) -> Identity {
        let ready = self.trainers[&case.trainer].as_ref().ok();
        Identity::new(self.loaded, case, ready, &self.dataset.sha256, self.settings.allow_software)
    }

    /// Runs a combination once: a result file of one sample, or of none and a reason if it could
    /// not be trained. A noisy run may be repeated: the result has a sample of each then, of which
    /// only the last counts. `on_line` sees what the trainer has said so far, after each of its lines.
    ///
    /// # Errors
    /// If the harness itself cannot go on: the launcher fails.
    pub fn run_once(
        &self,
        case: &Case,
        round: Round,
        cancel: &CancelToken,
        on_line: &mut dyn FnMut(&Transcript),
    ) -> Result<ResultFile> {
        let mut result = self.blank(case);
        let ready = match self.ready(case) {
            Ok(ready) => ready,
            Err((status, reason)) => return Ok(not_trained(result, status, reason)),
        };
        let target = result.target_accuracy_percent;
        for attempt in 0..=self.settings.retry_noisy {
            let (mut sample, record) = self.train(case, target, ready, cancel, on_line)?;
            if sample.status == Status::Unavailable {
                // What it cost to find that out is no figure of this combination.
                let reason = sample.reason.unwrap_or_default();
                return Ok(not_trained(result, sample.status, reason));
            }
            if sample.status == Status::Interrupted {
                sample.reason = cancel.reason().map(str::to_owned).or(sample.reason);
            }
            if let Round::Number(number) = round {
                sample.round = number;
            }
            sample.superseded = attempt < self.settings.retry_noisy
                && round != Round::WarmUp
                && sample.status.completed()
                && !sample.disturbances.is_empty()
                && !cancel.is_cancelled();
            let again = sample.superseded;
            result.compiled = record.compiled.unwrap_or(result.compiled);
            (result.sources, result.missing) = (record.sources, record.missing);
            record.meters.clone_into(&mut result.meters);
            result.trainer = Some(record.trainer);
            result.add_sample(sample);
            if !again {
                break;
            }
        }
        Ok(result)
    }

    /// A combination before its first run, begun now.
    pub fn blank(&self, case: &Case) -> ResultFile {
        let moment = Moment::now();
        let declared = &self.loaded.suite.trainers[case.trainer];
        let suite = &self.loaded.suite;
        ResultFile {
            executable: declared.name.clone(),
            model: case.model.clone(),
            backend: case.backend.clone(),
            timestamp: moment.timestamp,
            config: case.config.clone(),
            schema_version: SCHEMA_VERSION,
            compiled: declared.compiled.contains(&case.backend),
            run: Some(RunIdentity { started: moment.utc, ..self.run.clone() }),
            dataset: Some(DatasetRecord {
                name: self.dataset.name.clone(),
                sha256: Some(self.dataset.sha256.clone()),
            }),
            target_accuracy_percent: race::target(&case.config)
                .or_else(|| suite.target(&case.model, &self.dataset.name, case.epochs())),
            machine: Some(self.machine.clone()),
            capability: self.capability.clone(),
            environment: Some(self.environment.clone()),
            noise_floor: NoiseFloor::of(&self.noise, &declared.name, &case.model, &case.backend),
            ..ResultFile::default()
        }
    }

    /// In all that a trainer's own words may have got into.
    fn hide_secrets(&self, sample: &mut Sample) {
        let texts = [&mut sample.reason, &mut sample.stdout_tail, &mut sample.stderr_tail];
        texts
            .into_iter()
            .flatten()
            .chain(&mut sample.notes)
            .for_each(|text| self.secrets.hide(text));
    }

    fn limits(&self, outcome: &Outcome) -> LimitsRecord {
        LimitsRecord {
            timeout_s: Some(self.settings.timeout.as_secs_f64()),
            memory_bytes: self.settings.limits.memory.map(|limit| limit.bytes),
            memory_by: outcome.memory_limited_by.clone(),
            address_space_bytes: outcome.address_space_bytes,
            cpus: self.settings.limits.cpus.clone(),
        }
    }

    /// The trainer, if it can run this combination here.
    fn ready(&self, case: &Case) -> Result<&Ready, (Status, String)> {
        let name = &self.loaded.suite.trainers[case.trainer].name;
        match &self.trainers[&case.trainer] {
            Ok(ready) => match ready.unavailable(name, &case.backend, &case.model) {
                None => Ok(ready),
                Some(reason) => Err((Status::Unavailable, reason)),
            },
            Err(not_ready) => Err((not_ready.status(), not_ready.reason().to_owned())),
        }
    }

    fn train(
        &self,
        case: &Case,
        target_percent: Option<f64>,
        ready: &Ready,
        cancel: &CancelToken,
        on_line: &mut dyn FnMut(&Transcript),
    ) -> Result<(Sample, Record)> {
        // A folder of its own, gone when it is scored: what another trainer predicted is nowhere.
        let own = tempfile::Builder::new().prefix("run-").tempdir_in(self.scratch.path());
        let own = own.context("cannot make a folder for the predictions")?;
        let predictions = own.path().join("predictions");
        let data = &self.dataset.directory;
        let places = Places {
            program: &ready.program,
            data,
            predictions: &predictions,
            allow_software: self.settings.allow_software,
        };
        let words = plan::command(&self.loaded.suite, case, &places).map_err(|e| anyhow!(e))?;
        let mut environment = plan::environment(&self.loaded.suite, case);
        environment.insert(protocol::env::PROTOCOL.into(), protocol::VERSION.to_string());
        environment.insert(protocol::env::DATA.into(), data.display().to_string());
        let shown = predictions.display().to_string();
        environment.insert(protocol::env::PREDICTIONS.into(), shown);

        let mut job = launch::Job::new(&words[0])?;
        job.args = words[1..].iter().map(Into::into).collect();
        job.env = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        job.cwd = Some(self.loaded.root.clone());
        job.timeout = Some(self.settings.timeout);
        job.memory_limit = self.settings.limits.memory;
        job.cpus = self.settings.limits.cpus.clone();
        let mut said = Transcript::default();
        let mut listen = |stream: Stream, line: &str| {
            if stream == Stream::Stdout {
                said.line(line);
                on_line(&said);
            }
        };
        let sources = identity::sources_digest(self.loaded, case);
        let cpus = self.settings.limits.cpus.as_deref();
        let pair = placement::pair(&case.backend, case.config.get("threads"), cpus);
        let window = self.observer.borrow().open(pair);
        let outcome = launch::run(&job, &mut listen, cancel)?;
        let surroundings = self.observer.borrow_mut().close(window);
        let scored = score::score(&predictions, &self.dataset.test_labels);
        let trainer = TrainerRecord {
            command: words,
            environment,
            sha256: ready.sha256.clone(),
            sources_sha256: Some(sources),
            version: said.version.clone(),
            device: said.device.clone(),
            path: said.path.clone(),
            threads: said.threads,
            precision: said.precision.clone(),
            parameters: said.parameters,
            software: said.software,
            limits: self.limits(&outcome),
        };
        let claim = Sample {
            dense_flop: said.dense_flop,
            executed_flop: said.executed_flop,
            timing: Timing { train_s: said.train_s, ..Timing::default() },
            ..Sample::default()
        };
        let capability = self.capability.as_ref();
        let implausible = roofline::implausible(&claim, &trainer, &case.backend, capability);
        let (status, reason) = judge::judge(&Evidence {
            outcome: &outcome,
            said: &said,
            scored: &scored,
            epochs: case.epochs(),
            dataset: (&self.dataset.name, &self.dataset.sha256),
            target_percent,
            implausible,
        });
        let mut sample = sample(status, reason, &outcome, &said, judge::accuracy(&said, &scored));
        self.look_around(&mut sample, surroundings);
        self.hide_secrets(&mut sample);
        let (sources, missing) = origins(&outcome.meters, &sample);
        let noisy = !sample.disturbances.is_empty();
        let (meters, counters) =
            meters::records(&outcome.meters, sample.surroundings.as_ref(), noisy);
        sample.counters.extend(counters);
        Ok((sample, Record { trainer, compiled: said.compiled, sources, missing, meters }))
    }
}

/// A combination that could not be trained.
fn not_trained(mut result: ResultFile, status: Status, reason: String) -> ResultFile {
    for figure in ["training_time_seconds", "peak_memory_mb", "test_accuracy_percent"] {
        let why = "the combination was not trained".to_owned();
        result.missing.insert(figure.to_owned(), why);
    }
    (result.status, result.reason) = (status, Some(reason));
    result
}

impl Bench<'_> {
    /// Marks a noisy sample.
    fn look_around(&self, sample: &mut Sample, surroundings: Surroundings) {
        sample.disturbances = surroundings.disturbances(self.observer.borrow().usual());
        sample.surroundings = Some(surroundings);
    }
}

fn sample(
    status: Status,
    reason: Option<String>,
    outcome: &Outcome,
    said: &Transcript,
    accuracy: Option<(f64, AccuracySource)>,
) -> Sample {
    let meters = &outcome.meters;
    let timing = Timing {
        wall_s: meters.wall_s.value(),
        user_s: meters.user_s.value(),
        system_s: meters.system_s.value(),
        setup_s: said.setup_s,
        compile_s: said.compile_s,
        train_s: said.train_s,
        eval_s: said.eval_s,
        device_s: said.device_s,
    };
    let completed = status.completed();
    let tail = |text: &str| (!completed && !text.is_empty()).then(|| text.to_owned());
    Sample {
        round: 0,
        status,
        reason,
        timing,
        peak_memory_bytes: meters.peak_memory_bytes.value(),
        device_peak_bytes: said.device_peak_bytes,
        test_accuracy_percent: accuracy.map(|(percent, _)| percent),
        accuracy_source: accuracy.map(|(_, source)| source),
        epochs: said.epochs.clone(),
        steps: said.steps,
        dense_flop: said.dense_flop,
        executed_flop: said.executed_flop,
        counters: BTreeMap::new(),
        notes: notes(outcome),
        disturbances: Vec::new(),
        superseded: false,
        surroundings: None,
        stdout_tail: tail(&outcome.stdout_tail),
        stderr_tail: tail(&outcome.stderr_tail),
    }
}

fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    let stragglers = outcome.stragglers;
    if stragglers.count > 0 {
        let stopped = if stragglers.stopped { ", and had to be stopped" } else { "" };
        notes.push(format!("{} processes outlived the trainer{stopped}", stragglers.count));
    }
    if let (launch::Exit::Code(_), Some(evidence)) = (&outcome.exit, &outcome.out_of_memory) {
        notes.push(format!("out of memory: {evidence}"));
    }
    if outcome.survivors > 0 {
        notes.push(format!("{} processes could not be killed", outcome.survivors));
    }
    notes
}

/// For each figure of the file where it comes from, or why it is not there.
fn origins(meters: &Meters, sample: &Sample) -> (Origins, Origins) {
    let mut sources = BTreeMap::new();
    let mut missing = BTreeMap::new();
    fn metered<T: Copy>(name: &str, reading: &Reading<T>) -> (String, Result<String, String>) {
        let origin = match reading {
            Reading::Measured { source, .. } => Ok(source.clone()),
            Reading::Absent { reason } => Err(reason.clone()),
        };
        (name.to_owned(), origin)
    }
    let said = |name: &str, value: Option<f64>| {
        let origin = match value {
            Some(_) => Ok("the trainer's own clock, as it reports".to_owned()),
            None => Err("the trainer does not report it".to_owned()),
        };
        (name.to_owned(), origin)
    };
    let accuracy = match sample.accuracy_source {
        Some(AccuracySource::Scored) => Ok("the trainer's predictions, scored by the harness"),
        Some(AccuracySource::Claimed) => Ok("claimed by the trainer"),
        None => Err("the trainer told none"),
    };
    let own = |text: &str| text.to_owned();
    let cpu = "timing.user_s + timing.system_s".to_owned();
    let cpu = match (sample.timing.user_s, sample.timing.system_s) {
        (Some(_), Some(_)) => Ok(cpu),
        _ => Err(format!("{cpu}: one of them is missing")),
    };
    let timing = &sample.timing;
    let origins = [
        ("training_time_seconds".to_owned(), cpu),
        metered("peak_memory_mb", &meters.peak_memory_bytes),
        ("test_accuracy_percent".to_owned(), accuracy.map(own).map_err(own)),
        metered("wall_s", &meters.wall_s),
        metered("user_s", &meters.user_s),
        metered("system_s", &meters.system_s),
        said("setup_s", timing.setup_s),
        said("compile_s", timing.compile_s),
        said("train_s", timing.train_s),
        said("eval_s", timing.eval_s),
        said("device_s", timing.device_s),
    ];
    // Beside the resident size, where the system has it.
    if let Some(source) = meters.phys_footprint_bytes.source() {
        sources.insert("phys_footprint_bytes".to_owned(), source.to_owned());
    }
    for (name, origin) in origins {
        match origin {
            Ok(source) => sources.insert(name, source),
            Err(reason) => missing.insert(name, reason),
        };
    }
    (sources, missing)
}
