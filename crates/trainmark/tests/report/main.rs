//! `trainmark report` from result files to reports.

// Their study comes back with crates/report: mod browser, command, html, study.
mod contract;
mod export;
mod golden;
mod properties;

use std::path::{Path, PathBuf};
use trainmark::report::{Collection, Options, Summary, console, json, markdown, read};
use trainmark::suite::{BUILT_IN, Suite};

/// A set of result files beside this file.
fn fixtures(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/fixtures").join(set)
}

fn collection(set: &str) -> Collection {
    read::read(&[fixtures(set)], None).unwrap()
}

fn suite() -> Suite {
    Suite::parse(BUILT_IN, "built in").unwrap()
}

/// The summary that `trainmark report` makes without further options.
fn summary(set: &str) -> Summary {
    let suite = suite();
    let options = Options { suite: Some(&suite), ..Options::default() };
    Summary::new(collection(set), &options).unwrap()
}

fn as_json(summary: &Summary) -> String {
    let mut bytes = Vec::new();
    json::write(summary, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn as_markdown(summary: &Summary) -> String {
    let mut bytes = Vec::new();
    markdown::write(summary, &[], &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn as_text(summary: &Summary) -> String {
    console::summary(summary, console::Style::default())
}
