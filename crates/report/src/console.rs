//! The summary and the table on a terminal: the `--verbose` of `trainmark report` and the end of
//! `trainmark run`. Nothing in a result file can reach the terminal as a command.

use crate::exhibit::Exhibit;
use crate::table::{self, Column};
use crate::text::{self, count, decimal, visible};
use comfy_table::{
    Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, Table, Width,
};
pub use measure::text::one_line;
use record::Status;
use record::summary::{Row, Summary};
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

/// A table in the style of all of ours.
pub fn blank(style: Style) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.style_mut().header_separator = LineStyle::none().fill('-').junction(' ');
    table.force_no_tty().set_width(style.width);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if style.color {
        table.enforce_styling();
    }
    table
}

/// What `--verbose` prints: totals, what all rows share, the table and the notes.
pub fn summary(summary: &Summary, style: Style) -> String {
    let mut out = String::from("Benchmark Report\n================\n\n");
    for (title, value) in facts(summary) {
        let title = format!("{title}:");
        out += &wrapped(&format!("{title:<18}"), &visible(&value, 2000), style);
    }
    out.push('\n');
    out += &table(summary, style);
    out += &bars(summary, style);
    out += &notes(summary, style);
    out
}

/// What all rows have in common.
fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let list = |names: Vec<&str>| {
        names.iter().map(|name| visible(name, SHOWN)).collect::<Vec<_>>().join(", ")
    };
    let mut facts = vec![
        ("Total benchmarks", total(summary)),
        ("Models", list(summary.names(|record| &record.model))),
        ("Backends", list(summary.names(|record| &record.backend))),
    ];
    if !summary.only_specification {
        facts.push(("Executables", list(summary.names(|record| &record.executable))));
    }
    let datasets = summary.datasets.iter().map(|it| table::dataset_label(summary, it));
    let datasets = datasets.collect::<Vec<_>>().join(", ");
    let config = summary.shared_config().map(|(key, value)| {
        let value = text::scalar(Some(value));
        format!("{} {}", visible(key, SHOWN).replace('_', " "), visible(&value, SHOWN))
    });
    let config = config.collect::<Vec<_>>().join(", ");
    let more = [("Datasets", datasets), ("Configuration", config)];
    facts.extend(more.into_iter().filter(|(_, value)| !value.is_empty()));
    facts
}

/// `6 (4 measured, 2 unavailable)`.
fn total(summary: &Summary) -> String {
    let mut total = summary.rows.len().to_string();
    if summary.statuses.keys().any(|status| *status != Status::Measured) {
        let statuses = summary.statuses.iter().map(|(status, number)| format!("{number} {status}"));
        let _ = write!(total, " ({})", statuses.collect::<Vec<_>>().join(", "));
    }
    total
}

/// The ranked rows of each panel with a bar for their time, the fastest first. Not a column of the
/// table: there the slowest row of all would leave the others no length, and there is no room.
fn bars(summary: &Summary, style: Style) -> String {
    let exhibit = Exhibit::new(summary);
    let mut out = String::new();
    let mut room = MAX_BARS;
    for panel in &exhibit.panels {
        let Some(clock) = panel.clock else { continue };
        let ranked = panel.entries.iter().filter(|entry| entry.row.is_ranked());
        let mut rows: Vec<(f64, &str)> =
            ranked.filter_map(|it| Some((clock.of(&it.row.record)?, it.label.as_str()))).collect();
        if rows.len() < 2 || room < rows.len() {
            continue;
        }
        room -= rows.len();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let slowest = rows.last().map_or(1.0, |row| row.0);
        let names = rows.iter().map(|row| text::width(row.1)).max().unwrap_or(0);
        let length = usize::from(style.width).saturating_sub(names + 16).clamp(8, 40);
        let _ = writeln!(out, "\n{}, {}:", visible(&panel.title, 200), clock.title());
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

/// The notes, a paragraph each; nothing if there are none.
pub fn notes(summary: &Summary, style: Style) -> String {
    let notes = crate::notes::notes(summary, true);
    let notes = notes.iter().map(|note| wrapped("- ", &visible(note, 2000), style));
    let out: String = notes.collect();
    if out.is_empty() { out } else { format!("\n{out}") }
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
    let columns = table::narrow(summary);
    let mut table = drawn(summary, &columns, false, style);
    let padding = table.column_count().saturating_sub(1);
    let needed = table.column_max_content_widths().iter().map(|&it| usize::from(it)).sum::<usize>();
    if needed + padding > usize::from(style.width) {
        let is_name =
            |it: &Column| matches!(it, Column::Model | Column::Backend | Column::Difference(_));
        let columns: Vec<Column> = columns.into_iter().filter(|it| !is_name(it)).collect();
        table = drawn(summary, &columns, true, style);
    }
    let mut out = String::new();
    for line in table.lines() {
        out += line.trim_end();
        out.push('\n');
    }
    let more = summary.rows.len().saturating_sub(MAX_ROWS);
    if more > 0 {
        let _ = writeln!(out, "... and {} that the JSON report has", count(more, "more row"));
    }
    for panel in crate::scaling::panels(summary) {
        let mut table = blank(style);
        table.set_header(panel.heads.iter().map(|head| visible(head, SHOWN)));
        panel.rows.iter().for_each(|row| {
            table.add_row(row);
        });
        let _ = write!(out, "\n{}", wrapped("Scaling: ", &visible(&panel.title, 200), style));
        for line in table.lines() {
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out
}

/// `in_one`: whether all names stand in one column, which may take several lines.
fn drawn(summary: &Summary, columns: &[Column], in_one: bool, style: Style) -> Table {
    let mut table = blank(style);
    // A head takes several lines, so that figures stand close together.
    let head = |column: &Column| column.title(summary).replace(' ', "\n");
    let name = in_one.then(|| "Row".to_owned());
    table.set_header(name.into_iter().chain(columns.iter().map(head)).map(Cell::new));
    for row in summary.by_group().take(MAX_ROWS).map(|place| &summary.rows[place]) {
        let name = in_one.then(|| Cell::new(table::label(summary, row, true)));
        table.add_row(name.into_iter().chain(columns.iter().map(|it| cell(summary, row, it))));
    }
    let last = columns.len() - 1 + usize::from(in_one);
    for index in 0..=last {
        let column = index.checked_sub(usize::from(in_one)).map(|index| &columns[index]);
        let Some(drawn) = table.column_mut(index) else { continue };
        drawn.set_padding((0, if index == last { 0 } else { 1 }));
        match column {
            // A figure over two lines would be misread: names give way.
            Some(column) if column.is_figure() => {
                drawn.set_cell_alignment(CellAlignment::Right);
                drawn.set_constraint(ColumnConstraint::ContentWidth);
            }
            Some(_) => {}
            None => {
                drawn.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(LEAST_NAME)));
            }
        }
    }
    table
}

fn cell(summary: &Summary, row: &Row, column: &Column) -> Cell {
    let cell = Cell::new(column.cell(summary, row));
    match column {
        Column::Status => match row.record.status {
            Status::Measured if row.is_ranked() => cell.fg(Color::Green),
            Status::Measured | Status::NotConverged => cell.fg(Color::Yellow),
            Status::Unavailable => cell.fg(Color::DarkGrey),
            _ => cell.fg(Color::Red),
        },
        Column::Verified if row.different => cell.fg(Color::Red),
        // Only what is shown has a colour.
        Column::SpeedUp if row.speed_up.is_some_and(|it| it.verdict == record::Verdict::Faster) => {
            cell.fg(Color::Green)
        }
        _ => cell,
    }
}
