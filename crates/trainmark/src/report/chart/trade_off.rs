//! What accuracy costs: time against accuracy and time against memory, with the rows that no other
//! beats in all of them.

use super::axis::{Origin, three_digits};
use super::plot::{Measure, Plot, Series};
use super::{Chart, Table, at};
use crate::report::compare::Basis;
use crate::report::exhibit::{Entry, Panel};
use maud::{Markup, html};

pub const LEAD: &str = "A filled mark is a row that no other ranked row beats or equals in time, memory \
    and accuracy together (the Pareto front of all three); the stepped line is the front of the two that \
    the chart shows. In the first chart a mark's area is its peak memory. Up and left is better there, \
    down and left in the second.";

/// What an entry costs and gains.
struct Point<'a> {
    entry: &'a Entry<'a>,
    seconds: f64,
    memory_mb: Option<f64>,
    accuracy_percent: Option<f64>,
    on_front: bool,
}

/// Of panels that have something to choose from.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let Some(basis) = panel.basis else { return Vec::new() };
    let mut points: Vec<Point> = panel
        .charted()
        .filter_map(|entry| {
            Some(Point {
                seconds: entry.seconds(basis)?,
                memory_mb: entry.memory_mb(),
                accuracy_percent: entry.accuracy_percent(),
                on_front: false,
                entry,
            })
        })
        .collect();
    if points.len() < 2 {
        return Vec::new();
    }
    let costs: Vec<Option<[f64; 3]>> = points
        .iter()
        .map(|point| {
            let accuracy = point.accuracy_percent?;
            point.entry.row.is_ranked().then_some([point.seconds, point.memory_mb?, -accuracy])
        })
        .collect();
    for (point, cost) in points.iter_mut().zip(&costs) {
        point.on_front = cost.is_some_and(|cost| is_on_front(cost, &costs));
    }
    [accuracy(panel, basis, &points), memory(panel, basis, &points)].into_iter().flatten().collect()
}

/// No other is at least as good in everything and better in something.
fn is_on_front<const N: usize>(cost: [f64; N], all: &[Option<[f64; N]>]) -> bool {
    !all.iter().flatten().any(|other| {
        let pairs = || other.iter().zip(&cost);
        pairs().all(|(other, own)| other <= own) && pairs().any(|(other, own)| other < own)
    })
}

fn accuracy(panel: &Panel, basis: Basis, points: &[Point]) -> Option<Chart> {
    let most = points.iter().filter_map(|it| it.memory_mb).fold(f64::MIN_POSITIVE, f64::max);
    let radius = |point: &Point| match point.memory_mb {
        Some(memory) => (11.0 * (memory / most).sqrt()).max(3.0),
        None => 3.0,
    };
    let y = Measure { title: "Test accuracy (%)", origin: Origin::Free };
    let target = panel.target_accuracy_percent;
    chart(
        "Accuracy against time",
        panel,
        basis,
        points,
        y,
        target,
        |it| it.accuracy_percent,
        -1.0,
        &radius,
    )
}

fn memory(panel: &Panel, basis: Basis, points: &[Point]) -> Option<Chart> {
    let y = Measure { title: "Peak memory (MB)", origin: Origin::Zero };
    chart("Memory against time", panel, basis, points, y, None, |it| it.memory_mb, 1.0, &|_| 5.0)
}

