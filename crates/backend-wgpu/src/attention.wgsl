// The attention model: 49 patches -> `patch` + `position`, ReLU -> one head of self-attention ->
// `ff1`, ReLU, `ff2` per token -> mean over tokens -> `out`, softmax cross-entropy, plain SGD. Two
// dispatches per step.
//
// What it computes. `differentiate` has a workgroup for each sample (or, in a large batch, for each
// of some samples in turn) and goes forward and backward within it; it leaves the sample's gradient
// of every parameter. `update` sums the gradients over the workgroups and takes the step.
//
// As the mean over tokens is linear, `ff2` is applied once to the mean of the ReLUs instead of to
// each token, forward and backward: the gradient by a token's ReLU is the same vector for all
// tokens.
//
// Memory. A workgroup's 16 KiB hold no more than two of the model's matrices of 49 tokens, and
// there are ten. So a matrix lives in registers, two tokens x four columns in each thread, and is
// laid out on the `stage`, in chunks of 32 columns, when others need it; every product has its
// operands there, or weights that are read straight from memory. Widths are padded to a multiple of
// 32 with zero weights; all that comes of them is zero, also in the gradient. Rows are 9 quads
// apart, not 8, and rows that neighbouring threads read are neighbours on the stage, so that no two
// threads of a load meet in a bank. Token 49 does not exist: its row is 0 on the stage, and what a
// thread computes for it is thrown away.
//
// The products, each with its thread's share:
//   project    rows x weights^T, weights staged; two rows x four columns
//   pull_back  rows x weights, weights from memory; two rows x four columns
//   pair       rows x rows^T, queries with keys; three tokens x four keys, in 17 x 13 threads
//   mix        pairs x rows; two rows x four columns
//   mix_back   pairs^T x rows; two rows x four columns
//   outer      rows^T x rows, the gradient of weights; four x four, the tokens in slices
//
// Layout. `parameters` in quads, as the constants say that the launcher puts before this text:
// weights (out, in) row by row in padded widths, position (49, d_model), `out.weight` (10,
// d_model). `gradients`: (workgroups, QUADS + 1), the same, then the loss.
//
// Floor. At the default widths (32, 64) a sample takes 2.5 MFLOP. 32 workgroups on 32 of an H100's
// 132 SMs at their full rate: 6 us per step. Nothing but weights and gradients, 40 kB each, passes
// through L2.

// Put before this text by the launcher:
//   D_CHUNKS, F_CHUNKS    d_model and ff in chunks of 32 columns
//   ROOT                  square root of d_model
//   GROUPS                workgroups of `differentiate` that have a place in `gradients`
//   ROLLED                whether loops are to stay loops
//   PATCH_WEIGHT ... OUT_BIAS, QUADS   where each tensor begins in `parameters`, and their end

const D: u32 = 8u * D_CHUNKS; // quads of a token
const F: u32 = 8u * F_CHUNKS;
const TOKENS: u32 = 49u;
const THREADS: u32 = 224u;
const ROW: u32 = 9u;        // quads from row to row on the stage, eight of them in use
const FIRST: u32 = 0u;      // the two matrices on the stage, of 51 rows
const SECOND: u32 = 459u;
const KEYS: u32 = 13u;      // quads of a row of pairs: 52 keys
const HALF: u32 = 663u;     // behind 51 rows of pairs: half of a matrix's rows, 8 quads each
const HALF_ROWS: u32 = 28u;

struct Step {
    first: u32, // place in `order`
    count: u32, // samples
    index: u32, // counted from 0; places the loss
    rate: f32,  // learning rate over `count`
    eight: u32, // 8, see `quads_of_chunk`
}
var<immediate> step: Step;

@group(0) @binding(5) var<storage, read_write> parameters: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> gradients: array<vec4<f32>>;

var<workgroup> stage: array<vec4<f32>, 936>;
var<workgroup> wide_mean: array<vec4<f32>, F>; // mean over tokens of the ReLUs before ff2

