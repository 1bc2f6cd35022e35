//! One side of a comparison: its result files by identity.

use crate::machine::Machine;
use crate::result::{ResultFile, Sample, Status};
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What makes two rows the same job: who trained what, how, on which data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    executable: String,
    model: String,
    backend: String,
    compiled: bool,
    /// `key=value`, sorted.
    config: Vec<String>,
    /// The digest, or the name where there is none.
    dataset: String,
    precision: Option<String>,
    threads: Option<usize>,
}

impl Identity {
    /// Of a result file.
    pub fn of(result: &ResultFile) -> Identity {
        let mut config: Vec<String> =
            result.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        config.sort();
        let dataset = result.dataset.clone().unwrap_or_default();
        let trainer = result.trainer.as_ref();
        Identity {
            executable: result.executable.clone(),
            model: result.model.clone(),
            backend: result.backend.clone(),
            compiled: result.compiled,
            config,
            dataset: dataset.sha256.unwrap_or(dataset.name),
            precision: trainer.and_then(|trainer| trainer.precision.clone()),
            threads: trainer.and_then(|trainer| trainer.threads),
        }
    }
}

/// For a table: who, what, where, and the configuration.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.executable, self.model, self.backend)?;
        if self.compiled {
            f.write_str(" compiled")?;
        }
        for setting in &self.config {
            write!(f, " {setting}")?;
        }
        Ok(())
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Result files by identity.
pub struct Side<'a> {
    pub rows: BTreeMap<Identity, Vec<&'a ResultFile>>,
}

impl<'a> Side<'a> {
    /// Groups the files.
    pub fn new(results: &'a [ResultFile]) -> Side<'a> {
        let mut rows: BTreeMap<Identity, Vec<&ResultFile>> = BTreeMap::new();
        for result in results {
            rows.entry(Identity::of(result)).or_default().push(result);
        }
        Side { rows }
    }

    /// The files of an identity. A run that crashed may not have come to say its threads and its
    /// precision: it is taken for the row that agrees with it in all else.
    pub fn find(&self, wanted: &Identity) -> Option<(&Identity, &Vec<&'a ResultFile>)> {
        let silent =
            |identity: &Identity| identity.threads.is_none() && identity.precision.is_none();
        let agrees = |identity: &Identity| {
            let told = Identity {
                threads: wanted.threads,
                precision: wanted.precision.clone(),
                ..identity.clone()
            };
            told == *wanted && (silent(identity) || silent(wanted))
        };
        self.rows.get_key_value(wanted).or_else(|| self.rows.iter().find(|row| agrees(row.0)))
    }

    /// All values of a fact.
    pub fn of_results(&self, get: impl Fn(&ResultFile) -> Option<String>) -> BTreeSet<String> {
        self.rows.values().flatten().filter_map(|result| get(result)).collect()
    }

    /// All values of a fact of the machines.
    pub fn of_machines(&self, get: impl Fn(&Machine) -> Option<String>) -> BTreeSet<String> {
        self.of_results(|result| get(result.machine.as_ref()?))
    }
}

/// The samples of a file; of one that has none, such as the specification's own, its headline
/// figures are the only sample.
pub fn samples(result: &ResultFile) -> Vec<Sample> {
    if !result.samples.is_empty() || result.schema_version > 0 {
        return result.counted().cloned().collect();
    }
    let mut timing = result.timing;
    timing.user_s = timing.user_s.or(result.metrics.training_time_seconds);
    timing.system_s = timing.system_s.or(timing.user_s.map(|_| 0.0));
    let megabytes = result.metrics.peak_memory_mb;
    vec![Sample {
        status: result.status,
        timing,
        peak_memory_bytes: megabytes.map(|it| (it * crate::result::MEGABYTE) as u64),
        test_accuracy_percent: result.metrics.test_accuracy_percent,
        ..Sample::default()
    }]
}

/// The status of several files of one identity: the first that is not `measured`.
pub fn status(results: &[&ResultFile]) -> Status {
    let mut statuses = results.iter().map(|result| result.status);
    statuses.find(|status| *status != Status::Measured).unwrap_or(Status::Measured)
}

/// `CPU: A, then B`, if the two sides differ.
pub fn difference(name: &str, base: &BTreeSet<String>, new: &BTreeSet<String>) -> Option<String> {
    let list = |values: &BTreeSet<String>| {
        let short = |value: &String| match value.len() > 40 && !value.contains(' ') {
            true => value[..12].to_owned(), // a digest
            false => value.clone(),
        };
        match values.is_empty() {
            true => "unknown".to_owned(),
            false => values.iter().map(short).collect::<Vec<_>>().join(" and "),
        }
    };
    (base != new).then(|| format!("{name}: {}, then {}", list(base), list(new)))
}
