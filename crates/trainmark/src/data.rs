//! The data of a run: found, checked and named once, before any training.
//!
//! A task's own files are hashed as a stream. The images of the layout `idx` are read, checked and hashed as
//! a whole, which takes some 60 MB, and the harness would hold on to them while it measures others. So it
//! executes itself once more ([`READER_ARG`]) and that process reads, hashes, draws digits where there is no
//! data, says what it found in one line, and ends.

use crate::suite::LoadedSuite;
use crate::task::{Layout, Task};
use anyhow::{Context, Result, bail};
use measure::launch;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The first argument that turns the harness's binary into the reader.
pub const READER_ARG: &str = "__read-data";

/// Data that has been read and checked, or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// The file or the folder that trainers are given; empty for a task without data.
    pub directory: PathBuf,
    pub name: String,
    /// Of one file its SHA-256; of several over names and bytes; of the layout `idx` as METHOD.md defines it.
    pub sha256: String,
    /// What led to it, in words.
    pub found_by: String,
}

/// For the head of a run.
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.given() {
            Some((name, _)) => {
                write!(f, "{name} in {} ({})", self.directory.display(), self.found_by)
            }
            None => f.write_str("none"),
        }
    }
}

impl Dataset {
    /// Name and digest, if there is any.
    pub fn given(&self) -> Option<(&str, &str)> {
        (!self.sha256.is_empty()).then_some((&*self.name, &*self.sha256))
    }
}

/// Finds, reads and checks the data of a suite; the value of `--data`, if there was one, is `explicit`.
///
/// # Errors
/// If it is not where the suite or the user says, or if it is damaged.
pub fn prepare(loaded: &LoadedSuite, explicit: Option<&Path>) -> Result<Dataset> {
    let task = loaded.suite.task();
    let explicit = explicit.filter(|path| !path.as_os_str().is_empty());
    match task.layout {
        Some(Layout::Idx) => {
            let own = task.data.as_ref().and_then(|data| data.all().first());
            let own = own.map(|data| loaded.folder.join(data));
            let mut dataset = ask_reader(explicit.or(own.as_deref()))?;
            if own.is_some() && explicit.is_none() && !task.datasets.contains(&dataset.name) {
                dataset.name.clone_from(&task.name);
            }
            Ok(dataset)
        }
        None => match place(loaded, explicit)? {
            Some(directory) => {
                let sha256 = digest(task, &directory)?;
                let found_by = if explicit.is_some() { "--data" } else { "the suite" }.to_owned();
                Ok(Dataset { directory, name: task.name.clone(), sha256, found_by })
            }
            None => Ok(Dataset::default()),
        },
    }
}

/// Where the data is, if the task has any: nothing is read or drawn.
///
/// # Errors
/// If it is not where the suite or the user says.
pub fn place(loaded: &LoadedSuite, explicit: Option<&Path>) -> Result<Option<PathBuf>> {
    let task = loaded.suite.task();
    let explicit = explicit.filter(|path| !path.as_os_str().is_empty());
    if task.layout == Some(Layout::Idx) {
        let own = task.data.as_ref().and_then(|data| data.all().first());
        let own = own.map(|data| loaded.folder.join(data));
        let source = mnist::Source::locate(explicit.or(own.as_deref()))?;
        return Ok(Some(source.directory().map_or_else(|| mnist::EMBEDDED.into(), absolute)));
    }
    let Some(data) = &task.data else {
        return match explicit {
            Some(_) => bail!("--data: the task {:?} has no data", task.name),
            None => Ok(None),
        };
    };
    let paths: Vec<PathBuf> = data.all().iter().map(|path| loaded.folder.join(path)).collect();
    let place = match (explicit, &paths[..]) {
        (Some(explicit), _) => absolute(explicit),
        (None, [only]) => only.clone(),
        (None, several) => common_folder(several).context("`data` has no common folder")?,
    };
    if !place.exists() {
        let fetch = match task.files.is_empty() {
            true => String::new(),
            false => format!("; `trainmark fetch --suite {}` downloads it", loaded.named()),
        };
        bail!("the data {} is not there{fetch}", place.display());
    }
    Ok(Some(place))
}

/// The deepest folder that holds all of these.
fn common_folder(paths: &[PathBuf]) -> Option<PathBuf> {
    let holds_all = |folder: &&Path| paths.iter().all(|path| path.starts_with(folder));
    paths.first()?.parent()?.ancestors().find(holds_all).map(Path::to_owned)
}

/// Of one file the SHA-256 of its bytes, which trainers and other programs find too; of several, over the
/// names and bytes of all, in the order of their names.
fn digest(task: &Task, place: &Path) -> Result<String> {
    let listed = task.data.as_ref().map_or(&[][..], |data| data.all());
    let mut files = Vec::new();
    match listed {
        [_] => list(place, &mut files)?,
        // Of a list, these files and no others.
        several => {
            let common = common_folder(several).unwrap_or_default();
            for path in several {
                list(&place.join(path.strip_prefix(&common).unwrap_or(path)), &mut files)?;
            }
        }
    }
    let folder = if place.is_dir() { place } else { place.parent().unwrap_or(place) };
    let named = |file: PathBuf| {
        let name = file.strip_prefix(folder).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        (name, file)
    };
    let mut files: Vec<(String, PathBuf)> = files.into_iter().map(named).collect();
    files.sort();
    let mut all = Sha256::new();
    for (name, file) in files {
        let own = digest_of_file(&file)?;
        if place.is_file() {
            return Ok(hexadecimal(&own));
        }
        all.update((name.len() as u64).to_le_bytes());
        all.update(name);
        all.update(own);
    }
    Ok(hexadecimal(&all.finalize()))
}

