//! The whole matrix while it runs, as the lines of a terminal: what waits, what runs and how far it is, what
//! is done, which row leads its group so far, and how long the rest will take.
//!
//! Pure: a [`View`] and a size in, lines out. [`crate::progress`] draws them.

use crate::command::Purpose;
use measure::text::one_line;
use record::Status;
use record::number::count;
use record::stats::FEWEST_APART;
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

/// Fewer lines than this show nothing worth the flicker.
const LEAST_HEIGHT: usize = 5;

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub suite: String,
    pub lines: Vec<Line>,
    /// The line for rows that this machine cannot run.
    pub absent: Option<String>,
    /// Samples in all; `None` where rounds go on until an interval is narrow.
    pub samples: Option<usize>,
    pub done: usize,
}

/// One row.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub label: String,
    /// Lines of one group compete: the same model and configuration.
    pub group: String,
    pub state: State,
    /// This machine cannot run it.
    pub hidden: bool,
    /// Samples that have been taken.
    pub samples: usize,
    /// Wall time of the last of them.
    pub last_wall_s: Option<f64>,
    /// Median train time so far, else wall time, of a row that takes part in rankings.
    pub seconds: Option<f64>,
}

#[derive(Clone, Debug, Default)]
pub enum State {
    #[default]
    Waiting,
    /// Its trainer is built, or asked what it can do here; with the last that was said meanwhile.
    GettingReady {
        purpose: Purpose,
        since: Duration,
        said: String,
    },
    Running {
        since: Duration,
        epoch: u32,
        epochs: u64,
        loss: Option<f64>,
    },
    /// With what there is to say of it.
    Ended(Status, String),
}

impl View {
    /// The lines at a moment after the beginning: at most `height`, none wider than `width`.
    pub fn frame(&self, now: Duration, width: usize, height: usize, colour: bool) -> Vec<String> {
        if height < LEAST_HEIGHT {
            return vec![cut(&self.head(now), width)];
        }
        let lines: Vec<&Line> = self.lines.iter().filter(|line| !line.hidden).collect();
        let label = lines.iter().map(|line| line.label.width()).max().unwrap_or(0);
        let label = label.min(width / 2).max(10);
        let (from, to) = window(&lines, height - 3 - usize::from(self.absent.is_some()));
        let mut frame = vec![cut(&self.head(now), width)];
        if from > 0 {
            frame.push(cut(&format!("  … {from} more above"), width));
        }
        for line in &lines[from..to] {
            let lead = self.lead(line);
            let name = cut(&one_line(&line.label), label);
            let space = label - name.width();
            let (mark, text) = line.shown(now, lead);
            let text = cut(&format!("{mark} {name}{:space$}  {text}", ""), width);
            frame.push(match colour {
                true => line.painted(lead.contains('★'), &text),
                false => text,
            });
        }
        if to < lines.len() {
            frame.push(cut(&format!("  … {} more below", lines.len() - to), width));
        }
        frame.extend(self.absent.iter().map(|line| cut(&one_line(line), width)));
        frame
    }

    fn head(&self, now: Duration) -> String {
        let all = self.samples.map_or("?".to_owned(), |runs| runs.to_string());
        let left = match self.left(now) {
            Some(left) => format!(", about {} left", time(left)),
            None => String::new(),
        };
        format!(
            "{}: {} of {all} samples done in {}{left}",
            one_line(&self.suite),
            self.done,
            time(now)
        )
    }

