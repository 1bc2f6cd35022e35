//! The cases that every backend must pass: ragged sizes, and a training that goes on in its middle.

use super::trial::{Trial, moved};
use crate::gpt::{AdamW, Job, Shape, State};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Some steps of a model of some size, on a made text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub shape: Shape,
    pub batch_size: usize,
    /// Number of steps.
    pub count: usize,
    /// Steps that are done already: then the moments are not zero.
    pub done: u64,
    /// The seed of the text, the parameters and the windows.
    pub seed: u64,
}

impl Case {
    /// Its text: each token follows the one before with a preference, so that there is something to learn.
    pub fn text(&self) -> Vec<u16> {
        let length = 3 * self.shape.context + 101;
        let vocabulary = self.shape.vocabulary as u64;
        let mut words = ChaCha8Rng::seed_from_u64(self.seed);
        let mut text = vec![0; length];
        for place in 1..length {
            let below = |choices: u64, word: u32| (u64::from(word) * choices) >> 32;
            let step = below(vocabulary.min(4), words.next_u32());
            text[place] = ((u64::from(text[place - 1]) * 3 + step) % vocabulary) as u16;
        }
        text
    }

    /// The state that it begins with.
    pub fn initial(&self) -> State {
        let mut state = moved(self.shape, self.seed);
        if self.done > 0 {
            state.steps = self.done;
            let mut words = ChaCha8Rng::seed_from_u64(self.seed + 1);
            for (first, second) in state.first_moment.iter_mut().zip(&mut state.second_moment) {
                *first = 1e-3 * crate::gpt::recipe::normal(words.next_u32()) as f32;
                *second = 2e-6;
            }
        }
        state
    }

    /// How it trains: through all of the schedule in its few steps.
    pub fn job<'data>(&self, text: &'data [u16]) -> Job<'data> {
        let optimiser = AdamW { learning_rate: 2e-3, warmup: self.done + 3, steps: self.done + 9 };
        Job { shape: self.shape, batch_size: self.batch_size, optimiser, text }
    }

    /// The result of the reference.
    pub fn trial<'data>(&self, text: &'data [u16]) -> Trial<'data> {
        Trial::new(self.initial(), self.job(text), self.count, self.seed)
    }
}

/// Every case, for every backend.
pub fn cases() -> Vec<Case> {
    let shape = |layers, heads, width, context, vocabulary| Shape {
        layers,
        heads,
        width,
        context,
        vocabulary,
    };
    let case = |shape, batch_size, seed| Case { shape, batch_size, count: 10, done: 0, seed };
    vec![
        case(shape(1, 1, 16, 5, 3), 1, 1),
        case(shape(1, 2, 16, 1, 7), 5, 2), // nothing to attend to but itself
        case(shape(3, 3, 24, 7, 11), 2, 3),
        case(shape(2, 4, 128, 64, 65), 2, 4), // the preset `small`, cut
        case(shape(1, 2, 64, 33, 65), 5, 5),
        case(shape(2, 5, 80, 17, 100), 3, 6),
        case(shape(1, 2, 96, 64, 257), 1, 7),
        case(shape(1, 1, 72, 129, 33), 1, 8),
        Case { count: 2, ..case(shape(1, 6, 384, 40, 65), 1, 9) }, // `char`, cut
        Case { count: 1, ..case(shape(1, 12, 768, 16, 90), 1, 10) }, // `gpt2`, cut
        Case { done: 40, ..case(shape(2, 2, 32, 16, 29), 4, 11) },
    ]
}
