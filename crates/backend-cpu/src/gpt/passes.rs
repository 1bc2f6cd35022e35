//! A window's way through the model and back, one block at a time, so that a thread can take all its
//! windows through a block while the block's weights are in its cache.

use super::amx::{self, Amx, Parts};
use super::attention::{self, DQkv, Head, Qkv, Scratch, Softmax};
use super::gelu::{Gelu, TimesSlope};
use super::layout::{Layout, Linear, Sizes, Trace};
use super::loss;
use super::norm::{self, Normalise, Rows};
use super::product::{
    Add, ByColumns, ByRows, Matrix, PANEL, Product, Write, padded, place, product,
};
use super::tiled::{Blocks, Tiled};
use super::windows::Leaf;
use crate::buffer::Buffer;
use crate::finish::{Finish, load, store};
use crate::simd::Simd;
use std::ops::Range;

/// The weights, in both orientations.
#[derive(Clone, Copy)]
pub struct Model<'run> {
    pub layout: &'run Layout,
    pub weights: &'run [f32],
    pub turned: &'run [f32],
    /// The same weights as tiles, in parts; none without AMX.
    pub tiles: Option<(Parts, &'run [u16])>,
}

/// A thread's scratch memory.
pub struct Work {
    pub sizes: Sizes,
    /// Windows of the group whose turn it is.
    pub windows: usize,
    scaled: Buffer<f32>,     // (context, width)
    d_scaled: Buffer<f32>,   // (context, width)
    d_attended: Buffer<f32>, // (context, heads)
    turned: Buffer<f32>,
    d_turned: Buffer<f32>,
    scores: Buffer<f32>,
    d_scores: Buffer<f32>,
    row: Buffer<f32>, // (vocabulary)
    /// Partial sums of a weight's gradient, but for the first: (levels - 1, largest weight).
    sums: Buffer<f32>,
    tiled: Option<Tiled>,
}

impl Work {
    /// For groups of at most so many windows.
    pub fn new(layout: &Layout, windows: usize, levels: usize, amx: Option<(Amx, Parts)>) -> Work {
        let sizes = layout.sizes;
        let context = sizes.shape.context;
        let rows = windows * context;
        let head = Head::new(context, rows, sizes.shape.head_width());
        let [turned, d_turned, scores, d_scores] = head.scratch().map(Buffer::zeroed);
        let largest = layout.linears().map(|linear| linear.range().len()).max().unwrap_or(0);
        Work {
            sizes,
            windows,
            scaled: Buffer::zeroed(rows * sizes.width),
            d_scaled: Buffer::zeroed(rows * sizes.width),
            d_attended: Buffer::zeroed(rows * sizes.heads),
            turned,
            d_turned,
            scores,
            d_scores,
            row: Buffer::zeroed(loss::scratch(sizes.shape.vocabulary)),
            sums: Buffer::zeroed(levels.saturating_sub(1) * largest),
            tiled: amx.map(|(amx, parts)| Tiled::new(amx, parts, rows, layout.widest())),
        }
    }

    /// Before the first pass in a thread, and [`Work::end`] after the last.
    pub fn begin(&self) {
        if let Some(tiled) = &self.tiled {
            tiled.amx.configure();
        }
    }

    pub fn end(&self) {
        if let Some(tiled) = &self.tiled {
            tiled.amx.release();
        }
    }

    fn rows(&self) -> Rows {
        Rows { rows: self.windows * self.sizes.shape.context, width: self.sizes.shape.width }
    }
}

/// Parts of a window's region, which never overlap.
fn parts<'region, const N: usize>(
    region: &'region mut [f32],
    ranges: [&Range<usize>; N],
) -> [&'region mut [f32]; N] {
    region.get_disjoint_mut(ranges.map(Clone::clone)).expect("parts laid out one after the other")
}

/// A linear layer's weight in one orientation, to multiply with.
#[derive(Clone, Copy)]
struct Weight<'run> {
    values: &'run [f32], // (inputs, outputs)
    tiles: &'run [u16],
    inputs: usize,
    outputs: usize,
}