    /// How long the rest will take, from what each row's last sample took; a row that has not run yet is
    /// taken for an average one. `None` before the first has ended, or where there is no end in sight.
    fn left(&self, now: Duration) -> Option<Duration> {
        let lines = self.lines.iter().filter(|line| !line.hidden);
        let per_line = self.samples?.div_ceil(lines.clone().count().max(1));
        let known: Vec<f64> = self.lines.iter().filter_map(|line| line.last_wall_s).collect();
        let average =
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)?;
        let of_line = |line: &Line| {
            let failed = matches!(&line.state, State::Ended(status, _) if !status.completed());
            let open = if failed { 0 } else { per_line.saturating_sub(line.samples) };
            let begun = match line.state {
                State::Running { since, .. } => now.saturating_sub(since).as_secs_f64(),
                _ => 0.0,
            };
            (open as f64 * line.last_wall_s.unwrap_or(average) - begun).max(0.0)
        };
        let seconds: f64 = lines.map(of_line).sum();
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
    }

    /// What is said of the fastest of its group, which has at least two to compare: a star only where all have
    /// the samples that an interval takes.
    fn lead(&self, line: &Line) -> &'static str {
        let group = self.lines.iter().filter(|other| other.group == line.group);
        let timed: Vec<&Line> = group.filter(|other| other.seconds.is_some()).collect();
        let times = timed.iter().filter_map(|other| other.seconds);
        let fastest = times.fold(f64::INFINITY, f64::min);
        match timed.len() > 1 && line.seconds == Some(fastest) {
            true if timed.iter().all(|it| it.samples >= FEWEST_APART) => "  ★ leading",
            true => "  ~ leading",
            false => "",
        }
    }
}

/// Which lines fit: around what runs, else around the first that waits.
fn window(all: &[&Line], room: usize) -> (usize, usize) {
    let lines = all.len();
    if lines <= room {
        return (0, lines);
    }
    let running =
        |line: &&Line| matches!(line.state, State::Running { .. } | State::GettingReady { .. });
    let waiting = |line: &&Line| matches!(line.state, State::Waiting);
    let at = all.iter().position(running);
    let at = at.or_else(|| all.iter().position(waiting)).unwrap_or(lines - 1);
    let from = at.saturating_sub(room / 2).min(lines - room);
    (from, from + room)
}

impl Line {
    fn shown(&self, now: Duration, lead: &str) -> (char, String) {
        match &self.state {
            State::Waiting if self.samples == 0 => ('·', "waiting".to_owned()),
            State::Waiting => ('·', self.so_far(lead)),
            State::GettingReady { purpose, since, said } => {
                let said = one_line(said.trim());
                let said = if said.is_empty() { said } else { format!(", {said}").into() };
                let taken = time(now.saturating_sub(*since));
                let word = if *purpose == Purpose::Build { "building" } else { "probing" };
                ('◌', format!("{word} {taken}{said}"))
            }
            State::Running { since, epoch, epochs, loss } => {
                let mut text = format!("running {}", time(now.saturating_sub(*since)));
                if *epoch > 0 {
                    text += &format!(", epoch {epoch}/{epochs}");
                }
                if let Some(loss) = loss {
                    text += &format!(", loss {loss:.4}");
                }
                ('▶', text)
            }
            State::Ended(status, text) if status.completed() => {
                ('✔', format!("{}{lead}", one_line(text)))
            }
            State::Ended(Status::Unavailable, text) => {
                ('–', format!("unavailable: {}", one_line(text)))
            }
            State::Ended(status, text) => ('✘', format!("{status}: {}", one_line(text))),
        }
    }

    fn so_far(&self, lead: &str) -> String {
        let seconds = self.seconds.map_or(String::new(), |seconds| format!(", {seconds:.3} s"));
        format!("{}{seconds}{lead}", count(self.samples, "sample"))
    }

