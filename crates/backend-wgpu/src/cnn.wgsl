// The CNN: 8 filters of 3x3 with padding 1, ReLU, 2x2 max-pool, 1568 - 10, softmax cross-entropy,
// plain SGD. Two dispatches per step.
//
// What it computes. `differentiate` has a workgroup for each sample and goes forward and backward
// within it: all that a sample needs from others is the weights. `update` sums over the samples:
// the gradient of fc as the outer products of what was pooled and the gradient by the logits, the
// gradient of conv as the sum of the samples' own, and takes the step.
//
// Threads of `differentiate`. 224, of which 196 have one place each of the 14x14 pooled images, for
// all filters: the 4x4 pixels around it give four sums for each filter, of which the largest (the
// first of equal ones) goes on, and each takes its columns of fc along on the way. The gradient of
// conv needs, for each filter, a sum over the 196 places of nine taps around the pixel that was
// chosen: 28 threads for each of 8 filters, 7 places each.
//
// Layout.
//   parameters: conv.weight (8, 3, 3), conv.bias (8), fc.weight (8, 3, 196) of four classes each,
//               fc.bias (12); classes 10 and 11 are padding and stay zero. A thread at a place
//               loads four classes at once, next to its neighbour's.
//   pooled:     (batch, 8, 196), after ReLU
//   samples:    (batch, 96): gradient by the logits (12), loss (1), padding (3), gradient of
//               conv.weight (72) and conv.bias (8)
//
// Floor. At batch 32 a step is 9 MFLOP and reads 75 kB of fc in each of 32 workgroups: a
// microsecond on an H100. What is left is two dispatches that wait for each other.

struct Step {
    first: u32, // place in `order`
    count: u32, // samples
    index: u32, // counted from 0; places the loss
    rate: f32,  // learning rate over `count`
}
var<immediate> step: Step;

@group(0) @binding(5) var<storage, read_write> parameters: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> pooled: array<f32>;
@group(0) @binding(7) var<storage, read_write> samples: array<f32>;

const FILTERS: u32 = 8u;
const PLACES: u32 = 196u;  // of a pooled image, 14x14
const POOLED: u32 = 1568u; // 8 filters
const SIDE: u32 = 30u;     // of an image with its padding
const CONV: u32 = 80u;     // weights and biases of conv
const FC: u32 = 20u;       // where fc.weight begins, in vec4
const FC_BIAS: u32 = 4724u;
const SAMPLE: u32 = 96u;   // stride of `samples`
const LOSS: u32 = 12u;     // places within it
const CONV_GRADIENT: u32 = 16u;

var<workgroup> image: array<f32, 900>;     // (30, 30): 0 to 1, zeros around
var<workgroup> filters: array<f32, 80>;    // conv.weight, conv.bias
var<workgroup> exchange: array<f32, 2352>; // what is passed between threads, see each use
var<workgroup> sums: array<f32, 140>;      // (10, 14)
var<workgroup> choices: array<u32, 196>;   // of each place: see Pooling
var<workgroup> delta: array<vec4<f32>, 3>; // gradient by the logits, and padding

// What one place of all filters passes on.
struct Pooling {
    // Two bits for each filter: which of the four sums was chosen, row by row. Above them a bit for
    // each filter: whether the gradient passes, as the chosen sum was above 0.
    choice: u32,
    logits: array<vec4<f32>, 3>, // this place's share
}

fn load_sample(thread: u32, sample: u32) {
    for (var at = thread; at < SIDE * SIDE; at += 224u) {
        let row = at / SIDE;
        let column = at % SIDE;
        if row == 0u || row == SIDE - 1u || column == 0u || column == SIDE - 1u {
            image[at] = 0.0;
        }
    }
    if thread < WORDS {
        let pixels = pixels_of(images[sample * WORDS + thread]) / 255.0;
        let at = (thread / 7u + 1u) * SIDE + thread % 7u * 4u + 1u; // seven words make a row
        image[at] = pixels.x;
        image[at + 1u] = pixels.y;
        image[at + 2u] = pixels.z;
        image[at + 3u] = pixels.w;
    }
    if thread < CONV {
        filters[thread] = parameters[thread / 4u][thread % 4u];
    }
    workgroupBarrier();
}

fn four_pixels(at: u32) -> vec4<f32> {
    return vec4<f32>(image[at], image[at + 1u], image[at + 2u], image[at + 3u]);
}

fn three_pixels(at: u32) -> vec3<f32> {
    return vec3<f32>(image[at], image[at + 1u], image[at + 2u]);
}

