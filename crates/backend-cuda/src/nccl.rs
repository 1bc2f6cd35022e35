//! Sums and gatherings over devices through NVIDIA's NCCL, loaded at run time: 2.17 or later. The numbers are those
//! of nccl.h, which have not changed since; later versions only lengthen the configuration, and read of a shorter
//! one as much as it says.

use crate::driver::{Address, Gpu};
use nn::backend::{TrainError, Unavailable};
use std::ffi::{c_char, c_int, c_void};
use std::rc::Rc;
use std::sync::OnceLock;

const NAME: &str = "libnccl.so.2";
const FLOAT32: c_int = 7;
const BYTES: c_int = 1;
const SUM: c_int = 0;
const UNSET: c_int = c_int::MIN;

type Status = c_int;
type Handle = *mut c_void;

/// The identity of the group of devices of one sum.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Meeting([c_char; 128]);

/// `ncclConfig_t` as 2.17 has it.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    cluster_size: c_int,
    least_blocks: c_int,
    most_blocks: c_int,
    net_name: *const c_char,
}

/// The functions of the library.
#[derive(Clone, Copy)]
struct Functions {
    meeting: unsafe extern "C" fn(*mut Meeting) -> Status,
    join: unsafe extern "C" fn(*mut Handle, c_int, Meeting, c_int, *mut Config) -> Status,
    leave: unsafe extern "C" fn(Handle) -> Status,
    all_reduce:
        unsafe extern "C" fn(Address, Address, usize, c_int, c_int, Handle, *mut c_void) -> Status,
    reduce_scatter:
        unsafe extern "C" fn(Address, Address, usize, c_int, c_int, Handle, *mut c_void) -> Status,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    all_gather: unsafe extern "C" fn(Address, Address, usize, c_int, Handle, *mut c_void) -> Status,
}

/// The library, opened once and never closed: a thread of its own, which a meeting starts, runs its code until
/// everybody has joined.
fn library() -> Result<Functions, TrainError> {
    static LIBRARY: OnceLock<Result<(Functions, libloading::Library), String>> = OnceLock::new();
    let open = || {
        // SAFETY: NVIDIA's library has no initialiser with effects that we would notice.
        let library = unsafe { libloading::Library::new(NAME) }
            .map_err(|_| format!("several GPUs need NCCL, and {NAME} was not found"))?;
        // SAFETY: the types of the functions are those of nccl.h.
        let functions = unsafe { functions(&library) }
            .map_err(|error| format!("NCCL lacks a function: {error}"))?;
        Ok((functions, library))
    };
    match LIBRARY.get_or_init(open) {
        Ok((functions, _)) => Ok(*functions),
        Err(reason) => Err(Unavailable(reason.clone()).into()),
    }
}

/// # Safety
/// The library is NCCL.
unsafe fn functions(library: &libloading::Library) -> Result<Functions, libloading::Error> {
    // SAFETY: as this function's; each type is the header's.
    unsafe {
        Ok(Functions {
            meeting: *library.get(b"ncclGetUniqueId\0")?,
            join: *library.get(b"ncclCommInitRankConfig\0")?,
            leave: *library.get(b"ncclCommDestroy\0")?,
            all_reduce: *library.get(b"ncclAllReduce\0")?,
            reduce_scatter: *library.get(b"ncclReduceScatter\0")?,
            all_gather: *library.get(b"ncclAllGather\0")?,
            group_start: *library.get(b"ncclGroupStart\0")?,
            group_end: *library.get(b"ncclGroupEnd\0")?,
        })
    }
}

/// A meeting for devices to join.
pub(crate) fn meeting() -> Result<Meeting, TrainError> {
    let functions = library()?;
    let mut meeting = Meeting([0; 128]);
    // SAFETY: it writes the 128 bytes.
    match unsafe { (functions.meeting)(&mut meeting) } {
        0 => Ok(meeting),
        status => Err(Unavailable(format!("NCCL does not start: status {status}")).into()),
    }
}

/// One device among those of a meeting.
pub(crate) struct Communicator {
    gpu: Rc<Gpu>,
    rank: usize,
    handle: Handle,
    functions: Functions,
}

