//! The head of the page: the cautions, and for each panel the fastest row, in a sentence and with bars. Also the
//! section with the notes.

use super::look::{SHOWN, prose};
use crate::chart::mark;
use crate::exhibit::{Entry, Exhibit, Panel, Standing, is_fastest};
use crate::table;
use crate::text::{count, three_digits, visible};
use maud::{Markup, html};
use record::Verdict;
use record::figures::{Figure, Shown};

/// Panels whose answer stands at the top.
const MAX_ANSWERS: usize = 12;
/// Width of the bars' drawing, in its own units.
const WIDTH: f64 = 1000.0;

/// When and where, what to mind, and the answers.
pub fn lead(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    let notes = crate::notes::notes(summary, true, Some(Shown::Documents));
    let failed = summary.statuses.iter().filter(|(status, _)| status.failed());
    let failed = failed.map(|(status, number)| format!("{} {status}", count(*number, "row")));
    let few = exhibit
        .entries()
        .all(|(panel, it)| panel.clock.is_none_or(|clock| it.interval(clock).is_none()));
    let answers: Vec<Markup> = exhibit.panels.iter().filter_map(answer).collect();
    html! {
        p.origin { (origin(exhibit)) }
        ul.badges aria-label="Cautions" {
            @for badge in failed { li { a.bad href="#failures" { (badge) } } " " }
            @for badge in notes.iter().filter_map(|note| note.badge.as_deref()) {
                li { a.unsure href="#notes" { (visible(badge, SHOWN)) } } " "
            }
        }
        @if answers.is_empty() { (alone(exhibit)) }
        @for answer in answers.iter().take(MAX_ANSWERS) { (answer) }
        @if answers.len() > MAX_ANSWERS {
            p.note { "The table below has " (count(answers.len() - MAX_ANSWERS, "further comparison")) "." }
        }
        @for clock in summary.clocks() {
            p.note { (clock.title()) ": " (clock.help) ". The bars are medians" @if !few { " with their 95 % intervals" } "; shorter is faster." }
        }
        @if let Some(line) = table::absent_line(summary) { p.note { bdi { (prose(&line, 2000)) } } }
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
    parts.push(count(exhibit.entries().count() + exhibit.left_out, "row"));
    parts.join("  ·  ")
}

/// The answer of a panel in which several rows are ranked: the fastest, and how much slower the others are.
fn answer(panel: &Panel) -> Option<Markup> {
    let clock = panel.clock?;
    let standings = panel.standings();
    let (first, others) = standings.split_first().filter(|(_, others)| !others.is_empty())?;
    // Nothing is called the fastest that the samples do not show.
    let leads = if is_fastest(&standings) { "is the fastest" } else { "has the lowest median" };
    let behind = others.iter().map(|it| match it.behind {
        None => format!("{} {} s", it.entry.label, three_digits(it.seconds)),
        Some(change) if change.verdict == Verdict::NoDifference => {
            format!("{}: no difference shown", it.entry.label)
        }
        Some(change) => format!("{} is {}", it.entry.label, table::against(clock, &change, true)),
    });
    let behind = behind.collect::<Vec<_>>().join(", ");
    let rows = standings.iter().map(|it| (it.entry.label.clone(), it));
    Some(html! {
        section.answer {
            h2 { bdi { (panel.title) } }
            p { bdi { b { (first.entry.label) } " " (leads) " with " (three_digits(first.seconds)) " s; " (behind) "." } }
            (bars(&rows.collect::<Vec<_>>(), clock))
        }
    })
}

/// The times of one contestant, or of several that cannot be compared.
fn alone(exhibit: &Exhibit) -> Markup {
    let clocks = exhibit.summary.clocks();
    let Some(clock) = clocks.first() else { return html! {} };
    let panels = exhibit.panels.iter().filter(|it| it.clock.is_some_and(|it| it.key == clock.key));
    let standings: Vec<(String, Vec<Standing>)> =
        panels.map(|panel| (panel.title.clone(), panel.standings())).collect();
    let rows = standings.iter().flat_map(|(title, of)| of.iter().map(|it| (title.clone(), it)));
    let rows: Vec<(String, &Standing)> = rows.collect();
    html! { @if !rows.is_empty() { section.answer {
        p { "There is one trainer, so nothing is compared. " (clock.title()) " of each row:" }
        (bars(&rows, clock))
    } } }
}

/// A line for each: the name, the time as a bar with its interval, and both in words. Text stands beside the
/// bars and never on them.
fn bars(rows: &[(String, &Standing)], clock: &Figure) -> Markup {
    let ends = rows.iter().map(|(_, it)| it.entry.interval(clock).map_or(it.seconds, |it| it.high));
    let longest =
        rows.iter().map(|(_, it)| it.seconds).chain(ends).fold(f64::MIN_POSITIVE, f64::max);
    let at = |seconds: f64| crate::chart::at((WIDTH * seconds / longest).clamp(2.0, WIDTH));
    let bar = |entry: &Entry, seconds: f64| {
        html! {
            svg viewBox={ "0 0 " (WIDTH) " 16" } preserveAspectRatio="none" aria-hidden="true" {
                rect.f width=(at(seconds)) height="16" {}
                @if let Some(it) = entry.interval(clock) {
                    path.whisker d={ "M" (at(it.low)) " 8H" (at(it.high)) } stroke="currentColor" {}
                }
            }
        }
    };
    html! {
        div.bars.chart role="list" {
            @for (name, it) in rows {
                div.bar role="listitem" data-r=(it.entry.place) {
                    span.who { bdi { (name) } }
                    span class=(mark::color(it.entry.contestant)) { (bar(it.entry, it.seconds)) }
                    span.time { (three_digits(it.seconds)) " s" }
                    span.behind { @if let Some(change) = it.behind { (table::against(clock, &change, false)) } }
                }
            }
        }
    }
}

/// Every note in full, and what all rows have in common.
pub fn notes(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    let setting = |(key, value): (String, String)| {
        format!("{} {}", visible(&key.replace('_', " "), SHOWN), visible(&value, SHOWN))
    };
    let settings: Vec<String> =
        table::settings(summary).into_iter().take(40).map(setting).collect();
    html! {
        ul.notes {
            @for note in crate::notes::notes(summary, true, Some(Shown::Documents)) { li { bdi { (prose(&note.text, 2000)) } } }
            @if !settings.is_empty() { li { "Settings: " bdi { (settings.join(", ")) } } }
        }
    }
}
