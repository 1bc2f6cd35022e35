//! The graphs of `mpsgraph`, carried out in plain loops: what `MPSGraph` is documented to do, in
//! float32, whole numbers included (they stay far below 2^24). Gradients are in `gradient.rs`.
//!
//! A ReLU makes 0 of NaN here, as `MPSGraph`'s may.

use super::description::{Binary, DataType, Graph, Node, Op};
use super::gradient::gradients;
use super::operations::{
    Values, chosen, cross_entropy, mat_mul, matrices, places, repeated, softmax_rows, taps,
    transposed,
};
use super::session::{BufferId, Device};
use super::step::Description;
use crate::seen::Seen;
use nn::backend::TrainError;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Every node, from the feeds.
pub(super) fn evaluate(graph: &Graph, feeds: &BTreeMap<Node, Vec<f32>>) -> Values {
    let mut values: Values = Vec::with_capacity(graph.tensors().len());
    let mut found = BTreeMap::new(); // gradients, by what they are of
    for index in 0..graph.tensors().len() {
        let value = node(graph, Node(index), feeds, &values, &mut found);
        assert_eq!(value.len(), graph.tensors()[index].len(), "{:?}", graph.tensors()[index]);
        values.push(value);
    }
    values
}

fn node(
    graph: &Graph,
    at: Node,
    feeds: &BTreeMap<Node, Vec<f32>>,
    values: &Values,
    found: &mut BTreeMap<Node, BTreeMap<Node, Vec<f32>>>,
) -> Vec<f32> {
    let tensor = graph.tensor(at);
    let shape = &tensor.shape;
    let of = |node: Node| values[node.0].as_slice();
    let fitting = |node: Node| repeated(of(node), graph.shape(node), shape);
    match tensor.op {
        Op::Placeholder => feeds[&at].clone(),
        Op::Constant(value) => vec![value as f32; tensor.len()],
        Op::Coordinate => (0..tensor.len()).map(|place| place as f32).collect(),
        Op::Cast(node) | Op::Reshape(node) => of(node).to_vec(),
        Op::Gather { from, at } => {
            let width = graph.tensor(from).len() / graph.shape(from)[0];
            let rows = of(at).iter().map(|&row| &of(from)[row as usize * width..][..width]);
            rows.flatten().copied().collect()
        }
        Op::OneHot(node) => {
            let row = |&label: &f32| (0..shape[1]).map(move |at| f32::from(at as f32 == label));
            of(node).iter().flat_map(row).collect()
        }
        Op::Binary(operation, left, right) => {
            let pairs = fitting(left).into_iter().zip(fitting(right));
            let apply = |(left, right): (f32, f32)| match operation {
                Binary::Add => left + right,
                Binary::Multiply => left * right,
                Binary::Divide => left / right,
            };
            pairs.map(apply).collect()
        }
        Op::Equal(left, right) => {
            let pairs = fitting(left).into_iter().zip(fitting(right));
            pairs.map(|(left, right)| f32::from(left == right)).collect()
        }
        Op::Select { condition, yes, no } => {
            let pairs = fitting(yes).into_iter().zip(fitting(no));
            let choices = fitting(condition).into_iter().zip(pairs);
            choices.map(|(is, (yes, no))| if is == 1.0 { yes } else { no }).collect()
        }
        Op::MatMul(left, right) => {
            let [count, rows, interior] = matrices(graph.shape(left));
            let sizes = [count, rows, interior, shape[shape.len() - 1]];
            mat_mul(of(left), of(right), sizes)
        }
        Op::Transpose(node, one, other) => transposed(of(node), graph.shape(node), one, other),
        Op::Relu(node) => of(node).iter().map(|value| value.max(0.0)).collect(),
        Op::Softmax(node) => softmax_rows(of(node), shape[shape.len() - 1]),
        Op::Sum(node, _) => {
            let mut sums = vec![0.0; tensor.len()];
            let summed = places(shape, graph.shape(node));
            summed.into_iter().zip(of(node)).for_each(|(place, value)| sums[place] += value);
            sums
        }
        Op::CrossEntropy { logits, labels } => {
            vec![cross_entropy(of(logits), of(labels), graph.shape(logits)[1])]
        }
        Op::Convolve { images, weights } => {
            let mut result = vec![0.0; tensor.len()];
            taps(graph.shape(images), graph.shape(weights), |output, image, weight| {
                result[output] += of(images)[image] * of(weights)[weight];
            });
            result
        }
        Op::MaxPool(node) => {
            let places = chosen(of(node), graph.shape(node)).into_iter();
            places.map(|place| of(node)[place]).collect()
        }
        Op::Gradient { of: loss, by } => {
            let all = found.entry(loss).or_insert_with(|| gradients(graph, loss, values));
            all.get(&by).expect("the loss depends on it").clone()
        }
        Op::Descend { rate, values: old, gradient } => {
            let pairs = of(old).iter().zip(of(gradient));
            pairs.map(|(old, gradient)| old - of(rate)[0] * gradient).collect()
        }
    }
}

