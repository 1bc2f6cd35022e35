//! Checkpoints: a training that was cut off goes on as if nothing had been.
//!
//! What the seed decides of epoch `e` or step `s` comes from the seed and that number alone, and plain SGD
//! remembers nothing; AdamW's moments are kept beside its weights. So one file of weights and the number
//! of epochs or steps done are all there is to keep, and a run that goes on gives the same bits as one
//! that was never disturbed.
//!
//! In the folder, `checkpoint.json` names the job, what is done and the file of weights beside it.
//! The weights are on the disk before the JSON that names them replaces the one before: whenever the
//! process dies, the folder holds a whole checkpoint, the new one or the old one.

use crate::failure::Failure;
use crate::weights::Destination;
use anyhow::{Context, Result, anyhow, bail};
use protocol::exit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The option that names the folder.
pub const OPTION: &str = "--checkpoint";
const JSON: &str = "checkpoint.json";
const LOCK: &str = ".lock";
/// The version of the JSON.
const VERSION: u32 = 1;

/// The settings that decide the bits of a training, by name: two jobs with the same entries are the same.
pub type Identity = BTreeMap<String, String>;

/// A digest of weights, for [`Identity`]: FNV-1a of 64 bits (Fowler, Noll and Vo), which tells files
/// apart; it is no protection against forgery.
pub fn digest(parameters: &[f32]) -> String {
    let bytes = parameters.iter().flat_map(|value| value.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The content of `checkpoint.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    /// Epochs, or steps.
    #[serde(rename = "epochs_done")]
    done: u64,
    /// The file of weights, in the same folder.
    weights: String,
    job: Identity,
}

/// A folder for checkpoints, locked.
pub struct Folder {
    path: PathBuf,
    lock: File,
    /// The unit of progress: `epoch` or `step`.
    unit: &'static str,
}

/// For all copies of the descriptor: a child that is just being started may have one for a moment.
impl Drop for Folder {
    fn drop(&mut self) {
        // Closing it does the rest.
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Makes the folder and finds out now whether it can be written to.
    ///
    /// # Errors
    /// If it cannot, or if another process uses it.
    pub fn prepare(path: &Path, unit: &'static str) -> Result<Folder> {
        let prepare = || -> Result<File> {
            fs::create_dir_all(path)?;
            let lock = File::create(path.join(LOCK))?;
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    bail!("another process writes checkpoints there; name another folder")
                }
                // A file system without locks is used without.
                Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
            }
        };
        let lock = prepare().with_context(|| format!("{OPTION} {}", path.display()))?;
        let folder = Folder { path: path.to_owned(), lock, unit };
        folder.remove(".weights-", None); // of one that was killed while it wrote
        Ok(folder)
    }

    /// The file of weights to go on from and how many epochs or steps they have been trained; `None` if
    /// there is no checkpoint yet.
    ///
    /// # Errors
    /// If the checkpoint is damaged, or of another job: the message names what differs.
    pub fn resume(&self, job: &Identity) -> Result<Option<(PathBuf, u64)>, Failure> {
        let Some(state) = self.read().map_err(wrong)? else { return Ok(None) };
        if let Some(difference) = difference(&state.job, job) {
            let folder = self.path.display();
            return Err(wrong(anyhow!("{OPTION} {folder}: it is of another job: {difference}")));
        }
        // Within the folder, whatever the JSON says.
        let name = Path::new(&state.weights).file_name().unwrap_or_default();
        Ok(Some((self.path.join(name), state.done)))
    }

    /// Checks that there is no checkpoint that a new run would replace.
    ///
    /// # Errors
    /// If there is one.
    pub fn refuse_old(&self) -> Result<(), Failure> {
        match self.read().map_err(wrong)? {
            None => Ok(()),
            Some(state) => Err(wrong(anyhow!(
                "{OPTION} {}: holds a checkpoint after {} {}; --resume goes on from it, or name \
                 another folder",
                self.path.display(),
                self.unit,
                state.done
            ))),
        }
    }

    /// Keeps a checkpoint, a safetensors file's bytes, and forgets the one before.
    ///
    /// # Errors
    /// If the disk refuses; the one before is still there then.
    pub fn write(&self, weights: &[u8], done: u64, job: &Identity) -> Result<()> {
        let prefix = format!("{}-", self.unit);
        let name = format!("{prefix}{done}.safetensors");
        Destination::prepare(&self.path.join(&name), OPTION)?.write_bytes(weights)?;
        let write = || -> Result<()> {
            self.sync()?;
            let (weights, job) = (name.clone(), job.clone());
            let state = State { version: VERSION, done, weights, job };
            let mut file = tempfile::Builder::new().prefix(".weights-").tempfile_in(&self.path)?;
            file.write_all(&serde_json::to_vec_pretty(&state)?)?;
            file.as_file().sync_all()?;
            file.persist(self.path.join(JSON))?;
            self.sync()
        };
        write().with_context(|| format!("cannot write {OPTION} {}", self.path.display()))?;
        self.remove(&prefix, Some(&name));
        Ok(())
    }

    fn read(&self) -> Result<Option<State>> {
        let path = self.path.join(JSON);
        let hint = || format!("{OPTION} {}", path.display());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(hint),
        };
        let state: State = serde_json::from_slice(&text).with_context(hint)?;
        if state.version != VERSION {
            bail!("{}: of version {}, this program knows {VERSION}", hint(), state.version);
        }
        Ok(Some(state))
    }

    /// Makes a new name survive a power cut.
    fn sync(&self) -> Result<()> {
        if cfg!(unix) {
            File::open(&self.path)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes the files whose names begin like this, but one.
    fn remove(&self, prefix: &str, but: Option<&str>) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(prefix) && Some(&*name) != but {
                // What stays takes space and does no other harm.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn wrong(error: anyhow::Error) -> Failure {
    Failure::new(exit::DATA, error)
}

/// The first entry that two jobs do not share, in words.
fn difference(there: &Identity, here: &Identity) -> Option<String> {
    let names = there.keys().chain(here.keys());
    let name = names.into_iter().find(|name| there.get(*name) != here.get(*name))?;
    let shown = |job: &Identity| job.get(name).cloned().unwrap_or_else(|| "nothing".to_owned());
    Some(format!("{name} is {:?} there and {:?} here", shown(there), shown(here)))
}

#[cfg(test)]
mod tests {
    use super::*;
    fn job(seed: &str) -> Identity {
        Identity::from([("seed".to_owned(), seed.to_owned())])
    }

    fn prepare(path: &Path) -> Result<Folder> {
        Folder::prepare(path, "epoch")
    }

    fn message<T>(result: Result<T, Failure>) -> String {
        let failure = result.err().unwrap();
        assert_eq!(failure.code, exit::DATA);
        format!("{:#}", failure.error)
    }

    #[test]
    fn the_newest_checkpoint_is_read_and_is_the_only_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/checkpoints");
        let folder = prepare(&path).unwrap();
        assert!(folder.resume(&job("1")).unwrap().is_none());
        folder.refuse_old().unwrap();
        for epochs in [1, 2] {
            folder.write(&[epochs as u8], epochs, &job("1")).unwrap();
        }
        let (found, epochs) = folder.resume(&job("1")).unwrap().unwrap();
        assert_eq!((fs::read(found).unwrap(), epochs), (vec![2], 2));
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [LOCK, JSON, "epoch-2.safetensors"]);
        assert!(message(folder.refuse_old()).contains("after epoch 2; --resume goes on"));
    }

    #[test]
    fn another_jobs_checkpoint_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let folder = prepare(home.path()).unwrap();
        folder.write(&[1], 1, &job("42")).unwrap();
        let message = message(folder.resume(&job("43")));
        assert!(message.contains("another job: seed is \"42\" there and \"43\" here"), "{message}");
    }

    #[test]
    fn a_death_between_the_weights_and_the_json_leaves_the_checkpoint_before() {
        let home = tempfile::tempdir().unwrap();
        let folder = prepare(home.path()).unwrap();
        folder.write(&[1], 1, &job("1")).unwrap();
        let later = home.path().join("epoch-2.safetensors");
        fs::write(&later, "half").unwrap();
        fs::write(home.path().join(".weights-x"), "half").unwrap();
        let _of_a_child_before_its_exec = folder.lock.try_clone().unwrap();
        drop(folder);
        let folder = prepare(home.path()).unwrap();
        let found = home.path().join("epoch-1.safetensors");
        assert_eq!(folder.resume(&job("1")).unwrap().unwrap(), (found, 1));
        assert!(!home.path().join(".weights-x").exists());
    }

    #[test]
    fn damage_and_a_second_process_are_named() {
        let home = tempfile::tempdir().unwrap();
        let folder = prepare(home.path()).unwrap();
        let second = format!("{:#}", prepare(home.path()).err().unwrap());
        assert!(second.contains("another process writes checkpoints there"), "{second}");
        fs::write(home.path().join(JSON), "{").unwrap();
        assert!(message(folder.resume(&job("1"))).contains("checkpoint.json"));
    }
}
