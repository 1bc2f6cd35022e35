//! Scaling: rows that differ in one configuration key only, processes or devices, as one curve.

use crate::Record;
use crate::figures;
use crate::stats::{self, Interval};
use crate::status::Status;
use crate::task::{ScalingKind, ScalingRecord};
use crate::verdict;
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
    /// Work per second over that of the first point: of rows of one run, round by round.
    pub speed_up: f64,
    /// That over what as many would do that do not hinder each other; 1 is perfect.
    pub efficiency: f64,
    /// The 95 % interval of the speed-up; null of the first point, and where there are too few samples.
    pub interval: Option<Interval>,
    pub efficiency_interval: Option<Interval>,
    /// Place of its record among those that were given.
    #[serde(skip)]
    pub place: usize,
}

/// Records of one curve with their numbers and places, the smallest first.
type Steps<'a> = Vec<(f64, usize, &'a Record)>;

/// The curves of those records whose suites declare one. Of records of the same row the last counts; one
/// that has no time of training, or was not measured, is on no curve.
pub fn curves<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Curve> {
    families(records).iter().filter_map(curve).collect()
}

fn families<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Steps<'a>> {
    let mut rows: BTreeMap<String, Steps> = BTreeMap::new();
    for (place, record) in records.enumerate() {
        let trained = record.timing.train_s.is_some_and(|seconds| seconds > 0.0);
        let Some(scaling) = record.task().scaling.as_ref().filter(|_| trained) else { continue };
        let number = record.config.get(&scaling.over).and_then(|value| value.as_f64());
        let Some(number) = number.filter(|number| *number > 0.0) else { continue };
        if record.status != Status::Measured {
            continue;
        }
        let mut config = record.config.clone();
        config.shift_remove(&scaling.over);
        let machine = record.machine.as_ref().map(|it| (&it.cpu, &it.gpus));
        let what = (&record.task().name, &record.dataset);
        let same = (&record.executable, &record.model, &record.backend, config, what);
        let steps = rows.entry(format!("{same:?} {machine:?}")).or_default();
        steps.retain(|(other, ..)| *other != number);
        steps.push((number, place, record));
    }
    let mut families: Vec<Steps> = rows.into_values().filter(|steps| steps.len() > 1).collect();
    families.iter_mut().for_each(|steps| steps.sort_by(|one, other| one.0.total_cmp(&other.0)));
    families
}

/// How many times as fast so many are, if none hinders another, and how much more work they do.
fn ideal(scaling: &ScalingRecord, number: f64, first: f64) -> (f64, f64) {
    let ideal = number / first;
    // Along a weak curve there is as much more work as there are more that do it.
    (ideal, if scaling.kind == ScalingKind::Weak { ideal } else { 1.0 })
}

fn curve(steps: &Steps) -> Option<Curve> {
    let (first, _, base) = *steps.first()?;
    let scaling = base.task().scaling.as_ref()?;
    let point = |&(number, place, record): &(f64, usize, &Record)| {
        let seconds = figures::named("train_s", [base, record])?;
        let change = verdict::compare(&seconds, &[base], &[record], 0.0)?;
        let (ideal, work) = ideal(scaling, number, first);
        let times = |factor: f64| {
            let interval = change.interval.filter(|_| number != first);
            interval.map(|it| it.map(|value| value * factor))
        };
        Some(Point {
            number,
            train_s: record.timing.train_s?,
            throughput: record.throughput.as_ref().and_then(|it| it.value),
            speed_up: work * change.gain,
            efficiency: work * change.gain / ideal,
            interval: times(work),
            efficiency_interval: times(work / ideal),
            place,
        })
    };
    // One that cannot be compared with the first is left out, and the others stay.
    let points: Vec<Point> = steps.iter().filter_map(point).collect();
    let row = base.name();
    (points.len() > 1).then_some(Curve {
        row,
        over: scaling.over.clone(),
        kind: scaling.kind,
        points,
    })
}