impl<'run> Model<'run> {
    /// To go forward.
    fn weight(self, linear: Linear) -> Weight<'run> {
        self.in_orientation(linear, self.weights)
    }

    /// To go back.
    fn turned(self, linear: Linear) -> Weight<'run> {
        self.in_orientation(linear.turned(), self.turned)
    }

    fn in_orientation(self, linear: Linear, values: &'run [f32]) -> Weight<'run> {
        let Linear { inputs, outputs, .. } = linear;
        let tiles = match self.tiles {
            Some((parts, tiles)) => &tiles[linear.tiles * parts.count() * amx::TILE..],
            None => &[],
        };
        Weight { values: &values[linear.range()], tiles, inputs, outputs }
    }
}

/// A whole product with a weight: (rows, inputs) x (inputs, outputs).
#[inline(always)]
fn with_weight<S: Simd>(
    simd: S,
    tiled: &mut Option<Tiled>,
    rows: usize,
    left: &[f32],
    weight: Weight<'_>,
    finish: &mut impl Finish,
) {
    let Weight { values, tiles, inputs, outputs } = weight;
    if let Some(tiled) = tiled {
        tiled.split_rows(left, rows, inputs);
        let size = (rows, outputs / PANEL, inputs);
        return simd.enter(Blocks { tiled, right: Some(tiles), size, finish });
    }
    product::<S, ByRows>(
        simd,
        Product {
            left: Matrix { data: left, rows },
            right: Matrix { data: values, rows: inputs },
            rows: 0..rows,
            panels: 0..outputs / PANEL,
            depth: 0..inputs,
        },
        finish,
    );
}

/// The embeddings of the tokens of one window of a group, to the residual stream.
#[inline(always)]
pub fn embed<S: Simd>(
    simd: S,
    model: Model<'_>,
    trace: &Trace,
    (window, tokens): (usize, &[u16]),
    region: &mut [f32],
    work: &Work,
) {
    let Layout { sizes, output, positions, .. } = model.layout;
    let context = sizes.shape.context;
    let stream = &mut region[trace.stream[0].clone()];
    let (embeddings, positions) =
        (&model.turned[output.range()], &model.weights[positions.clone()]);
    for (position, &token) in tokens.iter().enumerate() {
        for vector in 0..sizes.width / S::LANES {
            let token = place::<S>(sizes.vocabulary, usize::from(token), vector);
            let at = place::<S>(work.rows().rows, window * context + position, vector);
            let position = place::<S>(context, position, vector);
            let sum = simd.add(load(simd, embeddings, token), load(simd, positions, position));
            store(simd, stream, at, sum);
        }
    }
}

/// One block forward.
#[inline(always)]
pub fn forward<S: Simd>(
    simd: S,
    model: Model<'_>,
    trace: &Trace,
    layer: usize,
    region: &mut [f32],
    work: &mut Work,
) {
    let Model { layout, weights, .. } = model;
    let (block, of, size) = (layout.blocks[layer], &trace.blocks[layer], work.rows());
    let rows = size.rows;
    let [stream, normal1, inverse1, qkv] =
        parts(region, [&trace.stream[0], &of.normal1, &of.inverse1, &of.qkv]);
    let weight = &weights[layout.norm(2 * layer)];
    let scaled = &mut *work.scaled;
    simd.enter(Normalise { size, x: stream, weight, normal: normal1, scaled, inverse: inverse1 });
    with_weight(
        simd,
        &mut work.tiled,
        rows,
        &work.scaled,
        model.weight(block.attention),
        &mut Write { to: qkv, rows },
    );

    let [qkv, attended, largest, inverse_sums] =
        parts(region, [&of.qkv, &of.attended, &of.largest, &of.inverse_sums]);
    for (window, index) in work.heads() {
        let (qkv, columns) = (work.of_head(qkv, window, index), work.columns(window, index));
        let softmax = work.softmax(largest, inverse_sums, window, index);
        let (head, attended) = (work.head(), &mut attended[columns]);
        let scratch = work.scratch();
        simd.enter(attention::Forward { head, from: qkv, softmax, attended, scratch });
    }

    let [stream, attended, normal2, inverse2, gelu, slope] = parts(
        region,
        [&trace.stream[0], &of.attended, &of.normal2, &of.inverse2, &of.gelu, &of.slope],
    );
    let mut add = Add { to: stream, rows };
    with_weight(simd, &mut work.tiled, rows, attended, model.weight(block.attention_out), &mut add);
    let weight = &weights[layout.norm(2 * layer + 1)];
    let scaled = &mut *work.scaled;
    simd.enter(Normalise { size, x: stream, weight, normal: normal2, scaled, inverse: inverse2 });
    let mut both = Gelu { value: gelu, slope, rows };
    with_weight(simd, &mut work.tiled, rows, &work.scaled, model.weight(block.mlp), &mut both);
    with_weight(
        simd,
        &mut work.tiled,
        rows,
        gelu,
        model.weight(block.mlp_out),
        &mut Add { to: stream, rows },
    );
}

