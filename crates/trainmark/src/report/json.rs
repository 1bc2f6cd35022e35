//! The JSON report: the specification's structure, its keys first and in its order, ours beside
//! them. `schema/report.schema.json` describes it. Written row by row: nothing is held twice.

use super::collection::{Row, Run};
use super::compare::Reference;
use super::summary::Summary;
use super::text;
use crate::machine::Machine;
use crate::result::{DatasetRecord, Status, Timing};
use crate::verify::Grade;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;

/// The version of the report's keys.
pub const SCHEMA_VERSION: u32 = 1;

/// Writes the report, indented, with a newline at its end.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut to, &report(summary))?;
    to.write_all(b"\n")
}

fn report(summary: &Summary) -> Report<'_> {
    Report {
        summary: head(summary),
        results: Results(summary),
        schema_version: SCHEMA_VERSION,
        generator: concat!("trainmark ", env!("CARGO_PKG_VERSION")),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    summary: Head<'a>,
    results: Results<'a>,
    schema_version: u32,
    generator: &'static str,
}

#[derive(Serialize)]
struct Head<'a> {
    total_benchmarks: usize,
    models: Vec<&'a str>,
    backends: Vec<&'a str>,
    /// What all rows share.
    config: Map<String, Value>,
    executables: Vec<&'a str>,
    statuses: &'a BTreeMap<Status, usize>,
    reference: Option<&'a Reference>,
    datasets: Vec<&'a DatasetRecord>,
    machines: Vec<&'a Machine>,
    runs: Vec<&'a Run>,
    skipped_files: usize,
    notes: Vec<&'a str>,
}

fn head(summary: &Summary) -> Head<'_> {
    Head {
        total_benchmarks: summary.rows().len(),
        models: summary.models(),
        backends: summary.backends(),
        config: summary.shared_config.iter().cloned().collect(),
        executables: summary.executables(),
        statuses: &summary.statuses,
        reference: summary.reference.as_ref(),
        datasets: summary.datasets().collect(),
        machines: summary.machines().collect(),
        runs: summary.runs().collect(),
        skipped_files: summary.skipped().len(),
        notes: summary.speed_up_note.iter().chain(&summary.notes).map(String::as_str).collect(),
    }
}

struct Results<'a>(&'a Summary);

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.rows().iter().map(|row| Entry { summary: self.0, row }))
    }
}

struct Entry<'a> {
    summary: &'a Summary,
    row: &'a Row,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Entry { summary, row } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", summary.model(row))?;
        map.serialize_entry("backend", summary.backend(row))?;
        map.serialize_entry("compiled", &row.compiled)?;
        map.serialize_entry("timestamp", &row.timestamp)?;
        map.serialize_entry("training_time_seconds", &row.metrics.training_time_seconds)?;
        map.serialize_entry("peak_memory_mb", &row.metrics.peak_memory_mb)?;
        map.serialize_entry("test_accuracy_percent", &row.metrics.test_accuracy_percent)?;
        for key in &summary.differing_config {
            if let Some(value) = summary.config(row, key) {
                map.serialize_entry(&config_key(key), value)?;
            }
        }
        map.serialize_entry("executable", summary.executable(row))?;
        map.serialize_entry("status", &row.status)?;
        optional(&mut map, "reason", summary.reason(row))?;
        map.serialize_entry("speed_up", &row.speed_up.map(|it| it.factor))?;
        optional(&mut map, "speed_up_basis", row.speed_up.map(|it| it.basis.key()))?;
        if let Some(speed_up) = row.speed_up.filter(|it| it.interval.is_some()) {
            optional(&mut map, "speed_up_interval", speed_up.interval)?;
            map.serialize_entry("speed_up_verdict", &speed_up.verdict)?;
        }
        map.serialize_entry("rank", &row.rank)?;
        map.serialize_entry("group", &row.group)?;
        let verified = (!summary.only_specification).then(|| Verified::of(summary, row));
        optional(&mut map, "verification", verified)?;
        optional(&mut map, "dataset", summary.dataset(row).map(|it| &it.name))?;
        optional(&mut map, "target_accuracy_percent", row.target_accuracy_percent)?;
        optional(&mut map, "accuracy_source", row.accuracy_source)?;
        if row.timing != Timing::default() {
            map.serialize_entry("timing", &Known(&row.timing))?;
        }
        if let Some(rates) = &row.roofline {
            map.serialize_entry("dense_flop_per_s", &rates.dense_flop_per_s)?;
            map.serialize_entry("achieved_flop_per_s", &rates.achieved_flop_per_s)?;
            optional(&mut map, "peak_flop_per_s", rates.peak_flop_per_s)?;
            optional(&mut map, "peak_share", rates.share)?;
        }
        optional(&mut map, "race", row.race)?;
        optional(&mut map, "race_speed_up", row.race_speed_up)?;
        if row.counted_runs > 0 {
            map.serialize_entry("runs", &row.counted_runs)?;
            map.serialize_entry("noisy_runs", &row.noisy_runs)?;
            map.serialize_entry("repeated_runs", &row.repeated_runs)?;
        }
        optional(&mut map, "noise_floor", summary.noise_floor(row).map(|floor| floor.share))?;
        optional(&mut map, "device", summary.device(row))?;
        optional(&mut map, "software", row.software.then_some(true))?;
        optional(&mut map, "machine", summary.machine_index(row))?;
        optional(&mut map, "run", summary.run(row).map(|run| &run.id))?;
        optional(&mut map, "started", row.started.map(|it| it.to_string()))?;
        map.serialize_entry("file", &row.file)?;
        map.end()
    }
}