// What a thread has of a matrix (49, d_model): in each chunk, quad `thread % 8` of the tokens
// 2 * (thread / 8) and the one after it. Threads from 200 on have none.
alias Rows = array<vec4<f32>, 2u * D_CHUNKS>;
// What a thread has of a matrix (49, 49): the keys from 4 * (thread % 13) on, of the tokens
// thread / 13, 17 and 34 more. Threads from 221 on have none.
alias Pairs = array<vec4<f32>, 3>;

var<private> thread: u32;
var<private> quad: u32;       // thread % 8
var<private> slot: u32;       // thread / 8
var<private> has_rows: bool;  // slot < 25
var<private> gradient_at: u32; // where the workgroup's gradients begin
var<private> adds: bool;      // to the gradients of the samples before

var<private> patch_row: vec4<f32>; // four pixels
var<private> embedded: Rows;
var<private> query: Rows;
var<private> key: Rows;
var<private> value: Rows;
var<private> weights: Pairs;  // of the attention
var<private> mixed: Rows;
var<private> passes: array<u32, F_CHUNKS>; // bits: where ff1's ReLU is above 0, 2 x 4
var<private> by_wide: array<vec4<f32>, F_CHUNKS>; // gradient by ff1's ReLU, of any token
var<private> by_mixed: Rows;
var<private> by_query: Rows;
var<private> by_key: Rows;
var<private> by_value: Rows;
var<private> by_embedded: Rows;

// 8, and the bound of the inner loops. GPUs' compilers unroll a loop of eight. A software adapter's
// would also, and then needs a minute for what the loop takes 7 s (llvmpipe of Mesa 22.3): there
// the compiler is not told.
fn quads_of_chunk() -> u32 {
    if ROLLED {
        return step.eight;
    }
    return 8u;
}

// --- the stage -----------------------------------------------------------------------------------

fn begin_thread(index: u32) {
    thread = index;
    quad = index % 8u;
    slot = index / 8u;
    has_rows = slot < 25u;
}

// Lays out a chunk, row by row.
fn lay_out(at: u32, chunk: u32, rows: ptr<private, Rows>) {
    lay_out_pair(at, (*rows)[2u * chunk], (*rows)[2u * chunk + 1u]);
}

fn lay_out_pair(at: u32, even: vec4<f32>, odd: vec4<f32>) {
    if has_rows {
        stage[at + 2u * slot * ROW + quad] = even;
        stage[at + (2u * slot + 1u) * ROW + quad] = select(odd, vec4<f32>(), slot == 24u);
    }
}

// Lays out a chunk for threads that take four neighbouring rows each, 4n + j in row 13j + n.
fn lay_out_keys(at: u32, chunk: u32, rows: ptr<private, Rows>) {
    if has_rows {
        let row = slot / 2u + slot % 2u * 2u * KEYS; // of 2 * slot; the next is KEYS further
        stage[at + row * ROW + quad] = (*rows)[2u * chunk];
        if slot < 24u {
            stage[at + (row + KEYS) * ROW + quad] = (*rows)[2u * chunk + 1u];
        }
    }
}

// Lays out 32 rows of eight quads of weights, row 4n + j in row 8j + n. `width` in quads.
fn lay_out_weights(first: u32, width: u32, quads: u32) {
    for (var index = thread; index < 32u * quads; index += THREADS) {
        let row = index / quads;
        let column = index % quads;
        let place = SECOND + (row % 4u * 8u + row / 4u) * ROW + column;
        stage[place] = parameters[first + row * width + column];
    }
}

fn lay_out_pairs(pairs: ptr<private, Pairs>) {
    if thread < 221u {
        stage[thread] = (*pairs)[0];
        stage[thread + 17u * KEYS] = (*pairs)[1];
        stage[thread + 34u * KEYS] = (*pairs)[2];
    }
}

