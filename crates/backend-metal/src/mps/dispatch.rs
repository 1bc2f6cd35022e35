//! A launcher for each kernel, which derives its arguments and workgroups from the shapes that it is
//! given.

use super::kernels::Kernel;
use super::plan::{Arguments, Dispatch, Matrix};
use mnist::CLASSES;
use nn::{CONV_FILTERS, PATCHES, POOLED};

/// Words of an image.
const WORDS: usize = mnist::PIXELS / 4;

/// A dispatch of `groups` workgroups over `rows` and `columns`.
fn dispatch(
    kernel: Kernel,
    bindings: &[Matrix],
    [rows, columns]: [usize; 2],
    factor: f32,
    groups: usize,
) -> Dispatch {
    assert_eq!(bindings.len(), kernel.accesses().len(), "bindings of {}", kernel.name());
    let word = |size: usize| u32::try_from(size).expect("sizes below 2^32 are checked at open");
    let arguments = Arguments { rows: word(rows), columns: word(columns), factor };
    let dispatch = Dispatch { kernel, bindings: bindings.to_vec(), arguments, groups };
    for (index, part) in bindings.iter().enumerate() {
        let clash = |other: &Matrix| part.overlaps(other);
        if kernel.accesses()[index].writes() {
            let others = bindings.iter().enumerate().filter(|&(other, _)| other != index);
            assert!(!others.into_iter().any(|(_, other)| clash(other)), "{dispatch:?} aliases");
        }
    }
    dispatch
}

/// A dispatch with a thread for each of `threads` elements.
fn each(
    kernel: Kernel,
    bindings: &[Matrix],
    shape: [usize; 2],
    factor: f32,
    threads: usize,
) -> Dispatch {
    dispatch(kernel, bindings, shape, factor, threads.div_ceil(kernel.threads()))
}

fn is_vector(vector: Matrix, len: usize) -> bool {
    [vector.matrices, vector.rows, vector.columns] == [1, 1, len]
}

fn shape(matrix: Matrix) -> [usize; 2] {
    assert_eq!(matrix.matrices, 1, "one matrix, not {matrix:?}");
    [matrix.rows, matrix.columns]
}

/// `images` in `order`, from the step's first sample on, -> `pixels` (samples, 784).
pub(crate) fn gather(images: Matrix, order: Matrix, pixels: Matrix) -> Dispatch {
    let [samples, columns] = shape(pixels);
    assert_eq!(columns, mnist::PIXELS, "pixels of an image");
    each(Kernel::Gather, &[images, order, pixels], [samples, columns], 0.0, samples * WORDS)
}

/// The same, cut into patches, -> `patches` (samples * 49, 16).
pub(crate) fn gather_patches(images: Matrix, order: Matrix, patches: Matrix) -> Dispatch {
    let [rows, columns] = shape(patches);
    assert!(rows.is_multiple_of(PATCHES) && columns == nn::PATCH, "{patches:?} of patches");
    let samples = rows / PATCHES;
    let bindings = [images, order, patches];
    each(Kernel::GatherPatches, &bindings, [samples, columns], 0.0, samples * WORDS)
}

/// `values` (rows, columns) += `bias` (columns).
pub(crate) fn bias(values: Matrix, bias: Matrix) -> Dispatch {
    assert!(is_vector(bias, values.columns), "{bias:?} for {values:?}");
    each(Kernel::Bias, &[values, bias], shape(values), 0.0, values.len())
}

/// The same, then ReLU.
pub(crate) fn bias_relu(values: Matrix, bias: Matrix) -> Dispatch {
    assert!(is_vector(bias, values.columns), "{bias:?} for {values:?}");
    each(Kernel::BiasRelu, &[values, bias], shape(values), 0.0, values.len())
}

/// `values` (samples * 49, columns) += `bias` (columns) + `position` (49, columns), then ReLU.
pub(crate) fn bias_position_relu(values: Matrix, bias: Matrix, position: Matrix) -> Dispatch {
    assert!(is_vector(bias, values.columns), "{bias:?} for {values:?}");
    assert_eq!(position.len(), PATCHES * values.columns, "{position:?} for {values:?}");
    assert!(values.rows.is_multiple_of(PATCHES), "{values:?} of tokens");
    let bindings = [values, bias, position];
    each(Kernel::BiasPositionRelu, &bindings, shape(values), 0.0, values.len())
}

/// `gradient` = 0 where `output`, of a ReLU, is.
pub(crate) fn relu_back(gradient: Matrix, output: Matrix) -> Dispatch {
    assert_eq!(shape(gradient), shape(output));
    each(Kernel::ReluBack, &[gradient, output], shape(gradient), 0.0, gradient.len())
}

/// `parameter` (columns) -= `factor` * the sum of the rows of `gradient`.
pub(crate) fn step_columns(gradient: Matrix, parameter: Matrix, factor: f32) -> Dispatch {
    let [rows, columns] = shape(gradient);
    assert_eq!(parameter.len(), columns, "{parameter:?} for {gradient:?}");
    let groups = columns.div_ceil(16);
    dispatch(Kernel::StepColumns, &[gradient, parameter], [rows, columns], factor, groups)
}

