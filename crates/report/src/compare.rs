//! A comparison of two sides as a table, as Markdown, as JSON and as JUnit XML.

use crate::console::{Style, one_line};
use crate::grid::{Column, Grid, RED, YELLOW};
use crate::markdown::{escape_long, escape_note, small_table};
use crate::notes::{Note, note};
use crate::text::{UNKNOWN, count};
use indexmap::IndexSet;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use record::Status;
use record::comparison::{ComparedRow, Comparison, Conclusion, Outcome, Side};
use record::figures::Figure;
use record::job::Job;
use record::verification::Grade;
use std::collections::BTreeSet;
use std::fmt::Write;

const HEAD: [&str; 6] = ["Row", "Metric", "Base", "New", "Change", "Outcome"];

/// What every format has of one figure of a row, or of its verification.
struct Line<'a> {
    job: &'a Job,
    metric: String,
    base: String,
    new: String,
    change: String,
    outcome: Outcome,
    reason: Option<&'a str>,
    /// Whether a person should see it: not what neither machine has, nor grades that are as they were.
    is_shown: bool,
}

fn lines(comparison: &Comparison) -> impl Iterator<Item = Line<'_>> {
    let rows = comparison.rows.iter().map(|row| Line {
        job: &row.job,
        metric: row.figure.title(),
        base: value(row.base.median, &row.figure),
        new: value(row.new.median, &row.figure),
        change: change(row),
        outcome: row.outcome,
        reason: row.new.reason.as_deref().filter(|_| row.outcome == Outcome::StatusLost),
        is_shown: !is_absent(row),
    });
    let grades = comparison.grades.iter().map(|row| Line {
        job: &row.job,
        metric: "verification".to_owned(),
        base: row.base.words().to_owned(),
        new: row.new.map_or(UNKNOWN, Grade::words).to_owned(),
        change: String::new(),
        outcome: row.outcome,
        reason: row.reason.as_deref(),
        is_shown: !matches!(row.outcome, Outcome::Same | Outcome::Unknown),
    });
    rows.chain(grades)
}

/// The cells of the lines that are shown.
fn cells(comparison: &Comparison) -> impl Iterator<Item = ([String; 6], Outcome)> {
    let shared = comparison.shared_settings();
    lines(comparison).filter(|line| line.is_shown).map(move |line| {
        let (job, words) = (line.job.without(&shared), line.outcome.words().to_owned());
        ([job, line.metric, line.base, line.new, line.change, words], line.outcome)
    })
}

/// Neither side's machine has what it needs: one line names all such rows.
fn is_absent(row: &ComparedRow) -> bool {
    [row.base.status, row.new.status] == [Status::Unavailable; 2]
}

/// The table, what else differs, and the verdict.
pub fn table(comparison: &Comparison, style: Style) -> String {
    let columns = HEAD.iter().zip([0, 3, 2, 1, 0, 0]).enumerate();
    let columns = columns.map(|(index, (head, rank))| {
        let right = (2..=4).contains(&index);
        Column { head: (*head).to_owned(), right, rank }
    });
    let row = |(cells, outcome): ([String; 6], Outcome)| {
        let cells = cells.iter().enumerate().map(|(index, text)| {
            let color = match index {
                5 if outcome.is_regression() => RED,
                5 if outcome == Outcome::Inconclusive => YELLOW,
                _ => None,
            };
            (one_line(text).into_owned(), color)
        });
        cells.collect()
    };
    let rows = cells(comparison).map(row).collect();
    let (mut text, _) = Grid { columns: columns.collect(), rows }.draw(style);
    text.push('\n');
    for line in remarks(comparison) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", one_line(&line.text));
    }
    text
}

