//! A request to stop, from a signal handler or another thread.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The reason that [`CancelToken::cancel`] gives.
pub const STOPPED_BY_USER: &str = "stopped by the user";

/// Stops running trainers. Clones share one state.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requests: AtomicUsize,
    /// Why, in words for the record.
    reason: OnceLock<&'static str>,
    /// Becomes readable at the first request and stays so: nobody reads it empty.
    wake_read: UnixStream,
    wake_write: UnixStream,
}

impl CancelToken {
    /// # Errors
    /// If the system has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let (wake_read, wake_write) = UnixStream::pair()?;
        wake_write.set_nonblocking(true)?;
        let (requests, reason) = (AtomicUsize::new(0), OnceLock::new());
        Ok(CancelToken(Arc::new(Shared { requests, reason, wake_read, wake_write })))
    }

    /// The first call asks running trainers to end and kills them after a grace; the second kills
    /// them at once.
    pub fn cancel(&self) {
        self.cancel_because(STOPPED_BY_USER);
    }

    /// The same, for another reason than that the user asks for it. The first reason counts.
    pub fn cancel_because(&self, reason: &'static str) {
        // Before the request: whoever sees the one sees the other.
        let _ = self.0.reason.set(reason);
        if self.0.requests.fetch_add(1, Ordering::SeqCst) == 0 {
            // One byte into an empty socket buffer always fits; were it lost, `run` would still
            // notice the counter a moment later.
            let _ = (&self.0.wake_write).write(&[1]);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.requests() > 0
    }

    /// Why, once it is cancelled.
    pub fn reason(&self) -> Option<&'static str> {
        self.0.reason.get().copied().filter(|_| self.is_cancelled())
    }

    /// How often [`CancelToken::cancel`] was called.
    pub(super) fn requests(&self) -> usize {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// Readable from the first request on.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake_read.as_fd()
    }
}
