// The attention model, with d_model 32 and ff 64, trained whole epochs in one launch. 32 resident
// blocks have a sample of the step each. They leave their gradients in global memory and raise a
// flag; each then adds up its slice of the parameters over all samples, in their order, and sends
// the new values to all others as tagged words (exchange.cuh).
#include "attention.cuh"
#include "exchange.cuh"

constexpr u32 BLOCKS = BATCH_ROWS;
using Sizes = FixedSizes<32, 64>;
constexpr u32 PARAMETERS = Sizes::at.parameters;
constexpr u32 SLICE_WORDS = (PARAMETERS + BLOCKS * WORD_VALUES - 1) / (BLOCKS * WORD_VALUES);
constexpr u32 SLICE = SLICE_WORDS * WORD_VALUES; // parameters of a block
constexpr u32 ALL_WORDS = SLICE_WORDS * BLOCKS;
constexpr u32 HALVES = 2;                        // threads that share a parameter's samples
static_assert(SLICE * HALVES <= ATTENTION_THREADS, "a thread for each half of a parameter");

struct AttentionFused {
    const u8 *images;   // (?, 784)
    const u8 *labels;   // (?)
    const u32 *order;   // (samples)
    float *parameters;  // canonical
    float *gradients;   // (32, parameters)
    u32 *flags;         // (32 blocks, 32 words apart): the step whose gradient is there
    Word *words;        // (2, all parameters in words of three)
    float *sample_loss; // (samples)
    u32 samples;
    u32 batch;          // at most 32
    u32 steps;
    u32 first_tag;      // of the first step; grows by one each step, never 0
    float learning_rate;
};

constexpr u32 FLAG_STRIDE = 32; // a line of the L2 cache each

struct Shared {
    float arena[Sizes::at.size];
    float halves[SLICE];
    float slice[SLICE];             // this block's parameters
};

// Where a canonical parameter is in the arena. Ranges in the order of the canonical layout.
__device__ __forceinline__ u32 place_of(u32 index) {
    constexpr Layout at = Sizes::at;
    const u32 d = at.d_model, f = at.ff;
    if (index < at.c_patch_bias) {
        return at.patch_weight + index / PATCH * at.patch_stride + index % PATCH;
    }
    if (index < at.c_position) {
        return at.patch_bias + index - at.c_patch_bias;
    }
    if (index < at.c_weight[0]) {
        const u32 own = index - at.c_position;
        return at.position + own / d * at.d_stride + own % d;
    }
    if (index < at.c_ff1_weight) { // query, key, value: the same distances in both layouts
        const u32 which = (index - at.c_weight[0]) / (at.c_weight[1] - at.c_weight[0]);
        const u32 own = (index - at.c_weight[0]) % (at.c_weight[1] - at.c_weight[0]);
        const u32 matrix = at.weight[0] + which * (at.weight[1] - at.weight[0]);
        return own < d * d ? matrix + own / d * at.d_stride + own % d
                           : matrix + (at.bias[0] - at.weight[0]) + own - d * d;
    }
    if (index < at.c_ff1_bias) {
        const u32 own = index - at.c_ff1_weight;
        return at.ff1_weight + own / d * at.d_stride + own % d;
    }
    if (index < at.c_ff2_weight) {
        return at.ff1_bias + index - at.c_ff1_bias;
    }
    if (index < at.c_ff2_bias) {
        const u32 own = index - at.c_ff2_weight;
        return at.ff2_weight + own / f * at.ff_stride + own % f;
    }
    if (index < at.c_out_weight) {
        return at.ff2_bias + index - at.c_ff2_bias;
    }
    if (index < at.c_out_bias) {
        const u32 own = index - at.c_out_weight;
        return at.out_weight + own / d * at.d_stride + own % d;
    }
    return at.out_bias + index - at.c_out_bias;
}

struct AttentionBlock {
    const AttentionFused &run;
    Shared &shared;
    u32 thread, lane, warp, block;

