//! The table of all entries, which the page's script sorts and filters.

use super::overview::interval;
use super::{SHOWN, status_look};
use crate::report::chart::three_digits;
use crate::report::compare::Basis;
use crate::report::exhibit::{Entry, Exhibit, Panel};
use crate::report::notes::is_claimed;
use crate::report::summary::{Identity, Summary};
use crate::report::text::{self, count, visible};
use maud::{Markup, html};
use record::Verdict;
use std::collections::BTreeSet;

/// Disturbances that are listed.
const MAX_REASONS: usize = 2;
/// Panels whose settings are listed.
const MAX_PANELS: usize = 30;

/// A column, and whether a phone does without it.
enum Column<'a> {
    /// The panel's title: the model, and in what its panels differ.
    Benchmark,
    Executable,
    Backend,
    Identity(&'a Identity),
    Status,
    Verified,
    Seconds(Basis),
    SpeedUp,
    Verdict,
    ToTarget,
    EpochsToTarget,
    Rate,
    Share,
    Accuracy,
    Memory,
    Runs,
}

/// With more columns than this, an interval stands under its figure, and paper does without the minor
/// ones.
const ROOMY: usize = 10;

/// The controls, the table and its notes.
pub fn table(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    let columns = columns(exhibit);
    html! {
        (controls(exhibit))
        div.wide tabindex="0" role="region" aria-labelledby="results-h" {
            table.figures.dense[columns.len() > ROOMY] #results-table {
                thead { tr {
                    @for column in &columns {
                        th scope="col" class=(column.class()) {
                            button type="button" disabled { (column.title()) }
                        }
                    }
                } }
                tbody {
                    @for (panel, entry) in exhibit.entries() {
                        tr data-r=(entry.place) data-model=(visible(summary.model(entry.row), SHOWN))
                            data-executable=(visible(summary.executable(entry.row), SHOWN))
                            data-backend=(visible(summary.backend(entry.row), SHOWN))
                            data-status=(status_words(entry)) data-verdict=[verdict_words(entry)]
                            .best[entry.row.rank == Some(1) && entry.row_count() == 1] {
                            @for column in &columns { (column.cell(summary, panel, entry)) }
                        }
                    }
                }
            }
        }
        (settings(exhibit))
        (notes(exhibit))
    }
}

fn status_words(entry: &Entry) -> &'static str {
    match entry.row.is_ranked_but_for_software() {
        true => "software",
        false => entry.row.status.words(),
    }
}

fn verdict_words(entry: &Entry) -> Option<&'static str> {
    entry.verdict().map(|it| match it {
        Verdict::Faster => "faster",
        Verdict::Slower => "slower",
        _ => "no difference shown",
    })
}

/// A field for text and a choice for each name of which there are several. Without a script they
/// would do nothing, so they are hidden until it runs.
fn controls(exhibit: &Exhibit) -> Markup {
    let of = |get: &dyn Fn(&Entry) -> String| -> BTreeSet<String> {
        exhibit.entries().map(|(_, entry)| get(entry)).collect()
    };
    let summary = exhibit.summary;
    let choices = [
        ("model", "Model", of(&|it| visible(summary.model(it.row), SHOWN).into_owned())),
        (
            "executable",
            "Executable",
            of(&|it| visible(summary.executable(it.row), SHOWN).into_owned()),
        ),
        ("backend", "Backend", of(&|it| visible(summary.backend(it.row), SHOWN).into_owned())),
        ("status", "Status", of(&|it| status_words(it).to_owned())),
        (
            "verdict",
            "Verdict",
            exhibit.entries().filter_map(|(_, it)| verdict_words(it)).map(str::to_owned).collect(),
        ),
    ];
    html! {
        form #controls hidden {
            label { "Filter " input type="search" name="text" autocomplete="off" placeholder="any words"; }
            @for (name, title, values) in choices.iter().filter(|(_, _, values)| values.len() > 1) {
                label {
                    (title) " "
                    select name=(name) {
                        option value="" { "all" }
                        // With a sign in front: a name may be empty, which means all.
                        @for value in values { option value={ "=" (value) } { (value) } }
                    }
                }
            }
            label.narrow { "Sort " select #sort {} }
            output #shown aria-live="polite" {}
        }
    }
}

