//! What the reports need of many result files, in little memory: one small [`Row`] per file, and
//! every name, configuration, dataset, machine and run only once.

use super::headline::{Headline, RunHeadline, SampleHeadline, key_error, parse};
use crate::machine::Machine;
use crate::noise::NoiseFloor;
use crate::race::{Race, RaceSpeedUp};
use crate::report::compare::SpeedUp;
use crate::report::old_result::{
    AccuracySource, DatasetRecord, Metrics, ResultFile, Status, Timing,
};
use crate::verify::{Verification, VerificationFile};
use foldhash::fast::RandomState;
use indexmap::{Equivalent, IndexSet};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::hash::Hash;

/// Place of a repeated value in its list.
pub type Id = u32;

/// `20240315_143022`.
const STAMP_BYTES: usize = 15;

/// One result file.
#[derive(Clone, Debug)]
pub struct Row {
    /// The file's name; behind it the timestamp, if that is a long one.
    names: Box<str>,
    name_length: u32,
    /// A timestamp as the scripts write it, or a shorter one, and its length: every table looks at it,
    /// and what stands elsewhere has to be waited for.
    stamp: [u8; STAMP_BYTES],
    stamp_length: Option<u8>,
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
    /// SHA-256 over what the program was given to run.
    pub(super) sources: Option<Id>,
    /// When it began; absent in files of the specification's own scripts.
    pub started: Option<jiff::Timestamp>,
    pub schema_version: u32,
    pub status: Status,
    pub compiled: bool,
    /// Ran on a software imitation of a device.
    pub software: bool,
    pub accuracy_source: Option<AccuracySource>,
    metrics: [Figure; 3],
    /// Files of the specification's scripts have none.
    timing: Option<Box<[Figure; 8]>>,
    pub target_accuracy_percent: Option<f64>,
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
    rare: Option<Box<Rare>>,
    pub(super) noise_floor: Option<Id>,
    /// Rows of the same group may be compared with each other. Set by the summary, as are:
    pub group: u32,
    /// 1 for the fastest of the group; `None` for rows that are not ranked.
    pub rank: Option<u32>,
    pub speed_up: Option<SpeedUp>,
}

/// What most rows do not have.
#[derive(Clone, Debug, Default)]
struct Rare {
    roofline: Option<Rates>,
    race: Option<Race>,
    race_speed_up: Option<RaceSpeedUp>,
}

impl Row {
    /// The file's name.
    pub fn file(&self) -> &str {
        &self.names[..self.name_length as usize]
    }

    pub fn timestamp(&self) -> &str {
        match self.stamp_length {
            // It was text when it was put there.
            Some(length) => str::from_utf8(&self.stamp[..usize::from(length)]).unwrap_or_default(),
            None => &self.names[self.name_length as usize..],
        }
    }

    pub fn metrics(&self) -> Metrics {
        let [training_time_seconds, peak_memory_mb, test_accuracy_percent] =
            self.metrics.map(Figure::known);
        Metrics { training_time_seconds, peak_memory_mb, test_accuracy_percent }
    }

    pub fn timing(&self) -> Timing {
        let Some(timing) = &self.timing else { return Timing::default() };
        let [wall_s, user_s, system_s, setup_s, compile_s, train_s, eval_s, device_s] =
            timing.map(Figure::known);
        Timing { wall_s, user_s, system_s, setup_s, compile_s, train_s, eval_s, device_s }
    }

    pub fn roofline(&self) -> Option<Rates> {
        self.rare.as_ref()?.roofline
    }

    /// How soon the target of `--target-accuracy` was reached.
    pub fn race(&self) -> Option<Race> {
        self.rare.as_ref()?.race.clone()
    }

    pub fn race_speed_up(&self) -> Option<RaceSpeedUp> {
        self.rare.as_ref()?.race_speed_up
    }

    pub(super) fn set_race_speed_up(&mut self, race_speed_up: Option<RaceSpeedUp>) {
        if race_speed_up.is_some() {
            self.rare.get_or_insert_default().race_speed_up = race_speed_up;
        }
    }
}

