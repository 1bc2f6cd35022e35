//! The MLP: 784 - hidden - 10, ReLU.
//!
//! `fc2` is updated after the gradient has passed back through it; both weights by the product that
//! computes their gradient, which is added to them at once (`alpha` is minus the learning rate over
//! the batch, `beta` 1), so that no gradient is ever stored.

use super::dispatch::{bias_relu, gather, relu_back, step_columns};
use super::network::{Layout, Network, PREDICTED_AT_ONCE, Resident, Source};
use super::plan::{Buffers, Command, Matrix, plain, transposed};
use mnist::{CLASSES, PIXELS};
use nn::MlpShape;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mlp {
    fc1: Matrix,      // (hidden, 784)
    fc1_bias: Matrix, // (hidden)
    fc2: Matrix,      // (10, hidden)
    fc2_bias: Matrix, // (10)
    // Of a batch.
    pixels: Matrix,        // (batch, 784)
    hidden: Matrix,        // (batch, hidden), after ReLU
    by_hidden: Matrix,     // (batch, hidden), the gradient
    logits: Matrix,        // (batch, 10), then the gradient by them
    sample_losses: Matrix, // (batch)
}

impl Mlp {
    pub(crate) fn new(
        buffers: &mut Buffers,
        layout: &Layout,
        MlpShape { hidden }: MlpShape,
        batch_size: usize,
    ) -> Mlp {
        let rows = batch_size.max(PREDICTED_AT_ONCE);
        Mlp {
            fc1: layout.matrix("fc1.weight"),
            fc1_bias: layout.vector("fc1.bias"),
            fc2: layout.matrix("fc2.weight"),
            fc2_bias: layout.vector("fc2.bias"),
            pixels: buffers.add("the pixels of a batch", rows * PIXELS).shaped(rows, PIXELS),
            hidden: buffers.add("the hidden units of a batch", rows * hidden).shaped(rows, hidden),
            by_hidden: buffers
                .add("the gradient by the hidden units", batch_size * hidden)
                .shaped(batch_size, hidden),
            logits: buffers.add("the logits of a batch", rows * CLASSES).shaped(rows, CLASSES),
            sample_losses: buffers.add("the losses of a batch", batch_size),
        }
    }

    /// The same buffers, for fewer samples.
    fn of(self, count: usize) -> Mlp {
        let rows = |matrix: Matrix| matrix.shaped(count, matrix.columns);
        Mlp {
            pixels: rows(self.pixels),
            hidden: rows(self.hidden),
            logits: rows(self.logits),
            ..self
        }
    }

    /// Leaves the logits, without their bias.
    fn forward(&self, source: Source) -> [Command; 4] {
        [
            gather(source.images, source.order, self.pixels).into(),
            Command::product(self.hidden, plain(self.pixels), transposed(self.fc1), 1.0),
            bias_relu(self.hidden, self.fc1_bias).into(),
            Command::product(self.logits, plain(self.hidden), transposed(self.fc2), 1.0),
        ]
    }
}

impl Network for Mlp {
    fn step(&self, resident: &Resident, count: usize, learning_rate: f32) -> Vec<Command> {
        let batch = self.of(count);
        let Mlp { fc1, fc1_bias, fc2, fc2_bias, pixels, hidden, logits, .. } = batch;
        let by_hidden = self.by_hidden.shaped(count, hidden.columns);
        let rate = learning_rate / count as f32;
        let mut commands = Vec::from(batch.forward(resident.training()));
        commands.extend(resident.loss(logits, fc2_bias, self.sample_losses));
        commands.extend([
            Command::product(by_hidden, plain(logits), plain(fc2), 1.0),
            relu_back(by_hidden, hidden).into(),
            Command::add_product(fc2, transposed(logits), plain(hidden), -rate),
            Command::add_product(fc1, transposed(by_hidden), plain(pixels), -rate),
            step_columns(logits, fc2_bias, rate).into(),
            step_columns(by_hidden, fc1_bias, rate).into(),
        ]);
        commands
    }

    fn predict(&self, resident: &Resident) -> Vec<Command> {
        let batch = self.of(PREDICTED_AT_ONCE);
        let mut commands = Vec::from(batch.forward(resident.prediction()));
        commands.push(resident.labels_of(batch.logits, self.fc2_bias));
        commands
    }
}
