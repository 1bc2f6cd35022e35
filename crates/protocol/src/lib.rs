//! The contract between the harness and a trainer: what a trainer is told, what it may say, and
//! what its exit code means. Types and constants only; the harness decides what they are worth.
//!
//! A trainer is any program that exits with 0; the suite's rules read what it prints. One that finds
//! [`env::PROTOCOL`] in its environment may also print *event lines* on its standard output, each
//! [`EVENT_PREFIX`] and one JSON object:
//!
//! ```text
//! :::TRAINMARK {"event":"epoch","epoch":1,"loss":0.6118,"seconds":0.08}
//! ```
//!
//! and write its predictions, in the test set's order and the type that the suite declares, to the file that
//! [`env::PREDICTIONS`] names. The harness then scores them itself. All times are seconds, all sizes are bytes. Unknown events and unknown keys are ignored, so that a newer trainer can
//! run under an older harness.
#![forbid(unsafe_code)]

pub mod drivers;
mod event;
pub mod exit;
pub mod grade;
mod probe;
pub mod verify;

pub use event::{EVENT_PREFIX, Event, EventError, Metrics, Said, quote_not_finite, split_rank};
pub use probe::{BackendProbe, DeviceProbe, Probe};

/// The version of this contract. It changes when an old trainer's lines would be misread.
pub const VERSION: u32 = 2;

/// Names of the environment variables that the harness sets for a trainer.
pub mod env {
    /// Set to [`crate::VERSION`] when event lines are understood.
    pub const PROTOCOL: &str = "TRAINMARK_PROTOCOL";
    /// The file into which the predictions go.
    pub const PREDICTIONS: &str = "TRAINMARK_PREDICTIONS";
    /// The file or folder that holds the task's data, if it has any.
    pub const DATA: &str = "TRAINMARK_DATA";
    /// The folder of a verification: [`crate::verify`].
    pub const VERIFY: &str = "TRAINMARK_VERIFY";
}
