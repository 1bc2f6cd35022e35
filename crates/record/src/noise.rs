//! The noise floor: a row is compared with itself (A/A), so that every difference is noise.
//!
//! One row runs twice in every round. Then the same statistics that later compare different rows
//! compare it with itself, over every window of consecutive rounds, in the two ways in which rows
//! are compared: *together*, A with B of the same rounds, as in one report; and *apart*, some runs
//! with the runs after them, as in `trainmark compare BASE NEW`, where drift is not paired away.
//! Every difference that is claimed is a false one, and the size of what was found by chance is the
//! floor below which nothing is claimed.

use crate::stats::{self, Shift};
use measure::machine::Machine;
use serde::{Deserialize, Serialize};

/// The version of the keys of a record.
pub const SCHEMA_VERSION: u32 = 1;

/// Rounds of one comparison with itself: the fewest that give an interval.
pub const WINDOW: usize = 6;

/// Share of the comparisons with itself that stay below the floor.
const FLOOR_QUANTILE: f64 = 0.95;

/// Numbers of rounds for which the smallest difference is printed.
const ROUNDS: [usize; 5] = [6, 10, 20, 50, 100];

/// The result of one `trainmark noise`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoiseRecord {
    pub schema_version: u32,
    /// RFC 3339, UTC.
    pub measured: String,
    pub harness: String,
    pub executable: String,
    pub model: String,
    pub backend: String,
    pub config: serde_json::Map<String, serde_json::Value>,
    pub dataset: String,
    pub machine: Machine,
    /// The figure that was compared: `train_s`, or `wall_s` of a trainer that reports no clock of its own.
    pub figure: String,
    /// Seconds of the two runs of each round, in order of the rounds; the one that ran first is first.
    pub rounds: Vec<[f64; 2]>,
    /// For each round, whether A ran first.
    pub a_first: Vec<bool>,
    /// Runs that were marked as noisy.
    pub noisy_runs: usize,
    pub analysis: Analysis,
}

/// The analysis of the samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Analysis {
    /// Rounds of one comparison.
    pub window: usize,
    pub together: Claims,
    pub apart: Claims,
    /// Standard deviation of the logarithm of a round's ratio, robust.
    pub deviation: f64,
    /// 19 of 20 comparisons of the row with itself in turns find no larger difference; 0.01 is 1 %. Older files
    /// count the others here too.
    pub floor: f64,
    /// The same of runs one after the other.
    pub floor_apart: Option<f64>,
    /// The smallest difference that is found in 95 of 100 comparisons, by the number of rounds.
    pub smallest_shown: Vec<(usize, f64)>,
}

/// Comparisons of a row with itself, and in how many a difference was claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    pub comparisons: usize,
    pub claims: usize,
}

impl Claims {
    fn add(&mut self, shift: &Shift) {
        self.comparisons += 1;
        self.claims += usize::from(shift.verdict(0.0).is_difference());
    }

    /// The false-positive rate.
    pub fn rate(&self) -> f64 {
        self.claims as f64 / self.comparisons.max(1) as f64
    }
}

impl Analysis {
    /// Of a round's two runs each, in the order in which they ran. `None` of fewer rounds than a
    /// window has.
    pub fn new(rounds: &[[f64; 2]], a_first: &[bool], window: usize) -> Option<Analysis> {
        let (a, b): (Vec<f64>, Vec<f64>) = rounds
            .iter()
            .zip(a_first)
            .map(|([first, second], a_first)| match a_first {
                true => (*first, *second),
                false => (*second, *first),
            })
            .unzip();
        let (a, b) = (stats::logarithms(&a), stats::logarithms(&b));
        let in_turns = a.windows(window).zip(b.windows(window));
        let ratios: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let deviation = stats::noise(&ratios)?;
        // Few comparisons, which share rounds, rarely have what one of 20 would find.
        let by_chance = stats::largest_by_chance(deviation, window).exp_m1();
        let (together, floor) = judged(in_turns.filter_map(|(a, b)| stats::paired(a, b)))?;
        let runs = stats::logarithms(rounds.as_flattened());
        let sides = runs.windows(2 * window).map(|runs| runs.split_at(window));
        let (apart, floor_apart) =
            judged(sides.filter_map(|(base, new)| stats::unpaired(base, new)))?;
        let (floor, floor_apart) = (floor.max(by_chance), Some(floor_apart.max(by_chance)));
        let smallest =
            |rounds: usize| Some((rounds, stats::smallest_shown(deviation, floor, rounds)?));
        let smallest_shown = ROUNDS.into_iter().filter_map(smallest).collect();
        Some(Analysis { window, together, apart, deviation, floor, floor_apart, smallest_shown })
    }
}

