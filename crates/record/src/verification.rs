//! The results of `trainmark verify`, and the file beside the result files that keeps them.
//! `schema/verification.schema.json` says the same to other programs.

use crate::roofline::Precision;
use crate::task::KeyRecord;
use crate::{Record, old, race, write};
use measure::machine::Machine;
pub use protocol::grade::Grade;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name, in the folder of the result files.
pub const FILE: &str = "verification.json";
/// The version of the keys below.
pub const SCHEMA_VERSION: u32 = 1;

/// One row, verified or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verification {
    pub executable: String,
    pub model: String,
    pub backend: String,
    /// The configuration, without what decides only how long it trains.
    pub config: Map<String, Value>,
    /// Keys that had another value in the verification, so that the reference could follow.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub verified_with: Map<String, Value>,
    pub grade: Grade,
    /// The reason of the grade, in one line: the difference and its first step, or why it is not known.
    pub reason: Option<String>,
    /// Whether two verifications gave the same bits; `None` where there were no two.
    pub deterministic: Option<bool>,
    /// The difference, if they did not.
    pub nondeterminism: Option<String>,
    /// The first step, counted from 1, after which it is different.
    pub first_step: Option<usize>,
    /// The losses and each parameter tensor after `steps` steps, or, where different, after
    /// `first_step` steps.
    pub quantities: BTreeMap<String, QuantityRecord>,
    /// How many steps were taken.
    pub steps: usize,
    /// The precision that the trainer says it computes in.
    pub precision: Option<String>,
    /// The dataset's name.
    pub dataset: Option<String>,
    /// SHA-256 of the trainer's program.
    pub program_sha256: Option<String>,
    /// SHA-256 over what the program was given to run (scripts, inputs, set-up).
    pub sources_sha256: Option<String>,
    pub machine: Option<Machine>,
    /// When, RFC 3339 in UTC.
    pub verified: String,
}

/// One quantity, compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantityRecord {
    pub grade: Grade,
    /// The largest error relative to the largest magnitude (of the loss: to itself, at least 1); null
    /// where it is not finite.
    pub of_magnitude: Option<f64>,
    /// The root mean square of the errors relative to that of the change that the steps made; null
    /// where not finite.
    pub of_change: Option<f64>,
}

/// Whether two configurations differ at most in what does not change the steps, such as how long and from
/// which random weights they train, or to which target they race. `keys` are those that the suite declares.
pub fn same_training(
    one: &Map<String, Value>,
    other: &Map<String, Value>,
    keys: &BTreeMap<String, KeyRecord>,
) -> bool {
    let declared = |key: &str| keys.get(key).or_else(|| old::KEYS.get(key));
    let relevant =
        |key: &&String| *key != race::TARGET && declared(key).is_none_or(|key| key.changes_steps);
    let count = |map: &Map<String, Value>| map.keys().filter(relevant).count();
    count(one) == count(other)
        && one
            .iter()
            .filter(|(key, _)| relevant(key))
            .all(|(key, value)| other.get(key) == Some(value))
}

impl Verification {
    /// The coarsest grade that the trainer's own word for its precision allows, if it is a word that we know.
    pub fn stated(&self) -> Option<Grade> {
        self.precision.as_deref().and_then(Precision::of).map(Precision::grade)
    }

    /// Whether it is equal only within coarser rounding than that of the precision that the trainer states. It computes
    /// otherwise than it says, or something else by so little.
    pub fn is_coarser(&self) -> bool {
        self.grade.is_equal() && self.stated().is_some_and(|stated| self.grade > stated)
    }

    /// Whether it holds for a record: of the same training, program and hardware, where both say which.
    pub fn holds_for(&self, record: &Record) -> bool {
        fn agree<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        let trainer = record.trainer.as_ref();
        let program = trainer.and_then(|trainer| trainer.sha256.as_deref());
        let sources = trainer.and_then(|trainer| trainer.sources_sha256.as_deref());
        let hardware = |it: &Machine| (it.cpu.clone(), it.architecture.clone(), it.gpus.clone());
        (&record.executable, &record.model, &record.backend)
            == (&self.executable, &self.model, &self.backend)
            && same_training(&record.config, &self.config, &record.keys)
            && agree(program, self.program_sha256.as_deref())
            && agree(sources, self.sources_sha256.as_deref())
            && agree(record.machine.as_deref().map(hardware), self.machine.as_ref().map(hardware))
    }

