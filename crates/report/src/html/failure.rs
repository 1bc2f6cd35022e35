//! The failures, with the last lines of each trainer.

use super::look::{SHOWN, lines, look};
use crate::exhibit::Exhibit;
use crate::text::{count, visible};
use maud::{Markup, html};
use record::summary::Row;

/// Characters of one log, and failures that are shown, so that a folder of failures is still a page.
const LOG: usize = 4000;
const SHOWN_FAILURES: usize = 50;
/// Up to so many failures lie open.
const OPEN: usize = 4;

/// `None` if nothing went wrong.
pub fn failures(exhibit: &Exhibit) -> Option<Markup> {
    let failed: Vec<&Row> =
        exhibit.summary.rows.iter().filter(|row| row.record.status.failed()).collect();
    let more = failed.len().saturating_sub(SHOWN_FAILURES);
    (!failed.is_empty()).then(|| html! {
        @for (index, row) in failed.iter().take(SHOWN_FAILURES).enumerate() { (failure(row, index < OPEN)) }
        @if more > 0 { p.note { (count(more, "further row")) " failed." } }
    })
}

fn failure(row: &Row, open: bool) -> Markup {
    let record = &row.record;
    let (class, sign) = look(row);
    let name = format!("{}/{} {}", record.executable, record.backend, record.model);
    let command = record.trainer.as_ref().map(|it| it.command.join(" ")).unwrap_or_default();
    let sample = record.samples.iter().find(|it| it.status.failed());
    let logs = sample.map(|it| [("error", &it.stderr_tail), ("output", &it.stdout_tail)]);
    html! {
        details.failure open[open] {
            summary {
                span.(class) { span aria-hidden="true" { (sign) " " } (record.status) } " "
                bdi { b { (visible(&name, 2 * SHOWN)) } }
            }
            p { bdi { (visible(record.reason.as_deref().unwrap_or("no reason given"), 1000)) } }
            @for (stream, tail) in logs.into_iter().flatten() {
                @if let Some(tail) = tail.as_deref().filter(|tail| !tail.trim().is_empty()) {
                    h4 { "End of standard " (stream) }
                    pre tabindex="0" { (lines(tail, LOG)) }
                }
            }
            p.m {
                "File " bdi { code { (visible(&row.file, 200)) } }
                @if !command.is_empty() { ", command " bdi { code { (visible(&command, 400)) } } }
            }
        }
    }
}
