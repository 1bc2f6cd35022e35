//! A request to stop, from a signal handler or another thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The reason that [`CancelToken::cancel`] gives.
pub const STOPPED_BY_USER: &str = "stopped by the user";

/// Stops running trainers. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    requests: AtomicUsize,
    /// Why, in words for the record.
    reason: OnceLock<&'static str>,
}

impl CancelToken {
    /// The first call asks running trainers to end and kills them after a grace; the second kills
    /// them at once.
    pub fn cancel(&self) {
        self.cancel_because(STOPPED_BY_USER);
    }

    /// The same, for another reason than that the user asks for it. The first reason counts.
    pub fn cancel_because(&self, reason: &'static str) {
        // Before the request: whoever sees the one sees the other.
        let _ = self.0.reason.set(reason);
        self.0.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// Sleeps until it is cancelled, and returns why.
    pub fn wait(&self) -> &'static str {
        self.0.reason.wait()
    }

    pub fn is_cancelled(&self) -> bool {
        self.requests() > 0
    }

    /// Whether nothing is to be waited for any longer.
    pub fn is_urgent(&self) -> bool {
        self.requests() > 1
    }

    /// Why, once it is cancelled.
    pub fn reason(&self) -> Option<&'static str> {
        self.0.reason.get().copied().filter(|_| self.is_cancelled())
    }

    /// How often [`CancelToken::cancel`] was called.
    pub(super) fn requests(&self) -> usize {
        self.0.requests.load(Ordering::SeqCst)
    }
}