/// The logits of a window whose residual stream has passed all blocks.
#[inline(always)]
pub fn logits<S: Simd>(
    simd: S,
    model: Model<'_>,
    trace: &Trace,
    region: &mut [f32],
    work: &mut Work,
) {
    let Model { layout, weights, .. } = model;
    let size = work.rows();
    let [stream, normal, inverse, logits] =
        parts(region, [&trace.stream[0], &trace.normal, &trace.inverse, &trace.logits]);
    let weight = &weights[layout.norm(2 * layout.blocks.len())];
    simd.enter(Normalise { size, x: stream, weight, normal, scaled: &mut work.scaled, inverse });
    let mut write = Write { to: logits, rows: size.rows };
    with_weight(
        simd,
        &mut work.tiled,
        size.rows,
        &work.scaled,
        model.weight(layout.output),
        &mut write,
    );
}

/// The sum of a group's losses; its logits become the gradient of this sum by `scale`, and the
/// residual stream's gradient is written to the first stream. Adds to the gradient of the norm.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a pass has its model, its windows and its thread
pub fn output<'text, S: Simd>(
    simd: S,
    model: Model<'_>,
    trace: &Trace,
    targets: impl Iterator<Item = &'text [u16]>,
    scale: f32,
    region: &mut [f32],
    d_norms: &mut [f32],
    work: &mut Work,
) -> f64 {
    logits(simd, model, trace, region, work);
    let Model { layout, weights, .. } = model;
    let size = work.rows();
    let [logits, normal, inverse, d_stream, zeros] = parts(
        region,
        [&trace.logits, &trace.normal, &trace.inverse, &trace.stream[0], &trace.stream[1]],
    );
    let vocabulary = work.sizes.shape.vocabulary;
    let mut loss = 0.0;
    for (window, targets) in targets.enumerate() {
        let place = (window * targets.len(), size.rows);
        let (targets, row) = ((targets, scale), &mut *work.row);
        loss += loss::softmax_cross_entropy(simd, vocabulary, targets, place, logits, row);
    }
    let mut write = Write { to: &mut work.d_scaled, rows: size.rows };
    with_weight(simd, &mut work.tiled, size.rows, logits, model.turned(layout.output), &mut write);
    zeros.fill(0.0); // nothing goes past the last norm
    let index = 2 * layout.blocks.len();
    let weight = &weights[layout.norm(index)];
    let d_scaled = &*work.d_scaled;
    let (past, d_weight) = (zeros, work.sizes.of_norm(d_norms, index));
    let d_x = d_stream;
    simd.enter(norm::Backward { size, weight, normal, inverse, d_scaled, past, d_x, d_weight });
    loss
}

/// Which of the streams has the gradient that reaches a block, which the one between its halves, and
/// which the one that leaves it, on the way back. The next block takes them further round.
pub fn streams(layers: usize, layer: usize) -> [usize; 3] {
    let before = 2 * (layers - 1 - layer);
    [before % 3, (before + 1) % 3, (before + 2) % 3]
}

