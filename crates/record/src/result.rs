//! The record: the result file of one row, a JSON object, which every report is made from.
//!
//! The first keys are the specification's, with its names, nesting and units, so that a reader
//! which knows only those still reads our files; ours stand beside them. Everything of ours is
//! optional when read, so that files written by the specification's own scripts are read too.
//! `schema/result.schema.json` says the same to other programs. Parts that the specification's files do
//! not have are boxed: a hundred thousand of those are held in memory at once.

use crate::noise::NoiseFloor;
use crate::number::{MEGABYTE, tidy};
use crate::old;
use crate::race::Race;
use crate::reference::Reference;
use crate::roofline::Roofline;
use crate::sample::{Sample, Timing, TrainerRecord};
use crate::stats::{self, Interval};
use crate::status::Status;
use crate::task::{KeyRecord, TaskRecord};
use litemap::LiteMap;
use measure::environment::Environment;
use measure::machine::Machine;
pub use measure::meter::Reading as MeterRecord;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of the keys below. A reader refuses files of a newer one.
pub const SCHEMA_VERSION: u32 = 2;

/// A result file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The trainer's name in the suite.
    pub executable: String,
    pub model: String,
    pub backend: String,
    /// When the row began, local time, `YYYYMMDD_HHMMSS`.
    #[serde(default)]
    pub timestamp: String,
    /// In the order in which the suite has the keys.
    #[serde(default)]
    pub config: Map<String, Value>,
    pub metrics: Metrics,

    /// [`SCHEMA_VERSION`] of the writer; 0 in files of the specification's own scripts.
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default)]
    pub status: Status,
    /// Why the status is not `measured`.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether the step was compiled or captured as a whole.
    #[serde(default)]
    pub compiled: bool,
    /// Which run of the suite wrote it.
    #[serde(default)]
    pub run: Option<Box<RunIdentity>>,
    /// Place of the row's trainer in the suite, from 0.
    #[serde(default)]
    pub place: Option<u32>,
    /// The task; absent in files of version 0.
    #[serde(default)]
    pub task: Option<Box<TaskRecord>>,
    /// Configuration keys as the suite declares them.
    #[serde(default)]
    pub keys: BTreeMap<String, KeyRecord>,
    /// The dataset; null for a command that was given no data.
    #[serde(default)]
    pub dataset: Option<Box<DatasetRecord>>,
    /// A metric on the wrong side of its target makes the row `not_converged`.
    #[serde(default)]
    pub targets: BTreeMap<String, f64>,
    /// Medians over `samples`, in seconds.
    #[serde(default)]
    pub timing: Box<Timing>,
    /// Median over `samples`.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// Median over `samples`, as the trainer says.
    #[serde(default)]
    pub device_peak_bytes: Option<u64>,
    /// Work per second of training: the median over `samples`.
    #[serde(default)]
    pub throughput: Option<Box<Throughput>>,
    /// 95 % intervals of the medians, by the figure's name; of those with enough samples for one.
    #[serde(default)]
    pub intervals: BTreeMap<String, Interval>,
    /// Every training of this row, in order.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// For each figure that is there, how it was measured.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// For each figure that is null, why.
    #[serde(default)]
    pub missing: BTreeMap<String, String>,
    #[serde(default)]
    pub trainer: Option<Box<TrainerRecord>>,
    #[serde(default)]
    pub machine: Option<Box<Machine>>,
    /// The capability of the machine, if `trainmark machine` had measured it.
    #[serde(default)]
    pub capability: Option<Box<machine::Capability>>,
    /// In what state the machine was.
    #[serde(default)]
    pub environment: Option<Box<Environment>>,
    /// Other meters by their name: the median over the samples in which it is valid, or over all if it is in none,
    /// where it comes from, and whether it is to be trusted.
    #[serde(default)]
    pub meters: BTreeMap<String, MeterRecord>,
    /// With a target to race to: how soon it was reached.
    #[serde(default)]
    pub race: Option<Box<Race>>,
    /// Operations per second, against what the machine can do.
    #[serde(default)]
    pub roofline: Option<Box<Roofline>>,
    /// Along the suite's scaling curve, once the other rows are known ([`crate::scaling`]).
    #[serde(skip)]
    pub efficiency_percent: Option<f64>,
    /// The noise floor, if `trainmark noise` has measured it on this machine.
    #[serde(default)]
    pub noise_floor: Option<Box<NoiseFloor>>,
}

