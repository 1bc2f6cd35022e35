//! The result file: one JSON object per combination, the product that every report is made from.
//!
//! The first keys are the specification's, with its names, nesting and units, so that a reader
//! which knows only those still reads our files; ours stand beside them. Everything of ours is
//! optional when read, so that files written by the specification's own scripts are read too.
//! `schema/result.schema.json` says the same to other programs.

use crate::environment::Environment;
use crate::noise::NoiseFloor;
use crate::race::Race;
use crate::roofline::Roofline;
use crate::stats::Interval;
use crate::surroundings::Surroundings;
pub use measure::meter::Reading as MeterRecord;
pub use record::Status;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The version of the keys below. A reader refuses files of a newer one.
pub const SCHEMA_VERSION: u32 = 2;

/// What the name of a file begins with that is being written. Whoever dies then leaves it behind.
pub const WRITING: &str = ".writing-";

/// Bytes in the megabyte of `peak_memory_mb`.
pub const MEGABYTE: f64 = 1e6;

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
    /// The samples that figures are computed from.
    pub fn counted(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| !sample.superseded)
    }
}

/// For the old reports, until they read records.
impl From<&record::Record> for ResultFile {
    fn from(record: &record::Record) -> ResultFile {
        let json = serde_json::to_value(record).unwrap_or_default();
        serde_json::from_value(json).unwrap_or_default()
    }
}
