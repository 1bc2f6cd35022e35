//! One combination: run it, judge it, write it down.

use crate::data::Dataset;
use crate::file_name::FileName;
use crate::judge::{self, Evidence};
use crate::launch::{self, CancelToken, Outcome, Stream};
use crate::machine::Machine;
use crate::meter::{Meters, Reading};
use crate::plan::{self, Case, Places};
use crate::provenance::{self, Moment};
use crate::result::{
    self, AccuracySource, DatasetRecord, MEGABYTE, Metrics, ResultFile, RunIdentity,
    SCHEMA_VERSION, Sample, Status, Timing, TrainerRecord,
};
use crate::score;
use crate::suite::LoadedSuite;
use crate::trainer::{NotReady, Ready};
use crate::transcript::Transcript;
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that the combinations of one run share.
pub struct Bench<'a> {
    loaded: &'a LoadedSuite,
    dataset: &'a Dataset,
    trainers: &'a BTreeMap<usize, Result<Ready, NotReady>>,
    timeout: Duration,
    out: &'a Path,
    run: RunIdentity,
    machine: Machine,
    scratch: tempfile::TempDir,
}

/// A combination that was dealt with, whatever became of it.
pub struct Executed {
    pub result: ResultFile,
    pub file: PathBuf,
}

impl<'a> Bench<'a> {
    /// Looks at the machine and the working tree once.
    ///
    /// # Errors
    /// If there is no place for temporary files.
    pub fn new(
        loaded: &'a LoadedSuite,
        dataset: &'a Dataset,
        trainers: &'a BTreeMap<usize, Result<Ready, NotReady>>,
        quick: bool,
        timeout: Duration,
        out: &'a Path,
    ) -> Result<Bench<'a>> {
        let scratch = tempfile::Builder::new()
            .prefix("trainmark-")
            .tempdir()
            .context("cannot make a folder for the predictions")?;
        let started = Moment::now();
        let run = RunIdentity {
            id: format!("{}-{}", started.timestamp, std::process::id()),
            suite: loaded.suite.name.clone(),
            quick,
            started: started.utc,
            git_commit: provenance::git_commit(&loaded.root),
            harness: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let machine = Machine::detect();
        Ok(Bench { loaded, dataset, trainers, timeout, out, run, machine, scratch })
    }

    /// Runs a combination and writes its result file. `on_line` sees what the trainer has said so
    /// far, after each of its lines.
    ///
    /// # Errors
    /// If the harness itself cannot go on: its result file cannot be written, its launcher fails.
    pub fn execute(
        &self,
        case: &Case,
        cancel: &CancelToken,
        on_line: &mut dyn FnMut(&Transcript),
    ) -> Result<Executed> {
        let moment = Moment::now();
        let mut result = self.blank(case, &moment);
        match self.ready(case) {
            Ok(ready) => self.train(case, ready, cancel, on_line, &mut result)?,
            Err((status, reason)) => {
                for figure in ["training_time_seconds", "peak_memory_mb", "test_accuracy_percent"] {
                    result.missing.insert(figure.to_owned(), "the trainer was not run".to_owned());
                }
                (result.status, result.reason) = (status, Some(reason));
            }
        }
        let name = FileName::new(&case.prefix, &case.backend, &case.config, &moment.timestamp);
        let file = result::write(self.out, &name, &result).with_context(|| {
            format!("the result of {} cannot be written to {}", case.prefix, self.out.display())
        })?;
        Ok(Executed { result, file })
    }

    fn blank(&self, case: &Case, moment: &Moment) -> ResultFile {
        let declared = &self.loaded.suite.trainers[case.trainer];
        let suite = &self.loaded.suite;
        ResultFile {
            executable: declared.name.clone(),
            model: case.model.clone(),
            backend: case.backend.clone(),
            timestamp: moment.timestamp.clone(),
            config: case.config.clone(),
            schema_version: SCHEMA_VERSION,
            compiled: declared.compiled.contains(&case.backend),
            run: Some(RunIdentity { started: moment.utc.clone(), ..self.run.clone() }),
            dataset: Some(DatasetRecord {
                name: self.dataset.name.clone(),
                sha256: Some(self.dataset.sha256.clone()),
            }),
            target_accuracy_percent: suite.target(&case.model, &self.dataset.name, case.epochs()),
            machine: Some(self.machine.clone()),
            ..ResultFile::default()
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
            Err(NotReady::BuildFailed(reason)) => Err((Status::BuildFailed, reason.clone())),
            Err(NotReady::NotStarted(reason)) => Err((Status::NotStarted, reason.clone())),
        }
    }