/// The specification's figures and the task's metrics; null where one could not be had (`missing` says why).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// User + system seconds of the trainer's process tree.
    pub training_time_seconds: Option<f64>,
    /// Peak resident memory of the tree in megabytes of 10^6 bytes.
    pub peak_memory_mb: Option<f64>,
    /// Medians over `samples`, by name.
    #[serde(flatten, serialize_with = "as_map")]
    pub of_task: LiteMap<String, Option<f64>>,
}

/// An empty one too.
fn as_map<S: Serializer>(map: &LiteMap<String, Option<f64>>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(map.iter())
}

/// Work per second of training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throughput {
    pub value: Option<f64>,
    /// The unit of work, for example `tokens`.
    pub unit: String,
}

/// One `trainmark run`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Unique to one `trainmark run`.
    pub id: String,
    /// The suite's name.
    pub suite: String,
    pub quick: bool,
    /// The row's start, RFC 3339 in UTC.
    pub started: String,
    /// Commit of the working tree that the harness ran in, `-dirty` appended where it had changes.
    pub git_commit: Option<String>,
    /// Version of the harness.
    pub harness: String,
    /// The row that the suite compares the others with, if it names one.
    pub reference: Option<Reference>,
}

/// The dataset of a training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DatasetRecord {
    pub name: String,
    /// As METHOD.md defines it.
    pub sha256: Option<String>,
}

/// Why a file is no record: one line.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{0}")]
    Json(serde_json::Error),
    #[error("{0}")]
    Key(serde_path_to_error::Error<serde_json::Error>),
    #[error("schema_version {0} is newer than this program, which knows {SCHEMA_VERSION}")]
    Newer(u32),
}

impl RecordError {
    /// Names the key that is wrong, which takes longer than to say that something is.
    fn of(bytes: &[u8], error: serde_json::Error) -> RecordError {
        let Ok(file) = serde_json::from_slice::<Value>(bytes) else {
            return RecordError::Json(error);
        };
        let version = || file.get("schema_version")?.as_u64().and_then(|it| u32::try_from(it).ok());
        let version = version();
        if let Some(newer) = version.filter(|version| *version > SCHEMA_VERSION) {
            return RecordError::Newer(newer);
        }
        match serde_path_to_error::deserialize::<_, Record>(file) {
            Err(error) => RecordError::Key(error),
            Ok(_) => RecordError::Json(error), // what follows the object, or a key twice
        }
    }
}

impl Record {
    /// Reads a file of any version.
    ///
    /// # Errors
    /// If it is no record; the error names the key.
    pub fn parse(bytes: &[u8]) -> Result<Record, RecordError> {
        let record = match serde_json::from_slice::<Record>(bytes) {
            Ok(record) => record,
            Err(error) => return Err(RecordError::of(bytes, error)),
        };
        let record = match record.schema_version {
            0 | SCHEMA_VERSION => record,
            newer if newer > SCHEMA_VERSION => return Err(RecordError::Newer(newer)),
            _ => {
                let file: Value = serde_json::from_slice(bytes).unwrap_or_default();
                serde_path_to_error::deserialize(old::upgrade(file)).map_err(RecordError::Key)?
            }
        };
        Ok(record.checked())
    }

    /// A file of this program's own, as it was written. `None` if there is none that can be read.
    pub fn read_back(path: &Path) -> Option<Record> {
        serde_json::from_slice(&files::read(path, files::Kind::RESULT).ok()?).ok()
    }

