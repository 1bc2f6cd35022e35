//! The command line. It has no logic: `cmd` decides what the words mean.

use crate::cmd;
use clap::{Parser, Subcommand};

/// The benchmark suite for neural-network training.
///
/// `trainmark run` builds the trainers and trains every row (trainer x model x backend x configuration) with one
/// seed. It measures time, memory and quality from outside the process, and writes one JSON file for each row.
/// `trainmark report` makes reports from these files.
#[derive(Debug, Parser)]
#[command(name = "trainmark", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build the trainers, train every row, and write one result file for each
    Run(Box<cmd::run::Args>),
    /// Train and compare programs without a suite file
    Time(cmd::new::TimeArgs),
    /// Write a commented suite file for programs that you have
    New(cmd::new::NewArgs),
    /// Make reports from result files: a table, JSON, Markdown, HTML, charts
    Report(cmd::report::Args),
    /// Measure the smallest difference that this machine can show
    Noise(Box<cmd::noise::Args>),
    /// Convert result files into the formats of other programs: CSV, Parquet, OpenMetrics and more
    Export(cmd::export::Args),
    /// Show one result file in full
    Show(cmd::show::Args),
    /// Show each row over time, and where it changed
    History(cmd::history::Args),
    /// Compare two sets of result files, and fail if something became worse
    Compare(cmd::compare::Args),
    /// Keep sets of result files under a name, to compare with
    Baseline(cmd::baseline::Args),
    /// Measure the speed of this machine: multiply-adds and bandwidths, for rooflines
    Machine(cmd::machine::Args),
    /// Run one task of an order; executors start this command on other machines
    #[command(hide = true)]
    Task(cmd::task::Args),
    /// Run one node's part of a row: what srun starts on each node
    #[command(hide = true)]
    Node(cmd::node::Args),
    /// Make trainers ready to run: locked Python environments, release builds
    Setup(cmd::setup::Args),
    /// Compare ten training steps of every row with a float64 reference
    Verify(Box<cmd::verify::Args>),
    /// List the built-in suites and their purposes
    Suites(cmd::suites::Args),
    /// Download the data of a built-in task or of a suite
    Fetch(cmd::fetch::Args),
    /// Print completions for a shell
    Completions(cmd::shell::CompletionsArgs),
    /// Print the manual page
    Man(cmd::shell::ManArgs),
}
