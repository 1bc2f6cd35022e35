//! Starts a trainer's process tree, stops all of it, and accounts for what it used and in what
//! surroundings. It knows no suite, no plan and no record.
//!
//! The only unsafe code is in `account`, on macOS: system calls that have no safe wrapper elsewhere.
#![deny(unsafe_code)]

pub mod account;
mod attempt;
pub mod environment;
mod group;
pub mod helper;
pub mod launch;
pub mod machine;
pub mod meter;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))] // other systems have no /proc
mod process;
pub mod provenance;
pub mod scratch;
pub mod secret;
pub mod surroundings;
pub mod text;

pub use attempt::{Attempt, attempt};
