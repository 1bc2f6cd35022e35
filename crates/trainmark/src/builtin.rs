//! The suites and tasks that come with the program, and the sources of the trainers that they name. A suite whose trainers
//! have sources is unpacked into the user's data folder before it is used; `trainmark setup` makes its
//! environments there too.

use directories::BaseDirs;
use std::io;
use std::path::{Path, PathBuf};

/// Paths as in a checkout, with their contents.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// Where a checkout has its suites.
const SUITES: &str = "suites/";
/// Where it has its tasks.
const TASKS: &str = "tasks/";

/// All suites by name, in the order of the alphabet.
pub fn suites() -> impl Iterator<Item = (&'static str, &'static str)> {
    named(SUITES)
}

/// All tasks by name.
pub fn tasks() -> impl Iterator<Item = (&'static str, &'static str)> {
    named(TASKS)
}

fn named(folder: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(move |(path, contents)| {
        let name = path.strip_prefix(folder)?.strip_suffix(".toml")?;
        Some((name, std::str::from_utf8(contents).ok()?))
    })
}

/// The name of a suite as it is written, whatever the case, with its text.
pub fn suite(name: &str) -> Option<(&'static str, &'static str)> {
    suites().find(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// The same suite's file in a checkout that the current folder is in.
pub fn in_checkout(name: &str) -> Option<PathBuf> {
    let current = std::env::current_dir().ok()?;
    let file = format!("{SUITES}{name}.toml");
    let sources = |folder: &&Path| folder.join("crates/trainmark/Cargo.toml").is_file();
    current.ancestors().find(sources).map(|folder| folder.join(file)).filter(|it| it.is_file())
}

/// Writes every file that is not there as it should be, and says where they are.
///
/// # Errors
/// If the user has no data folder, or a file cannot be written.
pub fn unpack() -> io::Result<PathBuf> {
    let none = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "there is no home directory to unpack the built-in files into",
        )
    };
    let root = BaseDirs::new().ok_or_else(none)?.data_dir().join("trainmark").join("built-in");
    for (path, contents) in FILES {
        let file = root.join(path);
        if std::fs::read(&file).is_ok_and(|there| there == *contents) {
            continue;
        }
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
        std::fs::create_dir_all(file.parent().unwrap_or(&root)).map_err(named)?;
        files::replace(&file, contents).map_err(named)?;
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Suite;

    #[test]
    fn every_suite_of_the_repository_is_in_the_program_and_begins_with_what_it_is_for() {
        let names: Vec<&str> = suites().map(|(name, _)| name).collect();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../suites");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut expected: Vec<_> =
            files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        expected.sort();
        assert_eq!(names, expected);
        for (name, text) in suites() {
            Suite::parse(text, name).unwrap();
            assert!(text.starts_with("# "), "{name}");
        }
        assert_eq!(suite("Frameworks").unwrap().0, "frameworks");
    }

    #[test]
    fn what_a_built_in_suite_names_is_in_the_program_unless_it_is_a_crate() {
        let has = |path: &str| FILES.iter().any(|(known, _)| known.starts_with(path));
        for (name, text) in suites() {
            for word in text.split(['"', ' ']).filter(|word| word.starts_with("implementations/")) {
                let of_a_crate = ["candle", "burn", "rust"]
                    .iter()
                    .any(|folder| word.starts_with(&format!("implementations/{folder}")));
                assert!(has(word) != of_a_crate, "{name}: {word}");
            }
        }
    }
}
