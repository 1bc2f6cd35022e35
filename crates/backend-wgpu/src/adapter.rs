//! Which adapters the machine has, and which of them `--device` means.

use crate::requirements::{FEATURES, limits};
use nn::backend::{Options, TrainError, Unavailable};
use protocol::DeviceProbe;
use std::sync::OnceLock;

/// An adapter as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    /// The API and the driver.
    pub(crate) detail: String,
    /// An imitation: llvmpipe, SwiftShader, WARP.
    pub(crate) software: bool,
}

/// An adapter that can be opened.
pub(crate) struct Candidate {
    pub(crate) adapter: wgpu::Adapter,
    pub(crate) seen: Seen,
}

/// The APIs that are asked for adapters.
const BACKENDS: wgpu::Backends =
    wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// The system's graphics libraries, loaded once, and not before this backend is asked for. Once: with
/// dozens of instances in one process, in tests, NVIDIA's Vulkan driver found no device any more; with
/// one it does.
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: BACKENDS,
            // No validation layers of the API's, also in debug builds: wgpu validates by itself.
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        })
    })
}

/// All adapters, the likely choice first.
pub(crate) fn all() -> Vec<(wgpu::Adapter, Seen)> {
    let mut adapters = pollster::block_on(instance().enumerate_adapters(BACKENDS));
    adapters.sort_by_key(|adapter| rank(&adapter.get_info())); // stable
    adapters
        .into_iter()
        .map(|adapter| {
            let seen = seen(&adapter.get_info());
            (adapter, seen)
        })
        .collect()
}

/// Discrete GPUs first, software last; Vulkan before DirectX where a GPU has both.
fn rank(info: &wgpu::AdapterInfo) -> (u8, bool) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (kind, info.backend == wgpu::Backend::Dx12)
}

fn seen(info: &wgpu::AdapterInfo) -> Seen {
    let api = match info.backend {
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DirectX 12",
        other => other.to_str(),
    };
    let parts = [api, &info.driver, &info.driver_info];
    let detail: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Seen {
        name: info.name.clone(),
        detail: detail.join(", "),
        software: info.device_type == wgpu::DeviceType::Cpu,
    }
}

/// For `--probe`.
pub(crate) fn probe() -> Result<Vec<DeviceProbe>, Unavailable> {
    let adapters = all();
    if adapters.is_empty() {
        return Err(none_at_all());
    }
    let probe = |(_, seen): (_, Seen)| DeviceProbe {
        name: seen.name,
        detail: Some(seen.detail),
        software: seen.software,
    };
    Ok(adapters.into_iter().map(probe).collect())
}

/// The adapter that the options mean, if it can do what the kernels need.
pub(crate) fn select(options: &Options) -> Result<Candidate, TrainError> {
    let mut adapters = all();
    let list: Vec<Seen> = adapters.iter().map(|(_, seen)| seen.clone()).collect();
    let (adapter, seen) = adapters.swap_remove(choose(&list, options)?);
    let lacks = |what| Unavailable(format!("{} ({}) lacks {what}", seen.name, seen.detail));
    if !adapter.features().contains(FEATURES) {
        return Err(lacks("immediate data, also called push constants").into());
    }
    let mut exceeded = None;
    limits().check_limits_with_fail_fn(&adapter.limits(), false, |name, wanted, has| {
        exceeded.get_or_insert(format!("a {name} of {wanted}: it has {has}"));
    });
    if let Some(exceeded) = exceeded {
        return Err(lacks(&exceeded).into());
    }
    Ok(Candidate { adapter, seen })
}

fn none_at_all() -> Unavailable {
    let reason = if cfg!(target_os = "macos") {
        "no Metal device"
    } else if cfg!(windows) {
        "no Vulkan or DirectX 12 device"
    } else {
        "no Vulkan device: a GPU, its driver and the loader libvulkan.so.1 are needed"
    };
    Unavailable(reason.to_owned())
}

