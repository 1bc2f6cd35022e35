//! 4x4 patches, `patch` + `position`, ReLU, one head of self-attention, `ff1`, ReLU, `ff2` per
//! token, mean over tokens, `out`.

use super::layers::{
    Linear, dot, linear, linear_gradient, linear_input_gradient, relu, relu_backward,
    relu_kink_distance, softmax,
};
use super::{Buffer, Real};
use crate::{AttentionShape, PATCH, PATCHES};
use mnist::SIDE;

const PATCH_PROJECTION: Linear = ["patch.weight", "patch.bias"];
const QUERY: Linear = ["query.weight", "query.bias"];
const KEY: Linear = ["key.weight", "key.bias"];
const VALUE: Linear = ["value.weight", "value.bias"];
const FF1: Linear = ["ff1.weight", "ff1.bias"];
const FF2: Linear = ["ff2.weight", "ff2.bias"];
const OUT: Linear = ["out.weight", "out.bias"];

pub(super) struct Activations<R> {
    patches: Vec<R>,              // (49, 16)
    embedded_before_relu: Vec<R>, // (49, d_model)
    embedded: Vec<R>,             // (49, d_model)
    query: Vec<R>,                // (49, d_model)
    key: Vec<R>,                  // (49, d_model)
    value: Vec<R>,                // (49, d_model)
    weights: Vec<R>,              // (49, 49): of each token, its attention to each
    mixed: Vec<R>,                // (49, d_model)
    wide_before_relu: Vec<R>,     // (49, ff)
    wide: Vec<R>,                 // (49, ff)
    mean: Vec<R>,                 // (d_model)
    pub(super) logits: Vec<R>,    // (10)
}

impl<R: Real> Activations<R> {
    pub(super) fn kink_distance(&self) -> R {
        let embedded = relu_kink_distance(&self.embedded_before_relu);
        embedded.min(relu_kink_distance(&self.wide_before_relu))
    }
}

/// `pixels`: (28, 28).
pub(super) fn forward<R: Real>(
    AttentionShape { d_model, .. }: AttentionShape,
    parameters: &Buffer<R>,
    pixels: &[R],
) -> Activations<R> {
    let patches = cut(pixels);
    let mut embedded_before_relu = linear(parameters, PATCH_PROJECTION, &patches);
    for (value, &position) in embedded_before_relu.iter_mut().zip(parameters.tensor("position")) {
        *value += position;
    }
    let embedded = relu(&embedded_before_relu);

    let [query, key, value] = [QUERY, KEY, VALUE].map(|layer| linear(parameters, layer, &embedded));
    let mut weights = Vec::with_capacity(PATCHES * PATCHES);
    let mut mixed = vec![R::zero(); PATCHES * d_model];
    for (query, mixed) in query.chunks(d_model).zip(mixed.chunks_mut(d_model)) {
        let scores: Vec<R> =
            key.chunks(d_model).map(|key| dot(query, key) / root(d_model)).collect();
        let row = softmax(&scores);
        for (&weight, value) in row.iter().zip(value.chunks(d_model)) {
            add_scaled(mixed, weight, value);
        }
        weights.extend(row);
    }

    let wide_before_relu = linear(parameters, FF1, &mixed);
    let wide = relu(&wide_before_relu);
    let narrow = linear(parameters, FF2, &wide); // (49, d_model)
    let mut mean = vec![R::zero(); d_model];
    for token in narrow.chunks(d_model) {
        add_scaled(&mut mean, tokens::<R>().recip(), token);
    }
    let logits = linear(parameters, OUT, &mean);
    Activations {
        patches,
        embedded_before_relu,
        embedded,
        query,
        key,
        value,
        weights,
        mixed,
        wide_before_relu,
        wide,
        mean,
        logits,
    }
}

