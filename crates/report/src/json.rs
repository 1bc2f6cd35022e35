//! The JSON report: the specification's structure, its keys first and in its order, ours beside
//! them. `schema/report.schema.json` describes it. Rows are written as they are made, on all cores.

use rayon::prelude::*;
use record::figures::Figure;
use record::summary::{Row, Summary};
use record::{Sample, verification::Grade};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;

/// The version of the report's keys.
pub const SCHEMA_VERSION: u32 = 2;

/// Rows that are held as text at once.
const CHUNK: usize = 4096;

/// Writes the report, indented, with a newline at its end.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    write!(to, "{{\n  \"summary\": {},\n  \"results\": [", indented(&head(summary), 2)?)?;
    let mut separator = "\n    ";
    for rows in summary.rows.chunks(CHUNK) {
        let texts: Vec<std::io::Result<String>> =
            rows.par_iter().map(|row| indented(&entry(summary, row), 4)).collect();
        for text in texts {
            to.write_all(separator.as_bytes())?;
            to.write_all(text?.as_bytes())?;
            separator = ",\n    ";
        }
    }
    let end = if summary.rows.is_empty() { "]" } else { "\n  ]" };
    let generator = concat!("trainmark ", env!("CARGO_PKG_VERSION"));
    writeln!(
        to,
        "{end},\n  \"schema_version\": {SCHEMA_VERSION},\n  \"generator\": \"{generator}\"\n}}"
    )
}

/// A value whose own lines begin with so many spaces. Within a text a line's end is escaped.
fn indented(value: &impl Serialize, spaces: usize) -> std::io::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(text.replace('\n', &format!("\n{:spaces$}", "")))
}

fn head(summary: &Summary) -> Value {
    // Every key; a value that differs between rows is a list.
    let config = summary.config.iter().map(|(key, values)| match values.as_slice() {
        [value] => (key.clone(), value.clone()),
        values => (key.clone(), values.into()),
    });
    let is_known =
        |figure: &&Figure| summary.rows.iter().any(|row| figure.of(&row.record).is_some());
    let figures = summary.figures.iter().filter(is_known).map(|it| {
        json!({"key": it.key, "label": it.label, "unit": it.unit, "better": it.better, "help": it.help})
    });
    let notes = crate::notes::notes(summary, true, None).into_iter().map(|note| note.text);
    let curves = record::scaling::curves(summary.rows.iter().map(|row| &row.record));
    let mut head = json!({
        "total_benchmarks": summary.rows.len(),
        "models": summary.names(|record| &record.model),
        "backends": summary.names(|record| &record.backend),
        "config": Map::from_iter(config),
        "executables": summary.names(|record| &record.executable),
        "statuses": summary.statuses,
        "reference": summary.reference,
        "datasets": summary.datasets,
        "machines": summary.machines,
        "runs": summary.runs(),
        "figures": Vec::from_iter(figures),
        "skipped_files": summary.skipped.len(),
        "duplicate_files": summary.duplicates.len(),
        "notes": Vec::from_iter(notes),
    });
    if !curves.is_empty() {
        head["scaling"] = json!(curves);
    }
    head
}

/// The specification's keys, every figure that is known, ours, and the configuration; a configuration key
/// that would repeat one of these begins with `config.`.
fn entry(summary: &Summary, row: &Row) -> Map<String, Value> {
    let record = &row.record;
    let mut entry = Map::with_capacity(24);
    let mut put = |key: &str, value: Value| {
        entry.insert(key.to_owned(), value);
    };
    put("model", record.model.as_str().into());
    put("backend", record.backend.as_str().into());
    put("compiled", record.compiled.into());
    put("timestamp", record.timestamp.as_str().into());
    for figure in &summary.figures[..2] {
        put(&figure.key, figure.of(record).into());
    }
    for (name, value) in &record.metrics.of_task {
        put(name, (*value).into());
    }
    put("executable", record.executable.as_str().into());
    put("status", json!(record.status));
    put("rank", row.rank.into());
    put("group", row.group.into());
    put("speed_up", row.speed_up.map(|it| it.gain).into());
    put("file", row.file.as_str().into());
    if record.schema_version > 0 || record.reason.is_some() {
        ours(summary, row, &mut put);
    }
    let clock = summary.clock(row);
    if let (Some(change), Some(clock)) = (row.speed_up, clock) {
        put("speed_up_basis", clock.key.clone().into());
        put("speed_up_verdict", json!(change.verdict));
        if let Some(interval) = change.interval {
            put("speed_up_interval", json!(interval));
        }
    }
    if !record.targets.is_empty() {
        put("targets", json!(record.targets));
    }
    for (key, value) in &record.config {
        let taken = entry.contains_key(key.as_str()) || key.starts_with("config.");
        let name = if taken { format!("config.{key}") } else { key.clone() };
        entry.insert(name, value.clone());
    }
    entry
}

fn ours(summary: &Summary, row: &Row, put: &mut impl FnMut(&str, Value)) {
    let record = &row.record;
    for figure in &summary.figures[2..] {
        if let Some(value) = figure.of(record).filter(|_| figure.is_of_machine()) {
            put(&figure.key, value.into());
        }
    }
    let timing = known(json!(record.timing));
    let has_samples = !record.samples.is_empty();
    let samples = |are: fn(&Sample) -> bool| {
        has_samples.then(|| record.samples.iter().filter(|it| are(it)).count())
    };
    let source = |name: &str| record.task().metrics.get(name)?.source;
    let sources = record.metrics.of_task.keys().filter_map(|it| Some((it, source(it)?)));
    let optional = known(json!({
        "reason": record.reason,
        "verification": verified(row),
        "task": record.task().name,
        "metric_sources": BTreeMap::from_iter(sources),
        "dataset": record.dataset.as_ref().map(|it| &it.name),
        "timing": Some(timing).filter(|timing| !timing.is_empty()),
        "dense_flop_per_s": record.roofline.as_ref().map(|it| it.dense_flop_per_s),
        "peak_flop_per_s": record.roofline.as_ref().and_then(|it| it.peak_flop_per_s),
        "race": record.race,
        "race_speed_up": row.race_speed_up,
        "samples": samples(|it| !it.superseded),
        "noisy_samples": samples(|it| !it.disturbances.is_empty()),
        "repeated_samples": samples(|it| it.superseded),
        "noise_floor": record.noise_floor.as_ref().map(|it| it.share),
        "device": record.trainer.as_ref().and_then(|it| it.device.as_ref()),
        "software": row.is_software().then_some(true),
        "machine": row.machine,
        "run": record.run.as_ref().map(|run| &run.id),
        "started": record.run.as_ref().map(|run| &run.started),
    }));
    optional.into_iter().for_each(|(key, value)| put(&key, value));
}

/// How equal the row's training steps are to the reference's.
fn verified(row: &Row) -> Value {
    let grade = row.grade();
    let Some(it) = row.verification.as_ref().filter(|_| grade != Grade::NotVerified) else {
        return json!({ "grade": grade });
    };
    known(json!({
        "grade": grade, "reason": it.reason, "first_step": it.first_step,
        "deterministic": it.deterministic, "verified": it.verified,
    }))
    .into()
}

/// An object without what is null.
fn known(object: Value) -> Map<String, Value> {
    let Value::Object(mut object) = object else { return Map::new() };
    object.retain(|_, value| !value.is_null());
    object
}
