//! Locked Python environments: `python -m venv`, then `pip install --require-hashes`. In the place of one may be
//! a script that starts a Python of the user's own, with the packages that it has.

use super::runner::Unavailable;
use super::stamp::Stamp;
use anyhow::{Context, Result};
use measure::helper::{LONG_PATIENCE, ask};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Puts a script in the environment's place that starts another Python. A link would not do: a Python finds the
/// packages of its own environment by the path that it is started from.
///
/// # Errors
/// If it cannot be written.
pub fn refer(place: &Path, python: &Path) -> io::Result<()> {
    let script = python_in(place);
    std::fs::create_dir_all(place.join("bin"))?;
    let python = shlex::try_quote(&text(python)).map_err(io::Error::other)?.into_owned();
    files::replace(&script, format!("#!/bin/sh\nexec {python} \"$@\"\n").as_bytes())?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// The packages that a Python has, with their versions, a line each.
///
/// # Errors
/// If it does not start, does not know, or does not answer.
pub fn packages(python: &Path) -> io::Result<Vec<u8>> {
    let script = "from importlib.metadata import distributions as all\n\
                  print(*sorted(f\"{it.name}=={it.version}\" for it in all()), sep='\\n')";
    let output = ask(Command::new(python).args(["-c", script]), LONG_PATIENCE)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Whether there is an environment that can be gone on with.
pub fn works(place: &Path) -> bool {
    answers(python_in(place).as_os_str(), OLDEST)
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
    environment.join("bin").join("python")
}

/// The first Python that is new enough and can make environments.
///
/// # Errors
/// [`Unavailable`] if there is none.
pub fn find(oldest: Option<&str>) -> Result<PathBuf> {
    let oldest = oldest.unwrap_or(OLDEST);
    let candidates = match chosen() {
        Some(choice) => vec![choice],
        None => CANDIDATES.map(OsString::from).to_vec(),
    };
    let found = candidates.iter().find(|candidate| answers(candidate, oldest));
    found.map(PathBuf::from).with_context(|| {
        let tried: Vec<_> = candidates.iter().map(|it| it.to_string_lossy()).collect();
        Unavailable(format!(
            "it needs Python {oldest} or newer with its venv module, and none of these is: {}; \
             on Debian: apt-get install python3-venv; ${CHOICE} names another Python",
            tried.join(", ")
        ))
    })
}

/// Whether a Python is new enough and can make environments.
fn answers(python: &OsStr, oldest: &str) -> bool {
    let script = "import ensurepip, sys, venv\n\
                  sys.exit(sys.version_info < tuple(map(int, sys.argv[1].split('.'))))";
    let mut command = Command::new(python);
    // Isolated: a module of the current folder is not the standard library's.
    command.args(["-I", "-c", script, oldest]);
    ask(&mut command, LONG_PATIENCE).is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_that_is_too_old_or_not_there_is_not_taken() {
        let python = OsStr::new("python3");
        assert!(!answers(python, "99.1") && !answers(OsStr::new("no-such-python"), "3.8"));
        // Versions are compared as numbers.
        let is_there = Command::new(python).args(["-c", "import ensurepip, venv"]).output();
        if is_there.is_ok_and(|output| output.status.success()) {
            assert!(answers(python, "3.4") && !answers(python, "3.100"));
        }
    }
}
