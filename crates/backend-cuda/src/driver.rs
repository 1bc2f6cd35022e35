//! The CUDA driver behind safe types: a device with its context and streams, memory, events. What is enqueued
//! goes to the current stream, so order is program order within it.

use crate::capture::{Capture, Piece};
use crate::device::{Device, explain};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use nn::backend::TrainError;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long the device may take for what a caller waits for: an epoch takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stack of a thread of the device.
const STACK_BYTES: usize = 256;

/// Streams of a device: one and the [`Lane`]s.
const STREAMS: usize = 3;

/// Which of the other streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Of computations.
    Beside,
    /// Of what goes to other devices.
    Exchange,
}

/// A device's context, for the threads of other devices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context(sys::CUcontext);

// SAFETY: a handle, which the driver takes from any thread.
unsafe impl Send for Context {}

/// A device in use: its primary context and its streams.
pub(crate) struct Gpu {
    backend: &'static str,
    device: Device,
    pub(crate) context: Context,
    stream: sys::CUstream,
    /// Streams for work that may run beside that of the first: see [`Gpu::beside`].
    others: [sys::CUstream; STREAMS - 1],
    /// The one of all that work is enqueued on.
    pub(crate) current: Cell<sys::CUstream>,
    /// A capture in pieces that goes on: see `graph.rs`.
    pub(crate) cutting: RefCell<Option<Capture>>,
    allocated_bytes: Cell<u64>,
    peak_bytes: Cell<u64>,
    /// How long [`Gpu::synchronize`] waits.
    pub(crate) patience: Cell<Duration>,
    /// Work that may never end: to free what it uses would be to wait for it.
    pub(crate) abandoned: Cell<bool>,
}

impl Gpu {
    /// Starts the device.
    pub(crate) fn open(backend: &'static str, device: Device) -> Result<Rc<Gpu>, TrainError> {
        let failed = |error| device_error(backend, "starting the device", error);
        // SAFETY: the driver is initialised, as `device` exists; the context is current before the
        // stream is made in it, and both live as long as the `Gpu`.
        let (context, [stream, beside, exchange]) = unsafe {
            let context = result::primary_ctx::retain(device.handle).map_err(failed)?;
            result::ctx::set_current(context).map_err(failed)?;
            let (least, greatest) = result::stream::get_priority_range().map_err(failed)?;
            let kind = || result::stream::StreamKind::NonBlocking;
            let stream = |priority| result::stream::create_with_priority(kind(), priority);
            // Other devices wait for a word that is told there, and no block of another kernel is to stand in its way.
            (Context(context), [least, least, greatest].map(stream))
        };
        let [stream, beside, exchange] =
            [stream.map_err(failed)?, beside.map_err(failed)?, exchange.map_err(failed)?];
        let [allocated_bytes, peak_bytes] = [0, 0].map(Cell::new);
        let (patience, abandoned) = (Cell::new(PATIENCE), Cell::new(false));
        Ok(Rc::new(Gpu {
            backend,
            device,
            context,
            stream,
            others: [beside, exchange],
            current: Cell::new(stream),
            cutting: RefCell::new(None),
            allocated_bytes,
            peak_bytes,
            patience,
            abandoned,
        }))
    }

    /// Leaves the threads of the device less stack than the driver's 1,024 bytes, of which kernels need next to nothing:
    /// on an H200 that is 207 MB. The driver makes room for a kernel that needs more when it is launched.
    pub(crate) fn keep_little_stack(&self) -> Result<(), TrainError> {
        let limit = sys::CUlimit_enum::CU_LIMIT_STACK_SIZE;
        // SAFETY: the device's context is current.
        unsafe { sys::cuCtxSetLimit(limit, STACK_BYTES) }
            .result()
            .map_err(|error| self.error("limiting the stack", error))
    }

    /// Lets this device reach the memory of another one. A device always reaches its own.
    pub(crate) fn reach(&self, other: Context) -> Result<(), TrainError> {
        if other == self.context {
            return Ok(());
        }
        // SAFETY: this device's context is current, and the other lives.
        match unsafe { sys::cuCtxEnablePeerAccess(other.0, 0) } {
            sys::CUresult::CUDA_SUCCESS | sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => {
                Ok(())
            }
            error => Err(self.error("reaching another device's memory", DriverError(error))),
        }
    }

