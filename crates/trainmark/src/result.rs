//! The result file: one JSON object per combination, the product that every report is made from.
//!
//! The first keys are the specification's, with its names, nesting and units, so that a reader
//! which knows only those still reads our files; ours stand beside them. Everything of ours is
//! optional when read, so that files written by the specification's own scripts are read too.
//! `schema/result.schema.json` says the same to other programs.

use crate::environment::Environment;
pub use crate::meters::MeterRecord;
use crate::noise::NoiseFloor;
use crate::race::Race;
use crate::roofline::Roofline;
use crate::stats::{self, Interval};
use crate::surroundings::Surroundings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// The version of the keys below. A reader refuses files of a newer one.
pub const SCHEMA_VERSION: u32 = 1;

/// What the name of a file begins with that is being written. Whoever dies then leaves it behind.
pub const WRITING: &str = ".writing-";

/// Bytes in the megabyte of `peak_memory_mb`.
pub const MEGABYTE: f64 = 1e6;

/// What became of a combination.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Trained, measured, and at or above the target accuracy where there is one.
    #[default]
    Measured,
    /// Trained and measured, but below its model's target accuracy: never ranked.
    NotConverged,
    /// This machine or this build lacks what the backend needs. Not a failure.
    Unavailable,
    /// The trainer could not be built.
    BuildFailed,
    /// The trainer's program could not be started.
    NotStarted,
    /// Ended with an exit code other than 0.
    Failed,
    /// Ended by a signal.
    Crashed,
    /// Ended for want of memory.
    OutOfMemory,
    /// Still running when its time was up.
    TimedOut,
    /// Stopped by the user.
    Interrupted,
    /// Ended well without a word.
    NoOutput,
    /// Ended well, but its output or its predictions cannot be understood.
    Garbled,
    /// Ended well without telling an accuracy or writing predictions.
    NoAccuracy,
    /// Its claim contradicts its predictions, or its clock exceeds ours.
    Misreported,
    /// Its time implies more operations per second than the hardware can do.
    Implausible,
}

impl Status {
    /// In words, for tables.
    pub fn words(self) -> &'static str {
        match self {
            Status::Measured => "measured",
            Status::NotConverged => "not converged",
            Status::Unavailable => "unavailable",
            Status::BuildFailed => "build failed",
            Status::NotStarted => "not started",
            Status::Failed => "failed",
            Status::Crashed => "crashed",
            Status::OutOfMemory => "out of memory",
            Status::TimedOut => "timed out",
            Status::Interrupted => "interrupted",
            Status::NoOutput => "no output",
            Status::Garbled => "garbled output",
            Status::NoAccuracy => "no accuracy",
            Status::Misreported => "misreported",
            Status::Implausible => "implausible",
        }
    }

    /// The word in result files.
    pub fn key(self) -> &'static str {
        match self {
            Status::Measured => "measured",
            Status::NotConverged => "not_converged",
            Status::Unavailable => "unavailable",
            Status::BuildFailed => "build_failed",
            Status::NotStarted => "not_started",
            Status::Failed => "failed",
            Status::Crashed => "crashed",
            Status::OutOfMemory => "out_of_memory",
            Status::TimedOut => "timed_out",
            Status::Interrupted => "interrupted",
            Status::NoOutput => "no_output",
            Status::Garbled => "garbled",
            Status::NoAccuracy => "no_accuracy",
            Status::Misreported => "misreported",
            Status::Implausible => "implausible",
        }
    }

    /// Whether the training ran to its end and was measured, converged or not.
    pub fn completed(self) -> bool {
        matches!(self, Status::Measured | Status::NotConverged)
    }

    /// Whether something went wrong that a person should look at.
    pub fn failed(self) -> bool {
        !self.completed() && self != Status::Unavailable
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

/// A result file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    /// The trainer's name in the suite.
    pub executable: String,
    pub model: String,
    pub backend: String,
    /// When the combination began, local time, `YYYYMMDD_HHMMSS`.
    #[serde(default)]
    pub timestamp: String,
    /// `epochs`, `batch_size`, `hidden_size`, `seed`, then the keys of ours.
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
    pub run: Option<RunIdentity>,
    #[serde(default)]
    pub dataset: Option<DatasetRecord>,
    /// Accuracy below which the row is `not_converged`.
    #[serde(default)]
    pub target_accuracy_percent: Option<f64>,
    /// Medians over `samples`, in seconds.
    #[serde(default)]
    pub timing: Timing,
    /// Median over `samples`.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// 95 % intervals of the medians, by the figure's name; of those with enough samples for one.
    #[serde(default)]
    pub intervals: BTreeMap<String, Interval>,
    /// How the accuracy was had.
    #[serde(default)]
    pub accuracy_source: Option<AccuracySource>,
    /// Every run of this combination, in order.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// For each figure that is there, how it was measured.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// For each figure that is null, why.
    #[serde(default)]
    pub missing: BTreeMap<String, String>,
    #[serde(default)]
    pub trainer: Option<TrainerRecord>,
    #[serde(default)]
    pub machine: Option<crate::machine::Machine>,
    /// What the machine can do, if `trainmark machine` had measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<::machine::Capability>,
    /// In what state the machine was.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// Other meters by their name: the median over the runs, where it comes from, and whether it is
    /// to be trusted.
    #[serde(default)]
    pub meters: BTreeMap<String, MeterRecord>,
    /// With `--target-accuracy`: how soon it was reached.
    #[serde(default)]
    pub race: Option<Race>,
    /// Operations per second, against what the machine can do.
    #[serde(default)]
    pub roofline: Option<Roofline>,
    /// What a difference must exceed to be claimed, if `trainmark noise` has found it out here.
    #[serde(default)]
    pub noise_floor: Option<NoiseFloor>,
}

