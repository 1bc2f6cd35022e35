//! One row over its runs, with the changes that are shown.

use super::axis::{Axis, Origin};
use super::{Chart, Table, WIDTH, at};
use crate::text::{three_digits, visible};
use maud::{Markup, html};
use record::history::{History, Point, Series};

const LEFT: f64 = 54.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 150.0;

/// A chart of one row.
pub fn chart(history: &History, series: &Series, index: usize) -> Chart {
    let values = series.points.iter().map(|point| point.value);
    let last = series.points.len().saturating_sub(1) as f64;
    let x =
        Axis::new([0.0, last.max(1.0)], Origin::Whole).map(|axis| axis.between(LEFT + 8.0, RIGHT));
    let y = Axis::new(values, Origin::Free).map(|axis| axis.between(BOTTOM, TOP));
    let drawing = x.zip(y).map_or(html! {}, |(x, y)| drawing(series, x, y));
    let value = |point: Option<&Point>| point.map_or(String::new(), |it| three_digits(it.value));
    let row = |point: &Point| {
        let commit = point.git_commit.as_deref().unwrap_or_default();
        let cells = [&point.when, &three_digits(point.value), commit, &point.file];
        (index, cells.map(|cell| visible(cell, 100).into_owned()).to_vec())
    };
    let title = history.figure.title();
    Chart {
        name: format!("row-{index}"),
        title: visible(&series.label, 200).into_owned(),
        description: format!(
            "{title} of {} runs, from {} to {}, with {} changes.",
            series.points.len(),
            value(series.points.first()),
            value(series.points.last()),
            series.changes.len()
        ),
        height: BOTTOM + 44.0,
        drawing,
        table: Table {
            head: ["Run", &title, "Commit", "File"].map(str::to_owned).to_vec(),
            rows: series.points.iter().map(row).collect(),
        },
    }
}

fn drawing(series: &Series, x: Axis, y: Axis) -> Markup {
    let position = |(index, point): (usize, &Point)| (x.at(index as f64), y.at(point.value));
    let points: Vec<(f64, f64)> = series.points.iter().enumerate().map(position).collect();
    let path: String = points
        .iter()
        .enumerate()
        .map(|(index, (x, y))| {
            format!("{}{} {}", if index == 0 { "M" } else { "L" }, at(*x), at(*y))
        })
        .collect();
    let dots: String = points.iter().map(|(x, y)| format!("M{} {}h0", at(*x), at(*y))).collect();
    let grid: String =
        y.ticks().iter().map(|tick| format!("M{LEFT} {}H{RIGHT}", at(y.at(*tick)))).collect();
    let between = |index: usize| x.at(index as f64 - 0.5);
    let end = |point: Option<&Point>, anchor: &str, place: f64| {
        let commit: String = point
            .and_then(|it| it.git_commit.as_deref())
            .unwrap_or_default()
            .chars()
            .take(9)
            .collect();
        let day = point.map_or("", |it| it.when.get(..10).unwrap_or(&it.when));
        html! { text.m x=(place) y=(BOTTOM + 18.0) text-anchor=(anchor) font-size="11" {
            (visible(day, 16)) " " (visible(&commit, 9))
        } }
    };
    html! {
        path.g stroke="currentColor" d=(grid) {}
        path.a d={ "M" (LEFT) " " (BOTTOM) "H" (RIGHT) } stroke="currentColor" {}
        g.m font-size="11" text-anchor="end" {
            @for (tick, label) in y.labels() { text x=(LEFT - 6.0) y=(at(y.at(tick) + 4.0)) { (label) } }
        }
        @for change in &series.changes {
            g.(if change.worse { "c1" } else { "c2" }) {
                path d={ "M" (at(between(change.at))) " " (TOP) "V" (BOTTOM) } stroke="currentColor"
                    stroke-width="1.6" stroke-dasharray="4 3" {}
            }
        }
        g.c0 {
            path.l d=(path) fill="none" {}
            path d=(dots) stroke="currentColor" stroke-width="5" stroke-linecap="round" {}
        }
        (end(series.points.first(), "start", LEFT))
        @if series.points.len() > 1 { (end(series.points.last(), "end", RIGHT)) }
    }
}
