//! One row as flat columns with one type each, for every export that is a table; and as CSV (RFC 4180).
//!
//! Names and units are the result files'. A configuration key becomes a column `config.KEY`, whose type is
//! the narrowest that holds all its values. A text that a spreadsheet would take for a formula gets an
//! apostrophe in front, as OWASP advises: names come from files of others.

use record::figures::Figure;
use record::summary::{Row, Summary};
use serde_json::Value;
use std::borrow::Cow;
use std::io::Write;

/// What a column holds. Any cell may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Real,
    Flag,
    /// An instant.
    Moment,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    Missing,
    Text(Cow<'a, str>),
    Integer(i64),
    Real(f64),
    Flag(bool),
    Moment(jiff::Timestamp),
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Cell<'a> {
        value.map_or(Cell::Missing, Into::into)
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Cell<'a> {
        Cell::Text(text.into())
    }
}

/// A column of the table.
pub struct Column {
    pub name: String,
    pub kind: Kind,
    of: Of,
}

type Get = for<'a> fn(&'a Summary, &'a Row) -> Cell<'a>;

enum Of {
    Fixed(Get),
    Config(String),
    Figure(Figure),
}

#[rustfmt::skip]
const BEFORE: [(&str, Kind, Get); 5] = [
    ("executable", Kind::Text, |_, row| row.record.executable.as_str().into()),
    ("model", Kind::Text, |_, row| row.record.model.as_str().into()),
    ("backend", Kind::Text, |_, row| row.record.backend.as_str().into()),
    ("compiled", Kind::Flag, |_, row| Cell::Flag(row.record.compiled)),
    ("timestamp", Kind::Text, |_, row| row.record.timestamp.as_str().into()),
];

#[rustfmt::skip]
const BEHIND: [(&str, Kind, Get); 24] = [
    ("user_s", Kind::Real, |_, row| row.record.timing.user_s.map(Cell::Real).into()),
    ("system_s", Kind::Real, |_, row| row.record.timing.system_s.map(Cell::Real).into()),
    ("status", Kind::Text, |_, row| row.record.status.key().into()),
    ("reason", Kind::Text, |_, row| row.record.reason.as_deref().into()),
    ("task", Kind::Text, |_, row| row.record.task().name.as_str().into()),
    ("metric_source", Kind::Text, |_, row| {
        let quality = row.record.task().quality();
        quality.and_then(|(_, metric)| Some(metric.source?.key())).into()
    }),
    ("target", Kind::Real, |_, row| {
        let quality = row.record.task().quality.as_deref();
        quality.and_then(|quality| row.record.targets.get(quality)).copied().map(Cell::Real).into()
    }),
    ("speed_up", Kind::Real, |_, row| row.speed_up.map(|it| Cell::Real(it.gain)).into()),
    ("speed_up_low", Kind::Real, |_, row| {
        row.speed_up.and_then(|it| it.interval).map(|it| Cell::Real(it.low)).into()
    }),
    ("speed_up_high", Kind::Real, |_, row| {
        row.speed_up.and_then(|it| it.interval).map(|it| Cell::Real(it.high)).into()
    }),
    ("speed_up_basis", Kind::Text, |it, row| {
        row.speed_up.and_then(|_| Some(&*it.groups[row.group].clock.as_ref()?.key)).into()
    }),
    ("rank", Kind::Integer, |_, row| row.rank.map(|rank| Cell::Integer(rank.into())).into()),
    ("group", Kind::Integer, |_, row| integer(row.group)),
    ("samples", Kind::Integer, |_, row| integer(row.record.counted().count())),
    ("verified", Kind::Text, |it, row| it.verification(row).map(|it| it.grade.words()).into()),
    ("dataset", Kind::Text, |_, row| row.record.dataset.as_ref().map(|it| it.name.as_str()).into()),
    ("dataset_sha256", Kind::Text, |_, row| {
        row.record.dataset.as_ref().and_then(|it| it.sha256.as_deref()).into()
    }),
    ("device", Kind::Text, |_, row| {
        row.record.trainer.as_ref().and_then(|it| it.device.as_deref()).into()
    }),
    ("software", Kind::Flag, |_, row| Cell::Flag(row.is_software())),
    ("machine", Kind::Text, |_, row| {
        row.record.machine.as_ref().and_then(|it| it.cpu.as_deref()).into()
    }),
    ("run", Kind::Text, |_, row| row.record.run.as_ref().map(|run| run.id.as_str()).into()),
    ("started", Kind::Moment, |_, row| {
        let run = row.record.run.as_ref();
        run.and_then(|run| run.started.parse().ok()).map(Cell::Moment).into()
    }),
    ("git_commit", Kind::Text, |_, row| {
        row.record.run.as_ref().and_then(|run| run.git_commit.as_deref()).into()
    }),
    ("file", Kind::Text, |_, row| row.file.as_str().into()),
];

