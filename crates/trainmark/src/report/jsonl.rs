//! JSON Lines: one object per row, every column in each, null where it is missing.

use super::collection::Row;
use super::columns::{Cell, Column, columns};
use super::summary::Summary;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::io::Write;

/// Writes the lines.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    let columns = columns(summary);
    for row in summary.rows() {
        serde_json::to_writer(&mut to, &Line { summary, columns: &columns, row })?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

struct Line<'a> {
    summary: &'a Summary,
    columns: &'a [Column],
    row: &'a Row,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for column in self.columns {
            let name = column.name();
            match column.cell(self.summary, self.row) {
                Cell::Missing => map.serialize_entry(name, &())?,
                Cell::Text(text) => map.serialize_entry(name, &text)?,
                Cell::Integer(number) => map.serialize_entry(name, &number)?,
                Cell::Real(figure) => map.serialize_entry(name, &figure)?,
                Cell::Flag(flag) => map.serialize_entry(name, &flag)?,
                Cell::Moment(moment) => map.serialize_entry(name, &moment.to_string())?,
            }
        }
        map.end()
    }
}
