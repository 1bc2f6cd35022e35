//! Sums as a binary tree, so that threads exchange little of what they sum.
//!
//! The sum of eight is ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) at any number of threads, and that
//! of fewer the same without those that are missing. A thread sums what of the tree lies in its own
//! share, one or a few *blocks*, and leaves only these sums to the others.

use std::ops::Range;

/// The blocks of a tree over at most `N` that the threads' shares make up: for each leaf the width
/// of its block, a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks<const N: usize>([usize; N]);

impl<const N: usize> Blocks<N> {
    /// The fewest blocks for each share.
    ///
    /// # Panics
    /// If a share goes beyond `N`.
    pub fn new(shares: impl Iterator<Item = Range<usize>>) -> Blocks<N> {
        let mut widths = [1; N];
        for share in shares {
            let mut start = share.start;
            while start < share.end {
                let mut width = 1;
                while start.is_multiple_of(2 * width) && start + 2 * width <= share.end {
                    width *= 2;
                }
                widths[start..start + width].fill(width);
                start += width;
            }
        }
        Blocks(widths)
    }

    /// The width of the block of a leaf.
    #[inline(always)]
    pub fn width(&self, leaf: usize) -> usize {
        self.0[leaf]
    }

    /// Whether a block begins at a leaf.
    #[inline(always)]
    pub fn begins(&self, leaf: usize) -> bool {
        leaf & (self.0[leaf] - 1) == 0 // a power of two
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cut_into_the_largest_blocks_of_the_tree() {
        let of_threads = |threads: usize| {
            let at = move |index: usize| 8 * index / threads;
            Blocks::<8>::new((0..threads).map(|index| at(index)..at(index + 1)))
        };
        assert_eq!(of_threads(1), Blocks([8; 8]));
        assert_eq!(of_threads(2), Blocks([4; 8]));
        assert_eq!(of_threads(3), Blocks([2, 2, 2, 2, 1, 1, 2, 2]));
        assert_eq!(of_threads(9), Blocks([1; 8]));
    }

    #[test]
    fn a_block_begins_where_its_width_divides() {
        let blocks = Blocks::<8>::new([0..3, 3..7].into_iter());
        assert_eq!(blocks, Blocks([2, 2, 1, 1, 2, 2, 1, 1]));
        let begins: Vec<usize> = (0..8).filter(|&leaf| blocks.begins(leaf)).collect();
        assert_eq!(begins, [0, 2, 3, 4, 6, 7]);
    }
}
