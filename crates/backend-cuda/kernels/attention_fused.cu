// The attention model, with d_model 32 and ff 64, trained whole epochs in one launch. 32 resident
// clusters of three blocks have a sample of the step each (of clusters of four an H100 holds fewer:
// bench/floor.cu). The blocks leave their shares of the gradient in global memory and count themselves;
// each then adds up its slice of the parameters over all blocks, in their order, and sends the new values
// to all others as tagged words (exchange.cuh).
#include "attention.cuh"
#include "exchange.cuh"

constexpr u32 PEERS = 3;
constexpr u32 BLOCKS = BATCH_ROWS * PEERS;
using Sizes = FixedSizes<32, 64>;
constexpr u32 PARAMETERS = Sizes::at.parameters;
constexpr u32 GRADIENT = Sizes::at.gradient;
constexpr u32 SLICE_WORDS = (PARAMETERS + BLOCKS * WORD_VALUES - 1) / (BLOCKS * WORD_VALUES);
constexpr u32 SLICE = SLICE_WORDS * WORD_VALUES; // parameters of a block
constexpr u32 ALL_WORDS = SLICE_WORDS * BLOCKS;
constexpr u32 PART_BLOCKS = 16;                  // of which a thread adds up a parameter
constexpr u32 PARTS = BLOCKS / PART_BLOCKS;
static_assert(Sizes::at.size == 40688 && Sizes::at.gradient == 10936,
              "src/attention.rs says the same");
static_assert(SLICE * PARTS <= ATTENTION_THREADS, "a thread for each part of a parameter");

struct AttentionFused : Run {
    float *gradients; // (blocks, Layout::gradient), zero where a block has no share
    u32 *arrived;     // blocks whose gradient is there, of all steps so far
    Word *words;      // (2, all parameters in words of three)
};

constexpr u32 NOWHERE = Sizes::at.size; // for what words hold beyond the parameters
constexpr u32 OWN_TOKENS = (STRIPS + PEERS - 1) / PEERS * TILE;

// The blocks of a cluster.
struct Cluster {
    static constexpr u32 PEERS = ::PEERS;
    u32 own;
    __device__ __forceinline__ u32 rank() const { return own; }
    template <class T> __device__ __forceinline__ T *in_peer(T *here, u32 rank) const {
        return ::in_peer(here, rank);
    }
    __device__ __forceinline__ void meet() const { cluster_sync(); }
};
using Pass = AttentionPass<Sizes, Cluster>;

struct Shared {
    float arena[NOWHERE + 4];
    float received[2 * PEERS * OWN_TOKENS * Sizes::at.d_stride];
    float parts[PARTS][SLICE];
    float slice[SLICE];                             // this block's parameters
    unsigned short places[ALL_WORDS * WORD_VALUES]; // of the canonical parameters in the arena
};

struct AttentionBlock {
    const AttentionFused &run;
    Shared &shared;
    u32 thread, block, sample;
    u32 word, label;             // this thread's pixels of the step, and the sample's label
    u32 next_image, later_image; // of the block's sample; ~0: none

    // Takes over what was looked up in the last step, and looks up the next, so early that nobody
    // waits for it.
    __device__ __forceinline__ void look_ahead(u32 step, const Pass &pass) {
        next_image = later_image;
        later_image = image_at(run, step + 2, sample);
        if (next_image != ~0u) {
            word = pass.image_word(run.images + static_cast<u64>(next_image) * PIXELS);
            label = run.labels[next_image];
        }
    }

    // All threads' gradients are in global memory: says so, and waits until all blocks say so. One count
    // for all is quicker than a flag for each block that all others read (bench/floor.cu: flags_of_all).
    __device__ __forceinline__ void meet(u32 tag) const {
        __syncthreads();
        if (thread == 0) {
            add_release(run.arrived, 1);
            while (static_cast<int>(load_acquire(run.arrived) - tag * BLOCKS) < 0) {
            }
        }
        __syncthreads();
    }

    // Adds up this block's slice of the gradient, updates the slice and sends it.
    __device__ __forceinline__ void update_slice(u32 step, u32 tag, u32 count, float rate) const {
        const u32 own = thread % SLICE, part = thread / SLICE;
        const u32 index = block * SLICE + own;
        if (part < PARTS && index < PARAMETERS) {
            const float *from =
                run.gradients + part * (PART_BLOCKS * GRADIENT) + shared.places[index];
            float sums[4] = {};
#pragma unroll
            for (u32 other = 0; other < PART_BLOCKS; ++other) {
                const bool counts = part * PART_BLOCKS + other < count * PEERS;
                sums[other % 4] += counts ? load_fresh(from + other * GRADIENT) : 0.0f;
            }
            shared.parts[part][own] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
        __syncthreads();
        if (thread < SLICE) {
            float sum = 0.0f;
#pragma unroll
            for (u32 from = 0; from < PARTS; ++from) {
                sum += shared.parts[from][thread];
            }
            shared.slice[thread] -= rate * sum;
        }
        __syncthreads();
        if (thread < SLICE_WORDS) {
            const float *values = shared.slice + thread * WORD_VALUES;
            send(run.words + step % 2 * ALL_WORDS + block * SLICE_WORDS + thread, values[0],
                 values[1], values[2], tag);
        }
    }

    // All blocks' new parameters into the arena. Whole warps wait together, a thread for all of its
    // words at once. That peers share the words out and write to each other's memory has been tried and
    // was slower: single numbers, scattered, are slow to go there.
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

extern "C" __global__ void __cluster_dims__(PEERS, 1, 1) __launch_bounds__(ATTENTION_THREADS, 1)
    attention_epoch(const AttentionFused run) {
    Shared &shared = *reinterpret_cast<Shared *>(shared_arena());
    const u32 thread = thread_index(), block = block_index(), rank = cluster_rank();
    AttentionBlock own{run, shared, thread, block, block / PEERS, 0, 0, ~0u, ~0u};
    const Pass pass{Sizes{},         Cluster{rank},
                    shared.arena,    shared.received,
                    run.gradients + block * GRADIENT,
                    thread,          thread % WARP,
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
    own.later_image = image_at(run, 0, own.sample);
    own.look_ahead(~0u, pass); // of the step before the first
    cluster_sync();            // nobody writes to a peer that has not cleared its memory
    for (u32 step = 0; step < run.steps; ++step) {
        const u32 tag = run.first_tag + step;
        const Batch batch = batch_of(step, run.batch, run.samples);
        const u32 label = own.label;
        const bool exists = own.sample < batch.count; // the same for all peers
        if (exists) {
            pass.store_patches(own.word);
        }
        own.look_ahead(step, pass);
        if (exists) {
            pass.forward();
            pass.classify(label, run.sample_loss + batch.first + own.sample);
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
