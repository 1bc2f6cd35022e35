//! Each combination over time: one series of its runs, oldest first, and where its level changed.
//! A pure function of the summary; [`table`], [`markdown`] and [`json`] write it.

pub mod json;
pub mod markdown;
pub mod table;

use crate::change;
use crate::compare::Metric;
use crate::report::Summary;
use crate::report::collection::Row;
use crate::stats::{self, Interval};
use serde::Serialize;

/// Values on either side of a change that its size is computed from: the rest of a long stretch adds
/// nothing but time, which grows with their product.
const COMPARED: usize = 50;

/// Every combination that ran at least once to its end.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    pub metric: Metric,
    pub series: Vec<Series>,
    /// Rows without the metric, or that did not run to their end: in no series.
    pub left_out: usize,
}

/// One combination.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// What tells it apart from the other series.
    pub label: String,
    /// Oldest first.
    pub points: Vec<Point>,
    pub changes: Vec<Change>,
}

/// One result file.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// RFC 3339 in UTC; the local `timestamp` of files that do not know it.
    pub when: String,
    pub value: f64,
    pub git_commit: Option<String>,
    pub file: String,
}

/// A change of level between two neighbouring points.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Index of the first point after it.
    pub at: usize,
    pub when: String,
    /// The level after over the level before: 1.05 is five percent more.
    pub ratio: f64,
    /// 95 % interval of the ratio.
    pub interval: Option<Interval>,
    /// Whether more is worse, or less, and it is that.
    pub worse: bool,
    /// The last commit before and the first after, where both are known and differ.
    pub commits: Option<(String, String)>,
}

impl History {
    /// The series of a metric. A change smaller than `noise_floor` (0.01 is 1 %) is not reported.
    pub fn new(summary: &Summary, metric: Metric, noise_floor: f64) -> History {
        let mut series = Vec::new();
        let mut left_out = 0;
        for rows in summary.series() {
            let counted = rows.iter().filter(|row| row.status.completed());
            let with_value: Vec<(&Row, f64)> =
                counted.filter_map(|row| Some((*row, metric.of_row(row)?))).collect();
            left_out += rows.len() - with_value.len();
            if let Some((first, _)) = with_value.first() {
                let label = summary.series_label(first);
                series.push(one_series(summary, label, &with_value, metric, noise_floor));
            }
        }
        History { metric, series, left_out }
    }
}

fn one_series(
    summary: &Summary,
    label: String,
    rows: &[(&Row, f64)],
    metric: Metric,
    noise_floor: f64,
) -> Series {
    let point = |(row, value): &(&Row, f64)| Point {
        when: row.started.map_or_else(|| row.timestamp().to_string(), |it| it.to_string()),
        value: *value,
        git_commit: summary.run(row).and_then(|run| run.git_commit.clone()),
        file: row.file().to_string(),
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
        // After over before.
        let Some(size) = stats::unpaired_speedup(after, before) else { continue };
        if size.verdict(noise_floor) != record::Verdict::Faster
            && size.verdict(noise_floor) != record::Verdict::Slower
        {
            continue;
        }
        let commits = match (&points[at - 1].git_commit, &points[at].git_commit) {
            (Some(before), Some(after)) if before != after => Some((before.clone(), after.clone())),
            _ => None,
        };
        changes.push(Change {
            at,
            when: points[at].when.clone(),
            ratio: size.ratio,
            interval: size.interval,
            worse: (size.ratio > 1.0) == metric.more_is_worse(),
            commits,
        });
    }
    Series { label, points, changes }
}

impl Change {
    /// `1.35x slower [1.31, 1.40], 2026-11-20T10:00:00Z, commit 1a2b3c4 to 5d6e7f8`.
    pub fn words(&self, metric: Metric) -> String {
        let (more, less) = metric.directions();
        let (word, factor) =
            if self.ratio > 1.0 { (more, self.ratio) } else { (less, 1.0 / self.ratio) };
        let interval = self.interval.map_or(String::new(), |it| {
            let (low, high) = match self.ratio > 1.0 {
                true => (it.low, it.high),
                false => (1.0 / it.high, 1.0 / it.low),
            };
            format!(" [{low:.2}, {high:.2}]")
        });
        let commits = self.commits.as_ref().map_or(String::new(), |(before, after)| {
            format!(", commit {} to {}", short(before), short(after))
        });
        format!("{factor:.2}x {word}{interval}, {}{commits}", self.when)
    }
}

/// A commit as people write it, the mark of a changed tree kept.
fn short(commit: &str) -> String {
    let (hash, dirty) = match commit.strip_suffix("-dirty") {
        Some(hash) => (hash, "-dirty"),
        None => (commit, ""),
    };
    format!("{}{dirty}", hash.chars().take(9).collect::<String>())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::Options;
    use crate::report::collection::{collection_of, result_with};
    use serde_json::{Value, json};

    /// A row per day; its commit changes with its level.
    pub(crate) fn summary(levels: &[(usize, f64)]) -> Summary {
        let mut results: Vec<Value> = Vec::new();
        for (commit, &(count, level)) in levels.iter().enumerate() {
            for _ in 0..count {
                let day = results.len();
                let wobble = [0.0, 0.004, -0.003, 0.002, -0.004][day % 5];
                results.push(result_with(json!({
                    "timing": {"train_s": level * (1.0 + wobble)},
                    "run": {
                        "id": day.to_string(), "suite": "s", "quick": false, "harness": "0",
                        "started": format!("2026-{:02}-{:02}T00:00:00Z", 1 + day / 28, 1 + day % 28),
                        "git_commit": format!("{commit}bcdef0123456789"),
                    },
                })));
            }
        }
        results.reverse(); // the order of the files is not that of time
        Summary::new(collection_of(&results), &Options::default()).unwrap()
    }

    #[test]
    fn a_series_is_in_the_order_of_time_and_its_change_names_the_commits() {
        let history = History::new(&summary(&[(12, 1.0), (12, 1.25)]), Metric::TrainS, 0.0);
        let [series] = &history.series[..] else { panic!("{history:?}") };
        assert!(series.points.windows(2).all(|pair| pair[0].when < pair[1].when));
        let [change] = &series.changes[..] else { panic!("{:?}", series.changes) };
        assert_eq!((change.at, change.worse), (12, true));
        assert_eq!(change.when, "2026-01-13T00:00:00Z");
        let (before, after) = change.commits.as_ref().unwrap();
        assert!(before.starts_with('0') && after.starts_with('1'));
        let words = change.words(Metric::TrainS);
        assert!(words.starts_with("1.25x slower [1.2"), "{words}");
        assert!(words.ends_with("commit 0bcdef012 to 1bcdef012"), "{words}");
    }

    #[test]
    fn a_change_below_the_noise_floor_is_not_reported() {
        let summary = summary(&[(12, 1.0), (12, 1.02)]);
        assert_eq!(History::new(&summary, Metric::TrainS, 0.0).series[0].changes.len(), 1);
        assert_eq!(History::new(&summary, Metric::TrainS, 0.05).series[0].changes.len(), 0);
    }

    #[test]
    fn rows_without_the_metric_are_counted_and_left_out() {
        let mut rows = vec![result_with(json!({"timing": {"train_s": 1.0}}))];
        rows.push(result_with(json!({"status": "failed", "timing": {"train_s": 1.0}})));
        rows.push(result_with(json!({})));
        let summary = Summary::new(collection_of(&rows), &Options::default()).unwrap();
        let history = History::new(&summary, Metric::TrainS, 0.0);
        assert_eq!((history.series[0].points.len(), history.left_out), (1, 2));
    }
}