/// Elements as bytes of a buffer, and back.
fn decoded(bytes: &[u8], data_type: DataType) -> Vec<f32> {
    match data_type {
        DataType::Float32 => bytemuck::pod_collect_to_vec(bytes),
        DataType::Int32 => {
            let integers: Vec<i32> = bytemuck::pod_collect_to_vec(bytes);
            integers.into_iter().map(|value| value as f32).collect()
        }
        DataType::Int8 => bytes.iter().map(|&byte| f32::from(byte as i8)).collect(),
        DataType::Bool => bytes.iter().map(|&byte| f32::from(byte)).collect(),
    }
}

fn encoded(values: &[f32], data_type: DataType) -> Vec<u8> {
    match data_type {
        DataType::Float32 => bytemuck::cast_slice(values).to_vec(),
        DataType::Int32 => values.iter().flat_map(|&value| (value as i32).to_ne_bytes()).collect(),
        DataType::Int8 | DataType::Bool => values.iter().map(|&value| value as i8 as u8).collect(),
    }
}

/// Runs graphs where Metal would.
#[derive(Default)]
pub(super) struct Evaluator {
    buffers: Vec<Vec<u8>>,
    recorded: Vec<Run>,
}

/// A description, and the buffers of its feeds and results.
#[derive(Clone)]
pub(super) struct Run {
    description: Rc<Description>,
    feeds: Vec<BufferId>,
    results: Vec<BufferId>,
}

impl Device for Evaluator {
    type Executable = Rc<Description>;
    type Binding = Run;

    fn seen(&self) -> Seen {
        Seen { name: "plain loops".to_owned(), software: true }
    }

    fn allocate(&mut self, bytes: usize) -> Result<BufferId, TrainError> {
        self.buffers.push(vec![0; bytes]);
        Ok(BufferId(self.buffers.len() - 1))
    }

    fn write(&mut self, buffer: BufferId, bytes: &[u8]) -> Result<(), TrainError> {
        assert!(self.recorded.is_empty(), "a write between recorded runs");
        self.buffers[buffer.0][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, buffer: BufferId, bytes: &mut [u8]) -> Result<(), TrainError> {
        assert!(self.recorded.is_empty(), "a read between recorded runs");
        bytes.copy_from_slice(&self.buffers[buffer.0][..bytes.len()]);
        Ok(())
    }

    fn compile(&mut self, description: &Description) -> Result<Rc<Description>, TrainError> {
        Ok(Rc::new(description.clone()))
    }

    fn bind(
        &mut self,
        executable: &Rc<Description>,
        description: &Description,
        feeds: &[BufferId],
        results: &[BufferId],
    ) -> Result<Run, TrainError> {
        let bound = |nodes: &[_], buffers: &[BufferId]| assert_eq!(nodes.len(), buffers.len());
        bound(&description.feeds, feeds);
        bound(&description.results, results);
        let reused = feeds.iter().any(|feed| results.contains(feed));
        assert!(!reused, "a result overwrites a feed: {feeds:?} {results:?}");
        let description = Rc::clone(executable);
        Ok(Run { description, feeds: feeds.to_vec(), results: results.to_vec() })
    }

    fn record(&mut self, run: &Run) -> Result<(), TrainError> {
        self.recorded.push(run.clone());
        Ok(())
    }

    fn submit(&mut self) -> Result<(), TrainError> {
        for Run { description, feeds, results } in std::mem::take(&mut self.recorded) {
            let graph = &description.graph;
            let feed = |(&(_, node), buffer): (&(_, Node), &BufferId)| {
                let tensor = graph.tensor(node);
                let bytes = &self.buffers[buffer.0];
                assert_eq!(bytes.len(), tensor.bytes(), "{tensor:?}");
                (node, decoded(bytes, tensor.data_type))
            };
            let feeds = description.feeds.iter().zip(&feeds).map(feed).collect();
            let values = evaluate(graph, &feeds);
            for (&(_, node), buffer) in description.results.iter().zip(&results) {
                let bytes = encoded(&values[node.0], graph.tensor(node).data_type);
                assert_eq!(bytes.len(), self.buffers[buffer.0].len());
                self.buffers[buffer.0] = bytes;
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    fn worked_s(&self) -> Option<f64> {
        None
    }
}
