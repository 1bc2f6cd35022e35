//! Whatever is in the files: no panic, no broken table, nothing that reaches the terminal.

use super::{as_json, as_markdown, as_text, fixtures};
use proptest::prelude::*;
use pulldown_cmark::{Event, Options as Extensions, Parser, Tag, TagEnd};
use record::Record;
use record::folder::{Entry, Folder};
use record::summary::{Options, Summary};
use serde_json::{Value, json};
use std::fs;

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) }
}

/// Names out of what breaks formats, and of anything.
pub fn name() -> impl Strategy<Value = String> {
    let hostile = prop::sample::select(vec![
        "|",
        "\\",
        "`",
        "``",
        "*",
        "_",
        "__",
        "~",
        "[",
        "](",
        "![x](y)",
        "<",
        ">",
        "<b>",
        "<!--",
        "-->",
        "&",
        "&lt;",
        "&#124;",
        "$",
        "\n",
        "\r\n",
        "\t",
        " ",
        "\u{1b}[31m",
        "\u{9b}",
        "\0",
        "\u{202e}",
        "\u{200b}",
        "\u{2028}",
        "#",
        "- ",
        "|---|",
        "a",
        "cpu",
        "mlp",
        "é",
        "漢",
        "🦀",
        "http://x.y",
        "\"",
        "'",
        "{",
        "\\|",
        "\\\\|",
        ":-:",
    ]);
    prop_oneof![
        prop::collection::vec(hostile, 0..8).prop_map(|parts| parts.concat()),
        any::<String>(),
    ]
}

prop_compose! {
    pub fn row()(
        names in prop::array::uniform4(name()),
        reason in prop::option::of(name()),
        key in name(),
        value in name(),
        seconds in prop::option::of(prop_oneof![0.0..1e3, Just(0.0), Just(1e308), Just(5e-324)]),
        accuracy in prop::option::of(0.0..100.0),
        status in prop::sample::select(vec!["measured", "not_converged", "failed", "unavailable"]),
        ours in any::<bool>(),
    ) -> Value {
        let [executable, model, backend, timestamp] = names;
        let mut row = json!({
            "executable": executable, "model": model, "backend": backend, "timestamp": timestamp,
            "config": {"epochs": 5, key: value},
            "metrics": {"training_time_seconds": seconds, "peak_memory_mb": seconds,
                        "test_accuracy_percent": accuracy},
        });
        if ours {
            row["schema_version"] = json!(1);
            row["status"] = json!(status);
            row["reason"] = json!(reason);
            row["timing"] = json!({"train_s": seconds});
        }
        row
    }
}

pub fn summary_of(rows: &[Value]) -> Summary {
    let entry = |(index, row): (usize, &Value)| Entry {
        file: format!("{index}.json"),
        record: Record::parse(row.to_string().as_bytes()).unwrap(),
    };
    let entries = rows.iter().enumerate().map(entry).collect();
    Summary::new(Folder { entries, ..Folder::default() }, &Options::default()).unwrap()
}

/// Code that notes of the program's own words have.
const OWN: [&str; 4] =
    ["--repeats 6", "trainmark noise", "trainmark show FILE", "trainmark verify"];