/// `sign` is 1 where less is better.
#[allow(clippy::too_many_arguments, reason = "one call for each of the two charts, just above")]
fn chart(
    kind: &str,
    panel: &Panel,
    basis: Basis,
    points: &[Point],
    y: Measure,
    target: Option<f64>,
    height_of: impl Fn(&Point) -> Option<f64>,
    sign: f64,
    radius: &dyn Fn(&Point) -> f64,
) -> Option<Chart> {
    let mut shown: Vec<(&Point, Series)> = points
        .iter()
        .filter_map(|point| {
            let series = Series {
                place: point.entry.place,
                contestant: point.entry.contestant,
                label: point.entry.label.clone(),
                points: vec![(point.seconds, height_of(point)?)],
                radius: radius(point),
                filled: point.on_front,
                weak: !point.entry.row.is_ranked(),
            };
            Some((point, series))
        })
        .collect();
    // The largest first, so that none hides another.
    shown.sort_by(|a, b| b.1.radius.total_cmp(&a.1.radius));
    let (of, series): (Vec<&Point>, Vec<Series>) = shown.into_iter().unzip();
    let x = Measure { title: super::time::axis_title(basis), origin: Origin::Zero };
    let plot = Plot::new(x, y, &series, None)?;
    let mut by_place: Vec<&Series> = series.iter().collect();
    by_place.sort_by_key(|series| series.place);
    let (legend, height) = plot.legend_of(&by_place);
    let front = front(&of, &series, sign);
    let drawing = html! {
        (plot.frame())
        @if let Some(target) = target {
            (plot.level(target, &format!("target {} %", super::short(target))))
        }
        (staircase(&plot, &front))
        (plot.lines(&series))
        (legend)
    };
    let mut chart = Chart::new(kind, panel, height, drawing);
    chart.description = describe(&of, &series, y.title);
    chart.table = table(&of, &series, basis);
    Some(chart)
}

/// Ranked points that none beats in both, from the fastest to the slowest.
fn front(of: &[&Point], series: &[Series], sign: f64) -> Vec<(f64, f64)> {
    let costs: Vec<Option<[f64; 2]>> = of
        .iter()
        .zip(series)
        .map(|(point, series)| {
            let (x, y) = series.points[0];
            point.entry.row.is_ranked().then_some([x, sign * y])
        })
        .collect();
    let mut front: Vec<(f64, f64)> = costs
        .iter()
        .flatten()
        .filter(|cost| is_on_front(**cost, &costs))
        .map(|cost| (cost[0], sign * cost[1]))
        .collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    front
}

fn staircase(plot: &Plot, front: &[(f64, f64)]) -> Markup {
    let mut path = String::new();
    for (index, point) in front.iter().enumerate() {
        let (x, y) = plot.at(*point);
        path += &match index {
            0 => format!("M{} {}", at(x), at(y)),
            _ => format!("H{}V{}", at(x), at(y)),
        };
    }
    html! {
        @if front.len() > 1 {
            path.a d=(path) fill="none" stroke="currentColor" stroke-width="1.2" {}
        }
    }
}

fn describe(of: &[&Point], series: &[Series], y: &str) -> String {
    let front = of.iter().filter(|point| point.on_front).take(12);
    let front = front.map(|point| point.entry.label.clone()).collect::<Vec<_>>();
    let listed = series.iter().take(12).map(|series| {
        let (x, y) = series.points[0];
        format!("{} {} s, {}", series.label, three_digits(x), three_digits(y))
    });
    let listed = listed.collect::<Vec<_>>().join("; ");
    format!(
        "{y} against time: {listed}. Best in time, memory and accuracy together: {}.",
        if front.is_empty() { "none".to_owned() } else { front.join("; ") }
    )
}

fn table(of: &[&Point], series: &[Series], basis: Basis) -> Table {
    let head =
        ["Row", super::time::kind(basis), "Peak memory (MB)", "Test accuracy (%)", "On the front"];
    let figure = |it: Option<f64>| it.map_or("n/a".to_owned(), |it| format!("{it:.2}"));
    let rows = of.iter().zip(series).map(|(point, series)| {
        let cells = vec![
            series.label.clone(),
            format!("{} s", three_digits(point.seconds)),
            figure(point.memory_mb),
            figure(point.accuracy_percent),
            match (point.entry.row.is_ranked(), point.on_front) {
                (false, _) => "not ranked".to_owned(),
                (true, true) => "yes".to_owned(),
                (true, false) => "no".to_owned(),
            },
        ];
        (series.place, cells)
    });
    Table { head: head.map(str::to_owned).to_vec(), rows: rows.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats_and_equals_share_it() {
        let all = [[1.0, 5.0], [2.0, 3.0], [2.0, 3.0], [3.0, 4.0], [4.0, 1.0]].map(Some);
        let front = all.map(|cost| is_on_front(cost.unwrap(), &all));
        assert_eq!(front, [true, true, true, false, true]);
    }
}
