//! Finding and reading result files: all cores, a fixed order, and no file that can stop the rest.

use super::collection::{Collection, Skipped};
use crate::result::ResultFile;
use rayon::prelude::*;
use std::ffi::OsString;
use std::fs::{File, FileType};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Larger files are left out. A result file of a thousand runs is a hundredth of it.
const MAX_BYTES: usize = 16 << 20;
/// Buffers above this are not kept for the next file.
const KEPT_BYTES: usize = 1 << 20;
/// Files that one thread reads into one collection before it is merged.
const CHUNK: usize = 256;
/// Files that are read before what was found is merged: bounds what is held twice.
const BATCH: usize = 64 * CHUNK;

/// Why nothing could be read: one line.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("--input {0}: there is no such folder or file; `trainmark run` writes to benchmarks/")]
    Missing(String),
    #[error("--input {path}: {reason}")]
    Unreadable { path: String, reason: std::io::Error },
}

/// Reads every `*.json` of each folder, in the order of their names, and each input that is a
/// file. A file that cannot be used is in `skipped`, with the reason. Names that begin with a dot
/// are passed over, as is the file `except`, which is about to be replaced.
///
/// # Errors
/// If an input itself cannot be read.
pub fn read(inputs: &[PathBuf], except: Option<&Path>) -> Result<Collection, ReadError> {
    let except = except.and_then(|path| path.canonicalize().ok());
    let mut collection = Collection::default();
    for input in inputs {
        let folder = open(input, except.as_deref())?;
        collection.reserve(folder.names.len());
        for batch in folder.names.chunks(BATCH) {
            // With several inputs a name alone would not say which file it is.
            let read = |chunk| read_chunk(&folder, inputs.len() > 1, chunk);
            let parts: Vec<Collection> = batch.par_chunks(CHUNK).map(read).collect();
            for part in parts {
                collection.absorb(part);
            }
        }
    }
    Ok(collection)
}

/// Reads the file of a row again, whole. `inputs` are those that it was first read from. `None` if
/// it is gone or changed into something else in between, or if what the headline passes over is not
/// as it should be.
pub fn whole(inputs: &[PathBuf], file: &str) -> Option<ResultFile> {
    let path = match inputs {
        [input] if input.is_dir() => input.join(file),
        [input] => input.clone(),
        // With several inputs the name has its folder.
        _ => PathBuf::from(file),
    };
    let mut bytes = Vec::new();
    contents(&path, Kind::Link, &mut bytes).ok()?;
    serde_json::from_slice(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes)).ok()
}

/// Files of one folder that are to be read.
struct Folder {
    path: PathBuf,
    names: Vec<(OsString, Kind)>,
}

fn open(input: &Path, except: Option<&Path>) -> Result<Folder, ReadError> {
    let unreadable = |reason: std::io::Error| match reason.kind() {
        std::io::ErrorKind::NotFound => ReadError::Missing(input.display().to_string()),
        _ => ReadError::Unreadable { path: input.display().to_string(), reason },
    };
    let metadata = std::fs::metadata(input).map_err(unreadable)?;
    if !metadata.is_dir() {
        let path = input.parent().map(Path::to_owned).unwrap_or_default();
        let name = input.file_name().unwrap_or(input.as_os_str()).to_owned();
        return Ok(Folder { path, names: vec![(name, kind_of(metadata.file_type()))] });
    }
    let mut names = list(input).map_err(unreadable)?;
    if let Some(except) = except
        && input.canonicalize().is_ok_and(|folder| Some(&*folder) == except.parent())
    {
        names.retain(|(name, _)| Some(&**name) != except.file_name());
    }
    Ok(Folder { path: input.to_owned(), names })
}

/// What stands under a name, before it is opened: opening a pipe would wait for its writer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    /// Of what it points to.
    Link,
    Folder,
    Other,
}

fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        it if it.is_file() => Kind::File,
        it if it.is_symlink() => Kind::Link,
        it if it.is_dir() => Kind::Folder,
        _ => Kind::Other,
    }
}