/// Gives each record of a curve, and each of its samples, its efficiency in percent, which is a figure then: a
/// sample's against the first point's sample of the same round of the same run, else against its median.
pub fn tell_efficiencies(records: &mut [&mut Record]) {
    let mut told: Vec<(usize, Vec<Option<f64>>)> = Vec::new();
    for steps in families(records.iter().map(|record| &**record)) {
        let Some(&(first, _, base)) = steps.first() else { continue };
        let Some(scaling) = &base.task().scaling else { continue };
        for &(number, place, record) in &steps {
            let (ideal, work) = ideal(scaling, number, first);
            let run = |record: &Record| record.run.as_ref().map(|run| run.id.clone());
            let together = run(base).is_some() && run(base) == run(record);
            let of = |sample: &crate::Sample| {
                let same = base.counted().find(|it| together && it.round == sample.round);
                let base_s = same.and_then(|it| it.timing.train_s).or(base.timing.train_s)?;
                Some(100.0 * work * base_s / sample.timing.train_s? / ideal)
            };
            told.push((place, record.samples.iter().map(of).collect()));
        }
    }
    for (place, efficiencies) in told {
        let record = &mut *records[place];
        for (sample, efficiency) in record.samples.iter_mut().zip(efficiencies) {
            sample.efficiency_percent = efficiency;
        }
        let counted: Vec<f64> = record.counted().filter_map(|it| it.efficiency_percent).collect();
        record.efficiency_percent = stats::median(&counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::RunIdentity;
    use crate::task::TaskRecord;
    use crate::{Sample, Timing};

    /// A row of one run with these seconds, one for each round.
    fn record(processes: u64, seconds: &[f64], kind: ScalingKind) -> Record {
        let scaling = Some(ScalingRecord { over: "processes".into(), kind });
        let run = RunIdentity { id: "r".into(), ..RunIdentity::default() };
        let mut record = Record {
            config: [("processes".to_owned(), processes.into())].into_iter().collect(),
            task: Some(Box::new(TaskRecord { scaling, ..TaskRecord::default() })),
            run: Some(Box::new(run)),
            ..Record::default()
        };
        for (round, train_s) in seconds.iter().enumerate() {
            let timing = Timing { train_s: Some(*train_s), ..Timing::default() };
            record.add_sample(Sample { round: round as u32, timing, ..Sample::default() });
        }
        record
    }

    #[test]
    fn efficiency_is_the_speed_up_over_the_perfect_one() {
        let of = |kind, second| {
            let rows = [record(4, &[second], kind), record(1, &[10.0], kind)];
            let curves = curves(rows.iter());
            let points = &curves[0].points;
            (points[0].efficiency, points[1].speed_up, points[1].efficiency)
        };
        assert_eq!(of(ScalingKind::Strong, 5.0), (1.0, 2.0, 0.5));
        assert_eq!(of(ScalingKind::Weak, 12.5), (1.0, 3.2, 0.8));
    }

    #[test]
    fn of_interleaved_rounds_there_is_an_interval_round_by_round() {
        // A machine that becomes slower and slower slows both rows of a round: their ratio is steady.
        let drift: Vec<f64> = (0..8).map(|round| 1.0 + 0.2 * f64::from(round)).collect();
        let times = |factor: f64| drift.iter().map(|it| it * factor).collect::<Vec<f64>>();
        let rows = [
            record(1, &times(8.0), ScalingKind::Strong),
            record(2, &times(5.0), ScalingKind::Strong),
        ];
        let curve = &curves(rows.iter())[0];
        assert_eq!(curve.points[0].interval, None);
        let (point, interval) = (curve.points[1], curve.points[1].interval.unwrap());
        assert!((point.speed_up - 1.6).abs() < 1e-9 && (point.efficiency - 0.8).abs() < 1e-9);
        assert!(interval.low > 1.59 && interval.high < 1.61, "{interval:?}");
        let efficiency = point.efficiency_interval.unwrap();
        assert!(efficiency.low > 0.79 && efficiency.high < 0.81, "{efficiency:?}");
        assert_eq!(
            curves([rows[0].clone(), record(2, &[5.0], ScalingKind::Strong)].iter())[0].points[1]
                .interval,
            None
        );
    }

    #[test]
    fn efficiency_is_a_figure_of_each_sample_and_of_its_record() {
        let mut one = record(1, &[8.0, 16.0], ScalingKind::Strong);
        let mut two = record(2, &[5.0, 10.0], ScalingKind::Strong);
        tell_efficiencies(&mut [&mut one, &mut two]);
        let figure = figures::named("efficiency", [&two]).unwrap();
        assert_eq!((figure.of(&one), figure.of(&two)), (Some(100.0), Some(80.0)));
        assert_eq!(figure.samples(&two), [(0, 80.0), (1, 80.0)]);
    }

    #[test]
    fn a_row_that_cannot_be_compared_is_missing_on_a_curve_of_the_others() {
        let of = |processes, seconds| record(processes, &[seconds], ScalingKind::Strong);
        let rows = [of(1, 8.0), of(2, 5.0), of(4, f64::from_bits(1))];
        let numbers: Vec<f64> = curves(rows.iter())[0].points.iter().map(|it| it.number).collect();
        assert_eq!(numbers, [1.0, 2.0]);
    }

    #[test]
    fn one_row_is_no_curve() {
        assert_eq!(curves([record(1, &[1.0], ScalingKind::Strong)].iter()), []);
    }
}
