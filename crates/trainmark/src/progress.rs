//! What the user sees while a suite runs. Piped, a line for each sample. On a terminal, besides those, the table of
//! what was measured so far, as `trainmark report` prints it, what runs and how far it is, and how long the rest
//! will take. All of it goes to standard error.

use crate::plan::Row;
use crate::runner::Round;
use crate::schedule::Schedule;
use crate::suite::Suite;
use crate::trainer::{Trainers, can_redraw, lacking};
use crate::transcript::{NOT_READ, Transcript};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use measure::text::one_line;
use record::figures;
use record::{Record, Status, Summary};
use report::Exhibit;
use report::console::{GREEN, RED, Style, YELLOW, painted, table};
use report::table::{Lack, absent};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two drawings: clocks and the terminal's size change without any event.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The progress of one run.
pub struct Progress {
    /// Of each row; none of what this machine cannot run.
    labels: Vec<Option<String>>,
    rounds: bool,
    screen: Arc<Mutex<Screen>>,
    began: Instant,
    /// Draws the screen, on a terminal.
    painter: Option<ProgressBar>,
}

/// What is drawn: a screen and a size in, lines out.
#[derive(Clone, Debug, Default)]
struct Screen {
    suite: String,
    /// Of what was measured so far.
    table: Vec<String>,
    running: BTreeMap<usize, Running>,
    /// Samples in all; `None` where rounds go on until an interval is narrow.
    all: Option<usize>,
    done: usize,
    /// Those of them that an earlier process took.
    before: usize,
}

/// A sample on its way.
#[derive(Clone, Debug)]
struct Running {
    label: String,
    since: Duration,
    said: String,
}

impl Progress {
    /// For these rows in these rounds. What this machine cannot run is one line instead of many, and no sample
    /// of it is waited for.
    pub fn new(suite: &Suite, rows: &[Row], schedule: &Schedule, trainers: &Trainers) -> Progress {
        let rounds = schedule.repeats + u32::from(schedule.warm_up);
        let reasons: Vec<_> = rows.iter().map(|row| lacking(trainers, suite, row)).collect();
        let mut lacks: Vec<Lack> = Vec::new();
        for (row, reason) in rows.iter().zip(&reasons) {
            let executable = &suite.trainers[row.trainer].name;
            lacks.push([Some(executable), Some(&row.backend), Some(&row.model), reason.as_deref()]);
        }
        if let Some(line) = absent(&lacks) {
            eprintln!("{line}");
        }
        let label = |(row, reason): (&Row, &Option<String>)| {
            reason.is_none().then(|| one_line(&row.label).into_owned())
        };
        let labels: Vec<_> = rows.iter().zip(&reasons).map(label).collect();
        let all = labels.iter().flatten().count() * rounds as usize;
        let all = schedule.until.is_none().then_some(all);
        let screen = Screen { suite: suite.name.clone(), all, ..Screen::default() };
        let (screen, began) = (Arc::new(Mutex::new(screen)), Instant::now());
        let painter = can_redraw().then(|| painter(Arc::clone(&screen), began));
        let rounds = rounds > 1 || schedule.until.is_some();
        Progress { labels, rounds, screen, began, painter }
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        // A painter that panicked has at worst drawn badly.
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many samples had been taken before.
    pub fn skip(&mut self, samples: usize) {
        let mut screen = self.screen();
        screen.done += samples;
        screen.before += samples;
    }

    /// A sample begins.
    pub fn begin(&mut self, row: usize) {
        let since = self.began.elapsed();
        if let Some(label) = self.labels[row].clone() {
            self.screen().running.insert(row, Running { label, since, said: String::new() });
        }
    }

    /// The trainer said something.
    pub fn epoch(&mut self, row: usize, said: &Transcript, all: Option<u64>) {
        let Some(last) = said.curve.points().last() else { return };
        if let Some(running) = self.screen().running.get_mut(&row) {
            let of = all.map_or(String::new(), |all| format!("/{all}"));
            let epoch = last.epoch.map(|epoch| format!(", epoch {}{of}", epoch as u64));
            let loss = last.loss.map(|loss| format!(", loss {loss:.4}"));
            running.said = epoch.unwrap_or_default() + &loss.unwrap_or_default();
        }
    }

    /// A sample ended.
    pub fn end(&mut self, row: usize, result: &Record, round: Round, file: Option<&Path>) {
        let Some(label) = &self.labels[row] else { return };
        let recorded = !result.samples.is_empty() || result.reason.is_some();
        let outcome = match round {
            Round::WarmUp if !recorded => "done, not recorded".to_owned(),
            _ => outcome(result, file),
        };
        let round = if self.rounds { round.to_string() } else { String::new() };
        let mut screen = self.screen();
        screen.running.remove(&row);
        screen.done += 1;
        let all = screen.all.map_or("?".to_owned(), |all| all.to_string());
        let line = format!("[{}/{all}] {label}{round}: {outcome}", screen.done);
        drop(screen);
        // A line that stays, above the screen if there is one.
        match &self.painter {
            None => eprintln!("{line}"),
            Some(painter) => painter.println(line),
        }
    }

    /// Whether a table has any use.
    pub fn is_drawn(&self) -> bool {
        self.painter.is_some()
    }

    /// What was measured so far, and which rows lead.
    pub fn show(&mut self, summary: &Summary) {
        let style = Style::stderr();
        let style = Style { width: style.width.saturating_sub(1), ..style };
        let mut text = table(summary, false, style);
        for panel in &Exhibit::new(summary).panels {
            if let (Some((title, _)), [first, ..]) = (panel.answer(), &panel.standings()[..]) {
                text += &format!("{title}: {} is leading\n", first.entry.label);
            }
        }
        self.screen().table = text.lines().map(str::to_owned).collect();
    }

    /// Removes the screen.
    pub fn finish(&mut self) {
        if let Some(painter) = self.painter.take() {
            painter.finish_and_clear();
        }
    }
}

/// Whatever ends a run early: the terminal is left as it was.
impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Draws the screen, now and then, in a thread of its own.
fn painter(screen: Arc<Mutex<Screen>>, began: Instant) -> ProgressBar {
    let frame = move |_: &ProgressState, out: &mut dyn fmt::Write| {
        let (height, width) = console::Term::stderr().size();
        // A line as wide as the terminal makes some of them begin a new one.
        let width = usize::from(width).saturating_sub(1);
        let screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = screen.frame(began.elapsed(), width, usize::from(height));
        let _ = out.write_str(&lines.join("\n")); // into a string
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{screen}") {
        bar.set_style(style.with_key("screen", frame));
    }
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}

impl Screen {
    /// The lines at a moment after the beginning: at most `height`, none wider than `width`.
    fn frame(&self, now: Duration, width: usize, height: usize) -> Vec<String> {
        let mut below: Vec<String> = Vec::new();
        for Running { label, since, said } in self.running.values().take(height / 2) {
            below.push(format!("▶ {label}: running {}{said}", time(now.saturating_sub(*since))));
        }
        let all = self.all.map_or("?".to_owned(), |all| all.to_string());
        let left = self.left(now).map_or(String::new(), |it| format!(", about {} left", time(it)));
        let (suite, done) = (one_line(&self.suite), self.done);
        below.push(format!("{suite}: {done} of {all} samples done in {}{left}", time(now)));
        let room = height.saturating_sub(below.len());
        let mut lines = self.table.clone();
        if lines.len() > room {
            let more = lines.len() - room.saturating_sub(1);
            lines.truncate(room.saturating_sub(1));
            lines.extend((room > 0).then(|| format!("  … {more} more lines")));
        }
        lines.extend(below);
        lines.iter().map(|line| console::truncate_str(line, width, "…").into_owned()).collect()
    }

