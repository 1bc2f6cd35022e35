//! Bencher Metric Format (<https://bencher.dev/docs/reference/bencher-metric-format/>): a benchmark's name, its
//! measures, a value each, for `bencher run --adapter json --file`.
//!
//! A benchmark's name contains everything that identifies the row, so that the name is the same in every run. If several
//! rows have the same name, the older ones have their run after it. Only rows that were measured or did not converge
//! have measures, because a failure is not a number.

use crate::text::{self, visible};
use record::summary::{Row, Summary};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

/// Writes the object, indented, with a newline at its end.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    let completed = summary.rows.iter().filter(|row| row.record.status.completed());
    let mut rows: Vec<(String, &Row)> = completed.map(|row| (name(row), row)).collect();
    rows.sort_by(|(one, a), (other, b)| one.cmp(other).then_with(|| b.by_age(a)));
    let mut benchmarks = BTreeMap::new();
    for (name, row) in rows {
        let run = row.record.run.as_ref().map_or(&row.record.timestamp, |run| &run.id);
        let older = format!("{name} run={}", visible(run, 100));
        let numbered = (2..).map(|number| format!("{older}#{number}"));
        let mut names = [name, older.clone()].into_iter().chain(numbered);
        let free = names.find(|name| !benchmarks.contains_key(name));
        benchmarks.extend(free.map(|name| (name, measures(summary, row))));
    }
    serde_json::to_writer_pretty(&mut to, &benchmarks)?;
    to.write_all(b"\n")
}

/// Under the figures' keys; where two are the same word, both keep their own.
fn measures<'a>(summary: &'a Summary, row: &Row) -> BTreeMap<Cow<'a, str>, Value> {
    let hyphened = |key: &str| key.replace('_', "-");
    let known = summary.figures.iter().filter_map(|figure| {
        let others = summary.figures.iter().filter(|it| hyphened(&it.key) == hyphened(&figure.key));
        let key =
            if others.count() > 1 { figure.key.clone() } else { hyphened(&figure.key).into() };
        Some((key, json!({ "value": figure.of(&row.record)? })))
    });
    known.collect()
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
