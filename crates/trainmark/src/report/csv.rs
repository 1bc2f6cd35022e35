//! Comma-separated values (RFC 4180): a header, then one line per row; missing figures are empty.
//!
//! A text that a spreadsheet would take for a formula gets an apostrophe in front, as OWASP advises
//! against CSV injection: names come from files of others, and people open CSV in spreadsheets.

use super::columns::{Cell, columns};
use super::summary::Summary;
use std::borrow::Cow;
use std::io::Write;

/// Writes the table.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, to: impl Write) -> std::io::Result<()> {
    let columns = columns(summary);
    let mut table = csv::Writer::from_writer(to);
    for column in &columns {
        table.write_field(&*harmless(column.name()))?;
    }
    table.write_record(None::<&[u8]>)?;
    for row in summary.rows() {
        for column in &columns {
            match column.cell(summary, row) {
                Cell::Missing => table.write_field("")?,
                Cell::Text(text) => table.write_field(&*harmless(&text))?,
                Cell::Integer(number) => table.write_field(number.to_string())?,
                Cell::Real(figure) => table.write_field(figure.to_string())?,
                Cell::Flag(flag) => table.write_field(if flag { "true" } else { "false" })?,
                Cell::Moment(moment) => table.write_field(moment.to_string())?,
            }
        }
        table.write_record(None::<&[u8]>)?;
    }
    table.flush()
}

fn harmless(text: &str) -> Cow<'_, str> {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        true => Cow::Owned(format!("'{text}")),
        false => Cow::Borrowed(text),
    }
}
