//! One result file, as far as the reports need it: borrowed from the file's bytes, everything else
//! passed over. What is wrong with a file that cannot be used is found out by a second, slower look.

use super::plain;
use crate::race::Race;
use crate::report::old_result::{AccuracySource, Metrics, SCHEMA_VERSION, Status, Timing};
use crate::roofline::Roofline;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The keys of a result file that the reports use. What many files do not have is in boxes: the whole is
/// moved more than once on its way out of the parser.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Headline<'a> {
    #[serde(borrow)]
    pub executable: Cow<'a, str>,
    #[serde(borrow)]
    pub model: Cow<'a, str>,
    #[serde(borrow)]
    pub backend: Cow<'a, str>,
    #[serde(borrow, default)]
    pub timestamp: Cow<'a, str>,
    /// Still JSON text, like `dataset` and `machine`: files mostly repeat each other's, so each is
    /// parsed once.
    #[serde(borrow, default)]
    pub config: Option<&'a RawValue>,
    pub metrics: Metrics,
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default)]
    pub status: Option<Status>,
    #[serde(borrow, default)]
    pub reason: Option<Text<'a>>,
    #[serde(default)]
    pub compiled: bool,
    #[serde(borrow, default)]
    pub run: Option<Box<RunHeadline<'a>>>,
    #[serde(borrow, default)]
    pub dataset: Option<&'a RawValue>,
    #[serde(default)]
    pub target_accuracy_percent: Option<f64>,
    #[serde(default)]
    pub timing: Timing,
    #[serde(default)]
    pub accuracy_source: Option<AccuracySource>,
    #[serde(borrow, default)]
    pub trainer: Option<Box<TrainerHeadline<'a>>>,
    #[serde(borrow, default)]
    pub machine: Option<&'a RawValue>,
    #[serde(default)]
    pub samples: Vec<SampleHeadline>,
    #[serde(default)]
    pub race: Option<Box<Race>>,
    #[serde(default)]
    pub roofline: Option<Box<Roofline>>,
    #[serde(borrow, default)]
    pub noise_floor: Option<&'a RawValue>,
}

/// What comparisons need of one run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SampleHeadline {
    pub round: u32,
    pub status: Status,
    pub superseded: bool,
    pub timing: SampleTiming,
    /// Only whether there are any.
    pub disturbances: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SampleTiming {
    pub train_s: Option<f64>,
    pub wall_s: Option<f64>,
    pub user_s: Option<f64>,
    pub system_s: Option<f64>,
}

/// A string that is borrowed where it has no escapes, inside an `Option` too.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

#[derive(Debug, Deserialize)]
pub(super) struct RunHeadline<'a> {
    #[serde(borrow, default)]
    pub id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub suite: Cow<'a, str>,
    #[serde(default)]
    pub quick: bool,
    #[serde(borrow, default)]
    pub started: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub git_commit: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub harness: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TrainerHeadline<'a> {
    #[serde(borrow, default)]
    pub device: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub sha256: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub sources_sha256: Option<Text<'a>>,
    #[serde(default)]
    pub software: bool,
}

/// Understands a result file.
///
/// # Errors
/// One line on what is wrong with it, with the key.
pub(super) fn parse(bytes: &[u8]) -> Result<Headline<'_>, String> {
    // Editors of other systems begin files with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    // Text is looked at once as a whole, which is faster than string by string.
    let parsed = match std::str::from_utf8(bytes) {
        Ok(text) => match plain::parse(text) {
            Some(headline) => Ok(headline),
            None => serde_json::from_str(text),
        },
        Err(_) => serde_json::from_slice(bytes),
    };
    let headline: Headline = parsed.map_err(|_| explain(bytes))?;
    if headline.schema_version > SCHEMA_VERSION {
        return Err(newer(f64::from(headline.schema_version)));
    }
    check_figures(&headline)?;
    Ok(headline)
}

