//! The summary and the table on a terminal: the `--verbose` of `trainmark report` and the end of
//! `trainmark run`. Nothing in a result file can reach the terminal as a command.

use super::collection::Row;
use super::exhibit::Exhibit;
use super::notes::is_claimed;
use super::summary::{Identity, Summary};
use super::text::{self, count, decimal, visible};
use crate::result::Status;
use comfy_table::{
    Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, Table, Width,
};
use std::borrow::Cow;
use std::fmt::Write;
use std::io::IsTerminal;

/// Columns of a table where nobody says how wide the terminal is.
const WIDTH: u16 = 80;
/// Characters of a name that are shown.
const SHOWN: usize = 40;
/// Columns of a terminal that names take at least, should the table not fit otherwise.
const LEAST_NAME: u16 = 16;
/// Rows that are shown; a terminal is no place for more.
const MAX_ROWS: usize = 200;

/// Bars that are shown.
const MAX_BARS: usize = 60;

/// What the output may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns that a table may take.
    pub width: u16,
    pub color: bool,
}

impl Default for Style {
    /// Neither colour nor more than 80 columns.
    fn default() -> Self {
        Style { width: WIDTH, color: false }
    }
}

impl Style {
    /// What suits standard output: colours on a terminal, unless `NO_COLOR` is set.
    pub fn stdout() -> Style {
        Style::of(std::io::stdout().is_terminal(), Table::new().width())
    }

    /// What suits standard error.
    pub fn stderr() -> Style {
        Style::of(std::io::stderr().is_terminal(), Table::new().use_stderr().width())
    }

    fn of(terminal: bool, width: Option<u16>) -> Style {
        if !terminal {
            return Style::default();
        }
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style { width: width.unwrap_or(WIDTH), color: !set("NO_COLOR") && !dumb }
    }
}

/// What `--verbose` prints: totals, what all rows share, the table and the notes.
pub fn summary(summary: &Summary, style: Style) -> String {
    let mut out = String::from("Benchmark Report\n================\n\n");
    let list = |names: Vec<&str>| {
        let names: Vec<Cow<str>> = names.iter().map(|name| visible(name, SHOWN)).collect();
        names.join(", ")
    };
    let mut facts = vec![
        ("Total benchmarks", total(summary)),
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
    let config = summary.shared_config.iter().map(|(key, value)| {
        let value = text::scalar(Some(value));
        format!("{} {}", visible(key, SHOWN).replace('_', " "), visible(&value, SHOWN))
    });
    let config = config.collect::<Vec<_>>().join(", ");
    if !config.is_empty() {
        facts.push(("Configuration", config));
    }
    for (title, value) in facts {
        let title = format!("{title}:");
        out += &wrapped(&format!("{title:<18}"), &value, style);
    }
    out.push('\n');
    out += &table(summary, style);
    out += &bars(summary, style);
    out += &notes(summary, style);
    out
}

/// The ranked rows of each panel with a bar for their time, the fastest first. Not a column of the
/// table: there the slowest row of all would leave the others no length, and there is no room.
fn bars(summary: &Summary, style: Style) -> String {
    let exhibit = Exhibit::new(summary);
    let mut out = String::new();
    let mut room = MAX_BARS;
    for panel in &exhibit.panels {
        let Some(basis) = panel.basis else { continue };
        let ranked = panel.entries.iter().filter(|entry| entry.row.is_ranked());
        let mut rows: Vec<(f64, String)> = ranked
            .filter_map(|entry| Some((entry.seconds(basis)?, visible(&entry.label, SHOWN).into())))
            .collect();
        if rows.len() < 2 || room < rows.len() {
            continue;
        }
        room -= rows.len();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let slowest = rows.last().map_or(1.0, |row| row.0);
        let names = rows.iter().map(|row| text::width(&row.1)).max().unwrap_or(0);
        let length = usize::from(style.width).saturating_sub(names + 16).clamp(8, 40);
        let _ = writeln!(out, "\n{}, {}:", visible(&panel.title, 200), basis.seconds_of());
        for (seconds, name) in &rows {
            let padding = names - text::width(name);
            let bar = bar(seconds / slowest, length);
            let _ = writeln!(out, "  {name}{:padding$}  {:>9}  {bar}", "", decimal(Some(*seconds)));
        }
    }
    out
}

/// In eighths of a column; nothing is so short that it has none.
fn bar(share: f64, length: usize) -> String {
    let eighths = ((share * 8.0 * length as f64).round() as usize).clamp(1, 8 * length);
    "█".repeat(eighths / 8) + ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8]
}

