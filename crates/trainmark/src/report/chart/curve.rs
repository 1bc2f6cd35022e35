//! Loss and accuracy, over the seconds on the trainer's clock and over epochs.

use super::axis::{Origin, three_digits};
use super::plot::{Measure, Plot, Series};
use super::{Chart, Table};
use crate::report::compare::Basis;
use crate::report::exhibit::{Entry, Panel};
use crate::report::old_result::EpochRecord;
use maud::html;

pub const LEAD: &str = "The run whose time is nearest to the median stands for its row. Loss is the mean \
    over an epoch's samples as the trainer reports it, each taken at its own step; seconds are the \
    trainer's own. Rows that follow the same recipe lie on each other over epochs and differ over \
    time. Accuracy over epochs is there where a trainer reported it; the last point over time is what \
    the report's table says.";

/// Points of one line.
const MAX_POINTS: usize = 200;

/// What is drawn against what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Loss,
    Accuracy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Time,
    Epochs,
}

/// Up to four charts; those without a line are left out.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let charts = [
        (Of::Loss, Over::Time),
        (Of::Loss, Over::Epochs),
        (Of::Accuracy, Over::Time),
        (Of::Accuracy, Over::Epochs),
    ];
    charts.into_iter().filter_map(|(of, over)| chart(panel, of, over)).collect()
}

fn chart(panel: &Panel, of: Of, over: Over) -> Option<Chart> {
    let series: Vec<Series> = panel.charted().filter_map(|entry| line(entry, of, over)).collect();
    if !series.iter().any(|series| series.points.len() > 1) {
        return None;
    }
    let x = match over {
        Over::Time => Measure { title: "Train time (seconds)", origin: Origin::Zero },
        Over::Epochs => Measure { title: "Epoch", origin: Origin::Whole },
    };
    let y = match of {
        Of::Loss => Measure { title: "Training loss (nats)", origin: Origin::Free },
        Of::Accuracy => Measure { title: "Test accuracy (%)", origin: Origin::Free },
    };
    let target = panel.target_accuracy_percent.filter(|_| of == Of::Accuracy);
    let plot = Plot::new(x, y, &series, target)?;
    let (legend, height) = plot.legend(&series);
    let drawing = html! {
        (plot.frame())
        @if let Some(target) = target {
            (plot.level(target, &format!("target {} %", super::short(target))))
        }
        (plot.lines(&series))
        (legend)
    };
    let kind = match (of, over) {
        (Of::Loss, Over::Time) => "Loss over time",
        (Of::Loss, Over::Epochs) => "Loss over epochs",
        (Of::Accuracy, Over::Time) => "Accuracy over time",
        (Of::Accuracy, Over::Epochs) => "Accuracy over epochs",
    };
    let mut chart = Chart::new(kind, panel, height, drawing);
    chart.description = describe(&series, of, over);
    let head = ["Row", "Points, as x: y"].map(str::to_owned).to_vec();
    let rows = series.iter().map(|series| {
        let points = series.points.iter().map(|(x, y)| format!("{}: {y:.4}", three_digits(*x)));
        (series.place, vec![series.label.clone(), points.collect::<Vec<_>>().join("  ")])
    });
    chart.table = Table { head, rows: rows.collect() };
    Some(chart)
}

fn line(entry: &Entry, of: Of, over: Over) -> Option<Series> {
    let sample = entry.median_sample(Basis::TrainLoop)?;
    let mut seconds = 0.0;
    let mut points = Vec::new();
    for (index, EpochRecord { epoch, loss, seconds: length, accuracy_percent }) in
        sample.epochs.iter().enumerate()
    {
        seconds += length;
        let last = index + 1 == sample.epochs.len();
        let y = match of {
            Of::Loss => *loss,
            Of::Accuracy if last => accuracy_percent.or(sample.test_accuracy_percent),
            Of::Accuracy => *accuracy_percent,
        };
        let x = if over == Over::Time { seconds } else { f64::from(*epoch) };
        points.extend(y.filter(|y| y.is_finite()).map(|y| (x, y)));
    }
    if points.is_empty() {
        return None;
    }
    if points.len() > MAX_POINTS {
        let last = points.len() - 1;
        points = (0..MAX_POINTS).map(|it| points[it * last / (MAX_POINTS - 1)]).collect();
    }
    Some(Series {
        place: entry.place,
        contestant: entry.contestant,
        label: entry.label.clone(),
        points,
        radius: 3.2,
        filled: entry.row.is_ranked(),
        weak: !entry.row.is_ranked(),
    })
}

fn describe(series: &[Series], of: Of, over: Over) -> String {
    let last = series.iter().take(12).filter_map(|series| {
        let (x, y) = series.points.last()?;
        let unit = if over == Over::Time { " s" } else { "" };
        Some(format!("{} ends at {y:.3} at {}{unit}", series.label, three_digits(*x)))
    });
    let of = if of == Of::Loss { "Training loss" } else { "Test accuracy in percent" };
    let over = if over == Over::Time { "train time" } else { "epochs" };
    format!("{of} over {over}: {}.", last.collect::<Vec<_>>().join("; "))
}
