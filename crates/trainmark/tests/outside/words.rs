//! The harness knows no task, model or data by name: what is said of them stands in files of tasks and suites.

use std::path::{Path, PathBuf};

const CRATES: [&str; 6] = ["record", "measure", "files", "report", "trainmark", "protocol"];
/// Of tasks and models that come with the program.
const WORDS: [&str; 7] = [
    "mnist",
    "\"digits\"",
    "`digits`",
    "shakespeare",
    "hidden_size",
    "d_model",
    "accuracy_percent",
];
/// Where one may stand, and why.
const ALLOWED: [(&str, &str, &str); 4] = [
    ("record/src/old.rs", "", "reads files of the specification and of schema version 1"),
    ("protocol/src/event.rs", "accuracy_percent", "a key of protocol 1"),
    ("trainmark/src/transcript.rs", "accuracy_percent", "takes that key as the quality"),
    ("trainmark/src/cmd/what.rs", "hidden_size", "`--hidden` is the specification's"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|it| it == "rs") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn no_code_of_the_harness_names_a_task_a_model_or_data() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    CRATES.iter().for_each(|name| sources(&crates.join(name).join("src"), &mut files));
    assert!(files.len() > 100, "{} files", files.len());
    let mut strays = Vec::new();
    for file in files {
        let name = file.strip_prefix(crates).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests stand at the end of their files.
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let lower = line.to_lowercase();
            let word = WORDS.iter().find(|word| lower.contains(**word));
            let allowed = |word: &str| {
                ALLOWED.iter().any(|it| it.0 == name && (it.1.is_empty() || it.1 == word))
            };
            if let Some(word) = word.filter(|word| !allowed(word)) {
                strays.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    assert!(strays.is_empty(), "these belong into the file of a task: {strays:#?}");
}
