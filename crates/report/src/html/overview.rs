//! What the page says first, and the speed-ups of all panels side by side.

use super::look::{SHOWN, status_look};
use crate::exhibit::{Entry, Exhibit, Panel};
use crate::table;
use crate::text::{UNKNOWN, count, three_digits, visible};
use maud::{Markup, html};
use record::Verdict;

/// Columns and rows of the table of speed-ups.
const MAX_PANELS: usize = 12;
const MAX_CONTESTANTS: usize = 60;
/// Panels whose best is told in a sentence.
const MAX_SENTENCES: usize = 8;

/// When and where, how many rows of which kind, and who was fastest.
pub fn lead(exhibit: &Exhibit) -> Markup {
    let best: Vec<Markup> = exhibit.panels.iter().filter_map(|it| best(exhibit, it)).collect();
    html! {
        p.origin { (origin(exhibit)) }
        ul.statuses aria-label="Rows by status" {
            @for (status, number) in &exhibit.summary.statuses {
                @let (class, sign) = status_look(*status, false);
                li.(class) { span aria-hidden="true" { (sign) } " " b { (number) } " " (status) }
            }
        }
        @if !best.is_empty() {
            ul.best {
                @for sentence in best.iter().take(MAX_SENTENCES) { li { (sentence) } }
                @if best.len() > MAX_SENTENCES { li { "and " (best.len() - MAX_SENTENCES) " more below" } }
            }
        }
        @if let Some(note) = exhibit.note() { p.warning { (note) } }
    }
}

/// Datasets, machines and days in a line.
fn origin(exhibit: &Exhibit) -> String {
    let summary = exhibit.summary;
    let datasets = summary.datasets.iter().take(4);
    let mut parts: Vec<String> = datasets.map(|it| table::dataset_label(summary, it)).collect();
    match summary.machines.as_slice() {
        [] => {}
        [machine] => parts.extend(machine.cpu.as_deref().map(|cpu| {
            let cores = machine.cores.map(|cores| format!(", {}", count(cores, "core")));
            format!("{}{}", visible(cpu, SHOWN), cores.unwrap_or_default())
        })),
        machines => parts.push(count(machines.len(), "machine")),
    }
    let days = summary.rows.iter().filter_map(|row| row.record.run.as_ref()?.started.get(..10));
    let days: std::collections::BTreeSet<&str> = days.collect();
    match (days.first(), days.last()) {
        (Some(first), Some(last)) if first == last => parts.push(visible(first, 10).into_owned()),
        (Some(first), Some(last)) => {
            parts.push(format!("{} to {}", visible(first, 10), visible(last, 10)));
        }
        _ => {}
    }
    parts.join("  ·  ")
}

/// The fastest ranked row of a panel by the panel's clock, and what is shown of it.
fn best(exhibit: &Exhibit, panel: &Panel) -> Option<Markup> {
    let clock = panel.clock?;
    let first = panel.entries.iter().find(|entry| entry.row.rank == Some(1))?;
    let others = panel.entries.iter().filter(|entry| entry.row.rank.is_some()).count() - 1;
    let seconds = three_digits(clock.of(first.record)?);
    Some(html! {
        b { bdi { (panel.title) } } ": "
        bdi { (first.label) }
        @if others > 0 { " has the lowest median " } @else { ", " }
        (clock.label.to_lowercase()) ", " (seconds) " s"
        @if let (Some(change), Some(reference)) = (first.row.speed_up, &exhibit.summary.reference) {
            @if !first.row.is_reference {
                ", " b { (table::speed_up(exhibit.summary, first.row)) } " of "
                bdi { (visible(&reference.to_string(), SHOWN)) }
                @match change.verdict {
                    Verdict::NoDifference => span.m { " (no difference shown)" },
                    Verdict::Inconclusive => span.m { " (too few samples to show a difference)" },
                    _ => {}
                }
            }
        }
    })
}

/// Contestants against panels; `None` where there is nothing to lay side by side.
pub fn speed_ups(exhibit: &Exhibit) -> Option<Markup> {
    let compares = |panel: &&Panel| panel.entries.iter().filter(|it| has(it)).count() > 1;
    let panels: Vec<&Panel> = exhibit.panels.iter().filter(compares).take(MAX_PANELS).collect();
    let reference = exhibit.summary.reference.as_ref().filter(|_| panels.len() > 1)?;
    let cell = |panel: &Panel, contestant: usize| {
        let entries = panel.entries.iter().filter(|it| it.contestant == contestant && has(it));
        let newest = entries.max_by_key(|it| it.row.moment());
        newest.map_or(UNKNOWN.to_owned(), |it| table::speed_up(exhibit.summary, it.row))
    };
    let rows: Vec<(&String, Vec<String>)> = exhibit
        .contestants
        .iter()
        .enumerate()
        .map(|(index, name)| (name, panels.iter().map(|panel| cell(panel, index)).collect()))
        .filter(|(_, cells): &(_, Vec<String>)| cells.iter().any(|cell| cell != UNKNOWN))
        .take(MAX_CONTESTANTS)
        .collect();
    Some(html! {
        p.lead { "How many times as fast as " bdi { (visible(&reference.to_string(), SHOWN)) } ", with 95 % \
            intervals where there are enough samples." }
        div.wide tabindex="0" role="region" aria-label="Speed-ups" {
            table.figures {
                thead { tr {
                    th scope="col" { "Contestant" }
                    @for panel in &panels { th.n scope="col" { bdi { (panel.title) } } }
                } }
                tbody { @for (name, cells) in &rows {
                    tr {
                        th scope="row" { bdi { (name) } }
                        @for cell in cells { td.n .m[cell == UNKNOWN] { (cell) } }
                    }
                } }
            }
        }
    })
}

fn has(entry: &Entry) -> bool {
    entry.row.speed_up.is_some()
}
