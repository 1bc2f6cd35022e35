//! The models in plain loops: forward, backward and a step of SGD, one sample at a time, nothing
//! fused, nothing fast. In `f64` this is the truth that every backend is compared with; its
//! gradients are proved by finite differences in the tests of each model's file. In `f32` the same
//! code shows how far sound single-precision arithmetic strays from that truth, which is where the
//! tolerances of [`crate::conformance`] come from.
//!
//! Conventions: all buffers are row-major; gradients accumulate (`+=`), everything else is
//! returned. ReLU's derivative at 0 is 0. Each model file has `forward`, which keeps what its
//! `backward` needs, and `backward`, which adds one sample's share to the gradient.

mod attention;
mod buffer;
mod cnn;
pub(crate) mod layers;
mod mlp;

pub use buffer::{Buffer, Real};

use crate::{Model, Parameters};
use mnist::{CLASSES, PIXELS, Split};

/// A model in training, in plain loops.
#[derive(Clone, Debug)]
pub struct Reference<R = f64> {
    model: Model,
    parameters: Buffer<R>,
}

/// The values that a forward pass keeps for the backward pass.
enum Activations<R> {
    Mlp(mlp::Activations<R>),
    Cnn(cnn::Activations<R>),
    Attention(attention::Activations<R>),
}

/// One image's way forward, which [`Reference::step_after`] goes back.
pub(crate) struct Pass<R> {
    pixels: Vec<R>,
    label: usize,
    activations: Activations<R>,
}

impl<R: Real> Activations<R> {
    fn logits(&self) -> &[R] {
        match self {
            Activations::Mlp(activations) => &activations.logits,
            Activations::Cnn(activations) => &activations.logits,
            Activations::Attention(activations) => &activations.logits,
        }
    }

    fn kink_distance(&self) -> R {
        match self {
            Activations::Mlp(activations) => activations.kink_distance(),
            Activations::Cnn(activations) => activations.kink_distance(),
            Activations::Attention(activations) => activations.kink_distance(),
        }
    }
}

impl<R: Real> Pass<R> {
    /// How far this image is from the nearest point where the loss has a kink: the smallest
    /// distance of a ReLU's input from 0, or between the two largest of a pooling window that
    /// passes its maximum on. Within rounding of a kink, a sound backend may take the other
    /// branch. A ReLU's input that is exactly 0, and equal values in a window, come from equal
    /// sums, take the same branch everywhere, and are not counted.
    pub(crate) fn kink_distance(&self) -> R {
        self.activations.kink_distance()
    }
}

impl<R: Real> Reference<R> {
    /// Begins with these parameters, exactly.
    pub fn new(parameters: &Parameters) -> Reference<R> {
        let mut own = Buffer::zeros(parameters.model());
        for (own, &value) in own.values.iter_mut().zip(parameters.values()) {
            *own = value.into();
        }
        Reference { model: parameters.model(), parameters: own }
    }

    /// The parameters as they are now.
    pub fn parameters(&self) -> &Buffer<R> {
        &self.parameters
    }

    /// The parameters as they are now.
    pub fn parameters_mut(&mut self) -> &mut Buffer<R> {
        &mut self.parameters
    }

    /// The parameters rounded to `f32`.
    pub fn rounded(&self) -> Parameters {
        let mut rounded = Parameters::zeros(self.model);
        for (rounded, &value) in rounded.values_mut().iter_mut().zip(&self.parameters.values) {
            let value: f64 = value.into();
            *rounded = value as f32;
        }
        rounded
    }

    /// Takes one step for each `batch_size` indices of `order`, the last step with what is left,
    /// and returns each step's mean loss before its update.
    ///
    /// # Panics
    /// If `batch_size` is 0 or an index is not below `data.len()`.
    pub fn train(
        &mut self,
        data: &Split,
        order: &[u32],
        batch_size: usize,
        learning_rate: f32,
    ) -> Vec<R> {
        order.chunks(batch_size).map(|batch| self.step(data, batch, learning_rate)).collect()
    }

    /// One step of plain SGD on the mean loss of these samples; returns that loss.
    ///
    /// # Panics
    /// If an index is not below `data.len()`.
    pub fn step(&mut self, data: &Split, batch: &[u32], learning_rate: f32) -> R {
        let (loss, gradient) = self.gradient(data, batch);
        self.update(&gradient, learning_rate);
        loss
    }

    /// [`Reference::step`] for samples that have gone forward since the last update.
    pub(crate) fn step_after(&mut self, passes: Vec<Pass<R>>, learning_rate: f32) -> R {
        let (loss, gradient) = self.gradient_after(passes.len(), passes.into_iter());
        self.update(&gradient, learning_rate);
        loss
    }

    /// The way forward of one sample.
    ///
    /// # Panics
    /// If the index is not below `data.len()`.
    pub(crate) fn pass(&self, data: &Split, index: u32) -> Pass<R> {
        let (image, label) = sample(data, index);
        let pixels = scaled(image);
        let activations = self.forward(&pixels);
        Pass { pixels, label, activations }
    }

