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
use record::summary::Summary;
use std::collections::BTreeSet;

/// Panels whose answer stands at the top.
const MAX_ANSWERS: usize = 12;
/// Width of the bars' drawing, in its own units.
const WIDTH: f64 = 1000.0;

/// What was trained, what to mind, and the answers.
pub fn lead(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    let notes = crate::notes::notes(summary, true, Some(Shown::Documents));
    let failed = summary.statuses.iter().filter(|(status, _)| status.failed());
    let failed = failed.map(|(status, number)| format!("{} {status}", count(*number, "row")));
    let answers: Vec<Markup> = exhibit.panels.iter().filter_map(answer).collect();
    html! {
        p.origin { bdi { (visible(&table::headline(summary), 500)) (place_and_time(summary)) } }
        ul.badges aria-label="Cautions" {
            @for badge in failed { li { a.bad href="#failures" { (badge) } } " " }
            @for badge in notes.iter().filter_map(|note| note.badge.as_deref()) {
                li { a.unsure href="#notes" { (visible(badge, SHOWN)) } } " "
            }
        }
        @for answer in answers.iter().take(MAX_ANSWERS) { (answer) }
        @if answers.len() > MAX_ANSWERS {
            p.note { "The table below has " (count(answers.len() - MAX_ANSWERS, "further comparison")) "." }
        }
        @for clock in summary.clocks() {
            p.note { (clock.title()) ": " (clock.help) "." @if !answers.is_empty() { " The bars are medians, with their 95 % intervals if there are six samples; shorter is faster." } }
        }
        @if let Some(line) = table::absent_line(summary) { p.note { bdi { (prose(&line, 2000)) } } }
        @if let Some(note) = exhibit.note() { p.warning { (note) } }
    }
}

/// ` · AMD EPYC 9B45 · 2026-11-24`: the processor of a single machine, and the days.
fn place_and_time(summary: &Summary) -> String {
    let cpu = match summary.machines.as_slice() {
        [machine] => machine.cpu.as_deref(),
        _ => None,
    };
    let days = summary.rows.iter().filter_map(|row| row.record.run.as_ref()?.started.get(..10));
    let days: BTreeSet<&str> = days.collect();
    let until = days.last().filter(|_| days.len() > 1).map(|day| ["to", *day].join(" "));
    let days = days.first().map(|day| [day, until.as_deref().unwrap_or_default()].join(" "));
    let parts = cpu.into_iter().chain(days.as_deref());
    parts.map(|part| format!(" · {}", visible(part.trim_end(), SHOWN))).collect()
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
    Some(html! {
        section.answer {
            h2 { bdi { (panel.title) } }
            p { bdi { b { (first.entry.label) } " " (leads) " with " (three_digits(first.seconds)) " s; " (behind) "." } }
            (bars(&standings, clock))
        }
    })
}

/// A line for each: the name, the time as a bar with its interval, and both in words. Text stands beside the
/// bars and never on them.
fn bars(standings: &[Standing], clock: &Figure) -> Markup {
    let end = |it: &Standing| it.entry.interval(clock).map_or(it.seconds, |interval| interval.high);
    let ends = standings.iter().map(|it| end(it).max(it.seconds));
    let longest = ends.fold(f64::MIN_POSITIVE, f64::max);
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
            @for it in standings {
                div.bar role="listitem" data-r=(it.entry.place) {
                    span.who { bdi { (it.entry.label) } }
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
