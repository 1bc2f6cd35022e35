//! Charts as SVG, drawn here in Rust. The same drawing stands in the HTML report and in the files
//! of `--charts`, so that it needs no script, prints, and can be put into a paper or a README.
//!
//! A charting library lost: those of JavaScript add half a megabyte or more to each report, draw
//! nothing without a script and cannot be exported as they stand; the SVG writers of Rust set every
//! colour in place, so that one file cannot serve light and dark, and have no text alternatives. What
//! is needed here, an axis, a legend and four kinds of marks, is a few hundred lines.
//!
//! Colours come from classes only (`chart.css`), never from attributes. They are Okabe and Ito's,
//! which people with any kind of colour vision tell apart (yellow left out: it is not seen on
//! white), and each goes with a shape of its own. Everything that a mark says stands in the table
//! behind its chart.

mod axis;
mod curve;
mod mark;
mod plot;
mod roofline;
mod time;
mod trade_off;

use crate::exhibit::{Entry, Exhibit, Panel};
use crate::text;
use maud::{Markup, PreEscaped, html};

/// Rules for the classes that charts use: to be put into the page, or into a file of its own.
pub const STYLE: &str = include_str!("chart.css");
/// Width of all charts in SVG's units: one column of a page or of a paper, or a phone's width.
pub const WIDTH: f64 = 440.0;
/// Panels of one kind that are drawn.
const MAX_PANELS: usize = 24;
/// Height of the title in a file.
const TITLE_HEIGHT: f64 = 30.0;

/// One drawing with its text alternative and the figures that it shows.
#[derive(Debug)]
pub struct Chart {
    /// Of letters, digits and dashes: for files and links. Unique among all charts of a report.
    pub name: String,
    pub title: String,
    /// What it shows, in words.
    pub description: String,
    pub height: f64,
    pub drawing: Markup,
    pub table: Table,
}

/// The figures of a chart as text.
#[derive(Debug, Default)]
pub struct Table {
    pub head: Vec<String>,
    /// Place of the entry, and a cell for each column.
    pub rows: Vec<(usize, Vec<String>)>,
}

/// Charts of one kind.
#[derive(Debug)]
pub struct Section {
    pub name: &'static str,
    pub title: &'static str,
    /// How to read them.
    pub lead: String,
    pub charts: Vec<Chart>,
    /// Panels that are not drawn.
    pub left_out: usize,
}

/// All charts that the exhibit has the figures for.
pub fn sections(exhibit: &Exhibit) -> Vec<Section> {
    let section = |name, title, lead: &str, draw: &dyn Fn(&Panel) -> Vec<Chart>| {
        let shown = exhibit.panels.iter().take(MAX_PANELS);
        let left_out = exhibit.panels.len().saturating_sub(MAX_PANELS);
        let charts = shown.flat_map(draw).collect();
        Section { name, title, lead: lead.to_owned(), charts, left_out }
    };
    let mut sections = vec![
        section("time", "Time, every run", time::LEAD, &|panel| {
            time::draw(panel).into_iter().collect()
        }),
        section("curves", "Learning curves", curve::LEAD, &curve::draw),
        section("trade-off", "Quality, time and memory", trade_off::LEAD, &trade_off::draw),
        section("roofline", "Roofline", roofline::LEAD, &roofline::draw),
    ];
    sections.retain(|section| !section.charts.is_empty());
    name_apart(&mut sections);
    sections
}

/// Makes names of charts unique.
fn name_apart(sections: &mut [Section]) {
    let mut seen = std::collections::HashMap::new();
    for chart in sections.iter_mut().flat_map(|section| &mut section.charts) {
        let times: &mut usize = seen.entry(chart.name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            // No name ends like this by itself: words are joined by single dashes.
            chart.name += &format!("--{times}");
        }
    }
}

/// `Train time: mlp, hidden 512` as `train-time-mlp-hidden-512`.
fn name_of(title: &str) -> String {
    let mut name = String::new();
    for c in title.chars().take(80) {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c.to_ascii_lowercase()),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    let name = name.trim_end_matches('-');
    if name.is_empty() { "chart".to_owned() } else { name.to_owned() }
}

impl Chart {
    fn new(kind: &str, panel: &Panel, height: f64, drawing: Markup) -> Chart {
        Chart {
            name: name_of(&format!("{kind} {}", panel.title)),
            title: format!("{kind}: {}", panel.title),
            description: String::new(),
            height,
            drawing,
            table: Table::default(),
        }
    }

    /// For a page that has [`STYLE`]. The title stands beside it.
    pub fn inline(&self) -> Markup {
        html! {
            svg.chart viewBox={ "0 0 " (WIDTH) " " (at(self.height)) } role="img"
                aria-labelledby={ (self.name) "-t " (self.name) "-d" } {
                title id={ (self.name) "-t" } { (self.title) }
                desc id={ (self.name) "-d" } { (self.description) }
                (self.drawing)
            }
        }
    }

    /// A file of its own, light or dark as its reader's system is, with the background that its
    /// colours are made for.
    pub fn file(&self) -> String {
        let height = at(self.height + TITLE_HEIGHT);
        let svg = html! {
            svg.chart xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height)
                viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-labelledby="t d" {
                title id="t" { (self.title) }
                desc id="d" { (self.description) }
                style { (PreEscaped(STYLE)) }
                rect.b width="100%" height="100%" fill="currentColor" {}
                text.t x="8" y="20" font-size="13" font-weight="600" { (fitted(&self.title, 58)) }
                g transform={ "translate(0 " (TITLE_HEIGHT) ")" } { (self.drawing) }
            }
        };
        svg.into_string() + "\n"
    }
}

/// What an entry's line or mark is called: not ranked ones with the reason.
fn remark(entry: &Entry) -> String {
    match entry.row.status_words() {
        "measured" => entry.label.clone(),
        words => format!("{} ({words})", entry.label),
    }
}

/// A coordinate with one decimal.
fn at(position: f64) -> String {
    let text = format!("{position:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A text cut to so many columns.
fn fitted(label: &str, columns: usize) -> String {
    if text::width(label) <= columns {
        return label.to_owned();
    }
    let mut cut = String::new();
    for c in label.chars() {
        cut.push(c);
        if text::width(&cut) >= columns {
            cut.pop();
            break;
        }
    }
    cut + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_charts_are_plain_words() {
        assert_eq!(name_of("Train time mlp, hidden 512"), "train-time-mlp-hidden-512");
        assert_eq!(name_of("../<é>"), "chart");
        assert_eq!(name_of("a/../../b"), "a-b");
    }

    #[test]
    fn long_labels_are_cut_by_their_width() {
        assert_eq!(fitted("abcdef", 6), "abcdef");
        assert_eq!(fitted("abcdefg", 6), "abcde…");
        assert_eq!(text::width(&fitted("漢漢漢漢", 6)), 5);
    }
}
