//! Every backend, in the order of `--help` and `--probe`. This list is the one place where a
//! backend is added: its id is then a value of `--backend` and an option of its own.

use nn::backend::{Backend, Options, Unavailable};
use protocol::{BackendProbe, DeviceProbe, Probe};
#[cfg(not(all(feature = "cuda", feature = "metal")))]
use {crate::absent::Absent, protocol::drivers::Family};

/// A backend of this program.
pub struct Entry {
    pub id: &'static str,
    /// Its description in `--help`.
    pub about: &'static str,
    pub backend: &'static dyn Backend,
}

#[cfg(feature = "cuda")]
const CUDA: [&dyn Backend; 2] = [&backend_cuda::Cuda, &backend_cuda::CudaGraph];
#[cfg(not(feature = "cuda"))]
const CUDA: [&dyn Backend; 2] =
    [&Absent("cuda", &[Family::Cuda]), &Absent("cudagraph", &[Family::Cuda])];

#[cfg(feature = "metal")]
const METAL: [&dyn Backend; 2] = [&backend_metal::Mps, &backend_metal::MpsGraph];
#[cfg(not(feature = "metal"))]
const METAL: [&dyn Backend; 2] =
    [&Absent("mps", &[Family::Metal]), &Absent("mpsgraph", &[Family::Metal])];

#[cfg(any(feature = "vulkan", feature = "metal", feature = "directx"))]
const WGPU: &dyn Backend = &backend_wgpu::Wgpu;
#[cfg(not(any(feature = "vulkan", feature = "metal", feature = "directx")))]
const WGPU: &dyn Backend = &Absent("wgpu", &[Family::Vulkan, Family::Metal, Family::DirectX]);

/// The first is the default.
pub const ENTRIES: [Entry; 6] = [
    Entry {
        id: "cpu",
        about: "The CPU: all cores, SIMD (the default)",
        backend: &backend_cpu::Cpu,
    },
    Entry { id: "mps", about: "Apple GPU: Metal Performance Shaders", backend: METAL[0] },
    Entry { id: "mpsgraph", about: "Apple GPU: a compiled graph", backend: METAL[1] },
    Entry { id: "wgpu", about: "Any GPU: Vulkan, Metal, DirectX", backend: WGPU },
    Entry { id: "cuda", about: "NVIDIA GPU: CUDA kernels", backend: CUDA[0] },
    Entry { id: "cudagraph", about: "NVIDIA GPU: captured CUDA graphs", backend: CUDA[1] },
];

impl Entry {
    /// What `--probe` says of it. A software device alone does not make a backend available, unless
    /// it may, and neither does a machine that lacks what the other options ask for.
    fn probe(&self, options: &Options) -> BackendProbe {
        let (devices, unavailable) = match self.backend.devices() {
            Ok(devices) => {
                let software = only_software(&devices).filter(|_| !options.allow_software);
                (devices, software.or_else(|| self.backend.lacks(options)))
            }
            Err(Unavailable(reason)) => (Vec::new(), Some(reason)),
        };
        BackendProbe {
            backend: self.id.to_owned(),
            unavailable,
            models: self.backend.models().iter().map(|&model| model.to_owned()).collect(),
            devices,
        }
    }
}

fn only_software(devices: &[DeviceProbe]) -> Option<String> {
    let first = devices.first()?;
    let reason =
        format!("only a software device ({}) is here; --allow-software uses it", first.name);
    devices.iter().all(|device| device.software).then_some(reason)
}

/// The backends and devices of this machine.
pub fn probe(options: &Options) -> Probe {
    Probe {
        trainer: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backends: ENTRIES.iter().map(|entry| entry.probe(options)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_listed_under_its_own_id() {
        for entry in &ENTRIES {
            assert_eq!(entry.id, entry.backend.id());
        }
    }

    #[test]
    fn a_software_device_alone_makes_nothing_available_unless_it_may() {
        let device = |software| DeviceProbe { name: "llvmpipe".into(), detail: None, software };
        assert!(only_software(&[device(true)]).unwrap().contains("llvmpipe"));
        assert_eq!(only_software(&[device(true), device(false)]), None);
        assert_eq!(only_software(&[]), None);
    }

    #[test]
    fn the_probe_lists_every_backend_and_says_why_one_is_missing() {
        let probe = probe(&Options { allow_software: true, ..Options::default() });
        let ids: Vec<&str> = probe.backends.iter().map(|found| found.backend.as_str()).collect();
        assert_eq!(ids, ["cpu", "mps", "mpsgraph", "wgpu", "cuda", "cudagraph"]);
        for found in &probe.backends {
            assert_ne!(found.unavailable.is_some(), !found.devices.is_empty(), "{found:?}");
        }
        if cfg!(not(target_os = "macos")) {
            let mps = &probe.backends[1];
            assert_eq!(mps.unavailable.as_deref(), Some("needs macOS with Metal"));
        }
    }
}
