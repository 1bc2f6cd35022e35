//! Reads and writes all of Trainmark's own files.
//!
//! Reading: only regular files, opened without blocking, up to the limit of the file's [`Kind`]. A pipe, a
//! device or a file of many gigabytes under the name of a result is an error that says so. It never hangs the program
//! or fills the memory. A link is followed, because reading through a link does no harm.
//!
//! Writing: a link under the name that is written is never followed, so a folder from elsewhere cannot make
//! the harness overwrite a file outside of it. [`replace`] and [`create_new`] write a file whole or not at
//! all. [`aside`] names a place for what is not understood.
#![forbid(unsafe_code)]

use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The beginning of the name of a file that is being written. A file with such a name is the leftover of a
/// process that was killed.
pub const WRITING: &str = ".writing-";

/// The folder in which Trainmark keeps what it downloads and draws: `$XDG_CACHE_HOME/trainmark`, or
/// the platform's own (`~/.cache/trainmark`, `~/Library/Caches/trainmark`). `None` without a home.
pub fn cache_directory() -> Option<PathBuf> {
    // The XDG specification: a relative path is to be ignored.
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    match xdg {
        Some(directory) => Some(directory.join("trainmark")),
        None => directories::ProjectDirs::from("", "", "trainmark")
            .map(|project| project.cache_dir().to_path_buf()),
    }
}

/// A name for tables and files, in letters, digits, `.`, `_` and `-`.
pub fn plain_name(name: &OsStr) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.to_string_lossy().chars().take(64).map(plain).collect();
    if name.chars().any(|c| c.is_ascii_alphanumeric()) { name } else { "unnamed".to_owned() }
}

/// The purpose of a file and its largest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// With its article, for messages.
    pub name: &'static str,
    pub most_bytes: u64,
}

const MIB: u64 = 1 << 20;

impl Kind {
    /// One row: a thousand samples with curves of a hundred points are some 10 MB.
    pub const RESULT: Kind = Kind { name: "a result file", most_bytes: 16 * MIB };
    pub const VERIFICATION: Kind = Kind { name: "a file of verifications", most_bytes: 64 * MIB };
    /// All samples of all runs that are not finished.
    pub const JOURNAL: Kind = Kind { name: "a journal", most_bytes: 1024 * MIB };
    pub const SUITE: Kind = Kind { name: "a suite", most_bytes: 4 * MIB };
    /// For a task on another machine: the suite and all of its rows.
    pub const ORDER: Kind = Kind { name: "an order", most_bytes: 256 * MIB };
    /// The machine's measurement, the noise of a row, the stamp of a set-up.
    pub const NOTE: Kind = Kind { name: "a file of measurements", most_bytes: 16 * MIB };
    /// Output of a program that we started.
    pub const LOG: Kind = Kind { name: "a log", most_bytes: 1024 * MIB };
    /// Data, programs and scripts: read as streams.
    pub const STREAM: Kind = Kind { name: "data or a program", most_bytes: u64::MAX };
    /// Predictions of a trainer, for scoring.
    pub const PREDICTIONS: Kind = Kind { name: "a file of predictions", most_bytes: 4096 * MIB };
}

/// Opens a file for reading and returns it with its size.
///
/// # Errors
/// If it is not there, no regular file, or larger than its kind may be. The message does not name the path.
pub fn open(path: &Path, kind: Kind) -> io::Result<(File, u64)> {
    let regular = |found: std::fs::Metadata| match found.is_file() {
        true => Ok(found.len()),
        false => Err(invalid(format!("is not a regular file, as {} must be", kind.name))),
    };
    // Looked at first: opening some devices does something. And again, should it have been exchanged.
    regular(std::fs::metadata(path)?)?;
    let file = options(OFlags::empty()).read(true).open(path)?;
    let bytes = regular(file.metadata()?)?;
    match bytes > kind.most_bytes {
        true => Err(too_large(bytes, kind)),
        false => Ok((file, bytes)),
    }
}

/// Reads a whole file.
///
/// # Errors
/// As [`open`], or if it grows beyond the limit while it is read.
pub fn read(path: &Path, kind: Kind) -> io::Result<Vec<u8>> {
    let (file, bytes) = open(path, kind)?;
    let mut text = Vec::with_capacity(bytes as usize);
    file.take(kind.most_bytes + 1).read_to_end(&mut text)?;
    match text.len() as u64 > kind.most_bytes {
        true => Err(too_large(text.len() as u64, kind)),
        false => Ok(text),
    }
}

/// Reads a whole file as text.
///
/// # Errors
/// As [`read`], or if it is not UTF-8.
pub fn read_text(path: &Path, kind: Kind) -> io::Result<String> {
    String::from_utf8(read(path, kind)?)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "is not UTF-8"))
}

/// In the unit that people read: `812 bytes`, `80.00 MB`. 1 MB is 10^6 bytes.
pub fn size(bytes: u64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6)];
    match units.iter().find(|(_, one)| bytes as f64 >= *one) {
        Some((unit, one)) => format!("{:.2} {unit}", bytes as f64 / one),
        None => format!("{bytes} bytes"),
    }
}

/// The last bytes of a file, at most so many.
///
/// # Errors
/// As [`open`].
pub fn read_end(path: &Path, kind: Kind, most: u64) -> io::Result<Vec<u8>> {
    let (mut file, bytes) = open(path, kind)?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(most)))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok(text)
}

