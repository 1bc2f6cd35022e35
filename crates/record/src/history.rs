//! Every row over many runs, and where it changed: from the same result files as all reports.
//!
//! A change counts if [`crate::change`] finds it, [`crate::verdict`] shows it between the runs around it, and it
//! is larger than the noise floor.

use crate::change;
use crate::figures::Figure;
use crate::stats::Interval;
use crate::summary::{Row, Summary};
use crate::task::Better;
use crate::verdict::{self, Verdict};
use serde::Serialize;

/// Runs on either side of a change that its size is estimated from, at most.
const COMPARED: usize = 20;

/// A figure of every row over time.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    #[serde(rename = "metric")]
    pub figure: Figure,
    pub series: Vec<Series>,
    /// Rows that have no such figure, or are not ranked.
    pub left_out: usize,
}

/// One row over time.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    pub label: String,
    pub points: Vec<Point>,
    pub changes: Vec<Change>,
}

/// One run of it.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    pub when: String,
    pub value: f64,
    pub git_commit: Option<String>,
    pub file: String,
}

/// Where it changed.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The place of the first run after it.
    pub at: usize,
    pub when: String,
    /// After over before; `None` where there is no ratio.
    pub ratio: Option<f64>,
    /// After minus before, there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// Of either.
    pub interval: Option<Interval>,
    pub worse: bool,
    /// The same as it was found.
    #[serde(skip)]
    pub shown: verdict::Change,
    /// The commits just before and after it, if they are known and differ.
    pub commits: Option<(String, String)>,
}

impl History {
    /// The history of all ranked rows. `label` is the name of a row.
    pub fn new(
        summary: &Summary,
        figure: &Figure,
        noise_floor: f64,
        label: impl Fn(&Row) -> String,
    ) -> History {
        let mut series = Vec::new();
        let mut left_out = 0;
        for rows in summary.series() {
            let ranked = rows.iter().copied().filter(|row| row.is_ranked());
            let known: Vec<(&Row, f64)> =
                ranked.filter_map(|row| Some((row, figure.of(&row.record)?))).collect();
            left_out += rows.len() - known.len();
            if let Some((first, _)) = known.first() {
                series.push(one_series(label(first), &known, figure.better, noise_floor));
            }
        }
        History { figure: figure.clone(), series, left_out }
    }
}

fn one_series(label: String, rows: &[(&Row, f64)], better: Better, noise_floor: f64) -> Series {
    let point = |(row, value): &(&Row, f64)| Point {
        when: row.moment().to_owned(),
        value: *value,
        git_commit: row.record.run.as_ref().and_then(|run| run.git_commit.clone()),
        file: row.file.clone(),
    };
    let points: Vec<Point> = rows.iter().map(point).collect();
    let values: Vec<f64> = rows.iter().map(|(_, value)| *value).collect();
    let found = change::changes(&values);
    let mut changes = Vec::new();
    for (index, &at) in found.iter().enumerate() {
        let begin = if index == 0 { 0 } else { found[index - 1] };
        let end = found.get(index + 1).copied().unwrap_or(values.len());
        let before = &values[begin.max(at.saturating_sub(COMPARED))..at];
        let after = &values[at..end.min(at + COMPARED)];
        let Some(change) = verdict::compare_values(better, before, after, noise_floor) else {
            continue;
        };
        if !change.verdict.is_difference() {
            continue;
        }
        let commits = match (&points[at - 1].git_commit, &points[at].git_commit) {
            (Some(before), Some(after)) if before != after => Some((before.clone(), after.clone())),
            _ => None,
        };
        let (ratio, difference, interval) = change.of_new(better);
        changes.push(Change {
            at,
            when: points[at].when.clone(),
            ratio,
            difference,
            interval,
            worse: change.verdict == Verdict::Slower,
            shown: change,
            commits,
        });
    }
    Series { label, points, changes }
}
