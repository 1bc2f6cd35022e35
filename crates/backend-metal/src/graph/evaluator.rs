//! The graphs of `mpsgraph`, carried out in plain loops: what `MPSGraph` is documented to do, in
//! float32, whole numbers included (they stay far below 2^24). Gradients are in `gradient.rs`.
//!
//! A ReLU makes 0 of NaN here, as `MPSGraph`'s may.

use super::description::{Binary, DataType, Graph, Node, Op};
use super::gradient::gradients;
use super::session::{BufferId, Device};
use super::step::Description;
use crate::seen::Seen;
use nn::backend::TrainError;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Of each node, its elements.
pub(super) type Values = Vec<Vec<f32>>;

/// Strides of a row-major shape; 0 where a dimension is repeated to fit `to`.
fn strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; shape.len()];
    let mut stride = 1;
    for dimension in (0..shape.len()).rev() {
        strides[dimension] = if shape[dimension] == to[dimension] { stride } else { 0 };
        stride *= shape[dimension];
    }
    strides
}

/// Of each element of `to`, in order, the place of the element of `shape` that is repeated there.
pub(super) fn places(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let strides = strides(shape, to);
    let len = to.iter().product();
    let mut index = vec![0; to.len()];
    let mut places = Vec::with_capacity(len);
    for _ in 0..len {
        places.push(index.iter().zip(&strides).map(|(index, stride)| index * stride).sum());
        for dimension in (0..to.len()).rev() {
            index[dimension] += 1;
            if index[dimension] < to[dimension] {
                break;
            }
            index[dimension] = 0;
        }
    }
    places
}

/// `values` repeated to fit `to`.
pub(super) fn repeated(values: &[f32], shape: &[usize], to: &[usize]) -> Vec<f32> {
    if shape == to {
        return values.to_vec();
    }
    places(shape, to).into_iter().map(|place| values[place]).collect()
}

/// Rows and columns of the matrices of a shape, and how many there are.
pub(super) fn matrices(shape: &[usize]) -> [usize; 3] {
    let rank = shape.len();
    [shape[..rank - 2].iter().product(), shape[rank - 2], shape[rank - 1]]
}

/// One or more products of (rows, interior) and (interior, columns).
pub(super) fn mat_mul(left: &[f32], right: &[f32], sizes: [usize; 4]) -> Vec<f32> {
    let [count, rows, interior, columns] = sizes;
    let mut result = vec![0.0; count * rows * columns];
    for matrix in 0..count {
        let right = &right[matrix * interior * columns..][..interior * columns];
        for row in 0..rows {
            let row = matrix * rows + row;
            let result = &mut result[row * columns..][..columns];
            for (&factor, right) in
                left[row * interior..][..interior].iter().zip(right.chunks_exact(columns))
            {
                for (result, &right) in result.iter_mut().zip(right) {
                    *result += factor * right;
                }
            }
        }
    }
    result
}

/// Two dimensions swapped.
pub(super) fn transposed(values: &[f32], shape: &[usize], one: usize, other: usize) -> Vec<f32> {
    let mut strides = strides(shape, shape);
    strides.swap(one, other);
    let mut to = shape.to_vec();
    to.swap(one, other);
    let place = |mut flat: usize| {
        let mut place = 0;
        for dimension in (0..to.len()).rev() {
            place += flat % to[dimension] * strides[dimension];
            flat /= to[dimension];
        }
        place
    };
    (0..values.len()).map(|flat| values[place(flat)]).collect()
}

pub(super) fn softmax_rows(values: &[f32], columns: usize) -> Vec<f32> {
    let mut result = values.to_vec();
    for row in result.chunks_mut(columns) {
        let largest = row.iter().fold(f32::NEG_INFINITY, |most, &value| most.max(value));
        row.iter_mut().for_each(|value| *value = (*value - largest).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|value| *value /= sum);
    }
    result
}

fn cross_entropy(logits: &[f32], labels: &[f32], columns: usize) -> f32 {
    let row_loss = |(logits, labels): (&[f32], &[f32])| -> f32 {
        let largest = logits.iter().fold(f32::NEG_INFINITY, |most, &value| most.max(value));
        let sum: f32 = logits.iter().map(|value| (value - largest).exp()).sum();
        let each = logits.iter().zip(labels);
        each.map(|(logit, label)| label * (sum.ln() - (logit - largest))).sum()
    };
    logits.chunks(columns).zip(labels.chunks(columns)).map(row_loss).sum()
}

/// Calls `visit` with (output element, image element, weight) of each tap that meets the image.
pub(super) fn taps(
    images: &[usize],
    weights: &[usize],
    mut visit: impl FnMut(usize, usize, usize),
) {
    let [batch, input, height, width] = *images else { panic!("{images:?}") };
    let out = weights[0];
    for (sample, filter) in (0..batch * out).map(|at| (at / out, at % out)) {
        for (row, column) in (0..height * width).map(|at| (at / width, at % width)) {
            let output = ((sample * out + filter) * height + row) * width + column;
            for tap in 0..input * 9 {
                let (channel, down, right) = (tap / 9, tap % 9 / 3, tap % 3);
                let (line, place) = (row + down, column + right); // one more than in the image
                if (1..=height).contains(&line) && (1..=width).contains(&place) {
                    let channel = (sample * input + channel) * height + line - 1;
                    visit(output, channel * width + place - 1, filter * input * 9 + tap);
                }
            }
        }
    }
}

/// Of each window, the place of its largest, the first of equal ones.
pub(super) fn chosen(values: &[f32], shape: &[usize]) -> Vec<usize> {
    let [planes, height, width] = matrices(shape);
    let mut chosen = Vec::new();
    for plane in 0..planes {
        for (row, column) in (0..height * width / 4).map(|at| (at / (width / 2), at % (width / 2)))
        {
            let first = (plane * height + 2 * row) * width + 2 * column;
            let mut best = first;
            for place in [first + 1, first + width, first + width + 1] {
                if values[place] > values[best] {
                    best = place;
                }
            }
            chosen.push(best);
        }
    }
    chosen
}

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
