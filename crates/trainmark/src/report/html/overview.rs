//! What the page says first, and the speed-ups of all panels side by side.

use super::{SHOWN, status_look};
use crate::report::chart::three_digits;
use crate::report::exhibit::{Entry, Exhibit, Panel};
use crate::report::text::{count, visible};
use crate::stats;
use maud::{Markup, html};

/// Columns and rows of the table of speed-ups.
const MAX_PANELS: usize = 12;
const MAX_CONTESTANTS: usize = 60;
/// Panels whose best is told in a sentence.
const MAX_SENTENCES: usize = 8;

/// When and where, how many rows of which kind, and who was fastest.
pub fn lead(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    html! {
        p.origin { (origin(exhibit)) }
        ul.statuses aria-label="Rows by status" {
            @for (status, number) in &summary.statuses {
                @let (class, sign) = status_look(*status, false);
                li.(class) { span aria-hidden="true" { (sign) } " " b { (number) } " " (status) }
            }
        }
        @let best: Vec<_> = exhibit.panels.iter().filter_map(|panel| best(exhibit, panel)).collect();
        @if !best.is_empty() {
            ul.best {
                @for sentence in best.iter().take(MAX_SENTENCES) { li { (sentence) } }
                @if best.len() > MAX_SENTENCES { li { "and " (best.len() - MAX_SENTENCES) " more below" } }
            }
        }
        @if let Some(note) = exhibit.aggregation_note() { p.warning { (note) } }
    }
}

/// Datasets, machines and days in a line.
fn origin(exhibit: &Exhibit) -> String {
    let summary = exhibit.summary;
    let mut parts = Vec::new();
    let datasets: Vec<_> = summary.datasets().take(4).map(|it| summary.dataset_label(it)).collect();
    if !datasets.is_empty() {
        parts.push(datasets.iter().map(|it| visible(it, SHOWN)).collect::<Vec<_>>().join(", "));
    }
    match summary.machines().len() {
        0 => {}
        1 => parts.extend(summary.machines().filter_map(|it| {
            let cpu = visible(it.cpu.as_deref()?, SHOWN).into_owned();
            Some(it.cores.map_or(cpu.clone(), |cores| format!("{cpu}, {}", count(cores, "core"))))
        })),
        number => parts.push(count(number, "machine")),
    }
    let started = || summary.rows().iter().filter_map(|row| row.started);
    if let (Some(first), Some(last)) = (started().min(), started().max()) {
        let day = |moment: jiff::Timestamp| moment.to_string().chars().take(10).collect::<String>();
        parts.push(match day(first) == day(last) {
            true => day(first),
            false => format!("{} to {}", day(first), day(last)),
        });
    }
    parts.join("  ·  ")
}

/// The fastest of a panel, and by how much, if it has a speed-up.
fn best(exhibit: &Exhibit, panel: &Panel) -> Option<Markup> {
    let summary = exhibit.summary;
    let reference = summary.reference.as_ref()?;
    let with = panel.entries.iter().filter_map(|entry| Some((entry.speed_up()?, entry)));
    let (factor, entry) = with.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let is_reference = summary.executable(entry.row) == reference.executable
        && summary.backend(entry.row) == reference.backend;
    let seconds = panel.basis.and_then(|basis| entry.seconds(basis));
    let others = panel.entries.iter().filter(|it| it.speed_up().is_some()).count();
    Some(html! {
        b { bdi { (panel.title) } } ": "
        @if is_reference && others == 1 {
            bdi { (entry.label) }
            @if let Some(seconds) = seconds { ", " (three_digits(seconds)) " s" }
        } @else {
            bdi { (entry.label) } " has the lowest median"
            @if let Some(seconds) = seconds { ", " (three_digits(seconds)) " s" }
            @if !is_reference {
                ", " b { (three_digits(factor)) "×" } (interval(entry)) " the speed of "
                bdi { (visible(&reference.to_string(), SHOWN)) }
                @match entry.difference_is_shown() {
                    Some(true) => {}
                    Some(false) => span.m { " (no difference shown)" },
                    None => span.m { " (too few runs to show a difference)" },
                }
            } @else if let Some((seconds, next)) = next(panel, entry) {
                "; next " bdi { (next.label) } ", " (three_digits(seconds)) " s"
            }
        }
    })
}

