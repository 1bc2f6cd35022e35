//! The last operation on the sums of a product's tile, and vectors at places of a slice.

use crate::simd::Simd;

/// What becomes of the sums of a tile. Implementations are marked `#[inline(always)]`.
pub trait Finish {
    /// Whether it needs registers of its own, constants say. Then the sums go through memory once the tile
    /// is done, which costs 2 % of it: else LLVM keeps some of them on the stack in the loop as well (12x2
    /// sums and GELU: 24 loads and stores in each step of the depth).
    const NEEDS_REGISTERS: bool = false;

    /// Takes one vector of the sums: the one with this number in this row of the result.
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32);

    /// Takes the sums of a tile, the first of which is at (`row`, `vector`).
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        vector: usize,
        sums: &[[S::F32; C]; R],
    ) {
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                self.vector(simd, row + r, vector + c, sum);
            }
        }
    }
}

/// The vector at `place`.
#[inline(always)]
pub fn load<S: Simd>(simd: S, from: &[f32], place: usize) -> S::F32 {
    assert!(place + S::LANES <= from.len());
    // SAFETY: a whole vector, see above.
    unsafe { simd.load(from.as_ptr().add(place)) }
}

/// Stores a vector at `place`.
#[inline(always)]
pub fn store<S: Simd>(simd: S, to: &mut [f32], place: usize, vector: S::F32) {
    assert!(place + S::LANES <= to.len());
    // SAFETY: a whole vector, see above.
    unsafe { simd.store(to.as_mut_ptr().add(place), vector) }
}
