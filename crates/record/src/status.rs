//! The status of a row or of one of its samples.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Each status with its meaning; [`Status::words`] is for people, serde's name for files.
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
    /// Stopped by a signal or by `--run-timeout`.
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
            Status::NoQuality => "no quality",
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