    fn train(
        &self,
        case: &Case,
        ready: &Ready,
        cancel: &CancelToken,
        on_line: &mut dyn FnMut(&Transcript),
        result: &mut ResultFile,
    ) -> Result<()> {
        let predictions = self.scratch.path().join("predictions");
        // What the trainer before this one left there is not this one's.
        let _ = std::fs::remove_file(&predictions);
        let data = &self.dataset.directory;
        let places = Places { program: &ready.program, data, predictions: &predictions };
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
        job.timeout = Some(self.timeout);
        let mut said = Transcript::default();
        let mut listen = |stream: Stream, line: &str| {
            if stream == Stream::Stdout {
                said.line(line);
                on_line(&said);
            }
        };
        let outcome = launch::run(&job, &mut listen, cancel)?;
        let scored = score::score(&predictions, &self.dataset.test_labels);
        let (status, reason) = judge::judge(&Evidence {
            outcome: &outcome,
            said: &said,
            scored: &scored,
            epochs: case.epochs(),
            dataset: (&self.dataset.name, &self.dataset.sha256),
            target_percent: result.target_accuracy_percent,
        });
        result.compiled = said.compiled.unwrap_or(result.compiled);
        let sample = sample(status, reason, &outcome, &said, judge::accuracy(&said, &scored));
        (result.sources, result.missing) = origins(&outcome.meters, &sample);
        result.trainer = Some(TrainerRecord {
            command: words,
            environment,
            sha256: ready.sha256.clone(),
            version: said.version,
            device: said.device,
            path: said.path,
            threads: said.threads,
            precision: said.precision,
            parameters: said.parameters,
            software: said.software,
        });
        summarise(result, sample);
        Ok(())
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
    let counters = [
        ("largest_process_bytes", &meters.largest_process_bytes),
        ("tree_pss_bytes", &meters.tree_pss_bytes),
        ("processes", &meters.processes),
        ("minor_faults", &meters.minor_faults),
        ("major_faults", &meters.major_faults),
        ("voluntary_switches", &meters.voluntary_switches),
        ("involuntary_switches", &meters.involuntary_switches),
        ("storage_read_bytes", &meters.storage_read_bytes),
        ("storage_written_bytes", &meters.storage_written_bytes),
    ];
    let known = |(name, reading): (&str, &Reading<u64>)| Some((name.to_owned(), reading.value()?));
    let completed = status.completed();
    let tail = |text: &str| (!completed && !text.is_empty()).then(|| text.to_owned());
    Sample {
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
        counters: counters.into_iter().filter_map(known).collect(),
        notes: notes(outcome),
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
    if outcome.survivors > 0 {
        notes.push(format!("{} processes could not be killed", outcome.survivors));
    }
    notes
}

/// For each figure of the file where it comes from, or why it is not there.
fn origins(
    meters: &Meters,
    sample: &Sample,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
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
    for (name, origin) in origins {
        match origin {
            Ok(source) => sources.insert(name, source),
            Err(reason) => missing.insert(name, reason),
        };
    }
    (sources, missing)
}

/// Fills the file's headline figures from its one sample.
fn summarise(result: &mut ResultFile, sample: Sample) {
    let timing = sample.timing;
    result.status = sample.status;
    result.reason.clone_from(&sample.reason);
    result.timing = timing;
    result.peak_memory_bytes = sample.peak_memory_bytes;
    result.accuracy_source = sample.accuracy_source;
    result.metrics = Metrics {
        training_time_seconds: timing
            .user_s
            .zip(timing.system_s)
            .map(|(user, system)| user + system),
        peak_memory_mb: sample.peak_memory_bytes.map(|bytes| bytes as f64 / MEGABYTE),
        test_accuracy_percent: sample.test_accuracy_percent,
    };
    result.samples = vec![sample];
}
