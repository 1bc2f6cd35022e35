//! Tasks: what is learnt. A suite has one of its own (`[task]`), names one that comes with the program
//! (`task = "NAME"`), or starts from such a one (`like = "NAME"`).

use crate::builtin;
use crate::expression::Expression;
use crate::printed::Fact;
use crate::score::{Ask, Score, Type};
use crate::template::Argument;
use anyhow::{Context, Result, bail, ensure};
use indexmap::IndexMap;
use record::name::unknown;
use record::task::{Better, KeyRecord, MetricRecord, TaskRecord, WorkRecord};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The task: what the trainers learn.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub name: String,
    /// The built-in task that this one starts from.
    like: Option<String>,
    /// A file, a folder or several files, relative to the suite file's folder.
    #[serde(default, deserialize_with = "one_or_more")]
    pub data: Vec<PathBuf>,
    /// Where data is looked for that may lie in several places.
    pub find: Option<Find>,
    /// The SHA-256 of data that have a name; only they are called so. Targets may name them.
    #[serde(default)]
    pub datasets: BTreeMap<String, String>,
    /// The files of the data, and the files that `trainmark fetch` downloads.
    #[serde(default)]
    pub files: Vec<Download>,
    /// The metric that decides convergence.
    pub quality: Option<String>,
    #[serde(default)]
    pub metrics: IndexMap<String, Metric>,
    pub throughput: Option<Throughput>,
    /// Floating-point operations of one training, where the trainer does not say.
    pub flop_per_run: Option<Expression>,
    pub verify: Option<Verify>,
    #[serde(default)]
    pub keys: IndexMap<String, Key>,
}

/// One or several: a suite may leave the brackets out.
fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore<T> {
        One(T),
        More(Vec<T>),
    }
    Ok(match OneOrMore::deserialize(from)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(all) => all,
    })
}

/// Data in one of several usual places: `--data`, `$TRAINMARK_DATA`, `./data`, the user's cache.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Find {
    /// Within each of these places; the task's files are there by their `path`, plain or with `.gz`.
    pub folders: Vec<String>,
    /// Data that the program draws where there are no others.
    pub stand_in: Option<String>,
}

/// A file of the data.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Download {
    /// Where it can be downloaded: the addresses are tried in this order.
    #[serde(deserialize_with = "one_or_more")]
    pub url: Vec<String>,
    /// The digest of the file or, if it is compressed, of its content.
    pub sha256: Option<String>,
    /// Where it goes, relative to the suite file's folder; without it, the URL's last part, beside or
    /// in `data`.
    pub path: Option<PathBuf>,
}

impl Download {
    fn check(&self) -> Result<()> {
        let is_name = |part| matches!(part, Component::Normal(_));
        let is_digest = |it: &str| it.len() == 64 && it.bytes().all(|it| it.is_ascii_hexdigit());
        let url = self.url.first();
        let named = url.is_some() || self.path.is_some();
        ensure!(named, "a file needs a `url` or a `path`: {self:?}");
        if let Some(path) = self.path.as_ref().filter(|path| !path.components().all(is_name)) {
            bail!("the path {path:?} is not below the suite's folder");
        }
        if !self.sha256.as_deref().map_or(url.is_none(), is_digest) {
            bail!("{}: its sha256 is not 64 hexadecimal digits", url.map_or("", String::as_str));
        }
        Ok(())
    }
}

/// A number that a training is judged by.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    pub label: Option<String>,
    #[serde(default)]
    pub unit: String,
    pub better: Better,
    /// How the harness computes it from the trainer's predictions.
    pub score: Option<Score>,
    /// Its key in MLPerf's lines, if that is not its name.
    pub mlperf: Option<Mlperf>,
}

impl Metric {
    pub fn label<'a>(&'a self, name: &'a str) -> &'a str {
        self.label.as_deref().unwrap_or(name)
    }

    /// A value as messages show it.
    pub fn shown(&self, value: f64) -> String {
        let decimals = if self.unit == "%" { 2 } else { 4 };
        let number = match value.abs() {
            size if size != 0.0 && !(1e-3..1e6).contains(&size) => format!("{value:.4e}"),
            _ => format!("{value:.decimals$}"),
        };
        format!("{number} {}", self.unit).trim_end().to_owned()
    }
}

/// A key of MLPerf's log that holds a metric, in another unit perhaps.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mlperf {
    pub key: String,
    #[serde(default = "one")]
    pub times: f64,
}

fn one() -> f64 {
    1.0
}

/// The work of a training.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    /// In the plural, for example `tokens`.
    pub unit: String,
    /// How much work one training is; `None` if only the trainer knows: `reported`.
    #[serde(deserialize_with = "unless_reported")]
    pub per_run: Option<Expression>,
}

