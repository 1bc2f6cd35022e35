//! `conv` 3x3 with padding 1, ReLU, 2x2 max-pool, `fc`.

use super::layers::{Linear, dot, linear, linear_gradient, linear_input_gradient};
use super::{Buffer, Real};
use crate::{CONV_FILTERS, POOLED};
use mnist::{PIXELS, SIDE};
use std::ops::Range;

const FC: Linear = ["fc.weight", "fc.bias"];
const KERNEL: usize = 3;
const POOLED_SIDE: usize = SIDE / 2;

pub(super) struct Activations<R> {
    convolved: Vec<R>,         // (8, 28, 28), before ReLU
    chosen: Vec<usize>,        // (8, 14, 14): where in `convolved` each pooled value comes from
    pooled: Vec<R>,            // (8, 14, 14)
    pub(super) logits: Vec<R>, // (10)
}

impl<R: Real> Activations<R> {
    pub(super) fn kink_distance(&self) -> R {
        let mut nearest = R::infinity();
        for (pooled, &chosen) in self.chosen.iter().enumerate() {
            let largest = self.convolved[chosen];
            let window = window(pooled).map(|place| self.convolved[place]);
            let others = window.iter().map(|&value| (largest - value).abs());
            // Below 0 the window passes nothing on, and only the kink of ReLU is near.
            let gaps = others.filter(|_| largest > R::zero()).chain([largest.abs()]);
            nearest = gaps.filter(|&gap| gap > R::zero()).fold(nearest, R::min);
        }
        nearest
    }
}

/// `pixels`: (28, 28).
pub(super) fn forward<R: Real>(parameters: &Buffer<R>, pixels: &[R]) -> Activations<R> {
    let convolved = convolve(parameters, pixels);
    let chosen: Vec<usize> =
        (0..POOLED).map(|pooled| first_of_the_largest(&convolved, window(pooled))).collect();
    // The maximum of the ReLUs is the ReLU of the maximum.
    let pooled: Vec<R> = chosen.iter().map(|&place| relu(convolved[place])).collect();
    let logits = linear(parameters, FC, &pooled);
    Activations { convolved, chosen, pooled, logits }
}

/// `pixels`: (28, 28), `d_logits`: (10).
pub(super) fn backward<R: Real>(
    parameters: &Buffer<R>,
    pixels: &[R],
    kept: &Activations<R>,
    d_logits: &[R],
    gradient: &mut Buffer<R>,
) {
    linear_gradient(gradient, FC, &kept.pooled, d_logits);
    let d_pooled = linear_input_gradient(parameters, FC, d_logits);
    let mut d_convolved = vec![R::zero(); kept.convolved.len()];
    for (&place, &d) in kept.chosen.iter().zip(&d_pooled) {
        if kept.convolved[place] > R::zero() || kept.convolved[place].is_nan() {
            d_convolved[place] = d; // windows do not overlap
        }
    }
    convolve_gradient(gradient, pixels, &d_convolved);
}

/// Cross-correlation, as every framework's convolution is. Returns (8, 28, 28).
fn convolve<R: Real>(parameters: &Buffer<R>, pixels: &[R]) -> Vec<R> {
    let weight = parameters.tensor("conv.weight"); // (8, 1, 3, 3)
    let bias = parameters.tensor("conv.bias"); // (8)
    let mut output = Vec::with_capacity(CONV_FILTERS * PIXELS);
    for (weight, &bias) in weight.chunks(KERNEL * KERNEL).zip(bias) {
        output.resize(output.len() + PIXELS, bias);
        let plane = output.len() - PIXELS;
        for (tap, &weight) in weight.iter().enumerate() {
            for (to, from) in rows(tap) {
                for (sum, &pixel) in output[plane..][to].iter_mut().zip(&pixels[from]) {
                    *sum += weight * pixel;
                }
            }
        }
    }
    output
}

