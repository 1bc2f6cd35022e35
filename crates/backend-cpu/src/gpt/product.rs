//! Matrix products in register tiles, on matrices that lie in panels.
//!
//! Every matrix of the model (activations, gradients, weights) lies in *panels* of [`PANEL`] columns:
//! `(columns / 16, rows, 16)`, the columns padded with zeros to whole panels. A panel's row is a cache
//! line, and all rows of it follow each other, so that each of the three products of a linear layer
//! reads its operands as they lie, one line after the other, and nothing is packed in between:
//!
//! ```text
//! y  = x w        left x by rows,      right w    (in, out)
//! dx = dy w^T     left dy by rows,     right w^T  (out, in), which the optimiser keeps as well
//! dw = x^T dy     left x by columns,   right dy   (tokens, out)
//! ```
//!
//! With plain rows, a tile of `x^T dy` would walk down columns whose lines are 2 KiB apart and meet in
//! a few sets of L1. A tile of `R` rows by `C` vectors of the result stays in registers while the depth
//! is walked: each step loads `C` vectors of the right matrix and broadcasts `R` elements of the left
//! one. An element is summed in the order of the depth whatever the tile, so that its bits do not
//! depend on the shape of tiles or on who computes which rows.
//!
//! What becomes of a finished tile is the caller's: see `Finish`.

use crate::finish::{Finish, load, store};
use crate::simd::{Kernel, MAX_LANES, Simd};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

/// Columns of a panel: a cache line of floats, and the widest vector.
pub const PANEL: usize = MAX_LANES;

/// `columns` padded to whole panels.
pub const fn padded(columns: usize) -> usize {
    columns.next_multiple_of(PANEL)
}

/// A matrix in panels, to read.
#[derive(Clone, Copy)]
pub struct Matrix<'data> {
    /// (panels, rows, 16); the last panel may lack rows that are not read.
    pub data: &'data [f32],
    pub rows: usize,
}

/// Which way the left matrix is read.
pub trait Left {
    /// From one row of the product to the next within a panel.
    const ROW: usize;
    /// From one step of the depth to the next within a panel.
    const DEPTH: usize;
}

/// Element (row, k) of the product's left matrix is element (row, k) of what lies there.
pub struct ByRows;
/// It is element (k, row): what lies there is transposed.
pub struct ByColumns;

impl Left for ByRows {
    const ROW: usize = PANEL;
    const DEPTH: usize = 1;
}

impl Left for ByColumns {
    const ROW: usize = 1;
    const DEPTH: usize = PANEL;
}

/// Where a vector of a row lies in a matrix in panels of so many rows.
#[inline(always)]
pub fn place<S: Simd>(rows: usize, row: usize, vector: usize) -> usize {
    let each = PANEL / S::LANES;
    (vector / each * rows + row) * PANEL + vector % each * S::LANES
}

/// A product to compute: these rows and panels of it, summed over this depth.
#[derive(Clone)]
pub struct Product<'data> {
    pub left: Matrix<'data>,
    pub right: Matrix<'data>,
    /// Of a left matrix by columns, they begin at a multiple of 8.
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    /// Of a left matrix by rows, it begins with a whole panel.
    pub depth: Range<usize>,
}

impl Product<'_> {
    /// # Panics
    /// If an operand does not have the elements that it should.
    #[inline(always)]
    fn check<L: Left>(&self) {
        let Product { left, right, rows, panels, depth } = self;
        if rows.is_empty() || panels.is_empty() || depth.is_empty() {
            return;
        }
        let last_right = ((panels.end - 1) * right.rows + depth.end) * PANEL;
        let (lines, across) = if L::DEPTH == 1 { (rows, depth) } else { (depth, rows) };
        let last_left = ((across.end - 1) / PANEL * left.rows + lines.end) * PANEL;
        assert!(depth.end <= right.rows && last_right <= right.data.len());
        assert!(lines.end <= left.rows && last_left <= left.data.len());
        let step = if L::DEPTH == 1 { PANEL } else { 8 };
        assert!(across.start.is_multiple_of(step));
    }
}

/// Computes a product with the tile that suits the instruction set. Each kind of product with each
/// `Finish` is one function, which all its callers share: they are large.
///
/// Measured on a Xeon with AVX-512, operands in L2, GFLOP/s of one core whose multiply-adds alone reach
/// 223: by rows 12x2 192, 14x2 190, 6x4 188, 8x2 186, 8x3 181 to 196, 4x4 171, 16x1 167; by columns,
/// where the rows divide a panel, 8x3 184 to 197, 8x2 182, 4x4 174.
///
/// # Panics
/// If an operand does not have the elements that it should.
#[inline(always)]
pub fn product<S: Simd, L: Left>(simd: S, product: Product<'_>, finish: &mut impl Finish) {
    simd.enter(Whole { product, finish, by: PhantomData::<L> });
}

struct Whole<'run, 'data, L, T> {
    product: Product<'data>,
    finish: &'run mut T,
    by: PhantomData<L>,
}

impl<L: Left, T: Finish> Kernel for Whole<'_, '_, L, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Whole { product, finish, .. } = self;
        if S::LANES == PANEL && L::DEPTH == 1 {
            tiles::<S, L, 12, 2>(simd, &product, finish);
        } else if S::LANES == PANEL {
            tiles::<S, L, 8, 3>(simd, &product, finish);
        } else if S::REGISTERS >= 32 {
            tiles::<S, L, 4, 4>(simd, &product, finish);
        } else if S::REGISTERS >= 16 {
            tiles::<S, L, 4, 2>(simd, &product, finish);
        } else {
            tiles::<S, L, 2, 2>(simd, &product, finish);
        }
    }
}

