//! Opens a window on the machine just before a trainer starts, and closes it when all of it has gone.

use super::gpu::{self, Gpus};
#[cfg(target_os = "linux")]
use super::kernel;
use super::seen::{Surroundings, Usual};
use super::{clocks, energy, placement};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at clocks: often enough for a run of some seconds, and one part in a
/// thousand of a core.
const INTERVAL: Duration = Duration::from_millis(500);
/// Looks at whose memory is on the GPUs in that time.
const DEVICE_LOOKS: u32 = 5;
/// Looks at a machine again and again.
pub struct Observer {
    gpus: Gpus,
    /// The highest clock in any window.
    highest_mhz: Option<f64>,
    round_trips: placement::RoundTrips,
}

/// A window that is open.
pub struct Window {
    start: Instant,
    /// The cores to measure between, or why nothing is to be measured; and what was.
    pair: Result<[usize; 2], String>,
    round_trip: Result<u64, String>,
    energy: energy::Energy,
    #[cfg(target_os = "linux")]
    before: kernel::Counters,
    /// Ends the thread by being dropped.
    stop: Sender<()>,
    looker: Option<JoinHandle<Looks>>,
}

/// What the thread saw.
type Looks = (clocks::Clocks, gpu::Window);

impl Observer {
    /// Finds out what there is to look at.
    pub fn new() -> Observer {
        Observer { gpus: Gpus::load(), highest_mhz: None, round_trips: Default::default() }
    }

    /// The GPUs as NVML knows them.
    pub fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    /// Of all windows so far.
    pub fn usual(&self) -> Usual {
        Usual { highest_mhz: self.highest_mhz, round_trip_ns: self.round_trips.usual_ns() }
    }

    /// Opens a window: just before a trainer starts. What runs below this process belongs to it.
    /// The pair of cores, or why there is none, is [`placement::pair`]'s.
    pub fn open(&self, pair: Result<[usize; 2], String>) -> Window {
        let round_trip = placement::round_trip_ns(&pair);
        let gpus = self.gpus.clone();
        let (stop, stopped) = channel();
        let looker = std::thread::Builder::new()
            .name("surroundings".to_owned())
            .spawn(move || {
                let mut clocks = clocks::Clocks::new();
                let mut devices = gpu::Window::open(&gpus);
                // A trainer may be on a GPU for a fraction of a second only.
                let looks = if devices.is_empty() { 1 } else { DEVICE_LOOKS };
                for look in 1.. {
                    let ended = stopped.recv_timeout(INTERVAL / looks);
                    if ended != Err(RecvTimeoutError::Timeout) {
                        break;
                    }
                    // The first look at clocks comes after they have had time to rise.
                    let at_clocks = look % looks == 0;
                    if at_clocks {
                        clocks.look();
                    }
                    devices.look(at_clocks);
                }
                devices.close();
                (clocks, devices)
            })
            .ok();
        Window {
            #[cfg(target_os = "linux")]
            before: kernel::Counters::read(),
            energy: energy::Energy::read(),
            start: Instant::now(),
            pair,
            round_trip,
            stop,
            looker,
        }
    }

    /// Closes it: all of the trainer has gone.
    pub fn close(&mut self, window: Window) -> Surroundings {
        let window_s = window.start.elapsed().as_secs_f64();
        #[cfg(target_os = "linux")]
        let mut seen = window.before.until(kernel::Counters::read(), window_s);
        #[cfg(not(target_os = "linux"))]
        let mut seen = elsewhere(window_s);
        match window.energy.until(energy::Energy::read()) {
            Ok(microjoules) => seen.cpu_energy_uj = Some(microjoules),
            Err(reason) => {
                seen.missing.insert("cpu_energy_uj".to_owned(), reason);
            }
        }
        let mut trip = |name: &str, measured: Result<u64, String>| match measured {
            Ok(ns) => {
                self.round_trips.take(ns);
                Some(ns)
            }
            Err(reason) => {
                seen.missing.insert(name.to_owned(), reason);
                None
            }
        };
        seen.round_trip_before_ns = trip("round_trip_before_ns", window.round_trip);
        let after = placement::round_trip_ns(&window.pair);
        seen.round_trip_after_ns = trip("round_trip_after_ns", after);
        drop(window.stop);
        let looked = window.looker.and_then(|thread| thread.join().ok());
        match looked {
            Some((clocks, devices)) => {
                match clocks.range() {
                    Ok((low, high)) => (seen.mhz_low, seen.mhz_high) = (Some(low), Some(high)),
                    Err(reason) => {
                        seen.missing.insert("mhz_low".to_owned(), reason.clone());
                        seen.missing.insert("mhz_high".to_owned(), reason);
                    }
                }
                match devices.result() {
                    Ok(devices) => seen.devices = devices,
                    Err(reason) => {
                        seen.missing.insert("devices".to_owned(), reason);
                    }
                }
            }
            None => {
                let reason = "the thread that looks at clocks and GPUs could not be started";
                seen.missing.insert("devices".to_owned(), reason.to_owned());
            }
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

#[cfg(not(target_os = "linux"))]
fn elsewhere(window_s: f64) -> Surroundings {
    let reason = "this system does not tell it without special rights".to_owned();
    let figures = ["load_average", "other_cpu_s", "steal_s", "thermal_throttles"];
    Surroundings {
        window_s,
        missing: figures.map(|name| (name.to_owned(), reason.clone())).into(),
        ..Surroundings::default()
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
        let window = observer.open(Err("not asked for".to_owned()));
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
        let window = observer.open(placement::pair("cpu", None, None));
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
