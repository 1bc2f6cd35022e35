//! An open device: buffers, pipelines, submissions, reading back, and every failure as one line.
//!
//! wgpu reports failures to callbacks or panics. Here the first failure is kept, and each operation
//! that a caller waits for ends with a look at it.

use crate::adapter::Candidate;
use crate::requirements::{BINDING_BYTES, FEATURES, limits};
use nn::backend::{TrainError, Unavailable};
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wgpu::{BufferUsages, Features};

/// The backend's id.
pub(crate) const ID: &str = "wgpu";

/// Every binding has at least this many bytes, so that none is smaller than its element.
const LEAST_BYTES: u64 = 16;
/// A submission is made to take a fraction of a second; the software adapter on a loaded machine
/// may need a hundred times as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether wgpu adds checks of indices, divisors and loops to the shaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    /// As WebGPU wants it for strangers' shaders.
    Checked,
    /// None: neither a check at each access to workgroup memory nor a second counter in each loop,
    /// which may keep a compiler from unrolling it.
    Trusted,
}

/// The first failure of a device.
#[derive(Clone, Default)]
struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    fn note(&self, message: String) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(message);
    }

    fn check(&self) -> Result<(), TrainError> {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            None => Ok(()),
            Some(message) => Err(failed(message)),
        }
    }
}

fn failed(message: impl fmt::Display) -> TrainError {
    TrainError::Device { backend: ID, message: message.to_string() }
}

/// An open device.
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    queue: wgpu::Queue,
    fault: Fault,
    allocated_bytes: Cell<u64>,
    /// An imitation in software.
    pub(crate) software: bool,
    /// How long a submission may take.
    pub(crate) patience: Duration,
    checks: Checks,
}

