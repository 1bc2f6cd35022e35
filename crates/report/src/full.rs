//! One result file in full, for a terminal. A pure function of the file; like every console output it
//! lets no text of the file reach the terminal as a command.

use crate::compare::value;
use crate::console::{Style, one_line};
use crate::grid::{BOLD, Column, Grid, painted};
use crate::text;
use record::{Record, Sample, figures};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;

/// Everything that the file says, in sections; what it does not say is left out.
pub fn text(record: &Record, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    page.title(&record.name());
    let compiled = if record.compiled { "as a whole" } else { "no" };
    let (status, reason) = (record.status.words(), &record.reason);
    page.facts(&json!({ "status": status, "reason": reason, "compiled": compiled }));
    page.section("Configuration", &record.config);
    page.section("Figures", &values(record));
    if !record.samples.is_empty() {
        page.heading("Samples");
        page.samples(record);
    }
    page.curve(&record.samples);
    page.section("Targets", &record.targets);
    page.section("Dataset", &record.dataset);
    page.section("Run", &record.run);
    page.section("Trainer", &record.trainer);
    page.section("Machine", &record.machine);
    page.section("Sources", &record.sources);
    page.section("Missing", &record.missing);
    page.tails(&record.samples);
    page.text
}

fn values(record: &Record) -> serde_json::Map<String, serde_json::Value> {
    let known = figures::of([record]).into_iter().filter_map(|figure| {
        let value = figure.of(record)?;
        let interval = record.intervals.get(&*figure.key).map_or(String::new(), |it| {
            format!("  [{:.4}, {:.4}] {:.1} %", it.low, it.high, it.confidence * 100.0)
        });
        let claimed = if figure.is_claimed(record) { ", as the trainer claims" } else { "" };
        let value = format!("{value:.4} {}{interval}{claimed}", figure.unit);
        Some((figure.key.to_string(), value.into()))
    });
    known.collect()
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

    fn heading(&mut self, title: &str) {
        self.text.push('\n');
        self.title(title);
    }

    fn section(&mut self, title: &str, of: &impl Serialize) {
        if !text::facts(of).is_empty() {
            self.heading(title);
            self.facts(of);
        }
    }

    fn facts(&mut self, of: &impl Serialize) {
        let facts = text::facts(of);
        let width = facts.iter().map(|(name, _)| text::width(&one_line(name))).max().unwrap_or(0);
        for (name, value) in facts {
            let name = one_line(&name);
            let space = width - text::width(&name);
            let _ = writeln!(self.text, "  {name}{:space$}  {}", "", one_line(&value));
        }
    }

    fn samples(&mut self, record: &Record) {
        let samples = &record.samples;
        let mut figures = figures::of([record]);
        figures.retain(|figure| {
            let is_clock = figures::CLOCKS.contains(&&*figure.key);
            (is_clock || figure.shown > figures::Shown::OnRequest)
                && samples.iter().any(|it| figure.of_sample(it).is_some())
        });
        let titles = figures.iter().map(|figure| figure.title().replace(' ', "\n"));
        let heads = ["Round", "Status"].map(str::to_owned).into_iter().chain(titles);
        let column = |(index, head)| Column { head, right: index != 1, rank: 0 };
        let row = |sample: &Sample| {
            let again = if sample.superseded { " (repeated)" } else { "" };
            let names = [(sample.round + 1).to_string(), format!("{}{again}", sample.status)];
            let values = figures.iter().map(|figure| value(figure.of_sample(sample), figure));
            names.into_iter().chain(values).map(|text| (text, None)).collect()
        };
        let columns = heads.enumerate().map(column).collect();
        let grid = Grid { columns, rows: samples.iter().map(row).collect() };
        self.text += &grid.draw(Style { width: u16::MAX, color: false }).0;
        for sample in samples {
            let beside = sample.beside.join(", ");
            let beside = (!beside.is_empty()).then(|| format!("side by side with {beside}"));
            let nodes = sample.nodes.iter().map(|node| {
                let meters = text::facts(&node.meters).into_iter();
                let meters = meters.map(|(name, value)| format!("{name} {value}"));
                format!("{}: {}", node.host, meters.collect::<Vec<_>>().join(", "))
            });
            let notes = sample.reason.iter().chain(&sample.notes).chain(&sample.disturbances);
            for note in notes.cloned().chain(beside).chain(nodes) {
                let _ = writeln!(self.text, "  round {}: {}", sample.round + 1, one_line(&note));
            }
        }
    }

    /// The losses of the first sample that told them: of the same seed the others are the same.
    fn curve(&mut self, samples: &[Sample]) {
        let Some(sample) = samples.iter().find(|sample| !sample.curve.is_empty()) else { return };
        let losses: Vec<Option<f64>> = sample.curve.iter().map(|point| point.loss).collect();
        let skipped = sample.curve.len().saturating_sub(40);
        let shown = String::from_iter(&text::bars(&losses)[skipped..]);
        self.heading(&format!("Curve of round {}   loss {shown}", sample.round + 1));
        for point in &sample.curve[skipped..] {
            let facts = text::facts(point).into_iter();
            let facts = facts.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>();
            let _ = writeln!(self.text, "  {}", one_line(&facts.join("  ")));
        }
    }

    /// The last words of runs that did not complete.
    fn tails(&mut self, samples: &[Sample]) {
        for sample in samples {
            for (name, tail) in [("output", &sample.stdout_tail), ("errors", &sample.stderr_tail)] {
                if let Some(tail) = tail {
                    self.heading(&format!("Last {name} of round {}", sample.round + 1));
                    let lines = tail.lines().map(|line| format!("  | {}\n", one_line(line)));
                    self.text.extend(lines);
                }
            }
        }
    }
}
