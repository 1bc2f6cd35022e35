// Causal attention in bf16 without the matrix of scores in memory (flash attention, Dao 2023): softmax
// and its sums in float32, products by the tensor cores. A block of four warps has 64 queries, or 64
// keys, of one head; a warp has 16 of them. The gradient is two kernels, one for the queries and one for
// keys and values: scores are found twice, and in exchange nothing is added atomically, so that the same
// bits come out each time.
#include "gpt_attention.cuh"

// The lane's two rows of a (16, 64) tile of scores: lane / 4 and 8 below it.
struct RowPair {
    float upper;
    float lower;
};

// Scores that a query may not see become -infinity: those of keys after it.
__device__ __forceinline__ void hide_later_keys(float (&scores)[TILE / 8][4], u32 first_query,
                                                u32 first_key) {
    const u32 lane = threadIdx.x % WARP;
    const u32 upper = first_query + lane / 4;
#pragma unroll
    for (u32 column = 0; column < TILE / 8; ++column) {
        const u32 key = first_key + 8 * column + 2 * (lane % 4);
        scores[column][0] = key > upper ? -LARGEST : scores[column][0];
        scores[column][1] = key + 1 > upper ? -LARGEST : scores[column][1];
        scores[column][2] = key > upper + 8 ? -LARGEST : scores[column][2];
        scores[column][3] = key + 1 > upper + 8 ? -LARGEST : scores[column][3];
    }
}

__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

template <u32 WIDTH> struct ForwardTiles {
    Tile<WIDTH> queries;
    Tile<WIDTH> keys[2];
    Tile<WIDTH> values[2];
};

