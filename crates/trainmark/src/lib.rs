//! The harness: plans the combinations of a suite, launches one trainer at a time, measures it from
//! outside, scores its predictions, writes one result file per combination and reports on them.
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
/// As [`eprintln!`].
macro_rules! eprint {
    ($($words:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::write!(::std::io::stderr(), $($words)*);
    }};
}

/// What starts and measures; callers name `measure` directly as they are touched.
pub use measure::{
    environment, launch, machine, meter, meters, provenance, scratch, secret, surroundings,
};

pub mod campaign;
pub mod capability;
pub mod change;
pub mod cli;
pub mod cmd;
pub mod compare;
pub mod data;
pub mod execute;
pub mod executor;
pub mod file_name;
pub mod history;
pub mod identity;
pub mod journal;
pub mod judge;
pub mod live;
pub mod mllog;
pub mod noise;
pub mod plan;
pub mod progress;
pub mod race;
pub mod report;
pub mod result;
pub mod roofline;
pub mod schedule;
pub mod score;
pub mod setup;
pub mod slurm;
pub mod state;
pub mod stats;
pub mod suite;
pub mod trainer;
pub mod transcript;
pub mod trust;
pub mod verify;
