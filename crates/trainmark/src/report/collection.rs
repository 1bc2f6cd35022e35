//! What the reports need of many result files, in little memory: one small [`Row`] per file, and
//! every name, configuration, dataset, machine and run only once.

use super::headline::{Headline, SampleHeadline, key_error, parse};
use crate::machine::Machine;
use crate::noise::NoiseFloor;
use crate::race::{Race, RaceSpeedUp};
use crate::report::compare::SpeedUp;
use crate::result::{AccuracySource, DatasetRecord, Metrics, ResultFile, Status, Timing};
use crate::verify::{Verification, VerificationFile};
use indexmap::IndexSet;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::hash::Hash;

/// Place of a repeated value in its list.
pub type Id = u32;

/// One result file.
#[derive(Clone, Debug)]
pub struct Row {
    /// The file's name.
    pub file: Box<str>,
    pub(super) executable: Id,
    pub(super) model: Id,
    pub(super) backend: Id,
    pub(super) config: Id,
    pub(super) reason: Option<Id>,
    pub(super) device: Option<Id>,
    pub(super) dataset: Option<Id>,
    pub(super) machine: Option<Id>,
    pub(super) run: Option<Id>,
    /// SHA-256 of the trainer's program.
    pub(super) program: Option<Id>,
    pub timestamp: Box<str>,
    /// When it began; absent in files of the specification's own scripts.
    pub started: Option<jiff::Timestamp>,
    pub schema_version: u32,
    pub status: Status,
    pub compiled: bool,
    /// Ran on a software imitation of a device.
    pub software: bool,
    pub accuracy_source: Option<AccuracySource>,
    pub metrics: Metrics,
    pub target_accuracy_percent: Option<f64>,
    pub timing: Timing,
    /// Place of its verification, if it was verified.
    pub(super) verification: Option<Id>,
    /// It computes something else than the reference.
    pub different: bool,
    /// The runs that completed, in order; empty for a single one.
    pub turns: Box<[Turn]>,
    /// Runs that were disturbed by what else the machine did, and runs that were repeated for it.
    pub noisy_runs: u32,
    pub repeated_runs: u32,
    /// Runs that the figures are of.
    pub counted_runs: u32,
    pub roofline: Option<Rates>,
    /// How soon the target of `--target-accuracy` was reached.
    pub race: Option<Race>,
    pub race_speed_up: Option<RaceSpeedUp>,
    pub(super) noise_floor: Option<Id>,
    /// Rows of the same group may be compared with each other. Set by the summary, as are:
    pub group: u32,
    /// 1 for the fastest of the group; `None` for rows that are not ranked.
    pub rank: Option<u32>,
    pub speed_up: Option<SpeedUp>,
}

/// One run's seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// Runs of different rows in the same round of the same run of the suite took turns.
    pub round: u32,
    pub train_s: Option<f64>,
    pub wall_s: Option<f64>,
    /// User and system.
    pub cpu_s: Option<f64>,
}

/// Operations per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub dense_flop_per_s: f64,
    pub achieved_flop_per_s: f64,
    pub peak_flop_per_s: Option<f64>,
    /// Achieved over peak.
    pub share: Option<f64>,
    /// Whether the trainer says what it carried out.
    pub declared: bool,
}

/// Which `trainmark run` wrote a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Run {
    pub id: String,
    pub suite: String,
    pub quick: bool,
    pub git_commit: Option<String>,
    pub harness: String,
}

/// A file that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub file: String,
    /// One line that names the key, if it is one key's fault.
    pub reason: String,
}

/// Many result files.
#[derive(Debug, Default)]
pub struct Collection {
    pub(super) rows: Vec<Row>,
    pub skipped: Vec<Skipped>,
    /// What the folders' `verification.json` say, in the order in which they were read.
    pub(super) verifications: Vec<Verification>,
    texts: IndexSet<Box<str>>,
    configs: Repeated<Map<String, Value>>,
    datasets: Repeated<DatasetRecord>,
    machines: Repeated<Machine>,
    noise_floors: Vec<NoiseFloor>,
    runs: IndexSet<Run>,
}

