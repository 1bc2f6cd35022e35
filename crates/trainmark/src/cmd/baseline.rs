//! `trainmark baseline`: keeps sets of result files under a name, beside the user's other data.

use crate::cmd::report::print;
use anyhow::{Context, Result, bail};
use directories::BaseDirs;
use files::Kind;
use measure::scratch::Scratch;
use record::name::file_nearby;
use record::number::count;
use record::verification::FILE;
use std::path::{Path, PathBuf};

/// Keep sets of result files under a name, to compare with.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Keep a copy of a folder's result files under a name
    Save {
        name: String,
        /// Folder with result files
        #[arg(long, value_name = "DIR", default_value = "benchmarks")]
        input: PathBuf,
    },
    /// List the baselines
    List,
    /// Remove a baseline
    Rm { name: String },
}

/// Runs the verb.
///
/// # Errors
/// If there is no such folder or name, or the name is taken.
pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Save { name, input } => save(&name, &input),
        Verb::List => {
            let names = names();
            if names.is_empty() {
                eprintln!(
                    "There is no baseline yet; `trainmark baseline save NAME` keeps benchmarks/ as one"
                );
            }
            print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())
        }
        Verb::Rm { name } => {
            let folder = folder(Path::new(&name)).with_context(|| unknown(&name, "baseline"))?;
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())
        }
    }
}

/// The message for a baseline that does not exist.
pub fn unknown(name: &str, kind: &str) -> String {
    let names = names();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let text = record::name::unknown("", kind, name, &known, "trainmark baseline list");
    match plain(name) {
        Some(name) => format!("{text}; `trainmark baseline save {name}` keeps benchmarks/ as one"),
        None => text,
    }
}

/// The folder of the baseline with this name, if there is one.
pub fn folder(name: &Path) -> Option<PathBuf> {
    let (home, names) = (home()?, names());
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let folder = home.join(record::name::meant(plain(name.to_str()?)?, &known)?);
    folder.is_dir().then_some(folder)
}

/// The folder of all baselines. It is not in the cache, because baselines cannot be made again.
fn home() -> Option<PathBuf> {
    Some(BaseDirs::new()?.data_dir().join("trainmark").join("baselines"))
}

/// The name, if it is a plain name and not a path.
fn plain(name: &str) -> Option<&str> {
    let letter = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    (!name.is_empty() && !name.starts_with('.') && name.chars().all(letter)).then_some(name)
}

fn save(name: &str, input: &Path) -> Result<()> {
    let name = plain(name).with_context(|| {
        format!("{name}: the name of a baseline has only letters, digits, '-', '_' and '.'")
    })?;
    let home = home().context("there is no home directory to keep baselines in")?;
    let target = home.join(name);
    if target.exists() {
        bail!("{name}: this baseline exists already; `trainmark baseline rm {name}` removes it");
    }
    let entries = std::fs::read_dir(input).with_context(|| {
        let (folder, nearby) = (input.display(), file_nearby(input));
        format!("--input {folder}: no folder with result files{nearby}; `trainmark run` makes one")
    })?;
    let paths = entries.flatten().map(|entry| entry.path());
    let json = |path: &PathBuf| path.extension().is_some_and(|it| it == "json") && path.is_file();
    let paths: Vec<PathBuf> = paths.filter(json).collect();
    if paths.is_empty() {
        bail!(
            "--input {}: there is no .json file to keep; `trainmark run` writes result files",
            input.display()
        );
    }
    // Whole or not at all: copied aside, then renamed.
    std::fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let scratch = Scratch::new_in(home.parent().unwrap_or(&home))?;
    let fresh = scratch.path();
    for file in &paths {
        let hint = || file.display().to_string();
        let name = file.file_name().unwrap_or_default();
        let kind = if name == FILE { Kind::VERIFICATION } else { Kind::RESULT };
        let bytes = files::read(file, kind).with_context(hint)?;
        files::create_new(&fresh.join(name), &bytes).with_context(hint)?;
    }
    std::fs::rename(fresh, &target).with_context(|| target.display().to_string())?;
    let kept = count(paths.len(), "file");
    print(&format!("{kept} kept as {name}; compare with: trainmark compare {name} DIR\n"))
}

fn names() -> Vec<String> {
    let entries = home().and_then(|home| home.read_dir().ok()).into_iter().flatten().flatten();
    let names = entries.filter_map(|it| it.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| plain(name).is_some()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        assert_eq!(plain("main-2026.1"), Some("main-2026.1"));
        for name in ["", "..", "a/b", "/etc", ".hidden", "a b"] {
            assert_eq!(plain(name), None, "{name}");
        }
    }
}
