//! Files that nobody may change while they are used: the data of a run, which every trainer can write to that
//! runs as the same user.
//!
//! Looking at the times and sizes of files costs nothing beside a training; a trainer could forge all but the
//! time of the last change of the inode, which only root can set. Where a time has changed, the caller looks
//! at the bytes.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files at most: a folder of more is watched in its first ones.
const MOST_FILES: usize = 10_000;

/// How some files were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal(Vec<(PathBuf, Option<Look>)>);

/// Inode, size, and when the inode was last changed, as it is with everything that changes.
type Look = (u64, u64, i64, i64);

impl Seal {
    /// The seal of a file, or of all files in a folder, as they are now.
    pub fn of(path: &Path) -> Seal {
        let (mut files, mut open) = (Vec::new(), vec![path.to_owned()]);
        while let Some(path) = open.pop()
            && files.len() < MOST_FILES
        {
            match entries(&path) {
                Ok(inner) => open.extend(inner),
                // A file, or a folder that cannot be read: the others are watched all the same.
                Err(_) => {
                    let look = look(&path);
                    files.push((path, look));
                }
            }
        }
        files.sort();
        Seal(files)
    }

    /// A file that is not as it was, if there is one.
    pub fn broken(&self) -> Option<&Path> {
        self.0.iter().find(|(path, then)| look(path) != *then).map(|(path, _)| path.as_path())
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    folder.read_dir()?.map(|entry| Ok(entry?.path())).collect()
}

fn look(file: &Path) -> Option<Look> {
    let found = file.metadata().ok()?;
    Some((found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_was_written_replaced_or_removed_breaks_the_seal() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let (a, b) = (folder.path().join("a"), inner.join("b"));
        let fresh = || {
            std::fs::write(&a, "one").unwrap();
            std::fs::write(&b, "two").unwrap();
            let seal = Seal::of(folder.path());
            assert_eq!(seal.broken(), None);
            std::thread::sleep(std::time::Duration::from_millis(20)); // clocks of file systems tick
            seal
        };
        let seal = fresh();
        std::fs::write(&b, "twx").unwrap();
        assert_eq!(seal.broken(), Some(b.as_path()));
        let seal = fresh();
        std::fs::write(folder.path().join("c"), "one").unwrap();
        std::fs::rename(folder.path().join("c"), &a).unwrap();
        assert_eq!(seal.broken(), Some(a.as_path()));
        let seal = fresh();
        std::fs::remove_file(&a).unwrap();
        assert_eq!(seal.broken(), Some(a.as_path()));
    }

    #[test]
    fn a_folder_that_cannot_be_read_leaves_the_other_files_watched() {
        let folder = tempfile::tempdir().unwrap();
        let (file, loops) = (folder.path().join("a"), folder.path().join("loops"));
        std::fs::write(&file, "one").unwrap();
        // Nobody can read it, root neither.
        std::os::unix::fs::symlink(&loops, &loops).unwrap();
        let closed = folder.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
        let seal = Seal::of(folder.path());
        assert_eq!(seal.broken(), None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(seal.broken(), Some(file.as_path()));
    }
}
