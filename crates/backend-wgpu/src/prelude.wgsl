// What every model's shader begins with: the data's bindings, pixels, and the loss.
//
// The training data stays on the device for the whole session: images as bytes, four to a word, in
// the dataset's order; `order` says which sample comes when. A kernel is told by immediate data
// which stretch of the order it works on, so that nothing is uploaded and no binding changes from
// step to step. Everything is written (`=`), nothing accumulates between dispatches, and no atomics
// are used: each sum has one order, so that a device gives the same bits in every run.

const WORDS: u32 = 196u;  // of an image: 784 bytes, four to a word, the first in the lowest bits
const CLASSES: u32 = 10u;

@group(0) @binding(0) var<storage, read> images: array<u32>; // (samples, WORDS)
@group(0) @binding(1) var<storage, read> labels: array<u32>; // (samples) bytes, four to a word
@group(0) @binding(2) var<storage, read> order: array<u32>;  // indices of samples
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;    // (steps)
@group(0) @binding(4) var<storage, read_write> predicted: array<u32>; // (images to predict)

// Four neighbouring pixels as 0 to 255. Kernels divide by 255 once per sum, not once per pixel.
fn pixels_of(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
}

fn label_of(sample: u32) -> u32 {
    return (labels[sample / 4u] >> (sample % 4u * 8u)) & 255u;
}

// Whether ReLU closes: 0 and below, but not NaN, so that a broken weight reaches the loss. The bits
// tell, as integers: a compiler may take it that no float is NaN, and make a maximum, which drops
// NaN, of a comparison of floats and a choice.
fn closed(value: vec4<f32>) -> vec4<bool> {
    let bits = bitcast<vec4<i32>>(value);
    let below = bits <= vec4<i32>(-8388608); // from -0 to -infinity; beyond are the NaNs
    return below | (bits == vec4<i32>());
}

fn relu(value: vec4<f32>) -> vec4<f32> {
    return select(value, vec4<f32>(), closed(value));
}

// Softmax cross-entropy in nats, shifted by the largest logit so that nothing overflows. Turns the
// logits into the gradient by them, softmax minus one at the label.
fn cross_entropy(logits: ptr<function, array<f32, 10>>, label: u32) -> f32 {
    var largest = (*logits)[0];
    for (var digit = 1u; digit < CLASSES; digit++) {
        largest = max(largest, (*logits)[digit]);
    }
    let at_label = (*logits)[label] - largest;
    var sum = 0.0;
    for (var digit = 0u; digit < CLASSES; digit++) {
        (*logits)[digit] = exp((*logits)[digit] - largest);
        sum += (*logits)[digit];
    }
    for (var digit = 0u; digit < CLASSES; digit++) {
        (*logits)[digit] /= sum;
    }
    (*logits)[label] -= 1.0;
    return log(sum) - at_label;
}

// The first of the largest logits.
fn first_of_the_largest(logits: ptr<function, array<f32, 10>>) -> u32 {
    var best = 0u;
    for (var digit = 1u; digit < CLASSES; digit++) {
        if (*logits)[digit] > (*logits)[best] {
            best = digit;
        }
    }
    return best;
}

// The products of small matrices, in fused multiply-adds. The first is sum + row * columns (four
// dot products), the second sum + factors * rows (a combination of rows), the third sum + the outer
// product of a column and a row, a row for each element of the column.

fn add_dots(sum: vec4<f32>, row: vec4<f32>, columns: mat4x4<f32>) -> vec4<f32> {
    return add_rows(sum, row, transpose(columns));
}

fn add_rows(sum: vec4<f32>, factors: vec4<f32>, rows: mat4x4<f32>) -> vec4<f32> {
    var result = fma(factors.xxxx, rows[0], sum);
    result = fma(factors.yyyy, rows[1], result);
    result = fma(factors.zzzz, rows[2], result);
    return fma(factors.wwww, rows[3], result);
}

fn add_outer(sum: mat4x4<f32>, column: vec4<f32>, row: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(column.xxxx, row, sum[0]),
        fma(column.yyyy, row, sum[1]),
        fma(column.zzzz, row, sum[2]),
        fma(column.wwww, row, sum[3]),
    );
}
