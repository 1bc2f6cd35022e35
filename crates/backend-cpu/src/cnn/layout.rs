//! Sizes of what is packed, and what is packed where.

use crate::simd::MAX_LANES;
use mnist::CLASSES;

/// Rows and columns of the pooled image.
pub const POOLED_SIDE: usize = 14;
/// A row of pooled places in floats: 14 and two zeros.
pub const ROW: usize = MAX_LANES;
/// Pooled values of a filter in floats: (14, 16).
pub const FILTER_ROWS: usize = POOLED_SIDE * ROW;
/// Packed weights of a filter in the convolution: nine taps and the bias.
pub const FILTER: usize = 10;
/// Packed weights of a row in the linear layer: (10, 16).
pub const ROW_WEIGHTS: usize = CLASSES * ROW;
/// Packed weights of a filter in the linear layer: (14, 10, 16).
pub const FILTER_WEIGHTS: usize = POOLED_SIDE * ROW_WEIGHTS;
/// What a pixel's byte is divided by; the packed weights are, instead.
pub const PIXEL_SCALE: f32 = 1.0 / 255.0;

/// Where the weight of a class for place `place` of (filter, row, column) is packed.
pub fn packed_place(class: usize, place: usize) -> usize {
    let (line, column) = (place / POOLED_SIDE, place % POOLED_SIDE);
    line * ROW_WEIGHTS + class * ROW + column
}

/// A weight of a filter as packed: taps are divided by 255 in place of the pixels.
pub fn pack(tap: usize, weight: f32) -> f32 {
    if tap < FILTER - 1 { weight * PIXEL_SCALE } else { weight }
}
