//! The Markdown report, in the specification's layout: files of its own scripts give the same
//! document. Columns, bullets and notes of ours are added where rows have more to say.

use super::collection::Row;
use super::notes::is_claimed;
use super::summary::{Identity, Summary};
use super::text::{self, decimal, visible, width};
use std::borrow::Cow;
use std::io::Write;

/// Characters of a name or a value that are shown.
const SHOWN: usize = 60;

/// What the two columns of seconds are.
const CLOCKS: &str = "Training Time is user + system CPU time of the trainer's whole process tree; \
                      Train Loop is the trainer's own clock around its epochs.";

/// A chart that stands in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub title: String,
    /// As seen from the report, parts joined by slashes.
    pub path: String,
}

/// Writes the report, with the charts at its end if there are any.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, charts: &[Link], mut to: impl Write) -> std::io::Result<()> {
    let to = &mut to;
    writeln!(to, "# Benchmark Report\n\n## Summary\n")?;
    for (title, value) in facts(summary) {
        writeln!(to, "- **{title}:** {value}")?;
    }
    if !summary.shared_config.is_empty() {
        writeln!(to, "\n### Configuration\n")?;
        for (key, value) in &summary.shared_config {
            let value = escape(&text::scalar(Some(value)));
            writeln!(to, "- **{}:** {value}", escape(&text::title(key)))?;
        }
    }
    writeln!(to, "\n## Results\n")?;
    write_table(summary, to)?;
    let clocks = has_train_loops(summary).then_some(CLOCKS);
    let speed_up = summary.speed_up_note.iter().filter(|_| shows_speed_ups(summary));
    let notes = clocks.into_iter().chain(speed_up.chain(&summary.notes).map(String::as_str));
    for (index, note) in notes.enumerate() {
        if index == 0 {
            writeln!(to, "\n## Notes\n")?;
        }
        writeln!(to, "- {}", escape_long(note))?;
    }
    for (index, Link { title, path }) in charts.iter().enumerate() {
        if index == 0 {
            writeln!(to, "\n## Charts")?;
        }
        writeln!(to, "\n![{}]({})", escape_long(title), destination(path))?;
    }
    Ok(())
}

/// A path as a link's destination: everything that could end it, as its bytes.
fn destination(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                escaped.push(char::from(byte));
            }
            byte => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

/// The bullets of the summary: the specification's three, then ours.
fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let list = |names: Vec<&str>| names.into_iter().map(escape).collect::<Vec<_>>().join(", ");
    let mut facts = vec![
        ("Total Benchmarks", summary.rows().len().to_string()),
        ("Models", list(summary.models())),
        ("Backends", list(summary.backends())),
    ];
    if !summary.only_specification {
        facts.push(("Executables", list(summary.executables())));
        let labels = summary.datasets().map(|dataset| summary.dataset_label(dataset));
        let labels: Vec<Cow<str>> = labels.collect();
        if !labels.is_empty() {
            facts.push(("Datasets", list(labels.iter().map(|label| &**label).collect())));
        }
    }
    facts
}

/// A column of the results' table.
enum Column<'a> {
    Model,
    Backend,
    Identity(&'a Identity),
    TrainingTime,
    PeakMemory,
    TestAccuracy,
    TrainLoop,
    Race,
    RaceEpochs,
    Rate,
    Share,
    SpeedUp,
    Verified,
    Status,
}

impl Column<'_> {
    fn title(&self) -> String {
        match self {
            Column::Model => "Model".to_owned(),
            Column::Backend => "Backend".to_owned(),
            Column::Identity(identity) => escape(&identity.title()),
            Column::TrainingTime => "Training Time (s)".to_owned(),
            Column::PeakMemory => "Peak Memory (MB)".to_owned(),
            Column::TestAccuracy => "Test Accuracy (%)".to_owned(),
            Column::TrainLoop => "Train Loop (s)".to_owned(),
            Column::Race => "To Target (s)".to_owned(),
            Column::RaceEpochs => "Epochs To Target".to_owned(),
            Column::Rate => "GFLOP/s".to_owned(),
            Column::Share => "Peak (%)".to_owned(),
            Column::SpeedUp => "Speed-up".to_owned(),
            Column::Verified => "Verified".to_owned(),
            Column::Status => "Status".to_owned(),
        }
    }

    fn cell<'a>(&self, summary: &'a Summary, row: &'a Row) -> Cow<'a, str> {
        match self {
            Column::Model => Cow::Owned(escape(summary.model(row))),
            Column::Backend => Cow::Owned(escape(summary.backend(row))),
            Column::Identity(identity) => Cow::Owned(escape(&summary.identity_of(row, identity))),
            Column::TrainingTime => decimal(row.metrics.training_time_seconds),
            Column::PeakMemory => decimal(row.metrics.peak_memory_mb),
            Column::TestAccuracy => match is_claimed(summary, row) {
                true => decimal(row.metrics.test_accuracy_percent) + "\u{2020}",
                false => decimal(row.metrics.test_accuracy_percent),
            },
            Column::TrainLoop => decimal(row.timing.train_s),
            Column::Verified => Cow::Borrowed(summary.grade(row).words()),
            Column::Race => decimal(row.race.and_then(|race| race.seconds)),
            Column::RaceEpochs => decimal(row.race.and_then(|race| race.epochs)),
            Column::Rate => Summary::rate_text(row),
            Column::Share => Summary::share_text(row),
            Column::SpeedUp => Cow::Owned(escape(&summary.speed_up_with_interval(row))),
            Column::Status if row.is_ranked_but_for_software() => Cow::Borrowed("software"),
            Column::Status => Cow::Borrowed(row.status.words()),
        }
    }
}