// Lays out one half's rows of a chunk behind the pairs.
fn lay_out_half(half: u32, chunk: u32, rows: ptr<private, Rows>) {
    let row = 2u * slot - half * HALF_ROWS; // wraps around where it is not in this half
    if has_rows && row < HALF_ROWS {
        stage[HALF + row * 8u + quad] = (*rows)[2u * chunk];
        stage[HALF + (row + 1u) * 8u + quad] = (*rows)[2u * chunk + 1u];
    }
}

// --- products ------------------------------------------------------------------------------------

struct Two {
    even: vec4<f32>,
    odd: vec4<f32>,
}

// Adds the product of staged rows and staged weights, over `quads` quads of their columns.
fn project(sum: Two, quads: u32) -> Two {
    var result = sum;
    let row = FIRST + 2u * min(slot, 24u) * ROW;
    let weight = SECOND + quad * ROW;
    for (var k = 0u; k < quads; k++) {
        let even = stage[row + k];
        let odd = stage[row + ROW + k];
        // A column for each of the thread's four.
        let w = mat4x4<f32>(
            stage[weight + k],
            stage[weight + 8u * ROW + k],
            stage[weight + 16u * ROW + k],
            stage[weight + 24u * ROW + k],
        );
        result.even = add_dots(result.even, even, w);
        result.odd = add_dots(result.odd, odd, w);
    }
    return result;
}

// A linear layer of d_model to d_model; `input` is laid out here.
fn linear(input: ptr<private, Rows>, output: ptr<private, Rows>, weight: u32, bias: u32) {
    for (var out_chunk = 0u; out_chunk < D_CHUNKS; out_chunk++) {
        let start = parameters[bias + out_chunk * 8u + quad];
        var sum = Two(start, start);
        for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
            lay_out(FIRST, chunk, input);
            lay_out_weights(weight + out_chunk * 32u * D + chunk * 8u, D, 8u);
            workgroupBarrier();
            sum = project(sum, quads_of_chunk());
            workgroupBarrier();
        }
        (*output)[2u * out_chunk] = sum.even;
        (*output)[2u * out_chunk + 1u] = sum.odd;
    }
}

// Adds the product of staged rows (the first matrix) and weights in memory, from `weight` on, where
// rows are `D` quads apart.
fn pull_back(weight: u32, chunk: u32, sum: ptr<private, Rows>) {
    var even = (*sum)[2u * chunk];
    var odd = (*sum)[2u * chunk + 1u];
    let row = FIRST + 2u * min(slot, 24u) * ROW;
    var at = weight + chunk * 8u + quad;
    for (var k = 0u; k < quads_of_chunk(); k++) {
        let w = mat4x4<f32>(
            parameters[at],
            parameters[at + D],
            parameters[at + 2u * D],
            parameters[at + 3u * D],
        );
        even = add_rows(even, stage[row + k], w);
        odd = add_rows(odd, stage[row + ROW + k], w);
        at += 4u * D;
    }
    (*sum)[2u * chunk] = even;
    (*sum)[2u * chunk + 1u] = odd;
}

// The products of all tokens' `left` and all keys' `right`.
fn pair(left: ptr<private, Rows>, right: ptr<private, Rows>) -> Pairs {
    var sum: Pairs;
    let token = FIRST + min(thread / KEYS, 16u) * ROW;
    let keys = SECOND + thread % KEYS * ROW;
    for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
        lay_out(FIRST, chunk, left);
        lay_out_keys(SECOND, chunk, right);
        workgroupBarrier();
        for (var k = 0u; k < quads_of_chunk(); k++) {
            let r = mat4x4<f32>(
                stage[keys + k],
                stage[keys + KEYS * ROW + k],
                stage[keys + 2u * KEYS * ROW + k],
                stage[keys + 3u * KEYS * ROW + k],
            );
            sum[0] = add_dots(sum[0], stage[token + k], r);
            sum[1] = add_dots(sum[1], stage[token + 17u * ROW + k], r);
            sum[2] = add_dots(sum[2], stage[token + 34u * ROW + k], r);
        }
        workgroupBarrier();
    }
    return sum;
}