impl Communicator {
    /// Joins, and waits until all `count` have. Exchanges take at most so many blocks, each a multiprocessor, if
    /// any number is said.
    pub(crate) fn join(
        gpu: &Rc<Gpu>,
        meeting: Meeting,
        rank: usize,
        count: usize,
        most_blocks: Option<usize>,
    ) -> Result<Communicator, TrainError> {
        let functions = library()?;
        let mut handle = std::ptr::null_mut();
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 21_700,
            blocking: UNSET,
            cluster_size: UNSET,
            least_blocks: UNSET,
            most_blocks: most_blocks.map_or(UNSET, |most| most as c_int),
            net_name: std::ptr::null(),
        };
        let (number, all) = (rank as c_int, count as c_int);
        // SAFETY: it writes a handle and reads as much of the configuration as that says; the device's context is
        // current.
        let status = unsafe { (functions.join)(&mut handle, all, meeting, number, &mut config) };
        if status != 0 {
            return Err(gpu.failure(format!("joining {count} devices: NCCL's status {status}")));
        }
        Ok(Communicator { gpu: Rc::clone(gpu), rank, handle, functions })
    }

    /// The place of this device among them.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    fn check(&self, doing: &str, status: Status) -> Result<(), TrainError> {
        match status {
            0 => Ok(()),
            status => Err(self.gpu.failure(format!("{doing}: NCCL's status {status}"))),
        }
    }

    /// Enqueues the sum of `len` numbers at `values` over all devices, in place.
    ///
    /// # Safety
    /// The numbers are there until the sum is done, and every device of the meeting asks for the same sums
    /// in the same order.
    pub(crate) unsafe fn sum(&self, values: Address, len: usize) -> Result<(), TrainError> {
        let (all_reduce, stream) = (self.functions.all_reduce, self.gpu.stream().cast());
        // SAFETY: as this function's.
        let status = unsafe { all_reduce(values, values, len, FLOAT32, SUM, self.handle, stream) };
        self.check("a sum over devices", status)
    }

    /// The same of the part of each device alone, in the order of their ranks, `len` numbers each.
    ///
    /// # Safety
    /// As for [`Communicator::sum`].
    pub(crate) unsafe fn sum_part(&self, values: Address, len: usize) -> Result<(), TrainError> {
        let (scatter, stream) = (self.functions.reduce_scatter, self.gpu.stream().cast());
        let own = values + (self.rank * len * size_of::<f32>()) as u64;
        // SAFETY: as this function's.
        let status = unsafe { scatter(values, own, len, FLOAT32, SUM, self.handle, stream) };
        self.check("a sum over devices", status)
    }

    /// Enqueues the gathering at `to` of the `bytes` bytes that each device has at `from`, which may be its place
    /// among them, in the order of their ranks.
    ///
    /// # Safety
    /// There is room for the bytes of all devices, until they are gathered, and as for [`Communicator::sum`].
    pub(crate) unsafe fn gather(
        &self,
        from: Address,
        to: Address,
        bytes: usize,
    ) -> Result<(), TrainError> {
        let (gather, stream) = (self.functions.all_gather, self.gpu.stream().cast());
        // SAFETY: as this function's.
        let status = unsafe { gather(from, to, bytes, BYTES, self.handle, stream) };
        self.check("a gathering over devices", status)
    }

    /// All that `enqueue` enqueues of this, as one.
    pub(crate) fn together(
        &self,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        // SAFETY: what begins is ended here.
        self.check("exchanges", unsafe { (self.functions.group_start)() })?;
        let enqueued = enqueue();
        // SAFETY: it has begun.
        let status = unsafe { (self.functions.group_end)() };
        enqueued.and(self.check("exchanges", status))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // NCCL would wait for work that may never end.
        if !self.gpu.abandoned.get() {
            // SAFETY: made once, destroyed once.
            unsafe { (self.functions.leave)(self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_configuration_lies_in_memory_as_the_header_of_2_17_has_it() {
        let places = [offset_of!(Config, least_blocks), offset_of!(Config, net_name)];
        assert_eq!((size_of::<Config>(), places), (40, [24, 32]));
    }
}
