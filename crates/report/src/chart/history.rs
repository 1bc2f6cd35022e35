//! One row over its runs, with the changes that are shown.

use super::axis::Origin;
use super::plot::{self, Line, Series};
use super::{Chart, Table};
use crate::text::{three_digits, visible};
use record::history::{Change, History, Point, Series as Row};
use record::number::short_digest;

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
        let commit = short_digest(point.git_commit.as_deref().unwrap_or_default());
        let day = point.when.get(..10).unwrap_or(&point.when);
        format!("{} {}", visible(day, 16), visible(&commit, 20))
    };
    let (first, last) = (row.points.first()?, row.points.last()?);
    let changed = |change: &Change| Line {
        points: [f64::NEG_INFINITY, f64::INFINITY].map(|y| (change.at as f64 - 0.5, y)).to_vec(),
        dashes: Some("4 3"),
        class: if change.worse { "c1" } else { "c2" },
        name: None,
    };
    let lines: Vec<Line> = row.changes.iter().map(changed).collect();
    let (runs, values) = (format!("Run, {} to {}", end(first), end(last)), history.figure.title());
    let axes = ((&*runs, Origin::Whole), (&*values, Origin::Free));
    let mut chart = plot::chart(label, axes, &[series], &lines)?;
    let cells = |point: &Point| {
        let commit = short_digest(point.git_commit.as_deref().unwrap_or_default());
        let cells = [&point.when, &three_digits(point.value), &*commit, &point.file];
        (index, cells.map(|cell| visible(cell, 100).into_owned()).to_vec())
    };
    let head = ["Run", &values, "Commit", "File"].map(str::to_owned).to_vec();
    chart.table = Table { head, rows: row.points.iter().map(cells).collect() };
    chart.name = format!("row-{index}");
    Some(chart)
}