    fn painted(&self, best: bool, text: &str) -> String {
        let code = match &self.state {
            State::Waiting => "2",
            State::Running { .. } | State::GettingReady { .. } => "1",
            State::Ended(status, _) if status.completed() && best => "32;1",
            State::Ended(status, _) if status.completed() => "32",
            State::Ended(Status::Unavailable | Status::Interrupted, _) => "33",
            State::Ended(..) => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
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

/// As many columns of a text as fit.
fn cut(text: &str, width: usize) -> String {
    console::truncate_str(text, width, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, state: State) -> Line {
        let group = label.split(' ').next().unwrap().to_owned();
        let (samples, seconds) = match &state {
            State::Ended(status, _) if status.completed() => (1, Some(label.len() as f64)),
            _ => (0, None),
        };
        let (label, hidden) = (label.to_owned(), false);
        Line { label, group, state, hidden, samples, last_wall_s: seconds, seconds }
    }

    fn view() -> View {
        let running = State::Running {
            since: Duration::from_secs(60),
            epoch: 2,
            epochs: 5,
            loss: Some(0.25),
        };
        let done = |text: &str| State::Ended(Status::Measured, text.to_owned());
        let building = State::GettingReady {
            purpose: Purpose::Build,
            since: Duration::from_secs(58),
            said: "   Compiling serde\u{1b}[2K v1.0 ".to_owned(),
        };
        let probing = State::GettingReady {
            purpose: Purpose::Probe,
            since: Duration::from_secs(64),
            said: String::new(),
        };
        let lines = vec![
            line("mlp cpu", done("0.34 s, 94.1 %")),
            line("mlp torch", done("3.91 s, 94.2 %")),
            line("cnn cpu", running),
            line("cnn cuda", State::Ended(Status::Unavailable, "no CUDA driver".to_owned())),
            line("cnn mine", State::Ended(Status::Crashed, "signal 11\u{1b}[2J".to_owned())),
            line("attention mine", building),
            line("attention jax", probing),
            line("attention cpu", State::Waiting),
        ];
        let absent = Some("Not on this machine: mps (needs macOS)".to_owned());
        let mut view = View { suite: "mnist".to_owned(), lines, absent, samples: Some(8), done: 4 };
        view.lines.push(Line { hidden: true, ..line("cnn mps", State::Waiting) });
        view
    }

    #[test]
    fn every_state_has_its_line_and_the_leading_one_its_mark() {
        let frame = view().frame(Duration::from_secs(65), 80, 24, false).join("\n");
        insta::assert_snapshot!(frame);
    }

    #[test]
    fn a_row_leads_with_a_star_only_where_all_have_the_samples_of_an_interval() {
        let mut view = view();
        let shown =
            |view: &View, colour| view.frame(Duration::from_secs(65), 80, 24, colour).join("\n");
        assert!(shown(&view, false).contains("~ leading"));
        assert!(!shown(&view, true).contains("32;1") && !shown(&view, true).contains('★'));
        view.lines.iter_mut().for_each(|it| it.samples = FEWEST_APART);
        assert!(shown(&view, false).contains("★ leading") && shown(&view, true).contains("32;1"));
        view.lines[1].samples = FEWEST_APART - 1;
        assert!(!shown(&view, false).contains('★'));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_none_too_many() {
        for width in [1, 7, 20, 33, 80, 200] {
            for height in 1..12 {
                let frame = view().frame(Duration::from_secs(65), width, height, false);
                assert!(frame.len() <= height.max(1), "{height}: {frame:?}");
                assert!(frame.iter().all(|line| line.width() <= width), "{width}: {frame:?}");
                assert!(frame.iter().all(|line| !line.contains('\u{1b}')));
            }
        }
    }

    #[test]
    fn what_runs_is_always_in_sight() {
        let mut view = view();
        let waiting = line("x y", State::Waiting);
        view.lines.splice(0..0, std::iter::repeat_n(waiting.clone(), 30));
        view.lines.extend(std::iter::repeat_n(waiting, 30));
        let frame = view.frame(Duration::from_secs(65), 80, 10, false);
        assert!(frame.iter().any(|line| line.contains("running 5 s")), "{frame:?}");
        assert!(frame[frame.len() - 2].contains("more below"));
        assert!(frame.last().unwrap().starts_with("Not on this machine"));
    }

    #[test]
    fn the_time_left_is_what_rows_took_before_and_unknown_before_any_has_ended() {
        let mut view = view();
        view.lines = vec![
            Line { samples: 2, last_wall_s: Some(10.0), ..line("a", State::Waiting) },
            Line { samples: 1, last_wall_s: Some(30.0), ..line("b", State::Waiting) },
            line("c", State::Waiting),
        ];
        view.samples = Some(9);
        // 1 x 10 s, 2 x 30 s, 3 x the average of 20 s.
        assert_eq!(view.left(Duration::ZERO), Some(Duration::from_secs(130)));
        view.lines.truncate(0);
        view.lines.push(line("c", State::Waiting));
        assert_eq!(view.left(Duration::ZERO), None);
    }
}
