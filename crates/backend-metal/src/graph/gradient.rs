//! Gradients of a graph, backward from one number: what `gradientForPrimaryTensor` is documented to
//! compute, for the operations that the models use between their parameters and the loss.

use super::description::{Binary, Graph, Node, Op};
use super::operations::{
    Values, chosen, mat_mul, matrices, places, repeated, softmax_rows, taps, transposed,
};
use std::collections::BTreeMap;

/// The gradient of `loss` by every node that it depends on through operations that can be
/// differentiated.
pub(super) fn gradients(graph: &Graph, loss: Node, values: &Values) -> BTreeMap<Node, Vec<f32>> {
    let mut found = BTreeMap::from([(loss, vec![1.0])]);
    for index in (0..=loss.0).rev() {
        let Some(incoming) = found.get(&Node(index)).cloned() else { continue };
        for (node, share) in shares(graph, Node(index), values, &incoming) {
            assert_eq!(share.len(), graph.tensor(node).len());
            let sum = found.entry(node).or_insert_with(|| vec![0.0; share.len()]);
            sum.iter_mut().zip(share).for_each(|(sum, share)| *sum += share);
        }
    }
    found
}

/// What a node passes on to each of those it takes, from the gradient by itself.
fn shares(graph: &Graph, at: Node, values: &Values, incoming: &[f32]) -> Vec<(Node, Vec<f32>)> {
    let tensor = graph.tensor(at);
    let of = |node: Node| values[node.0].as_slice();
    match tensor.op {
        // Nothing that is trained lies behind these.
        Op::Placeholder | Op::Constant(_) | Op::Coordinate | Op::Cast(_) => vec![],
        Op::Gather { .. } | Op::OneHot(_) | Op::Equal(..) => vec![],
        Op::Select { .. } | Op::Gradient { .. } | Op::Descend { .. } => {
            panic!("no gradient passes {tensor:?}")
        }
        Op::Reshape(node) => vec![(node, incoming.to_vec())],
        Op::Binary(operation, left, right) => {
            binary(graph, [left, right], at, operation, values, incoming)
        }
        Op::MatMul(left, right) => product(graph, [left, right], values, incoming),
        Op::Transpose(node, one, other) => {
            vec![(node, transposed(incoming, &tensor.shape, one, other))]
        }
        Op::Relu(node) => {
            let pairs = incoming.iter().zip(of(node));
            vec![(node, pairs.map(|(&d, &value)| if value > 0.0 { d } else { 0.0 }).collect())]
        }
        Op::Softmax(node) => {
            let columns = tensor.shape[tensor.shape.len() - 1];
            let rows = of(at).chunks(columns).zip(incoming.chunks(columns));
            let row = |(weights, d): (&[f32], &[f32])| {
                let mean: f32 = weights.iter().zip(d).map(|(weight, d)| weight * d).sum();
                let each = weights.iter().zip(d);
                each.map(|(weight, d)| weight * (d - mean)).collect::<Vec<_>>()
            };
            vec![(node, rows.flat_map(row).collect())]
        }
        Op::Sum(node, _) => {
            vec![(node, repeated(incoming, &tensor.shape, graph.shape(node)))]
        }
        Op::CrossEntropy { logits, labels } => {
            let weights = softmax_rows(of(logits), graph.shape(logits)[1]);
            let pairs = weights.iter().zip(of(labels));
            vec![(logits, pairs.map(|(weight, label)| incoming[0] * (weight - label)).collect())]
        }
        Op::Convolve { images, weights } => {
            let mut by_weights = vec![0.0; graph.tensor(weights).len()];
            taps(graph.shape(images), graph.shape(weights), |output, image, weight| {
                by_weights[weight] += incoming[output] * of(images)[image];
            });
            vec![(weights, by_weights)] // the images are data
        }
        Op::MaxPool(node) => {
            let mut by_node = vec![0.0; graph.tensor(node).len()];
            let places = chosen(of(node), graph.shape(node));
            places.into_iter().zip(incoming).for_each(|(place, d)| by_node[place] += d);
            vec![(node, by_node)]
        }
    }
}

fn binary(
    graph: &Graph,
    operands: [Node; 2],
    at: Node,
    operation: Binary,
    values: &Values,
    incoming: &[f32],
) -> Vec<(Node, Vec<f32>)> {
    let shape = graph.shape(at);
    let [left, right] = operands.map(|node| repeated(&values[node.0], graph.shape(node), shape));
    let factor = |index: usize| match operation {
        Binary::Add => [1.0, 1.0],
        Binary::Multiply => [right[index], left[index]],
        Binary::Divide => [1.0 / right[index], -left[index] / (right[index] * right[index])],
    };
    (0..2)
        .map(|side| {
            let node = operands[side];
            // Where an operand was repeated, its gradient is the sum.
            let mut share = vec![0.0; graph.tensor(node).len()];
            for (index, place) in places(graph.shape(node), shape).into_iter().enumerate() {
                share[place] += incoming[index] * factor(index)[side];
            }
            (node, share)
        })
        .collect()
}

fn product(
    graph: &Graph,
    [left, right]: [Node; 2],
    values: &Values,
    incoming: &[f32],
) -> Vec<(Node, Vec<f32>)> {
    let [count, rows, interior] = matrices(graph.shape(left));
    let columns = matrices(graph.shape(right))[2];
    let turned = |node: Node| {
        let rank = graph.shape(node).len();
        transposed(&values[node.0], graph.shape(node), rank - 2, rank - 1)
    };
    let by_left = mat_mul(incoming, &turned(right), [count, rows, columns, interior]);
    let by_right = mat_mul(&turned(left), incoming, [count, interior, rows, columns]);
    vec![(left, by_left), (right, by_right)]
}
