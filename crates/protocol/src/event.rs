//! Event lines: what a trainer reports while it runs.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What every event line begins with, at the start of a line.
pub const EVENT_PREFIX: &str = ":::TRAINMARK ";

/// One thing that happened in a trainer. All durations are seconds on the trainer's own monotonic
/// clock; a device is synchronised before each clock reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First of all: who runs, on what.
    Started {
        /// [`crate::VERSION`] of the trainer.
        protocol: u32,
        /// The trainer's own version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// The device's name, for example the CPU model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Which code ran, for example `avx512, zero pixels skipped`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Threads that compute.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        threads: Option<usize>,
        /// Arithmetic of the training step: `float32`, `tf32`, `bf16`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        precision: Option<String>,
        /// Number of trained scalars.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parameters: Option<u64>,
        /// Whether the step was compiled or captured as a whole (a graph, a jit).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compiled: Option<bool>,
        /// A software device that imitates a real one; such rows are not ranked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        software: Option<bool>,
    },
    /// The data that the trainer really read.
    Dataset {
        name: String,
        /// SHA-256 of the dataset as METHOD.md defines it, if the trainer computed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    /// Everything that comes before the first training step is done.
    Ready {
        /// Loading, initial weights, device start.
        setup_s: f64,
        /// Compilation and warm-up, if any; not part of `setup_s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compile_s: Option<f64>,
    },
    /// One epoch ended.
    Epoch {
        /// Counted from 1.
        epoch: u32,
        /// Mean cross-entropy over the epoch's samples, each taken at its own step, in nats.
        loss: f64,
        seconds: f64,
        /// Test accuracy after this epoch, if the trainer evaluated (off the clock).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accuracy_percent: Option<f64>,
    },
    /// The timed region ended: all epochs, nothing else.
    Trained {
        train_s: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// Device time of the same region, from device events.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_s: Option<f64>,
        /// Floating-point operations of the region as if nothing were skipped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dense_flop: Option<f64>,
        /// Floating-point operations that were really carried out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        executed_flop: Option<f64>,
        /// Peak of the trainer's own allocations on the device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_peak_bytes: Option<u64>,
    },
    /// The test set was predicted.
    Evaluated { eval_s: f64, accuracy_percent: f64 },
    /// An event of a newer contract.
    #[serde(other)]
    Unknown,
}

/// Why a line that begins like an event is none.
#[derive(Debug)]
pub struct EventError(serde_json::Error);

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an event: {}", self.0)
    }
}

impl std::error::Error for EventError {}

impl Event {
    /// Reads a line of a trainer's output: `None` if it is no event line.
    ///
    /// # Errors
    /// If the line begins like an event but is not JSON, or lacks a key that the event needs.
    pub fn parse(line: &str) -> Option<Result<Event, EventError>> {
        let json = line.strip_prefix(EVENT_PREFIX)?;
        Some(serde_json::from_str(json).map_err(EventError))
    }
}

/// The whole line, without the newline.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{EVENT_PREFIX}{json}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_line() {
        let event = Event::Epoch { epoch: 3, loss: 0.25, seconds: 1.5, accuracy_percent: None };
        let line = event.to_string();
        assert_eq!(line, r#":::TRAINMARK {"event":"epoch","epoch":3,"loss":0.25,"seconds":1.5}"#);
        assert_eq!(Event::parse(&line).unwrap().unwrap(), event);
    }

    #[test]
    fn other_lines_are_not_events_and_broken_ones_are_errors() {
        assert!(Event::parse("Epoch 1/5  loss 0.61").is_none());
        assert!(Event::parse(":::TRAINMARK {\"event\":\"epoch\"").unwrap().is_err());
        assert!(Event::parse(":::TRAINMARK {\"event\":\"epoch\",\"loss\":1}").unwrap().is_err());
    }

    #[test]
    fn events_and_keys_from_the_future_are_ignored() {
        let unknown = Event::parse(":::TRAINMARK {\"event\":\"tea\",\"cups\":2}").unwrap().unwrap();
        assert_eq!(unknown, Event::Unknown);
        let more = ":::TRAINMARK {\"event\":\"ready\",\"setup_s\":1.0,\"mood\":\"calm\"}";
        assert!(matches!(Event::parse(more).unwrap().unwrap(), Event::Ready { .. }));
    }
}