fn columns<'a>(exhibit: &'a Exhibit) -> Vec<Column<'a>> {
    let summary = exhibit.summary;
    let mut columns = Vec::new();
    if exhibit.panels.len() > 1 {
        columns.push(Column::Benchmark);
    }
    if summary.executables().len() > 1 {
        columns.push(Column::Executable);
    }
    columns.push(Column::Backend);
    let others = summary.identity.iter().filter(|it| match it {
        Identity::Timestamp | Identity::File => !exhibit.aggregated,
        Identity::Compiled => true,
        // The panel's title or its settings.
        Identity::Executable | Identity::Config(_) | Identity::Dataset | Identity::Machine => false,
    });
    columns.extend(others.map(Column::Identity));
    columns.push(Column::Status);
    if summary.has_verifications() {
        columns.push(Column::Verified);
    }
    let has = |basis: Basis| exhibit.entries().any(|(_, it)| it.seconds(basis).is_some());
    columns.extend([Basis::TrainLoop].into_iter().filter(|it| has(*it)).map(Column::Seconds));
    if summary.compares() {
        columns.push(Column::SpeedUp);
    }
    if exhibit.entries().any(|(_, it)| it.verdict().is_some()) {
        columns.push(Column::Verdict);
    }
    let figures = [Column::ToTarget, Column::EpochsToTarget, Column::Rate, Column::Share];
    let known = |it: &Column| exhibit.entries().any(|(_, entry)| it.figure(entry).is_some());
    columns.extend(figures.into_iter().filter(known));
    columns.extend([Column::Accuracy, Column::Memory]);
    // Two clocks around the same work would be one too many, unless there is no better one.
    let clocks = [(Basis::Cpu, true), (Basis::Wall, !has(Basis::TrainLoop))];
    let clocks = clocks.into_iter().filter(|(basis, wanted)| *wanted && has(*basis));
    columns.extend(clocks.map(|(basis, _)| Column::Seconds(basis)));
    if exhibit.entries().any(|(_, it)| it.sample_count() > 1) {
        columns.push(Column::Runs);
    }
    columns
}