// Keys from 49 on do not exist.
fn without_padding(pairs: vec4<f32>, padding: f32) -> vec4<f32> {
    return select(pairs, vec4<f32>(pairs.x, padding, padding, padding), thread % KEYS == KEYS - 1u);
}

// Sums, for each of a thread's three tokens, over all keys: in xyz.
fn sum_over_keys(part: vec4<f32>) -> vec4<f32> {
    stage[thread] = part;
    workgroupBarrier();
    var sum = vec4<f32>();
    let first = min(thread / KEYS, 16u) * KEYS;
    for (var key = 0u; key < KEYS; key++) {
        sum += stage[first + key];
    }
    workgroupBarrier();
    return sum;
}

fn largest_over_keys(part: vec4<f32>) -> vec4<f32> {
    stage[thread] = part;
    workgroupBarrier();
    let first = min(thread / KEYS, 16u) * KEYS;
    var largest = stage[first];
    for (var key = 1u; key < KEYS; key++) {
        largest = max(largest, stage[first + key]);
    }
    workgroupBarrier();
    return largest;
}

fn largest_of(values: vec4<f32>) -> f32 {
    return max(max(values.x, values.y), max(values.z, values.w));
}

fn sum_of(values: vec4<f32>) -> f32 {
    return (values.x + values.y) + (values.z + values.w);
}

// output = staged pairs x rows.
fn mix(rows: ptr<private, Rows>, output: ptr<private, Rows>) {
    for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
        var even = vec4<f32>();
        var odd = vec4<f32>();
        for (var half = 0u; half < quads_of_chunk() / 4u; half++) {
            lay_out_half(half, chunk, rows);
            workgroupBarrier();
            let pairs = 2u * min(slot, 24u) * KEYS + half * 7u;
            var at = HALF + quad;
            let whole = select(7u, 5u, half == 1u); // quads of keys that all exist
            for (var n = 0u; n < whole; n++) {
                let r = mat4x4<f32>(stage[at], stage[at + 8u], stage[at + 16u], stage[at + 24u]);
                even = add_rows(even, stage[pairs + n], r);
                odd = add_rows(odd, stage[pairs + KEYS + n], r);
                at += 32u;
            }
            if half == 1u { // key 48
                even += stage[pairs + 5u].x * stage[at];
                odd += stage[pairs + KEYS + 5u].x * stage[at];
            }
            workgroupBarrier();
        }
        (*output)[2u * chunk] = even;
        (*output)[2u * chunk + 1u] = odd;
    }
}

// output = staged pairs^T x rows: a thread's tokens are keys here.
fn mix_back(rows: ptr<private, Rows>, output: ptr<private, Rows>) {
    for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
        var even = vec4<f32>();
        var odd = vec4<f32>();
        for (var half = 0u; half < quads_of_chunk() / 4u; half++) {
            lay_out_half(half, chunk, rows);
            workgroupBarrier();
            var pairs = half * HALF_ROWS * KEYS + min(slot, 24u) / 2u;
            var at = HALF + quad;
            let count = select(HALF_ROWS, TOKENS - HALF_ROWS, half == 1u);
            for (var row = 0u; row < count; row++) {
                let four = stage[pairs];
                let two = select(four.xy, four.zw, slot % 2u == 1u);
                even = fma(two.xxxx, stage[at], even);
                odd = fma(two.yyyy, stage[at], odd);
                pairs += KEYS;
                at += 8u;
            }
            workgroupBarrier();
        }
        (*output)[2u * chunk] = even;
        (*output)[2u * chunk + 1u] = odd;
    }
}

