//! Weights in and out of the modules. burn's linear layers are (in, out), its convolutions PyTorch's.

use crate::network::{Attention, Cnn, Mlp, Network, one_pixel};
use burn::module::Param;
use burn::nn::Linear;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::MaxPool2dConfig;
use burn::tensor::{Device, Tensor, TensorData};
use kit::transposed;
use mnist::PIXELS;
use nn::{CONV_FILTERS, Model, PATCH, PATCHES, POOLED, Parameters};

/// The network with these weights, on a device with autodiff.
pub fn network(parameters: &Parameters, device: &Device) -> Network {
    let linear = |name: &str, input: usize| {
        let weight = parameters.tensor(&format!("{name}.weight"));
        let bias = parameters.tensor(&format!("{name}.bias"));
        let shape = [input, bias.len()];
        Linear {
            weight: learnt(transposed(weight, input), shape, device),
            bias: Some(learnt(bias.to_vec(), [bias.len()], device)),
        }
    };
    match parameters.model() {
        Model::Mlp(shape) => {
            Network::Mlp(Mlp { fc1: linear("fc1", PIXELS), fc2: linear("fc2", shape.hidden) })
        }
        Model::Cnn => Network::Cnn(Cnn {
            conv: convolution(parameters, device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            fc: linear("fc", POOLED),
        }),
        Model::Attention(shape) => {
            let position = parameters.tensor("position").to_vec();
            Network::Attention(Attention {
                patch: linear("patch", PATCH),
                position: learnt(position, [PATCHES, shape.d_model], device),
                query: linear("query", shape.d_model),
                key: linear("key", shape.d_model),
                value: linear("value", shape.d_model),
                ff1: linear("ff1", shape.d_model),
                ff2: linear("ff2", shape.ff),
                out: linear("out", shape.d_model),
            })
        }
    }
}

/// The network's weights in the canonical layout.
pub fn parameters(model: Model, network: &Network) -> Parameters {
    let mut parameters = Parameters::zeros(model);
    match network {
        Network::Mlp(Mlp { fc1, fc2 }) => {
            put_linear(&mut parameters, "fc1", fc1);
            put_linear(&mut parameters, "fc2", fc2);
        }
        Network::Cnn(Cnn { conv, fc, .. }) => {
            parameters.tensor_mut("conv.weight").copy_from_slice(&values(&conv.weight));
            parameters.tensor_mut("conv.bias").copy_from_slice(&bias(&conv.bias));
            put_linear(&mut parameters, "fc", fc);
        }
        Network::Attention(it) => {
            parameters.tensor_mut("position").copy_from_slice(&values(&it.position));
            put_linear(&mut parameters, "patch", &it.patch);
            put_linear(&mut parameters, "query", &it.query);
            put_linear(&mut parameters, "key", &it.key);
            put_linear(&mut parameters, "value", &it.value);
            put_linear(&mut parameters, "ff1", &it.ff1);
            put_linear(&mut parameters, "ff2", &it.ff2);
            put_linear(&mut parameters, "out", &it.out);
        }
    }
    parameters
}

fn convolution(parameters: &Parameters, device: &Device) -> Conv2d {
    let config = Conv2dConfig::new([1, CONV_FILTERS], [3, 3]).with_padding(one_pixel());
    let mut convolution = config.init(device);
    let weight = parameters.tensor("conv.weight").to_vec();
    convolution.weight = learnt(weight, [CONV_FILTERS, 1, 3, 3], device);
    let bias = parameters.tensor("conv.bias").to_vec();
    convolution.bias = Some(learnt(bias, [CONV_FILTERS], device));
    convolution
}

fn learnt<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Param<Tensor<D>> {
    Param::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(tensor: &Param<Tensor<D>>) -> Vec<f32> {
    tensor.val().into_data().try_to_vec().expect("the weights are float32")
}

fn bias(bias: &Option<Param<Tensor<1>>>) -> Vec<f32> {
    values(bias.as_ref().expect("every layer was given a bias"))
}

fn put_linear(parameters: &mut Parameters, name: &str, layer: &Linear) {
    let bias = bias(&layer.bias);
    let weight = transposed(&values(&layer.weight), bias.len());
    parameters.tensor_mut(&format!("{name}.weight")).copy_from_slice(&weight);
    parameters.tensor_mut(&format!("{name}.bias")).copy_from_slice(&bias);
}
