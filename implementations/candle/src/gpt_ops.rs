//! Operations of the GPT that candle has without a gradient, or made of many passes: LayerNorm, GELU, the
//! causal softmax, and a step of AdamW in place. Rows are shared out over rayon's threads.

use crate::ops::values;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail,
};
use nn::gpt::optimiser::{BETA1, BETA2, EPSILON, WEIGHT_DECAY};
use nn::gpt::{Decay, LAYER_NORM_EPSILON, Step};
use rayon::prelude::*;
use std::sync::Mutex;

/// Rows that one thread takes at least.
const ROWS: usize = 16;

/// `(x - mean) / sqrt(variance + epsilon) * weight` of each row.
pub struct LayerNorm;

/// Of a row: its mean and 1 / sqrt(variance + epsilon).
fn moments(row: &[f32]) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    (mean, 1.0 / (variance + LAYER_NORM_EPSILON as f32).sqrt())
}

impl CustomOp2 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (input, weight) = (values(input, layout)?, values(weight, weight_layout)?);
        let width = weight.len();
        let mut output = vec![0.0; input.len()];
        let rows = output.par_chunks_mut(width).zip(input.par_chunks(width)).with_min_len(ROWS);
        rows.for_each(|(output, row)| {
            let (mean, scale) = moments(row);
            for ((output, x), weight) in output.iter_mut().zip(row).zip(weight) {
                *output = (x - mean) * scale * weight;
            }
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _output: &Tensor,
        d_output: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let d_output = d_output.contiguous()?;
        let normal = input.apply_op1_no_bwd(&Normal)?;
        let d_weight = (&normal * &d_output)?.sum(0)?;
        let d_normal = d_output.broadcast_mul(weight)?;
        let d_input = d_normal.apply_op2_no_bwd(input, &NormGradient)?;
        Ok((Some(d_input), Some(d_weight)))
    }
}

/// Each row with mean 0 and variance 1.
struct Normal;

impl CustomOp1 for Normal {
    fn name(&self) -> &'static str {
        "normal"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let mut output = values(input, layout)?.to_vec();
        output.par_chunks_mut(width).with_min_len(ROWS).for_each(|row| {
            let (mean, scale) = moments(row);
            row.iter_mut().for_each(|x| *x = (*x - mean) * scale);
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }
}

/// Of the gradient of the normal rows and the input, the input's gradient.
struct NormGradient;

impl CustomOp2 for NormGradient {
    fn name(&self) -> &'static str {
        "norm-gradient"
    }

    fn cpu_fwd(
        &self,
        d_normal: &CpuStorage,
        d_layout: &Layout,
        input: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let input = values(input, layout)?;
        let mut d = values(d_normal, d_layout)?.to_vec();
        let rows = d.par_chunks_mut(width).zip(input.par_chunks(width)).with_min_len(ROWS);
        rows.for_each(|(d, row)| {
            let (mean, scale) = moments(row);
            let count = width as f32;
            let middle = d.iter().sum::<f32>() / count;
            let along = d.iter().zip(row).map(|(d, x)| d * (x - mean) * scale).sum::<f32>() / count;
            for (d, x) in d.iter_mut().zip(row) {
                *d = scale * (*d - middle - (x - mean) * scale * along);
            }
        });
        Ok((CpuStorage::F32(d), layout.shape().clone()))
    }
}

/// The softmax of each row of scores, (..., tokens, tokens), times a scale, up to the diagonal.
#[derive(Clone, Copy)]
pub struct CausalSoftmax {
    pub scale: f32,
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let tokens = layout.shape().dims()[layout.shape().rank() - 1];
        let mut weights = values(scores, layout)?.to_vec();
        weights.par_chunks_mut(tokens).enumerate().with_min_len(ROWS).for_each(|(row, weights)| {
            let (seen, rest) = weights.split_at_mut(row % tokens + 1);
            let largest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            seen.iter_mut().for_each(|it| *it = ((*it - largest) * self.scale).exp());
            let sum: f32 = seen.iter().sum();
            seen.iter_mut().for_each(|it| *it /= sum);
            rest.fill(0.0);
        });
        Ok((CpuStorage::F32(weights), layout.shape().clone()))
    }

    fn bwd(&self, _scores: &Tensor, weights: &Tensor, d: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(d.contiguous()?.apply_op2_no_bwd(weights, &SoftmaxGradient(*self))?))
    }
}

