//! macOS and other Unix systems. There are no subreapers: what the kernel adds up is the main
//! process with all that it waited for. On macOS the tree is looked at as well, as far as its
//! processes still have their parents.

use super::{EventCounts, Reading, TreeSample, Waited};
use std::time::{Duration, Instant};

/// Time between two looks at the tree.
const INTERVAL: Duration = Duration::from_millis(20);

/// Sums the physical footprints of all processes below one, again and again.
#[derive(Debug)]
pub struct TreeSampler {
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
        let idle = Duration::from_secs(24 * 3600); // there is nothing to see
        let interval = if cfg!(target_os = "macos") { INTERVAL } else { idle };
        self.last.map_or_else(Instant::now, |last| last + interval)
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
        let mut found = crate::account::children(self.root);
        let mut next = 0;
        while next < found.len() {
            found.extend(crate::account::children(found[next]));
            next += 1;
        }
        let seen: Vec<_> = found.into_iter().filter_map(crate::account::memory).collect();
        self.sample.looks += 1;
        let processes = seen.len() as u64;
        self.sample.most_processes = self.sample.most_processes.max(processes);
        let footprint_bytes = seen.iter().map(|memory| memory.footprint_bytes).sum();
        if processes > 1 && footprint_bytes > self.sample.peak_bytes {
            self.sample.peak_bytes = footprint_bytes;
            self.sample.peak_processes = processes;
        }
        (processes > 0).then(|| seen.iter().map(|memory| memory.resident_bytes).sum())
    }

    #[cfg(not(target_os = "macos"))]
    fn look_at_each(&mut self) -> Option<u64> {
        None
    }

    /// A process was waited for.
    pub fn ended(&mut self, ended: &crate::account::Ended) {
        self.sample.waited.get_or_insert_with(Waited::default).note(ended);
    }

    /// What all looks and ends together have shown.
    pub fn finish(self) -> TreeSample {
        self.sample
    }
}

/// The system counts no kills for lack of memory.
#[derive(Clone, Copy, Debug)]
pub struct OomKills;

impl OomKills {
    pub fn read() -> Self {
        OomKills
    }

    pub fn evidence(self, _later: OomKills, _foreign_sigkill: bool) -> Option<String> {
        None
    }
}

/// There are no perf events.
pub(crate) struct Events;

impl Events {
    pub fn open() -> Events {
        Events
    }

    pub fn read(self) -> EventCounts {
        EventCounts::absent("this system has no perf events")
    }
}

/// There are no control groups.
pub(crate) struct Group;

impl Group {
    pub fn make() -> Group {
        Group
    }

    pub fn without(_reason: &str) -> Group {
        Group
    }

    pub fn with<T>(&mut self, start: impl FnOnce() -> T) -> T {
        start()
    }

    pub fn finish(self) -> Reading<u64> {
        Reading::absent("this system has no control groups")
    }
}