/// Computes a product in tiles of `R` rows and `C` vectors.
///
/// # Panics
/// If an operand does not have the elements that it should.
#[inline(always)]
fn tiles<S: Simd, L: Left, const R: usize, const C: usize>(
    simd: S,
    product: &Product<'_>,
    finish: &mut impl Finish,
) {
    product.check::<L>();
    let each = PANEL / S::LANES;
    let (mut vector, last) = (product.panels.start * each, product.panels.end * each);
    // SAFETY: checked above, and every strip lies within the panels.
    unsafe {
        while vector + C <= last {
            strip::<S, L, R, C>(simd, product, vector, finish);
            vector += C;
        }
        if C == 3 && vector + 2 <= last {
            strip::<S, L, R, 2>(simd, product, vector, finish);
            vector += 2;
        }
        while C != each && vector < last {
            strip::<S, L, R, 1>(simd, product, vector, finish);
            vector += 1;
        }
    }
}

/// All rows of `C` vectors of the result.
///
/// # Safety
/// [`Product::check`] has passed, and the vectors are within the panels.
#[inline(always)]
unsafe fn strip<S: Simd, L: Left, const R: usize, const C: usize>(
    simd: S,
    product: &Product<'_>,
    vector: usize,
    finish: &mut impl Finish,
) {
    let Range { start: mut row, end } = product.rows.clone();
    // SAFETY: within the rows.
    unsafe {
        while row + R <= end {
            tile::<S, L, _, R, C>(simd, product, row, vector, finish);
            row += R;
        }
        while R > 4 && row + 4 <= end {
            tile::<S, L, _, 4, C>(simd, product, row, vector, finish);
            row += 4;
        }
        if R > 2 && row + 2 <= end {
            tile::<S, L, _, 2, C>(simd, product, row, vector, finish);
            row += 2;
        }
        while row < end {
            tile::<S, L, _, 1, C>(simd, product, row, vector, finish);
            row += 1;
        }
    }
}

/// One tile.
///
/// # Safety
/// [`Product::check`] has passed, and the tile lies within rows and panels.
#[inline(always)]
unsafe fn tile<S: Simd, L: Left, T: Finish, const R: usize, const C: usize>(
    simd: S,
    product: &Product<'_>,
    row: usize,
    vector: usize,
    finish: &mut T,
) {
    let Product { left, right, depth, .. } = product;
    let mut sums = [[simd.splat(0.0); C]; R];
    // SAFETY: the operands have the elements of these rows and columns, says the caller. Pointers
    // are past the end after the last round only, and not used then.
    unsafe {
        let mut from = [std::ptr::null(); C];
        for (c, from) in from.iter_mut().enumerate() {
            *from = right.data.as_ptr().add(place::<S>(right.rows, depth.start, vector + c));
        }
        let (mut at, next) = if L::DEPTH == 1 {
            let panel = depth.start / PANEL * left.rows;
            (left.data.as_ptr().add((panel + row) * PANEL), left.rows * PANEL)
        } else {
            let panel = row / PANEL * left.rows;
            (left.data.as_ptr().add((panel + depth.start) * PANEL + row % PANEL), PANEL * PANEL)
        };
        for _ in 0..depth.len() / PANEL {
            for k in 0..PANEL {
                // Of a depth of 512 the panels do not stay in L1: 10 % of such a product, 1 % of a step.
                for from in from.iter().step_by(PANEL / S::LANES) {
                    simd.prefetch(from.wrapping_add((PANEL + k) * PANEL).cast());
                }
                step::<S, L, R, C>(simd, at, &from, k, &mut sums);
            }
            at = at.wrapping_add(next);
            for from in &mut from {
                *from = from.wrapping_add(PANEL * PANEL);
            }
        }
        for k in 0..depth.len() % PANEL {
            step::<S, L, R, C>(simd, at, &from, k, &mut sums);
        }
    }
    if T::NEEDS_REGISTERS {
        let copy = sums; // not the sums themselves: those stay in registers
        finish.tile(simd, row, vector, black_box(&copy));
    } else {
        finish.tile(simd, row, vector, &sums);
    }
}

/// Adds one step of the depth, the `k`-th from where the pointers are.
///
/// # Safety
/// The elements of this step are there.
#[inline(always)]
unsafe fn step<S: Simd, L: Left, const R: usize, const C: usize>(
    simd: S,
    left: *const f32,
    right: &[*const f32; C],
    k: usize,
    sums: &mut [[S::F32; C]; R],
) {
    // SAFETY: says the caller.
    unsafe {
        let mut vectors = [simd.splat(0.0); C];
        for (vector, right) in vectors.iter_mut().zip(right) {
            *vector = simd.load(right.add(k * PANEL));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let factor = simd.splat(*left.add(r * L::ROW + k * L::DEPTH));
            for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                *sum = simd.fma(factor, vector, *sum);
            }
        }
    }
}

/// Writes the result to a matrix of `rows` rows.
pub struct Write<'data> {
    pub to: &'data mut [f32],
    pub rows: usize,
}

impl Finish for Write<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        store(simd, self.to, place::<S>(self.rows, row, vector), sum);
    }
}

/// Adds the result to what is there.
pub struct Add<'data> {
    pub to: &'data mut [f32],
    pub rows: usize,
}

impl Finish for Add<'_> {
    const NEEDS_REGISTERS: bool = true;

    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = place::<S>(self.rows, row, vector);
        store(simd, self.to, place, simd.add(load(simd, self.to, place), sum));
    }
}
