//! The energy that the CPU's packages use, by the counters of RAPL (`/sys/class/powercap`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The counters at one moment, in microjoules, by their zone's folder; with the value at which each
/// begins again at 0.
#[derive(Debug)]
pub struct Energy(Result<BTreeMap<PathBuf, (u64, u64)>, String>);

impl Energy {
    pub fn read() -> Energy {
        Energy::read_from(Path::new("/sys/class/powercap"))
    }

    fn read_from(folder: &Path) -> Energy {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Energy(Err("the system shows no energy counters (RAPL)".to_owned()));
        };
        let mut zones = BTreeMap::new();
        let mut refused = false;
        for path in entries.flatten().map(|entry| entry.path()) {
            // Whole packages: `intel-rapl:0`, also on AMD. Their parts are `intel-rapl:0:1`.
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_package = name.starts_with("intel-rapl:") && name.matches(':').count() == 1;
            if !is_package {
                continue;
            }
            let number = |file: &str| {
                std::fs::read_to_string(path.join(file)).map(|text| text.trim().parse::<u64>().ok())
            };
            match (number("energy_uj"), number("max_energy_range_uj")) {
                (Ok(Some(energy)), Ok(Some(range))) => {
                    zones.insert(path.clone(), (energy, range));
                }
                (Err(error), _) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    refused = true;
                }
                _ => {}
            }
        }
        Energy(match (zones.is_empty(), refused) {
            (false, _) => Ok(zones),
            (true, true) => Err("only root may read the energy counters here (RAPL)".to_owned()),
            (true, false) => Err("the system shows no energy counters (RAPL)".to_owned()),
        })
    }

    /// Microjoules of all packages since then.
    pub fn until(self, after: Energy) -> Result<u64, String> {
        let (before, after) = (self.0?, after.0?);
        let mut sum = 0;
        for (zone, (energy, range)) in before {
            let Some((now, _)) = after.get(&zone) else {
                return Err("an energy counter has disappeared".to_owned());
            };
            sum += match now.checked_sub(energy) {
                Some(used) => used,
                None => range.saturating_sub(energy) + now,
            };
        }
        match sum {
            0 => Err("the energy counters stand still".to_owned()),
            sum => Ok(sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(folder: &Path, name: &str, energy: &str, range: &str) {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("energy_uj"), energy).unwrap();
        std::fs::write(folder.join(name).join("max_energy_range_uj"), range).unwrap();
    }

    #[test]
    fn packages_are_summed_and_counters_that_began_again_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let set = |first: &str, second: &str| {
            zone(folder.path(), "intel-rapl:0", first, "1000");
            zone(folder.path(), "intel-rapl:1", second, "1000");
            zone(folder.path(), "intel-rapl:0:0", "7", "1000");
            zone(folder.path(), "dtpm", "7", "1000");
            Energy::read_from(folder.path())
        };
        assert_eq!(set("100", "900").until(set("150", "20")), Ok(50 + 120));
        assert!(set("5", "5").until(set("5", "5")).unwrap_err().contains("stand still"));
    }

    #[test]
    fn without_counters_there_is_a_reason_and_no_zero() {
        let nowhere = || Energy::read_from(Path::new("/nonexistent"));
        assert!(nowhere().until(nowhere()).unwrap_err().contains("no energy counters"));
        let empty = tempfile::tempdir().unwrap();
        let empty = || Energy::read_from(empty.path());
        assert!(empty().until(empty()).unwrap_err().contains("no energy counters"));
    }
}
