//! The record of a training and all that follows from records alone: statistics, comparisons, verdicts.
//! It knows no suite, starts nothing and prints nothing.
#![forbid(unsafe_code)]

pub mod change;
pub mod comparison;
pub mod consistency;
pub mod figures;
pub mod file_name;
pub mod fingerprint;
pub mod folder;
pub mod history;
pub mod job;
pub mod journal;
pub mod name;
pub mod noise;
pub mod noise_store;
pub mod number;
pub mod old;
pub mod race;
mod reference;
mod result;
pub mod roofline;
mod sample;
pub mod scaling;
pub mod state;
pub mod stats;
mod status;
pub mod summary;
pub mod task;
pub mod verdict;
pub mod verification;
pub mod write;

pub use reference::Reference;
pub use result::{
    DatasetRecord, MeterRecord, Metrics, Record, RecordError, RunIdentity, SCHEMA_VERSION,
    Throughput,
};
pub use sample::{CurvePoint, LimitsRecord, NodeSample, RankRecord, Sample, Timing, TrainerRecord};
pub use status::Status;
pub use summary::Summary;
pub use verdict::Verdict;
