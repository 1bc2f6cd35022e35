//! burn on a GPU through Vulkan, for which burn compiles its kernels to SPIR-V: the model gpt alone. Its CUDA backend
//! is built with an LLVM of its own, which the build downloads.

use burn::tensor::Device;
use nn::backend::{Backend, Description, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;

/// burn on Vulkan, where it is built with the feature `vulkan`.
pub struct Vulkan;

/// Each device of the machine with its name.
#[cfg(feature = "vulkan")]
fn devices() -> Result<Vec<(Device, String)>, Unavailable> {
    let all = Device::enumerate(burn::tensor::DeviceType::Vulkan).into_vec().into_iter();
    let named = all.map(|device| {
        let name = device.identity().map_or("a Vulkan device".to_owned(), |it| it.name);
        (device, name)
    });
    Ok(named.collect())
}

#[cfg(not(feature = "vulkan"))]
fn devices() -> Result<Vec<(Device, String)>, Unavailable> {
    Err(Unavailable("burn is built without its feature `vulkan`".to_owned()))
}

/// The first that is no imitation by the CPU, else the first.
fn device() -> Result<(Device, DeviceProbe), Unavailable> {
    let mut found = devices()?;
    found.sort_by_key(|(_, name)| name.contains("llvmpipe"));
    let first = found.into_iter().next();
    let (device, name) = first.ok_or_else(|| Unavailable("no Vulkan device".to_owned()))?;
    let software = name.contains("llvmpipe");
    Ok((device, DeviceProbe { name, detail: Some("Vulkan, SPIR-V".to_owned()), software }))
}

impl Backend for Vulkan {
    fn id(&self) -> &'static str {
        "vulkan"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        Ok(vec![device()?.1])
    }

    fn models(&self) -> &'static [&'static str] {
        &[nn::gpt::ID]
    }

    fn open_gpt<'data>(
        &self,
        job: nn::gpt::Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn nn::gpt::Session + 'data>, TrainError> {
        kit::gpt::only_float32(options)?;
        let (device, DeviceProbe { name, software, .. }) = device()?;
        let description = Description {
            device: name,
            path: "Vulkan, SPIR-V, fusion, autotune".to_owned(),
            threads: None,
            precision: "float32",
            software,
        };
        Ok(Box::new(crate::gpt::Training::new(job, device, description)?))
    }

    fn open<'data>(
        &self,
        _job: Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        Err(Unavailable("burn trains the model gpt alone on a GPU".to_owned()).into())
    }
}
