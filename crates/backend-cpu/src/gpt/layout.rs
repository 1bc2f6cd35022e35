//! Where everything lies: parameters and what has their shape, and what a window's passes leave.
//! Widths are padded with zeros to whole panels, each head's apart; padding stays zero in training.

use super::amx;
use super::product::{PANEL, padded};
use nn::gpt::Shape;
use std::ops::Range;

/// The model's sizes, as they are and padded to whole panels.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub shape: Shape,
    /// `width` padded.
    pub width: usize,
    /// The width of a head padded.
    pub head: usize,
    /// All heads side by side.
    pub heads: usize,
    /// Four times `width`, padded.
    pub wide: usize,
    pub vocabulary: usize,
}

impl Sizes {
    pub fn new(shape: Shape) -> Sizes {
        let head = padded(shape.head_width());
        Sizes {
            shape,
            width: padded(shape.width),
            head,
            heads: shape.heads * head,
            wide: padded(4 * shape.width),
            vocabulary: padded(shape.vocabulary),
        }
    }
}

/// Hands out consecutive parts of a buffer.
#[derive(Default)]
struct Parts(usize);

impl Parts {
    fn next(&mut self, elements: usize) -> Range<usize> {
        let start = self.0;
        self.0 += elements.next_multiple_of(PANEL);
        start..start + elements
    }
}

/// A linear layer's weight, (in, out) in panels, both multiples of a panel. In the buffer of
/// transposed weights the same range holds it as (out, in).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub inputs: usize,
    pub outputs: usize,
    pub start: usize,
    /// Where its tiles begin in the buffer of tiles, in tiles of one part.
    pub tiles: usize,
    /// Where those of its transpose begin.
    pub turned_tiles: usize,
    /// The LayerNorm before it.
    pub norm: Option<usize>,
}

impl Linear {
    pub fn range(self) -> Range<usize> {
        self.start..self.start + self.inputs * self.outputs
    }

    /// As it lies in the buffer of transposed weights.
    pub fn turned(self) -> Linear {
        Linear {
            inputs: self.outputs,
            outputs: self.inputs,
            tiles: self.turned_tiles,
            turned_tiles: self.tiles,
            ..self
        }
    }

    fn place(self, input: usize, output: usize) -> usize {
        self.start + (output / PANEL * self.inputs + input) * PANEL + output % PANEL
    }
}

/// A block's linear layers.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub attention: Linear, // (width, 3 heads): queries, keys, values, head by head
    pub attention_out: Linear, // (heads, width)
    pub mlp: Linear,       // (width, wide)
    pub mlp_out: Linear,   // (wide, width)
}

/// The flat buffers of parameters, moments and gradients.
#[derive(Clone, Debug)]
pub struct Layout {
    pub sizes: Sizes,
    pub blocks: Vec<Block>,
    /// The tied token embedding as the output layer: (width, vocabulary).
    pub output: Linear,
    pub positions: Range<usize>, // (context, width) in panels
    /// Weights of the norms, in the order of the forward pass: (2 layers + 1, width).
    pub norms: Range<usize>,
    pub len: usize,
    /// Tiles of one part of all linear layers in both orientations.
    pub tiles: usize,
}

impl Layout {
    pub fn new(shape: Shape) -> Layout {
        let sizes = Sizes::new(shape);
        let Sizes { width, heads, wide, vocabulary, .. } = sizes;
        let mut parts = Parts::default();
        let mut all_tiles = 0;
        let mut linear = |inputs: usize, outputs: usize, norm| {
            let start = parts.next(inputs * outputs).start;
            let tiles = all_tiles;
            let turned_tiles = tiles + amx::tiles(outputs / PANEL, inputs);
            all_tiles = turned_tiles + amx::tiles(inputs / PANEL, outputs);
            Linear { inputs, outputs, start, tiles, turned_tiles, norm }
        };
        let blocks = (0..shape.layers).map(|layer| Block {
            attention: linear(width, 3 * heads, Some(2 * layer)),
            attention_out: linear(heads, width, None),
            mlp: linear(width, wide, Some(2 * layer + 1)),
            mlp_out: linear(wide, width, None),
        });
        let blocks = blocks.collect();
        let output = linear(width, vocabulary, Some(2 * shape.layers));
        let positions = parts.next(shape.context * width);
        let norms = parts.next((2 * shape.layers + 1) * width);
        Layout { sizes, blocks, output, positions, norms, len: parts.0, tiles: all_tiles }
    }

    /// All linear layers.
    pub fn linears(&self) -> impl Iterator<Item = Linear> {
        let of = |block: &Block| [block.attention, block.attention_out, block.mlp, block.mlp_out];
        self.blocks.iter().flat_map(of).chain([self.output])
    }

    /// The most inputs or outputs of a linear layer.
    pub fn widest(&self) -> usize {
        self.linears().map(|linear| linear.inputs.max(linear.outputs)).max().unwrap_or(0)
    }

    /// The weight of a norm.
    pub fn norm(&self, index: usize) -> Range<usize> {
        let start = self.norms.start + index * self.sizes.width;
        start..start + self.sizes.width
    }

