//! The JSON report: the specification's structure, its keys first and in its order, ours beside
//! them. `schema/report.schema.json` describes it. Written row by row: nothing is held twice.

use super::collection::{Id, Row, Run};
use super::compare::Reference;
use super::summary::Summary;
use super::text;
use crate::machine::Machine;
use crate::report::old_result::{DatasetRecord, Status, Timing};
use crate::verify::Grade;
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;

/// The version of the report's keys.
pub const SCHEMA_VERSION: u32 = 1;

/// Bytes that are gathered before they are written.
const BLOCK: usize = 1 << 18;

/// Writes the report, indented, with a newline at its end.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    let mut text = Vec::with_capacity(2 * BLOCK);
    render::<true>(summary, &mut text, |text| {
        to.write_all(text)?;
        text.clear();
        Ok(())
    })?;
    text.push(b'\n');
    to.write_all(&text)
}

/// A row's key with what stands around it, as one constant. serde_json would put it together, and look for
/// what has to be escaped in it, for each of a hundred thousand rows: three times the time.
macro_rules! key {
    ($to:expr, $indented:expr, $key:literal) => {
        $to.extend_from_slice(match $indented {
            true => concat!(",\n      \"", $key, "\": ").as_bytes(),
            false => concat!(",\"", $key, "\":").as_bytes(),
        })
    };
}