/// Cells of each row of the document's only table, the head first, and what else than text a
/// reader of Markdown sees in them.
fn parsed_table(markdown: &str) -> (Vec<Vec<String>>, Vec<String>) {
    let mut rows = Vec::new();
    let mut strange = Vec::new();
    for event in Parser::new_ext(markdown, Extensions::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::TableHead | Tag::TableRow) => rows.push(Vec::new()),
            Event::Start(Tag::TableCell) => rows.last_mut().unwrap().push(String::new()),
            Event::Text(text) => {
                if let Some(cell) = rows.last_mut().and_then(|row| row.last_mut()) {
                    cell.push_str(&text);
                }
            }
            Event::Code(words) if OWN.contains(&&*words) => {}
            Event::Start(
                Tag::Link { .. }
                | Tag::Image { .. }
                | Tag::CodeBlock(_)
                | Tag::HtmlBlock
                | Tag::Emphasis,
            )
            | Event::Html(_)
            | Event::InlineHtml(_)
            | Event::Code(_)
            | Event::SoftBreak
            | Event::HardBreak => strange.push(format!("{event:?}")),
            Event::End(TagEnd::Table) => {
                // What follows is not the table's.
                rows.push(vec![String::new()]);
            }
            _ => {}
        }
    }
    rows.pop();
    (rows, strange)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_report_prints_a_number_that_is_none(
        seconds in prop::collection::vec(
            prop::sample::select(vec![0.2, 1.0, 1e308, 1.7e308, 1e-300, 5e-324]), 2..6),
    ) {
        let row = |(index, seconds): (usize, &f64)| json!({
            "executable": "e", "model": "m", "backend": format!("b{index}"), "schema_version": 1,
            "status": "measured", "timing": {"train_s": seconds, "wall_s": seconds},
            "metrics": {"training_time_seconds": seconds, "peak_memory_mb": seconds,
                        "test_accuracy_percent": 95.0},
        });
        let summary = summary_of(&seconds.iter().enumerate().map(row).collect::<Vec<_>>());
        for text in [as_text(&summary), as_markdown(&summary), as_json(&summary)] {
            let mut words = text.split(|c: char| !c.is_alphanumeric());
            let none = words.find(|word| ["inf", "infx", "NaN", "NaNx"].contains(word));
            prop_assert_eq!(none, None, "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_a_result_or_a_reason(bytes in any::<Vec<u8>>()) {
        let reason = Record::parse(&bytes).unwrap_err().to_string();
        prop_assert!(!reason.is_empty() && !reason.contains('\n'));
    }

    #[test]
    fn any_damage_to_a_result_file_is_a_result_or_a_reason(
        at in any::<prop::sample::Index>(),
        length in 0..40usize,
        with in prop_oneof![
            any::<Vec<u8>>(),
            prop::sample::select(vec!["null", "1e309", "-0.0", "[]", "{}", "\"", "\\", "\\ud800", "}"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ],
    ) {
        let path = fixtures("run").join("classic_cpu_h512_20261124_101500.json");
        let mut bytes = fs::read(path).unwrap();
        let start = at.index(bytes.len());
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, with);
        match Record::parse(&bytes) {
            Err(reason) => prop_assert!(!reason.to_string().is_empty()),
            Ok(record) => {
                let summary = Summary::new(vec![record].into(), &Options::default()).unwrap();
                let report: Value = serde_json::from_str(&as_json(&summary)).unwrap();
                prop_assert_eq!(&report["summary"]["total_benchmarks"], &json!(1));
                as_markdown(&summary);
                as_text(&summary);
            }
        }
    }

    #[test]
    fn any_names_leave_the_markdown_table_whole(rows in prop::collection::vec(row(), 1..5)) {
        let summary = summary_of(&rows);
        let markdown = as_markdown(&summary);
        let (table, strange) = parsed_table(&markdown);
        prop_assert_eq!(&strange, &[""; 0], "{}", markdown);
        // What this machine lacks is a line below the table.
        let there = rows.iter().filter(|row| row["status"] != "unavailable").count();
        prop_assert_eq!(table.len(), there + 1, "{}", markdown);
        let columns = table[0].len();
        prop_assert!(table.iter().all(|row| row.len() == columns), "{}", markdown);
        prop_assert_eq!(&table[0][..2], &["Model", "Backend"]);
        // A plain splitter at bars sees the same number of cells as a parser.
        let lines: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
        prop_assert_eq!(lines.len(), there + 2);
        for line in lines {
            let bars = line.replace("\\|", "").matches('|').count();
            prop_assert_eq!(bars, columns + 1, "{}", line);
        }
    }

    #[test]
    fn a_visible_name_reads_in_markdown_as_it_is(
        name in "[a-zA-Z0-9_|*`<>&\\\\\\[\\]()~$#!.,:;+=-]{1,20}",
    ) {
        let mut row = json!({"executable": "e", "model": "m", "backend": "b", "metrics": {}});
        row["model"] = json!(name);
        let markdown = as_markdown(&summary_of(&[row]));
        // What is not seen keeps a name from mentioning anybody.
        let read = parsed_table(&markdown).0[1][0].replace('\u{200b}', "");
        prop_assert_eq!(&read, &name, "{}", markdown);
    }

    #[test]
    fn any_names_come_back_from_the_json_report(rows in prop::collection::vec(row(), 1..5)) {
        let report: Value = serde_json::from_str(&as_json(&summary_of(&rows))).unwrap();
        let results = report["results"].as_array().unwrap();
        prop_assert_eq!(results.len(), rows.len());
        for result in results {
            let index: usize = result["file"].as_str().unwrap().trim_end_matches(".json").parse().unwrap();
            for key in ["executable", "model", "backend", "timestamp"] {
                prop_assert_eq!(&result[key], &rows[index][key]);
            }
            // 0 MB are not measured.
            let written = rows[index]["metrics"]["peak_memory_mb"].as_f64();
            prop_assert_eq!(result["peak_memory_mb"].as_f64(), written.filter(|it| *it > 0.0));
        }
    }

    #[test]
    fn nothing_in_a_name_reaches_the_terminal(rows in prop::collection::vec(row(), 1..5)) {
        let text = as_text(&summary_of(&rows));
        let command = text.chars().find(|&c| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)));
        prop_assert_eq!(command, None, "{}", text);
    }
}
