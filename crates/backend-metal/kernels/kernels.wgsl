// Everything of a step of the `mps` backend but the products, which are Metal's own. This text is
// the one source: the tests run it on any Vulkan device, also one in software, and `kernels.metal`
// beside it is naga's translation of it.
//
// Conventions. Matrices are row-major, (rows, columns) without padding. All kernels get the same
// arguments; `rows` and `columns` are those of binding 0 unless said. Dispatches are lines of
// workgroups; one thread for each element unless said. Outputs are written (`=`) but for
// parameters, which are stepped (`-=`). No atomics: each sum has one order, so that a device gives
// the same bits in every run. NaN passes every ReLU and maximum: a broken weight must reach the
// loss.

struct Arguments {
    first: u32,   // of the step: place in `order` of its first sample
    step: u32,    // of the step: its place in `losses`
    rows: u32,
    columns: u32,
    factor: f32,  // see each kernel
}
var<immediate> arguments: Arguments;

const WORDS: u32 = 196u; // of an image: 784 bytes, four to a word, the first in the lowest bits
const CLASSES: u32 = 10u;
const TOKENS: u32 = 49u;
const FILTERS: u32 = 8u;
const PLACES: u32 = 196u; // of a pooled image, 14x14
const POOLED: u32 = 1568u; // FILTERS * PLACES
const SIDE: u32 = 28u;

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(0) var<storage, read> input: array<f32>;
@group(0) @binding(0) var<storage, read_write> values: array<f32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(1) var<storage, read> second: array<f32>;
@group(0) @binding(1) var<storage, read> choices_kept: array<u32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<storage, read> third: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>; // bytes, four to a word
@group(0) @binding(2) var<storage, read_write> gathered: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> by_wide: array<f32>;
@group(0) @binding(2) var<storage, read_write> predicted: array<u32>;
@group(0) @binding(3) var<storage, read> order_of_labels: array<u32>;
@group(0) @binding(3) var<storage, read_write> pooled: array<f32>;
@group(0) @binding(3) var<storage, read_write> weight_shares: array<f32>;
@group(0) @binding(4) var<storage, read_write> sample_losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> choices: array<u32>;
@group(0) @binding(4) var<storage, read_write> bias_shares: array<f32>;

var<workgroup> exchange: array<f32, 640>;

fn relu(value: f32) -> f32 {
    return select(value, 0.0, value <= 0.0);
}

// Four neighbouring pixels, 0 to 1.
fn pixels_of(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)) / 255.0;
}

// --- the batch -----------------------------------------------------------------------------------

// `rows` images of the training data, in this step's order: `words` -> `gathered` (rows, 196). One
// thread for each word.
@compute @workgroup_size(256)
fn gather(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / WORDS;
    if row < arguments.rows {
        let sample = order[arguments.first + row];
        gathered[id.x] = pixels_of(words[sample * WORDS + id.x % WORDS]);
    }
}

// The same, cut into patches: -> `gathered` (rows, 49, 4 rows of a patch).
@compute @workgroup_size(256)
fn gather_patches(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / WORDS;
    if row < arguments.rows {
        let sample = order[arguments.first + row];
        let word = id.x % WORDS;
        let line = word / 7u; // seven words make a line of the image
        let token = line / 4u * 7u + word % 7u;
        gathered[row * WORDS + token * 4u + line % 4u] = pixels_of(words[sample * WORDS + word]);
    }
}

// --- layers --------------------------------------------------------------------------------------

// `values` += `second` (columns) in each row.
@compute @workgroup_size(256)
fn bias(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arguments.rows * arguments.columns {
        values[id.x] += second[id.x % arguments.columns];
    }
}

// The same, then ReLU.
@compute @workgroup_size(256)
fn bias_relu(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arguments.rows * arguments.columns {
        values[id.x] = relu(values[id.x] + second[id.x % arguments.columns]);
    }
}

// `values` (samples * 49, columns) += `second` (columns) + `third` (49, columns), then ReLU.
@compute @workgroup_size(256)
fn bias_position_relu(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arguments.rows * arguments.columns {
        let position = third[id.x % (TOKENS * arguments.columns)];
        values[id.x] = relu(values[id.x] + second[id.x % arguments.columns] + position);
    }
}

// The gradient `values` stops where the ReLU's output `second` is 0.
@compute @workgroup_size(256)
fn relu_back(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arguments.rows * arguments.columns {
        values[id.x] = select(values[id.x], 0.0, second[id.x] <= 0.0);
    }
}

