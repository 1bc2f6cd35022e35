//! A measured machine in a file, so that it is measured once.

use crate::{Capability, SCHEMA_VERSION};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A capability could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {reason}; `trainmark machine` measures it again", file.display())]
    Read { file: PathBuf, reason: String },
    #[error("{}: {reason}", file.display())]
    Write { file: PathBuf, reason: String },
}

/// Which machine this is: its host name and a digest of its CPU, caches, threads and memory. A
/// container that may use fewer threads is another machine.
pub fn key(hostname: Option<&str>, capability: &Capability) -> String {
    let cpu = &capability.cpu;
    let facts = format!(
        "{:?}",
        (
            &cpu.name,
            &cpu.architecture,
            cpu.cores,
            cpu.threads,
            &cpu.caches,
            capability.memory_bytes
        )
    );
    let digest: String =
        Sha256::digest(facts).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let hostname: String = hostname.unwrap_or("machine").chars().take(40).map(safe).collect();
    format!("{hostname}-{digest}")
}

/// The file of a machine in the cache folder.
pub fn path(cache: &Path, key: &str) -> PathBuf {
    cache.join("machine").join(format!("{key}.json"))
}

/// The stored capability of the machine with that key; `None` if there is none of this version.
///
/// # Errors
/// If there is a file that cannot be read or understood.
pub fn load(cache: &Path, key: &str) -> Result<Option<Capability>, Error> {
    let file = path(cache, key);
    let text = match files::read(&file, files::Kind::NOTE) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Read { file, reason: error.to_string() }),
    };
    let refused = |reason: String| Error::Read { file: file.clone(), reason };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    if value["schema_version"] != SCHEMA_VERSION {
        return Ok(None);
    }
    let capability: Capability =
        serde_json::from_value(value).map_err(|error| refused(error.to_string()))?;
    Ok(Some(capability).filter(|it| it.key == key))
}

/// Stores what was measured and returns the file. Whoever reads meanwhile sees the old file or the
/// new one.
///
/// # Errors
/// If the file cannot be written.
pub fn save(cache: &Path, capability: &Capability) -> Result<PathBuf, Error> {
    let file = path(cache, &capability.key);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(file.parent().unwrap_or(cache))?;
        let mut text = serde_json::to_vec_pretty(capability)?;
        text.push(b'\n');
        files::replace(&file, &text)
    };
    match write() {
        Ok(()) => Ok(file),
        Err(error) => Err(Error::Write { file, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe;

    #[test]
    fn what_was_stored_is_read_again_for_the_same_machine_only() {
        let cache = tempfile::tempdir().expect("a folder");
        let mut capability = describe();
        assert_eq!(load(cache.path(), &capability.key).expect("no file yet"), None);
        let file = save(cache.path(), &capability).expect("a writable folder");
        assert_eq!(load(cache.path(), &capability.key).expect("a file"), Some(capability.clone()));
        capability.cpu.threads += 1;
        assert_ne!(key(Some("here"), &capability), key(Some("here"), &describe()));

        let text = std::fs::read_to_string(&file).expect("the file");
        std::fs::write(&file, text.replace("\"schema_version\": 1", "\"schema_version\": 0"))
            .expect("a writable file");
        assert_eq!(load(cache.path(), &capability.key).expect("an old file"), None);
        std::fs::write(&file, "{").expect("a writable file");
        let error = load(cache.path(), &capability.key).expect_err("half a file").to_string();
        assert!(error.ends_with("`trainmark machine` measures it again"), "{error}");
    }

    #[test]
    fn keys_are_file_names() {
        let key = key(Some("a/b c.local"), &Capability::default());
        assert!(key.starts_with("a_b_c_local-") && key.len() == 12 + 12, "{key}");
    }
}
