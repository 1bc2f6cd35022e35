// The MLP trained whole epochs in one launch. All blocks are resident; a block owns four hidden
// units (or eight), their weights never leave it, and the only thing that the blocks exchange is
// what must be: the shares of the logits and the logit deltas (exchange.cuh).
//
// A step at batch 32 is bound by the latency of that exchange, so nothing else may wait for it:
//
// - Seven *compute* warps hold fc1.weight in registers, 112 pixels each. While the exchange warps
//   are busy with step t, they apply step t - 1's update and then multiply the updated weights with
//   the images of step t + 1, which is one update too early.
// - Eight *exchange* warps correct that product when the deltas of step t are known. The weights of
//   step t + 1 are W - rate d_t^T x_t, so its preactivations are W x_{t+1} - rate d_t^T G with G the
//   inner products of the images of step t with those of step t + 1: 32 multiplications for each
//   preactivation instead of 784. G does not depend on weights: `mlp_gram` computes it for all
//   steps beforehand, in exact integers. This is the same step of SGD, added up in another order.
//
// The products run on the tensor cores in float32: a pixel is an integer below 256 and so exact in
// bf16; a weight or delta is cut into three bf16 (8 + 8 + 8 bits) whose sum is exact; products of
// bf16 are exact and their sums are float32. The three parts are rows of the same fragment.
//
// Fragments. In a group of 16 pixels lane (g = lane / 4, t = lane % 4) holds the weights of unit
// g % 4 and pixels 4t to 4t + 3. Lanes g < 4 bring the high and low parts of a number (rows g and
// g + 8), lanes g >= 4 the middle part and zero. So does the sum arrive: rows g and g + 8 of lane g,
// plus those of lane g ^ 4.
#include "exchange.cuh"

constexpr u32 UNITS = 4; // rows of a fragment: times three parts, and a zero
constexpr u32 COMPUTE_WARPS = 7;
constexpr u32 EXCHANGE_WARPS = 8;
constexpr u32 COMPUTE_THREADS = COMPUTE_WARPS * WARP;
constexpr u32 EXCHANGE_THREADS = EXCHANGE_WARPS * WARP;
constexpr u32 THREADS = COMPUTE_THREADS + EXCHANGE_THREADS;
constexpr u32 GROUP = 16;                                    // pixels of a fragment
constexpr u32 GROUPS = PIXELS / GROUP / COMPUTE_WARPS;       // 7 of each compute warp
constexpr u32 WARP_PIXELS = GROUPS * GROUP;                  // 112
constexpr u32 GRAM_STRIDE = BATCH_ROWS + 4;                  // padded against bank conflicts
constexpr u32 ROWS_PER_WARP = BATCH_ROWS / EXCHANGE_WARPS;   // samples of an exchange warp: 4

// Named barriers. 0 is __syncthreads'.
constexpr u32 STEP_DONE = 1;     // all: deltas and the next product are there
constexpr u32 OUTPUT_UPDATED = 2; // compute warps arrive: fc2 and the biases are those of this step
constexpr u32 SHARES_SUMMED = 3; // exchange warps

// bf16 products are W * pixel * 2^-7: 0x00bb as bf16 is bb * 2^-133, subnormal or not.
constexpr u32 TWO_TO_126 = 0x7E807E80u;
constexpr float PIXEL_UNIT = 128.0f / 255.0f; // what 2^-7 stands for

struct MlpFused {
    const u8 *images;   // (?, 784)
    const u8 *labels;   // (?)
    const u32 *order;   // (samples)
    float *parameters;  // canonical, see mlp.cu
    const float *gram;  // (steps - 1, 32 rows of the next step, 32 rows of this)
    Exchange exchange;
    float *sample_loss; // (samples)
    u32 samples;
    u32 batch;          // at most 32
    u32 hidden_units;
    u32 steps;
    u32 first_tag;      // of the first step; grows by one each step, never 0
    float learning_rate;
};

