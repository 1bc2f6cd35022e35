//! Keeps a dataset as a folder of four plain IDX files, for trainers that read files and for those
//! that would rather map than decompress.
//!
//! The folder is `PARENT/plain/HASH/NAME`, HASH being the first 16 digits of [`Dataset::sha256`]: a
//! dataset that changes gets a new folder, and NAME alone is what a reader calls it. It is written
//! elsewhere and renamed, so that nobody sees a part of it, under a lock, so that two processes do
//! not both write it, and an existing one is read and hashed before it is trusted.

use crate::identity::{self, FILES, KINDS};
use crate::idx::Kind;
use crate::{Dataset, Error, Source, Split, digits};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// How the names of folders begin in which a dataset is being written.
const SCRATCH: &str = ".new-";

impl Dataset {
    /// Makes sure that `parent` has the dataset as four plain files, and returns their folder.
    /// Safe when several processes do it at once.
    ///
    /// # Errors
    /// If it cannot be written; the message names the file.
    pub fn materialise(&mut self, parent: &Path) -> Result<PathBuf, Error> {
        let digests = self.identify();
        let name = self.name.clone();
        store(parent, &name, &digests.each_ref().map(String::as_str), || &*self)
    }
}

/// Makes sure that `parent`, for example [`files::cache_directory`], has the digits as four plain
/// files, and returns their folder. Safe when several processes do it at once; an existing folder
/// is verified (some 30 ms) and used.
///
/// # Errors
/// If it cannot be written; the message names the file.
pub fn materialise_digits(parent: &Path) -> Result<PathBuf, Error> {
    store(parent, "digits", &digits::SHA256, digits::generate)
}

/// The folder with the files of these digests; `produce` is called if it is not there or damaged.
fn store<D: std::borrow::Borrow<Dataset>>(
    parent: &Path,
    name: &str,
    digests: &[&str; 4],
    produce: impl FnOnce() -> D,
) -> Result<PathBuf, Error> {
    let shelf = parent.join("plain").join(&identity::combined(digests)[..16]);
    let folder = shelf.join(name);
    fs::create_dir_all(&shelf).map_err(|cause| Error::io(&shelf, "create the folder", cause))?;

    let lock_path = shelf.join(".lock");
    let lock = files::create(&lock_path).map_err(|cause| Error::io(&lock_path, "write", cause))?;
    // Released when the file is closed. A file system without locks still has the rename.
    let alone = lock.lock().is_ok();
    if holds(&folder, digests) {
        return Ok(folder);
    }
    if alone {
        remove_scratch(&shelf);
    }

    let failed = |cause| Error::io(&shelf, "write a folder in", cause);
    let scratch = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&shelf).map_err(failed)?;
    let fresh = scratch.path().join("fresh");
    write(produce().borrow(), &fresh)?;
    if folder.exists() {
        // Damaged: out of the way, to be deleted with the scratch folder.
        let _ = fs::rename(&folder, scratch.path().join("damaged"));
    }
    match fs::rename(&fresh, &folder) {
        Ok(()) => Ok(folder),
        // Without locks another process may have been faster.
        Err(_) if holds(&folder, digests) => Ok(folder),
        Err(cause) => Err(Error::io(&folder, "rename a folder to", cause)),
    }
}