// Leaves the gradient of 32 rows of weights, from `weight` on, where rows are `width` quads apart,
// and `quads` (8 or 4) of their columns: the first staged matrix^T x the second. And the gradient
// of the rows' biases, from `bias` on, the sum of the first over tokens; that once, with the first
// columns.
fn outer(weight: u32, width: u32, quads: u32, bias: u32, with_bias: bool) {
    let tiles = 8u * quads;
    let slices = select(5u, 3u, quads == 8u); // of the tokens
    let tile = thread % tiles;
    let slice = thread / tiles;
    let row = tile / quads;
    let column = tile % quads;
    var sum: mat4x4<f32>;
    var rows = vec4<f32>();
    if slice < slices {
        let end = TOKENS * (slice + 1u) / slices;
        for (var token = TOKENS * slice / slices; token < end; token++) {
            let r = stage[FIRST + token * ROW + row];
            let c = stage[SECOND + token * ROW + column];
            sum = add_outer(sum, r, c);
            rows += r;
        }
    }
    workgroupBarrier();
    if slice > 0u && slice < slices {
        let at = ((slice - 1u) * tiles + tile) * 5u;
        stage[at] = sum[0];
        stage[at + 1u] = sum[1];
        stage[at + 2u] = sum[2];
        stage[at + 3u] = sum[3];
        stage[at + 4u] = rows;
    }
    workgroupBarrier();
    if slice == 0u {
        for (var other = 0u; other < slices - 1u; other++) {
            let at = (other * tiles + tile) * 5u;
            sum += mat4x4<f32>(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]);
            rows += stage[at + 4u];
        }
        let at = weight + 4u * row * width + column;
        leave(at, sum[0]);
        leave(at + width, sum[1]);
        leave(at + 2u * width, sum[2]);
        leave(at + 3u * width, sum[3]);
        if with_bias && column == 0u {
            leave(bias + row, rows);
        }
    }
    workgroupBarrier();
}

// A quad of the workgroup's gradient. The same thread leaves the same quad for every sample.
fn leave(at: u32, gradient: vec4<f32>) {
    if adds {
        gradients[gradient_at + at] += gradient;
    } else {
        gradients[gradient_at + at] = gradient;
    }
}

// --- forward -------------------------------------------------------------------------------------

// Leaves the logits in stage[0..3] and keeps what the way back needs.
fn forward(sample: u32) {
    embed(sample);
    linear(&embedded, &query, QUERY_WEIGHT, QUERY_BIAS);
    linear(&embedded, &key, KEY_WEIGHT, KEY_BIAS);
    linear(&embedded, &value, VALUE_WEIGHT, VALUE_BIAS);
    attend();
    widen();
    narrow();
}

// Lays out the patches (49, 16): word w of an image is one row of a patch.
fn lay_out_patches(at: u32) {
    if thread < WORDS {
        let row = thread / 7u; // of the image; seven words make one
        let token = row / 4u * 7u + thread % 7u;
        stage[at + token * ROW + row % 4u] = patch_row;
    }
}

fn embed(sample: u32) {
    patch_row = pixels_of(images[sample * WORDS + min(thread, WORDS - 1u)]) / 255.0;
    for (var out_chunk = 0u; out_chunk < D_CHUNKS; out_chunk++) {
        lay_out_patches(FIRST);
        lay_out_weights(PATCH_WEIGHT + out_chunk * 32u * 4u, 4u, 4u);
        workgroupBarrier();
        let column = out_chunk * 8u + quad;
        let bias = parameters[PATCH_BIAS + column];
        let token = min(2u * slot, TOKENS - 1u);
        let even = bias + parameters[POSITION + token * D + column];
        let odd = bias + parameters[POSITION + min(token + 1u, TOKENS - 1u) * D + column];
        let sum = project(Two(even, odd), quads_of_chunk() / 2u);
        embedded[2u * out_chunk] = relu(sum.even);
        embedded[2u * out_chunk + 1u] = relu(sum.odd);
        workgroupBarrier();
    }
}