template <u32 SETS> struct Shared {
    u8 pixels[3][BATCH_ROWS * PIXELS];                         // steps t - 1, t, t + 1 in turn
    float gram[2][BATCH_ROWS * GRAM_STRIDE];                   // (next row, row)
    float product[2][COMPUTE_WARPS][SETS * UNITS][BATCH_ROWS]; // shares of W x / 2^7
    float delta[2][SETS * UNITS][BATCH_ROWS];                  // -rate dLoss/dPreactivation
    float hidden[2][BATCH_ROWS][SETS * UNITS];
    float logit_delta[2][BATCH_ROWS][CLASS_STRIDE];
    float weight2[CLASSES][SETS * UNITS];
    float bias1[2][SETS * UNITS];
    float bias2[CLASS_STRIDE];
    float sums[EXCHANGE_WARPS * CLASS_STRIDE];
};

// The three parts of a float32, each exact in bf16 and in the upper half of its word.
struct Parts {
    u32 first, second; // of this lane: high and low, or middle and zero
};

__device__ __forceinline__ Parts cut(float value, bool outer) {
    const u32 high = __float_as_uint(value) & 0xffff0000u;
    const float rest = value - __uint_as_float(high);
    const u32 middle = __float_as_uint(rest) & 0xffff0000u;
    const u32 low = __float_as_uint(rest - __uint_as_float(middle));
    return Parts{outer ? high : middle, outer ? low : 0};
}

// A fragment's rows from four numbers: columns 2t, 2t + 1, 2t + 8, 2t + 9.
__device__ __forceinline__ void fragment_of(u32 (&fragment)[4], const float (&values)[4],
                                            bool outer) {
    const Parts a = cut(values[0], outer), b = cut(values[1], outer);
    const Parts c = cut(values[2], outer), d = cut(values[3], outer);
    fragment[0] = __byte_perm(a.first, b.first, 0x7632);
    fragment[1] = __byte_perm(a.second, b.second, 0x7632);
    fragment[2] = __byte_perm(c.first, d.first, 0x7632);
    fragment[3] = __byte_perm(c.second, d.second, 0x7632);
}

// Bytes 0 and 2, or 1 and 3, of `bytes` as bf16 times 2^-7.
__device__ __forceinline__ u32 even_bytes(u32 bytes) {
    return multiply_bf16x2(bytes & 0x00ff00ffu, TWO_TO_126);
}

__device__ __forceinline__ u32 odd_bytes(u32 bytes) {
    return multiply_bf16x2((bytes >> 8) & 0x00ff00ffu, TWO_TO_126);
}

// The three parts' sums of this lane's unit.
__device__ __forceinline__ float sum_of_parts(float first, float second) {
    const float sum = first + second;
    return sum + __shfl_xor_sync(ALL_LANES, sum, 16);
}

