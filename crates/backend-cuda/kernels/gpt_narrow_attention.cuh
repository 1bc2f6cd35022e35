// Causal attention within the cluster of blocks that has a window: each block has 16 of its rows, four
// heads, and the other rows' keys and values, or queries and gradients, from the blocks that have them.
#pragma once
#include "gpt_narrow.cuh"

__device__ __forceinline__ u32 blocks_of_cluster() {
    u32 count;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
    return count;
}

// Another block's shared memory.
struct Peer {
    u32 arena;

    __device__ __forceinline__ Peer(u32 rank) {
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                     : "=r"(arena)
                     : "r"(shared_address(narrow_arena)), "r"(rank));
    }

    // Where it has what this one has at this address.
    __device__ __forceinline__ u32 address(const void *own) const {
        return arena + (shared_address(own) - shared_address(narrow_arena));
    }

    // Sends it what goes where `to` is here.
    __device__ __forceinline__ void put(const void *to, uint4 four) const {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                     "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(address(to)),
                     "r"(four.x), "r"(four.y), "r"(four.z), "r"(four.w),
                     "r"(address(&shared().arrived))
                     : "memory");
    }

    __device__ __forceinline__ void put(const float *to, float value) const {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 "
                     "[%0], %1, [%2];" ::"r"(address(to)),
                     "r"(__float_as_uint(value)), "r"(address(&shared().arrived))
                     : "memory");
    }
};

// The blocks' common window. For each attention: `begin`, sends, `wait`, use, a barrier of the workers,
// `end`. Bytes that are sent are counted where they arrive, so that no sender waits until they do.
struct Exchange {
    u32 rank, blocks;
    u32 parity = 0;

    __device__ __forceinline__ Exchange()
        : rank(cluster_rank()), blocks(blocks_of_cluster()) {}

    // Waits until all blocks have read what they got last; this one will get so many bytes.
    __device__ __forceinline__ void begin(u32 bytes) {
        Shared &own = shared();
        barrier_wait(&own.consumed, parity ^ 1);
        if (threadIdx.x == 0) {
            barrier_expect(&own.arrived, bytes);
        }
    }

    __device__ __forceinline__ void wait() { barrier_wait(&shared().arrived, parity); }

    __device__ __forceinline__ void end() {
        if (threadIdx.x < blocks) {
            asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                             Peer(threadIdx.x).address(&shared().consumed))
                         : "memory");
        }
        parity ^= 1;
    }

    // Calls `send` with each of blocks `first` to `end`, of which this one is none.
    template <class Send>
    static __device__ __forceinline__ void to_blocks(u32 first, u32 end, Send send) {
#pragma unroll 1
        for (u32 other = first; other < end; ++other) {
            send(Peer(other));
        }
    }

    // A block's keys and values.
    static __device__ __forceinline__ bf16 *keys(u32 block) {
        return shared().window + block * ROWS * PAIR_STRIDE;
    }

    // A block's queries and their outputs' gradients.
    static __device__ __forceinline__ bf16 *queries(u32 block) { return keys(block + 1); }
};

constexpr u32 CHUNKS = CONTEXT / ROWS;
constexpr u32 ROW_BYTES = ROWS * WIDTH * 2; // of 16 rows
constexpr u32 NUMBER_BYTES = ROWS * HEADS * 4;

// (rows, columns) of 16 rows by 16 columns in `rows` as right operand: (0, 0), (0, 8), (8, 0), (8, 8), where
// the columns are the inner ones.
__device__ __forceinline__ void load_rows(u32 (&right)[4], const bf16 *rows) {
    const u32 lane = threadIdx.x % WARP;
    load_matrices(right,
                  rows + (lane % 8 + lane / 16 * 8) * PAIR_STRIDE + lane / 8 % 2 * 8);
}

