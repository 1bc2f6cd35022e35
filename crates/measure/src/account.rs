//! Waits for processes, and on macOS asks for the kernel's account of them, which has no safe wrapper
//! elsewhere. There a child is looked at once more between its end and its burial, when the kernel still knows
//! the peak of its physical footprint: the figure that Activity Monitor shows, with compressed and GPU memory, which
//! `ru_maxrss` lacks.

#[cfg(target_os = "macos")]
pub use macos::{Memory, children, memory};

use rustix::process::WaitOptions;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A child that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub pid: i32,
    pub status: ExitStatus,
    /// The peak of its own physical footprint; macOS only.
    pub footprint_bytes: Option<u64>,
}

/// Waits until any child ends, and buries it.
///
/// # Errors
/// `ECHILD` if there is no child; [`io::ErrorKind::Interrupted`] at a signal.
pub fn wait_for_any() -> io::Result<Ended> {
    #[cfg(target_os = "macos")]
    let (ended, footprint_bytes) = {
        let pid = macos::wait_without_burial()?;
        let footprint_bytes = macos::memory(pid).map(|memory| memory.peak_footprint_bytes);
        let pid = rustix::process::Pid::from_raw(pid);
        (rustix::process::waitpid(pid, WaitOptions::empty())?, footprint_bytes)
    };
    #[cfg(not(target_os = "macos"))]
    let (ended, footprint_bytes) = (rustix::process::wait(WaitOptions::empty())?, None);
    let (pid, status) = ended.unwrap_or_else(|| unreachable!("it waits until one has ended"));
    let (pid, status) = (pid.as_raw_nonzero().get(), ExitStatus::from_raw(status.as_raw()));
    Ok(Ended { pid, status, footprint_bytes })
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