/// The specification's three figures; null where one could not be had (`missing` says why).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// User + system seconds of the trainer's process tree.
    pub training_time_seconds: Option<f64>,
    /// Peak resident memory of the tree in megabytes of 10^6 bytes.
    pub peak_memory_mb: Option<f64>,
    pub test_accuracy_percent: Option<f64>,
}

/// Who measured the accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccuracySource {
    /// The harness compared the trainer's predictions with the test labels.
    Scored,
    /// The trainer says so.
    Claimed,
}

impl AccuracySource {
    /// The word in result files.
    pub fn key(self) -> &'static str {
        match self {
            AccuracySource::Scored => "scored",
            AccuracySource::Claimed => "claimed",
        }
    }
}

/// One `trainmark run`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Unique to one `trainmark run`.
    pub id: String,
    /// The suite's name.
    pub suite: String,
    pub quick: bool,
    /// The combination's start, RFC 3339 in UTC.
    pub started: String,
    /// Commit of the working tree that the harness ran in, `-dirty` appended where it had changes.
    pub git_commit: Option<String>,
    /// Version of the harness.
    pub harness: String,
}

/// What was trained on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DatasetRecord {
    pub name: String,
    /// As METHOD.md defines it.
    pub sha256: Option<String>,
}

/// Seconds. Null where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// The harness's clock around the trainer's process.
    pub wall_s: Option<f64>,
    pub user_s: Option<f64>,
    pub system_s: Option<f64>,
    /// The trainer's clock: loading and start-up.
    pub setup_s: Option<f64>,
    /// The trainer's clock: compilation and warm-up.
    pub compile_s: Option<f64>,
    /// The trainer's clock: all epochs, nothing else.
    pub train_s: Option<f64>,
    /// The trainer's clock: prediction of the test set.
    pub eval_s: Option<f64>,
    /// Device events around the same region as `train_s`.
    pub device_s: Option<f64>,
}

/// One run of a combination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Samples of different rows with the same round of the same run belong together: between them
    /// they took turns.
    pub round: u32,
    pub status: Status,
    pub reason: Option<String>,
    pub timing: Timing,
    pub peak_memory_bytes: Option<u64>,
    /// Peak of the trainer's allocations on its device, as it says.
    pub device_peak_bytes: Option<u64>,
    pub test_accuracy_percent: Option<f64>,
    pub accuracy_source: Option<AccuracySource>,
    pub epochs: Vec<EpochRecord>,
    /// Steps of the timed region.
    pub steps: Option<u64>,
    /// Floating-point operations of the timed region as if nothing were skipped.
    pub dense_flop: Option<f64>,
    /// Those that were carried out.
    pub executed_flop: Option<f64>,
    /// Other counters of the operating system, by name.
    pub counters: BTreeMap<String, u64>,
    /// What a reader should know of this run, for example stragglers.
    pub notes: Vec<String>,
    /// Why the sample is noisy: what else the machine did meanwhile. Empty for a quiet one.
    pub disturbances: Vec<String>,
    /// It was noisy and a later sample of the same round stands for it: no figure counts it.
    pub superseded: bool,
    pub surroundings: Option<Surroundings>,
    /// Last lines of the trainer's output; kept when it did not complete.
    pub stdout_tail: Option<String>,
    pub stderr_tail: Option<String>,
}

