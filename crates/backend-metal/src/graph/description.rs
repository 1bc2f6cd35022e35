//! A graph as data: nodes with their shapes, each inferred and checked where the node is made, on
//! any system. Metal's own checks come only when a graph is compiled on a Mac, and end the process.
//!
//! The operations are those of `MPSGraph` that the models use, with its semantics. Shapes of two
//! operands have the same rank; a dimension of 1 is repeated to fit.

/// A tensor of the graph, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node(pub(crate) usize);

/// Of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    Float32,
    Int32,
    Int8,
    Bool,
}

impl DataType {
    pub(crate) fn bytes(self) -> usize {
        match self {
            DataType::Float32 | DataType::Int32 => 4,
            DataType::Int8 | DataType::Bool => 1,
        }
    }
}

/// Elements' operations on two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Multiply,
    Divide,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// Fed when the graph is run.
    Placeholder,
    /// The same number everywhere.
    Constant(f64),
    /// Of each element, its place along the only dimension.
    Coordinate,
    Cast(Node),
    /// Rows of `from`: of its first dimension, those in `at` (rows).
    Gather {
        from: Node,
        at: Node,
    },
    /// (rows) -> (rows, depth): 1 at the index, else 0.
    OneHot(Node),
    Binary(Binary, Node, Node),
    Equal(Node, Node),
    Select {
        condition: Node,
        yes: Node,
        no: Node,
    },
    /// The last two dimensions as matrices; those before are equal.
    MatMul(Node, Node),
    /// Two dimensions swapped.
    Transpose(Node, usize, usize),
    /// The same elements in the shape of this node.
    Reshape(Node),
    Relu(Node),
    /// Along the last dimension.
    Softmax(Node),
    /// Along a dimension, which stays as 1.
    Sum(Node, usize),
    /// Softmax cross-entropy in nats of (rows, classes) against such labels, summed: shape (1).
    CrossEntropy {
        logits: Node,
        labels: Node,
    },
    /// 3x3, stride 1, padding 1: images (batch, in, height, width), weights (out, in, 3, 3).
    Convolve {
        images: Node,
        weights: Node,
    },
    /// 2x2, stride 2: (batch, channels, height, width).
    MaxPool(Node),
    /// Of a tensor of shape (1) by another tensor.
    Gradient {
        of: Node,
        by: Node,
    },
    /// `values - rate * gradient`; rate has shape (1).
    Descend {
        rate: Node,
        values: Node,
        gradient: Node,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    pub(crate) op: Op,
    pub(crate) shape: Vec<usize>,
    pub(crate) data_type: DataType,
}

impl Tensor {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len() * self.data_type.bytes()
    }
}

/// Nodes in an order in which each comes after what it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    tensors: Vec<Tensor>,
}

impl Graph {
    pub(crate) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub(crate) fn tensor(&self, node: Node) -> &Tensor {
        &self.tensors[node.0]
    }

    pub(crate) fn shape(&self, node: Node) -> &[usize] {
        &self.tensors[node.0].shape
    }

    fn data_type(&self, node: Node) -> DataType {
        self.tensors[node.0].data_type
    }

    fn push(&mut self, op: Op, shape: Vec<usize>, data_type: DataType) -> Node {
        self.tensors.push(Tensor { name: "", op, shape, data_type });
        Node(self.tensors.len() - 1)
    }

    /// As another node of the same type.
    fn float(&mut self, op: Op, shape: Vec<usize>) -> Node {
        self.push(op, shape, DataType::Float32)
    }

    fn require_float(&self, nodes: &[Node]) {
        for &node in nodes {
            assert_eq!(self.data_type(node), DataType::Float32, "{:?}", self.tensor(node));
        }
    }

    pub(crate) fn placeholder(
        &mut self,
        name: &'static str,
        shape: &[usize],
        data_type: DataType,
    ) -> Node {
        let node = self.push(Op::Placeholder, shape.to_vec(), data_type);
        self.tensors[node.0].name = name;
        node
    }

    pub(crate) fn constant(&mut self, value: f64, shape: &[usize], data_type: DataType) -> Node {
        self.push(Op::Constant(value), shape.to_vec(), data_type)
    }

    /// (0, 1, 2, ...).
    pub(crate) fn coordinate(&mut self, len: usize) -> Node {
        self.push(Op::Coordinate, vec![len], DataType::Int32)
    }