// A compute warp: 112 pixels of the block's units.
template <u32 SETS> struct ComputeWarp {
    const MlpFused &run;
    Shared<SETS> &shared;
    u32 warp, lane;
    u32 next_image, later_image; // of row `lane`: of the step to be copied next, and the one after
    // (set, group, pixels 4t, 4t + 2, 4t + 1, 4t + 3)
    float weights[SETS][GROUPS][4];

    __device__ __forceinline__ u32 first_pixel() const { return warp * WARP_PIXELS; }
    __device__ __forceinline__ bool outer() const { return lane < 16; }
    __device__ __forceinline__ u32 unit(u32 set) const { return set * UNITS + lane / 4 % 4; }

    __device__ __forceinline__ float4 *global_weights(u32 set, u32 group) const {
        const u64 row = static_cast<u64>(blockIdx.x) * (SETS * UNITS) + unit(set);
        return reinterpret_cast<float4 *>(run.parameters + row * PIXELS + first_pixel() +
                                          group * GROUP + lane % 4 * 4);
    }

    __device__ __forceinline__ bool exists(u32 set) const {
        return blockIdx.x * (SETS * UNITS) + unit(set) < run.hidden_units;
    }

    __device__ __forceinline__ void load_weights() {
#pragma unroll
        for (u32 set = 0; set < SETS; ++set) {
#pragma unroll
            for (u32 group = 0; group < GROUPS; ++group) {
                const float4 four = exists(set) ? *global_weights(set, group) : float4{};
                weights[set][group][0] = four.x;
                weights[set][group][1] = four.z;
                weights[set][group][2] = four.y;
                weights[set][group][3] = four.w;
            }
        }
    }

    __device__ __forceinline__ void store_weights() const {
#pragma unroll
        for (u32 set = 0; set < SETS; ++set) {
#pragma unroll
            for (u32 group = 0; group < GROUPS; ++group) {
                if (outer() && exists(set)) {
                    *global_weights(set, group) =
                        float4{weights[set][group][0], weights[set][group][2],
                               weights[set][group][1], weights[set][group][3]};
                }
            }
        }
    }

    __device__ __forceinline__ u32 image_of_row(u32 step) const {
        const Batch batch = batch_of(step, run.batch, run.samples);
        return lane < batch.count ? run.order[batch.first + lane] : ~0u;
    }

    // Begins to copy this warp's pixels of `step`. Calls must follow each other step by step. What
    // the following steps need is asked for so early that nobody waits for it: the image of each
    // row two steps ahead, the pixels, from memory to the L2 cache, one step ahead.
    __device__ __forceinline__ void copy_pixels(u32 step) {
        u8 *to = shared.pixels[step % 3] + lane * PIXELS + first_pixel();
        const bool exists = next_image != ~0u;
        const u8 *from =
            run.images + static_cast<u64>(exists ? next_image : 0) * PIXELS + first_pixel();
#pragma unroll
        for (u32 chunk = 0; chunk < WARP_PIXELS; chunk += 16) {
            copy_async(to + chunk, from + chunk, exists ? 16 : 0);
        }
        copy_async_commit();
        next_image = later_image;
        later_image = image_of_row(step + 2);
        // Every block needs every row: one block in 32 asks for it.
        if (warp == 0 && blockIdx.x % BATCH_ROWS == lane && next_image != ~0u) {
            const u8 *row = run.images + static_cast<u64>(next_image) * PIXELS;
            for (u32 line = 0; line < PIXELS; line += 128) {
                prefetch_to_l2(row + line);
            }
            prefetch_to_l2(row + PIXELS - 1);
        }
    }

    // Begins to copy the inner products between `step` and the next one.
    __device__ __forceinline__ void copy_gram(u32 step) {
        if (step + 1 < run.steps) {
            const float *from = run.gram + static_cast<u64>(step) * BATCH_ROWS * BATCH_ROWS;
            for (u32 chunk = warp * WARP + lane; chunk < BATCH_ROWS * BATCH_ROWS / 4;
                 chunk += COMPUTE_THREADS) {
                const u32 row = chunk / (BATCH_ROWS / 4);
                const u32 column = chunk % (BATCH_ROWS / 4) * 4;
                copy_async(&shared.gram[step % 2][row * GRAM_STRIDE + column], from + chunk * 4,
                           16);
            }
        }
        copy_async_commit();
    }

    // fc1.weight += the deltas of `step` times its pixels.
    __device__ __forceinline__ void update_weights(u32 step) {
        u32 rows[SETS][2][4]; // fragments of the deltas: samples 0 to 15, 16 to 31
#pragma unroll
        for (u32 set = 0; set < SETS; ++set) {
            const float *delta = shared.delta[step % 2][unit(set)];
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const float *from = delta + half * 16 + lane % 4 * 2;
                const float values[4] = {from[0] * PIXEL_UNIT, from[1] * PIXEL_UNIT,
                                         from[8] * PIXEL_UNIT, from[9] * PIXEL_UNIT};
                fragment_of(rows[set][half], values, outer());
            }
        }
        const u8 *row = shared.pixels[step % 3] + lane * PIXELS + first_pixel();
#pragma unroll
        for (u32 group = 0; group < GROUPS; ++group) {
            u32 bytes[4]; // samples 8m to 8m + 7: rows 2t, 2t + 1; pixels 2g, 2g + 1
            load_matrices_transposed(bytes, row + group * GROUP);
            u32 even[4], odd[4];
#pragma unroll
            for (u32 m = 0; m < 4; ++m) {
                even[m] = even_bytes(bytes[m]);
                odd[m] = odd_bytes(bytes[m]);
            }
#pragma unroll
            for (u32 set = 0; set < SETS; ++set) {
                float evens[4] = {}, odds[4] = {}; // pixels 4t, 4t + 2; 4t + 1, 4t + 3
                multiply_add_bf16(evens, rows[set][0], even[0], even[1]);
                multiply_add_bf16(odds, rows[set][0], odd[0], odd[1]);
                multiply_add_bf16(evens, rows[set][1], even[2], even[3]);
                multiply_add_bf16(odds, rows[set][1], odd[2], odd[3]);
                float(&weight)[4] = weights[set][group];
                weight[0] += sum_of_parts(evens[0], evens[2]);
                weight[1] += sum_of_parts(evens[1], evens[3]);
                weight[2] += sum_of_parts(odds[0], odds[2]);
                weight[3] += sum_of_parts(odds[1], odds[3]);
            }
        }
    }

    // This warp's share of fc1.weight times the pixels of `step`.
    __device__ __forceinline__ void multiply(u32 step) {
        float sums[SETS][BATCH_ROWS / 8][4] = {};
        const u8 *pixels =
            shared.pixels[step % 3] + lane / 4 * PIXELS + first_pixel() + lane % 4 * 4;
#pragma unroll
        for (u32 group = 0; group < GROUPS; ++group) {
            u32 even[4], odd[4];
#pragma unroll
            for (u32 m = 0; m < 4; ++m) { // samples 8m to 8m + 7
                const u32 bytes =
                    *reinterpret_cast<const u32 *>(pixels + m * 8 * PIXELS + group * GROUP);
                even[m] = even_bytes(bytes);
                odd[m] = odd_bytes(bytes);
            }
#pragma unroll
            for (u32 set = 0; set < SETS; ++set) {
                u32 fragment[4];
                fragment_of(fragment, weights[set][group], outer());
#pragma unroll
                for (u32 m = 0; m < 4; ++m) {
                    multiply_add_bf16(sums[set][m], fragment, even[m], odd[m]);
                }
            }
        }
#pragma unroll
        for (u32 set = 0; set < SETS; ++set) {
#pragma unroll
            for (u32 m = 0; m < 4; ++m) {
                const float first = sum_of_parts(sums[set][m][0], sums[set][m][2]);
                const float second = sum_of_parts(sums[set][m][1], sums[set][m][3]);
                if (outer()) {
                    float *to =
                        &shared.product[step % 2][warp][unit(set)][m * 8 + lane % 4 * 2];
                    to[0] = first;
                    to[1] = second;
                }
            }
        }
    }

    // fc2.weight and the biases += the deltas of `step` times what they saw.
    __device__ __forceinline__ void update_output(u32 step, float rate) {
        constexpr u32 ELEMENTS = CLASSES * SETS * UNITS;
        constexpr u32 WEIGHT_WARPS = COMPUTE_WARPS - 2;
        if (warp < WEIGHT_WARPS) { // four lanes for each element, 8 samples each
            const u32 quarter = lane % 4;
            for (u32 first = 0; first < ELEMENTS; first += WEIGHT_WARPS * 8) {
                const u32 element = first + warp * 8 + lane / 4; // ELEMENTS is a multiple of 40
                const u32 output = element / (SETS * UNITS);
                const u32 own = element % (SETS * UNITS);
                float sum = 0.0f;
#pragma unroll
                for (u32 index = 0; index < 8; ++index) {
                    const u32 sample = index * 4 + quarter;
                    sum += shared.logit_delta[step % 2][sample][output] *
                           shared.hidden[step % 2][sample][own];
                }
                sum += __shfl_xor_sync(ALL_LANES, sum, 1);
                sum += __shfl_xor_sync(ALL_LANES, sum, 2);
                if (quarter == 0) {
                    shared.weight2[output][own] -= rate * sum;
                }
            }
        } else if (warp == WEIGHT_WARPS) { // fc1.bias: eight lanes for each, 4 samples each
            for (u32 first = 0; first < SETS * UNITS; first += 4) {
                const u32 own = first + lane / 8;
                float sum = 0.0f;
#pragma unroll
                for (u32 index = 0; index < 4; ++index) {
                    sum += shared.delta[step % 2][own][index * 8 + lane % 8];
                }
                sum += __shfl_xor_sync(ALL_LANES, sum, 1);
                sum += __shfl_xor_sync(ALL_LANES, sum, 2);
                sum += __shfl_xor_sync(ALL_LANES, sum, 4);
                if (lane % 8 == 0) {
                    shared.bias1[(step + 1) % 2][own] = shared.bias1[step % 2][own] + sum;
                }
            }
        } else { // fc2.bias: two lanes for each, 16 samples each
            const u32 output = lane / 2 < CLASSES ? lane / 2 : 0;
            float sum = 0.0f;
#pragma unroll
            for (u32 index = 0; index < 16; ++index) {
                sum += shared.logit_delta[step % 2][index * 2 + lane % 2][output];
            }
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            if (lane < 2 * CLASSES && lane % 2 == 0) {
                shared.bias2[output] -= rate * sum;
            }
        }
    }
};