fn integer<'a>(number: usize) -> Cell<'a> {
    i64::try_from(number).map_or(Cell::Missing, Cell::Integer)
}

/// The columns of a summary's table, in their order: who and how, every figure, the rest.
pub fn columns(summary: &Summary) -> Vec<Column> {
    let fixed = |(name, kind, get): (&str, Kind, Get)| Column {
        name: name.to_owned(),
        kind,
        of: Of::Fixed(get),
    };
    let config = summary.config.iter().map(|(key, values)| {
        let known = values.iter().filter(|value| !value.is_null());
        let kind = known.map(kind_of).reduce(wider).unwrap_or(Kind::Text);
        Column { name: format!("config.{key}"), kind, of: Of::Config(key.clone()) }
    });
    let figures = summary.figures.iter().map(|figure| Column {
        name: figure.key.to_string(),
        kind: Kind::Real,
        of: Of::Figure(figure.clone()),
    });
    let columns = BEFORE.into_iter().map(fixed).chain(config).chain(figures);
    let mut columns: Vec<Column> = columns.collect();
    // A metric may have any name.
    let behind = BEHIND.into_iter().map(fixed);
    let behind: Vec<Column> =
        behind.filter(|it| !columns.iter().any(|known| known.name == it.name)).collect();
    columns.extend(behind);
    columns
}

fn kind_of(value: &Value) -> Kind {
    match value {
        Value::Bool(_) => Kind::Flag,
        Value::Number(number) if number.is_i64() => Kind::Integer,
        Value::Number(_) => Kind::Real,
        _ => Kind::Text,
    }
}

fn wider(one: Kind, other: Kind) -> Kind {
    match (one, other) {
        (one, other) if one == other => one,
        (Kind::Integer, Kind::Real) | (Kind::Real, Kind::Integer) => Kind::Real,
        _ => Kind::Text,
    }
}

impl Column {
    /// The row's value: missing, or of this column's kind.
    pub fn cell<'a>(&self, summary: &'a Summary, row: &'a Row) -> Cell<'a> {
        match &self.of {
            Of::Fixed(get) => get(summary, row),
            Of::Figure(figure) => figure.of(&row.record).map(Cell::Real).into(),
            Of::Config(key) => {
                let value = row.record.config.get(key);
                value.map_or(Cell::Missing, |value| scalar(value, self.kind))
            }
        }
    }
}

fn scalar(value: &Value, kind: Kind) -> Cell<'_> {
    match kind {
        Kind::Flag => value.as_bool().map(Cell::Flag).into(),
        Kind::Integer => value.as_i64().map(Cell::Integer).into(),
        Kind::Real => value.as_f64().map(Cell::Real).into(),
        Kind::Text | Kind::Moment => match value {
            Value::Null => Cell::Missing,
            Value::String(text) => text.as_str().into(),
            other => Cell::Text(other.to_string().into()),
        },
    }
}

/// Writes a header, then one line per row; missing values are empty.
///
/// # Errors
/// If `to` cannot be written to.
pub fn csv(summary: &Summary, to: impl Write) -> std::io::Result<()> {
    let columns = columns(summary);
    let mut table = csv::Writer::from_writer(to);
    for column in &columns {
        table.write_field(&*harmless(&column.name))?;
    }
    table.write_record(None::<&[u8]>)?;
    for row in &summary.rows {
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

#[cfg(test)]
mod tests {
    use super::*;
    use record::folder::Folder;
    use record::summary::Options;

    #[test]
    fn every_cell_is_missing_or_of_its_columns_kind_and_no_name_is_taken_twice() {
        let mut record = record::Record::default();
        record.config.insert("a".into(), 1.into());
        let folder = Folder::from(vec![record]);
        let summary = Summary::new(folder, &Options::default()).unwrap();
        let columns = columns(&summary);
        for column in &columns {
            let matches = match column.cell(&summary, &summary.rows[0]) {
                Cell::Missing => true,
                Cell::Text(_) => column.kind == Kind::Text,
                Cell::Integer(_) => column.kind == Kind::Integer,
                Cell::Real(_) => column.kind == Kind::Real,
                Cell::Flag(_) => column.kind == Kind::Flag,
                Cell::Moment(_) => column.kind == Kind::Moment,
            };
            assert!(matches, "{}", column.name);
        }
        let mut names: Vec<&str> = columns.iter().map(|it| it.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
