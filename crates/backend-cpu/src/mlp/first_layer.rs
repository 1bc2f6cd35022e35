//! The first layer: 784 inputs, of which most are zero on MNIST.
//!
//! Two ways, which give the same sums in the same order and so the same bits (a zero adds nothing):
//!
//! - *Sparse*: pairs of neighbouring pixels, each with the samples for which one of the two is not
//!   zero. The pair's weights stay in registers for a whole tile of hidden units. On MNIST that is
//!   169 of 784 pixels for each sample (144 are not zero), a fifth of the dense work.
//! - *Dense*: four neighbouring pixels with all samples and half a tile, so that a sample's value is
//!   loaded and stored once for four FMAs: no masks, no lists, no branches that depend on the data.
//!
//! Floor of the sparse way, for each vector of hidden units, pair and sample: 2 FMAs and a load in the
//! update, 2 FMAs, a load and a store forward. On MNIST with 512 hidden units and a batch of 32 that is
//! 346,000 FMAs of 16 lanes a step, 95 us at the 3.65 GHz of a Zen 4 that starts one in each cycle; the
//! whole step, with everything else in it, takes 147 us there on one thread and on two, when nothing
//! disturbs them, 76 us.

use super::batch::{GROUP, ROOM};
use super::plan::Plan;
use crate::buffer::Aligned;
use crate::simd::{Kernel, Simd};
use mnist::PIXELS;

/// A group of samples: its pixels, and a value per sample and hidden unit of a tile.
#[derive(Clone, Copy)]
pub(super) struct Samples {
    pub pixels: *const u8, // (784, GROUP), zero for absent samples
    pub values: *mut f32,  // (vector, ROOM, lanes)
    pub count: usize,
}

/// One pass over a tile's weights: `weights += pixels^T update.values`, and then
/// `forward.values += pixels weights`, either of which may be absent.
pub(super) struct Pass {
    pub weights: *mut f32, // (784, vector, lanes)
    pub vectors: usize,
    pub update: Option<Samples>,
    pub forward: Option<Samples>,
    /// The pixels of a step to come: the parts that other members turned are asked for in passing,
    /// as they take a quarter of a step to arrive from a core behind another L3.
    pub next: *const u8, // (784, GROUP)
    pub plan: Plan,
}

impl Pass {
    /// Returns how many pairs of pixels the forward samples had that were not skipped.
    ///
    /// # Safety
    /// All pointers must be good for what their shapes say, and nobody else touches the values and,
    /// if there is an update, the weights.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, simd: S) -> u64 {
        if self.plan == Plan::Dense {
            return simd.enter(Dense(self));
        }
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
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let Pass { weights, update, forward, next, .. } = self.0;
        // SAFETY: as `Pass::run` demands.
        unsafe {
            match (update, forward) {
                (Some(update), Some(forward)) => {
                    pass::<S, V, true, true>(simd, weights, update, forward, next)
                }
                (Some(update), None) => {
                    pass::<S, V, true, false>(simd, weights, update, update, next)
                }
                (None, Some(forward)) => {
                    pass::<S, V, false, true>(simd, weights, forward, forward, next)
                }
                (None, None) => 0,
            }
        }
    }
}

struct Dense(Pass);

impl Kernel for Dense {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        // Four rows of four vectors of weights, four values and four pixels, of 32 registers.
        let widest = S::REGISTERS / 8;
        let mut first = 0;
        while first < self.0.vectors {
            let width = widest.min(self.0.vectors - first);
            // SAFETY: as `Pass::run` demands.
            unsafe {
                match width {
                    1 => self.columns::<S, 1>(simd, first),
                    2 => self.columns::<S, 2>(simd, first),
                    3 => self.columns::<S, 3>(simd, first),
                    4 => self.columns::<S, 4>(simd, first),
                    other => unreachable!("{other} vectors at once"),
                }
            }
            first += width;
        }
        let forward = self.0.forward.map_or(0, |samples| samples.count);
        (forward * PIXELS / 2) as u64
    }
}

impl Dense {
    /// `W` vectors of the tile from `first` on.
    ///
    /// # Safety
    /// As [`Pass::run`].
    #[inline(always)]
    unsafe fn columns<S: Simd, const W: usize>(&self, simd: S, first: usize) {
        let Pass { weights, vectors, update, forward, .. } = self.0;
        let row_len = vectors * S::LANES;
        let weights = weights.wrapping_add(first * S::LANES);
        let part = |samples: Samples| Samples {
            values: samples.values.wrapping_add(first * ROOM * S::LANES),
            ..samples
        };
        // SAFETY: as `Pass::run` demands.
        unsafe {
            match (update.map(part), forward.map(part)) {
                (Some(update), Some(forward)) => {
                    dense::<S, W, true, true>(simd, weights, row_len, update, forward);
                }
                (Some(update), None) => {
                    dense::<S, W, true, false>(simd, weights, row_len, update, update);
                }
                (None, Some(forward)) => {
                    dense::<S, W, false, true>(simd, weights, row_len, forward, forward);
                }
                (None, None) => {}
            }
        }
    }
}