// What a sum of gradients of `step` is multiplied with.
__device__ __forceinline__ float rate_of(const MlpFused &run, u32 step) {
    return run.learning_rate /
           static_cast<float>(batch_of(step, run.batch, run.samples).count);
}

template <u32 SETS>
__device__ __forceinline__ void compute(const MlpFused &run, Shared<SETS> &shared) {
    const u32 thread = threadIdx.x - EXCHANGE_THREADS;
    ComputeWarp<SETS> own{run, shared, thread / WARP, thread % WARP, 0, 0, {}};
    own.load_weights();
    own.next_image = own.image_of_row(0);
    own.later_image = own.image_of_row(1);
    own.copy_pixels(0);
    own.copy_pixels(1);
    copy_async_wait<1>();
    __syncwarp();
    own.multiply(0);
    barrier_sync(STEP_DONE, THREADS);
    for (u32 step = 0; step < run.steps; ++step) {
        own.copy_gram(step);
        if (step > 0) {
            own.update_output(step - 1, rate_of(run, step - 1));
            barrier_arrive(OUTPUT_UPDATED, THREADS);
        }
        copy_async_wait<1>(); // all but gram: this warp's pixels of step + 1
        __syncwarp();
        if (step > 0) {
            own.update_weights(step - 1);
        }
        if (step + 1 < run.steps) {
            own.multiply(step + 1);
            __syncwarp(); // the pixels of step - 1 were read by all lanes
            own.copy_pixels(step + 2);
        } else {
            copy_async_commit();
        }
        copy_async_wait<1>(); // gram
        barrier_sync(STEP_DONE, THREADS);
    }
    own.update_output(run.steps - 1, rate_of(run, run.steps - 1));
    own.update_weights(run.steps - 1);
    copy_async_wait<0>();
    own.store_weights();
    __syncthreads();
}

