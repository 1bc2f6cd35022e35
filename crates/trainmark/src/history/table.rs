//! The history on a terminal: a line of small bars per combination, its changes below it.

use super::{History, Series};
use crate::compare::table::figure;
use crate::report::console::{Style, one_line};
use crate::report::full::BARS;
use std::fmt::Write;

/// All series.
pub fn render(history: &History, style: Style) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}, oldest run first", history.metric.title());
    for series in &history.series {
        let values = series.points.iter().map(|point| point.value);
        let figure = |value: Option<f64>| figure(value, history.metric);
        let (first, last) = (values.clone().next(), values.clone().next_back());
        let _ = writeln!(text, "\n{}", one_line(&series.label));
        let _ = writeln!(
            text,
            "  {} {} {}  ({} runs)",
            figure(first),
            bars(series, usize::from(style.width).saturating_sub(30).max(10)),
            figure(last),
            series.points.len()
        );
        for change in &series.changes {
            let words = change.words(history.metric);
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

#[cfg(test)]
mod tests {
    use super::super::tests::summary;
    use super::*;
    use crate::compare::Metric;

    #[test]
    fn the_table_shows_the_series_and_marks_the_change() {
        let history = History::new(&summary(&[(8, 1.0), (8, 1.3)]), Metric::TrainS, 0.0);
        insta::assert_snapshot!(render(&history, Style::default()));
    }
}
