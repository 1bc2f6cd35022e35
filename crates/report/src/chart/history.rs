//! One row over its runs, with the changes that are shown.

use super::axis::Origin;
use super::plot::{BOTTOM, Drawing, Measure, Plot, Series, TOP};
use super::{Chart, Table, at};
use crate::text::{three_digits, visible};
use maud::{Markup, html};
use record::history::{History, Point, Series as Row};

/// A chart of one row; `None` of no run.
pub fn chart(history: &History, row: &Row, index: usize) -> Option<Chart> {
    let points = row.points.iter().enumerate().map(|(run, point)| (run as f64, point.value));
    let label = visible(&row.label, 200).into_owned();
    let series = Series {
        place: index,
        contestant: 0,
        label: label.clone(),
        points: points.collect(),
        radius: 2.6,
        filled: true,
        weak: false,
    };
    let end = |point: &Point| {
        let commit: String = point.git_commit.iter().flat_map(|it| it.chars()).take(9).collect();
        let day = point.when.get(..10).unwrap_or(&point.when);
        format!("{} {}", visible(day, 16), visible(&commit, 9))
    };
    let (first, last) = (row.points.first()?, row.points.last()?);
    let behind = |plot: &Plot| -> Markup {
        html! { @for change in &row.changes {
            g.(if change.worse { "c1" } else { "c2" }) {
                path d={ "M" (at(plot.at((change.at as f64 - 0.5, first.value)).0)) " " (TOP) "V" (BOTTOM) }
                    stroke="currentColor" stroke-width="1.6" stroke-dasharray="4 3" {}
            }
        } }
    };
    let drawing = Drawing {
        x: Measure {
            title: &format!("Run, {} to {}", end(first), end(last)),
            origin: Origin::Whole,
        },
        y: Measure { title: &history.figure.title(), origin: Origin::Free },
        series: vec![series],
        target: None,
        solid: None,
        room: Vec::new(),
        behind: &behind,
    };
    let mut chart = drawing.chart(label)?;
    let cells = |point: &Point| {
        let commit = point.git_commit.as_deref().unwrap_or_default();
        let cells = [&point.when, &three_digits(point.value), commit, &point.file];
        (index, cells.map(|cell| visible(cell, 100).into_owned()).to_vec())
    };
    let head = ["Run", &history.figure.title(), "Commit", "File"].map(str::to_owned).to_vec();
    chart.table = Table { head, rows: row.points.iter().map(cells).collect() };
    chart.name = format!("row-{index}");
    Some(chart)
}
