//! Groups of images, turned so that a kernel finds one pixel of all samples side by side.

use crate::simd::Simd;
use mnist::{PIXELS, Split};

/// Samples that a kernel sees at once: the bits of a mask.
pub(super) const GROUP: usize = 32;
/// Samples that a vector of hidden units has room for. Not 32: a sample's values in every second
/// vector would lie 4 KiB apart, and a load waits for a store before it whose address has the same
/// low twelve bits, which took a tenth to a fifth of the training on Zen 4 with AVX-512.
pub(super) const ROOM: usize = GROUP + 2;
/// Pixels that are turned at once.
const SQUARE: usize = 16;
/// Squares of an image: what members of a team share out.
pub(super) const SQUARES: usize = PIXELS / SQUARE;
/// Bytes of a group: pixels (784, GROUP), then labels (GROUP), then padding to whole cache lines.
pub(super) const GROUP_BYTES: usize = PIXELS * GROUP + 64;
/// Where a group's labels begin.
pub(super) const LABELS: usize = PIXELS * GROUP;
/// The label of a sample that is not there.
pub(super) const NO_SAMPLE: u8 = 255;

/// An image for samples that are not there.
static BLANK: [u8; PIXELS] = [0; PIXELS];

/// Writes the pixels of `squares` of the images that `samples` names into `group`; absent ones
/// become blank. `images`: (count, 784).
///
/// # Safety
/// `group` must be writable for [`GROUP_BYTES`], and nobody else touches these squares of it.
#[inline(always)]
pub(super) unsafe fn turn<S: Simd>(
    simd: S,
    images: &[u8],
    samples: impl Iterator<Item = usize>,
    squares: std::ops::Range<usize>,
    group: *mut u8,
) {
    let mut rows = [BLANK.as_ptr(); GROUP];
    for (row, sample) in rows.iter_mut().zip(samples) {
        *row = images[sample * PIXELS..][..PIXELS].as_ptr();
    }
    for square in squares {
        let pixel = square * SQUARE;
        // SAFETY: rows have 784 pixels, the group has as many times 32.
        unsafe { simd.transpose_bytes(&rows, pixel, group.add(pixel * GROUP)) };
    }
}

/// Writes the labels of `samples` into `group`; absent ones become [`NO_SAMPLE`].
///
/// # Safety
/// `group` must be writable for [`GROUP_BYTES`], and nobody else touches its labels.
#[inline(always)]
pub(super) unsafe fn label(labels: &[u8], samples: &[u32], group: *mut u8) {
    let mut row = [NO_SAMPLE; GROUP];
    for (label, &sample) in row.iter_mut().zip(samples) {
        *label = labels[sample as usize];
    }
    // SAFETY: within the group.
    unsafe { group.add(LABELS).cast::<[u8; GROUP]>().write_unaligned(row) };
}

/// Asks for the images that `samples` names, as far as `squares` cover them: shuffled images come
/// from main memory, whose latency is ten microseconds for a batch when it is waited for.
#[inline(always)]
pub(super) fn prefetch<S: Simd>(
    simd: S,
    data: &Split,
    samples: &[u32],
    squares: std::ops::Range<usize>,
) {
    for &sample in samples {
        let image = data.images()[sample as usize * PIXELS..][..PIXELS].as_ptr();
        let mut pixel = squares.start * SQUARE;
        while pixel < squares.end * SQUARE {
            simd.prefetch(image.wrapping_add(pixel));
            pixel += 64;
        }
    }
}