/// One block backward: leaves the gradients of all its layers' results where [`weight_gradient`] finds
/// them. Adds to the gradients of its norms.
#[inline(always)]
pub fn backward<S: Simd>(
    simd: S,
    model: Model<'_>,
    trace: &Trace,
    layer: usize,
    region: &mut [f32],
    d_norms: &mut [f32],
    work: &mut Work,
) {
    let Model { layout, weights, .. } = model;
    let (block, of, size) = (layout.blocks[layer], &trace.blocks[layer], work.rows());
    let rows = size.rows;
    let [from, middle, to] = streams(layout.blocks.len(), layer).map(|index| &trace.stream[index]);
    let [d_from, d_middle, normal2, inverse2, slope] =
        parts(region, [from, middle, &of.normal2, &of.inverse2, &of.slope]);
    let mut d_wide = TimesSlope { slope, rows };
    with_weight(simd, &mut work.tiled, rows, d_from, model.turned(block.mlp_out), &mut d_wide);
    let mut write = Write { to: &mut work.d_scaled, rows };
    with_weight(simd, &mut work.tiled, rows, slope, model.turned(block.mlp), &mut write);
    let index = 2 * layer + 1;
    let (weight, d_scaled) = (&weights[layout.norm(index)], &*work.d_scaled);
    simd.enter(norm::Backward {
        size,
        weight,
        normal: normal2,
        inverse: inverse2,
        d_scaled,
        past: d_from,
        d_x: d_middle,
        d_weight: work.sizes.of_norm(d_norms, index),
    });
    let mut write = Write { to: &mut work.d_attended, rows };
    with_weight(
        simd,
        &mut work.tiled,
        rows,
        d_middle,
        model.turned(block.attention_out),
        &mut write,
    );

    let [qkv, largest, inverse_sums, d_qkv] =
        parts(region, [&of.qkv, &of.largest, &of.inverse_sums, &trace.d_qkv]);
    let (d_queries, d_rest) = d_qkv.split_at_mut(rows * work.sizes.heads);
    let (d_keys, d_values) = d_rest.split_at_mut(rows * work.sizes.heads);
    for (window, index) in work.heads() {
        let columns = work.columns(window, index);
        let to = DQkv {
            queries: &mut d_queries[columns.clone()],
            keys: &mut d_keys[columns.clone()],
            values: &mut d_values[columns.clone()],
        };
        let (qkv, softmax) =
            (work.of_head(qkv, window, index), work.softmax(largest, inverse_sums, window, index));
        let (head, from) = (work.head(), qkv);
        let Work { d_attended, turned, d_turned, scores, d_scores, .. } = &mut *work;
        let (d_attended, scratch) =
            (&d_attended[columns], Scratch { turned, d_turned, scores, d_scores });
        simd.enter(attention::Backward { head, from, softmax, d_attended, to, scratch });
    }

    let [d_middle, d_to, normal1, inverse1, d_qkv] =
        parts(region, [middle, to, &of.normal1, &of.inverse1, &trace.d_qkv]);
    let mut write = Write { to: &mut work.d_scaled, rows };
    with_weight(simd, &mut work.tiled, rows, d_qkv, model.turned(block.attention), &mut write);
    let index = 2 * layer;
    let (weight, d_scaled) = (&weights[layout.norm(index)], &*work.d_scaled);
    simd.enter(norm::Backward {
        size,
        weight,
        normal: normal1,
        inverse: inverse1,
        d_scaled,
        past: d_middle,
        d_x: d_to,
        d_weight: work.sizes.of_norm(d_norms, index),
    });
}

/// A linear layer's weight gradient in one window: which parts of the region it is the product of. The
/// rows are not yet scaled by the norm's weight.
#[derive(Clone)]
pub struct Factors {
    pub linear: Linear,
    /// (context, inputs)
    pub input: Range<usize>,
    /// (context, outputs)
    pub d_output: Range<usize>,
}

/// Those of a block, or of the output after the last one.
pub fn factors(layout: &Layout, trace: &Trace, layer: usize) -> [Option<Factors>; 4] {
    let some = |linear, input: &Range<usize>, d_output: &Range<usize>| {
        Some(Factors { linear, input: input.clone(), d_output: d_output.clone() })
    };
    let Some(block) = layout.blocks.get(layer) else {
        return [some(layout.output, &trace.normal, &trace.logits), None, None, None];
    };
    let of = &trace.blocks[layer];
    let [from, middle, _] = streams(layout.blocks.len(), layer);
    [
        some(block.mlp_out, &of.gelu, &trace.stream[from]),
        some(block.mlp, &of.normal2, &of.slope),
        some(block.attention_out, &of.attended, &trace.stream[middle]),
        some(block.attention, &of.normal1, &trace.d_qkv),
    ]
}

