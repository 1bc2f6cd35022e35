//! The models on any GPU, through wgpu: Vulkan on Linux, Windows and Android, Metal on Apple's
//! systems, DirectX 12 on Windows.
//!
//! Images, labels, the order of an epoch and the weights live on the device. All steps of a call of
//! [`Session::train`] are recorded ahead of the device in a few submissions, nothing is uploaded or
//! read between them, and the losses come back once, at the end.
//!
//! Each model has a shader, its launcher beside it: `mlp.wgsl` and `mlp.rs`, and so on. Shaders
//! rely on what WebGPU promises of every device and no more: bindings of 128 MiB, 256 invocations
//! in a workgroup, 16 KiB of workgroup memory, no subgroups, no atomics. On one device, results are
//! equal bit for bit from run to run.
//!
//! The plan `checked`, the default, keeps the checks that wgpu adds to shaders; `trusted` leaves
//! them out, for comparison. On llvmpipe that gains nothing.
//!
//! No graphics library is loaded before this backend is asked for something.
#![deny(unsafe_code)]

mod adapter;
mod attention;
mod bindings;
mod cnn;
mod gpu;
mod layout;
mod mlp;
mod network;
mod requirements;
mod session;

#[cfg(test)]
mod shaders;
#[cfg(test)]
mod tests;

use gpu::Checks;
use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;

/// GPUs through wgpu.
pub struct Wgpu;

impl Backend for Wgpu {
    fn id(&self) -> &'static str {
        gpu::ID
    }

    /// All adapters, software ones among them and marked so: those are used only if
    /// [`Options::allow_software`] is set.
    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        adapter::probe()
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        let checks = check(&job, options)?;
        let candidate = adapter::select(options)?;
        let gpu = gpu::Gpu::open(&candidate, checks)?;
        Ok(Box::new(session::GpuSession::open(gpu, candidate.seen, job)?))
    }
}

/// Refuses jobs that cannot be trained, before any device is touched.
fn check(job: &Job<'_>, options: &Options) -> Result<Checks, TrainError> {
    let refused = |option, value: &str, reason: &str| {
        Err(TrainError::Option { option, value: value.to_owned(), reason: reason.to_owned() })
    };
    if let Some(isa) = &options.isa {
        return refused("isa", isa, "a GPU has none to choose from");
    }
    if let Some(threads) = options.threads {
        return refused("threads", &threads.to_string(), "a GPU's are not chosen");
    }
    if let Some(precision) = options.precision.as_deref().filter(|&name| name != "float32") {
        return refused("precision", precision, "wgpu computes in float32");
    }
    let checks = match options.plan.as_deref() {
        None | Some("checked") => Checks::Checked,
        Some("trusted") => Checks::Trusted,
        Some(other) => return refused("plan", other, "wgpu has the plans checked and trusted"),
    };
    let mismatch = |message: &str| Err(TrainError::Mismatch(message.to_owned()));
    if job.batch_size == 0 {
        return mismatch("a batch has at least one sample");
    }
    if u32::try_from(job.train.len()).is_err() || u32::try_from(job.batch_size).is_err() {
        return mismatch("a batch or a training set has less than 2^32 samples");
    }
    Ok(checks)
}
