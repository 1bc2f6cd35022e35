//! NVIDIA's GPUs through NVML: clocks, throttling, energy, and whose memory is on them.
//!
//! The library is loaded at run time; without it, or without a device, every figure is absent with
//! the reason. Memory, energy and the highest clock were read on an H100 (docs/cuda.md); throttling and
//! other processes were never met, and are written against NVML's documentation.

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::UsedGpuMemory;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// An SM clock may fall to this share of the window's highest.
const CLOCK_SHARE: f64 = 0.9;

/// The library, or why there is none.
#[derive(Clone)]
pub struct Gpus(Result<Arc<Nvml>, String>);

/// One GPU during a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// As NVML counts them.
    pub index: u32,
    pub name: String,
    /// Whether a process of the trainer's was seen on it.
    pub used: bool,
    /// Largest memory that the trainer's processes held on it at any look, in bytes.
    pub peak_bytes: Option<u64>,
    /// Lowest and highest SM clock while the trainer was on it.
    pub sm_mhz_low: Option<u32>,
    pub sm_mhz_high: Option<u32>,
    /// Why its clocks were held down while the trainer was on it, in NVML's names.
    pub throttled: BTreeSet<String>,
    /// Processes of others that computed on it when the trainer began.
    pub others: usize,
    /// Microjoules of the whole board over the window.
    pub energy_uj: Option<u64>,
}

impl Device {
    /// Why a sample on it is noisy. A GPU that the trainer does not use disturbs nobody.
    pub fn disturbances(&self) -> Vec<String> {
        let mut found = Vec::new();
        let Device { index, name, .. } = self;
        if !self.used {
            return found;
        }
        if self.others > 0 {
            let others = self.others;
            found.push(format!("GPU {index} ({name}): {others} other processes compute on it"));
        }
        if !self.throttled.is_empty() {
            let reasons = self.throttled.iter().cloned().collect::<Vec<_>>().join(", ");
            found.push(format!("GPU {index} ({name}): throttled: {reasons}"));
        }
        if let (Some(low), Some(high)) = (self.sm_mhz_low, self.sm_mhz_high)
            && f64::from(low) < f64::from(high) * CLOCK_SHARE
        {
            let clocks = format!("its SM clock fell to {low} of {high} MHz");
            found.push(format!("GPU {index} ({name}): {clocks}"));
        }
        found
    }
}

impl Gpus {
    /// Loads the library.
    pub fn load() -> Gpus {
        Gpus(Nvml::init().map(Arc::new).map_err(|error| format!("NVML is not available: {error}")))
    }

