//! Every backend, in the order of `--help` and `--probe`. This list is the one place where a
//! backend is added: its id is then a value of `--backend` and an option of its own.

use nn::Model;
use nn::backend::{Backend, Unavailable};
use protocol::{BackendProbe, DeviceProbe, Probe};

/// A backend of this program, or one that it does not have here.
pub struct Entry {
    pub id: &'static str,
    /// What it is, in `--help`.
    pub about: &'static str,
    backend: Result<&'static dyn Backend, &'static str>,
}

const METAL: &str =
    if cfg!(target_os = "macos") { "not built yet" } else { "needs macOS with Metal" };

/// The first is the default.
pub const ENTRIES: [Entry; 6] = [
    Entry {
        id: "cpu",
        about: "The CPU: all cores, SIMD (the default)",
        backend: Ok(&backend_cpu::Cpu),
    },
    Entry { id: "mps", about: "Apple GPU: Metal Performance Shaders", backend: Err(METAL) },
    Entry { id: "mpsgraph", about: "Apple GPU: a compiled graph", backend: Err(METAL) },
    Entry {
        id: "wgpu",
        about: "Any GPU: Vulkan, Metal, DirectX",
        backend: Ok(&backend_wgpu::Wgpu),
    },
    Entry { id: "cuda", about: "NVIDIA GPU: CUDA kernels", backend: Ok(&backend_cuda::Cuda) },
    Entry {
        id: "cudagraph",
        about: "NVIDIA GPU: captured CUDA graphs",
        backend: Ok(&backend_cuda::CudaGraph),
    },
];

impl Entry {
    /// The backend itself.
    ///
    /// # Errors
    /// Why this program has none.
    pub fn backend(&self) -> Result<&'static dyn Backend, Unavailable> {
        self.backend.map_err(|reason| Unavailable(reason.to_owned()))
    }

    /// What `--probe` says of it. A software device alone does not make a backend available, unless
    /// it may.
    fn probe(&self, allow_software: bool) -> BackendProbe {
        let found = self.backend().and_then(|backend| Ok((backend, backend.devices()?)));
        let backend = self.id.to_owned();
        match found {
            Ok((found, devices)) => BackendProbe {
                backend,
                unavailable: only_software(&devices).filter(|_| !allow_software),
                models: found.models().iter().map(|&model| model.to_owned()).collect(),
                devices,
            },
            Err(Unavailable(reason)) => BackendProbe {
                backend,
                unavailable: Some(reason),
                models: Model::IDS.map(str::to_owned).to_vec(),
                devices: Vec::new(),
            },
        }
    }
}

fn only_software(devices: &[DeviceProbe]) -> Option<String> {
    let first = devices.first()?;
    let reason =
        format!("only a software device ({}) is here; --allow-software uses it", first.name);
    devices.iter().all(|device| device.software).then_some(reason)
}

/// What this machine can do.
pub fn probe(allow_software: bool) -> Probe {
    Probe {
        trainer: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backends: ENTRIES.iter().map(|entry| entry.probe(allow_software)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_listed_under_its_own_id() {
        for entry in &ENTRIES {
            if let Ok(backend) = entry.backend() {
                assert_eq!(entry.id, backend.id());
            }
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
        let probe = probe(true);
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