fn unless_reported<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Expression>, D::Error> {
    let value = Value::deserialize(from)?;
    let computed = (value != "reported").then(|| Expression::try_from(value));
    computed.transpose().map_err(Error::custom)
}

/// How `trainmark verify` finds out whether all trainers take the same steps.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The trainer whose steps the others are compared with: one of the suite's or, if there is none of that
    /// name, the program below.
    pub reference: String,
    /// Steps that each takes.
    #[serde(default = "ten")]
    pub steps: usize,
    /// Values of the configuration for these steps: what keeps them short, and a model small enough.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Beside the harness, or in `PATH`.
    pub program: Option<String>,
    #[serde(default)]
    pub command: Vec<Argument>,
}

fn ten() -> usize {
    10
}

/// A configuration key. All that is said of it is how it is shown and what it changes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Key {
    pub label: String,
    /// Letters before its value in the names of rows and files.
    pub tag: Option<String>,
    #[serde(default = "yes")]
    pub changes_steps: bool,
}

fn yes() -> bool {
    true
}

/// Whether no metric can have the name: rules use it for what a trainer says besides metrics, or the
/// specification does.
pub(crate) fn is_taken(name: &str) -> bool {
    let specified = ["training_time_seconds", "peak_memory_mb", "throughput", "at"];
    Fact::of_rules().iter().any(|(_, known)| *known == name) || specified.contains(&name)
}

/// `task = "name"` or `[task]`.
#[derive(Clone, Debug)]
pub struct Declared(pub Task);

impl Default for Declared {
    fn default() -> Declared {
        // Each of these files is read in the tests.
        Declared(built_in(stock::TASK).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Declared {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Declared, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Declared;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a built-in task, or a table")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Declared, E> {
                built_in(name).map(Declared).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Declared, A::Error> {
                let own = Task::deserialize(MapAccessDeserializer::new(map))?;
                own.completed().map(Declared).map_err(A::Error::custom)
            }
        }
        from.deserialize_any(NameOrTable)
    }
}

/// The task of that name that comes with the program.
///
/// # Errors
/// If there is none.
pub fn built_in(name: &str) -> Result<Task> {
    let names: Vec<&str> = builtin::tasks().map(|(name, _)| name).collect();
    let text = builtin::tasks().find(|it| it.0 == name).map(|it| it.1);
    let text = text.with_context(|| unknown("task", "built-in task", name, &names, ""))?;
    Ok(toml::from_str(text)?)
}

impl Task {
    /// With what the task that it is like says beyond it.
    fn completed(mut self) -> Result<Task> {
        let Some(like) = &self.like else { return Ok(self) };
        let base = built_in(like)?;
        let mut metrics = base.metrics;
        metrics.extend(self.metrics);
        let mut keys = base.keys;
        keys.extend(self.keys);
        (self.metrics, self.keys) = (metrics, keys);
        self.find = self.find.or(base.find);
        if self.files.is_empty() {
            // Other data in the same files; they cannot be downloaded from there.
            let named = |file: Download| Download { path: file.path, ..Download::default() };
            self.files = base.files.into_iter().map(named).collect();
        }
        self.quality = self.quality.or(base.quality);
        self.throughput = self.throughput.or(base.throughput);
        self.verify = self.verify.or(base.verify);
        Ok(self)
    }

    /// All that is scored; empty where nothing was predicted. `ask` runs scoring commands.
    ///
    /// # Errors
    /// If the predictions are not what they must be; the message says how.
    pub fn scores(
        &self,
        predictions: &Path,
        data: &Path,
        ask: &mut Ask,
    ) -> Result<BTreeMap<String, f64>> {
        let mut scores = BTreeMap::new();
        for (name, metric) in &self.metrics {
            let Some(score) = &metric.score else { continue };
            if let Some(value) = score.of(predictions, data, &metric.unit, ask)? {
                scores.insert(name.clone(), value);
            }
        }
        Ok(scores)
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(quality) = self.quality.as_ref().filter(|it| !self.metrics.contains_key(*it)) {
            bail!("quality = {quality:?} is not one of the metrics: {}", self.names());
        }
        let file = self.files.first().and_then(|it| it.path.as_deref());
        let place = match &self.data[..] {
            [only] => only,
            _ => file.unwrap_or(Path::new("")),
        };
        for (name, metric) in &self.metrics {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
            if is_taken(name) || !starts || !name.chars().all(plain) {
                bail!("a metric cannot have the name {name:?}");
            }
            let Some(score) = &metric.score else { continue };
            score.check(place).with_context(|| format!("the score of {name:?}"))?;
            let fits = score.fits(metric.better);
            ensure!(fits, "`better` of {name:?} contradicts the direction of its score");
            let has_data = self.has_data();
            ensure!(has_data, "the score of {name:?} needs a truth, but the task has no data");
        }
        let scores = self.metrics.values().filter_map(|metric| metric.score.as_ref());
        let types: Vec<Type> = scores.map(|score| score.predictions).collect();
        let same = types.windows(2).all(|two| two[0] == two[1]);
        ensure!(same, "the scores disagree about the type of the predictions");
        self.files.iter().try_for_each(Download::check)
    }

