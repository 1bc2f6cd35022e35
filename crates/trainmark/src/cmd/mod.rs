//! One verb, one file.

pub mod baseline;
pub mod compare;
pub mod fetch;
pub mod machine;
pub mod noise;
pub mod report;
pub mod run;
pub mod task;
