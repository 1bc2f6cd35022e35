//! Time to target: a race to a quality instead of a fixed distance.
//!
//! The trainer tests from time to time, off its clock, and reports the result. The harness scores the last
//! predictions and compares the claim with them. The time to target is the training time of the first point of
//! the curve that reached it, so a race is as fine as the trainer's own tests.

use crate::sample::Sample;
use crate::task::{Better, TaskRecord};
use crate::{old, stats};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The configuration key of a row that races: the target of the task's quality.
pub const TARGET: &str = "target";

/// The target that a configuration asks for.
pub fn target(config: &Map<String, Value>) -> Option<f64> {
    config.get(TARGET).or_else(|| config.get(old::TARGET)).and_then(Value::as_f64)
}

/// How soon a row reached its target: medians over its samples, all of which must have reached it; the
/// ones that did are no fair choice of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Race {
    /// The task's quality.
    pub metric: String,
    pub target: f64,
    /// Samples that completed and were tested on the way, and those of them that reached the target.
    pub runs: usize,
    pub reached: usize,
    /// Until the target was reached.
    pub epochs: Option<f64>,
    pub seconds: Option<f64>,
    /// The same with set-up, compilation and warm-up before it.
    pub cold_seconds: Option<f64>,
    pub steps: Option<f64>,
}

/// How much sooner one row is at the target than another, split into its two causes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RaceSpeedUp {
    /// Seconds of the reference over those of the row.
    pub factor: f64,
    /// Seconds per step of the reference over those of the row.
    pub by_step_time: f64,
    /// Steps of the reference over those of the row.
    pub by_steps: f64,
}

impl Race {
    /// The race of a row, over its samples that count. `None` if it does not race, or if its trainer does not
    /// test on the way.
    pub fn new<'a>(
        config: &Map<String, Value>,
        task: &TaskRecord,
        samples: impl Iterator<Item = &'a Sample>,
    ) -> Option<Race> {
        let target = target(config)?;
        let (metric, of_metric) = task.quality()?;
        let tested = |sample: &&Sample| {
            let known =
                |sample: &Sample| sample.curve.iter().any(|it| it.metrics.contains_key(metric));
            sample.status.completed() && known(sample)
        };
        let tested: Vec<&Sample> = samples.filter(tested).collect();
        if tested.is_empty() {
            return None;
        }
        let at_target = |sample: &&Sample| finish(sample, metric, of_metric.better, target);
        let finishes: Vec<Finish> = tested.iter().filter_map(at_target).collect();
        let all = finishes.len() == tested.len();
        let median = |of: fn(&Finish) -> Option<f64>| -> Option<f64> {
            let values: Option<Vec<f64>> = finishes.iter().map(of).collect();
            stats::median(&values.filter(|_| all)?)
        };
        Some(Race {
            metric: metric.to_owned(),
            target,
            runs: tested.len(),
            reached: finishes.len(),
            epochs: median(|finish| finish.epochs),
            seconds: median(|finish| finish.seconds),
            cold_seconds: median(|finish| finish.cold_seconds),
            steps: median(|finish| finish.steps),
        })
    }
}

/// Where one sample reached the target.
struct Finish {
    epochs: Option<f64>,
    seconds: Option<f64>,
    cold_seconds: Option<f64>,
    steps: Option<f64>,
}

fn finish(sample: &Sample, metric: &str, better: Better, target: f64) -> Option<Finish> {
    let reached = |value: &f64| better.reaches(*value, target);
    let point = sample.curve.iter().find(|it| it.metrics.get(metric).is_some_and(reached))?;
    let last = sample.curve.last().and_then(|it| it.epoch);
    let share = point.epoch.zip(last).map(|(epoch, last)| epoch / last);
    let of_all = share.zip(sample.steps).map(|(share, steps)| share * steps as f64);
    let steps = point.step.map(|step| step as f64).or(of_all);
    // A trainer that compiles nothing says nothing of it; one that states no set-up has no cold time.
    let before = sample.timing.setup_s.map(|it| it + sample.timing.compile_s.unwrap_or_default());
    let cold_seconds = point.seconds.zip(before).map(|(training, before)| training + before);
    Some(Finish { epochs: point.epoch, seconds: point.seconds, cold_seconds, steps })
}