    pub(crate) fn cast(&mut self, node: Node, data_type: DataType) -> Node {
        let shape = self.shape(node).to_vec();
        self.push(Op::Cast(node), shape, data_type)
    }

    pub(crate) fn gather(&mut self, from: Node, at: Node) -> Node {
        assert_eq!(self.data_type(at), DataType::Int32);
        let [rows] = *self.shape(at) else { panic!("indices {:?}", self.shape(at)) };
        let mut shape = self.shape(from).to_vec();
        shape[0] = rows;
        self.push(Op::Gather { from, at }, shape, self.data_type(from))
    }

    pub(crate) fn one_hot(&mut self, indices: Node, depth: usize) -> Node {
        assert_eq!(self.data_type(indices), DataType::Int32);
        let [rows] = *self.shape(indices) else { panic!("indices {:?}", self.shape(indices)) };
        self.float(Op::OneHot(indices), vec![rows, depth])
    }

    pub(crate) fn add(&mut self, left: Node, right: Node) -> Node {
        self.binary(Binary::Add, left, right)
    }

    pub(crate) fn multiply(&mut self, left: Node, right: Node) -> Node {
        self.binary(Binary::Multiply, left, right)
    }

    pub(crate) fn divide(&mut self, left: Node, right: Node) -> Node {
        self.binary(Binary::Divide, left, right)
    }

    fn binary(&mut self, operation: Binary, left: Node, right: Node) -> Node {
        let shape = broadcast(self.shape(left), self.shape(right));
        assert_eq!(self.data_type(left), self.data_type(right), "types of {operation:?}");
        self.push(Op::Binary(operation, left, right), shape, self.data_type(left))
    }

    pub(crate) fn equal(&mut self, left: Node, right: Node) -> Node {
        let shape = broadcast(self.shape(left), self.shape(right));
        assert_eq!(self.data_type(left), self.data_type(right), "types that are compared");
        self.push(Op::Equal(left, right), shape, DataType::Bool)
    }

    pub(crate) fn select(&mut self, condition: Node, yes: Node, no: Node) -> Node {
        assert_eq!(self.data_type(condition), DataType::Bool);
        assert_eq!(self.data_type(yes), self.data_type(no), "types to select from");
        let shape = broadcast(self.shape(condition), self.shape(yes));
        let shape = broadcast(&shape, self.shape(no));
        self.push(Op::Select { condition, yes, no }, shape, self.data_type(yes))
    }

    pub(crate) fn mat_mul(&mut self, left: Node, right: Node) -> Node {
        self.require_float(&[left, right]);
        let (mut shape, right_shape) = (self.shape(left).to_vec(), self.shape(right));
        let rank = shape.len();
        assert!(rank >= 2 && right_shape.len() == rank, "{shape:?} times {right_shape:?}");
        assert_eq!(shape[..rank - 2], right_shape[..rank - 2], "numbers of matrices");
        assert_eq!(shape[rank - 1], right_shape[rank - 2], "{shape:?} times {right_shape:?}");
        shape[rank - 1] = right_shape[rank - 1];
        self.float(Op::MatMul(left, right), shape)
    }

    pub(crate) fn transpose(&mut self, node: Node, one: usize, other: usize) -> Node {
        let mut shape = self.shape(node).to_vec();
        shape.swap(one, other);
        self.push(Op::Transpose(node, one, other), shape, self.data_type(node))
    }

    pub(crate) fn reshape(&mut self, node: Node, shape: &[usize]) -> Node {
        let len: usize = shape.iter().product();
        assert_eq!(len, self.tensor(node).len(), "{:?} as {shape:?}", self.shape(node));
        self.push(Op::Reshape(node), shape.to_vec(), self.data_type(node))
    }

    pub(crate) fn relu(&mut self, node: Node) -> Node {
        self.require_float(&[node]);
        let shape = self.shape(node).to_vec();
        self.float(Op::Relu(node), shape)
    }

    pub(crate) fn softmax(&mut self, node: Node) -> Node {
        self.require_float(&[node]);
        let shape = self.shape(node).to_vec();
        self.float(Op::Softmax(node), shape)
    }

    pub(crate) fn sum(&mut self, node: Node, dimension: usize) -> Node {
        self.require_float(&[node]);
        let mut shape = self.shape(node).to_vec();
        shape[dimension] = 1;
        self.float(Op::Sum(node, dimension), shape)
    }

