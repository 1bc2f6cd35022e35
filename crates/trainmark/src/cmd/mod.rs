//! One verb, one file.

pub mod fetch;
pub mod report;
pub mod run;
