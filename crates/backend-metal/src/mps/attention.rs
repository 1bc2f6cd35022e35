//! The attention model. Tokens are the rows of most products: 49 of each sample, all samples in one
//! matrix. The products of queries with keys and of weights with values are batched: one matrix a
//! sample.
//!
//! As the mean over tokens is linear, `ff2` is applied once to the mean of the ReLUs instead of to
//! each token, forward and backward.

use super::dispatch::{
    bias, bias_position_relu, bias_relu, gather_patches, mean_tokens, mean_tokens_back, relu_back,
    softmax, softmax_back, step_columns,
};
use super::network::{Layout, Network, PREDICTED_AT_ONCE, Resident, Source};
use super::plan::{Buffers, Command, Matrix, plain, transposed};
use mnist::CLASSES;
use nn::{AttentionShape, PATCH, PATCHES};

/// A layer's parameters.
#[derive(Clone, Copy, Debug)]
struct Linear {
    weight: Matrix, // (out, in)
    bias: Matrix,   // (out)
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    patch: Linear,
    position: Matrix,         // (49 * d_model)
    projections: [Linear; 3], // query, key, value
    ff1: Linear,
    ff2: Linear,
    out: Linear,
    room: Batch,
    sample_losses: Matrix, // (batch)
    batch_size: usize,
}

/// What a batch needs and leaves; T is 49 tokens for each sample.
#[derive(Clone, Copy, Debug)]
struct Batch {
    patches: Matrix,        // (T, 16)
    embedded: Matrix,       // (T, d_model), after ReLU
    projected: [Matrix; 3], // (T, d_model): queries, keys, values
    weights: Matrix,        // (batch, 49, 49), after softmax
    mixed: Matrix,          // (T, d_model)
    wide: Matrix,           // (T, ff), after ReLU
    wide_mean: Matrix,      // (batch, ff)
    mean: Matrix,           // (batch, d_model)
    logits: Matrix,         // (batch, 10), then the gradient by them
    // Gradients, for `batch_size` samples only.
    by_embedded: Matrix,       // (T, d_model)
    by_projected: [Matrix; 3], // (T, d_model)
    by_weights: Matrix,        // (batch, 49, 49)
    by_mixed: Matrix,          // (T, d_model)
    by_wide: Matrix,           // (T, ff)
    by_wide_mean: Matrix,      // (batch, ff)
    by_mean: Matrix,           // (batch, d_model)
}

impl Attention {
    pub(crate) fn new(
        buffers: &mut Buffers,
        layout: &Layout,
        AttentionShape { d_model, ff }: AttentionShape,
        batch_size: usize,
    ) -> Attention {
        let linear =
            |weight, bias| Linear { weight: layout.matrix(weight), bias: layout.vector(bias) };
        let samples = batch_size.max(PREDICTED_AT_ONCE);
        let mut add = |name, rows: usize, columns: usize| {
            buffers.add(name, rows * columns).shaped(rows, columns)
        };
        let tokens = samples * PATCHES;
        let trained_tokens = batch_size * PATCHES;
        let room = Batch {
            patches: add("the patches of a batch", tokens, PATCH),
            embedded: add("the embedded tokens", tokens, d_model),
            projected: ["the queries", "the keys", "the values"]
                .map(|name| add(name, tokens, d_model)),
            weights: add("the attention weights", tokens, PATCHES),
            mixed: add("the mixed tokens", tokens, d_model),
            wide: add("the wide tokens", tokens, ff),
            wide_mean: add("the mean wide tokens", samples, ff),
            mean: add("the mean tokens", samples, d_model),
            logits: add("the logits of a batch", samples, CLASSES),
            by_embedded: add("the gradient by the embedded tokens", trained_tokens, d_model),
            by_projected: [
                "the gradient by the queries",
                "the gradient by the keys",
                "the gradient by the values",
            ]
            .map(|name| add(name, trained_tokens, d_model)),
            by_weights: add("the gradient by the attention weights", trained_tokens, PATCHES),
            by_mixed: add("the gradient by the mixed tokens", trained_tokens, d_model),
            by_wide: add("the gradient by the wide tokens", trained_tokens, ff),
            by_wide_mean: add("the gradient by the mean wide tokens", batch_size, ff),
            by_mean: add("the gradient by the mean tokens", batch_size, d_model),
        };
        Attention {
            patch: linear("patch.weight", "patch.bias"),
            position: layout.vector("position"),
            projections: [
                linear("query.weight", "query.bias"),
                linear("key.weight", "key.bias"),
                linear("value.weight", "value.bias"),
            ],
            ff1: linear("ff1.weight", "ff1.bias"),
            ff2: linear("ff2.weight", "ff2.bias"),
            out: linear("out.weight", "out.bias"),
            room,
            sample_losses: add("the losses of a batch", 1, batch_size),
            batch_size,
        }
    }

