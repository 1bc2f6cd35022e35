//! Memory for kernels: zeroed, aligned to a cache line, on huge pages where it is large, and
//! shareable between the threads of a team.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

/// A cache line, and the widest vector.
const LINE: usize = 64;
/// A large buffer lies on whole pages of this size where the system grants them: a core's slice of
/// the weights fills its L2, which is indexed by physical address, and scattered 4 KiB pages
/// collide in it. Also saves most misses of the TLB.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes from which on a buffer is large: half of a usual L2.
const LARGE: usize = 512 << 10;

/// Bytes of nothing between what threads write: a page. A CPU fetches ahead to the end of a page, also
/// lines that another core writes, which has to fetch them back.
pub const APART: usize = 4096;

/// What a kernel keeps on its stack, at the start of a cache line, so that no vector of it lies in
/// two: across the end of a page, which an array on a stack meets by chance, a store takes so long
/// that the MLP's whole first layer was a fifth slower on one thread of two.
#[repr(align(64))]
pub struct Aligned<T>(pub T);

/// A zeroed array of `T` with a fixed length, aligned to 64 bytes.
pub struct Buffer<T: Plain> {
    start: NonNull<T>,
    len: usize,
}

/// Numbers for which all zero bits are the value zero.
///
/// # Safety
/// All zero bits must be a value, and there must be nothing to drop.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: 0.0.
unsafe impl Plain for f32 {}
// SAFETY: 0.0.
unsafe impl Plain for f64 {}
// SAFETY: 0.
unsafe impl Plain for u8 {}
// SAFETY: 0.
unsafe impl Plain for u16 {}
// SAFETY: 0.
unsafe impl Plain for u32 {}

// SAFETY: it owns its plain numbers like a Box.
unsafe impl<T: Plain + Send> Send for Buffer<T> {}
// SAFETY: as a Box: shared references only read.
unsafe impl<T: Plain + Sync> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Buffer<T> {
        let Some(layout) = layout::<T>(len) else {
            return Buffer { start: NonNull::dangling(), len };
        };
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(raw.cast::<T>()) else { handle_alloc_error(layout) };
        // Before the first touch, which decides the size of a page.
        advise_huge_pages(raw, layout);
        // SAFETY: the layout has room for them, and zeros are values of `T`.
        unsafe { start.write_bytes(0, len) };
        Buffer { start, len }
    }

    /// A copy.
    pub fn from(values: &[T]) -> Buffer<T> {
        let mut buffer = Buffer::zeroed(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// The same memory for all members of a team.
    pub fn share(&mut self) -> Shared<'_, T> {
        Shared::new(self)
    }
}

/// `None` for nothing.
fn layout<T>(len: usize) -> Option<Layout> {
    let bytes = len.checked_mul(size_of::<T>()).expect("a length in memory");
    let (size, align) =
        if bytes >= LARGE { (bytes.next_multiple_of(HUGE_PAGE), HUGE_PAGE) } else { (bytes, LINE) };
    (bytes > 0).then(|| Layout::from_size_align(size, align).expect("a size in memory"))
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(start: *mut u8, layout: Layout) {
    if layout.align() == HUGE_PAGE {
        // SAFETY: the range is this allocation. The advice changes no contents, and a refusal
        // changes nothing.
        let _ = unsafe {
            rustix::mm::madvise(start.cast(), layout.size(), rustix::mm::Advice::LinuxHugepage)
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: *mut u8, _: Layout) {}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(layout) = layout::<T>(self.len) {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised numbers, owned by this buffer.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// A buffer that several threads use at once. Who may touch what when is the kernels' business:
/// disjoint parts, or a barrier in between.
pub struct Shared<'buffer, T> {
    start: NonNull<T>,
    len: usize,
    borrowed: std::marker::PhantomData<&'buffer mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}

// SAFETY: only its unsafe methods give access, and their callers see to the races.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'buffer, T> Shared<'buffer, T> {
    /// The same slice for all members of a team.
    pub fn new(slice: &'buffer mut [T]) -> Shared<'buffer, T> {
        let len = slice.len();
        Shared { start: NonNull::from(slice).cast(), len, borrowed: std::marker::PhantomData }
    }

    /// The first element; for kernels that do their own arithmetic.
    pub fn as_ptr(self) -> *mut T {
        self.start.as_ptr()
    }

    /// A part, to write.
    ///
    /// # Safety
    /// No other thread touches the part while the slice lives.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // a copy of a pointer: the contract is the caller's
    pub unsafe fn slice_mut(self, range: Range<usize>) -> &'buffer mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part of the buffer");
        // SAFETY: in bounds, initialised, and nobody else's, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(range.start), range.len()) }
    }

    /// A part, to read.
    ///
    /// # Safety
    /// No thread writes to the part while the slice lives.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    #[inline(always)]
    pub unsafe fn slice(self, range: Range<usize>) -> &'buffer [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part of the buffer");
        // SAFETY: in bounds, initialised, and not written to, says the caller.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned_and_may_be_empty() {
        for len in [0, 1, 17, 1 << 20] {
            let mut buffer = Buffer::<f32>::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&value| value == 0.0));
            if len > 0 {
                assert_eq!(buffer.as_ptr().addr() % LINE, 0);
                buffer[len - 1] = 1.0;
                // SAFETY: nobody else has it.
                let last = unsafe { buffer.share().slice(len - 1..len) };
                assert_eq!(last, [1.0]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "a part of the buffer")]
    fn parts_outside_the_buffer_are_refused() {
        // SAFETY: nobody else has it.
        unsafe { Buffer::<u8>::zeroed(3).share().slice(2..4) };
    }
}
