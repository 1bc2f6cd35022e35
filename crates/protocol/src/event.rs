//! Event lines: what a trainer reports while it runs.
//!
//! A trainer writes a line with [`EVENT_PREFIX`] and one JSON object. Text before the marker (a launcher's rank, a
//! progress bar) and after the object is ignored. Numbers may be `NaN` and `Infinity`, as Python's `json` writes them.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The beginning of every event line.
pub const EVENT_PREFIX: &str = ":::TRAINMARK ";
const MARKER: &str = ":::TRAINMARK";

/// A task's metrics by name, in the units that the suite declares.
pub type Metrics = BTreeMap<String, f64>;

/// One thing that happened in a trainer. All durations are seconds on the trainer's own monotonic
/// clock; a device is synchronised before each clock reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event: the program and its device.
    Started {
        /// [`crate::VERSION`] of the trainer.
        protocol: u32,
        /// The trainer's own version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// The device's name, for example the CPU model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Which code ran, for example `avx512, zero pixels skipped`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Threads that compute.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        threads: Option<usize>,
        /// Arithmetic of the training step: `float32`, `tf32`, `bf16`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        precision: Option<String>,
        /// Number of trained scalars.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parameters: Option<u64>,
        /// Whether the step was compiled or captured as a whole (a graph, a jit).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compiled: Option<bool>,
        /// A software device that imitates a real one; such rows are not ranked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        software: Option<bool>,
        /// Processes that train together; each says its own number with every event (since protocol 2).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ranks: Option<u32>,
    },
    /// The data that the trainer has read.
    Dataset {
        name: String,
        /// SHA-256 of the dataset as METHOD.md defines it, if the trainer computed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    /// Everything that comes before the first training step is done.
    Ready {
        /// Loading, initial weights, device start.
        #[serde(deserialize_with = "number")]
        setup_s: f64,
        /// Compilation and warm-up, if any; not part of `setup_s`.
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        compile_s: Option<f64>,
    },
    /// One epoch ended.
    Epoch {
        /// Counted from 1.
        epoch: u32,
        /// Mean loss over the epoch's samples, each taken at its own step; a cross-entropy is in nats.
        #[serde(deserialize_with = "number")]
        loss: f64,
        #[serde(deserialize_with = "number")]
        seconds: f64,
        /// Test accuracy after this epoch, if the trainer evaluated (off the clock).
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        accuracy_percent: Option<f64>,
    },
    /// A point of the learning curve, at whatever grain suits the job (since protocol 2).
    Progress {
        /// Steps taken so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u64>,
        /// Epochs done so far; 0.5 is half of the first.
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        epoch: Option<f64>,
        /// Seconds of training so far, without evaluations.
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        /// Evaluated here, off the clock.
        #[serde(default, deserialize_with = "numbers", skip_serializing_if = "Metrics::is_empty")]
        metrics: Metrics,
    },
    /// The timed region ended: all steps, nothing else.
    Trained {
        #[serde(deserialize_with = "number")]
        train_s: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// The work of this rank in the region, in the unit that the suite names: samples, tokens (since
        /// protocol 2).
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        work: Option<f64>,
        /// Device time of the same region, from device events.
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        device_s: Option<f64>,
        /// Floating-point operations of the region as if nothing were skipped.
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        dense_flop: Option<f64>,
        /// Floating-point operations that were really carried out.
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        executed_flop: Option<f64>,
        /// Peak of the trainer's own allocations on the device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_peak_bytes: Option<u64>,
        /// Metrics of the training itself (since protocol 2).
        #[serde(default, deserialize_with = "numbers", skip_serializing_if = "Metrics::is_empty")]
        metrics: Metrics,
    },
    /// The trained model was tested.
    Evaluated {
        #[serde(deserialize_with = "number")]
        eval_s: f64,
        /// The metric `test_accuracy_percent`, for protocol 1.
        #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
        accuracy_percent: Option<f64>,
        /// Metrics by the suite's names (since protocol 2).
        #[serde(default, deserialize_with = "numbers", skip_serializing_if = "Metrics::is_empty")]
        metrics: Metrics,
    },
    /// An event of a newer contract.
    #[serde(other)]
    Unknown,
}

/// An event and the rank of its process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said {
    #[serde(flatten)]
    pub event: Event,
    /// Of several processes that train together, which one: as the event says, else as its launcher's tag
    /// says, else 0.
    pub rank: u32,
}

/// Why a line with our marker is not an event.
#[derive(Debug)]
pub struct EventError(String);

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an event: {}", self.0)
    }
}

impl std::error::Error for EventError {}

