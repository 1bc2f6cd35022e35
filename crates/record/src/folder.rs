//! Reads folders of result files on all cores, in the order of their names. No file can stop the others.
//!
//! A sample is known by its run, its row and its round, never by its file: a copy, or a link, adds nothing
//! and is named in [`Folder::duplicates`].

use crate::name::file_nearby;
use crate::verification::{self, Verification, VerificationFile};
use crate::{Record, RecordError, Status, scaling};
use rayon::prelude::*;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

/// Why nothing could be read: one line.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(
        "--input {0}: there is no such folder or file{1}; `trainmark run` writes to benchmarks/"
    )]
    Missing(String, String),
    #[error("--input {path}: {reason}")]
    Unreadable { path: String, reason: io::Error },
}

/// A file that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub file: String,
    pub reason: String,
}

/// A record and the name of its file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub file: String,
    pub record: Record,
}

/// The result of reading folders.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// In the order of their names.
    pub entries: Vec<Entry>,
    pub skipped: Vec<Skipped>,
    /// Files whose samples others have too; only what is new in them counts.
    pub duplicates: Vec<Skipped>,
    pub verifications: Vec<Verification>,
}

enum Found {
    Record(Box<Record>),
    Verifications(Vec<Verification>),
}

/// Reads every `*.json` of each folder and each input that is a file. Names that begin with a dot are
/// passed over, as is the file `except`, which is about to be replaced.
///
/// # Errors
/// If an input itself cannot be read.
pub fn read(inputs: &[PathBuf], except: Option<&Path>) -> Result<Folder, FolderError> {
    let except = except.and_then(|path| path.canonicalize().ok());
    let mut folder = Folder::default();
    for input in inputs {
        let unreadable = |reason: io::Error| match reason.kind() {
            io::ErrorKind::NotFound => {
                FolderError::Missing(input.display().to_string(), file_nearby(input))
            }
            _ => FolderError::Unreadable { path: input.display().to_string(), reason },
        };
        let files = match std::fs::metadata(input).map_err(unreadable)?.is_dir() {
            true => list(input, except.as_deref()).map_err(unreadable)?,
            false => vec![input.clone()],
        };
        // With several inputs a name alone would not say which file it is.
        let with_folder = inputs.len() > 1;
        let name = |path: &Path| match path.file_name() {
            Some(name) if !with_folder => name.to_string_lossy().into_owned(),
            _ => path.to_string_lossy().into_owned(),
        };
        let found: Vec<_> = files.par_iter().map(|path| (name(path), read_file(path))).collect();
        for (file, found) in found {
            match found {
                Ok(Found::Record(record)) => folder.entries.push(Entry { file, record: *record }),
                Ok(Found::Verifications(found)) => folder.verifications.extend(found),
                Err(reason) => folder.skipped.push(Skipped { file, reason }),
            }
        }
    }
    folder.drop_duplicates();
    let mut records: Vec<&mut Record> =
        folder.entries.iter_mut().map(|it| &mut it.record).collect();
    scaling::tell_efficiencies(&mut records);
    Ok(folder)
}

/// The `*.json` of a folder, by name.
fn list(folder: &Path, except: Option<&Path>) -> io::Result<Vec<PathBuf>> {
    let except = except.filter(|path| path.parent() == folder.canonicalize().ok().as_deref());
    let except = except.and_then(Path::file_name);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".json") && !bytes.starts_with(b".") && Some(&*name) != except {
            names.push(name);
        }
    }
    names.par_sort_unstable();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// A record or verifications; what else a file is, in words.
fn read_file(path: &Path) -> Result<Found, String> {
    let bytes = files::read(path, files::Kind::RESULT).map_err(|error| error.to_string())?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    if path.file_name().is_some_and(|name| name == verification::FILE) {
        return VerificationFile::parse(bytes).map(|it| Found::Verifications(it.verifications));
    }
    let record = Record::parse(bytes).map_err(|error| reason(bytes, &error))?;
    Ok(Found::Record(Box::new(record)))
}

/// Says what kind of file it is, if it is not a record.
fn reason(bytes: &[u8], error: &RecordError) -> String {
    let found = serde_json::from_slice::<Value>(bytes);
    match found.as_ref().map(Value::as_object) {
        Err(_) if bytes.trim_ascii().is_empty() => "is empty".to_owned(),
        Err(error) => format!("is not JSON: {error}"),
        Ok(None) => "is not a JSON object".to_owned(),
        Ok(Some(object)) if object.contains_key("results") => {
            "is a report, not a result file".to_owned()
        }
        Ok(Some(_)) => error.to_string(),
    }
}

