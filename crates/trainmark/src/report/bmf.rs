//! Bencher Metric Format (<https://bencher.dev/docs/reference/bencher-metric-format/>): a benchmark's name, its
//! measures, a value each, for `bencher run --adapter json --file`.
//!
//! A benchmark's name says everything that identifies the row, so that it is the same name in every
//! run; of rows with the same name the newest counts. Only rows that were measured or did not converge
//! have measures: a failure is no number.

use super::collection::Row;
use super::summary::Summary;
use super::text;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;

/// A measure's slug, and where the figure stands.
type Figure = (&'static str, fn(&Row) -> Option<f64>);

const MEASURES: [Figure; 5] = [
    ("train-s", |row| row.timing().train_s),
    ("wall-s", |row| row.timing().wall_s),
    ("cpu-s", |row| row.metrics().training_time_seconds),
    ("peak-memory-mb", |row| row.metrics().peak_memory_mb),
    ("accuracy-percent", |row| row.metrics().test_accuracy_percent),
];

#[derive(Serialize)]
struct Measure {
    value: f64,
}

/// Writes the object, indented, with a newline at its end.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    let mut newest: BTreeMap<String, &Row> = BTreeMap::new();
    for row in summary.rows().iter().filter(|row| row.status.completed()) {
        let kept = newest.entry(name(summary, row)).or_insert(row);
        if (kept.started, kept.timestamp()) < (row.started, row.timestamp()) {
            *kept = row;
        }
    }
    let benchmarks: BTreeMap<&str, BTreeMap<&str, Measure>> = newest
        .iter()
        .map(|(name, row)| {
            let known = MEASURES
                .iter()
                .filter_map(|(slug, figure)| Some((*slug, Measure { value: figure(row)? })));
            (name.as_str(), known.collect())
        })
        .collect();
    serde_json::to_writer_pretty(&mut to, &benchmarks)?;
    to.write_all(b"\n")
}

/// `MNISTClassic/mlp/cpu epochs=5 batch_size=32 hidden_size=512 seed=42 dataset=mnist`.
fn name(summary: &Summary, row: &Row) -> String {
    let parts = [summary.executable(row), summary.model(row), summary.backend(row)];
    let mut name = parts.map(|part| text::visible(part, 100)).join("/");
    if row.compiled {
        name += "/compiled";
    }
    let config: &Map<String, Value> = summary.config_of(row);
    for (key, value) in config {
        name += &format!(
            " {}={}",
            text::visible(key, 100),
            text::visible(&text::scalar(Some(value)), 100)
        );
    }
    if let Some(dataset) = summary.dataset(row) {
        name += &format!(" dataset={}", text::visible(&dataset.name, 100));
    }
    name
}
