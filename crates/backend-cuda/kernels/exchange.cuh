// How the blocks of a persistent kernel talk: by words of three values and a tag, the number of
// the step, that are written and read whole. Who waits for a value reads its word until the tag is
// the step's: no barrier, no fence, no flag beside the data, one trip through the L2 cache each way.
// (NCCL's low-latency protocol does the same with 8 bytes.)
//
// Every step has two exchanges. All blocks send their share of the logits of each sample to the
// block that owns the sample; the owner adds them in a fixed order, so that results are the same
// bits every time, and sends the sums to all blocks, each of which does the softmax for itself.
//
// Two sets of words, used in turn, are enough. Nobody can write step t + 2's word over step t's
// before it was read: a block sends its share of t + 2 after it has got all sums of t + 1, which
// an owner sends after it has read all shares of t + 1, so after it has read those of t; and an
// owner sends sums of t + 2 after it has got all shares of t + 2, which a block sends after it has
// read all sums of t + 1, so after those of t.
#pragma once
#include "classes.cuh"

constexpr u32 WORDS = 4;      // of three values: 10 classes need four words
constexpr u32 WORD_VALUES = 3;
constexpr u32 BATCH_ROWS = 32;   // samples of a step in the persistent kernels

// What every persistent kernel is told: the data, and the steps to train over it.
struct Run {
    const u8 *images;   // (?, 784)
    const u8 *labels;   // (?)
    const u32 *order;   // (samples)
    float *parameters;  // canonical, see the model's plain kernels
    float *sample_loss; // (samples)
    u32 samples;
    u32 batch;          // at most 32
    u32 steps;
    u32 first_tag;      // of the first step; grows by one each step, never 0
    float learning_rate;
};

// Which image a row of a step is; ~0 past the end of a short step or of the run.
__device__ __forceinline__ u32 image_at(const Run &run, u32 step, u32 row) {
    const Batch batch = batch_of(step, run.batch, run.samples);
    return row < batch.count ? run.order[batch.first + row] : ~0u;
}

struct __align__(16) Word {
    float value[WORD_VALUES];
    u32 tag;
};

__device__ __forceinline__ void send(Word *word, uint3 values, u32 tag) {
    const u64 low = values.x | static_cast<u64>(values.y) << 32;
    const u64 high = values.z | static_cast<u64>(tag) << 32;
    store_whole(word, low, high);
}

__device__ __forceinline__ void send(Word *word, float a, float b, float c, u32 tag) {
    send(word, uint3{__float_as_uint(a), __float_as_uint(b), __float_as_uint(c)}, tag);
}

// All lanes of the warp wait until each has its word, so that they go on together.
__device__ __forceinline__ uint3 receive_bits(const Word *word, u32 tag) {
    u64 low, high;
    do {
        load_whole(word, low, high);
    } while (!all_lanes(static_cast<u32>(high >> 32) == tag));
    return uint3{static_cast<u32>(low), static_cast<u32>(low >> 32), static_cast<u32>(high)};
}

__device__ __forceinline__ float3 receive(const Word *word, u32 tag) {
    const uint3 bits = receive_bits(word, tag);
    return float3{__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z)};
}

// Every block waits for the same sums. If all asked the same few lines of the L2 cache, the owner's
// words would queue behind the questions: it writes eight copies, from as many lanes.
constexpr u32 COPIES = 8;

// The words between the blocks, in global memory; zero before the first step, whose tag is 1.
struct Exchange {
    Word *shares; // (2, 32 samples, blocks, 4)
    Word *sums;   // (2, 8 copies, 32 samples, 4)
};

constexpr u32 SUMS_TURN = COPIES * BATCH_ROWS * WORDS; // from even steps' words to odd ones'

// Of even steps.
__device__ __forceinline__ Word *share_word(const Exchange &exchange, u32 sample, u32 word,
                                            u32 block) {
    return exchange.shares + (sample * gridDim.x + block) * WORDS + word;
}

__device__ __forceinline__ Word *sum_word(const Exchange &exchange, u32 copy, u32 sample,
                                          u32 word) {
    return exchange.sums + (copy * BATCH_ROWS + sample) * WORDS + word;
}