    /// `parameters -= learning_rate * gradient`.
    pub fn update(&mut self, gradient: &Buffer<R>, learning_rate: f32) {
        let rate: R = learning_rate.into();
        for (value, &slope) in self.parameters.values.iter_mut().zip(&gradient.values) {
            *value -= rate * slope;
        }
    }

    /// The mean loss of these samples and its gradient.
    ///
    /// # Panics
    /// If an index is not below `data.len()`.
    pub fn gradient(&self, data: &Split, batch: &[u32]) -> (R, Buffer<R>) {
        self.gradient_after(batch.len(), batch.iter().map(|&index| self.pass(data, index)))
    }

    fn gradient_after(
        &self,
        count: usize,
        passes: impl Iterator<Item = Pass<R>>,
    ) -> (R, Buffer<R>) {
        let count: R = (count as f32).into(); // batches have fewer than 2^24 samples
        let mut loss = R::zero();
        let mut gradient = Buffer::zeros(self.model);
        for Pass { pixels, label, activations } in passes {
            let (sample_loss, mut d_logits) =
                layers::softmax_cross_entropy(activations.logits(), label);
            loss += sample_loss / count;
            for d_logit in &mut d_logits {
                *d_logit = *d_logit / count;
            }
            self.backward(&pixels, &activations, &d_logits, &mut gradient);
        }
        (loss, gradient)
    }

    /// The mean loss of these samples.
    ///
    /// # Panics
    /// If an index is not below `data.len()`.
    pub fn loss(&self, data: &Split, batch: &[u32]) -> R {
        let count: R = (batch.len() as f32).into();
        let losses = batch.iter().map(|&index| {
            let (image, label) = sample(data, index);
            layers::softmax_cross_entropy(&self.logits(image), label).0 / count
        });
        losses.sum()
    }

    /// The logits of an image, (28, 28).
    pub fn logits(&self, image: &[u8]) -> [R; CLASSES] {
        let activations = self.forward(&scaled(image));
        std::array::from_fn(|class| activations.logits()[class])
    }

    /// The first of the largest logits of an image, (28, 28).
    pub fn predict(&self, image: &[u8]) -> u8 {
        largest(&self.logits(image))
    }

    fn forward(&self, pixels: &[R]) -> Activations<R> {
        let parameters = &self.parameters;
        match self.model {
            Model::Mlp(_) => Activations::Mlp(mlp::forward(parameters, pixels)),
            Model::Cnn => Activations::Cnn(cnn::forward(parameters, pixels)),
            Model::Attention(shape) => {
                Activations::Attention(attention::forward(shape, parameters, pixels))
            }
        }
    }

    fn backward(
        &self,
        pixels: &[R],
        activations: &Activations<R>,
        d_logits: &[R],
        gradient: &mut Buffer<R>,
    ) {
        let parameters = &self.parameters;
        match activations {
            Activations::Mlp(kept) => mlp::backward(parameters, pixels, kept, d_logits, gradient),
            Activations::Cnn(kept) => cnn::backward(parameters, pixels, kept, d_logits, gradient),
            Activations::Attention(kept) => {
                attention::backward(parameters, kept, d_logits, gradient);
            }
        }
    }
}

/// The first of the largest logits.
pub(crate) fn largest<R: Real>(logits: &[R; CLASSES]) -> u8 {
    let mut best = 0;
    for class in 1..CLASSES {
        if logits[class] > logits[best] {
            best = class;
        }
    }
    best as u8 // below 10
}

/// An image, (28, 28), and its label.
fn sample(data: &Split, index: u32) -> (&[u8], usize) {
    let index = index as usize;
    (&data.images()[index * PIXELS..][..PIXELS], data.labels()[index].into())
}

/// Bytes as the models see them: `byte / 255`.
fn scaled<R: Real>(image: &[u8]) -> Vec<R> {
    let most: R = u8::MAX.into();
    image
        .iter()
        .map(|&byte| {
            let value: R = byte.into();
            value / most
        })
        .collect()
}

#[cfg(test)]
mod finite_differences {
    //! The proof of the gradients, shared by the tests of the models' files.

    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    /// Step of the central difference. The truncation error is its square, the rounding error of
    /// the loss divided by it is 1e-11: both far below [`TOLERANCE`].
    const STEP: f64 = 1e-5;
    /// Relative to the largest element of the tensor's gradient.
    const TOLERANCE: f64 = 1e-6;
    /// A sample this near to a kink is passed over, so that no step crosses one.
    const KINK: f64 = 1e-4;
    /// Elements tried in each tensor.
    const ELEMENTS: usize = 40;

