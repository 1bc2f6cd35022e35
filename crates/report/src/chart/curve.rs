//! Loss and quality, over the seconds on the trainer's clock and over steps or epochs.

use super::Chart;
use super::axis::Origin;
use super::plot::{self, Series};
use crate::exhibit::{Entry, Panel, evenly};
use record::CurvePoint;
use record::figures::Figure;
use record::task::Better;

pub const LEAD: &str = "Each row is drawn with the sample whose time is nearest to the median. The trainer reports \
    the loss and the seconds. Rows with the same recipe lie on each other over steps and differ over time.";

/// Points of one line.
const MAX_POINTS: usize = 200;

type Get<'a> = &'a dyn Fn(&CurvePoint) -> Option<f64>;

/// Up to four charts; those without a line are left out.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let Some(clock) = panel.clock else { return Vec::new() };
    let has_steps = panel.charted().any(|it| {
        it.median_sample(clock).is_some_and(|it| it.curve.iter().any(|it| it.step.is_some()))
    });
    let progress: (&str, Origin, Get) = match has_steps {
        true => ("Step", Origin::Zero, &|point| Some(point.step? as f64)),
        false => ("Epoch", Origin::Whole, &|point| point.epoch),
    };
    let mut charts = Vec::new();
    let mut add = |title: &str, axis: &str, height: Get, target: Option<f64>| {
        let seconds: Get = &|point| point.seconds;
        for (over, origin, position) in [("Train time (s)", Origin::Zero, seconds), progress] {
            let line = |entry| line(entry, clock, position, height);
            let series: Vec<Series> = panel.charted().filter_map(line).collect();
            if !series.iter().any(|series| series.points.len() > 1) {
                continue;
            }
            let kind = over.split(" (").next().unwrap_or(over).to_lowercase();
            let axes = ((over, origin), (axis, Origin::Free));
            let title = panel.titled(&format!("{title} over {kind}"));
            charts.extend(plot::chart(title, axes, &series, &plot::target(target)));
        }
    };
    add("Training loss", "Training loss (lower is better)", &|point| point.loss, None);
    if let Some(quality) = panel.quality {
        let better = match quality.better {
            Better::Lower => "(lower is better)",
            Better::Higher => "(higher is better)",
        };
        let title = quality.title();
        let axis = format!("{title} {better}");
        add(&title, &axis, &|point| point.metrics.get(&*quality.key).copied(), panel.target);
    }
    charts
}

fn line(entry: &Entry, clock: &Figure, position: Get, height: Get) -> Option<Series> {
    let curve = &entry.median_sample(clock)?.curve;
    let point = |point: &CurvePoint| Some((position(point)?, height(point)?));
    let mut points: Vec<(f64, f64)> = curve.iter().filter_map(point).collect();
    points.retain(|(x, y)| x.is_finite() && y.is_finite());
    let is_ranked = entry.row.is_ranked();
    let points = evenly(points, MAX_POINTS);
    (!points.is_empty()).then(|| Series::of(entry, points, 3.2, is_ranked))
}
