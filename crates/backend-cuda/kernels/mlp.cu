// The MLP's plain plan: three launches per step. A block owns four hidden units, so that a pixel's
// four weights are one 16-byte load, and 32 samples at a time, one per lane.
//
// Parameters are canonical: fc1.weight (hidden, 784), fc1.bias (hidden), fc2.weight (10, hidden),
// fc2.bias (10), one after the other.
#include "classes.cuh"

constexpr u32 UNITS = 4;     // hidden units of a block
constexpr u32 TILE = WARP;   // samples of a tile
constexpr u32 THREADS = 256; // of mlp_hidden and mlp_update
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 CHUNKS = PIXELS / 16; // 49 loads of 16 bytes are an image
constexpr u32 QUADS = PIXELS / 4;

struct MlpStep {
    const u8 *images;     // (?, 784)
    const u8 *labels;     // (?)
    const u32 *order;     // (samples), or null: in the order of `images`
    Progress *progress;
    float *parameters;
    float *hidden;        // (batch, hidden_units)
    float *hidden_delta;  // (batch, hidden_units), times nothing: dLoss/dPreactivation per sample
    float *logit_delta;   // (batch, 10), likewise
    float *sample_loss;   // (samples)
    u32 batch;
    u32 hidden_units;
};

struct MlpParameters {
    float *weight1, *bias1, *weight2, *bias2;
};

__device__ __forceinline__ MlpParameters parameters_of(const MlpStep &step) {
    float *weight1 = step.parameters;
    float *bias1 = weight1 + static_cast<u64>(step.hidden_units) * PIXELS;
    float *weight2 = bias1 + step.hidden_units;
    return MlpParameters{weight1, bias1, weight2, weight2 + CLASSES * step.hidden_units};
}

// The images of up to 32 samples of a batch into `pixels` (32, 784); rows past the end are zero.
__device__ __forceinline__ void copy_images(u8 *pixels, const MlpStep &step, Batch batch,
                                            u32 tile) {
    for (u32 index = threadIdx.x; index < TILE * CHUNKS; index += THREADS) {
        const u32 row = index / CHUNKS;
        const u32 sample = tile * TILE + row;
        const bool exists = sample < batch.count;
        const u32 place = exists ? batch.first + sample : 0;
        const u64 image = step.order ? step.order[place] : place;
        copy_async(pixels + index * 16, step.images + image * PIXELS + (index % CHUNKS) * 16,
                   exists ? 16 : 0);
    }
    copy_async_commit();
    copy_async_wait<0>();
}

__device__ __forceinline__ float4 multiply_add(float4 sums, float4 weights, float value) {
    return float4{sums.x + weights.x * value, sums.y + weights.y * value,
                  sums.z + weights.z * value, sums.w + weights.w * value};
}