// `output` (columns) -= `factor` * the sum of the rows of `input`. A workgroup for each 16 columns,
// 16 threads each.
@compute @workgroup_size(256)
fn step_columns(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let column = workgroup.x * 16u + thread % 16u;
    var sum = 0.0;
    if column < arguments.columns {
        for (var row = thread / 16u; row < arguments.rows; row += 16u) {
            sum += input[row * arguments.columns + column];
        }
    }
    exchange[thread] = sum;
    workgroupBarrier();
    if thread < 16u && column < arguments.columns {
        for (var other = 1u; other < 16u; other++) {
            sum += exchange[other * 16u + thread];
        }
        output[column] -= arguments.factor * sum;
    }
}

// --- the loss ------------------------------------------------------------------------------------

// Softmax cross-entropy in nats of `values` (rows, 10) + `second` (10), shifted by the largest
// logit so that nothing overflows. Leaves each sample's loss, and in `values` its gradient:
// softmax minus one at the label. One thread for each row.
@compute @workgroup_size(64)
fn cross_entropy(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    if row >= arguments.rows {
        return;
    }
    let sample = order_of_labels[arguments.first + row];
    let label = (labels[sample / 4u] >> (sample % 4u * 8u)) & 255u;
    var logits: array<f32, 10>;
    for (var digit = 0u; digit < CLASSES; digit++) {
        logits[digit] = values[row * CLASSES + digit] + second[digit];
    }
    var largest = logits[0];
    for (var digit = 1u; digit < CLASSES; digit++) {
        largest = max(largest, logits[digit]);
    }
    let at_label = logits[label] - largest;
    var sum = 0.0;
    for (var digit = 0u; digit < CLASSES; digit++) {
        logits[digit] = exp(logits[digit] - largest);
        sum += logits[digit];
    }
    for (var digit = 0u; digit < CLASSES; digit++) {
        let hit = select(0.0, 1.0, digit == label);
        values[row * CLASSES + digit] = logits[digit] / sum - hit;
    }
    sample_losses[row] = log(sum) - at_label;
}

// `output`[step] = the mean of `input` (rows). One workgroup.
@compute @workgroup_size(256)
fn mean_loss(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    for (var row = thread; row < arguments.rows; row += 256u) {
        sum += input[row];
    }
    exchange[thread] = sum;
    workgroupBarrier();
    if thread == 0u {
        for (var other = 1u; other < min(256u, arguments.rows); other++) {
            sum += exchange[other];
        }
        output[arguments.step] = sum / f32(arguments.rows);
    }
}

// `predicted` = the first of the largest of `input` (rows, 10) + `second` (10). One thread for each
// row.
@compute @workgroup_size(64)
fn predict(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arguments.rows {
        return;
    }
    var best = 0u;
    var largest = input[id.x * CLASSES] + second[0];
    for (var digit = 1u; digit < CLASSES; digit++) {
        let logit = input[id.x * CLASSES + digit] + second[digit];
        if logit > largest {
            best = digit;
            largest = logit;
        }
    }
    predicted[id.x] = best;
}

// --- the CNN -------------------------------------------------------------------------------------

// Pixel (line, column) of the image that begins at `image`; both count from the padding's -1 on, so
// that nothing is negative.
fn pixel(image: u32, line: u32, column: u32) -> f32 {
    let inside = line >= 1u && line <= SIDE && column >= 1u && column <= SIDE;
    let at = image + (max(line, 1u) - 1u) * SIDE + max(column, 1u) - 1u;
    return select(0.0, input[select(image, at, inside)], inside);
}

// Convolution with the weights `second` (8, 3, 3) and biases `third` (8), ReLU, 2x2 max-pool of
// `input` (rows, 784) -> `pooled` (rows, 8, 14, 14) and `choices`, alike: which of the four sums was
// the largest (of equal ones the first), and 4 if the gradient passes. One thread for each pooled
// value.
@compute @workgroup_size(256)
fn convolve(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / POOLED;
    if row >= arguments.rows {
        return;
    }
    let filter_index = id.x % POOLED / PLACES;
    let place = id.x % PLACES;
    let line = place / 14u * 2u;
    let column = place % 14u * 2u;
    var sums: array<f32, 4>;
    for (var corner = 0u; corner < 4u; corner++) {
        sums[corner] = third[filter_index];
    }
    for (var tap = 0u; tap < 9u; tap++) {
        let weight = second[filter_index * 9u + tap];
        for (var corner = 0u; corner < 4u; corner++) {
            let down = tap / 3u + corner / 2u;
            let right = tap % 3u + corner % 2u;
            sums[corner] = fma(
                weight,
                pixel(row * SIDE * SIDE, line + down, column + right),
                sums[corner],
            );
        }
    }
    var largest = sums[0];
    var choice = 0u;
    for (var corner = 1u; corner < 4u; corner++) {
        if sums[corner] > largest {
            largest = sums[corner];
            choice = corner;
        }
    }
    // The maximum of the ReLUs is the ReLU of the maximum.
    pooled[id.x] = relu(largest);
    choices[id.x] = choice + select(4u, 0u, largest <= 0.0);
}

