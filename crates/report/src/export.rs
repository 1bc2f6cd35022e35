//! One row as flat columns with one type each, for every export that is a table; and as CSV (RFC 4180).
//!
//! Names and units are the result files'. A configuration key becomes a column `config.KEY`, whose type is
//! the narrowest that holds all its values. A text that a spreadsheet would take for a formula gets an
//! apostrophe in front, as OWASP advises: names come from files of others.

use record::number::tidy;
use record::summary::{Row, Summary};
use record::verdict::Change;
use serde_json::{Value, json};
use std::io::Write;

/// The type of a column. Any cell may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Real,
    Flag,
    /// An instant, as RFC 3339 in UTC.
    Moment,
    /// A day and a time on some clock, as RFC 3339 without a zone.
    Civil,
}

/// A column of the table.
pub struct Column {
    pub name: String,
    pub kind: Kind,
    of: Of,
}

type Of = Box<dyn Fn(&Summary, &Row) -> Value>;
type Get = fn(&Summary, &Row) -> Value;

#[rustfmt::skip]
const BEFORE: [(&str, Kind, Get); 5] = [
    ("executable", Kind::Text, |_, row| row.record.executable.as_str().into()),
    ("model", Kind::Text, |_, row| row.record.model.as_str().into()),
    ("backend", Kind::Text, |_, row| row.record.backend.as_str().into()),
    ("compiled", Kind::Flag, |_, row| row.record.compiled.into()),
    ("timestamp", Kind::Civil, |_, row| {
        let time = jiff::civil::DateTime::strptime("%Y%m%d_%H%M%S", &row.record.timestamp);
        time.ok().map(|time| time.to_string()).into()
    }),
];

#[rustfmt::skip]
const BEHIND: [(&str, Kind, Get); 25] = [
    ("user_s", Kind::Real, |_, row| row.record.timing.user_s.into()),
    ("system_s", Kind::Real, |_, row| row.record.timing.system_s.into()),
    ("status", Kind::Text, |_, row| json!(row.record.status)),
    ("reason", Kind::Text, |_, row| row.record.reason.as_deref().into()),
    ("task", Kind::Text, |_, row| row.record.task().name.as_str().into()),
    ("metric_source", Kind::Text, |_, row| {
        json!(row.record.task().quality().and_then(|(_, metric)| metric.source))
    }),
    ("target", Kind::Real, |_, row| {
        row.record.task().quality.as_deref().and_then(|it| row.record.targets.get(it)).copied().into()
    }),
    ("speed_up", Kind::Real, |_, row| row.speed_up.map(|it| it.gain).into()),
    ("speed_up_low", Kind::Real, |_, row| interval(row.speed_up, |it| it.low)),
    ("speed_up_high", Kind::Real, |_, row| interval(row.speed_up, |it| it.high)),
    ("speed_up_verdict", Kind::Text, |_, row| {
        json!(row.speed_up.filter(|_| !row.is_reference).map(|it| it.verdict))
    }),
    ("speed_up_basis", Kind::Text, |it, row| {
        it.clock(row).map(|clock| &*clock.key).into()
    }),
    ("rank", Kind::Integer, |_, row| row.rank.into()),
    ("group", Kind::Integer, |_, row| row.group.into()),
    ("samples", Kind::Integer, |_, row| row.record.counted().count().into()),
    ("verified", Kind::Text, |_, row| row.verification.as_ref().map(|it| it.grade.words()).into()),
    ("dataset", Kind::Text, |_, row| row.record.dataset.as_ref().map(|it| it.name.as_str()).into()),
    ("dataset_sha256", Kind::Text, |_, row| {
        row.record.dataset.as_ref().and_then(|it| it.sha256.as_deref()).into()
    }),
    ("device", Kind::Text, |_, row| row.record.trainer.as_ref().and_then(|it| it.device.as_deref()).into()),
    ("software", Kind::Flag, |_, row| row.is_software().into()),
    ("machine", Kind::Text, |_, row| row.record.machine.as_ref().and_then(|it| it.cpu.as_deref()).into()),
    ("run", Kind::Text, |_, row| row.record.run.as_ref().map(|run| run.id.as_str()).into()),
    ("started", Kind::Moment, |_, row| {
        let started = row.record.run.as_ref().and_then(|run| run.started.parse::<jiff::Timestamp>().ok());
        started.map(|it| it.to_string()).into()
    }),
    ("git_commit", Kind::Text, |_, row| {
        row.record.run.as_ref().and_then(|run| run.git_commit.as_deref()).into()
    }),
    ("file", Kind::Text, |_, row| row.file.as_str().into()),
];

