//! A request to stop, from a signal handler or another thread.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Stops running trainers. Clones share one state.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requests: AtomicUsize,
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
        Ok(CancelToken(Arc::new(Shared { requests: AtomicUsize::new(0), wake_read, wake_write })))
    }

    /// The first call asks running trainers to end and kills them after a grace; the second kills
    /// them at once.
    pub fn cancel(&self) {
        if self.0.requests.fetch_add(1, Ordering::SeqCst) == 0 {
            // One byte into an empty socket buffer always fits; were it lost, `run` would still
            // notice the counter a moment later.
            let _ = (&self.0.wake_write).write(&[1]);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.requests() > 0
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
