//! NVIDIA's GPUs through NVML: which there are and how they are linked, clocks, throttling, energy, and whose
//! memory is on them.
//!
//! The library is loaded at run time; without it, or without a device, every figure is absent with
//! the reason. Memory, energy and clocks were read on an H100 and on two H200 at once, whose NVLink was seen
//! (docs/several-devices.md); throttling, a clock's reasons and links of PCIe were never met, and are written
//! against NVML's documentation.

use crate::process;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, P2pCapabilitiesIndex, P2pStatus};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Which the wrapper loads.
const LIBRARY: &str = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };
/// The ways between two GPUs, the shortest first. All but the first are NVML's levels of topology.
pub const LINKS: [&str; 7] = [
    "NVLink",
    "one board",
    "one PCIe switch",
    "PCIe switches",
    "PCIe host bridge",
    "PCIe within a NUMA node",
    "PCIe between NUMA nodes",
];
/// Why nothing is known of GPUs whose driver left a question unanswered.
pub(super) const HANGS: &str = "NVML does not answer";
/// An SM clock may fall to this share of the window's highest.
const CLOCK_SHARE: f64 = 0.9;

/// The library, or why there is none.
#[derive(Clone)]
pub struct Gpus(Result<Arc<Nvml>, String>);

/// A GPU of this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// As NVML counts them.
    pub index: u32,
    pub name: String,
    pub uuid: Option<String>,
    /// The node of main memory that it is at.
    pub numa_node: Option<u32>,
    /// How it reaches each other GPU, by that one's UUID: `NVLink`, or where their ways over PCIe meet.
    pub links: BTreeMap<String, String>,
    pub sm_mhz_max: Option<u32>,
    /// The clock that an administrator has set for applications.
    pub sm_mhz_application: Option<u32>,
}

/// One GPU during a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// As NVML counts them.
    pub index: u32,
    pub name: String,
    /// Tells it from all others, whatever its index is to whom.
    pub uuid: Option<String>,
    /// Whether a process of the trainer's was seen on it.
    pub used: bool,
    /// Whether that is a guess: NVML told none of this system's process ids, and it came after the trainer's start.
    pub guessed: bool,
    /// Largest memory that the trainer's processes held on it at any look, in bytes.
    pub peak_bytes: Option<u64>,
    /// Lowest and highest SM clock while the trainer was on it.
    pub sm_mhz_low: Option<u32>,
    pub sm_mhz_high: Option<u32>,
    /// Lowest SM clock at a look at which no limit of the machine held it down: its power limit, a clock that an
    /// administrator has set, idleness.
    pub sm_mhz_low_without_limit: Option<u32>,
    /// Share of the time in which a kernel ran on it while the trainer was on it: the mean of NVML's figures.
    pub busy_percent: Option<f64>,
    /// Why its clocks were held down while the trainer was on it, in NVML's names.
    pub throttled: BTreeSet<String>,
    /// Most processes of others that computed on it at any look.
    pub others: usize,
    /// Microjoules of the whole board over the window.
    pub energy_uj: Option<u64>,
}

impl Device {
    /// Why a sample on it is noisy. A GPU that the trainer does not use disturbs no sample.
    pub fn disturbances(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.others > 0 {
            let others = match self.others {
                1 => "another process computes".to_owned(),
                others => format!("{others} other processes compute"),
            };
            found.push(format!("{others} on it"));
        }
        if !self.throttled.is_empty() {
            let reasons = self.throttled.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            found.push(format!("throttled: {reasons}"));
        }
        if let (Some(low), Some(high)) = (self.sm_mhz_low_without_limit, self.sm_mhz_high)
            && f64::from(low) < f64::from(high) * CLOCK_SHARE
        {
            found.push(format!("its SM clock fell to {low} of {high} MHz"));
        }
        found.retain(|_| self.used);
        let gpu = format!("GPU {} ({})", self.index, self.name);
        found.into_iter().map(|words| format!("{gpu}: {words}")).collect()
    }
}

