//! The comparison as a table on a terminal.

use super::{Comparison, GradeOutcome, GradeRow, Metric, Row};
use crate::report::console::{Style, one_line};
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, LineStyle, Table};
use std::fmt::Write;

/// The table, what else differs, and the verdict.
pub fn render(comparison: &Comparison, style: Style) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.style_mut().header_separator = LineStyle::none().fill('-').junction(' ');
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(style.width);
    table.set_header(["Row", "Metric", "Base", "New", "Change", "Outcome"]);
    let shared = comparison.shared_settings();
    for row in &comparison.rows {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut outcome = Cell::new(row.outcome.words());
        if style.color && row.outcome.is_regression() {
            outcome = outcome.fg(Color::Red);
        }
        table.add_row([
            Cell::new(one_line(&row.identity.without(&shared))),
            Cell::new(row.metric.title()),
            right(figure(row.base.median, row.metric)),
            right(figure(row.new.median, row.metric)),
            right(change(row)),
            outcome,
        ]);
    }
    for row in changed_grades(comparison) {
        let mut outcome = Cell::new(row.outcome.words());
        if style.color && row.outcome.is_regression() {
            outcome = outcome.fg(Color::Red);
        }
        let right = |text: &str| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(one_line(&row.identity.without(&shared))),
            Cell::new("verification"),
            right(row.base.words()),
            right(row.new.map_or("n/a", |grade| grade.words())),
            right(""),
            outcome,
        ]);
    }
    let mut text = format!("{table}\n");
    for line in remarks(comparison) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", one_line(&line));
    }
    text
}

/// Grades that a person should see: all that are not as they were.
pub fn changed_grades(comparison: &Comparison) -> impl Iterator<Item = &GradeRow> {
    let shown = |it: &&GradeRow| !matches!(it.outcome, GradeOutcome::Same | GradeOutcome::Unknown);
    comparison.grades.iter().filter(shown)
}

/// `+3.1 % [+2.0, +4.4]`; without the interval where there are too few samples for one.
pub fn change(row: &Row) -> String {
    let percent = |ratio: f64| format!("{:+.1}", (ratio - 1.0) * 100.0);
    match (row.ratio, row.interval) {
        (None, _) => "n/a".to_owned(),
        (Some(ratio), None) => format!("{} %", percent(ratio)),
        (Some(ratio), Some(interval)) => {
            format!("{} % [{}, {}]", percent(ratio), percent(interval.low), percent(interval.high))
        }
    }
}

/// A median with the digits that its metric deserves.
pub fn figure(value: Option<f64>, metric: Metric) -> String {
    match value {
        None => "n/a".to_owned(),
        Some(value) if matches!(metric, Metric::Memory | Metric::Accuracy) => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// What stands under the table in every format.
pub fn remarks(comparison: &Comparison) -> Vec<String> {
    let mut remarks = Vec::new();
    let shared = comparison.shared_settings();
    if !shared.is_empty() {
        remarks.push(format!("All rows: {}", shared.join(" ")));
    }
    for difference in &comparison.differences {
        remarks.push(format!("Differs: {difference}"));
    }
    for (row, side) in &comparison.unmatched {
        remarks.push(format!("Only in {side}: {row}"));
    }
    for row in &comparison.grades {
        match (row.outcome, &row.reason) {
            (GradeOutcome::GradeLost, Some(reason)) => {
                remarks.push(format!("Grade lost: {}: {reason}", row.identity));
            }
            (GradeOutcome::Unknown, _) => remarks.push(format!(
                "Was {} and is not verified now (trainmark verify): {}",
                row.base, row.identity
            )),
            _ => {}
        }
    }
    let too_few = comparison.rows.iter().any(|row| row.ratio.is_some() && row.interval.is_none());
    if too_few {
        remarks.push(
            "Too few samples for an interval in some rows: with four on each side there is one \
             (trainmark run --repeats 4)"
                .to_owned(),
        );
    }
    let lost = comparison.grades.iter().filter(|row| row.outcome.is_regression()).count();
    match lost {
        0 => {}
        1 => remarks.push("1 verification grade lost".to_owned()),
        more => remarks.push(format!("{more} verification grades lost")),
    }
    let regressions = comparison.regressions() - lost;
    let gate = comparison.gate * 100.0;
    remarks.push(match regressions {
        0 if lost > 0 => return remarks, // it would be read as the verdict
        0 => format!("No regression shown beyond the gate of {gate:.1} %"),
        1 => format!("1 regression beyond the gate of {gate:.1} %"),
        more => format!("{more} regressions beyond the gate of {gate:.1} %"),
    });
    remarks
}

#[cfg(any())]
mod tests {
    use super::super::tests::{compare_results, options, result};
    use super::*;

    #[test]
    fn the_table_shows_the_change_with_its_interval() {
        let base = [result("cpu", &[1.0, 1.01, 0.99, 1.0]), result("gone", &[1.0])];
        let new = [result("cpu", &[2.0, 2.02, 1.98, 2.0])];
        let compared = compare_results(&base, &new, &options()).unwrap();
        insta::assert_snapshot!(render(&compared, Style { width: 100, color: false }));
    }

    #[test]
    fn settings_that_all_rows_have_are_said_once() {
        let of = |hidden: u64| {
            let mut row = result("cpu", &[1.0]);
            row.config.insert("epochs".into(), 5.into());
            row.config.insert("hidden_size".into(), hidden.into());
            row
        };
        let rows = [of(256), of(512)];
        let compared = compare_results(&rows, &rows, &options()).unwrap();
        let text = render(&compared, Style { width: 200, color: false });
        assert_eq!(text.matches("epochs=5").count(), 1, "{text}");
        for row in ["MNISTClassic mlp cpu hidden_size=256 ", "All rows: epochs=5\n"] {
            assert!(text.contains(row), "{text}");
        }
    }
}
