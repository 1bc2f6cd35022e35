//! Small programs that the harness asks something: git, compilers, Slurm's commands. None is waited for without an
//! end: each may hang, on a file system that is gone for example.

use crate::launch::withhold;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// For those that look at files of this machine.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For those that ask another machine, or load much from a slow disk.
pub const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether one has ended.
const INTERVAL: Duration = Duration::from_millis(5);

/// Runs a program and returns how it ended and what it printed by then. It prints into files: with a pipe, whatever it
/// leaves behind would be waited for too.
///
/// # Errors
/// If it does not start. If it does not end in time it is killed, and the error's kind is [`io::ErrorKind::TimedOut`].
pub fn ask(command: &mut Command, patience: Duration) -> io::Result<Output> {
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    withhold(command).stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut child = command.spawn()?;
    let Some(status) = ended(&mut child, patience)? else {
        let _ = child.kill(); // it may have ended just now
        // Not here: one that hangs in the kernel does not end.
        std::thread::spawn(move || child.wait());
        let words = format!("it did not answer within {} s", patience.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, words));
    };
    Ok(Output { status, stdout: written(stdout)?, stderr: written(stderr)? })
}

/// Waits for a child, but not for longer than that; `None` if it still runs.
///
/// # Errors
/// If the system does not tell.
pub fn ended(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait()? {
            None if Instant::now() < deadline => std::thread::sleep(INTERVAL),
            status => return Ok(status),
        }
    }
}

/// What is in a file now: something may write on.
fn written(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = file.metadata()?.len();
    file.rewind()?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn what_a_program_leaves_behind_is_not_waited_for() {
        let began = Instant::now();
        let output = ask(&mut shell("sleep 30 & echo out; echo err >&2; exit 3"), PATIENCE);
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert!(began.elapsed() < PATIENCE);
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_that_is_said() {
        let error = ask(&mut shell("exec sleep 30"), Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "it did not answer within 1 s");
    }
}
