//! Where a series of measurements changes its level.
//!
//! Each stretch is searched for the split that Pettitt's rank statistic favours most (Pettitt, *A
//! non-parametric approach to the change-point problem*, Applied Statistics 28, 1979), the split is
//! kept if a permutation test says that chance alone rarely does as well, and both halves are
//! searched in turn. Ranks, because run times have outliers; permutations, because Pettitt's own
//! approximation of the significance is off at the ten to fifty runs that a history has.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Values on either side of a change, at least.
pub const FEWEST: usize = 4;
/// How rarely chance alone may make a change, per stretch.
const SIGNIFICANCE: f64 = 0.01;
/// With so many permutations the smallest significance that can be seen is half of that.
const PERMUTATIONS: usize = 199;
/// Any: the same series must give the same changes every time.
const SEED: u64 = 0x7472_6169_6e6d_6172;

/// The indices of the first values after each change, in order.
pub fn changes(values: &[f64]) -> Vec<usize> {
    let mut found = Vec::new();
    search(values, 0, &mut ChaCha8Rng::seed_from_u64(SEED), &mut found);
    found.sort_unstable();
    found
}

fn search(values: &[f64], offset: usize, chance: &mut ChaCha8Rng, found: &mut Vec<usize>) {
    if values.len() < 2 * FEWEST {
        return;
    }
    let mut ranks = ranks(values);
    let (split, strength) = strongest_split(&ranks);
    let mut as_strong = 1; // the series itself is one of the permutations
    for _ in 0..PERMUTATIONS {
        for last in (1..ranks.len()).rev() {
            let other = (u64::from(chance.next_u32()) * (last as u64 + 1)) >> 32;
            ranks.swap(last, other as usize);
        }
        as_strong += usize::from(strongest_split(&ranks).1 >= strength);
        // Hopeless already: most stretches have no change and end here.
        if as_strong as f64 > SIGNIFICANCE * (PERMUTATIONS + 1) as f64 {
            return;
        }
    }
    found.push(offset + split);
    search(&values[..split], offset, chance, found);
    search(&values[split..], offset + split, chance, found);
}

/// Ranks from 1, equals sharing their mean rank, doubled to stay whole.
fn ranks(values: &[f64]) -> Vec<i64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        // The mean of the first and the last rank, doubled, is their sum.
        let doubled = 2 * before + equal.len() as i64 + 1;
        equal.iter().for_each(|&index| ranks[index] = doubled);
        before += equal.len() as i64;
    }
    ranks
}

/// The split with the largest |U| that leaves [`FEWEST`] values on either side, U being how far the
/// sum of the ranks before it is from what it would be by chance.
fn strongest_split(doubled_ranks: &[i64]) -> (usize, i64) {
    let n = doubled_ranks.len();
    let expected = n as i64 + 1; // of one doubled rank
    let mut sum = 0;
    let mut best = (FEWEST, -1);
    for (index, rank) in doubled_ranks.iter().enumerate() {
        sum += rank - expected;
        let split = index + 1;
        if (FEWEST..=n - FEWEST).contains(&split) && sum.abs() > best.1 {
            best = (split, sum.abs());
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Log-normal-like noise around levels, with a tail: one value in eight is an outlier.
    fn series(levels: &[(usize, f64)], seed: u64) -> Vec<f64> {
        let mut words = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = move || f64::from(words.next_u32()) / f64::from(u32::MAX);
        let mut values = Vec::new();
        for &(count, level) in levels {
            for _ in 0..count {
                let noise = (uniform() + uniform() + uniform() - 1.5) * 0.02;
                let outlier = if uniform() < 0.125 { uniform() * 0.2 } else { 0.0 };
                values.push(level * (1.0 + noise + outlier));
            }
        }
        values
    }

    #[test]
    fn chance_alone_makes_a_change_in_at_most_two_of_a_hundred_series() {
        let false_alarms =
            (0..500).filter(|&seed| !changes(&series(&[(30, 1.0)], seed)).is_empty()).count();
        assert!(false_alarms <= 10, "{false_alarms} of 500");
    }

    #[test]
    fn a_step_of_five_percent_among_outliers_of_twenty_is_found_nine_times_in_ten() {
        let (mut found, mut near) = (0, 0);
        for seed in 0..200 {
            let changes = changes(&series(&[(15, 1.0), (15, 1.05)], seed));
            found += usize::from(!changes.is_empty());
            near += usize::from(changes.iter().any(|at| at.abs_diff(15) <= 3));
        }
        assert!(found >= 180, "{found} of 200");
        assert!(near >= 170, "{near} of 200");
    }

    #[test]
    fn a_slowdown_that_was_mended_is_two_changes() {
        let found = changes(&series(&[(20, 1.0), (20, 1.3), (20, 1.0)], 7));
        assert_eq!(found, [20, 40]);
    }

    #[test]
    fn too_few_equal_or_odd_values_are_no_change() {
        assert!(changes(&[]).is_empty());
        assert!(changes(&[1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]).is_empty());
        assert!(changes(&[1.0; 40]).is_empty());
        let mut one_outlier = [1.0; 40];
        one_outlier[20] = 50.0;
        assert!(changes(&one_outlier).is_empty());
    }

    #[test]
    fn the_same_series_gives_the_same_changes() {
        let values = series(&[(12, 1.0), (12, 1.02)], 3);
        assert_eq!(changes(&values), changes(&values));
    }
}