// Of each sample, the gradient by the weights (-> `weight_shares` (rows, 8, 9)) and biases
// (-> `bias_shares` (rows, 8)) of the convolution of `input` (rows, 784), from the gradient by the
// pooled values, `third` (rows, 8, 14, 14). A workgroup for each sample and filter.
@compute @workgroup_size(64)
fn convolve_back(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup.x / FILTERS;
    var sums: array<f32, 10>; // nine taps, bias
    for (var place = thread; place < PLACES; place += 64u) {
        let at = workgroup.x * PLACES + place;
        let choice = choices_kept[at];
        if choice >= 4u {
            let gradient = third[at];
            let line = place / 14u * 2u + (choice - 4u) / 2u;
            let column = place % 14u * 2u + choice % 2u;
            for (var tap = 0u; tap < 9u; tap++) {
                let value = pixel(row * SIDE * SIDE, line + tap / 3u, column + tap % 3u);
                sums[tap] = fma(gradient, value, sums[tap]);
            }
            sums[9] += gradient;
        }
    }
    // exchange: (64, 10)
    for (var tap = 0u; tap < 10u; tap++) {
        exchange[thread * 10u + tap] = sums[tap];
    }
    workgroupBarrier();
    if thread < 10u {
        var sum = 0.0;
        for (var other = 0u; other < 64u; other++) {
            sum += exchange[other * 10u + thread];
        }
        if thread < 9u {
            weight_shares[workgroup.x * 9u + thread] = sum;
        } else {
            bias_shares[workgroup.x] = sum;
        }
    }
}

// --- attention -----------------------------------------------------------------------------------

// Softmax of each row of `values`. A workgroup for each row, of at most 64 columns.
@compute @workgroup_size(64)
fn softmax(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup.x * arguments.columns + thread;
    let inside = thread < arguments.columns;
    var score = 0.0;
    if inside {
        score = values[at];
    }
    exchange[thread] = score;
    workgroupBarrier();
    var largest = exchange[0];
    for (var other = 1u; other < arguments.columns; other++) {
        largest = max(largest, exchange[other]);
    }
    workgroupBarrier();
    let weight = exp(score - largest);
    exchange[thread] = weight;
    workgroupBarrier();
    var sum = 0.0;
    for (var other = 0u; other < arguments.columns; other++) {
        sum += exchange[other];
    }
    if inside {
        values[at] = weight / sum;
    }
}

// The gradient `values` by the softmax's outputs `second` becomes the one by its inputs. A workgroup
// for each row, of at most 64 columns.
@compute @workgroup_size(64)
fn softmax_back(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup.x * arguments.columns + thread;
    let inside = thread < arguments.columns;
    var gradient = 0.0;
    var weight = 0.0;
    if inside {
        gradient = values[at];
        weight = second[at];
    }
    exchange[thread] = gradient * weight;
    workgroupBarrier();
    var sum = 0.0;
    for (var other = 0u; other < arguments.columns; other++) {
        sum += exchange[other];
    }
    if inside {
        values[at] = weight * (gradient - sum);
    }
}

// `input` (rows, 49, columns) -> `output` (rows, columns), the mean over the tokens. One thread for
// each element of `output`.
@compute @workgroup_size(256)
fn mean_tokens(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arguments.rows * arguments.columns {
        let first = id.x / arguments.columns * TOKENS * arguments.columns + id.x % arguments.columns;
        var sum = 0.0;
        for (var token = 0u; token < TOKENS; token++) {
            sum += input[first + token * arguments.columns];
        }
        output[id.x] = sum / f32(TOKENS);
    }
}

// The way back through `mean_tokens` and the ReLU before it: `second` (rows, columns), the gradient
// by the mean, -> `by_wide` (rows, 49, columns), 0 where the ReLU's output `input` is. One thread
// for each element of `by_wide`.
@compute @workgroup_size(256)
fn mean_tokens_back(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arguments.rows * TOKENS * arguments.columns {
        let row = id.x / (TOKENS * arguments.columns);
        let gradient = second[row * arguments.columns + id.x % arguments.columns] / f32(TOKENS);
        by_wide[id.x] = select(gradient, 0.0, input[id.x] <= 0.0);
    }
}