    /// How long the rest will take if its samples take as long as those so far.
    fn left(&self, now: Duration) -> Option<Duration> {
        let (taken, open) = (self.done - self.before, self.all?.checked_sub(self.done)?);
        (taken > 0 && open > 0).then(|| now.mul_f64(open as f64 / taken as f64))
    }
}

/// `7 s`, `3 min 20 s`, `2 h 5 min`.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// The outcome of the row's last sample.
fn outcome(result: &Record, file: Option<&Path>) -> String {
    let Some(sample) = result.samples.last() else {
        let reason = one_line(result.reason.as_deref().unwrap_or_default());
        return format!("{} ({reason})", paint(result.status));
    };
    let status = paint(sample.status);
    let reason = one_line(sample.reason.as_deref().unwrap_or_default());
    let not_read = sample.notes.iter().find(|note| note.contains(NOT_READ));
    let not_read = not_read.map_or(String::new(), |note| format!("; note: {}", one_line(note)));
    if !sample.status.completed() {
        return format!("{status} ({reason}){not_read}");
    }
    let mut text = match (sample.timing.train_s, sample.timing.wall_s) {
        (Some(train_s), _) => format!("{status}, trained in {train_s:.3} s"),
        (None, Some(wall_s)) => format!("{status}, ran for {wall_s:.3} s"),
        (None, None) => status,
    };
    if let Some(quality) = figures::named("quality", [result])
        && let Some(value) = quality.of_sample(sample)
    {
        text += &format!(", {} {}", quality.label.to_lowercase(), quality.said(value));
    }
    if !reason.is_empty() {
        text += &format!(" ({reason})");
    }
    text += &noise(result);
    text += &not_read;
    text + &file.map_or(String::new(), |file| format!(" -> {}", file.display()))
}

fn paint(status: Status) -> String {
    let color = match status {
        Status::Measured => GREEN,
        Status::NotConverged | Status::Unavailable | Status::Interrupted => YELLOW,
        _ => RED,
    };
    painted(&status.to_string(), color, Style::stderr())
}

/// How often the last round was repeated for its noise, and what disturbs what now stands for it.
fn noise(result: &Record) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        let running = |label: &str, said: &str| Running {
            label: label.to_owned(),
            since: Duration::from_secs(60),
            said: said.to_owned(),
        };
        let rows =
            [(0, running("cnn cpu", ", epoch 2/5, loss 0.2500")), (3, running("cnn mine", ""))];
        Screen {
            suite: "mnist\u{1b}[2J".to_owned(),
            table: (1..=12).map(|row| format!("row {row} {}", "x".repeat(90))).collect(),
            running: BTreeMap::from(rows),
            all: Some(10),
            done: 6,
            before: 2,
        }
    }

    #[test]
    fn the_table_so_far_is_above_what_runs_and_the_time_that_is_left() {
        let frame = screen().frame(Duration::from_secs(64), 60, 6).join("\n");
        insta::assert_snapshot!(frame);
        assert_eq!(Screen { done: 2, ..screen() }.left(Duration::ZERO), None);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_none_too_many() {
        for width in [1, 7, 20, 33, 80, 200] {
            for height in 1..20 {
                let frame = screen().frame(Duration::from_secs(65), width, height);
                assert!(frame.len() <= height, "{height}: {frame:?}");
                let fits = |line: &String| console::measure_text_width(line) <= width;
                assert!(frame.iter().all(fits), "{width}: {frame:?}");
                assert!(frame.iter().all(|line| !line.contains('\u{1b}')));
                // What runs is always in sight.
                let runs = frame.iter().any(|line| line.starts_with('▶'));
                assert!(runs || height == 1 || width == 1, "{width} {height}: {frame:?}");
            }
        }
    }
}