    /// Enqueues the copy of so many bytes, here or to a device or from one that is in [reach](Gpu::reach).
    ///
    /// # Safety
    /// Both addresses have so many until the copy is done.
    pub(crate) unsafe fn copy(
        &self,
        from: Address,
        to: Address,
        bytes: usize,
    ) -> Result<(), TrainError> {
        // SAFETY: as this function's.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.current.get()) }
            .map_err(|error| self.error("copying between devices", error))
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The most that our own buffers held at a time.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.get()
    }

    /// Says what buffers hold after `event`, and all programs together on the device, if the user wants to know it.
    pub(crate) fn tell_memory(&self, event: &str) {
        if std::env::var_os("TRAINMARK_CUDA_MEMORY").is_none() {
            return;
        }
        let buffers = human_bytes(self.allocated_bytes.get() as usize);
        let device = match result::mem_get_info() {
            Ok((free, total)) => human_bytes(total - free),
            Err(error) => explain(error),
        };
        eprintln!("{event}: {buffers} in buffers, {device} in use on the device");
    }

    pub(crate) fn error(&self, doing: &str, error: DriverError) -> TrainError {
        device_error(self.backend, doing, error)
    }

    /// The stream that work is enqueued on, for a library that enqueues its own.
    pub(crate) fn stream(&self) -> sys::CUstream {
        self.current.get()
    }

    /// Its number: 0 for the first, below [`STREAMS`].
    pub(crate) fn stream_number(&self) -> usize {
        let current = self.current.get();
        self.others.iter().position(|&other| other == current).map_or(0, |index| index + 1)
    }

    /// An error of a library that works on this device.
    pub(crate) fn failure(&self, message: String) -> TrainError {
        TrainError::Device { backend: self.backend, message }
    }

