//! The page of the history: what changed, then each row over its runs.

use super::figure::figure;
use crate::chart::history::chart;
use crate::history::words;
use crate::text::{count, visible};
use maud::{Markup, html};
use record::history::{Change, History, Series};

/// Rows that are drawn.
const MAX_SERIES: usize = 200;

/// The list of changes, the worst first.
pub fn lead(history: &History) -> Markup {
    let changes =
        history.series.iter().flat_map(|series| series.changes.iter().map(move |it| (series, it)));
    let mut changes: Vec<(&Series, &Change)> = changes.collect();
    changes.sort_by_key(|(_, change)| !change.worse);
    let worse = changes.iter().filter(|(_, change)| change.worse).count();
    let rows = count(history.series.len(), "row");
    html! {
        p.origin { (rows) "  ·  " (history.figure.title()) ": " (history.figure.help) "  ·  oldest run first" }
        p { b { @match (changes.len(), worse) {
            (0, _) => "No change is shown.",
            (all, 0) => { (count(all, "change")) ", all for the better." },
            (all, worse) => { (count(all, "change")) ", " (worse) " for the worse." },
        } } }
        ul.notes { @for (series, change) in changes.iter().take(MAX_SERIES) {
            li { span.(if change.worse { "bad" } else { "good" }) { (if change.worse { "▲ " } else { "▼ " }) }
                bdi { (visible(&series.label, 200)) } ": " bdi { (visible(&words(&history.figure, change), 300)) } }
        } }
        @if history.left_out > 0 {
            p.note { "Left out, without this figure or not ranked: " (count(history.left_out, "result")) "." }
        }
    }
}

/// A chart for each row.
pub fn charts(history: &History) -> Markup {
    let shown = history.series.iter().take(MAX_SERIES).enumerate();
    html! {
        p.lead { "Each dot is a run. An upright line marks a change that is shown: orange for the worse, green for the \
            better. The figures of every run, with its commit, are below each chart." }
        div.charts { @for (index, series) in shown {
            @if let Some(chart) = chart(history, series, index) { (figure(&chart)) }
        } }
        @if history.series.len() > MAX_SERIES {
            p.note { (count(history.series.len() - MAX_SERIES, "further row")) " are not drawn." }
        }
    }
}
