//! How hard the digits are: a plain MLP 784-H-10, trained here with the recipe of the benchmark
//! (ReLU, softmax cross-entropy, SGD, Glorot-uniform weights), in single precision.
//!
//! `cargo test --release -p trainmark-mnist --test difficulty -- --ignored --nocapture` prints the
//! accuracies of the whole job, for the digits and, where `TRAINMARK_DATA` names it, for MNIST.

use mnist::{CLASSES, Dataset, PIXELS, Source, Split};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const BATCH: usize = 32;
const LEARNING_RATE: f32 = 0.01;

/// Weights are (inputs, outputs), so that a zero pixel skips a row.
struct Mlp {
    w1: Vec<f32>, // (784, hidden)
    b1: Vec<f32>, // (hidden)
    w2: Vec<f32>, // (hidden, 10)
    b2: [f32; CLASSES],
}

fn glorot(words: &mut ChaCha8Rng, inputs: usize, outputs: usize) -> Vec<f32> {
    let limit = (6.0 / (inputs + outputs) as f32).sqrt();
    let mut weight = || (words.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0) * limit;
    (0..inputs * outputs).map(|_| weight()).collect()
}

/// `sum += factor * row`.
fn add_scaled(sum: &mut [f32], factor: f32, row: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += factor * value;
    }
}

impl Mlp {
    fn new(hidden: usize, words: &mut ChaCha8Rng) -> Self {
        let (w1, w2) = (glorot(words, PIXELS, hidden), glorot(words, hidden, CLASSES));
        Self { w1, b1: vec![0.0; hidden], w2, b2: [0.0; CLASSES] }
    }

    /// Hidden activations, and the logits.
    fn forward(&self, image: &[u8]) -> (Vec<f32>, [f32; CLASSES]) {
        let mut hidden = self.b1.clone();
        for (&pixel, row) in image.iter().zip(self.w1.chunks(hidden.len())) {
            if pixel != 0 {
                add_scaled(&mut hidden, f32::from(pixel) / 255.0, row);
            }
        }
        let mut logits = self.b2;
        for (unit, row) in hidden.iter_mut().zip(self.w2.chunks(CLASSES)) {
            *unit = unit.max(0.0);
            add_scaled(&mut logits, *unit, row);
        }
        (hidden, logits)
    }

    /// One step over `batch`; all gradients are taken at the weights before it.
    fn step(&mut self, data: &Split, batch: &[usize]) {
        let rate = -LEARNING_RATE / batch.len() as f32;
        let mut deltas = Vec::new();
        for &index in batch {
            let (hidden, logits) = self.forward(image(data, index));
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            let mut delta2 = logits.map(|logit| (logit - top).exp());
            let sum: f32 = delta2.iter().sum();
            delta2 = delta2.map(|part| part / sum);
            delta2[usize::from(data.labels()[index])] -= 1.0;
            let back = |(&unit, row): (&f32, &[f32])| {
                let total: f32 =
                    row.iter().zip(&delta2).map(|(weight, delta)| weight * delta).sum();
                if unit > 0.0 { total } else { 0.0 }
            };
            let delta1: Vec<f32> = hidden.iter().zip(self.w2.chunks(CLASSES)).map(back).collect();
            deltas.push((hidden, delta1, delta2));
        }
        for (&index, (hidden, delta1, delta2)) in batch.iter().zip(&deltas) {
            for (&unit, row) in hidden.iter().zip(self.w2.chunks_mut(CLASSES)) {
                add_scaled(row, rate * unit, delta2);
            }
            add_scaled(&mut self.b2, rate, delta2);
            let pixels = image(data, index).iter();
            for (&pixel, row) in pixels.zip(self.w1.chunks_mut(delta1.len())) {
                if pixel != 0 {
                    add_scaled(row, rate * f32::from(pixel) / 255.0, delta1);
                }
            }
            add_scaled(&mut self.b1, rate, delta1);
        }
    }

    /// Percent of the images whose label is that of the largest logit.
    fn accuracy_percent(&self, data: &Split) -> f64 {
        let right = (0..data.len()).filter(|&index| {
            let (_, logits) = self.forward(image(data, index));
            let best = (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            best == Some(usize::from(data.labels()[index]))
        });
        100.0 * right.count() as f64 / data.len() as f64
    }
}

fn image(data: &Split, index: usize) -> &[u8] {
    &data.images()[index * PIXELS..][..PIXELS]
}

/// Test accuracies after each epoch over the first `samples` training images.
fn train(data: &Dataset, hidden: usize, samples: usize, epochs: usize, seed: u64) -> Vec<f64> {
    let mut words = ChaCha8Rng::seed_from_u64(seed);
    let mut mlp = Mlp::new(hidden, &mut words);
    let mut order: Vec<usize> = (0..samples).collect();
    let mut accuracies = Vec::new();
    for _ in 0..epochs {
        for last in (1..samples).rev() {
            order.swap(last, words.next_u32() as usize % (last + 1));
        }
        for batch in order.chunks(BATCH) {
            mlp.step(&data.train, batch);
        }
        accuracies.push(mlp.accuracy_percent(&data.test));
    }
    accuracies
}

#[test]
fn a_small_mlp_learns_the_digits_but_not_perfectly() {
    // A small part of the job, so less than its 95 %: 88.2 to 89.1 % with seeds 1 to 5 when the digits
    // were fixed. MNIST with seed 1: 89.3 %.
    let accuracy = train(&mnist::digits::generate(), 64, 15_000, 3, 1)[2];
    assert!((86.0..91.0).contains(&accuracy), "{accuracy} %");
}

#[test]
#[ignore = "the whole job takes half a minute; run it after a change of the digits"]
fn the_whole_job_on_the_digits_ends_as_on_mnist() {
    let report = |name: &str, data: &Dataset| {
        let accuracies = train(data, 512, data.train.len(), 5, 42);
        println!("{name}: test accuracy in percent after each epoch: {accuracies:?}");
        accuracies[4]
    };
    if std::env::var_os(protocol::env::DATA).is_some() {
        let source = Source::locate(None).expect("TRAINMARK_DATA names a dataset");
        report("TRAINMARK_DATA", &source.load().expect("readable"));
    } else {
        skip::skipped("the comparison with MNIST: TRAINMARK_DATA does not name its folder");
    }
    let accuracy = report("digits", &mnist::digits::generate());
    assert!((93.0..97.0).contains(&accuracy), "{accuracy} %");
}
