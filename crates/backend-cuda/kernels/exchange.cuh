// How the blocks of a persistent kernel talk: by words of three values and a tag, the number of
// the step, that are written and read whole. Who waits for a value reads its word until the tag is
// the step's: no barrier, no fence, no flag beside the data, one trip through the L2 cache each way.
// (NCCL's low-latency protocol does the same with 8 bytes.)
//
// Every step has two exchanges. All blocks send their share of the logits of each sample to the
// block that owns the sample; the owner sums them in a fixed order, so that results are the same
// bits every time, and sends the sample's logit deltas to all blocks.
//
// Two sets of words, used in turn, are enough. Nobody can write step t + 2's word over step t's
// before it was read: a block sends its share of t + 2 after it has got all deltas of t + 1, which
// an owner sends after it has read all shares of t + 1, so after it has read those of t; and an
// owner sends deltas of t + 2 after it has got all shares of t + 2, which a block sends after it has
// read all deltas of t + 1, so after those of t.
#pragma once
#include "classes.cuh"

constexpr u32 WORDS = 4;      // of three values: 10 classes need four words
constexpr u32 WORD_VALUES = 3;
constexpr u32 CLASS_STRIDE = 12; // WORDS * WORD_VALUES
constexpr u32 BATCH_ROWS = 32;   // samples of a step in the persistent kernels

struct __align__(16) Word {
    float value[WORD_VALUES];
    u32 tag;
};

__device__ __forceinline__ void send(Word *word, float a, float b, float c, u32 tag) {
    const u64 low = __float_as_uint(a) | static_cast<u64>(__float_as_uint(b)) << 32;
    const u64 high = __float_as_uint(c) | static_cast<u64>(tag) << 32;
    store_whole(word, low, high);
}

__device__ __forceinline__ float3 receive(const Word *word, u32 tag) {
    u64 low, high;
    do {
        load_whole(word, low, high);
    } while (static_cast<u32>(high >> 32) != tag);
    return float3{__uint_as_float(static_cast<u32>(low)),
                  __uint_as_float(static_cast<u32>(low >> 32)),
                  __uint_as_float(static_cast<u32>(high))};
}

// The words between the blocks, in global memory; zero before the first step, whose tag is 1.
struct Exchange {
    Word *shares; // (2, 32 samples, blocks, 4)
    Word *deltas; // (2, 32 samples, 4)
};

__device__ __forceinline__ Word *share_words(const Exchange &exchange, u32 step, u32 sample,
                                             u32 block, u32 blocks) {
    return exchange.shares + (((step % 2) * BATCH_ROWS + sample) * blocks + block) * WORDS;
}

__device__ __forceinline__ Word *delta_words(const Exchange &exchange, u32 step, u32 sample) {
    return exchange.deltas + ((step % 2) * BATCH_ROWS + sample) * WORDS;
}

// What an owner needs to turn a sample's logits into deltas.
struct OwnedSample {
    u32 label;
    bool exists; // rows past the end of a short batch have no loss and no delta
};

// The owner's part, by `warps` warps that meet at the named barrier `barrier`: waits for all blocks'
// shares of `sample`, adds them and `bias` (10, shared), and sends the deltas. Writes the sample's
// loss. `sums`: shared scratch (warps, 12).
__device__ __forceinline__ void reduce_and_reply(const Exchange &exchange, u32 step, u32 tag,
                                                 u32 sample, u32 blocks, OwnedSample owned,
                                                 const float *bias, float *loss, float *sums,
                                                 u32 thread, u32 warps, u32 barrier) {
    const u32 lane = thread % WARP;
    const u32 warp = thread / WARP;
    const u32 word = thread % WORDS;
    float3 sum{0.0f, 0.0f, 0.0f};
    const Word *shares = share_words(exchange, step, sample, 0, blocks);
    for (u32 block = thread / WORDS; block < blocks; block += warps * WARP / WORDS) {
        const float3 share = receive(shares + block * WORDS + word, tag);
        sum.x += share.x;
        sum.y += share.y;
        sum.z += share.z;
    }
    for (u32 distance = WORDS; distance < WARP; distance *= 2) {
        sum.x += __shfl_xor_sync(ALL_LANES, sum.x, distance);
        sum.y += __shfl_xor_sync(ALL_LANES, sum.y, distance);
        sum.z += __shfl_xor_sync(ALL_LANES, sum.z, distance);
    }
    if (lane < WORDS) {
        float *own = sums + warp * CLASS_STRIDE + word * WORD_VALUES;
        own[0] = sum.x;
        own[1] = sum.y;
        own[2] = sum.z;
    }
    barrier_sync(barrier, warps * WARP);
    if (warp == 0) {
        float logit = 0.0f;
        if (lane < CLASSES) {
            for (u32 from = 0; from < warps; ++from) {
                logit += sums[from * CLASS_STRIDE + lane];
            }
            logit += bias[lane];
        }
        const ClassGradient gradient = softmax_gradient(logit, lane, owned.label);
        const float delta = owned.exists && lane < CLASSES ? gradient.delta : 0.0f;
        const float first = __shfl_sync(ALL_LANES, delta, (lane * WORD_VALUES) % WARP);
        const float second = __shfl_sync(ALL_LANES, delta, (lane * WORD_VALUES + 1) % WARP);
        const float third = __shfl_sync(ALL_LANES, delta, (lane * WORD_VALUES + 2) % WARP);
        if (lane < WORDS) {
            send(delta_words(exchange, step, sample) + lane, first, second, third, tag);
        }
        if (lane == 0 && owned.exists) {
            *loss = gradient.loss;
        }
    }
    // `sums` is not written again before all warps have met at another barrier: an owner of several
    // samples calls `barrier_sync` in between.
}