// The same where the rows are the inner ones: (0, 0), (8, 0), (0, 8), (8, 8).
__device__ __forceinline__ void load_columns(u32 (&right)[4], const bf16 *rows) {
    const u32 lane = threadIdx.x % WARP;
    load_matrices_transposed(right, rows + lane % 16 * PAIR_STRIDE + lane / 16 * 8);
}

// sums (16, 16) += left (16, HEAD) rows (16, HEAD)^T.
__device__ __forceinline__ void add_scores(float (&sums)[2][4], const Left<HEAD / 16> &left,
                                           const bf16 *rows) {
#pragma unroll
    for (u32 part = 0; part < HEAD / 16; ++part) {
        u32 right[4];
        load_rows(right, rows + 16 * part);
        multiply_add_bf16(sums[0], left.of[part], right[0], right[1]);
        multiply_add_bf16(sums[1], left.of[part], right[2], right[3]);
    }
}

// sums (16, HEAD) += left (16, 16) rows (16, HEAD).
__device__ __forceinline__ void add_weighted(float (&sums)[HEAD / 8][4],
                                             const float (&left)[2][4], const bf16 *rows) {
    const u32 packed[4] = {pack_bf16(left[0][0], left[0][1]), pack_bf16(left[0][2], left[0][3]),
                           pack_bf16(left[1][0], left[1][1]), pack_bf16(left[1][2], left[1][3])};
#pragma unroll
    for (u32 column = 0; column < HEAD / 16; ++column) {
        u32 right[4];
        load_columns(right, rows + 16 * column);
        multiply_add_bf16(sums[2 * column], packed, right[0], right[1]);
        multiply_add_bf16(sums[2 * column + 1], packed, right[2], right[3]);
    }
}

// A head's (16, HEAD) result, times `scale` of the lane's upper and lower row.
__device__ __forceinline__ void store_head(bf16 *rows, u32 stride,
                                           const float (&sums)[HEAD / 8][4], float upper,
                                           float lower) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 column = 0; column < HEAD / 8; ++column) {
        bf16 *to = rows + lane / 4 * stride + 8 * column + 2 * (lane % 4);
        store_pair(to, sums[column][0] * upper, sums[column][1] * upper);
        store_pair(to + 8 * stride, sums[column][2] * lower, sums[column][3] * lower);
    }
}

// Which keys the lane's two queries of the block see: up to their own, in the order of chunks.
struct Seen {
    int upper;

    __device__ __forceinline__ Seen(u32 rank) {
        const u32 lane = threadIdx.x % WARP;
        upper = static_cast<int>(rank * ROWS + lane / 4) - static_cast<int>(2 * (lane % 4));
    }

    // The lane's entry `index` of a chunk's two fragments.
    __device__ __forceinline__ bool operator()(u32 chunk, u32 index) const {
        return static_cast<int>(chunk * ROWS + 8 * (index / 4) + index % 2) <=
               upper + static_cast<int>(8 * (index % 4 / 2));
    }
};

// `narrow` = attention of the block's queries, in `wide`, by a warp for each head. Chunks of keys beyond the
// block's own are its own again, and count nothing: all branches are one.
__device__ __forceinline__ void attend(u32 head, const Exchange &exchange, float *log_sums,
                                       float scale) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP;
    Left<HEAD / 16> query;
    query.load(own.wide + head * HEAD, WIDE_STRIDE);
    const Seen seen(exchange.rank);
    float scores[CHUNKS][2][4] = {};
    float most[2] = {-LARGEST, -LARGEST}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
        add_scores(scores[chunk], query,
                   Exchange::keys(min(chunk, exchange.rank)) + head * HEAD);
    }
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            float &score = scores[chunk][index / 4][index % 4];
            score = seen(chunk, index) ? score : -LARGEST;
            most[index % 4 / 2] = fmaxf(most[index % 4 / 2], score);
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        most[half] = quad_max(most[half]) * scale;
    }
    float out[HEAD / 8][4] = {};
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            float &score = scores[chunk][index / 4][index % 4];
            score = power_of_two(fmaf(score, scale, -most[index % 4 / 2]));
            sum[index % 4 / 2] += score;
        }
        add_weighted(out, scores[chunk],
                     Exchange::keys(min(chunk, exchange.rank)) + WIDTH + head * HEAD);
    }
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        sum[half] = quad_sum(sum[half]);
        if (lane % 4 == 0) {
            const u64 row = static_cast<u64>(blockIdx.x) * ROWS + lane / 4 + 8 * half;
            log_sums[row * HEADS + head] = most[half] + log2f(sum[half]);
        }
    }
    store_head(own.narrow + head * HEAD, NARROW_STRIDE, out, 1.0f / sum[0], 1.0f / sum[1]);
}