fn digest_of_file(file: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("the data {} cannot be read", file.display());
    let mut open = File::open(file).with_context(cannot)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match open.read(&mut buffer).with_context(cannot)? {
            0 => return Ok(digest.finalize().to_vec()),
            count => digest.update(&buffer[..count]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files at a path and below it.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let cannot = || format!("the data {} cannot be read", path.display());
    let found = path.metadata().with_context(cannot)?;
    if found.is_dir() {
        for entry in path.read_dir().with_context(cannot)? {
            list(&entry.with_context(cannot)?.path(), files)?;
        }
    } else if found.is_file() {
        files.push(path.to_owned());
    } else {
        bail!("the data {} is neither a file nor a folder", path.display());
    }
    Ok(())
}

fn ask_reader(explicit: Option<&Path>) -> Result<Dataset> {
    let harness = launch::own_program().context("cannot find this program's own file")?;
    let output = Command::new(harness)
        .arg(READER_ARG)
        .args(explicit)
        .stdin(Stdio::null())
        .output()
        .context("cannot start the process that reads the data")?;
    if !output.status.success() {
        // The reader's one line is ours.
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}", error.trim_start_matches("error: ").trim_end());
    }
    serde_json::from_slice(&output.stdout).context("the process that reads the data said nonsense")
}

/// What the harness's binary does when its first argument is [`READER_ARG`].
pub fn reader_main() -> ExitCode {
    let explicit = std::env::args_os().nth(2).map(PathBuf::from);
    let said = read(explicit.as_deref()).and_then(|dataset| Ok(serde_json::to_string(&dataset)?));
    match said {
        Ok(line) => {
            println!("{line}");
            ExitCode::from(protocol::exit::SUCCESS)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(protocol::exit::DATA)
        }
    }
}

fn read(explicit: Option<&Path>) -> Result<Dataset> {
    let mut source = mnist::Source::locate(explicit)?;
    let found_by = source.found_by().to_owned();
    if source.directory().is_none() {
        // Trainers in other languages read files.
        source = mnist::Source::open(&mnist::digits::materialise(&cache())?)?;
    }
    let directory = absolute(source.directory().context("the dataset has no folder")?);
    let mut dataset = source.load()?;
    dataset.identify();
    Ok(Dataset {
        directory,
        name: dataset.name,
        sha256: dataset.sha256.context("the dataset has no digest")?,
        found_by,
    })
}

/// The user's cache; without a home, a folder among the system's temporary files.
fn cache() -> PathBuf {
    mnist::cache_directory().unwrap_or_else(|| std::env::temp_dir().join("trainmark"))
}

/// Trainers run in another folder than the harness.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(folder: &Path, data: &str) -> Result<Dataset> {
        let suite = folder.join("suite.toml");
        std::fs::write(
            &suite,
            format!(
                "name = \"s\"\n[task]\nname = \"t\"\n{data}\n[[trainers]]\nname = \"T\"\nprogram = \"p\"\n\
                 command = [\"p\"]\nbackends = [\"cpu\"]\nmodels.m = {{ prefix = \"m\" }}\n"
            ),
        )
        .unwrap();
        prepare(&LoadedSuite::find(Some(&suite))?, None)
    }

    #[test]
    fn the_digest_is_over_names_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (table, other) = (folder.path().join("table"), folder.path().join("other"));
        std::fs::create_dir_all(table.join("deep")).unwrap();
        std::fs::write(table.join("a"), "1").unwrap();
        std::fs::write(table.join("deep/b"), "2").unwrap();
        let first = dataset(folder.path(), "data = \"table\"").unwrap();
        assert_eq!(
            (first.name.as_str(), first.directory.file_name().unwrap()),
            ("t", "table".as_ref())
        );
        std::fs::rename(&table, &other).unwrap();
        let moved = dataset(folder.path(), "data = \"other\"").unwrap();
        assert_eq!(first.sha256, moved.sha256);
        let listed = dataset(folder.path(), "data = [\"other/a\", \"other/deep/b\"]").unwrap();
        assert_eq!((&listed.sha256, listed.directory), (&first.sha256, moved.directory));
        std::fs::write(other.join("a"), "2").unwrap();
        assert_ne!(dataset(folder.path(), "data = \"other\"").unwrap().sha256, first.sha256);
        std::fs::write(other.join("a"), "1").unwrap();
        std::fs::rename(other.join("a"), other.join("c")).unwrap();
        assert_ne!(dataset(folder.path(), "data = \"other\"").unwrap().sha256, first.sha256);
    }

    #[test]
    fn the_digest_of_one_file_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("text"), "abc").unwrap();
        let found = dataset(folder.path(), "data = \"text\"").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found.sha256, expected);
    }

    #[test]
    fn no_data_is_none_and_missing_data_names_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(dataset(folder.path(), "").unwrap().given(), None);
        let files = format!(
            "data = \"x.bin\"\nfiles = [{{ url = \"u\", sha256 = \"{}\" }}]",
            "a".repeat(64)
        );
        let missing = dataset(folder.path(), &files).unwrap_err().to_string();
        assert!(missing.contains("x.bin is not there; `trainmark fetch --suite "), "{missing}");
    }
}
