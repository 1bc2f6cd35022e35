//! The comparison as Markdown, for a comment on a pull request.

use super::Comparison;
use super::table::{change, figure, remarks};
use crate::report::markdown::escape_long;
use std::fmt::Write;

/// A table and a list of remarks.
pub fn render(comparison: &Comparison) -> String {
    let verdict = match comparison.has_regression() {
        true => "regression shown",
        false => "no regression shown",
    };
    let mut text = format!("### Trainmark: {verdict}\n\n");
    text += "| Row | Metric | Base | New | Change [95 %] | Outcome |\n";
    text += "|-----|--------|-----:|----:|--------------:|---------|\n";
    for row in &comparison.rows {
        let outcome = row.outcome.words();
        let outcome = match row.outcome.is_regression() {
            true => format!("**{outcome}**"),
            false => outcome.to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {outcome} |",
            escape_long(&row.identity.to_string()),
            row.metric.title(),
            figure(row.base.median, row.metric),
            figure(row.new.median, row.metric),
            change(row),
        );
    }
    text.push('\n');
    for remark in remarks(comparison) {
        let _ = writeln!(text, "- {}", escape_long(&remark));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::{options, result};
    use super::*;

    #[test]
    fn names_cannot_break_the_table() {
        let times = [1.0, 1.01, 0.99, 1.0];
        let hostile = "a|b\n<script>`x`";
        let compared = super::super::compare(
            &[result(hostile, &times)],
            &[result(hostile, &times)],
            &options(),
        );
        insta::assert_snapshot!(render(&compared.unwrap()));
    }
}