// The gradient of the block's queries, into `wide`.
__device__ __forceinline__ void query_gradient(u32 head, const Exchange &exchange, float scale) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP;
    const bf16 *queries = Exchange::queries(exchange.rank) + head * HEAD;
    Left<HEAD / 16> query, out_delta;
    query.load(queries, PAIR_STRIDE);
    out_delta.load(queries + WIDTH, PAIR_STRIDE);
    float log_sum[2], product[2];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const u32 row = exchange.rank * ROWS + lane / 4 + 8 * half;
        log_sum[half] = own.log_sums[head][row];
        product[half] = own.products[head][row];
    }
    const Seen seen(exchange.rank);
    float query_delta[HEAD / 8][4] = {};
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
        const bf16 *keys = Exchange::keys(min(chunk, exchange.rank)) + head * HEAD;
        float scores[2][4] = {}, deltas[2][4] = {};
        add_scores(scores, query, keys);
        add_scores(deltas, out_delta, keys + WIDTH);
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            float &score = scores[index / 4][index % 4];
            const u32 half = index % 4 / 2;
            score = power_of_two(fmaf(score, scale, -log_sum[half])) *
                    (deltas[index / 4][index % 4] - product[half]);
            score = seen(chunk, index) ? score : 0.0f;
        }
        add_weighted(query_delta, scores, keys);
    }
    store_head(own.wide + head * HEAD, WIDE_STRIDE, query_delta, scale * LN_2, scale * LN_2);
}

// The gradients of the block's keys and values, into `wide`. Transposed: the columns of the scores are
// queries, from the block's own on.
__device__ __forceinline__ void key_gradient(u32 head, const Exchange &exchange, float scale) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP;
    const bf16 *keys = Exchange::keys(exchange.rank) + head * HEAD;
    Left<HEAD / 16> key, value;
    key.load(keys, PAIR_STRIDE);
    value.load(keys + WIDTH, PAIR_STRIDE);
    float key_delta[HEAD / 8][4] = {}, value_delta[HEAD / 8][4] = {};
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
        const bool there = exchange.rank + chunk < exchange.blocks;
        const u32 block = there ? exchange.rank + chunk : exchange.rank;
        const bf16 *queries = Exchange::queries(block) + head * HEAD;
        float weights[2][4] = {}, deltas[2][4] = {};
        add_scores(weights, key, queries);
        add_scores(deltas, value, queries + WIDTH);
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            const u32 column = 8 * (index / 4) + 2 * (lane % 4) + index % 2;
            const u32 row = lane / 4 + index % 4 / 2 * 8;
            const u32 query = block * ROWS + column;
            float &weight = weights[index / 4][index % 4];
            weight = power_of_two(fmaf(weight, scale, -own.log_sums[head][query]));
            weight = there && (chunk > 0 || column >= row) ? weight : 0.0f;
            float &delta = deltas[index / 4][index % 4];
            delta = weight * (delta - own.products[head][query]);
        }
        add_weighted(value_delta, weights, queries + WIDTH);
        add_weighted(key_delta, deltas, queries);
    }
    bf16 *to = own.wide + WIDTH + head * HEAD;
    store_head(to, WIDE_STRIDE, key_delta, scale * LN_2, scale * LN_2);
    store_head(to + WIDTH, WIDE_STRIDE, value_delta, 1.0f, 1.0f);
}
