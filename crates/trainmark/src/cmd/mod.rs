//! One verb, one file.

pub mod baseline;
pub mod compare;
pub mod export;
pub mod fetch;
pub mod history;
pub mod machine;
pub mod new;
pub mod node;
pub mod noise;
pub mod report;
pub mod run;
pub mod setup;
pub mod shell;
pub mod show;
pub mod suites;
pub mod task;
pub mod verify;
pub mod what;
