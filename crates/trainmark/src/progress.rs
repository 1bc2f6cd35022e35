//! What the user sees while a suite runs: a bar with the time left on a terminal, a line per
//! combination when piped. All of it goes to standard error.

use crate::campaign::Row;
use crate::execute::Round;
use crate::plan::Case;
use crate::report::console::one_line;
use crate::result::{ResultFile, Status};
use crate::schedule::Schedule;
use crate::suite::Suite;
use crate::transcript::Transcript;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// The progress of one run.
pub struct Progress<'a> {
    suite: &'a Suite,
    bar: ProgressBar,
    /// Runs in all, as far as is known; rounds until an interval is narrow have no end in sight.
    total: String,
    rounds: bool,
    done: usize,
    label: String,
    colour: bool,
}

impl<'a> Progress<'a> {
    /// For so many combinations in these rounds.
    pub fn new(suite: &'a Suite, combinations: usize, schedule: &Schedule) -> Progress<'a> {
        let rounds = schedule.repeats + u32::from(schedule.warm_up);
        let total = combinations as u64 * u64::from(rounds);
        let terminal = std::io::stderr().is_terminal();
        let target = match terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style =
            ProgressStyle::with_template("{bar:20} {pos}/{len} {msg} [{elapsed}, {eta} left]");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let total = match schedule.until {
            None => total.to_string(),
            Some(_) => "?".to_owned(),
        };
        let rounds = rounds > 1 || schedule.until.is_some();
        Progress { suite, bar, total, rounds, done: 0, label: String::new(), colour }
    }

    /// So many runs had been done before.
    pub fn skip(&mut self, runs: usize) {
        self.done += runs;
        self.bar.inc(runs as u64);
    }

    /// A combination begins.
    pub fn begin(&mut self, case: &Case, round: Round) {
        self.label = case.label(self.suite);
        if self.rounds {
            self.label += &match round {
                Round::WarmUp => " (warm-up)".to_owned(),
                Round::Number(number) => format!(" (round {})", number + 1),
            };
        }
        self.bar.set_message(self.label.clone());
    }

    /// The trainer said something.
    pub fn epoch(&mut self, said: &Transcript, epochs: u64) {
        if let Some(last) = said.epochs.last() {
            let loss = last.loss.map(|loss| format!(" loss {loss:.4}")).unwrap_or_default();
            let message = format!("{} epoch {}/{epochs}{loss}", self.label, last.epoch);
            if message != self.bar.message() {
                self.bar.set_message(message);
            }
        }
    }

    /// A combination ended.
    pub fn end(&mut self, row: &Row, round: Round, out: &Path) {
        self.done += 1;
        self.bar.inc(1);
        let outcome = match (round, row.file()) {
            (Round::WarmUp, None) => "done, not recorded".to_owned(),
            (_, file) => self.outcome(&row.result, file.map(|file| out.join(file)).as_deref()),
        };
        let line = format!("[{}/{}] {}: {outcome}", self.done, self.total, self.label);
        match self.bar.is_hidden() {
            true => eprintln!("{line}"),
            false => self.bar.println(line),
        }
    }

    /// What became of the row's last run.
    fn outcome(&self, result: &ResultFile, file: Option<&Path>) -> String {
        let Some(sample) = result.samples.last() else {
            let reason = one_line(result.reason.as_deref().unwrap_or_default());
            return format!("{} ({reason})", self.paint(result.status));
        };
        let status = self.paint(sample.status);
        let reason = one_line(sample.reason.as_deref().unwrap_or_default());
        if !sample.status.completed() {
            return format!("{status} ({reason})");
        }
        let seconds =
            |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.3} s"));
        let accuracy = sample.test_accuracy_percent;
        let accuracy = accuracy.map_or("?".to_owned(), |percent| format!("{percent:.2} %"));
        let trained = match sample.timing.train_s {
            Some(train_s) => format!("trained in {}", seconds(Some(train_s))),
            None => format!("ran for {}", seconds(sample.timing.wall_s)),
        };
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let file = file.map(|file| format!(" -> {}", file.display())).unwrap_or_default();
        let noise = noise(result);
        format!("{status}, {trained}, accuracy {accuracy}{reason}{noise}{file}")
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

/// How often the last round was repeated for its noise, and what disturbs what now stands for it.
fn noise(result: &ResultFile) -> String {
    let Some(last) = result.samples.last() else { return String::new() };
    let again = result.samples.iter().rev().skip(1).take_while(|it| it.superseded).count();
    let mut text = match again {
        0 => String::new(),
        1 => ", repeated once for noise".to_owned(),
        times => format!(", repeated {times} times for noise"),
    };
    if let Some(first) = last.disturbances.first() {
        text += &format!(", NOISY: {}", one_line(first));
    }
    text
}
