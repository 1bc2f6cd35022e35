//! The contract between the harness and a trainer: environment variables, event lines, files and exit codes. This
//! crate has only types and constants; the harness decides how to use them.
//!
//! A trainer is any program that exits with 0. The suite's rules read its output. A program that finds
//! [`env::PROTOCOL`] in its environment may also print *event lines* on its standard output, each with
//! [`EVENT_PREFIX`] and one JSON object:
//!
//! ```text
//! :::TRAINMARK {"event":"epoch","epoch":1,"loss":0.6118,"seconds":0.08}
//! ```
//!
//! It may write its predictions, in the test set's order and the type that the suite declares, to the file that
//! [`env::PREDICTIONS`] names. The harness then scores them. All times are seconds, and all sizes are bytes. Unknown
//! events and unknown keys are ignored, so that a newer trainer can run under an older harness.
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
