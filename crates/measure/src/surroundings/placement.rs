//! How near two of the trainer's cores are to each other, by the round trip between them.
//!
//! A hypervisor that moves virtual cores does not tell its guest, and no counter of the guest shows it. Trainings with
//! two threads then differ by a factor. The round trips just before and just after the training show most moves, but
//! not a move there and back in between.

use ::machine::FACTOR;
use serde_json::Value;

/// Backends that are known to compute on a GPU. Any other, `default` among them, may compute on the cores.
const ON_GPUS: [&str; 14] = [
    "cuda",
    "cudagraph",
    "gpu",
    "hip",
    "metal",
    "mlx",
    "mps",
    "mpsgraph",
    "nv",
    "opencl",
    "rocm",
    "vulkan",
    "webgpu",
    "wgpu",
];

/// The two cores to measure between: the first two that the trainer may use, by its own list or by
/// this process's.
///
/// # Errors
/// The reason why nothing is to be measured.
pub fn pair(
    backend: &str,
    threads: Option<&Value>,
    cpus: Option<&[usize]>,
) -> Result<[usize; 2], String> {
    if ON_GPUS.contains(&backend) {
        return Err(format!("{backend} does not compute on the CPU's cores"));
    }
    if threads.is_some_and(|threads| threads == 1) {
        return Err("the trainer has one thread".to_owned());
    }
    let cores = cpus.map_or_else(::machine::cores, <[usize]>::to_vec);
    match cores[..] {
        [first, second, ..] => Ok([first, second]),
        _ => Err("the trainer has one core".to_owned()),
    }
}

/// A round trip now; once more if the cores were busy for a moment.
pub fn round_trip_ns(pair: &Result<[usize; 2], String>) -> Result<u64, String> {
    let pair = pair.clone()?;
    ::machine::round_trip_ns(pair).or_else(|_| ::machine::round_trip_ns(pair))
}

/// What round trips usually take: the median of all that the run of the suite has seen so far, one
/// of them.
#[derive(Debug, Default)]
pub struct RoundTrips(Vec<u64>);

impl RoundTrips {
    pub fn take(&mut self, ns: u64) {
        self.0.push(ns);
        self.0.sort_unstable();
    }

    pub fn usual_ns(&self) -> Option<u64> {
        self.0.get(self.0.len().saturating_sub(1) / 2).copied()
    }
}

/// Why a sample with these round trips is noisy; nothing if it is not.
pub fn disturbance(before: Option<u64>, after: Option<u64>, usual: Option<u64>) -> Option<String> {
    let figures = || [before, after, usual].into_iter().flatten();
    let (least, most) = (figures().min()?, figures().max()?);
    if most as f64 <= FACTOR * least as f64 {
        return None;
    }
    let words = |ns: Option<u64>| ns.map_or("unknown".to_owned(), |ns| format!("{ns} ns"));
    Some(format!(
        "the round trip between two cores was {} before and {} after, usually {}; the host seems to \
         move them",
        words(before),
        words(after),
        words(usual)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pair_is_measured_where_two_threads_may_meet() {
        let cpus = [3, 7, 9];
        assert_eq!(pair("cpu", None, Some(&cpus)), Ok([3, 7]));
        assert_eq!(pair("cpu", Some(&json!(2)), Some(&cpus)), Ok([3, 7]));
        assert!(pair("cpu", Some(&json!(1)), Some(&cpus)).unwrap_err().contains("one thread"));
        assert!(pair("cpu", None, Some(&cpus[..1])).unwrap_err().contains("one core"));
        assert!(pair("cuda", None, Some(&cpus)).unwrap_err().starts_with("cuda does not"));
        for unknown in ["default", "mine"] {
            assert_eq!(pair(unknown, None, Some(&cpus)), Ok([3, 7]));
        }
    }

    #[test]
    fn a_move_while_a_trainer_ran_and_an_unusual_place_are_found_and_jitter_is_not() {
        let noisy = |before, after, usual| disturbance(before, after, usual).is_some();
        assert!(!noisy(Some(92), Some(120), Some(105)));
        assert!(!noisy(Some(470), Some(540), Some(500)));
        assert!(noisy(Some(48), Some(512), Some(48)));
        assert!(noisy(Some(48), Some(47), Some(105)));
        assert!(noisy(None, Some(500), Some(105)));
        assert!(!noisy(None, None, Some(105)) && !noisy(None, None, None));
        assert_eq!(
            disturbance(Some(48), Some(512), Some(110)).unwrap(),
            "the round trip between two cores was 48 ns before and 512 ns after, usually 110 ns; \
             the host seems to move them"
        );
    }

    #[test]
    fn the_usual_round_trip_is_one_that_was_seen() {
        let mut trips = RoundTrips::default();
        assert_eq!(trips.usual_ns(), None);
        [110, 500].into_iter().for_each(|ns| trips.take(ns));
        assert_eq!(trips.usual_ns(), Some(110));
        [105, 48, 112].into_iter().for_each(|ns| trips.take(ns));
        assert_eq!(trips.usual_ns(), Some(110));
    }
}
