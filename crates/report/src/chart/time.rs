//! The time of every sample as a dot: a line for each entry, the fastest first.

use super::axis::{Axis, Origin};
use super::{Chart, Table, WIDTH, at, fitted, mark, remark};
use crate::exhibit::{Entry, Panel};
use crate::table;
use crate::text::{UNKNOWN, three_digits};
use maud::{Markup, html};
use record::figures::Figure;

pub const LEAD: &str = "Each dot is one sample, from top to bottom in the order in which they ran. The \
    upright stroke is the median. The bar is its 95 % interval, if there are enough samples for one. \
    Further left is faster. Faint rows are not ranked.";

/// Height of an entry's line, and of the axis under all of them.
const LINE: f64 = 38.0;
const FOOT: f64 = 40.0;
const MARGIN: f64 = 18.0;
/// Entries that are drawn.
const MAX_LINES: usize = 40;
/// Half of the height over which an entry's samples are spread.
const SPREAD: f64 = 6.0;

/// `None` if no entry has a time.
pub fn draw(panel: &Panel) -> Option<Chart> {
    let clock = panel.clock?;
    let mut lines: Vec<(f64, &Entry)> =
        panel.charted().filter_map(|entry| Some((clock.of(&entry.row.record)?, entry))).collect();
    let all = lines.len();
    lines.truncate(MAX_LINES);
    let seconds = lines.iter().flat_map(|(median, entry)| {
        let interval = entry.interval(clock).map(|it| [it.low, it.high]);
        let more = entry.samples(clock).into_iter().chain(interval.into_iter().flatten());
        more.chain([*median])
    });
    let axis = Axis::new(seconds, Origin::Zero)?.between(MARGIN, WIDTH - MARGIN);
    let bottom = LINE * lines.len() as f64 + 4.0;
    let drawing = html! {
        (axis.upright(4.0, bottom, &clock.title()))
        @for (index, (median, entry)) in lines.iter().enumerate() {
            (line(entry, clock, *median, &axis, LINE * index as f64))
        }
    };
    let mut chart = Chart::new(panel.titled(&clock.label), bottom + FOOT, drawing);
    let listed = lines.iter().take(12);
    let listed =
        listed.map(|(median, entry)| format!("{} {} s", remark(entry), three_digits(*median)));
    let listed = listed.collect::<Vec<_>>().join("; ");
    chart.description =
        format!("Median {} of {all} rows, the fastest first: {listed}.", clock.help);
    chart.table = figures(&lines, clock);
    Some(chart)
}

/// Name and figures above, dots below.
fn line(entry: &Entry, clock: &Figure, median: f64, axis: &Axis, top: f64) -> Markup {
    let samples = entry.samples(clock);
    let middle = top + 28.0;
    let mut figures = format!("{} s", three_digits(median));
    if let Some(change) = entry.row.speed_up.filter(|_| !entry.row.is_reference) {
        figures += &format!(" · {}", table::against(clock, &change, true));
    }
    let weak = if entry.row.is_ranked() { "" } else { " weak" };
    let class = mark::color(entry.contestant) + weak;
    let label = remark(entry);
    html! {
        g class=(class) data-r=(entry.place) {
            title { (label) ": " (figures) ", " (samples.len()) " samples" }
            text.t x=(at(axis.from)) y=(at(top + 15.0)) { (fitted(&label, 54 - figures.chars().count().min(36))) }
            text.m x=(at(axis.to)) y=(at(top + 15.0)) text-anchor="end" { (figures) }
            path.g stroke="currentColor"
                d={ "M" (at(axis.from)) " " (at(middle)) "H" (at(axis.to)) } {}
            @if let Some(interval) = entry.interval(clock) {
                path d={ "M" (at(axis.at(interval.low))) " " (at(middle)) "H" (at(axis.at(interval.high))) }
                    stroke="currentColor" stroke-width="13" stroke-opacity=".2" {}
            }
            path d=(dots(&samples, axis, middle)) stroke="currentColor" stroke-width="4.6"
                stroke-linecap="round" stroke-opacity=".7" {}
            path d={ "M" (at(axis.at(median))) " " (at(middle - 8.0)) "v16" } stroke="currentColor"
                stroke-width="2" {}
        }
    }
}

/// Dots as strokes without length and with round ends: a tenth of the size of circles.
fn dots(samples: &[f64], axis: &Axis, middle: f64) -> String {
    let last = samples.len().saturating_sub(1).max(1) as f64;
    let height = |index: usize| match samples.len() {
        1 => middle,
        _ => middle + SPREAD * (2.0 * index as f64 / last - 1.0),
    };
    let dots = samples.iter().enumerate();
    dots.map(|(index, seconds)| format!("M{} {}h0", at(axis.at(*seconds)), at(height(index))))
        .collect()
}

fn figures(lines: &[(f64, &Entry)], clock: &Figure) -> Table {
    let head = ["Row", "Median (s)", "95 % interval (s)", "Samples", "Every sample (s)"];
    let row = |(median, entry): &(f64, &Entry)| {
        let interval = entry.interval(clock).map_or(UNKNOWN.to_owned(), |it| {
            format!("{} to {}", three_digits(it.low), three_digits(it.high))
        });
        let samples: Vec<String> =
            entry.samples(clock).iter().map(|it| format!("{it:.4}")).collect();
        let number = entry.sample_count().to_string();
        (
            entry.place,
            vec![remark(entry), format!("{median:.4}"), interval, number, samples.join(" ")],
        )
    };
    Table { head: head.map(str::to_owned).to_vec(), rows: lines.iter().map(row).collect() }
}
