//! Causal attention by cuDNN, where that is loaded: the graphs that its own front end builds for scaled
//! dot-product attention, forward and backward. Its sums over queries are added atomically, so that the
//! last bits of a gradient may differ from run to run.

use super::memory::Memory;
use crate::cudnn::{Cudnn, Data, Four, GraphBuilder, Plan, Pointwise, Reduction, Storage, Tensor};
use crate::driver::Address;
use nn::backend::TrainError;
use std::rc::Rc;

/// The first arguments of both graphs, as they lie in `qkv` and `attended`.
struct Shapes {
    scores: (Four, Four),
    turned_scores: (Four, Four),
    /// One number for each query.
    rows: (Four, Four),
    /// Queries, keys or values within `qkv`.
    packed: (Four, Four),
    /// The same with the last two sizes exchanged.
    turned: (Four, Four),
    /// Outputs.
    heads: (Four, Four),
    /// Queries in a buffer of their own.
    own: (Four, Four),
}

impl Shapes {
    fn new(memory: &Memory) -> Shapes {
        let sizes = &memory.sizes;
        let [batch, heads, context, width] =
            [sizes.batch, sizes.shape.heads, sizes.shape.context, sizes.shape.head_width()]
                .map(|size| size as i64);
        let (row, packed_row) = (heads * width, 3 * heads * width);
        let square = context * context;
        Shapes {
            scores: ([batch, heads, context, context], [heads * square, square, context, 1]),
            turned_scores: ([batch, heads, context, context], [heads * square, square, 1, context]),
            rows: ([batch, heads, context, 1], [heads * context, context, 1, 1]),
            packed: ([batch, heads, context, width], [context * packed_row, width, packed_row, 1]),
            turned: ([batch, heads, width, context], [context * packed_row, width, 1, packed_row]),
            heads: ([batch, heads, context, width], [context * row, width, row, 1]),
            own: (
                [batch, heads, context, width],
                [heads * context * width, context * width, width, 1],
            ),
        }
    }
}

/// A graph being built, with the shorthand that both need.
struct Building {
    graph: GraphBuilder,
    shapes: Shapes,
}

impl Building {
    fn new(library: &Rc<Cudnn>, memory: &Memory) -> Building {
        Building { graph: GraphBuilder::new(library), shapes: Shapes::new(memory) }
    }

    fn memory(&mut self, shape: (Four, Four), data: Data) -> Result<Tensor, String> {
        self.graph.tensor(shape.0, shape.1, data, Storage::Memory)
    }

    fn inner(&mut self, shape: (Four, Four), data: Data) -> Result<Tensor, String> {
        self.graph.tensor(shape.0, shape.1, data, Storage::Virtual)
    }

    fn number(&mut self) -> Result<Tensor, String> {
        self.graph.tensor([1; 4], [1; 4], Data::Float32, Storage::Number)
    }

    /// A value for each score.
    fn score(&mut self, mode: Pointwise, x: Tensor, y: Option<Tensor>) -> Result<Tensor, String> {
        let out = self.inner(self.shapes.scores, Data::Float32)?;
        self.graph.pointwise(mode, Data::Float32, x, y, None, out)?;
        Ok(out)
    }

    /// `scores` where the key is not after the query, else the very negative `hidden`.
    fn causal(&mut self, scores: Tensor, hidden: Tensor) -> Result<Tensor, String> {
        let shape = self.shapes.scores;
        let row = self.inner(shape, Data::Int32)?;
        self.graph.index(2, scores, row)?;
        let column = self.inner(shape, Data::Int32)?;
        self.graph.index(3, scores, column)?;
        let seen = self.inner(shape, Data::Boolean)?;
        let compare = Pointwise::GreaterOrEqual;
        self.graph.pointwise(compare, Data::Boolean, row, Some(column), None, seen)?;
        let out = self.inner(shape, Data::Float32)?;
        let select = Pointwise::Select;
        self.graph.pointwise(select, Data::Float32, scores, Some(hidden), Some(seen), out)?;
        Ok(out)
    }
}

/// Outputs and the logarithms of the softmax's sums.
struct Forward {
    plan: Plan,
    query: Tensor,
    turned_key: Tensor,
    value: Tensor,
    scale: Tensor,
    hidden: Tensor,
    log_sums: Tensor,
    out: Tensor,
}

