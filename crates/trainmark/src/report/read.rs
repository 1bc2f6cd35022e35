//! Finding and reading result files: all cores, a fixed order, and no file that can stop the rest.
//!
//! Of 100,000 small files the system calls take longer than all the rest. So there are three for each: it
//! is opened from its folder's descriptor, read with one call into a buffer that is there already, and
//! closed; and files are read in the order of their inodes, in which they mostly lie, on the disk and in
//! the kernel's memory. (io_uring took a sixth less of the kernel's time for the same three, for unsafe
//! code and a second way beside it where containers forbid it: left out.)

use super::collection::{Collection, Skipped};
use crate::report::old_result::ResultFile;
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Larger files are left out. A result file of a thousand runs is a hundredth of it.
const MAX_BYTES: usize = 16 << 20;
/// What files are read into. It grows for larger ones, and not for good.
const BUFFER_BYTES: usize = 1 << 17;
/// Files that one thread reads into one collection before it is merged.
const CHUNK: usize = 256;
/// Files that are read before what was found is merged: bounds what is held twice, to what a core's own
/// cache holds.
const BATCH: usize = 16 * CHUNK;

/// Why nothing could be read: one line.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("--input {0}: there is no such folder or file; `trainmark run` writes to benchmarks/")]
    Missing(String),
    #[error("--input {path}: {reason}")]
    Unreadable { path: String, reason: io::Error },
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
        // With several inputs a name alone would not say which file it is.
        read_folder(&folder, inputs.len() > 1, &mut collection);
    }
    Ok(collection)
}

fn read_folder(folder: &Folder, with_folder: bool, collection: &mut Collection) {
    // Each row is put where its name belongs: in 30 MB of rows every move of all of them is felt.
    let mut rows = Vec::new();
    rows.resize_with(folder.entries.len(), || None);
    let mut skipped = Vec::new();
    for batch in folder.entries.chunks(BATCH) {
        let reader = || Reader { folder, with_folder, buffer: vec![0; BUFFER_BYTES] };
        let parts: Vec<Part> =
            batch.par_chunks(CHUNK).map_init(reader, |reader, chunk| reader.read(chunk)).collect();
        for part in parts {
            let places = part.places.iter();
            let placed = collection.absorb_all_but_rows(part.collection);
            for (row, &place) in placed.zip(places) {
                rows[place as usize] = Some(row);
            }
            skipped.extend(part.skipped);
        }
    }
    collection.append(rows);
    skipped.sort_unstable_by_key(|(place, _)| *place);
    collection.skipped.extend(skipped.into_iter().map(|(_, skipped)| skipped));
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
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(&path).ok()?.take(MAX_BYTES as u64).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes)).ok()
}

/// Files of one folder that are to be read, in the order of their inodes.
struct Folder {
    path: PathBuf,
    descriptor: OwnedFd,
    /// One after the other, each with the zero byte that ends it: a million are one piece of memory.
    names: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    /// Where its name is.
    start: usize,
    /// Without the zero byte.
    length: u16,
    kind: Kind,
    /// Among the names in their order.
    place: u32,
    inode: u64,
}

impl Folder {
    /// Adds a file of the folder, unless its name is longer than any system allows.
    fn push(&mut self, name: &CStr, inode: u64, kind: Kind) {
        if let Ok(length) = u16::try_from(name.count_bytes()) {
            let start = self.names.len();
            self.names.extend(name.to_bytes_with_nul());
            self.entries.push(Entry { start, length, kind, place: 0, inode });
        }
    }

    fn name(&self, entry: &Entry) -> &CStr {
        let name = &self.names[entry.start..=entry.start + usize::from(entry.length)];
        // It was one when it was put there.
        CStr::from_bytes_with_nul(name).unwrap_or_default()
    }