/// A row of one run; a row of the specification's own files has only its moment.
pub(crate) fn origin(record: &Record) -> String {
    let run = record.run.as_ref().map_or(&record.timestamp, |run| &run.id);
    let Record { executable, model, backend, compiled, .. } = record;
    let settings = record.settings(&[]).join("\n");
    format!("{run}\n{executable}\n{model}\n{backend}\n{compiled}\n{settings}")
}

/// The record as a text, which tells records apart whatever their files are called.
pub(crate) fn content(record: &Record) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

impl Folder {
    /// A folder of these files, in the order of their names; each sample counts once.
    pub fn new(entries: Vec<Entry>) -> Folder {
        let mut folder = Folder { entries, ..Folder::default() };
        folder.drop_duplicates();
        folder
    }

    /// Sets the target of files that name none.
    pub fn hold_to(&mut self, target: Target) {
        self.entries.iter_mut().for_each(|entry| hold_to(&mut entry.record, target));
    }

    /// Files of one row of one run become one record, which has each sample once. Nothing in it depends on
    /// the names of the files or on their order.
    fn drop_duplicates(&mut self) {
        let mut by_origin: HashMap<String, Vec<usize>> = HashMap::with_capacity(self.entries.len());
        let origins: Vec<String> = self.entries.par_iter().map(|it| origin(&it.record)).collect();
        for (place, origin) in origins.into_iter().enumerate() {
            by_origin.entry(origin).or_default().push(place);
        }
        let mut dropped: HashSet<usize> = HashSet::new();
        for mut places in by_origin.into_values().filter(|places| places.len() > 1) {
            let size = |place: &usize| Reverse(self.entries[*place].record.samples.len());
            places.sort_by_cached_key(|it| (size(it), content(&self.entries[*it].record)));
            // Without a run only what is equal in all is known to be the same.
            let is_same = |one: &usize, other: &usize| {
                let (one, other) = (&self.entries[*one].record, &self.entries[*other].record);
                one.run.is_some() && other.run.is_some() || one == other
            };
            let groups: Vec<Vec<usize>> = places.chunk_by(is_same).map(<[usize]>::to_vec).collect();
            for same in groups {
                // The sort is stable: of equals the first name is kept.
                let kept = self.entries[same[0]].file.clone();
                for &place in &same[1..] {
                    let entry = self.entries[place].clone();
                    let reason = self.entries[same[0]].record.absorb(entry.record, &kept);
                    self.duplicates.push(Skipped { file: entry.file, reason });
                    dropped.insert(place);
                }
            }
        }
        let mut places = 0..;
        self.entries.retain(|_| places.next().is_some_and(|place| !dropped.contains(&place)));
        self.duplicates.sort_by(|a, b| a.file.cmp(&b.file));
    }
}

/// The metric and the target of files that name none.
pub type Target<'a> = &'a dyn Fn(&Record) -> Option<(String, f64)>;

/// Sets the target of a file of version 0, which names none.
pub fn hold_to(record: &mut Record, target: Target) {
    if record.schema_version == 0
        && let Some((metric, target)) = target(record)
    {
        record.targets.insert(metric, target);
        record.judge();
        if record.missed_target().is_none() {
            record.targets.clear(); // 400 bytes for each of a hundred thousand rows
        }
    }
}

impl Record {
    /// Takes in the samples of another file of the same row and run. Returns what became of that file.
    fn absorb(&mut self, other: Record, name: &str) -> String {
        let (mut new, mut contradiction) = (0, None);
        for sample in other.samples {
            match self.take(sample) {
                Ok(is_new) => new += usize::from(is_new),
                Err(found) => contradiction = Some(found),
            }
        }
        let said = (self.status, self.reason.clone());
        if !self.samples.is_empty() {
            self.conclude();
            self.judge();
        }
        // A fault that one of the files states holds for the row.
        let against = [said, (other.status, other.reason)];
        if let Some(said) = against.into_iter().find(|it| it.0 != Status::Measured) {
            (self.status, self.reason) = said;
        }
        if let Some(reason) = contradiction {
            (self.status, self.reason) = (Status::Misreported, Some(reason));
        }
        match new {
            0 => format!("has the same samples as {name}"),
            _ => format!("is of the same row and run as {name}, and the two count as one"),
        }
    }
}

