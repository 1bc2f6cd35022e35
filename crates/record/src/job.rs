//! What two sides are matched by: who trained what, how, on which data.

use crate::Record;
use crate::folder::{Entry, Folder};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// The identity of a job: trainer, model, configuration and data. Rows with the same job are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    executable: String,
    model: String,
    backend: String,
    compiled: bool,
    /// `key=value`, sorted.
    pub(crate) config: Vec<String>,
    /// The digest, or the name where there is none.
    dataset: String,
    dataset_name: String,
    precision: Option<String>,
    threads: Option<usize>,
}

impl Job {
    pub(crate) fn of(record: &Record, across: &[String]) -> Job {
        let dataset = record.dataset.as_deref().cloned().unwrap_or_default();
        let trainer = record.trainer.as_deref();
        let counts = |key: &str| !across.iter().any(|it| it == key);
        Job {
            executable: record.executable.clone(),
            model: record.model.clone(),
            backend: record.backend.clone(),
            compiled: record.compiled,
            config: record.settings(across),
            dataset: dataset.sha256.unwrap_or_else(|| dataset.name.clone()),
            dataset_name: dataset.name,
            precision: trainer.and_then(|it| it.precision.clone()).filter(|_| counts("precision")),
            threads: trainer.and_then(|it| it.threads).filter(|_| counts("threads")),
        }
    }

    /// Without those settings that all rows of a table have.
    pub fn without(&self, shared: &[String]) -> String {
        let config = self.config.iter().filter(|it| !shared.contains(it)).cloned().collect();
        Job { config, ..self.clone() }.to_string()
    }

    /// The same but for what makes its figures incomparable: dataset, precision, threads.
    fn is_like(&self, other: &Job) -> bool {
        (&self.executable, &self.model, &self.backend, self.compiled, &self.config)
            == (&other.executable, &other.model, &other.backend, other.compiled, &other.config)
    }

    /// A run that crashed may not have come to say its threads and its precision: it is taken for the
    /// row that agrees with it in all else.
    fn is_equal_where_told(&self, other: &Job) -> bool {
        let silent = |it: &Job| it.threads.is_none() && it.precision.is_none();
        self.is_like(other) && self.dataset == other.dataset && (silent(self) || silent(other))
    }

    /// The differences in these three, in words: `dataset: one, then another`.
    pub(crate) fn unlike(&self, other: &Job) -> Vec<String> {
        let same_name = self.dataset_name == other.dataset_name;
        let dataset = |it: &Job| match it.dataset_name.as_str() {
            name if same_name => {
                format!("{name} ({})", it.dataset.chars().take(12).collect::<String>())
            }
            "" => "none".to_owned(),
            name => name.to_owned(),
        };
        let told = |it: Option<String>| it.unwrap_or_else(|| "unknown".to_owned());
        let precision = |it: &Job| told(it.precision.clone());
        let threads = |it: &Job| told(it.threads.map(|threads| threads.to_string()));
        let row = format!("{} {} {}", self.executable, self.model, self.backend);
        let unlike = [
            ("dataset", self.dataset != other.dataset, dataset(self), dataset(other)),
            ("precision", self.precision != other.precision, precision(self), precision(other)),
            ("threads", self.threads != other.threads, threads(self), threads(other)),
        ];
        let unlike = unlike.into_iter().filter(|it| it.1);
        unlike.map(|(what, _, one, two)| then(&format!("{row}, {what}"), one, two)).collect()
    }
}

/// For a table: who, what, where, and the configuration.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.executable, self.model, self.backend)?;
        if self.compiled {
            f.write_str(" compiled")?;
        }
        self.config.iter().try_for_each(|setting| write!(f, " {setting}"))
    }
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The records of each job of one side.
pub(crate) type Jobs<'a> = BTreeMap<Job, Vec<&'a Record>>;

/// Keys in `across` make no other job.
pub(crate) fn jobs<'a>(folder: &'a Folder, across: &[String]) -> Jobs<'a> {
    let mut found = Jobs::new();
    for Entry { record, .. } in &folder.entries {
        found.entry(Job::of(record, across)).or_default().push(record);
    }
    found
}

/// The pairs of jobs that are compared.
pub(crate) struct Pairing<'a> {
    pub equal: Vec<(&'a Job, &'a Job)>,
    /// Pairs that differ only in dataset, precision or threads.
    pub unlike: Vec<(&'a Job, &'a Job)>,
    pub only_base: Vec<&'a Job>,
    pub only_new: Vec<&'a Job>,
}

/// Equals first, then those that did not come to say all, then what differs in the least. Two single rows
/// that somebody named are compared whatever their settings are; that a folder has only one is chance.
pub(crate) fn pair<'a>(base: &'a Jobs, new: &'a Jobs, named: bool) -> Pairing<'a> {
    let single = named && base.len() == 1 && new.len() == 1;
    let mut only_base: Vec<&Job> = base.keys().collect();
    let mut only_new: Vec<&Job> = new.keys().collect();
    let mut take = |fits: &dyn Fn(&Job, &Job) -> bool| {
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
    equal.extend(take(&Job::is_equal_where_told));
    let mut unlike = take(&|one, other| one.is_like(other) && one.unlike(other).len() == 1);
    unlike.extend(take(&Job::is_like));
    let named = take(&|one, other| single && one.model == other.model);
    for pair in named {
        match pair.0.unlike(pair.1).is_empty() {
            true => equal.push(pair),
            false => unlike.push(pair),
        }
    }
    equal.sort();
    Pairing { equal, unlike, only_base, only_new }
}

/// Settings of two rows that somebody named, where they differ.
pub(crate) fn settings_that_differ(one: &Job, other: &Job) -> Option<String> {
    let own = |a: &Job, b: &Job| -> Vec<String> {
        a.config.iter().filter(|it| !b.config.contains(it)).cloned().collect()
    };
    let (base, new) = (own(one, other), own(other, one));
    let name = |it: &Job| [it.executable.clone(), it.backend.clone()].join(" ");
    let settings = |own: &[String], it: &Job| match own.is_empty() {
        true => name(it),
        false => own.join(" "),
    };
    (one.config != other.config || name(one) != name(other))
        .then(|| format!("{}, then {}", settings(&base, one), settings(&new, other)))
}

/// `CPU: A, then B`.
pub(crate) fn then(name: &str, base: impl fmt::Display, new: impl fmt::Display) -> String {
    format!("{name}: {base}, then {new}")
}
