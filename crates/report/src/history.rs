//! The history of rows on a terminal, as Markdown and as JSON.

use crate::compare::value;
use crate::console::{Style, one_line};
use crate::markdown::{escape_long, small_table};
use crate::text::BARS;
use record::history::{History, Point, Series};
use std::fmt::Write;

// Writing to a string cannot fail.

/// A line of small bars per row, its changes below it.
pub fn table(history: &History, style: Style) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}, oldest run first", history.figure.title());
    for series in &history.series {
        let value = |point: Option<&Point>| value(point.map(|point| point.value), &history.figure);
        let room = usize::from(style.width).saturating_sub(30).max(10);
        let _ = writeln!(
            text,
            "\n{}\n  {} {} {}  ({} runs)",
            one_line(&series.label),
            value(series.points.first()),
            bars(series, room),
            value(series.points.last()),
            series.points.len()
        );
        for change in &series.changes {
            let words = change.words(&history.figure);
            let words = one_line(&words);
            let _ = match (style.color, change.worse) {
                (false, _) => writeln!(text, "  {words}"),
                (true, true) => writeln!(text, "  \x1b[31m{words}\x1b[0m"),
                (true, false) => writeln!(text, "  \x1b[32m{words}\x1b[0m"),
            };
        }
    }
    if history.left_out > 0 {
        let _ = writeln!(text, "\n{} results without this figure are left out", history.left_out);
    }
    text
}

/// A table of the rows and a list of the changes.
pub fn markdown(history: &History) -> String {
    let row = |series: &Series| {
        let changes =
            series.changes.iter().map(|change| escape_long(&change.words(&history.figure)));
        let shown = |point: Option<&Point>| value(point.map(|point| point.value), &history.figure);
        vec![
            escape_long(&series.label),
            series.points.len().to_string(),
            shown(series.points.first()),
            shown(series.points.last()),
            changes.collect::<Vec<_>>().join("<br>"),
        ]
    };
    let heads = ["Row", "Runs", "First", "Last", "Changes"];
    let table = small_table(&heads, &[1, 2, 3], history.series.iter().map(row));
    format!("{}\n\n{table}", escape_long(&history.figure.title()))
}

/// The history itself, for other programs.
pub fn json(history: &History) -> String {
    serde_json::to_string_pretty(history).unwrap_or_default() + "\n"
}

/// The newest values as bars from zero height for the smallest to full height for the largest, a stroke
/// before each change.
fn bars(series: &Series, room: usize) -> String {
    let skipped = series.points.len().saturating_sub(room);
    let shown = &series.points[skipped..];
    let low = shown.iter().map(|point| point.value).fold(f64::INFINITY, f64::min);
    let high = shown.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    let mut text = String::new();
    if skipped > 0 {
        text.push('…');
    }
    for (index, point) in shown.iter().enumerate() {
        if series.changes.iter().any(|change| change.at == skipped + index) {
            text.push('│');
        }
        let share = if high > low { (point.value - low) / (high - low) } else { 0.5 };
        text.push(BARS[((share * 7.0).round() as usize).min(7)]);
    }
    text
}