    /// Of those that hold for any of the records, the newest: RFC 3339 in UTC sorts as text. Of one moment the
    /// worst grade counts.
    pub(crate) fn newest<'a>(
        records: &[&Record],
        known: impl IntoIterator<Item = &'a Verification>,
    ) -> Option<&'a Verification> {
        let holding = |it: &&Verification| records.iter().any(|record| it.holds_for(record));
        known.into_iter().filter(holding).max_by_key(|it| (&it.verified, it.grade))
    }

    fn is_of_the_same_row(&self, other: &Verification) -> bool {
        (&self.executable, &self.model, &self.backend)
            == (&other.executable, &other.model, &other.backend)
            && same_training(&self.config, &other.config, &BTreeMap::new())
    }
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerificationFile {
    #[serde(default)]
    pub schema_version: u32,
    pub verifications: Vec<Verification>,
}

impl VerificationFile {
    /// Reads the file of a folder; `None` if there is none.
    ///
    /// # Errors
    /// One line if there is something else under its name, or one of a newer version.
    pub fn read(folder: &Path) -> Result<Option<VerificationFile>, String> {
        match files::read(&folder.join(FILE), files::Kind::VERIFICATION) {
            Ok(bytes) => VerificationFile::parse(&bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    }

    /// Reads the file's contents.
    ///
    /// # Errors
    /// One line on what is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<VerificationFile, String> {
        let file: VerificationFile = serde_json::from_slice(bytes)
            .map_err(|error| format!("is not a file of verifications: {error}"))?;
        match file.schema_version > SCHEMA_VERSION {
            true => {
                Err(format!("has the newer version {}; use a newer trainmark", file.schema_version))
            }
            false => Ok(file),
        }
    }

    /// Adds what was found now; what was known of the same row is replaced.
    pub fn take_in(&mut self, found: Vec<Verification>) {
        self.schema_version = SCHEMA_VERSION;
        self.verifications.retain(|old| !found.iter().any(|new| new.is_of_the_same_row(old)));
        self.verifications.extend(found);
    }

    /// Writes the file into a folder, whole or not at all.
    ///
    /// # Errors
    /// If the folder or the disk refuses.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        write::replace(&folder.join(FILE), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_words_of_frameworks_for_a_precision_allow_a_grade() {
        let stated = |precision: &str| {
            Verification { precision: Some(precision.into()), ..Verification::default() }.stated()
        };
        for word in [
            "float32",
            "FP32",
            "torch.float32",
            "single precision",
            "32-true",
            "float",
            "float64",
            "fp64",
        ] {
            assert_eq!(stated(word), Some(Grade::Float32), "{word}");
        }
        for word in ["bf16-mixed", "torch.bfloat16", "float16", "amp", "autocast(bf16)"] {
            assert_eq!(stated(word), Some(Grade::Bf16), "{word}");
        }
        assert_eq!((stated("tf32"), stated("int8")), (Some(Grade::Tf32), None));
        assert_eq!(stated("float32, example"), Some(Grade::Float32));
        let found = |grade| Verification {
            precision: Some("torch.float32".into()),
            grade,
            ..Verification::default()
        };
        assert!(found(Grade::Tf32).is_coarser() && !found(Grade::Float32).is_coarser());
    }

    #[test]
    fn epochs_seed_and_a_races_target_change_nothing_and_everything_else_does() {
        let known = config(json!({"epochs": 1, "seed": 3, "hidden_size": 512}));
        let same = |other: Value| same_training(&known, &config(other), &BTreeMap::new());
        assert!(same(json!({"hidden_size": 512, "seed": 42, "epochs": 5})));
        assert!(same(json!({"hidden_size": 512})));
        assert!(same(json!({"hidden_size": 512, "target": 1.945})));
        assert!(!same(json!({"hidden_size": 256, "epochs": 1, "seed": 3})));
        assert!(!same(json!({"epochs": 1})));
        assert!(!same(json!({"hidden_size": 512, "threads": 1})));
    }

    #[test]
    fn what_is_found_anew_replaces_what_was_known_of_the_same_row_only() {
        let of = |backend: &str, grade: Grade| -> Verification {
            let text = json!({"executable": "e", "model": "m", "backend": backend,
                "config": {"hidden_size": 1}, "grade": grade});
            serde_json::from_value(text).unwrap()
        };
        let mut file = VerificationFile::default();
        file.take_in(vec![of("cpu", Grade::Different), of("gpu", Grade::Float32)]);
        file.take_in(vec![of("cpu", Grade::Float32)]);
        let known: Vec<_> =
            file.verifications.iter().map(|it| (it.backend.as_str(), it.grade)).collect();
        assert_eq!(known, [("gpu", Grade::Float32), ("cpu", Grade::Float32)]);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(VerificationFile::read(folder.path()), Ok(None));
        file.write(folder.path()).unwrap();
        assert_eq!(VerificationFile::read(folder.path()), Ok(Some(file)));
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let newer = r#"{"schema_version": 99, "verifications": []}"#;
        assert!(VerificationFile::parse(newer.as_bytes()).unwrap_err().contains("99"));
        assert!(VerificationFile::parse(b"{}").is_err());
    }
}