    // All threads' gradients are in global memory: says so, and waits until all blocks say so.
    __device__ __forceinline__ void meet(u32 tag) const {
        __syncthreads();
        if (warp == 0) {
            if (lane == 0) {
                store_release(run.flags + block * FLAG_STRIDE, tag);
            }
            static_assert(BLOCKS == WARP, "a lane for each block");
            while (!all_lanes(load_acquire(run.flags + lane * FLAG_STRIDE) == tag)) {
            }
        }
        __syncthreads();
    }

    // Adds up this block's slice of the gradient, updates the slice and sends it.
    __device__ __forceinline__ void update_slice(u32 step, u32 tag, u32 count, float rate) const {
        const u32 own = thread % SLICE, half = thread / SLICE;
        const u32 index = block * SLICE + own;
        float sum = 0.0f;
        if (half < HALVES && index < PARAMETERS) {
#pragma unroll
            for (u32 sample = 0; sample < BATCH_ROWS / HALVES; ++sample) {
                const u32 from = half * (BATCH_ROWS / HALVES) + sample;
                sum += from < count ? load_fresh(run.gradients + from * PARAMETERS + index) : 0.0f;
            }
        }
        if (half == 1) {
            shared.halves[own] = sum;
        }
        __syncthreads();
        if (half == 0) {
            shared.slice[own] -= rate * (sum + shared.halves[own]);
        }
        __syncthreads();
        if (thread < SLICE_WORDS) {
            const float *values = shared.slice + thread * WORD_VALUES;
            send(run.words + step % 2 * ALL_WORDS + block * SLICE_WORDS + thread, values[0],
                 values[1], values[2], tag);
        }
    }

    // All blocks' new parameters into the arena. Whole warps: all lanes must call `receive`.
    __device__ __forceinline__ void receive_parameters(u32 step, u32 tag) const {
        const Word *words = run.words + step % 2 * ALL_WORDS;
        constexpr u32 ROUNDS = (ALL_WORDS + ATTENTION_THREADS - 1) / ATTENTION_THREADS;
        for (u32 round = 0; round < ROUNDS; ++round) {
            const u32 wanted = round * ATTENTION_THREADS + thread;
            const u32 word = min(wanted, ALL_WORDS - 1);
            const float3 values = receive(words + word, tag);
            const float three[WORD_VALUES] = {values.x, values.y, values.z};
#pragma unroll
            for (u32 value = 0; value < WORD_VALUES; ++value) {
                const u32 index = word * WORD_VALUES + value;
                if (wanted < ALL_WORDS && index < PARAMETERS) {
                    shared.arena[place_of(index)] = three[value];
                }
            }
        }
        __syncthreads();
    }
};

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1)
    attention_epoch(const AttentionFused run) {
    Shared &shared = *reinterpret_cast<Shared *>(shared_arena());
    const u32 thread = thread_index(), block = block_index();
    const AttentionBlock own{run, shared, thread, thread % WARP, thread / WARP, block};
    const AttentionPass<Sizes> pass{Sizes{},      shared.arena,
                                    run.gradients + block * PARAMETERS,
                                    thread,       thread % WARP,
                                    thread / WARP};
    pass.clear();
    pass.load_parameters(run.parameters);
    if (thread < SLICE) {
        const u32 index = block * SLICE + thread;
        shared.slice[thread] = index < PARAMETERS ? run.parameters[index] : 0.0f;
    }
    __syncthreads();
    for (u32 step = 0; step < run.steps; ++step) {
        const u32 tag = run.first_tag + step;
        const Batch batch = batch_of(step, run.batch, run.samples);
        if (block < batch.count) {
            const u32 place = batch.first + block;
            const u64 image = run.order[place];
            pass.forward(run.images + image * PIXELS);
            pass.classify(run.labels[image], run.sample_loss + place);
            pass.backward();
        }
        own.meet(tag);
        own.update_slice(step, tag, batch.count,
                         run.learning_rate / static_cast<float>(batch.count));
        own.receive_parameters(step, tag);
    }
    const u32 index = block * SLICE + thread;
    if (thread < SLICE && index < PARAMETERS) {
        run.parameters[index] = shared.slice[thread];
    }
}
