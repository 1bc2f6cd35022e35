//! One result file in full, for a terminal. A pure function of the file; like every console output it
//! lets no text of the file reach the terminal as a command.

use super::console::{Style, one_line};
use super::text;
use crate::report::old_result::{ResultFile, Sample};
use comfy_table::{Cell, CellAlignment, LineStyle, Table};
use std::fmt::Write;

/// From almost nothing to all.
pub(crate) const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Everything that the file says, in sections; what it does not say is left out.
pub fn text(result: &ResultFile, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    page.title(&format!("{} {} {}", result.executable, result.model, result.backend));
    page.facts(&identity(result));
    page.section("Figures", &figures(result));
    page.runs(&result.samples);
    page.epochs(&result.samples);
    page.section("Trainer", &trainer(result));
    page.section("Machine", &machine(result));
    page.section("Sources", &listed(&result.sources));
    page.section("Missing", &listed(&result.missing));
    page.tails(&result.samples);
    page.text
}

type Facts = Vec<(String, String)>;

fn fact(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn identity(result: &ResultFile) -> Facts {
    let mut facts = vec![fact("status", result.status)];
    let mut add = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| fact(name, value)));
    };
    add("reason", result.reason.clone());
    add("compiled", result.compiled.then(|| "the step is compiled as a whole".to_owned()));
    add("started", result.run.as_ref().map(|run| run.started.clone()));
    let config = result.config.iter();
    let config: Vec<String> =
        config.map(|(key, value)| format!("{key} {}", text::scalar(Some(value)))).collect();
    add("configuration", (!config.is_empty()).then(|| config.join(", ")));
    add(
        "dataset",
        result.dataset.as_ref().map(|dataset| match &dataset.sha256 {
            Some(sha256) => format!("{} (sha256 {sha256})", dataset.name),
            None => dataset.name.clone(),
        }),
    );
    add("target", result.target_accuracy_percent.map(|percent| format!("{percent} % accuracy")));
    if let Some(run) = &result.run {
        let quick = if run.quick { ", quick" } else { "" };
        add(
            "run",
            Some(format!("{} of suite {}{quick}, trainmark {}", run.id, run.suite, run.harness)),
        );
        add("commit", run.git_commit.clone());
    }
    facts
}

fn figures(result: &ResultFile) -> Facts {
    let (metrics, timing) = (&result.metrics, &result.timing);
    let figures = [
        ("training_time_seconds", metrics.training_time_seconds, "s"),
        ("peak_memory_mb", metrics.peak_memory_mb, "MB"),
        ("test_accuracy_percent", metrics.test_accuracy_percent, "%"),
        ("wall_s", timing.wall_s, "s"),
        ("user_s", timing.user_s, "s"),
        ("system_s", timing.system_s, "s"),
        ("setup_s", timing.setup_s, "s"),
        ("compile_s", timing.compile_s, "s"),
        ("train_s", timing.train_s, "s"),
        ("eval_s", timing.eval_s, "s"),
        ("device_s", timing.device_s, "s"),
    ];
    let shown = |(name, value, unit): (&str, Option<f64>, &str)| {
        let value = value?;
        let interval = result.intervals.get(name).map_or(String::new(), |it| {
            format!("  [{:.4}, {:.4}] {:.1} %", it.low, it.high, it.confidence * 100.0)
        });
        Some(fact(name, format!("{value:.4} {unit}{interval}")))
    };
    figures.into_iter().filter_map(shown).collect()
}

fn trainer(result: &ResultFile) -> Facts {
    let Some(trainer) = &result.trainer else { return Vec::new() };
    let mut facts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| fact(name, value)));
    };
    add("command", (!trainer.command.is_empty()).then(|| trainer.command.join(" ")));
    for (name, value) in &trainer.environment {
        add("environment", Some(format!("{name}={value}")));
    }
    add("sha256", trainer.sha256.clone());
    add("version", trainer.version.clone());
    add("device", trainer.device.clone());
    add("software", trainer.software.then(|| "an imitation of a device: never ranked".to_owned()));
    add("path", trainer.path.clone());
    add("threads", trainer.threads.map(|threads| threads.to_string()));
    add("precision", trainer.precision.clone());
    add("parameters", trainer.parameters.map(|number| number.to_string()));
    facts
}

