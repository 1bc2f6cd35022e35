//! The verdict on two sets of samples of one figure. Every comparison of the harness, in a report, of
//! two sides, in a history or for a noise floor, is decided here and nowhere else.

use crate::Record;
use crate::figures::Figure;
use crate::stats::{self, Interval, Shift};
use crate::task::Better;
use serde::{Deserialize, Serialize};

/// The verdict of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies on the better side of no difference, and the effect is above the noise floor.
    Faster,
    /// The same on the worse side.
    Slower,
    /// There are samples enough, and they show no difference beyond the noise floor.
    NoDifference,
    /// Too few samples for an interval: nothing is known.
    Inconclusive,
}

impl Verdict {
    /// In words, for tables, of a figure.
    pub fn words(self, figure: &Figure) -> &'static str {
        let (more, less) = figure.directions();
        let (better, worse) = match figure.better {
            Better::Lower => (less, more),
            Better::Higher => (more, less),
        };
        match self {
            Verdict::Faster => better,
            Verdict::Slower => worse,
            Verdict::NoDifference => "no difference shown",
            Verdict::Inconclusive => "inconclusive",
        }
    }

    /// Whether a difference is claimed.
    pub fn is_difference(self) -> bool {
        matches!(self, Verdict::Faster | Verdict::Slower)
    }
}

impl Shift {
    /// The claim, if a shift up to `floor` is the machine's noise.
    pub fn verdict(&self, floor: f64) -> Verdict {
        match self.interval {
            None => Verdict::Inconclusive,
            Some(_) if self.size.abs() <= floor => Verdict::NoDifference,
            Some(interval) if interval.low > 0.0 => Verdict::Faster,
            Some(interval) if interval.high < 0.0 => Verdict::Slower,
            Some(_) => Verdict::NoDifference,
        }
    }
}

/// How two sides are held against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Twice as fast and half as fast are equally far from no difference.
    Ratio,
    /// A difference, if a value is 0 or below (such as a log-likelihood) and there is no ratio.
    Difference,
}

/// One figure of `new` against `base`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    pub scale: Scale,
    /// A ratio above 1, or a difference above 0: the new one is better, whichever way the figure points.
    pub gain: f64,
    /// The 95 % interval of the gain; `None` where there are too few samples for one.
    pub interval: Option<Interval>,
    pub verdict: Verdict,
    /// How much worse it became, as a share of the base: what a gate is held against.
    pub loss: f64,
}

impl Change {
    /// New over base, or else new minus base, with the interval of either, whichever way the figure points: 1.03
    /// is three percent more.
    pub fn of_new(&self, better: Better) -> (Option<f64>, Option<f64>, Option<Interval>) {
        let turn = |gain: f64| match self.scale {
            Scale::Ratio => 1.0 / gain,
            Scale::Difference => -gain,
        };
        let (size, interval) = match better {
            Better::Higher => (self.gain, self.interval),
            Better::Lower => (turn(self.gain), self.interval.map(|it| it.map(turn))),
        };
        match self.scale {
            Scale::Ratio => (Some(size), None, interval),
            Scale::Difference => (None, Some(size), interval),
        }
    }
}

/// Compares one figure of two sets of records; all samples of a side are taken together. Rows that took
/// turns in one run are compared round by round, which takes out what a round has in common, and with too few rounds
/// not at all: fewer samples must not show more. `None` where a side has no value.
pub fn compare(figure: &Figure, base: &[&Record], new: &[&Record], floor: f64) -> Option<Change> {
    let samples = |records: &[&Record]| -> Vec<(u32, f64)> {
        records.iter().flat_map(|it| figure.samples(it)).collect()
    };
    let rounds = are_of_one_run(base, new);
    let (base, new) = (samples(base), samples(new));
    let of_round = |(round, value): &(u32, f64)| {
        Some((*value, new.iter().find(|(other, _)| other == round)?.1))
    };
    let pairs = rounds.then(|| base.iter().filter_map(of_round).unzip());
    let values = |samples: &[(u32, f64)]| samples.iter().map(|it| it.1).collect::<Vec<f64>>();
    judge(figure.better, (&values(&base), &values(&new)), pairs, floor)
}

/// Whether the two sides took turns: rows of one run, or runs that alternated.
pub fn took_turns(base: &[&Record], new: &[&Record]) -> bool {
    are_of_one_run(base, new) || alternated(base, new)
}

/// Whether the sides changed as often as the fewer runs of one of them, by their starts, as those of the GitHub action
/// do.
fn alternated(base: &[&Record], new: &[&Record]) -> bool {
    let started = |record: &&Record| record.run.as_ref().map(|run| run.started.clone());
    let of = |side: bool, records: &[&Record]| -> Vec<(String, bool)> {
        records.iter().filter_map(started).map(|started| (started, side)).collect()
    };
    let mut runs = [of(false, base), of(true, new)].concat();
    runs.sort_unstable();
    let changes = runs.windows(2).filter(|two| two[0].1 != two[1].1).count();
    let fewer = base.len().min(new.len());
    fewer > 1 && changes >= fewer
}