impl Collection {
    /// Adds a result as if it had been read from its file.
    ///
    /// # Errors
    /// If it says what no result file may.
    pub fn add(&mut self, file: &str, result: &ResultFile) -> Result<(), String> {
        let text = serde_json::to_vec(result).map_err(|error| error.to_string())?;
        self.add_bytes(file, &text)
    }

    /// Adds the contents of a result file, or of a file of verifications.
    ///
    /// # Errors
    /// One line on what is wrong with it; nothing is added then.
    pub fn add_bytes(&mut self, file: &str, bytes: &[u8]) -> Result<(), String> {
        if file_name(file) == crate::verify::FILE {
            self.verifications.extend(VerificationFile::parse(bytes)?.verifications);
            return Ok(());
        }
        let row = self.row(file, &parse(bytes)?)?;
        self.rows.push(row);
        Ok(())
    }

    fn row(&mut self, file: &str, headline: &Headline) -> Result<Row, String> {
        let run = headline.run.as_ref();
        let started = match run.and_then(|run| run.started.as_ref()) {
            Some(text) => {
                Some(text.0.parse().map_err(|error| format!("key `run.started`: {error}"))?)
            }
            None => None,
        };
        let trainer = headline.trainer.as_ref();
        Ok(Row {
            file: file.into(),
            executable: self.text(&headline.executable),
            model: self.text(&headline.model),
            backend: self.text(&headline.backend),
            config: self.configs.id_of("config", headline.config)?,
            reason: headline.reason.as_ref().map(|text| self.text(&text.0)),
            device: trainer.and_then(|it| it.device.as_ref()).map(|text| self.text(&text.0)),
            program: trainer.and_then(|it| it.sha256.as_ref()).map(|text| self.text(&text.0)),
            dataset: self.datasets.known_id_of("dataset", headline.dataset)?,
            machine: self.machines.known_id_of("machine", headline.machine)?,
            run: run.map(|run| {
                place(
                    &mut self.runs,
                    Run {
                        id: run.id.clone().into_owned(),
                        suite: run.suite.clone().into_owned(),
                        quick: run.quick,
                        git_commit: run.git_commit.as_ref().map(|text| text.0.clone().into_owned()),
                        harness: run.harness.clone().into_owned(),
                    },
                )
            }),
            timestamp: headline.timestamp.as_ref().into(),
            started,
            schema_version: headline.schema_version,
            status: headline.status.unwrap_or_default(),
            compiled: headline.compiled,
            software: trainer.is_some_and(|trainer| trainer.software),
            accuracy_source: headline.accuracy_source,
            metrics: headline.metrics,
            target_accuracy_percent: headline.target_accuracy_percent,
            timing: headline.timing,
            verification: None,
            different: false,
            turns: turns(&headline.samples),
            noisy_runs: number(headline, |sample| !sample.disturbances.is_empty()),
            repeated_runs: number(headline, |sample| sample.superseded),
            counted_runs: number(headline, |sample| !sample.superseded),
            roofline: headline.roofline.as_ref().map(|it| Rates {
                dense_flop_per_s: it.dense_flop_per_s,
                achieved_flop_per_s: it.achieved_flop_per_s,
                peak_flop_per_s: it.peak_flop_per_s,
                share: it.share,
                declared: it.declared,
            }),
            race: headline.race,
            race_speed_up: None,
            noise_floor: self.noise_floor(headline.noise_floor)?,
            group: 0,
            rank: None,
            speed_up: None,
        })
    }

    fn noise_floor(&mut self, text: Option<&RawValue>) -> Result<Option<Id>, String> {
        let Some(text) = text.map(RawValue::get).filter(|text| *text != "null") else {
            return Ok(None);
        };
        let floor: NoiseFloor =
            serde_json::from_str(text).map_err(|error| format!("key `noise_floor`: {error}"))?;
        Ok(Some(place_floor(&mut self.noise_floors, floor)))
    }

    fn text(&mut self, text: &str) -> Id {
        match self.texts.get_index_of(text) {
            Some(index) => index as Id,
            None => place(&mut self.texts, text.into()),
        }
    }

