//! What became of a row or of one of its samples.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Each status with its meaning; [`Status::words`] is for people, [`Status::key`] for files.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Trained, measured, and at its target where there is one.
    #[default]
    Measured,
    /// Trained and measured, but short of its target: never ranked.
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
    /// Ended well without the metric that the task calls its quality.
    #[serde(alias = "no_accuracy")]
    NoQuality,
    /// Its claim contradicts its predictions, or its clock exceeds ours.
    Misreported,
    /// Its time implies more operations per second than the hardware can do.
    Implausible,
}

impl Status {
    /// The word for files and the words for people.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Status::Measured => ("measured", "measured"),
            Status::NotConverged => ("not_converged", "not converged"),
            Status::Unavailable => ("unavailable", "unavailable"),
            Status::BuildFailed => ("build_failed", "build failed"),
            Status::NotStarted => ("not_started", "not started"),
            Status::Failed => ("failed", "failed"),
            Status::Crashed => ("crashed", "crashed"),
            Status::OutOfMemory => ("out_of_memory", "out of memory"),
            Status::TimedOut => ("timed_out", "timed out"),
            Status::Interrupted => ("interrupted", "interrupted"),
            Status::NoOutput => ("no_output", "no output"),
            Status::Garbled => ("garbled", "garbled output"),
            Status::NoQuality => ("no_quality", "no quality"),
            Status::Misreported => ("misreported", "misreported"),
            Status::Implausible => ("implausible", "implausible"),
        }
    }

    /// In words, for tables.
    pub fn words(self) -> &'static str {
        self.names().1
    }

    /// The word in result files.
    pub fn key(self) -> &'static str {
        self.names().0
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
