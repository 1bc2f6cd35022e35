//! The truth: forward and backward pass in plain loops, and AdamW. In `f64` it is what backends are
//! compared with; in `f32`, also with coarse [`Factors`], it shows how far sound rounding strays.
//!
//! One window after the other; the gradient accumulates (`+=`), everything else is returned.

mod layers;
mod product;
mod window;

pub use product::Factors;

use super::optimiser::{BETA1, BETA2, EPSILON, WEIGHT_DECAY, clip_factor};
use super::{Decay, Job, Shape, State, Step, Tensor};
use crate::reference::Real;
use crate::reference::layers::softmax_cross_entropy;
use window::{Network, Places};

/// A constant in the reference's arithmetic.
fn real<R: Real>(value: f64) -> R {
    // `f32` and `f64` take any float64.
    num_traits::cast(value).unwrap_or_else(R::nan)
}

/// A training in plain loops.
#[derive(Clone, Debug)]
pub struct Reference<R = f64> {
    shape: Shape,
    tensors: Vec<Tensor>,
    places: Places,
    factors: Factors,
    steps: u64,
    parameters: Vec<R>,    // (parameter_count)
    first_moment: Vec<R>,  // (parameter_count)
    second_moment: Vec<R>, // (parameter_count)
}

impl<R: Real> Reference<R> {
    /// Goes on from this state, exactly.
    pub fn new(state: &State) -> Reference<R> {
        let shape = state.shape();
        let own = |values: &[f32]| values.iter().map(|&value| value.into()).collect();
        Reference {
            shape,
            tensors: state.tensors().to_vec(),
            places: Places::new(&shape),
            factors: Factors::Exact,
            steps: state.steps,
            parameters: own(&state.parameters),
            first_moment: own(&state.first_moment),
            second_moment: own(&state.second_moment),
        }
    }

    /// With the factors of all matrix products rounded.
    pub fn with_factors(self, factors: Factors) -> Reference<R> {
        Reference { factors, ..self }
    }

    /// The state, rounded to `f32`.
    pub fn state(&self) -> State {
        let mut state = State::zeros(self.shape);
        let round = |to: &mut [f32], values: &[R]| {
            for (to, &value) in to.iter_mut().zip(values) {
                let value: f64 = value.into();
                *to = value as f32;
            }
        };
        state.steps = self.steps;
        round(&mut state.parameters, &self.parameters);
        round(&mut state.first_moment, &self.first_moment);
        round(&mut state.second_moment, &self.second_moment);
        state
    }

    /// The flat buffer, in the canonical layout.
    pub fn parameters(&self) -> &[R] {
        &self.parameters
    }

    /// The flat buffer, in the canonical layout.
    pub fn parameters_mut(&mut self) -> &mut [R] {
        &mut self.parameters
    }

    /// AdamW's moments, the first and the second.
    pub fn moments(&self) -> [&[R]; 2] {
        [&self.first_moment, &self.second_moment]
    }

    /// Takes one step for each `batch_size` starts and returns each step's mean loss before its update.
    ///
    /// # Panics
    /// If the job is another shape's, or a window does not fit into its text.
    pub fn train(&mut self, job: &Job<'_>, starts: &[u32]) -> Vec<R> {
        assert_eq!(job.shape, self.shape);
        starts.chunks(job.batch_size).map(|batch| self.step(job, batch)).collect()
    }

    fn step(&mut self, job: &Job<'_>, batch: &[u32]) -> R {
        let (loss, mut gradient) = self.gradient(job.text, batch);
        clip(&mut gradient);
        self.update(&gradient, job.optimiser.step(self.steps));
        self.steps += 1;
        loss
    }

    /// The mean loss of the windows that start at these places of a text, and its gradient.
    ///
    /// # Panics
    /// If a window does not fit into the text, or a token into the vocabulary.
    pub fn gradient(&self, text: &[u16], starts: &[u32]) -> (R, Vec<R>) {
        let Shape { context, vocabulary, .. } = self.shape;
        let count: R = real((starts.len() * context) as f64);
        let mut gradient = vec![R::zero(); self.parameters.len()];
        let mut loss = R::zero();
        for &start in starts {
            let (inputs, targets) = window(text, start, context);
            let kept = self.network().forward(inputs);
            let mut d_logits = Vec::with_capacity(kept.logits.len());
            for (logits, &target) in kept.logits.chunks(vocabulary).zip(targets) {
                let (nats, d) = softmax_cross_entropy(logits, target.into());
                loss += nats / count;
                d_logits.extend(d.iter().map(|&d| d / count));
            }
            self.network().backward(inputs, &kept, &d_logits, &mut gradient);
        }
        (loss, gradient)
    }

    /// The mean loss of these windows.
    ///
    /// # Panics
    /// As [`Reference::gradient`].
    pub fn loss(&self, text: &[u16], starts: &[u32]) -> R {
        let Shape { context, vocabulary, .. } = self.shape;
        let count: R = real((starts.len() * context) as f64);
        let mut loss = R::zero();
        for &start in starts {
            let (inputs, targets) = window(text, start, context);
            let logits = self.logits(inputs);
            for (logits, &target) in logits.chunks(vocabulary).zip(targets) {
                loss += softmax_cross_entropy(logits, target.into()).0 / count;
            }
        }
        loss
    }

    /// The logits after each token, (tokens.len(), vocabulary), in windows as
    /// [`Session::predict`](super::Session::predict) cuts them.
    ///
    /// # Panics
    /// If a token is not below the vocabulary.
    pub fn logits(&self, tokens: &[u16]) -> Vec<R> {
        let windows = tokens.chunks(self.shape.context);
        windows.flat_map(|tokens| self.network().forward(tokens).logits).collect()
    }

    fn network(&self) -> Network<'_, R> {
        let Reference { shape, places, factors, parameters, .. } = self;
        Network { shape: *shape, places, parameters, factors: *factors }
    }

    /// One step of AdamW with a gradient that has been clipped; its formulas are at the head of
    /// [`super::optimiser`].
    fn update(&mut self, gradient: &[R], step: Step) {
        let Step { rate, correction1, correction2 } = step;
        let (beta1, beta2): (R, R) = (real(BETA1), real(BETA2));
        let (fresh1, fresh2): (R, R) = (real(1.0 - BETA1), real(1.0 - BETA2));
        let (stride, root): (R, R) = (real(rate / correction1), real(correction2.sqrt()));
        for tensor in &self.tensors {
            let keep: R = match tensor.decay() {
                Decay::Matrix => real(1.0 - rate * WEIGHT_DECAY),
                Decay::Vector => R::one(),
            };
            for place in tensor.range() {
                let slope = gradient[place];
                let (value, first, second) = (
                    &mut self.parameters[place],
                    &mut self.first_moment[place],
                    &mut self.second_moment[place],
                );
                *first = beta1 * *first + fresh1 * slope;
                *second = beta2 * *second + fresh2 * slope * slope;
                *value = *value * keep - stride * *first / (second.sqrt() / root + real(EPSILON));
            }
        }
    }
}

/// Shortens a gradient to the largest norm.
fn clip<R: Real>(gradient: &mut [R]) {
    let squares: f64 = gradient.iter().map(|&slope| slope.into().powi(2)).sum();
    let factor: R = real(clip_factor(squares.sqrt()));
    for slope in gradient {
        *slope *= factor;
    }
}

/// A window's inputs and targets, (context) each.
fn window(text: &[u16], start: u32, context: usize) -> (&[u16], &[u16]) {
    let start = start as usize;
    (&text[start..start + context], &text[start + 1..start + context + 1])
}

#[cfg(test)]
mod tests;