fn attend() {
    let scores = pair(&query, &key);
    var largest = vec4<f32>();
    for (var i = 0u; i < 3u; i++) {
        weights[i] = without_padding(scores[i] / ROOT, -3e38);
        largest[i] = largest_of(weights[i]);
    }
    largest = largest_over_keys(largest);
    var sum = vec4<f32>();
    for (var i = 0u; i < 3u; i++) {
        weights[i] = exp(weights[i] - largest[i]);
        sum[i] = sum_of(weights[i]);
    }
    sum = sum_over_keys(sum);
    for (var i = 0u; i < 3u; i++) {
        weights[i] /= sum[i];
    }
    lay_out_pairs(&weights);
    mix(&value, &mixed);
}

// `ff1`, its ReLU, and the mean over tokens.
fn widen() {
    for (var out_chunk = 0u; out_chunk < F_CHUNKS; out_chunk++) {
        let start = parameters[FF1_BIAS + out_chunk * 8u + quad];
        var sum = Two(start, start);
        for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
            lay_out(FIRST, chunk, &mixed);
            lay_out_weights(FF1_WEIGHT + out_chunk * 32u * D + chunk * 8u, D, 8u);
            workgroupBarrier();
            sum = project(sum, quads_of_chunk());
            workgroupBarrier();
        }
        let even = relu(sum.even);
        let odd = relu(select(sum.odd, vec4<f32>(), slot == 24u));
        let bits = vec4<u32>(1u, 2u, 4u, 8u);
        let open = select(bits, vec4<u32>(), even <= vec4<f32>())
            | select(bits << vec4<u32>(4u), vec4<u32>(), odd <= vec4<f32>());
        passes[out_chunk] = open.x | open.y | open.z | open.w;

        // Sums over tokens: five times five slots.
        if has_rows {
            stage[slot * 8u + quad] = even + odd;
        }
        workgroupBarrier();
        if slot < 5u {
            stage[200u + slot * 8u + quad] = sum_of_five(5u * slot * 8u + quad);
        }
        workgroupBarrier();
        if slot == 0u {
            wide_mean[out_chunk * 8u + quad] = sum_of_five(200u + quad) / f32(TOKENS);
        }
        workgroupBarrier();
    }
}

fn sum_of_five(at: u32) -> vec4<f32> {
    return (stage[at] + stage[at + 8u]) + (stage[at + 16u] + stage[at + 24u]) + stage[at + 32u];
}

const MEAN: u32 = 16u;    // on the stage, from here to the end of `narrow_back`: (d_model)
const BY_MEAN: u32 = 64u; // (d_model)
const PARTS: u32 = 128u;  // parts of sums

// `ff2` of the mean, and the logits.
fn narrow() {
    for (var row = thread / 4u; row < 4u * D; row += THREADS / 4u) {
        var sum = 0.0;
        for (var column = thread % 4u; column < F; column += 4u) {
            sum += dot(wide_mean[column], parameters[FF2_WEIGHT + row * F + column]);
        }
        stage[PARTS + 4u * row + thread % 4u].x = sum;
    }
    workgroupBarrier();
    if thread < D {
        var sum = parameters[FF2_BIAS + thread];
        for (var i = 0u; i < 4u; i++) {
            let at = PARTS + 16u * thread + 4u * i;
            sum[i] += (stage[at].x + stage[at + 1u].x) + (stage[at + 2u].x + stage[at + 3u].x);
        }
        stage[MEAN + thread] = sum;
    }
    workgroupBarrier();
    if thread < 4u * CLASSES {
        var sum = 0.0;
        for (var column = thread % 4u; column < D; column += 4u) {
            sum += dot(stage[MEAN + column], parameters[OUT_WEIGHT + thread / 4u * D + column]);
        }
        stage[PARTS + thread].x = sum;
    }
    workgroupBarrier();
    if thread < 3u {
        var sum = parameters[OUT_BIAS + thread];
        for (var i = 0u; i < 4u; i++) {
            if 4u * thread + i < CLASSES {
                let at = PARTS + 16u * thread + 4u * i;
                sum[i] += (stage[at].x + stage[at + 1u].x) + (stage[at + 2u].x + stage[at + 3u].x);
            }
        }
        stage[thread] = sum;
    }
    workgroupBarrier();
}