fn are_of_one_run(base: &[&Record], new: &[&Record]) -> bool {
    let run = |record: &Record| record.run.as_ref().map(|run| run.id.clone());
    match (base, new) {
        ([base], [new]) => run(base).is_some() && run(base) == run(new),
        _ => false,
    }
}

/// Samples on each side that are enough for an interval.
pub fn enough(base: &[&Record], new: &[&Record]) -> usize {
    if are_of_one_run(base, new) { stats::FEWEST_IN_TURNS } else { stats::FEWEST_APART }
}

/// The largest noise floor of the records, for rows that took turns or for those that did not; 0 without one.
pub fn floor<'a>(records: impl IntoIterator<Item = &'a Record>, in_turns: bool) -> f64 {
    let floors =
        records.into_iter().filter_map(|it| Some(it.noise_floor.as_ref()?.share(in_turns)));
    floors.fold(0.0, f64::max)
}

/// Values of one series against later ones of the same.
pub fn compare_values(better: Better, base: &[f64], new: &[f64], floor: f64) -> Option<Change> {
    judge(better, (base, new), None, floor)
}

/// The side whose values are the larger ones if the new one is better, first.
fn turned<T>(better: Better, base: T, new: T) -> (T, T) {
    if better == Better::Lower { (base, new) } else { (new, base) }
}

