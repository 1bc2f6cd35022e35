//! NVIDIA GPUs, through the driver alone, which is loaded when it is asked for: without one there
//! are none. Time is the device's, between two events.
//!
//! Other GPUs are not measured: what would measure them, wgpu, is many times the harness. They are
//! found by the trainers (`mnist-classic --probe`).

use crate::Gpu;
use crate::products::{Library, Precision, Product};
use crate::rounds::{self, Probe};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::fmt::Write;

/// Independent chains of multiply-adds in a thread, several times a multiplier's latency.
const CHAINS: usize = 16;
/// Multiply-adds of each chain in a round of the loop.
const LENGTH: usize = 16;
/// Threads of a block.
const BLOCK: u32 = 256;
/// Random values of a matrix are so many copies of fewer: the host draws them slowly.
const PATTERNS: usize = 64;
/// The most that is copied at a time: far more than any cache holds.
const MOST_COPIED: usize = 1 << 30;

/// All NVIDIA GPUs, with their rates. What fails stays unmeasured.
pub(crate) fn measure() -> Vec<Gpu> {
    // SAFETY: it opens the driver's library, as every call below does.
    if !unsafe { sys::is_culib_present() } || result::init().is_err() {
        return Vec::new();
    }
    let driver = driver_version();
    let count = result::device::get_count().unwrap_or(0);
    let devices = (0..count).filter_map(|ordinal| result::device::get(ordinal).ok());
    devices
        .map(|device| {
            let mut gpu = Gpu {
                name: result::device::get_name(device).unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
                // SAFETY: the device is the driver's.
                memory_bytes: unsafe { result::device::total_mem(device) }
                    .ok()
                    .map(|bytes| bytes as u64),
                driver: driver.clone(),
                ..Gpu::default()
            };
            if let Ok([multiply_adds, copy]) = rates(device) {
                gpu.fp32_flop_per_s = Some(multiply_adds);
                gpu.copy_bytes_per_s = Some(copy);
            }
            match product_rates(device) {
                Ok([tf32, bf16, fp16]) => {
                    (gpu.tf32_flop_per_s, gpu.bf16_flop_per_s, gpu.fp16_flop_per_s) =
                        (tf32, bf16, fp16);
                }
                Err(reason) => gpu.products_missing = Some(reason),
            }
            gpu
        })
        .collect()
}

/// `580.159.04, CUDA 13.0`
fn driver_version() -> Option<String> {
    let mut number = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&mut number) }.result().ok()?;
    let cuda = format!("CUDA {}.{}", number / 1000, number % 1000 / 10);
    let module = std::fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default();
    Some(match module.trim() {
        "" => cuda,
        module => format!("{module}, {cuda}"),
    })
}

/// A device in use. Whatever was made on it is freed with it.
struct Device {
    handle: sys::CUdevice,
    stream: sys::CUstream,
    events: [sys::CUevent; 2],
    module: Option<sys::CUmodule>,
    buffers: Vec<sys::CUdeviceptr>,
}

impl Device {
    fn open(handle: sys::CUdevice) -> Result<Device, DriverError> {
        // SAFETY: the device is the driver's; its primary context is current before anything is made
        // in it, and released last.
        unsafe {
            result::ctx::set_current(result::primary_ctx::retain(handle)?)?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
            let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
            let events = [event()?, event()?];
            Ok(Device { handle, stream, events, module: None, buffers: Vec::new() })
        }
    }

    fn allocate(&mut self, bytes: usize) -> Result<sys::CUdeviceptr, DriverError> {
        // SAFETY: freed once, by `drop`.
        let address = unsafe { result::malloc_sync(bytes) }?;
        self.buffers.push(address);
        Ok(address)
    }