// Convolves, pools and multiplies with fc at one place, for all filters. What was pooled is kept
// for `update` if this is a sample of the batch, `within` its place there.
fn pool(place: u32, keep: bool, within: u32) -> Pooling {
    let at = place / 14u * 2u * SIDE + place % 14u * 2u;
    let a = four_pixels(at);
    let b = four_pixels(at + SIDE);
    let c = four_pixels(at + 2u * SIDE);
    let d = four_pixels(at + 3u * SIDE);
    var result: Pooling;
    for (var f = 0u; f < FILTERS; f++) {
        let fc = FC + f * 3u * PLACES + place;
        let fc_0 = parameters[fc];
        let fc_1 = parameters[fc + PLACES];
        let fc_2 = parameters[fc + 2u * PLACES];

        // The four sums around this place, row by row: each tap sees a square of four pixels.
        let w = f * 9u;
        var sum = vec4<f32>(filters[72u + f]);
        sum += filters[w] * vec4<f32>(a.xy, b.xy);
        sum += filters[w + 1u] * vec4<f32>(a.yz, b.yz);
        sum += filters[w + 2u] * vec4<f32>(a.zw, b.zw);
        sum += filters[w + 3u] * vec4<f32>(b.xy, c.xy);
        sum += filters[w + 4u] * vec4<f32>(b.yz, c.yz);
        sum += filters[w + 5u] * vec4<f32>(b.zw, c.zw);
        sum += filters[w + 6u] * vec4<f32>(c.xy, d.xy);
        sum += filters[w + 7u] * vec4<f32>(c.yz, d.yz);
        sum += filters[w + 8u] * vec4<f32>(c.zw, d.zw);

        var largest = sum.x;
        var choice = 0u;
        if sum.y > largest {
            largest = sum.y;
            choice = 1u;
        }
        if sum.z > largest {
            largest = sum.z;
            choice = 2u;
        }
        if sum.w > largest {
            largest = sum.w;
            choice = 3u;
        }
        // The maximum of the ReLUs is the ReLU of the maximum. NaN passes.
        let passes = !closed(vec4<f32>(largest)).x;
        let value = select(0.0, largest, passes);
        result.choice |= (choice << (2u * f)) | (select(0u, 1u, passes) << (16u + f));
        result.logits[0] += value * fc_0;
        result.logits[1] += value * fc_1;
        result.logits[2] += value * fc_2;
        if keep {
            pooled[within * POOLED + f * PLACES + place] = value;
        }
    }
    return result;
}

// The image's logits, in `sums[0..10]`. exchange: (10, 196), the places' shares.
fn sum_logits(thread: u32, logits: array<vec4<f32>, 3>) {
    if thread < PLACES {
        exchange[thread] = logits[0].x;
        exchange[thread + PLACES] = logits[0].y;
        exchange[thread + 2u * PLACES] = logits[0].z;
        exchange[thread + 3u * PLACES] = logits[0].w;
        exchange[thread + 4u * PLACES] = logits[1].x;
        exchange[thread + 5u * PLACES] = logits[1].y;
        exchange[thread + 6u * PLACES] = logits[1].z;
        exchange[thread + 7u * PLACES] = logits[1].w;
        exchange[thread + 8u * PLACES] = logits[2].x;
        exchange[thread + 9u * PLACES] = logits[2].y;
    }
    workgroupBarrier();
    if thread < 140u {
        var sum = 0.0;
        for (var i = 0u; i < 14u; i++) {
            sum += exchange[thread * 14u + i]; // 14 threads for each digit
        }
        sums[thread] = sum;
    }
    workgroupBarrier();
    var sum = 0.0;
    if thread < CLASSES {
        sum = parameters[FC_BIAS + thread / 4u][thread % 4u];
        for (var i = 0u; i < 14u; i++) {
            sum += sums[thread * 14u + i];
        }
    }
    workgroupBarrier();
    if thread < CLASSES {
        sums[thread] = sum;
    }
    workgroupBarrier();
}

@compute @workgroup_size(224)
fn differentiate(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let within = workgroup.x; // the batch
    if within >= step.count {
        return; // nothing but a warm-up
    }
    let sample = order[step.first + within];
    load_sample(thread, sample);
    var pooling: Pooling;
    if thread < PLACES {
        pooling = pool(thread, true, within);
        choices[thread] = pooling.choice;
    }
    sum_logits(thread, pooling.logits);

    if thread == 0u {
        var logits: array<f32, 10>;
        for (var digit = 0u; digit < CLASSES; digit++) {
            logits[digit] = sums[digit];
        }
        samples[within * SAMPLE + LOSS] = cross_entropy(&logits, label_of(sample));
        delta[0] = vec4<f32>(logits[0], logits[1], logits[2], logits[3]);
        delta[1] = vec4<f32>(logits[4], logits[5], logits[6], logits[7]);
        delta[2] = vec4<f32>(logits[8], logits[9], 0.0, 0.0);
    }
    workgroupBarrier();
    if thread < 12u {
        samples[within * SAMPLE + thread] = delta[thread / 4u][thread % 4u];
    }

    // exchange: (8, 196), the gradient by the chosen sums.
    if thread < PLACES {
        for (var f = 0u; f < FILTERS; f++) {
            let fc = FC + f * 3u * PLACES + thread;
            var gradient = dot(delta[0], parameters[fc]);
            gradient += dot(delta[1], parameters[fc + PLACES]);
            gradient += dot(delta[2], parameters[fc + 2u * PLACES]);
            let passes = (pooling.choice >> (16u + f) & 1u) == 1u;
            exchange[f * PLACES + thread] = select(0.0, gradient, passes);
        }
    }
    workgroupBarrier();
    differentiate_filters(thread, within);
}