/// `6 (4 measured, 2 unavailable)`.
fn total(summary: &Summary) -> String {
    let mut total = summary.rows().len().to_string();
    if summary.statuses.keys().any(|status| *status != Status::Measured) {
        let statuses = summary.statuses.iter();
        let statuses: Vec<String> =
            statuses.map(|(status, number)| format!("{number} {status}")).collect();
        let _ = write!(total, " ({})", statuses.join(", "));
    }
    total
}

pub use measure::text::one_line;

/// The notes, a paragraph each; nothing if there are none.
pub fn notes(summary: &Summary, style: Style) -> String {
    let mut out = String::new();
    for note in summary.speed_up_note.iter().chain(&summary.notes) {
        out += &wrapped("- ", &visible(note, 2000), style);
    }
    if !out.is_empty() {
        out.insert(0, '\n');
    }
    out
}

/// Text after a label, its further lines indented by the label's width.
fn wrapped(label: &str, text: &str, style: Style) -> String {
    let room = usize::from(style.width).saturating_sub(label.len()).max(20);
    let mut out = String::from(label);
    let mut taken = 0;
    for word in text.split_whitespace() {
        let length = text::width(word);
        if taken > 0 && taken + 1 + length > room {
            let _ = write!(out, "\n{:1$}", "", label.len());
            taken = 0;
        }
        if taken > 0 {
            out.push(' ');
            taken += 1;
        }
        out += word;
        taken += length;
    }
    out.push('\n');
    out
}

/// The table of all rows. A name that is the same in all rows is left out, except the backend's.
/// Where the columns that tell rows apart do not fit, they become one.
pub fn table(summary: &Summary, style: Style) -> String {
    let mut table = drawn(summary, &columns(summary), style);
    let padding = table.column_count().saturating_sub(1);
    let needed = table.column_max_content_widths().iter().map(|&it| usize::from(it)).sum::<usize>();
    if needed + padding > usize::from(style.width) {
        table = drawn(summary, &fewer_columns(summary), style);
    }
    let mut out = String::new();
    for line in table.lines() {
        out += line.trim_end();
        out.push('\n');
    }
    let more = summary.rows().len().saturating_sub(MAX_ROWS);
    if more > 0 {
        let _ = writeln!(out, "... and {} that the JSON report has", count(more, "more row"));
    }
    out
}

fn drawn(summary: &Summary, columns: &[Column], style: Style) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.style_mut().header_separator = LineStyle::none().fill('-').junction(' ');
    table.force_no_tty().set_width(style.width);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if style.color {
        table.enforce_styling();
    }
    table.set_header(columns.iter().map(|column| Cell::new(column.title())));
    for row in summary.rows().iter().take(MAX_ROWS) {
        table.add_row(columns.iter().map(|column| column.cell(summary, row)));
    }
    let last = columns.len() - 1;
    for (index, column) in columns.iter().enumerate() {
        let Some(drawn) = table.column_mut(index) else { continue };
        drawn.set_padding((0, if index == last { 0 } else { 1 }));
        if column.is_figure() {
            drawn.set_cell_alignment(CellAlignment::Right);
            // A figure over two lines would be misread: names give way.
            drawn.set_constraint(ColumnConstraint::ContentWidth);
        } else if let Column::Everything = column {
            drawn.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(LEAST_NAME)));
        }
    }
    table
}

