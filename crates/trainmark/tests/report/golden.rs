//! Whole reports, as committed.

use super::{as_json, as_markdown, as_text, summary, summary_with};
use record::summary::Options;
use report::console::{self, Style};

/// The version changes with every release; the reports must not.
fn without_version(json: &str) -> String {
    json.replace(concat!("trainmark ", env!("CARGO_PKG_VERSION")), "trainmark VERSION")
}

#[test]
fn the_specifications_files_give_the_specifications_markdown() {
    let expected = "\
# Benchmark Report

## Summary

- **Total Benchmarks:** 2
- **Models:** mlp
- **Backends:** cpu, mps

### Configuration

- **Epochs:** 5
- **Batch Size:** 32
- **Hidden Size:** 512
- **Seed:** 42

## Results

| Model | Backend | Training Time (s) | Peak Memory (MB) | Test Accuracy (%) |
|-------|---------|-------------------|------------------|-------------------|
| mlp   | cpu     | 123.45            | 256.78           | 95.67             |
| mlp   | mps     | 45.67             | 289.12           | 95.89             |
";
    assert_eq!(as_markdown(&summary("specification")), expected);
}

#[test]
fn json_of_the_specifications_files() {
    insta::assert_snapshot!(without_version(&as_json(&summary("specification"))));
}

#[test]
fn console_of_the_specifications_files() {
    insta::assert_snapshot!(as_text(&summary("specification")));
}

#[test]
fn json_of_one_run() {
    insta::assert_snapshot!(without_version(&as_json(&summary("run"))));
}

#[test]
fn markdown_of_one_run() {
    insta::assert_snapshot!(as_markdown(&summary("run")));
}

#[test]
fn console_of_one_run() {
    insta::assert_snapshot!(as_text(&summary("run")));
}

#[test]
fn console_of_one_run_in_colour() {
    let table = console::table(&summary("run"), Style { color: true, ..Style::default() });
    insta::assert_snapshot!(table.replace('\u{1b}', "ESC"));
}

#[test]
fn json_of_many_runs_with_hostile_names() {
    insta::assert_snapshot!(without_version(&as_json(&summary("mixed"))));
}

#[test]
fn markdown_of_many_runs_with_hostile_names() {
    insta::assert_snapshot!(as_markdown(&summary("mixed")));
}

#[test]
fn console_of_many_runs_with_hostile_names() {
    insta::assert_snapshot!(as_text(&summary("mixed")));
}

#[test]
fn console_of_many_runs_on_a_wide_terminal() {
    insta::assert_snapshot!(console::table(
        &summary("mixed"),
        Style { width: 200, ..Style::default() }
    ));
}

#[test]
fn markdown_of_the_newest_rows_against_another_reference() {
    let reference = Some("MNISTClassic/cuda".parse().unwrap());
    let options = Options { latest: true, reference, ..Options::default() };
    insta::assert_snapshot!(as_markdown(&summary_with("mixed", options)));
}
