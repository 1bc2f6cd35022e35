//! The first layer: 784 inputs, of which most are zero.

use super::batch::GROUP;
use crate::simd::{Kernel, Simd};
use mnist::PIXELS;

/// A group of samples: its pixels, and a value per sample and hidden unit of a tile.
#[derive(Clone, Copy)]
pub(super) struct Samples {
    pub pixels: *const u8, // (784, GROUP)
    pub values: *mut f32,  // (vector, GROUP, lanes)
}

/// One pass over a tile's weights: `weights += pixels^T update.values`, and then
/// `forward.values += pixels weights`, either of which may be absent.
pub(super) struct Pass {
    pub weights: *mut f32, // (784, vector, lanes)
    pub vectors: usize,
    pub update: Option<Samples>,
    pub forward: Option<Samples>,
}

impl Pass {
    /// # Safety
    /// All pointers must be good for what their shapes say, and nobody else touches the weights
    /// and the values.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, simd: S) {
        match self.vectors {
            1 => simd.enter(Tile::<1>(self)),
            2 => simd.enter(Tile::<2>(self)),
            3 => simd.enter(Tile::<3>(self)),
            4 => simd.enter(Tile::<4>(self)),
            5 => simd.enter(Tile::<5>(self)),
            6 => simd.enter(Tile::<6>(self)),
            7 => simd.enter(Tile::<7>(self)),
            8 => simd.enter(Tile::<8>(self)),
            other => unreachable!("a tile of {other} vectors"),
        }
    }
}

struct Tile<const V: usize>(Pass);

impl<const V: usize> Kernel for Tile<V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Pass { weights, update, forward, .. } = self.0;
        // SAFETY: as `Pass::run` demands.
        unsafe {
            match (update, forward) {
                (Some(update), Some(forward)) => {
                    pass::<S, V, true, true>(simd, weights, update, forward);
                }
                (Some(update), None) => pass::<S, V, true, false>(simd, weights, update, update),
                (None, Some(forward)) => pass::<S, V, false, true>(simd, weights, forward, forward),
                (None, None) => {}
            }
        }
    }
}

#[inline(always)]
unsafe fn pass<S: Simd, const V: usize, const UPDATE: bool, const FORWARD: bool>(
    simd: S,
    weights: *mut f32,
    update: Samples,
    forward: Samples,
) {
    let mut scratch = [0.0f32; 2 * GROUP];
    for pair in 0..PIXELS / 2 {
        // SAFETY: the caller's promise.
        unsafe {
            let update_pixels = update.pixels.add(pair * 2 * GROUP);
            let forward_pixels = forward.pixels.add(pair * 2 * GROUP);
            let update_bits = if UPDATE { active(simd, update_pixels) } else { 0 };
            let forward_bits = if FORWARD { active(simd, forward_pixels) } else { 0 };
            if update_bits | forward_bits == 0 {
                continue;
            }
            let row = weights.add(pair * 2 * V * S::LANES);
            let mut w0 = [simd.splat(0.0); V];
            let mut w1 = [simd.splat(0.0); V];
            if UPDATE && update_bits != 0 {
                widen(simd, update_pixels, &mut scratch);
                let mut bits = update_bits;
                while bits != 0 {
                    let sample = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let x0 = simd.splat(*scratch.as_ptr().add(sample));
                    let x1 = simd.splat(*scratch.as_ptr().add(GROUP + sample));
                    let values = update.values.add(sample * S::LANES);
                    for j in 0..V {
                        let value = simd.load(values.add(j * GROUP * S::LANES));
                        w0[j] = simd.fma(x0, value, w0[j]);
                        w1[j] = simd.fma(x1, value, w1[j]);
                    }
                }
                for j in 0..V {
                    w0[j] = simd.add(simd.load(row.add(j * S::LANES)), w0[j]);
                    w1[j] = simd.add(simd.load(row.add((V + j) * S::LANES)), w1[j]);
                    simd.store(row.add(j * S::LANES), w0[j]);
                    simd.store(row.add((V + j) * S::LANES), w1[j]);
                }
            } else {
                for j in 0..V {
                    w0[j] = simd.load(row.add(j * S::LANES));
                    w1[j] = simd.load(row.add((V + j) * S::LANES));
                }
            }
            if FORWARD && forward_bits != 0 {
                widen(simd, forward_pixels, &mut scratch);
                let mut bits = forward_bits;
                while bits != 0 {
                    let sample = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let x0 = simd.splat(*scratch.as_ptr().add(sample));
                    let x1 = simd.splat(*scratch.as_ptr().add(GROUP + sample));
                    let values = forward.values.add(sample * S::LANES);
                    for j in 0..V {
                        let place = values.add(j * GROUP * S::LANES);
                        let value = simd.fma(x0, w0[j], simd.load(place));
                        simd.store(place, simd.fma(x1, w1[j], value));
                    }
                }
            }
        }
    }
}

/// The samples of which a pixel of the pair is not zero.
///
/// # Safety
/// `pixels` must be readable for a pair.
#[inline(always)]
unsafe fn active<S: Simd>(simd: S, pixels: *const u8) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { simd.nonzero_bytes(pixels) | simd.nonzero_bytes(pixels.add(GROUP)) }
}

/// The pixels of a pair as floats.
///
/// # Safety
/// `pixels` must be readable for a pair.
#[inline(always)]
unsafe fn widen<S: Simd>(simd: S, pixels: *const u8, to: &mut [f32; 2 * GROUP]) {
    for i in 0..2 * GROUP / S::LANES {
        // SAFETY: the caller's promise, and 64 floats of room.
        unsafe {
            let vector = simd.load_bytes(pixels.add(i * S::LANES));
            simd.store(to.as_mut_ptr().add(i * S::LANES), vector);
        }
    }
}
