// The MLP trained whole epochs in one launch. All blocks are resident, and weights never leave the
// chip: a block has the weights of 16 hidden units for a part of the image, and *owns* a part of the
// 16 units for everything after the first layer. Its siblings have the same units and the other
// parts of the image: with four, a block has 16 units x 196 pixels and owns 4 units. Everything that
// blocks tell each other goes through tagged words (exchange.cuh).
//
// A step at batch 32 is bound by the latency of the exchange of logits, so nothing else may wait
// for it:
//
// - Fourteen *compute* warps hold fc1.weight in registers. While the exchange warps are busy with step
//   t, they apply step t - 1's update and then multiply the updated weights with the images of step
//   t + 1, which is one update too early.
// - Four *exchange* warps correct that product when the deltas of step t are known. The weights of
//   step t + 1 are W - rate d_t^T x_t, so its preactivations are W x_{t+1} - rate d_t^T G with G the
//   inner products of the images of step t with those of step t + 1: 32 multiplications for each
//   preactivation instead of 784. G does not depend on weights: `mlp_gram` computes it for all
//   steps beforehand, in exact integers. This is the same step of SGD, added up in another order.
//
// The products run on the tensor cores in float32: a pixel is an integer below 256 and so exact in
// bf16; a weight or delta is cut into three bf16 (8 + 8 + 8 bits) whose sum is exact; products of
// bf16 are exact and their sums are float32.
//
// A pixel's byte bb needs no conversion: 0x00bb read as bf16 is bb 2^-133 (a subnormal, or the first
// normal binade, which continues the same line). Weights are kept times 2^100 and deltas are taken
// times 2^110 to meet it; both leave float32's range only when training has long diverged.
//
// Fragments. Of 16 units and a group of 16 pixels, lane (g = lane / 4, t = lane % 4) holds units g
// and g + 8 and pixels 4t to 4t + 3, which are one word of an image. The even ones of these are the
// first eight columns of a fragment, the odd ones the last eight; so they arrive, from the update's
// even and odd products.
#include "exchange.cuh"

constexpr u32 UNITS = 16; // of a fragment
constexpr u32 COMPUTE_WARPS = 14;
constexpr u32 EXCHANGE_WARPS = 4;
constexpr u32 COMPUTE_THREADS = COMPUTE_WARPS * WARP;
constexpr u32 EXCHANGE_THREADS = EXCHANGE_WARPS * WARP;
constexpr u32 THREADS = COMPUTE_THREADS + EXCHANGE_THREADS;
constexpr u32 GROUP = 16;                                  // pixels: 16 bytes, one copy
constexpr u32 ROW_GROUPS = PIXELS / GROUP;                 // 49 of an image
constexpr u32 PARTS = 3;                                   // bf16 of a float32
constexpr u32 PAIRS = BATCH_ROWS / 2;                      // of neighbouring samples
constexpr u32 PAIR_THREADS = UNITS * PAIRS;                // one for each unit and pair: 256
constexpr u32 UNIT_SET = 4;                                // own units of an exchange warp at a time
constexpr u32 SAMPLE_STRIDE = BATCH_ROWS + 4;              // padded against bank conflicts
constexpr u32 PARTIAL_STRIDE = BATCH_ROWS + 8;             // likewise

// Named barriers. 0 is __syncthreads'.
constexpr u32 STEP_DONE = 1;      // all: deltas and the next product are there
constexpr u32 OUTPUT_UPDATED = 2; // compute warps arrive: fc2 and the biases are those of this step
constexpr u32 COMPUTE_MEETS = 3;  // compute warps
constexpr u32 SHARES_SUMMED = 4;  // exchange warps

constexpr float WEIGHT_SCALE = 0x1p100f;
constexpr float DELTA_SCALE = 0x1p110f / 255.0f;  // pixels are bytes / 255
constexpr float UPDATE_UNIT = 0x1p123f;           // 100 - (110 - 133)
constexpr float PRODUCT_UNIT = 0x1p33f / 255.0f;  // 133 - 100

struct MlpFused {
    const u8 *images;   // (?, 784)
    const u8 *labels;   // (?)
    const u32 *order;   // (samples)
    float *parameters;  // canonical, see mlp.cu
    const float *gram;  // (steps - 1, 32 rows of the next step, 32 rows of this), of mlp_gram
    Exchange exchange;
    Word *sibling_deltas;   // (2, blocks, own units, 16 pairs)
    Word *sibling_products; // (2, blocks, siblings, own units, 16 pairs)
    float *sample_loss; // (samples)
    u32 samples;
    u32 batch;          // at most 32
    u32 hidden_units;
    u32 steps;
    u32 first_tag;      // of the first step; grows by one each step, never 0
    float learning_rate;
};

template <u32 SIBLINGS> struct Split {
    static constexpr u32 OWN = UNITS / SIBLINGS;                     // own units
    static constexpr u32 SETS = OWN / UNIT_SET;
    static constexpr u32 MOST_GROUPS = (ROW_GROUPS + SIBLINGS - 1) / SIBLINGS; // odd: no conflicts
    static constexpr u32 ROW_BYTES = MOST_GROUPS * GROUP;
    static constexpr u32 WARP_GROUPS = (MOST_GROUPS + COMPUTE_WARPS - 1) / COMPUTE_WARPS;
    static constexpr u32 REMAINDER = ROW_GROUPS % SIBLINGS;

    __device__ __forceinline__ static u32 groups(u32 sibling) {
        return ROW_GROUPS / SIBLINGS + (sibling + 1 <= REMAINDER ? 1 : 0);
    }
    __device__ __forceinline__ static u32 first_group(u32 sibling) {
        return ROW_GROUPS / SIBLINGS * sibling + min(sibling, REMAINDER);
    }
};

