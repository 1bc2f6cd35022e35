//! Sums over devices through NVIDIA's NCCL, loaded at run time. The numbers are those of nccl.h, which
//! have not changed since version 2.

use crate::driver::{Address, Gpu};
use nn::backend::{TrainError, Unavailable};
use std::ffi::{c_char, c_int, c_void};
use std::rc::Rc;
use std::sync::OnceLock;

const NAME: &str = "libnccl.so.2";
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

type Status = c_int;
type Handle = *mut c_void;

/// The identity of the group of devices of one sum.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Meeting([c_char; 128]);

/// The functions of the library.
#[derive(Clone, Copy)]
struct Functions {
    meeting: unsafe extern "C" fn(*mut Meeting) -> Status,
    join: unsafe extern "C" fn(*mut Handle, c_int, Meeting, c_int) -> Status,
    leave: unsafe extern "C" fn(Handle) -> Status,
    all_reduce:
        unsafe extern "C" fn(Address, Address, usize, c_int, c_int, Handle, *mut c_void) -> Status,
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
            join: *library.get(b"ncclCommInitRank\0")?,
            leave: *library.get(b"ncclCommDestroy\0")?,
            all_reduce: *library.get(b"ncclAllReduce\0")?,
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
    handle: Handle,
    functions: Functions,
}

impl Communicator {
    /// Joins, and waits until all `count` have.
    pub(crate) fn join(
        gpu: &Rc<Gpu>,
        meeting: Meeting,
        rank: usize,
        count: usize,
    ) -> Result<Communicator, TrainError> {
        let functions = library()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: it writes a handle; the device's context is current.
        let status =
            unsafe { (functions.join)(&mut handle, count as c_int, meeting, rank as c_int) };
        if status != 0 {
            return Err(gpu.failure(format!("joining {count} devices: NCCL's status {status}")));
        }
        Ok(Communicator { gpu: Rc::clone(gpu), handle, functions })
    }

    /// Enqueues the sum of `len` numbers at `values` over all devices, in place.
    ///
    /// # Safety
    /// The numbers are there until the sum is done, and every device of the meeting asks for the same sums
    /// in the same order.
    pub(crate) unsafe fn sum(&self, values: Address, len: usize) -> Result<(), TrainError> {
        let all_reduce = self.functions.all_reduce;
        let stream = self.gpu.stream().cast();
        // SAFETY: as this function's.
        match unsafe { all_reduce(values, values, len, FLOAT32, SUM, self.handle, stream) } {
            0 => Ok(()),
            status => Err(self.gpu.failure(format!("a sum over devices: NCCL's status {status}"))),
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        unsafe { (self.functions.leave)(self.handle) };
    }
}
