// The MLP: 784 - hidden - 10, ReLU, softmax cross-entropy, plain SGD. One dispatch per step.
//
// What it computes. A workgroup owns eight hidden units: their rows of fc1, their biases and their
// columns of fc2. A step needs the whole grid to meet only once, where the logits are summed over
// the hidden units. So one dispatch finishes a step and begins the next:
//
//   finish: sum the workgroups' shares of the logits (each workgroup does, all alike), softmax,
//           loss, gradient by the logits; then the gradients of the own eight units, and their
//           update
//   begin:  the next batch's activations of the own eight units with the weights just updated, and
//           the share of the logits that comes from them
//
// The end of a dispatch is the meeting. Shares have two places, taken in turn by the step's parity,
// since a workgroup may begin step t+1 while another still sums the shares of step t. `fc2.bias`
// belongs to workgroup 0, which adds it to its own share. The first dispatch of a run has nothing
// to finish, the last nothing to begin: a count of 0 says so.
//
// Threads. 224 of them fit the image: 784 pixels are 196 words of four.
//   - Gradient and update of fc1: thread t < 196 owns word t of all eight rows, 32 weights in
//     registers. Sample by sample, an outer product of eight gradients and four pixels is added.
//     The 28 threads left over take the other parameters.
//   - Forward: seven slices of an image's words, times 32 samples. Word columns and weights pass
//     through workgroup memory in four chunks of 49 words, because a thread needs one sample's
//     words where it had owned one word of each sample. Slices are added at the end.
// Batches of more than 32 samples are worked off in tiles of 32; sums run over all tiles.
//
// Layout. Units are padded to a multiple of eight with zero weights, which stay zero: a padded unit
// is 0, and so is the gradient of all that touches it.
//   parameters: fc1.weight (hidden, 784), fc1.bias (hidden), fc2.weight (10, hidden), fc2.bias
//               (10), the canonical order, with padding after each; in vec4
//   hidden:     (tiles * 32, hidden), after ReLU; written by `begin`, read by `finish` of the same
//               workgroup
//   shares:     (2, groups, tiles * 32, 10); groups are padded to a multiple of 16 with zeros
//
// Floor. At hidden 512 and batch 32 a step is 51 MFLOP in 64 workgroups: 1.6 us at the rate of 64
// of an H100's 132 SMs. Each workgroup reads 82 kB of shares, and 50 kB of pixels and weights, from
// L2. What is left of a step is the gap between two dependent dispatches.

override UNITS: u32;  // hidden units, a multiple of 8
override GROUPS: u32; // places for shares: workgroups, rounded up to a multiple of 16
override TILES: u32;  // tiles of 32 samples in a batch

const TILE: u32 = 32u;     // samples
const CHUNK: u32 = 49u;    // words of an image that are in workgroup memory at a time
const SLICE: u32 = 7u;     // words of a chunk that one thread sums
const COLUMN: u32 = 34u;   // stride of a chunk's words: 32 samples, and two against bank conflicts
const LOGITS: u32 = 80u;   // a tile's logits, in vec4

struct Step {
    finish_first: u32, // place in `order` of the step that is finished
    finish_count: u32, // its samples: 0 if there is no such step
    begin_first: u32,
    begin_count: u32,
    index: u32,        // of the step that is finished, counted from 0; places its loss
    rate: f32,         // learning rate over `finish_count`
}
var<immediate> step: Step;

@group(0) @binding(5) var<storage, read_write> parameters: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> hidden: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> shares: array<vec4<f32>>;

var<workgroup> stage: array<vec4<f32>, 392>;   // what is passed between threads, see each use
var<workgroup> columns: array<u32, 1666>;      // (CHUNK, COLUMN): a chunk of each sample's words
var<workgroup> delta: array<f32, 352>;         // (TILE, 11): gradient by the logits, then the loss
var<workgroup> units: array<vec4<f32>, 64>;    // (TILE, 8): activations, or the gradient by them
var<workgroup> weight2: array<vec4<f32>, 20>;  // (10, 8): the own columns of fc2
var<workgroup> bias1: array<vec4<f32>, 2>;     // (8)
var<workgroup> bias2: array<vec4<f32>, 3>;     // (10) and padding
var<workgroup> rows: array<u32, 32>;           // where each of the tile's images begins

