//! The logits' sum over the filters: with two threads, each leaves to the other 64 bytes a sample, not
//! the 256 of four filters.

use crate::simd::{MAX_LANES, Simd};
use crate::tree;
use nn::CONV_FILTERS;
use std::ops::Range;

/// The blocks of filters of all threads.
pub type Blocks = tree::Blocks<CONV_FILTERS>;

/// The sums of the tree, as the first filter of the left side and the width of a side.
const TREE: [(usize, usize); CONV_FILTERS - 1] =
    [(0, 1), (2, 1), (4, 1), (6, 1), (0, 2), (4, 2), (0, 4)];

/// Sums the filters' parts of one sample's logits by block. `parts`: (filters of the share, 16);
/// `to` says where the sum of the block that begins at a filter belongs, (16).
#[inline(always)]
pub fn sum_parts<'to, S: Simd>(
    simd: S,
    blocks: &Blocks,
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
            if blocks.width(left) > half {
                sums[left] = simd.add(sums[left], sums[left + half]);
            }
        }
        for (filter, &sum) in sums.iter().enumerate() {
            if share.contains(&filter) && blocks.begins(filter) {
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
    simd: S,
    blocks: &Blocks,
    bias: &[f32; MAX_LANES],
    of: impl Fn(usize) -> &'sums [f32],
) -> [f32; MAX_LANES] {
    let mut logits = [0.0; MAX_LANES];
    for lane in (0..MAX_LANES).step_by(S::LANES) {
        let mut sums = [simd.splat(0.0); CONV_FILTERS];
        for (filter, to) in sums.iter_mut().enumerate() {
            if blocks.begins(filter) {
                let sum = of(filter);
                assert!(sum.len() == MAX_LANES);
                // SAFETY: sixteen elements, a multiple of the lanes.
                *to = unsafe { simd.load(sum.as_ptr().add(lane)) };
            }
        }
        for (left, half) in TREE {
            if blocks.width(left) <= half {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    fn of_threads(threads: usize) -> Blocks {
        let at = |index: usize| CONV_FILTERS * index / threads;
        Blocks::new((0..threads).map(|index| at(index)..at(index + 1)))
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
                sum_parts(simd, &blocks, &share, parts, to);
            }
            let sums = sums.into_inner();
            logits(simd, &blocks, &[0.5; MAX_LANES], |filter| &sums[filter])
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
