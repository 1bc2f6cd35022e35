//! The cases that every backend must pass: each model at ragged sizes, on images of every kind.

use super::{Steps, Trial};
use crate::{AttentionShape, MlpShape, Model, Parameters, TensorRole, recipe};
use mnist::{PIXELS, SIDE, Split};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::fmt;

/// Images made for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// A rectangle anywhere, its edges included, of random pixels: a fifth of the image, like
    /// MNIST's strokes.
    Sparse,
    /// Every pixel random and above 0.
    Dense,
    /// Every pixel 0.
    Zero,
    /// Every pixel 255.
    Full,
}

/// Ten steps of a model at some size, on made images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub model: Model,
    pub images: Images,
    pub batch_size: usize,
    /// Samples of the last step, at most `batch_size`.
    pub last_batch: usize,
    /// Number of steps.
    pub count: usize,
    pub learning_rate: f32,
    /// The seed of the images, the parameters and the order; chosen so that no sample comes near a kink of
    /// the loss, where sound rounding decides the gradient's branch.
    pub seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, {:?} images, {} steps of {}, the last of {}, learning rate {}, seed {}",
            self.model,
            self.images,
            self.count,
            self.batch_size,
            self.last_batch,
            self.learning_rate,
            self.seed,
        )
    }
}

impl Case {
    /// Its training images, a prime number of them.
    pub fn data(&self) -> Split {
        let count = 331; // more than a batch, and no multiple of one
        let mut words = ChaCha8Rng::seed_from_u64(self.seed);
        let mut images = Vec::with_capacity(count * PIXELS);
        let mut labels = Vec::with_capacity(count);
        for _ in 0..count {
            images.extend(self.image(&mut words));
            labels.push(below(&mut words, 10) as u8);
        }
        Split::new(images, labels).expect("as many images as labels, all labels below 10")
    }

    fn image(&self, words: &mut ChaCha8Rng) -> Vec<u8> {
        match self.images {
            Images::Zero => vec![0; PIXELS],
            Images::Full => vec![255; PIXELS],
            Images::Dense => (0..PIXELS).map(|_| 1 + below(words, 255) as u8).collect(),
            Images::Sparse => {
                let (height, width) = (8 + below(words, 10), 8 + below(words, 10));
                // Pushed back onto the image, so that a good part of them touch an edge.
                let top = below(words, SIDE).min(SIDE - height);
                let left = below(words, SIDE).min(SIDE - width);
                let mut image = vec![0; PIXELS];
                for row in top..top + height {
                    for pixel in &mut image[row * SIDE + left..][..width] {
                        *pixel = below(words, 256) as u8;
                    }
                }
                image
            }
        }
    }

    /// Its initial parameters: the recipe's weights, and biases that are not zero, so that a
    /// forgotten bias shows in the first step.
    pub fn initial(&self) -> Parameters {
        let mut parameters = Parameters::zeros(self.model);
        recipe::initialise(&mut parameters, self.seed);
        let mut words = ChaCha8Rng::seed_from_u64(self.seed + 1);
        for tensor in self.model.tensors() {
            if tensor.role == TensorRole::Bias {
                for value in &mut parameters.values_mut()[tensor.range()] {
                    *value = (below(&mut words, 2001) as f32 - 1000.0) / 10_000.0; // +-0.1
                }
            }
        }
        parameters
    }

    /// The result of the reference.
    pub fn trial<'data>(&self, data: &'data Split) -> Trial<'data> {
        Trial::new(self.initial(), data, self.steps(), self.seed)
    }

    /// How it trains.
    pub fn steps(&self) -> Steps {
        Steps {
            batch_size: self.batch_size,
            last_batch: self.last_batch,
            count: self.count,
            learning_rate: self.learning_rate,
        }
    }
}

/// A number in `0..choices`.
fn below(words: &mut ChaCha8Rng, choices: usize) -> usize {
    ((u64::from(words.next_u32()) * choices as u64) >> 32) as usize
}

/// A small size of a model, for tests that need no particular one.
///
/// # Panics
/// If there is no model of that id.
pub fn small_model(id: &str) -> Model {
    match id {
        "mlp" => Model::Mlp(MlpShape { hidden: 24 }),
        "cnn" => Model::Cnn,
        "attention" => Model::Attention(AttentionShape { d_model: 16, ff: 24 }),
        _ => panic!("no model is called {id}"),
    }
}

/// Every case, for every backend.
pub fn cases() -> Vec<Case> {
    let mlp = |hidden| Model::Mlp(MlpShape { hidden });
    let attention = |d_model, ff| Model::Attention(AttentionShape { d_model, ff });
    let mut cases = Vec::new();
    let mut add = |model, images, batch_size, last_batch, seed| {
        let learning_rate = if matches!(model, Model::Attention(_)) { 0.1 } else { 0.02 };
        let count = 10;
        cases.push(Case { model, images, batch_size, last_batch, count, learning_rate, seed });
    };
    use Images::{Dense, Full, Sparse, Zero};

    add(mlp(512), Sparse, 32, 16, 1);
    add(mlp(1), Sparse, 33, 1, 2);
    add(mlp(17), Sparse, 31, 1, 3);
    add(mlp(256), Sparse, 1, 1, 4);
    add(mlp(500), Dense, 33, 32, 5);
    add(mlp(513), Sparse, 31, 30, 6);
    add(mlp(130), Sparse, 128, 77, 7);
    add(mlp(64), Dense, 1, 1, 8);
    add(mlp(64), Zero, 32, 1, 9);
    add(mlp(64), Full, 32, 1, 10);

    add(Model::Cnn, Sparse, 32, 16, 11);
    add(Model::Cnn, Sparse, 31, 1, 12);
    add(Model::Cnn, Sparse, 1, 1, 13);
    add(Model::Cnn, Dense, 33, 32, 14);
    add(Model::Cnn, Zero, 32, 1, 15);
    add(Model::Cnn, Full, 32, 1, 16);

    add(attention(32, 64), Sparse, 32, 16, 17);
    add(attention(32, 64), Sparse, 31, 1, 18);
    add(attention(32, 64), Sparse, 1, 1, 19);
    add(attention(32, 64), Dense, 33, 32, 20);
    add(attention(32, 64), Zero, 32, 1, 131);
    add(attention(32, 64), Full, 32, 1, 50);
    add(attention(1, 1), Sparse, 33, 1, 23);
    add(attention(17, 33), Sparse, 31, 30, 24);
    add(attention(64, 100), Dense, 5, 3, 25);

    let few = |model| {
        let (images, learning_rate) = (Sparse, 0.02);
        Case { model, images, batch_size: 64, last_batch: 20, count: 1, learning_rate, seed: 26 }
    };
    cases.extend(["mlp", "cnn", "attention"].map(|id| few(small_model(id))));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{KINK, trials};

    #[test]
    fn no_sample_of_any_case_comes_near_a_kink() {
        for (case, trial) in trials(|_| true) {
            let distance = trial.kink_distance();
            assert!(distance >= KINK, "{case}: {distance:e}");
        }
    }

    #[test]
    fn sparse_images_are_about_as_sparse_as_mnist_and_reach_every_corner() {
        let data = cases()[0].data();
        let set = data.images().iter().filter(|&&pixel| pixel > 0).count();
        let density = set as f64 / data.images().len() as f64;
        assert!((0.15..0.25).contains(&density), "{density}");
        for corner in [0, SIDE - 1, PIXELS - SIDE, PIXELS - 1] {
            assert!(data.images().chunks(PIXELS).any(|image| image[corner] > 0));
        }
    }
}