/// The place of the adapter that is meant: an index, part of a name, or the first that may be used.
fn choose(list: &[Seen], options: &Options) -> Result<usize, TrainError> {
    if list.is_empty() {
        return Err(none_at_all().into());
    }
    let allowed = |place: &usize| options.allow_software || !list[*place].software;
    let mut meant: Vec<usize> = match &options.device {
        None => (0..list.len()).collect(),
        Some(device) => matching(list, device),
    };
    if meant.is_empty() {
        let names: Vec<String> = list
            .iter()
            .enumerate()
            .map(|(index, seen)| format!("{index}, {}", seen.name))
            .collect();
        return Err(TrainError::Option {
            option: "device",
            value: options.device.clone().unwrap_or_default(),
            reason: format!("there are {}", names.join("; ")),
        });
    }
    let first = meant[0];
    meant.retain(allowed);
    match meant.first() {
        Some(&place) => Ok(place),
        None => {
            let name = &list[first].name;
            let short = name.split(" (").next().unwrap_or(name);
            let remedy = "--allow-software uses it";
            let reason = if options.device.is_some() {
                format!("{short} is a software adapter; {remedy}")
            } else {
                format!("only a software adapter ({short}) is here; {remedy}")
            };
            Err(Unavailable(reason).into())
        }
    }
}

fn matching(list: &[Seen], device: &str) -> Vec<usize> {
    if let Some(index) = device.parse().ok().filter(|&index| index < list.len()) {
        return vec![index];
    }
    let device = device.to_lowercase();
    let named = |place: &usize| list[*place].name.to_lowercase().contains(&device);
    (0..list.len()).filter(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<Seen> {
        let seen = |name: &str, software| Seen {
            name: name.to_owned(),
            detail: "Vulkan".to_owned(),
            software,
        };
        vec![
            seen("NVIDIA GeForce RTX 4090", false),
            seen("AMD Radeon Graphics", false),
            seen("llvmpipe (LLVM 15.0.6, 256 bits)", true),
        ]
    }

    fn options(device: Option<&str>, allow_software: bool) -> Options {
        Options { device: device.map(str::to_owned), allow_software, ..Options::default() }
    }

    fn refusal(list: &[Seen], options: &Options) -> String {
        choose(list, options).unwrap_err().to_string()
    }

    #[test]
    fn a_device_is_meant_by_index_or_by_part_of_its_name_in_any_case() {
        assert_eq!(choose(&list(), &options(None, false)).unwrap(), 0);
        assert_eq!(choose(&list(), &options(Some("1"), false)).unwrap(), 1);
        assert_eq!(choose(&list(), &options(Some("radeon"), false)).unwrap(), 1);
        assert_eq!(choose(&list(), &options(Some("4090"), false)).unwrap(), 0);
        assert_eq!(
            refusal(&list(), &options(Some("intel"), false)),
            "--device intel: there are 0, NVIDIA GeForce RTX 4090; 1, AMD Radeon Graphics; \
             2, llvmpipe (LLVM 15.0.6, 256 bits)"
        );
    }

    #[test]
    fn software_is_never_taken_unless_allowed_and_then_only_if_named_or_alone() {
        assert_eq!(
            refusal(&list()[2..], &options(None, false)),
            "unavailable: only a software adapter (llvmpipe) is here; --allow-software uses it"
        );
        assert_eq!(
            refusal(&list(), &options(Some("llvm"), false)),
            "unavailable: llvmpipe is a software adapter; --allow-software uses it"
        );
        assert_eq!(choose(&list()[2..], &options(None, true)).unwrap(), 0);
        assert_eq!(choose(&list(), &options(Some("2"), true)).unwrap(), 2);
        assert_eq!(choose(&list(), &options(None, true)).unwrap(), 0);
    }

    #[test]
    fn no_adapter_is_unavailable_with_the_reason() {
        let message = refusal(&[], &options(Some("0"), true));
        assert!(message.starts_with("unavailable: no "), "{message}");
    }
}