template <u32 SIBLINGS> struct __align__(16) Shared {
    static constexpr u32 OWN = Split<SIBLINGS>::OWN;
    static constexpr u32 HIDDEN_STRIDE = OWN + 5; // odd against bank conflicts
    u8 pixels[3][BATCH_ROWS * Split<SIBLINGS>::ROW_BYTES]; // steps t - 1, t, t + 1 in turn
    uint4 fragments[2][PARTS][2][WARP];                    // deltas of 16 units: (part, half batch)
    float partial[COMPUTE_WARPS][UNITS][PARTIAL_STRIDE];   // each warp's share of the product
    float product[2][SIBLINGS][BATCH_ROWS + 2][OWN];       // each sibling's, own units; padded
    float gram[2][BATCH_ROWS][SAMPLE_STRIDE];              // (next row, row)
    float delta[2][OWN][SAMPLE_STRIDE];                    // -rate dLoss/dPreactivation
    float4 sums[EXCHANGE_WARPS * WORDS];                   // of the owned sample's logits
    float output[CLASS_STRIDE][OWN + 4];                   // fc2.weight, and fc2.bias behind it
    float logit_delta[2][BATCH_ROWS][CLASS_STRIDE];
    float hidden[2][BATCH_ROWS][HIDDEN_STRIDE];            // and a 1, the input of fc2.bias
    float bias1[2][OWN];
    u32 images[2][BATCH_ROWS];                             // of steps t + 2, t + 3 in turn; ~0: none
};

// A run as one block sees it.
template <u32 SIBLINGS> struct Part {
    const MlpFused &run;
    Shared<SIBLINGS> &shared;
    u32 block, sibling;
    u32 unit0;              // of the 16
    float rate, last_rate;  // what sums of gradients are multiplied with

    __device__ __forceinline__ float rate_of(u32 step) const {
        return step + 1 < run.steps ? rate : last_rate;
    }
    __device__ __forceinline__ Word *delta_word(u32 step, u32 of_sibling, u32 own, u32 pair) const {
        const u32 of_block = block - sibling + of_sibling;
        return run.sibling_deltas +
               ((step % 2 * gridDim.x + of_block) * Split<SIBLINGS>::OWN + own) * PAIRS + pair;
    }
    __device__ __forceinline__ Word *product_word(u32 step, u32 to, u32 from, u32 own,
                                                  u32 pair) const {
        const u32 to_block = block - sibling + to;
        return run.sibling_products +
               (((step % 2 * gridDim.x + to_block) * SIBLINGS + from) * Split<SIBLINGS>::OWN +
                own) * PAIRS +
               pair;
    }
};

// Which image a row of a step is; ~0 past the end of a short step or of the run.
__device__ __forceinline__ u32 image_at(const MlpFused &run, u32 step, u32 row) {
    const Batch batch = batch_of(step, run.batch, run.samples);
    return row < batch.count ? run.order[batch.first + row] : ~0u;
}

// The three bf16 of two float32, pairwise: the first number in the lower halves.
__device__ __forceinline__ uint3 cut(float first, float second) {
    const float numbers[2] = {first, second};
    u32 high[2], middle[2], low[2];
#pragma unroll
    for (u32 index = 0; index < 2; ++index) {
        high[index] = __float_as_uint(numbers[index]) & 0xffff0000u;
        const float rest = numbers[index] - __uint_as_float(high[index]);
        middle[index] = __float_as_uint(rest) & 0xffff0000u;
        low[index] = __float_as_uint(rest - __uint_as_float(middle[index]));
    }
    return uint3{__byte_perm(high[0], high[1], 0x7632), __byte_perm(middle[0], middle[1], 0x7632),
                 __byte_perm(low[0], low[1], 0x7632)};
}

// Of a word of four pixels, the even or the odd ones as bf16.
__device__ __forceinline__ u32 even_pixels(u32 bytes) { return bytes & 0x00ff00ffu; }
__device__ __forceinline__ u32 odd_pixels(u32 bytes) { return __byte_perm(bytes, 0, 0x4341); }

// Puts the cut deltas of a unit (of 16) and a pair of samples where `update_weights` wants them.
template <u32 SIBLINGS>
__device__ __forceinline__ void store_fragment(Shared<SIBLINGS> &shared, u32 step, u32 unit,
                                               u32 pair, uint3 parts) {
    const u32 half = pair / 8;
    const u32 lane = unit % 8 * 4 + pair % 4;
    const u32 element = unit / 8 + pair % 8 / 4 * 2; // of the lane's four words
    u32 *to = reinterpret_cast<u32 *>(&shared.fragments[step % 2][0][half][lane]) + element;
    constexpr u32 PART_STRIDE = 2 * WARP * 4;
    to[0] = parts.x;
    to[PART_STRIDE] = parts.y;
    to[2 * PART_STRIDE] = parts.z;
}