/// A figure that may be missing, in eight bytes, half an `Option`'s: JSON has no NaN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure(f64);

impl Figure {
    fn new(figure: Option<f64>) -> Figure {
        Figure(figure.unwrap_or(f64::NAN))
    }

    pub(super) fn known(self) -> Option<f64> {
        (!self.0.is_nan()).then_some(self.0)
    }
}

/// One run's seconds.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Runs of different rows in the same round of the same run of the suite took turns.
    pub round: u32,
    pub(super) train_s: Figure,
    pub(super) wall_s: Figure,
    /// User and system.
    pub(super) cpu_s: Figure,
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
    texts: IndexSet<Box<str>, RandomState>,
    configs: Repeated<Map<String, Value>>,
    datasets: Repeated<DatasetRecord>,
    machines: Repeated<Machine>,
    noise_floors: Vec<NoiseFloor>,
    runs: IndexSet<Run, RandomState>,
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
        if file.ends_with(crate::verify::FILE) && file_name(file) == crate::verify::FILE {
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
        let Metrics { training_time_seconds, peak_memory_mb, test_accuracy_percent } =
            headline.metrics;
        let timestamp = &*headline.timestamp;
        let mut stamp = [0; STAMP_BYTES];
        let stamp_length = stamp.get_mut(..timestamp.len()).map(|it| {
            it.copy_from_slice(timestamp.as_bytes());
            timestamp.len() as u8
        });
        Ok(Row {
            names: [file, if stamp_length.is_some() { "" } else { timestamp }].concat().into(),
            name_length: u32::try_from(file.len()).map_err(|_| "has too long a name")?,
            stamp,
            stamp_length,
            executable: self.name(&headline.executable, |row| row.executable),
            model: self.name(&headline.model, |row| row.model),
            backend: self.name(&headline.backend, |row| row.backend),
            config: self.configs.id_of("config", headline.config)?,
            reason: headline.reason.as_ref().map(|text| self.text(&text.0)),
            device: trainer.and_then(|it| it.device.as_ref()).map(|text| self.text(&text.0)),
            program: trainer.and_then(|it| it.sha256.as_ref()).map(|text| self.text(&text.0)),
            sources: trainer
                .and_then(|it| it.sources_sha256.as_ref())
                .map(|text| self.text(&text.0)),
            dataset: self.datasets.known_id_of("dataset", headline.dataset)?,
            machine: self.machines.known_id_of("machine", headline.machine)?,
            run: run.map(|run| self.run(run)),
            started,
            schema_version: headline.schema_version,
            status: headline.status.unwrap_or_default(),
            compiled: headline.compiled,
            software: trainer.is_some_and(|trainer| trainer.software),
            accuracy_source: headline.accuracy_source,
            metrics: [training_time_seconds, peak_memory_mb, test_accuracy_percent]
                .map(Figure::new),
            timing: figures_of(&headline.timing),
            target_accuracy_percent: headline.target_accuracy_percent,
            verification: None,
            different: false,
            turns: turns(&headline.samples),
            noisy_runs: number(headline, |sample| !sample.disturbances.is_empty()),
            repeated_runs: number(headline, |sample| sample.superseded),
            counted_runs: number(headline, |sample| !sample.superseded),
            rare: rare(headline),
            noise_floor: self.noise_floor(headline.noise_floor)?,
            group: 0,
            rank: None,
            speed_up: None,
        })
    }

    fn run(&mut self, run: &RunHeadline) -> Id {
        let key = RunKey {
            id: &run.id,
            suite: &run.suite,
            quick: run.quick,
            git_commit: run.git_commit.as_ref().map(|text| &*text.0),
            harness: &run.harness,
        };
        match self.runs.get_index_of(&key) {
            Some(index) => index as Id,
            None => place(&mut self.runs, key.to_run()),
        }
    }

    fn noise_floor(&mut self, text: Option<&RawValue>) -> Result<Option<Id>, String> {
        let Some(text) = text.map(RawValue::get).filter(|text| *text != "null") else {
            return Ok(None);
        };
        let floor: NoiseFloor =
            serde_json::from_str(text).map_err(|error| format!("key `noise_floor`: {error}"))?;
        Ok(Some(place_floor(&mut self.noise_floors, floor)))
    }

    /// A text that is mostly the one of the row before.
    fn name(&mut self, text: &str, of: impl Fn(&Row) -> Id) -> Id {
        match self.rows.last().map(of) {
            Some(id) if self.text_of(id) == text => id,
            _ => self.text(text),
        }
    }

    fn text(&mut self, text: &str) -> Id {
        match self.texts.get_index_of(text) {
            Some(index) => index as Id,
            None => place(&mut self.texts, text.into()),
        }
    }

    /// Takes over all of the other's rows, behind its own.
    pub fn absorb(&mut self, other: Collection) {
        let rows = self.absorb_all_but_rows(other);
        self.rows.extend(rows);
    }

    /// Takes over everything of the other but its rows, which come back as rows of this one.
    pub(super) fn absorb_all_but_rows(
        &mut self,
        other: Collection,
    ) -> impl Iterator<Item = Row> + use<> {
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
        self.skipped.extend(other.skipped);
        self.verifications.extend(other.verifications);
        other.rows.into_iter().map(move |mut row| {
            for id in [&mut row.executable, &mut row.model, &mut row.backend] {
                *id = texts[*id as usize];
            }
            row.config = configs[row.config as usize];
            row.reason = row.reason.map(|id| texts[id as usize]);
            row.device = row.device.map(|id| texts[id as usize]);
            row.program = row.program.map(|id| texts[id as usize]);
            row.sources = row.sources.map(|id| texts[id as usize]);
            row.dataset = row.dataset.map(|id| datasets[id as usize]);
            row.machine = row.machine.map(|id| machines[id as usize]);
            row.run = row.run.map(|id| runs[id as usize]);
            row.noise_floor = row.noise_floor.map(|id| floors[id as usize]);
            row
        })
    }

    /// Adds rows of its own behind those that are there, in their order, gaps left out.
    pub(super) fn append(&mut self, rows: Vec<Option<Row>>) {
        // In the same memory, as the tests see: an `Option` of a row takes no more than a row. `flatten`
        // would hold all rows twice.
        #[expect(clippy::filter_map_identity)]
        let mut rows: Vec<Row> = rows.into_iter().filter_map(|row| row).collect();
        match self.rows.is_empty() {
            true => self.rows = rows,
            false => self.rows.append(&mut rows),
        }
    }

    /// Puts the rows from a place on in this order of their places, counted from there.
    pub(super) fn arrange(&mut self, from: usize, mut order: Vec<u32>) {
        let rows = &mut self.rows[from..];
        // Each cycle of the order is closed by swapping along it: nothing is held twice.
        for start in 0..order.len() {
            let mut at = start;
            while order[at] as usize != start {
                let next = order[at] as usize;
                rows.swap(at, next);
                order[at] = at as u32;
                at = next;
            }
            order[at] = at as u32;
        }
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
        self.rows.iter().map(Row::file)
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
            train_s: Figure::new(it.timing.train_s),
            wall_s: Figure::new(it.timing.wall_s),
            cpu_s: Figure::new(cpu_s(it)),
        })
        .collect()
}

