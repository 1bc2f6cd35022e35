//! Bencher Metric Format (<https://bencher.dev/docs/reference/bencher-metric-format/>): a benchmark's name, its
//! measures, a value each, for `bencher run --adapter json --file`.
//!
//! A benchmark's name says everything that identifies the row, so that it is the same name in every
//! run; of rows with the same name the newest counts. Only rows that were measured or did not converge
//! have measures: a failure is no number.

use crate::text::{self, visible};
use record::summary::{Row, Summary};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

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
    for row in summary.rows.iter().filter(|row| row.record.status.completed()) {
        let kept = newest.entry(name(row)).or_insert(row);
        if kept.moment() < row.moment() {
            *kept = row;
        }
    }
    let measures = |row: &Row| -> BTreeMap<String, Measure> {
        let known = summary.figures.iter().filter_map(|figure| {
            Some((figure.key.replace('_', "-"), Measure { value: figure.of(&row.record)? }))
        });
        known.collect()
    };
    let benchmarks: BTreeMap<&String, _> =
        newest.iter().map(|(name, row)| (name, measures(row))).collect();
    serde_json::to_writer_pretty(&mut to, &benchmarks)?;
    to.write_all(b"\n")
}

/// `PyTorch/mlp/cpu epochs=5 batch_size=32 seed=42 dataset=corpus`.
fn name(row: &Row) -> String {
    let record = &row.record;
    let parts = [&record.executable, &record.model, &record.backend];
    let mut name = parts.map(|part| visible(part, 100)).join("/");
    if record.compiled {
        name += "/compiled";
    }
    for (key, value) in &record.config {
        let value = text::scalar(Some(value));
        name += &format!(" {}={}", visible(key, 100), visible(&value, 100));
    }
    if let Some(dataset) = &record.dataset {
        name += &format!(" dataset={}", visible(&dataset.name, 100));
        // Two datasets of one name are two benchmarks.
        let digest = dataset.sha256.as_deref().unwrap_or_default();
        name.extend((!digest.is_empty()).then(|| format!("@{}", visible(digest, 9))));
    }
    name
}
