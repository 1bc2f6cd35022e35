//! The kernel's account of a child when it ends, and on macOS of running processes. The few system
//! calls here have no safe wrapper elsewhere; the harness itself has no unsafe code.
//!
//! [`wait_for_any`] is `wait4`, on every Unix. On macOS it looks at the child once more between its
//! end and its burial, when the kernel still knows the peak of its physical footprint: the figure
//! that Activity Monitor shows, with compressed and GPU memory, which `ru_maxrss` lacks.

#[cfg(target_os = "macos")]
pub use macos::{Memory, children, memory};

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// Bytes per unit of `ru_maxrss`.
pub const MAXRSS_UNIT: u64 = if cfg!(target_vendor = "apple") { 1 } else { 1024 };

/// A child that has ended, and what it used.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub pid: i32,
    pub status: ExitStatus,
    /// CPU time of it and of all that it waited for.
    pub user: Duration,
    /// CPU time of the kernel on their behalf.
    pub system: Duration,
    /// `ru_maxrss`: the peak resident size of the largest of them.
    pub largest_resident_bytes: u64,
    /// The peak of its own physical footprint; macOS only.
    pub footprint_bytes: Option<u64>,
}

/// Waits until any child ends, and buries it.
///
/// # Errors
/// `ECHILD` if there is no child; [`io::ErrorKind::Interrupted`] at a signal.
#[allow(unsafe_code)]
pub fn wait_for_any() -> io::Result<Ended> {
    #[cfg(target_os = "macos")]
    let (wanted, footprint_bytes) = {
        let pid = macos::wait_without_burial()?;
        (pid, macos::memory(pid).map(|memory| memory.peak_footprint_bytes))
    };
    #[cfg(not(target_os = "macos"))]
    let (wanted, footprint_bytes) = (-1, None);

    let mut status = 0;
    // SAFETY: a `rusage` is plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to memory of the types that the call fills.
    let pid = unsafe { libc::wait4(wanted, &raw mut status, 0, &raw mut usage) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Ended {
        pid,
        status: ExitStatus::from_raw(status),
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        largest_resident_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * MAXRSS_UNIT,
        footprint_bytes,
    })
}

/// The kernel's times are never negative.
fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let microseconds = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(microseconds)
}

/// `proc_pid_rusage` and its like.
#[cfg(target_os = "macos")]
mod macos {
    use std::io;
    use std::mem::{size_of, size_of_val, zeroed};

    /// `PROC_PPID_ONLY` of `sys/proc_info.h`, which `libc` lacks.
    const PROC_PPID_ONLY: u32 = 6;

    /// The usage of one process.
    #[derive(Clone, Copy, Debug)]
    pub struct Memory {
        /// Resident now.
        pub resident_bytes: u64,
        /// Physical footprint now.
        pub footprint_bytes: u64,
        /// The largest that the footprint has ever been.
        pub peak_footprint_bytes: u64,
    }

    /// The kernel's account of a process's memory, also after it has ended and before it is reaped.
    /// `None` if there is no such process or it is not ours to look at.
    #[allow(unsafe_code)]
    pub fn memory(pid: i32) -> Option<Memory> {
        // SAFETY: the structure is plain integers and bytes.
        let mut usage: libc::rusage_info_v4 = unsafe { zeroed() };
        let buffer = (&raw mut usage).cast::<libc::rusage_info_t>();
        // SAFETY: the buffer is a structure of the flavour that is asked for; the C declaration's type
        // of the pointer stands for all of them.
        let result = unsafe { libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V4, buffer) };
        (result == 0).then_some(Memory {
            resident_bytes: usage.ri_resident_size,
            footprint_bytes: usage.ri_phys_footprint,
            peak_footprint_bytes: usage.ri_lifetime_max_phys_footprint,
        })
    }

    /// The children of a process that have not been waited for, the first thousand of them.
    #[allow(unsafe_code)]
    pub fn children(pid: i32) -> Vec<i32> {
        let mut pids = [0_i32; 1024];
        let (parent, size) = (pid as u32, size_of_val(&pids) as i32);
        // SAFETY: the buffer has as many bytes as the call is told.
        let bytes =
            unsafe { libc::proc_listpids(PROC_PPID_ONLY, parent, pids.as_mut_ptr().cast(), size) };
        let count = usize::try_from(bytes).unwrap_or(0) / size_of::<i32>();
        pids[..count.min(pids.len())].iter().copied().filter(|&child| child > 0).collect()
    }

    /// Until any child has ended; it stays to be waited for.
    #[allow(unsafe_code)]
    pub(super) fn wait_without_burial() -> io::Result<i32> {
        // SAFETY: the structure is plain integers and pointers that may be null.
        let mut info: libc::siginfo_t = unsafe { zeroed() };
        let options = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: the pointer is to memory of the type that the call fills.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the information is that of an ended child, which has its id.
        Ok(unsafe { info.si_pid() })
    }
}
