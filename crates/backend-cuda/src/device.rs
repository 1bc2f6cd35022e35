//! Which CUDA devices this machine has, and which of them can run the kernels.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use nn::backend::{TrainError, Unavailable};
use protocol::DeviceProbe;
use std::ffi::CStr;

/// The oldest driver that takes the embedded PTX (ISA 8.7): CUDA 12.8's.
const OLDEST_DRIVER: i32 = 12080;
/// The oldest compute capability that has what the kernels use: Ampere's asynchronous copies and
/// bf16 fragments.
const OLDEST_CAPABILITY: [i32; 2] = [8, 0];

/// A device and what launches depend on.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) handle: sys::CUdevice,
    pub(crate) name: String,
    pub(crate) capability: [i32; 2],
    pub(crate) multiprocessors: usize,
    /// Most dynamic shared memory of a block.
    pub(crate) shared_bytes: usize,
    pub(crate) memory_bytes: usize,
    /// As the driver counts: 13000 is 13.0.
    pub(crate) driver: i32,
}

impl Device {
    fn detail(&self) -> String {
        format!(
            "compute {}.{}, {} multiprocessors, {:.1} GiB, driver for CUDA {}",
            self.capability[0],
            self.capability[1],
            self.multiprocessors,
            self.memory_bytes as f64 / f64::from(1 << 30),
            version(self.driver),
        )
    }

    /// Whether it can reach the memory of another device.
    pub(crate) fn reaches(&self, other: &Device) -> bool {
        let mut can = 0;
        // SAFETY: it writes one number.
        let told = unsafe { sys::cuDeviceCanAccessPeer(&mut can, self.handle, other.handle) };
        told.result().is_ok() && can != 0
    }

    pub(crate) fn probe(&self) -> DeviceProbe {
        DeviceProbe { name: self.name.clone(), detail: Some(self.detail()), software: false }
    }
}

/// All devices that can run the kernels, in the driver's order.
pub(crate) fn devices() -> Result<Vec<Device>, Unavailable> {
    // SAFETY: it opens and closes the driver's library, as `init` will.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable(if cfg!(target_os = "macos") {
            "CUDA does not run on macOS".to_owned()
        } else if cfg!(windows) {
            "no CUDA driver: nvcuda.dll not found".to_owned()
        } else {
            "no CUDA driver: libcuda.so.1 not found".to_owned()
        }));
    }
    let unusable = |error| Unavailable(format!("no CUDA device: {}", explain(error)));
    result::init().map_err(unusable)?;
    let mut driver = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(unusable)?;
    if driver < OLDEST_DRIVER {
        return Err(Unavailable(format!(
            "the NVIDIA driver is for CUDA {}: CUDA {} (driver 570) is the oldest that will do",
            version(driver),
            version(OLDEST_DRIVER)
        )));
    }
    let count = result::device::get_count().map_err(unusable)?;
    let all = (0..count)
        .map(|ordinal| describe(ordinal, driver))
        .collect::<Result<Vec<Device>, DriverError>>()
        .map_err(unusable)?;
    usable(all)
}

/// Those of `all` that are new enough.
fn usable(all: Vec<Device>) -> Result<Vec<Device>, Unavailable> {
    let Some(first) = all.first().cloned() else {
        return Err(Unavailable("no CUDA device".to_owned()));
    };
    let usable: Vec<Device> =
        all.into_iter().filter(|device| device.capability >= OLDEST_CAPABILITY).collect();
    if usable.is_empty() {
        let [major, minor] = first.capability;
        let [oldest_major, oldest_minor] = OLDEST_CAPABILITY;
        return Err(Unavailable(format!(
            "{} has compute capability {major}.{minor}: the kernels need {oldest_major}.{oldest_minor}",
            first.name
        )));
    }
    Ok(usable)
}

fn describe(ordinal: i32, driver: i32) -> Result<Device, DriverError> {
    let handle = result::device::get(ordinal)?;
    // SAFETY: the handle is the driver's.
    let attribute = |attribute| unsafe { result::device::get_attribute(handle, attribute) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    Ok(Device {
        handle,
        name: result::device::get_name(handle)?,
        capability: [major, minor],
        multiprocessors: multiprocessors as usize,
        shared_bytes: shared as usize,
        // SAFETY: the handle is the driver's.
        memory_bytes: unsafe { result::device::total_mem(handle) }?,
        driver,
    })
}

/// The device that `--device` asks for: an index, or part of a name in any case. Without it, the
/// first.
pub(crate) fn choose(devices: &[Device], wanted: Option<&str>) -> Result<Device, TrainError> {
    let Some(wanted) = wanted else {
        return Ok(devices[0].clone()); // `devices()` is never empty
    };
    let lower = wanted.to_lowercase();
    let found = match wanted.parse::<usize>() {
        Ok(index) => devices.get(index),
        Err(_) => devices.iter().find(|device| device.name.to_lowercase().contains(&lower)),
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<String> = devices
            .iter()
            .enumerate()
            .map(|(index, device)| format!("{index} ({})", device.name))
            .collect();
        TrainError::Option {
            option: "device",
            value: wanted.to_owned(),
            reason: format!("no such CUDA device; there is {}", names.join(", ")),
        }
    })
}

/// The driver's own words for an error.
pub(crate) fn explain(error: DriverError) -> String {
    let text = |text: Result<&CStr, DriverError>| match text {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => "unknown".to_owned(),
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn device(name: &str, capability: [i32; 2]) -> Device {
        Device {
            handle: 0,
            name: name.to_owned(),
            capability,
            multiprocessors: 132,
            shared_bytes: 227 * 1024,
            memory_bytes: 80 << 30,
            driver: 13000,
        }
    }

    #[test]
    fn a_device_is_chosen_by_index_or_part_of_its_name() {
        let devices = [device("NVIDIA H100", [9, 0]), device("NVIDIA A100", [8, 0])];
        assert_eq!(choose(&devices, None).unwrap().name, "NVIDIA H100");
        assert_eq!(choose(&devices, Some("1")).unwrap().name, "NVIDIA A100");
        assert_eq!(choose(&devices, Some("a100")).unwrap().name, "NVIDIA A100");
        let error = choose(&devices, Some("b200")).unwrap_err().to_string();
        assert_eq!(
            error,
            "--device b200: no such CUDA device; there is 0 (NVIDIA H100), 1 (NVIDIA A100)"
        );
    }

    #[test]
    fn an_old_device_is_unavailable_with_its_reason_and_hidden_beside_a_newer_one() {
        let old = device("Tesla T4", [7, 5]);
        assert_eq!(
            usable(vec![old.clone()]).unwrap_err().to_string(),
            "Tesla T4 has compute capability 7.5: the kernels need 8.0"
        );
        let found = usable(vec![old, device("NVIDIA H100", [9, 0])]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(usable(Vec::new()).unwrap_err().to_string(), "no CUDA device");
    }

    #[test]
    fn the_probe_says_what_tells_a_device_apart() {
        assert_eq!(
            device("NVIDIA H100", [9, 0]).probe().detail.unwrap(),
            "compute 9.0, 132 multiprocessors, 80.0 GiB, driver for CUDA 13.0"
        );
    }
}