/// JSON has no infinities, so what is left to refuse is what no measurement can give.
fn check_figures(headline: &Headline) -> Result<(), String> {
    let Headline { metrics, timing, target_accuracy_percent, .. } = headline;
    let figures = [
        ("metrics.training_time_seconds", metrics.training_time_seconds),
        ("metrics.peak_memory_mb", metrics.peak_memory_mb),
        ("metrics.test_accuracy_percent", metrics.test_accuracy_percent),
        ("target_accuracy_percent", *target_accuracy_percent),
        ("timing.wall_s", timing.wall_s),
        ("timing.user_s", timing.user_s),
        ("timing.system_s", timing.system_s),
        ("timing.setup_s", timing.setup_s),
        ("timing.compile_s", timing.compile_s),
        ("timing.train_s", timing.train_s),
        ("timing.eval_s", timing.eval_s),
        ("timing.device_s", timing.device_s),
    ];
    for (key, figure) in figures {
        match figure {
            Some(figure) if figure < 0.0 => {
                return Err(format!("key `{key}`: {figure} is below 0"));
            }
            Some(figure) if key.ends_with("_percent") && figure > 100.0 => {
                return Err(format!("key `{key}`: {figure} is above 100 %"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn newer(version: f64) -> String {
    format!(
        "key `schema_version`: {version} is newer than this trainmark, which reads up to \
         {SCHEMA_VERSION}: update it"
    )
}

/// Why a file is no result file: one line.
fn explain(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Peek<'a> {
        #[serde(borrow, default)]
        schema_version: Option<&'a RawValue>,
        #[serde(borrow, default)]
        summary: Option<&'a RawValue>,
        #[serde(borrow, default)]
        results: Option<&'a RawValue>,
    }
    if bytes.trim_ascii().is_empty() {
        return "is empty".to_owned();
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        return format!("is not UTF-8 text (byte {})", error.valid_up_to());
    }
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        return format!("is not JSON: {error}");
    }
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return "is not a JSON object".to_owned();
    }
    if let Ok(peek) = serde_json::from_slice::<Peek>(bytes) {
        if peek.summary.is_some() && peek.results.is_some() {
            return "is a report, not a result file".to_owned();
        }
        let version = peek.schema_version.and_then(|raw| raw.get().parse::<f64>().ok());
        if let Some(version) = version
            && version > f64::from(SCHEMA_VERSION)
        {
            return newer(version);
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, Headline>(&mut deserializer) {
        Err(error) => key_error("", &error),
        // Unreachable by construction: the same bytes were refused a moment ago.
        Ok(_) => "cannot be understood".to_owned(),
    }
}

/// The message with the key in front, unless the message names it itself.
pub(super) fn key_error(
    parent: &str,
    error: &serde_path_to_error::Error<serde_json::Error>,
) -> String {
    let path = error.path().to_string();
    match (parent, path.as_str()) {
        ("", ".") => error.inner().to_string(),
        ("", path) => format!("key `{path}`: {}", error.inner()),
        (parent, ".") => format!("key `{parent}`: {}", error.inner()),
        (parent, path) => format!("key `{parent}.{path}`: {}", error.inner()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIFICATION: &str = r#"{
        "executable": "MNISTClassic", "model": "mlp", "backend": "cpu",
        "timestamp": "20240315_143022", "config": {"epochs": 5},
        "metrics": {"training_time_seconds": 123.45, "peak_memory_mb": 256.78,
                    "test_accuracy_percent": 95.67}
    }"#;

    fn refusal(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err()
    }

    /// The specification's example with one piece of text replaced.
    fn with(from: &str, to: &str) -> String {
        assert!(SPECIFICATION.contains(from));
        SPECIFICATION.replace(from, to)
    }

    #[test]
    fn a_file_with_only_the_specifications_keys_is_read() {
        let headline = parse(SPECIFICATION.as_bytes()).unwrap();
        assert_eq!((headline.schema_version, headline.status), (0, None));
        assert_eq!(headline.metrics.peak_memory_mb, Some(256.78));
        assert_eq!(headline.config.unwrap().get(), r#"{"epochs": 5}"#);
        assert!(parse(format!("\u{FEFF}{SPECIFICATION}").as_bytes()).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        assert_eq!(refusal(""), "is empty");
        assert_eq!(refusal(" \n"), "is empty");
        assert_eq!(refusal("[1]"), "is not a JSON object");
        assert!(refusal("{\"a\": ").starts_with("is not JSON: EOF"));
        assert_eq!(parse(b"{\"a\": \"\xff\"}").unwrap_err(), "is not UTF-8 text (byte 7)");
        assert!(refusal(&with("\"model\": \"mlp\",", "")).starts_with("missing field `model`"));
        let text = refusal(&with("123.45", "\"N/A\""));
        assert!(text.starts_with("key `metrics.training_time_seconds`: invalid type"), "{text}");
        let text = refusal(&with("\"timestamp\"", "\"status\": \"splendid\", \"timestamp\""));
        assert!(text.starts_with("key `status`: unknown variant `splendid`"), "{text}");
        let text = refusal(&with("\"timestamp\"", "\"run\": {\"quick\": 1}, \"timestamp\""));
        assert!(text.starts_with("key `run.quick`"), "{text}");
    }

    #[test]
    fn figures_that_no_measurement_gives_are_refused() {
        assert_eq!(
            refusal(&with("123.45", "-1.5")),
            "key `metrics.training_time_seconds`: -1.5 is below 0"
        );
        assert!(refusal(&with("95.67", "9567")).contains("9567 is above 100 %"));
        assert!(refusal(&with("123.45", "NaN")).starts_with("is not JSON"));
        assert!(refusal(&with("123.45", "1e999")).contains("out of range"));
        let null = with("123.45", "null");
        assert_eq!(parse(null.as_bytes()).unwrap().metrics.training_time_seconds, None);
    }

    #[test]
    fn newer_schemas_and_reports_are_called_by_their_name() {
        let text = refusal(&with("\"timestamp\"", "\"schema_version\": 2, \"timestamp\""));
        assert!(text.contains("2 is newer than this trainmark"), "{text}");
        // A newer schema may have changed what else there is.
        assert!(refusal(r#"{"schema_version": 3, "metrics": []}"#).contains("3 is newer"));
        assert_eq!(refusal(r#"{"summary": {}, "results": []}"#), "is a report, not a result file");
    }

    #[test]
    fn nesting_without_end_is_an_error() {
        let deep = format!("{{\"a\": {}", "[".repeat(1_000_000));
        assert!(refusal(&deep).starts_with("is not JSON"));
    }
}
