//! The words through which the blocks of a persistent kernel talk: `kernels/exchange.cuh`.

use crate::driver::{Address, Buffer, Gpu};
use nn::backend::TrainError;
use std::rc::Rc;

/// Samples of a step in the persistent kernels: a lane each.
pub(crate) const BATCH_ROWS: usize = 32;
/// Values of a sample's classes, padded to whole words.
pub(crate) const CLASS_STRIDE: usize = 12;
/// Words for the classes of a sample.
const WORDS: usize = 4;
/// Copies of the sums.
const COPIES: usize = 8;
/// 32-bit numbers of a word: three values and a tag.
const WORD_LEN: usize = 4;

/// `Exchange` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ExchangeAddresses {
    shares: Address,
    sums: Address,
}

/// The words, and the tags that were used.
pub(crate) struct Exchange {
    shares: Buffer<u32>, // (2, 32, blocks, 4 words)
    sums: Buffer<u32>,   // (2, 8 copies, 32, 4 words)
    more: [Buffer<u32>; 2],
    tags: Tags,
}

impl Exchange {
    /// Words for `blocks` blocks, and `more` of a model's own, so many words each.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        blocks: usize,
        more: [usize; 2],
    ) -> Result<Exchange, TrainError> {
        let sample_len = 2 * BATCH_ROWS * WORDS * WORD_LEN;
        Ok(Exchange {
            shares: gpu.allocate("the exchange", sample_len * blocks)?,
            sums: gpu.allocate("the exchange", sample_len * COPIES)?,
            more: [
                gpu.allocate("the exchange", more[0] * WORD_LEN)?,
                gpu.allocate("the exchange", more[1] * WORD_LEN)?,
            ],
            tags: Tags::default(),
        })
    }

    pub(crate) fn addresses(&self) -> ExchangeAddresses {
        ExchangeAddresses { shares: self.shares.address(), sums: self.sums.address() }
    }

    /// Of the model's own words.
    pub(crate) fn more_addresses(&self) -> [Address; 2] {
        self.more.each_ref().map(Buffer::address)
    }

    /// The tag of the first of `steps` steps of a launch.
    pub(crate) fn first_tag(&mut self, steps: usize) -> Result<u32, TrainError> {
        let (first, wrapped) = self.tags.take(steps as u32);
        if wrapped {
            self.shares.clear()?;
            self.sums.clear()?;
            self.more.iter().try_for_each(Buffer::clear)?;
        }
        Ok(first)
    }
}

/// Numbers that no word holds yet. Words that were never written hold 0.
#[derive(Default)]
struct Tags {
    last: u32,
}

impl Tags {
    /// The first of `steps` unused numbers in a row, and whether they begin anew: then the words
    /// must be cleared.
    fn take(&mut self, steps: u32) -> (u32, bool) {
        let (last, wrapped) = match self.last.checked_add(steps) {
            Some(last) => (last, false),
            None => (steps, true),
        };
        self.last = last;
        (last - steps + 1, wrapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_never_repeat_and_are_never_zero_until_they_begin_anew() {
        let mut tags = Tags::default();
        assert_eq!(tags.take(1875), (1, false));
        assert_eq!(tags.take(1875), (1876, false));
        tags.last = u32::MAX - 1;
        assert_eq!(tags.take(1), (u32::MAX, false));
        assert_eq!(tags.take(3), (1, true));
        assert_eq!(tags.take(1), (4, false));
    }
}
