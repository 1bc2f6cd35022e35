// The attention model, with d_model 32 and ff 64, trained whole epochs in one launch. 32 resident
// blocks have a sample of the step each. They leave their gradients in global memory and raise a
// flag; each then adds up its slice of the parameters over all samples, in their order, and sends
// the new values to all others as tagged words (exchange.cuh).
#include "attention.cuh"
#include "exchange.cuh"

constexpr u32 BLOCKS = BATCH_ROWS;
using Sizes = FixedSizes<32, 64>;
constexpr u32 PARAMETERS = Sizes::at.parameters;
constexpr u32 GRADIENT = Sizes::at.gradient;
constexpr u32 SLICE_WORDS = (PARAMETERS + BLOCKS * WORD_VALUES - 1) / (BLOCKS * WORD_VALUES);
constexpr u32 SLICE = SLICE_WORDS * WORD_VALUES; // parameters of a block
constexpr u32 ALL_WORDS = SLICE_WORDS * BLOCKS;
constexpr u32 HALVES = 2;                        // threads that share a parameter's samples
static_assert(Sizes::at.size == 40304 && Sizes::at.gradient == 10936,
              "src/attention.rs says the same");
static_assert(SLICE * HALVES <= ATTENTION_THREADS, "a thread for each half of a parameter");

struct AttentionFused {
    const u8 *images;   // (?, 784)
    const u8 *labels;   // (?)
    const u32 *order;   // (samples)
    float *parameters;  // canonical
    float *gradients;   // (32, Layout::gradient)
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

constexpr u32 NOWHERE = Sizes::at.size; // for what words hold beyond the parameters

struct Shared {
    float arena[NOWHERE + 4];
    float halves[SLICE];
    float slice[SLICE];                      // this block's parameters
    unsigned short places[ALL_WORDS * WORD_VALUES]; // of the canonical parameters in the arena
};

struct AttentionBlock {
    const AttentionFused &run;
    Shared &shared;
    u32 thread, lane, warp, block;
    u32 word, label;             // this thread's pixels of the step, and the sample's label
    u32 next_image, later_image; // of the block's sample; ~0: none

    __device__ __forceinline__ u32 image_at(u32 step) const {
        const Batch batch = batch_of(step, run.batch, run.samples);
        return block < batch.count ? run.order[batch.first + block] : ~0u;
    }

    // Takes over what was looked up in the last step, and looks up the next, so early that nobody
    // waits for it.
    __device__ __forceinline__ void look_ahead(u32 step, const AttentionPass<Sizes> &pass) {
        next_image = later_image;
        later_image = image_at(step + 2);
        if (next_image != ~0u) {
            word = pass.image_word(run.images + static_cast<u64>(next_image) * PIXELS);
            label = run.labels[next_image];
        }
    }

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
            const float *from =
                run.gradients + half * (BATCH_ROWS / HALVES * GRADIENT) + shared.places[index];
#pragma unroll
            for (u32 sample = 0; sample < BATCH_ROWS / HALVES; ++sample) {
                const u32 at = half * (BATCH_ROWS / HALVES) + sample;
                sum += at < count ? load_fresh(from + sample * GRADIENT) : 0.0f;
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

    // All blocks' new parameters into the arena. Whole warps wait together, a thread for all of its
    // words at once.
    __device__ __forceinline__ void receive_parameters(u32 step, u32 tag) const {
        const Word *words = run.words + step % 2 * ALL_WORDS;
        constexpr u32 ROUNDS = (ALL_WORDS + ATTENTION_THREADS - 1) / ATTENTION_THREADS;
        u64 low[ROUNDS], high[ROUNDS];
        bool ready;
        do {
            ready = true;
#pragma unroll
            for (u32 round = 0; round < ROUNDS; ++round) {
                load_whole(words + word_of(round), low[round], high[round]);
            }
#pragma unroll
            for (u32 round = 0; round < ROUNDS; ++round) {
                ready = ready && static_cast<u32>(high[round] >> 32) == tag;
            }
        } while (!all_lanes(ready));
#pragma unroll
        for (u32 round = 0; round < ROUNDS; ++round) {
            const unsigned short *places = shared.places + word_of(round) * WORD_VALUES;
            shared.arena[places[0]] = __uint_as_float(static_cast<u32>(low[round]));
            shared.arena[places[1]] = __uint_as_float(static_cast<u32>(low[round] >> 32));
            shared.arena[places[2]] = __uint_as_float(static_cast<u32>(high[round]));
        }
        __syncthreads();
    }

    // Threads that have none left ask for the last one again.
    __device__ __forceinline__ u32 word_of(u32 round) const {
        return min(round * ATTENTION_THREADS + thread, ALL_WORDS - 1);
    }
};

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1)
    attention_epoch(const AttentionFused run) {
    Shared &shared = *reinterpret_cast<Shared *>(shared_arena());
    const u32 thread = thread_index(), block = block_index();
    AttentionBlock own{run, shared, thread, thread % WARP, thread / WARP, block, 0, 0, ~0u, ~0u};
    const AttentionPass<Sizes> pass{Sizes{},      shared.arena,
                                    run.gradients + block * GRADIENT,
                                    thread,       thread % WARP,
                                    thread / WARP};
    pass.clear();
    pass.load_parameters(run.parameters);
    if (thread < SLICE) {
        const u32 index = block * SLICE + thread;
        shared.slice[thread] = index < PARAMETERS ? run.parameters[index] : 0.0f;
    }
    for (u32 index = thread; index < ALL_WORDS * WORD_VALUES; index += ATTENTION_THREADS) {
        shared.places[index] = index < PARAMETERS ? place_of(Sizes::at, index) : NOWHERE;
    }
    own.later_image = own.image_at(0);
    own.look_ahead(~0u, pass); // of the step before the first
    __syncthreads();
    for (u32 step = 0; step < run.steps; ++step) {
        const u32 tag = run.first_tag + step;
        const Batch batch = batch_of(step, run.batch, run.samples);
        const u32 label = own.label;
        if (block < batch.count) {
            pass.store_patches(own.word);
        }
        own.look_ahead(step, pass);
        if (block < batch.count) {
            pass.forward();
            pass.classify(label, run.sample_loss + batch.first + block);
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