// The weights or gradients between a word's four pixels and the own eight units: a column for each
// unit.
struct Block {
    low: mat4x4<f32>,
    high: mat4x4<f32>,
}

fn bias1_at() -> u32 { return UNITS * WORDS; }
fn weight2_at() -> u32 { return bias1_at() + UNITS / 4u; }
fn bias2_at() -> u32 { return weight2_at() + CLASSES * (UNITS / 4u); }

// Where quad `place` of the own columns of fc2 is: class place / 2, units from 4 * (place % 2) on.
fn weight2_place(group: u32, place: u32) -> u32 {
    return weight2_at() + place / 2u * (UNITS / 4u) + group * 2u + place % 2u;
}

@compute @workgroup_size(224)
fn advance(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup.x;
    var weight: Block;
    if thread < WORDS {
        weight = load_block(group, thread);
    }
    if thread < 20u {
        weight2[thread] = parameters[weight2_place(group, thread)];
    } else if thread < 22u {
        bias1[thread - 20u] = parameters[bias1_at() + group * 2u + thread - 20u];
    } else if thread < 25u && group == 0u {
        bias2[thread - 22u] = parameters[bias2_at() + thread - 22u];
    }
    if step.finish_count > 0u {
        finish(group, thread, &weight);
    }
    if step.begin_count > 0u {
        for (var tile = 0u; tile * TILE < step.begin_count; tile++) {
            begin(group, thread, tile, &weight);
        }
    }
}

fn load_block(group: u32, word: u32) -> Block {
    let at = group * 8u * WORDS + word;
    return Block(
        mat4x4<f32>(
            parameters[at],
            parameters[at + WORDS],
            parameters[at + 2u * WORDS],
            parameters[at + 3u * WORDS],
        ),
        mat4x4<f32>(
            parameters[at + 4u * WORDS],
            parameters[at + 5u * WORDS],
            parameters[at + 6u * WORDS],
            parameters[at + 7u * WORDS],
        ),
    );
}

fn store_block(group: u32, word: u32, weight: ptr<function, Block>) {
    let at = group * 8u * WORDS + word;
    parameters[at] = (*weight).low[0];
    parameters[at + WORDS] = (*weight).low[1];
    parameters[at + 2u * WORDS] = (*weight).low[2];
    parameters[at + 3u * WORDS] = (*weight).low[3];
    parameters[at + 4u * WORDS] = (*weight).high[0];
    parameters[at + 5u * WORDS] = (*weight).high[1];
    parameters[at + 6u * WORDS] = (*weight).high[2];
    parameters[at + 7u * WORDS] = (*weight).high[3];
}

// --- finish: loss, gradients, update -------------------------------------------------------------

fn finish(group: u32, thread: u32, weight: ptr<function, Block>) {
    var gradient: Block;
    var small = vec4<f32>(); // what one of the last 28 threads sums
    for (var tile = 0u; tile * TILE < step.finish_count; tile++) {
        let count = min(TILE, step.finish_count - tile * TILE);
        differentiate_logits(group, thread, tile, count);
        differentiate_units(thread);
        if thread < WORDS {
            sum_outer_products(thread, count, &gradient);
        } else {
            small += small_sum(thread - WORDS, count);
        }
        workgroupBarrier();
    }

    if thread < WORDS {
        let rate = step.rate / 255.0; // of the gradient by pixels of 0 to 1
        (*weight).low -= rate * gradient.low;
        (*weight).high -= rate * gradient.high;
        store_block(group, thread, weight);
    } else {
        update_small(group, thread - WORDS, small);
    }
    workgroupBarrier();
}