// One parameter of fc2 or of fc1.bias and the gradient's factors, which eight lanes multiply and add
// up, four samples each. Where they are is found out once: a step's time is short.
template <u32 SIBLINGS> struct OutputSum {
    static constexpr u32 OWN = Split<SIBLINGS>::OWN;
    static constexpr u32 OUTPUTS = CLASSES * (OWN + 1); // of fc2, the bias behind the weights
    static constexpr u32 NUMBERS = OUTPUTS + OWN;
    static constexpr u32 AT_A_TIME = COMPUTE_THREADS / 8;
    static constexpr u32 ROUNDS = (NUMBERS + AT_A_TIME - 1) / AT_A_TIME;
    const float *delta; // of the first of the lane's samples, even steps
    const float *input; // likewise
    float *parameter;   // even steps' (fc1.bias alternates)
    u32 delta_turn, delta_stride, parameter_turn;
    bool writes, scaled;

    __device__ __forceinline__ void find(Shared<SIBLINGS> &shared, u32 thread, u32 round) {
        const u32 wanted = round * AT_A_TIME + thread / 8;
        const u32 number = min(wanted, NUMBERS - 1);
        const u32 sample = thread % 8;
        scaled = number < OUTPUTS;
        writes = sample == 0 && wanted < NUMBERS;
        const u32 class_ = number / (OWN + 1), unit = number % (OWN + 1);
        const u32 own = number - OUTPUTS;
        input = &shared.hidden[0][sample][scaled ? unit : OWN];
        delta = scaled ? &shared.logit_delta[0][sample][class_] : &shared.delta[0][own][sample];
        delta_turn = scaled ? BATCH_ROWS * CLASS_STRIDE : OWN * SAMPLE_STRIDE;
        delta_stride = scaled ? 8 * CLASS_STRIDE : 8;
        parameter = scaled ? &shared.output[class_][unit] : &shared.bias1[0][own];
        parameter_turn = scaled ? 0 : OWN;
    }

    __device__ __forceinline__ void add(u32 step, float rate) const {
        const u32 turn = step % 2;
        const float *deltas = delta + turn * delta_turn;
        constexpr u32 STRIDE = Shared<SIBLINGS>::HIDDEN_STRIDE;
        const float *inputs = input + turn * (BATCH_ROWS * STRIDE);
        float sum = 0.0f;
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            sum += deltas[index * delta_stride] * inputs[index * 8 * STRIDE];
        }
        const float old = parameter[turn * parameter_turn];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        sum += __shfl_xor_sync(ALL_LANES, sum, 4);
        if (writes) {
            // Deltas of hidden units hold the rate and the sign already.
            parameter[(1 - turn) * parameter_turn] = old + (scaled ? -rate : 1.0f) * sum;
        }
    }
};

