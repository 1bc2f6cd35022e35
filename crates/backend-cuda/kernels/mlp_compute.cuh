// The fused MLP's compute warps: fc1's weights in registers, their products with the images and their
// updates, and the update of fc2.
#pragma once
#include "mlp_fused.cuh"

// One parameter of fc2 or of fc1.bias and the gradient's factors, which two lanes multiply and add up,
// half of the samples each. The exchange warps wait for it, so where everything is is found out before
// the step begins: as numbers of floats from the beginning of shared memory.
template <u32 SIBLINGS> struct OutputSum {
    static constexpr u32 OWN = Split<SIBLINGS>::OWN;
    static constexpr u32 OUTPUTS = CLASSES * (OWN + 1); // of fc2, the bias behind the weights
    static constexpr u32 HALF = BATCH_ROWS / 2;
    u32 delta, input, parameter;      // the lane's first, of even steps (fc1.bias alternates)
    u32 delta_turn, parameter_turn;   // from there to odd steps'
    u32 deltas, inputs, from, to;     // of one step
    float factor;                     // likewise
    bool writes, scaled;

    __device__ __forceinline__ void find(const Shared<SIBLINGS> &shared, u32 thread) {
        const float *begin = reinterpret_cast<const float *>(&shared);
        const u32 wanted = thread / 2;
        const u32 number = min(wanted, OutputUpdate<SIBLINGS>::NUMBERS - 1);
        const u32 sample = thread % 2 * HALF;
        scaled = number < OUTPUTS;
        writes = sample == 0 && wanted < OutputUpdate<SIBLINGS>::NUMBERS;
        const u32 class_ = number / (OWN + 1), unit = number % (OWN + 1);
        const u32 own = number - OUTPUTS;
        input = &shared.hidden[0][scaled ? unit : OWN][sample] - begin;
        delta = (scaled ? &shared.logit_delta[0][class_][sample] : &shared.delta[0][own][sample]) -
                begin;
        delta_turn = (scaled ? CLASS_STRIDE : OWN) * SAMPLE_STRIDE;
        parameter = (scaled ? &shared.output[class_][unit] : &shared.bias1[0][own]) - begin;
        parameter_turn = scaled ? 0 : OWN;
    }

    __device__ __forceinline__ void find_places(u32 step, float rate) {
        const u32 turn = step % 2;
        deltas = delta + turn * delta_turn;
        inputs = input + turn * ((OWN + 1) * SAMPLE_STRIDE);
        from = parameter + turn * parameter_turn;
        to = parameter + (1 - turn) * parameter_turn;
        factor = scaled ? -rate : 1.0f; // deltas of hidden units hold the rate and the sign already
        keep(deltas);
        keep(inputs);
        keep(from);
        keep(to);
    }

    __device__ __forceinline__ void add(Shared<SIBLINGS> &shared) const {
        float *begin = reinterpret_cast<float *>(&shared);
        float4 sums{};
#pragma unroll
        for (u32 index = 0; index < HALF / 4; ++index) {
            const float4 a = reinterpret_cast<const float4 *>(begin + deltas)[index];
            const float4 b = reinterpret_cast<const float4 *>(begin + inputs)[index];
            sums.x += a.x * b.x;
            sums.y += a.y * b.y;
            sums.z += a.z * b.z;
            sums.w += a.w * b.w;
        }
        const float old = begin[from];
        float sum = (sums.x + sums.y) + (sums.z + sums.w);
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        if (writes) {
            begin[to] = old + factor * sum;
        }
    }
};

// The warp that looks up which images come: the last, which has no words to wait for.
constexpr u32 LOOK_UP_WARP = COMPUTE_WARPS - 1;

