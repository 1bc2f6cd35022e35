//! One row of a summary as flat columns: what every export that is a table has, with one type each.
//!
//! Names and units are the result files'. A configuration key becomes a column `config.KEY`, whose type
//! is the narrowest that holds all its values; so two exports of different rows may differ in these
//! columns, and in no others.

use super::collection::Row;
use super::summary::Summary;
use serde_json::Value;
use std::borrow::Cow;

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

/// A column that every table has.
struct Fixed {
    name: &'static str,
    kind: Kind,
    cell: for<'a> fn(&'a Summary, &'a Row) -> Cell<'a>,
}

/// A column of this table.
pub struct Column(Of);

enum Of {
    Fixed(&'static Fixed),
    Config { key: String, name: String, kind: Kind },
}

impl Column {
    pub fn name(&self) -> &str {
        match &self.0 {
            Of::Fixed(fixed) => fixed.name,
            Of::Config { name, .. } => name,
        }
    }

    pub fn kind(&self) -> Kind {
        match &self.0 {
            Of::Fixed(fixed) => fixed.kind,
            Of::Config { kind, .. } => *kind,
        }
    }

    /// The row's value: missing, or of this column's kind.
    pub fn cell<'a>(&self, summary: &'a Summary, row: &'a Row) -> Cell<'a> {
        match &self.0 {
            Of::Fixed(fixed) => (fixed.cell)(summary, row),
            Of::Config { key, kind, .. } => {
                summary.config(row, key).map_or(Cell::Missing, |value| scalar(value, *kind))
            }
        }
    }
}

/// The columns of a summary's table, in their order.
pub fn columns(summary: &Summary) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for fixed in &FIXED {
        columns.push(Column(Of::Fixed(fixed)));
        if fixed.name == "timestamp" {
            let keys = summary.config_keys();
            columns.extend(keys.into_iter().map(|key| {
                let values = summary.configurations().filter_map(|config| config.get(key));
                let kind = values.map(kind_of).reduce(wider).unwrap_or(Kind::Text);
                Column(Of::Config { key: key.to_owned(), name: format!("config.{key}"), kind })
            }));
        }
    }
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

fn scalar(value: &Value, kind: Kind) -> Cell<'_> {
    let cell = match kind {
        Kind::Flag => value.as_bool().map(Cell::Flag),
        Kind::Integer => value.as_i64().map(Cell::Integer),
        Kind::Real => value.as_f64().map(Cell::Real),
        Kind::Text | Kind::Moment => match value {
            Value::Null => None,
            Value::String(text) => Some(Cell::Text(text.into())),
            other => Some(Cell::Text(other.to_string().into())),
        },
    };
    cell.unwrap_or(Cell::Missing)
}

fn text<'a>(text: Option<&'a str>) -> Cell<'a> {
    text.map_or(Cell::Missing, |text| Cell::Text(text.into()))
}

fn real<'a>(figure: Option<f64>) -> Cell<'a> {
    figure.map_or(Cell::Missing, Cell::Real)
}

fn integer<'a>(number: Option<impl Into<i64>>) -> Cell<'a> {
    number.map_or(Cell::Missing, |number| Cell::Integer(number.into()))
}

/// Shortens the table below.
const fn fixed(
    name: &'static str,
    kind: Kind,
    cell: for<'a> fn(&'a Summary, &'a Row) -> Cell<'a>,
) -> Fixed {
    Fixed { name, kind, cell }
}