/// A comment for a pull request.
pub fn markdown(comparison: &Comparison) -> String {
    let conclusion = match comparison.conclusion {
        Conclusion::Regression => "regression shown",
        Conclusion::Inconclusive => "inconclusive",
        Conclusion::Pass => "no regression shown",
    };
    let row = |(cells, outcome): ([String; 6], Outcome)| {
        let mut cells: Vec<String> = cells.iter().map(|cell| escape_long(cell)).collect();
        if outcome.is_regression() {
            cells[5] = format!("**{}**", cells[5]);
        }
        cells
    };
    let rows = cells(comparison).map(row);
    let mut text =
        format!("### Trainmark: {conclusion}\n\n{}", small_table(&HEAD, &[2, 3, 4], rows));
    text.push('\n');
    for line in remarks(comparison) {
        let _ = writeln!(text, "- {}", escape_note(&line));
    }
    text
}

/// The comparison itself, for other programs.
pub fn json(comparison: &Comparison) -> String {
    serde_json::to_string_pretty(comparison).unwrap_or_default() + "\n"
}

/// A test case per row and metric: failed where the gate closes, skipped where nothing is known.
pub fn junit(comparison: &Comparison) -> String {
    let mut suite = TestSuite::new("trainmark compare");
    for Line { job, metric, base, new, change, outcome, reason, .. } in lines(comparison) {
        let words = outcome.words();
        let mut message = match change.is_empty() {
            true => format!("{words}: {base} -> {new}"),
            false => format!("{words}: {change}"),
        };
        message.extend(reason.map(|reason| format!(": {reason}")));
        let status = match outcome {
            it if it.is_regression() => TestCaseStatus::non_success(NonSuccessKind::Failure),
            Outcome::Inconclusive | Outcome::NotComparable | Outcome::Unknown => {
                TestCaseStatus::skipped()
            }
            _ => TestCaseStatus::success(),
        };
        let mut case = TestCase::new(format!("{job} {metric}"), status);
        case.status.set_message(message);
        case.set_classname("trainmark");
        suite.add_test_case(case);
    }
    let mut report = Report::new("trainmark");
    report.add_test_suite(suite);
    report.to_string().unwrap_or_default()
}

/// `+3.1 % [+2.0, +4.4]`; without the interval, and with `~`, where there are too few samples for one. Where
/// there is no ratio, the difference in the figure's own unit.
pub fn change(row: &ComparedRow) -> String {
    let points = if row.figure.unit == "%" { "points" } else { &row.figure.unit };
    let unit = if row.ratio.is_some() { "%" } else { points };
    let shown = |size: f64| match row.ratio {
        Some(_) => format!("{:+.1}", (size - 1.0) * 100.0),
        None => format!("{:+.4}", size + 0.0), // no minus before 0
    };
    let Some(size) = row.ratio.or(row.difference) else { return UNKNOWN.to_owned() };
    let (low, high) = match row.interval {
        None => return format!("~{} {unit}", shown(size)).trim_end().to_owned(),
        Some(interval) => (shown(interval.low), shown(interval.high)),
    };
    let space = if unit.is_empty() { "" } else { " " };
    format!("{}{space}{unit} [{low}, {high}]", shown(size))
}

pub(crate) fn value(value: Option<f64>, figure: &Figure) -> String {
    value.map_or(UNKNOWN.to_owned(), |value| figure.printed(value))
}