// An exchange warp: four samples of the step.
template <u32 SETS>
__device__ __forceinline__ void exchange(const MlpFused &run, Shared<SETS> &shared) {
    const u32 thread = threadIdx.x;
    const u32 lane = thread % WARP;
    const u32 row0 = thread / WARP * ROWS_PER_WARP;
    const u32 blocks = gridDim.x;
    const u32 block = blockIdx.x;
    // Two lanes for each of four samples and four units; four words for each of four samples.
    const u32 sample = row0 + lane / 8;
    const u32 half = lane % 2;
    const u32 word_sample = row0 + lane / WORDS % ROWS_PER_WARP;
    const u32 word = lane % WORDS;

    barrier_sync(STEP_DONE, THREADS);
    for (u32 step = 0; step < run.steps; ++step) {
        const u32 now = step % 2, before = (step + 1) % 2;
        const u32 tag = run.first_tag + step;
        const Batch batch = batch_of(step, run.batch, run.samples);
        const float rate = run.learning_rate / static_cast<float>(batch.count);
        u32 label = 0; // of the first sample that this block owns
        if (thread < WARP && block < batch.count) {
            label = run.labels[run.order[batch.first + block]];
        }

        // Hidden values, from the product that is one update behind.
#pragma unroll
        for (u32 set = 0; set < SETS; ++set) {
            const u32 unit = set * UNITS + lane / 2 % UNITS;
            float correction = 0.0f;
            if (step > 0) {
                const float4 *delta =
                    reinterpret_cast<const float4 *>(shared.delta[before][unit] + half * 16);
                const float4 *gram = reinterpret_cast<const float4 *>(
                    shared.gram[before] + sample * GRAM_STRIDE + half * 16);
#pragma unroll
                for (u32 index = 0; index < 4; ++index) {
                    const float4 d = delta[index], g = gram[index];
                    correction += d.x * g.x + d.y * g.y + d.z * g.z + d.w * g.w;
                }
            }
            float product = 0.0f;
#pragma unroll
            for (u32 index = 0; index < 4; ++index) {
                const u32 from = half * 4 + index;
                product += from < COMPUTE_WARPS ? shared.product[now][from][unit][sample] : 0.0f;
            }
            float value = product * PIXEL_UNIT + correction;
            value += __shfl_xor_sync(ALL_LANES, value, 1);
            value += shared.bias1[step > 0 ? before : 0][unit];
            if (half == 0) {
                shared.hidden[now][sample][unit] = relu(value);
            }
        }
        __syncwarp();
        if (step > 0) {
            barrier_sync(OUTPUT_UPDATED, THREADS);
        }

        // This block's share of the logits.
        if (lane < ROWS_PER_WARP * WORDS) {
            float share[WORD_VALUES] = {};
#pragma unroll
            for (u32 index = 0; index < WORD_VALUES; ++index) {
                const u32 output = word * WORD_VALUES + index;
                if (output < CLASSES) {
#pragma unroll
                    for (u32 unit = 0; unit < SETS * UNITS; ++unit) {
                        share[index] +=
                            shared.hidden[now][word_sample][unit] * shared.weight2[output][unit];
                    }
                }
            }
            send(share_words(run.exchange, step, word_sample, block, blocks) + word, share[0],
                 share[1], share[2], tag);
        }

        for (u32 owned = block; owned < BATCH_ROWS; owned += blocks) {
            if (owned != block) {
                barrier_sync(SHARES_SUMMED, EXCHANGE_THREADS); // `sums` was read
                if (thread < WARP && owned < batch.count) {
                    label = run.labels[run.order[batch.first + owned]];
                }
            }
            const bool exists = owned < batch.count;
            reduce_and_reply(run.exchange, step, tag, owned, blocks, OwnedSample{label, exists},
                             shared.bias2, run.sample_loss + batch.first + owned, shared.sums,
                             thread, EXCHANGE_WARPS, SHARES_SUMMED);
        }

        if (lane < ROWS_PER_WARP * WORDS) {
            const float3 deltas =
                receive(delta_words(run.exchange, step, word_sample) + word, tag);
            float *to = &shared.logit_delta[now][word_sample][word * WORD_VALUES];
            to[0] = deltas.x;
            to[1] = deltas.y;
            to[2] = deltas.z;
        }
        __syncwarp();
#pragma unroll
        for (u32 set = 0; set < SETS; ++set) {
            const u32 unit = set * UNITS + lane / 2 % UNITS;
            float delta = 0.0f;
#pragma unroll
            for (u32 index = 0; index < CLASSES / 2; ++index) {
                const u32 output = half * (CLASSES / 2) + index;
                delta += shared.logit_delta[now][sample][output] * shared.weight2[output][unit];
            }
            delta += __shfl_xor_sync(ALL_LANES, delta, 1);
            if (half == 0) {
                const bool active = shared.hidden[now][sample][unit] > 0.0f;
                shared.delta[now][unit][sample] = active ? -rate * delta : 0.0f;
            }
        }
        barrier_sync(STEP_DONE, THREADS);
    }
    __syncthreads(); // the last update
}

