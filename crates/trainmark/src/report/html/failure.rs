//! What went wrong, with the trainer's last words.

use super::{SHOWN, lines, status_look};
use crate::report::collection::Row;
use crate::report::exhibit::Exhibit;
use crate::report::old_result::{ResultFile, Sample, Status};
use crate::report::text::{self, count, visible};
use indexmap::{IndexMap, IndexSet};
use maud::{Markup, html};

/// Characters of one log, and of all together, so that a folder of failures is still a page.
const LOG: usize = 4000;
const ALL_LOGS: usize = 200_000;
/// Up to so many failures lie open.
const OPEN: usize = 4;

/// `None` if nothing went wrong and nothing is missing.
pub fn failures(exhibit: &Exhibit) -> Option<Markup> {
    let summary = exhibit.summary;
    let failed = summary.rows().iter().filter(|row| row.status.failed()).count();
    let unavailable = unavailable(exhibit);
    if failed == 0 && unavailable.is_empty() {
        return None;
    }
    let mut room = ALL_LOGS;
    let mut seen = IndexSet::new();
    let shown: Vec<Markup> = exhibit
        .failures
        .iter()
        .map(|(row, file)| failure(exhibit, row, *file, &mut room, &mut seen))
        .collect();
    Some(html! {
        @for failure in &shown { (failure) }
        @if failed > shown.len() {
            p.note { (count(failed - shown.len(), "further row")) " failed for the same reasons or others; one of each reason is shown, up to " (shown.len()) "." }
        }
        @if !unavailable.is_empty() {
            h3 { "Unavailable here" }
            p.lead { "This machine or this build lacks what these need; that is no failure." }
            ul.notes { @for (reason, rows) in &unavailable {
                li { bdi { (rows.iter().map(String::as_str).collect::<Vec<_>>().join(", ")) } ": " bdi { (reason) } }
            } }
        }
    })
}

/// Who is unavailable for each reason.
fn unavailable(exhibit: &Exhibit) -> IndexMap<String, IndexSet<String>> {
    let summary = exhibit.summary;
    let mut reasons: IndexMap<String, IndexSet<String>> = IndexMap::new();
    for (_, entry) in exhibit.entries().filter(|(_, it)| it.row.status == Status::Unavailable) {
        let reason = summary.reason(entry.row).unwrap_or("no reason given");
        let contestant = exhibit.contestants[entry.contestant].clone();
        reasons.entry(visible(reason, 300).into_owned()).or_default().insert(contestant);
    }
    reasons
}

fn failure(
    exhibit: &Exhibit,
    row: &Row,
    file: Option<&ResultFile>,
    room: &mut usize,
    seen: &mut IndexSet<String>,
) -> Markup {
    let summary = exhibit.summary;
    let (class, sign) = status_look(row.status, row.software);
    let panel = exhibit.entries().find(|(_, it)| std::ptr::eq(it.row, row)).map(|(panel, _)| panel);
    let title = panel
        .map_or_else(|| visible(summary.model(row), SHOWN).into_owned(), |it| it.title.clone());
    let name = format!("{}/{}", summary.executable(row), summary.backend(row));
    let reason = summary.reason(row).unwrap_or("no reason given");
    let sample = file.and_then(|file| file.samples.iter().find(|it| it.status.failed()));
    html! {
        details.failure open[seen.len() < OPEN] {
            summary {
                span.(class) { span aria-hidden="true" { (sign) " " } (row.status) } " "
                bdi { b { (visible(&name, SHOWN)) } } ", " bdi { (title) }
            }
            p { bdi { (visible(reason, 1000)) } }
            @if let Some(sample) = sample { (logs(sample, room, seen)) }
            p.m { "File " bdi { code { (visible(row.file(), 200)) } } @if let Some(place) = command(file) { ", command " bdi { code { (place) } } } }
        }
    }
}

/// Both streams' ends; what was shown before is not shown again.
fn logs(sample: &Sample, room: &mut usize, seen: &mut IndexSet<String>) -> Markup {
    let streams = [
        ("Standard error, its end", &sample.stderr_tail),
        ("Standard output, its end", &sample.stdout_tail),
    ];
    let mut parts = Vec::new();
    for (title, tail) in streams {
        let Some(tail) = tail.as_deref().filter(|tail| !tail.trim().is_empty()) else { continue };
        let log = lines(tail, LOG.min(*room));
        let known = !seen.insert(log.clone());
        if !known {
            *room = room.saturating_sub(log.len());
        }
        parts.push((title, if known { None } else { Some(log) }));
    }
    html! {
        @for (title, log) in &parts {
            h4 { (title) }
            @match log {
                Some(log) => pre tabindex="0" { (log) },
                None => p.m { "The same as above." },
            }
        }
    }
}

fn command(file: Option<&ResultFile>) -> Option<String> {
    let words = &file?.trainer.as_ref()?.command;
    let command = visible(&words.join(" "), 400).into_owned();
    (!command.is_empty() && command != text::UNKNOWN).then_some(command)
}
