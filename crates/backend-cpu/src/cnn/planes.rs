//! An image as the convolution wants it: four planes of floats, in which every input of a pooled
//! row is a whole aligned vector.
//!
//! A pooled column `p` looks at the image's columns `2p - 1 ..= 2p + 2`. Plane 0 holds column
//! `2p - 1` for each `p`, plane 1 column `2p`, and so on, 14 columns in rows of [`ROW`]; columns
//! and rows off the image are zero. The lanes 14 and 15 hold what the same rule gives for columns
//! off the pooled image: who computes with them discards the results. Values are bytes, 0 to 255:
//! the factor 1/255 is in the packed weights. Reading shifted vectors from two planes instead would
//! cross a cache line with every other load.

use super::layout::{POOLED_SIDE, ROW};
use crate::buffer::Aligned;
use crate::simd::Simd;
use mnist::{PIXELS, SIDE};

/// Columns that a pooled column looks at.
pub const COLUMNS: usize = 4;
/// The image's rows with one of padding above and below.
const ROWS: usize = SIDE + 2;

/// Bytes before and after a row that go through the registers with it.
const MARGIN: usize = 2;
/// Ones but for the pooled column whose left-most input lies off the image, and the same for the
/// right-most.
static NOT_FIRST: [f32; ROW] = ones_but(0);
static NOT_LAST: [f32; ROW] = ones_but(POOLED_SIDE - 1);

const fn ones_but(column: usize) -> [f32; ROW] {
    let mut ones = [1.0; ROW];
    ones[column] = 0.0;
    ones
}

/// One image in planes.
#[repr(align(64))]
#[derive(Clone)]
pub struct Planes {
    values: [f32; ROWS * COLUMNS * ROW], // (30, 4, 16)
    /// Bit `r`: the image's row `r` is not all zero.
    rows: u32,
    seen: u32,
}

impl Planes {
    pub fn new() -> Planes {
        Planes { values: [0.0; ROWS * COLUMNS * ROW], rows: 0, seen: 0 }
    }

    /// Whether a pooled row sees a pixel that is not zero.
    #[inline(always)]
    pub fn sees(&self, pooled_row: usize) -> bool {
        self.seen >> pooled_row & 1 == 1
    }

    /// How many pooled rows see one.
    pub fn rows_seen(&self) -> u32 {
        self.seen.count_ones()
    }

    /// Makes every pooled row count as seeing something.
    pub fn see_all(&mut self) {
        self.seen = (1 << POOLED_SIDE) - 1;
    }

    /// The vector at `lane` (a multiple of the lanes) of column `column` (0 to 3) in row `row`
    /// (0 to 3) of what `pooled_row` looks at.
    #[inline(always)]
    pub fn input<S: Simd>(
        &self,
        simd: S,
        pooled_row: usize,
        row: usize,
        column: usize,
        lane: usize,
    ) -> S::F32 {
        let start = ((2 * pooled_row + row) * COLUMNS + column) * ROW + lane;
        debug_assert!(start + S::LANES <= self.values.len());
        // SAFETY: rows 0 to 3 of pooled rows 0 to 13 are 0 to 29 of 30, and a lane that is a
        // multiple of the lanes leaves a whole vector in the row.
        unsafe { simd.load(self.values.as_ptr().add(start)) }
    }

    /// Takes the planes from an image, (28, 28). Rows that are blank, and were, cost nothing.
    #[inline(always)]
    pub fn unpack<S: Simd>(&mut self, simd: S, image: &[u8]) {
        const BYTES: u32 = (1 << SIDE) - 1;
        const LAST: usize = SIDE - 1;
        assert_eq!(image.len(), PIXELS);
        let mut rows = 0;
        for row in 0..SIDE {
            // SAFETY: 32 bytes within the image: 4 of the next row, or for the last row of the one before.
            let nonzero = unsafe {
                if row < LAST {
                    simd.nonzero_bytes(image[row * SIDE..].as_ptr()) & BYTES
                } else {
                    simd.nonzero_bytes(image[PIXELS - 32..].as_ptr()) >> (32 - SIDE)
                }
            };
            rows |= u32::from(nonzero != 0) << row;
        }
        let mut blanked = self.rows & !rows;
        while blanked != 0 {
            let row = blanked.trailing_zeros() as usize;
            blanked &= blanked - 1;
            self.values[(row + 1) * COLUMNS * ROW..][..COLUMNS * ROW].fill(0.0);
        }
        let mut left = rows;
        while left != 0 {
            let row = left.trailing_zeros() as usize;
            left &= left - 1;
            if row == 0 || row == LAST {
                // Its margins lie outside of the image.
                let mut padded = Aligned([0; SIDE + 4 * MARGIN]);
                padded.0[MARGIN..][..SIDE].copy_from_slice(&image[row * SIDE..][..SIDE]);
                self.unpack_row(simd, row, &padded.0);
            } else {
                self.unpack_row(simd, row, &image[row * SIDE - MARGIN..][..SIDE + 4 * MARGIN]);
            }
        }
        self.rows = rows;
        self.seen = 0;
        for pooled_row in 0..POOLED_SIDE {
            // Of the padded rows, of which the image's first is the second.
            let looked_at = (rows << 1) >> (2 * pooled_row) & 0b1111;
            self.seen |= u32::from(looked_at != 0) << pooled_row;
        }
    }