/// A column of the table.
enum Column<'a> {
    /// All that tells the row apart.
    Everything,
    Model,
    Backend,
    Identity(&'a Identity),
    Status,
    TrainLoop,
    Race,
    Share,
    Cpu,
    Memory,
    Accuracy,
    SpeedUp,
    Verified,
}

fn columns(summary: &Summary) -> Vec<Column<'_>> {
    let mut columns = Vec::new();
    if summary.models().len() > 1 {
        columns.push(Column::Model);
    }
    let executable = summary.identity.iter().find(|it| **it == Identity::Executable);
    columns.extend(executable.map(Column::Identity));
    columns.push(Column::Backend);
    let others = summary.identity.iter().filter(|it| **it != Identity::Executable);
    columns.extend(others.map(Column::Identity));
    columns.extend(figures(summary));
    columns
}

/// The same with all that tells rows apart in one column, which may take several lines.
fn fewer_columns(summary: &Summary) -> Vec<Column<'_>> {
    let mut columns = vec![Column::Everything];
    columns.extend(figures(summary));
    columns
}

/// The row's names and what it differs in, for example `mlp cuda, hidden 512, dataset mnist`.
fn everything(summary: &Summary, row: &Row) -> String {
    let mut parts = vec![visible(summary.backend(row), SHOWN).into_owned()];
    if summary.models().len() > 1 {
        parts[0] = format!("{} {}", visible(summary.model(row), SHOWN), parts[0]);
    }
    for identity in &summary.identity {
        let text = summary.identity_of(row, identity);
        let text = visible(&text, SHOWN);
        match identity {
            Identity::Executable => parts[0] = format!("{text} {}", parts[0]),
            _ if text == text::UNKNOWN => {}
            Identity::Timestamp | Identity::File | Identity::Dataset => {
                parts.push(text.into_owned())
            }
            _ => {
                let title = identity.title().to_lowercase();
                parts.push(format!("{} {text}", visible(&title, SHOWN)));
            }
        }
    }
    parts.join(", ")
}

fn figures(summary: &Summary) -> Vec<Column<'static>> {
    let mut columns = Vec::new();
    if !summary.only_specification || summary.has_exceptions() {
        columns.push(Column::Status);
    }
    if summary.tally.train_loops {
        columns.push(Column::TrainLoop);
    }
    if summary.tally.races {
        columns.push(Column::Race);
    }
    if summary.tally.shares {
        columns.push(Column::Share);
    }
    columns.extend([Column::Cpu, Column::Memory, Column::Accuracy]);
    if summary.compares() {
        columns.push(Column::SpeedUp);
    }
    if summary.has_verifications() {
        columns.push(Column::Verified);
    }
    columns
}

