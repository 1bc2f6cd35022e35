//! The parts that the models share: linear layers over rows, ReLU, softmax cross-entropy.

use super::{Buffer, Real};

/// Names of a linear layer's weight (out, in) and bias (out).
pub(super) type Linear = [&'static str; 2];

/// `output = input weight^T + bias` for each row. `input`: (rows, in), returns (rows, out).
pub(super) fn linear<R: Real>(parameters: &Buffer<R>, layer: Linear, input: &[R]) -> Vec<R> {
    let [weight, bias] = layer.map(|name| parameters.tensor(name));
    let width = weight.len() / bias.len();
    let mut output = Vec::with_capacity(input.len() / width * bias.len());
    for row in input.chunks(width) {
        for (weights, bias) in weight.chunks(SIDE_BY_SIDE * width).zip(bias.chunks(SIDE_BY_SIDE)) {
            let sums = dots(weights, row);
            output.extend(bias.iter().zip(sums).map(|(&bias, sum)| bias + sum));
        }
    }
    output
}

/// Sums that are taken at once: each one's additions are in order and wait for each other.
const SIDE_BY_SIDE: usize = 4;

/// The product of each of up to [`SIDE_BY_SIDE`] rows of weights with one row.
fn dots<R: Real>(weights: &[R], row: &[R]) -> [R; SIDE_BY_SIDE] {
    let mut sums = [R::zero(); SIDE_BY_SIDE];
    if weights.len() == SIDE_BY_SIDE * row.len() {
        let rows: [&[R]; SIDE_BY_SIDE] =
            std::array::from_fn(|index| &weights[index * row.len()..][..row.len()]);
        for (place, &value) in row.iter().enumerate() {
            for (sum, weights) in sums.iter_mut().zip(rows) {
                *sum += weights[place] * value;
            }
        }
    } else {
        for (sum, weights) in sums.iter_mut().zip(weights.chunks(row.len())) {
            *sum = dot(weights, row);
        }
    }
    sums
}

/// Adds a linear layer's share to the gradient: `weight += d_output^T input`, `bias += d_output`,
/// summed over rows. `input`: (rows, in), `d_output`: (rows, out).
pub(super) fn linear_gradient<R: Real>(
    gradient: &mut Buffer<R>,
    [weight, bias]: Linear,
    input: &[R],
    d_output: &[R],
) {
    let out = gradient.tensor(bias).len();
    let width = gradient.tensor(weight).len() / out;
    for (row, d_row) in input.chunks(width).zip(d_output.chunks(out)) {
        let d_weight = gradient.tensor_mut(weight);
        for (d_weights, &d) in d_weight.chunks_mut(width).zip(d_row) {
            if d == R::zero() {
                continue; // of many units, by ReLU
            }
            for (d_weight, &value) in d_weights.iter_mut().zip(row) {
                *d_weight += d * value;
            }
        }
        for (d_bias, &d) in gradient.tensor_mut(bias).iter_mut().zip(d_row) {
            *d_bias += d;
        }
    }
}

/// The gradient of a linear layer's input: `d_output weight` for each row. `d_output`: (rows, out),
/// returns (rows, in).
pub(super) fn linear_input_gradient<R: Real>(
    parameters: &Buffer<R>,
    layer: Linear,
    d_output: &[R],
) -> Vec<R> {
    let [weight, bias] = layer.map(|name| parameters.tensor(name));
    let width = weight.len() / bias.len();
    let mut d_input = vec![R::zero(); d_output.len() / bias.len() * width];
    for (d_input_row, d_row) in d_input.chunks_mut(width).zip(d_output.chunks(bias.len())) {
        for (weights, &d) in weight.chunks(width).zip(d_row) {
            if d == R::zero() {
                continue;
            }
            for (d_input, &weight) in d_input_row.iter_mut().zip(weights) {
                *d_input += d * weight;
            }
        }
    }
    d_input
}

/// `max(0, value)`; NaN stays NaN, so that a broken weight reaches the loss.
pub(super) fn relu<R: Real>(input: &[R]) -> Vec<R> {
    input.iter().map(|&value| if value <= R::zero() { R::zero() } else { value }).collect()
}

/// Lets the gradient pass where ReLU's input was above 0.
pub(super) fn relu_backward<R: Real>(input: &[R], d: &mut [R]) {
    for (d, &value) in d.iter_mut().zip(input) {
        if value <= R::zero() {
            *d = R::zero();
        }
    }
}

/// The smallest distance from 0 of a ReLU's input that is not 0 itself.
pub(super) fn relu_kink_distance<R: Real>(input: &[R]) -> R {
    let distances = input.iter().map(|value| value.abs()).filter(|&distance| distance > R::zero());
    distances.fold(R::infinity(), R::min)
}

/// Softmax, shifted by the largest value so that nothing overflows.
pub(crate) fn softmax<R: Real>(values: &[R]) -> Vec<R> {
    let largest = values.iter().copied().fold(R::neg_infinity(), R::max);
    let mut exponentials: Vec<R> = values.iter().map(|&value| (value - largest).exp()).collect();
    let sum: R = exponentials.iter().copied().sum();
    for exponential in &mut exponentials {
        *exponential = *exponential / sum;
    }
    exponentials
}

/// The cross-entropy of softmax(logits) and the label, in nats, and its gradient by the logits.
pub(crate) fn softmax_cross_entropy<R: Real>(logits: &[R], label: usize) -> (R, Vec<R>) {
    let largest = logits.iter().copied().fold(R::neg_infinity(), R::max);
    let sum: R = logits.iter().map(|&logit| (logit - largest).exp()).sum();
    let loss = sum.ln() - (logits[label] - largest);
    let mut d_logits = softmax(logits);
    d_logits[label] -= R::one();
    (loss, d_logits)
}

pub(super) fn dot<R: Real>(left: &[R], right: &[R]) -> R {
    left.iter().zip(right).map(|(&left, &right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_neither_overflows_nor_loses_small_losses() {
        let (loss, d) = softmax_cross_entropy(&[1000.0, 0.0, -1000.0], 1);
        assert_eq!(loss, 1000.0);
        assert_eq!(d, [1.0, -1.0, 0.0]);
        let (loss, _) = softmax_cross_entropy(&[0.0_f64, -30.0], 0);
        assert!((loss - (-30.0_f64).exp()).abs() < 1e-15);
    }

    #[test]
    fn nan_passes_through_relu_and_softmax() {
        assert!(relu(&[f64::NAN])[0].is_nan());
        assert!(softmax_cross_entropy(&[0.0, f64::NAN], 0).0.is_nan());
    }
}
