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
use serde::ser::Serializer;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;

/// The version of the report's keys.
pub const SCHEMA_VERSION: u32 = 1;

/// Bytes that are gathered before they are written.
const BLOCK: usize = 1 << 16;

/// Writes the report, indented, with a newline at its end.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    let mut text = Vec::with_capacity(2 * BLOCK);
    render(summary, &INDENTED, &mut text, |text| {
        to.write_all(text)?;
        text.clear();
        Ok(())
    })?;
    text.push(b'\n');
    to.write_all(&text)
}

/// What stands between the parts of the report. serde_json would find it anew, and escape each key, for
/// every row: twice the time.
struct Layout {
    indented: bool,
    /// Before the first key of the whole, and before each further one.
    top: [&'static str; 3],
    /// Before the first row, between two, and after the last.
    rows: [&'static str; 3],
    /// The same of a row's keys.
    keys: [&'static str; 3],
    colon: &'static str,
}

const INDENTED: Layout = Layout {
    indented: true,
    top: ["{\n  \"", ",\n  \"", "\n}"],
    rows: ["[\n    ", ",\n    ", "\n  ]"],
    keys: ["{\n      \"", ",\n      \"", "\n    }"],
    colon: "\": ",
};

const ON_ONE_LINE: Layout = Layout {
    indented: false,
    top: ["{\"", ",\"", "}"],
    rows: ["[", ",", "]"],
    keys: ["{\"", ",\"", "}"],
    colon: "\":",
};

/// Makes the report block by block: `full` takes what is there.
fn render(
    summary: &Summary,
    layout: &Layout,
    text: &mut Vec<u8>,
    mut full: impl FnMut(&mut Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut whole = Object { text, layout, marks: &layout.top, depth: 2, begun: false };
    whole.nested("summary", &head(summary))?;
    whole.key("results");
    let keys: Vec<(&str, String)> =
        summary.differing_config.iter().map(|key| (&**key, config_key(key))).collect();
    let [first, between, last] = layout.rows;
    for (index, row) in summary.rows().iter().enumerate() {
        whole.push(if index == 0 { first } else { between });
        let (text, marks) = (&mut *whole.text, &layout.keys);
        entry(summary, &keys, row, Object { text, layout, marks, depth: 6, begun: false })?;
        if whole.text.len() >= BLOCK {
            full(whole.text)?;
        }
    }
    whole.push(if summary.rows().is_empty() { "[]" } else { last });
    whole.field("schema_version", &SCHEMA_VERSION)?;
    whole.field("generator", concat!("trainmark ", env!("CARGO_PKG_VERSION")))?;
    whole.end();
    Ok(())
}

/// An object on its way.
struct Object<'a> {
    text: &'a mut Vec<u8>,
    layout: &'a Layout,
    /// Before its first key, before each further one, and at its end.
    marks: &'a [&'static str; 3],
    /// Spaces before its keys.
    depth: usize,
    begun: bool,
}

impl Object<'_> {
    fn push(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    /// Of characters that need no escape.
    fn key(&mut self, key: &str) {
        self.push(self.marks[usize::from(self.begun)]);
        self.begun = true;
        self.push(key);
        self.push(self.layout.colon);
    }

    /// A value that is written on one line.
    fn field(&mut self, key: &str, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
        self.key(key);
        serde_json::to_writer(&mut *self.text, value)
    }

    fn optional(&mut self, key: &str, value: Option<impl Serialize>) -> serde_json::Result<()> {
        value.map_or(Ok(()), |value| self.field(key, &value))
    }

    /// An object or a list.
    fn nested(&mut self, key: &str, value: &impl Serialize) -> serde_json::Result<()> {
        if !self.layout.indented {
            return self.field(key, value);
        }
        self.key(key);
        // Within a text a line's end is escaped.
        for (index, line) in serde_json::to_string_pretty(value)?.split('\n').enumerate() {
            if index > 0 {
                self.text.push(b'\n');
                self.text.extend(std::iter::repeat_n(b' ', self.depth));
            }
            self.push(line);
        }
        Ok(())
    }

    fn end(mut self) {
        self.push(self.marks[2]);
    }
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

fn entry(
    summary: &Summary,
    config_keys: &[(&str, String)],
    row: &Row,
    mut to: Object,
) -> serde_json::Result<()> {
    let metrics = row.metrics();
    to.field("model", summary.model(row))?;
    to.field("backend", summary.backend(row))?;
    to.field("compiled", &row.compiled)?;
    to.field("timestamp", row.timestamp())?;
    to.field("training_time_seconds", &metrics.training_time_seconds)?;
    to.field("peak_memory_mb", &metrics.peak_memory_mb)?;
    to.field("test_accuracy_percent", &metrics.test_accuracy_percent)?;
    for (key, written) in config_keys {
        match summary.config(row, key) {
            None => {}
            Some(value @ (Value::Array(_) | Value::Object(_))) => to.nested(written, value)?,
            Some(value) => to.field(written, value)?,
        }
    }
    to.field("executable", summary.executable(row))?;
    to.field("status", &row.status)?;
    to.optional("reason", summary.reason(row))?;
    to.field("speed_up", &row.speed_up.map(|it| it.factor))?;
    to.optional("speed_up_basis", row.speed_up.map(|it| it.basis.key()))?;
    if let Some((speed_up, interval)) = row.speed_up.and_then(|it| Some((it, it.interval?))) {
        to.nested("speed_up_interval", &interval)?;
        to.field("speed_up_verdict", &speed_up.verdict)?;
    }
    to.field("rank", &row.rank)?;
    to.field("group", &row.group)?;
    if !summary.only_specification {
        to.nested("verification", &Verified::of(summary, row))?;
    }
    to.optional("dataset", summary.dataset(row).map(|it| &it.name))?;
    to.optional("target_accuracy_percent", row.target_accuracy_percent)?;
    to.optional("accuracy_source", row.accuracy_source)?;
    if row.timing() != Timing::default() {
        to.nested("timing", &Known(row.timing()))?;
    }
    if let Some(rates) = row.roofline() {
        to.field("dense_flop_per_s", &rates.dense_flop_per_s)?;
        to.field("achieved_flop_per_s", &rates.achieved_flop_per_s)?;
        to.optional("peak_flop_per_s", rates.peak_flop_per_s)?;
        to.optional("peak_share", rates.share)?;
    }
    if let Some(race) = row.race() {
        to.nested("race", &race)?;
    }
    if let Some(speed_up) = row.race_speed_up() {
        to.nested("race_speed_up", &speed_up)?;
    }
    if row.counted_runs > 0 {
        to.field("runs", &row.counted_runs)?;
        to.field("noisy_runs", &row.noisy_runs)?;
        to.field("repeated_runs", &row.repeated_runs)?;
    }
    to.optional("noise_floor", summary.noise_floor(row).map(|floor| floor.share))?;
    to.optional("device", summary.device(row))?;
    to.optional("software", row.software.then_some(true))?;
    to.optional("machine", summary.machine_index(row))?;
    to.optional("run", summary.run(row).map(|run| &run.id))?;
    to.optional("started", row.started.map(|it| it.to_string()))?;
    to.field("file", row.file())?;
    to.end();
    Ok(())
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
struct Known(Timing);

impl Serialize for Known {
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

/// A configuration key as a result's key: its own name, unless that is taken. Escaped.
fn config_key(key: &str) -> String {
    let name = match TAKEN.contains(&key) || key.starts_with("config.") {
        true => format!("config.{key}"),
        false => key.to_owned(),
    };
    let quoted = Value::String(name).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The report on one line, to stand in an HTML page's `script` element: nothing in a name can end
/// the element or begin another, or reorder what a reader of the page's source sees.
pub fn embedded(summary: &Summary) -> String {
    let mut text = Vec::new();
    // Writing to memory cannot fail, and every key is a string.
    let _ = render(summary, &ON_ONE_LINE, &mut text, |_| Ok(()));
    let text = String::from_utf8(text).unwrap_or_default();
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