impl Gpu {
    pub(crate) fn open(candidate: &Candidate, checks: Checks) -> Result<Gpu, TrainError> {
        let timestamps = candidate.adapter.features() & Features::TIMESTAMP_QUERY;
        let request = candidate.adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("trainmark"),
            required_features: FEATURES | timestamps,
            required_limits: limits(),
            // The default takes blocks of 256 MiB from the device.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(request)
            .map_err(|error| failed(format_args!("opening {}: {error}", candidate.seen.name)))?;
        let fault = Fault::default();
        let uncaptured = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error| uncaptured.note(sentence(&error))));
        let lost = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device also counts as losing it, but then nobody is left to look.
            lost.note(format!("the device was lost ({reason:?}): {}", one_line(&message)));
        });
        let (allocated_bytes, software) = (Cell::new(0), candidate.seen.software);
        Ok(Gpu { device, queue, fault, allocated_bytes, software, patience: PATIENCE, checks })
    }

    /// Fails if anything has failed so far.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        self.fault.check()
    }

    /// All bytes allocated so far. Buffers live as long as the session.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.get()
    }

    /// A buffer for kernels, filled with zeros, with room for at least `bytes`.
    ///
    /// # Errors
    /// [`Unavailable`] if it is larger than what a kernel can bind.
    pub(crate) fn storage(&self, what: &str, bytes: u64) -> Result<wgpu::Buffer, TrainError> {
        if bytes > BINDING_BYTES {
            let (needed, most) = (megabytes(bytes), megabytes(BINDING_BYTES));
            let reason = format!("{what} take {needed} MB, and a buffer has at most {most} MB");
            return Err(Unavailable(reason).into());
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        self.buffer(what, bytes, usage)
    }

    /// As [`Gpu::storage`], holding `contents`, padded with zeros to whole words.
    pub(crate) fn resident(&self, what: &str, contents: &[u8]) -> Result<wgpu::Buffer, TrainError> {
        let buffer = self.storage(what, contents.len() as u64)?;
        self.write(&buffer, contents);
        // Once it has arrived, the host's copy of it is freed.
        self.submit(self.encoder());
        self.wait()?;
        Ok(buffer)
    }

    /// A buffer that the host reads.
    pub(crate) fn readback(&self, what: &str, bytes: u64) -> Result<wgpu::Buffer, TrainError> {
        self.buffer(what, bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST)
    }

    /// A buffer of exactly this usage.
    pub(crate) fn buffer(
        &self,
        what: &str,
        bytes: u64,
        usage: BufferUsages,
    ) -> Result<wgpu::Buffer, TrainError> {
        let size = bytes.next_multiple_of(4).max(LEAST_BYTES);
        let label = Some(what);
        let description = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&description);
        self.check()?;
        self.allocated_bytes.set(self.allocated_bytes.get() + size);
        Ok(buffer)
    }

    /// Has `contents` copied to the beginning of a buffer before the next submission's commands.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, contents: &[u8]) {
        let (words, rest) = contents.split_at(contents.len() / 4 * 4);
        if !words.is_empty() {
            self.queue.write_buffer(buffer, 0, words);
        }
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.queue.write_buffer(buffer, words.len() as u64, &last);
        }
    }

    /// A shader module of WGSL.
    #[allow(unsafe_code)]
    pub(crate) fn module(&self, name: &str, source: &str) -> wgpu::ShaderModule {
        let source = wgpu::ShaderSource::Wgsl(source.into());
        let description = wgpu::ShaderModuleDescriptor { label: Some(name), source };
        match self.checks {
            Checks::Checked => self.device.create_shader_module(description),
            Checks::Trusted => {
                let checks = wgpu::ShaderRuntimeChecks::unchecked();
                // SAFETY: the only shaders are this crate's own. All their loops count up to a
                // bound, no divisor is 0, and their indices stay within the buffers whose sizes the
                // launchers choose, for the batches that the launchers let through.
                unsafe { self.device.create_shader_module_trusted(description, checks) }
            }
        }
    }

    /// One entry point of a module, with its sizes.
    pub(crate) fn pipeline(
        &self,
        layout: &wgpu::PipelineLayout,
        module: &wgpu::ShaderModule,
        entry_point: &str,
        sizes: &[(&str, f64)],
    ) -> Result<wgpu::ComputePipeline, TrainError> {
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry_point),
            layout: Some(layout),
            module,
            entry_point: Some(entry_point),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: sizes,
                // The kernels write workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.check()?;
        Ok(pipeline)
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.queue.submit([encoder.finish()])
    }

    /// Waits until everything submitted is done.
    pub(crate) fn wait(&self) -> Result<(), TrainError> {
        self.wait_for(None)
    }

    /// Waits until this submission, and so all before it, or everything, is done.
    pub(crate) fn wait_for(
        &self,
        submission_index: Option<wgpu::SubmissionIndex>,
    ) -> Result<(), TrainError> {
        self.check()?;
        let wait = wgpu::PollType::Wait { submission_index, timeout: Some(self.patience) };
        // wgpu panics where the device is lost while it waits; the callback has noted the reason.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(wait))) {
            Ok(Ok(_)) => {}
            Ok(Err(wgpu::PollError::Timeout)) => {
                let seconds = self.patience.as_secs();
                self.fault.note(format!("the device did not finish its work in {seconds} s"));
            }
            Ok(Err(error)) => self.fault.note(error.to_string()),
            Err(_) => self.fault.note("the device was lost".to_owned()),
        }
        self.check()
    }

    /// Waits, and hands `read` the contents of a readback buffer's first `bytes`.
    pub(crate) fn read<R>(
        &self,
        buffer: &wgpu::Buffer,
        bytes: u64,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, TrainError> {
        self.check()?;
        let slice = buffer.slice(..bytes);
        let fault = self.fault.clone();
        slice.map_async(wgpu::MapMode::Read, move |result| {
            if let Err(error) = result {
                fault.note(format!("reading back: {error}"));
            }
        });
        self.wait()?;
        let view = slice
            .get_mapped_range()
            .map_err(|error| failed(format_args!("reading back: {error:?}")))?;
        let result = read(&view);
        drop(view);
        buffer.unmap();
        Ok(result)
    }

    /// Nanoseconds of a tick of the device's clock, if it has one.
    pub(crate) fn tick_ns(&self) -> Option<f64> {
        let clock = self.device.features().contains(Features::TIMESTAMP_QUERY);
        clock.then(|| f64::from(self.queue.get_timestamp_period()))
    }
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

fn sentence(error: &wgpu::Error) -> String {
    match error {
        wgpu::Error::OutOfMemory { .. } => "the device is out of memory".to_owned(),
        wgpu::Error::Validation { description, .. } => one_line(description),
        wgpu::Error::Internal { description, .. } => one_line(description),
    }
}

/// wgpu's messages are indented trees.
fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}
