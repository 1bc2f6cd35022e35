//! How inputs and weights lie in memory.
//!
//! Inputs, a row each: the mlp's are the pixels and a 1 for the bias; the cnn's are the image with its
//! border of zeros, 30 x 30; attention's are its 49 patches of 16 pixels. Weights are (in,
//! out); those of a first layer have the bias as their last row.

use candle_core::{Device, Result, Tensor, Var};
use kit::transposed;
use mnist::{CLASSES, PIXELS, SIDE};
use nn::{CONV_FILTERS, Model, PATCH, PATCHES, POOLED, Parameters};

/// Side of an image with a border of one pixel.
pub const PADDED: usize = SIDE + 2;
/// Values of a pooled plane.
pub const PLANE: usize = POOLED / CONV_FILTERS;
/// Side of a patch, and patches in a row.
const PATCH_SIDE: usize = 4;
const PATCHES_A_ROW: usize = SIDE / PATCH_SIDE;

/// Images, (count, 28, 28), as inputs, (count, width).
pub fn inputs(model: Model, images: &[u8]) -> Result<Tensor> {
    let width = match model {
        Model::Mlp(_) => PIXELS + 1,
        Model::Cnn => PADDED * PADDED,
        Model::Attention(_) => PIXELS,
    };
    let count = images.len() / PIXELS;
    let mut inputs = vec![0.0; count * width];
    for (row, image) in inputs.chunks_mut(width).zip(images.chunks(PIXELS)) {
        for (place, &byte) in image.iter().enumerate() {
            let (y, x) = (place / SIDE, place % SIDE);
            let to = match model {
                Model::Mlp(_) => place,
                Model::Cnn => (y + 1) * PADDED + x + 1,
                Model::Attention(_) => {
                    let patch = y / PATCH_SIDE * PATCHES_A_ROW + x / PATCH_SIDE;
                    patch * PATCH + y % PATCH_SIDE * PATCH_SIDE + x % PATCH_SIDE
                }
            };
            row[to] = f32::from(byte) / 255.0;
        }
        if matches!(model, Model::Mlp(_)) {
            row[width - 1] = 1.0;
        }
    }
    Tensor::from_vec(inputs, (count, width), &Device::Cpu)
}

/// The weights as variables: of each layer, in the model's order, the weight and then, where it is not
/// its last row, the bias.
pub fn variables(parameters: &Parameters) -> Result<Vec<Var>> {
    let model = parameters.model();
    let mut variables = Vec::new();
    let mut add = |values: Vec<f32>, shape: (usize, usize)| -> Result<()> {
        variables.push(Var::from_vec(values, shape, &Device::Cpu)?);
        Ok(())
    };
    match model {
        Model::Mlp(shape) => {
            let first = with_bias(parameters, "fc1", PIXELS);
            add(first, (PIXELS + 1, shape.hidden))?;
            linear(parameters, "fc2", shape.hidden, &mut add)?;
        }
        Model::Cnn => {
            add(with_bias(parameters, "conv", 9), (10, CONV_FILTERS))?;
            // (filter, row, column) x out becomes (row, column, filter) x out.
            let weight = parameters.tensor("fc.weight");
            let place = |input: usize| input % CONV_FILTERS * PLANE + input / CONV_FILTERS;
            let values = (0..POOLED * CLASSES)
                .map(|to| weight[to % CLASSES * POOLED + place(to / CLASSES)])
                .collect();
            add(values, (POOLED, CLASSES))?;
            add(parameters.tensor("fc.bias").to_vec(), (1, CLASSES))?;
        }
        Model::Attention(shape) => {
            let (d, ff) = (shape.d_model, shape.ff);
            linear(parameters, "patch", PATCH, &mut add)?;
            add(parameters.tensor("position").to_vec(), (PATCHES, d))?;
            for layer in ["query", "key", "value"] {
                linear(parameters, layer, d, &mut add)?;
            }
            linear(parameters, "ff1", d, &mut add)?;
            linear(parameters, "ff2", ff, &mut add)?;
            linear(parameters, "out", d, &mut add)?;
        }
    }
    Ok(variables)
}

/// The variables as weights in the canonical layout: the inverse of [`variables`].
pub fn parameters(model: Model, variables: &[Var]) -> Result<Parameters> {
    let mut parameters = Parameters::zeros(model);
    let mut values = variables.iter().map(|it| it.flatten_all()?.to_vec1::<f32>());
    let mut next = || values.next().expect("as many variables as `variables` makes");
    match model {
        Model::Mlp(_) => {
            split_bias(&mut parameters, "fc1", PIXELS, &next()?);
            unlinear(&mut parameters, "fc2", &next()?, &next()?);
        }
        Model::Cnn => {
            split_bias(&mut parameters, "conv", 9, &next()?);
            let from = next()?;
            let place = |input: usize| input % CONV_FILTERS * PLANE + input / CONV_FILTERS;
            let weight = parameters.tensor_mut("fc.weight");
            for (at, value) in from.iter().enumerate() {
                weight[at % CLASSES * POOLED + place(at / CLASSES)] = *value;
            }
            parameters.tensor_mut("fc.bias").copy_from_slice(&next()?);
        }
        Model::Attention(_) => {
            unlinear(&mut parameters, "patch", &next()?, &next()?);
            parameters.tensor_mut("position").copy_from_slice(&next()?);
            for layer in ["query", "key", "value", "ff1", "ff2", "out"] {
                unlinear(&mut parameters, layer, &next()?, &next()?);
            }
        }
    }
    Ok(parameters)
}

fn names(layer: &str) -> [String; 2] {
    [format!("{layer}.weight"), format!("{layer}.bias")]
}

/// A layer's weight as (in, out), and the bias as one more row.
fn with_bias(parameters: &Parameters, layer: &str, input: usize) -> Vec<f32> {
    let [weight, bias] = names(layer);
    let mut values = transposed(parameters.tensor(&weight), input);
    values.extend(parameters.tensor(&bias));
    values
}

fn split_bias(parameters: &mut Parameters, layer: &str, input: usize, values: &[f32]) {
    let [weight, bias] = names(layer);
    let out = values.len() / (input + 1);
    let (rows, last) = values.split_at(input * out);
    parameters.tensor_mut(&weight).copy_from_slice(&transposed(rows, out));
    parameters.tensor_mut(&bias).copy_from_slice(last);
}

/// A layer's weight as (in, out), and its bias as (1, out).
fn linear(
    parameters: &Parameters,
    layer: &str,
    input: usize,
    add: &mut impl FnMut(Vec<f32>, (usize, usize)) -> Result<()>,
) -> Result<()> {
    let [weight, bias] = names(layer);
    let bias = parameters.tensor(&bias).to_vec();
    let out = bias.len();
    add(transposed(parameters.tensor(&weight), input), (input, out))?;
    add(bias, (1, out))
}

fn unlinear(parameters: &mut Parameters, layer: &str, weight: &[f32], bias: &[f32]) {
    let [weight_name, bias_name] = names(layer);
    parameters.tensor_mut(&weight_name).copy_from_slice(&transposed(weight, bias.len()));
    parameters.tensor_mut(&bias_name).copy_from_slice(bias);
}