/// The specification's columns, and among them those that the rows need.
fn columns(summary: &Summary) -> Vec<Column<'_>> {
    let mut columns = vec![Column::Model, Column::Backend];
    columns.extend(summary.identity.iter().map(Column::Identity));
    columns.extend([Column::TrainingTime, Column::PeakMemory, Column::TestAccuracy]);
    if has_train_loops(summary) {
        columns.push(Column::TrainLoop);
    }
    if summary.rows().iter().any(|row| row.race.is_some()) {
        columns.extend([Column::Race, Column::RaceEpochs]);
    }
    if summary.has_rates() {
        columns.extend([Column::Rate, Column::Share]);
    }
    if shows_speed_ups(summary) {
        columns.push(Column::SpeedUp);
    }
    if summary.has_verifications() {
        columns.push(Column::Verified);
    }
    if summary.has_exceptions() {
        columns.push(Column::Status);
    }
    columns
}

fn has_train_loops(summary: &Summary) -> bool {
    summary.rows().iter().any(|row| row.timing.train_s.is_some())
}

/// A quotient of CPU seconds is all that the specification's own files allow, and its layout has no
/// place for it.
fn shows_speed_ups(summary: &Summary) -> bool {
    summary.compares() && !summary.only_specification
}

/// Cells are made twice, once for the columns' widths: a table of any length takes no memory.
fn write_table(summary: &Summary, to: &mut impl Write) -> std::io::Result<()> {
    let columns = columns(summary);
    let titles: Vec<String> = columns.iter().map(Column::title).collect();
    let mut widths: Vec<usize> = titles.iter().map(|title| width(title)).collect();
    for row in summary.rows() {
        for (column, widest) in columns.iter().zip(&mut widths) {
            *widest = (*widest).max(width(&column.cell(summary, row)));
        }
    }
    let cells: Vec<Cow<str>> = titles.into_iter().map(Cow::Owned).collect();
    write_row(&cells, &widths, to)?;
    for width in &widths {
        write!(to, "|{:-<1$}", "", width + 2)?;
    }
    writeln!(to, "|")?;
    for row in summary.rows() {
        let cells: Vec<Cow<str>> = columns.iter().map(|it| it.cell(summary, row)).collect();
        write_row(&cells, &widths, to)?;
    }
    Ok(())
}

fn write_row(cells: &[Cow<str>], widths: &[usize], to: &mut impl Write) -> std::io::Result<()> {
    for (cell, widest) in cells.iter().zip(widths) {
        write!(to, "| {cell}{:1$} ", "", widest - width(cell))?;
    }
    writeln!(to, "|")
}

/// A name on one line as plain Markdown text: it can end no cell, begin no element, link or HTML.
fn escape(name: &str) -> String {
    escape_visible(&visible(name, SHOWN))
}

/// The same for sentences.
pub(crate) fn escape_long(sentence: &str) -> String {
    escape_visible(&visible(sentence, 2000))
}

fn escape_visible(name: &str) -> String {
    let name = name.trim();
    let mut escaped = String::with_capacity(name.len());
    let mut before = ' ';
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '|' | '`' | '*' | '[' | ']' | '~' | '$' => escaped.extend(['\\', c]),
            // Inside of a word it is only an underscore.
            '_' if !(before.is_alphanumeric()
                && rest.peek().is_some_and(|it| it.is_alphanumeric())) =>
            {
                escaped.push_str("\\_");
            }
            c => escaped.push(c),
        }
        before = c;
    }
    escaped
}