/// Pixels that the dense way takes at once; divides 784.
const QUAD: usize = 4;

/// `weights`: (784)(W vectors), rows `row_len` floats apart.
#[inline(always)]
unsafe fn dense<S: Simd, const W: usize, const UPDATE: bool, const FORWARD: bool>(
    simd: S,
    weights: *mut f32,
    row_len: usize,
    update: Samples,
    forward: Samples,
) {
    let zero = simd.splat(0.0);
    let mut scratch = Aligned([0.0f32; QUAD * GROUP]);
    for quad in 0..PIXELS / QUAD {
        // SAFETY: the caller's promise.
        unsafe {
            let rows = weights.add(quad * QUAD * row_len);
            let mut w = [[zero; W]; QUAD];
            if UPDATE {
                widen(simd, update.pixels.add(quad * QUAD * GROUP), &mut scratch.0);
                for sample in 0..update.count {
                    let values = update.values.add(sample * S::LANES);
                    let mut value = [zero; W];
                    for (j, value) in value.iter_mut().enumerate() {
                        *value = simd.load(values.add(j * ROOM * S::LANES));
                    }
                    for (pixel, w) in w.iter_mut().enumerate() {
                        let x = simd.splat(*scratch.0.as_ptr().add(pixel * GROUP + sample));
                        for j in 0..W {
                            w[j] = simd.fma(x, value[j], w[j]);
                        }
                    }
                }
            }
            for (pixel, w) in w.iter_mut().enumerate() {
                for (j, w) in w.iter_mut().enumerate() {
                    let place = rows.add(pixel * row_len + j * S::LANES);
                    let old = simd.load(place);
                    *w = if UPDATE { simd.add(old, *w) } else { old };
                    if UPDATE {
                        simd.store(place, *w);
                    }
                }
            }
            if FORWARD {
                widen(simd, forward.pixels.add(quad * QUAD * GROUP), &mut scratch.0);
                for sample in 0..forward.count {
                    let values = forward.values.add(sample * S::LANES);
                    let mut x = [zero; QUAD];
                    for (pixel, x) in x.iter_mut().enumerate() {
                        *x = simd.splat(*scratch.0.as_ptr().add(pixel * GROUP + sample));
                    }
                    for j in 0..W {
                        let place = values.add(j * ROOM * S::LANES);
                        let mut value = simd.load(place);
                        for (x, w) in x.iter().zip(&w) {
                            value = simd.fma(*x, w[j], value);
                        }
                        simd.store(place, value);
                    }
                }
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
    next: *const u8,
) -> u64 {
    let mut pairs = 0;
    let mut scratch = Aligned([0.0f32; 2 * GROUP]);
    for pair in 0..PIXELS / 2 {
        // SAFETY: the caller's promise.
        unsafe {
            let update_pixels = update.pixels.add(pair * 2 * GROUP);
            let forward_pixels = forward.pixels.add(pair * 2 * GROUP);
            simd.prefetch(next.wrapping_add(pair * 2 * GROUP));
            let update_bits = if UPDATE { active(simd, update_pixels) } else { 0 };
            let forward_bits = if FORWARD { active(simd, forward_pixels) } else { 0 };
            if update_bits | forward_bits == 0 {
                continue;
            }
            pairs += u64::from(forward_bits.count_ones());
            let row = weights.add(pair * 2 * V * S::LANES);
            let mut w0 = [simd.splat(0.0); V];
            let mut w1 = [simd.splat(0.0); V];
            if UPDATE && update_bits != 0 {
                widen(simd, update_pixels, &mut scratch.0);
                let mut bits = update_bits;
                while bits != 0 {
                    let sample = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let x0 = simd.splat(*scratch.0.as_ptr().add(sample));
                    let x1 = simd.splat(*scratch.0.as_ptr().add(GROUP + sample));
                    let values = update.values.add(sample * S::LANES);
                    for j in 0..V {
                        let value = simd.load(values.add(j * ROOM * S::LANES));
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
                widen(simd, forward_pixels, &mut scratch.0);
                let mut bits = forward_bits;
                while bits != 0 {
                    let sample = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let x0 = simd.splat(*scratch.0.as_ptr().add(sample));
                    let x1 = simd.splat(*scratch.0.as_ptr().add(GROUP + sample));
                    let values = forward.values.add(sample * S::LANES);
                    for j in 0..V {
                        let place = values.add(j * ROOM * S::LANES);
                        let value = simd.fma(x0, w0[j], simd.load(place));
                        simd.store(place, simd.fma(x1, w1[j], value));
                    }
                }
            }
        }
    }
    pairs
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

/// The pixels of a few rows of a group as floats.
///
/// # Safety
/// `pixels` must be readable for `N` bytes, a multiple of the lanes.
#[inline(always)]
unsafe fn widen<S: Simd, const N: usize>(simd: S, pixels: *const u8, to: &mut [f32; N]) {
    for i in 0..N / S::LANES {
        // SAFETY: the caller's promise, and as many floats of room.
        unsafe {
            let vector = simd.load_bytes(pixels.add(i * S::LANES));
            simd.store(to.as_mut_ptr().add(i * S::LANES), vector);
        }
    }
}
