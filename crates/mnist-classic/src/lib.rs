//! Trainmark's own trainer: argv -> timed run -> lines and events. Two programs of the same content:
//! `trainmark-native` and, by its old name, `mnist-classic`.
#![forbid(unsafe_code)]

#[cfg(any(test, not(all(feature = "cuda", feature = "metal"))))]
mod absent;
pub mod backends;
mod checkpoint;
mod cli;
mod failure;
mod gpt;
mod output;
mod run;
mod verify;
mod weights;

use clap::Parser;
use std::process::ExitCode;

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    match run::run(&cli::Cli::parse()) {
        Ok(()) => ExitCode::from(protocol::exit::SUCCESS),
        Err(failure) => failure.report(),
    }
}
