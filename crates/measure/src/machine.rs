//! The description of this machine, for the record.

use serde::{Deserialize, Serialize};

/// The machine that a sample was taken on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    pub hostname: Option<String>,
    /// The CPU's model name.
    pub cpu: Option<String>,
    /// Physical cores.
    pub cores: Option<usize>,
    /// Hardware threads that this process may use.
    pub threads: Option<usize>,
    pub memory_bytes: Option<u64>,
    /// Name and version of the system, for example `Debian GNU/Linux 12`.
    pub os: Option<String>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// `x86_64`, `aarch64`.
    pub architecture: Option<String>,
    /// Names of the GPUs; empty when there are none.
    pub gpus: Vec<String>,
}

impl Machine {
    /// Whether another is the same hardware, whatever its name, system and kernel.
    pub fn is_same_hardware(&self, other: &Machine) -> bool {
        (&self.cpu, self.cores, self.threads, &self.architecture, &self.gpus)
            == (&other.cpu, other.cores, other.threads, &other.architecture, &other.gpus)
    }

    /// Asks the operating system.
    pub fn detect() -> Machine {
        use sysinfo::System;
        let described = ::machine::describe();
        Machine {
            hostname: System::host_name().ok(),
            cpu: described.cpu.name,
            cores: described.cpu.cores,
            threads: Some(described.cpu.threads),
            memory_bytes: described.memory_bytes,
            os: System::long_os_version().ok(),
            kernel: System::kernel_version().ok(),
            architecture: Some(described.cpu.architecture),
            gpus: nvidia_gpus(),
        }
    }
}

/// Names of NVIDIA's GPUs, from the kernel driver's own list, without loading any library.
fn nvidia_gpus() -> Vec<String> {
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let texts = gpus.filter_map(|it| std::fs::read_to_string(it.path().join("information")).ok());
    let model = |text: String| {
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_owned())
    };
    let mut names: Vec<String> = texts.filter_map(model).collect();
    names.sort();
    names
}