// Logits from all shares, loss and `delta`. Leaves the tile's activations in stage[160..224], and
// in `rows` where its images begin. Samples beyond `count` get a gradient of 0 and the first image.
fn differentiate_logits(group: u32, thread: u32, tile: u32, count: u32) {
    if thread < 2u * LOGITS {
        stage[thread] = sum_of_shares(tile, thread % LOGITS, thread / LOGITS);
    } else {
        let place = thread - 2u * LOGITS; // 64 threads are left: 32 samples x 2 quads of units
        let sample = tile * TILE + place / 2u;
        stage[thread] = hidden[sample * (UNITS / 4u) + group * 2u + place % 2u];
    }
    workgroupBarrier();
    if thread < TILE {
        let within = thread < count;
        let sample = order[step.finish_first + tile * TILE + select(0u, thread, within)];
        rows[thread] = sample * WORDS;
        var logits: array<f32, 10>;
        for (var digit = 0u; digit < CLASSES; digit++) {
            let at = thread * CLASSES + digit;
            logits[digit] = stage[at / 4u][at % 4u] + stage[LOGITS + at / 4u][at % 4u];
        }
        delta[thread * 11u + CLASSES] = cross_entropy(&logits, label_of(sample));
        for (var digit = 0u; digit < CLASSES; digit++) {
            delta[thread * 11u + digit] = select(0.0, logits[digit], within);
        }
    }
    workgroupBarrier();
}

// Four logits, summed over one half of the groups; eight loads are in flight at a time.
fn sum_of_shares(tile: u32, place: u32, half: u32) -> vec4<f32> {
    let stride = TILES * LOGITS;
    let parity = step.index % 2u;
    var at = (parity * GROUPS + half * (GROUPS / 2u)) * stride + tile * LOGITS + place;
    var sum = vec4<f32>();
    for (var eight = 0u; eight < GROUPS / 16u; eight++) {
        let a = shares[at] + shares[at + stride];
        let b = shares[at + 2u * stride] + shares[at + 3u * stride];
        let c = shares[at + 4u * stride] + shares[at + 5u * stride];
        let d = shares[at + 6u * stride] + shares[at + 7u * stride];
        sum += (a + b) + (c + d);
        at += 8u * stride;
    }
    return sum;
}

// `units` becomes the gradient by the units before ReLU, which passes where they were above 0.
fn differentiate_units(thread: u32) {
    if thread < 2u * TILE {
        let sample = thread / 2u;
        var gradient = vec4<f32>();
        for (var digit = 0u; digit < CLASSES; digit++) {
            gradient += delta[sample * 11u + digit] * weight2[digit * 2u + thread % 2u];
        }
        let activation = stage[2u * LOGITS + thread];
        units[thread] = select(gradient, vec4<f32>(), activation <= vec4<f32>());
    }
    workgroupBarrier();
}

// The same word of eight samples.
struct Eight {
    low: vec4<u32>,
    high: vec4<u32>,
}

fn load_eight(word: u32, first: u32) -> Eight {
    return Eight(
        vec4<u32>(
            images[rows[first] + word],
            images[rows[first + 1u] + word],
            images[rows[first + 2u] + word],
            images[rows[first + 3u] + word],
        ),
        vec4<u32>(
            images[rows[first + 4u] + word],
            images[rows[first + 5u] + word],
            images[rows[first + 6u] + word],
            images[rows[first + 7u] + word],
        ),
    );
}

// Adds, over the samples, the outer product of a word's pixels and `units`. The next eight words
// are on their way while eight are used.
fn sum_outer_products(word: u32, count: u32, gradient: ptr<function, Block>) {
    var next = load_eight(word, 0u);
    for (var first = 0u; first < count; first += 8u) {
        let words = next;
        if first + 8u < count {
            next = load_eight(word, first + 8u);
        }
        add_outer_product(words.low.x, first, gradient);
        add_outer_product(words.low.y, first + 1u, gradient);
        add_outer_product(words.low.z, first + 2u, gradient);
        add_outer_product(words.low.w, first + 3u, gradient);
        add_outer_product(words.high.x, first + 4u, gradient);
        add_outer_product(words.high.y, first + 5u, gradient);
        add_outer_product(words.high.z, first + 6u, gradient);
        add_outer_product(words.high.w, first + 7u, gradient);
    }
}