    /// Seconds of the device for what `work` enqueues on the stream.
    fn time(
        &self,
        work: impl FnOnce(sys::CUstream) -> Result<(), DriverError>,
    ) -> Result<f64, DriverError> {
        // SAFETY: events and stream are alive.
        unsafe {
            result::event::record(self.events[0], self.stream)?;
            work(self.stream)?;
            result::event::record(self.events[1], self.stream)?;
            result::stream::synchronize(self.stream)?;
            Ok(f64::from(result::event::elapsed(self.events[0], self.events[1])?) / 1e3)
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: made by this device, destroyed once; nothing runs any more. Errors at the end have
        // nobody to hear them.
        unsafe {
            for &buffer in &self.buffers {
                let _ = result::free_sync(buffer);
            }
            if let Some(module) = self.module {
                let _ = result::module::unload(module);
            }
            for event in self.events {
                let _ = result::event::destroy(event);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.handle);
        }
    }
}

/// Multiply-adds and copied bytes per second: medians.
fn rates(handle: sys::CUdevice) -> Result<[u64; 2], DriverError> {
    let mut device = Device::open(handle)?;
    let image = CString::new(multiply_adds()).expect("PTX is text without zeros");
    // SAFETY: the image is a string that ends with a zero byte.
    let module = unsafe { result::module::load_data(image.as_ptr().cast()) }?;
    device.module = Some(module);
    // SAFETY: the module lives as long as the device.
    let function = unsafe { result::module::get_function(module, c"multiply_adds".to_owned()) }?;
    // SAFETY: the device is the driver's.
    let attribute = |which| unsafe { result::device::get_attribute(handle, which) };
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
    let threads = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)? as u32;
    let blocks = multiprocessors * (threads / BLOCK).max(1);
    let mut out = device.allocate(4)?;

    let (free, _) = result::mem_get_info()?;
    let bytes = MOST_COPIED.min(free / 4) / 4 * 4;
    let (from, to) = (device.allocate(bytes)?, device.allocate(bytes)?);
    // SAFETY: the memory has so many bytes. Not zeros, which some devices compress.
    unsafe {
        sys::cuMemsetD32_v2(from, 0x3F9D_70A4, bytes / 4).result()?;
    }

    let failure = Cell::new(None);
    let timed = |seconds: Result<f64, DriverError>| {
        seconds.unwrap_or_else(|error| {
            failure.set(Some(error));
            1.0
        })
    };
    let device = &device;
    let mut probes = [
        Probe {
            units: 2.0 * (CHAINS * LENGTH) as f64 * f64::from(blocks * BLOCK),
            run: Box::new(|rounds| {
                let mut rounds = rounds.min(u64::from(u32::MAX)) as u32;
                let mut arguments =
                    [(&raw mut rounds).cast::<c_void>(), (&raw mut out).cast::<c_void>()];
                let seconds = device.time(|stream| {
                    let (grid, block) = ((blocks, 1, 1), (BLOCK, 1, 1));
                    // SAFETY: the arguments are the kernel's, copied before the call returns.
                    unsafe {
                        result::launch_kernel(function, grid, block, 0, stream, &mut arguments)
                    }
                });
                timed(seconds)
            }),
        },
        Probe {
            units: 2.0 * bytes as f64,
            run: Box::new(|times| {
                let seconds = device.time(|stream| {
                    (0..times).try_for_each(|_| {
                        // SAFETY: both have so many bytes and live as long as the device.
                        unsafe { result::memcpy_dtod_async(to, from, bytes, stream) }
                    })
                });
                timed(seconds)
            }),
        },
    ];
    let rates = rounds::run(&mut probes, &mut || ());
    drop(probes);
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok([rates[0].median, rates[1].median]),
    }
}

