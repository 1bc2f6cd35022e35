//! The operations of the graphs on arrays, row-major and in plain loops: what the evaluator and its
//! gradients have in common.

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

pub(super) fn cross_entropy(logits: &[f32], labels: &[f32], columns: usize) -> f32 {
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