    /// Takes over all of the other's rows, behind its own.
    pub fn absorb(&mut self, other: Collection) {
        let texts: Vec<Id> =
            other.texts.into_iter().map(|text| place(&mut self.texts, text)).collect();
        let runs: Vec<Id> = other.runs.into_iter().map(|run| place(&mut self.runs, run)).collect();
        let configs = self.configs.absorb(other.configs);
        let datasets = self.datasets.absorb(other.datasets);
        let machines = self.machines.absorb(other.machines);
        let floors: Vec<Id> = other
            .noise_floors
            .into_iter()
            .map(|floor| place_floor(&mut self.noise_floors, floor))
            .collect();
        self.rows.extend(other.rows.into_iter().map(|mut row| {
            for id in [&mut row.executable, &mut row.model, &mut row.backend] {
                *id = texts[*id as usize];
            }
            row.config = configs[row.config as usize];
            row.reason = row.reason.map(|id| texts[id as usize]);
            row.device = row.device.map(|id| texts[id as usize]);
            row.program = row.program.map(|id| texts[id as usize]);
            row.dataset = row.dataset.map(|id| datasets[id as usize]);
            row.machine = row.machine.map(|id| machines[id as usize]);
            row.run = row.run.map(|id| runs[id as usize]);
            row.noise_floor = row.noise_floor.map(|id| floors[id as usize]);
            row
        }));
        self.skipped.extend(other.skipped);
        self.verifications.extend(other.verifications);
    }

    /// Makes room for so many more rows, so that growing does not hold them twice.
    pub fn reserve(&mut self, more: usize) {
        self.rows.reserve(more);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Names of the files that were read.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| &*row.file)
    }

    pub(super) fn text_of(&self, id: Id) -> &str {
        &self.texts[id as usize]
    }

    pub(super) fn config_of(&self, id: Id) -> &Map<String, Value> {
        &self.configs.values[id as usize]
    }

    pub(super) fn dataset_of(&self, id: Id) -> &DatasetRecord {
        &self.datasets.values[id as usize]
    }

    pub(super) fn machine_of(&self, id: Id) -> &Machine {
        &self.machines.values[id as usize]
    }

    pub(super) fn noise_floor_of(&self, row: &Row) -> Option<&NoiseFloor> {
        Some(&self.noise_floors[row.noise_floor? as usize])
    }

    pub(super) fn run_of(&self, id: Id) -> &Run {
        &self.runs[id as usize]
    }
}

/// The last part of a path.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Few: one for each row of `trainmark noise` and day.
fn place_floor(floors: &mut Vec<NoiseFloor>, floor: NoiseFloor) -> Id {
    let known = floors.iter().position(|known| *known == floor);
    known.unwrap_or_else(|| {
        floors.push(floor);
        floors.len() - 1
    }) as Id
}

/// The runs that completed and count.
fn turns(samples: &[SampleHeadline]) -> Box<[Turn]> {
    if samples.len() < 2 {
        return Box::default();
    }
    let counted = samples.iter().filter(|it| it.status.completed() && !it.superseded);
    let cpu_s = |it: &SampleHeadline| Some(it.timing.user_s? + it.timing.system_s?);
    counted
        .map(|it| Turn {
            round: it.round,
            train_s: it.timing.train_s,
            wall_s: it.timing.wall_s,
            cpu_s: cpu_s(it),
        })
        .collect()
}

fn number(headline: &Headline, test: impl Fn(&SampleHeadline) -> bool) -> u32 {
    headline.samples.iter().filter(|sample| test(sample)).count() as u32
}

fn place<T: Hash + Eq>(set: &mut IndexSet<T>, value: T) -> Id {
    // A row takes over 100 bytes: memory ends long before u32 does.
    set.insert_full(value).0 as Id
}

/// Values that repeat from file to file, recognised by their JSON text.
#[derive(Debug)]
struct Repeated<T> {
    values: IndexSet<T>,
    by_text: HashMap<Box<str>, Id>,
}

impl<T> Default for Repeated<T> {
    fn default() -> Self {
        Repeated { values: IndexSet::new(), by_text: HashMap::new() }
    }
}

