//! What must hold of everything that reads what others wrote, whatever the bytes are. libFuzzer searches for bytes
//! that break it (`fuzz_targets`); so does a test of the workspace, which mutates the corpus and includes this file
//! (`crates/trainmark/tests/report/mutations.rs`).

use flate2::Compression;
use flate2::write::GzEncoder;
use record::Record;
use record::folder::{Entry, Folder};
use record::summary::{Options, Summary};
use report::{bmf, console, export, html, json, markdown, openmetrics, parquet};
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;
use trainmark::facts::Fact;
use trainmark::plan::{self, Places, Selection};
use trainmark::rules::Rules;
use trainmark::suite::{LoadedSuite, Suite};
use trainmark::transcript::Transcript;

static MNIST: LazyLock<Suite> = LazyLock::new(|| LoadedSuite::built_in("mnist").unwrap().suite);

/// IDX files, plain and compressed: no panic, nothing accepted that breaks what the parser promises,
/// and the same bytes mean the same through gzip.
pub fn idx(bytes: &[u8]) {
    let _ = mnist::idx::parse_images_gzip(bytes);
    let _ = mnist::idx::parse_labels_gzip(bytes);

    let images = mnist::idx::parse_images(bytes);
    if let Ok(images) = images {
        assert!(images.len().is_multiple_of(mnist::PIXELS));
    }
    let labels = mnist::idx::parse_labels(bytes);
    if let Ok(labels) = labels {
        assert!(labels.iter().all(|&label| usize::from(label) < mnist::CLASSES));
    }
    if images.is_err() && labels.is_err() {
        return;
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap(); // into memory
    let gzip = gzip.finish().unwrap();
    assert_eq!(mnist::idx::parse_images_gzip(&gzip).ok().as_deref(), images.ok());
    assert_eq!(mnist::idx::parse_labels_gzip(&gzip).ok().as_deref(), labels.ok());
}

/// Suite files: an error or a suite, and of a suite every combination's command and environment.
pub fn suite(text: &str) {
    let suite = match Suite::parse(text, "fuzzed.toml") {
        Ok(suite) => suite,
        Err(error) => {
            let text = format!("{error:#}");
            assert_eq!(text.lines().count(), 1, "an error is one line: {text}");
            return;
        }
    };
    for quick in [false, true] {
        let Ok(cases) = plan::plan(&suite, &Selection { quick, ..Selection::default() }) else {
            continue;
        };
        for case in cases.iter().take(64) {
            let places = Places {
                program: Path::new("program"),
                data: Path::new("data"),
                predictions: Path::new("predictions"),
                allow_software: true,
            };
            if let Ok(words) = plan::command(&suite, case, &places) {
                assert!(!words.is_empty());
            }
            plan::environment(&suite, case);
        }
    }
}

/// Result files, from this machine or another: whatever is accepted survives being written and read
/// again, and every report can be made of it.
pub fn result(bytes: &[u8]) {
    let Ok(record) = Record::parse(bytes) else { return };
    let text = serde_json::to_vec(&record).expect("what was read can be written");
    let again = Record::parse(&text).expect("and read again");
    assert_eq!(text, serde_json::to_vec(&again).expect("and written again"));
    // Twice: two files that say the same are compared with each other.
    let entry = |file: &str| Entry { file: file.to_owned(), record: record.clone() };
    let folder = Folder { entries: vec![entry("a.json"), entry("b.json")], ..Folder::default() };
    let summary = Summary::new(folder, &Options::default()).expect("no reference was named");
    let mut written = Vec::new();
    json::write(&summary, &mut written).expect("memory takes everything");
    serde_json::from_slice::<serde_json::Value>(&written).expect("the report is JSON");
    made(|to| markdown::write(&summary, &[], to));
    made(|to| html::write(&summary, to));
    made(|to| export::csv(&summary, to));
    made(|to| bmf::write(&summary, to));
    made(|to| openmetrics::write(&summary, to));
    made(|to| parquet::write(&summary, to));
    let style = console::Style::default();
    let text = console::summary(&summary, console::Detail { all: true, notes: true }, style);
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(control), "no control characters reach the terminal: {text:?}");
}

fn made(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
    write(&mut Vec::new()).expect("memory takes everything");
}

/// A trainer's output, line by line: events and plain lines, in any order and number.
pub fn event(bytes: &[u8]) {
    let mut said = Transcript::new(MNIST.task(), Rules::default(), None);
    for line in bytes.split(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        if let Some(Ok(event)) = protocol::Event::parse(&line) {
            let again = event.to_string();
            assert!(protocol::Event::parse(&again).is_some_and(|parsed| parsed.is_ok()), "{again}");
        }
        said.line(&line);
    }
    for metric in MNIST.task().metrics.keys() {
        assert!(said.facts.metric(metric).is_none_or(|(_, value)| value.is_finite()));
    }
}

/// MLPerf log lines of a program that nobody here wrote.
pub fn mllog(bytes: &[u8]) {
    let mut said = Transcript::new(MNIST.task(), Rules::default(), None);
    for line in bytes.split(|&byte| byte == b'\n') {
        // The mark is hard to find by chance: half of the lines get it.
        let line = String::from_utf8_lossy(line);
        match line.strip_prefix('!') {
            Some(rest) => said.line(&format!(":::MLLOG {rest}")),
            None => said.line(&line),
        }
    }
    for fact in [Fact::TrainS, Fact::SetupS] {
        if let Some(seconds) = said.facts.value(&fact) {
            assert!(seconds.is_finite() && seconds >= 0.0);
        }
    }
}