static FIXED: [Fixed; 41] = [
    fixed("executable", Kind::Text, |it, row| text(Some(it.executable(row)))),
    fixed("model", Kind::Text, |it, row| text(Some(it.model(row)))),
    fixed("backend", Kind::Text, |it, row| text(Some(it.backend(row)))),
    fixed("compiled", Kind::Flag, |_, row| Cell::Flag(row.compiled)),
    fixed("timestamp", Kind::Text, |_, row| text(Some(row.timestamp()))),
    fixed("status", Kind::Text, |_, row| text(Some(row.status.key()))),
    fixed("reason", Kind::Text, |it, row| text(it.reason(row))),
    fixed("training_time_seconds", Kind::Real, |_, row| real(row.metrics().training_time_seconds)),
    fixed("peak_memory_mb", Kind::Real, |_, row| real(row.metrics().peak_memory_mb)),
    fixed("test_accuracy_percent", Kind::Real, |_, row| real(row.metrics().test_accuracy_percent)),
    fixed("accuracy_source", Kind::Text, |_, row| text(row.accuracy_source.map(|it| it.key()))),
    fixed("target_accuracy_percent", Kind::Real, |_, row| real(row.target_accuracy_percent)),
    fixed("wall_s", Kind::Real, |_, row| real(row.timing().wall_s)),
    fixed("user_s", Kind::Real, |_, row| real(row.timing().user_s)),
    fixed("system_s", Kind::Real, |_, row| real(row.timing().system_s)),
    fixed("setup_s", Kind::Real, |_, row| real(row.timing().setup_s)),
    fixed("compile_s", Kind::Real, |_, row| real(row.timing().compile_s)),
    fixed("train_s", Kind::Real, |_, row| real(row.timing().train_s)),
    fixed("eval_s", Kind::Real, |_, row| real(row.timing().eval_s)),
    fixed("device_s", Kind::Real, |_, row| real(row.timing().device_s)),
    fixed("speed_up", Kind::Real, |_, row| real(row.speed_up.map(|it| it.factor))),
    fixed("speed_up_basis", Kind::Text, |_, row| text(row.speed_up.map(|it| it.basis.key()))),
    fixed("rank", Kind::Integer, |_, row| integer(row.rank)),
    fixed("group", Kind::Integer, |_, row| integer(Some(row.group))),
    fixed("dataset", Kind::Text, |it, row| text(it.dataset(row).map(|it| &*it.name))),
    fixed("dataset_sha256", Kind::Text, |it, row| {
        text(it.dataset(row).and_then(|it| it.sha256.as_deref()))
    }),
    fixed("device", Kind::Text, |it, row| text(it.device(row))),
    fixed("software", Kind::Flag, |_, row| Cell::Flag(row.software)),
    fixed("hostname", Kind::Text, |it, row| {
        text(it.machine(row).and_then(|it| it.hostname.as_deref()))
    }),
    fixed("cpu", Kind::Text, |it, row| text(it.machine(row).and_then(|it| it.cpu.as_deref()))),
    fixed("threads", Kind::Integer, |it, row| {
        integer(it.machine(row).and_then(|it| it.threads).and_then(|it| i64::try_from(it).ok()))
    }),
    fixed("memory_bytes", Kind::Integer, |it, row| {
        let bytes = it.machine(row).and_then(|it| it.memory_bytes);
        integer(bytes.and_then(|it| i64::try_from(it).ok()))
    }),
    fixed("os", Kind::Text, |it, row| text(it.machine(row).and_then(|it| it.os.as_deref()))),
    fixed("kernel", Kind::Text, |it, row| {
        text(it.machine(row).and_then(|it| it.kernel.as_deref()))
    }),
    fixed("run", Kind::Text, |it, row| text(it.run(row).map(|it| &*it.id))),
    fixed("suite", Kind::Text, |it, row| text(it.run(row).map(|it| &*it.suite))),
    fixed("quick", Kind::Flag, |it, row| {
        it.run(row).map_or(Cell::Missing, |it| Cell::Flag(it.quick))
    }),
    fixed("git_commit", Kind::Text, |it, row| {
        text(it.run(row).and_then(|it| it.git_commit.as_deref()))
    }),
    fixed("harness", Kind::Text, |it, row| text(it.run(row).map(|it| &*it.harness))),
    fixed("started", Kind::Moment, |_, row| row.started.map_or(Cell::Missing, Cell::Moment)),
    fixed("file", Kind::Text, |_, row| text(Some(row.file()))),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Options;
    use crate::report::collection::{collection_of, result_with};
    use serde_json::json;

    fn summary(configs: &[Value]) -> Summary {
        let results: Vec<Value> =
            configs.iter().map(|config| result_with(json!({"config": config}))).collect();
        Summary::new(collection_of(&results), &Options::default()).unwrap()
    }

    #[test]
    fn a_configuration_keys_type_is_the_narrowest_that_holds_all_its_values() {
        let summary = summary(&[
            json!({"n": 1, "rate": 1, "mixed": 1, "on": true, "name": "a"}),
            json!({"n": 2, "rate": 0.5, "mixed": "x", "on": false}),
        ]);
        let columns = columns(&summary);
        let kind = |name: &str| columns.iter().find(|it| it.name() == name).unwrap().kind();
        assert_eq!(kind("config.n"), Kind::Integer);
        assert_eq!(kind("config.rate"), Kind::Real);
        assert_eq!(kind("config.mixed"), Kind::Text);
        assert_eq!(kind("config.on"), Kind::Flag);
        let mixed = columns.iter().find(|it| it.name() == "config.mixed").unwrap();
        let name = columns.iter().find(|it| it.name() == "config.name").unwrap();
        let row = |file: &str| summary.rows().iter().find(|it| it.file() == file).unwrap();
        assert_eq!(mixed.cell(&summary, row("0.json")), Cell::Text("1".into()));
        assert_eq!(name.cell(&summary, row("1.json")), Cell::Missing);
    }

    #[test]
    fn every_cell_is_missing_or_of_its_columns_kind_and_no_name_is_taken_twice() {
        let summary = summary(&[json!({"executable": "x", "config.a": 1, "a": 2})]);
        let columns = columns(&summary);
        for row in summary.rows() {
            for column in &columns {
                let matches = match column.cell(&summary, row) {
                    Cell::Missing => true,
                    Cell::Text(_) => column.kind() == Kind::Text,
                    Cell::Integer(_) => column.kind() == Kind::Integer,
                    Cell::Real(_) => column.kind() == Kind::Real,
                    Cell::Flag(_) => column.kind() == Kind::Flag,
                    Cell::Moment(_) => column.kind() == Kind::Moment,
                };
                assert!(matches, "{}", column.name());
            }
        }
        let mut names: Vec<&str> = columns.iter().map(Column::name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
