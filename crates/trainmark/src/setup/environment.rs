//! Locked Python environments: `python -m venv`, then `pip install --require-hashes`.

use super::stamp::Stamp;
use super::{Runner, SetupError};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the Python that environments are made with.
const CHOICE: &str = "TRAINMARK_PYTHON";
/// Tried in this order without a choice: the newest has the newest frameworks.
const CANDIDATES: [&str; 5] = ["python3.14", "python3.13", "python3.12", "python3.11", "python3"];

/// Installs a lock into an environment and returns the Python that it was made with. What an
/// interrupted installation of the same lock left there is used (`continues`); anything else is
/// removed first.
///
/// # Errors
/// [`SetupError::Unavailable`] if there is no suitable Python, or no wheel for this machine.
pub fn make(
    place: &Path,
    lock: &Path,
    oldest: Option<&str>,
    continues: bool,
    runner: &Runner,
    say: &mut dyn FnMut(&str),
) -> Result<PathBuf, SetupError> {
    let base = find(oldest)?;
    let python = python_in(place);
    if !(continues && answers(python.as_os_str()).is_some()) {
        if place.exists() {
            fs::remove_dir_all(place).map_err(|error| {
                SetupError::Failed(format!("cannot remove {}: {error}", place.display()))
            })?;
        }
        say(&format!("making {} with {}", place.display(), base.display()));
        let text = |path: &Path| path.display().to_string();
        runner.run(&[text(&base), "-m".into(), "venv".into(), text(place)])?;
    }
    say(&format!("installing {}", lock.display()));
    let words = [
        // The lock is complete: nothing that it does not name is ever installed, and nothing is built.
        &python.display().to_string(),
        "-m",
        "pip",
        "install",
        "--require-hashes",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "-r",
        &lock.display().to_string(),
    ];
    runner.run(&words.map(str::to_owned))?;
    Ok(base)
}

/// Whether the user has not chosen another Python since.
pub fn is_of_the_chosen_python(stamp: &Stamp) -> bool {
    match (&stamp.python, chosen()) {
        (Some(python), Some(chosen)) => Path::new(&chosen) == python,
        _ => true,
    }
}

fn chosen() -> Option<OsString> {
    std::env::var_os(CHOICE).filter(|choice| !choice.is_empty())
}

/// Where an environment's interpreter is.
fn python_in(environment: &Path) -> PathBuf {
    match cfg!(windows) {
        true => environment.join("Scripts").join("python.exe"),
        false => environment.join("bin").join("python"),
    }
}

fn find(oldest: Option<&str>) -> Result<PathBuf, SetupError> {
    let oldest = oldest.unwrap_or("3.9");
    let choice = chosen();
    let candidates: Vec<OsString> = match &choice {
        Some(choice) => vec![choice.clone()],
        None => CANDIDATES.map(OsString::from).to_vec(),
    };
    let mut found = Vec::new();
    for candidate in candidates {
        if let Some(version) = answers(&candidate) {
            if number(&version) >= number(oldest) {
                return Ok(candidate.into());
            }
            found.push(format!("{} is {version}", candidate.display()));
        }
    }
    let found = match (found.is_empty(), &choice) {
        (false, _) => found.join(", "),
        (true, Some(choice)) => format!("${CHOICE}, {}, does not answer", choice.display()),
        (true, None) => "none was found".to_owned(),
    };
    Err(SetupError::Unavailable(format!(
        "it needs Python {oldest} or newer with its venv module ({found}); \
         on Debian: apt-get install python3-venv; ${CHOICE} chooses one"
    )))
}

/// The version of a Python that can make environments; `None` if it does not start or cannot.
fn answers(python: &std::ffi::OsStr) -> Option<String> {
    let script = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])";
    let output = Command::new(python)
        .args(["-c", script])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && number(&version).is_some()).then_some(version)
}

/// `3.11` as (3, 11).
fn number(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(number("3.11") > number("3.9"));
        assert_eq!(number("three"), None);
    }
}
