//! Result files, from this machine or another: whatever is accepted survives being written and read
//! again, and every report can be made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use record::folder::{Entry, Folder};
use record::summary::{Options, Summary};
use record::Record;
use report::{bmf, console, export, html, json, markdown, openmetrics, parquet};

fuzz_target!(|bytes: &[u8]| {
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
});

fn made(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
    write(&mut Vec::new()).expect("memory takes everything");
}