/// The fastest of the others.
fn next<'a>(panel: &'a Panel<'a>, first: &Entry) -> Option<(f64, &'a Entry<'a>)> {
    let others = panel.entries.iter().filter(|it| it.place != first.place && it.row.is_ranked());
    let timed = others.filter_map(|it| Some((it.seconds(panel.basis?)?, it)));
    timed.min_by(|a, b| a.0.total_cmp(&b.0))
}

/// ` [3.91, 4.10]`, where there is one.
pub fn interval(entry: &Entry) -> Markup {
    html! {
        @if let Some(it) = entry.speed_up_interval {
            span.interval {
                " [" (three_digits(it.low)) ", " (three_digits(it.high)) "]"
                @if entry.difference_is_shown() == Some(false) {
                    abbr title="no difference shown" { " ≈" }
                }
            }
        }
    }
}

/// Contestants against panels; `None` where there is nothing to lay side by side.
pub fn speed_ups(exhibit: &Exhibit) -> Option<Markup> {
    let panels: Vec<&Panel> = exhibit
        .panels
        .iter()
        .filter(|panel| panel.entries.iter().filter(|it| it.speed_up().is_some()).count() > 1)
        .collect();
    if panels.len() < 2 {
        return None;
    }
    let reference = exhibit.summary.reference.as_ref()?;
    let (shown, left_out) =
        (&panels[..panels.len().min(MAX_PANELS)], panels.len().saturating_sub(MAX_PANELS));
    let mut rows: Vec<(Option<f64>, usize)> = (0..exhibit.contestants.len())
        .map(|contestant| (mean(&panels, contestant), contestant))
        .filter(|(mean, _)| mean.is_some())
        .collect();
    rows.sort_by(|a, b| b.0.unwrap_or(0.0).total_cmp(&a.0.unwrap_or(0.0)));
    Some(html! {
        p.lead {
            "How many times as fast as " bdi { (visible(&reference.to_string(), SHOWN)) } ", with 95 % \
             intervals where there are enough runs. The mean is the geometric one over the panels that a \
             contestant has: means over different panels do not compare."
        }
        div.wide tabindex="0" role="region" aria-label="Speed-ups" {
            table.figures {
                thead { tr {
                    th scope="col" { "Contestant" }
                    @for panel in shown { th.n scope="col" { bdi { (panel.title) } } }
                    th.n scope="col" { "Mean" }
                } }
                tbody {
                    @for (mean, contestant) in rows.iter().take(MAX_CONTESTANTS) {
                        tr {
                            th scope="row" { bdi { (exhibit.contestants[*contestant]) } }
                            @for panel in shown { td.n { (cell(panel, *contestant)) } }
                            td.n { (times(*mean)) " " span.m { "of " (having(&panels, *contestant)) } }
                        }
                    }
                }
            }
        }
        @if left_out > 0 { p.note { (count(left_out, "further panel")) " are in the mean only." } }
    })
}

fn cell(panel: &Panel, contestant: usize) -> Markup {
    let entries = panel.entries.iter().filter(|it| it.contestant == contestant);
    let with = entries.filter(|it| it.speed_up().is_some()).max_by_key(|it| it.row.started);
    html! {
        @match with {
            Some(entry) => { (times(entry.speed_up())) (interval(entry)) }
            None => span.m { "n/a" },
        }
    }
}

fn times(factor: Option<f64>) -> String {
    factor.map_or("n/a".to_owned(), |it| format!("{}×", three_digits(it)))
}

fn factors(panels: &[&Panel], contestant: usize) -> Vec<f64> {
    let medians = panels.iter().filter_map(|panel| {
        let entries = panel.entries.iter().filter(|it| it.contestant == contestant);
        stats::median(&entries.filter_map(Entry::speed_up).collect::<Vec<_>>())
    });
    medians.collect()
}

fn having(panels: &[&Panel], contestant: usize) -> usize {
    factors(panels, contestant).len()
}

fn mean(panels: &[&Panel], contestant: usize) -> Option<f64> {
    let factors = factors(panels, contestant);
    let logarithms: f64 = factors.iter().map(|it| it.ln()).sum();
    (!factors.is_empty()).then(|| (logarithms / factors.len() as f64).exp())
}