fn interval(change: Option<Change>, of: fn(record::stats::Interval) -> f64) -> Value {
    change.and_then(|it| it.interval).map(of).into()
}

/// The columns of a summary's table, in their order: who and how, every figure, the rest.
pub fn columns(summary: &Summary) -> Vec<Column> {
    let fixed = |(name, kind, get): (&str, Kind, Get)| Column {
        name: name.to_owned(),
        kind,
        of: Box::new(get),
    };
    let config = summary.config.iter().map(|(key, values)| {
        let known = values.iter().filter(|value| !value.is_null());
        let kind = known.map(kind_of).reduce(wider).unwrap_or(Kind::Text);
        let (name, key) = (format!("config.{key}"), key.clone());
        let of = move |_: &Summary, row: &Row| setting(row.record.config.get(&key), kind);
        Column { name, kind, of: Box::new(of) }
    });
    let figures = summary.figures.iter().cloned().map(|figure| Column {
        name: figure.key.to_string(),
        kind: Kind::Real,
        of: Box::new(move |_, row| figure.of(&row.record).map(tidy).into()),
    });
    let mut columns: Vec<Column> =
        BEFORE.into_iter().map(fixed).chain(config).chain(figures).collect();
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

fn setting(value: Option<&Value>, kind: Kind) -> Value {
    match (value, kind) {
        (None | Some(Value::Null), _) => Value::Null,
        (Some(Value::String(text)), Kind::Text) => text.as_str().into(),
        (Some(value), Kind::Text) => value.to_string().into(),
        (Some(value), Kind::Real) => value.as_f64().into(),
        (Some(value), _) => value.clone(),
    }
}

impl Column {
    /// The row's value: null, or of this column's kind.
    pub fn cell(&self, summary: &Summary, row: &Row) -> Value {
        (self.of)(summary, row)
    }
}

/// Writes a header, then one line per row; missing values are empty.
///
/// # Errors
/// If `to` cannot be written to.
pub fn csv(summary: &Summary, to: impl Write) -> std::io::Result<()> {
    let columns = columns(summary);
    let mut table = csv::Writer::from_writer(to);
    table.write_record(columns.iter().map(|column| harmless(&column.name)))?;
    for row in &summary.rows {
        let cells = columns.iter().map(|column| match (column.cell(summary, row), column.kind) {
            (Value::Null, _) => String::new(),
            (Value::String(text), _) => harmless(&text),
            (value, Kind::Real) => value.as_f64().map_or(String::new(), |it| it.to_string()),
            (value, _) => value.to_string(),
        });
        table.write_record(cells)?;
    }
    table.flush()
}

fn harmless(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    format!("{}{text}", if formula { "'" } else { "" })
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
            let cell = column.cell(&summary, &summary.rows[0]);
            let matches = match column.kind {
                Kind::Text | Kind::Moment | Kind::Civil => cell.is_string(),
                Kind::Integer => cell.is_i64() || cell.is_u64(),
                Kind::Real => cell.is_f64(),
                Kind::Flag => cell.is_boolean(),
            };
            assert!(cell.is_null() || matches, "{}", column.name);
        }
        let mut names: Vec<&str> = columns.iter().map(|it| it.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