impl Column<'_> {
    fn title(&self) -> String {
        match self {
            Column::Benchmark => "Benchmark".to_owned(),
            Column::Executable => "Executable".to_owned(),
            Column::Backend => "Backend".to_owned(),
            Column::Identity(identity) => visible(&identity.title(), SHOWN).into_owned(),
            Column::Status => "Status".to_owned(),
            Column::Verified => "Verified".to_owned(),
            Column::Seconds(Basis::TrainLoop) => "Train (s)".to_owned(),
            Column::Seconds(Basis::Wall) => "Wall (s)".to_owned(),
            Column::Seconds(Basis::Cpu) => "CPU (s)".to_owned(),
            Column::SpeedUp => "Speed-up".to_owned(),
            Column::Verdict => "Verdict".to_owned(),
            Column::ToTarget => "To target (s)".to_owned(),
            Column::EpochsToTarget => "Epochs to target".to_owned(),
            Column::Rate => "GFLOP/s".to_owned(),
            Column::Share => "Peak (%)".to_owned(),
            Column::Accuracy => "Accuracy (%)".to_owned(),
            Column::Memory => "Memory (MB)".to_owned(),
            Column::Runs => "Runs".to_owned(),
        }
    }

    fn is_figure(&self) -> bool {
        use Column::{Backend, Benchmark, Executable, Identity, Status, Verdict, Verified};
        !matches!(
            self,
            Benchmark | Executable | Backend | Identity(_) | Status | Verdict | Verified
        )
    }

    /// A class of what a phone does without.
    fn minor(&self) -> &'static str {
        match self {
            Column::EpochsToTarget | Column::Rate | Column::Share => " minor",
            Column::Runs | Column::Seconds(Basis::Wall | Basis::Cpu) => " minor",
            _ => "",
        }
    }

    fn class(&self) -> String {
        let figure = if self.is_figure() { "n" } else { "" };
        format!("{figure}{}", self.minor()).trim().to_owned()
    }

    fn figure(&self, entry: &Entry) -> Option<f64> {
        match self {
            Column::Seconds(basis) => entry.seconds(*basis),
            Column::SpeedUp => entry.speed_up(),
            Column::ToTarget => entry.figure(|row| row.race()?.seconds),
            Column::EpochsToTarget => entry.figure(|row| row.race()?.epochs),
            Column::Rate => entry.figure(|row| Some(row.roofline()?.achieved_flop_per_s / 1e9)),
            Column::Share => entry.figure(|row| Some(row.roofline()?.share? * 100.0)),
            Column::Accuracy => entry.accuracy_percent(),
            Column::Memory => entry.memory_mb(),
            Column::Runs => Some(entry.sample_count() as f64),
            _ => None,
        }
    }

    fn cell(&self, summary: &Summary, panel: &Panel, entry: &Entry) -> Markup {
        let row = entry.row;
        let name = |text: &str| html! { td { bdi { (visible(text, SHOWN)) } } };
        match self {
            Column::Benchmark => html! { td { bdi { (panel.title) } } },
            Column::Executable => name(summary.executable(row)),
            Column::Backend => name(summary.backend(row)),
            Column::Identity(identity) => name(&summary.identity_of(row, identity)),
            Column::Status => status(summary, entry),
            Column::Verified => {
                let reason = summary.verification(row).and_then(|it| it.reason.as_deref());
                let title = reason.map(|reason| visible(reason, 300));
                html! { td .bad[row.different] title=[title] { (summary.grade(row).words()) } }
            }
            Column::Verdict => verdict(summary, entry),
            _ => match self.figure(entry) {
                None => html! { td class={ "n m" (self.minor()) } { (text::UNKNOWN) } },
                Some(figure) => html! {
                    td class={ "n" (self.minor()) } data-v=(figure) data-l=(self.title()) {
                        (self.shown(summary, entry, figure))
                    }
                },
            },
        }
    }

    fn shown(&self, summary: &Summary, entry: &Entry, figure: f64) -> Markup {
        match self {
            Column::Seconds(basis) => html! {
                (three_digits(figure))
                @if let Some(it) = entry.interval(*basis).filter(|_| *basis == Basis::TrainLoop) {
                    span.interval { " [" (three_digits(it.low)) ", " (three_digits(it.high)) "]" }
                }
            },
            Column::SpeedUp => html! {
                (three_digits(figure)) "×" (basis_mark(summary, entry)) (interval(entry))
            },
            Column::Accuracy => html! {
                (text::decimal(Some(figure)))
                @if is_claimed(summary, entry.row) { abbr title="as the trainer claims" { "†" } }
            },
            Column::Runs | Column::EpochsToTarget => html! { (figure) },
            Column::ToTarget | Column::Rate | Column::Share => {
                html! { (three_digits(figure)) }
            }
            _ => html! { (text::decimal(Some(figure))) },
        }
    }
}

/// By which seconds, where it is not the usual ones.
fn basis_mark(summary: &Summary, entry: &Entry) -> &'static str {
    match entry.row.speed_up.map(|it| it.basis) {
        Some(basis) if Some(&basis) == summary.bases.first() => "",
        Some(Basis::Wall) => " (wall)",
        Some(Basis::Cpu) => " (CPU)",
        _ => "",
    }
}

/// What may be claimed of its speed.
fn verdict(summary: &Summary, entry: &Entry) -> Markup {
    let class = match entry.verdict() {
        Some(Verdict::Faster) => "good",
        Some(Verdict::Slower) => "bad",
        _ => "absent",
    };
    let names = (summary.executable(entry.row), summary.backend(entry.row));
    let is_reference =
        summary.reference.as_ref().is_some_and(|it| (&*it.executable, &*it.backend) == names);
    let none = if is_reference { "reference" } else { text::UNKNOWN };
    let words = verdict_words(entry).unwrap_or(none);
    let class = if words == text::UNKNOWN { "absent m" } else { class };
    html! { td class=(class) { (words) } }
}