// A compute warp: groups of pixels `warp`, `warp + 8`, ... of the block's part, for 16 units.
template <u32 SIBLINGS> struct ComputeWarp {
    using Sizes = Split<SIBLINGS>;
    const Part<SIBLINGS> &part;
    const MlpFused &run;
    Shared<SIBLINGS> &shared;
    u32 thread, lane, warp; // of the compute threads
    u32 later;              // warp 0: image of row `lane` of the step after those in shared.images
    OutputSum<SIBLINGS> output_sums[OutputSum<SIBLINGS>::ROUNDS];
    // Times 2^100: (group, unit g or g + 8, pixels 4t, 4t + 2, 4t + 1, 4t + 3)
    float weights[Sizes::WARP_GROUPS][2][4];

    __device__ __forceinline__ u32 group_of(u32 index) const {
        return warp + index * COMPUTE_WARPS;
    }
    __device__ __forceinline__ bool has_group(u32 index) const {
        return (index + 1) * COMPUTE_WARPS <= ROW_GROUPS / SIBLINGS ||
               group_of(index) < Sizes::groups(part.sibling);
    }
    __device__ __forceinline__ u32 global_unit(u32 half) const {
        return part.unit0 + half * 8 + lane / 4;
    }
    __device__ __forceinline__ float4 *global_weights(u32 index, u32 half) const {
        const u32 group = Sizes::first_group(part.sibling) + group_of(index);
        return reinterpret_cast<float4 *>(run.parameters +
                                          static_cast<u64>(global_unit(half)) * PIXELS +
                                          group * GROUP + lane % 4 * 4);
    }

    __device__ __forceinline__ void load_weights() {
#pragma unroll
        for (u32 index = 0; index < Sizes::WARP_GROUPS; ++index) {
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const bool exists = has_group(index) && global_unit(half) < run.hidden_units;
                const float4 four = exists ? *global_weights(index, half) : float4{};
                weights[index][half][0] = four.x * WEIGHT_SCALE;
                weights[index][half][1] = four.z * WEIGHT_SCALE;
                weights[index][half][2] = four.y * WEIGHT_SCALE;
                weights[index][half][3] = four.w * WEIGHT_SCALE;
            }
        }
    }

    __device__ __forceinline__ void store_weights() const {
        constexpr float UNSCALE = 1.0f / WEIGHT_SCALE;
#pragma unroll
        for (u32 index = 0; index < Sizes::WARP_GROUPS; ++index) {
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                if (has_group(index) && global_unit(half) < run.hidden_units) {
                    const float(&four)[4] = weights[index][half];
                    *global_weights(index, half) = float4{four[0] * UNSCALE, four[2] * UNSCALE,
                                                          four[1] * UNSCALE, four[3] * UNSCALE};
                }
            }
        }
    }

    // Of warp 0: makes `step`'s images known, whose look-up began a step ago, and begins the next
    // step's. The pixels themselves will be copied a step from now: meanwhile one block for each
    // row and part brings them from memory to the L2 cache for all.
    __device__ __forceinline__ void publish_images(u32 step) {
        shared.images[step % 2][lane] = later;
        if (part.block / SIBLINGS % BATCH_ROWS == lane && later != ~0u) {
            const u8 *from = run.images + static_cast<u64>(later) * PIXELS +
                             Sizes::first_group(part.sibling) * GROUP;
            for (u32 line = 0; line < Sizes::ROW_BYTES; line += 128) {
                prefetch_to_l2(from + line);
            }
            prefetch_to_l2(from + Sizes::groups(part.sibling) * GROUP - 1);
        }
        later = image_at(run, step + 1, lane);
    }

    // Begins to copy the block's part of the images of `step`; all compute threads.
    __device__ __forceinline__ void copy_pixels(u32 step) const {
        constexpr u32 CHUNKS = BATCH_ROWS * Sizes::MOST_GROUPS;
        u8 *to = shared.pixels[step % 3];
#pragma unroll
        for (u32 first = 0; first < CHUNKS; first += COMPUTE_THREADS) {
            const u32 index = first + thread;
            const u32 row = index / Sizes::MOST_GROUPS;
            const u32 group = index % Sizes::MOST_GROUPS;
            if (index < CHUNKS && group < Sizes::groups(part.sibling)) {
                const u32 image = shared.images[step % 2][row];
                const bool exists = image != ~0u;
                const u8 *from = run.images + static_cast<u64>(exists ? image : 0) * PIXELS;
                copy_async(to + index * GROUP,
                           from + (Sizes::first_group(part.sibling) + group) * GROUP,
                           exists ? 16 : 0);
            }
        }
        copy_async_commit();
    }

    // Begins to copy the inner products between `step` and the next one.
    __device__ __forceinline__ void copy_gram(u32 step) const {
        constexpr u32 CHUNKS = BATCH_ROWS * BATCH_ROWS / 4;
        static_assert(CHUNKS <= COMPUTE_THREADS, "a copy for each thread");
        if (step + 1 < run.steps && thread < CHUNKS) {
            const float *from = run.gram + static_cast<u64>(step) * BATCH_ROWS * BATCH_ROWS;
            copy_async(&shared.gram[step % 2][thread / 8][thread % 8 * 4], from + thread * 4, 16);
        }
        copy_async_commit();
    }

    // The siblings' deltas of `step` join the block's own in the fragments.
    __device__ __forceinline__ void receive_deltas(u32 step) const {
        static_assert(PAIR_THREADS <= COMPUTE_THREADS, "a word for each thread");
        const u32 unit = thread / PAIRS, pair = thread % PAIRS;
        const u32 from = unit / Sizes::OWN;
        if (thread < PAIR_THREADS && from != part.sibling) {
            const Word *word = part.delta_word(step, from, unit % Sizes::OWN, pair);
            store_fragment(shared, step, unit, pair, receive_bits(word, run.first_tag + step));
        }
    }

    // fc1.weight += the deltas of `step` times its pixels.
    __device__ __forceinline__ void update_weights(u32 step) {
        u32 deltas[PARTS][2][4];
#pragma unroll
        for (u32 index = 0; index < PARTS; ++index) {
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const uint4 four = shared.fragments[step % 2][index][half][lane];
                deltas[index][half][0] = four.x;
                deltas[index][half][1] = four.y;
                deltas[index][half][2] = four.z;
                deltas[index][half][3] = four.w;
            }
        }
        const u8 *row = shared.pixels[step % 3] + lane * Sizes::ROW_BYTES;
