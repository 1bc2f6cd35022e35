//! The comparison as Markdown, for a comment on a pull request.

use super::Comparison;
use super::table::{change, changed_grades, figure, remarks};
use crate::report::markdown::escape_long;
use std::fmt::Write;

/// A table and a list of remarks.
pub fn render(comparison: &Comparison) -> String {
    let verdict = match comparison.has_regression() {
        true => "regression shown",
        false => "no regression shown",
    };
    let bold = |words: &str, is_regression: bool| match is_regression {
        true => format!("**{words}**"),
        false => words.to_owned(),
    };
    let mut text = format!("### Trainmark: {verdict}\n\n");
    text += "| Row | Metric | Base | New | Change [95 %] | Outcome |\n";
    text += "|-----|--------|-----:|----:|--------------:|---------|\n";
    let shared = comparison.shared_settings();
    for row in &comparison.rows {
        let outcome = bold(row.outcome.words(), row.outcome.is_regression());
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {outcome} |",
            escape_long(&row.identity.without(&shared)),
            row.metric.title(),
            figure(row.base.median, row.metric),
            figure(row.new.median, row.metric),
            change(row),
        );
    }
    for row in changed_grades(comparison) {
        let outcome = bold(row.outcome.words(), row.outcome.is_regression());
        let new = row.new.map_or("n/a", |grade| grade.words());
        let identity = escape_long(&row.identity.without(&shared));
        let _ =
            writeln!(text, "| {identity} | verification | {} | {new} |  | {outcome} |", row.base);
    }
    text.push('\n');
    for remark in remarks(comparison) {
        let _ = writeln!(text, "- {}", escape_long(&remark));
    }
    text
}

#[cfg(any())]
mod tests {
    use super::super::tests::{compare_results, options, result};
    use super::*;

    #[test]
    fn names_cannot_break_the_table() {
        let times = [1.0, 1.01, 0.99, 1.0];
        let hostile = "a|b\n<script>`x`";
        let compared =
            compare_results(&[result(hostile, &times)], &[result(hostile, &times)], &options());
        insta::assert_snapshot!(render(&compared.unwrap()));
    }
}
