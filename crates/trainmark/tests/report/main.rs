//! `trainmark report` from result files to reports.

mod browser;
mod command;
mod contract;
mod export;
mod golden;
mod html;
mod mutations;
mod properties;
mod study;

use record::Record;
use record::folder::{self, Folder};
use record::summary::{Options, Summary};
use report::{console, json, markdown};
use std::path::{Path, PathBuf};
use trainmark::suite::LoadedSuite;

/// A set of result files beside this file.
fn fixtures(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/fixtures").join(set)
}

fn read(set: &str) -> Folder {
    folder::read(&[fixtures(set)], None).unwrap()
}

/// The summary that `trainmark report` makes, with further options.
fn summary_with(set: &str, options: Options) -> Summary {
    let suite = LoadedSuite::built_in("mnist").unwrap().suite;
    let mut folder = read(set);
    folder.hold_to(&|record: &Record| {
        suite.targets(&record.model, Some("mnist"), &record.config).into_iter().next()
    });
    Summary::new(folder, &options).unwrap()
}

/// The summary that it makes without.
fn summary(set: &str) -> Summary {
    summary_with(set, Options::default())
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
    let detail = console::Detail { notes: true, ..console::Detail::default() };
    console::summary(summary, detail, console::Style { width: 120, color: false })
}
