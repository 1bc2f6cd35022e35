//! Products of whole matrices in panels by [AMX](super::amx): splits the operands into tiles, and walks
//! over the blocks of the result.

use super::amx::{self, Amx, Block, DEPTH, Parts, TILE};
use super::attention::turn_square;
use super::product::PANEL;
use crate::buffer::Buffer;
use crate::finish::Finish;
use crate::simd::{Kernel, Simd};

/// A thread's operands as tiles.
pub struct Tiled {
    pub amx: Amx,
    parts: Parts,
    left: Buffer<u16>,  // (blocks of 32 rows, depth blocks, parts, 2, 16, 16, 2)
    right: Buffer<u16>, // (panels, depth blocks, parts, 16, 16, 2)
    sums: Buffer<f32>,  // (32, 32)
}

impl Tiled {
    /// Room for products of matrices of so many rows, and as much width.
    pub fn new(amx: Amx, parts: Parts, rows: usize, width: usize) -> Tiled {
        let blocks = rows.div_ceil(DEPTH) * width.div_ceil(DEPTH);
        let elements = 2 * blocks * parts.count() * TILE;
        Tiled {
            amx,
            parts,
            left: Buffer::zeroed(elements),
            right: Buffer::zeroed(elements),
            sums: Buffer::zeroed(DEPTH * DEPTH),
        }
    }

    /// The left matrix of a product by rows: (rows, depth) in panels.
    #[inline(never)]
    pub fn split_rows(&mut self, from: &[f32], rows: usize, depth: usize) {
        let (depth_blocks, parts) = (depth.div_ceil(DEPTH), self.parts.count());
        for row in (0..rows.next_multiple_of(DEPTH)).step_by(PANEL) {
            let range = row.min(rows) * PANEL..rows.min(row + PANEL) * PANEL;
            for k in 0..depth_blocks {
                let panel = |panel: usize| match panel * PANEL < depth {
                    true => &from[panel * rows * PANEL..][range.clone()],
                    false => &[],
                };
                let block = (row / DEPTH * depth_blocks + k) * parts * 2;
                let to = &mut self.left[(block + row / PANEL % 2) * TILE..];
                self.amx.split_left(self.parts, [panel(2 * k), panel(2 * k + 1)], to, 2 * TILE);
            }
        }
    }

    /// The left matrix of a product by columns: (depth, rows) in panels, `rows` whole panels.
    #[inline(always)]
    pub fn split_columns<S: Simd>(&mut self, simd: S, from: &[f32], depth: usize, rows: usize) {
        let (depth_blocks, parts) = (depth.div_ceil(DEPTH), self.parts.count());
        let mut squares = [[0.0; PANEL * PANEL]; 2];
        for row in (0..rows.next_multiple_of(DEPTH)).step_by(PANEL) {
            for k in 0..depth_blocks {
                let block = (row / DEPTH * depth_blocks + k) * parts * 2;
                let to = &mut self.left[(block + row / PANEL % 2) * TILE..];
                if row >= rows {
                    self.amx.split_left(self.parts, [&[], &[]], to, 2 * TILE);
                    continue;
                }
                for (half, square) in squares.iter_mut().enumerate() {
                    let first = k * DEPTH + half * PANEL;
                    let lines = depth.min(first + PANEL).saturating_sub(first);
                    if lines == PANEL {
                        turn_square(simd, &from[(row / PANEL * depth + first) * PANEL..], square);
                    } else {
                        let mut whole = [0.0; PANEL * PANEL];
                        if lines > 0 {
                            let from = &from[(row / PANEL * depth + first) * PANEL..];
                            whole[..lines * PANEL].copy_from_slice(&from[..lines * PANEL]);
                        }
                        turn_square(simd, &whole, square);
                    }
                }
                let [first, second] = &squares;
                self.amx.split_left(self.parts, [first, second], to, 2 * TILE);
            }
        }
    }

    /// The right matrix of a product: (depth, columns) in panels, `columns` whole ones.
    #[inline(never)]
    pub fn split_right(&mut self, from: &[f32], depth: usize, columns: usize) {
        let (depth_blocks, parts) = (depth.div_ceil(DEPTH), self.parts.count());
        for panel in 0..columns / PANEL {
            let from = &from[panel * depth * PANEL..][..depth * PANEL];
            for (k, rows) in from.chunks(DEPTH * PANEL).enumerate() {
                let to = &mut self.right[(panel * depth_blocks + k) * parts * TILE..];
                self.amx.split_right(self.parts, rows, to);
            }
        }
    }
}

/// The product of what has been split.
pub struct Blocks<'run, T> {
    pub tiled: &'run mut Tiled,
    /// Tiles of a weight; else those of the last [`Tiled::split_right`].
    pub right: Option<&'run [u16]>,
    /// Rows and panels of the result, and the depth.
    pub size: (usize, usize, usize),
    pub finish: &'run mut T,
}

impl<T: Finish> Kernel for Blocks<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert!(S::LANES == PANEL); // the others need not be compiled further
        let Blocks { tiled, right, size: (rows, panels, depth), finish } = self;
        let Tiled { amx, parts, left, right: own, sums } = tiled;
        let right = right.unwrap_or(own);
        let depth_blocks = depth.div_ceil(DEPTH);
        let one = depth_blocks * parts.count() * TILE;
        for panel in (0..panels).step_by(2) {
            let there = 2.min(panels - panel);
            let second = panel + there - 1;
            // Weights come from the third-level cache: the next panels' while these are multiplied.
            let next = right.as_ptr().wrapping_add((panel + 2) * one);
            let right = [&right[panel * one..], &right[second * one..]];
            for row in (0..rows).step_by(DEPTH) {
                let left = &left[row / DEPTH * 2 * one..];
                let rows = DEPTH.min(rows - row);
                let ahead = next.wrapping_add(row / DEPTH * depth_blocks * parts.ahead());
                amx.multiply(*parts, Block { left, right, depth_blocks, ahead }, sums);
                amx::finish(simd, (row, rows), (panel, there), sums, finish);
            }
        }
    }
}
