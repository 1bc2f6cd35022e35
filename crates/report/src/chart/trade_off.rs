//! The cost of quality: time against quality and time against memory, with the rows that no other row beats in all
//! of them.

use super::Chart;
use super::axis::Origin;
use super::plot::{self, Series};
use crate::exhibit::{Entry, Panel};
use record::figures::{Figure, named};
use record::task::Better;

pub const LEAD: &str = "A filled mark is on the Pareto front: no other ranked row is at least as good in time, \
    memory and quality together. In the first chart the area of a mark is its peak memory.";

/// The charts of a panel with at least two rows to choose from.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let Some(clock) = panel.clock else { return Vec::new() };
    let Some(memory) = named("peak_memory_mb", panel.entries.iter().map(|it| &it.row.record))
    else {
        return Vec::new();
    };
    let entries = panel.charted().filter(|entry| clock.of(&entry.row.record).is_some());
    let entries: Vec<&Entry> = entries.collect();
    if entries.len() < 2 {
        return Vec::new();
    }
    let axes: Vec<&Figure> = [clock, &memory].into_iter().chain(panel.quality).collect();
    let costs: Vec<Option<Vec<f64>>> = entries.iter().map(|it| cost(it, &axes)).collect();
    let most =
        entries.iter().filter_map(|it| memory.of(&it.row.record)).fold(f64::MIN_POSITIVE, f64::max);
    let area = |entry: &Entry| {
        memory.of(&entry.row.record).map_or(3.0, |memory| (11.0 * (memory / most).sqrt()).max(3.0))
    };
    let chart = |figure: &Figure| {
        let shown = entries.iter().zip(&costs).filter_map(|(entry, cost)| {
            let point = (clock.of(&entry.row.record)?, figure.of(&entry.row.record)?);
            let on_front = cost.as_ref().is_some_and(|it| is_on_front(it, &costs));
            let radius = if figure.is_of_machine() { 5.0 } else { area(entry) };
            Some(Series::of(entry, vec![point], radius, on_front))
        });
        let mut series: Vec<Series> = shown.collect();
        // The largest first, so that none hides another.
        series.sort_by(|a, b| b.radius.total_cmp(&a.radius));
        let origin = if figure.is_of_machine() { Origin::Zero } else { Origin::Free };
        let target = panel.target.filter(|_| !figure.is_of_machine());
        let (x, y) = (clock.title(), figure.title());
        let axes = ((&*x, Origin::Zero), (&*y, origin));
        let title = panel.titled(&format!("{} against time", figure.label));
        plot::chart(title, axes, &series, &plot::target(target))
    };
    panel.quality.into_iter().chain([&memory]).filter_map(chart).collect()
}

/// The costs of a ranked row, less is better; `None` if a figure is not known.
fn cost(entry: &Entry, axes: &[&Figure]) -> Option<Vec<f64>> {
    let cost = |figure: &&Figure| {
        let value = figure.of(&entry.row.record)?;
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