#pragma unroll
        for (u32 index = 0; index < Sizes::WARP_GROUPS; ++index) {
            if (has_group(index)) {
                u32 bytes[4]; // samples 8m + 2t, 8m + 2t + 1; pixels 2g, 2g + 1
                load_matrices_transposed(bytes, row + group_of(index) * GROUP);
                float even[2][4] = {}, odd[2][4] = {}; // of each half of the samples
#pragma unroll
                for (u32 from = PARTS; from-- > 0;) { // small numbers first
#pragma unroll
                    for (u32 half = 0; half < 2; ++half) {
                        const u32(&delta)[4] = deltas[from][half];
                        multiply_add_bf16(even[half], delta, even_pixels(bytes[half * 2]),
                                          even_pixels(bytes[half * 2 + 1]));
                        multiply_add_bf16(odd[half], delta, odd_pixels(bytes[half * 2]),
                                          odd_pixels(bytes[half * 2 + 1]));
                    }
                }
#pragma unroll
                for (u32 half = 0; half < 2; ++half) {
                    float(&weight)[4] = weights[index][half];
                    const u32 at = half * 2;
                    weight[0] += (even[0][at] + even[1][at]) * UPDATE_UNIT;
                    weight[1] += (even[0][at + 1] + even[1][at + 1]) * UPDATE_UNIT;
                    weight[2] += (odd[0][at] + odd[1][at]) * UPDATE_UNIT;
                    weight[3] += (odd[0][at + 1] + odd[1][at + 1]) * UPDATE_UNIT;
                }
            }
        }
    }

    // This warp's share of fc1.weight times the pixels of `step`.
    __device__ __forceinline__ void multiply(u32 step) const {
        float sums[BATCH_ROWS / 8][4] = {};
        const u8 *pixels = shared.pixels[step % 3] + lane / 4 * Sizes::ROW_BYTES + lane % 4 * 4;
#pragma unroll
        for (u32 index = 0; index < Sizes::WARP_GROUPS; ++index) {
            if (has_group(index)) {
                const float(&four)[2][4] = weights[index];
                uint3 cuts[4]; // a fragment's words
#pragma unroll
                for (u32 half = 0; half < 2; ++half) {
                    cuts[half] = cut(four[half][0], four[half][1]);
                    cuts[half + 2] = cut(four[half][2], four[half][3]);
                }
                const u32 low[4] = {cuts[0].z, cuts[1].z, cuts[2].z, cuts[3].z};
                const u32 middle[4] = {cuts[0].y, cuts[1].y, cuts[2].y, cuts[3].y};
                const u32 high[4] = {cuts[0].x, cuts[1].x, cuts[2].x, cuts[3].x};
                u32 bytes[4]; // sample 8m + g; pixels 4t to 4t + 3
#pragma unroll
                for (u32 m = 0; m < 4; ++m) {
                    bytes[m] = *reinterpret_cast<const u32 *>(
                        pixels + m * 8 * Sizes::ROW_BYTES + group_of(index) * GROUP);
                }
#pragma unroll
                for (u32 m = 0; m < 4; ++m) {
                    multiply_add_bf16(sums[m], low, even_pixels(bytes[m]), odd_pixels(bytes[m]));
                }
#pragma unroll
                for (u32 m = 0; m < 4; ++m) {
                    multiply_add_bf16(sums[m], middle, even_pixels(bytes[m]),
                                      odd_pixels(bytes[m]));
                }
#pragma unroll
                for (u32 m = 0; m < 4; ++m) {
                    multiply_add_bf16(sums[m], high, even_pixels(bytes[m]), odd_pixels(bytes[m]));
                }
            }
        }
        if (warp >= Sizes::MOST_GROUPS) {
            return; // with four siblings the last warp has no pixels
        }
#pragma unroll
        for (u32 m = 0; m < 4; ++m) {
            const u32 sample = m * 8 + lane % 4 * 2;
            float *near = &shared.partial[warp][lane / 4][sample];
            float *far = &shared.partial[warp][lane / 4 + 8][sample];
            *reinterpret_cast<float2 *>(near) = float2{sums[m][0], sums[m][1]};
            *reinterpret_cast<float2 *>(far) = float2{sums[m][2], sums[m][3]};
        }
    }

    // Adds up the warps' shares of the product of `step` and gives each sibling those of its units.
    __device__ __forceinline__ void send_products(u32 step) const {
        if (thread >= PAIR_THREADS) {
            return;
        }
        const u32 unit = thread / PAIRS, pair = thread % PAIRS;
        float2 sum{0.0f, 0.0f};
#pragma unroll
        for (u32 from = 0; from < min(COMPUTE_WARPS, Sizes::MOST_GROUPS); ++from) {
            const float2 share =
                *reinterpret_cast<const float2 *>(&shared.partial[from][unit][pair * 2]);
            sum.x += share.x;
            sum.y += share.y;
        }
        const u32 to = unit / Sizes::OWN, own = unit % Sizes::OWN;
        if (to == part.sibling) {
            store_product(step, to, own, pair, sum);
        } else {
            send(part.product_word(step, to, part.sibling, own, pair), sum.x, sum.y, 0.0f,
                 run.first_tag + step);
        }
    }

    __device__ __forceinline__ void receive_products(u32 step) const {
        const u32 from = thread / (Sizes::OWN * PAIRS);
        const u32 own = thread / PAIRS % Sizes::OWN, pair = thread % PAIRS;
        if (thread < PAIR_THREADS && from != part.sibling) {
            const Word *word = part.product_word(step, part.sibling, from, own, pair);
            const float3 share = receive(word, run.first_tag + step);
            store_product(step, from, own, pair, float2{share.x, share.y});
        }
    }

    __device__ __forceinline__ void store_product(u32 step, u32 from, u32 own, u32 pair,
                                                  float2 share) const {
        shared.product[step % 2][from][pair * 2][own] = share.x;
        shared.product[step % 2][from][pair * 2 + 1][own] = share.y;
    }

    // fc2 and fc1.bias += the deltas of `step` times what they saw.
    __device__ __forceinline__ void update_output(u32 step) const {
#pragma unroll
        for (u32 round = 0; round < OutputSum<SIBLINGS>::ROUNDS; ++round) {
            output_sums[round].add(step, part.rate_of(step));
        }
    }
};