    /// The status that follows from the quality and the targets of a row that was measured.
    pub fn judge(&mut self) {
        if self.status == Status::Measured {
            self.status = match self.missed_target() {
                _ if self.task().quality.is_some() && self.quality().is_none() => Status::NoQuality,
                Some(_) => Status::NotConverged,
                None => Status::Measured,
            };
        }
    }

    /// The task.
    pub fn task(&self) -> &TaskRecord {
        self.task.as_deref().unwrap_or(&old::TASK)
    }

    /// The suite's declaration of a configuration key.
    pub fn key(&self, name: &str) -> Option<&KeyRecord> {
        match self.schema_version {
            0 | 1 => old::KEYS.get(name),
            _ => self.keys.get(name),
        }
    }

    /// The figure that decides convergence, if there is one and it is known.
    pub fn quality(&self) -> Option<f64> {
        let (name, _) = self.task().quality()?;
        *self.metrics.of_task.get(name)?
    }

    /// The first target that was missed: the metric's name, its value and the target.
    pub fn missed_target(&self) -> Option<(&str, f64, f64)> {
        self.targets.iter().find_map(|(name, target)| {
            let value = (*self.metrics.of_task.get(name)?)?;
            let better = self.task().metrics.get(name)?.better;
            (!better.reaches(value, *target)).then_some((name.as_str(), value, *target))
        })
    }

    /// Adds a sample and computes the headline figures again: medians over the samples that completed,
    /// and the first status that is not `measured`, so that one bad sample of ten is not hidden behind
    /// nine good ones.
    pub fn add_sample(&mut self, sample: Sample) {
        self.samples.push(sample);
        self.conclude();
    }

    /// Computes what is said of all samples together.
    pub(crate) fn conclude(&mut self) {
        let bad = self.counted().filter(|sample| sample.status != Status::Measured);
        let bad: Vec<&Sample> = bad.collect();
        (self.status, self.reason) = match bad.first() {
            None => (Status::Measured, None),
            Some(first) if self.counted().count() == 1 => (first.status, first.reason.clone()),
            Some(first) => {
                let reason = first.reason.as_deref().unwrap_or_default();
                let (bad, all) = (bad.len(), self.counted().count());
                (first.status, Some(format!("{bad} of {all} samples: {}: {reason}", first.status)))
            }
        };
        self.set_figures();
        self.set_meters();
        self.race = Race::new(&self.config, self.task(), self.counted()).map(Box::new);
        let last = self.counted().filter(|sample| sample.status.completed()).last();
        self.roofline = last.zip(self.trainer.as_deref()).and_then(|(sample, trainer)| {
            let (train_s, capability) = (self.timing.train_s, self.capability.as_deref());
            Roofline::new(sample, train_s, trainer, &self.backend, capability).map(Box::new)
        });
    }

    /// A meter is the median over the samples in which it is valid. Older files say of the last sample alone whether it
    /// is.
    fn set_meters(&mut self) {
        let mut meters = std::mem::take(&mut self.meters);
        for (name, meter) in &mut meters {
            let known = |sample: &Sample| sample.counters.get(name).map(|&count| count as f64);
            let completed = || self.counted().filter(|sample| sample.status.completed());
            let valid = completed().filter(|sample| !sample.invalid.contains_key(name));
            let valid: Vec<f64> = valid.filter_map(known).collect();
            let all: Vec<f64> = completed().filter_map(known).collect();
            let told = self.samples.iter().any(|sample| sample.invalid.contains_key(name));
            if told && !all.is_empty() {
                let reason = completed().filter_map(|sample| sample.invalid.get(name)).last();
                meter.valid = !valid.is_empty();
                meter.reason = reason.filter(|_| valid.is_empty()).cloned();
            }
            meter.value = stats::median(if valid.is_empty() { &all } else { &valid });
        }
        self.meters = meters;
    }

