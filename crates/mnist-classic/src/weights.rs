//! Weights in files.

use crate::failure::Failure;
use anyhow::{Context, Result, ensure};
use nn::{Model, Parameters, WeightsError};
use protocol::exit;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// The options that name files of weights.
pub const LOAD: &str = "--load";
pub const SAVE: &str = "--save";

/// Reads a model's weights. `named_by` is for messages: the option or variable that names the file.
///
/// # Errors
/// If the file cannot be read, or its tensors are not the model's.
pub fn load(model: Model, path: &Path, named_by: &str) -> Result<Parameters, Failure> {
    load_with(path, named_by, |bytes| Parameters::from_safetensors(model, bytes))
}

/// Reads a file of weights of any kind.
///
/// # Errors
/// If the file cannot be read, or `parse` refuses what it holds.
pub fn load_with<T>(
    path: &Path,
    named_by: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, WeightsError>,
) -> Result<T, Failure> {
    let hint = || format!("{named_by} {}", path.display());
    let load = || -> Result<T> { Ok(parse(&fs::read(path)?)?) };
    load().with_context(hint).map_err(|error| Failure::new(exit::DATA, error))
}

/// Where weights will go.
pub struct Destination {
    path: PathBuf,
    /// For messages: the option or variable that names the file.
    named_by: &'static str,
}

impl Destination {
    /// Finds out now whether writing will be possible, not after hours of training. Leaves nothing
    /// behind.
    ///
    /// # Errors
    /// If a file cannot be made there.
    pub fn prepare(path: &Path, named_by: &'static str) -> Result<Destination> {
        let prepare = || -> Result<()> {
            ensure!(!path.is_dir(), "it is a folder; name a file");
            let folder = folder(path);
            ensure!(folder.is_dir(), "{} is no folder; make it first", folder.display());
            if replaceable(path) { beside(path).map(drop) } else { Ok(()) }
        };
        prepare().with_context(|| format!("cannot write {named_by} {}", path.display()))?;
        Ok(Destination { path: path.to_owned(), named_by })
    }

    /// [`Destination::write_bytes`] of parameters.
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, parameters: &Parameters) -> Result<()> {
        self.write_bytes(&parameters.to_safetensors()?)
    }

    /// Writes the file whole or not at all: a temporary file beside it, flushed, then renamed.
    ///
    /// # Errors
    /// If that fails, for example for lack of space.
    pub fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        let Destination { path, named_by } = self;
        let write = || -> Result<()> {
            if !replaceable(path) {
                return Ok(fs::write(path, bytes)?);
            }
            let mut file = beside(path)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {named_by} {}", path.display()))
    }
}

/// Not so is what is no regular file, `/dev/null` or a pipe: renaming would destroy it.
fn replaceable(path: &Path) -> bool {
    path.metadata().map_or(true, |found| found.is_file())
}

fn folder(path: &Path) -> &Path {
    // The parent of a bare name is empty.
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path) -> Result<NamedTempFile> {
    let mut builder = Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    Ok(builder.prefix(".weights-").tempfile_in(folder(path))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::MlpShape;

    const MODEL: Model = Model::Mlp(MlpShape { hidden: 2 });

    #[test]
    fn what_was_written_is_read_and_nothing_else_stays_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let destination = Destination::prepare(&path, SAVE).unwrap();
        assert!(!path.exists());
        let mut parameters = Parameters::zeros(MODEL);
        parameters.values_mut()[3] = 0.5;
        destination.write(&parameters).unwrap();
        destination.write(&parameters).unwrap(); // over itself
        assert_eq!(load(MODEL, &path, LOAD).unwrap(), parameters);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_found_out_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such/folder/a.safetensors");
        for path in [folder.path(), &missing] {
            let error = format!("{:#}", Destination::prepare(path, SAVE).err().unwrap());
            assert!(error.starts_with("cannot write --save "), "{error}");
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_file_of_no_weights_is_a_data_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        for content in [None, Some("hello")] {
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let failure = load(MODEL, &path, LOAD).err().unwrap();
            assert_eq!(failure.code, exit::DATA);
            assert!(format!("{:#}", failure.error).contains("a.safetensors"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        let destination = Destination::prepare(Path::new("/dev/null"), SAVE).unwrap();
        destination.write(&Parameters::zeros(MODEL)).unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }
}