template <u32 WIDTH> __device__ __forceinline__ void attend(const Attention &run) {
    ForwardTiles<WIDTH> &tiles = *reinterpret_cast<ForwardTiles<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * WARP_ROWS;
    const u32 block = gridDim.x - 1 - blockIdx.x; // those with the most keys begin first
    const u32 first_query = block * TILE;
    const bf16 *queries = static_cast<const bf16 *>(run.qkv) + head.qkv;
    const bf16 *keys = queries + head.keys, *values = keys + head.keys;

    tiles.queries.copy(queries, head.stride, first_query, run.context, run.head_width);
    tiles.keys[0].copy(keys, head.stride, 0, run.context, run.head_width);
    copy_async_commit();
    tiles.values[0].copy(values, head.stride, 0, run.context, run.head_width);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    Left<WIDTH> query;
    query.load(tiles.queries, warp_row);

    float out[WIDTH / 8][4] = {};
    RowPair most = {-LARGEST, -LARGEST}, sum = {0.0f, 0.0f};
    for (u32 tile = 0; tile <= block; ++tile) {
        const u32 now = tile % 2;
        float scores[TILE / 8][4] = {};
        add_rows_by_rows(scores, query, tiles.keys[now]);
        if (tile < block) { // all have read the other tiles: the barrier at the end of the last turn
            tiles.keys[1 - now].copy(keys, head.stride, (tile + 1) * TILE, run.context, run.head_width);
            copy_async_commit();
            tiles.values[1 - now].copy(values, head.stride, (tile + 1) * TILE, run.context, run.head_width);
            copy_async_commit();
        } else {
            hide_later_keys(scores, first_query + warp_row, tile * TILE);
        }
        RowPair larger = most;
#pragma unroll
        for (u32 column = 0; column < TILE / 8; ++column) {
            larger.upper = fmaxf(larger.upper, fmaxf(scores[column][0], scores[column][1]));
            larger.lower = fmaxf(larger.lower, fmaxf(scores[column][2], scores[column][3]));
        }
        larger.upper = quad_max(larger.upper);
        larger.lower = quad_max(larger.lower);
        const float upper_shift = larger.upper * run.scale, lower_shift = larger.lower * run.scale;
        const float upper_shrink = power_of_two(most.upper * run.scale - upper_shift);
        const float lower_shrink = power_of_two(most.lower * run.scale - lower_shift);
        most = larger;
        sum.upper *= upper_shrink;
        sum.lower *= lower_shrink;
#pragma unroll
        for (u32 column = 0; column < TILE / 8; ++column) {
            float(&four)[4] = scores[column];
            four[0] = power_of_two(fmaf(four[0], run.scale, -upper_shift));
            four[1] = power_of_two(fmaf(four[1], run.scale, -upper_shift));
            four[2] = power_of_two(fmaf(four[2], run.scale, -lower_shift));
            four[3] = power_of_two(fmaf(four[3], run.scale, -lower_shift));
            sum.upper += four[0] + four[1];
            sum.lower += four[2] + four[3];
        }
#pragma unroll
        for (u32 column = 0; column < WIDTH / 8; ++column) {
            out[column][0] *= upper_shrink;
            out[column][1] *= upper_shrink;
            out[column][2] *= lower_shrink;
            out[column][3] *= lower_shrink;
        }
        u32 weights[TILE / 16][4];
        pack(weights, scores);
        // This turn's values; the next turn's two groups may still be under way.
        if (tile < block) {
            copy_async_wait<2>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        add_rows_by_columns(out, weights, tiles.values[now]);
        if (tile < block) {
            copy_async_wait<1>(); // the next keys
        }
        __syncthreads();
    }
    sum.upper = quad_sum(sum.upper);
    sum.lower = quad_sum(sum.lower);
    const u32 upper = first_query + warp_row + lane / 4;
    if (lane % 4 == 0) {
        float *log_sums = run.log_sums + head.row;
        if (upper < run.context) {
            log_sums[upper] = most.upper * run.scale + log2f(sum.upper);
        }
        if (upper + 8 < run.context) {
            log_sums[upper + 8] = most.lower * run.scale + log2f(sum.lower);
        }
    }
    write_rows(static_cast<bf16 *>(run.out) + head.out, head.out_stride, first_query, run, out,
               1.0f / sum.upper, 1.0f / sum.lower, tiles.queries, warp_row);
}

template <u32 WIDTH> struct QueryTiles {
    Tile<WIDTH> queries;
    Tile<WIDTH> out_deltas;
    Tile<WIDTH> keys[2];
    Tile<WIDTH> values[2];
};

// Sums of a row's outputs times their gradients, for the lane's two rows; kept for the other kernel.
template <u32 WIDTH>
__device__ __forceinline__ RowPair row_products(const Attention &run, const Head &head, u32 first) {
    const u32 lane = threadIdx.x % WARP;
    RowPair sums;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const u32 row = first + lane / 4 + 8 * half;
        float sum = 0.0f;
        if (row < run.context) {
            const u64 at = head.out + row * head.out_stride;
            const bf16 *out = static_cast<const bf16 *>(run.out) + at;
            const bf16 *delta = static_cast<const bf16 *>(run.out_delta) + at;
#pragma unroll
            for (u32 index = lane % 4 * 4; index < WIDTH; index += 16) {
                if (index >= run.head_width) {
                    break;
                }
                const float4 a = load_four(out + index), b = load_four(delta + index);
                sum += (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
            }
        }
        sum = quad_sum(sum);
        (half == 0 ? sums.upper : sums.lower) = sum;
        if (row < run.context && lane % 4 == 0) {
            run.products[head.row + row] = sum;
        }
    }
    return sums;
}

// Of the queries of tile `block`.
template <u32 WIDTH>
__device__ __forceinline__ void query_gradient(const Attention &run, u32 block) {
    QueryTiles<WIDTH> &tiles = *reinterpret_cast<QueryTiles<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * WARP_ROWS;
    const u32 first_query = block * TILE;
    const bf16 *queries = static_cast<const bf16 *>(run.qkv) + head.qkv;
    const bf16 *keys = queries + head.keys, *values = keys + head.keys;

    tiles.queries.copy(queries, head.stride, first_query, run.context, run.head_width);
    tiles.out_deltas.copy(static_cast<const bf16 *>(run.out_delta) + head.out, head.out_stride,
                          first_query, run.context, run.head_width);
    tiles.keys[0].copy(keys, head.stride, 0, run.context, run.head_width);
    tiles.values[0].copy(values, head.stride, 0, run.context, run.head_width);
    copy_async_commit();
    const RowPair products = row_products<WIDTH>(run, head, first_query + warp_row);
    const u32 upper = first_query + warp_row + lane / 4;
    const float *log_sums = run.log_sums + head.row;
    const RowPair log_sum = {upper < run.context ? log_sums[upper] : LARGEST,
                             upper + 8 < run.context ? log_sums[upper + 8] : LARGEST};
    copy_async_wait<0>();
    __syncthreads();
    Left<WIDTH> query, out_delta;
    query.load(tiles.queries, warp_row);
    out_delta.load(tiles.out_deltas, warp_row);

    float query_delta[WIDTH / 8][4] = {};
    for (u32 tile = 0; tile <= block; ++tile) {
        const u32 now = tile % 2;
        if (tile < block) {
            tiles.keys[1 - now].copy(keys, head.stride, (tile + 1) * TILE, run.context, run.head_width);
            tiles.values[1 - now].copy(values, head.stride, (tile + 1) * TILE, run.context, run.head_width);
            copy_async_commit();
        }
        float scores[TILE / 8][4] = {}, deltas[TILE / 8][4] = {};
        add_rows_by_rows(scores, query, tiles.keys[now]);
        add_rows_by_rows(deltas, out_delta, tiles.values[now]);
        if (tile == block) {
            hide_later_keys(scores, first_query + warp_row, tile * TILE);
        }
#pragma unroll
        for (u32 column = 0; column < TILE / 8; ++column) {
            float(&score)[4] = scores[column];
            const float(&delta)[4] = deltas[column];
            score[0] = power_of_two(fmaf(score[0], run.scale, -log_sum.upper)) *
                       (delta[0] - products.upper);
            score[1] = power_of_two(fmaf(score[1], run.scale, -log_sum.upper)) *
                       (delta[1] - products.upper);
            score[2] = power_of_two(fmaf(score[2], run.scale, -log_sum.lower)) *
                       (delta[2] - products.lower);
            score[3] = power_of_two(fmaf(score[3], run.scale, -log_sum.lower)) *
                       (delta[3] - products.lower);
        }
        u32 packed[TILE / 16][4];
        pack(packed, scores);
        add_rows_by_columns(query_delta, packed, tiles.keys[now]);
        copy_async_wait<0>();
        __syncthreads();
    }
    const float scale = run.scale * LN_2; // 1 / sqrt(head_width)
    write_rows(static_cast<bf16 *>(run.qkv_delta) + head.qkv, head.stride, first_query, run,
               query_delta, scale, scale, tiles.queries, warp_row);
}

template <u32 WIDTH> struct KeyTiles {
    Tile<WIDTH> keys;
    Tile<WIDTH> values;
    Tile<WIDTH> queries[2];
    Tile<WIDTH> out_deltas[2];
    float log_sums[2][TILE];
    float products[2][TILE];
};

// The sum of a query's outputs times their gradients, by two threads for each of the tile's queries.
__device__ __forceinline__ float row_product(const Attention &run, const Head &head, u32 query) {
    float sum = 0.0f;
    if (query < run.context) {
        const u64 at = head.out + query * head.out_stride;
        const bf16 *out = static_cast<const bf16 *>(run.out) + at;
        const bf16 *delta = static_cast<const bf16 *>(run.out_delta) + at;
        for (u32 index = threadIdx.x % 2 * 4; index < run.head_width; index += 8) {
            const float4 a = load_four(out + index), b = load_four(delta + index);
            sum += (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
        }
    }
    return sum + __shfl_xor_sync(ALL_LANES, sum, 1);
}

// Copies a tile of queries, of their outputs' gradients, and of the two numbers of each, of which the
// second is found here where no other kernel has found it before (`ALONE`).
template <bool ALONE, u32 WIDTH>
__device__ __forceinline__ void copy_queries(KeyTiles<WIDTH> &tiles, u32 slot, u32 first,
                                             const Attention &run, const Head &head) {
    tiles.queries[slot].copy(static_cast<const bf16 *>(run.qkv) + head.qkv, head.stride, first,
                             run.context, run.head_width);
    tiles.out_deltas[slot].copy(static_cast<const bf16 *>(run.out_delta) + head.out,
                                head.out_stride, first, run.context, run.head_width);
    copy_async_commit();
    if (threadIdx.x < TILE) {
        const u32 query = first + threadIdx.x;
        const bool there = query < run.context;
        tiles.log_sums[slot][threadIdx.x] = there ? run.log_sums[head.row + query] : LARGEST;
        if (!ALONE) {
            tiles.products[slot][threadIdx.x] = there ? run.products[head.row + query] : 0.0f;
        }
    }
    if (ALONE) {
        tiles.products[slot][threadIdx.x / 2] = row_product(run, head, first + threadIdx.x / 2);
    }
}

// Of the keys and values of tile `block`. Transposed: a warp has 16 keys, and the columns of its scores
// are queries.
template <bool ALONE, u32 WIDTH>
__device__ __forceinline__ void key_gradient(const Attention &run, u32 block,
                                             u32 tiles_of_queries) {
    KeyTiles<WIDTH> &tiles = *reinterpret_cast<KeyTiles<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * WARP_ROWS;
    const u32 first_key = block * TILE;
    const bf16 *keys = static_cast<const bf16 *>(run.qkv) + head.qkv + head.keys;

    tiles.keys.copy(keys, head.stride, first_key, run.context, run.head_width);
    tiles.values.copy(keys + head.keys, head.stride, first_key, run.context, run.head_width);
    copy_queries<ALONE>(tiles, 0, first_key, run, head);
    copy_async_wait<0>();
    __syncthreads();
    Left<WIDTH> key, value;
    key.load(tiles.keys, warp_row);
    value.load(tiles.values, warp_row);

    float key_delta[WIDTH / 8][4] = {}, value_delta[WIDTH / 8][4] = {};
    for (u32 tile = block; tile < tiles_of_queries; ++tile) {
        const u32 now = (tile - block) % 2;
        if (tile + 1 < tiles_of_queries) {
            copy_queries<ALONE>(tiles, 1 - now, (tile + 1) * TILE, run, head);
        }
        float scores[TILE / 8][4] = {}, deltas[TILE / 8][4] = {};
        add_rows_by_rows(scores, key, tiles.queries[now]);
        add_rows_by_rows(deltas, value, tiles.out_deltas[now]);
#pragma unroll
        for (u32 column = 0; column < TILE / 8; ++column) {
            const u32 query = 8 * column + 2 * (lane % 4);
            const float2 log_sum = *reinterpret_cast<const float2 *>(&tiles.log_sums[now][query]);
            const float2 product = *reinterpret_cast<const float2 *>(&tiles.products[now][query]);
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const float log = part % 2 == 0 ? log_sum.x : log_sum.y;
                float weight = power_of_two(fmaf(scores[column][part], run.scale, -log));
                // Before the key: only in the tile on the diagonal.
                const u32 own = warp_row + lane / 4 + part / 2 * 8;
                weight = tile == block && query + part % 2 < own ? 0.0f : weight;
                scores[column][part] = weight;
                deltas[column][part] =
                    weight * (deltas[column][part] - (part % 2 == 0 ? product.x : product.y));
            }
        }
        u32 packed[TILE / 16][4];
        pack(packed, scores);
        add_rows_by_columns(value_delta, packed, tiles.out_deltas[now]);
        pack(packed, deltas);
        add_rows_by_columns(key_delta, packed, tiles.queries[now]);
        copy_async_wait<0>();
        __syncthreads();
    }
    const float scale = run.scale * LN_2;
    bf16 *key_rows = static_cast<bf16 *>(run.qkv_delta) + head.qkv + head.keys;
    write_rows(key_rows, head.stride, first_key, run, key_delta, scale, scale, tiles.keys,
               warp_row);
    write_rows(key_rows + head.keys, head.stride, first_key, run, value_delta, 1.0f, 1.0f,
               tiles.values, warp_row);
}

// `BLOCKS`: of a multiprocessor, for which registers are shared out. `tile_gradient` is both gradients
// where all of the context is one tile.
#define ATTENTION_KERNELS(WIDTH, BLOCKS)                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS + 1) attend_bf16_##WIDTH(         \
        const Attention run) {                                                                     \
        attend<WIDTH>(run);                                                                        \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) query_gradient_bf16_##WIDTH(     \
        const Attention run) {                                                                     \
        query_gradient<WIDTH>(run, gridDim.x - 1 - blockIdx.x);                                    \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) key_gradient_bf16_##WIDTH(       \
        const Attention run) {                                                                     \
        key_gradient<false, WIDTH>(run, blockIdx.x, gridDim.x);                                    \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) tile_gradient_bf16_##WIDTH(      \
        const Attention run) {                                                                     \
        if (blockIdx.x == 0) {                                                                     \
            query_gradient<WIDTH>(run, 0);                                                         \
        } else {                                                                                   \
            key_gradient<true, WIDTH>(run, 0, 1);                                                  \
        }                                                                                          \
    }

ATTENTION_KERNELS(16, 3)
ATTENTION_KERNELS(32, 3)
ATTENTION_KERNELS(64, 3)
ATTENTION_KERNELS(128, 1)
