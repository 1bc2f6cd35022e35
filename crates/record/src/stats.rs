//! Medians, their intervals, and the difference between two rows' samples.
//!
//! Nothing here assumes a distribution of the noise: run times have long tails, drift and outliers.
//! Every interval is exact by counting ranks, so its coverage is a promise and not an approximation
//! (up to 60 samples; beyond that the ranks' normal limit is good to four digits).
//!
//! - The median's interval lies between two order statistics (Conover, *Practical Nonparametric
//!   Statistics*, section 3.2).
//! - The difference of two rows that ran in the same rounds is the Hodges-Lehmann estimate of the
//!   paired differences of logarithms, with the interval that inverts Wilcoxon's signed-rank test
//!   (Hollander and Wolfe, *Nonparametric Statistical Methods*, sections 3.2 and 3.3). Pairing removes what
//!   a round has in common: drift, heat, a noisy neighbour.
//! - Of rows that did not run together, the same from Mann and Whitney's test (sections 4.2, 4.3).
//!
//! Logarithms, because a speed-up is a ratio: twice as fast and half as fast are the same distance
//! from no difference. Bootstrap lost: at the five to ten rounds that people run, its intervals are
//! too narrow (their coverage is near 85 % where 95 % is promised).

use serde::{Deserialize, Serialize};
use std::f64::consts::SQRT_2;

/// Up to so many samples a rank distribution is counted, not approximated.
const EXACT: usize = 60;

/// The confidence of every interval that is printed.
pub const CONFIDENCE: f64 = 0.95;

/// The middle of the values; between the two middle ones of an even number. `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(values))
}

/// From so many values on it makes sense to call one of them an outlier.
const FEWEST_FOR_OUTLIERS: usize = 6;
/// Robust standard deviations from the median; of normal noise, one value in two million is beyond.
const OUTLIER_DEVIATIONS: f64 = 5.0;
/// A clock's own grain makes nobody an outlier.
const OUTLIER_SHARE: f64 = 0.01;

/// How many of the values are far from their median, by the median of the absolute deviations from it. To
/// be told, never to be left out: the intervals hold with them.
pub fn outliers(values: &[f64]) -> usize {
    let spread = spread(values).filter(|_| values.len() >= FEWEST_FOR_OUTLIERS);
    spread.map_or(0, |(middle, deviations, deviation)| {
        let most = (OUTLIER_DEVIATIONS * deviation).max(OUTLIER_SHARE * middle.abs());
        deviations.iter().filter(|deviation| **deviation > most).count()
    })
}

/// The median, the distances from it, and a robust standard deviation: the median distance, which of a normal
/// distribution is 1 / 1.4826 of it.
fn spread(values: &[f64]) -> Option<(f64, Vec<f64>, f64)> {
    let middle = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    let deviation = 1.4826 * median(&distances)?;
    Some((middle, distances, deviation))
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(sorted[middle - 1].midpoint(sorted[middle])),
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// An interval and the confidence that it really has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
    /// At least what was asked for.
    pub confidence: f64,
}

impl Interval {
    /// Its ends in another unit; they change places where that counts the other way.
    #[must_use]
    pub fn map(self, of: impl Fn(f64) -> f64) -> Interval {
        let (one, other) = (of(self.low), of(self.high));
        Interval { low: one.min(other), high: one.max(other), ..self }
    }

    /// Half its width relative to its middle.
    pub fn relative_half_width(&self) -> f64 {
        (self.high - self.low) / (self.high + self.low)
    }
}

/// The narrowest symmetric pair of order statistics that encloses the median with the confidence
/// asked for; `None` if even the smallest and the largest sample do not (below 6 samples at 95 %).
pub fn median_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let sorted = sorted(values);
    let n = sorted.len();
    // P(fewer than k + 1 samples below the median): binomial with p = 1/2.
    let mut term = 0.5f64.powi(i32::try_from(n).ok()?);
    let mut tail = 0.0;
    let mut best = None;
    for k in 0..n / 2 {
        tail += term;
        term *= (n - k) as f64 / (k + 1) as f64;
        if 1.0 - 2.0 * tail < confidence {
            break;
        }
        best = Some(Interval {
            low: sorted[k],
            high: sorted[n - 1 - k],
            confidence: 1.0 - 2.0 * tail,
        });
    }
    best
}

/// Samples on each side that an interval takes, of rows that did not take turns.
pub const FEWEST_APART: usize = 4;
/// Rounds of which [`paired`] gives an interval, and samples of which [`median_interval`] does.
pub const FEWEST_IN_TURNS: usize = 6;

/// By how much the values of one side exceed those of another: of logarithms, the logarithm of a ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// Base minus new.
    pub size: f64,
    /// `None` if there are too few samples for one.
    pub interval: Option<Interval>,
}

