//! Starting one trainer, watching it, and stopping all of it.
//!
//! [`run`] executes the harness's own binary again as a *launcher* ([`LAUNCHER_ARG`]), a small
//! process that starts the trainer, waits for its whole process tree and reports what it cost. The
//! launcher is there for three reasons. Its memory is small, and a child's peak resident memory as
//! the kernel counts it starts at its parent's. It has exactly one tree of children, so that its
//! `RUSAGE_CHILDREN` is that tree's. And when the harness dies, by whatever signal, the launcher
//! notices at once and kills the tree.

mod cancel;
mod launcher;
mod memory;
mod outcome;
mod output;
mod start;
mod supervise;
mod tree;
mod wire;

pub use cancel::{CancelToken, STOPPED_BY_USER};
pub use launcher::launcher_main;
pub use memory::{LimitedBy, MemoryLimit};
pub use outcome::{Exit, Outcome, Signal, Stragglers};
pub use supervise::run;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first argument that turns the harness's binary into a launcher. `main` looks for it before
/// anything else, so that nothing that the harness sets up counts as the trainer's.
pub const LAUNCHER_ARG: &str = "__launch";

/// One trainer to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// A path, or a name to be searched for in `PATH`. A relative path is meant from the harness's
    /// own working directory, not from [`Job::cwd`].
    pub program: PathBuf,
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// Variables set on top of the harness's environment, which the trainer inherits.
    pub env: Vec<(OsString, OsString)>,
    /// The trainer's working directory; the harness's own if `None`.
    pub cwd: Option<PathBuf>,
    /// The wall time after which the whole tree is stopped.
    pub timeout: Option<Duration>,
    /// Memory of the tree at which it is stopped.
    pub memory_limit: Option<MemoryLimit>,
    /// The logical cores that the trainer may run on; all that the harness has if `None`.
    pub cpus: Option<Vec<usize>>,
    /// The binary that understands [`LAUNCHER_ARG`].
    pub launcher_exe: PathBuf,
}

impl Job {
    /// A job without limits, launched by this very executable.
    ///
    /// # Errors
    /// If the path of this executable cannot be found out.
    pub fn new(program: impl Into<PathBuf>) -> Result<Self, LaunchError> {
        let launcher_exe = own_program().map_err(LaunchError::OwnPath)?;
        Ok(Job {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            timeout: None,
            memory_limit: None,
            cpus: None,
            launcher_exe,
        })
    }
}

/// This program's own file. Linux keeps a way to one that was replaced while it runs: whoever builds
/// anew during a long run does not end it.
///
/// # Errors
/// If the system does not tell.
pub fn own_program() -> std::io::Result<PathBuf> {
    let link = Path::new("/proc/self/exe");
    let path = std::env::current_exe()?;
    Ok(if cfg!(target_os = "linux") && !path.exists() { link.to_owned() } else { path })
}

/// One of a trainer's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// The harness itself could not do its part; the trainer's own failures are [`Exit`]s.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot find out the path of this executable: {0}")]
    OwnPath(#[source] std::io::Error),
    #[error("cannot start the launcher {}: {source}", exe.display())]
    Spawn { exe: PathBuf, source: std::io::Error },
    #[error("cannot talk to the launcher: {0}")]
    Channel(#[source] std::io::Error),
}