    fn set_figures(&mut self) {
        self.intervals.clear();
        let mut timing = Timing::default();
        for (place, (name, seconds)) in timing.each().into_iter().enumerate() {
            *seconds = self.median(name, |sample| {
                let mut own = sample.timing;
                *own.each()[place].1
            });
        }
        *self.timing = timing;
        self.metrics.training_time_seconds =
            self.median("training_time_seconds", |sample| sample.timing.cpu_s());
        self.metrics.peak_memory_mb = self
            .median("peak_memory_mb", |sample| Some(sample.peak_memory_bytes? as f64 / MEGABYTE));
        self.peak_memory_bytes =
            self.metrics.peak_memory_mb.map(|megabytes| (megabytes * MEGABYTE).round() as u64);
        let on_device = |sample: &Sample| sample.device_peak_bytes.map(|bytes| bytes as f64);
        self.device_peak_bytes =
            self.median("device_peak_bytes", on_device).map(|bytes| bytes as u64);
        for name in self.task().metrics.keys().cloned().collect::<Vec<_>>() {
            let median = self.median(&name, |sample| sample.metrics.get(&name).copied());
            self.metrics.of_task.insert(name, median);
        }
        if let Some(unit) = self.task().throughput.as_ref().map(|work| work.unit.clone()) {
            let value = self.median("throughput", Sample::throughput);
            self.throughput = Some(Box::new(Throughput { value, unit }));
        }
    }