    /// Lets what is enqueued next on the current stream wait for `event`.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), TrainError> {
        // SAFETY: both are alive.
        unsafe { self.place(Piece::Wait(event.handle, self.current.get()), "waiting for an event") }
    }

    /// What `enqueue` enqueues goes to another stream. It begins when `ready` has happened, which is where
    /// the current stream is now, and what comes after it has to wait for `done`.
    pub(crate) fn beside(
        &self,
        lane: Lane,
        ready: &Event,
        done: &Event,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.record(ready)?;
        let before = self.current.replace(self.others[lane as usize]);
        let enqueued =
            self.wait_for(ready).and_then(|()| enqueue()).and_then(|()| self.record(done));
        self.current.set(before);
        enqueued.and(self.cut(None))
    }

    /// Memory for `len` elements, all bytes zero.
    pub(crate) fn allocate<T: Plain>(
        self: &Rc<Self>,
        what: &'static str,
        len: usize,
    ) -> Result<Buffer<T>, TrainError> {
        let bytes = len.max(1) * size_of::<T>();
        // SAFETY: the address is freed once, by the buffer.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|error| {
            self.error(&format!("allocating {} for {what}", human_bytes(bytes)), error)
        })?;
        let buffer = Buffer { gpu: Rc::clone(self), address, len, what, kind: PhantomData };
        self.allocated_bytes.set(self.allocated_bytes.get() + bytes as u64);
        self.peak_bytes.set(self.peak_bytes.get().max(self.allocated_bytes.get()));
        self.tell_memory(&format!("{} for {what}", human_bytes(bytes)));
        buffer.clear()?;
        Ok(buffer)
    }

    /// Memory that holds a copy of `values`.
    pub(crate) fn upload<T: Plain>(
        self: &Rc<Self>,
        what: &'static str,
        values: &[T],
    ) -> Result<Buffer<T>, TrainError> {
        let buffer = self.allocate(what, values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Waits until everything that was enqueued is done. The driver's own wait has no end; it asks
    /// again and again too, so this one costs no more.
    pub(crate) fn synchronize(&self) -> Result<(), TrainError> {
        let clock = Instant::now();
        loop {
            // SAFETY: the stream is alive.
            match unsafe { sys::cuStreamQuery(self.stream) } {
                sys::CUresult::CUDA_SUCCESS => return Ok(()),
                sys::CUresult::CUDA_ERROR_NOT_READY => {}
                error => return Err(self.error("training", DriverError(error))),
            }
            if clock.elapsed() >= self.patience.get() {
                self.abandoned.set(true);
                let seconds = self.patience.get().as_secs();
                let message = format!("the device did not finish its work in {seconds} s");
                return Err(TrainError::Device { backend: self.backend, message });
            }
            std::thread::yield_now();
        }
    }

    /// Enqueues an event.
    pub(crate) fn record(&self, event: &Event) -> Result<(), TrainError> {
        // SAFETY: both are alive.
        unsafe { self.place(Piece::Record(event.handle, self.current.get()), "recording an event") }
    }

    /// An event to wait for, which keeps no time.
    pub(crate) fn event(self: &Rc<Self>) -> Result<Event, TrainError> {
        self.event_with(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// Two events for [`Event::seconds_until`].
    pub(crate) fn clock(self: &Rc<Self>) -> Result<[Event; 2], TrainError> {
        let event = || self.event_with(sys::CUevent_flags::CU_EVENT_DEFAULT);
        Ok([event()?, event()?])
    }

    fn event_with(self: &Rc<Self>, flags: sys::CUevent_flags) -> Result<Event, TrainError> {
        let made = result::event::create(flags);
        let handle = made.map_err(|error| self.error("making an event", error))?;
        Ok(Event { gpu: Rc::clone(self), handle })
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.abandoned.get() {
            return;
        }
        // SAFETY: nothing else uses the stream: buffers, modules and events own a reference to the
        // `Gpu`. Errors at the end have nobody to hear them.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
            for stream in self.others {
                let _ = result::stream::destroy(stream);
            }
            let _ = result::primary_ctx::release(self.device.handle);
        }
    }
}

/// Types that can be copied to a device byte by byte.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}

/// An address in a kernel's arguments.
pub(crate) type Address = sys::CUdeviceptr;

/// Memory on the device.
pub(crate) struct Buffer<T> {
    gpu: Rc<Gpu>,
    address: Address,
    len: usize,
    what: &'static str,
    kind: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// Address of the element `index`.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn address_of(&self, index: usize) -> Address {
        assert!(index <= self.len, "{}: element {index} of {}", self.what, self.len);
        self.address + (index * size_of::<T>()) as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Sets all bytes to zero.
    pub(crate) fn clear(&self) -> Result<(), TrainError> {
        let bytes = self.len.max(1) * size_of::<T>();
        // SAFETY: the memory has this many bytes.
        unsafe { result::memset_d8_async(self.address, 0, bytes, self.gpu.stream) }
            .map_err(|error| self.gpu.error(&format!("clearing {}", self.what), error))
    }

    /// Copies `values` to the beginning of the buffer.
    ///
    /// # Panics
    /// If there are more than fit.
    pub(crate) fn write(&self, values: &[T]) -> Result<(), TrainError> {
        assert!(values.len() <= self.len, "{}: {} into {}", self.what, values.len(), self.len);
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the memory has room, and the copy is done when the stream is synchronised, while
        // `values` is still borrowed.
        unsafe { result::memcpy_htod_async(self.address, values, self.gpu.stream) }
            .map_err(|error| self.gpu.error(&format!("uploading {}", self.what), error))?;
        self.gpu.synchronize()
    }

    /// Copies the beginning of the buffer out.
    ///
    /// # Panics
    /// If more are asked for than there are.
    pub(crate) fn read(&self, values: &mut [T]) -> Result<(), TrainError> {
        assert!(values.len() <= self.len, "{}: {} of {}", self.what, values.len(), self.len);
        if values.is_empty() {
            return Ok(());
        }
        self.gpu.synchronize()?; // the copy itself would wait without an end
        // SAFETY: as for `write`.
        unsafe { result::memcpy_dtoh_async(values, self.address, self.gpu.stream) }
            .map_err(|error| self.gpu.error(&format!("downloading {}", self.what), error))?;
        self.gpu.synchronize()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let bytes = self.len.max(1) * size_of::<T>();
        self.gpu.allocated_bytes.set(self.gpu.allocated_bytes.get() - bytes as u64);
        if self.gpu.abandoned.get() {
            return;
        }
        // SAFETY: allocated by `Gpu::allocate`, freed once. `cuMemFree` waits for the kernels that
        // use it.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// A point in the stream.
pub(crate) struct Event {
    gpu: Rc<Gpu>,
    handle: sys::CUevent,
}

impl Event {
    /// Seconds from this event to `later`, of one [clock](Gpu::clock); both have happened.
    pub(crate) fn seconds_until(&self, later: &Event) -> Result<f64, TrainError> {
        // SAFETY: both are alive.
        let milliseconds = unsafe { result::event::elapsed(self.handle, later.handle) }
            .map_err(|error| self.gpu.error("reading events", error))?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.abandoned.get() {
            return;
        }
        // SAFETY: made by `Gpu::event`, destroyed once.
        let _ = unsafe { result::event::destroy(self.handle) };
    }
}

fn device_error(backend: &'static str, doing: &str, error: DriverError) -> TrainError {
    TrainError::Device { backend, message: format!("{doing}: {}", explain(error)) }
}

/// `47.0 MB`
fn human_bytes(bytes: usize) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device;
    use crate::kernel::Shape;

    fn gpu() -> Option<Rc<Gpu>> {
        let device = crate::tests::device()?;
        Some(Gpu::open("cuda", device).unwrap())
    }

    #[test]
    fn sizes_are_told_in_units_of_a_person() {
        assert_eq!(human_bytes(999), "999 bytes");
        assert_eq!(human_bytes(47_040_000), "47.0 MB");
        assert_eq!(human_bytes(80 << 30), "85.9 GB");
    }

    #[test]
    fn memory_that_the_device_does_not_have_is_an_error_that_says_what_for() {
        let Some(gpu) = gpu() else { return };
        let terabytes = 4_usize << 40;
        let Err(error) = gpu.allocate::<u8>("the images", terabytes) else {
            panic!("4 TiB on {}", gpu.device().name)
        };
        assert_eq!(
            error.to_string(),
            "cuda: allocating 4398.0 GB for the images: out of memory (CUDA_ERROR_OUT_OF_MEMORY)"
        );
        let small: Buffer<u8> = gpu.allocate("a byte", 1).expect("the device goes on");
        assert_eq!((small.len(), gpu.peak_bytes()), (1, 1));
    }

    #[test]
    fn work_that_does_not_end_in_time_is_an_error() {
        let Some(gpu) = gpu() else { return };
        let large: Buffer<u8> = gpu.allocate("much to clear", 1 << 30).unwrap();
        gpu.synchronize().unwrap();
        gpu.patience.set(Duration::ZERO);
        for _ in 0..100 {
            large.clear().unwrap();
        }
        let error = gpu.synchronize().unwrap_err().to_string();
        assert_eq!(error, "cuda: the device did not finish its work in 0 s");
    }

    /// A failed kernel spoils the process's context, so it has a process of its own: the test starts
    /// itself again.
    #[test]
    fn a_kernel_that_fails_is_an_error_of_one_line_from_then_on() {
        const ALONE: &str = "TRAINMARK_TEST_FAILED_KERNEL";
        const TRAP: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\
                            .visible .entry fail(.param .u64 unused) { trap; }\n";
        let Some(device) = crate::tests::device() else { return };
        if std::env::var_os(ALONE).is_none() {
            let name = "driver::tests::a_kernel_that_fails_is_an_error_of_one_line_from_then_on";
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--test-threads=1"])
                .env(ALONE, "1")
                .status()
                .unwrap();
            assert!(status.success(), "{status}");
            return;
        }
        let gpu = Gpu::open("cuda", device::choose(&[device], None).unwrap()).unwrap();
        let module = Rc::new(gpu.compile("trap.ptx", TRAP.into()).unwrap());
        let fail = module.kernel("fail", 0).unwrap();
        // SAFETY: it takes eight bytes, which it does not read.
        unsafe { fail.launch(Shape::row(1, 1), &0_u64) }.unwrap();
        let error = gpu.synchronize().unwrap_err().to_string();
        assert!(error.starts_with("cuda: training: ") && !error.contains('\n'), "{error}");
        let Err(later) = gpu.allocate::<u8>("a byte", 1) else { panic!("the device went on") };
        assert!(later.to_string().starts_with("cuda: allocating 1 bytes for a byte: "), "{later}");
    }
}