    /// The metrics' names, for messages.
    pub fn names(&self) -> String {
        self.metrics.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The metric that decides convergence.
    pub fn quality(&self) -> Option<(&str, &Metric)> {
        let name = self.quality.as_deref()?;
        Some((name, self.metrics.get(name)?))
    }

    /// Whether it has any data.
    pub fn has_data(&self) -> bool {
        !self.data.is_empty() || self.find.is_some()
    }

    /// Where a file of `[[task.files]]` goes that is downloaded.
    pub fn destination(&self, folder: &Path, file: &Download) -> PathBuf {
        let url = file.url.first().map_or("", String::as_str);
        let name = url.rsplit('/').next().unwrap_or_default();
        match (&file.path, &self.data[..]) {
            (Some(path), _)
                if url.ends_with(".gz") && path.extension().is_none_or(|it| it != "gz") =>
            {
                folder.join(format!("{}.gz", path.display()))
            }
            (Some(path), _) => folder.join(path),
            (None, [data]) if self.files.len() == 1 && data.extension().is_some() => {
                folder.join(data)
            }
            (None, [data]) => folder.join(data).join(name),
            (None, _) => folder.join(name),
        }
    }

    /// As a record has it, before anything is measured.
    pub fn record(&self) -> TaskRecord {
        let metric = |(name, metric): (&String, &Metric)| {
            let label = metric.label(name).to_owned();
            let unit = metric.unit.clone();
            (name.clone(), MetricRecord { label, unit, better: metric.better, source: None })
        };
        TaskRecord {
            name: self.name.clone(),
            quality: self.quality.clone(),
            metrics: self.metrics.iter().map(metric).collect(),
            throughput: self.throughput.as_ref().map(|it| WorkRecord { unit: it.unit.clone() }),
            verify: self.verify.as_ref().map(|verify| verify.reference.clone()),
            scaling: None,
        }
    }

    /// The declared keys, as a record has them.
    pub fn key_records(&self) -> BTreeMap<String, KeyRecord> {
        let record = |(name, key): (&String, &Key)| {
            let (label, changes_steps) = (key.label.clone(), key.changes_steps);
            (name.clone(), KeyRecord { label, changes_steps })
        };
        self.keys.iter().map(record).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(text: &str) -> Result<Task, String> {
        #[derive(Deserialize)]
        struct Suite {
            task: Declared,
        }
        let suite: Suite = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        suite.task.0.check().map_err(|error| format!("{error:#}"))?;
        Ok(suite.task.0)
    }

    #[test]
    fn built_in_tasks_are_sound_and_can_be_started_from() {
        for (name, _) in builtin::tasks() {
            built_in(name).unwrap().check().unwrap();
        }
        assert_eq!(task("task = \"mnist\"").unwrap().quality().unwrap().1.unit, "%");
        let fashion =
            task("[task]\nname = \"fashion\"\nlike = \"mnist\"\ndata = \"clothes\"").unwrap();
        assert_eq!((fashion.name.as_str(), fashion.metrics.len()), ("fashion", 1));
        assert!(task("task = \"mnits\"").unwrap_err().contains("did you mean mnist?"));
    }

    #[test]
    fn a_task_that_contradicts_itself_is_refused() {
        let refused = |more: &str| task(&format!("[task]\nname = \"x\"\n{more}")).unwrap_err();
        assert!(refused("quality = \"bpc\"").contains("not one of the metrics"));
        assert!(
            refused("[task.metrics.loss]\nbetter = \"lower\"")
                .contains("cannot have the name \"loss\"")
        );
        assert!(refused("[task.metrics.\"a b\"]\nbetter = \"lower\"").contains("\"a b\""));
        assert!(refused("[task.metrics.m]\nbetter = \"up\"").contains("up"));
        assert!(refused("metrics.m = { unit = \"\" }").contains("better"));
        let score = "metrics.m = { better = \"lower\", score = { by = \"rmse\", predictions = \"f32\", truth = \"t\" } }";
        assert!(refused(score).contains("the task has no data"));
        assert!(refused("files = [{ url = \"u\", sha256 = \"12\" }]").contains("64 hexadecimal"));
        assert!(refused("flop_per_run = \"2 *\"").contains("cannot be read"));
    }
}