/// One epoch, as the trainer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: u32,
    /// Null when it was not finite.
    pub loss: Option<f64>,
    pub seconds: f64,
    pub accuracy_percent: Option<f64>,
}

/// The trainer's program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerRecord {
    /// The exact command, program first.
    pub command: Vec<String>,
    /// Environment variables that the harness set.
    pub environment: BTreeMap<String, String>,
    /// SHA-256 of the program's file.
    pub sha256: Option<String>,
    /// SHA-256 over what the program was given to run ([`crate::identity::sources_digest`]).
    pub sources_sha256: Option<String>,
    pub version: Option<String>,
    pub device: Option<String>,
    /// Which code ran, as the trainer says.
    pub path: Option<String>,
    pub threads: Option<usize>,
    pub precision: Option<String>,
    pub parameters: Option<u64>,
    /// A software imitation of a device: not ranked.
    pub software: bool,
    /// What it was allowed of the machine.
    #[serde(skip_serializing_if = "LimitsRecord::is_default")]
    pub limits: LimitsRecord,
}

/// What a trainer was allowed of the machine; null is all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsRecord {
    pub timeout_s: Option<f64>,
    pub memory_bytes: Option<u64>,
    /// Who enforced that, and how.
    pub memory_by: Option<String>,
    /// Of each process, be it by us or by whoever started the harness.
    pub address_space_bytes: Option<u64>,
    /// Logical cores.
    pub cpus: Option<Vec<usize>>,
}

impl LimitsRecord {
    /// As in files from before there were limits.
    fn is_default(&self) -> bool {
        *self == LimitsRecord::default()
    }
}

impl ResultFile {
    /// Adds a run of this combination and computes the headline figures again: medians over the
    /// runs that completed, and the first status that is not `measured`, so that one bad run of ten
    /// is not hidden behind nine good ones.
    pub fn add_sample(&mut self, sample: Sample) {
        self.samples.push(sample);
        let bad = self.counted().filter(|sample| sample.status != Status::Measured);
        let bad: Vec<&Sample> = bad.collect();
        (self.status, self.reason) = match bad.first() {
            None => (Status::Measured, None),
            Some(first) if self.counted().count() == 1 => (first.status, first.reason.clone()),
            Some(first) => {
                let reason = first.reason.as_deref().unwrap_or_default();
                let (bad, all) = (bad.len(), self.counted().count());
                (first.status, Some(format!("{bad} of {all} runs: {}: {reason}", first.status)))
            }
        };
        self.intervals.clear();
        let timing = |get: fn(&Timing) -> Option<f64>| move |sample: &Sample| get(&sample.timing);
        self.timing = Timing {
            wall_s: self.median("wall_s", timing(|timing| timing.wall_s)),
            user_s: self.median("user_s", timing(|timing| timing.user_s)),
            system_s: self.median("system_s", timing(|timing| timing.system_s)),
            setup_s: self.median("setup_s", timing(|timing| timing.setup_s)),
            compile_s: self.median("compile_s", timing(|timing| timing.compile_s)),
            train_s: self.median("train_s", timing(|timing| timing.train_s)),
            eval_s: self.median("eval_s", timing(|timing| timing.eval_s)),
            device_s: self.median("device_s", timing(|timing| timing.device_s)),
        };
        let cpu = timing(|timing| Some(timing.user_s? + timing.system_s?));
        let memory = |sample: &Sample| Some(sample.peak_memory_bytes? as f64 / MEGABYTE);
        self.metrics = Metrics {
            training_time_seconds: self.median("training_time_seconds", cpu),
            peak_memory_mb: self.median("peak_memory_mb", memory),
            test_accuracy_percent: self
                .median("test_accuracy_percent", |sample| sample.test_accuracy_percent),
        };
        self.peak_memory_bytes =
            self.metrics.peak_memory_mb.map(|megabytes| (megabytes * MEGABYTE).round() as u64);
        self.accuracy_source = self.samples.iter().find_map(|sample| sample.accuracy_source);
        let mut meters = std::mem::take(&mut self.meters);
        for (name, meter) in &mut meters {
            let known = |sample: &Sample| sample.counters.get(name).map(|&count| count as f64);
            let counted = self.counted().filter(|sample| sample.status.completed());
            meter.value = stats::median(&counted.filter_map(known).collect::<Vec<_>>());
        }
        self.meters = meters;
        self.race = Race::new(self);
        let last = self.counted().filter(|sample| sample.status.completed()).last();
        self.roofline = last.zip(self.trainer.as_ref()).and_then(|(sample, trainer)| {
            let (train_s, capability) = (self.timing.train_s, self.capability.as_ref());
            Roofline::new(sample, train_s, trainer, &self.backend, capability)
        });
    }