// The owner's part, by `WARPS` warps that meet at a named barrier. Four lanes have a block's words.
template <u32 WARPS> struct Owner {
    static constexpr u32 TOGETHER = 4;                  // words that a lane waits for at a time
    static constexpr u32 STRIDE = WARPS * WARP / WORDS; // blocks between a lane's words

    const Word *shares; // of even steps and sample 0
    Word *sums;         // likewise
    float4 *scratch;    // shared (WARPS, 4 words)
    u32 lane, warp, first_block, blocks, barrier;

    __device__ __forceinline__ void begin(const Exchange &exchange, float4 *shared_scratch,
                                          u32 thread, u32 named_barrier) {
        scratch = shared_scratch;
        barrier = named_barrier;
        lane = thread % WARP;
        warp = thread / WARP;
        first_block = thread / WORDS;
        blocks = gridDim.x;
        shares = share_word(exchange, 0, lane % WORDS, first_block);
        sums = sum_word(exchange, lane / WORDS, 0, lane % WORDS);
    }

    // The sum of this lane's words, from up to four blocks.
    __device__ __forceinline__ float3 receive_sum(const Word *words, u32 block, u32 tag) const {
        u64 low[TOGETHER], high[TOGETHER];
        bool ready;
        do {
            ready = true;
#pragma unroll
            for (u32 index = 0; index < TOGETHER; ++index) {
                low[index] = 0;
                high[index] = static_cast<u64>(tag) << 32;
                if (block + index * STRIDE < blocks) {
                    load_whole(words + index * (STRIDE * WORDS), low[index], high[index]);
                }
            }
#pragma unroll
            for (u32 index = 0; index < TOGETHER; ++index) {
                ready = ready && static_cast<u32>(high[index] >> 32) == tag;
            }
        } while (!all_lanes(ready));
        float3 sum{0.0f, 0.0f, 0.0f};
#pragma unroll
        for (u32 index = 0; index < TOGETHER; ++index) {
            sum.x += __uint_as_float(static_cast<u32>(low[index]));
            sum.y += __uint_as_float(static_cast<u32>(low[index] >> 32));
            sum.z += __uint_as_float(static_cast<u32>(high[index]));
        }
        return sum;
    }

    // Waits for all blocks' shares of `sample`, adds them and sends the sums.
    __device__ __forceinline__ void reply(u32 step, u32 tag, u32 sample) const {
        const Word *words = shares + (step % 2 * BATCH_ROWS + sample) * (WORDS * blocks);
        Word *to = sums + step % 2 * SUMS_TURN + sample * WORDS;
        keep(to);
        float3 sum = receive_sum(words, first_block, tag);
        for (u32 more = TOGETHER * STRIDE; more < blocks; more += TOGETHER * STRIDE) {
            const float3 next = receive_sum(words + more * WORDS, first_block + more, tag);
            sum = float3{sum.x + next.x, sum.y + next.y, sum.z + next.z};
        }
#pragma unroll
        for (u32 distance = WORDS; distance < WARP; distance *= 2) {
            sum.x += __shfl_xor_sync(ALL_LANES, sum.x, distance);
            sum.y += __shfl_xor_sync(ALL_LANES, sum.y, distance);
            sum.z += __shfl_xor_sync(ALL_LANES, sum.z, distance);
        }
        if (lane < WORDS) {
            scratch[warp * WORDS + lane] = float4{sum.x, sum.y, sum.z, 0.0f};
        }
        barrier_sync(barrier, WARPS * WARP);
        if (warp == 0) { // a copy for every four lanes
            float4 total = scratch[lane % WORDS];
#pragma unroll
            for (u32 from = 1; from < WARPS; ++from) {
                const float4 more = scratch[from * WORDS + lane % WORDS];
                total = float4{total.x + more.x, total.y + more.y, total.z + more.z, 0.0f};
            }
            send(to, total.x, total.y, total.z, tag);
        }
    }

    // Replies for all samples of `block`.
    __device__ __forceinline__ void reply_all(u32 step, u32 tag, u32 block) const {
        if (block < BATCH_ROWS) {
            reply(step, tag, block);
            for (u32 sample = block + blocks; sample < BATCH_ROWS; sample += blocks) {
                barrier_sync(barrier, WARPS * WARP); // the scratch was read
                reply(step, tag, sample);
            }
        }
    }
};

// The softmax of a sample's logits by four lanes, three classes each; the last lane has one class.
struct QuadSoftmax {
    float delta[WORD_VALUES]; // probability minus target; 0 for classes that are none
    float sum;                // of e^(logit - largest)
    float of_label;           // its logit - largest, in the lane that has the label's class

    // In nats, in the lane that has the label's class.
    __device__ __forceinline__ float loss() const { return logf(sum) - of_label; }

    // `logits` of this lane's word, 0 to 3.
    __device__ __forceinline__ void of(float3 logits, u32 word, u32 label) {
        const float nothing = __int_as_float(0xff800000); // -infinity
        const float second = word + 1 < WORDS ? logits.y : nothing;
        const float third = word + 1 < WORDS ? logits.z : nothing;
        float largest = fmaxf(fmaxf(logits.x, second), third);
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
        const float above[WORD_VALUES] = {logits.x - largest, second - largest, third - largest};
        float power[WORD_VALUES];
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            power[index] = exp_of(above[index]);
        }
        sum = (power[0] + power[1]) + power[2];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        const float scale = reciprocal(sum);
        const u32 target = label - word * WORD_VALUES;
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            delta[index] = power[index] * scale - (target == index ? 1.0f : 0.0f);
        }
        of_label = target == 0 ? above[0] : target == 1 ? above[1] : above[2];
    }
};
