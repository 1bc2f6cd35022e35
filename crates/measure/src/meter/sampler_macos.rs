//! macOS and other Unix systems. There are no subreapers: what the kernel adds up is the main
//! process with all that it waited for. On macOS the tree is looked at as well, as far as its
//! processes still have their parents.

use super::sample::TreeSample;
use crate::account::Ended;
use std::time::{Duration, Instant};

/// Time between two looks at the tree; elsewhere than on macOS there is nothing to see.
const INTERVAL: Duration =
    Duration::from_millis(if cfg!(target_os = "macos") { 20 } else { 24 * 3_600_000 });

/// Sums the physical footprints of all processes below one, again and again.
#[derive(Debug)]
pub struct TreeSampler {
    #[cfg_attr(not(target_os = "macos"), allow(dead_code))]
    root: i32,
    sample: TreeSample,
    last: Option<Instant>,
}

impl TreeSampler {
    /// `root` itself is not part of the tree.
    pub fn new(root: i32) -> Self {
        TreeSampler { root, sample: TreeSample::default(), last: None }
    }

    /// When [`TreeSampler::look`] is due again.
    pub fn next(&self) -> Instant {
        self.last.map_or_else(Instant::now, |last| last + INTERVAL)
    }

    /// Looks once. Returns the tree's resident memory in bytes: pages that processes share count
    /// more than once.
    pub fn look(&mut self, _want_resident: bool) -> Option<u64> {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.sample.longest_interval = self.sample.longest_interval.max(now - last);
        }
        self.look_at_each()
    }

    #[cfg(target_os = "macos")]
    fn look_at_each(&mut self) -> Option<u64> {
        let found = crate::process::below(self.root, crate::account::children);
        let seen: Vec<_> = found.into_iter().filter_map(crate::account::memory).collect();
        self.sample.looks += 1;
        let footprint_bytes = seen.iter().map(|memory| memory.footprint_bytes).sum();
        self.sample.note(seen.len() as u64, footprint_bytes);
        (!seen.is_empty()).then(|| seen.iter().map(|memory| memory.resident_bytes).sum())
    }

    #[cfg(not(target_os = "macos"))]
    fn look_at_each(&mut self) -> Option<u64> {
        None
    }

    /// A process was waited for.
    pub fn ended(&mut self, ended: &Ended) {
        self.sample.footprint_bytes = self.sample.footprint_bytes.max(ended.footprint_bytes);
    }

    /// Nobody tells it of processes that run.
    pub fn running_cpu_s(&self) -> Option<f64> {
        None
    }

    /// The result of all samples and ended processes together.
    pub fn finish(self) -> TreeSample {
        self.sample
    }
}