impl Said {
    /// Reads the events of a line of a trainer's output: none without our marker, several if processes wrote
    /// at once.
    ///
    /// # Errors
    /// If what follows the marker is not JSON, or lacks a key that the event needs.
    pub fn all(line: &str) -> impl Iterator<Item = Result<Said, EventError>> {
        let longer_word = |next: char| next.is_alphanumeric() || next == '_';
        let (before, objects) = (line.split(MARKER), line.split(MARKER).skip(1));
        let objects = before.zip(objects).filter(move |it| !it.1.starts_with(longer_word));
        objects.map(|(before, json)| {
            // Behind another object the tag is the last thing in brackets.
            let last = || split_rank(&before[before.rfind('[')?..]);
            let tag = split_rank(before).or_else(last).map_or(0, |it| it.0);
            Said::of_json(json, tag).map_err(|error| EventError(error.to_string()))
        })
    }

    fn of_json(json: &str, tag: u32) -> serde_json::Result<Said> {
        let quoted = quote_not_finite(json);
        let mut values = serde_json::Deserializer::from_str(&quoted).into_iter();
        let value: serde_json::Value = values.next().unwrap_or_else(|| serde_json::from_str(""))?;
        let rank = value.get("rank").cloned().map(serde_json::from_value).transpose()?;
        let event = serde_json::from_value(value)?;
        Ok(Said { event, rank: rank.unwrap_or(tag) })
    }
}

impl Event {
    /// The first event of [`Said::all`], if the rank does not matter.
    ///
    /// # Errors
    /// As there.
    pub fn parse(line: &str) -> Option<Result<Event, EventError>> {
        Some(Said::all(line).next()?.map(|said| said.event))
    }
}

/// The rank that a launcher put before a line, and the line: `[rank3]:` (PyTorch), `[default3]:` (torchrun's
/// `--tee`), `[1,3]<stdout>:` (mpirun's `--tag-output`), `[3]` (mpiexec), `3: ` (srun's `--label`).
pub fn split_rank(line: &str) -> Option<(u32, &str)> {
    let line = line.trim_start();
    let Some(bracketed) = line.strip_prefix('[') else {
        let (number, rest) = line.split_once(": ")?;
        return Some((number.parse().ok()?, rest));
    };
    let (tag, rest) = bracketed.split_once(']')?;
    let head = tag.trim_end_matches(|c: char| c.is_ascii_digit());
    let known = matches!(head, "" | "rank" | "default") || head.ends_with(',');
    let rank = tag[head.len()..].parse().ok().filter(|_| known)?;
    let stream = ["<stdout>", "<stderr>"].iter().find_map(|it| rest.strip_prefix(it));
    let rest = stream.unwrap_or(rest);
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    Some((rank, rest.strip_prefix(' ').unwrap_or(rest)))
}

/// `NaN`, `Infinity` and `-Infinity` outside of texts, which JSON does not have, as texts.
pub fn quote_not_finite(json: &str) -> std::borrow::Cow<'_, str> {
    if !json.contains("NaN") && !json.contains("Infinity") {
        return json.into();
    }
    let mut quoted = String::new();
    let (mut rest, mut in_text) = (json, false);
    while let Some(next) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let taken = match word {
            Some(word) if !in_text => {
                quoted += &format!("\"{word}\"");
                word.len()
            }
            _ => {
                let escaped = (in_text && next == '\\').then(|| rest[1..].chars().next()).flatten();
                in_text ^= next == '"';
                let taken = next.len_utf8() + escaped.map_or(0, char::len_utf8);
                quoted += &rest[..taken];
                taken
            }
        };
        rest = &rest[taken..];
    }
    quoted.into()
}

/// A number that may not be finite; serde writes one as null.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Finite(f64),
    Word(Word),
    Null(()),
}

#[derive(Deserialize)]
enum Word {
    NaN,
    Infinity,
    #[serde(rename = "-Infinity")]
    MinusInfinity,
}

impl Number {
    fn value(&self) -> f64 {
        match self {
            Number::Finite(value) => *value,
            Number::Word(Word::NaN) | Number::Null(()) => f64::NAN,
            Number::Word(Word::Infinity) => f64::INFINITY,
            Number::Word(Word::MinusInfinity) => f64::NEG_INFINITY,
        }
    }
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Number::deserialize(from)?.value())
}

/// Null is unknown here.
fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let number = Number::deserialize(from)?;
    Ok((!matches!(number, Number::Null(()))).then(|| number.value()))
}

fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<Metrics, D::Error> {
    let numbers = BTreeMap::<String, Number>::deserialize(from)?;
    Ok(numbers.into_iter().map(|(name, number)| (name, number.value())).collect())
}

