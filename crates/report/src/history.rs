//! The history of rows on a terminal, as Markdown and as JSON.

use crate::compare::value;
use crate::console::{Style, one_line};
use crate::grid::{GREEN, RED, painted};
use crate::markdown::{escape_long, small_table};
use crate::table::against;
use crate::text::{bars, count};
use record::figures::Figure;
use record::history::{Change, History, Point, Series};
use record::number::short_digest;
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
            "\n{}\n  {} {} {}  ({})",
            one_line(&series.label),
            value(series.points.first()),
            drawn(series, room),
            value(series.points.last()),
            count(series.points.len(), "run")
        );
        for change in &series.changes {
            let color = if change.worse { RED } else { GREEN };
            let words = words(&history.figure, change);
            let _ = writeln!(text, "  {}", painted(&one_line(&words), color, style));
        }
    }
    if history.left_out > 0 {
        let _ = writeln!(
            text,
            "\nLeft out, without it or not ranked: {}",
            count(history.left_out, "result")
        );
        if history.series.is_empty() {
            text += "Name a figure that they have, for example --metric wall_s\n";
        }
    }
    text
}

/// `1.35x slower [1.31, 1.40], 2026-11-20T10:00:00Z, commit 1a2b3c4 to 5d6e7f8`.
pub(crate) fn words(figure: &Figure, change: &Change) -> String {
    let commits = change.commits.as_ref().map_or(String::new(), |(before, after)| {
        format!(", commit {} to {}", short_digest(before), short_digest(after))
    });
    format!("{}, {}{commits}", against(figure, &change.shown, false), change.when)
}

/// A table of the rows and a list of the changes.
pub fn markdown(history: &History) -> String {
    let row = |series: &Series| {
        let changes =
            series.changes.iter().map(|change| escape_long(&words(&history.figure, change)));
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

/// The newest values as bars, a stroke before each change.
fn drawn(series: &Series, room: usize) -> String {
    let skipped = series.points.len().saturating_sub(room);
    let values: Vec<_> = series.points[skipped..].iter().map(|point| Some(point.value)).collect();
    let mut text = if skipped > 0 { "…".to_owned() } else { String::new() };
    for (index, bar) in bars(&values).into_iter().enumerate() {
        if series.changes.iter().any(|change| change.at == skipped + index) {
            text.push('│');
        }
        text.push(bar);
    }
    text
}
