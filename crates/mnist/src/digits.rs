//! The embedded dataset: 60,000 + 10,000 images of digits that the program draws itself.
//!
//! A benchmark must run where there is no data and no network. Each image is one of several styles
//! of a digit, described by pen strokes ([`strokes`](self), our own), under random displacement of
//! its curves' ends, elastic and affine distortion, line width, and noise: about as sparse as MNIST
//! and about as hard (an MLP with 512 hidden units and the default recipe ends near 95 %).
//!
//! The same bits on every platform and at any thread count: image `i` (training images first) is
//! drawn from stream `i` of ChaCha8 under a fixed key, with nothing but the arithmetic that IEEE 754
//! fixes to the last bit. [`SHA256`] says which bits.

mod draw;
mod strokes;

use crate::{Dataset, PIXELS, Split};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

/// How many images there are to train on.
pub const TRAIN_IMAGES: usize = 60_000;
/// How many images there are to test with.
pub const TEST_IMAGES: usize = 10_000;

/// The key of the generator: these bytes and zeros.
const KEY: &[u8] = b"trainmark digits 1";

/// Draws the whole dataset, on all cores.
///
/// # Panics
/// If there is no memory for it (55 MB).
pub fn generate() -> Dataset {
    Dataset {
        name: "digits".to_owned(),
        sha256: None,
        train: draw_split(0, TRAIN_IMAGES),
        test: draw_split(TRAIN_IMAGES, TEST_IMAGES),
    }
}

/// Draws the images `first..first + count` of the one long sequence.
fn draw_split(first: usize, count: usize) -> Split {
    let mut key = [0; 32];
    key[..KEY.len()].copy_from_slice(KEY);
    let words = ChaCha8Rng::from_seed(key);
    let styles = strokes::styles();

    let mut images = vec![0; count * PIXELS];
    let mut labels = vec![0; count];
    images.par_chunks_exact_mut(PIXELS).zip(&mut labels).enumerate().for_each(
        |(index, (image, label))| {
            let mut words = words.clone();
            words.set_stream((first + index) as u64);
            *label = draw::draw(&styles, &mut words, image);
        },
    );
    Split::new(images, labels).expect("labels are digits")
}