    /// Why there are none.
    pub fn reason(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// The driver's version.
    pub fn driver(&self) -> Option<String> {
        self.0.as_ref().ok()?.sys_driver_version().ok()
    }

    /// Largest SM clock, and the one that an administrator has set for applications, of each GPU.
    pub fn clocks(&self) -> Vec<(Option<u32>, Option<u32>)> {
        let Ok(nvml) = &self.0 else { return Vec::new() };
        let count = nvml.device_count().unwrap_or(0);
        let devices = (0..count).filter_map(|index| nvml.device_by_index(index).ok());
        devices
            .map(|device| {
                (device.max_clock_info(Clock::SM).ok(), device.applications_clock(Clock::SM).ok())
            })
            .collect()
    }
}

/// The GPUs between two moments.
pub struct Window {
    nvml: Result<Arc<Nvml>, String>,
    devices: Vec<Watched>,
}

struct Watched {
    device: Device,
    energy_before_mj: Option<u64>,
    /// Process ids that were on it before the trainer.
    before: HashSet<u32>,
}

impl Window {
    pub fn open(gpus: &Gpus) -> Window {
        let nvml = gpus.0.clone();
        let count = nvml.as_ref().map_or(0, |nvml| nvml.device_count().unwrap_or(0));
        let mut devices = Vec::new();
        for index in 0..count {
            let Some(device) = nvml.as_ref().ok().and_then(|nvml| nvml.device_by_index(index).ok())
            else {
                continue;
            };
            let name = device.name().unwrap_or_else(|_| "unknown".to_owned());
            let before: HashSet<u32> = processes(&device).into_iter().map(|it| it.0).collect();
            devices.push(Watched {
                device: Device { index, name, others: before.len(), ..Device::default() },
                energy_before_mj: device.total_energy_consumption().ok(),
                before,
            });
        }
        Window { nvml, devices }
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Looks whose memory is on the devices, and if wanted what their clocks are.
    pub fn look(&mut self, at_clocks: bool) {
        let Ok(nvml) = &self.nvml else { return };
        if self.devices.is_empty() {
            return;
        }
        let own = own_tree();
        for watched in &mut self.devices {
            let Ok(device) = nvml.device_by_index(watched.device.index) else { continue };
            let seen = processes(&device);
            // In a container NVML may tell the host's process ids: then what came after the
            // trainer's start is taken for the trainer's.
            let is_own = |pid: &u32| own.contains(pid) || !watched.before.contains(pid);
            let mine: Vec<Option<u64>> =
                seen.iter().filter(|(pid, _)| is_own(pid)).map(|(_, bytes)| *bytes).collect();
            if mine.is_empty() {
                continue;
            }
            let known: u64 = mine.iter().flatten().sum();
            let seen = &mut watched.device;
            seen.used = true;
            if known > 0 {
                seen.peak_bytes = seen.peak_bytes.max(Some(known));
            }
            if !at_clocks {
                continue;
            }
            if let Ok(mhz) = device.clock_info(Clock::SM) {
                seen.sm_mhz_low = Some(seen.sm_mhz_low.map_or(mhz, |low| low.min(mhz)));
                seen.sm_mhz_high = seen.sm_mhz_high.max(Some(mhz));
            }
            if let Ok(reasons) = device.current_throttle_reasons() {
                seen.throttled.extend(slowdowns(reasons));
            }
        }
    }

    /// Reads the counters for the last time.
    pub fn close(&mut self) {
        let Ok(nvml) = &self.nvml else { return };
        for watched in &mut self.devices {
            let after = nvml
                .device_by_index(watched.device.index)
                .and_then(|device| device.total_energy_consumption());
            watched.device.energy_uj = watched
                .energy_before_mj
                .zip(after.ok())
                .and_then(|(before, after)| after.checked_sub(before)?.checked_mul(1000));
        }
    }

    /// The devices, or why there are none.
    pub fn result(self) -> Result<Vec<Device>, String> {
        self.nvml?;
        if self.devices.is_empty() {
            return Err("NVML knows no device".to_owned());
        }
        Ok(self.devices.into_iter().map(|watched| watched.device).collect())
    }
}

/// Processes that compute on a device, with their memory where it is known.
fn processes(device: &nvml_wrapper::Device) -> Vec<(u32, Option<u64>)> {
    let found = device.running_compute_processes().unwrap_or_default();
    found
        .into_iter()
        .map(|process| match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => (process.pid, Some(bytes)),
            UsedGpuMemory::Unavailable => (process.pid, None),
        })
        .collect()
}

/// What makes a run slower than the next one. A power cap that the board always runs into under
/// load, clocks that the administrator set, and idling belong to the machine.
fn slowdowns(reasons: ThrottleReasons) -> impl Iterator<Item = String> {
    let slow = ThrottleReasons::HW_SLOWDOWN
        | ThrottleReasons::SYNC_BOOST
        | ThrottleReasons::SW_THERMAL_SLOWDOWN
        | ThrottleReasons::HW_THERMAL_SLOWDOWN
        | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    (reasons & slow).iter_names().map(|(name, _)| name.to_lowercase())
}

/// All processes below this one.
#[cfg(target_os = "linux")]
fn own_tree() -> HashSet<u32> {
    let own = std::process::id() as i32;
    crate::meter::proc::descendants(own).into_iter().map(|pid| pid as u32).collect()
}

#[cfg(not(target_os = "linux"))]
fn own_tree() -> HashSet<u32> {
    HashSet::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_every_figure_is_absent_with_the_reason() {
        let gpus = Gpus::load();
        if gpus.0.is_ok() {
            eprintln!("SKIPPED: without_a_driver_...: this machine has NVML");
            return;
        }
        let mut window = Window::open(&gpus);
        window.look(true);
        window.close();
        assert!(window.result().unwrap_err().starts_with("NVML is not available: "));
        assert_eq!((gpus.driver(), gpus.clocks()), (None, Vec::new()));
    }

    #[test]
    fn only_a_gpu_that_the_trainer_uses_disturbs_it() {
        let mut device = Device {
            name: "H100".into(),
            others: 2,
            throttled: ["hw_thermal_slowdown".to_owned()].into(),
            sm_mhz_low: Some(1000),
            sm_mhz_high: Some(1980),
            ..Device::default()
        };
        assert_eq!(device.disturbances(), Vec::<String>::new());
        device.used = true;
        let expected = [
            "GPU 0 (H100): 2 other processes compute on it",
            "GPU 0 (H100): throttled: hw_thermal_slowdown",
            "GPU 0 (H100): its SM clock fell to 1000 of 1980 MHz",
        ];
        assert_eq!(device.disturbances(), expected);
    }

    #[test]
    fn limits_that_belong_to_the_machine_are_no_slowdown() {
        let usual = ThrottleReasons::GPU_IDLE | ThrottleReasons::SW_POWER_CAP;
        assert_eq!(slowdowns(usual).count(), 0);
        let hot: Vec<String> = slowdowns(usual | ThrottleReasons::SW_THERMAL_SLOWDOWN).collect();
        assert_eq!(hot, ["sw_thermal_slowdown"]);
    }
}
