//! The progress of a run: the whole matrix, live, on a terminal; a line per
//! sample when piped. All of it goes to standard error.

use crate::command::Purpose;
use crate::live::{Line, State, View};
use crate::plan::Row;
use crate::runner::Round;
use crate::schedule::Schedule;
use crate::suite::Suite;
use crate::trainer::{NotReady, Trainers, Watch, lacking};
use crate::transcript::Transcript;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use measure::text::one_line;
use record::figures;
use record::{Record, Sample, Status};
use report::table::{Lack, absent};
use std::fmt;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two drawings: clocks and the terminal's size change without any event.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The progress of one run.
pub struct Progress<'a> {
    /// The trainer of each line.
    trainers: Vec<&'a str>,
    labels: Vec<String>,
    rounds: bool,
    view: Arc<Mutex<View>>,
    began: Instant,
    /// Draws the view, on a terminal.
    painter: Option<ProgressBar>,
    colour: bool,
}

impl<'a> Progress<'a> {
    /// For these rows in these rounds.
    pub fn new(suite: &'a Suite, rows: &[Row], schedule: &Schedule) -> Progress<'a> {
        let rounds = schedule.repeats + u32::from(schedule.warm_up);
        let line = |row: &Row| Line {
            label: one_line(&row.label(suite)).into_owned(),
            group: format!("{} {:?}", row.model, row.config),
            ..Line::default()
        };
        let view = View {
            suite: suite.name.clone(),
            lines: rows.iter().map(line).collect(),
            samples: schedule.until.is_none().then_some(rows.len() * rounds as usize),
            done: 0,
            absent: None,
        };
        let (view, began) = (Arc::new(Mutex::new(view)), Instant::now());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = std::io::stderr().is_terminal() && !dumb;
        let colour = terminal && report::console::may_color();
        let painter = terminal.then(|| painter(Arc::clone(&view), began, colour));
        let rounds = rounds > 1 || schedule.until.is_some();
        let labels = rows.iter().map(|row| one_line(&row.label(suite)).into_owned()).collect();
        let trainers = rows.iter().map(|row| &*suite.trainers[row.trainer].name).collect();
        Progress { trainers, labels, rounds, view, began, painter, colour }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        // A painter that panicked has at worst drawn badly.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many samples of a row had been taken before.
    pub fn skip(&mut self, row: usize, samples: usize, result: &Record) {
        let mut view = self.view();
        view.done += samples;
        if samples > 0 {
            view.lines[row].samples = samples;
            settle(&mut view.lines[row], result);
        }
    }

    /// Leaves out rows that this machine cannot run: they have one line together and no samples.
    pub fn leave_out(&mut self, suite: &Suite, rows: &[Row], trainers: &Trainers) {
        let reasons: Vec<_> = rows.iter().map(|row| lacking(trainers, suite, row)).collect();
        let mut lacks: Vec<Lack> = Vec::new();
        for (row, reason) in rows.iter().zip(&reasons) {
            let executable = &suite.trainers[row.trainer].name;
            lacks.push([Some(executable), Some(&row.backend), Some(&row.model), reason.as_deref()]);
        }
        let mut view = self.view();
        let each = view.samples.map_or(0, |all| all / rows.len().max(1));
        for (line, _) in view.lines.iter_mut().zip(&reasons).filter(|(_, reason)| reason.is_some())
        {
            line.hidden = true;
        }
        let hidden = view.lines.iter().filter(|line| line.hidden).count();
        view.samples = view.samples.map(|all| all - hidden * each);
        view.absent = absent(&lacks);
        let line = view.absent.clone();
        drop(view);
        if let Some(line) = line.filter(|_| self.painter.is_none()) {
            self.print(line);
        }
    }

    /// A sample begins.
    pub fn begin(&mut self, row: usize) {
        let since = self.began.elapsed();
        self.view().lines[row].state = State::Running { since, epoch: 0, epochs: 0, loss: None };
    }

    /// The trainer said something.
    pub fn epoch(&mut self, row: usize, said: &Transcript, all: Option<u64>) {
        let Some(last) = said.curve.points().last() else { return };
        if let State::Running { epoch, epochs, loss, .. } = &mut self.view().lines[row].state {
            (*epoch, *epochs, *loss) =
                (last.epoch.unwrap_or(0.0) as u32, all.unwrap_or(0), last.loss);
        }
    }

    /// A sample ended.
    pub fn end(&mut self, index: usize, result: &Record, round: Round, file: Option<&Path>) {
        let recorded = !result.samples.is_empty() || result.reason.is_some();
        let outcome = match round {
            Round::WarmUp if !recorded => "done, not recorded".to_owned(),
            _ => self.outcome(result, file),
        };
        let label = self.label_of(index, round);
        let mut view = self.view();
        if view.lines[index].hidden {
            return;
        }
        view.done += 1;
        view.lines[index].samples += 1;
        settle(&mut view.lines[index], result);
        let all = view.samples.map_or("?".to_owned(), |runs| runs.to_string());
        let line = format!("[{}/{all}] {label}: {outcome}", view.done);
        drop(view);
        self.print(line);
    }

    /// A line that stays, above the view if there is one.
    fn print(&self, line: String) {
        match &self.painter {
            None => eprintln!("{line}"),
            Some(painter) => painter.println(line),
        }
    }

    /// All lines of a trainer.
    fn set_trainer(&mut self, trainer: &str, state: &State) {
        let mut view = self.view();
        let lines = view.lines.iter_mut().zip(&self.trainers);
        lines.filter(|(_, of)| **of == trainer).for_each(|(line, _)| line.state = state.clone());
    }

    fn label_of(&self, index: usize, round: Round) -> String {
        let round = if self.rounds { round.to_string() } else { String::new() };
        format!("{}{round}", self.labels[index])
    }

    /// The outcome of the row's last sample.
    fn outcome(&self, result: &Record, file: Option<&Path>) -> String {
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
        let quality = figures::named("quality", [result]);
        let quality =
            quality.and_then(|it| Some((it.label.to_lowercase(), it.said(it.of_sample(sample)?))));
        let quality = quality.map_or(String::new(), |(name, value)| format!(", {name} {value}"));
        let trained = match sample.timing.train_s {
            Some(train_s) => format!("trained in {}", seconds(Some(train_s))),
            None => format!("ran for {}", seconds(sample.timing.wall_s)),
        };
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let file = file.map(|file| format!(" -> {}", file.display())).unwrap_or_default();
        let noise = noise(result);
        let note = sample.notes.iter().find(|note| note.contains(crate::transcript::NOT_READ));
        let note = note.map_or(String::new(), |note| format!("; note: {}", one_line(note)));
        format!("{status}, {trained}{quality}{reason}{noise}{note}{file}")
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

    /// Does what may print for itself, with the view out of its way.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.painter {
            None => work(),
            Some(painter) => painter.suspend(work),
        }
    }

    /// Removes the view.
    pub fn finish(&mut self) {
        if let Some(painter) = self.painter.take() {
            painter.finish_and_clear();
        }
    }
}

impl Watch for Progress<'_> {
    fn step(&mut self, trainer: &str, purpose: Purpose, said: &str) {
        let began = |state: &State| match state {
            State::GettingReady { purpose: known, since, .. } if *known == purpose => Some(*since),
            _ => None,
        };
        let line = self.trainers.iter().position(|of| *of == trainer);
        let known = line.and_then(|line| began(&self.view().lines[line].state));
        let since = known.unwrap_or_else(|| self.began.elapsed());
        if self.painter.is_none() && purpose == Purpose::Build && said.is_empty() {
            self.print(format!("Building {}", one_line(trainer)));
        }
        self.set_trainer(trainer, &State::GettingReady { purpose, since, said: said.to_owned() });
    }

