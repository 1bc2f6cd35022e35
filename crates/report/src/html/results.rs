//! The table of all entries, which the page's script sorts and filters.

use super::look::look;
use crate::exhibit::{Entry, Exhibit};
use crate::table::{self, Column};
use crate::text::{self, count, three_digits, visible};
use maud::{Markup, html};
use record::Verdict;
use record::figures::{Figure, Shown};
use record::summary::{Difference, Summary};
use std::collections::BTreeSet;

/// With more columns than this, an interval stands under its figure, and paper does without the minor
/// ones.
const ROOMY: usize = 10;

/// The controls and the table.
pub fn table(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    let columns = columns(exhibit);
    let many = exhibit.panels.len() > 1;
    let counts: BTreeSet<usize> = exhibit.entries().map(|(_, it)| it.sample_count()).collect();
    let has_counts = counts.len() > 1;
    let head = many.then(|| ("Benchmark".to_owned(), false)).into_iter();
    let head = head.chain(columns.iter().map(|it| (it.title(summary, true), is_minor(it))));
    let head: Vec<_> = head.chain(has_counts.then(|| ("Samples".to_owned(), false))).collect();
    html! {
        (controls())
        div.wide tabindex="0" role="region" aria-labelledby="results-h" {
            table.figures.dense[head.len() > ROOMY] #results-table {
                thead { tr {
                    @for (title, minor) in &head { th.minor[*minor] scope="col" { button type="button" disabled { (title) } } }
                } }
                tbody {
                    @for (panel, entry) in exhibit.entries() {
                        tr data-r=(entry.place) .best[is_shown_best(entry)] {
                            @if many { td { bdi { (panel.title) } } }
                            @for column in &columns { (cell(summary, entry, column)) }
                            @if has_counts {
                                td.n data-v=(entry.sample_count()) data-l="Samples" { (entry.sample_count()) }
                            }
                        }
                    }
                }
            }
        }
        @if let (false, Some(number)) = (has_counts, counts.first()) {
            p.note { "Medians over " (count(*number, "sample")) " of each row." }
        }
    }
}

/// Those of a terminal, without what the panel's title says, and the documents' figures.
fn columns(exhibit: &Exhibit) -> Vec<Column> {
    let summary = exhibit.summary;
    let in_title = |column: &Column| match column {
        Column::Model => exhibit.panels.len() > 1,
        Column::Difference(of) => !matches!(
            of,
            Difference::Executable
                | Difference::Compiled
                | Difference::Timestamp
                | Difference::File
        ),
        _ => false,
    };
    let mut columns = table::narrow(summary, Shown::Documents, false);
    columns.retain(|column| !in_title(column));
    columns
}

/// Nothing is called the best that the samples do not show.
fn is_shown_best(entry: &Entry) -> bool {
    entry.row.rank == Some(1) && entry.row.speed_up.is_some_and(|it| it.verdict == Verdict::Faster)
}

/// Whether rows are compared by it: an interval of every figure would leave no room.
fn is_clock(summary: &Summary, figure: &Figure) -> bool {
    summary.clocks().iter().any(|clock| clock.key == figure.key)
}

/// Whether a small screen and paper do without it.
fn is_minor(column: &Column) -> bool {
    matches!(column, Column::Figure(figure) if figure.shown < Shown::Everywhere)
}

fn verdict_class(entry: &Entry) -> &'static str {
    match entry.row.speed_up.filter(|_| !entry.row.is_reference).map(|it| it.verdict) {
        Some(Verdict::Faster) => "good",
        Some(Verdict::Slower) => "bad",
        Some(Verdict::Inconclusive) => "unsure",
        _ => "absent",
    }
}

fn cell(summary: &Summary, entry: &Entry, column: &Column) -> Markup {
    let row = entry.row;
    let shown = column.cell(summary, row, false);
    match column {
        Column::Status => {
            let (class, sign) = look(row);
            let reason = row.record.reason.as_deref().map(|reason| visible(reason, 300));
            html! { td class={ "status " (class) } title=[reason] {
                span aria-hidden="true" { (sign) " " } (shown)
            } }
        }
        Column::Verified => {
            let reason = row.verification.as_ref().and_then(|it| it.reason.as_deref());
            let reason = reason.map(|reason| visible(reason, 300));
            html! { td .bad[row.is_different()] title=[reason] { (shown) } }
        }
        Column::Figure(figure) => match figure.of(&row.record) {
            None => html! { td.n.m.minor[is_minor(column)] { (text::UNKNOWN) } },
            Some(value) => html! {
                td.n.minor[is_minor(column)] data-v=(value) data-l=(figure.title()) {
                    (shown)
                    @if let Some(it) = entry.interval(figure).filter(|_| is_clock(summary, figure)) {
                        span.interval { " [" (three_digits(it.low)) ", " (three_digits(it.high)) "]" }
                    }
                }
            },
        },
        Column::SpeedUp => match row.speed_up {
            None => html! { td.n.m { (text::UNKNOWN) } },
            Some(change) => html! {
                td.n.(verdict_class(entry)) data-v=(change.gain) data-l=(column.title(summary, true)) {
                    @match shown.split_once(" [") {
                        Some((factor, interval)) => { (factor) span.interval { " [" (interval) } }
                        None => (shown),
                    }
                }
            },
        },
        Column::Model | Column::Backend | Column::Difference(_) => html! { td { bdi { (shown) } } },
    }
}

/// A field for words; whatever a row says can be looked for. Without a script it would do nothing, so it is
/// hidden until that runs.
fn controls() -> Markup {
    html! {
        form #controls hidden {
            label { "Filter " input type="search" name="text" autocomplete="off" placeholder="any words"; }
            label.narrow { "Sort " select #sort {} }
            output #shown aria-live="polite" {}
        }
    }
}
