//! The meters besides the headline figures: each with its source and whether it is valid, or with the
//! reason why there is none.

use crate::meter::{Meters, Reading};
use crate::surroundings::Surroundings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The counters of RAPL are refreshed every millisecond: over a second that is a part in a thousand.
const CPU_ENERGY_WINDOW_S: f64 = 1.0;
/// NVML's are refreshed at intervals of up to two seconds.
const DEVICE_ENERGY_WINDOW_S: f64 = 20.0;

/// A meter besides the headline figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeterRecord {
    /// The median over the runs; null if there is none.
    pub value: Option<f64>,
    /// Where it comes from and what it covers.
    pub source: Option<String>,
    /// Whether the figure means what its name says, in every run.
    pub valid: bool,
    /// Why there is no figure, or why it is not valid.
    pub reason: Option<String>,
}

/// The records of one launch, and the values of those that have one. `noisy` is whether others
/// computed meanwhile.
pub fn records(
    meters: &Meters,
    seen: Option<&Surroundings>,
    noisy: bool,
) -> (BTreeMap<String, MeterRecord>, BTreeMap<String, u64>) {
    let events = &meters.events;
    let readings = [
        ("largest_process_bytes", &meters.largest_process_bytes),
        ("tree_pss_bytes", &meters.tree_pss_bytes),
        ("phys_footprint_bytes", &meters.phys_footprint_bytes),
        ("cgroup_peak_bytes", &meters.cgroup_peak_bytes),
        ("processes", &meters.processes),
        ("minor_faults", &meters.minor_faults),
        ("major_faults", &meters.major_faults),
        ("voluntary_switches", &meters.voluntary_switches),
        ("involuntary_switches", &meters.involuntary_switches),
        ("storage_read_bytes", &meters.storage_read_bytes),
        ("storage_written_bytes", &meters.storage_written_bytes),
        ("instructions", &events.instructions),
        ("cycles", &events.cycles),
        ("cache_misses", &events.cache_misses),
        ("branch_misses", &events.branch_misses),
        ("cpu_migrations", &events.cpu_migrations),
        ("task_clock_ns", &events.task_clock_ns),
    ];
    let mut found: Vec<(&str, Reading<u64>, Result<(), String>)> =
        readings.into_iter().map(|(name, reading)| (name, reading.clone(), Ok(()))).collect();
    if let Some(seen) = seen {
        found.extend(energies(seen, noisy));
        found.push(("device_memory_bytes", device_memory(seen), Ok(())));
    }
    let (mut records, mut values) = (BTreeMap::new(), BTreeMap::new());
    for (name, reading, valid) in found {
        let value = reading.value();
        if let Some(value) = value {
            values.insert(name.to_owned(), value);
        }
        let invalid = valid.err();
        let record = MeterRecord {
            value: value.map(|value| value as f64),
            source: reading.source().map(str::to_owned),
            valid: value.is_some() && invalid.is_none(),
            reason: reading.reason().map(str::to_owned).or(invalid),
        };
        records.insert(name.to_owned(), record);
    }
    (records, values)
}

/// Energy is everybody's who computed meanwhile, and needs a window that is long against the time
/// between two updates of its counter.
fn energies(
    seen: &Surroundings,
    noisy: bool,
) -> [(&'static str, Reading<u64>, Result<(), String>); 2] {
    let valid = |least_s: f64| {
        if seen.window_s < least_s {
            let window_s = seen.window_s;
            return Err(format!(
                "a run of {window_s:.1} s is too short: {least_s:.0} s are needed"
            ));
        }
        if noisy {
            return Err("others computed meanwhile, and it cannot be told whose it is".to_owned());
        }
        Ok(())
    };
    let cpu = match seen.cpu_energy_uj {
        Some(energy) => Reading::measured(
            energy,
            "RAPL (/sys/class/powercap), all packages, start of the launcher to its end",
        ),
        None => absent(seen, "cpu_energy_uj"),
    };
    let used: Vec<u64> =
        seen.devices.iter().filter(|it| it.used).filter_map(|it| it.energy_uj).collect();
    let device = match used.is_empty() {
        true if seen.devices.is_empty() => absent(seen, "devices"),
        true => Reading::absent("no process of the trainer's was seen on a GPU"),
        false => Reading::measured(
            used.iter().sum(),
            "NVML's total energy of the boards that the trainer used",
        ),
    };
    [
        ("cpu_energy_uj", cpu, valid(CPU_ENERGY_WINDOW_S)),
        ("device_energy_uj", device, valid(DEVICE_ENERGY_WINDOW_S)),
    ]
}

fn device_memory(seen: &Surroundings) -> Reading<u64> {
    let peaks: Vec<u64> = seen.devices.iter().filter_map(|device| device.peak_bytes).collect();
    if !peaks.is_empty() {
        let source = "NVML per process, ten times a second: largest sum of the trainer's processes";
        return Reading::measured(peaks.iter().sum(), source);
    }
    match seen.devices.is_empty() {
        true => absent(seen, "devices"),
        false => Reading::absent("no process of the trainer's was seen on a GPU"),
    }
}

fn absent(seen: &Surroundings, name: &str) -> Reading<u64> {
    Reading::absent(seen.missing.get(name).map_or("it was not looked for", String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surroundings::Device;

    fn seen(window_s: f64) -> Surroundings {
        let device = Device {
            used: true,
            energy_uj: Some(5_000_000),
            peak_bytes: Some(1 << 30),
            ..Device::default()
        };
        Surroundings {
            window_s,
            cpu_energy_uj: Some(7_000_000),
            devices: vec![device],
            ..Surroundings::default()
        }
    }

    fn records_of(seen: Surroundings, disturbances: &[&str]) -> BTreeMap<String, MeterRecord> {
        records(&Meters::absent("not measured"), Some(&seen), !disturbances.is_empty()).0
    }

    #[test]
    fn energy_of_a_short_run_or_beside_others_is_there_but_not_valid() {
        let valid = |window_s: f64, disturbances: &[&str]| {
            let records = records_of(seen(window_s), disturbances);
            (records["cpu_energy_uj"].valid, records["device_energy_uj"].valid)
        };
        assert_eq!(valid(0.5, &[]), (false, false));
        assert_eq!(valid(5.0, &[]), (true, false));
        assert_eq!(valid(30.0, &[]), (true, true));
        assert_eq!(valid(30.0, &["load"]), (false, false));
        let short = &records_of(seen(0.5), &[])["cpu_energy_uj"];
        assert_eq!(short.value, Some(7e6));
        assert!(short.reason.as_ref().unwrap().contains("too short"));
    }

    #[test]
    fn each_meter_has_a_source_or_a_reason() {
        for (name, record) in records_of(seen(1.0), &[]) {
            assert_eq!(record.value.is_some(), record.source.is_some(), "{name}");
            assert!(record.valid || record.reason.is_some(), "{name}");
        }
        let without = records_of(Surroundings::default(), &[]);
        assert_eq!(without["device_memory_bytes"].value, None);
    }
}
