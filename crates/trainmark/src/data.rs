//! The dataset of a run: found, checked and named once, before any combination.
//!
//! Reading all of it takes some 60 MB, which the harness then would hold on to while it measures
//! others. So the harness executes itself once more ([`READER_ARG`]) and that process reads, hashes,
//! draws the digits where there is no data, says what it found in one line, and ends.

use crate::launch;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The first argument that turns the harness's binary into the reader.
pub const READER_ARG: &str = "__read-data";

/// A dataset that has been read and checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// The folder that holds the four files.
    pub directory: PathBuf,
    /// `mnist` and `digits` only if the bytes are theirs.
    pub name: String,
    pub sha256: String,
    /// What led to it, in words.
    pub found_by: String,
    /// Labels of the test set, for scoring.
    pub test_labels: Vec<u8>,
}

/// For the head of a run.
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} ({})", self.name, self.directory.display(), self.found_by)
    }
}

/// Finds, reads and checks the dataset; the value of `--data`, if there was one, is `explicit`.
///
/// # Errors
/// If there is no dataset where the user says, or if it is damaged.
pub fn prepare(explicit: Option<&Path>) -> Result<Dataset> {
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

/// What `--data` would have to be: nothing is read or drawn.
///
/// # Errors
/// If there is no dataset where the user says.
pub fn place(explicit: Option<&Path>) -> Result<PathBuf> {
    let source = mnist::Source::locate(explicit)?;
    Ok(source.directory().map_or_else(|| mnist::EMBEDDED.into(), absolute))
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
        test_labels: dataset.test.labels().to_vec(),
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
