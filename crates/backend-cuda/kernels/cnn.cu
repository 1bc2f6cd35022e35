// The CNN's plain plan: two launches per step. A block takes a sample through the forward and the
// backward pass; the update then adds the samples up, so that nothing is added in a random order.
//
// Parameters are canonical: conv.weight (8, 3, 3), conv.bias (8), fc.weight (10, 1568), fc.bias (10),
// one after the other.
#include "classes.cuh"

constexpr u32 FILTERS = 8;
constexpr u32 TAPS = 9;
constexpr u32 HALF = SIDE / 2;                 // 14: rows and columns after pooling
constexpr u32 SPOTS = HALF * HALF;             // 196 pooled values of a filter
constexpr u32 POOLED = FILTERS * SPOTS;        // 1568
constexpr u32 PADDED = SIDE + 2;               // the image with its border of zeros
constexpr u32 CONV = FILTERS * (TAPS + 1);     // weights, then biases
constexpr u32 THREADS = FILTERS * WARP;        // a warp for each filter

struct CnnStep {
    const u8 *images;    // (?, 784)
    const u8 *labels;    // (?)
    const u32 *order;    // (samples), or null: in the order of `images`
    Progress *progress;
    float *parameters;
    float *pooled;       // (batch, 1568)
    float *logit_delta;  // (batch, 10): probability minus target
    float *conv_delta;   // (batch, 80): the gradient of conv.weight and conv.bias
    float *sample_loss;  // (samples)
    u32 batch;
};

struct CnnParameters {
    float *conv, *weight, *bias;
};

__device__ __forceinline__ CnnParameters parameters_of(const CnnStep &step) {
    float *weight = step.parameters + CONV;
    return CnnParameters{step.parameters, weight, weight + CLASSES * POOLED};
}

struct Shared {
    float image[PADDED * PADDED];
    float pooled[POOLED];
    float delta[POOLED]; // of the convolution where it was the largest; 0 where ReLU was 0
    float conv[CONV];
    float logits[CLASS_STRIDE];
    float deltas[CLASS_STRIDE];
    u8 largest[POOLED];  // which of the four was pooled
};

__device__ __forceinline__ void load_image(Shared &shared, const CnnStep &step, u32 place) {
    const u64 image = step.order ? step.order[place] : place;
    for (u32 index = threadIdx.x; index < PADDED * PADDED; index += THREADS) {
        const u32 row = index / PADDED, column = index % PADDED;
        const bool inside = row - 1 < SIDE && column - 1 < SIDE; // unsigned
        const u64 pixel = (row - 1) * SIDE + column - 1;
        shared.image[index] = inside ? step.images[image * PIXELS + pixel] * PIXEL_SCALE : 0.0f;
    }
    for (u32 index = threadIdx.x; index < CONV; index += THREADS) {
        shared.conv[index] = step.parameters[index];
    }
}

// Convolution, ReLU and pooling; warp f makes filter f. The first of equal values in row order is
// pooled.
__device__ __forceinline__ void convolve(Shared &shared) {
    const u32 filter = threadIdx.x / WARP;
    float weights[TAPS];
#pragma unroll
    for (u32 tap = 0; tap < TAPS; ++tap) {
        weights[tap] = shared.conv[filter * TAPS + tap];
    }
    const float bias = shared.conv[FILTERS * TAPS + filter];
    for (u32 spot = threadIdx.x % WARP; spot < SPOTS; spot += WARP) {
        const float *corner = shared.image + spot / HALF * 2 * PADDED + spot % HALF * 2;
        float largest = 0.0f;
        u32 which = 0;
#pragma unroll
        for (u32 inner = 0; inner < 4; ++inner) {
            const float *at = corner + inner / 2 * PADDED + inner % 2;
            float sum = bias;
#pragma unroll
            for (u32 tap = 0; tap < TAPS; ++tap) {
                sum += weights[tap] * at[tap / 3 * PADDED + tap % 3];
            }
            if (inner == 0 || sum > largest) {
                largest = sum;
                which = inner;
            }
        }
        shared.pooled[filter * SPOTS + spot] = relu(largest);
        shared.largest[filter * SPOTS + spot] = static_cast<u8>(which);
    }
}

// What the output layer takes. Grid samples.
extern "C" __global__ void __launch_bounds__(THREADS) cnn_features(const CnnStep step) {
    Shared &shared = *reinterpret_cast<Shared *>(shared_arena());
    const u32 sample = blockIdx.x;
    load_image(shared, step, sample);
    __syncthreads();
    convolve(shared);
    __syncthreads();
    for (u32 index = threadIdx.x; index < POOLED; index += THREADS) {
        step.pooled[static_cast<u64>(sample) * POOLED + index] = shared.pooled[index];
    }
}

