//! Reports: every format is a pure function of a summary, a comparison, a history or a record of
//! `crates/record`, which decides everything that is said. Nothing here reads a file or judges a row.
//!
//! [`table`] is the one list of columns; a new format is one more file beside the others.
#![forbid(unsafe_code)]

pub mod bmf;
pub mod chart;
pub mod compare;
pub mod console;
mod exhibit;
pub mod export;
pub mod full;
mod grid;
pub mod history;
pub mod html;
pub mod json;
pub mod markdown;
mod notes;
pub mod openmetrics;
mod panel;
#[cfg(feature = "parquet")]
pub mod parquet;
mod style;
pub mod table;
pub mod text;

pub use exhibit::Exhibit;