    /// `bytes`: of the row, from [`MARGIN`] bytes before it on; what they are off the row is no
    /// matter.
    #[inline(always)]
    fn unpack_row<S: Simd>(&mut self, simd: S, row: usize, bytes: &[u8]) {
        assert!(bytes.len() == SIDE + 4 * MARGIN);
        let planes = &mut self.values[(row + 1) * COLUMNS * ROW..][..COLUMNS * ROW];
        for lane in (0..ROW).step_by(S::LANES) {
            // SAFETY: 36 bytes, of which the last load takes the last 32; planes of `ROW` elements, a
            // multiple of the lanes.
            unsafe {
                let from = bytes.as_ptr().add(2 * lane);
                let (_, before) = simd.load_byte_pairs(from);
                let (even, odd) = simd.load_byte_pairs(from.add(MARGIN));
                let (after, _) = simd.load_byte_pairs(from.add(2 * MARGIN));
                let before = simd.mul(before, simd.load(NOT_FIRST.as_ptr().add(lane)));
                let after = simd.mul(after, simd.load(NOT_LAST.as_ptr().add(lane)));
                for (column, vector) in [before, even, odd, after].into_iter().enumerate() {
                    simd.store(planes.as_mut_ptr().add(column * ROW + lane), vector);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    struct Unpack<'a>(&'a [u8], &'a mut Planes);
    impl Kernel for Unpack<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            self.1.unpack(simd, self.0);
        }
    }

    #[test]
    fn each_pooled_place_finds_its_sixteen_pixels_on_every_isa() {
        let image: Vec<u8> = (0..PIXELS).map(|i| (i * 31 % 256) as u8).collect();
        for isa in Isa::all() {
            let mut planes = Planes::new();
            isa.run(Unpack(&image, &mut planes));
            for (pooled_row, pooled_column) in
                (0..POOLED_SIDE).flat_map(|row| (0..POOLED_SIDE).map(move |column| (row, column)))
            {
                for (row, column) in (0..4).flat_map(|row| (0..4).map(move |column| (row, column)))
                {
                    let (y, x) = (2 * pooled_row + row, 2 * pooled_column + column); // + 1
                    let inside = (1..=SIDE).contains(&y) && (1..=SIDE).contains(&x);
                    let expected = if inside { image[(y - 1) * SIDE + x - 1] } else { 0 };
                    let start = ((2 * pooled_row + row) * COLUMNS + column) * ROW;
                    let actual = planes.values[start + pooled_column];
                    assert_eq!(actual, f32::from(expected), "{} at {y}, {x}", isa.name());
                }
            }
        }
    }

    #[test]
    fn a_pooled_row_sees_exactly_the_four_rows_around_it() {
        for isa in Isa::all() {
            let mut planes = Planes::new();
            for row in 0..SIDE {
                for column in [0, 13, SIDE - 1] {
                    let mut image = vec![0; PIXELS];
                    image[row * SIDE + column] = 1;
                    isa.run(Unpack(&image, &mut planes));
                    for pooled_row in 0..POOLED_SIDE {
                        let expected = (2 * pooled_row..2 * pooled_row + 4).contains(&(row + 1));
                        assert_eq!(planes.sees(pooled_row), expected, "row {row}, {pooled_row}");
                    }
                }
            }
            isa.run(Unpack(&[255; PIXELS], &mut planes));
            assert!((0..POOLED_SIDE).all(|pooled_row| planes.sees(pooled_row)));
            isa.run(Unpack(&[0; PIXELS], &mut planes));
            assert!(planes.values.iter().all(|&value| value == 0.0), "{}", isa.name());
            assert!((0..POOLED_SIDE).all(|pooled_row| !planes.sees(pooled_row)));
        }
    }
}