    /// The samples that figures are computed from: all but those that were repeated for their noise.
    pub fn counted(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| !sample.superseded)
    }

    /// The median of a figure, and its interval into `intervals`. Of the runs that completed; if
    /// none did, of all that have the figure.
    fn median(&mut self, name: &str, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let any = self.counted().any(|sample| sample.status.completed());
        let counted = self.counted().filter(|sample| !any || sample.status.completed());
        let values: Vec<f64> = counted.filter_map(figure).collect();
        if let Some(interval) = stats::median_interval(&values, stats::CONFIDENCE) {
            self.intervals.insert(name.to_owned(), interval);
        }
        stats::median(&values)
    }
}

/// Writes a new result file, so that it is there whole or not at all and no other file is ever
/// replaced: a temporary file, fsync, an exclusive rename, fsync of the directory. False if the name
/// is taken.
///
/// # Errors
/// If the directory or the disk refuses; nothing is left behind then.
pub fn write_new(path: &Path, result: &ResultFile) -> std::io::Result<bool> {
    let directory = folder_of(path);
    match write_aside(directory, result)?.persist_noclobber(path) {
        Ok(_) => sync_directory(directory).map(|()| true),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Replaces a result file by one with more samples, or another file of ours, whole or not at all.
///
/// # Errors
/// If the disk refuses; the old file is still there then.
pub fn replace(path: &Path, result: &impl Serialize) -> std::io::Result<()> {
    let directory = folder_of(path);
    write_aside(directory, result)?.persist(path).map_err(|error| error.error)?;
    sync_directory(directory)
}

/// The parent of a bare name is empty.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file under a temporary name, on the disk.
fn write_aside(directory: &Path, result: &impl Serialize) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the user's umask decides who else may read it.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.prefix(WRITING).tempfile_in(directory)?;
    let mut text = serde_json::to_vec_pretty(result)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes a new name in a directory survive a power cut.
///
/// # Errors
/// If the disk refuses.
pub fn sync_directory(directory: &Path) -> std::io::Result<()> {
    match std::fs::File::open(directory)?.sync_all() {
        // Some network file systems cannot sync a directory; the file itself is safe.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(train_s: f64, status: Status) -> Sample {
        let timing = Timing { train_s: Some(train_s), ..Timing::default() };
        Sample { status, timing, reason: Some("why".into()), ..Sample::default() }
    }

    #[test]
    fn headline_figures_are_medians_of_the_runs_that_completed() {
        let mut result = ResultFile::default();
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
        assert_eq!(result.reason.as_deref(), Some("1 of 4 runs: timed out: why"));
        assert!(result.intervals.is_empty());
    }

    #[test]
    fn a_noisy_run_that_was_repeated_stays_in_the_file_and_in_no_figure() {
        let mut result = ResultFile::default();
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
    fn six_runs_are_enough_for_an_interval() {
        let mut result = ResultFile::default();
        (1..=6).for_each(|time| result.add_sample(sample(f64::from(time), Status::Measured)));
        let interval = result.intervals["train_s"];
        assert_eq!((interval.low, interval.high), (1.0, 6.0));
        assert_eq!(result.status, Status::Measured);
    }

    #[test]
    fn a_file_is_written_under_a_free_name_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut result = ResultFile { model: "mlp".into(), ..ResultFile::default() };
        let path = folder.path().join("classic_cpu_20240315_143022.json");
        assert!(write_new(&path, &result).unwrap());
        let before = std::fs::read(&path).unwrap();
        result.add_sample(sample(1.0, Status::Measured));
        assert!(!write_new(&path, &result).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), before, "the name was taken");
        replace(&path, &result).unwrap();
        let read: ResultFile = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
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
        let once: ResultFile = serde_json::from_str(&text).unwrap();
        let written = serde_json::to_string(&once).unwrap();
        let twice: ResultFile = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&twice).unwrap(), written);
        assert_eq!(once.config["seed"].as_f64(), digits.parse().ok());
        assert_eq!(once.metrics.training_time_seconds, Some(1.797_693_134_862_315_5e308));
    }

    #[test]
    fn a_folder_that_refuses_leaves_nothing_behind() {
        let missing = Path::new("/nonexistent/folder/x.json");
        assert!(write_new(missing, &ResultFile::default()).is_err());
    }
}
