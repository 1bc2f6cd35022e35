//! A control group of the trainer's own, whose peak memory the kernel keeps exactly, for any number
//! of processes. It counts the page cache of the files that they read as well, so it stands beside
//! the resident peaks and does not replace them.
//!
//! The launcher makes it below its own group, is in it while it forks, and leaves again. Where groups
//! may not be made, as for most users, the figure is absent with the reason; nothing else changes.

use super::Reading;
use std::fs;
use std::path::{Path, PathBuf};

/// A group, or why there is none.
pub(crate) struct Group(Result<Made, String>);

struct Made {
    own: PathBuf,
    made: PathBuf,
    /// The file with the peak.
    peak: &'static str,
}

impl Group {
    /// Makes it.
    pub fn make() -> Group {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Group(own_group(&groups).and_then(|(own, peak)| {
            let made = own.join(format!("trainmark-{}", std::process::id()));
            // Of a launcher that had this number and was killed.
            let _ = fs::remove_dir(&made);
            fs::create_dir(&made)
                .map_err(|error| format!("no control group may be made: {error}"))?;
            let group = Made { own, made, peak };
            match group.made.join(peak).exists() {
                true => Ok(group),
                false => {
                    let _ = fs::remove_dir(&group.made);
                    Err("control groups made here have no memory controller".to_owned())
                }
            }
        }))
    }

    /// None.
    pub fn without(reason: &str) -> Group {
        Group(Err(reason.to_owned()))
    }

    /// Starts something inside of it.
    pub fn with<T>(&mut self, start: impl FnOnce() -> T) -> T {
        let Ok(group) = &self.0 else { return start() };
        let own = std::process::id().to_string();
        if let Err(error) = fs::write(group.made.join("cgroup.procs"), &own) {
            let reason = format!("the control group may not be entered: {error}");
            let _ = fs::remove_dir(&group.made);
            self.0 = Err(reason);
            return start();
        }
        let result = start();
        // Were it refused, the launcher's few megabytes would count as well.
        let _ = fs::write(group.own.join("cgroup.procs"), &own);
        result
    }

    /// Its peak; removes it. All processes in it have gone.
    pub fn finish(self) -> Reading<u64> {
        let group = match self.0 {
            Ok(group) => group,
            Err(reason) => return Reading::absent(reason),
        };
        let text = fs::read_to_string(group.made.join(group.peak));
        let _ = fs::remove_dir(&group.made);
        match text.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
            Some(bytes) => Reading::measured(
                bytes,
                format!("{} of a control group of its own: page cache included", group.peak),
            ),
            None => Reading::absent("the control group's peak cannot be read"),
        }
    }
}

/// The group that this process is in, where its memory is accounted, and the peak's file.
fn own_group(groups: &str) -> Result<(PathBuf, &'static str), String> {
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, peak) = match controllers {
            "memory" => ("/sys/fs/cgroup/memory", "memory.max_usage_in_bytes"),
            "" => ("/sys/fs/cgroup", "memory.peak"),
            _ => continue,
        };
        let own = Path::new(mount).join(path.trim_start_matches('/'));
        if own.join("cgroup.procs").exists() {
            return Ok((own, peak));
        }
    }
    Err("this process's control group is not visible".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_not_there_is_a_reason() {
        assert!(own_group("").is_err());
        assert!(own_group("0::/no/such/group\n").is_err());
    }
}