fn too_large(bytes: u64, kind: Kind) -> io::Error {
    let said = format!(
        "has {}, but {} may have at most {}",
        size(bytes),
        kind.name,
        size(kind.most_bytes)
    );
    io::Error::new(ErrorKind::FileTooLarge, said)
}

/// Opens a file for appending, makes it if it is not there.
///
/// # Errors
/// If a link or anything but a regular file has the name, or the disk refuses.
pub fn append(path: &Path) -> io::Result<File> {
    ours(path, options(OFlags::NOFOLLOW).read(true).append(true).create(true))
}

/// Opens a file for writing from its beginning, makes it if it is not there. For locks and logs; anything
/// that is read again is better written with [`replace`].
///
/// # Errors
/// As [`append`].
pub fn create(path: &Path) -> io::Result<File> {
    let file = ours(path, options(OFlags::NOFOLLOW).write(true).create(true))?;
    // Not before it is known to be a regular file.
    file.set_len(0)?;
    Ok(file)
}

fn ours(path: &Path, options: &OpenOptions) -> io::Result<File> {
    if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return Err(invalid("is a link, which trainmark does not write through; remove it"));
    }
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(invalid("it is not a regular file")),
    }
}

fn invalid(said: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, said.into())
}

/// Writes a new file, whole or not at all, and no other file is ever replaced. False if the name is taken.
///
/// # Errors
/// If the folder or the disk refuses; nothing is left behind then.
pub fn create_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let folder = folder_of(path);
    match write_aside(folder, bytes)?.persist_noclobber(path) {
        Ok(_) => sync_folder(folder).map(|()| true),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Replaces a file, whole or not at all. A link of that name is replaced, and its target is left alone.
///
/// # Errors
/// If the disk refuses; the old file is still there then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    write_aside(folder, bytes)?.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

/// Writes a file through a writer, whole or not at all, as [`replace`] does, but not safe from a power cut, which
/// takes longer than all the rest: for what can be made again.
///
/// # Errors
/// As [`replace`], or if the writer fails.
pub fn render(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = temporary(folder_of(path))?;
    write(file.as_file_mut())?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// The first of `NAME.damaged`, `NAME.damaged-2` and so on that nothing has.
pub fn aside(path: &Path) -> PathBuf {
    let name = |number: usize| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(if number == 1 { ".damaged".to_owned() } else { format!(".damaged-{number}") });
        path.with_file_name(name)
    };
    let free = |aside: &PathBuf| aside.symlink_metadata().is_err();
    (1..).map(name).find(free).unwrap_or_else(|| unreachable!("the numbers do not end"))
}

/// Makes a new name in a folder survive a power cut.
///
/// # Errors
/// If the disk refuses.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot do that for a folder; the file itself is safe.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// The parent of a bare name is empty.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file under a temporary name, on the disk.
fn write_aside(folder: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = temporary(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    // As any new file: the user's umask decides who else may read it.
    let permissions = std::fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().permissions(permissions).prefix(WRITING).tempfile_in(folder)
}

/// Opening a pipe does not wait for its other end.
fn options(more: OFlags) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlags::NONBLOCK | more).bits().cast_signed());
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SMALL: Kind = Kind { name: "a small file", most_bytes: 10 };

    #[test]
    fn pipes_devices_folders_and_large_files_are_errors_and_none_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let pipe = std::process::Command::new("mkfifo").arg(path("pipe")).status();
        assert!(pipe.unwrap().success());
        symlink("/dev/zero", path("zero")).unwrap();
        File::create(path("sparse")).unwrap().set_len(1 << 40).unwrap();
        for name in ["pipe", "zero", "."] {
            let error = read(&path(name), SMALL).unwrap_err().to_string();
            assert_eq!(error, "is not a regular file, as a small file must be", "{name}");
        }
        let error = read(&path("sparse"), SMALL).unwrap_err().to_string();
        assert!(error.starts_with("has 1.10 TB, but a small file may have at most"), "{error}");
        assert_eq!(read(&path("none"), SMALL).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(path("right"), "0123456789").unwrap();
        symlink(path("right"), path("link")).unwrap();
        assert_eq!(read(&path("link"), SMALL).unwrap(), b"0123456789");
        assert_eq!(read_end(&path("right"), SMALL, 3).unwrap(), b"789");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("target"), "precious").unwrap();
        for (name, target) in [("link", "target"), ("dangling", "missing")] {
            symlink(path(target), path(name)).unwrap();
            assert!(append(&path(name)).unwrap_err().to_string().contains("link"));
            assert!(create(&path(name)).unwrap_err().to_string().contains("link"));
            assert!(!create_new(&path(name), b"x").unwrap());
            replace(&path(name), b"ours").unwrap();
            assert_eq!(std::fs::read(path(name)).unwrap(), b"ours");
        }
        assert_eq!(std::fs::read(path("target")).unwrap(), b"precious");
        assert!(!path("missing").exists());
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all_and_no_name_is_taken_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert!(create_new(&path, b"one").unwrap());
        assert!(!create_new(&path, b"two").unwrap());
        replace(&path, b"three").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        std::fs::rename(&path, aside(&path)).unwrap();
        assert_eq!(std::fs::read(folder.path().join("x.json.damaged")).unwrap(), b"three");
        append(&path).unwrap().write_all(b"four").unwrap();
        append(&path).unwrap().write_all(b"five").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"fourfive");
        assert_eq!(aside(&path), folder.path().join("x.json.damaged-2"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left over");
        assert!(create_new(Path::new("/nonexistent/folder/x.json"), b"x").is_err());
    }
}