/// The claims of comparisons, and what 19 of 20 of them stay below.
fn judged(shifts: impl Iterator<Item = Shift>) -> Option<(Claims, f64)> {
    let mut claims = Claims::default();
    let mut distances: Vec<f64> =
        shifts.inspect(|it| claims.add(it)).map(|it| it.size.abs()).collect();
    distances.sort_by(f64::total_cmp);
    let last = (FLOOR_QUANTILE * distances.len() as f64).ceil() as usize;
    let floor = distances.get(last.checked_sub(1)?)?.exp_m1();
    Some((claims, floor))
}

/// The noise floor as a result file holds it: reports need nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoiseFloor {
    /// The ratio of rows that took turns must differ from 1 by more than this; 0.01 is 1 %.
    pub share: f64,
    /// The same of runs one after the other; older files have one floor for both.
    pub share_apart: Option<f64>,
    /// When it was measured, RFC 3339, UTC.
    pub measured: String,
    /// Which row against itself.
    pub row: String,
}

impl NoiseFloor {
    /// The share for rows that took turns, or for those that did not.
    pub fn share(&self, in_turns: bool) -> f64 {
        // On a quiet machine chance decides which is larger; to have taken no turns must show no more.
        self.share_apart.filter(|_| !in_turns).map_or(self.share, |apart| apart.max(self.share))
    }