    fn settled(&mut self, trainer: &str, not_ready: Option<&NotReady>) {
        let state = match not_ready {
            None => State::Waiting,
            Some(reason) => State::Ended(reason.status, reason.reason.clone()),
        };
        self.set_trainer(trainer, &state);
    }

    fn tell(&mut self, line: &str) {
        self.print(line.to_owned());
    }
}

/// Whatever ends a run early: the terminal is left as it was.
impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Draws the view, now and then, in a thread of its own.
fn painter(view: Arc<Mutex<View>>, began: Instant, colour: bool) -> ProgressBar {
    let frame = move |_: &ProgressState, out: &mut dyn fmt::Write| {
        let (height, width) = console::Term::stderr().size();
        // A line as wide as the terminal makes some of them begin a new one.
        let width = usize::from(width).saturating_sub(1);
        let view = view.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = view.frame(began.elapsed(), width, usize::from(height), colour);
        let _ = out.write_str(&lines.join("\n")); // into a string
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{view}") {
        bar.set_style(style.with_key("view", frame));
    }
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}

/// Updates a row's line after a sample.
fn settle(line: &mut Line, result: &Record) {
    let last: Option<&Sample> = result.samples.last();
    line.last_wall_s = last.and_then(|sample| sample.timing.wall_s).or(line.last_wall_s);
    line.seconds = match result.status {
        Status::Measured => result.timing.train_s.or(result.timing.wall_s),
        _ => None,
    };
    let status = last.map_or(result.status, |sample| sample.status);
    let text = match status.completed() {
        false => {
            let reason = last.and_then(|sample| sample.reason.as_ref()).or(result.reason.as_ref());
            reason.cloned().unwrap_or_default()
        }
        true => {
            let seconds = result.timing.train_s.or(result.timing.wall_s);
            let seconds = seconds.map_or(String::new(), |seconds| format!("{seconds:.3} s"));
            let quality = figures::named("quality", [result]);
            let quality = quality.and_then(|it| Some(format!(", {}", it.said(it.of(result)?))));
            let quality = quality.unwrap_or_default();
            let samples = if line.samples > 1 {
                format!(", {} samples", line.samples)
            } else {
                String::new()
            };
            let below = if status == Status::NotConverged { ", not converged" } else { "" };
            format!("{seconds}{quality}{samples}{below}")
        }
    };
    line.state = State::Ended(status, text);
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
