//! The models' forward passes; candle differentiates them.

use crate::convolution::{Pool, Windows};
use crate::ops::{FirstProduct, Relu};
use candle_core::{D, Result, Tensor, Var};
use nn::{Model, PATCH, PATCHES, POOLED};

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

/// The convolution as one product, and the pooling of our own: candle's `conv2d` would compute the
/// gradient of the pixels too, by a transposed convolution.
fn cnn(variables: &[Var], inputs: &Tensor) -> Result<Tensor> {
    let [filters, weight, bias] = variables else { unreachable!("a cnn's variables") };
    let windows = inputs.apply_op1_no_bwd(&Windows)?; // (batch x 4 x 14 x 14, 10)
    let convolved = windows.apply_op2(filters.as_tensor(), FirstProduct)?;
    let pooled = convolved.apply_op1(Pool)?.apply_op1(Relu)?; // (batch x 14 x 14, 8)
    pooled.reshape((inputs.dim(0)?, POOLED))?.matmul(weight)?.broadcast_add(bias)
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
pub fn softmax(scores: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
    let exponentials = shifted.exp()?;
    exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)
}