    /// The best that is known for a row: the newest of the same row, else of the same trainer and
    /// backend, else of the same backend. Another backend's says nothing.
    pub fn of(
        records: &[NoiseRecord],
        executable: &str,
        model: &str,
        backend: &str,
    ) -> Option<NoiseFloor> {
        let likeness = |record: &&NoiseRecord| {
            (record.executable == executable, record.model == model, record.measured.clone())
        };
        let record = records.iter().filter(|it| it.backend == backend).max_by_key(likeness)?;
        Some(NoiseFloor {
            share: record.analysis.floor,
            share_apart: record.analysis.floor_apart,
            measured: record.measured.clone(),
            row: format!("{} {} {}", record.executable, record.model, record.backend),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn uniform(words: &mut ChaCha8Rng) -> f64 {
        f64::from(words.next_u32()) / f64::from(u32::MAX)
    }

    /// So many rounds of runs around 1 s, each off by up to `spread`, slower by `drift` a round.
    fn rounds(count: usize, spread: f64, drift: f64) -> (Vec<[f64; 2]>, Vec<bool>) {
        let mut words = ChaCha8Rng::seed_from_u64(5);
        let mut one =
            |round: usize| 1.0 + drift * round as f64 + spread * (2.0 * uniform(&mut words) - 1.0);
        let rounds = (0..count).map(|round| [one(round), one(round)]).collect();
        let a_first = (0..count).map(|_| uniform(&mut words) < 0.5).collect();
        (rounds, a_first)
    }

    #[test]
    fn a_machine_without_noise_has_no_floor_and_claims_nothing() {
        let (rounds, a_first) = rounds(20, 0.0, 0.0);
        let analysis = Analysis::new(&rounds, &a_first, WINDOW).unwrap();
        assert_eq!((analysis.floor, analysis.deviation), (0.0, 0.0));
        assert_eq!(analysis.together, Claims { comparisons: 15, claims: 0 });
        assert_eq!(analysis.apart, Claims { comparisons: 29, claims: 0 });
    }

    #[test]
    fn the_floor_grows_with_the_noise_and_stays_below_it() {
        let floor = |spread: f64| {
            let (rounds, a_first) = rounds(60, spread, 0.0);
            Analysis::new(&rounds, &a_first, WINDOW).unwrap().floor
        };
        assert!(floor(0.01) < floor(0.05) && floor(0.05) < 0.05, "{} {}", floor(0.01), floor(0.05));
        assert!(floor(0.01) > 0.002, "{}", floor(0.01));
    }

    #[test]
    fn nineteen_of_twenty_fresh_comparisons_stay_below_the_floor() {
        let mut words = ChaCha8Rng::seed_from_u64(7);
        let (mut above, mut fresh) = (0, 0);
        for _ in 0..100 {
            // Sums of uniform numbers are nearly normal.
            let mut one = || 1.0 + 0.02 * ((0..12).map(|_| uniform(&mut words)).sum::<f64>() - 6.0);
            let mut rounds =
                |count| -> Vec<[f64; 2]> { (0..count).map(|_| [one(), one()]).collect() };
            let floor = Analysis::new(&rounds(20), &[true; 20], WINDOW).unwrap().floor.ln_1p();
            for _ in 0..20 {
                let (a, b): (Vec<f64>, Vec<f64>) =
                    rounds(WINDOW).into_iter().map(|it| (it[0], it[1])).unzip();
                let shift = stats::paired(&stats::logarithms(&a), &stats::logarithms(&b)).unwrap();
                above += usize::from(shift.size.abs() > floor);
                fresh += 1;
            }
        }
        assert!((0.02..0.07).contains(&(above as f64 / fresh as f64)), "{above} of {fresh}");
    }

    #[test]
    fn drift_is_found_where_it_is_not_paired_away() {
        let (rounds, a_first) = rounds(20, 0.005, 0.02);
        let analysis = Analysis::new(&rounds, &a_first, WINDOW).unwrap();
        assert!(analysis.apart.rate() > 0.9, "{analysis:?}");
        assert!(analysis.together.rate() < 0.2, "{analysis:?}");
        assert!(analysis.floor < 0.01, "{analysis:?}");
        assert!(analysis.floor_apart.unwrap() > 0.03, "{analysis:?}");
    }

    #[test]
    fn too_few_rounds_say_nothing() {
        let (rounds, a_first) = rounds(5, 0.01, 0.0);
        assert_eq!(Analysis::new(&rounds, &a_first, WINDOW), None);
    }

    #[test]
    fn a_row_takes_the_floor_of_what_is_most_like_it() {
        let record =
            |executable: &str, model: &str, backend: &str, floor: f64, day: u32| NoiseRecord {
                executable: executable.into(),
                model: model.into(),
                backend: backend.into(),
                measured: format!("2026-11-{day:02}T00:00:00Z"),
                analysis: Analysis { floor, ..Analysis::default() },
                ..NoiseRecord::default()
            };
        let records = [
            record("a", "mlp", "cpu", 0.01, 3),
            record("a", "cnn", "cpu", 0.02, 1),
            record("a", "cnn", "cpu", 0.03, 2),
            record("b", "mlp", "cpu", 0.04, 9),
        ];
        let share = |executable: &str, model: &str, backend: &str| {
            NoiseFloor::of(&records, executable, model, backend).map(|floor| floor.share)
        };
        assert_eq!(share("a", "cnn", "cpu"), Some(0.03));
        assert_eq!(share("a", "attention", "cpu"), Some(0.01));
        assert_eq!(share("c", "mlp", "cpu"), Some(0.04));
        assert_eq!(share("a", "mlp", "cuda"), None);
    }
}
