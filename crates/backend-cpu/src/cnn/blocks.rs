//! The logits' sum over the filters, as a tree, so that threads exchange little of it.
//!
//! The sum is ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) at any number of threads. A thread sums what
//! of the tree lies in its own filters, one or a few blocks of it, and leaves these sums to the
//! others: with two threads 64 bytes a sample, not the 256 of four filters. Every thread sums the
//! rest for itself.

use crate::simd::{MAX_LANES, Simd};
use nn::CONV_FILTERS;
use std::ops::Range;

/// The sums of the tree, as the first filter of the left side and the width of a side.
const TREE: [(usize, usize); CONV_FILTERS - 1] =
    [(0, 1), (2, 1), (4, 1), (6, 1), (0, 2), (4, 2), (0, 4)];

/// The blocks of the tree that the threads' filters make up: for each filter the width of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks([usize; CONV_FILTERS]);

impl Blocks {
    /// The fewest blocks for each of the threads' filters.
    pub fn new(shares: impl Iterator<Item = Range<usize>>) -> Blocks {
        let mut widths = [1; CONV_FILTERS];
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

    /// Whether a block begins at a filter.
    #[inline(always)]
    fn begins(&self, filter: usize) -> bool {
        filter & (self.0[filter] - 1) == 0 // a power of two
    }

    /// Sums the filters' parts of one sample's logits by block. `parts`: (filters of the share, 16);
    /// `to` says where the sum of the block that begins at a filter belongs, (16).
    #[inline(always)]
    pub fn sum_parts<'to, S: Simd>(
        &self,
        simd: S,
        share: &Range<usize>,
        parts: &[f32],
        to: impl Fn(usize) -> &'to mut [f32],
    ) {
        assert!(parts.len() == share.len() * MAX_LANES);
        for lane in (0..MAX_LANES).step_by(S::LANES) {
            let mut sums = [simd.splat(0.0); CONV_FILTERS];
            for (filter, sum) in sums.iter_mut().enumerate() {
                if share.contains(&filter) {
                    let part = (filter - share.start) * MAX_LANES;
                    // SAFETY: sixteen elements of each filter, a multiple of the lanes.
                    *sum = unsafe { simd.load(parts.as_ptr().add(part + lane)) };
                }
            }
            for (left, half) in TREE {
                if self.0[left] > half {
                    sums[left] = simd.add(sums[left], sums[left + half]);
                }
            }
            for (filter, &sum) in sums.iter().enumerate() {
                if share.contains(&filter) && self.begins(filter) {
                    let to = to(filter);
                    assert!(to.len() == MAX_LANES);
                    // SAFETY: as above.
                    unsafe { simd.store(to.as_mut_ptr().add(lane), sum) };
                }
            }
        }
    }

    /// The logits of one sample from all blocks' sums. `of` gives the sum of the block that begins
    /// at a filter, (16).
    #[inline(always)]
    pub fn logits<'sums, S: Simd>(
        &self,
        simd: S,
        bias: &[f32; MAX_LANES],
        of: impl Fn(usize) -> &'sums [f32],
    ) -> [f32; MAX_LANES] {
        let mut logits = [0.0; MAX_LANES];
        for lane in (0..MAX_LANES).step_by(S::LANES) {
            let mut sums = [simd.splat(0.0); CONV_FILTERS];
            for (filter, to) in sums.iter_mut().enumerate() {
                if self.begins(filter) {
                    let sum = of(filter);
                    assert!(sum.len() == MAX_LANES);
                    // SAFETY: sixteen elements, a multiple of the lanes.
                    *to = unsafe { simd.load(sum.as_ptr().add(lane)) };
                }
            }
            for (left, half) in TREE {
                if self.0[left] <= half {
                    sums[left] = simd.add(sums[left], sums[left + half]);
                }
            }
            // SAFETY: as above.
            unsafe {
                let bias = simd.load(bias.as_ptr().add(lane));
                simd.store(logits.as_mut_ptr().add(lane), simd.add(bias, sums[0]));
            }
        }
        logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    fn of_threads(threads: usize) -> Blocks {
        let at = |index: usize| CONV_FILTERS * index / threads;
        Blocks::new((0..threads).map(|index| at(index)..at(index + 1)))
    }

    #[test]
    fn shares_are_cut_into_the_largest_blocks_of_the_tree() {
        assert_eq!(of_threads(1), Blocks([8; 8]));
        assert_eq!(of_threads(2), Blocks([4; 8]));
        assert_eq!(of_threads(3), Blocks([2, 2, 2, 2, 1, 1, 2, 2]));
        assert_eq!(of_threads(9), Blocks([1; 8]));
    }

    struct Sum {
        threads: usize,
        parts: Vec<f32>,
    }

    impl Kernel for Sum {
        type Output = [f32; MAX_LANES];

        fn run<S: Simd>(self, simd: S) -> [f32; MAX_LANES] {
            let blocks = of_threads(self.threads);
            let sums = std::cell::RefCell::new([[f32::NAN; MAX_LANES]; CONV_FILTERS]);
            for thread in 0..self.threads {
                let at = |index: usize| CONV_FILTERS * index / self.threads;
                let share = at(thread)..at(thread + 1);
                let parts = &self.parts[share.start * MAX_LANES..share.end * MAX_LANES];
                let to = |filter: usize| -> &mut [f32] {
                    // SAFETY: each sum is written before the next is asked for.
                    unsafe { &mut (*sums.as_ptr())[filter] }
                };
                blocks.sum_parts(simd, &share, parts, to);
            }
            let sums = sums.into_inner();
            blocks.logits(simd, &[0.5; MAX_LANES], |filter| &sums[filter])
        }
    }

    #[test]
    fn the_sum_has_the_same_bits_at_any_number_of_threads() {
        let parts: Vec<f32> = (0..CONV_FILTERS * MAX_LANES)
            .map(|i| ((i * 2_654_435_761) % 1009) as f32 / 7.0 - 70.0)
            .collect();
        let class = |class: usize| {
            let at = |filter: usize| parts[filter * MAX_LANES + class];
            0.5 + (((at(0) + at(1)) + (at(2) + at(3))) + ((at(4) + at(5)) + (at(6) + at(7))))
        };
        for isa in Isa::all() {
            for threads in 1..=9 {
                let logits = isa.run(Sum { threads, parts: parts.clone() });
                assert_eq!(logits, std::array::from_fn(class), "{} x {threads}", isa.name());
            }
        }
    }
}
