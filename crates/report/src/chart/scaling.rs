//! Throughput, or the speed-up where no work is counted, against processes or devices, with the ideal line.

use super::Chart;
use super::axis::Origin;
use super::plot::{self, Line, Series};
use crate::exhibit::Exhibit;
use crate::text::visible;
use record::scaling::{Curve, curves};

pub const LEAD: &str = "The solid line is what as many would do as do not hinder each other, from the first \
    point on. The table under Scaling has the intervals.";

/// One chart for each curve.
pub fn draw(exhibit: &Exhibit) -> Vec<Chart> {
    let rows = &exhibit.summary.rows;
    let curves = curves(rows.iter().map(|row| &row.record));
    curves.iter().filter_map(|curve| chart(exhibit, curve)).collect()
}

fn chart(exhibit: &Exhibit, curve: &Curve) -> Option<Chart> {
    let first = curve.points.first()?;
    let row = &exhibit.summary.rows[first.place];
    let (_, entry) = exhibit.entries().find(|(_, entry)| std::ptr::eq(entry.row, row))?;
    let counted = curve.points.iter().all(|point| point.throughput.is_some());
    let height = |it: &record::scaling::Point| {
        if counted { it.throughput.unwrap_or_default() } else { it.speed_up }
    };
    let points: Vec<(f64, f64)> = curve.points.iter().map(|it| (it.number, height(it))).collect();
    let unit = row.record.task().throughput.as_ref().filter(|_| counted);
    let title = unit.map_or("Speed-up".to_owned(), |it| format!("{}/s", visible(&it.unit, 30)));
    let ideal: Vec<(f64, f64)> =
        points.iter().map(|it| (it.0, points[0].1 * it.0 / first.number)).collect();
    let mut series = Series::of(entry, points, 4.0, true);
    series.label = visible(&curve.row, 60).into_owned();
    let name = Some("ideal".to_owned());
    let ideal = Line { points: ideal, dashes: None, class: "a", name };
    let over = visible(&curve.over, 30);
    let axes = ((&*over, Origin::Zero), (&*title, Origin::Zero));
    let name = visible(&format!("{} over {}", curve.row, curve.over), 100).into_owned();
    plot::chart(name, axes, &[series], &[ideal])
}
