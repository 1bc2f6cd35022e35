//! The memory that the bandwidth probes pass over.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// A cache line of floats.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[cfg_attr(not(test), allow(dead_code, reason = "the kernels know only its place"))]
pub(crate) struct Line(pub [f32; 16]);

/// Bytes of a [`Line`].
pub(crate) const LINE_BYTES: usize = size_of::<Line>();

/// The alignment, and the size of a huge page where the system has them: scattered small pages
/// collide in a cache that is indexed by physical address, and cost misses of the TLB.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed lines, on huge pages where the system grants them. Pages belong to whoever touches them
/// first.
pub(crate) struct WorkingSet {
    start: NonNull<Line>,
    lines: usize,
}

impl WorkingSet {
    /// At least one line.
    pub fn zeroed(bytes: usize) -> WorkingSet {
        let lines = bytes.div_ceil(LINE_BYTES).max(1);
        let layout = layout(lines);
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(raw.cast::<Line>()) else { handle_alloc_error(layout) };
        advise_huge_pages(raw, layout.size());
        WorkingSet { start, lines }
    }

    pub fn lines_mut(&mut self) -> &mut [Line] {
        // SAFETY: so many zeroed lines, owned and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.lines) }
    }
}

fn layout(lines: usize) -> Layout {
    Layout::from_size_align(lines * LINE_BYTES, HUGE_PAGE).expect("a size in memory")
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(start: *mut u8, bytes: usize) {
    // SAFETY: the range is this allocation. The advice changes no contents, and a refusal changes
    // nothing.
    let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: *mut u8, _: usize) {}

impl Drop for WorkingSet {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), layout(self.lines)) }
    }
}