    /// Adds its `*.json`.
    fn list(&mut self, except: Option<&OsStr>) -> io::Result<()> {
        let except = except.map(OsStr::as_bytes);
        for entry in Dir::read_from(&self.descriptor)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name.ends_with(b".json") && !name.starts_with(b".") && Some(name) != except {
                self.push(entry.file_name(), entry.ino(), kind_of(entry.file_type()));
            }
        }
        self.arrange();
        Ok(())
    }

    /// Puts files and their names into the order of the inodes, and finds each one's place by its name.
    fn arrange(&mut self) {
        self.entries.sort_unstable_by_key(|entry| entry.inode);
        // Here the processor looks for many names at once; between the calls of the files for one.
        let mut names = Vec::with_capacity(self.names.len());
        for entry in &mut self.entries {
            let name = &self.names[entry.start..=entry.start + usize::from(entry.length)];
            entry.start = names.len();
            names.extend_from_slice(name);
        }
        self.names = names;
        let mut order: Vec<(u64, u32)> =
            (0..).map(|index| (0, index)).take(self.entries.len()).collect();
        self.sort_by_name(&mut order, 0);
        for ((_, index), place) in order.into_iter().zip(0..) {
            self.entries[index as usize].place = place;
        }
    }

    /// Sorts entries, by their places, by their names from a byte on: by eight bytes as one number, then
    /// those that are equal in them by the next eight. Names of results mostly begin alike, and comparing
    /// two that lie anywhere takes longer than all else.
    fn sort_by_name(&self, order: &mut [(u64, u32)], from: usize) {
        for (key, index) in &mut *order {
            let entry = &self.entries[*index as usize];
            let name = &self.names[entry.start..entry.start + usize::from(entry.length)];
            let rest = name.get(from..).unwrap_or_default();
            let mut bytes = [0; 8];
            match rest.first_chunk() {
                Some(first) => bytes = *first,
                None => bytes[..rest.len()].copy_from_slice(rest),
            }
            *key = u64::from_be_bytes(bytes);
        }
        order.sort_unstable_by_key(|(key, _)| *key);
        for equal in order.chunk_by_mut(|a, b| a.0 == b.0) {
            // No name has a zero byte: where the last is one, all of them ended.
            if equal.len() > 1 && equal[0].0 as u8 != 0 {
                self.sort_by_name(equal, from + 8);
            }
        }
    }
}

fn open(input: &Path, except: Option<&Path>) -> Result<Folder, ReadError> {
    let unreadable = |reason: io::Error| match reason.kind() {
        io::ErrorKind::NotFound => ReadError::Missing(input.display().to_string()),
        _ => ReadError::Unreadable { path: input.display().to_string(), reason },
    };
    let is_folder = std::fs::metadata(input).map_err(unreadable)?.is_dir();
    let path = if is_folder { input } else { input.parent().unwrap_or(input) }.to_owned();
    let opened = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptor = openat(CWD, opened, flags, Mode::empty());
    let descriptor = descriptor.map_err(|error| unreadable(error.into()))?;
    let mut folder = Folder { path, descriptor, names: Vec::new(), entries: Vec::new() };
    if is_folder {
        let here = input.canonicalize().ok();
        let except =
            except.filter(|path| path.parent().is_some() && path.parent() == here.as_deref());
        folder.list(except.and_then(Path::file_name)).map_err(unreadable)?;
    } else {
        let name = input.file_name().unwrap_or(input.as_os_str());
        let name = CString::new(name.as_bytes()).map_err(|error| unreadable(error.into()))?;
        folder.push(&name, 0, Kind::Unknown);
    }
    Ok(folder)
}

/// What stands under a name, before it is opened: opening a pipe would wait for its writer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Other,
    /// A link, or of a file system that does not say.
    Unknown,
}

fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink | FileType::Unknown => Kind::Unknown,
        _ => Kind::Other,
    }
}

/// What came of a chunk of files.
struct Part {
    collection: Collection,
    /// Of each row of the collection.
    places: Vec<u32>,
    skipped: Vec<(u32, Skipped)>,
}

