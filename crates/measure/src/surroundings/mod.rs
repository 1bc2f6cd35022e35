//! What else the machine did while a trainer ran, and whether that makes the sample *noisy*.
//!
//! A sample is judged by what happened around it, never by its own time: a rule that looked at the
//! time would choose the results. So a noisy sample may be repeated (`--retry-noisy`) without
//! favouring anybody, and a slow sample of a quiet machine stays what it is.
//!
//! The kernel's counters are read just before and just after the run, and the round trip between two
//! cores is measured, which costs the trainer nothing. Clocks and GPUs have no counters for what was
//! in between: a thread looks at them twice a second (`INTERVAL`).

mod clocks;
mod energy;
mod gpu;
#[cfg(target_os = "linux")]
mod kernel;
pub mod placement;

pub use gpu::{Device, Gpus};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at clocks: often enough for a run of some seconds, and one part in a
/// thousand of a core.
const INTERVAL: Duration = Duration::from_millis(500);
/// Looks at whose memory is on the GPUs in that time.
const DEVICE_LOOKS: u32 = 5;
/// Other processes may use this much of one core, and this much of each core in reach: a desktop's
/// and a large server's usual housekeeping.
const OTHERS_CORES: f64 = 0.05;
const OTHERS_CORES_PER_CORE: f64 = 0.01;
/// The kernel counts whole ticks of 10 ms for each core: below this nothing can be said.
const TICKS_S: f64 = 0.05;
/// Share of the cores' time that a hypervisor may give to others.
const STEAL_SHARE: f64 = 0.01;
/// A clock may fall to this share of the highest that was seen in the whole run of the suite.
const CLOCK_SHARE: f64 = 0.9;

/// What else the machine did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surroundings {
    /// Seconds between the two looks at the kernel's counters.
    pub window_s: f64,
    /// Cores that the trainer could use, which all figures are about.
    pub cores: usize,
    /// Mean number of runnable tasks over the minute before the run.
    pub load_average: Option<f64>,
    /// CPU seconds that processes other than the harness and the trainer used on these cores.
    pub other_cpu_s: Option<f64>,
    /// The processes that used most of it; those that began or ended meanwhile are not among them.
    pub busiest: Vec<Busy>,
    /// Seconds that the hypervisor gave to others while something here wanted to run.
    pub steal_s: Option<f64>,
    /// Lowest and highest clock of the fastest core at any look.
    pub mhz_low: Option<f64>,
    pub mhz_high: Option<f64>,
    /// Times that a core or its package was slowed because of its heat.
    pub thermal_throttles: Option<u64>,
    /// Seconds that a control group's CPU quota kept its processes from running.
    pub quota_throttled_s: Option<f64>,
    /// Nanoseconds of a round trip between the first two cores, before and after.
    pub round_trip_before_ns: Option<u64>,
    pub round_trip_after_ns: Option<u64>,
    /// Microjoules of the CPU's packages, whoever used them.
    pub cpu_energy_uj: Option<u64>,
    /// What NVML says of each GPU.
    pub devices: Vec<Device>,
    /// For each figure that is null, why.
    pub missing: BTreeMap<String, String>,
}

/// A process and the CPU time that it used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Busy {
    /// The kernel's short name of it.
    pub name: String,
    pub cpu_s: f64,
}

/// What all windows of a run of the suite have shown so far, this one's included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usual {
    /// The highest CPU clock.
    pub highest_mhz: Option<f64>,
    /// The median round trip.
    pub round_trip_ns: Option<u64>,
}

