//! Runs the commands of a set-up, and finds in their output why one failed.

use crate::command::Command;
use anyhow::{Context, Result, bail};
use measure::launch::CancelToken;
use measure::text::visible;

/// Characters of a line or a command that a reason shows.
const SHOWN: usize = 300;

/// Why a set-up is not to be had on this machine: one line.
#[derive(Debug, thiserror::Error)]
#[error("unavailable: {0}")]
pub struct Unavailable(pub String);

/// What tells of a failure, among all that a command printed.
#[derive(Default)]
struct Words {
    /// The last line that begins like an error, and the last line.
    error: Option<String>,
    last: Option<String>,
    /// Whether pip said that it reached nobody: it then finds no version of anything either.
    offline: bool,
}

impl Words {
    fn hear(&mut self, line: &str) {
        let line = line.trim();
        self.offline |= line.contains("connection broken") || line.contains("Failed to establish");
        if line.to_ascii_lowercase().starts_with("error") {
            self.error = Some(visible(line, SHOWN).into_owned());
        }
        self.last = Some(visible(line, SHOWN).into_owned());
    }

    fn reason(self) -> String {
        self.error.or(self.last).unwrap_or_else(|| "it printed nothing".to_owned())
    }
}

/// Runs a command; `hear` is told each line that it prints, and `log` is where a person finds them.
///
/// # Errors
/// If it does not start or ends badly, or if it is cancelled.
pub fn run(
    command: &Command,
    cancel: &CancelToken,
    hear: &mut dyn FnMut(&str),
    log: &str,
) -> Result<()> {
    let shown = command.shown();
    let mut words = Words::default();
    let status = command.overhear(cancel, &mut |line| {
        words.hear(line);
        hear(line);
    });
    let status = status.with_context(|| format!("`{shown}` cannot be started"))?;
    if let Some(reason) = cancel.reason() {
        bail!(reason);
    }
    if status.success() {
        return Ok(());
    }
    let (offline, said) = (words.offline, words.reason());
    if said.contains("No matching distribution found") && !offline {
        bail!(Unavailable(said));
    }
    bail!("`{}` ended with {status}: {said}{log}", visible(&shown, SHOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_what_went_wrong_is_found() {
        let reason = |lines: &[&str]| {
            let mut words = Words::default();
            lines.iter().for_each(|line| words.hear(line));
            words.reason()
        };
        let pip = ["Collecting x", "ERROR: Hash mismatch", "  Expected aa", "  Got bb"];
        assert_eq!(reason(&pip), "ERROR: Hash mismatch");
        assert_eq!(reason(&["one", "two"]), "two");
        assert_eq!(reason(&[]), "it printed nothing");
    }
}