impl From<Vec<Record>> for Folder {
    /// A folder of records that are in memory, such as those of a run.
    fn from(records: Vec<Record>) -> Folder {
        let entry = |record: Record| Entry { file: String::new(), record };
        Folder { entries: records.into_iter().map(entry).collect(), ..Folder::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RunIdentity, Sample, Timing};

    fn record(run: &str, rounds: &[u32]) -> Record {
        let mut record = Record { schema_version: 2, model: "m".into(), ..Record::default() };
        record.run = Some(Box::new(RunIdentity { id: run.into(), ..RunIdentity::default() }));
        for &round in rounds {
            let timing = Timing { train_s: Some(1.0), ..Timing::default() };
            record.add_sample(Sample { round, timing, ..Sample::default() });
        }
        record
    }

    fn folder(files: &[(&str, &Record)]) -> Folder {
        let place = tempfile::tempdir().unwrap();
        for (name, record) in files {
            std::fs::write(place.path().join(name), serde_json::to_vec(record).unwrap()).unwrap();
        }
        read(&[place.path().to_owned()], None).unwrap()
    }

    #[test]
    fn a_copy_adds_nothing_and_is_named() {
        let one = record("r", &[0, 1]);
        let found = folder(&[("b.json", &one), ("a.json", &one), ("c.json", &record("s", &[0]))]);
        let names: Vec<&str> = found.entries.iter().map(|it| it.file.as_str()).collect();
        assert_eq!(names, ["a.json", "c.json"]);
        assert_eq!(found.duplicates[0].file, "b.json");
        assert_eq!(found.duplicates[0].reason, "has the same samples as a.json");
    }

    #[test]
    fn of_two_files_of_one_row_each_sample_counts_once() {
        let found =
            folder(&[("a.json", &record("r", &[0, 1])), ("b.json", &record("r", &[1, 2, 3]))]);
        let rounds = |it: &Entry| it.record.samples.iter().map(|it| it.round).collect::<Vec<_>>();
        assert_eq!(found.entries.iter().map(rounds).collect::<Vec<_>>(), [vec![1, 2, 3, 0]]);
        assert!(found.duplicates[0].reason.contains("count as one"), "{:?}", found.duplicates);
    }

    #[test]
    fn a_copy_with_another_figure_makes_the_row_misreported_with_both_values() {
        let (one, mut two) = (record("r", &[0, 1]), record("r", &[0]));
        two.add_sample(Sample {
            round: 1,
            timing: Timing { train_s: Some(2.0), ..Timing::default() },
            ..Sample::default()
        });
        for names in [["a.json", "b.json"], ["b.json", "a.json"]] {
            let found = folder(&[(names[0], &one), (names[1], &two)]);
            let record = &found.entries[0].record;
            assert_eq!((found.entries.len(), record.status), (1, Status::Misreported));
            let reason = record.reason.as_deref().unwrap();
            assert!(reason.contains("round 2") && reason.contains("1 s and 2 s"), "{reason}");
        }
    }

    #[test]
    fn a_headline_that_does_not_follow_from_the_samples_is_misreported_and_one_that_lacks_is_computed()
     {
        let mut one = record("r", &[0, 1]);
        one.timing.train_s = Some(0.5);
        let mut two = record("s", &[0, 1]);
        two.timing.train_s = None;
        let found = folder(&[("a.json", &one), ("b.json", &two)]);
        let reason = found.entries[0].record.reason.as_deref().unwrap();
        assert_eq!(found.entries[0].record.status, Status::Misreported);
        assert_eq!(reason, "train_s: the file states 0.5 s, its samples 1 s");
        assert_eq!(found.entries[1].record.timing.train_s, Some(1.0));
    }

    #[test]
    fn a_sample_that_stands_twice_in_a_file_counts_once() {
        let mut one = record("r", &[0, 1]);
        one.samples.push(one.samples[1].clone());
        assert_eq!(folder(&[("a.json", &one)]).entries[0].record.samples.len(), 2);
    }

    #[test]
    fn copies_of_the_specifications_files_are_one_row_and_other_figures_are_another() {
        let mut one = Record { timestamp: "20240315_143022".into(), ..Record::default() };
        one.metrics.training_time_seconds = Some(1.0);
        let mut two = one.clone();
        two.metrics.training_time_seconds = Some(2.0);
        let found = folder(&[("a.json", &one), ("b.json", &one), ("c.json", &two)]);
        assert_eq!((found.entries.len(), found.duplicates.len()), (2, 1));
    }

    #[test]
    fn a_file_that_is_no_record_is_named_and_stops_nothing() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("a.json"), "{").unwrap();
        std::fs::write(place.path().join("b.json"), r#"{"executable": 1}"#).unwrap();
        std::fs::create_dir(place.path().join("c.json")).unwrap();
        let found = read(&[place.path().to_owned()], None).unwrap();
        assert_eq!(found.skipped.len(), 3, "{:?}", found.skipped);
        assert!(found.skipped[1].reason.contains("executable"), "{:?}", found.skipped);
        assert!(read(&[place.path().join("none")], None).is_err());
    }
}
