//! Probes that take turns.

/// Rounds behind each rate.
pub(crate) const ROUNDS: u32 = 7;
/// How long a probe should run: far longer than threads take to start, short enough for dozens of
/// probes times [`ROUNDS`] to be over in a few seconds.
const PROBE_S: f64 = 0.008;

/// A thing to measure: does its work so many times and says how long that took, in seconds.
pub(crate) struct Probe<'a> {
    /// Operations or bytes of one repetition, all threads together.
    pub units: f64,
    pub run: Box<dyn FnMut(u64) -> f64 + 'a>,
}

/// Units per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub median: u64,
    pub highest: u64,
}

/// Runs all probes in turns; `between` runs before each round.
pub(crate) fn run(probes: &mut [Probe<'_>], between: &mut dyn FnMut()) -> Vec<Rate> {
    let repetitions: Vec<u64> = probes.iter_mut().map(calibrate).collect();
    let mut samples = vec![Vec::new(); probes.len()];
    for _ in 0..ROUNDS {
        between();
        for (index, probe) in probes.iter_mut().enumerate() {
            let seconds = (probe.run)(repetitions[index]).max(1e-9);
            samples[index].push(probe.units * repetitions[index] as f64 / seconds);
        }
    }
    samples.into_iter().map(rate).collect()
}

/// Repetitions for [`PROBE_S`]; also the probe's warm-up.
fn calibrate(probe: &mut Probe<'_>) -> u64 {
    let mut repetitions = 1;
    loop {
        let seconds = (probe.run)(repetitions).max(1e-9);
        let wanted = (repetitions as f64 * PROBE_S / seconds).ceil() as u64;
        if seconds > PROBE_S / 8.0 {
            return wanted.max(1);
        }
        repetitions = wanted.clamp(2 * repetitions, 64 * repetitions);
    }
}

fn rate(mut samples: Vec<f64>) -> Rate {
    samples.sort_by(f64::total_cmp);
    let highest = samples.last().copied().unwrap_or_default();
    Rate { median: samples[samples.len() / 2] as u64, highest: highest as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn probes_take_turns_and_the_median_of_the_rounds_is_the_rate() {
        let calls = RefCell::new(Vec::new());
        let slow_once = RefCell::new(true);
        let mut probes = [
            Probe {
                units: 3.0,
                run: Box::new(|repetitions| {
                    calls.borrow_mut().push('a');
                    repetitions as f64 * 1e-3
                }),
            },
            Probe {
                units: 1.0,
                run: Box::new(|repetitions| {
                    let late = calls.borrow().len() > 10 && slow_once.replace(false);
                    calls.borrow_mut().push('b');
                    repetitions as f64 * if late { 1.0 } else { 1e-6 }
                }),
            },
        ];
        let rates = run(&mut probes, &mut || ());
        let turns: String = calls.borrow().iter().rev().take(14).rev().collect();
        assert_eq!(turns, "ababababababab");
        assert_eq!(rates[0].median, 3000);
        assert!((999_999..=1_000_001).contains(&rates[1].median), "{rates:?}");
    }
}
