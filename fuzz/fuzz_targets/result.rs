//! Result files, from this machine or another: whatever is accepted survives being written and read
//! again, and every report can be made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trainmark::report::{
    Collection, Options, Summary, bmf, console, csv, html, json, jsonl, markdown, mlperf, openmetrics,
    parquet,
};
use trainmark::report::old_result::ResultFile;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(result) = serde_json::from_slice::<ResultFile>(bytes) {
        let text = serde_json::to_vec(&result).expect("what was read can be written");
        let again: ResultFile = serde_json::from_slice(&text).expect("and read again");
        let text_again = serde_json::to_vec(&again).expect("and written again");
        assert_eq!(text, text_again);
    }
    let mut collection = Collection::default();
    // Twice: two files that say the same are compared with each other.
    for name in ["a.json", "b.json"] {
        if collection.add_bytes(name, bytes).is_err() {
            return;
        }
    }
    let summary = Summary::new(collection, &Options::default()).expect("no reference was named");
    let mut written = Vec::new();
    json::write(&summary, &mut written).expect("memory takes everything");
    serde_json::from_slice::<serde_json::Value>(&written).expect("the report is JSON");
    written.clear();
    markdown::write(&summary, &[], &mut written).expect("memory takes everything");
    made(|to| html::write(&summary, to));
    made(|to| csv::write(&summary, to));
    made(|to| jsonl::write(&summary, to));
    made(|to| bmf::write(&summary, to));
    made(|to| mlperf::write(&summary, to));
    made(|to| openmetrics::write(&summary, to));
    made(|to| parquet::write(&summary, to));
    let style = console::Style::default();
    let text = console::summary(&summary, style) + &console::table(&summary, style);
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(control), "no control characters reach the terminal: {text:?}");
});

fn made(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
    write(&mut Vec::new()).expect("memory takes everything");
}