// hidden = relu(images fc1.weight^T + fc1.bias). Grid (ceil(hidden / 4), ceil(batch / 32)).
// Shared: weights (784, 4), pixels (32, 784), partial sums (8 warps, 32 samples, 4).
extern "C" __global__ void __launch_bounds__(THREADS) mlp_hidden(const MlpStep step) {
    u8 *arena = shared_arena();
    float4 *weights = reinterpret_cast<float4 *>(arena);                     // (784)
    float4 *partial = reinterpret_cast<float4 *>(arena + PIXELS * 16);       // (8, 32)
    u8 *pixels = arena + PIXELS * 16 + WARPS * TILE * 16;                    // (32, 784)
    const Batch batch = batch_of(step.progress->next, step.batch, step.progress->samples);
    const u32 unit0 = blockIdx.x * UNITS;
    const u32 units = min(UNITS, step.hidden_units - unit0);
    const MlpParameters parameters = parameters_of(step);
    if (blockIdx.y * TILE >= batch.count) {
        return; // the last step may have fewer tiles
    }

    for (u32 index = threadIdx.x; index < UNITS * PIXELS; index += THREADS) {
        const u32 unit = index / PIXELS;
        const u32 pixel = index % PIXELS;
        const float weight =
            unit < units ? parameters.weight1[static_cast<u64>(unit0 + unit) * PIXELS + pixel] : 0;
        reinterpret_cast<float *>(weights + pixel)[unit] = weight;
    }
    copy_images(pixels, step, batch, blockIdx.y);
    __syncthreads();

    const u32 lane = threadIdx.x % WARP;
    const u32 warp = threadIdx.x / WARP;
    float4 sums{};
    for (u32 chunk = warp; chunk < CHUNKS; chunk += WARPS) {
        const uint4 bytes = *reinterpret_cast<const uint4 *>(pixels + lane * PIXELS + chunk * 16);
        const u32 words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
#pragma unroll
        for (u32 word = 0; word < 4; ++word) {
            float values[4];
            floats_of_bytes(values, words[word]);
#pragma unroll
            for (u32 byte = 0; byte < 4; ++byte) {
                sums = multiply_add(sums, weights[chunk * 16 + word * 4 + byte], values[byte]);
            }
        }
    }
    partial[warp * TILE + lane] = sums;
    __syncthreads();

    const u32 row = threadIdx.x / UNITS;
    const u32 unit = threadIdx.x % UNITS;
    const u32 sample = blockIdx.y * TILE + row;
    if (row < TILE && sample < batch.count && unit < units) {
        float sum = 0.0f;
#pragma unroll
        for (u32 from = 0; from < WARPS; ++from) {
            sum += reinterpret_cast<const float *>(partial + from * TILE + row)[unit];
        }
        const float value = sum * PIXEL_SCALE + parameters.bias1[unit0 + unit];
        step.hidden[static_cast<u64>(sample) * step.hidden_units + unit0 + unit] =
            relu(value);
    }
}

// Logits, softmax, loss, and the deltas of both layers. One block of 128 per sample.
// Shared: logits (16), deltas (16).
extern "C" __global__ void __launch_bounds__(128) mlp_output(const MlpStep step) {
    float *logits = reinterpret_cast<float *>(shared_arena()); // (16)
    float *deltas = logits + 16;                               // (16)
    const Batch batch = batch_of(step.progress->next, step.batch, step.progress->samples);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        step.progress->current = step.progress->next;
    }
    const u32 sample = blockIdx.x;
    if (sample >= batch.count) {
        return;
    }
    const MlpParameters parameters = parameters_of(step);
    const u32 units = step.hidden_units;
    const float *hidden = step.hidden + static_cast<u64>(sample) * units;
    const u32 lane = threadIdx.x % WARP;
    const u32 warp = threadIdx.x / WARP;
    for (u32 output = warp; output < CLASSES; output += blockDim.x / WARP) {
        float sum = 0.0f;
        for (u32 unit = lane; unit < units; unit += WARP) {
            sum += hidden[unit] * parameters.weight2[output * units + unit];
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            logits[output] = sum + parameters.bias2[output];
        }
    }
    __syncthreads();
    if (warp == 0) {
        const u32 place = batch.first + sample;
        const u32 label = step.labels[step.order[place]];
        const ClassGradient gradient = softmax_gradient(logits, lane, label);
        if (lane < CLASSES) {
            deltas[lane] = gradient.delta;
            step.logit_delta[sample * CLASSES + lane] = gradient.delta;
        }
        if (lane == 0) {
            step.sample_loss[place] = gradient.loss;
        }
    }
    __syncthreads();
    for (u32 unit = threadIdx.x; unit < units; unit += blockDim.x) {
        float sum = 0.0f;
#pragma unroll
        for (u32 output = 0; output < CLASSES; ++output) {
            sum += deltas[output] * parameters.weight2[output * units + unit];
        }
        step.hidden_delta[static_cast<u64>(sample) * units + unit] =
            hidden[unit] > 0.0f ? sum : 0.0f;
    }
}

