//! What may be said of two sets of samples of one figure. Every comparison of the harness, in a report, of
//! two sides, in a history or for a noise floor, is decided here and nowhere else.

use crate::Record;
use crate::figures::Figure;
use crate::stats::{self, Interval, Speedup};
use crate::task::Better;
use serde::{Deserialize, Serialize};

/// What a comparison may claim.
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
    /// One of the sides has nothing to compare.
    NotComparable,
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
            Verdict::NotComparable => "not comparable",
        }
    }

    /// Whether a difference is claimed.
    pub fn is_difference(self) -> bool {
        matches!(self, Verdict::Faster | Verdict::Slower)
    }
}

impl Speedup {
    /// The claim, given the machine's noise floor: a ratio must differ from 1 by more than this.
    pub fn verdict(&self, noise_floor: f64) -> Verdict {
        match self.interval {
            None => Verdict::Inconclusive,
            Some(_) if self.ratio.ln().abs() <= noise_floor.ln_1p() => Verdict::NoDifference,
            Some(interval) if interval.low > 1.0 => Verdict::Faster,
            Some(interval) if interval.high < 1.0 => Verdict::Slower,
            Some(_) => Verdict::NoDifference,
        }
    }
}

/// One figure of `new` against `base`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Above 1 the new one is better, whichever way the figure points.
    pub gain: f64,
    /// The 95 % interval of the gain; `None` where there are too few samples for one.
    pub interval: Option<Interval>,
    pub verdict: Verdict,
}

impl Change {
    /// New over base, with its interval, whichever way the figure points: 1.03 is three percent more.
    pub fn ratio(&self, better: Better) -> (f64, Option<Interval>) {
        let inverse = |it: Interval| Interval { low: 1.0 / it.high, high: 1.0 / it.low, ..it };
        match better {
            Better::Higher => (self.gain, self.interval),
            Better::Lower => (1.0 / self.gain, self.interval.map(inverse)),
        }
    }
}

/// Compares one figure of two sets of records; all samples of a side are taken together. Rows that took
/// turns in one run are compared round by round, which takes out what a round has in common. `None` where a
/// side has no value, or one that no ratio can be made of.
pub fn compare(figure: &Figure, base: &[&Record], new: &[&Record], floor: f64) -> Option<Change> {
    let found = match (base, new) {
        ([base], [new]) => paired(figure, base, new),
        _ => None,
    };
    let values = |records: &[&Record]| -> Vec<f64> {
        records.iter().flat_map(|it| figure.samples(it)).map(|(_, value)| value).collect()
    };
    let found = match found {
        Some(found) => found,
        None => speedup(figure.better, &values(base), &values(new), stats::unpaired_speedup)?,
    };
    let verdict = found.verdict(floor);
    Some(Change { gain: found.ratio, interval: found.interval, verdict })
}

/// Values of one series against later ones of the same.
pub fn compare_values(better: Better, base: &[f64], new: &[f64], floor: f64) -> Option<Change> {
    let found = speedup(better, base, new, stats::unpaired_speedup)?;
    Some(Change { gain: found.ratio, interval: found.interval, verdict: found.verdict(floor) })
}

fn paired(figure: &Figure, base: &Record, new: &Record) -> Option<Speedup> {
    let run = |record: &Record| record.run.as_ref().map(|run| run.id.clone());
    if run(base)? != run(new)? {
        return None;
    }
    let of_new = figure.samples(new);
    let pair = |(round, value): (u32, f64)| {
        Some((value, of_new.iter().find(|(other, _)| *other == round)?.1))
    };
    let (base, new): (Vec<f64>, Vec<f64>) =
        figure.samples(base).into_iter().filter_map(pair).unzip();
    let found = speedup(figure.better, &base, &new, stats::paired_speedup)?;
    found.interval.is_some().then_some(found)
}

fn speedup(
    better: Better,
    base: &[f64],
    new: &[f64],
    of: fn(&[f64], &[f64]) -> Option<Speedup>,
) -> Option<Speedup> {
    // A ratio needs positive values, all of them: to leave some out would choose the result.
    if base.iter().chain(new).any(|value| *value <= 0.0) {
        return None;
    }
    let (above, below) = match better {
        Better::Lower => (base, new),
        Better::Higher => (new, base),
    };
    let found = of(above, below)?;
    // Of too few for an interval, the quotient of the medians that stand beside it.
    let quotient = stats::median(above)? / stats::median(below)?;
    Some(if found.interval.is_some() { found } else { Speedup { ratio: quotient, ..found } })
}