impl<T: DeserializeOwned + Default + Hash + Eq> Repeated<T> {
    /// Of an absent value, the default's.
    fn id_of(&mut self, key: &str, text: Option<&RawValue>) -> Result<Id, String> {
        match self.known_id_of(key, text)? {
            Some(id) => Ok(id),
            None => Ok(place(&mut self.values, T::default())),
        }
    }

    fn known_id_of(&mut self, key: &str, text: Option<&RawValue>) -> Result<Option<Id>, String> {
        let Some(text) = text.map(RawValue::get) else { return Ok(None) };
        if let Some(&id) = self.by_text.get(text) {
            return Ok(Some(id));
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| key_error(key, &error))?;
        let id = place(&mut self.values, value);
        self.by_text.insert(text.into(), id);
        Ok(Some(id))
    }

    /// Where each of the other's values is now.
    fn absorb(&mut self, other: Repeated<T>) -> Vec<Id> {
        other.values.into_iter().map(|value| place(&mut self.values, value)).collect()
    }
}

/// A result file of ours that was measured, with the given keys over it, for the tests.
#[cfg(test)]
pub(crate) fn result_with(keys: Value) -> Value {
    let mut result = serde_json::json!({
        "executable": "e", "model": "m", "backend": "cpu", "timestamp": "20260101_000000",
        "config": {"epochs": 5},
        "metrics": {"training_time_seconds": 8.0, "peak_memory_mb": 50.0,
                    "test_accuracy_percent": 95.0},
        "schema_version": 1, "accuracy_source": "scored", "dataset": {"name": "mnist"},
    });
    if let (Value::Object(result), Value::Object(keys)) = (&mut result, keys) {
        result.extend(keys);
    }
    result
}

#[cfg(test)]
pub(crate) fn collection_of(results: &[Value]) -> Collection {
    let mut collection = Collection::default();
    for (index, result) in results.iter().enumerate() {
        collection.add_bytes(&format!("{index}.json"), result.to_string().as_bytes()).unwrap();
    }
    collection
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(backend: &str, config: &str) -> Vec<u8> {
        format!(
            r#"{{"executable": "e", "model": "m", "backend": "{backend}", "timestamp": "t",
                "config": {config}, "metrics": {{}}, "dataset": {{"name": "digits"}}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn repeated_values_are_kept_once_whatever_their_spelling() {
        let mut collection = Collection::default();
        for config in [r#"{"a": 1, "b": 2}"#, r#"{"b":2,"a":1}"#, r#"{"a": 1, "b": 2}"#] {
            collection.add_bytes("x.json", &file("cpu", config)).unwrap();
        }
        assert_eq!(collection.configs.values.len(), 1);
        assert_eq!(collection.datasets.values.len(), 1);
        assert_eq!(collection.texts.len(), 3);
    }

    #[test]
    fn absorbed_rows_keep_their_values() {
        let mut first = Collection::default();
        first.add_bytes("1.json", &file("cpu", r#"{"a": 1}"#)).unwrap();
        let mut second = Collection::default();
        second.add_bytes("2.json", &file("mps", r#"{"a": 2}"#)).unwrap();
        second.add_bytes("3.json", &file("cpu", r#"{"a": 1}"#)).unwrap();
        first.absorb(second);
        let seen: Vec<_> = first
            .rows
            .iter()
            .map(|row| (first.text_of(row.backend), first.config_of(row.config)["a"].clone()))
            .collect();
        assert_eq!(seen, [("cpu", 1.into()), ("mps", 2.into()), ("cpu", 1.into())]);
    }

    #[test]
    fn wrong_parts_are_named_with_their_key() {
        let mut collection = Collection::default();
        let error = collection.add_bytes("x", &file("cpu", "[1]")).unwrap_err();
        assert!(error.starts_with("key `config`: invalid type"), "{error}");
        let text = String::from_utf8(file("cpu", "{}")).unwrap();
        let error = collection.add_bytes("x", text.replace("\"digits\"", "7").as_bytes());
        assert!(error.unwrap_err().starts_with("key `dataset.name`: invalid type"));
        let error = collection
            .add_bytes("x", text.replace("\"digits\"", "\"d\", \"sha256\": 1").as_bytes());
        assert!(error.unwrap_err().starts_with("key `dataset.sha256`"));
        assert!(collection.is_empty());
    }
}
