//! `trainmark`: dispatch, one-line errors, exit code.
#![forbid(unsafe_code)]

use clap::Parser;
use measure::launch;
use std::process::ExitCode;
use trainmark::cli::{Cli, Verb};
use trainmark::cmd;

fn main() -> ExitCode {
    // Before anything else: the launcher must stay as small as it can.
    if std::env::args_os().nth(1).is_some_and(|word| word == launch::LAUNCHER_ARG) {
        return launch::launcher_main();
    }
    let well = |()| protocol::exit::SUCCESS;
    let done = match Cli::parse().verb {
        Verb::Run(args) => cmd::run::run(&args),
        Verb::Report(args) => cmd::report::run(args).map(well),
        Verb::Noise(args) => cmd::noise::run(&args),
        Verb::Export(args) => cmd::export::run(args).map(well),
        Verb::Show(args) => cmd::show::run(&args).map(well),
        Verb::History(args) => cmd::history::run(args).map(well),
        Verb::Compare(args) => cmd::compare::run(args),
        Verb::Baseline(args) => cmd::baseline::run(args).map(well),
        Verb::Machine(args) => cmd::machine::run(&args).map(well),
        Verb::Node(args) => cmd::node::run(args),
        Verb::Task(args) => cmd::task::run(&args),
        Verb::Setup(args) => cmd::setup::run(&args),
        Verb::Verify(args) => cmd::verify::run(&args),
        Verb::Suites(args) => cmd::suites::run(&args).map(well),
        Verb::Fetch(args) => cmd::fetch::run(args).map(well),
        Verb::New(args) => cmd::new::new(&args).map(well),
        Verb::Time(args) => cmd::new::time(&args),
        Verb::Completions(args) => cmd::shell::completions(&args).map(well),
        Verb::Man(args) => cmd::shell::man(&args).map(well),
    };
    ExitCode::from(done.unwrap_or_else(|error| {
        // It may quote what a trainer or a file says.
        eprintln!("error: {}", report::console::one_line(&format!("{error:#}")));
        protocol::exit::FAILURE
    }))
}