impl Forward {
    fn new(library: &Rc<Cudnn>, memory: &Memory) -> Result<Forward, String> {
        let mut b = Building::new(library, memory);
        let (rows, scores_shape) = (b.shapes.rows, b.shapes.scores);
        let query = b.memory(b.shapes.packed, Data::Bf16)?;
        let turned_key = b.memory(b.shapes.turned, Data::Bf16)?;
        let value = b.memory(b.shapes.packed, Data::Bf16)?;
        let (scale, hidden) = (b.number()?, b.number()?);
        let log_sums = b.memory(rows, Data::Float32)?;
        let out = b.memory(b.shapes.heads, Data::Bf16)?;

        let products = b.inner(scores_shape, Data::Float32)?;
        b.graph.matmul(query, turned_key, products)?;
        let scores = b.score(Pointwise::Multiply, products, Some(scale))?;
        let scores = b.causal(scores, hidden)?;
        let most = b.inner(rows, Data::Float32)?;
        b.graph.reduce(Reduction::Most, scores, most)?;
        let below = b.score(Pointwise::Subtract, scores, Some(most))?;
        let powers = b.score(Pointwise::Exponential, below, None)?;
        let sum = b.inner(rows, Data::Float32)?;
        b.graph.reduce(Reduction::Sum, powers, sum)?;
        let log = b.inner(rows, Data::Float32)?;
        b.graph.pointwise(Pointwise::Logarithm, Data::Float32, sum, None, None, log)?;
        b.graph.pointwise(Pointwise::Add, Data::Float32, most, Some(log), None, log_sums)?;
        let weights = b.inner(scores_shape, Data::Bf16)?;
        let divide = Pointwise::Divide;
        b.graph.pointwise(divide, Data::Float32, powers, Some(sum), None, weights)?;
        b.graph.matmul(weights, value, out)?;
        let plan = b.graph.build()?;
        Ok(Forward { plan, query, turned_key, value, scale, hidden, log_sums, out })
    }
}

/// Gradients of queries, keys and values.
struct Backward {
    plan: Plan,
    query: Tensor,
    turned_key: Tensor,
    turned_value: Tensor,
    out: Tensor,
    out_delta: Tensor,
    log_sums: Tensor,
    scale: Tensor,
    one: Tensor,
    hidden: Tensor,
    row_products: Tensor,
    query_sums: Tensor,
    query_delta: Tensor,
    key_delta: Tensor,
    value_delta: Tensor,
}

impl Backward {
    fn new(library: &Rc<Cudnn>, memory: &Memory) -> Result<Backward, String> {
        let mut b = Building::new(library, memory);
        let (rows, scores_shape, packed) = (b.shapes.rows, b.shapes.scores, b.shapes.packed);
        let (heads, turned_scores) = (b.shapes.heads, b.shapes.turned_scores);
        let query = b.memory(packed, Data::Bf16)?;
        let turned_key = b.memory(b.shapes.turned, Data::Bf16)?;
        let turned_value = b.memory(b.shapes.turned, Data::Bf16)?;
        let out = b.memory(heads, Data::Bf16)?;
        let out_delta = b.memory(heads, Data::Bf16)?;
        let log_sums = b.memory(rows, Data::Float32)?;
        let (scale, one, hidden) = (b.number()?, b.number()?, b.number()?);
        let row_products = b.memory(rows, Data::Float32)?;
        let query_sums = b.memory(b.shapes.own, Data::Float32)?;
        let query_delta = b.memory(packed, Data::Bf16)?;
        let key_delta = b.memory(packed, Data::Bf16)?;
        let value_delta = b.memory(packed, Data::Bf16)?;

        // Sums of each row of outputs times their gradients.
        let multiply = Pointwise::Multiply;
        let product = b.inner(heads, Data::Float32)?;
        b.graph.pointwise(multiply, Data::Float32, out_delta, Some(out), None, product)?;
        let sum = b.inner(rows, Data::Float32)?;
        b.graph.reduce(Reduction::Sum, product, sum)?;
        b.graph.pointwise(multiply, Data::Float32, sum, Some(one), None, row_products)?;

        // The weights once more, and what they give to the values.
        let products = b.inner(scores_shape, Data::Float32)?;
        b.graph.matmul(query, turned_key, products)?;
        let scores = b.score(multiply, products, Some(scale))?;
        let below = b.score(Pointwise::Subtract, scores, Some(log_sums))?;
        let below = b.causal(below, hidden)?;
        let weights = b.score(Pointwise::Exponential, below, None)?;
        let turned_weights = b.inner(turned_scores, Data::Bf16)?;
        b.graph.reshape(weights, turned_weights)?;
        b.graph.matmul(turned_weights, out_delta, value_delta)?;

        // The scores' gradients, and what they give to keys and queries.
        let weight_deltas = b.inner(scores_shape, Data::Float32)?;
        b.graph.matmul(out_delta, turned_value, weight_deltas)?;
        let centred = b.score(Pointwise::Subtract, weight_deltas, Some(row_products))?;
        let deltas = b.score(multiply, centred, Some(weights))?;
        let deltas = b.score(multiply, deltas, Some(scale))?;
        let turned_deltas = b.inner(turned_scores, Data::Bf16)?;
        b.graph.reshape(deltas, turned_deltas)?;
        b.graph.matmul(turned_deltas, query, key_delta)?;
        let key = b.inner(packed, Data::Bf16)?;
        b.graph.reshape(turned_key, key)?;
        b.graph.matmul(deltas, key, query_sums)?;
        let identity = Pointwise::Identity;
        b.graph.pointwise(identity, Data::Float32, query_sums, None, None, query_delta)?;
        let plan = b.graph.build()?;
        Ok(Backward {
            plan,
            query,
            turned_key,
            turned_value,
            out,
            out_delta,
            log_sums,
            scale,
            one,
            hidden,
            row_products,
            query_sums,
            query_delta,
            key_delta,
            value_delta,
        })
    }
}

