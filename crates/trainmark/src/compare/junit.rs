//! The comparison as JUnit XML, which every CI server shows: a test case per row and metric, failed
//! where the gate closes. The format is that of the Ant task, as `junit-10.xsd` of the Jenkins xUnit
//! plugin has it.

use super::{Comparison, Row};
use std::fmt::Write;

/// One document with one test suite.
pub fn render(comparison: &Comparison) -> String {
    let cases = comparison.rows.len() + comparison.grades.len();
    let failures = comparison.regressions();
    let skipped = comparison.rows.iter().filter(|row| is_skipped(row)).count()
        + comparison.grades.iter().filter(|row| row.new.is_none()).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string cannot fail.
    let _ = writeln!(
        xml,
        "<testsuite name=\"trainmark compare\" tests=\"{cases}\" failures=\"{failures}\" \
         errors=\"0\" skipped=\"{skipped}\">"
    );
    for row in &comparison.rows {
        let name = format!("{} {}", row.identity, row.metric.title());
        xml += &case(&name, row.outcome.is_regression(), is_skipped(row), &message(row));
    }
    for row in &comparison.grades {
        let new = row.new.map_or("n/a", |grade| grade.words());
        let mut message = format!("{}: {} -> {new}", row.outcome.words(), row.base);
        if let Some(reason) = &row.reason {
            message += &format!(": {reason}");
        }
        let name = format!("{} verification", row.identity);
        xml += &case(&name, row.outcome.is_regression(), row.new.is_none(), &message);
    }
    xml + "</testsuite>\n"
}

fn is_skipped(row: &Row) -> bool {
    row.ratio.is_none() && !row.outcome.is_regression()
}

fn case(name: &str, failed: bool, skipped: bool, message: &str) -> String {
    let (name, message) = (escape(name), escape(message));
    let start = format!("  <testcase classname=\"trainmark\" name=\"{name}\"");
    match (failed, skipped) {
        (true, _) => format!("{start}><failure message=\"{message}\"/></testcase>\n"),
        (false, true) => format!("{start}><skipped message=\"{message}\"/></testcase>\n"),
        (false, false) => format!("{start}/>\n"),
    }
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

#[cfg(any())]
mod tests {
    use super::super::tests::{compare_results, options, result};
    use super::*;

    #[test]
    fn a_regression_is_a_failed_case_and_names_cannot_break_the_document() {
        let mut base = result("c<p>u\"&\u{1}", &[1.0, 1.01, 0.99, 1.0]);
        base.executable = "x\ny".into();
        let mut new = result("c<p>u\"&\u{1}", &[2.0, 2.01, 1.99, 2.0]);
        new.executable = "x\ny".into();
        let compared = compare_results(&[base], &[new], &options()).unwrap();
        insta::assert_snapshot!(render(&compared));
    }
}
