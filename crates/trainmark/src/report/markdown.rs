//! The Markdown report, in the specification's layout: files of its own scripts give the same
//! document. Columns, bullets and notes of ours are added where rows have more to say.

use super::collection::{Id, Row};
use super::notes::is_claimed;
use super::summary::{Identity, Summary};
use super::text::{self, push_decimal, visible, width};
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

    /// What the cell is of, where it is a name or a value that rows share.
    fn repeats(&self, row: &Row) -> Option<Id> {
        match self {
            Column::Model => Some(row.model),
            Column::Backend => Some(row.backend),
            Column::Identity(Identity::Executable) => Some(row.executable),
            Column::Identity(Identity::Config(_)) => Some(row.config),
            _ => None,
        }
    }

    /// The figure that the cell is of, if it is of nothing else.
    fn figure(&self, row: &Row) -> Option<f64> {
        match self {
            Column::TrainingTime => row.metrics().training_time_seconds,
            Column::PeakMemory => row.metrics().peak_memory_mb,
            Column::TrainLoop => row.timing().train_s,
            _ => None,
        }
    }

    /// Appends the row's cell.
    fn write(&self, summary: &Summary, row: &Row, to: &mut String) {
        let mut decimal = |figure: Option<f64>| match figure {
            Some(figure) => push_decimal(figure, to),
            None => to.push_str(text::UNKNOWN),
        };
        match self {
            Column::Model => push_escaped(summary.model(row), to),
            Column::Backend => push_escaped(summary.backend(row), to),
            Column::Identity(identity) => push_escaped(&summary.identity_of(row, identity), to),
            Column::TrainingTime => decimal(row.metrics().training_time_seconds),
            Column::PeakMemory => decimal(row.metrics().peak_memory_mb),
            Column::TestAccuracy => {
                decimal(row.metrics().test_accuracy_percent);
                if is_claimed(summary, row) {
                    to.push('\u{2020}');
                }
            }
            Column::TrainLoop => decimal(row.timing().train_s),
            Column::Verified => to.push_str(summary.grade(row).words()),
            Column::Race => decimal(row.race().and_then(|race| race.seconds)),
            Column::RaceEpochs => decimal(row.race().and_then(|race| race.epochs)),
            Column::Rate => to.push_str(&Summary::rate_text(row)),
            Column::Share => to.push_str(&Summary::share_text(row)),
            Column::SpeedUp => push_escaped(&summary.speed_up_with_interval(row), to),
            Column::Status if row.is_ranked_but_for_software() => to.push_str("software"),
            Column::Status => to.push_str(row.status.words()),
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
    if summary.tally.races {
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
    summary.tally.train_loops
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
    let widths: Vec<usize> = columns.iter().map(|column| widest(summary, column)).collect();
    let widths: Vec<usize> =
        widths.iter().zip(&titles).map(|(widest, title)| width(title).max(*widest)).collect();
    let mut line = String::new();
    for (title, width) in titles.iter().zip(&widths) {
        push_cell(&mut line, *width, |line| line.push_str(title));
    }
    line += "|\n";
    for width in &widths {
        line += "|";
        line.extend(std::iter::repeat_n('-', width + 2));
    }
    line += "|\n";
    // Neighbours mostly have the same names: their cells are copied.
    let mut last = vec![(None, String::new()); columns.len()];
    for row in summary.rows() {
        for ((column, width), (id, cell)) in columns.iter().zip(&widths).zip(&mut last) {
            let repeats = column.repeats(row);
            if repeats.is_none() {
                push_cell(&mut line, *width, |line| column.write(summary, row, line));
                continue;
            }
            if repeats != *id {
                *id = repeats;
                cell.clear();
                push_cell(cell, *width, |line| column.write(summary, row, line));
            }
            line += cell;
        }
        line += "|\n";
        to.write_all(line.as_bytes())?;
        line.clear();
    }
    to.write_all(line.as_bytes())
}

/// How wide the column's widest cell is.
fn widest(summary: &Summary, column: &Column) -> usize {
    let (mut widest, mut largest, mut last) = (0, 0.0, None);
    let mut cell = String::new();
    for row in summary.rows() {
        // Of figures without a sign none is wider than the largest.
        let plain = |it: &f64| it.is_sign_positive() && *it < text::FIXED_BELOW;
        let figure = column.figure(row).filter(plain);
        let repeats = column.repeats(row);
        if figure.is_some_and(|figure| figure < largest) || (repeats.is_some() && repeats == last) {
            continue;
        }
        last = repeats;
        largest = figure.unwrap_or(largest);
        cell.clear();
        column.write(summary, row, &mut cell);
        widest = widest.max(width(&cell));
    }
    widest
}

/// Appends a cell, as wide as its column.
fn push_cell(line: &mut String, widest: usize, write: impl FnOnce(&mut String)) {
    const SPACES: &str = "                                ";
    *line += "| ";
    let start = line.len();
    write(line);
    let space = widest - width(&line[start..]) + 1;
    match SPACES.get(..space) {
        Some(spaces) => *line += spaces,
        None => line.extend(std::iter::repeat_n(' ', space)),
    }
}

/// A name on one line as plain Markdown text: it can end no cell, begin no element, link or HTML.
fn escape(name: &str) -> String {
    escape_visible(&visible(name, SHOWN))
}

/// The same behind a text. Most names need no escape, which is quickly seen.
fn push_escaped(name: &str, to: &mut String) {
    match name.len() <= SHOWN && is_plain(name) {
        true => to.push_str(name),
        false => to.push_str(&escape(name)),
    }
}

/// Words of ASCII letters, digits and some marks, which begin and end with a letter or a digit, with
/// an underscore between each two.
fn is_plain(name: &str) -> bool {
    let mut before = b'_';
    for byte in name.bytes() {
        let fits = match byte {
            b'-' | b'.' | b'/' => before != b'_',
            b'_' => before.is_ascii_alphanumeric(),
            byte => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return false;
        }
        before = byte;
    }
    before.is_ascii_alphanumeric()
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

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn names_that_need_no_escape_are_told_from_those_that_do(
            name in "[a-c0-1_./ *é-]{0,6}|[a-z]{55,65}",
        ) {
            let mut text = String::new();
            push_escaped(&name, &mut text);
            proptest::prop_assert_eq!(text, escape(&name));
        }
    }
}
