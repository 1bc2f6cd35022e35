//! `mnist-classic`, Trainmark's own trainer: argv -> timed run -> lines and events.
#![forbid(unsafe_code)]

mod backends;
mod checkpoint;
mod cli;
mod failure;
mod output;
mod run;
mod verify;
mod weights;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run::run(&cli::Cli::parse()) {
        Ok(()) => ExitCode::from(protocol::exit::SUCCESS),
        Err(failure) => failure.report(),
    }
}