impl Shift {
    /// The ratio, if the values were logarithms.
    pub fn exp(self) -> Shift {
        Shift { size: self.size.exp(), interval: self.interval.map(|it| it.map(f64::exp)) }
    }
}

/// The logarithms of positive values.
pub fn logarithms(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.ln()).collect()
}

/// Of rows that ran in the same rounds: `base[i]` and `new[i]` are the values of round `i`. `None` of no
/// rounds.
pub fn paired(base: &[f64], new: &[f64]) -> Option<Shift> {
    let differences: Vec<f64> = base.iter().zip(new).map(|(base, new)| base - new).collect();
    let n = differences.len();
    let mut averages = Vec::with_capacity(n * (n + 1) / 2); // Walsh's
    for (index, first) in differences.iter().enumerate() {
        averages.extend(differences[index..].iter().map(|second| first.midpoint(*second)));
    }
    shift(averages, &signed_rank_tail(n))
}

/// Of rows that ran apart. `None` if either has no sample. The test alone would give an interval to one
/// sample against 39; one disturbed training would then be a finding, so each side must have
/// [`FEWEST_APART`].
pub fn unpaired(base: &[f64], new: &[f64]) -> Option<Shift> {
    let differences = base.iter().flat_map(|base| new.iter().map(move |new| base - new)).collect();
    let found = shift(differences, &rank_sum_tail(base.len(), new.len()))?;
    let enough = base.len().min(new.len()) >= FEWEST_APART;
    Some(Shift { interval: found.interval.filter(|_| enough), ..found })
}

/// The Hodges-Lehmann estimate of all pairwise differences, and the interval between those whose
/// ranks from both ends the test does not reject. `tail(k)` is P(statistic <= k).
fn shift(differences: Vec<f64>, tail: &dyn Fn(usize) -> f64) -> Option<Shift> {
    let sorted = sorted(&differences);
    let size = median_of_sorted(&sorted)?;
    let count = sorted.len();
    let mut interval = None;
    for k in 0..count / 2 {
        let confidence = 1.0 - 2.0 * tail(k);
        if confidence < CONFIDENCE {
            break;
        }
        interval = Some(Interval { low: sorted[k], high: sorted[count - 1 - k], confidence });
    }
    Some(Shift { size, interval })
}

/// P(T <= k) of Wilcoxon's signed-rank statistic of `n` differences, when there is no difference.
fn signed_rank_tail(n: usize) -> Box<dyn Fn(usize) -> f64> {
    let most = n * (n + 1) / 2;
    if n > EXACT {
        return normal_limit(most, 2 * n + 1);
    }
    // Each rank is in the sum or not, with probability 1/2 each.
    let mut probability = vec![0.0; most + 1];
    probability[0] = 1.0;
    for rank in 1..=n {
        for sum in (0..=most).rev() {
            let with = if sum >= rank { probability[sum - rank] } else { 0.0 };
            probability[sum] = (probability[sum] + with) / 2.0;
        }
    }
    cumulative(probability)
}

/// P(U <= k) of Mann and Whitney's statistic of `m` and `n` samples, when there is no difference.
fn rank_sum_tail(m: usize, n: usize) -> Box<dyn Fn(usize) -> f64> {
    let most = m * n;
    if m.max(n) > EXACT {
        return normal_limit(most, m + n + 1);
    }
    // Coefficients of the Gaussian binomial: multiply by (1 - q^(n+i)), divide by (1 - q^i).
    let mut count = vec![0.0f64; most + 1];
    count[0] = 1.0;
    for i in 1..=m {
        for sum in (n + i..=most).rev() {
            count[sum] -= count[sum - n - i];
        }
        for sum in i..=most {
            count[sum] += count[sum - i];
        }
    }
    let all: f64 = count.iter().sum();
    count.iter_mut().for_each(|count| *count /= all);
    cumulative(count)
}

fn cumulative(mut probability: Vec<f64>) -> Box<dyn Fn(usize) -> f64> {
    let mut sum = 0.0;
    for value in &mut probability {
        sum += *value;
        *value = sum;
    }
    Box::new(move |k| probability.get(k).copied().unwrap_or(1.0))
}

/// Of many samples either statistic is normal: `most` is its largest value, `most * ranks / 12` its variance.
fn normal_limit(most: usize, ranks: usize) -> Box<dyn Fn(usize) -> f64> {
    let mean = most as f64 / 2.0;
    let deviation = (most as f64 * ranks as f64 / 12.0).sqrt();
    Box::new(move |k| normal_tail((k as f64 + 0.5 - mean) / deviation))
}