fn logit(digit: u32) -> f32 {
    return stage[digit / 4u][digit % 4u];
}

// --- backward ------------------------------------------------------------------------------------

fn backward(sample: u32) {
    if thread == 0u {
        var logits: array<f32, 10>;
        for (var digit = 0u; digit < CLASSES; digit++) {
            logits[digit] = logit(digit);
        }
        let loss = cross_entropy(&logits, label_of(sample));
        leave(QUADS, vec4<f32>(loss, 0.0, 0.0, 0.0));
        stage[0] = vec4<f32>(logits[0], logits[1], logits[2], logits[3]);
        stage[1] = vec4<f32>(logits[4], logits[5], logits[6], logits[7]);
        stage[2] = vec4<f32>(logits[8], logits[9], 0.0, 0.0);
    }
    workgroupBarrier();
    narrow_back();
    widen_back();
    attend_back();
    linear_back(&by_query, QUERY_WEIGHT, QUERY_BIAS, false);
    linear_back(&by_key, KEY_WEIGHT, KEY_BIAS, true);
    linear_back(&by_value, VALUE_WEIGHT, VALUE_BIAS, true);
    embed_back();
}

// `out` and `ff2`; each thread's part of the gradient by ff1's ReLU.
fn narrow_back() {
    for (var at = thread; at < CLASSES * D; at += THREADS) {
        leave(OUT_WEIGHT + at, logit(at / D) * stage[MEAN + at % D]);
    }
    if thread < 3u {
        leave(OUT_BIAS + thread, stage[thread]);
    }
    if thread < D {
        var sum = vec4<f32>();
        for (var digit = 0u; digit < CLASSES; digit++) {
            sum += logit(digit) * parameters[OUT_WEIGHT + digit * D + thread];
        }
        stage[BY_MEAN + thread] = sum;
        leave(FF2_BIAS + thread, sum);
    }
    workgroupBarrier();
    for (var at = thread; at < 4u * D * F; at += THREADS) {
        let row = at / F;
        leave(FF2_WEIGHT + at, stage[BY_MEAN + row / 4u][row % 4u] * wide_mean[at % F]);
    }
    // The gradient by the mean of the ReLUs: eight parts, each of every eighth row.
    for (var at = thread; at < 8u * F; at += THREADS) {
        var sum = vec4<f32>();
        for (var row = at / F; row < 4u * D; row += 8u) {
            sum += stage[BY_MEAN + row / 4u][row % 4u] * parameters[FF2_WEIGHT + row * F + at % F];
        }
        stage[PARTS + at] = sum;
    }
    workgroupBarrier();
    for (var chunk = 0u; chunk < F_CHUNKS; chunk++) {
        var sum = vec4<f32>();
        for (var part = 0u; part < 8u; part++) {
            sum += stage[PARTS + part * F + chunk * 8u + quad];
        }
        by_wide[chunk] = sum / f32(TOKENS);
    }
    workgroupBarrier();
}

// `ff1`.
fn widen_back() {
    by_mixed = Rows();
    for (var out_chunk = 0u; out_chunk < F_CHUNKS; out_chunk++) {
        let bits = vec4<u32>(1u, 2u, 4u, 8u);
        let even = (vec4<u32>(passes[out_chunk]) & bits) != vec4<u32>();
        let odd = (vec4<u32>(passes[out_chunk] >> 4u) & bits) != vec4<u32>();
        for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
            lay_out_pair(
                FIRST,
                select(vec4<f32>(), by_wide[out_chunk], even),
                select(vec4<f32>(), by_wide[out_chunk], odd),
            );
            lay_out(SECOND, chunk, &mixed);
            workgroupBarrier();
            pull_back(FF1_WEIGHT + out_chunk * 32u * D, chunk, &by_mixed);
            let at = FF1_WEIGHT + out_chunk * 32u * D + chunk * 8u;
            outer(at, D, 8u, FF1_BIAS + out_chunk * 8u, chunk == 0u);
        }
    }
}