fn add_outer_product(word: u32, sample: u32, gradient: ptr<function, Block>) {
    let pixels = pixels_of(word);
    (*gradient).low = add_outer((*gradient).low, units[sample * 2u], pixels);
    (*gradient).high = add_outer((*gradient).high, units[sample * 2u + 1u], pixels);
}

// Of the other parameters, thread `place` of 28 sums the gradient of: below 20 a quad of the own
// columns of fc2 (digit place / 2), 20 and 21 a quad of fc1.bias, 22 to 24 a quad of fc2.bias. The
// last sums the loss. Only workgroup 0 keeps those from 22 on.
fn small_sum(place: u32, count: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var sample = 0u; sample < count; sample++) {
        let at = sample * 11u;
        if place < 20u {
            sum += delta[at + place / 2u] * stage[2u * LOGITS + sample * 2u + place % 2u];
        } else if place < 22u {
            sum += units[sample * 2u + place - 20u];
        } else if place < 24u {
            let four = at + 4u * (place - 22u);
            sum += vec4<f32>(delta[four], delta[four + 1u], delta[four + 2u], delta[four + 3u]);
        } else if place == 24u {
            sum += vec4<f32>(delta[at + 8u], delta[at + 9u], 0.0, 0.0);
        } else if place == 27u {
            sum.x += delta[at + CLASSES];
        }
    }
    return sum;
}

fn update_small(group: u32, place: u32, sum: vec4<f32>) {
    if place < 20u {
        weight2[place] -= step.rate * sum;
        parameters[weight2_place(group, place)] = weight2[place];
    } else if place < 22u {
        bias1[place - 20u] -= step.rate * sum;
        parameters[bias1_at() + group * 2u + place - 20u] = bias1[place - 20u];
    } else if place < 25u && group == 0u {
        bias2[place - 22u] -= step.rate * sum;
        parameters[bias2_at() + place - 22u] = bias2[place - 22u];
    } else if place == 27u && group == 0u {
        losses[step.index] = sum.x / f32(step.finish_count);
    }
}

// --- begin: activations and the share of the logits ----------------------------------------------

// One of the seven words of a chunk that a thread brings in: a seventh of one sample's.
struct Seven {
    low: vec4<u32>,
    high: vec3<u32>,
}

fn load_seven(thread: u32, chunk: u32) -> Seven {
    let at = rows[thread / 7u] + chunk * CHUNK + thread % 7u;
    return Seven(
        vec4<u32>(images[at], images[at + 7u], images[at + 14u], images[at + 21u]),
        vec3<u32>(images[at + 28u], images[at + 35u], images[at + 42u]),
    );
}

fn stage_seven(thread: u32, words: Seven) {
    let at = thread % 7u * COLUMN + thread / 7u;
    columns[at] = words.low.x;
    columns[at + 7u * COLUMN] = words.low.y;
    columns[at + 14u * COLUMN] = words.low.z;
    columns[at + 21u * COLUMN] = words.low.w;
    columns[at + 28u * COLUMN] = words.high.x;
    columns[at + 35u * COLUMN] = words.high.y;
    columns[at + 42u * COLUMN] = words.high.z;
}

// The weights of a chunk, (CHUNK, 8): each thread that owns one of its words brings its own.
fn stage_weights(thread: u32, chunk: u32, weight: ptr<function, Block>) {
    if thread / CHUNK == chunk {
        let at = thread % CHUNK * 8u;
        stage[at] = (*weight).low[0];
        stage[at + 1u] = (*weight).low[1];
        stage[at + 2u] = (*weight).low[2];
        stage[at + 3u] = (*weight).low[3];
        stage[at + 4u] = (*weight).high[0];
        stage[at + 5u] = (*weight).high[1];
        stage[at + 6u] = (*weight).high[2];
        stage[at + 7u] = (*weight).high[3];
    }
}