template <u32 SIBLINGS>
__device__ __forceinline__ void compute(const Part<SIBLINGS> &part, u32 thread) {
    const MlpFused &run = part.run;
    const u32 warp = thread / WARP;
    ComputeWarp<SIBLINGS> own{part, run, part.shared, thread, thread % WARP, warp, 0, {}, {}};
    own.load_weights();
#pragma unroll
    for (u32 round = 0; round < OutputSum<SIBLINGS>::ROUNDS; ++round) {
        own.output_sums[round].find(part.shared, thread, round);
    }
    if (warp == 0) {
        own.later = image_at(run, 0, own.lane);
        own.publish_images(0);
        own.publish_images(1);
    }
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // the images are known
    own.copy_pixels(0);
    own.copy_pixels(1);
    copy_async_wait<0>();
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // the pixels are there
    if (warp == 0) {
        own.publish_images(2);
    }
    own.multiply(0);
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS);
    own.send_products(0);
    own.receive_products(0);
    barrier_sync(STEP_DONE, THREADS);
    for (u32 step = 0; step < run.steps; ++step) {
        own.copy_gram(step);
        if (step > 0) {
            own.update_output(step - 1);
            barrier_arrive(OUTPUT_UPDATED, THREADS);
            own.receive_deltas(step - 1);
            barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // all fragments are there
            own.update_weights(step - 1);
        }
        if (step + 1 < run.steps) {
            own.multiply(step + 1);
            barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // all shares are there
            own.send_products(step + 1);
            own.copy_pixels(step + 2);
            if (warp == 0) {
                own.publish_images(step + 3);
            }
            own.receive_products(step + 1);
        }
        copy_async_wait<0>();
        barrier_sync(STEP_DONE, THREADS);
    }
    own.update_output(run.steps - 1);
    own.receive_deltas(run.steps - 1);
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS);
    own.update_weights(run.steps - 1);
    own.store_weights();
    __syncthreads();
}

// Adds up each of four values over four neighbouring lanes; lane l gets the sum of value l % 4.
__device__ __forceinline__ float sum_of_four_lanes(float4 values, u32 lane) {
    const bool upper = (lane & 2) != 0, odd = (lane & 1) != 0;
    const float first = (upper ? values.z : values.x) +
                        __shfl_xor_sync(ALL_LANES, upper ? values.x : values.z, 2);
    const float second = (upper ? values.w : values.y) +
                         __shfl_xor_sync(ALL_LANES, upper ? values.y : values.w, 2);
    return (odd ? second : first) + __shfl_xor_sync(ALL_LANES, odd ? first : second, 1);
}

__device__ __forceinline__ float4 add_product(float4 sums, float factor, float4 values) {
    return float4{sums.x + factor * values.x, sums.y + factor * values.y,
                  sums.z + factor * values.z, sums.w + factor * values.w};
}

