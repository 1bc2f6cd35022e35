//! One verb, one file.

pub mod run;