impl RaceSpeedUp {
    /// `None` where one of the two did not reach the target or does not count its steps.
    pub fn new(base: &Race, new: &Race) -> Option<RaceSpeedUp> {
        let positive = |value: Option<f64>| value.filter(|value| *value > 0.0);
        let factor = positive(base.seconds)? / positive(new.seconds)?;
        let by_steps = positive(base.steps)? / positive(new.steps)?;
        Some(RaceSpeedUp { factor, by_step_time: factor / by_steps, by_steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;
    use crate::sample::CurvePoint;
    use serde_json::json;

    fn record(samples: &[&[(f64, f64)]]) -> Record {
        let config = json!({"epochs": 3, "target_accuracy_percent": 93.0});
        let mut record =
            Record { config: config.as_object().unwrap().clone(), ..Record::default() };
        for sample in samples {
            let mut elapsed = 0.0;
            let points = sample.iter().zip(1..).map(|((seconds, accuracy), epoch)| {
                elapsed += seconds;
                CurvePoint {
                    epoch: Some(f64::from(epoch)),
                    seconds: Some(elapsed),
                    metrics: [(old::ACCURACY.to_owned(), *accuracy)].into(),
                    ..CurvePoint::default()
                }
            });
            let curve = points.collect();
            record.add_sample(Sample { curve, steps: Some(3000), ..Sample::default() });
        }
        record
    }

    #[test]
    fn the_first_epoch_that_reaches_the_target_ends_the_race() {
        let race = record(&[&[(1.0, 90.0), (1.5, 93.0), (1.0, 92.9)]]).race.unwrap();
        assert_eq!((race.epochs, race.seconds, race.steps), (Some(2.0), Some(2.5), Some(2000.0)));
        assert_eq!((race.runs, race.reached), (1, 1));
    }

    #[test]
    fn cold_time_to_the_target_has_set_up_and_compilation_before_the_training() {
        let cold = |setup_s, compile_s| {
            let mut record = record(&[&[(1.0, 90.0), (1.5, 93.0)]]);
            let mut sample = record.samples.remove(0);
            (sample.timing.setup_s, sample.timing.compile_s) = (setup_s, compile_s);
            record.add_sample(sample);
            record.race.unwrap().cold_seconds
        };
        assert_eq!(cold(Some(0.5), Some(4.0)), Some(7.0));
        assert_eq!(cold(Some(0.5), None), Some(3.0));
        assert_eq!(cold(None, Some(4.0)), None);
    }

    #[test]
    fn a_row_of_which_one_sample_never_arrives_has_no_time() {
        let samples: [&[(f64, f64)]; 2] = [&[(1.0, 95.0)], &[(1.0, 90.0)]];
        let race = record(&samples).race.unwrap();
        assert_eq!((race.seconds, race.runs, race.reached), (None, 2, 1));
    }

    #[test]
    fn a_trainer_that_does_not_test_on_the_way_does_not_race() {
        let mut silent = record(&[]);
        silent.add_sample(Sample { curve: vec![CurvePoint::default()], ..Sample::default() });
        assert_eq!(silent.race, None);
        let mut plain = record(&[&[(1.0, 95.0)]]);
        plain.config.clear();
        assert_eq!(Race::new(&plain.config, plain.task(), plain.counted()), None);
    }

    #[test]
    fn a_speed_up_is_the_product_of_its_two_causes() {
        let base = record(&[&[(2.0, 90.0), (2.0, 94.0), (2.0, 94.0)]]).race.unwrap();
        let new = record(&[&[(1.0, 93.5), (1.0, 94.0), (1.0, 94.0)]]).race.unwrap();
        let speed_up = RaceSpeedUp::new(&base, &new).unwrap();
        assert_eq!((speed_up.factor, speed_up.by_step_time, speed_up.by_steps), (4.0, 2.0, 2.0));
        assert_eq!(RaceSpeedUp::new(&base, &Race::default()), None);
    }
}
