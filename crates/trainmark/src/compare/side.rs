//! One side of a comparison: its result files by identity.

use crate::machine::Machine;
use crate::report::old_result::{ResultFile, Sample, Status};
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
    /// What tells datasets apart: the digest, or the name where there is none.
    dataset: String,
    dataset_name: String,
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
            dataset: dataset.sha256.unwrap_or_else(|| dataset.name.clone()),
            dataset_name: dataset.name,
            precision: trainer.and_then(|trainer| trainer.precision.clone()),
            threads: trainer.and_then(|trainer| trainer.threads),
        }
    }
}

impl Identity {
    /// The configuration, as `key=value`.
    pub fn settings(&self) -> &[String] {
        &self.config
    }

    /// Without those settings that all rows of a table have.
    pub fn without(&self, shared: &[String]) -> String {
        let config = self.config.iter().filter(|it| !shared.contains(it)).cloned().collect();
        Identity { config, ..self.clone() }.to_string()
    }

    /// The same job but for what makes its figures incomparable: dataset, precision, threads.
    fn is_like(&self, other: &Identity) -> bool {
        let key = |it: &Identity| {
            let names = [&it.executable, &it.model, &it.backend].map(String::clone);
            (names, it.compiled, it.config.clone())
        };
        key(self) == key(other)
    }

    /// A run that crashed may not have come to say its threads and its precision: it is taken for the
    /// row that agrees with it in all else.
    fn is_equal_where_told(&self, other: &Identity) -> bool {
        let silent = |it: &Identity| it.threads.is_none() && it.precision.is_none();
        self.is_like(other) && self.dataset == other.dataset && (silent(self) || silent(other))
    }

    /// What of these three differs, in words: `dataset: mnist, then digits`.
    pub fn unlike(&self, other: &Identity) -> Vec<String> {
        let row = format!("{} {} {}", self.executable, self.model, self.backend);
        let mut unlike = Vec::new();
        if self.dataset != other.dataset {
            let (mut one, mut two) = (self.dataset_name.clone(), other.dataset_name.clone());
            if one == two {
                let digest = |it: &Identity| it.dataset.chars().take(12).collect::<String>();
                one += &format!(" ({})", digest(self));
                two += &format!(" ({})", digest(other));
            }
            unlike.push(format!("{row}, dataset: {one}, then {two}"));
        }
        if self.precision != other.precision {
            let word = |it: &Identity| it.precision.clone().unwrap_or_else(|| "unknown".into());
            unlike.push(format!("{row}, precision: {}, then {}", word(self), word(other)));
        }
        if self.threads != other.threads {
            let word = |it: &Identity| {
                it.threads.map_or("unknown".to_owned(), |threads| threads.to_string())
            };
            unlike.push(format!("{row}, threads: {}, then {}", word(self), word(other)));
        }
        unlike
    }
}

/// Who is compared with whom.
pub struct Pairing<'a> {
    pub equal: Vec<(&'a Identity, &'a Identity)>,
    /// What differs only in dataset, precision or threads.
    pub unlike: Vec<(&'a Identity, &'a Identity)>,
    pub only_base: Vec<&'a Identity>,
    pub only_new: Vec<&'a Identity>,
}

/// Pairs the identities of two sides: equals first, then those that did not come to say all, then what
/// differs in the least.
pub fn pair<'a>(base: &'a Side, new: &'a Side) -> Pairing<'a> {
    let mut only_base: Vec<&Identity> = base.rows.keys().collect();
    let mut only_new: Vec<&Identity> = new.rows.keys().collect();
    let mut take = |fits: &dyn Fn(&Identity, &Identity) -> bool| {
        let mut pairs = Vec::new();
        only_base.retain(|one| match only_new.iter().position(|other| fits(one, other)) {
            Some(at) => {
                pairs.push((*one, only_new.remove(at)));
                false
            }
            None => true,
        });
        pairs
    };
    let mut equal = take(&|one, other| one == other);
    equal.extend(take(&Identity::is_equal_where_told));
    let mut unlike = take(&|one, other| one.is_like(other) && one.unlike(other).len() == 1);
    unlike.extend(take(&Identity::is_like));
    equal.sort();
    Pairing { equal, unlike, only_base, only_new }
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
        peak_memory_bytes: megabytes.map(|it| (it * crate::report::old_result::MEGABYTE) as u64),
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