    pub(crate) fn cross_entropy(&mut self, logits: Node, labels: Node) -> Node {
        self.require_float(&[logits, labels]);
        assert_eq!(self.shape(logits), self.shape(labels));
        assert_eq!(self.shape(logits).len(), 2);
        self.float(Op::CrossEntropy { logits, labels }, vec![1])
    }

    pub(crate) fn convolve(&mut self, images: Node, weights: Node) -> Node {
        self.require_float(&[images, weights]);
        let [batch, channels, height, width] = *self.shape(images) else { panic!("images") };
        let [out, input, 3, 3] = *self.shape(weights) else { panic!("weights") };
        assert_eq!(channels, input, "channels");
        self.float(Op::Convolve { images, weights }, vec![batch, out, height, width])
    }

    pub(crate) fn max_pool(&mut self, node: Node) -> Node {
        self.require_float(&[node]);
        let [batch, channels, height, width] = *self.shape(node) else { panic!("images") };
        assert!(height % 2 == 0 && width % 2 == 0, "{height} by {width} in windows of 2 by 2");
        self.float(Op::MaxPool(node), vec![batch, channels, height / 2, width / 2])
    }

    pub(crate) fn gradient(&mut self, of: Node, by: Node) -> Node {
        self.require_float(&[of, by]);
        assert_eq!(self.shape(of), [1], "a gradient of more than one number");
        let shape = self.shape(by).to_vec();
        self.float(Op::Gradient { of, by }, shape)
    }

    pub(crate) fn descend(&mut self, rate: Node, values: Node, gradient: Node) -> Node {
        self.require_float(&[rate, values, gradient]);
        assert_eq!(self.shape(rate), [1]);
        assert_eq!(self.shape(values), self.shape(gradient));
        let shape = self.shape(values).to_vec();
        self.float(Op::Descend { rate, values, gradient }, shape)
    }
}

/// The shape that both are repeated to.
///
/// # Panics
/// If there is none: shapes are computed from the model, not given by a user.
fn broadcast(left: &[usize], right: &[usize]) -> Vec<usize> {
    assert_eq!(left.len(), right.len(), "ranks of {left:?} and {right:?}");
    let fit = |(&one, &other): (&usize, &usize)| match (one, other) {
        (one, other) if one == other => one,
        (1, other) => other,
        (one, 1) => one,
        _ => panic!("{left:?} does not fit {right:?}"),
    };
    left.iter().zip(right).map(fit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(shapes: &[&[usize]]) -> (Graph, Vec<Node>) {
        let mut graph = Graph::default();
        let nodes =
            shapes.iter().map(|shape| graph.placeholder("", shape, DataType::Float32)).collect();
        (graph, nodes)
    }

    #[test]
    fn shapes_are_inferred() {
        let (mut graph, nodes) = with(&[&[5, 2, 3], &[5, 3, 4], &[1, 2, 1], &[6, 1, 28, 28]]);
        let product = graph.mat_mul(nodes[0], nodes[1]);
        assert_eq!(graph.shape(product), [5, 2, 4]);
        let sum = graph.add(product, nodes[2]);
        assert_eq!(graph.shape(sum), [5, 2, 4]);
        let turned = graph.transpose(sum, 0, 2);
        assert_eq!(graph.shape(turned), [4, 2, 5]);
        let summed = graph.sum(turned, 1);
        assert_eq!(graph.shape(summed), [4, 1, 5]);
        let weights = graph.constant(0.0, &[8, 1, 3, 3], DataType::Float32);
        let images = graph.convolve(nodes[3], weights);
        let images = graph.max_pool(images);
        assert_eq!(graph.shape(images), [6, 8, 14, 14]);
    }

    #[test]
    #[should_panic(expected = "[2, 3] times [2, 3]")]
    fn factors_that_do_not_meet_are_refused() {
        let (mut graph, nodes) = with(&[&[2, 3], &[2, 3]]);
        graph.mat_mul(nodes[0], nodes[1]);
    }

    #[test]
    #[should_panic(expected = "[2, 3] does not fit [2, 2]")]
    fn operands_that_do_not_fit_are_refused() {
        let (mut graph, nodes) = with(&[&[2, 3], &[2, 2]]);
        graph.add(nodes[0], nodes[1]);
    }

    #[test]
    #[should_panic(expected = "as [7]")]
    fn a_reshape_that_loses_elements_is_refused() {
        let (mut graph, nodes) = with(&[&[2, 3]]);
        graph.reshape(nodes[0], &[7]);
    }
}
