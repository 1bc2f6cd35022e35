//! The harness: plans the rows of a suite, launches one trainer at a time, measures it from
//! outside, scores its predictions, writes one result file per row and reports on them.
//! It knows no backend and no model by name and never links a trainer.
#![forbid(unsafe_code)]

/// The standard library's ends the process where nobody reads standard error any more: a closed terminal
/// or `2>&1 | head` would take hours of training with it.
macro_rules! eprintln {
    ($($words:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($words)*);
    }};
}

pub mod builtin;
pub mod campaign;
pub mod cli;
pub mod cmd;
pub mod command;
pub mod content;
pub mod curve;
pub mod data;
pub mod executor;
pub mod expression;
pub mod facts;
pub mod identity;
pub mod judge;
pub mod mllog;
pub mod nodes;
pub mod plan;
pub mod printed;
pub mod progress;
pub mod ranks;
pub mod rules;
pub mod runner;
pub mod sample;
pub mod schedule;
pub mod score;
pub mod seal;
pub mod setup;
pub mod share;
pub mod slurm;
pub mod suite;
pub mod task;
pub mod template;
pub mod trainer;
pub mod transcript;
pub mod units;
pub mod verify;
