//! A job to launch.

use super::limit::MemoryLimit;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Variables that no program gets which the harness starts for somebody else: the files that they name
/// hand words to later steps of a GitHub workflow, which may hold a token, and the others are such tokens.
pub const WITHHELD: [&str; 7] = [
    "GITHUB_ENV",
    "GITHUB_OUTPUT",
    "GITHUB_PATH",
    "GITHUB_STATE",
    "GITHUB_STEP_SUMMARY",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_RUNTIME_TOKEN",
];

/// Takes them out of a command's environment.
pub fn withhold(command: &mut Command) -> &mut Command {
    WITHHELD.iter().fold(command, |command, name| command.env_remove(name))
}

/// One trainer to be run. Strings are as the system has them, not necessarily UTF-8.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Job {
    /// A path, or a name to be searched for in `PATH`. A relative path is meant from the harness's
    /// own working directory, not from [`Job::cwd`].
    pub program: OsString,
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// Variables set on top of the harness's environment, which the trainer inherits but for
    /// [`WITHHELD`].
    pub env: Vec<(OsString, OsString)>,
    /// The trainer's working directory; the harness's own if `None`.
    pub cwd: Option<OsString>,
    /// The wall time after which the whole tree is stopped.
    pub timeout: Option<Duration>,
    /// Memory of the tree at which it is stopped.
    pub memory_limit: Option<MemoryLimit>,
    /// The logical cores that the trainer may run on; all that the harness has if `None`.
    pub cpus: Option<Vec<usize>>,
    /// The binary that understands [`super::LAUNCHER_ARG`].
    #[serde(skip)]
    pub launcher_exe: PathBuf,
}

impl Job {
    /// A job without limits, launched by this very executable.
    ///
    /// # Errors
    /// If the path of this executable cannot be found out.
    pub fn new(program: impl Into<OsString>) -> Result<Self, LaunchError> {
        let launcher_exe = own_program().map_err(LaunchError::OwnPath)?;
        Ok(Job { program: program.into(), launcher_exe, ..Job::default() })
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

/// The harness itself could not do its part; the trainer's own failures are [`super::Exit`]s.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot find out the path of this executable: {0}")]
    OwnPath(std::io::Error),
    #[error("cannot start the launcher {}: {error}", exe.display())]
    Spawn { exe: PathBuf, error: std::io::Error },
    #[error("cannot talk to the launcher: {0}")]
    Channel(std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn arguments_that_are_not_utf8_survive_the_wire() {
        let odd = OsString::from_vec(b"caf\xe9\n\"\0x"[..7].to_vec());
        let mut job = Job::new(odd.clone()).unwrap();
        job.args = vec![odd.clone()];
        job.env = vec![("A".into(), odd.clone())];
        job.cwd = Some(odd.clone());
        job.timeout = Some(Duration::from_millis(1500));
        job.memory_limit = Some(MemoryLimit { bytes: u64::MAX, by: None });
        let line = serde_json::to_string(&job).unwrap();
        assert!(!line.contains('\n'));
        let back: Job = serde_json::from_str(&line).unwrap();
        assert_eq!((back.program, &back.env[0].1), (odd.clone(), &odd));
        assert_eq!((back.timeout, back.memory_limit), (job.timeout, job.memory_limit));
    }
}