fn machine(result: &ResultFile) -> Facts {
    // As the file has it, so that a new fact about machines needs no change here.
    let Some(serde_json::Value::Object(machine)) =
        result.machine.as_ref().and_then(|machine| serde_json::to_value(machine).ok())
    else {
        return Vec::new();
    };
    let known = machine.iter().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| fact(name, text::scalar(Some(value)))).collect()
}

fn listed(map: &std::collections::BTreeMap<String, String>) -> Facts {
    map.iter().map(|(name, value)| fact(name, value)).collect()
}

struct Page {
    text: String,
    style: Style,
}

// Writing to a string cannot fail.
impl Page {
    fn title(&mut self, title: &str) {
        let title = one_line(title);
        let _ = match self.style.color {
            true => writeln!(self.text, "\x1b[1m{title}\x1b[0m"),
            false => writeln!(self.text, "{title}"),
        };
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

    fn runs(&mut self, samples: &[Sample]) {
        if samples.is_empty() {
            return;
        }
        self.text.push('\n');
        self.title("Runs");
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.style_mut().header_separator = LineStyle::none().fill('-').junction(' ');
        table.set_header(["Round", "Status", "Train s", "Wall s", "CPU s", "Mem. MB", "Acc. %"]);
        for sample in samples {
            let timing = &sample.timing;
            let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            let seconds =
                |it: Option<f64>| right(it.map_or(text::UNKNOWN.into(), |it| format!("{it:.4}")));
            let cpu = timing.user_s.and_then(|user| Some(user + timing.system_s?));
            let memory =
                sample.peak_memory_bytes.map(|it| it as f64 / crate::report::old_result::MEGABYTE);
            table.add_row([
                right((sample.round + 1).to_string()),
                Cell::new(sample.status),
                seconds(timing.train_s),
                seconds(timing.wall_s),
                seconds(cpu),
                right(text::decimal(memory).into_owned()),
                right(text::decimal(sample.test_accuracy_percent).into_owned()),
            ]);
        }
        for line in table.lines() {
            let _ = writeln!(self.text, "  {}", line.trim_end());
        }
        for sample in samples {
            for note in sample.reason.iter().chain(&sample.notes) {
                let _ = writeln!(self.text, "  run {}: {}", sample.round + 1, one_line(note));
            }
        }
    }

    /// The losses of the first run that told them: of the same seed the others are the same.
    fn epochs(&mut self, samples: &[Sample]) {
        let Some(sample) = samples.iter().find(|sample| !sample.epochs.is_empty()) else { return };
        let losses: Vec<Option<f64>> = sample.epochs.iter().map(|epoch| epoch.loss).collect();
        let known = losses.iter().flatten();
        let low = known.clone().copied().fold(f64::INFINITY, f64::min);
        let high = known.copied().fold(f64::NEG_INFINITY, f64::max);
        let bar = |loss: &Option<f64>| match loss {
            None => '?',
            Some(loss) if high > low => BARS[((loss - low) / (high - low) * 7.0).round() as usize],
            Some(_) => BARS[3],
        };
        let last = sample.epochs.iter().rev().take(40).rev();
        let skipped = sample.epochs.len().saturating_sub(40);
        let shown: String = losses[skipped..].iter().map(bar).collect();
        self.text.push('\n');
        self.title(&format!("Epochs of run {}   loss {shown}", sample.round + 1));
        for epoch in last {
            let loss = epoch.loss.map_or("not finite".to_owned(), |loss| format!("{loss:.4}"));
            let accuracy = epoch.accuracy_percent.map(|it| format!("  accuracy {it:.2} %"));
            let _ = writeln!(
                self.text,
                "  {:>4}  loss {loss}  {:.4} s{}",
                epoch.epoch,
                epoch.seconds,
                accuracy.unwrap_or_default()
            );
        }
    }

    /// The last words of runs that did not complete.
    fn tails(&mut self, samples: &[Sample]) {
        for sample in samples {
            let tails = [("output", &sample.stdout_tail), ("errors", &sample.stderr_tail)];
            for (name, tail) in tails {
                if let Some(tail) = tail {
                    self.text.push('\n');
                    self.title(&format!("Last {name} of run {}", sample.round + 1));
                    for line in tail.lines() {
                        let _ = writeln!(self.text, "  | {}", one_line(line));
                    }
                }
            }
        }
    }
}
