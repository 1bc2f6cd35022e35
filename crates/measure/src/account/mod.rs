//! What the kernel says of a child when it ends, and on macOS of processes that run. The few system
//! calls here have no safe wrapper elsewhere; the harness itself has no unsafe code.
//!
//! [`wait_for_any`] is `wait4`, on every Unix. On macOS it looks at the child once more between its
//! end and its burial, when the kernel still knows the peak of its physical footprint: the figure
//! that Activity Monitor shows, with compressed and GPU memory, which `ru_maxrss` lacks.

#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "macos")]
pub use macos::{Memory, children, memory};

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// Bytes per unit of `ru_maxrss`.
const MAXRSS_UNIT: u64 = if cfg!(target_vendor = "apple") { 1 } else { 1024 };

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
