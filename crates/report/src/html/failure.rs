//! What went wrong, with the trainer's last words.

use super::look::{SHOWN, lines, look};
use crate::exhibit::Exhibit;
use crate::text::{count, visible};
use indexmap::IndexSet;
use maud::{Markup, html};
use record::Sample;
use record::summary::Row;

/// Characters of one log, and of all together, so that a folder of failures is still a page.
const LOG: usize = 4000;
const ALL_LOGS: usize = 200_000;
/// Up to so many failures lie open, and so many are shown.
const OPEN: usize = 4;
const SHOWN_FAILURES: usize = 100;

/// `None` if nothing went wrong.
pub fn failures(exhibit: &Exhibit) -> Option<Markup> {
    let rows = || exhibit.summary.rows.iter();
    let failed: Vec<&Row> = rows().filter(|row| row.record.status.failed()).collect();
    if failed.is_empty() {
        return None;
    }
    let mut room = ALL_LOGS;
    let mut seen = IndexSet::new();
    let shown = failed.iter().take(SHOWN_FAILURES);
    let shown: Vec<Markup> = shown.map(|row| failure(row, &mut room, &mut seen)).collect();
    Some(html! {
        @for failure in &shown { (failure) }
        @if failed.len() > shown.len() {
            p.note { (count(failed.len() - shown.len(), "further row")) " failed." }
        }
    })
}

fn name(row: &Row) -> String {
    let name = format!("{}/{} {}", row.record.executable, row.record.backend, row.record.model);
    visible(&name, 2 * SHOWN).into_owned()
}

fn reason(row: &Row) -> String {
    visible(row.record.reason.as_deref().unwrap_or("no reason given"), 1000).into_owned()
}

fn failure(row: &Row, room: &mut usize, seen: &mut IndexSet<String>) -> Markup {
    let (class, sign) = look(row);
    let sample = row.record.samples.iter().find(|it| it.status.failed());
    let command = row.record.trainer.as_ref().map(|it| it.command.join(" "));
    html! {
        details.failure open[seen.len() < OPEN] {
            summary {
                span.(class) { span aria-hidden="true" { (sign) " " } (row.record.status) } " "
                bdi { b { (name(row)) } }
            }
            p { bdi { (reason(row)) } }
            @if let Some(sample) = sample { (logs(sample, room, seen)) }
            p.m {
                "File " bdi { code { (visible(&row.file, 200)) } }
                @if let Some(command) = command.filter(|it| !it.is_empty()) {
                    ", command " bdi { code { (visible(&command, 400)) } }
                }
            }
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
        let is_new = seen.insert(log.clone());
        *room = room.saturating_sub(if is_new { log.len() } else { 0 });
        parts.push((title, is_new.then_some(log)));
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