/// `d_logits`: (10).
pub(super) fn backward<R: Real>(
    parameters: &Buffer<R>,
    kept: &Activations<R>,
    d_logits: &[R],
    gradient: &mut Buffer<R>,
) {
    linear_gradient(gradient, OUT, &kept.mean, d_logits);
    let d_mean = linear_input_gradient(parameters, OUT, d_logits);
    let d_token: Vec<R> = d_mean.iter().map(|&d| d / tokens()).collect();
    let d_narrow = d_token.repeat(PATCHES); // (49, d_model)

    linear_gradient(gradient, FF2, &kept.wide, &d_narrow);
    let mut d_wide = linear_input_gradient(parameters, FF2, &d_narrow);
    relu_backward(&kept.wide_before_relu, &mut d_wide);
    linear_gradient(gradient, FF1, &kept.mixed, &d_wide);
    let d_mixed = linear_input_gradient(parameters, FF1, &d_wide);

    let mut d_embedded = vec![R::zero(); kept.embedded.len()];
    for (layer, d_output) in [QUERY, KEY, VALUE].into_iter().zip(attend_backward(kept, &d_mixed)) {
        linear_gradient(gradient, layer, &kept.embedded, &d_output);
        let d_input = linear_input_gradient(parameters, layer, &d_output);
        add_scaled(&mut d_embedded, R::one(), &d_input);
    }
    relu_backward(&kept.embedded_before_relu, &mut d_embedded);
    add_scaled(gradient.tensor_mut("position"), R::one(), &d_embedded);
    linear_gradient(gradient, PATCH_PROJECTION, &kept.patches, &d_embedded);
}

/// The gradients of query, key and value, each (49, d_model). `d_mixed`: (49, d_model).
fn attend_backward<R: Real>(kept: &Activations<R>, d_mixed: &[R]) -> [Vec<R>; 3] {
    let d_model = d_mixed.len() / PATCHES;
    let range = |index: usize| index * d_model..(index + 1) * d_model;
    let [mut d_query, mut d_key, mut d_value] = [(); 3].map(|()| vec![R::zero(); d_mixed.len()]);
    for to in 0..PATCHES {
        let weights = &kept.weights[to * PATCHES..][..PATCHES];
        let d_mixed = &d_mixed[range(to)];
        let d_weights: Vec<R> =
            kept.value.chunks(d_model).map(|value| dot(d_mixed, value)).collect();
        let mean = dot(weights, &d_weights); // softmax: d_score = weight * (d_weight - mean)
        for from in 0..PATCHES {
            add_scaled(&mut d_value[range(from)], weights[from], d_mixed);
            let d_score = weights[from] * (d_weights[from] - mean) / root(d_model);
            add_scaled(&mut d_query[range(to)], d_score, &kept.key[range(from)]);
            add_scaled(&mut d_key[range(from)], d_score, &kept.query[range(to)]);
        }
    }
    [d_query, d_key, d_value]
}

/// An image, (28, 28), as its patches, (49, 16): both in row order.
fn cut<R: Real>(pixels: &[R]) -> Vec<R> {
    let (side, per_row) = (4, SIDE / 4);
    let mut patches = Vec::with_capacity(PATCHES * PATCH);
    for patch in 0..PATCHES {
        for place in 0..PATCH {
            let row = patch / per_row * side + place / side;
            let column = patch % per_row * side + place % side;
            patches.push(pixels[row * SIDE + column]);
        }
    }
    patches
}

fn add_scaled<R: Real>(sum: &mut [R], factor: R, values: &[R]) {
    for (sum, &value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

fn tokens<R: Real>() -> R {
    (PATCHES as f32).into()
}

fn root<R: Real>(d_model: usize) -> R {
    let d_model: R = (d_model as f32).into();
    d_model.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use crate::reference::finite_differences::prove;

    #[test]
    fn every_gradient_agrees_with_finite_differences_at_ragged_widths() {
        for (seed, d_model, ff) in [(1, 1, 1), (2, 5, 3), (3, 8, 17), (4, 32, 64)] {
            prove(Model::Attention(AttentionShape { d_model, ff }), seed);
        }
    }

    #[test]
    fn patches_are_cut_row_by_row() {
        let pixels: Vec<f64> = (0..SIDE * SIDE).map(|index| index as f64).collect();
        let patches = cut(&pixels);
        assert_eq!(patches[..5], [0.0, 1.0, 2.0, 3.0, 28.0]);
        assert_eq!(patches[PATCH], 4.0, "the second patch is right of the first");
        assert_eq!(patches[7 * PATCH], 112.0, "the eighth is below the first");
        assert_eq!(patches[PATCHES * PATCH - 1], 783.0);
    }
}
