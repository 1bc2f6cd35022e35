//! A Metal device with its buffers: what both backends need.

use crate::seen::{Seen, choose};
use nn::backend::{Options, TrainError, Unavailable};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandQueue, MTLCopyAllDevices,
    MTLDevice, MTLResourceOptions,
};
use objc2_metal_performance_shaders::MPSSupportsMTLDevice;
use std::fmt;
use std::panic::AssertUnwindSafe;

pub(crate) type DeviceObject = Retained<ProtocolObject<dyn MTLDevice>>;
pub(crate) type BufferObject = Retained<ProtocolObject<dyn MTLBuffer>>;

/// The devices that Metal Performance Shaders supports, as the system lists them.
///
/// # Errors
/// If there are none.
#[allow(unsafe_code)]
pub(crate) fn devices() -> Result<Vec<DeviceObject>, Unavailable> {
    // SAFETY: asks a question about a device that exists.
    let supported = |device: &DeviceObject| unsafe { MPSSupportsMTLDevice(Some(device)) };
    let devices: Vec<DeviceObject> = MTLCopyAllDevices().to_vec();
    let devices: Vec<DeviceObject> = devices.into_iter().filter(supported).collect();
    if devices.is_empty() {
        return Err(Unavailable("no Metal device with Metal Performance Shaders".to_owned()));
    }
    Ok(devices)
}

/// An open device.
pub(crate) struct Gpu {
    backend: &'static str,
    pub(crate) device: DeviceObject,
    pub(crate) queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    pub(crate) buffers: Vec<BufferObject>,
    submitted: Vec<Retained<ProtocolObject<dyn MTLCommandBuffer>>>,
    worked_s: f64,
}

impl Gpu {
    /// Opens the device that the options mean.
    pub(crate) fn open(backend: &'static str, options: &Options) -> Result<Gpu, TrainError> {
        let mut devices = devices()?;
        let names: Vec<String> = devices.iter().map(|device| device.name().to_string()).collect();
        let device = devices.swap_remove(choose(&names, options)?);
        let queue = device.newCommandQueue().ok_or_else(|| failed(backend, "no command queue"))?;
        let (buffers, submitted) = (Vec::new(), Vec::new());
        Ok(Gpu { backend, device, queue, buffers, submitted, worked_s: 0.0 })
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen { name: self.device.name().to_string(), software: false }
    }

    pub(crate) fn failed(&self, message: impl fmt::Display) -> TrainError {
        failed(self.backend, message)
    }

    /// Does what may throw: an Objective-C exception that reached Rust would end the process.
    ///
    /// # Errors
    /// The exception's reason.
    pub(crate) fn guarded<R>(&self, what: &str, work: impl FnOnce() -> R) -> Result<R, TrainError> {
        // What was thrown out of is given up with the session.
        objc2::exception::catch(AssertUnwindSafe(work)).map_err(|exception| {
            let reason = exception.map_or_else(|| "no reason".to_owned(), |it| it.to_string());
            self.failed(format!("{what}: {}", one_line(&reason)))
        })
    }

    /// A buffer in memory that host and device share, filled with zeros. Returns its place in
    /// `buffers`.
    pub(crate) fn allocate(&mut self, what: &str, bytes: usize) -> Result<usize, TrainError> {
        let most = self.device.maxBufferLength();
        if bytes > most {
            let [needed, most] = [bytes, most].map(|bytes| bytes.div_ceil(1_000_000));
            let reason = format!("{what} take {needed} MB, and a buffer has at most {most} MB");
            return Err(Unavailable(reason).into());
        }
        let options = MTLResourceOptions::StorageModeShared;
        let buffer = self.device.newBufferWithLength_options(bytes.max(16), options);
        let buffer = buffer.ok_or_else(|| self.failed(format!("no memory for {what}")))?;
        self.buffers.push(buffer);
        let place = self.buffers.len() - 1;
        self.write(place, &vec![0; bytes])?;
        Ok(place)
    }

    /// Copies to the beginning of a buffer. Nothing that was submitted may be under way.
    #[allow(unsafe_code)]
    pub(crate) fn write(&mut self, place: usize, bytes: &[u8]) -> Result<(), TrainError> {
        self.check_idle(place, bytes.len())?;
        let contents = self.buffers[place].contents().cast::<u8>().as_ptr();
        // SAFETY: a shared buffer's contents are memory of this process of the buffer's length,
        // which was compared with that of `bytes`; the device uses none of it, as nothing submitted
        // is left to wait for, and no reference to it is ever kept.
        unsafe { contents.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies from the beginning of a buffer. Nothing that was submitted may be under way.
    #[allow(unsafe_code)]
    pub(crate) fn read(&mut self, place: usize, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.check_idle(place, bytes.len())?;
        let contents = self.buffers[place].contents().cast::<u8>().as_ptr();
        // SAFETY: as in `write`.
        unsafe { contents.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn check_idle(&self, place: usize, len: usize) -> Result<(), TrainError> {
        if !self.submitted.is_empty() {
            return Err(self.failed("the host touched a buffer before the device was done"));
        }
        let most = self.buffers[place].length();
        if len > most {
            return Err(self.failed(format!("{len} bytes for a buffer of {most}")));
        }
        Ok(())
    }

    /// A command buffer was committed.
    pub(crate) fn submitted(&mut self, commands: Retained<ProtocolObject<dyn MTLCommandBuffer>>) {
        self.submitted.push(commands);
    }

    /// Until all that was submitted is done.
    ///
    /// # Errors
    /// If any of it failed: the first failure.
    pub(crate) fn wait(&mut self) -> Result<(), TrainError> {
        let submitted = std::mem::take(&mut self.submitted);
        // In the order of their queue, the last is done last.
        if let Some(last) = submitted.last() {
            last.waitUntilCompleted();
        }
        for commands in submitted {
            if commands.status() == MTLCommandBufferStatus::Error {
                let error = commands.error();
                let message = error.map_or_else(
                    || "the device failed without a reason".to_owned(),
                    |error| one_line(&error.localizedDescription().to_string()),
                );
                return Err(self.failed(message));
            }
            self.worked_s += (commands.GPUEndTime() - commands.GPUStartTime()).max(0.0);
        }
        Ok(())
    }

    /// Seconds between the begin and the end of command buffers on the device, summed.
    pub(crate) fn worked_s(&self) -> f64 {
        self.worked_s
    }
}

fn failed(backend: &'static str, message: impl fmt::Display) -> TrainError {
    TrainError::Device { backend, message: message.to_string() }
}

/// Metal's messages, a shader compiler's above all, have many lines.
pub(crate) fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}
