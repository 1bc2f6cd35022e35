//! The command line. No logic: what the words mean is decided in `cmd`.

use crate::cmd;
use clap::{Parser, Subcommand};

/// The benchmark suite for neural-network training.
///
/// `trainmark run` builds and trains every row (trainer x model x backend x configuration) under one seed,
/// measures time, memory and accuracy from outside, and writes one JSON file for each;
/// `trainmark report` turns them into JSON and Markdown.
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
    /// Make one JSON report, and a Markdown one if wanted, from a folder of result files
    Report(cmd::report::Args),
    /// Run one row against itself: what difference can this machine show now?
    Noise(Box<cmd::noise::Args>),
    /// Turn result files into the formats of other programs: CSV, Parquet, OpenMetrics and more
    Export(cmd::export::Args),
    /// Show one result file in full
    Show(cmd::show::Args),
    /// Show each row over time, and where it changed
    History(cmd::history::Args),
    /// Compare two sets of result files, and fail if something became worse
    Compare(cmd::compare::Args),
    /// Keep sets of result files by name, to compare with
    Baseline(cmd::baseline::Args),
    /// Measure what this machine can do: multiply-adds and bandwidths, for rooflines
    Machine(cmd::machine::Args),
    /// Run one task of an order: what executors start on other machines
    #[command(hide = true)]
    Task(cmd::task::Args),
    /// Run one node's part of a row: what srun starts on each node
    #[command(hide = true)]
    Node(cmd::node::Args),
    /// Make trainers ready to run: locked Python environments, release builds
    Setup(cmd::setup::Args),
    /// Compare ten training steps of every row with a float64 reference
    Verify(Box<cmd::verify::Args>),
    /// List the built-in suites and what each is for
    Suites(cmd::suites::Args),
    /// Download a task's data: what a suite declares, or the built-in task's into the user's cache
    Fetch(cmd::fetch::Args),
    /// Print completions for a shell
    Completions(cmd::shell::CompletionsArgs),
    /// Print the manual page
    Man(cmd::shell::ManArgs),
}
