//! The result file: one JSON object per combination, the product that every report is made from.
//!
//! The first keys are the specification's, with its names, nesting and units, so that a reader
//! which knows only those still reads our files; ours stand beside them. Everything of ours is
//! optional when read, so that files written by the specification's own scripts are read too.
//! `schema/result.schema.json` says the same to other programs.

use crate::file_name::FileName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The version of the keys below. A reader refuses files of a newer one.
pub const SCHEMA_VERSION: u32 = 1;

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
    pub loss: f64,
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
    pub version: Option<String>,
    pub device: Option<String>,
    /// Which code ran, as the trainer says.
    pub path: Option<String>,
    pub threads: Option<usize>,
    pub precision: Option<String>,
    pub parameters: Option<u64>,
    /// A software imitation of a device: not ranked.
    pub software: bool,
}

/// Writes a result file into `directory` under the first free name, so that it is there whole or
/// not at all and no other file is ever replaced: a temporary file, fsync, an exclusive rename,
/// fsync of the directory.
///
/// # Errors
/// If the directory or the disk refuses; nothing is left behind then.
pub fn write(directory: &Path, name: &FileName, result: &ResultFile) -> std::io::Result<PathBuf> {
    let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(directory)?;
    let mut text = serde_json::to_vec_pretty(result)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    let mut attempt = 1;
    loop {
        let path = directory.join(name.attempt(attempt));
        match file.persist_noclobber(&path) {
            Ok(_) => {
                sync_directory(directory)?;
                return Ok(path);
            }
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                file = error.file;
                attempt += 1;
            }
            Err(error) => return Err(error.error),
        }
    }
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    match std::fs::File::open(directory)?.sync_all() {
        // Some network file systems cannot sync a directory; the file itself is safe.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