    /// Calls `visit` with the place of every element of the canonical flat buffer, in its order.
    pub fn places(&self, mut visit: impl FnMut(usize)) {
        let Sizes { shape, head, heads, .. } = self.sizes;
        let (width, head_width) = (shape.width, shape.head_width());
        let of_head = |column: usize| column / head_width * head + column % head_width;
        // A canonical weight's row is an output, its column an input.
        let mut matrix = |rows: usize, columns: usize, place: &dyn Fn(usize, usize) -> usize| {
            for row in 0..rows {
                for column in 0..columns {
                    visit(place(row, column));
                }
            }
        };
        let norm = |index: usize| move |_: usize, column: usize| self.norm(index).start + column;
        matrix(shape.vocabulary, width, &|token, column| self.output.place(column, token));
        matrix(shape.context, width, &|position, column| {
            let row = column / PANEL * shape.context + position;
            self.positions.start + row * PANEL + column % PANEL
        });
        for (layer, block) in self.blocks.iter().enumerate() {
            matrix(1, width, &norm(2 * layer));
            matrix(3 * width, width, &|row, column| {
                let output = row / width * heads + of_head(row % width);
                block.attention.place(column, output)
            });
            matrix(width, width, &|row, column| block.attention_out.place(of_head(column), row));
            matrix(1, width, &norm(2 * layer + 1));
            matrix(4 * width, width, &|row, column| block.mlp.place(column, row));
            matrix(width, 4 * width, &|row, column| block.mlp_out.place(column, row));
        }
        matrix(1, width, &norm(2 * shape.layers));
    }
}

/// What the forward pass of a group of windows leaves for the backward pass in one block. `rows` are
/// the tokens of all of them.
#[derive(Clone, Debug)]
pub struct BlockTrace {
    pub normal1: Range<usize>,      // (rows, width)
    pub inverse1: Range<usize>,     // (rows), padded
    pub qkv: Range<usize>,          // (rows, 3 heads)
    pub largest: Range<usize>,      // (heads, context), padded
    pub inverse_sums: Range<usize>, // likewise
    pub attended: Range<usize>,     // (rows, heads)
    pub normal2: Range<usize>,      // (rows, width)
    pub inverse2: Range<usize>,     // (rows), padded
    pub gelu: Range<usize>,         // (rows, wide)
    pub slope: Range<usize>,        // (rows, wide): of GELU, then the gradient before it
}

/// What the passes of a group of windows keep: each group has a region of its own.
#[derive(Clone, Debug)]
pub struct Trace {
    pub blocks: Vec<BlockTrace>,
    pub normal: Range<usize>,  // (rows, width)
    pub inverse: Range<usize>, // (rows), padded
    pub logits: Range<usize>,  // (rows, vocabulary), then their gradient
    /// The residual stream, then gradients of it: each block needs the one that reaches it and the
    /// one between its halves until its weights' gradients are computed.
    pub stream: [Range<usize>; 3], // (rows, width) each
    pub d_qkv: Range<usize>,   // (rows, 3 heads)
    pub len: usize,
}

impl Trace {
    /// For training on groups of so many windows. To predict, one block's room serves all of them.
    pub fn new(sizes: Sizes, windows: usize, keep_blocks: bool) -> Trace {
        let Sizes { shape: Shape { layers, heads: count, context, .. }, width, heads, .. } = sizes;
        let (rows, softmax) = (windows * context, windows * count * padded(context));
        let Sizes { wide, vocabulary, .. } = sizes;
        let mut parts = Parts::default();
        let stream = [(); 3].map(|()| parts.next(rows * width));
        let mut block = || BlockTrace {
            normal1: parts.next(rows * width),
            inverse1: parts.next(padded(rows)),
            qkv: parts.next(rows * 3 * heads),
            largest: parts.next(softmax),
            inverse_sums: parts.next(softmax),
            attended: parts.next(rows * heads),
            normal2: parts.next(rows * width),
            inverse2: parts.next(padded(rows)),
            gelu: parts.next(rows * wide),
            slope: parts.next(rows * wide),
        };
        let blocks = if keep_blocks {
            (0..layers).map(|_| block()).collect()
        } else {
            vec![block(); layers]
        };
        Trace {
            blocks,
            normal: parts.next(rows * width),
            inverse: parts.next(padded(rows)),
            logits: parts.next(rows * vocabulary),
            d_qkv: parts.next(rows * 3 * heads),
            stream,
            len: parts.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_has_a_place_of_its_own() {
        for shape in [
            Shape { layers: 2, heads: 3, width: 30, context: 7, vocabulary: 19 },
            Shape { layers: 1, heads: 2, width: 64, context: 16, vocabulary: 65 },
        ] {
            let layout = Layout::new(shape);
            let mut taken = vec![false; layout.len];
            let mut count = 0;
            layout.places(|place| {
                assert!(!std::mem::replace(&mut taken[place], true));
                count += 1;
            });
            assert_eq!(count, shape.parameter_count());
        }
    }
}