impl Surroundings {
    /// Why the sample is noisy, in words; nothing if it is not.
    pub fn disturbances(&self, usual: Usual) -> Vec<String> {
        let mut found = Vec::new();
        let window_s = self.window_s.max(f64::MIN_POSITIVE);
        let allowed = OTHERS_CORES + OTHERS_CORES_PER_CORE * self.cores as f64;
        if let Some(other_s) = self.other_cpu_s
            && other_s > TICKS_S
            && other_s / window_s > allowed
        {
            let names: Vec<String> = self
                .busiest
                .iter()
                .filter(|busy| busy.cpu_s > TICKS_S / 2.0)
                .map(|busy| format!("{} {:.2}", busy.name, busy.cpu_s / window_s))
                .collect();
            let names = match names.is_empty() {
                true => String::new(),
                false => format!(" ({})", names.join(", ")),
            };
            found.push(format!("other processes used {:.2} cores{names}", other_s / window_s));
        }
        if let Some(steal_s) = self.steal_s
            && let share = steal_s / (window_s * self.cores.max(1) as f64)
            && steal_s > TICKS_S / 2.0
            && share > STEAL_SHARE
        {
            found.push(format!("the hypervisor took {:.1} % of the CPU time", share * 100.0));
        }
        if let (Some(low), Some(high)) = (self.mhz_low, usual.highest_mhz)
            && low < high * CLOCK_SHARE
        {
            found.push(format!("the CPU's clock fell to {low:.0} of {high:.0} MHz"));
        }
        if let Some(times @ 1..) = self.thermal_throttles {
            found.push(format!("the CPU was slowed for its heat {times} times"));
        }
        if let Some(seconds) = self.quota_throttled_s
            && seconds > 0.0
        {
            found.push(format!("the CPU quota of a control group stopped it for {seconds:.2} s"));
        }
        let (before, after) = (self.round_trip_before_ns, self.round_trip_after_ns);
        found.extend(placement::disturbance(before, after, usual.round_trip_ns));
        found.extend(self.devices.iter().flat_map(Device::disturbances));
        found
    }
}

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
                    if ended != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
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

    fn usual() -> Usual {
        Usual { highest_mhz: Some(4200.0), round_trip_ns: Some(110) }
    }

    fn quiet() -> Surroundings {
        Surroundings {
            window_s: 2.0,
            cores: 2,
            other_cpu_s: Some(0.04),
            steal_s: Some(0.0),
            mhz_low: Some(4100.0),
            thermal_throttles: Some(0),
            quota_throttled_s: Some(0.0),
            round_trip_before_ns: Some(105),
            round_trip_after_ns: Some(112),
            ..Surroundings::default()
        }
    }

    #[test]
    fn a_quiet_machine_disturbs_nobody() {
        assert_eq!(quiet().disturbances(usual()), Vec::<String>::new());
        assert_eq!(Surroundings::default().disturbances(Usual::default()), Vec::<String>::new());
    }

    #[test]
    fn each_disturbance_is_found_and_says_how_large_it_is() {
        let busy = Busy { name: "rustc".into(), cpu_s: 0.9 };
        type Change = fn(&mut Surroundings);
        let changes: [(Change, &str); 6] = [
            (|it| it.other_cpu_s = Some(1.0), "other processes used 0.50 cores (rustc 0.45)"),
            (|it| it.steal_s = Some(0.2), "the hypervisor took 5.0 % of the CPU time"),
            (|it| it.mhz_low = Some(3000.0), "the CPU's clock fell to 3000 of 4200 MHz"),
            (|it| it.thermal_throttles = Some(3), "the CPU was slowed for its heat 3 times"),
            (
                |it| it.quota_throttled_s = Some(0.25),
                "the CPU quota of a control group stopped it for 0.25 s",
            ),
            (
                |it| it.round_trip_after_ns = Some(512),
                "the round trip between two cores was 105 ns before and 512 ns after, usually \
                 110 ns: the host seems to move them",
            ),
        ];
        for (change, words) in changes {
            let mut seen = Surroundings { busiest: vec![busy.clone()], ..quiet() };
            change(&mut seen);
            assert_eq!(seen.disturbances(usual()), [words]);
        }
    }

    #[test]
    fn a_short_run_is_not_noisy_for_a_tick() {
        let short = Surroundings { window_s: 0.05, other_cpu_s: Some(0.03), ..quiet() };
        assert_eq!(short.disturbances(Usual::default()), Vec::<String>::new());
    }

    #[test]
    fn a_large_machine_may_do_more_housekeeping() {
        let large = Surroundings { cores: 128, other_cpu_s: Some(2.0), ..quiet() };
        assert_eq!(large.disturbances(Usual::default()), Vec::<String>::new());
        assert_eq!(Surroundings { cores: 2, ..large }.disturbances(Usual::default()).len(), 1);
    }

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
