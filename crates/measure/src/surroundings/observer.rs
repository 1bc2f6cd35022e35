//! Opens a window on the machine just before a trainer starts, and closes it when all of it has gone.

use super::clocks::Clocks;
use super::energy::Energy;
use super::gpu::{self, Gpus};
use super::kernel::Counters;
use super::placement::{self, RoundTrips};
use super::seen::{Surroundings, Usual};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Between two looks at clocks: often enough for a run of some seconds, and one part in a
/// thousand of a core.
const INTERVAL: Duration = Duration::from_millis(500);
/// Looks at whose memory is on the GPUs in that time.
const DEVICE_LOOKS: u32 = 5;
/// For the last look to end. A driver that has not answered by then hangs.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// What to look at while a job runs, and what of it is the job's.
pub struct Look {
    /// The cores between which the round trip is measured before and after, or why it is not ([`placement::pair`]).
    pub pair: Result<[usize; 2], String>,
    /// The GPUs to look at, by UUID, where other jobs run at the same time on others.
    pub gpus: Option<Vec<String>>,
    /// Whether it may compute on GPUs. Where NVML tells none of this system's process ids, as in many containers, what
    /// comes to a GPU after its start is taken for the job's then.
    pub on_gpus: bool,
}

/// Looks at a machine again and again.
pub struct Observer {
    gpus: Gpus,
    /// The highest clock in any window.
    highest_mhz: Option<f64>,
    round_trips: RoundTrips,
}

/// A window that is open.
pub struct Window {
    start: Instant,
    /// The cores to measure between, or why nothing is to be measured; and what was.
    pair: Result<[usize; 2], String>,
    round_trip: Result<u64, String>,
    energy: Energy,
    before: Counters,
    /// Ends the thread by being dropped.
    stop: Sender<()>,
    looked: Receiver<(Clocks, gpu::Window)>,
}

impl Observer {
    /// Finds out what there is to look at.
    pub fn new() -> Observer {
        Observer { gpus: Gpus::load(), highest_mhz: None, round_trips: RoundTrips::default() }
    }

    /// The GPUs as NVML knows them.
    pub fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    /// The usual values of all windows so far.
    pub fn usual(&self) -> Usual {
        Usual { highest_mhz: self.highest_mhz, round_trip_ns: self.round_trips.usual_ns() }
    }

    /// Opens a window: just before a trainer starts. What runs below this process belongs to it.
    pub fn open(&self, Look { pair, gpus, on_gpus }: Look) -> Window {
        let round_trip = placement::round_trip_ns(&pair);
        // Before the trainer starts: whoever is on a GPU by then is somebody else.
        let mut devices = gpu::Window::open(&self.gpus, gpus.as_deref(), on_gpus);
        let (stop, stopped) = channel();
        let (result, looked) = channel();
        let looker = move || {
            let mut clocks = Clocks::new();
            // A trainer may be on a GPU for a fraction of a second only.
            let looks = if devices.is_empty() { 1 } else { DEVICE_LOOKS };
            // The first look at clocks comes after they have had time to rise.
            for look in 1.. {
                if stopped.recv_timeout(INTERVAL / looks) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                let at_clocks = look % looks == 0;
                if at_clocks {
                    clocks.look();
                }
                devices.look(at_clocks);
            }
            devices.close();
            // Nobody takes it if it comes too late.
            let _ = result.send((clocks, devices));
        };
        // If it cannot be started, no result comes.
        let _ = std::thread::Builder::new().name("surroundings".to_owned()).spawn(looker);
        Window {
            before: Counters::read(),
            energy: Energy::read(),
            start: Instant::now(),
            pair,
            round_trip,
            stop,
            looked,
        }
    }

    /// Closes it: all of the trainer has gone.
    pub fn close(&mut self, window: Window) -> Surroundings {
        let window_s = window.start.elapsed().as_secs_f64();
        let mut seen = window.before.until(Counters::read(), window_s);
        seen.cpu_energy_uj = seen.known("cpu_energy_uj", window.energy.until(Energy::read()));
        let after = placement::round_trip_ns(&window.pair);
        seen.round_trip_before_ns = seen.known("round_trip_before_ns", window.round_trip);
        seen.round_trip_after_ns = seen.known("round_trip_after_ns", after);
        let trips = [seen.round_trip_before_ns, seen.round_trip_after_ns];
        trips.into_iter().flatten().for_each(|ns| self.round_trips.take(ns));
        drop(window.stop);
        let looked = window.looked.recv_timeout(LAST_LOOK).map_err(|why| match why {
            RecvTimeoutError::Timeout => {
                self.gpus = Gpus::that_hang();
                gpu::HANGS
            }
            RecvTimeoutError::Disconnected => {
                "the thread that reads clocks and GPUs could not be started"
            }
        });
        if let Some((clocks, devices)) = seen.known("devices", looked) {
            seen.mhz_low = seen.known("mhz_low", clocks.range().map(|it| it.0));
            seen.mhz_high = seen.known("mhz_high", clocks.range().map(|it| it.1));
            seen.devices = seen.known("devices", devices.result()).unwrap_or_default();
        }
        let highest = [self.highest_mhz, seen.mhz_high].into_iter().flatten();
        self.highest_mhz = highest.reduce(f64::max);
        seen
    }
}

impl Default for Observer {
    fn default() -> Self {
        Observer::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_spins_beside_the_window_is_counted_and_named() {
        // Not a child of this process: its grandparent has left it to init.
        let script = "(while :; do :; done) > /dev/null 2>&1 & echo $!";
        let output = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
        let pid = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let mut observer = Observer::new();
        let pair = Err("not asked for".to_owned());
        let window = observer.open(Look { pair, gpus: None, on_gpus: false });
        std::thread::sleep(Duration::from_millis(700));
        let seen = observer.close(window);
        std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(seen.other_cpu_s.unwrap() > 0.1, "{seen:?}");
        let found = seen.disturbances(Usual::default());
        assert!(found.iter().any(|words| words.starts_with("other processes used")), "{found:?}");
        // On a machine that is busy anyway, others may have used more.
        assert!(!seen.busiest.is_empty(), "{seen:?}");
        assert_eq!(seen.missing["round_trip_before_ns"], "not asked for");
    }

    #[test]
    fn a_round_trip_is_measured_on_both_sides_of_a_window_or_there_is_a_reason() {
        let mut observer = Observer::new();
        let pair = placement::pair("cpu", None, None);
        let window = observer.open(Look { pair, gpus: None, on_gpus: false });
        let seen = observer.close(window);
        let sides = [
            ("round_trip_before_ns", seen.round_trip_before_ns),
            ("round_trip_after_ns", seen.round_trip_after_ns),
        ];
        for (name, ns) in sides {
            assert!(ns.is_some() != seen.missing.contains_key(name), "{seen:?}");
            assert!(ns.is_none_or(|ns| (5..1_000_000).contains(&ns)), "{seen:?}");
        }
        assert_eq!(observer.usual().round_trip_ns.is_some(), sides.iter().any(|it| it.1.is_some()));
    }
}