// A compute warp: groups of pixels `warp`, `warp + 8`, ... of the block's part, for 16 units.
template <u32 SIBLINGS> struct ComputeWarp {
    using Sizes = Split<SIBLINGS>;
    const Part<SIBLINGS> &part;
    const MlpFused &run;
    Shared<SIBLINGS> &shared;
    u32 thread, lane, warp; // of the compute threads
    u32 later;              // of one warp: image of row `lane` of the step after those in shared.images
    OutputSum<SIBLINGS> output_sum; // of the warps that have some
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

    // Of one warp: makes `step`'s images known, whose look-up began a step ago, and begins the next
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

    // Begins to copy the inner products between `step` and the next one, where a step begins: all blocks
    // ask for the same lines at once, and what they have to tell each other waits for that. Anywhere else
    // in a step was slower.
    __device__ __forceinline__ void copy_gram(u32 step) const {
        constexpr u32 CHUNKS = BATCH_ROWS * BATCH_ROWS / 4;
        static_assert(CHUNKS <= COMPUTE_THREADS, "a thread for each copy");
        constexpr u32 FIRST = COMPUTE_WARPS - CHUNKS / WARP; // those before it have fc2 to update
        if (step + 1 < run.steps && warp >= FIRST) {
            const u32 chunk = thread - FIRST * WARP;
            const float *from = run.gram + static_cast<u64>(step) * BATCH_ROWS * BATCH_ROWS;
            copy_async(&shared.gram[step % 2][chunk / 8][chunk % 8 * 4], from + chunk * 4, 16);
        }
        copy_async_commit();
    }

    // The siblings' deltas of `step` join the block's own in the fragments.
    __device__ __forceinline__ void receive_deltas(u32 step) const {
        static_assert(PAIR_WARPS <= COMPUTE_WARPS, "a word for each thread");
        const u32 unit = thread / PAIRS, pair = thread % PAIRS;
        const u32 from = warp / Sizes::OWN_WARPS;
        if (warp < PAIR_WARPS && from != part.sibling) {
            const Word *word = part.delta_word(step, from, unit % Sizes::OWN, pair);
            const u32 place = fragment_place(step, unit, pair);
            store_fragment(shared, place, receive_bits(word, run.first_tag + step));
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
        if (warp >= PAIR_WARPS) {
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
        const u32 to = warp / Sizes::OWN_WARPS, own = unit % Sizes::OWN;
        if (to == part.sibling) {
            store_product(step, to, own, pair, sum);
        } else {
            send(part.product_word(step, to, part.sibling, own, pair), sum.x, sum.y, 0.0f,
                 run.first_tag + step);
        }
    }

    __device__ __forceinline__ void receive_products(u32 step) const {
        const u32 from = warp / Sizes::OWN_WARPS;
        const u32 own = thread / PAIRS % Sizes::OWN, pair = thread % PAIRS;
        if (warp < PAIR_WARPS && from != part.sibling) {
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

};

template <u32 SIBLINGS>
__device__ __forceinline__ void compute(const Part<SIBLINGS> &part, u32 thread) {
    const MlpFused &run = part.run;
    const u32 warp = uniform(thread / WARP);
    ComputeWarp<SIBLINGS> own{part, run, part.shared, thread, thread % WARP, warp};
    own.load_weights();
    own.output_sum.find(part.shared, thread);
    if (warp == LOOK_UP_WARP) {
        own.later = image_at(run, 0, own.lane);
        own.publish_images(0);
        own.publish_images(1);
    }
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // the images are known
    own.copy_pixels(0);
    own.copy_pixels(1);
    copy_async_wait<0>();
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // the pixels are there
    if (warp == LOOK_UP_WARP) {
        own.publish_images(2);
    }
    own.multiply(0);
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS);
    own.send_products(0);
    own.receive_products(0);
    barrier_sync(STEP_DONE, THREADS);
    for (u32 step = 0; step < run.steps; ++step) {
        own.copy_gram(step);
        if (step > 0 && warp < OutputUpdate<SIBLINGS>::WARPS) {
            own.output_sum.add(part.shared); // of the step before
            barrier_arrive(OUTPUT_UPDATED, OutputUpdate<SIBLINGS>::MEETING);
        }
        if (step > 0) {
            own.receive_deltas(step - 1);
            barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // all fragments are there
            own.update_weights(step - 1);
        }
        if (step + 1 < run.steps) {
            own.multiply(step + 1);
            barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS); // all shares are there
            own.send_products(step + 1);
            own.copy_pixels(step + 2);
            if (warp == LOOK_UP_WARP) {
                own.publish_images(step + 3);
            }
            own.receive_products(step + 1);
        }
        own.output_sum.find_places(step, part.rate_of(step));
        copy_async_wait<0>();
        barrier_sync(STEP_DONE, THREADS);
    }
    if (warp < OutputUpdate<SIBLINGS>::WARPS) {
        own.output_sum.add(part.shared);
    }
    own.receive_deltas(run.steps - 1);
    barrier_sync(COMPUTE_MEETS, COMPUTE_THREADS);
    own.update_weights(run.steps - 1);
    own.store_weights();
}
