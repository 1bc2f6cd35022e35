//! The CPU's clock, looked at while a trainer runs.

/// Cores that are looked at; a machine of hundreds need not be asked for each.
#[cfg(target_os = "linux")]
const MOST_CORES: usize = 64;

/// The range of the fastest core's clock: the core that computes is the one that is not idle.
#[derive(Debug, Default)]
pub struct Clocks {
    files: Vec<std::path::PathBuf>,
    range: Option<(f64, f64)>,
    looks: u32,
}

impl Clocks {
    #[cfg(target_os = "linux")]
    pub fn new() -> Clocks {
        let file = |core: usize| {
            format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq").into()
        };
        let files = ::machine::cores().into_iter().take(MOST_CORES).map(file);
        let files = files.filter(|file: &std::path::PathBuf| file.exists()).collect();
        Clocks { files, ..Clocks::default() }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new() -> Clocks {
        Clocks::default()
    }

    pub fn look(&mut self) {
        let khz = self
            .files
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<f64>().ok());
        self.take(khz.reduce(f64::max).map(|khz| khz / 1e3));
    }

    fn take(&mut self, mhz: Option<f64>) {
        self.looks += 1;
        if let Some(mhz) = mhz {
            let (low, high) = self.range.unwrap_or((mhz, mhz));
            self.range = Some((low.min(mhz), high.max(mhz)));
        }
    }

    /// Lowest and highest, or why there is none.
    pub fn range(&self) -> Result<(f64, f64), String> {
        match (self.range, self.files.is_empty(), self.looks) {
            (Some(range), ..) => Ok(range),
            (None, true, _) => Err("the system does not show the CPU's clock (no cpufreq)".into()),
            (None, false, 0) => Err("the run was too short to look at the clock".into()),
            (None, false, _) => Err("the CPU's clock cannot be read".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_that_of_the_looks_and_without_one_there_is_a_reason() {
        let mut clocks = Clocks::default();
        assert!(clocks.range().unwrap_err().contains("no cpufreq"));
        clocks.files.push("/nonexistent".into());
        assert!(clocks.range().unwrap_err().contains("too short"));
        clocks.look();
        assert!(clocks.range().unwrap_err().contains("cannot be read"));
        [4000.0, 3000.0, 3500.0].into_iter().for_each(|mhz| clocks.take(Some(mhz)));
        assert_eq!(clocks.range(), Ok((3000.0, 4000.0)));
    }
}