/// A window's part of a weight's gradient. `gradient`: (inputs, outputs), of the leaf's block.
#[inline(always)]
pub fn weight_gradient<S: Simd>(
    simd: S,
    factors: &Factors,
    leaf: Leaf,
    region: &[f32],
    gradient: &mut [f32],
    work: &mut Work,
) {
    let Linear { inputs, outputs, .. } = factors.linear;
    let rows = work.rows().rows;
    let (input, d_output) = (&region[factors.input.clone()], &region[factors.d_output.clone()]);
    let mut sum = Merge { first: gradient, rest: &mut work.sums, rows: inputs, leaf };
    if let Some(tiled) = &mut work.tiled {
        tiled.split_columns(simd, input, rows, inputs);
        tiled.split_right(d_output, rows, outputs);
        let size = (inputs, outputs / PANEL, rows);
        return simd.enter(Blocks { tiled, right: None, size, finish: &mut sum });
    }
    product::<S, ByColumns>(
        simd,
        Product {
            left: Matrix { data: input, rows },
            right: Matrix { data: d_output, rows },
            rows: 0..inputs,
            panels: 0..outputs / PANEL,
            depth: 0..rows,
        },
        &mut sum,
    );
}

/// Adds the partial sums that a [`Leaf`] merges, and writes the sum to the place of the lowest.
struct Merge<'data> {
    first: &'data mut [f32],
    /// (levels - 1, as long as the first)
    rest: &'data mut [f32],
    rows: usize,
    leaf: Leaf,
}

impl Finish for Merge<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        self.tile(simd, row, vector, &[[sum]]);
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        vector: usize,
        sums: &[[S::F32; C]; R],
    ) {
        let len = self.first.len();
        let mut sums = *sums;
        let Leaf { level, merged, .. } = self.leaf;
        for level in (level - merged..level).rev() {
            let part = if level == 0 { &*self.first } else { &self.rest[(level - 1) * len..] };
            for (r, sums) in sums.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    let place = place::<S>(self.rows, row + r, vector + c);
                    *sum = simd.add(load(simd, part, place), *sum);
                }
            }
        }
        let level = level - merged;
        let to = if level == 0 { &mut *self.first } else { &mut self.rest[(level - 1) * len..] };
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                store(simd, to, place::<S>(self.rows, row + r, vector + c), sum);
            }
        }
    }
}

impl Sizes {
    /// A norm's part of the gradients of all norms.
    fn of_norm(self, d_norms: &mut [f32], index: usize) -> &mut [f32] {
        &mut d_norms[index * self.width..][..self.width]
    }
}

impl Work {
    fn scratch(&mut self) -> Scratch<'_> {
        let Work { turned, d_turned, scores, d_scores, .. } = self;
        Scratch { turned, d_turned, scores, d_scores }
    }

    fn head(&self) -> Head {
        let shape = self.sizes.shape;
        Head::new(shape.context, self.rows().rows, shape.head_width())
    }

    /// Window and head of all attentions.
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let heads = self.sizes.shape.heads;
        (0..self.windows).flat_map(move |window| (0..heads).map(move |head| (window, head)))
    }

    /// A head's part of a matrix (rows, heads), from the first row of a window on.
    fn columns(&self, window: usize, head: usize) -> Range<usize> {
        let len = self.rows().rows * self.sizes.head;
        head * len + window * self.sizes.shape.context * PANEL..(head + 1) * len
    }

    /// A head's part of (rows, 3 heads), likewise.
    fn of_head<'data>(&self, qkv: &'data [f32], window: usize, head: usize) -> Qkv<'data> {
        let len = self.rows().rows * self.sizes.heads;
        let part = |index: usize| &qkv[index * len..][self.columns(window, head)];
        Qkv { queries: part(0), keys: part(1), values: part(2) }
    }

    fn softmax<'data>(
        &self,
        largest: &'data mut [f32],
        inverse_sums: &'data mut [f32],
        window: usize,
        head: usize,
    ) -> Softmax<'data> {
        let len = padded(self.sizes.shape.context);
        let place = window * self.sizes.shape.heads + head;
        let part = place * len..(place + 1) * len;
        Softmax { largest: &mut largest[part.clone()], inverse_sums: &mut inverse_sums[part] }
    }
}
