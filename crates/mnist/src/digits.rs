//! The embedded dataset: 60,000 + 10,000 images of digits that the program draws itself.
//!
//! A benchmark must run where there is no data and no network. Each image is one of several styles
//! of a digit, described by pen strokes (our own, in `digits/strokes.rs`), under random displacement
//! of its curves' ends, elastic and affine distortion, line width, and noise. It is about as sparse
//! as MNIST (19.3 % of the pixels are not zero; MNIST 19.1 %) and about as hard: an MLP with 512
//! hidden units (batch 32, learning rate 0.01) reaches 90.8 % after one epoch and 95.1 % after five
//! (MNIST 90.8 and 94.2); `tests/difficulty.rs` measures it.
//!
//! The same bits on every platform and at any thread count: image `i` (training images first) is
//! drawn from stream `i` of ChaCha8 under a fixed key, with nothing but the arithmetic that IEEE 754
//! fixes to the last bit. [`SHA256`] says which bits.

mod draw;
mod strokes;

pub use crate::store::materialise_digits as materialise;

use crate::{Dataset, PIXELS, Split};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

/// How many images there are to train on.
pub const TRAIN_IMAGES: usize = 60_000;
/// How many images there are to test with.
pub const TEST_IMAGES: usize = 10_000;

/// SHA-256 of the four plain files, in the order of [`crate::FILES`].
pub const SHA256: [&str; 4] = [
    "60e0f6d4eb7d5a4694a90424b956a0ee7669421eb0ce48a8be4dfbab6051f7d4",
    "bf0a448a9625e2592d49dea86e3e74f20b689419838123ad60b1f8c71e6433ae",
    "1c45f0f1b579a75e38fdcbd6aa1df800adae8078cb4887ea11ca77f374ce00c0",
    "fbf0f13a17c88d47ce0fe6046be4e0ec91ffccbb07d0a452ade3ddd2b7f94edd",
];

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CLASSES, Source, identity};

    #[test]
    fn the_digits_are_the_same_bits_everywhere() {
        let dataset = generate();
        assert_eq!(identity::digests(&dataset.train, &dataset.test), SHA256);
    }

    #[test]
    fn the_digits_do_not_depend_on_the_number_of_threads() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let split = pool.install(|| draw_split(100, 500));
            (split.images().to_vec(), split.labels().to_vec())
        };
        assert!(on(1) == on(5));
    }

    #[test]
    fn the_digits_are_balanced_and_as_sparse_as_mnist() {
        let test = draw_split(TRAIN_IMAGES, TEST_IMAGES);
        for class in 0..CLASSES {
            let count = test.labels().iter().filter(|&&label| usize::from(label) == class).count();
            assert!((900..1100).contains(&count), "{count} images of {class}");
        }
        let inked = test.images().iter().filter(|&&pixel| pixel != 0).count();
        let percent = 100.0 * inked as f64 / test.images().len() as f64;
        assert!((18.0..20.5).contains(&percent), "{percent} % of the pixels are not zero");
    }

    #[test]
    fn every_image_is_a_different_drawing_within_its_frame() {
        let split = draw_split(0, 5_000);
        let images: Vec<_> = split.images().chunks(PIXELS).collect();
        let distinct: std::collections::HashSet<_> = images.iter().collect();
        assert_eq!(distinct.len(), images.len());
        for (index, image) in images.iter().enumerate() {
            let ink = image.iter().filter(|&&pixel| pixel > 127).count();
            assert!((15..400).contains(&ink), "image {index} has {ink} dark pixels");
            let corner = [image[0], image[27], image[PIXELS - 28], image[PIXELS - 1]];
            assert_eq!(corner, [0; 4], "image {index}");
        }
    }

    #[test]
    fn materialised_digits_are_recognised_under_any_name() {
        let parent = tempfile::tempdir().unwrap();
        let folder = materialise(parent.path()).unwrap();
        let other = parent.path().join("something");
        std::fs::rename(&folder, &other).unwrap();
        let mut dataset = Source::open(&other).unwrap().load().unwrap();
        assert_eq!(dataset.name, "something");
        dataset.identify();
        assert_eq!(dataset.name, "digits");
    }
}
