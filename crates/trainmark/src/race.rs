//! Time to accuracy: a race to a target instead of a fixed distance.
//!
//! The trainer tests after each epoch, off its clock, and says what it found; the harness scores the
//! last epoch's predictions and holds the claim against them. How soon the target was reached is the sum
//! of the epochs' own seconds up to the first that reached it, so a race has the grain of an epoch.

use crate::result::{EpochRecord, ResultFile, Sample};
use crate::stats;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The configuration key of a row that races.
pub const TARGET: &str = "target_accuracy_percent";

/// The target that a configuration asks for.
pub fn target(config: &Map<String, Value>) -> Option<f64> {
    config.get(TARGET).and_then(Value::as_f64)
}

/// How soon a row reached its target: medians over its runs, all of which must have reached it; the
/// ones that did are no fair sample of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Race {
    pub target_percent: f64,
    /// Runs that completed and tested each epoch, and those of them that reached the target.
    pub runs: usize,
    pub reached: usize,
    /// Until the target was reached.
    pub epochs: Option<f64>,
    pub seconds: Option<f64>,
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
    /// Of a row; `None` if it does not race, or its trainer does not test each epoch.
    pub fn new(result: &ResultFile) -> Option<Race> {
        let target_percent = target(&result.config)?;
        let completed = result.counted().filter(|sample| sample.status.completed());
        let tested: Vec<&Sample> = completed
            .filter(|sample| !sample.epochs.is_empty())
            .filter(|it| it.epochs.iter().all(|epoch| epoch.accuracy_percent.is_some()))
            .collect();
        if tested.is_empty() {
            return None;
        }
        let finishes: Vec<Finish> =
            tested.iter().filter_map(|sample| finish(sample, target_percent)).collect();
        let all = finishes.len() == tested.len();
        let median = |of: fn(&Finish) -> Option<f64>| -> Option<f64> {
            let values: Option<Vec<f64>> = finishes.iter().map(of).collect();
            stats::median(&values.filter(|_| all)?)
        };
        Some(Race {
            target_percent,
            runs: tested.len(),
            reached: finishes.len(),
            epochs: median(|finish| Some(finish.epochs)),
            seconds: median(|finish| Some(finish.seconds)),
            steps: median(|finish| finish.steps),
        })
    }
}

/// Where one run reached the target.
struct Finish {
    epochs: f64,
    seconds: f64,
    steps: Option<f64>,
}

fn finish(sample: &Sample, target_percent: f64) -> Option<Finish> {
    let reaches = |epoch: &EpochRecord| epoch.accuracy_percent >= Some(target_percent);
    let epochs = sample.epochs.iter().position(reaches)? + 1;
    let all = sample.epochs.len() as f64;
    Some(Finish {
        epochs: epochs as f64,
        seconds: sample.epochs[..epochs].iter().map(|epoch| epoch.seconds).sum(),
        steps: sample.steps.map(|steps| steps as f64 * epochs as f64 / all),
    })
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
    use serde_json::json;

    fn result(runs: &[&[(f64, f64)]]) -> ResultFile {
        let config = json!({"epochs": 3, "target_accuracy_percent": 93.0});
        let mut result =
            ResultFile { config: config.as_object().unwrap().clone(), ..ResultFile::default() };
        for run in runs {
            let epochs = run.iter().zip(1..).map(|((seconds, accuracy), epoch)| EpochRecord {
                epoch,
                loss: None,
                seconds: *seconds,
                accuracy_percent: Some(*accuracy),
            });
            let epochs = epochs.collect();
            result.add_sample(Sample { epochs, steps: Some(3000), ..Sample::default() });
        }
        result
    }

    #[test]
    fn the_first_epoch_that_reaches_the_target_ends_the_race() {
        let race = result(&[&[(1.0, 90.0), (1.5, 93.0), (1.0, 92.9)]]).race.unwrap();
        assert_eq!((race.epochs, race.seconds, race.steps), (Some(2.0), Some(2.5), Some(2000.0)));
        assert_eq!((race.runs, race.reached), (1, 1));
    }

    #[test]
    fn a_row_of_which_one_run_never_arrives_has_no_time() {
        let runs: [&[(f64, f64)]; 2] = [&[(1.0, 95.0)], &[(1.0, 90.0)]];
        let race = result(&runs).race.unwrap();
        assert_eq!((race.seconds, race.runs, race.reached), (None, 2, 1));
    }

    #[test]
    fn a_trainer_that_does_not_test_each_epoch_does_not_race() {
        let mut silent = result(&[]);
        silent.add_sample(Sample { epochs: vec![EpochRecord::default()], ..Sample::default() });
        assert_eq!(silent.race, None);
        let mut plain = result(&[&[(1.0, 95.0)]]);
        plain.config.clear();
        assert_eq!(Race::new(&plain), None);
    }

    #[test]
    fn a_speed_up_is_the_product_of_its_two_causes() {
        let base = result(&[&[(2.0, 90.0), (2.0, 94.0), (2.0, 94.0)]]).race.unwrap();
        let new = result(&[&[(1.0, 93.5), (1.0, 94.0), (1.0, 94.0)]]).race.unwrap();
        let speed_up = RaceSpeedUp::new(&base, &new).unwrap();
        assert_eq!((speed_up.factor, speed_up.by_step_time, speed_up.by_steps), (4.0, 2.0, 2.0));
        assert_eq!(RaceSpeedUp::new(&base, &Race::default()), None);
    }
}