/// Makes the report block by block: `full` takes what is there.
fn render<const INDENTED: bool>(
    summary: &Summary,
    text: &mut Vec<u8>,
    mut full: impl FnMut(&mut Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let pick = |indented: &'static str, line: &'static str| if INDENTED { indented } else { line };
    push(text, pick("{\n  \"summary\": ", "{\"summary\":"));
    nested::<INDENTED>(text, 2, &head(summary))?;
    push(text, pick(",\n  \"results\": [", ",\"results\":["));
    let mut repeated = Repeated::default();
    let keys: Vec<(&str, Vec<u8>)> = summary
        .differing_config
        .iter()
        .map(|key| (&**key, config_key(key, pick(",\n      ", ","), pick(": ", ":"))))
        .collect();
    for (index, row) in summary.rows().iter().enumerate() {
        if index % NEAR == 0 {
            fetch_names(&summary.rows()[index..]);
        }
        push(text, if index == 0 { "" } else { "," });
        entry::<INDENTED>(summary, &keys, &mut repeated, row, text)?;
        if text.len() >= BLOCK {
            full(text)?;
        }
    }
    push(text, if summary.rows().is_empty() { "]" } else { pick("\n  ]", "]") });
    push(text, pick(",\n  \"schema_version\": ", ",\"schema_version\":"));
    json(text, &SCHEMA_VERSION)?;
    push(text, pick(",\n  \"generator\": ", ",\"generator\":"));
    json(text, concat!("trainmark ", env!("CARGO_PKG_VERSION")))?;
    push(text, pick("\n}", "}"));
    Ok(())
}

/// Rows whose names are fetched together.
const NEAR: usize = 64;

/// Looks at the next files' names, which lie in the order in which they were read: the processor fetches
/// many at once, which one by one, between all else of a row, took a quarter of the report's time.
fn fetch_names(rows: &[Row]) {
    let first = rows.iter().take(NEAR).filter_map(|row| row.file().bytes().next());
    std::hint::black_box(first.fold(0, |sum, byte| sum ^ byte));
}

fn push(to: &mut Vec<u8>, text: &str) {
    to.extend_from_slice(text.as_bytes());
}

/// A value on one line.
fn json(to: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
    serde_json::to_writer(to, value)
}

/// A text. Most need no escape, which is seen eight bytes at a time.
fn string(to: &mut Vec<u8>, text: &str) -> serde_json::Result<()> {
    let (words, rest) = text.as_bytes().as_chunks();
    let mut last = [b'_'; 8];
    last[..rest.len()].copy_from_slice(rest);
    if words.iter().chain([&last]).any(|word| has_escape(*word)) {
        return json(to, text);
    }
    to.reserve(text.len() + 2);
    to.push(b'"');
    push(to, text);
    to.push(b'"');
    Ok(())
}

/// Whether any of eight bytes is a control character, a quotation mark or a backslash.
fn has_escape(bytes: [u8; 8]) -> bool {
    const EACH: u64 = u64::MAX / 255; // 0x0101...
    let word = u64::from_le_bytes(bytes);
    // Subtracting borrows into the highest bit of bytes that are smaller, and of none that is below
    // 128 and not smaller; where it borrows beyond one, that one was found already.
    let has_below = |word: u64, limit: u8| {
        word.wrapping_sub(EACH * u64::from(limit)) & !word & (EACH << 7) != 0
    };
    let has = |byte: u8| has_below(word ^ (EACH * u64::from(byte)), 1);
    has_below(word, b' ') || has(b'"') || has(b'\\')
}

/// An object or a list, whose own lines begin with so many spaces.
fn nested<const INDENTED: bool>(
    to: &mut Vec<u8>,
    spaces: usize,
    value: &impl Serialize,
) -> serde_json::Result<()> {
    if !INDENTED {
        return json(to, value);
    }
    // Within a text a line's end is escaped.
    for (index, line) in serde_json::to_string_pretty(value)?.split('\n').enumerate() {
        if index > 0 {
            to.push(b'\n');
            to.extend(std::iter::repeat_n(b' ', spaces));
        }
        push(to, line);
    }
    Ok(())
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

/// What stands in a row only because of its names, as text: rows are in the order of their groups, so
/// that neighbours mostly have the same, which is then made once for all of them.
#[derive(Default)]
struct Repeated {
    of_names: Option<(Id, Id)>,
    names: Vec<u8>,
    of_more: Option<(Id, Id)>,
    more: Vec<u8>,
}

fn entry<const INDENTED: bool>(
    summary: &Summary,
    config_keys: &[(&str, Vec<u8>)],
    repeated: &mut Repeated,
    row: &Row,
    to: &mut Vec<u8>,
) -> serde_json::Result<()> {
    macro_rules! field {
        ($key:literal, $value:expr) => {{
            key!(to, INDENTED, $key);
            json(to, $value)?;
        }};
    }
    macro_rules! text {
        ($key:literal, $value:expr) => {{
            key!(to, INDENTED, $key);
            string(to, $value)?;
        }};
    }
    macro_rules! optional {
        ($key:literal, $value:expr) => {
            if let Some(value) = $value {
                field!($key, &value);
            }
        };
    }
    macro_rules! optional_text {
        ($key:literal, $value:expr) => {
            if let Some(value) = $value {
                text!($key, value);
            }
        };
    }
    macro_rules! object {
        ($key:literal, $value:expr) => {{
            key!(to, INDENTED, $key);
            nested::<INDENTED>(to, 6, $value)?;
        }};
    }
    let (metrics, timing) = (row.metrics(), row.timing());
    if repeated.of_names != Some((row.model, row.backend)) {
        let to = &mut repeated.names;
        to.clear();
        push(to, if INDENTED { "\n    {\n      \"model\": " } else { "{\"model\":" });
        string(to, summary.model(row))?;
        key!(to, INDENTED, "backend");
        string(to, summary.backend(row))?;
        repeated.of_names = Some((row.model, row.backend));
    }
    to.extend_from_slice(&repeated.names);
    field!("compiled", &row.compiled);
    text!("timestamp", row.timestamp());
    field!("training_time_seconds", &metrics.training_time_seconds);
    field!("peak_memory_mb", &metrics.peak_memory_mb);
    field!("test_accuracy_percent", &metrics.test_accuracy_percent);
    if repeated.of_more != Some((row.config, row.executable)) {
        let to = &mut repeated.more;
        to.clear();
        let config = summary.config_of(row);
        for (key, written) in config_keys {
            if let Some(value) = config.get(*key) {
                to.extend_from_slice(written);
                match value {
                    Value::Array(_) | Value::Object(_) => nested::<INDENTED>(to, 6, value)?,
                    value => json(to, value)?,
                }
            }
        }
        key!(to, INDENTED, "executable");
        string(to, summary.executable(row))?;
        repeated.of_more = Some((row.config, row.executable));
    }
    to.extend_from_slice(&repeated.more);
    text!("status", row.status.key());
    optional_text!("reason", summary.reason(row));
    field!("speed_up", &row.speed_up.map(|it| it.factor));
    optional_text!("speed_up_basis", row.speed_up.map(|it| it.basis.key()));
    if let Some((speed_up, interval)) = row.speed_up.and_then(|it| Some((it, it.interval?))) {
        object!("speed_up_interval", &interval);
        field!("speed_up_verdict", &speed_up.verdict);
    }
    field!("rank", &row.rank);
    field!("group", &row.group);
    if !summary.only_specification {
        object!("verification", &Verified::of(summary, row));
    }
    optional_text!("dataset", summary.dataset(row).map(|it| &*it.name));
    optional!("target_accuracy_percent", row.target_accuracy_percent);
    optional!("accuracy_source", row.accuracy_source);
    if timing != Timing::default() {
        object!("timing", &Known(timing));
    }
    if let Some(rates) = row.roofline() {
        field!("dense_flop_per_s", &rates.dense_flop_per_s);
        field!("achieved_flop_per_s", &rates.achieved_flop_per_s);
        optional!("peak_flop_per_s", rates.peak_flop_per_s);
        optional!("peak_share", rates.share);
    }
    if let Some(race) = row.race() {
        object!("race", &race);
    }
    if let Some(speed_up) = row.race_speed_up() {
        object!("race_speed_up", &speed_up);
    }
    if row.counted_runs > 0 {
        field!("runs", &row.counted_runs);
        field!("noisy_runs", &row.noisy_runs);
        field!("repeated_runs", &row.repeated_runs);
    }
    optional!("noise_floor", summary.noise_floor(row).map(|floor| floor.share));
    optional_text!("device", summary.device(row));
    optional!("software", row.software.then_some(true));
    optional!("machine", summary.machine_index(row));
    optional_text!("run", summary.run(row).map(|run| &*run.id));
    optional!("started", row.started.map(|it| it.to_string()));
    text!("file", row.file());
    push(to, if INDENTED { "\n    }" } else { "}" });
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

/// A configuration key as a result's key, with what stands before and behind it: its own name, unless
/// that is taken.
fn config_key(key: &str, before: &str, behind: &str) -> Vec<u8> {
    let name = match TAKEN.contains(&key) || key.starts_with("config.") {
        true => format!("config.{key}"),
        false => key.to_owned(),
    };
    format!("{before}{}{behind}", Value::String(name)).into_bytes()
}

/// The report on one line, to stand in an HTML page's `script` element: nothing in a name can end
/// the element or begin another, or reorder what a reader of the page's source sees.
pub fn embedded(summary: &Summary) -> String {
    let mut text = Vec::new();
    // Writing to memory cannot fail, and every key is a string.
    let _ = render::<false>(summary, &mut text, |_| Ok(()));
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

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn texts_are_escaped_as_serde_json_does(
            text in "[a-c0-1_./ *é漢\"\\\\\u{0}-\u{21}\u{7f}-\u{a0}-]{0,40}|[ -~]{0,9}",
        ) {
            let mut written = Vec::new();
            string(&mut written, &text).unwrap();
            proptest::prop_assert_eq!(written, serde_json::to_vec(&text).unwrap());
        }
    }
}