// parameters -= learning_rate * mean gradient. Grid ceil(hidden / 4): a block updates its four
// units' rows of fc1 and columns of fc2; the first block updates fc2.bias also.
// Shared: pixels (32, 784), hidden deltas (32, 4).
extern "C" __global__ void __launch_bounds__(THREADS) mlp_update(const MlpStep step) {
    u8 *arena = shared_arena();
    u8 *pixels = arena;                                                // (32, 784)
    float4 *deltas = reinterpret_cast<float4 *>(arena + TILE * PIXELS); // (32)
    const u32 current = step.progress->current;
    const Batch batch = batch_of(current, step.batch, step.progress->samples);
    if (batch.count == 0) {
        return;
    }
    const float rate = step.progress->learning_rate / static_cast<float>(batch.count);
    const MlpParameters parameters = parameters_of(step);
    const u32 hidden_units = step.hidden_units;
    const u32 unit0 = blockIdx.x * UNITS;
    const u32 units = min(UNITS, hidden_units - unit0);
    const u32 thread = threadIdx.x;

    // Threads 0 to 195 own four pixels of fc1.weight each, the next 40 an element of fc2.weight
    // each, the next 4 one of fc1.bias; in the first block the next 10 one of fc2.bias.
    const u32 output = (thread - QUADS) / UNITS;
    const u32 unit = (thread - QUADS) % UNITS;
    const u32 bias_output = thread - QUADS - (CLASSES + 1) * UNITS;
    float4 sums[4] = {};
    float sum = 0.0f;
    for (u32 tile = 0; tile * TILE < batch.count; ++tile) {
        const u32 rows = min(TILE, batch.count - tile * TILE);
        __syncthreads(); // the last tile was read
        copy_images(pixels, step, batch, tile);
        if (thread < TILE * UNITS) {
            const u32 row = thread / UNITS;
            const bool exists = row < rows && thread % UNITS < units;
            const u64 at = static_cast<u64>(tile * TILE + row) * hidden_units + unit0;
            reinterpret_cast<float *>(deltas)[thread] =
                exists ? step.hidden_delta[at + thread % UNITS] : 0.0f;
        }
        __syncthreads();
        if (thread < QUADS) {
            for (u32 row = 0; row < TILE; ++row) {
                float values[4];
                floats_of_bytes(values,
                                *reinterpret_cast<const u32 *>(pixels + row * PIXELS + thread * 4));
                const float4 delta = deltas[row];
#pragma unroll
                for (u32 byte = 0; byte < 4; ++byte) {
                    sums[byte] = multiply_add(sums[byte], delta, values[byte]);
                }
            }
        } else if (output < CLASSES && unit < units) {
            for (u32 row = 0; row < rows; ++row) {
                const u32 sample = tile * TILE + row;
                sum += step.logit_delta[sample * CLASSES + output] *
                       step.hidden[static_cast<u64>(sample) * hidden_units + unit0 + unit];
            }
        } else if (output == CLASSES && unit < units) {
            for (u32 row = 0; row < rows; ++row) {
                sum += reinterpret_cast<const float *>(deltas + row)[unit];
            }
        } else if (output > CLASSES && bias_output < CLASSES && blockIdx.x == 0) {
            for (u32 row = 0; row < rows; ++row) {
                sum += step.logit_delta[(tile * TILE + row) * CLASSES + bias_output];
            }
        }
    }

    if (thread < QUADS) {
#pragma unroll
        for (u32 own = 0; own < UNITS; ++own) {
            if (own >= units) {
                break;
            }
            float4 *weights = reinterpret_cast<float4 *>(
                parameters.weight1 + static_cast<u64>(unit0 + own) * PIXELS + thread * 4);
            float4 weight = *weights;
            weight.x -= rate * PIXEL_SCALE * reinterpret_cast<const float *>(&sums[0])[own];
            weight.y -= rate * PIXEL_SCALE * reinterpret_cast<const float *>(&sums[1])[own];
            weight.z -= rate * PIXEL_SCALE * reinterpret_cast<const float *>(&sums[2])[own];
            weight.w -= rate * PIXEL_SCALE * reinterpret_cast<const float *>(&sums[3])[own];
            *weights = weight;
        }
    } else if (output < CLASSES && unit < units) {
        parameters.weight2[output * hidden_units + unit0 + unit] -= rate * sum;
    } else if (output == CLASSES && unit < units) {
        parameters.bias1[unit0 + unit] -= rate * sum;
    } else if (output > CLASSES && bias_output < CLASSES && blockIdx.x == 0) {
        parameters.bias2[bias_output] -= rate * sum;
    }
    if (blockIdx.x == 0 && thread == 0) {
        step.progress->next = current + 1;
    }
}