/// P(Z <= z) of the standard normal distribution, to 1e-7 (Abramowitz and Stegun, 7.1.26).
fn normal_tail(z: f64) -> f64 {
    let x = z.abs() / SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let polynomial = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let value = polynomial.iter().fold(0.0, |sum, coefficient| sum * t + coefficient);
    let erfc = value * t * (-x * x).exp();
    if z < 0.0 { erfc / 2.0 } else { 1.0 - erfc / 2.0 }
}

/// A robust standard deviation of a row's noise: of the logarithms of the ratios of the same row
/// between paired rounds. `None` below three.
pub fn noise(log_ratios: &[f64]) -> Option<f64> {
    spread(log_ratios).filter(|_| log_ratios.len() >= 3).map(|(.., deviation)| deviation)
}

/// The normal quantile of 97.5 %.
const TWO_SIDED: f64 = 1.959_964;
/// The normal quantile of 96.5 %, to be on the safe side of 95 %.
const POWER: f64 = 1.811_911;
/// Rounds that the test loses because it is discrete.
const ROUNDS_FOR_DISCRETENESS: usize = 3;
/// Of the signed-rank test, against the mean of normal noise.
const EFFICIENCY: f64 = 3.0 / std::f64::consts::PI;

/// What 19 of 20 comparisons of a row with itself stay below by so many rounds, if the logarithm of the ratio within a
/// round has standard deviation `deviation`: as a logarithm.
pub fn largest_by_chance(deviation: f64, rounds: usize) -> f64 {
    TWO_SIDED * deviation / (rounds as f64 * EFFICIENCY).sqrt()
}

