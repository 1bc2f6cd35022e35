//! The comparison as JUnit XML, which every CI server shows: a test case per row and metric, failed
//! where the gate closes. The format is that of the Ant task, as `junit-10.xsd` of the Jenkins xUnit
//! plugin has it.

use super::{Comparison, Row};
use std::fmt::Write;

/// One document with one test suite.
pub fn render(comparison: &Comparison) -> String {
    let failures = comparison.rows.iter().filter(|row| row.outcome.is_regression()).count();
    let skipped = comparison.rows.iter().filter(|row| row.ratio.is_none()).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string cannot fail.
    let _ = writeln!(
        xml,
        "<testsuite name=\"trainmark compare\" tests=\"{}\" failures=\"{failures}\" \
         errors=\"0\" skipped=\"{skipped}\">",
        comparison.rows.len()
    );
    for row in &comparison.rows {
        let name = escape(&format!("{} {}", row.identity, row.metric.title()));
        let _ = write!(xml, "  <testcase classname=\"trainmark\" name=\"{name}\"");
        let message = escape(&message(row));
        let _ = if row.outcome.is_regression() {
            writeln!(xml, "><failure message=\"{message}\"/></testcase>")
        } else if row.ratio.is_none() {
            writeln!(xml, "><skipped message=\"{message}\"/></testcase>")
        } else {
            writeln!(xml, "/>")
        };
    }
    xml + "</testsuite>\n"
}

fn message(row: &Row) -> String {
    let change = super::table::change(row);
    format!("{}: {change}, {} -> {}", row.outcome.words(), row.base.status, row.new.status)
}

/// Text as an attribute's value; what XML 1.0 has no place for becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' => escaped += "&#10;",
            '\t' => escaped += "&#9;",
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests::{options, result};
    use super::*;

    #[test]
    fn a_regression_is_a_failed_case_and_names_cannot_break_the_document() {
        let mut base = result("c<p>u\"&\u{1}", &[1.0, 1.01, 0.99, 1.0]);
        base.executable = "x\ny".into();
        let mut new = result("c<p>u\"&\u{1}", &[2.0, 2.01, 1.99, 2.0]);
        new.executable = "x\ny".into();
        let compared = super::super::compare(&[base], &[new], &options()).unwrap();
        insta::assert_snapshot!(render(&compared));
    }
}
