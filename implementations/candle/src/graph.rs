//! The models' forward passes; candle differentiates them.

use crate::layout::{PLANE, windows};
use crate::ops::{FirstProduct, Relu};
use candle_core::{D, Device, Result, Tensor, Var};
use nn::{Model, PATCH, PATCHES, POOLED};
use std::sync::OnceLock;

/// The logits, (batch, 10).
pub fn logits(model: Model, variables: &[Var], inputs: &Tensor) -> Result<Tensor> {
    match model {
        Model::Mlp(_) => mlp(variables, inputs),
        Model::Cnn => cnn(variables, inputs),
        Model::Attention(shape) => attention(shape.d_model, variables, inputs),
    }
}

/// The mean of the softmax cross-entropies of the logits, (batch, 10), and the labels, (batch).
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let sums = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let right = shifted.gather(&labels.unsqueeze(1)?, 1)?;
    (sums - right)?.mean_all()
}

fn mlp(variables: &[Var], inputs: &Tensor) -> Result<Tensor> {
    let [first, weight, bias] = variables else { unreachable!("an mlp's variables") };
    let hidden = inputs.apply_op2(first.as_tensor(), FirstProduct)?.apply_op1(Relu)?;
    hidden.matmul(weight)?.broadcast_add(bias)
}

/// The convolution as four products, one for each place of a pooling window, whose outputs are the
/// windows' values side by side: pooling is then the largest of four tensors.
///
/// candle's own `max_pool2d` cannot be used: in 0.11.1 its backward pass gives a window's maximum a
/// quarter of its gradient. Nor can `max` over a dimension, which gives equal values the whole gradient
/// each (the blank parts of an image are equal values). `maximum` halves it between two equal ones,
/// which comes to the same as giving it to the first: equal windows have equal inputs.
fn cnn(variables: &[Var], inputs: &Tensor) -> Result<Tensor> {
    static WINDOWS: OnceLock<[Tensor; 4]> = OnceLock::new();
    let [filters, weight, bias] = variables else { unreachable!("a cnn's variables") };
    let batch = inputs.dim(0)?;
    let places = WINDOWS.get_or_init(|| {
        [0, 1, 2, 3].map(|place| {
            Tensor::new(windows(place), &Device::Cpu).expect("a list of numbers is a tensor")
        })
    });
    let convolved = places.each_ref().map(|windows| {
        let windows = inputs.index_select(windows, 1)?.reshape((batch * PLANE, 10))?;
        windows.apply_op2(filters.as_tensor(), FirstProduct) // (batch x 14 x 14, 8)
    });
    let [a, b, c, d] = convolved;
    let pooled = a?.maximum(&b?)?.maximum(&c?.maximum(&d?)?)?.apply_op1(Relu)?;
    pooled.reshape((batch, POOLED))?.matmul(weight)?.broadcast_add(bias)
}

fn attention(d_model: usize, variables: &[Var], inputs: &Tensor) -> Result<Tensor> {
    let [patch, patch_bias, position, layers @ ..] = variables else {
        unreachable!("attention's variables")
    };
    let [q, q_bias, k, k_bias, v, v_bias, ff1, ff1_bias, ff2, ff2_bias, out, out_bias] = layers
    else {
        unreachable!("attention's variables")
    };
    let batch = inputs.dim(0)?;
    let patches = inputs.reshape((batch * PATCHES, PATCH))?;
    let place = position.broadcast_add(patch_bias)?;
    let tokens = patches.apply_op2(patch.as_tensor(), FirstProduct)?;
    let tokens =
        tokens.reshape((batch, PATCHES, d_model))?.broadcast_add(&place)?.apply_op1(Relu)?;
    let tokens = tokens.reshape((batch * PATCHES, d_model))?;
    let heads = |weight: &Var, bias: &Var| -> Result<Tensor> {
        tokens.matmul(weight)?.broadcast_add(bias)?.reshape((batch, PATCHES, d_model))
    };
    let (query, key, value) = (heads(q, q_bias)?, heads(k, k_bias)?, heads(v, v_bias)?);
    let scale = 1.0 / (d_model as f64).sqrt();
    let scores = (query.matmul(&key.t()?)? * scale)?;
    let attended = softmax(&scores)?.matmul(&value)?.reshape((batch * PATCHES, d_model))?;
    let hidden = attended.matmul(ff1)?.broadcast_add(ff1_bias)?.apply_op1(Relu)?;
    let tokens = hidden.matmul(ff2)?.broadcast_add(ff2_bias)?;
    let mean = tokens.reshape((batch, PATCHES, d_model))?.mean(1)?;
    mean.matmul(out)?.broadcast_add(out_bias)
}

/// Over the last dimension.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
    let exponentials = shifted.exp()?;
    exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)
}
