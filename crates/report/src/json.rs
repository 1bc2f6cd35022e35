//! The JSON report: the specification's structure, its keys first and in its order, ours beside
//! them. `schema/report.schema.json` describes it. Rows are written as they are made, on all cores.

use rayon::prelude::*;
use record::figures::Figure;
use record::summary::{Row, Summary};
use record::{DatasetRecord, Reference, RunIdentity, Status, verification::Grade};
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

#[derive(Serialize)]
struct Head<'a> {
    total_benchmarks: usize,
    models: Vec<&'a str>,
    backends: Vec<&'a str>,
    /// Every key; a value that differs between rows is a list.
    config: Map<String, Value>,
    executables: Vec<&'a str>,
    statuses: &'a BTreeMap<Status, usize>,
    reference: Option<&'a Reference>,
    datasets: &'a [DatasetRecord],
    machines: &'a [measure::machine::Machine],
    runs: Vec<&'a RunIdentity>,
    /// Key, label, unit and direction of every figure that a row has.
    figures: Vec<Value>,
    skipped_files: usize,
    duplicate_files: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scaling: Vec<record::scaling::Curve>,
    notes: Vec<String>,
}

fn head(summary: &Summary) -> Head<'_> {
    let config = summary.config.iter().map(|(key, values)| match values.as_slice() {
        [value] => (key.clone(), value.clone()),
        values => (key.clone(), values.into()),
    });
    let is_known =
        |figure: &Figure| summary.rows.iter().any(|row| figure.of(&row.record).is_some());
    let figure = |it: &Figure| json!({"key": it.key, "label": it.label, "unit": it.unit, "better": it.better, "help": it.help});
    Head {
        total_benchmarks: summary.rows.len(),
        models: summary.names(|record| &record.model),
        backends: summary.names(|record| &record.backend),
        config: config.collect(),
        executables: summary.names(|record| &record.executable),
        statuses: &summary.statuses,
        reference: summary.reference.as_ref(),
        datasets: &summary.datasets,
        machines: &summary.machines,
        runs: summary.runs(),
        figures: summary.figures.iter().filter(|it| is_known(it)).map(figure).collect(),
        skipped_files: summary.skipped.len(),
        duplicate_files: summary.duplicates.len(),
        scaling: record::scaling::curves(summary.rows.iter().map(|row| &row.record)),
        notes: crate::notes::notes(summary, true, None).into_iter().map(|note| note.text).collect(),
    }
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
    let noisy = record.samples.iter().filter(|sample| !sample.disturbances.is_empty()).count();
    let repeated = record.samples.iter().filter(|sample| sample.superseded).count();
    let source = |name: &str| record.task().metrics.get(name)?.source;
    let sources =
        record.metrics.of_task.keys().filter_map(|it| Some((it.clone(), json!(source(it)?))));
    let optional = [
        ("reason", record.reason.clone().map(Value::from)),
        ("verification", Some(verified(row))),
        ("task", Some(record.task().name.as_str().into())),
        ("metric_sources", Some(Value::Object(sources.collect()))),
        ("dataset", record.dataset.as_ref().map(|it| it.name.as_str().into())),
        ("timing", (!timing.is_empty()).then(|| timing.into())),
        ("dense_flop_per_s", record.roofline.as_ref().map(|it| it.dense_flop_per_s.into())),
        (
            "peak_flop_per_s",
            record.roofline.as_ref().and_then(|it| Some(it.peak_flop_per_s?.into())),
        ),
        ("race", record.race.as_ref().map(|it| json!(it))),
        ("race_speed_up", row.race_speed_up.map(|it| json!(it))),
        ("samples", (!record.samples.is_empty()).then(|| record.counted().count().into())),
        ("noisy_samples", (!record.samples.is_empty()).then(|| noisy.into())),
        ("repeated_samples", (!record.samples.is_empty()).then(|| repeated.into())),
        ("noise_floor", record.noise_floor.as_ref().map(|it| it.share.into())),
        ("device", record.trainer.as_ref().and_then(|it| Some(it.device.clone()?.into()))),
        ("software", row.is_software().then(|| true.into())),
        ("machine", row.machine.map(Value::from)),
        ("run", record.run.as_ref().map(|run| run.id.as_str().into())),
        ("started", record.run.as_ref().map(|run| run.started.as_str().into())),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            put(key, value);
        }
    }
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