fn figures_of(timing: &Timing) -> Option<Box<[Figure; 8]>> {
    let Timing { wall_s, user_s, system_s, setup_s, compile_s, train_s, eval_s, device_s } =
        *timing;
    let figures = [wall_s, user_s, system_s, setup_s, compile_s, train_s, eval_s, device_s];
    let any = figures.iter().any(Option::is_some);
    any.then(|| Box::new(figures.map(Figure::new)))
}

fn rare(headline: &Headline) -> Option<Box<Rare>> {
    let roofline = headline.roofline.as_ref().map(|it| Rates {
        dense_flop_per_s: it.dense_flop_per_s,
        achieved_flop_per_s: it.achieved_flop_per_s,
        peak_flop_per_s: it.peak_flop_per_s,
        share: it.share,
        declared: it.declared,
    });
    let race = headline.race.as_deref().cloned();
    let any = roofline.is_some() || race.is_some();
    any.then(|| Box::new(Rare { roofline, race, race_speed_up: None }))
}

/// A run as its file has it, to find it among the known ones without a copy. Fields in [`Run`]'s
/// order, so that equals have equal hashes.
#[derive(Hash)]
struct RunKey<'a> {
    id: &'a str,
    suite: &'a str,
    quick: bool,
    git_commit: Option<&'a str>,
    harness: &'a str,
}

