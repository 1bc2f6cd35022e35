//! The time of every run as a dot: a line for each entry, the fastest first.

use super::axis::{Axis, Origin, three_digits};
use super::{Chart, Table, WIDTH, at, fitted, mark};
use crate::report::compare::Basis;
use crate::report::exhibit::{Entry, Panel};
use crate::report::old_result::Status;
use maud::{Markup, html};

pub const LEAD: &str = "Each dot is one run, from top to bottom in the order in which they ran; the \
    upright stroke is the median and the bar its 95 % interval, where there are enough runs for one. \
    Further left is faster. Faint rows are not ranked.";

/// Height of an entry's line, and of the axis under all of them.
const LINE: f64 = 38.0;
const FOOT: f64 = 40.0;
const MARGIN: f64 = 10.0;
/// Entries that are drawn.
const MAX_LINES: usize = 40;
/// Half of the height over which an entry's runs are spread.
const SPREAD: f64 = 6.0;

/// `None` if no entry has a time.
pub fn draw(panel: &Panel) -> Option<Chart> {
    let basis = panel.basis?;
    let mut lines: Vec<(f64, &Entry)> =
        panel.charted().filter_map(|entry| Some((entry.seconds(basis)?, entry))).collect();
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    let left_out = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    let seconds = lines.iter().flat_map(|(median, entry)| {
        let interval = entry.interval(basis).map(|it| [it.low, it.high]);
        let more = entry.samples(basis).into_iter().chain(interval.into_iter().flatten());
        more.chain([*median])
    });
    let axis = Axis::new(seconds, Origin::Zero)?.between(MARGIN, WIDTH - MARGIN);
    let bottom = LINE * lines.len() as f64 + 4.0;
    let drawing = html! {
        (grid(&axis, bottom, basis))
        @for (index, (median, entry)) in lines.iter().enumerate() {
            (line(entry, basis, *median, &axis, LINE * index as f64))
        }
    };
    let mut chart = Chart::new(kind(basis), panel, bottom + FOOT, drawing);
    chart.description = describe(&lines, basis, left_out);
    chart.table = table(&lines, basis);
    Some(chart)
}

pub fn kind(basis: Basis) -> &'static str {
    match basis {
        Basis::TrainLoop => "Train time",
        Basis::Wall => "Wall time",
        Basis::Cpu => "CPU time",
    }
}

/// For an axis.
pub fn axis_title(basis: Basis) -> &'static str {
    match basis {
        Basis::TrainLoop => "Train time (seconds)",
        Basis::Wall => "Wall time (seconds)",
        Basis::Cpu => "CPU time (seconds)",
    }
}

fn grid(axis: &Axis, bottom: f64, basis: Basis) -> Markup {
    let lines =
        axis.ticks().into_iter().map(|tick| format!("M{} 4V{}", at(axis.at(tick)), at(bottom)));
    let lines: String = lines.collect();
    let scale = if axis.is_logarithmic() { ", logarithmic" } else { "" };
    html! {
        path.g stroke="currentColor" d=(lines) {}
        g.m text-anchor="middle" font-size="11" {
            @for tick in axis.ticks() {
                text x=(at(axis.at(tick))) y=(at(bottom + 14.0)) { (super::short(tick)) }
            }
            text x=(at(WIDTH / 2.0)) y=(at(bottom + 32.0)) {
                (axis_title(basis)) (scale)
            }
        }
    }
}

/// Name and figures above, dots below.
fn line(entry: &Entry, basis: Basis, median: f64, axis: &Axis, top: f64) -> Markup {
    let samples = entry.samples(basis);
    let middle = top + 28.0;
    let figures = figures(entry, median);
    let weak = if entry.row.is_ranked() { "" } else { " weak" };
    let class = mark::color(entry.contestant) + weak;
    let label = format!("{}{}", entry.label, remark(entry));
    html! {
        g class=(class) data-r=(entry.place) {
            title { (label) ": " (figures) ", " (samples.len()) " runs" }
            text.t x=(at(axis.from())) y=(at(top + 15.0)) { (fitted(&label, 62 - figures.chars().count().min(40))) }
            text.m x=(at(axis.to())) y=(at(top + 15.0)) text-anchor="end" { (figures) }
            path.g stroke="currentColor"
                d={ "M" (at(axis.from())) " " (at(middle)) "H" (at(axis.to())) } {}
            @if let Some(interval) = entry.interval(basis) {
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

fn remark(entry: &Entry) -> String {
    match entry.row.status {
        _ if entry.row_count() > 1 => format!(" ({} rows)", entry.row_count()),
        Status::Measured if entry.row.software => " (software)".to_owned(),
        Status::Measured => String::new(),
        status => format!(" ({status})"),
    }
}

/// `0.520 s, 4.00x [3.91, 4.10]`.
fn figures(entry: &Entry, median: f64) -> String {
    let mut text = format!("{} s", three_digits(median));
    if let Some(factor) = entry.speed_up() {
        text += &format!(" · {}×", three_digits(factor));
        if let Some(it) = entry.speed_up_interval {
            text += &format!(" [{}, {}]", three_digits(it.low), three_digits(it.high));
        }
    }
    text
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

fn describe(lines: &[(f64, &Entry)], basis: Basis, left_out: usize) -> String {
    let listed = lines.iter().take(12).map(|(median, entry)| {
        format!("{}{} {} s", entry.label, remark(entry), three_digits(*median))
    });
    let mut text = format!(
        "Median {} of {} rows, the fastest first: {}",
        basis.words(),
        lines.len() + left_out,
        listed.collect::<Vec<_>>().join("; ")
    );
    if lines.len() + left_out > 12 {
        text += "; and so on in the table";
    }
    text + "."
}

fn table(lines: &[(f64, &Entry)], basis: Basis) -> Table {
    let head = ["Row", "Median (s)", "95 % interval (s)", "Runs", "Every run (s)"];
    let row = |(median, entry): &(f64, &Entry)| {
        let interval = entry.interval(basis);
        let interval = interval.map_or("n/a".to_owned(), |it| {
            format!("{} to {}", three_digits(it.low), three_digits(it.high))
        });
        let samples: Vec<String> =
            entry.samples(basis).iter().map(|it| format!("{it:.4}")).collect();
        let label = format!("{}{}", entry.label, remark(entry));
        let cells = vec![
            label,
            format!("{median:.4}"),
            interval,
            entry.sample_count().to_string(),
            samples.join(" "),
        ];
        (entry.place, cells)
    };
    Table { head: head.map(str::to_owned).to_vec(), rows: lines.iter().map(row).collect() }
}