    fn uniform(words: &mut ChaCha8Rng) -> f64 {
        f64::from(words.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0
    }

    /// Compares the gradient of every parameter tensor with central differences of the loss, at
    /// random weights and biases, over a batch of three random images.
    pub fn prove(model: Model, seed: u64) {
        let mut words = ChaCha8Rng::seed_from_u64(seed);
        let mut parameters = Parameters::zeros(model);
        crate::recipe::initialise(&mut parameters, seed);
        for value in parameters.values_mut() {
            *value += 0.1 * uniform(&mut words) as f32; // biases too
        }
        let mut reference: Reference<f64> = Reference::new(&parameters);
        let data = images_off_the_kinks(&reference, &mut words);
        let batch = [0, 1, 2];
        let (loss, gradient) = reference.gradient(&data, &batch);
        assert!((loss - reference.loss(&data, &batch)).abs() < 1e-12);

        for tensor in model.tensors() {
            let slopes = &gradient.values[tensor.range()];
            let scale = slopes.iter().fold(0.0_f64, |most, slope| most.max(slope.abs()));
            for _ in 0..ELEMENTS.min(tensor.len()) {
                let element = tensor.offset + words.next_u32() as usize % tensor.len();
                let difference = central_difference(&mut reference, element, &data, &batch);
                let error = (gradient.values[element] - difference).abs();
                assert!(
                    error <= TOLERANCE * scale + 1e-10,
                    "{} of {model:?}: {} by the backward pass, {difference} by differences",
                    tensor.name,
                    gradient.values[element],
                );
            }
        }
    }

    fn central_difference(
        reference: &mut Reference<f64>,
        element: usize,
        data: &Split,
        batch: &[u32],
    ) -> f64 {
        let value = reference.parameters.values[element];
        reference.parameters.values[element] = value + STEP;
        let above = reference.loss(data, batch);
        reference.parameters.values[element] = value - STEP;
        let below = reference.loss(data, batch);
        reference.parameters.values[element] = value;
        (above - below) / (2.0 * STEP)
    }

    /// Three images, a fifth of their pixels set, like MNIST's.
    fn images_off_the_kinks(reference: &Reference<f64>, words: &mut ChaCha8Rng) -> Split {
        let mut images = Vec::new();
        for _ in 0..10_000 {
            let image: Vec<u8> = (0..PIXELS)
                .map(|_| {
                    let word = words.next_u32();
                    if word.is_multiple_of(5) { (word >> 24) as u8 } else { 0 }
                })
                .collect();
            if reference.forward(&scaled(&image)).kink_distance() > KINK {
                images.extend(image);
            }
            if images.len() == 3 * PIXELS {
                return Split::new(images, [3, 0, 9]).unwrap();
            }
        }
        panic!("no images off the kinks in 10,000");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttentionShape, MlpShape};

    fn data() -> Split {
        let images: Vec<u8> = (0..7 * PIXELS).map(|i| (i * i % 251) as u8).collect();
        Split::new(images, [0, 1, 2, 3, 4, 5, 6]).unwrap()
    }

    #[test]
    fn repeated_steps_on_one_batch_bring_every_model_to_a_small_loss() {
        let attention = Model::Attention(AttentionShape { d_model: 8, ff: 8 });
        for (model, rate) in [
            (Model::Mlp(MlpShape { hidden: 16 }), 0.05),
            (Model::Cnn, 0.05),
            (attention, 0.5), // few patches differ: slower to tell apart
        ] {
            let mut parameters = Parameters::zeros(model);
            crate::recipe::initialise(&mut parameters, 1);
            let mut reference: Reference<f64> = Reference::new(&parameters);
            let order: Vec<u32> = (0..300).flat_map(|_| [0, 1, 2]).collect();
            let losses = reference.train(&data(), &order, 3, rate);
            assert!(losses[299] < 0.5 * losses[0], "{model:?}: {} {}", losses[0], losses[299]);
        }
    }

    #[test]
    fn the_last_step_takes_the_mean_over_the_samples_that_are_left() {
        let mut parameters = Parameters::zeros(Model::Cnn);
        crate::recipe::initialise(&mut parameters, 1);
        let mut whole: Reference<f64> = Reference::new(&parameters);
        let losses = whole.train(&data(), &[0, 1, 2, 3, 4], 3, 0.1);
        assert_eq!(losses.len(), 2);
        let mut by_hand: Reference<f64> = Reference::new(&parameters);
        by_hand.step(&data(), &[0, 1, 2], 0.1);
        by_hand.step(&data(), &[3, 4], 0.1);
        assert_eq!(whole.parameters.values, by_hand.parameters.values);
    }

    #[test]
    fn zero_parameters_give_the_loss_of_ten_equal_guesses() {
        let reference: Reference<f64> = Reference::new(&Parameters::zeros(Model::Cnn));
        assert!((reference.loss(&data(), &[0, 1]) - 10.0_f64.ln()).abs() < 1e-12);
        assert_eq!(reference.predict(&data().images()[..PIXELS]), 0);
    }
}