__device__ __forceinline__ float dot(float4 a, float4 b) {
    return (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
}

// An exchange warp: eight samples of the step, four lanes for each. A lane of a sample has one word
// of its classes, and of each set of four own units it ends up with one.
template <u32 SIBLINGS> struct ExchangeWarp {
    using Sizes = Split<SIBLINGS>;
    const Part<SIBLINGS> &part;
    const MlpFused &run;
    Shared<SIBLINGS> &shared;
    u32 lane, sample, word;
    Word *shares;     // of even steps
    const Word *sums; // likewise
    u32 label, next_label, later_image; // of this step, the next, and the one after
    float hidden[Sizes::SETS];               // of unit `word` of each set
    float4 output[Sizes::SETS][WORD_VALUES]; // fc2.weight, of this word's classes
    float bias[WORD_VALUES];                 // fc2.bias, likewise

    __device__ __forceinline__ void begin(u32 thread) {
        lane = thread % WARP;
        sample = thread / WORDS;
        word = thread % WORDS;
        keep(lane);
        keep(sample);
        keep(word);
        shares = share_word(run.exchange, sample, word, part.block);
        sums = sum_word(run.exchange, part.block % COPIES, sample, word);
        next_label = label_of(image_at(run, 0, sample));
        later_image = image_at(run, 1, sample);
    }

    // Looks up what the samples of the next steps are, so early that nobody waits for it.
    __device__ __forceinline__ void look_ahead(u32 step) {
        label = next_label;
        next_label = label_of(later_image);
        later_image = image_at(run, step + 2, sample);
    }

    __device__ __forceinline__ u32 label_of(u32 image) const {
        return image != ~0u ? run.labels[image] : ~0u;
    }

    // Hidden values of `step`, from the product that is one update behind. Each lane of a sample
    // takes one sibling's product, and a quarter of the samples whose update is missing.
    __device__ __forceinline__ void hidden_values(u32 step) {
        const u32 now = step % 2, before = (step + 1) % 2;
        const float4 *gram =
            reinterpret_cast<const float4 *>(shared.gram[before][sample]) + word * 2;
#pragma unroll
        for (u32 set = 0; set < Sizes::SETS; ++set) {
            float4 sums{};
            if (word < SIBLINGS) {
                const float4 product =
                    reinterpret_cast<const float4 *>(shared.product[now][word][sample])[set];
                sums = add_product(sums, PRODUCT_UNIT, product);
            }
            if (step > 0) {
                float *of_unit[UNIT_SET] = {&sums.x, &sums.y, &sums.z, &sums.w};
#pragma unroll
                for (u32 index = 0; index < 2; ++index) {
                    const float4 g = gram[index];
#pragma unroll
                    for (u32 unit = 0; unit < UNIT_SET; ++unit) {
                        const float *delta = shared.delta[before][set * UNIT_SET + unit];
                        *of_unit[unit] +=
                            dot(reinterpret_cast<const float4 *>(delta)[word * 2 + index], g);
                    }
                }
            }
            const u32 own = set * UNIT_SET + word;
            const float bias1 = shared.bias1[step > 0 ? before : 0][own];
            hidden[set] = relu(sum_of_four_lanes(sums, lane) + bias1);
            shared.hidden[now][sample][own] = hidden[set];
        }
    }

    // The block's share of the logits of `step`.
    __device__ __forceinline__ void send_shares(u32 step, u32 tag) {
        float share[WORD_VALUES] = {};
#pragma unroll
        for (u32 set = 0; set < Sizes::SETS; ++set) {
            const u32 first = lane / WORDS * WORDS;
            const float4 of_sample{__shfl_sync(ALL_LANES, hidden[set], first),
                                   __shfl_sync(ALL_LANES, hidden[set], first + 1),
                                   __shfl_sync(ALL_LANES, hidden[set], first + 2),
                                   __shfl_sync(ALL_LANES, hidden[set], first + 3)};
#pragma unroll
            for (u32 index = 0; index < WORD_VALUES; ++index) {
                const float *row = shared.output[word * WORD_VALUES + index];
                output[set][index] = reinterpret_cast<const float4 *>(row)[set];
                share[index] += dot(of_sample, output[set][index]);
            }
        }
        const u32 turn = step % 2 * (BATCH_ROWS * WORDS) * gridDim.x;
        send(shares + turn, share[0], share[1], share[2], tag);
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            bias[index] = shared.output[word * WORD_VALUES + index][Sizes::OWN];
        }
    }

    // The sample's logits, and with them the deltas: of the logits and of the own units, for this
    // block and for its siblings.
    __device__ __forceinline__ void receive_logits(u32 step, u32 tag) const {
        const u32 now = step % 2;
        const Batch batch = batch_of(step, run.batch, run.samples);
        const float rate = part.rate_of(step);
        const bool exists = sample < batch.count;
        const float3 logits = receive(sums + now * SUMS_TURN, tag);
        QuadSoftmax softmax;
        softmax.of(float3{logits.x + bias[0], logits.y + bias[1], logits.z + bias[2]}, word, label);
        float *logit_delta = &shared.logit_delta[now][sample][word * WORD_VALUES];
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            softmax.delta[index] = exists ? softmax.delta[index] : 0.0f;
            logit_delta[index] = softmax.delta[index];
        }
#pragma unroll
        for (u32 set = 0; set < Sizes::SETS; ++set) {
            float4 sums{};
#pragma unroll
            for (u32 index = 0; index < WORD_VALUES; ++index) {
                sums = add_product(sums, softmax.delta[index], output[set][index]);
            }
            const float sum = sum_of_four_lanes(sums, lane);
            const float delta = hidden[set] > 0.0f ? -rate * sum : 0.0f;
            const float neighbour = __shfl_xor_sync(ALL_LANES, delta, WORDS); // next sample's
            const u32 own = set * UNIT_SET + word;
            shared.delta[now][own][sample] = delta;
            if (sample % 2 == 0) {
                const uint3 parts = cut(delta * DELTA_SCALE, neighbour * DELTA_SCALE);
                if (SIBLINGS > 1) {
                    send(part.delta_word(step, part.sibling, own, sample / 2), parts, tag);
                }
                store_fragment(shared, step, part.sibling * Sizes::OWN + own, sample / 2, parts);
            }
        }
        if (exists && sample % gridDim.x == part.block && label / WORD_VALUES == word) {
            run.sample_loss[batch.first + sample] = softmax.loss;
        }
    }
};

template <u32 SIBLINGS>
__device__ __forceinline__ void exchange(const Part<SIBLINGS> &part, u32 thread) {
    const MlpFused &run = part.run;
    ExchangeWarp<SIBLINGS> own{part, run, part.shared, 0, 0, 0, nullptr, nullptr, 0, 0, 0, {}, {}, {}};
    own.begin(thread);
    Owner<EXCHANGE_WARPS> owner;
    owner.begin(run.exchange, part.shared.sums, thread, SHARES_SUMMED);
    barrier_sync(STEP_DONE, THREADS);
    for (u32 step = 0; step < run.steps; ++step) {
        const u32 tag = run.first_tag + step;
        own.look_ahead(step);
        own.hidden_values(step);
        if (step > 0) {
            barrier_sync(OUTPUT_UPDATED, THREADS);
        }
        own.send_shares(step, tag);
        owner.reply_all(step, tag, part.block);
        own.receive_logits(step, tag);
        barrier_sync(STEP_DONE, THREADS);
    }
    __syncthreads(); // the last update
}

