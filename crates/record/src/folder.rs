//! Folders of result files: all cores, the order of the names, and no file that can stop the rest.
//!
//! A sample is known by its run, its row and its round, never by its file: a copy, or a link, adds nothing
//! and is named in [`Folder::duplicates`].

use crate::name::file_nearby;
use crate::verification::{self, Verification, VerificationFile};
use crate::{Record, RecordError};
use rayon::prelude::*;
use serde_json::Value;
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

/// What was found.
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
    Record(Box<Entry>),
    Verifications(Vec<Verification>),
    Skipped(Skipped),
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
        let found: Vec<Found> = files.par_iter().map(|path| read_file(path, name(path))).collect();
        for found in found {
            match found {
                Found::Record(entry) => folder.entries.push(*entry),
                Found::Verifications(found) => folder.verifications.extend(found),
                Found::Skipped(skipped) => folder.skipped.push(skipped),
            }
        }
    }
    folder.drop_duplicates();
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

fn read_file(path: &Path, file: String) -> Found {
    let skipped = |file: String, reason: String| Found::Skipped(Skipped { file, reason });
    let bytes = match files::read(path, files::Kind::RESULT) {
        Ok(bytes) => bytes,
        Err(reason) => return skipped(file, reason.to_string()),
    };
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    if path.file_name().is_some_and(|name| name == verification::FILE) {
        return match VerificationFile::parse(bytes) {
            Ok(found) => Found::Verifications(found.verifications),
            Err(reason) => skipped(file, reason),
        };
    }
    match Record::parse(bytes) {
        Ok(record) => Found::Record(Box::new(Entry { file, record })),
        Err(error) => skipped(file, reason(bytes, &error)),
    }
}

/// What a file is that is no record.
fn reason(bytes: &[u8], error: &RecordError) -> String {
    let found = serde_json::from_slice::<Value>(bytes);
    match found.as_ref().map(Value::as_object) {
        Err(_) if bytes.trim_ascii().is_empty() => "is empty".to_owned(),
        Err(error) => format!("is not JSON: {error}"),
        Ok(None) => "is no JSON object".to_owned(),
        Ok(Some(object)) if object.contains_key("results") => {
            "is a report, not a result file".to_owned()
        }
        Ok(Some(_)) => error.to_string(),
    }
}

/// A row of one run; a row of the specification's own files has only its moment.
fn origin(record: &Record) -> String {
    let Record { executable, model, backend, compiled, config, timestamp, .. } = record;
    let config: Vec<String> = config.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let run = record.run.as_ref().map_or(timestamp, |run| &run.id);
    format!("{run}\n{executable}\n{model}\n{backend}\n{compiled}\n{}", config.join("\n"))
}

impl Folder {
    /// Keeps each sample once: of files of one row of one run, the one with the most samples is whole, and
    /// of the others what it does not have. Copies of a file without samples are dropped if they are equal.
    fn drop_duplicates(&mut self) {
        let mut by_origin: HashMap<String, Vec<usize>> = HashMap::with_capacity(self.entries.len());
        let origins: Vec<String> = self.entries.par_iter().map(|it| origin(&it.record)).collect();
        for (place, origin) in origins.into_iter().enumerate() {
            by_origin.entry(origin).or_default().push(place);
        }
        let mut dropped: HashSet<usize> = HashSet::new();
        for mut places in by_origin.into_values().filter(|places| places.len() > 1) {
            // The sort is stable: of equals the first name is kept.
            places
                .sort_by_key(|&place| std::cmp::Reverse(self.entries[place].record.samples.len()));
            let first = places[0];
            for &place in &places[1..] {
                let kept = &self.entries[first];
                let of_kept: HashSet<u32> = kept.record.samples.iter().map(|it| it.round).collect();
                let record = &self.entries[place].record;
                let is_copy = match record.run {
                    Some(_) => record.samples.iter().all(|it| of_kept.contains(&it.round)),
                    None => *record == kept.record,
                };
                if is_copy {
                    let reason = format!("has the samples of {}", kept.file);
                    let file = self.entries[place].file.clone();
                    self.duplicates.push(Skipped { file, reason });
                    dropped.insert(place);
                } else if record.run.is_some() {
                    let record = &mut self.entries[place].record;
                    let samples = std::mem::take(&mut record.samples);
                    let new = samples.into_iter().filter(|it| !of_kept.contains(&it.round));
                    new.for_each(|sample| record.add_sample(sample));
                }
            }
        }
        let mut place = 0;
        self.entries.retain(|_| {
            place += 1;
            !dropped.contains(&(place - 1))
        });
        self.duplicates.sort_by(|a, b| a.file.cmp(&b.file));
    }
}

impl From<Vec<Record>> for Folder {
    /// Of records that are in memory, as a run's own.
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
        assert_eq!(found.duplicates[0].reason, "has the samples of a.json");
    }

    #[test]
    fn of_two_files_of_one_row_each_sample_counts_once() {
        let found =
            folder(&[("a.json", &record("r", &[0, 1])), ("b.json", &record("r", &[1, 2, 3]))]);
        let rounds = |it: &Entry| it.record.samples.iter().map(|it| it.round).collect::<Vec<_>>();
        assert_eq!(found.entries.iter().map(rounds).collect::<Vec<_>>(), [vec![0], vec![1, 2, 3]]);
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
