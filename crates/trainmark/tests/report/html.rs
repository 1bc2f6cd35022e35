//! The HTML report and the charts, without a browser: what is in them, and what can never be.

use super::study::{self, summary_of};
use html5gum::{Token, Tokenizer};
use proptest::prelude::*;
use record::{Record, Sample, Summary, Timing};
use report::{Exhibit, chart, html};
use serde_json::Value;
use std::collections::BTreeSet;

pub fn as_html(summary: &Summary) -> String {
    let mut bytes = Vec::new();
    html::write(summary, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Rows of the table of results, without its head.
fn rows_of(page: &str) -> usize {
    let (_, table) = page.split_once("id=\"results-table\"").unwrap();
    table.split_once("</table>").unwrap().0.matches("<tr").count() - 1
}

/// The page of the history of two rows over 24 runs, of which one becomes slower.
pub fn history_page() -> String {
    let mut files = Vec::new();
    for run in 0..24u32 {
        for row in study::rows().iter().filter(|row| row.backend == "cpu" && row.hidden == 256) {
            let mut file = study::file(row);
            let slower = if run >= 14 && row.executable == "PyTorch" { 1.4 } else { 1.0 };
            let jitter = 1.0 + 0.01 * f64::from(run * 7 % 5);
            file.timing.train_s = file.timing.train_s.map(|it| it * slower * jitter);
            file.timestamp = format!("202611{:02}_101500", run + 1);
            let known = file.run.as_mut().unwrap();
            known.id = format!("run {run}");
            known.started = format!("2026-11-{:02}T10:15:00Z", run + 1);
            known.git_commit = Some(format!("{:07x}", 0x6d_8ca6d + run));
            files.push(file);
        }
    }
    let summary = summary_of(&files);
    let figure = summary.figure("train_s").unwrap();
    let label = |row: &record::summary::Row| report::table::label(&summary, row, false);
    let history = record::history::History::new(&summary, figure, 0.01, label);
    let mut bytes = Vec::new();
    html::write_history(&history, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_history_is_a_page_that_says_what_changed_and_draws_every_row() {
    let page = history_page();
    assert_eq!(page.matches("<figure").count(), 2);
    assert!(page.contains("1 change, 1 for the worse."), "{}", &page[..3000]);
    assert!(page.contains("PyTorch") && page.contains("x slower ["), "{}", &page[..3000]);
    assert!(seen(&page).scripts == 0 && page.contains("2026-11-24"));
}

#[test]
fn programs_timed_by_their_wall_time_have_the_intervals_of_its_medians_in_the_table() {
    let row = |name: &str, seconds: f64| {
        let mut record = Record { executable: name.into(), schema_version: 2, ..Record::default() };
        record.task = Some(Box::default());
        for round in 0..6 {
            let wall_s = Some(seconds + 0.01 * f64::from(round));
            let timing = Timing { wall_s, ..Timing::default() };
            record.add_sample(Sample { round, timing, ..Sample::default() });
        }
        record
    };
    let page = as_html(&summary_of(&[row("a", 1.0), row("b", 2.0)]));
    let (_, table) = page.split_once("id=\"results-table\"").unwrap();
    let (table, _) = table.split_once("</table>").unwrap();
    assert!(table.contains("[1.00, 1.05]") && table.contains("[2.00, 2.05]"), "{table}");
}

/// Name and contents of every chart's file.
fn charts(summary: &Summary) -> Vec<(String, String)> {
    let sections = chart::sections(&Exhibit::new(summary));
    let charts = sections.iter().flat_map(|section| &section.charts);
    charts.map(|chart| (chart.name.clone(), chart.file())).collect()
}

/// What a browser's tokenizer sees: each element with the names of its attributes, values of links,
/// and the texts of scripts.
#[derive(Debug, Default)]
struct Seen {
    elements: BTreeSet<(String, Vec<String>)>,
    links: Vec<String>,
    scripts: usize,
}

fn seen(page: &str) -> Seen {
    let mut seen = Seen::default();
    for token in Tokenizer::new(page) {
        let Ok(Token::StartTag(tag)) = token else { continue };
        let name = String::from_utf8(tag.name.to_vec()).unwrap();
        seen.scripts += usize::from(name == "script");
        let mut attributes = Vec::new();
        for (attribute, value) in &tag.attributes {
            let attribute = String::from_utf8(attribute.to_vec()).unwrap();
            if ["href", "src", "action", "xlink:href"].contains(&&*attribute) {
                seen.links.push(String::from_utf8(value.to_vec()).unwrap());
            }
            attributes.push(attribute);
        }
        seen.elements.insert((name, attributes));
    }
    seen
}

/// The study with every text in every file run through `rename`.
fn renamed(rename: &dyn Fn(&str) -> String) -> Vec<Record> {
    fn walk(value: &mut Value, key: &str, rename: &dyn Fn(&str) -> String) {
        // What is not free text: enumerations, moments, and digests.
        let fixed = [
            "status", "source", "better", "quality", "metric", "started", "level", "access",
            "sha256", "id",
        ];
        match value {
            Value::String(text) if !fixed.contains(&key) => *text = rename(text),
            Value::Array(values) => values.iter_mut().for_each(|value| walk(value, key, rename)),
            Value::Object(map) => {
                let free = ["config", "sources", "missing", "environment", "counters"];
                let entries = std::mem::take(map).into_iter().map(|(inner, mut value)| {
                    walk(&mut value, &inner, rename);
                    (if free.contains(&key) { rename(&inner) } else { inner }, value)
                });
                *map = entries.collect();
            }
            _ => {}
        }
    }
    let rename_file = |file: &Record| {
        let mut value = serde_json::to_value(file).unwrap();
        walk(&mut value, "", rename);
        serde_json::from_value(value).unwrap()
    };
    study::files().iter().map(rename_file).collect()
}

/// Everything that has ever ended a string, an element, a comment or a line, in one name.
pub fn hostile_files() -> Vec<Record> {
    renamed(&|text| {
        format!(
            "{text}</script></style></svg></title>\"'`--><script>window.pwned=1</script>\
             <img src=x onerror=window.pwned=1>&lt;&#60;\u{202e}]]>\u{0}\u{2028}<!--<script>"
        )
    })
}

#[test]
fn the_page_of_the_study() {
    let page = as_html(&summary_of(&study::files()));
    let mut shown = String::new();
    let mut rest = page.as_str();
    // Without the style and the scripts, which are files of their own or a report of their own.
    while let Some((before, after)) = rest
        .split_once("<style>")
        .map(|(b, a)| (b, ("</style>", a)))
        .into_iter()
        .chain(rest.split_once("<script").map(|(b, a)| (b, ("</script>", a))))
        .min_by_key(|(before, _)| before.len())
    {
        shown += before;
        rest = after.1.split_once(after.0).map_or("", |(_, rest)| rest);
    }
    shown += rest;
    let policy = shown.find("sha256-").unwrap()..shown.find("; base-uri").unwrap();
    shown.replace_range(policy, "HASHES");
    let shown = shown.replace(env!("CARGO_PKG_VERSION"), "VERSION").replace("><", ">\n<");
    insta::assert_snapshot!(shown);
}

#[test]
fn the_charts_of_the_study() {
    for (name, file) in charts(&summary_of(&study::files())) {
        if name.ends_with("mlp-hidden-512") {
            let (before, rest) = file.split_once("<style>").unwrap();
            let (style, after) = rest.split_once("</style>").unwrap();
            assert_eq!(style, chart::STYLE);
            insta::assert_snapshot!(name, format!("{before}{after}").replace("><", ">\n<"));
        }
    }
}

#[test]
fn every_kind_of_chart_is_there_and_is_xml_with_a_text_alternative() {
    let charts = charts(&summary_of(&study::files()));
    for kind in [
        "train-loop",
        "training-loss-over-train-time",
        "training-loss-over-epoch",
        "test-accuracy-over-train-time",
        "test-accuracy-over-epoch",
        "test-accuracy-against-time",
        "peak-memory-against-time",
        "roofline",
    ] {
        assert!(charts.iter().any(|(name, _)| name.starts_with(kind)), "{kind}");
    }
    for (name, file) in &charts {
        let document = roxmltree::Document::parse(file).unwrap();
        let root = document.root_element();
        let text = |tag: &str| {
            let node = root.children().find(|node| node.tag_name().name() == tag);
            node.and_then(|node| node.text()).unwrap_or_default().to_owned()
        };
        assert!(text("desc").len() > 60 && !text("title").is_empty(), "{name}");
        assert_eq!(root.attribute("role"), Some("img"));
    }
}

#[test]
fn a_row_in_another_precision_is_drawn_under_its_own_roof() {
    let mut files = study::files();
    let roof = |files: &[Record]| -> String {
        let charts = charts(&summary_of(files)).into_iter();
        charts.filter(|(name, _)| name.starts_with("roofline")).map(|it| it.1).collect()
    };
    assert!(!roof(&files).contains("stroke-dasharray"));
    let row = files.iter_mut().find(|it| it.backend == "cpu" && it.roofline.is_some()).unwrap();
    row.trainer.as_mut().unwrap().precision = Some("bf16".into());
    row.roofline.as_mut().unwrap().peak_flop_per_s = Some(3e12);
    let chart = roof(&files);
    assert!(chart.contains("bf16: 3000 GFLOP/s") && chart.contains("stroke-dasharray"), "{chart}");
}

#[test]
fn a_page_of_a_hundred_rows_stays_below_a_megabyte() {
    let files: Vec<Record> = (0..9)
        .flat_map(|epochs| {
            study::racing().into_iter().map(move |mut file| {
                file.config.insert("epochs".into(), (epochs + 1).into());
                file
            })
        })
        .collect();
    let page = as_html(&summary_of(&files));
    assert_eq!(rows_of(&page), 99);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
}

#[test]
fn rates_races_and_verdicts_have_their_columns_where_they_are_known() {
    let title = |title: &str| format!(">{title}</button>");
    let page = as_html(&summary_of(&study::racing()));
    for column in ["To Target (s)", "Epochs To Target", "GFLOP/s", "Of Peak FLOP/s (%)"] {
        assert!(page.contains(&title(column)), "{column}");
    }
    for verdict in [">reference</td>", "x faster<span", "x slower<span"] {
        assert!(page.contains(verdict), "{verdict}");
    }
    // A run each, and nothing said of operations: no claim, and none of the columns.
    let plain = study::files().into_iter().filter(|file| !file.samples.is_empty());
    let plain = plain.map(|mut file| {
        file.samples.truncate(1);
        (file.race, file.roofline) = (None, None);
        file
    });
    let page = as_html(&summary_of(&plain.collect::<Vec<_>>()));
    assert!(page.contains(&title("Against MNISTClassic/cpu")));
    for column in ["To Target (s)", "Epochs To Target", "GFLOP/s", "Of Peak FLOP/s (%)"] {
        assert!(!page.contains(&title(column)), "{column}");
    }
}

#[test]
fn of_a_folder_of_thousands_the_first_rows_are_shown_and_the_page_says_so() {
    let files: Vec<Record> = (0..40)
        .flat_map(|seed| {
            study::files().into_iter().map(move |mut file| {
                file.config.insert("seed".into(), seed.into());
                file
            })
        })
        .collect();
    let page = as_html(&summary_of(&files));
    assert!(page.contains("240 further rows are not shown"), "says so");
    assert_eq!(rows_of(&page), 200);
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
}

#[test]
fn hostile_names_in_every_field_add_no_element_no_attribute_and_no_link() {
    let benign = seen(&as_html(&summary_of(&study::files())));
    let page = as_html(&summary_of(&hostile_files()));
    let hostile = seen(&page);
    let strange: Vec<_> = hostile.elements.difference(&benign.elements).collect();
    assert_eq!(strange, Vec::<&(String, Vec<String>)>::new());
    assert_eq!(hostile.scripts, 1);
    assert!(hostile.links.iter().all(|link| link.starts_with('#')), "{:?}", hostile.links);
    assert!(!page.contains(['\u{202e}', '\u{0}', '\u{2028}']));
}

#[test]
fn hostile_names_in_charts_add_no_element() {
    let elements = |files: &[Record]| -> BTreeSet<String> {
        let charts = charts(&summary_of(files));
        assert!(charts.len() > 10);
        let names = charts.iter().flat_map(|(name, file)| {
            assert!(
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
                "{name}"
            );
            assert!(!file.contains(['\u{202e}', '\u{0}', '\u{2028}']));
            let document = roxmltree::Document::parse(file).unwrap();
            let names: Vec<String> = document
                .descendants()
                .filter(|node| node.is_element())
                .map(|node| node.tag_name().name().to_owned())
                .collect();
            names
        });
        names.collect()
    };
    assert_eq!(elements(&hostile_files()), elements(&study::files()));
}

#[test]
fn two_pages_of_the_same_files_are_the_same() {
    let page = || as_html(&summary_of(&study::files()));
    assert_eq!(page(), page());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn any_names_leave_page_and_charts_whole(names in prop::collection::vec(super::properties::name(), 1..6)) {
        let files = renamed(&|text| {
            let sum: usize = text.bytes().map(usize::from).sum();
            format!("{}{text}", names[sum % names.len()])
        });
        let summary = summary_of(&files);
        let page = seen(&as_html(&summary));
        prop_assert_eq!(page.scripts, 1);
        prop_assert!(page.links.iter().all(|link| link.starts_with('#')));
        let handlers = page.elements.iter().find(|(_, it)| it.iter().any(|it| it.starts_with("on")));
        prop_assert_eq!(handlers, None);
        for (name, file) in charts(&summary) {
            prop_assert!(roxmltree::Document::parse(&file).is_ok(), "{}: {}", name, file);
        }
    }

    #[test]
    fn any_figures_can_be_drawn(rows in prop::collection::vec(super::properties::row(), 1..5)) {
        let summary = super::properties::summary_of(&rows);
        as_html(&summary);
        for (_, file) in charts(&summary) {
            prop_assert!(!file.contains("NaN") && !file.contains("inf"), "{}", file);
        }
    }
}