fn list(folder: &Path) -> std::io::Result<Vec<(OsString, Kind)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let mut name = entry.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".json") && !bytes.starts_with(b".") {
            name.shrink_to_fit();
            names.push((name, entry.file_type().map_or(Kind::Link, kind_of)));
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

fn read_chunk(folder: &Folder, with_folder: bool, names: &[(OsString, Kind)]) -> Collection {
    let mut part = Collection::default();
    let mut bytes = Vec::new();
    for (name, kind) in names {
        let path = folder.path.join(name);
        let name = if with_folder { path.to_string_lossy() } else { name.to_string_lossy() };
        let added = contents(&path, *kind, &mut bytes).and_then(|()| part.add_bytes(&name, &bytes));
        if let Err(reason) = added {
            part.skipped.push(Skipped { file: name.into_owned(), reason });
        }
        if bytes.capacity() > KEPT_BYTES {
            bytes = Vec::new();
        }
    }
    part
}

/// Reads a file into the buffer, replacing what was there.
fn contents(path: &Path, kind: Kind, bytes: &mut Vec<u8>) -> Result<(), String> {
    let kind = match kind {
        Kind::Link => std::fs::metadata(path).map(|it| kind_of(it.file_type())),
        kind => Ok(kind),
    };
    match kind.map_err(|error| format!("cannot be read: {error}"))? {
        Kind::File => {}
        Kind::Folder => return Err("is a folder, not a file".to_owned()),
        Kind::Link | Kind::Other => return Err("is not a regular file".to_owned()),
    }
    bytes.clear();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(bytes));
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(length) if length > MAX_BYTES => {
            Err(format!("is larger than {} MiB: no result file is", MAX_BYTES >> 20))
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GOOD: &str = r#"{"executable": "e", "model": "m", "backend": "b", "metrics": {}}"#;

    fn read_one(input: &Path) -> Result<Collection, ReadError> {
        read(&[input.to_owned()], None)
    }

    fn reasons(folder: &Path) -> Vec<(String, String)> {
        let skipped = read_one(folder).unwrap().skipped;
        skipped.into_iter().map(|skipped| (skipped.file, skipped.reason)).collect()
    }

    #[test]
    fn files_come_in_the_order_of_their_names_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let mut names: Vec<String> =
            (0..2 * CHUNK + 3).map(|i| format!("{}.json", i * 7919)).collect();
        for name in &names {
            fs::write(folder.path().join(name), GOOD).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        fs::write(folder.path().join(".writing-x.json"), "x").unwrap();
        names.sort();
        let collection = read_one(folder.path()).unwrap();
        assert_eq!(collection.files().collect::<Vec<_>>(), names);
        assert_eq!(collection.skipped, []);
    }

    #[test]
    fn what_is_no_file_is_named_and_the_rest_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("a.json")).unwrap();
        fs::write(path("b.json"), "").unwrap();
        fs::write(path("good.json"), GOOD).unwrap();
        let collection = read_one(folder.path()).unwrap();
        assert_eq!(collection.files().collect::<Vec<_>>(), ["good.json"]);
        let expected = [("a.json", "is a folder, not a file"), ("b.json", "is empty")];
        assert_eq!(reasons(folder.path()), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_cannot_make_it_wait_or_read_for_ever() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("target.txt"), GOOD).unwrap();
        symlink(path("target.txt"), path("a.json")).unwrap();
        symlink(path("nowhere"), path("b.json")).unwrap();
        symlink("/dev/zero", path("c.json")).unwrap();
        symlink(path("d.json"), path("d.json")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("e.json")).unwrap();
        let collection = read_one(folder.path()).unwrap();
        assert_eq!(collection.files().collect::<Vec<_>>(), ["a.json"]);
        let reasons = reasons(folder.path());
        assert!(reasons[0].1.starts_with("cannot be read: "), "{reasons:?}");
        assert_eq!(reasons[1], ("c.json".into(), "is not a regular file".into()));
        assert!(reasons[2].1.starts_with("cannot be read: "), "{reasons:?}");
        assert_eq!(reasons[3], ("e.json".into(), "is not a regular file".into()));
    }

    #[test]
    fn a_huge_file_is_left_out_without_being_held() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("huge.json")).unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(
            reasons(folder.path()),
            [("huge.json".to_owned(), "is larger than 16 MiB: no result file is".to_owned())]
        );
    }

    #[test]
    fn one_file_can_be_the_input_and_what_is_missing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.txt");
        fs::write(&file, GOOD).unwrap();
        assert_eq!(read_one(&file).unwrap().files().collect::<Vec<_>>(), ["one.txt"]);
        let error = read_one(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.ends_with("`trainmark run` writes to benchmarks/"), "{error}");
    }

    #[test]
    fn several_inputs_are_read_in_their_order_and_the_file_to_replace_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.json", "b.json", "report.json"] {
            fs::write(path(name), GOOD).unwrap();
        }
        let inputs = [path("b.json"), folder.path().to_owned()];
        let collection = read(&inputs, Some(&path("./report.json"))).unwrap();
        let expected = ["b.json", "a.json", "b.json"].map(|name| path(name).display().to_string());
        assert_eq!(collection.files().collect::<Vec<_>>(), expected);
    }
}