/// The smallest difference (0.03 is 3 %) that so many rounds show in at least 95 of 100 comparisons, where none of up to
/// `floor` is claimed. `deviation` is as for [`largest_by_chance`]. `None` below the rounds that an interval takes. The
/// normal power formula with the test's efficiency; the simulation in the tests proves it.
pub fn smallest_shown(deviation: f64, floor: f64, rounds: usize) -> Option<f64> {
    let effective = rounds.checked_sub(ROUNDS_FOR_DISCRETENESS)?;
    let by_chance = largest_by_chance(deviation, effective);
    let margin = POWER / TWO_SIDED * by_chance;
    (rounds >= FEWEST_IN_TURNS).then(|| (by_chance.max(floor.ln_1p()) + margin).exp_m1())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn paired_speedup(base: &[f64], new: &[f64]) -> Option<Shift> {
        paired(&logarithms(base), &logarithms(new))
    }

    fn uniform(words: &mut ChaCha8Rng) -> f64 {
        (f64::from(words.next_u32()) + 0.5) / f64::from(u32::MAX)
    }

    fn normal(words: &mut ChaCha8Rng) -> f64 {
        let (u, v) = (uniform(words), uniform(words));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn the_medians_interval_is_the_tables() {
        // Conover, table A3: at n = 10 the second and the ninth, with 97.85 %.
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        let interval = median_interval(&ten, 0.95).unwrap();
        assert_eq!((interval.low, interval.high), (2.0, 9.0));
        assert!((interval.confidence - 0.978_515_625).abs() < 1e-12);
        assert_eq!(median_interval(&ten[..5], 0.95), None);
        assert_eq!(median_interval(&ten[..6], 0.95).unwrap().low, 1.0);
    }

    #[test]
    fn rank_distributions_are_the_tables() {
        // Hollander and Wolfe, tables A.4 and A.6.
        let signed = signed_rank_tail(6);
        assert_eq!((signed(0), signed(2)), (1.0 / 64.0, 3.0 / 64.0));
        let sum = rank_sum_tail(4, 4);
        assert!((sum(0) - 1.0 / 70.0).abs() < 1e-12 && (sum(1) - 2.0 / 70.0).abs() < 1e-12);
        assert!((sum(16) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_normal_limit_meets_the_exact_distributions() {
        let n = EXACT + 1;
        let most = n * (n + 1) / 2;
        let exact = signed_rank_tail(EXACT);
        let limit = signed_rank_tail(n);
        assert!((limit(most / 2) - 0.5).abs() < 0.01);
        assert!((exact(EXACT * (EXACT + 1) / 4) - 0.5).abs() < 0.01);
        assert!((normal_tail(-1.959_964) - 0.025).abs() < 1e-6);
        assert!((rank_sum_tail(61, 40)(61 * 20) - 0.5).abs() < 0.01);
    }

    #[test]
    fn a_constant_ratio_is_found_exactly() {
        let base = [2.0, 4.0, 6.0, 3.0, 5.0, 7.0];
        let new: Vec<f64> = base.iter().map(|time| time / 2.0).collect();
        let paired = paired_speedup(&base, &new).unwrap();
        assert!((paired.exp().size - 2.0).abs() < 1e-12);
        assert_eq!(paired.verdict(0.01), Verdict::Faster);
        assert_eq!(paired_speedup(&new, &base).unwrap().verdict(0.01), Verdict::Slower);
        // Too few rounds for an interval: nothing is claimed, however large the ratio.
        assert_eq!(
            paired_speedup(&base[..5], &new[..5]).unwrap().verdict(0.0),
            Verdict::Inconclusive
        );
    }

    #[test]
    fn an_effect_within_the_noise_floor_is_not_claimed() {
        let base = [1.0; 8];
        let new = [0.99; 8];
        assert_eq!(paired_speedup(&base, &new).unwrap().verdict(0.02), Verdict::NoDifference);
        assert_eq!(paired_speedup(&base, &new).unwrap().verdict(0.005), Verdict::Faster);
    }

    /// A round's common drift, log-normal noise, and one run in ten disturbed by up to half.
    fn rounds(
        words: &mut ChaCha8Rng,
        n: usize,
        deviation: f64,
        effect: f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let one = |words: &mut ChaCha8Rng, level: f64| {
            let disturbed = uniform(words) < 0.1;
            let extra = if disturbed { 1.0 + uniform(words) / 2.0 } else { 1.0 };
            level * extra * (deviation / SQRT_2 * normal(words)).exp()
        };
        let levels: Vec<f64> = (0..n).map(|round| 1.0 + 0.05 * round as f64).collect();
        let base = levels.iter().map(|level| one(words, level * (1.0 + effect))).collect();
        let new = levels.iter().map(|level| one(words, *level)).collect();
        (base, new)
    }

    #[test]
    fn of_a_thousand_comparisons_with_itself_at_most_five_percent_claim_a_difference() {
        let mut words = ChaCha8Rng::seed_from_u64(7);
        for n in [6, 10, 25] {
            let mut claims = [0, 0];
            for _ in 0..1000 {
                let (base, new) = rounds(&mut words, n, 0.02, 0.0);
                let speedups =
                    [paired_speedup(&base, &new), unpaired(&logarithms(&base), &logarithms(&new))];
                for (claims, speedup) in claims.iter_mut().zip(speedups) {
                    let verdict = speedup.unwrap().verdict(0.0);
                    *claims += usize::from(verdict.is_difference());
                }
            }
            // 1000 trials at a true rate of 5 %: the count's own 99 % interval ends at 66.
            assert!(claims.iter().all(|&claims| claims <= 66), "{claims:?} of 1000 at {n} rounds");
        }
    }

    #[test]
    fn the_smallest_difference_is_shown_in_95_of_100_comparisons() {
        assert_eq!(smallest_shown(0.02, 0.0, 5), None);
        let mut words = ChaCha8Rng::seed_from_u64(11);
        for (deviation, floor, rounds) in [
            (0.01, 0.0, 8),
            (0.02, 0.0, 20),
            (0.08, 0.0, 50),
            (0.05, 0.041, 20),
            (0.05, 0.041, 100),
            (0.001, 0.02, 10),
        ] {
            let effect = smallest_shown(deviation, floor, rounds).unwrap();
            let mut found = 0;
            for _ in 0..1000 {
                let base: Vec<f64> = (0..rounds)
                    .map(|_| (1.0 + effect) * (deviation * normal(&mut words)).exp())
                    .collect();
                let shift = paired_speedup(&base, &vec![1.0; rounds]).unwrap();
                let verdict = shift.verdict(floor.ln_1p());
                found += usize::from(verdict == Verdict::Faster);
            }
            let case = format!("{rounds} rounds, deviation {deviation} and floor {floor}");
            assert!(found >= 950, "{found} of 1000 at {case}");
        }
    }

    #[test]
    fn the_noise_is_robust_against_one_disturbed_round() {
        let mut words = ChaCha8Rng::seed_from_u64(3);
        let mut ratios: Vec<f64> = (0..200).map(|_| 0.02 * normal(&mut words)).collect();
        ratios.push(5.0);
        let deviation = noise(&ratios).unwrap();
        assert!((0.015..0.025).contains(&deviation), "{deviation}");
        assert_eq!(noise(&[0.0, 0.1]), None);
    }

    #[test]
    fn outliers_are_told_from_noise_and_few_values_have_none() {
        let quiet = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.005];
        assert_eq!(outliers(&quiet), 0);
        assert_eq!(outliers(&[&quiet[..], &[1.5]].concat()), 1);
        assert_eq!(outliers(&[&quiet[..], &[1.5, 0.5]].concat()), 2);
        assert_eq!(outliers(&[1.0, 1.0, 1.0, 1.0, 9.0]), 0, "too few to tell");
        // Times of a coarse clock: most are the same.
        assert_eq!(outliers(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.001]), 0);
        assert_eq!(outliers(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.1]), 1);
        assert_eq!(outliers(&[]), 0);
    }
}