/// Operations per second of large products in each of [`Precision::ALL`]: medians; none of one that the device
/// does not have.
fn product_rates(handle: sys::CUdevice) -> Result<[Option<u64>; 3], String> {
    let failed = |error: DriverError| error.to_string();
    let mut device = Device::open(handle).map_err(failed)?;
    let library = Library::open()?;
    let (free, _) = result::mem_get_info().map_err(failed)?;
    // Three matrices of float32 in half of the free memory at most.
    let size = [8192, 4096, 2048].into_iter().find(|size| 24 * size * size < free);
    let size: usize = size.ok_or("its memory is in use")?;
    let workspace = device.allocate(Product::workspace_bytes()).map_err(failed)?;
    let mut matrix = || device.allocate(4 * size * size).map_err(failed);
    let matrices = [matrix()?, matrix()?, matrix()?];
    let mut rates = [None; 3];
    for (precision, rate) in Precision::ALL.into_iter().zip(&mut rates) {
        let values = precision.values(size * size / PATTERNS);
        for matrix in &matrices[..2] {
            for place in 0..PATTERNS {
                let at = matrix + (place * values.len()) as u64;
                // SAFETY: both matrices hold so many bytes, and the values live until the copy is done.
                unsafe { result::memcpy_htod_sync(at, &values) }.map_err(failed)?;
            }
        }
        let Ok(product) = Product::new(&library, precision, size, workspace) else { continue };
        let failure = Cell::new(None);
        let run = |times: u64| {
            let mut refused = None;
            let seconds = device.time(|stream| {
                for _ in 0..times {
                    // SAFETY: three matrices of this size on this device.
                    if let Err(reason) = unsafe { product.enqueue(matrices, stream) } {
                        refused = Some(reason);
                    }
                }
                Ok(())
            });
            let trouble = refused.or(seconds.as_ref().err().map(DriverError::to_string));
            if trouble.is_some() {
                failure.set(trouble);
            }
            seconds.unwrap_or(1.0)
        };
        let units = 2.0 * (size as f64).powi(3);
        let found = rounds::run(&mut [Probe { units, run: Box::new(run) }], &mut || ());
        match failure.into_inner() {
            None => *rate = Some(found[0].median),
            Some(reason) => return Err(reason),
        }
    }
    Ok(rates)
}

/// The kernel: [`CHAINS`] chains of [`LENGTH`] multiply-adds in each of so many rounds.
fn multiply_adds() -> String {
    let mut text = ".version 7.0\n.target sm_75\n.address_size 64\n\
         .visible .entry multiply_adds(.param .u32 rounds, .param .u64 out) {\n\
         .reg .f32 %f<32>; .reg .u32 %r<3>; .reg .u64 %o; .reg .pred %p;\n\
         ld.param.u32 %r1, [rounds]; ld.param.u64 %o, [out];\n\
         mov.u32 %r2, %tid.x; cvt.rn.f32.u32 %f30, %r2;\n\
         mov.f32 %f28, 0f3F7FBE77; mov.f32 %f29, 0f3F800000;\n"
        .to_owned();
    // Writing to a string cannot fail.
    for chain in 0..CHAINS {
        let _ = writeln!(text, "add.f32 %f{chain}, %f30, 0f3F80000{chain:X};");
    }
    text += "AGAIN:\n";
    for _ in 0..LENGTH {
        for chain in 0..CHAINS {
            let _ = writeln!(text, "fma.rn.f32 %f{chain}, %f{chain}, %f28, %f29;");
        }
    }
    text += "sub.u32 %r1, %r1, 1; setp.ne.u32 %p, %r1, 0; @%p bra AGAIN;\n";
    for chain in 1..CHAINS {
        let _ = writeln!(text, "add.f32 %f0, %f0, %f{chain};");
    }
    // Never true, and the compiler does not know it.
    text += "setp.eq.f32 %p, %f0, 0f4640E400; @%p st.global.f32 [%o], %f0; ret; }\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_have_rates_that_make_sense_or_there_are_none() {
        for gpu in measure() {
            let flop_per_s = gpu.fp32_flop_per_s.expect("a rate");
            assert!((100_000_000_000..1_000_000_000_000_000).contains(&flop_per_s), "{gpu:?}");
            let bytes_per_s = gpu.copy_bytes_per_s.expect("a rate");
            assert!((5_000_000_000..50_000_000_000_000).contains(&bytes_per_s), "{gpu:?}");
            assert!(gpu.memory_bytes.expect("a size") > 1 << 30, "{gpu:?}");
        }
    }

    #[test]
    fn the_kernel_has_as_many_multiply_adds_as_are_counted() {
        let text = multiply_adds();
        assert_eq!(text.matches("fma.rn.f32").count(), CHAINS * LENGTH);
        assert!(text.is_ascii() && !text.contains('\0'));
    }
}