template <u32 SIBLINGS> __device__ __forceinline__ void mlp_epoch(const MlpFused &run) {
    constexpr u32 OWN = Split<SIBLINGS>::OWN;
    Shared<SIBLINGS> &shared = *reinterpret_cast<Shared<SIBLINGS> *>(shared_arena());
    float *bias1 = run.parameters + static_cast<u64>(run.hidden_units) * PIXELS;
    float *weight2 = bias1 + run.hidden_units;
    float *bias2 = weight2 + CLASSES * run.hidden_units;
    const u32 thread = thread_index();
    const u32 block = block_index();
    const u32 own0 = block * OWN;
    const u32 last = batch_of(run.steps - 1, run.batch, run.samples).count;
    const Part<SIBLINGS> part{run,
                              shared,
                              block,
                              block % SIBLINGS,
                              block / SIBLINGS * UNITS,
                              run.learning_rate / static_cast<float>(run.batch),
                              run.learning_rate / static_cast<float>(last)};

    for (u32 index = thread; index < CLASSES * OWN; index += THREADS) {
        const u32 unit = own0 + index % OWN;
        shared.output[index / OWN][index % OWN] =
            unit < run.hidden_units ? weight2[index / OWN * run.hidden_units + unit] : 0.0f;
    }
    if (thread < OWN) {
        shared.bias1[0][thread] = own0 + thread < run.hidden_units ? bias1[own0 + thread] : 0.0f;
    }
    if (thread < CLASSES) {
        shared.output[thread][OWN] = bias2[thread];
    }
    if (thread < 2 * OWN) { // classes 10 and 11, which are none
        shared.output[CLASSES + thread / OWN][thread % OWN] = 0.0f;
    }
    if (thread < CLASS_STRIDE - CLASSES) {
        shared.output[CLASSES + thread][OWN] = 0.0f;
    }
    if (thread < 2 * BATCH_ROWS) {
        shared.hidden[thread / BATCH_ROWS][thread % BATCH_ROWS][OWN] = 1.0f;
    }
    __syncthreads();

    if (thread < EXCHANGE_THREADS) {
        exchange<SIBLINGS>(part, thread);
    } else {
        compute<SIBLINGS>(part, thread - EXCHANGE_THREADS);
    }

    for (u32 index = thread; index < CLASSES * OWN; index += THREADS) {
        const u32 unit = own0 + index % OWN;
        if (unit < run.hidden_units) {
            weight2[index / OWN * run.hidden_units + unit] =
                shared.output[index / OWN][index % OWN];
        }
    }
    if (thread < OWN && own0 + thread < run.hidden_units) {
        bias1[own0 + thread] = shared.bias1[run.steps % 2][thread];
    }
    if (block == 0 && thread < CLASSES) {
        bias2[thread] = shared.output[thread][OWN];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_by_4(const MlpFused run) {
    mlp_epoch<4>(run);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_by_2(const MlpFused run) {
    mlp_epoch<2>(run);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_by_1(const MlpFused run) {
    mlp_epoch<1>(run);
}

struct MlpGram {
    const u8 *images; // (?, 784)
    const u32 *order; // (samples)
    float *gram;      // (steps - 1, 32, 32)
    u32 samples;
    u32 batch;        // at most 32
};

// gram[step][next][row] = 1 + the inner product of two images, pixels in [0, 1]: row `next` of the
// next step with row `row` of this. The 1 is the bias's input. Rows past the end are black.
// Grid steps - 1, block 256. Shared: pixels of both steps (2, 32, 784).
extern "C" __global__ void __launch_bounds__(256) mlp_gram(const MlpGram run) {
    u8 *pixels = shared_arena();
    const u32 step = blockIdx.x;
    for (u32 index = threadIdx.x; index < 2 * BATCH_ROWS * ROW_GROUPS; index += blockDim.x) {
        const u32 row = index / ROW_GROUPS % BATCH_ROWS;
        const Batch batch =
            batch_of(step + index / (ROW_GROUPS * BATCH_ROWS), run.batch, run.samples);
        const bool exists = row < batch.count;
        const u64 image = exists ? run.order[batch.first + row] : 0;
        copy_async(pixels + index * GROUP, run.images + image * PIXELS + index % ROW_GROUPS * GROUP,
                   exists ? 16 : 0);
    }
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    const uint4 *groups = reinterpret_cast<const uint4 *>(pixels); // (2, 32, 49)
    const u32 next = threadIdx.x / 8;
    const u32 column = threadIdx.x % 8;
    u32 sums[4] = {};
    for (u32 group = 0; group < ROW_GROUPS; ++group) {
        const uint4 a = groups[(BATCH_ROWS + next) * ROW_GROUPS + group];
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            const uint4 b = groups[(column + index * 8) * ROW_GROUPS + group];
            sums[index] = dot_bytes(a.x, b.x, sums[index]);
            sums[index] = dot_bytes(a.y, b.y, sums[index]);
            sums[index] = dot_bytes(a.z, b.z, sums[index]);
            sums[index] = dot_bytes(a.w, b.w, sums[index]);
        }
    }
    float *out = run.gram + (static_cast<u64>(step) * BATCH_ROWS + next) * BATCH_ROWS;
#pragma unroll
    for (u32 index = 0; index < 4; ++index) {
        out[column + index * 8] =
            1.0f + static_cast<float>(sums[index]) * (PIXEL_SCALE * PIXEL_SCALE);
    }
}