template <u32 SETS> __device__ __forceinline__ void mlp_epoch(const MlpFused &run) {
    constexpr u32 OWN = SETS * UNITS;
    Shared<SETS> &shared = *reinterpret_cast<Shared<SETS> *>(shared_arena());
    float *bias1 = run.parameters + static_cast<u64>(run.hidden_units) * PIXELS;
    float *weight2 = bias1 + run.hidden_units;
    float *bias2 = weight2 + CLASSES * run.hidden_units;
    const u32 unit0 = blockIdx.x * OWN;
    const u32 thread = threadIdx.x;

    if (thread < CLASSES * OWN) {
        const u32 unit = unit0 + thread % OWN;
        shared.weight2[thread / OWN][thread % OWN] =
            unit < run.hidden_units ? weight2[thread / OWN * run.hidden_units + unit] : 0.0f;
    }
    if (thread < OWN) {
        const u32 unit = unit0 + thread;
        shared.bias1[0][thread] = unit < run.hidden_units ? bias1[unit] : 0.0f;
    }
    if (thread < CLASSES) {
        shared.bias2[thread] = bias2[thread];
    }
    __syncthreads();

    if (thread < EXCHANGE_THREADS) {
        exchange<SETS>(run, shared);
    } else {
        compute<SETS>(run, shared);
    }

    if (thread < CLASSES * OWN && unit0 + thread % OWN < run.hidden_units) {
        weight2[thread / OWN * run.hidden_units + unit0 + thread % OWN] =
            shared.weight2[thread / OWN][thread % OWN];
    }
    if (thread < OWN && unit0 + thread < run.hidden_units) {
        bias1[unit0 + thread] = shared.bias1[run.steps % 2][thread];
    }
    if (blockIdx.x == 0 && thread < CLASSES) {
        bias2[thread] = shared.bias2[thread];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_4(const MlpFused run) {
    mlp_epoch<1>(run);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_8(const MlpFused run) {
    mlp_epoch<2>(run);
}

struct MlpGram {
    const u8 *images; // (?, 784)
    const u32 *order; // (samples)
    float *gram;      // (steps - 1, 32, 32)
    u32 samples;
    u32 batch;        // at most 32
};

// gram[t][next][row] = 1 + the inner product of two images, pixels in [0, 1]: row `next` of step
// t + 1 with row `row` of step t. The 1 is the bias's input. Rows past the end have 1.
// Grid steps - 1, block 256. Shared: pixels of both steps, (2, 32, 784).
extern "C" __global__ void __launch_bounds__(256) mlp_gram(const MlpGram run) {
    u8 *pixels = shared_arena();
    const u32 chunks = PIXELS / 16;
    for (u32 index = threadIdx.x; index < 2 * BATCH_ROWS * chunks; index += blockDim.x) {
        const u32 row = index / chunks % BATCH_ROWS;
        const u32 step = blockIdx.x + index / (chunks * BATCH_ROWS);
        const Batch batch = batch_of(step, run.batch, run.samples);
        const bool exists = row < batch.count;
        const u64 image = exists ? run.order[batch.first + row] : 0;
        copy_async(pixels + index * 16, run.images + image * PIXELS + index % chunks * 16,
                   exists ? 16 : 0);
    }
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    const u32 next = threadIdx.x / 8;
    const u32 column = threadIdx.x % 8;
    const u8 *next_row = pixels + (BATCH_ROWS + next) * PIXELS;
    u32 sums[4] = {};
    for (u32 chunk = 0; chunk < chunks; ++chunk) {
        const uint4 a = *reinterpret_cast<const uint4 *>(next_row + chunk * 16);
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            const u32 row = column + index * 8;
            const uint4 b = *reinterpret_cast<const uint4 *>(pixels + row * PIXELS + chunk * 16);
            sums[index] = dot_bytes(a.x, b.x, sums[index]);
            sums[index] = dot_bytes(a.y, b.y, sums[index]);
            sums[index] = dot_bytes(a.z, b.z, sums[index]);
            sums[index] = dot_bytes(a.w, b.w, sums[index]);
        }
    }
    float *out = run.gram + (static_cast<u64>(blockIdx.x) * BATCH_ROWS + next) * BATCH_ROWS;
#pragma unroll
    for (u32 index = 0; index < 4; ++index) {
        out[column + index * 8] =
            1.0f + static_cast<float>(sums[index]) * (PIXEL_SCALE * PIXEL_SCALE);
    }
}