    /// Who trained what, and on what.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.executable, self.model, self.backend)
    }

    /// `key=value` of the configuration but for some keys, sorted.
    pub(crate) fn settings(&self, but: &[String]) -> Vec<String> {
        let kept = self.config.iter().filter(|(key, _)| !but.contains(key));
        let mut settings: Vec<String> = kept.map(|(key, value)| format!("{key}={value}")).collect();
        settings.sort_unstable();
        settings
    }

    /// Whether it may be compared, as far as the record knows.
    pub fn takes_part(&self) -> bool {
        self.status == Status::Measured && !self.is_software()
    }

    /// Whether it ran on a software imitation of a device.
    pub fn is_software(&self) -> bool {
        self.trainer.as_ref().is_some_and(|trainer| trainer.software)
    }

    /// The samples that figures are computed from: all but those that were repeated for their noise.
    pub fn counted(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| !sample.superseded)
    }

    /// The median of a figure, and its interval into `intervals`. Of the samples that completed; if
    /// none did, of all that have the figure.
    fn median(&mut self, name: &str, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let any = self.counted().any(|sample| sample.status.completed());
        let counted = self.counted().filter(|sample| !any || sample.status.completed());
        let values: Vec<f64> = counted.filter_map(figure).collect();
        if let Some(interval) = stats::median_interval(&values, stats::CONFIDENCE) {
            self.intervals.insert(name.to_owned(), interval);
        }
        stats::median(&values).map(tidy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::{replace, write_new};
    use std::path::Path;

    fn sample(train_s: f64, status: Status) -> Sample {
        let timing = Timing { train_s: Some(train_s), ..Timing::default() };
        Sample { status, timing, reason: Some("why".into()), ..Sample::default() }
    }

    #[test]
    fn headline_figures_are_medians_of_the_runs_that_completed() {
        let mut result = Record::default();
        for (train_s, status) in [
            (1.0, Status::Measured),
            (3.0, Status::Measured),
            (90.0, Status::TimedOut),
            (2.0, Status::Measured),
        ] {
            result.add_sample(sample(train_s, status));
        }
        assert_eq!(result.timing.train_s, Some(2.0));
        assert_eq!(result.status, Status::TimedOut);
        assert_eq!(result.reason.as_deref(), Some("1 of 4 samples: timed out: why"));
        assert!(result.intervals.is_empty());
    }

    #[test]
    fn a_noisy_run_that_was_repeated_stays_in_the_file_and_in_no_figure() {
        let mut result = Record::default();
        let noisy = Sample { superseded: true, ..sample(9.0, Status::Measured) };
        result.add_sample(noisy);
        result.add_sample(sample(1.0, Status::Measured));
        assert_eq!((result.timing.train_s, result.samples.len()), (Some(1.0), 2));
        // Noise that was not repeated counts: nothing is dropped for being slow.
        let noisy = Sample { disturbances: vec!["load".into()], ..sample(3.0, Status::Measured) };
        result.add_sample(noisy);
        assert_eq!(result.timing.train_s, Some(2.0));
    }

    #[test]
    fn a_meter_is_the_median_over_the_runs_in_which_it_is_valid() {
        let meter = |reason: Option<&str>| MeterRecord {
            valid: reason.is_none(),
            reason: reason.map(str::to_owned),
            ..MeterRecord::default()
        };
        let energy = |joules: u64, reason: Option<&str>, status| Sample {
            counters: BTreeMap::from([("energy".into(), joules)]),
            invalid: reason.map(|it| ("energy".into(), it.into())).into_iter().collect(),
            ..sample(1.0, status)
        };
        let of = |samples: &[(u64, Option<&str>, Status)]| {
            let mut result = Record::default();
            for &(joules, reason, status) in samples {
                result.meters = BTreeMap::from([("energy".into(), meter(reason))]); // the last one's
                result.add_sample(energy(joules, reason, status));
            }
            let found = result.meters["energy"].clone();
            result.conclude();
            assert_eq!(result.meters["energy"], found, "however often it is concluded");
            (found.value, found.valid, found.reason)
        };
        let measured = Status::Measured;
        let (shared, short) = (Some("others computed"), Some("too short"));
        let one_of_three = [(3, None, measured), (90, shared, measured), (5, None, measured)];
        assert_eq!(of(&one_of_three), (Some(4.0), true, None));
        let stopped_early = [(3, None, measured), (1, short, Status::TimedOut)];
        assert_eq!(of(&stopped_early), (Some(3.0), true, None));
        let none = [(3, shared, measured), (5, short, measured)];
        assert_eq!(of(&none), (Some(4.0), false, short.map(str::to_owned)));
        let meters = BTreeMap::from([("energy".into(), meter(short))]);
        let mut old = Record { meters, ..Record::default() };
        old.add_sample(energy(7, None, measured));
        assert_eq!((old.meters["energy"].value, old.meters["energy"].valid), (Some(7.0), false));
    }

    #[test]
    fn six_runs_are_enough_for_an_interval() {
        let mut result = Record::default();
        (1..=6).for_each(|time| result.add_sample(sample(f64::from(time), Status::Measured)));
        let interval = result.intervals["train_s"];
        assert_eq!((interval.low, interval.high), (1.0, 6.0));
        assert_eq!(result.status, Status::Measured);
    }

    #[test]
    fn a_file_is_written_under_a_free_name_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut result = Record { model: "mlp".into(), ..Record::default() };
        let path = folder.path().join("classic_cpu_20240315_143022.json");
        assert!(write_new(&path, &result).unwrap());
        let before = std::fs::read(&path).unwrap();
        result.add_sample(sample(1.0, Status::Measured));
        assert!(!write_new(&path, &result).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), before, "the name was taken");
        replace(&path, &result).unwrap();
        let read: Record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, result);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_figure_is_the_same_to_the_last_bit_however_often_a_file_is_read_and_written() {
        // Found by the fuzzer: read fast and nearly, it was another number each time.
        let digits = "4".repeat(77) + "2";
        let text = format!(
            r#"{{"executable": "e", "model": "m", "backend": "b", "config": {{"seed": {digits}}},
                "metrics": {{"training_time_seconds": 1.7976931348623155e308}}}}"#
        );
        let once: Record = serde_json::from_str(&text).unwrap();
        let written = serde_json::to_string(&once).unwrap();
        let twice: Record = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&twice).unwrap(), written);
        assert_eq!(once.config["seed"].as_f64(), digits.parse().ok());
        assert_eq!(once.metrics.training_time_seconds, Some(1.797_693_134_862_315_5e308));
    }

    #[test]
    fn a_folder_that_refuses_leaves_nothing_behind() {
        let missing = Path::new("/nonexistent/folder/x.json");
        assert!(write_new(missing, &Record::default()).is_err());
    }
}
