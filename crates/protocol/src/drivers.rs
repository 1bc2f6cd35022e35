//! The families of devices that a machine may have, found by the files that their drivers make. Nothing is loaded and
//! no device is asked, so this costs nothing. A program need not be compiled for a family that is certainly missing.
//! Only the backend finds out whether a device can really be used.

use std::path::Path;

/// A family of devices: one of the words for which `{devices}` stands in a suite, and a feature of our trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Cuda,
    Vulkan,
    Metal,
    DirectX,
}

/// Device files of NVIDIA's driver: PCI cards, Windows' Linux, boards with a built-in GPU.
const NVIDIA: [&str; 5] =
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu"];
/// Where Linux lists GPUs of every other vendor. A Vulkan driver that needs none of them is an imitation.
const GPUS: [&str; 3] = ["/dev/dri", "/dev/kgsl-3d0", "/dev/mali0"];

impl Family {
    pub const ALL: [Family; 4] = [Family::Cuda, Family::Vulkan, Family::Metal, Family::DirectX];

    pub fn word(self) -> &'static str {
        match self {
            Family::Cuda => "cuda",
            Family::Vulkan => "vulkan",
            Family::Metal => "metal",
            Family::DirectX => "directx",
        }
    }

    /// Why this machine certainly has no device of the family; `None` if it may have one.
    pub fn missing(self) -> Option<String> {
        let found = |files: &[&str]| files.iter().any(|file| Path::new(file).exists());
        let reason = match self {
            Family::Metal if cfg!(target_os = "macos") => return None,
            Family::Metal => "needs macOS with Metal",
            Family::DirectX if cfg!(windows) => return None,
            Family::DirectX => "needs Windows",
            // Windows has no device files.
            Family::Cuda | Family::Vulkan if cfg!(windows) => return None,
            Family::Cuda if cfg!(target_os = "macos") => "CUDA does not run on macOS",
            Family::Vulkan if cfg!(target_os = "macos") => "macOS has Metal in place of Vulkan",
            Family::Cuda if found(&NVIDIA) => return None,
            Family::Cuda => "no NVIDIA driver: there is no /dev/nvidiactl",
            Family::Vulkan if found(&NVIDIA) || found(&GPUS) => return None,
            Family::Vulkan => "no Vulkan device: no GPU's driver has made a file in /dev/dri",
        };
        Some(reason.to_owned())
    }
}

/// The words of all families that this machine may have, with commas between them. Software imitations of a GPU
/// are reached by Vulkan too.
pub fn words(allow_software: bool) -> String {
    let here = |family: &Family| {
        family.missing().is_none()
            || (allow_software && *family == Family::Vulkan && !cfg!(target_os = "macos"))
    };
    let words: Vec<&str> = Family::ALL.into_iter().filter(here).map(Family::word).collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_devices_are_reached_by_vulkan_and_missing_families_have_a_reason() {
        if cfg!(target_os = "linux") {
            assert!(words(true).split(',').any(|word| word == "vulkan"));
            assert_eq!(Family::Metal.missing().unwrap(), "needs macOS with Metal");
        }
        for family in Family::ALL {
            let listed = words(false).split(',').any(|word| word == family.word());
            assert_eq!(listed, family.missing().is_none(), "{family:?}");
        }
    }
}
