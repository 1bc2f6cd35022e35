//! When the samples are taken: in rounds, one of each row in a round, in an order of its own.
//!
//! Running all repeats of one row before those of the next turns drift, heat and a neighbour's load
//! into a result. In rounds, whatever the machine does hits all rows alike, and what a round has in
//! common cancels out of the ratio of two rows.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use record::Record;
use record::stats::{FEWEST_IN_TURNS, Interval};
use std::time::Duration;

/// Below so many rounds there is no 95 % interval to look at.
const FEWEST_FOR_AN_INTERVAL: u32 = FEWEST_IN_TURNS as u32;

/// How often, in which order, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Rounds at least.
    pub repeats: u32,
    /// Go on until every row's median is known to this relative half-width (0.02 is 2 %).
    pub until: Option<f64>,
    /// No round begins later than this after the first.
    pub max_time: Option<Duration>,
    /// One round before the first that is not recorded.
    pub warm_up: bool,
    /// The seed of the order within the rounds.
    pub seed: u64,
}

impl Schedule {
    /// The order of one round, as indices into the plan. A single round keeps the plan's order;
    /// of several, each is shuffled.
    pub fn order(&self, round: u32, rows: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rows).collect();
        if self.repeats == 1 && self.until.is_none() {
            return order;
        }
        let mut words = ChaCha8Rng::seed_from_u64(self.seed);
        words.set_stream(u64::from(round));
        for last in (1..rows).rev() {
            // Fisher and Yates; the bias of 32 bits over a few hundred choices is below 1e-7.
            let chosen = (u64::from(words.next_u32()) * (last as u64 + 1)) >> 32;
            order.swap(last, chosen as usize);
        }
        order
    }

    /// Whether another round is due after `rounds` of them, `elapsed` after the first began.
    pub fn goes_on(&self, rounds: u32, elapsed: Duration, results: &[&Record]) -> bool {
        if rounds == 0 {
            return true;
        }
        if self.max_time.is_some_and(|most| elapsed >= most) {
            return false;
        }
        if rounds < self.repeats {
            return true;
        }
        let Some(target) = self.until else {
            return false;
        };
        let running = results.iter().filter(|result| result.status.completed());
        let mut widths = running.map(|result| headline(result).map(Interval::relative_half_width));
        let wide = |width: Option<f64>| width.is_none_or(|width| width > target);
        rounds < FEWEST_FOR_AN_INTERVAL && !results.is_empty() || widths.any(wide)
    }
}

/// The interval of what speed-ups are computed from.
fn headline(result: &Record) -> Option<&Interval> {
    let figure = if result.timing.train_s.is_some() { "train_s" } else { "wall_s" };
    result.intervals.get(figure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Sample, Timing};

    fn schedule(repeats: u32, until: Option<f64>) -> Schedule {
        Schedule { repeats, until, max_time: None, warm_up: false, seed: 42 }
    }

    #[test]
    fn a_single_round_keeps_the_order_and_several_are_shuffled_alike_from_one_seed() {
        assert_eq!(schedule(1, None).order(0, 4), [0, 1, 2, 3]);
        let orders: Vec<_> = (0..6).map(|round| schedule(6, None).order(round, 8)).collect();
        let again: Vec<_> = (0..6).map(|round| schedule(6, None).order(round, 8)).collect();
        assert_eq!(orders, again);
        for (index, order) in orders.iter().enumerate() {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7]);
            assert!(!orders[..index].contains(order), "two rounds in the same order");
        }
    }

    fn row(times: &[f64]) -> Record {
        let mut result = Record::default();
        for &time in times {
            let timing = Timing { train_s: Some(time), ..Timing::default() };
            result.add_sample(Sample { timing, ..Sample::default() });
        }
        result
    }

    #[test]
    fn rounds_go_on_until_every_interval_is_narrow() {
        let narrow = row(&[1.0, 1.01, 1.0, 1.01, 1.0, 1.01]);
        let wide = row(&[1.0, 1.5, 1.0, 1.5, 1.0, 1.5]);
        let schedule = schedule(1, Some(0.02));
        let zero = Duration::ZERO;
        assert!(schedule.goes_on(0, zero, &[]));
        assert!(schedule.goes_on(5, zero, &[&row(&[1.0; 5])]), "too few for an interval");
        assert!(!schedule.goes_on(6, zero, &[&narrow]));
        assert!(schedule.goes_on(6, zero, &[&narrow, &wide]));
    }

    #[test]
    fn the_time_limit_ends_it_but_never_the_first_round() {
        let limited = Schedule { max_time: Some(Duration::from_secs(9)), ..schedule(5, None) };
        assert!(limited.goes_on(0, Duration::from_secs(99), &[]));
        assert!(limited.goes_on(1, Duration::from_secs(8), &[]));
        assert!(!limited.goes_on(1, Duration::from_secs(9), &[]));
        assert!(!limited.goes_on(5, Duration::from_secs(1), &[]));
    }
}
