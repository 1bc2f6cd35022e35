//! Runs the commands of a set-up, and finds in their output why one failed.

use crate::command::Command;
use files::Kind;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Bytes at the end of a log that are looked at.
const LOG_END: u64 = 1 << 20;

/// Why a set-up did not succeed: one line.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not to be had on this machine.
    #[error("{0}")]
    Unavailable(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

/// Runs the commands of a set-up.
pub struct Runner {
    /// Where their output goes; standard error if there is none.
    pub log: Option<PathBuf>,
}

impl Runner {
    /// # Errors
    /// If it does not start or ends badly.
    pub fn run(&self, command: &Command) -> Result<(), SetupError> {
        let shown = command.shown();
        let (output, errors) = self.streams()?;
        let status =
            command.process().stdout(output).stderr(errors).status().map_err(|error| {
                SetupError::Failed(format!("`{shown}` cannot be started: {error}"))
            })?;
        if status.success() {
            return Ok(());
        }
        let said = self.log.as_deref().map(last_words).unwrap_or_default();
        let log = self.log.as_ref().map_or(String::new(), |log| format!("; see {}", log.display()));
        let reason = format!("`{}` ended with {status}: {said}{log}", shorten(&shown));
        match said.contains("No matching distribution found") && !self.is_offline() {
            true => Err(SetupError::Unavailable(said)),
            false => Err(SetupError::Failed(reason)),
        }
    }

    fn streams(&self) -> Result<(Stdio, Stdio), SetupError> {
        let Some(log) = &self.log else {
            return Ok((std::io::stderr().into(), Stdio::inherit()));
        };
        let open = || -> std::io::Result<(Stdio, Stdio)> {
            let file = files::append(log)?;
            Ok((file.try_clone()?.into(), file.into()))
        };
        open().map_err(|error| SetupError::Failed(format!("{}: {error}", log.display())))
    }

    /// Whether pip said that it reached nobody: it then finds no version of anything either.
    fn is_offline(&self) -> bool {
        let log = self.log.as_deref().map(text_of);
        log.is_some_and(|log| {
            log.contains("connection broken") || log.contains("Failed to establish")
        })
    }
}

/// The line of a log that says what went wrong: the last that begins like an error, else the last.
fn last_words(log: &Path) -> String {
    let text = text_of(log);
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| line.to_ascii_lowercase().starts_with("error");
    let line = lines().find(is_error).or_else(|| lines().next()).unwrap_or("it printed nothing");
    shorten(line)
}

/// The end of a log, which is what tells why a command failed.
fn text_of(log: &Path) -> String {
    let bytes = files::read_end(log, Kind::LOG, LOG_END).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_what_went_wrong_is_found() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text = "Collecting x\nERROR: Hash mismatch\n  Expected aa\n  Got bb\n\n";
        std::fs::write(log.path(), text).unwrap();
        assert_eq!(last_words(log.path()), "ERROR: Hash mismatch");
        std::fs::write(log.path(), "one\ntwo\n").unwrap();
        assert_eq!(last_words(log.path()), "two");
    }
}