struct SoftmaxGradient(CausalSoftmax);

impl CustomOp2 for SoftmaxGradient {
    fn name(&self) -> &'static str {
        "softmax-gradient"
    }

    fn cpu_fwd(
        &self,
        d: &CpuStorage,
        d_layout: &Layout,
        weights: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let tokens = layout.shape().dims()[layout.shape().rank() - 1];
        let weights = values(weights, layout)?;
        let mut d = values(d, d_layout)?.to_vec();
        let rows = d.par_chunks_mut(tokens).zip(weights.par_chunks(tokens)).with_min_len(ROWS);
        rows.for_each(|(d, weights)| {
            let along: f32 = d.iter().zip(weights).map(|(d, weight)| d * weight).sum();
            for (d, weight) in d.iter_mut().zip(weights) {
                *d = weight * (*d - along) * self.0.scale;
            }
        });
        Ok((CpuStorage::F32(d), layout.shape().clone()))
    }
}

/// `sqrt(2 / pi)`.
const SCALE: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;
/// Elements that one thread takes at least.
const ELEMENTS: usize = 4096;

/// The tanh form.
pub struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut output = values(input, layout)?.to_vec();
        output.par_iter_mut().with_min_len(ELEMENTS).for_each(|x| {
            *x = 0.5 * *x * (1.0 + (SCALE * (*x + CUBE * *x * *x * *x)).tanh());
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    fn bwd(&self, input: &Tensor, _output: &Tensor, d: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(d.contiguous()?.apply_op2_no_bwd(input, &GeluGradient)?))
    }
}

struct GeluGradient;

impl CustomOp2 for GeluGradient {
    fn name(&self) -> &'static str {
        "gelu-gradient"
    }

    fn cpu_fwd(
        &self,
        d: &CpuStorage,
        d_layout: &Layout,
        input: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let input = values(input, layout)?;
        let mut d = values(d, d_layout)?.to_vec();
        d.par_iter_mut().zip(input).with_min_len(ELEMENTS).for_each(|(d, &x)| {
            let tanh = (SCALE * (x + CUBE * x * x * x)).tanh();
            let inner = SCALE * (1.0 + 3.0 * CUBE * x * x);
            *d *= 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner;
        });
        Ok((CpuStorage::F32(d), layout.shape().clone()))
    }
}

/// A step of AdamW on a weight, with its gradient and moments.
pub struct AdamW<'a> {
    numbers: Step,
    /// What the gradient is multiplied with.
    clip: f32,
    decay: Decay,
    /// An operation may not change itself; only one thread comes here.
    moments: Mutex<&'a mut [Vec<f32>; 2]>,
}

impl<'a> AdamW<'a> {
    pub fn new(
        numbers: Step,
        clip: f64,
        decay: Decay,
        moments: &'a mut [Vec<f32>; 2],
    ) -> AdamW<'a> {
        AdamW { numbers, clip: clip as f32, decay, moments: Mutex::new(moments) }
    }
}

impl InplaceOp2 for AdamW<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(weight), Some((from, to))) =
            (weight, weight_layout.contiguous_offsets())
        else {
            bail!("it needs contiguous float32 values")
        };
        let Ok(mut moments) = self.moments.lock() else { bail!("a step that failed before") };
        let [first, second] = &mut **moments;
        let Step { rate, correction1, correction2 } = self.numbers;
        let keep = match self.decay {
            Decay::Matrix => (1.0 - rate * WEIGHT_DECAY) as f32,
            Decay::Vector => 1.0,
        };
        let (stride, root) = ((rate / correction1) as f32, 1.0 / correction2.sqrt() as f32);
        let (beta1, beta2) = (BETA1 as f32, BETA2 as f32);
        let (fresh1, fresh2) = ((1.0 - BETA1) as f32, (1.0 - BETA2) as f32);
        let elements = (weight[from..to].par_iter_mut(), values(gradient, gradient_layout)?)
            .into_par_iter()
            .zip((first.par_iter_mut(), second.par_iter_mut()).into_par_iter());
        elements.with_min_len(ELEMENTS).for_each(|((weight, slope), (first, second))| {
            let slope = self.clip * slope;
            *first = beta1 * *first + fresh1 * slope;
            *second = beta2 * *second + fresh2 * slope * slope;
            let step = stride * *first / (second.sqrt() * root + EPSILON as f32);
            *weight = *weight * keep - step;
        });
        Ok(())
    }
}
