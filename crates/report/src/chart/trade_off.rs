//! What quality costs: time against quality and time against memory, with the rows that no other
//! beats in all of them.

use super::axis::Origin;
use super::plot::{Measure, Plot, Series};
use super::{Chart, Table, at};
use crate::exhibit::{Entry, Panel};
use crate::text::{decimal, short, three_digits};
use maud::{Markup, html};
use record::figures::Figure;
use record::task::Better;

pub const LEAD: &str = "A filled mark is a row that no other ranked row beats or equals in time, memory \
    and quality together (the Pareto front of all three); the stepped line is the front of the two that \
    the chart shows. In the first chart a mark's area is its peak memory.";

/// Of panels that have something to choose from.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let Some(clock) = panel.clock else { return Vec::new() };
    let memory = record::figures::named("peak_memory_mb", panel.entries.iter().map(|it| it.record));
    let entries: Vec<&Entry> =
        panel.charted().filter(|entry| clock.of(entry.record).is_some()).collect();
    if entries.len() < 2 {
        return Vec::new();
    }
    let axes: Vec<&Figure> =
        [Some(clock), memory.as_ref(), panel.quality].into_iter().flatten().collect();
    let costs: Vec<Option<Vec<f64>>> = entries.iter().map(|it| cost(it, &axes)).collect();
    let best: Vec<bool> =
        costs.iter().map(|it| it.as_ref().is_some_and(|it| is_on_front(it, &costs))).collect();
    let found: Vec<(&Entry, bool)> = entries.into_iter().zip(best).collect();
    let most = memory.as_ref().map_or(1.0, |memory| {
        found.iter().filter_map(|it| memory.of(it.0.record)).fold(f64::MIN_POSITIVE, f64::max)
    });
    let radius = |entry: &Entry| match memory.as_ref().and_then(|it| it.of(entry.record)) {
        Some(memory) => (11.0 * (memory / most).sqrt()).max(3.0),
        None => 3.0,
    };
    let quality = panel.quality.and_then(|it| chart(panel, (clock, it), &found, &radius));
    let memory = memory.and_then(|it| chart(panel, (clock, &it), &found, &|_| 5.0));
    quality.into_iter().chain(memory).collect()
}

/// Of ranked rows, less is better; `None` where a figure is not known.
fn cost(entry: &Entry, axes: &[&Figure]) -> Option<Vec<f64>> {
    let cost = |figure: &&Figure| {
        let value = figure.of(entry.record)?;
        Some(if figure.better == Better::Lower { value } else { -value })
    };
    axes.iter().map(cost).collect::<Option<Vec<f64>>>().filter(|_| entry.row.is_ranked())
}

/// No other is at least as good in everything and better in something.
fn is_on_front(cost: &[f64], all: &[Option<Vec<f64>>]) -> bool {
    !all.iter().flatten().any(|other| {
        let pairs = || other.iter().zip(cost);
        pairs().all(|(other, own)| other <= own) && pairs().any(|(other, own)| other < own)
    })
}

fn chart(
    panel: &Panel,
    (clock, figure): (&Figure, &Figure),
    found: &[(&Entry, bool)],
    radius: &dyn Fn(&Entry) -> f64,
) -> Option<Chart> {
    let mut shown: Vec<(&Entry, Series)> = found
        .iter()
        .filter_map(|(entry, on_front)| {
            let series = Series {
                place: entry.place,
                contestant: entry.contestant,
                label: entry.label.clone(),
                points: vec![(clock.of(entry.record)?, figure.of(entry.record)?)],
                radius: radius(entry),
                filled: *on_front,
                weak: !entry.row.is_ranked(),
            };
            Some((*entry, series))
        })
        .collect();
    // The largest first, so that none hides another.
    shown.sort_by(|a, b| b.1.radius.total_cmp(&a.1.radius));
    let (of, series): (Vec<&Entry>, Vec<Series>) = shown.into_iter().unzip();
    let (x, y) = (clock.title(), figure.title());
    let origin = if figure.is_of_machine() { Origin::Zero } else { Origin::Free };
    let x = Measure { title: &x, origin: Origin::Zero };
    let plot = Plot::new(x, Measure { title: &y, origin }, &series, None)?;
    let mut by_place: Vec<&Series> = series.iter().collect();
    by_place.sort_by_key(|series| series.place);
    let (legend, height) = plot.legend(&by_place);
    let target = panel.target.filter(|_| !figure.is_of_machine());
    let drawing = html! {
        (plot.frame())
        @if let Some(target) = target { (plot.level(target, &format!("target {}", short(target)))) }
        (staircase(&plot, &of, (clock, figure)))
        (plot.lines(&series))
        (legend)
    };
    let mut chart = Chart::new(&format!("{} against time", figure.label), panel, height, drawing);
    let listed = series.iter().take(12).map(|series| {
        let (x, y) = series.points[0];
        format!("{} {} s, {}", series.label, three_digits(x), three_digits(y))
    });
    chart.description =
        format!("{y} against time: {}.", listed.collect::<Vec<_>>().join("; "), y = figure.title());
    let rows = series.iter().map(|series| {
        let (x, y) = series.points[0];
        let front = match (series.weak, series.filled) {
            (true, _) => "not ranked",
            (false, true) => "yes",
            (false, false) => "no",
        };
        let cells = vec![series.label.clone(), three_digits(x), decimal(Some(y)), front.to_owned()];
        (series.place, cells)
    });
    let head = vec!["Row".to_owned(), clock.title(), figure.title(), "On the front".to_owned()];
    chart.table = Table { head, rows: rows.collect() };
    Some(chart)
}

/// Through the ranked rows that none beats in both, from the fastest to the slowest.
fn staircase(plot: &Plot, of: &[&Entry], (clock, figure): (&Figure, &Figure)) -> Markup {
    let costs: Vec<Option<Vec<f64>>> = of.iter().map(|it| cost(it, &[clock, figure])).collect();
    let known = costs.iter().flatten();
    let mut front: Vec<&Vec<f64>> = known.filter(|cost| is_on_front(cost, &costs)).collect();
    front.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let sign = if figure.better == Better::Lower { 1.0 } else { -1.0 };
    let steps = front.iter().enumerate().map(|(index, cost)| {
        let (x, y) = plot.at((cost[0], sign * cost[1]));
        match index {
            0 => format!("M{} {}", at(x), at(y)),
            _ => format!("H{}V{}", at(x), at(y)),
        }
    });
    let path: String = steps.collect();
    html! {
        @if front.len() > 1 {
            path.a d=(path) fill="none" stroke="currentColor" stroke-width="1.2" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats_and_equals_share_it() {
        let all = [[1.0, 5.0], [2.0, 3.0], [2.0, 3.0], [3.0, 4.0], [4.0, 1.0]];
        let all = all.map(|cost| Some(cost.to_vec()));
        let front = all.each_ref().map(|cost| is_on_front(cost.as_ref().unwrap(), &all));
        assert_eq!(front, [true, true, true, false, true]);
    }
}