impl Gpus {
    /// Loads the library.
    pub fn load() -> Gpus {
        let why = |error| match error {
            NvmlError::LibloadingError(_) => format!(
                "{LIBRARY}, which NVIDIA's driver brings, cannot be loaded, so that memory, energy and clocks of \
                 NVIDIA's GPUs are not known"
            ),
            error => error.to_string(),
        };
        let loaded = Nvml::init().map(Arc::new);
        Gpus(loaded.map_err(|error| format!("NVML is not available: {}", why(error))))
    }

    /// Those of a driver that is no longer asked.
    pub(super) fn that_hang() -> Gpus {
        Gpus(Err(HANGS.to_owned()))
    }

    /// Why there are none.
    pub fn reason(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// The driver's version.
    pub fn driver(&self) -> Option<String> {
        self.0.as_ref().ok()?.sys_driver_version().ok()
    }

    /// All that there are.
    pub fn list(&self) -> Vec<Gpu> {
        let all: Vec<(u32, nvml_wrapper::Device)> = self.devices().collect();
        let gpu = |(index, device): &(u32, nvml_wrapper::Device)| {
            let others = all.iter().filter(|(other, _)| other != index);
            Gpu {
                index: *index,
                name: name(device),
                uuid: device.uuid().ok(),
                numa_node: numa_node(device),
                links: others
                    .filter_map(|(_, it)| Some((it.uuid().ok()?, link(device, it)?)))
                    .collect(),
                sm_mhz_max: device.max_clock_info(Clock::SM).ok(),
                sm_mhz_application: device.applications_clock(Clock::SM).ok(),
            }
        };
        all.iter().map(gpu).collect()
    }

    fn devices(&self) -> impl Iterator<Item = (u32, nvml_wrapper::Device<'_>)> {
        let nvml = self.0.iter();
        let of = |nvml: &Arc<Nvml>| nvml.device_count().unwrap_or(0);
        nvml.flat_map(move |nvml| {
            (0..of(nvml)).filter_map(|index| Some((index, nvml.device_by_index(index).ok()?)))
        })
    }
}

/// The GPUs between two moments.
pub struct Window {
    gpus: Gpus,
    devices: Vec<Watched>,
    /// Processes that are or were below this one.
    own: HashSet<u32>,
    /// Whether NVML tells this system's process ids: one of those was among them.
    own_ids: bool,
    /// Whether what came after the trainer's start is taken for the trainer's, until NVML tells such ids.
    guesses: bool,
    /// Why there is none among them, if there is none.
    none: &'static str,
}

struct Watched {
    device: Device,
    energy_before_mj: Option<u64>,
    /// Process ids that were on it before the trainer.
    before: HashSet<u32>,
    /// Sum and number of the shares of busy time.
    busy: (u32, u32),
}

impl Watched {
    /// What was taken for the trainer's was a stranger's.
    fn forget(&mut self) {
        let Device { index, name, uuid, others, .. } = std::mem::take(&mut self.device);
        self.device = Device { index, name, uuid, others, ..Device::default() };
        self.busy = (0, 0);
    }
}

impl Window {
    /// `only`: the UUIDs of those to look at, where other trainers are on the others; `guesses`:
    /// [`super::Look::on_gpus`].
    pub fn open(gpus: &Gpus, only: Option<&[String]>, guesses: bool) -> Window {
        let watched = |(index, device): (u32, nvml_wrapper::Device)| {
            let before: HashSet<u32> = processes(&device).into_iter().map(|it| it.0).collect();
            Watched {
                device: Device {
                    index,
                    name: name(&device),
                    uuid: device.uuid().ok(),
                    others: before.len(),
                    ..Device::default()
                },
                energy_before_mj: device.total_energy_consumption().ok(),
                before,
                busy: (0, 0),
            }
        };
        let mut devices: Vec<Watched> = gpus.devices().map(watched).collect();
        let is_watched = |uuid: &Option<String>| {
            only.is_none_or(|only| only.iter().any(|it| Some(it) == uuid.as_ref()))
        };
        devices.retain(|watched| is_watched(&watched.device.uuid));
        let none = match only {
            Some(_) => {
                "other rows ran beside it, and none of the devices that it was given is known to NVML"
            }
            None => "NVML knows no device",
        };
        Window { gpus: gpus.clone(), devices, own: HashSet::new(), own_ids: false, guesses, none }
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    fn each(&mut self, mut look: impl FnMut(&nvml_wrapper::Device, &mut Watched)) {
        for (index, device) in self.gpus.devices() {
            let watched = self.devices.iter_mut().find(|watched| watched.device.index == index);
            watched.into_iter().for_each(|watched| look(&device, watched));
        }
    }

    /// Looks whose memory is on the devices, and if wanted what their clocks are.
    pub fn look(&mut self, at_clocks: bool) {
        if self.is_empty() {
            return;
        }
        let mut own = std::mem::take(&mut self.own);
        own.extend(process::descendants(std::process::id() as i32).into_iter().map(|it| it as u32));
        let mut own_ids = self.own_ids;
        self.each(|device, _| own_ids |= processes(device).iter().any(|it| own.contains(&it.0)));
        if own_ids && !self.own_ids {
            self.own_ids = true;
            self.devices.iter_mut().for_each(Watched::forget);
        }
        let guesses = self.guesses && !own_ids;
        self.each(|device, Watched { device: seen, before, busy, .. }| {
            let is_mine = |pid: u32| own.contains(&pid) || (guesses && !before.contains(&pid));
            let (mine, others): (Vec<_>, Vec<_>) =
                processes(device).into_iter().partition(|it| is_mine(it.0));
            seen.others = seen.others.max(others.len());
            if mine.is_empty() {
                return;
            }
            (seen.used, seen.guessed) = (true, guesses);
            let bytes: Option<u64> = mine.into_iter().map(|it| it.1).sum();
            seen.peak_bytes = seen.peak_bytes.max(bytes.filter(|&bytes| bytes > 0));
            if !at_clocks {
                return;
            }
            // Before and after the clock, which may change between them. Those that are not known excuse nothing.
            let reasons = || device.current_throttle_reasons().unwrap_or(ThrottleReasons::empty());
            let before = reasons();
            if let Ok(mhz) = device.clock_info(Clock::SM) {
                let lower = |low: Option<u32>| Some(low.map_or(mhz, |low| low.min(mhz)));
                seen.sm_mhz_low = lower(seen.sm_mhz_low);
                seen.sm_mhz_high = seen.sm_mhz_high.max(Some(mhz));
                if !(before | reasons()).intersects(LIMITS) {
                    seen.sm_mhz_low_without_limit = lower(seen.sm_mhz_low_without_limit);
                }
            }
            if let Ok(rates) = device.utilization_rates() {
                *busy = (busy.0 + rates.gpu, busy.1 + 1);
                seen.busy_percent = Some(f64::from(busy.0) / f64::from(busy.1));
            }
            seen.throttled.extend(slowdowns(before));
        });
        self.own = own;
    }

    /// Reads the counters for the last time.
    pub fn close(&mut self) {
        self.each(|device, watched| {
            let energy_mj = watched.energy_before_mj.zip(device.total_energy_consumption().ok());
            let used = energy_mj.and_then(|(before, after)| after.checked_sub(before));
            watched.device.energy_uj = used.and_then(|used_mj| used_mj.checked_mul(1000));
        });
    }

    /// The devices, or why there are none.
    pub fn result(self) -> Result<Vec<Device>, String> {
        self.gpus.0?;
        match self.devices.is_empty() {
            true => Err(self.none.to_owned()),
            false => Ok(self.devices.into_iter().map(|watched| watched.device).collect()),
        }
    }
}

fn name(device: &nvml_wrapper::Device) -> String {
    device.name().unwrap_or_else(|_| "unknown".to_owned())
}

/// NVML tells it of few devices, the kernel of most; -1 there is a machine of one node.
fn numa_node(device: &nvml_wrapper::Device) -> Option<u32> {
    let of_kernel = || {
        // NVML writes the domain with eight digits, the kernel with four.
        let bus_id = device.pci_info().ok()?.bus_id.to_lowercase();
        let folder =
            format!("/sys/bus/pci/devices/{}", bus_id.get(bus_id.len().checked_sub(12)?..)?);
        std::fs::read_to_string(format!("{folder}/numa_node")).ok()?.trim().parse::<i32>().ok()
    };
    device.numa_node_id().ok().or_else(|| of_kernel().map(|node| node.max(0) as u32))
}

/// How one GPU reaches another.
fn link(device: &nvml_wrapper::Device, other: &nvml_wrapper::Device) -> Option<String> {
    // Through a switch of NVLink too.
    let over_nvlink = device.p2p_status(other, P2pCapabilitiesIndex::NvLink);
    let link =
        if matches!(over_nvlink, Ok(P2pStatus::Ok)) { Some(LINKS[0]) } else { pcie(device, other) };
    link.map(str::to_owned)
}

#[cfg(target_os = "linux")]
fn pcie(device: &nvml_wrapper::Device, other: &nvml_wrapper::Device) -> Option<&'static str> {
    use nvml_wrapper::enum_wrappers::device::TopologyLevel;
    // The wrapper takes a handle of its own.
    let again = other.nvml().device_by_index(other.index().ok()?).ok()?;
    let level = match device.topology_common_ancestor(again).ok()? {
        TopologyLevel::Internal => 1,
        TopologyLevel::Single => 2,
        TopologyLevel::Multiple => 3,
        TopologyLevel::HostBridge => 4,
        TopologyLevel::Node => 5,
        TopologyLevel::System => 6,
    };
    Some(LINKS[level])
}

/// NVML tells it on Linux only.
#[cfg(not(target_os = "linux"))]
fn pcie(_: &nvml_wrapper::Device, _: &nvml_wrapper::Device) -> Option<&'static str> {
    None
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

/// Limits of the machine, or of the trainer's own load. None of them is a disturbance.
const LIMITS: ThrottleReasons = ThrottleReasons::GPU_IDLE
    .union(ThrottleReasons::APPLICATIONS_CLOCKS_SETTING)
    .union(ThrottleReasons::SW_POWER_CAP);

/// What makes a run slower than the next one.
fn slowdowns(reasons: ThrottleReasons) -> impl Iterator<Item = String> {
    let slow = ThrottleReasons::HW_SLOWDOWN
        | ThrottleReasons::SYNC_BOOST
        | ThrottleReasons::SW_THERMAL_SLOWDOWN
        | ThrottleReasons::HW_THERMAL_SLOWDOWN
        | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    (reasons & slow).iter_names().map(|(name, _)| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_every_figure_is_absent_with_the_reason() {
        let gpus = Gpus::load();
        if gpus.0.is_ok() {
            skip::skipped("this machine has NVML");
            return;
        }
        let mut window = Window::open(&gpus, None, true);
        window.look(true);
        window.close();
        let reason = window.result().unwrap_err();
        assert!(reason.starts_with("NVML is not available: libnvidia-ml.so.1"), "{reason}");
        assert_eq!((gpus.driver(), gpus.list()), (None, Vec::new()));
    }

    #[test]
    fn only_a_gpu_that_the_trainer_uses_disturbs_it() {
        let mut device = Device {
            name: "H100".into(),
            others: 2,
            throttled: ["hw_thermal_slowdown".to_owned()].into(),
            sm_mhz_low: Some(900),
            sm_mhz_low_without_limit: Some(1000),
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
