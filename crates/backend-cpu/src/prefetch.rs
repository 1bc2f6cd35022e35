//! Images in random order come from memory: each is asked for while one before it is computed.

use crate::simd::Simd;
use mnist::PIXELS;

const LINE: usize = 64;

/// Asks for the cache lines of an image. `images`: (count, 28, 28).
#[inline(always)]
pub fn prefetch_image<S: Simd>(simd: S, images: &[u8], index: u32) {
    let image = &images[index as usize * PIXELS..][..PIXELS];
    for place in (0..PIXELS).step_by(LINE) {
        simd.prefetch(image[place..].as_ptr());
    }
    simd.prefetch(image[PIXELS - 1..].as_ptr());
}
