//! Whole reports, as committed.

use super::{as_json, as_markdown, as_text, study, summary, summary_with};
use record::Summary;
use record::summary::Options;
use report::console::{self, Detail, Style};

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
    let style = Style { color: true, ..Style::default() };
    let text = console::summary(&summary("run"), Detail::default(), style);
    insta::assert_snapshot!(text.replace('\u{1b}', "ESC"));
}

/// As a terminal of that width shows it: no line is wider, and no word of a label is broken.
fn screen(summary: &Summary, width: u16) -> String {
    let text = console::summary(summary, Detail::default(), Style { width, color: false });
    for line in text.lines() {
        assert!(report::text::width(line) <= width.into(), "{width} columns: {line:?}");
    }
    text
}

#[test]
fn the_screen_of_the_study_at_every_width() {
    let summary = study::summary_of(&study::files());
    for width in [40, 80, 120, 200, 300] {
        let text = screen(&summary, width);
        for word in
            ["MNISTClassic", "PyTorch", "crashed", "converged", "Not on this machine:", "slower"]
        {
            assert!(text.contains(word), "{width} columns, {word}: {text}");
        }
        let mut ratios = text.split_whitespace().filter_map(|word| word.strip_suffix('x'));
        let below_one =
            ratios.find(|it| it.trim_start_matches('~').parse::<f64>().is_ok_and(|it| it < 1.0));
        assert_eq!(below_one, None, "{width} columns: {text}");
        if width != 300 {
            insta::assert_snapshot!(format!("screen_at_{width}"), text);
        }
    }
}

#[test]
fn with_every_note_in_full_a_failure_is_still_said_once() {
    let all = Detail { notes: true, ..Detail::default() };
    let style = Style { width: 120, color: false };
    let text = console::summary(&study::summary_of(&study::files()), all, style);
    for words in [": crashed: ", "Not on this machine:"] {
        assert_eq!(text.matches(words).count(), 1, "{text}");
    }
}

#[test]
fn a_status_of_two_short_words_stays_on_one_line() {
    for status in [record::Status::NotStarted, record::Status::NoQuality] {
        let mut files = study::files();
        let row = files.iter_mut().find(|file| file.status == record::Status::Crashed).unwrap();
        (row.status, row.samples[0].status) = (status, status);
        let text = screen(&study::summary_of(&files), 80);
        let table = text.lines().filter(|line| !line.contains(':'));
        assert!(table.clone().any(|line| line.contains(status.words())), "{text}");
    }
}

#[test]
fn the_screen_of_one_trainer_has_a_line_for_what_is_missing() {
    for width in [40, 80] {
        insta::assert_snapshot!(
            format!("screen_of_one_run_at_{width}"),
            screen(&summary("run"), width)
        );
    }
    let all = Detail { all: true, ..Detail::default() };
    let text = console::summary(&summary("run"), all, Style { width: 120, color: false });
    assert!(text.contains("unavailable") && !text.contains("Not on this machine"), "{text}");
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
fn markdown_of_the_newest_rows_against_another_reference() {
    let reference = Some("MNISTClassic/cuda".parse().unwrap());
    let options = Options { latest: true, reference, ..Options::default() };
    insta::assert_snapshot!(as_markdown(&summary_with("mixed", options)));
}