/// The whole line, without the newline.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{EVENT_PREFIX}{json}")
    }
}

/// The whole line, without the newline.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{EVENT_PREFIX}{json}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_line() {
        let event = Event::Epoch { epoch: 3, loss: 0.25, seconds: 1.5, accuracy_percent: None };
        let line = event.to_string();
        assert_eq!(line, r#":::TRAINMARK {"event":"epoch","epoch":3,"loss":0.25,"seconds":1.5}"#);
        assert_eq!(Event::parse(&line).unwrap().unwrap(), event);
    }

    #[test]
    fn other_lines_are_not_events_and_broken_ones_are_errors() {
        assert!(Event::parse("Epoch 1/5  loss 0.61").is_none());
        assert!(Event::parse(":::TRAINMARK {\"event\":\"epoch\"").unwrap().is_err());
        assert!(Event::parse(":::TRAINMARK {\"event\":\"epoch\",\"loss\":1}").unwrap().is_err());
    }

    #[test]
    fn the_marker_counts_wherever_it_stands_and_with_its_rank() {
        let json = r#"{"event":"trained","train_s":1.5,"work":64,"rank":3}"#;
        for line in [
            format!("[rank3] :::TRAINMARK {json}"),
            format!(":::TRAINMARK{json}"),
            format!(" 50%|####    | :::TRAINMARK  {json} 3it/s"),
        ] {
            let said = Said::all(&line).next().unwrap().unwrap();
            assert_eq!(said.rank, 3, "{line}");
            assert!(matches!(said.event, Event::Trained { work: Some(64.0), .. }), "{line}");
            assert_eq!(Said::all(&said.to_string()).next().unwrap().unwrap(), said);
            assert_eq!(Said::all(&line.repeat(2)).filter(Result::is_ok).count(), 2);
        }
        assert!(Said::all(":::TRAINMARK").next().unwrap().is_err());
        assert!(Said::all(":::TRAINMARKER {}").next().is_none());
    }

    #[test]
    fn a_launchers_tag_says_whose_an_event_is_unless_the_event_does() {
        let event = r#":::TRAINMARK {"event":"trained","train_s":1.5}"#;
        for tag in [
            "[rank3]: ",
            "[rank3] ",
            "[default3]:",
            "[1,3]<stdout>:",
            "[h-1@1,3]<stderr>: ",
            "[3] ",
            " 3: ",
        ] {
            let line = format!("{tag}{event}");
            assert_eq!(Said::all(&line).next().unwrap().unwrap().rank, 3, "{line}");
            assert_eq!(split_rank(&line).unwrap().1.trim(), event, "{line}");
            let two: Vec<u32> =
                Said::all(&format!("{line}[4] {event}")).map(|it| it.unwrap().rank).collect();
            assert_eq!(two, [3, 4], "{line}");
            let own = line.replace("1.5}", "1.5,\"rank\":5}");
            assert_eq!(Said::all(&own).next().unwrap().unwrap().rank, 5, "{own}");
        }
        for other in ["", "[12:00:03] ", "[epoch 3] ", "[INFO] 3: ", "step 3: ", "[1/3] "] {
            let line = format!("{other}{event}");
            assert_eq!(Said::all(&line).next().unwrap().unwrap().rank, 0, "{line}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_read_as_python_and_as_serde_write_them() {
        let line = r#":::TRAINMARK {"event":"progress","step":3,"loss":NaN,"metrics":{"a \"NaN":-Infinity,"b":1}}"#;
        let Event::Progress { loss, metrics, .. } = Event::parse(line).unwrap().unwrap() else {
            panic!("{line}")
        };
        assert!(loss.unwrap().is_nan());
        assert_eq!(metrics[r#"a "NaN"#], f64::NEG_INFINITY);
        let null = r#":::TRAINMARK {"event":"epoch","epoch":1,"loss":null,"seconds":1}"#;
        let Event::Epoch { loss, .. } = Event::parse(null).unwrap().unwrap() else {
            panic!("{null}")
        };
        assert!(loss.is_nan());
    }

    #[test]
    fn events_and_keys_from_the_future_are_ignored() {
        let unknown = Event::parse(":::TRAINMARK {\"event\":\"tea\",\"cups\":2}").unwrap().unwrap();
        assert_eq!(unknown, Event::Unknown);
        let more = ":::TRAINMARK {\"event\":\"ready\",\"setup_s\":1.0,\"mood\":\"calm\"}";
        assert!(matches!(Event::parse(more).unwrap().unwrap(), Event::Ready { .. }));
    }
}
