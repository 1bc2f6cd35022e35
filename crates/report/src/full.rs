//! One result file in full, for a terminal. A pure function of the file; like every console output it
//! lets no text of the file reach the terminal as a command.

use crate::console::{Style, one_line};
use crate::grid::{BOLD, Column, Grid, painted};
use crate::text::{self, UNKNOWN};
use record::{Record, Sample, figures};
use std::fmt::Write;

/// Everything that the file says, in sections; what it does not say is left out.
pub fn text(result: &Record, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    page.title(&result.name());
    page.facts(&identity(result));
    page.section("Configuration", &text::facts(&result.config));
    page.section("Figures", &values(result));
    page.samples(result);
    page.curve(&result.samples);
    page.section("Targets", &text::facts(&result.targets));
    page.section("Dataset", &facts_of(result.dataset.as_deref()));
    page.section("Run", &facts_of(result.run.as_deref()));
    page.section("Trainer", &facts_of(result.trainer.as_deref()));
    page.section("Machine", &facts_of(result.machine.as_deref()));
    page.section("Sources", &text::facts(&result.sources));
    page.section("Missing", &text::facts(&result.missing));
    page.tails(&result.samples);
    page.text
}

type Facts = Vec<(String, String)>;

fn fact(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn identity(result: &Record) -> Facts {
    let mut facts = vec![fact("status", result.status)];
    facts.extend(result.reason.iter().map(|reason| fact("reason", reason)));
    facts.push(fact("compiled", if result.compiled { "as a whole" } else { "no" }));
    facts
}

fn values(record: &Record) -> Facts {
    let known = figures::of([record]).into_iter().filter_map(|figure| {
        let value = figure.of(record)?;
        let interval = record.intervals.get(&*figure.key).map_or(String::new(), |it| {
            format!("  [{:.4}, {:.4}] {:.1} %", it.low, it.high, it.confidence * 100.0)
        });
        let claimed = if figure.is_claimed(record) { ", as the trainer claims" } else { "" };
        Some(fact(&figure.key, format!("{value:.4} {}{interval}{claimed}", figure.unit)))
    });
    known.collect()
}

fn facts_of<T: serde::Serialize>(thing: Option<&T>) -> Facts {
    thing.map(text::facts).unwrap_or_default()
}

struct Page {
    text: String,
    style: Style,
}

// Writing to a string cannot fail.
impl Page {
    fn title(&mut self, title: &str) {
        self.text += &(painted(&one_line(title), BOLD, self.style) + "\n");
    }

    fn section(&mut self, title: &str, facts: &Facts) {
        if !facts.is_empty() {
            self.text.push('\n');
            self.title(title);
            self.facts(facts);
        }
    }

    fn facts(&mut self, facts: &Facts) {
        let width = facts.iter().map(|(name, _)| text::width(&one_line(name))).max().unwrap_or(0);
        for (name, value) in facts {
            let name = one_line(name);
            let space = width - text::width(&name);
            let _ = writeln!(self.text, "  {name}{:space$}  {}", "", one_line(value));
        }
    }

    fn samples(&mut self, record: &Record) {
        let samples = &record.samples;
        if samples.is_empty() {
            return;
        }
        self.text.push('\n');
        self.title("Samples");
        let mut figures = figures::of([record]);
        figures.retain(|figure| {
            figure.shown > figures::Shown::OnRequest || figures::CLOCKS.contains(&&*figure.key)
        });
        figures.retain(|figure| samples.iter().any(|it| figure.of_sample(it).is_some()));
        let titles = figures.iter().map(|figure| figure.title().replace(' ', "\n"));
        let heads = ["Round", "Status"].map(str::to_owned).into_iter().chain(titles);
        let column = |(index, head)| Column { head, right: index != 1, rank: 0 };
        let row = |sample: &Sample| {
            let again = if sample.superseded { " (repeated)" } else { "" };
            let names = [(sample.round + 1).to_string(), format!("{}{again}", sample.status)];
            let values = figures.iter().map(|figure| {
                let value = figure.of_sample(sample);
                value.map_or(UNKNOWN.to_owned(), |value| figure.printed(value))
            });
            names.into_iter().chain(values).map(|text| (text, None)).collect()
        };
        let columns = heads.enumerate().map(column).collect();
        let grid = Grid { columns, rows: samples.iter().map(row).collect() };
        self.text += &grid.draw(Style { width: u16::MAX, color: false }).0;
        for sample in samples {
            let beside = sample.beside.join(", ");
            let beside = (!beside.is_empty()).then(|| format!("side by side with {beside}"));
            let notes = sample.reason.iter().chain(&sample.notes).chain(&sample.disturbances);
            for note in notes.chain(&beside) {
                let _ = writeln!(self.text, "  round {}: {}", sample.round + 1, one_line(note));
            }
            for node in &sample.nodes {
                let meters = ["wall_s", "user_s", "system_s", "peak_memory_bytes", "cpu_energy_uj"];
                let known = meters.map(|name| Some(format!("{name} {}", node.meters.get(name)?)));
                let known = known.into_iter().flatten().collect::<Vec<_>>().join(", ");
                let (round, host) = (sample.round + 1, one_line(&node.host));
                let _ = writeln!(self.text, "  round {round}, {host}: {known}");
            }
        }
    }

    /// The losses of the first sample that told them: of the same seed the others are the same.
    fn curve(&mut self, samples: &[Sample]) {
        let Some(sample) = samples.iter().find(|sample| !sample.curve.is_empty()) else { return };
        let losses: Vec<Option<f64>> = sample.curve.iter().map(|point| point.loss).collect();
        let skipped = sample.curve.len().saturating_sub(40);
        let shown = String::from_iter(&text::bars(&losses)[skipped..]);
        self.text.push('\n');
        self.title(&format!("Curve of round {}   loss {shown}", sample.round + 1));
        for point in &sample.curve[skipped..] {
            let mut parts = Vec::new();
            parts.extend(point.step.map(|step| format!("step {step}")));
            parts.extend(point.epoch.map(|epoch| format!("epoch {epoch}")));
            parts.push(point.loss.map_or("loss n/a".to_owned(), |loss| format!("loss {loss:.4}")));
            parts.extend(point.seconds.map(|seconds| format!("{seconds:.4} s")));
            parts.extend(point.metrics.iter().map(|(name, value)| format!("{name} {value:.4}")));
            let _ = writeln!(self.text, "  {}", one_line(&parts.join("  ")));
        }
    }

    /// The last words of runs that did not complete.
    fn tails(&mut self, samples: &[Sample]) {
        for sample in samples {
            let tails = [("output", &sample.stdout_tail), ("errors", &sample.stderr_tail)];
            for (name, tail) in tails {
                if let Some(tail) = tail {
                    self.text.push('\n');
                    self.title(&format!("Last {name} of round {}", sample.round + 1));
                    for line in tail.lines() {
                        let _ = writeln!(self.text, "  | {}", one_line(line));
                    }
                }
            }
        }
    }
}