fn status(summary: &Summary, entry: &Entry) -> Markup {
    let row = entry.row;
    let (class, sign) = status_look(row.status, row.software);
    let words = status_words(entry);
    let reason = summary.reason(row).map(|reason| visible(reason, 300));
    html! {
        td class={ "status " (class) } title=[reason] {
            span aria-hidden="true" { (sign) " " }
            @if entry.row_count() == 1 {
                (words)
            } @else {
                @for (index, (status, number)) in entry.statuses().iter().enumerate() {
                    @if index > 0 { ", " }
                    (number) " " (status)
                }
            }
        }
    }
}

/// What all rows have in common, and what the panels have.
fn settings(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    let shared = summary.shared_config.iter().take(40).map(|(key, value)| {
        let value = text::scalar(Some(value));
        format!("{} {}", visible(&key.replace('_', " "), SHOWN), visible(&value, SHOWN))
    });
    let shared: Vec<String> = shared.collect();
    let mut lines: Vec<(&str, String)> = Vec::new();
    if !shared.is_empty() {
        lines.push(("All", shared.join(", ")));
    }
    let apart = exhibit.panels.iter().filter(|panel| !panel.settings.is_empty());
    lines.extend(apart.take(MAX_PANELS).map(|it| (&*it.title, it.settings.clone())));
    html! {
        @if !lines.is_empty() {
            p.note {
                @for (index, (title, settings)) in lines.iter().enumerate() {
                    @if index > 0 { br; }
                    bdi { b { (title) } } ": " bdi { (settings) }
                }
                @if exhibit.panels.len() > MAX_PANELS { br; "and so on" }
            }
        }
    }
}

fn notes(exhibit: &Exhibit) -> Markup {
    let summary = exhibit.summary;
    let claims = "Train time and its 95 % interval are medians over the runs; train time is the trainer's own \
                  clock around its epochs, CPU time the user and system seconds of its whole process tree, \
                  start-up and loading included.";
    let has_loops = exhibit.entries().any(|(_, it)| it.seconds(Basis::TrainLoop).is_some());
    let notes = has_loops.then_some(claims).into_iter();
    let speed_up = summary.speed_up_note.iter();
    html! {
        ul.notes {
            @for note in notes { li { (note) } }
            @for note in speed_up.chain(&summary.notes) { li { bdi { (visible(note, 2000)) } } }
            @for note in noise(exhibit) { li { bdi { (note) } } }
            @let incomplete = exhibit.entries().filter(|(_, it)| it.file.is_none()).count();
            @if incomplete > 0 {
                li { (count(incomplete, "row")) " without runs of their own: their files could not be read in full." }
            }
        }
    }
}

/// What else the machine did, and what it can tell apart.
fn noise(exhibit: &Exhibit) -> Vec<String> {
    let mut notes = Vec::new();
    let (mut disturbed, mut repeated, mut by) = (0, 0, BTreeSet::new());
    for (_, entry) in exhibit.entries() {
        let (more_disturbed, more_repeated, reasons) = entry.disturbances();
        disturbed += more_disturbed;
        repeated += more_repeated;
        by.extend(reasons);
    }
    if disturbed > 0 {
        let by: Vec<_> = by.into_iter().take(MAX_REASONS).map(|it| visible(it, 120)).collect();
        notes.push(format!(
            "{} disturbed, for example: {}. {}",
            match disturbed {
                1 => "1 run was".to_owned(),
                number => format!("{number} runs were"),
            },
            by.join("; "),
            match repeated {
                0 => "All of them count.".to_owned(),
                number => format!("{number} of them were repeated and are in no figure."),
            }
        ));
    }
    let files = exhibit.entries().filter_map(|(_, entry)| entry.file);
    let floor = files.filter_map(|file| file.noise_floor.as_ref()).map(|it| it.share);
    if let Some(floor) = floor.reduce(f64::max) {
        notes.push(format!(
            "This machine's noise floor, found by running a row against itself, is up to {:.1} %: smaller \
             differences are not claimed.",
            100.0 * floor
        ));
    }
    if exhibit.entries().any(|(_, entry)| entry.difference_is_shown() == Some(false)) {
        notes.push("\u{2248} marks speed-ups whose samples show no difference.".to_owned());
    }
    notes
}
