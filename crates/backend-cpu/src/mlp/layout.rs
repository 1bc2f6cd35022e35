//! Where everything lies: how the hidden units are cut into vectors, blocks, tiles and shares.
//!
//! - A *vector* is as many hidden units as the instruction set has lanes; the last is padded with
//!   units whose weights are and stay zero.
//! - A *block* is a range of vectors whose part of the logits is summed on its own. Blocks depend
//!   on the sizes alone and their sums are added in order: that makes results equal at any number
//!   of threads.
//! - A *share* is the contiguous blocks of one member of the team.
//! - A *tile* is the vectors of a share that a kernel holds in registers at once.

use super::{GROUP, batch::ROOM};
use mnist::{CLASSES, PIXELS};
use std::ops::Range;

/// Blocks are made smaller rather than that there be fewer than this, so that small layers can be
/// shared too; more would cost a horizontal sum per block, logit and sample for nothing.
const FEWEST_BLOCKS: usize = 8;
/// No more blocks than this: each member adds up the logits of all.
const MOST_BLOCKS: usize = 64;
/// Vectors in a block between these bounds.
const BLOCK_VECTORS: usize = 4;

/// Floats of nothing between what members write: 3 % of a step.
const APART: usize = crate::buffer::APART / size_of::<f32>();

/// Vectors of one member that are computed together, at most `widest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub vectors: Range<usize>,
}

/// The sizes of a session.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub hidden: usize,
    pub lanes: usize,
    /// Vectors of hidden units.
    pub vectors: usize,
    /// Blocks of vectors.
    pub blocks: usize,
    /// Groups of [`GROUP`] samples in a full batch.
    pub groups: usize,
    /// The tiles of each member, in order.
    pub tiles: Vec<Vec<Tile>>,
}

impl Layout {
    /// For a batch size, a team, and an instruction set's lanes and widest tile.
    pub fn new(
        hidden: usize,
        batch_size: usize,
        threads: usize,
        lanes: usize,
        widest: usize,
    ) -> Layout {
        let vectors = hidden.div_ceil(lanes);
        let blocks =
            (vectors / BLOCK_VECTORS).clamp(vectors.min(FEWEST_BLOCKS), MOST_BLOCKS.max(1));
        let mut layout = Layout {
            hidden,
            lanes,
            vectors,
            blocks,
            groups: batch_size.div_ceil(GROUP),
            tiles: Vec::new(),
        };
        layout.tiles = (0..threads)
            .map(|index| {
                let share = share(vectors, blocks, threads, index);
                let (start, count) = (share.start, share.len());
                let tiles = count.div_ceil(widest);
                (0..tiles)
                    .map(|tile| Tile {
                        vectors: start + count * tile / tiles..start + count * (tile + 1) / tiles,
                    })
                    .collect()
            })
            .collect();
        layout
    }

    /// The vectors of a block.
    pub fn block(&self, block: usize) -> Range<usize> {
        self.vectors * block / self.blocks..self.vectors * (block + 1) / self.blocks
    }

    /// Floats of `fc1.weight`: (tile)(pixel, tile's units).
    pub fn w1_len(&self) -> usize {
        self.vectors * self.lanes * PIXELS
    }

    /// Where a tile's weights begin.
    pub fn w1_offset(&self, tile: &Tile) -> usize {
        tile.vectors.start * self.lanes * PIXELS
    }

    /// Floats of `fc2.weight`: (vector, 10, lanes).
    pub fn w2_len(&self) -> usize {
        self.vectors * CLASSES * self.lanes
    }

    /// The vectors of a member.
    pub fn share(&self, member: usize) -> Range<usize> {
        share(self.vectors, self.blocks, self.tiles.len(), member)
    }

    /// Floats of the hidden layer's values of a member for a batch: (group, its vectors, ROOM, lanes).
    pub fn hidden_len(&self, member: usize) -> usize {
        self.groups * self.share(member).len() * ROOM * self.lanes
    }

    /// Where a member's hidden values begin, those of two batches; of the member after the last, where
    /// they end.
    pub fn hidden_start(&self, member: usize) -> usize {
        2 * self.groups * self.share(member).start * ROOM * self.lanes + member * APART
    }

    /// Floats of the blocks' parts of a batch's logits: (block, group, 10, GROUP).
    pub fn logits_len(&self) -> usize {
        self.blocks * self.groups * CLASSES * GROUP
    }

    /// Where hidden unit `unit` has its weight for `pixel`.
    pub fn w1_index(&self, unit: usize, pixel: usize) -> usize {
        let vector = unit / self.lanes;
        let within = |tile: &&Tile| tile.vectors.contains(&vector);
        let tile = self.tiles.iter().flatten().find(within).expect("tiles cover all vectors");
        let width = tile.vectors.len() * self.lanes;
        self.w1_offset(tile) + pixel * width + unit - tile.vectors.start * self.lanes
    }

    /// Where hidden unit `unit` has its weight for `class`.
    pub fn w2_index(&self, unit: usize, class: usize) -> usize {
        (unit / self.lanes * CLASSES + class) * self.lanes + unit % self.lanes
    }
}

/// The vectors of a member: those of its blocks.
fn share(vectors: usize, blocks: usize, members: usize, member: usize) -> Range<usize> {
    let first = |member| vectors * (blocks * member / members) / blocks;
    first(member)..first(member + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_vector_once_and_blocks_do_not_depend_on_the_threads() {
        for hidden in [1, 15, 17, 64, 256, 500, 512, 513, 4096] {
            for (lanes, widest) in [(16, 8), (8, 4), (4, 8), (8, 2)] {
                let alone = Layout::new(hidden, 32, 1, lanes, widest);
                for threads in [1, 2, 3, 64] {
                    let layout = Layout::new(hidden, 32, threads, lanes, widest);
                    assert_eq!(layout.blocks, alone.blocks);
                    assert!((1..=MOST_BLOCKS).contains(&layout.blocks));
                    let mut next = 0;
                    for tile in layout.tiles.iter().flatten() {
                        assert_eq!(tile.vectors.start, next);
                        assert!((1..=widest).contains(&tile.vectors.len()));
                        next = tile.vectors.end;
                    }
                    assert_eq!(next, hidden.div_ceil(lanes));
                    for (member, tiles) in layout.tiles.iter().enumerate() {
                        let vectors: usize = tiles.iter().map(|tile| tile.vectors.len()).sum();
                        assert_eq!(layout.share(member).len(), vectors);
                        let end = layout.hidden_start(member) + 2 * layout.hidden_len(member);
                        assert_eq!(layout.hidden_start(member + 1), end + APART);
                    }
                    let blocks: usize = (0..layout.blocks).map(|b| layout.block(b).len()).sum();
                    assert_eq!(blocks, next);
                }
            }
        }
    }

    #[test]
    fn every_weight_has_a_place_of_its_own() {
        let layout = Layout::new(37, 32, 2, 8, 2);
        let mut seen = vec![false; layout.w1_len()];
        for unit in 0..37 {
            for pixel in 0..PIXELS {
                assert!(!std::mem::replace(&mut seen[layout.w1_index(unit, pixel)], true));
            }
        }
        let mut seen = vec![false; layout.w2_len()];
        for unit in 0..37 {
            for class in 0..CLASSES {
                assert!(!std::mem::replace(&mut seen[layout.w2_index(unit, class)], true));
            }
        }
    }
}
