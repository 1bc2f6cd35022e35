//! The figures that come from the surroundings of a launch: energy, and the memory of GPUs.

use super::gpu::Device;
use super::seen::Surroundings;
use crate::meter::Reading;

/// The counters of RAPL are refreshed every millisecond: over a second that is a part in a thousand.
const CPU_ENERGY_WINDOW_S: f64 = 1.0;
/// NVML's are refreshed at intervals of up to two seconds.
const DEVICE_ENERGY_WINDOW_S: f64 = 20.0;
/// A share of busy time is NVML's of up to a second, seen twice a second: ten of them.
const DEVICE_BUSY_WINDOW_S: f64 = 5.0;
/// In a container a stranger's process looks the same.
const GUESS: &str = "; NVML tells none of this system's process ids, so those that came after the start count as the trainer's";

impl Surroundings {
    /// By name. `beside` is whether other trainers of this harness computed meanwhile, on other devices. Energy is
    /// everybody's who did, and needs a window that is long against the time between two updates of its counter.
    pub fn readings(&self, beside: bool) -> [(&'static str, Reading); 5] {
        let invalid = |least_s: f64, shared: Option<&str>| {
            let window_s = self.window_s;
            match window_s < least_s {
                true => {
                    let least = format!("{least_s:.0} s are needed");
                    Some(format!("a run of {window_s:.1} s is too short: {least}"))
                }
                false => shared.map(|why| format!("{why}, so it cannot be attributed")),
            }
        };
        let others = "other processes computed at the same time";
        let cpu_shared = if beside || self.strangers().is_some() || self.steal().is_some() {
            Some(others)
        } else {
            self.other_cpu_s.is_none().then_some("nobody knows what other processes did")
        };
        let shared = self.devices.iter().any(|device| device.used && device.others > 0);
        let device_shared = shared.then_some(others);
        let cpu = self.cpu_energy_uj.map(|energy| energy as f64);
        let cpu = Reading::of(
            cpu.ok_or_else(|| self.why_missing("cpu_energy_uj")),
            "RAPL (/sys/class/powercap), all packages, start of the launcher to its end",
        );
        let energy = self.devices(|device| device.energy_uj);
        let sum = |figures: Vec<u64>| figures.iter().sum::<u64>() as f64;
        let guessed = self.devices.iter().any(|device| device.guessed);
        let guess = if guessed { GUESS } else { "" };
        let source = |what: &str| format!("{what}{guess}");
        let energy = Reading::of(
            energy.map(sum),
            source("NVML's total energy of the boards that the trainer used"),
        );
        let memory = self.devices(|device| device.peak_bytes);
        let largest =
            memory.clone().map(|figures| figures.into_iter().max().unwrap_or_default() as f64);
        let busy = self.devices(|device| device.busy_percent.map(|share| share.round() as u64));
        let busy_source = source(
            "NVML's mean use while its processes were there, set-up included, of the device with least",
        );
        let least = busy.map(|figures| figures.into_iter().min().unwrap_or_default() as f64);
        let per_process =
            source("NVML per process, ten times a second: largest sum of the trainer's processes");
        [
            ("cpu_energy_uj", cpu.but_invalid(invalid(CPU_ENERGY_WINDOW_S, cpu_shared))),
            (
                "device_energy_uj",
                energy.but_invalid(invalid(DEVICE_ENERGY_WINDOW_S, device_shared)),
            ),
            ("device_memory_bytes", Reading::of(memory.map(sum), per_process)),
            (
                "device_memory_largest_bytes",
                Reading::of(largest, source("the same, of the device with most")),
            ),
            (
                "device_busy_least_percent",
                Reading::of(least, busy_source).but_invalid(invalid(DEVICE_BUSY_WINDOW_S, None)),
            ),
        ]
    }

    /// The figure of each GPU that the trainer used. If one of them does not tell it, there is no sum.
    fn devices(&self, figure: impl Fn(&Device) -> Option<u64>) -> Result<Vec<u64>, String> {
        let used: Vec<&Device> = self.devices.iter().filter(|device| device.used).collect();
        match (used.is_empty(), self.devices.is_empty()) {
            (true, true) => return Err(self.why_missing("devices")),
            (true, false) => return Err("no process of the trainer's was seen on a GPU".to_owned()),
            _ => {}
        }
        let of = |device: &Device| {
            let untold =
                || format!("NVML does not tell it of GPU {} ({})", device.index, device.name);
            figure(device).ok_or_else(untold)
        };
        used.into_iter().map(of).collect()
    }

    fn why_missing(&self, name: &str) -> String {
        self.missing.get(name).cloned().unwrap_or_else(|| "it was not measured".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::Usual;
    use super::*;
    use std::collections::BTreeMap;

    fn seen(window_s: f64) -> Surroundings {
        let device = Device {
            used: true,
            energy_uj: Some(5_000_000),
            peak_bytes: Some(1 << 30),
            ..Device::default()
        };
        Surroundings {
            window_s,
            other_cpu_s: Some(0.0),
            cpu_energy_uj: Some(7_000_000),
            devices: vec![device],
            ..Surroundings::default()
        }
    }

    fn readings(seen: &Surroundings) -> BTreeMap<&'static str, Reading> {
        seen.readings(false).into()
    }

    #[test]
    fn energy_of_a_short_run_or_beside_others_is_there_but_not_valid() {
        let valid = |seen: &Surroundings| {
            let readings = readings(seen);
            (readings["cpu_energy_uj"].valid, readings["device_energy_uj"].valid)
        };
        assert_eq!(valid(&seen(0.5)), (false, false));
        assert_eq!(valid(&seen(5.0)), (true, false));
        assert_eq!(valid(&seen(30.0)), (true, true));
        for (other_cpu_s, steal_s) in [(Some(30.0), None), (None, None), (Some(0.0), Some(9.0))] {
            let disturbed = Surroundings { other_cpu_s, steal_s, ..seen(30.0) };
            assert_eq!(valid(&disturbed), (false, true), "{other_cpu_s:?} {steal_s:?}");
        }
        let mut shared = seen(30.0);
        shared.devices.push(Device { others: 1, ..Device::default() });
        assert_eq!(valid(&shared), (true, true), "nobody asks for the energy of another device");
        shared.devices[0].others = 1;
        assert_eq!(valid(&shared), (true, false));
        let short = &readings(&seen(0.5))["cpu_energy_uj"];
        assert_eq!(short.value, Some(7e6));
        assert!(short.reason().unwrap().contains("too short"));
    }

    #[test]
    fn energy_stays_valid_where_a_clock_fell_and_nobody_else_computed() {
        let mut seen = seen(30.0);
        seen.devices[0].sm_mhz_low_without_limit = Some(1000);
        seen.devices[0].sm_mhz_high = Some(1980);
        assert_eq!(seen.disturbances(Usual::default()).len(), 1);
        assert!(readings(&seen)["device_energy_uj"].valid);
    }

    #[test]
    fn of_several_devices_there_are_the_sum_and_the_worst() {
        let mut seen = seen(30.0);
        seen.devices[0].busy_percent = Some(90.0);
        let second = Device {
            peak_bytes: Some(3 << 30),
            busy_percent: Some(40.4),
            ..seen.devices[0].clone()
        };
        seen.devices.extend([second, Device::default()]);
        let readings = readings(&seen);
        let value = |name: &str| readings[name].value.unwrap();
        assert_eq!(value("device_energy_uj"), 1e7);
        assert_eq!(value("device_memory_bytes"), f64::from(1 << 30) * 4.0);
        assert_eq!(value("device_memory_largest_bytes"), f64::from(1 << 30) * 3.0);
        assert_eq!(value("device_busy_least_percent"), 40.0);
    }

    #[test]
    fn the_cpus_energy_is_everybodys_where_trainers_run_side_by_side_and_a_devices_its_own() {
        let readings: BTreeMap<_, _> = seen(30.0).readings(true).into();
        let cpu = &readings["cpu_energy_uj"];
        assert!(!cpu.valid && cpu.reason().unwrap().contains("at the same time"), "{cpu:?}");
        assert!(readings["device_energy_uj"].valid);
    }

    #[test]
    fn a_device_that_does_not_tell_its_figure_leaves_no_sum() {
        let mut seen = seen(30.0);
        let silent = Device { index: 1, name: "H100".into(), used: true, ..Device::default() };
        seen.devices.push(silent);
        let readings = readings(&seen);
        for name in ["device_energy_uj", "device_memory_bytes", "device_memory_largest_bytes"] {
            assert_eq!(readings[name].value, None, "{name}");
            assert_eq!(readings[name].reason(), Some("NVML does not tell it of GPU 1 (H100)"));
        }
    }

    #[test]
    fn each_figure_has_a_source_or_a_reason() {
        for (name, reading) in readings(&seen(1.0)) {
            assert_eq!(reading.value.is_some(), reading.source.is_some(), "{name}");
            assert!(reading.valid || reading.reason.is_some(), "{name}");
        }
        let nothing = readings(&Surroundings::default());
        assert_eq!(nothing["device_memory_bytes"].value, None);
        let idle = Surroundings { devices: vec![Device::default()], ..Surroundings::default() };
        let reason = readings(&idle)["device_energy_uj"].reason().unwrap().to_owned();
        assert_eq!(reason, "no process of the trainer's was seen on a GPU");
    }
}
