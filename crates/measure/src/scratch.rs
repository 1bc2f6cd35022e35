//! A folder for temporary files of a run: predictions, exchanges with trainers.
//!
//! A process that is killed cannot remove its folder. Each process holds a lock in its folder while it lives. The next
//! process finds folders without a lock and removes them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The beginning of the folders' names among the system's temporary files.
const PREFIX: &str = "trainmark-";
/// The file in each that its owner holds locked.
const LOCK: &str = ".in-use";
/// Beside it, so that whoever looks around in there finds nothing that is not their own.
const INNER: &str = "work";

/// A scratch folder, removed when it is dropped.
pub struct Scratch {
    inner: PathBuf,
    /// Removes all of it.
    _folder: TempDir,
    _lock: File,
}

impl Scratch {
    /// Makes one, after those of processes that were killed are removed.
    ///
    /// # Errors
    /// If there is no place for temporary files.
    pub fn new() -> io::Result<Scratch> {
        Scratch::new_in(&std::env::temp_dir())
    }

    /// The same in a folder.
    ///
    /// # Errors
    /// If it cannot be made there.
    pub fn new_in(parent: &Path) -> io::Result<Scratch> {
        remove_abandoned(parent);
        Scratch::make_in(parent).map_err(|error| {
            let words = "no folder for temporary files can be made there";
            io::Error::new(error.kind(), format!("{}: {words}: {error}", parent.display()))
        })
    }

    fn make_in(parent: &Path) -> io::Result<Scratch> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // Locked before it has the name that others look for.
        let early = folder.path().join(".early");
        let lock = File::create(&early)?;
        // Where there are no locks (some network file systems), nobody finds it abandoned either.
        if lock.lock().is_ok() {
            fs::rename(&early, folder.path().join(LOCK))?;
        }
        let inner = folder.path().join(INNER);
        fs::create_dir(&inner)?;
        Ok(Scratch { inner, _folder: folder, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner
    }
}

/// Removes this user's scratch folders whose owners are gone. What cannot be removed stays: it is
/// nobody's loss.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let named = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let folder = entry.path();
        if named && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_abandoned(&folder) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    let lock = folder.join(LOCK);
    // A regular file of one's own: opening anything else that stands there might wait for ever.
    let Ok(found) = fs::symlink_metadata(&lock) else { return false };
    // Whoever runs as root does not clear up after others.
    if !found.is_file() || found.uid() != rustix::process::getuid().as_raw() {
        return false;
    }
    // Opened for writing, as some file systems want it for a lock.
    let opened = File::options().read(true).write(true).open(&lock);
    opened.is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Scratch::new_in(parent.path()).unwrap();
        // A lock that nobody holds any more, as after a kill.
        let dead = parent.path().join("trainmark-dead");
        fs::create_dir_all(dead.join("run-x")).unwrap();
        fs::write(dead.join("run-x/predictions"), "1").unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let stranger = parent.path().join("trainmark-notes");
        fs::create_dir(&stranger).unwrap();
        let link = parent.path().join("trainmark-link");
        std::os::unix::fs::symlink(alive.path().parent().unwrap(), &link).unwrap();
        let next = Scratch::new_in(parent.path()).unwrap();
        assert!(!dead.exists(), "nobody needs it");
        assert!(alive.path().exists() && next.path().exists() && stranger.exists());
        assert!(link.exists());
        drop((alive, next));
        let left = fs::read_dir(parent.path()).unwrap().flatten().map(|entry| entry.file_name());
        let mut left: Vec<_> = left.filter(|name| name != "trainmark-link").collect();
        left.sort();
        assert_eq!(left, ["trainmark-notes"]);
    }
}
