//! Scaling: rows that differ in one configuration key only, processes or devices, as one curve.

use crate::result::Record;
use crate::stats;
use crate::status::Status;
use crate::task::ScalingKind;
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows along the key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The trainer, model and backend.
    pub row: String,
    pub over: String,
    pub kind: ScalingKind,
    /// From the smallest number on.
    pub points: Vec<Point>,
}

/// One row of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The key's value.
    pub number: f64,
    pub train_s: f64,
    pub throughput: Option<f64>,
    /// Work per second over that of the first point.
    pub speed_up: f64,
    /// That over what as many would do that do not hinder each other; 1 is perfect.
    pub efficiency: f64,
    /// Whether both points have samples enough for an interval.
    pub is_known: bool,
}

/// The curves of those records whose suites declare one. Of records of the same row the last counts; one
/// that has no time of training, or was not measured, is on no curve.
pub fn curves<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Curve> {
    let mut rows: BTreeMap<String, Vec<(f64, &Record)>> = BTreeMap::new();
    for record in records.filter(|record| record.status == Status::Measured) {
        let Some(scaling) = &record.task().scaling else { continue };
        let number = record.config.get(&scaling.over).and_then(|value| value.as_f64());
        let Some(number) = number.filter(|number| *number > 0.0) else { continue };
        let mut config = record.config.clone();
        config.shift_remove(&scaling.over);
        let same = (&record.executable, &record.model, &record.backend, config, &record.dataset);
        let points = rows.entry(format!("{same:?}")).or_default();
        points.retain(|(other, _)| *other != number);
        points.push((number, record));
    }
    rows.into_values().filter_map(curve).collect()
}

fn curve(mut rows: Vec<(f64, &Record)>) -> Option<Curve> {
    let record = rows.first()?.1;
    let scaling = record.task().scaling.clone()?;
    rows.retain(|(_, record)| record.timing.train_s.is_some_and(|seconds| seconds > 0.0));
    rows.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (first, first_s) = (rows.first()?.0, rows.first()?.1.timing.train_s?);
    let known = |record: &Record| {
        let seconds = record.counted().filter(|it| it.timing.train_s.is_some());
        seconds.count() >= stats::FEWEST_APART
    };
    let known_first = known(rows.first()?.1);
    let point = |(number, record): &(f64, &Record)| {
        let (train_s, ideal) = (record.timing.train_s?, number / first);
        // Along a weak curve there is as much more work as there are more that do it.
        let work = if scaling.kind == ScalingKind::Weak { ideal } else { 1.0 };
        let speed_up = work * first_s / train_s;
        let throughput = record.throughput.as_ref().and_then(|it| it.value);
        Some(Point {
            number: *number,
            train_s,
            throughput,
            speed_up,
            efficiency: speed_up / ideal,
            is_known: known_first && known(record),
        })
    };
    let points: Vec<Point> = rows.iter().filter_map(point).collect();
    let row = record.name();
    (points.len() > 1).then_some(Curve { row, over: scaling.over, kind: scaling.kind, points })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timing;
    use crate::task::{ScalingRecord, TaskRecord};

    fn record(processes: u64, train_s: f64, kind: ScalingKind) -> Record {
        let scaling = Some(ScalingRecord { over: "processes".into(), kind });
        Record {
            config: [("processes".to_owned(), processes.into())].into_iter().collect(),
            task: Some(Box::new(TaskRecord { scaling, ..TaskRecord::default() })),
            timing: Box::new(Timing { train_s: Some(train_s), ..Timing::default() }),
            ..Record::default()
        }
    }

    #[test]
    fn efficiency_is_the_speed_up_over_the_perfect_one() {
        let of = |kind, second| {
            let rows = [record(4, second, kind), record(1, 10.0, kind)];
            let curves = curves(rows.iter());
            let points = &curves[0].points;
            (points[0].efficiency, points[1].speed_up, points[1].efficiency)
        };
        assert_eq!(of(ScalingKind::Strong, 5.0), (1.0, 2.0, 0.5));
        assert_eq!(of(ScalingKind::Weak, 12.5), (1.0, 3.2, 0.8));
    }

    #[test]
    fn one_row_is_no_curve() {
        assert_eq!(curves([record(1, 1.0, ScalingKind::Strong)].iter()), []);
    }
}