// A sample's pooled values, logit deltas and its gradient of the convolution. Grid batch.
extern "C" __global__ void __launch_bounds__(THREADS) cnn_sample(const CnnStep step) {
    Shared &shared = *reinterpret_cast<Shared *>(shared_arena());
    const Batch batch = batch_of(step.progress->next, step.batch, step.progress->samples);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        step.progress->current = step.progress->next;
    }
    const u32 sample = blockIdx.x;
    if (sample >= batch.count) {
        return;
    }
    const u32 place = batch.first + sample;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const CnnParameters parameters = parameters_of(step);
    load_image(shared, step, place);
    __syncthreads();
    convolve(shared);
    __syncthreads();

    for (u32 output = warp; output < CLASSES; output += FILTERS) {
        float sum = 0.0f;
        for (u32 index = lane; index < POOLED; index += WARP) {
            sum += shared.pooled[index] * parameters.weight[output * POOLED + index];
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            shared.logits[output] = sum + parameters.bias[output];
        }
    }
    __syncthreads();
    if (warp == 0) {
        const ClassGradient gradient =
            softmax_gradient(shared.logits, lane, step.labels[step.order[place]]);
        if (lane < CLASSES) {
            shared.deltas[lane] = gradient.delta;
            step.logit_delta[sample * CLASSES + lane] = gradient.delta;
        }
        if (lane == 0) {
            step.sample_loss[place] = gradient.loss;
        }
    }
    __syncthreads();
    for (u32 index = threadIdx.x; index < POOLED; index += THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (u32 output = 0; output < CLASSES; ++output) {
            sum += shared.deltas[output] * parameters.weight[output * POOLED + index];
        }
        shared.delta[index] = shared.pooled[index] > 0.0f ? sum : 0.0f;
        step.pooled[static_cast<u64>(sample) * POOLED + index] = shared.pooled[index];
    }
    __syncthreads();

    float sums[TAPS + 1] = {};
    for (u32 spot = lane; spot < SPOTS; spot += WARP) {
        const float delta = shared.delta[warp * SPOTS + spot];
        const u32 which = shared.largest[warp * SPOTS + spot];
        const float *at = shared.image + (spot / HALF * 2 + which / 2) * PADDED +
                          spot % HALF * 2 + which % 2;
#pragma unroll
        for (u32 tap = 0; tap < TAPS; ++tap) {
            sums[tap] += delta * at[tap / 3 * PADDED + tap % 3];
        }
        sums[TAPS] += delta;
    }
    float *out = step.conv_delta + sample * CONV;
#pragma unroll
    for (u32 tap = 0; tap <= TAPS; ++tap) {
        const float sum = warp_sum(sums[tap]);
        if (lane == 0) {
            out[tap < TAPS ? warp * TAPS + tap : FILTERS * TAPS + warp] = sum;
        }
    }
}

// parameters -= learning_rate * mean gradient. Grid (8, 10), block 224: a block has 224 columns of
// one row of fc.weight; the last column of blocks has the biases, and in the first row conv.
extern "C" __global__ void __launch_bounds__(224) cnn_update(const CnnStep step) {
    const u32 current = step.progress->current;
    const Batch batch = batch_of(current, step.batch, step.progress->samples);
    const float rate = step.progress->learning_rate / static_cast<float>(batch.count);
    const CnnParameters parameters = parameters_of(step);
    const u32 output = blockIdx.y;
    const u32 index = blockIdx.x * 224 + threadIdx.x;
    float sum = 0.0f;
    if (index < POOLED) {
#pragma unroll 8
        for (u32 sample = 0; sample < batch.count; ++sample) {
            sum += step.logit_delta[sample * CLASSES + output] *
                   step.pooled[static_cast<u64>(sample) * POOLED + index];
        }
        parameters.weight[output * POOLED + index] -= rate * sum;
    } else if (index == POOLED) {
        for (u32 sample = 0; sample < batch.count; ++sample) {
            sum += step.logit_delta[sample * CLASSES + output];
        }
        parameters.bias[output] -= rate * sum;
    } else if (output == 0 && index - POOLED - 1 < CONV) {
        const u32 own = index - POOLED - 1;
        for (u32 sample = 0; sample < batch.count; ++sample) {
            sum += step.conv_delta[sample * CONV + own];
        }
        parameters.conv[own] -= rate * sum;
    }
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        step.progress->next = current + 1;
    }
}
