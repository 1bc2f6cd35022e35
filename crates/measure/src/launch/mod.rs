//! Starting one trainer, watching it, and stopping all of it.
//!
//! [`run`] executes the harness's own binary again as a *launcher* ([`LAUNCHER_ARG`]), a small
//! process that starts the trainer, waits for its whole process tree and reports what it cost. The
//! launcher is there for three reasons. Its memory is small, and a child's peak resident memory as
//! the kernel counts it starts at its parent's. It has exactly one tree of children, so that its
//! `RUSAGE_CHILDREN` is that tree's. And when the harness dies, by whatever signal, the launcher
//! notices at once and kills the tree.

mod cancel;
mod job;
mod launcher;
mod limit;
mod outcome;
mod output;
mod start;
mod supervise;
mod tree;
mod watch;

pub use crate::process::LAUNCHER_ARG;
pub use cancel::{CancelToken, STOPPED_BY_USER};
pub use job::{Job, LaunchError, Stream, WITHHELD, own_program, withhold};
pub use launcher::launcher_main;
pub use limit::{LimitedBy, MemoryLimit};
pub use outcome::{Exit, Outcome, Signal, Stragglers};
pub use supervise::run;