impl Column<'_> {
    fn title(&self) -> String {
        match self {
            Column::Everything => "Benchmark".to_owned(),
            Column::Model => "Model".to_owned(),
            Column::Backend => "Backend".to_owned(),
            Column::Identity(identity) => visible(&identity.title(), SHOWN).into_owned(),
            Column::Status => "Status".to_owned(),
            Column::TrainLoop => "Train s".to_owned(),
            Column::Race => "Target s".to_owned(),
            Column::Share => "Peak %".to_owned(),
            Column::Cpu => "CPU s".to_owned(),
            Column::Memory => "Mem. MB".to_owned(),
            Column::Accuracy => "Acc. %".to_owned(),
            Column::SpeedUp => "Speed-up".to_owned(),
            Column::Verified => "Verified".to_owned(),
        }
    }

    fn is_figure(&self) -> bool {
        use Column::{Accuracy, Cpu, Memory, Race, Share, SpeedUp, TrainLoop};
        matches!(self, TrainLoop | Race | Share | Cpu | Memory | Accuracy | SpeedUp)
    }

    fn cell(&self, summary: &Summary, row: &Row) -> Cell {
        let text = match self {
            Column::Everything => Cow::Owned(everything(summary, row)),
            Column::Model => visible(summary.model(row), SHOWN),
            Column::Backend => visible(summary.backend(row), SHOWN),
            Column::Identity(identity) => {
                let text = summary.identity_of(row, identity);
                Cow::Owned(visible(&text, SHOWN).into_owned())
            }
            Column::Status if row.is_ranked_but_for_software() => Cow::Borrowed("software"),
            Column::Status => Cow::Borrowed(row.status.words()),
            Column::TrainLoop => decimal(row.timing().train_s),
            Column::Race => decimal(row.race().and_then(|race| race.seconds)),
            Column::Share => Summary::share_text(row),
            Column::Cpu => decimal(row.metrics().training_time_seconds),
            Column::Memory => decimal(row.metrics().peak_memory_mb),
            Column::Accuracy => match is_claimed(summary, row) {
                true => decimal(row.metrics().test_accuracy_percent) + "\u{2020}",
                false => decimal(row.metrics().test_accuracy_percent),
            },
            Column::SpeedUp => summary.speed_up_text(row),
            Column::Verified => Cow::Borrowed(summary.grade(row).words()),
        };
        let cell = Cell::new(text);
        match self {
            Column::Status => match row.status {
                Status::Measured if row.is_ranked() => cell.fg(Color::Green),
                Status::Measured | Status::NotConverged => cell.fg(Color::Yellow),
                Status::Unavailable => cell.fg(Color::DarkGrey),
                _ => cell.fg(Color::Red),
            },
            Column::Verified if row.different => cell.fg(Color::Red),
            Column::SpeedUp if row.rank == Some(1) && row.speed_up.is_some() => {
                cell.fg(Color::Green)
            }
            _ => cell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::collection::{collection_of, result_with};
    use crate::report::summary::Options;
    use serde_json::{Value, json};

    fn shown(results: &[Value], style: Style) -> String {
        super::summary(&Summary::new(collection_of(results), &Options::default()).unwrap(), style)
    }

    /// Rows that differ in everything that a suite usually varies.
    fn varied() -> Vec<Value> {
        let mut results = Vec::new();
        for executable in ["MNISTClassic", "pytorch-compiled"] {
            for model in ["attention", "mlp"] {
                for (epochs, backend) in [(1, "cudagraph"), (5, "cpu")] {
                    results.push(result_with(json!({
                        "executable": executable, "model": model, "backend": backend,
                        "config": {"epochs": epochs, "hidden_size": 512, "d_model": epochs},
                        "timing": {"train_s": 12345.678}, "accuracy_source": "claimed",
                    })));
                }
            }
        }
        results
    }

    #[test]
    fn everything_fits_a_narrow_terminal() {
        let text = shown(&varied(), Style::default());
        let widest = text.lines().map(text::width).max();
        assert!(widest <= Some(usize::from(WIDTH)), "{text}");
        assert!(text.contains("Benchmark") && text.contains("12345.68"), "{text}");
    }

    #[test]
    fn a_wide_terminal_gets_a_column_for_each_difference() {
        let text = shown(&varied(), Style { width: 160, color: false });
        let head = text.lines().find(|line| line.starts_with("Model ")).unwrap();
        for title in ["Executable", "Backend", "Epochs", "D Model", "Status", "Train s"] {
            assert!(head.contains(title), "{head}");
        }
    }

    #[test]
    fn a_table_without_end_is_cut_and_says_so() {
        let row = |seed: usize| result_with(json!({"config": {"seed": seed}}));
        let results: Vec<Value> = (0..MAX_ROWS + 1234).map(row).collect();
        let text = shown(&results, Style::default());
        assert!(text.contains("... and 1,234 more rows that the JSON report has"), "{text}");
        assert!(text.lines().count() < MAX_ROWS + 20);
    }

    #[test]
    fn without_colour_there_is_no_escape_sequence() {
        assert!(!shown(&varied(), Style::default()).contains('\u{1b}'));
        assert!(shown(&varied(), Style { width: 80, color: true }).contains('\u{1b}'));
    }
}
