//! How a file of ours comes to be on the disk: whole or not at all.

use crate::Record;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// What the name of a file begins with that is being written. Whoever dies then leaves it behind.
pub const WRITING: &str = ".writing-";

/// Writes a new result file, so that it is there whole or not at all and no other file is ever
/// replaced: a temporary file, fsync, an exclusive rename, fsync of the directory. False if the name
/// is taken.
///
/// # Errors
/// If the directory or the disk refuses; nothing is left behind then.
pub fn write_new(path: &Path, result: &Record) -> std::io::Result<bool> {
    let directory = folder_of(path);
    match write_aside(directory, result)?.persist_noclobber(path) {
        Ok(_) => sync_directory(directory).map(|()| true),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Replaces a result file by one with more samples, or another file of ours, whole or not at all.
///
/// # Errors
/// If the disk refuses; the old file is still there then.
pub fn replace(path: &Path, result: &impl Serialize) -> std::io::Result<()> {
    let directory = folder_of(path);
    write_aside(directory, result)?.persist(path).map_err(|error| error.error)?;
    sync_directory(directory)
}

/// The parent of a bare name is empty.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file under a temporary name, on the disk.
fn write_aside(directory: &Path, result: &impl Serialize) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the user's umask decides who else may read it.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.prefix(WRITING).tempfile_in(directory)?;
    let mut text = serde_json::to_vec_pretty(result)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes a new name in a directory survive a power cut.
///
/// # Errors
/// If the disk refuses.
pub fn sync_directory(directory: &Path) -> std::io::Result<()> {
    match std::fs::File::open(directory)?.sync_all() {
        // Some network file systems cannot sync a directory; the file itself is safe.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
