//! The observations of a window, and whether they make the sample noisy.

use super::gpu::Device;
use super::placement;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// The observations of a window: what else the machine did.
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
    /// NVML's account of each GPU.
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

/// The usual values of all windows of a run so far, including this one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usual {
    /// The highest CPU clock.
    pub highest_mhz: Option<f64>,
    /// The median round trip.
    pub round_trip_ns: Option<u64>,
}

impl Surroundings {
    /// A figure, or a note of the reason why there is none.
    pub(super) fn known<T>(
        &mut self,
        name: &str,
        figure: Result<T, impl Into<String>>,
    ) -> Option<T> {
        figure.map_err(|reason| self.missing.insert(name.to_owned(), reason.into())).ok()
    }

    /// Other trainers of this harness ran at the same time. Their CPU time is known when they have ended, which may be
    /// later, or was begun before the window: it cannot be told from that of others.
    pub fn forget_others(&mut self) {
        (self.other_cpu_s, self.busiest) = (None, Vec::new());
        self.missing.insert("other_cpu_s".to_owned(), "other rows ran beside it".to_owned());
    }

    fn seconds(&self) -> f64 {
        self.window_s.max(f64::MIN_POSITIVE)
    }

    /// How much of these cores others used, in words, if it is more than a little.
    pub(super) fn strangers(&self) -> Option<String> {
        let window_s = self.seconds();
        let allowed = OTHERS_CORES + OTHERS_CORES_PER_CORE * self.cores as f64;
        let other_s = self.other_cpu_s.filter(|&it| it > TICKS_S && it / window_s > allowed)?;
        let busiest = self.busiest.iter().filter(|busy| busy.cpu_s > TICKS_S / 2.0);
        let cores = |busy: &Busy| format!("{} {:.2}", busy.name, busy.cpu_s / window_s);
        let names = busiest.map(cores).collect::<Vec<_>>().join(", ");
        let names =
            if names.is_empty() { names } else { format!(" (the machine's busiest: {names})") };
        Some(format!("other processes used {:.2} cores{names}", other_s / window_s))
    }

    /// How much of their time the hypervisor took, in words, if it is more than a little.
    pub(super) fn steal(&self) -> Option<String> {
        let steal_s = self.steal_s.filter(|&it| it > TICKS_S / 2.0)?;
        let share = steal_s / (self.seconds() * self.cores.max(1) as f64);
        let words = || format!("the hypervisor took {:.1} % of the CPU time", share * 100.0);
        (share > STEAL_SHARE).then(words)
    }

    /// Why the sample is noisy, in words; nothing if it is not.
    pub fn disturbances(&self, usual: Usual) -> Vec<String> {
        let mut found: Vec<String> = self.strangers().into_iter().chain(self.steal()).collect();
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
            (
                |it| it.other_cpu_s = Some(1.0),
                "other processes used 0.50 cores (the machine's busiest: rustc 0.45)",
            ),
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
                 110 ns; the host seems to move them",
            ),
        ];
        for (change, words) in changes {
            let mut seen = Surroundings { busiest: vec![busy.clone()], ..quiet() };
            change(&mut seen);
            assert_eq!(seen.disturbances(usual()), [words]);
        }
    }

    #[test]
    fn beside_other_rows_nobody_knows_the_cpu_time_of_strangers() {
        let busiest = vec![Busy { name: "train".into(), cpu_s: 0.9 }];
        let mut seen = Surroundings { other_cpu_s: Some(1.0), busiest, ..quiet() };
        assert_eq!(seen.disturbances(usual()).len(), 1);
        seen.forget_others();
        assert_eq!(seen.disturbances(usual()), Vec::<String>::new());
        assert_eq!(seen.missing["other_cpu_s"], "other rows ran beside it");
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
}
