//! One chart: its drawing, its words and its figures, in a page or as a file, and how all of them write
//! coordinates and labels.

use crate::exhibit::Entry;
use crate::text::fitted;
use maud::{Markup, PreEscaped, html};

/// Rules for the classes that charts use: to be put into the page, or into a file of its own.
pub const STYLE: &str = include_str!("chart.css");
/// Width of all charts in SVG's units: one column of a page or of a paper, or a phone's width.
pub const WIDTH: f64 = 440.0;
/// Height of the title in a file.
const TITLE_HEIGHT: f64 = 30.0;

/// One drawing with its text alternative and the figures that it shows.
#[derive(Debug)]
pub struct Chart {
    /// Letters, digits and dashes, for files and links. Unique among all charts of a report.
    pub name: String,
    pub title: String,
    /// A description in words.
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

/// `Train time: mlp, hidden 512` as `train-time-mlp-hidden-512`.
fn name_of(title: &str) -> String {
    let title: String = title.chars().take(80).collect::<String>().to_ascii_lowercase();
    let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
    let name = words.collect::<Vec<_>>().join("-");
    if name.is_empty() { "chart".to_owned() } else { name }
}

impl Chart {
    pub(super) fn new(title: String, height: f64, drawing: Markup) -> Chart {
        let (name, description, table) = (name_of(&title), String::new(), Table::default());
        Chart { name, title, description, height, drawing, table }
    }

    /// For a page that has [`STYLE`]. The title stands beside it.
    pub fn inline(&self) -> Markup {
        self.svg(false)
    }

    /// A file of its own, light or dark as its reader's system is, with the background that its
    /// colours are made for.
    pub fn file(&self) -> String {
        self.svg(true).into_string() + "\n"
    }

    fn svg(&self, is_file: bool) -> Markup {
        let head = if is_file { TITLE_HEIGHT } else { 0.0 };
        let height = at(self.height + head);
        html! {
            svg.chart xmlns=[is_file.then_some("http://www.w3.org/2000/svg")]
                width=[is_file.then_some(WIDTH)] height=[is_file.then_some(&height)]
                viewBox={ "0 0 " (WIDTH) " " (height) } role="img"
                aria-labelledby={ (self.name) "-t " (self.name) "-d" } {
                title id={ (self.name) "-t" } { (self.title) }
                desc id={ (self.name) "-d" } { (self.description) }
                @if is_file {
                    style { (PreEscaped(STYLE)) }
                    rect.b width="100%" height="100%" fill="currentColor" {}
                    text.t x="8" y="20" font-size="13" font-weight="600" { (fitted(&self.title, 58)) }
                }
                g transform=[is_file.then(|| format!("translate(0 {head})"))] { (self.drawing) }
            }
        }
    }
}

/// The legend of an entry; if it is not ranked, with the reason.
pub(super) fn remark(entry: &Entry) -> String {
    match entry.row.status_words() {
        "measured" => entry.label.clone(),
        words => format!("{} ({words})", entry.label),
    }
}

/// A coordinate with one decimal.
pub(crate) fn at(position: f64) -> String {
    let text = format!("{position:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
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
}