// The sample's gradient of conv.
fn differentiate_filters(thread: u32, within: u32) {
    let f = thread / 28u;
    let share = thread % 28u; // of the places: 7 of them
    var above = vec3<f32>();
    var middle = vec3<f32>();
    var below = vec3<f32>();
    var bias = 0.0;
    for (var place = share * 7u; place < share * 7u + 7u; place++) {
        let gradient = exchange[f * PLACES + place];
        if gradient != 0.0 { // half of them are
            let choice = choices[place] >> (2u * f) & 3u;
            let row = place / 14u * 2u + choice / 2u;
            let at = row * SIDE + place % 14u * 2u + choice % 2u;
            above += gradient * three_pixels(at);
            middle += gradient * three_pixels(at + SIDE);
            below += gradient * three_pixels(at + 2u * SIDE);
            bias += gradient;
        }
    }
    workgroupBarrier();

    // exchange: (28, 80), the shares; all filters' weights, then their biases.
    let at = share * CONV + f * 9u;
    exchange[at] = above.x;
    exchange[at + 1u] = above.y;
    exchange[at + 2u] = above.z;
    exchange[at + 3u] = middle.x;
    exchange[at + 4u] = middle.y;
    exchange[at + 5u] = middle.z;
    exchange[at + 6u] = below.x;
    exchange[at + 7u] = below.y;
    exchange[at + 8u] = below.z;
    exchange[share * CONV + 72u + f] = bias;
    workgroupBarrier();
    if thread < CONV {
        var sum = 0.0;
        for (var other = 0u; other < 28u; other++) {
            sum += exchange[other * CONV + thread];
        }
        samples[within * SAMPLE + CONV_GRADIENT + thread] = sum;
    }
}

// Workgroups 0 to 23 have a filter and four classes of fc.weight each, a thread each place;
// workgroup 24 has all other parameters, and the loss.
@compute @workgroup_size(224)
fn update(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if workgroup.x < 24u {
        if thread < PLACES {
            let f = workgroup.x / 3u;
            let sum = fc_gradient(f * PLACES + thread, workgroup.x % 3u * 4u);
            parameters[FC + workgroup.x * PLACES + thread] -= step.rate * sum;
        }
    } else if thread < 20u {
        let at = CONV_GRADIENT + 4u * thread;
        parameters[thread] -= step.rate * sum_four(at);
    } else if thread < 23u {
        parameters[FC_BIAS + thread - 20u] -= step.rate * sum_four(4u * (thread - 20u));
    } else if thread == 23u {
        losses[step.index] = sum_four(LOSS).x / f32(max(step.count, 1u));
    }
}

// Four neighbouring values of `samples`.
fn four(sample: u32, at: u32) -> vec4<f32> {
    let first = sample * SAMPLE + at;
    return vec4<f32>(samples[first], samples[first + 1u], samples[first + 2u], samples[first + 3u]);
}

// Over the batch.
fn sum_four(at: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var sample = 0u; sample < step.count; sample++) {
        sum += four(sample, at);
    }
    return sum;
}

// Over the batch, what was pooled times the gradient by four logits. Four samples are in flight at
// a time.
fn fc_gradient(column: u32, digit: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    var sample = 0u;
    for (; sample + 4u <= step.count; sample += 4u) {
        let at = sample * POOLED + column;
        let a = pooled[at];
        let b = pooled[at + POOLED];
        let c = pooled[at + 2u * POOLED];
        let d = pooled[at + 3u * POOLED];
        sum += (a * four(sample, digit) + b * four(sample + 1u, digit))
            + (c * four(sample + 2u, digit) + d * four(sample + 3u, digit));
    }
    for (; sample < step.count; sample++) {
        sum += pooled[sample * POOLED + column] * four(sample, digit);
    }
    return sum;
}

// The labels of `count` images. A workgroup for each.
@compute @workgroup_size(224)
fn predict(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    load_sample(thread, order[step.first + workgroup.x]);
    var pooling: Pooling;
    if thread < PLACES {
        pooling = pool(thread, false, 0u);
    }
    sum_logits(thread, pooling.logits);
    if thread == 0u {
        var logits: array<f32, 10>;
        for (var digit = 0u; digit < CLASSES; digit++) {
            logits[digit] = sums[digit];
        }
        predicted[step.first + workgroup.x] = first_of_the_largest(&logits);
    }
}