    /// The buffers, for `count` samples.
    fn batch(&self, count: usize) -> Batch {
        let rows = |matrix: Matrix| matrix.shaped(count, matrix.columns);
        let tokens = |matrix: Matrix| matrix.shaped(count * PATCHES, matrix.columns);
        let pairs = |matrix: Matrix| matrix.batched(count, PATCHES, PATCHES);
        let room = self.room;
        let kept = Batch {
            patches: tokens(room.patches),
            embedded: tokens(room.embedded),
            projected: room.projected.map(tokens),
            weights: pairs(room.weights),
            mixed: tokens(room.mixed),
            wide: tokens(room.wide),
            wide_mean: rows(room.wide_mean),
            mean: rows(room.mean),
            logits: rows(room.logits),
            ..room
        };
        if count > self.batch_size {
            return kept; // a prediction, which has no gradients
        }
        Batch {
            by_embedded: tokens(room.by_embedded),
            by_projected: room.by_projected.map(tokens),
            by_weights: pairs(room.by_weights),
            by_mixed: tokens(room.by_mixed),
            by_wide: tokens(room.by_wide),
            by_wide_mean: rows(room.by_wide_mean),
            by_mean: rows(room.by_mean),
            ..kept
        }
    }

    /// Leaves the logits, without their bias.
    fn forward(&self, batch: &Batch, source: Source) -> Vec<Command> {
        let Batch { embedded, projected, weights, mixed, wide, wide_mean, mean, .. } = *batch;
        let [query, key, value] = projected.map(samples_of);
        let mut commands = vec![
            gather_patches(source.images, source.order, batch.patches).into(),
            linear(embedded, batch.patches, self.patch),
            bias_position_relu(embedded, self.patch.bias, self.position).into(),
        ];
        for (output, layer) in projected.into_iter().zip(self.projections) {
            commands.push(linear(output, embedded, layer));
        }
        for (output, layer) in projected.into_iter().zip(self.projections) {
            commands.push(bias(output, layer.bias).into());
        }
        commands.extend([
            Command::product(weights, plain(query), transposed(key), scale(query.columns)),
            softmax(weights).into(),
            Command::product(samples_of(mixed), plain(weights), plain(value), 1.0),
            linear(wide, mixed, self.ff1),
            bias_relu(wide, self.ff1.bias).into(),
            mean_tokens(wide, wide_mean).into(),
            linear(mean, wide_mean, self.ff2),
            bias(mean, self.ff2.bias).into(),
            linear(batch.logits, mean, self.out),
        ]);
        commands
    }