impl RunKey<'_> {
    fn to_run(&self) -> Run {
        Run {
            id: self.id.to_owned(),
            suite: self.suite.to_owned(),
            quick: self.quick,
            git_commit: self.git_commit.map(str::to_owned),
            harness: self.harness.to_owned(),
        }
    }
}

impl Equivalent<Run> for RunKey<'_> {
    fn equivalent(&self, run: &Run) -> bool {
        (self.id, self.suite, self.quick) == (&*run.id, &*run.suite, run.quick)
            && (self.git_commit, self.harness) == (run.git_commit.as_deref(), &*run.harness)
    }
}

fn number(headline: &Headline, test: impl Fn(&SampleHeadline) -> bool) -> u32 {
    headline.samples.iter().filter(|sample| test(sample)).count() as u32
}

fn place<T: Hash + Eq>(set: &mut IndexSet<T, RandomState>, value: T) -> Id {
    // A row takes over 100 bytes: memory ends long before u32 does.
    set.insert_full(value).0 as Id
}

/// Values that repeat from file to file, recognised by their JSON text.
#[derive(Debug)]
struct Repeated<T> {
    values: IndexSet<T, RandomState>,
    by_text: HashMap<Box<str>, Id, RandomState>,
}

impl<T> Default for Repeated<T> {
    fn default() -> Self {
        Repeated { values: IndexSet::default(), by_text: HashMap::default() }
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
    fn a_row_that_may_be_missing_takes_no_more_than_a_row() {
        assert_eq!(size_of::<Option<Row>>(), size_of::<Row>());
        let rows = vec![None, collection_of(&[result_with(serde_json::json!({}))]).rows.pop()];
        let memory = rows.as_ptr() as usize;
        let mut collection = Collection::default();
        collection.append(rows);
        assert_eq!((collection.rows.len(), collection.rows.as_ptr() as usize), (1, memory));
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
    fn rows_are_put_into_any_order_and_equal_runs_are_one() {
        let run = r#"{"id": "r", "suite": "s", "git_commit": "c", "started": null}"#;
        let mut collection = Collection::default();
        for number in 0..7 {
            let text = String::from_utf8(file("cpu", "{}")).unwrap();
            let run = if number == 3 { run.replace("\"c\"", "null") } else { run.to_owned() };
            let text = text.replacen('{', &format!("{{\"run\": {run},"), 1);
            collection.add_bytes(&format!("{number}.json"), text.as_bytes()).unwrap();
        }
        assert_eq!(collection.runs.len(), 2);
        collection.arrange(1, vec![5, 2, 1, 0, 4, 3]);
        let files: Vec<&str> = collection.files().collect();
        let expected = [0, 6, 3, 2, 1, 5, 4].map(|number| format!("{number}.json"));
        assert_eq!(files, expected);
        assert!(collection.rows.iter().all(|row| row.timestamp() == "t"));
        for timestamp in ["", "20240315_143022", "2024-03-15T14:30:22Z", "é"] {
            let text = String::from_utf8(file("cpu", "{}")).unwrap();
            let text = text.replace("\"t\"", &format!("{timestamp:?}"));
            collection.add_bytes("name.json", text.as_bytes()).unwrap();
            let row = collection.rows.last().unwrap();
            assert_eq!((row.file(), row.timestamp()), ("name.json", timestamp));
        }
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
