//! What the user sees while a suite runs: a bar with the time left on a terminal, a line per
//! combination when piped. All of it goes to standard error.

use crate::report::console::one_line;
use crate::result::{ResultFile, Status};
use crate::transcript::Transcript;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// The progress of one run.
pub struct Progress {
    bar: ProgressBar,
    total: usize,
    done: usize,
    label: String,
    colour: bool,
}

impl Progress {
    /// For so many combinations.
    pub fn new(total: usize) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let target = match terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        let style =
            ProgressStyle::with_template("{bar:20} {pos}/{len} {msg} [{elapsed}, {eta} left]");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Progress { bar, total, done: 0, label: String::new(), colour }
    }

    /// A combination begins.
    pub fn begin(&mut self, label: &str) {
        label.clone_into(&mut self.label);
        self.bar.set_message(self.label.clone());
    }

    /// The trainer said something.
    pub fn epoch(&mut self, said: &Transcript, epochs: u64) {
        if let Some(last) = said.epochs.last() {
            let message =
                format!("{} epoch {}/{epochs} loss {:.4}", self.label, last.epoch, last.loss);
            if message != self.bar.message() {
                self.bar.set_message(message);
            }
        }
    }

    /// A combination ended.
    pub fn end(&mut self, result: &ResultFile, file: &Path) {
        self.done += 1;
        self.bar.inc(1);
        let line = format!(
            "[{}/{}] {}: {}",
            self.done,
            self.total,
            self.label,
            self.outcome(result, file)
        );
        match self.bar.is_hidden() {
            true => eprintln!("{line}"),
            false => self.bar.println(line),
        }
    }

    fn outcome(&self, result: &ResultFile, file: &Path) -> String {
        let status = self.paint(result.status);
        let reason = one_line(result.reason.as_deref().unwrap_or_default());
        if !result.status.completed() {
            return format!("{status} ({reason})");
        }
        let seconds =
            |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.2} s"));
        let accuracy = result.metrics.test_accuracy_percent;
        let accuracy = accuracy.map_or("?".to_owned(), |percent| format!("{percent:.2} %"));
        let trained = match result.timing.train_s {
            Some(train_s) => format!("trained in {}", seconds(Some(train_s))),
            None => format!("ran for {}", seconds(result.timing.wall_s)),
        };
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        format!("{status}, {trained}, accuracy {accuracy}{reason} -> {}", file.display())
    }

    fn paint(&self, status: Status) -> String {
        if !self.colour {
            return status.to_string();
        }
        let code = match status {
            Status::Measured => 32,
            Status::NotConverged | Status::Unavailable | Status::Interrupted => 33,
            _ => 31,
        };
        format!("\x1b[{code}m{status}\x1b[0m")
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
