//! The forward passes as graphs; the gradients are the graph's own business.

use super::description::{DataType, Graph, Node};
use mnist::{CLASSES, PIXELS, SIDE};
use nn::{AttentionShape, CONV_FILTERS, Model, PATCH, PATCHES, POOLED};

/// Tokens of a line of an image, and pixels of a line of a token.
const TOKENS_ACROSS: usize = 7;
const PATCH_SIDE: usize = 4;

/// A batch of images, (batch, 784), 0 to 1.
#[derive(Clone, Copy)]
pub(crate) struct Pixels(Node);

/// What is added to a byte so that it fits a signed one: gathering unsigned bytes is not to be had
/// in every version of MPSGraph (PyTorch's `index_select` passes them off as signed ones).
pub(crate) const SIGN: u8 = 128;

/// As the device keeps a byte of an image.
pub(crate) fn signed(byte: u8) -> u8 {
    byte.wrapping_sub(SIGN)
}

impl Pixels {
    /// From [`signed`] bytes.
    pub(crate) fn of(graph: &mut Graph, bytes: Node) -> Pixels {
        let float = graph.cast(bytes, DataType::Float32);
        let sign = graph.constant(f64::from(SIGN), &[1, 1], DataType::Float32);
        let byte = graph.add(float, sign); // exact
        let most = graph.constant(255.0, &[1, 1], DataType::Float32);
        Pixels(graph.divide(byte, most))
    }
}

/// (batch, 10). `parameters` are in the order of [`Model::tensors`].
pub(crate) fn logits(
    graph: &mut Graph,
    model: Model,
    parameters: &[Node],
    Pixels(pixels): Pixels,
) -> Node {
    match (model, parameters) {
        (Model::Mlp(_), &[weight_1, bias_1, weight_2, bias_2]) => {
            let hidden = linear(graph, pixels, [weight_1, bias_1]);
            let hidden = graph.relu(hidden);
            linear(graph, hidden, [weight_2, bias_2])
        }
        (Model::Cnn, &[conv, conv_bias, fc, fc_bias]) => {
            let batch = graph.shape(pixels)[0];
            let images = graph.reshape(pixels, &[batch, 1, SIDE, SIDE]);
            let convolved = graph.convolve(images, conv);
            let convolved = graph.add(convolved, conv_bias);
            let convolved = graph.relu(convolved);
            let pooled = graph.max_pool(convolved);
            debug_assert_eq!(graph.shape(pooled)[1], CONV_FILTERS);
            let pooled = graph.reshape(pooled, &[batch, POOLED]);
            linear(graph, pooled, [fc, fc_bias])
        }
        (Model::Attention(shape), parameters) => attention(graph, shape, parameters, pixels),
        (model, parameters) => panic!("{} tensors of {model:?}", parameters.len()),
    }
}

/// `input` times the weight's transpose, plus the bias.
fn linear(graph: &mut Graph, input: Node, [weight, bias]: [Node; 2]) -> Node {
    let columns = graph.transpose(weight, 0, 1);
    let product = graph.mat_mul(input, columns);
    graph.add(product, bias)
}

/// Tokens are rows of (batch * 49, width); where samples matter, (batch, 49, width).
fn attention(
    graph: &mut Graph,
    AttentionShape { d_model, ff }: AttentionShape,
    parameters: &[Node],
    pixels: Node,
) -> Node {
    let &[
        patch,
        patch_bias,
        position,
        query,
        query_bias,
        key,
        key_bias,
        value,
        value_bias,
        ff1,
        ff1_bias,
        ff2,
        ff2_bias,
        out,
        out_bias,
    ] = parameters
    else {
        panic!("{} tensors of the attention model", parameters.len());
    };
    let batch = graph.shape(pixels)[0];
    let samples = [batch, PATCHES, d_model];
    let tokens = [batch * PATCHES, d_model];

    let patches = cut(graph, pixels);
    let embedded = linear(graph, patches, [patch, patch_bias]);
    let embedded = graph.reshape(embedded, &samples);
    let embedded = graph.add(embedded, position);
    let embedded = graph.relu(embedded);
    let embedded = graph.reshape(embedded, &tokens);

    let [query, key, value] =
        [[query, query_bias], [key, key_bias], [value, value_bias]].map(|layer| {
            let projected = linear(graph, embedded, layer);
            graph.reshape(projected, &samples)
        });
    let keys = graph.transpose(key, 1, 2);
    let scores = graph.mat_mul(query, keys); // (batch, 49, 49)
    let root = graph.constant((d_model as f64).sqrt(), &[1, 1, 1], DataType::Float32);
    let scores = graph.divide(scores, root);
    let weights = graph.softmax(scores);
    let mixed = graph.mat_mul(weights, value);
    let mixed = graph.reshape(mixed, &tokens);

    // As the mean over tokens is linear, `ff2` is applied once to the mean of the ReLUs.
    let wide = linear(graph, mixed, [ff1, ff1_bias]);
    let wide = graph.relu(wide);
    let wide = graph.reshape(wide, &[batch, PATCHES, ff]);
    let sum = graph.sum(wide, 1);
    let sum = graph.reshape(sum, &[batch, ff]);
    let count = graph.constant(PATCHES as f64, &[1, 1], DataType::Float32);
    let mean = graph.divide(sum, count);
    let narrow = linear(graph, mean, [ff2, ff2_bias]);
    let logits = linear(graph, narrow, [out, out_bias]);
    debug_assert_eq!(graph.shape(logits), [batch, CLASSES]);
    logits
}

/// Images (batch, 784) as patches, (batch * 49, 16), both in row order.
fn cut(graph: &mut Graph, pixels: Node) -> Node {
    let batch = graph.shape(pixels)[0];
    debug_assert_eq!(graph.shape(pixels)[1], PIXELS);
    let (across, side) = (TOKENS_ACROSS, PATCH_SIDE);
    let lines = graph.reshape(pixels, &[batch, across, side, across, side]);
    let turned = graph.transpose(lines, 2, 3);
    graph.reshape(turned, &[batch * PATCHES, PATCH])
}