fn optional<M: SerializeMap>(
    map: &mut M,
    key: &str,
    value: Option<impl Serialize>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(key, &value))
}

/// How equal the row's training steps are to the reference's.
#[derive(Serialize)]
struct Verified<'a> {
    grade: Grade,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deterministic: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<&'a str>,
}

impl<'a> Verified<'a> {
    fn of(summary: &'a Summary, row: &Row) -> Verified<'a> {
        let it = summary.verification(row);
        Verified {
            grade: summary.grade(row),
            reason: it.and_then(|it| it.reason.as_deref()),
            first_step: it.and_then(|it| it.first_step),
            deterministic: it.and_then(|it| it.deterministic),
            verified: it.map(|it| it.verified.as_str()),
        }
    }
}

/// The clocks that are known.
struct Known<'a>(&'a Timing);

impl Serialize for Known<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Timing { wall_s, user_s, system_s, setup_s, compile_s, train_s, eval_s, device_s } =
            self.0;
        let clocks = [
            ("wall_s", wall_s),
            ("user_s", user_s),
            ("system_s", system_s),
            ("setup_s", setup_s),
            ("compile_s", compile_s),
            ("train_s", train_s),
            ("eval_s", eval_s),
            ("device_s", device_s),
        ];
        serializer.collect_map(clocks.into_iter().filter(|(_, seconds)| seconds.is_some()))
    }
}

/// Keys of a result that a configuration key of the same name would repeat.
const TAKEN: [&str; 37] = [
    "model",
    "backend",
    "compiled",
    "timestamp",
    "training_time_seconds",
    "peak_memory_mb",
    "test_accuracy_percent",
    "executable",
    "status",
    "reason",
    "speed_up",
    "speed_up_basis",
    "speed_up_interval",
    "speed_up_verdict",
    "dense_flop_per_s",
    "achieved_flop_per_s",
    "peak_flop_per_s",
    "peak_share",
    "runs",
    "noisy_runs",
    "repeated_runs",
    "noise_floor",
    "race",
    "race_speed_up",
    "rank",
    "group",
    "verification",
    "dataset",
    "target_accuracy_percent",
    "accuracy_source",
    "timing",
    "device",
    "software",
    "machine",
    "run",
    "started",
    "file",
];

/// A configuration key as a result's key: its own name, unless that is taken.
fn config_key(key: &str) -> std::borrow::Cow<'_, str> {
    match TAKEN.contains(&key) || key.starts_with("config.") {
        true => format!("config.{key}").into(),
        false => key.into(),
    }
}

/// The report on one line, to stand in an HTML page's `script` element: nothing in a name can end
/// the element or begin another, or reorder what a reader of the page's source sees.
pub fn embedded(summary: &Summary) -> String {
    let report = report(summary);
    // Writing to memory cannot fail, and every key is a string.
    let text = serde_json::to_string(&report).unwrap_or_default();
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' => safe += &format!("\\u{:04x}", c as u32),
            c if text::is_deceptive(c) => {
                let mut units = [0; 2];
                safe.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            c => safe.push(c),
        }
    }
    safe
}