/// Both. In scratch memory are the gradients of queries, (batch, heads, context, head_width) in float32, and after
/// them what the library wants.
pub(crate) struct Sdpa {
    forward: Forward,
    backward: Backward,
    query_sums_bytes: usize,
}

/// Of what the library wants.
const SCRATCH_ALIGNMENT: usize = 256;
/// In place of -infinity, as the front end has it.
const HIDDEN: f32 = -3.402_823_5e38;
const ONE: f32 = 1.0;

fn host(number: &f32) -> u64 {
    std::ptr::from_ref(number) as u64
}

impl Sdpa {
    /// The kernels for the memory's sizes, or why cuDNN has none.
    pub(crate) fn new(library: &Rc<Cudnn>, memory: &Memory) -> Result<Sdpa, String> {
        let forward = Forward::new(library, memory).map_err(|error| format!("forward: {error}"))?;
        let backward =
            Backward::new(library, memory).map_err(|error| format!("backward: {error}"))?;
        let elements = memory.sizes.rows * memory.sizes.shape.width;
        let query_sums_bytes = (elements * size_of::<f32>()).next_multiple_of(SCRATCH_ALIGNMENT);
        let needed =
            forward.plan.workspace_bytes.max(query_sums_bytes + backward.plan.workspace_bytes);
        memory.scratch.reserve(needed).map_err(|error| error.to_string())?;
        Ok(Sdpa { forward, backward, query_sums_bytes })
    }

    /// Where queries, keys and values begin in a packed buffer.
    fn parts(memory: &Memory, base: Address) -> [Address; 3] {
        let bytes = (memory.sizes.shape.width * memory.sizes.element.bytes()) as u64;
        [base, base + bytes, base + 2 * bytes]
    }

    fn scale(memory: &Memory) -> f32 {
        1.0 / (memory.sizes.shape.head_width() as f32).sqrt()
    }

    fn log_sums(memory: &Memory, layer: usize) -> Address {
        memory.log_sums.address_of(layer * memory.sizes.rows * memory.sizes.shape.heads)
    }

    /// `attended` of a layer from its `qkv`.
    pub(crate) fn forward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let it = &self.forward;
        let [query, key, value] = Sdpa::parts(memory, memory.qkv.at(layer));
        let scale = Sdpa::scale(memory);
        let addresses = [
            (it.query, query),
            (it.turned_key, key),
            (it.value, value),
            (it.scale, host(&scale)),
            (it.hidden, host(&HIDDEN)),
            (it.log_sums, Sdpa::log_sums(memory, layer)),
            (it.out, memory.attended.at(layer)),
        ];
        // SAFETY: the graph was made for these buffers' sizes.
        unsafe { it.plan.enqueue(&addresses, memory.scratch.address()) }
    }

    /// `qkv_delta` from `normal_delta`, which holds the gradient of `attended`.
    pub(crate) fn backward(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        let (it, scratch) = (&self.backward, memory.scratch.address());
        let [query, key, value] = Sdpa::parts(memory, memory.qkv.at(layer));
        let [query_delta, key_delta, value_delta] = Sdpa::parts(memory, memory.qkv_delta(layer));
        let scale = Sdpa::scale(memory);
        let addresses = [
            (it.query, query),
            (it.turned_key, key),
            (it.turned_value, value),
            (it.out, memory.attended.at(layer)),
            (it.out_delta, memory.normal_delta.at(0)),
            (it.log_sums, Sdpa::log_sums(memory, layer)),
            (it.scale, host(&scale)),
            (it.one, host(&ONE)),
            (it.hidden, host(&HIDDEN)),
            (it.row_products, memory.products.address()),
            (it.query_sums, scratch),
            (it.query_delta, query_delta),
            (it.key_delta, key_delta),
            (it.value_delta, value_delta),
        ];
        // SAFETY: as above.
        unsafe { it.plan.enqueue(&addresses, scratch + self.query_sums_bytes as u64) }
    }
}
