//! Locked Python environments: `python -m venv`, then `pip install --require-hashes`.

use super::runner::SetupError;
use super::stamp::Stamp;
use measure::launch::withhold;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the Python that environments are made with.
const CHOICE: &str = "TRAINMARK_PYTHON";
/// For suites that do not say.
const OLDEST: &str = "3.9";
/// Tried in this order without a choice: the newest has the newest frameworks.
const CANDIDATES: [&str; 5] = ["python3.14", "python3.13", "python3.12", "python3.11", "python3"];

/// The words that make an environment.
pub fn make(python: &Path, place: &Path) -> Vec<String> {
    [text(python), "-m".into(), "venv".into(), text(place)].to_vec()
}

/// The words that install a lock into it. The lock is complete: nothing that it does not name is ever
/// installed, and nothing is built.
pub fn install(place: &Path, lock: &Path) -> Vec<String> {
    let pip = "-m pip install --require-hashes --no-deps --only-binary=:all: --no-input \
               --disable-pip-version-check --progress-bar=off -r";
    let mut words = vec![text(&python_in(place))];
    words.extend(pip.split(' ').map(str::to_owned));
    words.push(text(lock));
    words
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Whether there is an environment that can be gone on with.
pub fn works(place: &Path) -> bool {
    answers(python_in(place).as_os_str()).is_some()
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

fn candidates() -> Vec<OsString> {
    match chosen() {
        Some(choice) => vec![choice],
        None => CANDIDATES.map(OsString::from).to_vec(),
    }
}

/// The first Python that is new enough and can make environments.
///
/// # Errors
/// [`SetupError::Unavailable`] if there is none.
pub fn find(oldest: Option<&str>) -> Result<PathBuf, SetupError> {
    let oldest = oldest.unwrap_or(OLDEST);
    let mut found = Vec::new();
    for candidate in candidates() {
        if let Some(version) = answers(&candidate) {
            if number(&version) >= number(oldest) {
                return Ok(candidate.into());
            }
            found.push(format!("{} is {version}", candidate.display()));
        }
    }
    let found = match (found.is_empty(), chosen()) {
        (false, _) => found.join(", "),
        (true, Some(choice)) => format!("${CHOICE}, {}, cannot be used", choice.display()),
        (true, None) => "none was found".to_owned(),
    };
    Err(SetupError::Unavailable(format!(
        "it needs Python {oldest} or newer with its venv module ({found}); \
         on Debian: apt-get install python3-venv; ${CHOICE} names another Python"
    )))
}

/// The version of a Python that can make environments; `None` if it does not start or cannot.
fn answers(python: &std::ffi::OsStr) -> Option<String> {
    let script = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])";
    let output = withhold(&mut Command::new(python))
        // Isolated: a module of the current folder is not the standard library's.
        .args(["-I", "-c", script])
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
