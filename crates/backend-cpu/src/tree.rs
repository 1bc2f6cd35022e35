//! Sums as a binary tree, so that threads exchange little of what they sum.
//!
//! The sum of eight is ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) at any number of threads, and that
//! of fewer the same without those that are missing. A thread sums what of the tree lies in its own
//! share, one or a few *blocks*, and leaves only these sums to the others.

use std::ops::Range;

/// The blocks of a tree over at most `N` that the threads' shares make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks<const N: usize> {
    /// Leaves.
    count: usize,
    /// For each leaf the width of its block, a power of two.
    widths: [usize; N],
}

impl<const N: usize> Blocks<N> {
    /// The fewest blocks for each share.
    ///
    /// # Panics
    /// If a share goes beyond `N`.
    pub fn new(shares: impl Iterator<Item = Range<usize>>) -> Blocks<N> {
        let (mut count, mut widths) = (0, [1; N]);
        for share in shares {
            let mut start = share.start;
            count = share.end;
            while start < share.end {
                let mut width = 1;
                while start.is_multiple_of(2 * width) && start + 2 * width <= share.end {
                    width *= 2;
                }
                widths[start..start + width].fill(width);
                start += width;
            }
        }
        Blocks { count, widths }
    }

    /// The first leaves of the blocks in a share.
    #[inline(always)]
    pub fn starts(&self, share: Range<usize>) -> impl Iterator<Item = usize> {
        share.filter(|&leaf| self.begins(leaf))
    }

    /// What is to be added when all blocks are summed, in order: to the first, the second.
    #[inline(always)]
    pub fn rest(&self) -> impl Iterator<Item = (usize, usize)> {
        let halves = (0..usize::BITS).map(|bit| 1 << bit).take_while(|&half| half < self.count);
        halves.flat_map(move |half| {
            let lefts = (0..self.count - half).step_by(2 * half);
            let rest = lefts.filter(move |&left| self.widths[left] <= half);
            rest.map(move |left| (left, left + half))
        })
    }

    /// The width of the block of a leaf.
    #[inline(always)]
    pub fn width(&self, leaf: usize) -> usize {
        self.widths[leaf]
    }

    /// Whether a block begins at a leaf.
    #[inline(always)]
    pub fn begins(&self, leaf: usize) -> bool {
        leaf & (self.widths[leaf] - 1) == 0 // a power of two
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
        assert_eq!(of_threads(1).widths, [8; 8]);
        assert_eq!(of_threads(2).widths, [4; 8]);
        assert_eq!(of_threads(3).widths, [2, 2, 2, 2, 1, 1, 2, 2]);
        assert_eq!(of_threads(9).widths, [1; 8]);
        assert!(of_threads(1).rest().eq([]));
        assert!(of_threads(2).rest().eq([(0, 4)]));
        assert!(of_threads(3).rest().eq([(4, 5), (0, 2), (4, 6), (0, 4)]));
    }

    #[test]
    fn of_fewer_the_tree_is_the_same_without_those_that_are_missing() {
        let alone = Blocks::<8>::new(std::iter::once(0..7));
        assert_eq!(alone.widths, [4, 4, 4, 4, 2, 2, 1, 1]);
        assert!(alone.rest().eq([(4, 6), (0, 4)]));
        assert!(Blocks::<8>::new([0..1, 1..3].into_iter()).rest().eq([(0, 1), (0, 2)]));
    }

    #[test]
    fn a_block_begins_where_its_width_divides() {
        let blocks = Blocks::<8>::new([0..3, 3..7].into_iter());
        assert_eq!(blocks.widths, [2, 2, 1, 1, 2, 2, 1, 1]);
        assert!(blocks.starts(0..7).eq([0, 2, 3, 4, 6]));
    }
}