fn begin(group: u32, thread: u32, tile: u32, weight: ptr<function, Block>) {
    let count = min(TILE, step.begin_count - tile * TILE);
    if thread < TILE {
        let place = tile * TILE + select(0u, thread, thread < count);
        rows[thread] = order[step.begin_first + place] * WORDS;
    }
    workgroupBarrier();

    let sample = thread % TILE;
    let slice = thread / TILE;
    var low = vec4<f32>(); // the own units 0 to 3 of this sample, over this slice of the words
    var high = vec4<f32>();
    var next = load_seven(thread, 0u);
    for (var chunk = 0u; chunk < 4u; chunk++) {
        stage_seven(thread, next);
        stage_weights(thread, chunk, weight);
        workgroupBarrier();
        if chunk < 3u {
            next = load_seven(thread, chunk + 1u);
        }
        for (var word = slice * SLICE; word < (slice + 1u) * SLICE; word++) {
            let pixels = pixels_of(columns[word * COLUMN + sample]);
            let at = word * 8u;
            let weights = Block(
                mat4x4<f32>(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]),
                mat4x4<f32>(stage[at + 4u], stage[at + 5u], stage[at + 6u], stage[at + 7u]),
            );
            low = add_dots(low, pixels, weights.low);
            high = add_dots(high, pixels, weights.high);
        }
        workgroupBarrier();
    }

    // stage: (6, TILE, 8), the sums of all slices but the first.
    if slice > 0u {
        stage[((slice - 1u) * TILE + sample) * 2u] = low;
        stage[((slice - 1u) * TILE + sample) * 2u + 1u] = high;
    }
    workgroupBarrier();
    if slice == 0u {
        for (var other = 0u; other < 6u; other++) {
            low += stage[(other * TILE + sample) * 2u];
            high += stage[(other * TILE + sample) * 2u + 1u];
        }
        low = relu(bias1[0] + low / 255.0);
        high = relu(bias1[1] + high / 255.0);
        units[sample * 2u] = low;
        units[sample * 2u + 1u] = high;
        let at = (tile * TILE + sample) * (UNITS / 4u) + group * 2u;
        hidden[at] = low;
        hidden[at + 1u] = high;
    }
    workgroupBarrier();
    if thread < LOGITS {
        let at = thread * 4u;
        let parity = (step.index + 1u) % 2u;
        shares[((parity * GROUPS + group) * TILES + tile) * LOGITS + thread] = vec4<f32>(
            share(group, at), share(group, at + 1u), share(group, at + 2u), share(group, at + 3u),
        );
    }
    workgroupBarrier();
}

// The own units' share of one logit; `at` counts (TILE, 10).
fn share(group: u32, at: u32) -> f32 {
    let sample = at / CLASSES;
    let digit = at % CLASSES;
    var sum = dot(weight2[digit * 2u], units[sample * 2u]);
    sum += dot(weight2[digit * 2u + 1u], units[sample * 2u + 1u]);
    if group == 0u {
        sum += bias2[digit / 4u][digit % 4u];
    }
    return sum;
}

// --- predict -------------------------------------------------------------------------------------

// The labels of a batch that was begun as step 0 (`index` is then 0xffffffff, the step before it).
// A workgroup for each tile, a thread for each sample.
@compute @workgroup_size(32)
fn predict(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let sample = workgroup.x * TILE + thread;
    if sample >= step.begin_count {
        return;
    }
    var logits: array<f32, 10>;
    for (var group = 0u; group < GROUPS; group++) {
        for (var digit = 0u; digit < CLASSES; digit++) {
            let at = sample * CLASSES + digit;
            logits[digit] += shares[group * TILES * LOGITS + at / 4u][at % 4u];
        }
    }
    predicted[step.begin_first + sample] = first_of_the_largest(&logits);
}
