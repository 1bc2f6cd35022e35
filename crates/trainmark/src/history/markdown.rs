//! The history as Markdown: a table of the series, a list of the changes.

use super::History;
use crate::compare::table::figure;
use crate::report::markdown::escape_long as cell;
use std::fmt::Write;

/// The whole section.
pub fn render(history: &History) -> String {
    let mut text = format!("# History: {}\n\n", history.metric.title());
    text += "| Row | Runs | First | Last | Changes |\n|---|--:|--:|--:|---|\n";
    for series in &history.series {
        let value = |at: Option<&super::Point>| figure(at.map(|it| it.value), history.metric);
        let changes: Vec<String> =
            series.changes.iter().map(|change| cell(&change.words(history.metric))).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            cell(&series.label),
            series.points.len(),
            value(series.points.first()),
            value(series.points.last()),
            if changes.is_empty() { "none shown".to_owned() } else { changes.join("<br>") },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::summary;
    use super::*;
    use crate::compare::Metric;

    #[test]
    fn the_table_names_the_change() {
        let history = History::new(&summary(&[(8, 1.3), (8, 1.0)]), Metric::TrainS, 0.0);
        insta::assert_snapshot!(render(&history));
    }
}