    /// From the gradient by the logits: all others, and the update of every parameter but the
    /// biases after the gradient has passed through it.
    fn backward(&self, batch: &Batch, rate: f32) -> Vec<Command> {
        let Batch { embedded, projected, weights, mixed, wide, logits, .. } = *batch;
        let Batch { by_embedded, by_projected, by_weights, by_mixed, by_wide, .. } = *batch;
        let [query, key, value] = projected.map(samples_of);
        let [by_query, by_key, by_value] = by_projected.map(samples_of);
        let scale = scale(query.columns);
        let mut commands = vec![
            linear_back(batch.by_mean, logits, self.out),
            linear_back(batch.by_wide_mean, batch.by_mean, self.ff2),
            mean_tokens_back(wide, batch.by_wide_mean, by_wide).into(),
            linear_back(by_mixed, by_wide, self.ff1),
            Command::product(by_value, transposed(weights), plain(samples_of(by_mixed)), 1.0),
            Command::product(by_weights, plain(samples_of(by_mixed)), transposed(value), 1.0),
            softmax_back(by_weights, weights).into(),
            Command::product(by_query, plain(by_weights), plain(key), scale),
            Command::product(by_key, transposed(by_weights), plain(query), scale),
        ];
        for (index, (by_output, layer)) in
            by_projected.into_iter().zip(self.projections).enumerate()
        {
            let sum = if index == 0 { Command::product } else { Command::add_product };
            commands.push(sum(by_embedded, plain(by_output), plain(layer.weight), 1.0));
        }
        commands.push(relu_back(by_embedded, embedded).into());

        let mut step = |layer: Linear, input: Matrix, by_output: Matrix| {
            let product = (transposed(by_output), plain(input));
            commands.push(Command::add_product(layer.weight, product.0, product.1, -rate));
        };
        step(self.out, batch.mean, logits);
        step(self.ff2, batch.wide_mean, batch.by_mean);
        step(self.ff1, mixed, by_wide);
        for (layer, by_output) in self.projections.into_iter().zip(by_projected) {
            step(layer, embedded, by_output);
        }
        step(self.patch, batch.patches, by_embedded);
        commands
    }

    /// The update of the biases and positions.
    fn step_biases(&self, batch: &Batch, rate: f32) -> Vec<Command> {
        let Batch { by_embedded, by_projected, .. } = *batch;
        let samples = batch.logits.rows;
        let positions = by_embedded.shaped(samples, PATCHES * by_embedded.columns);
        let mut commands = vec![
            step_columns(batch.logits, self.out.bias, rate).into(),
            step_columns(batch.by_mean, self.ff2.bias, rate).into(),
            step_columns(batch.by_wide, self.ff1.bias, rate).into(),
        ];
        for (layer, by_output) in self.projections.into_iter().zip(by_projected) {
            commands.push(step_columns(by_output, layer.bias, rate).into());
        }
        commands.extend([
            step_columns(by_embedded, self.patch.bias, rate).into(),
            step_columns(positions, self.position, rate).into(),
        ]);
        commands
    }
}

impl Network for Attention {
    fn step(&self, resident: &Resident, count: usize, learning_rate: f32) -> Vec<Command> {
        let batch = self.batch(count);
        let rate = learning_rate / count as f32;
        let mut commands = self.forward(&batch, resident.training());
        commands.extend(resident.loss(batch.logits, self.out.bias, self.sample_losses));
        commands.extend(self.backward(&batch, rate));
        commands.extend(self.step_biases(&batch, rate));
        commands
    }

    fn predict(&self, resident: &Resident) -> Vec<Command> {
        let batch = self.batch(PREDICTED_AT_ONCE);
        let mut commands = self.forward(&batch, resident.prediction());
        commands.push(resident.labels_of(batch.logits, self.out.bias));
        commands
    }
}

/// `output` = `input` times the layer's weight, without its bias.
fn linear(output: Matrix, input: Matrix, layer: Linear) -> Command {
    Command::product(output, plain(input), transposed(layer.weight), 1.0)
}

/// The gradient by a layer's input from the one by its output.
fn linear_back(by_input: Matrix, by_output: Matrix, layer: Linear) -> Command {
    Command::product(by_input, plain(by_output), plain(layer.weight), 1.0)
}

/// (T, columns) as a matrix (49, columns) for each sample.
fn samples_of(tokens: Matrix) -> Matrix {
    tokens.batched(tokens.rows / PATCHES, PATCHES, tokens.columns)
}

/// Of the scores: one over the root of the model's width.
fn scale(d_model: usize) -> f32 {
    (d_model as f32).sqrt().recip()
}
