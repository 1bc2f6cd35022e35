//! Reports: result files in, one [`Summary`] in the middle, one file per format out.
//!
//! [`read`] finds and parses the files ([`headline`] is one of them, [`collection`] all of them, in
//! little memory); [`Summary`] decides what may be compared with what ([`compare`]); every format
//! ([`json`], [`markdown`], [`console`], [`html`], the files of [`chart`]) is a pure function of the
//! summary. A new format is one more file here, and never reads anything else. [`exhibit`] is the
//! part of a summary that can be shown row by row, for those that draw.

pub mod bmf;
pub mod chart;
pub mod collection;
mod columns;
pub mod compare;
pub mod console;
pub mod csv;
pub mod exhibit;
pub mod full;
pub mod headline;
pub mod html;
pub mod json;
pub mod jsonl;
pub mod markdown;
pub mod mlperf;
mod notes;
pub mod old_result;
pub mod openmetrics;
pub mod parquet;
mod plain;
pub mod read;
pub mod summary;
mod tally;
mod text;
mod verified;

pub use collection::Collection;
pub use compare::Reference;
pub use summary::{Options, Summary};