/// `logits` (samples, 10), without their `bias`, become the gradient by them of the sum of the
/// samples' losses, which go to `losses` (samples).
pub(crate) fn cross_entropy(
    logits: Matrix,
    bias: Matrix,
    [labels, order]: [Matrix; 2],
    losses: Matrix,
) -> Dispatch {
    let [samples, classes] = shape(logits);
    assert!(classes == CLASSES && is_vector(bias, CLASSES), "{logits:?} with {bias:?}");
    assert!(is_vector(losses, samples), "{losses:?} for {logits:?}");
    let bindings = [logits, bias, labels, order, losses];
    each(Kernel::CrossEntropy, &bindings, [samples, classes], 0.0, samples)
}

/// `losses`\[step\] = the mean of `sample_losses`.
pub(crate) fn mean_loss(sample_losses: Matrix, losses: Matrix) -> Dispatch {
    let shape = [sample_losses.len(), 1];
    dispatch(Kernel::MeanLoss, &[sample_losses, losses], shape, 0.0, 1)
}

/// `predicted` (samples) = the first of the largest of `logits` (samples, 10) + `bias`.
pub(crate) fn predict(logits: Matrix, bias: Matrix, predicted: Matrix) -> Dispatch {
    let [samples, classes] = shape(logits);
    assert!(classes == CLASSES && is_vector(bias, CLASSES), "{logits:?} with {bias:?}");
    assert!(is_vector(predicted, samples), "{predicted:?} for {logits:?}");
    each(Kernel::Predict, &[logits, bias, predicted], [samples, classes], 0.0, samples)
}

/// `pixels` (samples, 784) -> `pooled` (samples, 1568) and `choices` alike.
pub(crate) fn convolve(
    pixels: Matrix,
    weight: Matrix,
    bias: Matrix,
    pooled: Matrix,
    choices: Matrix,
) -> Dispatch {
    let [samples, _] = convolved(pixels, weight, bias, pooled, choices);
    let bindings = [pixels, weight, bias, pooled, choices];
    each(Kernel::Convolve, &bindings, shape(pixels), 0.0, samples * POOLED)
}

/// From the gradient `by_pooled` (samples, 1568): of each sample, the gradient by the weights
/// (samples, 72) and by the biases (samples, 8).
pub(crate) fn convolve_back(
    pixels: Matrix,
    choices: Matrix,
    by_pooled: Matrix,
    weight_shares: Matrix,
    bias_shares: Matrix,
) -> Dispatch {
    let [samples, _] = shape(pixels);
    assert_eq!(shape(weight_shares), [samples, 9 * CONV_FILTERS]);
    assert_eq!(shape(bias_shares), [samples, CONV_FILTERS]);
    assert_eq!([shape(choices), shape(by_pooled)], [[samples, POOLED]; 2]);
    let bindings = [pixels, choices, by_pooled, weight_shares, bias_shares];
    dispatch(Kernel::ConvolveBack, &bindings, shape(pixels), 0.0, samples * CONV_FILTERS)
}

fn convolved(
    pixels: Matrix,
    weight: Matrix,
    bias: Matrix,
    pooled: Matrix,
    choices: Matrix,
) -> [usize; 2] {
    let [samples, columns] = shape(pixels);
    assert_eq!(columns, mnist::PIXELS, "{pixels:?} of pixels");
    assert_eq!([weight.len(), bias.len()], [9 * CONV_FILTERS, CONV_FILTERS]);
    assert_eq!([shape(pooled), shape(choices)], [[samples, POOLED]; 2]);
    [samples, columns]
}

/// Softmax of each row, at most 64 columns, of all matrices.
pub(crate) fn softmax(scores: Matrix) -> Dispatch {
    let rows = rows_of_a_group_each(scores);
    dispatch(Kernel::Softmax, &[scores], [rows, scores.columns], 0.0, rows)
}

/// `gradient` by the softmax's outputs `weights` becomes the one by its inputs.
pub(crate) fn softmax_back(gradient: Matrix, weights: Matrix) -> Dispatch {
    let rows = rows_of_a_group_each(gradient);
    assert_eq!([rows, gradient.columns], [rows_of_a_group_each(weights), weights.columns]);
    dispatch(Kernel::SoftmaxBack, &[gradient, weights], [rows, gradient.columns], 0.0, rows)
}

fn rows_of_a_group_each(matrix: Matrix) -> usize {
    assert!(matrix.columns <= 64, "{matrix:?} is too wide for a workgroup");
    matrix.matrices * matrix.rows
}

/// `tokens` (samples * 49, columns) -> `mean` (samples, columns).
pub(crate) fn mean_tokens(tokens: Matrix, mean: Matrix) -> Dispatch {
    assert_eq!(shape(tokens), [mean.rows * PATCHES, mean.columns], "the mean is {mean:?}");
    each(Kernel::MeanTokens, &[tokens, mean], shape(mean), 0.0, mean.len())
}

/// The way back through [`mean_tokens`] and the ReLU before it, whose outputs are `tokens`.
pub(crate) fn mean_tokens_back(tokens: Matrix, by_mean: Matrix, by_tokens: Matrix) -> Dispatch {
    assert_eq!(shape(tokens), [by_mean.rows * PATCHES, by_mean.columns], "the mean is {by_mean:?}");
    assert_eq!(shape(tokens), shape(by_tokens));
    let bindings = [tokens, by_mean, by_tokens];
    each(Kernel::MeanTokensBack, &bindings, shape(by_mean), 0.0, tokens.len())
}
