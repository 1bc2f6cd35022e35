//! The record of a set-up.

use crate::content::files_below;
use anyhow::{Context, Result};
use files::Kind;
use measure::provenance::hexadecimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// The kind of the files that a trainer is made from.
const INPUT: Kind = Kind { name: "an input of a trainer", most_bytes: 1 << 30 };
/// Folders within inputs that are made and not written.
const MADE: [&str; 2] = ["target", "__pycache__"];

/// Written before a set-up begins and when all of it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    pub fingerprint: String,
    /// The Python that the environment was made with.
    pub python: Option<PathBuf>,
    /// Whether that Python's own packages are used, and none were installed.
    #[serde(default)]
    pub installed: bool,
    /// Whether the set-up is still under way, or was interrupted.
    #[serde(default)]
    pub unfinished: bool,
}

impl Stamp {
    /// `None` if there is none, or none that can be read.
    pub fn read(file: &Path) -> Option<Stamp> {
        serde_json::from_slice(&files::read(file, Kind::NOTE).ok()?).ok()
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        files::replace(file, &serde_json::to_vec(self)?)
    }
}

/// A digest of the packages that a Python has.
pub fn of_packages(list: &[u8]) -> String {
    hexadecimal(&Sha256::digest(list))
}

/// A digest of the files, the folders' files, and the commands.
///
/// # Errors
/// If one of them cannot be read; the message names it.
pub fn fingerprint<'a>(
    root: &Path,
    inputs: impl Iterator<Item = &'a Path>,
    commands: &[Vec<String>],
) -> Result<String> {
    let mut digest = Sha256::new();
    let written = |name: &OsStr| {
        let name = name.to_string_lossy();
        !MADE.contains(&&*name) && !name.starts_with('.')
    };
    for input in inputs {
        let cannot = || format!("cannot read {}", input.display());
        for file in files_below(&root.join(input), &written).with_context(cannot)? {
            let content = files::read(&file, INPUT).with_context(cannot)?;
            let name = file.strip_prefix(root).unwrap_or(&file);
            digest.update(name.as_os_str().as_encoded_bytes());
            digest.update(content.len().to_le_bytes());
            digest.update(&content);
        }
    }
    // With every word's length, so that no two lists look alike.
    for word in commands.iter().flat_map(|words| words.iter().map(String::as_str).chain(["\n"])) {
        digest.update(word.len().to_le_bytes());
        digest.update(word);
    }
    Ok(hexadecimal(&digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_changed_file_changes_the_fingerprint_and_what_was_built_does_not() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("src/target")).unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        let print = || fingerprint(root.path(), [Path::new("src")].into_iter(), &[]).unwrap();
        write("src/a", "one");
        let first = print();
        write("src/target/made", "x");
        assert_eq!(print(), first);
        write("src/a", "two");
        assert_ne!(print(), first);
        let missing = fingerprint(root.path(), [Path::new("no.lock")].into_iter(), &[]);
        assert!(missing.unwrap_err().to_string().contains("no.lock"));
    }
}
