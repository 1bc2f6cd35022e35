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
mod frame;
pub(crate) mod history;
pub(crate) mod mark;
mod plot;
mod roofline;
mod scaling;
mod time;
mod trade_off;

pub use frame::{Chart, STYLE, Table, WIDTH};

use crate::exhibit::{Exhibit, Panel};
use crate::text::fitted;
pub(crate) use frame::at;
use frame::remark;

/// Panels of one kind that are drawn.
const MAX_PANELS: usize = 24;
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
    let scaling = Section {
        name: "scaling-charts",
        title: "Scaling charts",
        lead: scaling::LEAD.to_owned(),
        charts: scaling::draw(exhibit),
        left_out: 0,
    };
    sections.push(scaling);
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