/// The lines under the table in every format; the conclusion is the last.
fn remarks(comparison: &Comparison) -> Vec<Note> {
    let mut remarks = Vec::new();
    let shared = comparison.shared_settings();
    if !shared.is_empty() {
        remarks.push(note(format!("All rows: {}", shared.join(" "))));
    }
    let absent = comparison.rows.iter().filter(|row| is_absent(row));
    let absent: IndexSet<String> = absent.map(|row| row.job.without(&shared)).collect();
    if !absent.is_empty() {
        let names = absent.into_iter().collect::<Vec<_>>().join(", ");
        remarks.push(note(format!("Not on this machine, before and now: {names}")));
    }
    remarks.extend(comparison.differences.iter().map(|it| note(format!("Differs: {it}"))));
    remarks.extend(
        comparison.unmatched.iter().map(|(row, side)| note(format!("Only in {side}: {row}"))),
    );
    for row in &comparison.grades {
        match (row.outcome, &row.reason) {
            (Outcome::GradeLost, Some(reason)) => {
                remarks.push(note(format!("Grade lost: {}: {reason}", row.job)));
            }
            (Outcome::Unknown, _) => remarks.push(note(format!(
                "Was {} before and is not verified now (trainmark verify): {}",
                row.base.words(),
                row.job
            ))),
            _ => {}
        }
    }
    let mut jobs = BTreeSet::new(); // a row has a line for each figure
    let rows: Vec<_> = comparison.rows.iter().filter(|row| jobs.insert(&row.job)).collect();
    for row in rows.iter().filter(|row| row.outcome == Outcome::StatusLost) {
        let reason = row.new.reason.as_ref().map_or(String::new(), |it| format!(": {it}"));
        remarks.push(note(format!("Status lost: {}: {}{reason}", row.job, row.new.status)));
    }
    for (side, of) in
        [("base", (|it| &it.base) as fn(&ComparedRow) -> &Side), ("new", |it| &it.new)]
    {
        let sum = |number: fn(&Side) -> usize| rows.iter().map(|row| number(of(row))).sum();
        let (disturbed, all): (usize, usize) = (sum(|it| it.disturbed), sum(|it| it.samples));
        if disturbed > 0 {
            remarks.push(note(format!(
                "Caution: {disturbed} of {} disturbed in {side}",
                count(all, "sample")
            )));
        }
    }
    if !comparison.in_turns {
        let floor = match comparison.noise_floor {
            0.0 => "not known".to_owned(),
            floor => format!("{:.1} %", floor * 100.0),
        };
        remarks.push(note(format!(
            "Caution: the two sides did not take turns, so drift of the machine counts as a difference (noise floor: \
             {floor}; `trainmark noise` measures it). `trainmark run` of both versions as trainers of one suite trains \
             them in turns"
        )).with_code());
    }
    let has_no_counterpart = |row: &&ComparedRow| row.held && row.outcome == Outcome::NotComparable;
    let beyond = format!("beyond the gate of {:.1} %", comparison.gate * 100.0);
    let slower = format!("{beyond}: shown to be worse, and the estimate is beyond the gate");
    let inconclusive = comparison.rows.iter().filter(|row| row.outcome == Outcome::Inconclusive);
    let enough = inconclusive.map(|row| row.enough).max().unwrap_or_default();
    let few = format!(
        "inconclusive: there are too few samples for an interval. {enough} on each side are enough: \
         trainmark run --repeats {enough}"
    );
    let counted = [
        (comparison.count(|it| it == Outcome::Inconclusive), "row", &*few),
        (
            comparison.rows.iter().filter(has_no_counterpart).count(),
            "row",
            "not compared: one side lacks the figure, both have only a bound of it, or one was not measured. Compare \
             another figure, for example --metric wall_s",
        ),
        (
            comparison.unmatched_held,
            "row",
            "on one side only, so nothing can be compared: train on the other side too",
        ),
        (comparison.grades_lost(), "verification grade", "lost"),
        (
            comparison.count(|it| it == Outcome::StatusLost),
            "row",
            "with a lost status: no longer trained, or short of the target",
        ),
        (comparison.count(|it| it == Outcome::Regression), "regression", &slower),
    ];
    let counted = counted.into_iter().filter(|(number, ..)| *number > 0);
    remarks.extend(counted.map(|(number, noun, is)| note(format!("{} {is}", count(number, noun)))));
    match comparison.conclusion {
        Conclusion::Inconclusive => {
            let none = comparison.unknown() == 0;
            let why = if none { "no row could be compared" } else { "this is not a pass" };
            let makes = "--allow-inconclusive makes the exit code 0";
            remarks.push(note(format!("Inconclusive: {why} ({makes})")));
        }
        Conclusion::Pass => remarks.push(note(format!("No regression shown {beyond}"))),
        Conclusion::Regression => {}
    }
    remarks
}