/// Two sides, and if they took turns those of their values that belong together in pairs; `floor` is a share.
fn judge(
    better: Better,
    (base, new): (&[f64], &[f64]),
    pairs: Option<(Vec<f64>, Vec<f64>)>,
    floor: f64,
) -> Option<Change> {
    // Of all or of none: to leave values out that have no logarithm would choose the result.
    let positive = base.iter().chain(new).all(|value| *value > 0.0);
    let scale = if positive { Scale::Ratio } else { Scale::Difference };
    let scaled = |values: &[f64]| match scale {
        Scale::Ratio => stats::logarithms(values),
        Scale::Difference => values.to_vec(),
    };
    let shift = |of: fn(&[f64], &[f64]) -> Option<Shift>, base: &[f64], new: &[f64]| {
        let (above, below) = turned(better, scaled(base), scaled(new));
        of(&above, &below)
    };
    let apart = || shift(stats::unpaired, base, new);
    let found = match pairs.map(|(base, new)| shift(stats::paired, &base, &new)) {
        Some(Some(paired)) => paired,
        Some(None) => Shift { interval: None, ..apart()? },
        None => apart()?,
    };
    let size = stats::median(base)?.abs();
    // Without an interval, that of the medians which stand beside it.
    let (above, below) = turned(better, stats::median(base)?, stats::median(new)?);
    let (shown, floor) = match scale {
        Scale::Ratio if found.interval.is_none() => (Shift { size: above / below, ..found }, 0.0),
        Scale::Ratio => (found.exp(), floor.ln_1p()),
        Scale::Difference if found.interval.is_none() => {
            (Shift { size: above - below, ..found }, 0.0)
        }
        Scale::Difference => (found, floor * size),
    };
    let loss = match scale {
        Scale::Ratio => shown.size.recip() - 1.0,
        Scale::Difference if shown.size == 0.0 => 0.0,
        Scale::Difference => -shown.size / size,
    };
    // The ends of the scale of numbers have no ratio that can be written down.
    let is_written =
        |it: f64| it.is_finite() && (scale == Scale::Difference || it.recip().is_finite());
    let is_known = |it: Interval| is_written(it.low) && is_written(it.high);
    let is_known = is_written(shown.size) && shown.interval.is_none_or(is_known);
    let verdict = found.verdict(floor);
    is_known.then_some(Change { scale, gain: shown.size, interval: shown.interval, verdict, loss })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RunIdentity, Sample, Status, Timing, figures};

    const BASE: [f64; 6] = [3.2, 3.21, 3.19, 3.2, 3.22, 3.18];

    fn judged(better: Better, base: &[f64], new: &[f64]) -> (Scale, Verdict, Option<f64>) {
        let found = compare_values(better, base, new, 0.0).unwrap();
        (found.scale, found.verdict, found.interval.map(|_| found.loss))
    }

    #[test]
    fn values_of_0_and_below_are_judged_by_their_difference() {
        let below = BASE.map(|value| -value);
        let worse = below.map(|value| value - 0.32);
        // A log-likelihood that falls from -3.2 to -3.52 has lost a tenth of its size.
        let (scale, verdict, loss) = judged(Better::Higher, &below, &worse);
        assert_eq!((scale, verdict), (Scale::Difference, Verdict::Slower));
        assert!((loss.unwrap() - 0.1).abs() < 1e-9, "{loss:?}");
        // A loss below zero that falls is better, and the same values show nothing.
        let of_loss = judged(Better::Lower, &below, &worse);
        assert_eq!((of_loss.0, of_loss.1), (Scale::Difference, Verdict::Faster));
        assert_eq!(judged(Better::Higher, &below, &below).1, Verdict::NoDifference);
        // From no errors at all to one percent: beyond every gate.
        let none = [0.0; 6];
        assert_eq!(
            judged(Better::Lower, &none, &[1.0; 6]),
            (Scale::Difference, Verdict::Slower, Some(f64::INFINITY))
        );
        assert_eq!(judged(Better::Lower, &none, &none).1, Verdict::NoDifference);
        // One of 0 among positive ones: none is left out.
        let mixed = [3.2, 0.0, 3.2, 3.2, 3.2, 3.2];
        assert_eq!(judged(Better::Lower, &mixed, &BASE).0, Scale::Difference);
        // And too few are too few.
        assert_eq!(judged(Better::Higher, &below[..3], &worse).1, Verdict::Inconclusive);
    }

    #[test]
    fn rows_of_one_run_show_nothing_more_with_a_round_less() {
        let record = |run: &str, seconds: &[f64]| {
            let run = RunIdentity { id: run.to_owned(), ..RunIdentity::default() };
            let mut record = Record { run: Some(Box::new(run)), ..Record::default() };
            for (round, &seconds) in (0..).zip(seconds) {
                let timing = Timing { train_s: Some(seconds), ..Timing::default() };
                record.add_sample(Sample {
                    round,
                    timing,
                    status: Status::Measured,
                    ..Sample::default()
                });
            }
            record
        };
        let verdict = |base: &Record, new: &Record| {
            let figure = figures::named("train_s", [base, new]).unwrap();
            let found = compare(&figure, &[base], &[new], 0.0).unwrap();
            (found.verdict, found.interval.is_some())
        };
        // Faster in all rounds but the first, and much so on average.
        let (base, new) = ([10.0, 10.0, 10.0, 10.0, 10.0, 9.5], [9.0, 9.6, 9.6, 9.6, 9.6, 9.6]);
        let of = |rounds: usize, other| {
            verdict(&record("a", &base[..rounds]), &record(other, &new[..rounds]))
        };
        assert_eq!(of(6, "a"), (Verdict::NoDifference, true));
        assert_eq!(of(5, "a"), (Verdict::Inconclusive, false));
        assert_eq!(of(5, "b"), (Verdict::Faster, true), "another run: its rounds are others");
    }

    #[test]
    fn runs_that_alternated_took_turns_and_runs_one_after_the_other_did_not() {
        let records = |starts: &[u32]| -> Vec<Record> {
            let run = |start: &u32| {
                let (id, started) = (start.to_string(), format!("2024-03-15T14:{start:02}:00Z"));
                Some(Box::new(RunIdentity { id, started, ..RunIdentity::default() }))
            };
            starts.iter().map(|start| Record { run: run(start), ..Record::default() }).collect()
        };
        let turns = |base: &[u32], new: &[u32]| {
            let (base, new) = (records(base), records(new));
            took_turns(&base.iter().collect::<Vec<_>>(), &new.iter().collect::<Vec<_>>())
        };
        assert!(turns(&[1, 3, 5, 7], &[2, 4, 6, 8]));
        assert!(turns(&[1, 4, 5, 8], &[2, 3, 6, 7]), "the first of a round changes");
        assert!(!turns(&[1, 2, 3, 4], &[5, 6, 7, 8]));
        assert!(!turns(&[1], &[2]));
        assert!(turns(&[1], &[1]), "one run");
        let (one, other) = (records(&[1]), records(&[2]));
        let needed = |base: &[Record], new: &[Record]| enough(&[&base[0]], &[&new[0]]);
        assert_eq!((needed(&one, &one), needed(&one, &other)), (6, 4));
    }

    #[test]
    fn one_sample_against_many_shows_nothing_and_what_has_no_ratio_is_not_compared() {
        assert_eq!(judged(Better::Lower, &[1.0; 60], &[9.0]).1, Verdict::Inconclusive);
        assert_eq!(judged(Better::Lower, &[1.0; 400], &[9.0; 3]).1, Verdict::Inconclusive);
        for (base, new) in [(1e308, 1e-308), (0.2, 1e308), (1e308, 0.2)] {
            assert!(compare_values(Better::Lower, &[base; 6], &[new; 6], 0.0).is_none());
            assert!(compare_values(Better::Lower, &[base], &[new], 0.0).is_none());
        }
        assert_eq!(judged(Better::Lower, &[1e308; 6], &[1e308; 6]).1, Verdict::NoDifference);
    }
}
