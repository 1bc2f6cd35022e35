//! The CNN: 8 filters of 3x3, ReLU, 2x2 max-pool, 1568 - 10.
//!
//! The convolution with its pooling, forward and backward, is a kernel: an im2col would write nine
//! times the image to feed products of 9 by 8. `fc` is three products.

use super::dispatch::{convolve, convolve_back, gather, step_columns};
use super::network::{Layout, Network, PREDICTED_AT_ONCE, Resident, Source};
use super::plan::{Buffers, Command, Matrix, plain, transposed};
use mnist::{CLASSES, PIXELS};
use nn::{CONV_FILTERS, POOLED};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cnn {
    conv: Matrix,      // (8 * 9)
    conv_bias: Matrix, // (8)
    fc: Matrix,        // (10, 1568)
    fc_bias: Matrix,   // (10)
    // Of a batch.
    pixels: Matrix,        // (batch, 784)
    pooled: Matrix,        // (batch, 1568), after ReLU
    choices: Matrix,       // (batch, 1568), integers: see `convolve`
    by_pooled: Matrix,     // (batch, 1568), the gradient
    weight_shares: Matrix, // (batch, 72), each sample's gradient
    bias_shares: Matrix,   // (batch, 8), each sample's gradient
    logits: Matrix,        // (batch, 10), then the gradient by them
    sample_losses: Matrix, // (batch)
}

impl Cnn {
    pub(crate) fn new(buffers: &mut Buffers, layout: &Layout, batch_size: usize) -> Cnn {
        let rows = batch_size.max(PREDICTED_AT_ONCE);
        let mut add = |name, rows: usize, columns: usize| {
            buffers.add(name, rows * columns).shaped(rows, columns)
        };
        Cnn {
            conv: layout.vector("conv.weight"),
            conv_bias: layout.vector("conv.bias"),
            fc: layout.matrix("fc.weight"),
            fc_bias: layout.vector("fc.bias"),
            pixels: add("the pixels of a batch", rows, PIXELS),
            pooled: add("the pooled images of a batch", rows, POOLED),
            choices: add("the choices of the pooling", rows, POOLED),
            by_pooled: add("the gradient by the pooled images", batch_size, POOLED),
            weight_shares: add("the samples' gradients of conv", batch_size, 9 * CONV_FILTERS),
            bias_shares: add("the samples' gradients of conv's biases", batch_size, CONV_FILTERS),
            logits: add("the logits of a batch", rows, CLASSES),
            sample_losses: add("the losses of a batch", 1, batch_size),
        }
    }

    /// The same buffers, for fewer samples.
    fn of(self, count: usize) -> Cnn {
        let rows = |matrix: Matrix| matrix.shaped(count, matrix.columns);
        Cnn {
            pixels: rows(self.pixels),
            pooled: rows(self.pooled),
            choices: rows(self.choices),
            logits: rows(self.logits),
            ..self
        }
    }

    /// Leaves the logits, without their bias.
    fn forward(&self, source: Source) -> [Command; 3] {
        let Cnn { pixels, conv, conv_bias, pooled, choices, .. } = *self;
        [
            gather(source.images, source.order, pixels).into(),
            convolve(pixels, conv, conv_bias, pooled, choices).into(),
            Command::product(self.logits, plain(pooled), transposed(self.fc), 1.0),
        ]
    }
}

impl Network for Cnn {
    fn step(&self, resident: &Resident, count: usize, learning_rate: f32) -> Vec<Command> {
        let batch = self.of(count);
        let Cnn { pixels, pooled, choices, logits, .. } = batch;
        let rows = |matrix: Matrix| matrix.shaped(count, matrix.columns);
        let (weights, biases) = (rows(self.weight_shares), rows(self.bias_shares));
        let by_pooled = rows(self.by_pooled);
        let rate = learning_rate / count as f32;
        let mut commands = Vec::from(batch.forward(resident.training()));
        commands.extend(resident.loss(logits, self.fc_bias, self.sample_losses));
        commands.extend([
            Command::product(by_pooled, plain(logits), plain(self.fc), 1.0),
            Command::add_product(self.fc, transposed(logits), plain(pooled), -rate),
            convolve_back(pixels, choices, by_pooled, weights, biases).into(),
            step_columns(logits, self.fc_bias, rate).into(),
            step_columns(weights, self.conv, rate).into(),
            step_columns(biases, self.conv_bias, rate).into(),
        ]);
        commands
    }

    fn predict(&self, resident: &Resident) -> Vec<Command> {
        let batch = self.of(PREDICTED_AT_ONCE);
        let mut commands = Vec::from(batch.forward(resident.prediction()));
        commands.push(resident.labels_of(batch.logits, self.fc_bias));
        commands
    }
}