fn convolve_gradient<R: Real>(gradient: &mut Buffer<R>, pixels: &[R], d_output: &[R]) {
    for (filter, d_output) in d_output.chunks(PIXELS).enumerate() {
        gradient.tensor_mut("conv.bias")[filter] += d_output.iter().copied().sum();
        let d_weight = &mut gradient.tensor_mut("conv.weight")[filter * KERNEL * KERNEL..];
        for (tap, d_weight) in d_weight[..KERNEL * KERNEL].iter_mut().enumerate() {
            for (to, from) in rows(tap) {
                *d_weight += dot(&d_output[to], &pixels[from]);
            }
        }
    }
}

/// The parts of rows of the output that a weight of the filter, the nine in row order, takes part in, each with the
/// pixels that it sees there. Beyond the image it sees 0.
fn rows(tap: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    // One more than the shift, so that the padding's -1 needs no sign.
    let (down, right) = (tap / KERNEL, tap % KERNEL);
    let inside = |shift: usize| 1_usize.saturating_sub(shift)..SIDE.min(SIDE + 1 - shift);
    let columns = inside(right);
    inside(down).map(move |row| {
        let (to, from) = (row * SIDE, (row + down - 1) * SIDE);
        let shifted = columns.start + right - 1..columns.end + right - 1;
        (to + columns.start..to + columns.end, from + shifted.start..from + shifted.end)
    })
}

/// The four places in (8, 28, 28), in row order, that one place in (8, 14, 14) pools.
fn window(pooled: usize) -> [usize; 4] {
    let (filter, place) =
        (pooled / (POOLED_SIDE * POOLED_SIDE), pooled % (POOLED_SIDE * POOLED_SIDE));
    let (row, column) = (2 * (place / POOLED_SIDE), 2 * (place % POOLED_SIDE));
    let first = (filter * SIDE + row) * SIDE + column;
    [first, first + 1, first + SIDE, first + SIDE + 1]
}

/// NaN counts as the largest, so that a broken weight reaches the loss.
fn first_of_the_largest<R: Real>(values: &[R], places: [usize; 4]) -> usize {
    let mut best = places[0];
    for &place in &places[1..] {
        if values[place] > values[best] || values[place].is_nan() {
            best = place;
        }
    }
    best
}

fn relu<R: Real>(value: R) -> R {
    if value <= R::zero() { R::zero() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::finite_differences::prove;
    use crate::{Model, Parameters, Reference};
    use mnist::Split;

    #[test]
    fn every_gradient_agrees_with_finite_differences() {
        prove(Model::Cnn, 1);
        prove(Model::Cnn, 2);
    }

    #[test]
    fn of_equal_values_in_a_window_the_first_takes_the_whole_gradient() {
        // Filter 0 copies the image, whose first two pixels are equal; their neighbours differ, and
        // so the outer weights tell which of the two took the gradient.
        let mut parameters = Parameters::zeros(Model::Cnn);
        let weight = parameters.tensor_mut("conv.weight");
        weight[4] = 1.0; // the centre of filter 0
        parameters.tensor_mut("fc.weight")[0] = 1.0; // class 0 from the first pooled value
        let mut image = vec![0; PIXELS];
        image[..3].copy_from_slice(&[255, 255, 51]);
        let data = Split::new(image, [0]).unwrap();
        let reference: Reference<f64> = Reference::new(&parameters);
        let (_, gradient) = reference.gradient(&data, &[0]);
        let d = gradient.tensor("fc.bias")[0]; // the gradient that reaches the window
        let d_weight = gradient.tensor("conv.weight");
        assert!((d_weight[4] - d).abs() < 1e-15);
        assert!((d_weight[5] - d).abs() < 1e-15, "right of the first is 255, of the second 51");
        assert_eq!(d_weight[3], 0.0, "left of the first is padding, of the second 255");
    }

    #[test]
    fn the_filter_is_not_flipped() {
        let mut parameters = Parameters::zeros(Model::Cnn);
        parameters.tensor_mut("conv.weight")[0] = 1.0; // up and to the left of the centre
        let parameters: Reference<f64> = Reference::new(&parameters);
        let mut pixels = vec![0.0; PIXELS];
        pixels[5 * SIDE + 7] = 1.0;
        let output = convolve(parameters.parameters(), &pixels);
        let set: Vec<usize> = (0..PIXELS).filter(|&place| output[place] != 0.0).collect();
        assert_eq!(set, [6 * SIDE + 8]);
    }
}