struct Reader<'a> {
    folder: &'a Folder,
    with_folder: bool,
    /// As long as it may be filled.
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn read(&mut self, entries: &[Entry]) -> Part {
        let mut part =
            Part { collection: Collection::default(), places: Vec::new(), skipped: Vec::new() };
        part.collection.reserve(entries.len());
        for entry in entries {
            let name = OsStr::from_bytes(self.folder.name(entry).to_bytes());
            let path = self.with_folder.then(|| self.folder.path.join(name));
            let name = path.as_ref().map_or(name, |path| path.as_os_str()).to_string_lossy();
            match self.add(entry, &name, &mut part.collection) {
                // A file of verifications adds no row.
                Ok(()) if part.collection.rows.len() > part.places.len() => {
                    part.places.push(entry.place);
                }
                Ok(()) => {}
                Err(reason) => {
                    part.skipped.push((entry.place, Skipped { file: name.into_owned(), reason }));
                }
            }
            if self.buffer.len() > BUFFER_BYTES {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        }
        part
    }

    fn add(&mut self, entry: &Entry, name: &str, to: &mut Collection) -> Result<(), String> {
        let file = self.open(entry)?;
        let length = self.fill(&file, 0, false)?;
        match to.add_bytes(name, &self.buffer[..length]) {
            Ok(()) => Ok(()),
            Err(reason) => {
                // What ends like a whole file may be a piece of one, of a file system that gives it so.
                let whole = self.fill(&file, length, true)?;
                if whole == length {
                    Err(reason)
                } else {
                    to.add_bytes(name, &self.buffer[..whole])
                }
            }
        }
    }

    fn open(&self, entry: &Entry) -> Result<OwnedFd, String> {
        let name = self.folder.name(entry);
        let kind = match entry.kind {
            Kind::Unknown => statat(&self.folder.descriptor, name, AtFlags::empty())
                .map(|it| kind_of(FileType::from_raw_mode(it.st_mode))),
            kind => Ok(kind),
        };
        match kind.map_err(cannot_be_read)? {
            Kind::File => {}
            Kind::Folder => return Err("is a folder, not a file".to_owned()),
            Kind::Other | Kind::Unknown => return Err("is not a regular file".to_owned()),
        }
        // It may have become something else just now: then nothing waits for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat(&self.folder.descriptor, name, flags, Mode::empty()).map_err(cannot_be_read)
    }

    /// Reads on behind what the buffer has of a file: to its end or, which saves a call, as far as
    /// looks like one. How much there is now.
    fn fill(&mut self, file: &OwnedFd, from: usize, to_its_end: bool) -> Result<usize, String> {
        let mut length = from;
        loop {
            if length > MAX_BYTES {
                return Err(format!("is larger than {} MiB: no result file is", MAX_BYTES >> 20));
            }
            if length == self.buffer.len() {
                self.buffer.resize((2 * length).min(MAX_BYTES + 1), 0);
            }
            match retry_on_intr(|| rustix::io::read(file, &mut self.buffer[length..])) {
                Ok(0) => return Ok(length),
                Ok(more) => length += more,
                Err(error) => return Err(cannot_be_read(error)),
            }
            let room = length < self.buffer.len();
            if room && !to_its_end && self.buffer[..length].trim_ascii_end().ends_with(b"}") {
                return Ok(length);
            }
        }
    }
}

fn cannot_be_read(error: Errno) -> String {
    format!("cannot be read: {}", io::Error::from(error))
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

    proptest::proptest! {
        #[test]
        fn names_are_sorted_as_bytes(names in proptest::collection::hash_set("[a-b]{0,20}é?", 0..60)) {
            let descriptor = openat(CWD, ".", OFlags::RDONLY, Mode::empty()).unwrap();
            let mut folder =
                Folder { path: PathBuf::new(), descriptor, names: Vec::new(), entries: Vec::new() };
            for (inode, name) in names.iter().enumerate() {
                folder.push(&CString::new(name.as_str()).unwrap(), inode as u64 % 7, Kind::File);
            }
            folder.arrange();
            proptest::prop_assert!(folder.entries.is_sorted_by_key(|entry| entry.inode));
            folder.entries.sort_by_key(|entry| entry.place);
            let found = folder.entries.iter().map(|it| folder.name(it).to_str().unwrap());
            let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
            names.sort_unstable();
            proptest::prop_assert_eq!(found.collect::<Vec<_>>(), names);
        }
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