/// Removes what processes left that were killed while they wrote.
fn remove_scratch(shelf: &Path) {
    for entry in fs::read_dir(shelf).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            // If it cannot be removed it is only in the way of the disk's space.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a folder holds exactly these files.
fn holds(folder: &Path, digests: &[&str; 4]) -> bool {
    let plain = FILES.iter().all(|name| folder.join(name).is_file());
    let loaded =
        if plain { Source::open(folder).and_then(|source| source.load()).ok() } else { None };
    loaded.is_some_and(|data| identity::digests(&data.train, &data.test) == *digests)
}

/// Writes the four plain files into a new folder.
fn write(dataset: &Dataset, folder: &Path) -> Result<(), Error> {
    fs::create_dir(folder).map_err(|cause| Error::io(folder, "create the folder", cause))?;
    let splits = [&dataset.train, &dataset.train, &dataset.test, &dataset.test];
    for (index, name) in FILES.iter().enumerate() {
        let path = folder.join(name);
        write_file(&path, KINDS[index], splits[index])
            .map_err(|cause| Error::io(&path, "write", cause))?;
    }
    Ok(())
}

fn write_file(path: &Path, kind: Kind, split: &Split) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(&kind.header(split.len()))?;
    file.write_all(kind.bytes(split))?;
    // For every trainer's eyes, and for nobody's hands.
    let mut rights = file.metadata()?.permissions();
    rights.set_readonly(true);
    file.set_permissions(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(pixel: u8) -> Dataset {
        let split = |count: usize| Split::new(vec![pixel; count * crate::PIXELS], vec![3; count]);
        let (train, test) = (split(5).unwrap(), split(2).unwrap());
        Dataset { name: "small".to_owned(), sha256: None, train, test }
    }

    #[test]
    fn a_stored_dataset_is_the_same_when_it_is_read() {
        let parent = tempfile::tempdir().unwrap();
        let mut dataset = small(7);
        let folder = dataset.materialise(parent.path()).unwrap();
        let mut read = Source::open(&folder).unwrap().load().unwrap();
        assert_eq!(read.name, "small");
        read.identify();
        assert_eq!((&read.name, &read.sha256), (&dataset.name, &dataset.sha256));
        assert_eq!(read.train.images(), dataset.train.images());
        assert_eq!(read.test.labels(), dataset.test.labels());
        for name in FILES {
            let rights = folder.join(name).metadata().unwrap().permissions();
            assert!(rights.readonly(), "{name}: trainers may not write it");
        }
    }

    #[test]
    fn a_good_folder_is_kept_and_a_damaged_one_is_written_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = small(7).materialise(parent.path()).unwrap();
        let path = folder.join(FILES[0]);
        let written = || path.metadata().unwrap().modified().unwrap();
        let (first, good) = (written(), fs::read(&path).unwrap());
        assert_eq!(small(7).materialise(parent.path()).unwrap(), folder);
        assert_eq!(written(), first);

        let mut bad = good.clone();
        bad[100] ^= 1;
        fs::write(&path, &bad).unwrap();
        fs::remove_file(folder.join(FILES[3])).unwrap();
        assert_eq!(small(7).materialise(parent.path()).unwrap(), folder);
        assert_eq!(fs::read(&path).unwrap(), good);
        assert!(folder.join(FILES[3]).is_file());
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = small(7).materialise(parent.path()).unwrap();
        let left = folder.with_file_name(".new-left");
        fs::rename(&folder, &left).unwrap();
        assert_eq!(small(7).materialise(parent.path()).unwrap(), folder);
        assert!(folder.is_dir() && !left.exists());
    }

    #[test]
    fn other_bytes_get_another_folder() {
        let parent = tempfile::tempdir().unwrap();
        let folders = [7, 8].map(|pixel| small(pixel).materialise(parent.path()).unwrap());
        assert_ne!(folders[0], folders[1]);
        assert!(folders.iter().all(|folder| folder.ends_with("small")));
    }

    #[test]
    fn many_at_once_all_get_the_same_good_folder_and_leave_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let folders: Vec<_> = std::thread::scope(|scope| {
            let one = || small(7).materialise(parent.path()).unwrap();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(folders.iter().all(|folder| *folder == folders[0]));
        assert_eq!(Source::open(&folders[0]).unwrap().load().unwrap().train.len(), 5);
        let shelf = folders[0].parent().unwrap();
        let mut names: Vec<_> =
            fs::read_dir(shelf).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".lock", "small"]);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let message = small(7).materialise(&file).unwrap_err().to_string();
        assert!(message.starts_with(file.to_str().unwrap()), "{message}");
        assert!(!message.contains('\n'));
    }
}