fn attend_back() {
    lay_out_pairs(&weights);
    mix_back(&by_mixed, &by_value);
    var by_scores = pair(&by_mixed, &value); // so far by the weights
    var along = vec4<f32>();
    for (var i = 0u; i < 3u; i++) {
        by_scores[i] = without_padding(by_scores[i], 0.0);
        along[i] = dot(weights[i], by_scores[i]);
    }
    along = sum_over_keys(along);
    for (var i = 0u; i < 3u; i++) {
        weights[i] *= (by_scores[i] - along[i]) / ROOT;
    }
    lay_out_pairs(&weights); // now the gradient by the products of queries and keys
    mix(&key, &by_query);
    mix_back(&query, &by_key);
}

// The gradient of a linear layer of `embedded`, and by it, which is begun or added to.
fn linear_back(by_output: ptr<private, Rows>, weight: u32, bias: u32, add: bool) {
    if !add {
        by_embedded = Rows();
    }
    for (var out_chunk = 0u; out_chunk < D_CHUNKS; out_chunk++) {
        for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
            lay_out(FIRST, out_chunk, by_output);
            lay_out(SECOND, chunk, &embedded);
            workgroupBarrier();
            pull_back(weight + out_chunk * 32u * D, chunk, &by_embedded);
            let at = weight + out_chunk * 32u * D + chunk * 8u;
            outer(at, D, 8u, bias + out_chunk * 8u, chunk == 0u);
        }
    }
}

fn embed_back() {
    for (var chunk = 0u; chunk < D_CHUNKS; chunk++) {
        let closed = vec4<f32>();
        let even = select(by_embedded[2u * chunk], closed, embedded[2u * chunk] <= closed);
        let odd = select(by_embedded[2u * chunk + 1u], closed, embedded[2u * chunk + 1u] <= closed);
        let at = POSITION + 2u * slot * D + chunk * 8u + quad;
        if has_rows {
            leave(at, even);
        }
        if slot < 24u {
            leave(at + D, odd);
        }
        lay_out_pair(FIRST, even, odd);
        lay_out_patches(SECOND);
        workgroupBarrier();
        outer(PATCH_WEIGHT + chunk * 32u * 4u, 4u, 4u, PATCH_BIAS + chunk * 8u, true);
    }
}

// --- entry points --------------------------------------------------------------------------------

@compute @workgroup_size(224)
fn differentiate(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    begin_thread(index);
    gradient_at = workgroup.x * (QUADS + 1u);
    adds = false;
    for (var within = workgroup.x; within < step.count; within += GROUPS) {
        let sample = order[step.first + within];
        forward(sample);
        backward(sample);
        adds = true;
    }
}

// 28 quads of parameters in a workgroup, 8 threads each.
@compute @workgroup_size(224)
fn update(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let at = workgroup.x * 28u + index % 28u;
    var sum = vec4<f32>();
    if at <= QUADS {
        for (var group = index / 28u; group < min(step.count, GROUPS); group += 8u) {
            sum += gradients[group * (QUADS + 1u) + at];
        }
    }
    stage[index] = sum;
    workgroupBarrier();
    if index < 28u && at <= QUADS {
        for (var part = 1u; part < 8u; part++) {
            sum += stage[part * 28u + index];
        }
        if at < QUADS {
            parameters[at] -= step.rate * sum;
        } else {
            losses[step.index] = sum.x / f32(max(step.count, 1u));
        }
    }
}

// The labels of `count` images. A workgroup for each.
@compute @workgroup_size(224)
fn predict(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    begin_thread(index);
    forward(order[step.first + workgroup.x]);
    if index == 0u {
        var logits: array<f32, 10>;
        for (var digit = 0u; digit < CLASSES; digit++) {
            logits[digit] = logit(digit);
        }
        predicted[step.first + workgroup.x] = first_of_the_largest(&logits);
    }
}
