//! Loss and quality, over the seconds on the trainer's clock and over steps or epochs.

use super::axis::Origin;
use super::plot::{Measure, Plot, Series};
use super::{Chart, Table};
use crate::exhibit::{Entry, Panel};
use crate::text::{short, three_digits};
use maud::html;
use record::CurvePoint;
use record::figures::Figure;

pub const LEAD: &str = "The sample whose time is nearest to the median stands for its row. Loss is as the \
    trainer reports it; seconds are the trainer's own. Rows that follow the same recipe lie on each other \
    over steps and differ over time.";

/// Points of one line.
const MAX_POINTS: usize = 200;

/// What is drawn over what.
type Get<'a> = &'a dyn Fn(&CurvePoint) -> Option<f64>;

/// Up to four charts; those without a line are left out.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let Some(clock) = panel.clock else { return Vec::new() };
    let has_steps = panel.charted().any(|it| {
        it.median_sample(clock).is_some_and(|it| it.curve.iter().any(|it| it.step.is_some()))
    });
    let seconds: Get = &|point| point.seconds;
    let (progress, of_progress): (&str, Get) = match has_steps {
        true => ("Step", &|point| Some(point.step? as f64)),
        false => ("Epoch", &|point| point.epoch),
    };
    let mut charts = Vec::new();
    let mut add = |title: &str, height: Get, target: Option<f64>| {
        for (over, position) in [("Train time (s)", seconds), (progress, of_progress)] {
            charts.extend(chart(panel, clock, (title, height), (over, position), target));
        }
    };
    add("Training loss", &|point| point.loss, None);
    if let Some(quality) = panel.quality {
        add(&quality.title(), &|point| point.metrics.get(&*quality.key).copied(), panel.target);
    }
    charts
}

fn chart(
    panel: &Panel,
    clock: &Figure,
    (of, height): (&str, Get),
    (over, position): (&str, Get),
    target: Option<f64>,
) -> Option<Chart> {
    let line = |entry| line(entry, clock, position, height);
    let series: Vec<Series> = panel.charted().filter_map(line).collect();
    if !series.iter().any(|series| series.points.len() > 1) {
        return None;
    }
    let origin = if over == "Epoch" { Origin::Whole } else { Origin::Zero };
    let x = Measure { title: over, origin };
    let plot = Plot::new(x, Measure { title: of, origin: Origin::Free }, &series, target)?;
    let (legend, bottom) = plot.legend(&series.iter().collect::<Vec<_>>());
    let drawing = html! {
        (plot.frame())
        @if let Some(target) = target { (plot.level(target, &format!("target {}", short(target)))) }
        (plot.lines(&series))
        (legend)
    };
    let kind = format!("{of} over {}", over.split(" (").next().unwrap_or(over).to_lowercase());
    let mut chart = Chart::new(&kind, panel, bottom, drawing);
    let ends = series.iter().take(12).filter_map(|series| {
        let (x, y) = series.points.last()?;
        Some(format!("{} ends at {y:.3} at {}", series.label, three_digits(*x)))
    });
    chart.description = format!("{kind}: {}.", ends.collect::<Vec<_>>().join("; "));
    let rows = series.iter().map(|series| {
        let points = series.points.iter().map(|(x, y)| format!("{}: {y:.4}", three_digits(*x)));
        (series.place, vec![series.label.clone(), points.collect::<Vec<_>>().join("  ")])
    });
    let head = ["Row", "Points, as x: y"].map(str::to_owned).to_vec();
    chart.table = Table { head, rows: rows.collect() };
    Some(chart)
}

fn line(entry: &Entry, clock: &Figure, position: Get, height: Get) -> Option<Series> {
    let curve = &entry.median_sample(clock)?.curve;
    let point = |point: &CurvePoint| Some((position(point)?, height(point)?));
    let mut points: Vec<(f64, f64)> = curve.iter().filter_map(point).collect();
    points.retain(|(x, y)| x.is_finite() && y.is_finite());
    if points.len() > MAX_POINTS {
        let last = points.len() - 1;
        points = (0..MAX_POINTS).map(|it| points[it * last / (MAX_POINTS - 1)]).collect();
    }
    (!points.is_empty()).then(|| Series {
        place: entry.place,
        contestant: entry.contestant,
        label: entry.label.clone(),
        points,
        radius: 3.2,
        filled: entry.row.is_ranked(),
        weak: !entry.row.is_ranked(),
    })
}
