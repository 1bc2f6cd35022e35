// Causal attention in bf16 without the matrix of scores in memory (flash attention, Dao 2023): softmax
// and its sums in float32, products by the tensor cores. A block of four warps has 64 queries, or 64
// keys, of one head; a warp has 16 of them. The gradient is two kernels, one for the queries and one for
// keys and values: scores are found twice, and in exchange nothing is added atomically, so that the same
// bits come out each time. Where a whole head has room on a multiprocessor, one block finds all of its
// gradients from the same scores.
#include "gpt_attention.cuh"

template <u32 WIDTH> struct ForwardTiles {
    Tile<WIDTH> queries;
    Tile<WIDTH> keys[2];
    Tile<WIDTH> values[2];
};

template <u32 WIDTH> __device__ __forceinline__ void attend(const Attention &run) {
    ForwardTiles<WIDTH> &tiles = *reinterpret_cast<ForwardTiles<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 warp_row = threadIdx.x / WARP * WARP_ROWS;
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

    Seen<WIDTH> seen;
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
        u32 weights[TILE / 16][4];
        seen.weigh(weights, scores, run.scale);
        // This turn's values; the next turn's two groups may still be under way.
        if (tile < block) {
            copy_async_wait<2>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        add_rows_by_columns(seen.out, weights, tiles.values[now]);
        if (tile < block) {
            copy_async_wait<1>(); // the next keys
        }
        __syncthreads();
    }
    seen.write(run, head, first_query, warp_row, tiles.queries);
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

constexpr u32 STRIPS = HEAD_TILES * TILE / WARP_ROWS;

template <u32 WIDTH> struct HeadTiles {
    Tile<WIDTH> queries[HEAD_TILES];
    Tile<WIDTH> out_deltas[HEAD_TILES];
    Tile<WIDTH> keys[HEAD_TILES];
    Tile<WIDTH> values[HEAD_TILES];
    Tile<TILE> score_deltas[2][HEAD_TILES]; // rows are keys, columns a tile's queries
    float log_sums[HEAD_TILES * TILE];
    float products[HEAD_TILES * TILE];
};

// What the 16 keys of a strip and 32 queries of a tile are to each other: adds to the gradients of the keys
// and values, and leaves that of the scores for the queries. With 64 queries no registers would be left to
// have operands on their way.
template <u32 WIDTH>
__device__ __forceinline__ void strip_gradient(HeadTiles<WIDTH> &tiles, const Attention &run,
                                               u32 strip, u32 tile, u32 first_query,
                                               float (&key_delta)[WIDTH / 8][4],
                                               float (&value_delta)[WIDTH / 8][4]) {
    constexpr u32 EIGHTS = 4;
    const u32 lane = threadIdx.x % WARP;
    const u32 key_tile = strip * WARP_ROWS / TILE, first_row = strip * WARP_ROWS % TILE;
    float scores[EIGHTS][4] = {}, deltas[EIGHTS][4] = {};
    Left<WIDTH> left;
    left.load(tiles.keys[key_tile], first_row);
    add_rows_by_rows(scores, left, tiles.queries[tile], first_query);
    left.load(tiles.values[key_tile], first_row);
    add_rows_by_rows(deltas, left, tiles.out_deltas[tile], first_query);
#pragma unroll
    for (u32 column = 0; column < EIGHTS; ++column) {
        const u32 query = first_query + 8 * column + 2 * (lane % 4);
        const float2 log_sum =
            *reinterpret_cast<const float2 *>(&tiles.log_sums[tile * TILE + query]);
        const float2 product =
            *reinterpret_cast<const float2 *>(&tiles.products[tile * TILE + query]);
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            const float log = part % 2 == 0 ? log_sum.x : log_sum.y;
            float weight = power_of_two(fmaf(scores[column][part], run.scale, -log));
            // Before the key: only in the tile on the diagonal.
            const u32 own = first_row + lane / 4 + part / 2 * 8;
            weight = tile == key_tile && query + part % 2 < own ? 0.0f : weight;
            scores[column][part] = weight;
            deltas[column][part] =
                weight * (deltas[column][part] - (part % 2 == 0 ? product.x : product.y));
        }
    }
    u32 packed[EIGHTS / 2][4];
    pack(packed, scores);
    add_rows_by_columns(value_delta, packed, tiles.out_deltas[tile], first_query);
    pack(packed, deltas);
    Tile<TILE> &score_deltas = tiles.score_deltas[tile % 2][key_tile];
#pragma unroll
    for (u32 part = 0; part < EIGHTS / 2; ++part) {
#pragma unroll
        for (u32 word = 0; word < 4; ++word) {
            bf16 *piece = score_deltas.at(first_row + lane / 4 + word % 2 * 8,
                                          first_query / 8 + 2 * part + word / 2);
            reinterpret_cast<u32 *>(piece)[lane % 4] = packed[part][word];
        }
    }
    add_rows_by_columns(key_delta, packed, tiles.queries[tile], first_query);
}

// The gradient of a tile's queries, of which a warp has 16, and half of their columns.
template <u32 WIDTH>
__device__ __forceinline__ void head_query_gradient(HeadTiles<WIDTH> &tiles, const Attention &run,
                                                    const Head &head, u32 tile) {
    constexpr u32 COLUMNS = WIDTH / 2;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 rows = warp % 4, first_piece = warp / 4 * (COLUMNS / 8);
    float sums[COLUMNS / 8][4] = {};
    for (u32 key_tile = 0; key_tile <= tile; ++key_tile) {
#pragma unroll
        for (u32 part = 0; part < TILE / 16; ++part) {
            u32 left[4];
            load_matrices_transposed(
                left, tiles.score_deltas[tile % 2][key_tile].at(16 * part + lane / 16 * 8 + lane % 8,
                                                                2 * rows + lane / 8 % 2));
#pragma unroll
            for (u32 column = 0; column < COLUMNS / 16; ++column) {
                u32 right[4];
                load_matrices_transposed(right,
                                         tiles.keys[key_tile].at(16 * part + lane % 16,
                                                                 first_piece + 2 * column + lane / 16));
                multiply_add_bf16(sums[2 * column], left, right[0], right[1]);
                multiply_add_bf16(sums[2 * column + 1], left, right[2], right[3]);
            }
        }
    }
    // Through the queries, which nobody reads any longer, so that whole pieces are written.
    Tile<WIDTH> &room = tiles.queries[tile];
    const float scale = run.scale * LN_2; // 1 / sqrt(head_width)
#pragma unroll
    for (u32 column = 0; column < COLUMNS / 8; ++column) {
#pragma unroll
        for (u32 below = 0; below < 2; ++below) {
            bf16 *piece = room.at(16 * rows + lane / 4 + 8 * below, first_piece + column);
            reinterpret_cast<u32 *>(piece)[lane % 4] =
                pack_bf16(sums[column][2 * below] * scale, sums[column][2 * below + 1] * scale);
        }
    }
    __syncwarp();
#pragma unroll
    for (u32 index = lane; index < WARP_ROWS * COLUMNS / 8; index += WARP) {
        const u32 row = 16 * rows + index / (COLUMNS / 8);
        const u32 piece = first_piece + index % (COLUMNS / 8);
        const u32 query = tile * TILE + row;
        if (query < run.context && piece * 8 < run.head_width) {
            *reinterpret_cast<uint4 *>(static_cast<bf16 *>(run.qkv_delta) + head.qkv +
                                       query * head.stride + piece * 8) =
                *reinterpret_cast<const uint4 *>(room.at(row, piece));
        }
    }
}

// All gradients of a head whose context is at most four tiles. A warp has the keys of two strips, an early
// one and a late one, since few queries see the late ones; tiles of queries are taken in turns.
template <u32 WIDTH> __device__ __forceinline__ void head_gradient(const Attention &run) {
    HeadTiles<WIDTH> &tiles = *reinterpret_cast<HeadTiles<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 warp = uniform(threadIdx.x / WARP), count = (run.context + TILE - 1) / TILE;
    const bf16 *queries = static_cast<const bf16 *>(run.qkv) + head.qkv;
    const bf16 *out_deltas = static_cast<const bf16 *>(run.out_delta) + head.out;
    for (u32 tile = 0; tile < HEAD_TILES; ++tile) {
        if (tile < count) {
            const auto copy = [&](Tile<WIDTH> &to, const bf16 *rows, u64 stride) {
                to.template copy<HEAD_THREADS>(rows, stride, tile * TILE, run.context, run.head_width);
            };
            copy(tiles.queries[tile], queries, head.stride);
            copy(tiles.out_deltas[tile], out_deltas, head.out_stride);
            copy(tiles.keys[tile], queries + head.keys, head.stride);
            copy(tiles.values[tile], queries + 2 * head.keys, head.stride);
        }
        copy_async_commit();
    }
    fill_numbers<WIDTH>(tiles, run, head);
    copy_async_wait<HEAD_TILES - 1>();
    __syncthreads();
    float key_delta[2][WIDTH / 8][4] = {}, value_delta[2][WIDTH / 8][4] = {};
    const u32 strips[2] = {warp, STRIPS - 1 - warp};
    for (u32 tile = 0; tile < count; ++tile) {
#pragma unroll
        for (u32 which = 0; which < 2; ++which) {
            if (strips[which] * WARP_ROWS >= (tile + 1) * TILE) {
                continue;
            }
#pragma unroll 1
            for (u32 first_query = 0; first_query < TILE; first_query += TILE / 2) {
                strip_gradient(tiles, run, strips[which], tile, first_query, key_delta[which],
                               value_delta[which]);
            }
        }
        if (tile == 0) { // the next tile
            copy_async_wait<HEAD_TILES - 2>();
        } else if (tile == 1) {
            copy_async_wait<HEAD_TILES - 3>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        head_query_gradient(tiles, run, head, tile);
    }
    const float scale = run.scale * LN_2;
    bf16 *key_rows = static_cast<bf16 *>(run.qkv_delta) + head.qkv + head.keys;
#pragma unroll
    for (u32 which = 0; which < 2; ++which) {
        const u32 tile = strips[which] * WARP_ROWS / TILE, row = strips[which] * WARP_ROWS % TILE;
        if (tile < count) { // through the warp's own values, which it alone has read
            write_rows(key_rows + head.keys, head.stride, tile * TILE, run, value_delta[which], 1.0f,
                       1.0f, tiles.values[tile], row);
            __syncwarp();
            write_rows(key_rows, head.stride, tile * TILE, run, key_delta[which], scale, scale,
                       tiles.values[tile], row);
        }
    }
}

// Keys that a warp takes at a time: with 64 no registers would be left to have operands on their way.
constexpr u32 HEAD_KEYS = 32;

template <u32 WIDTH> struct HeadForwardTiles {
    Tile<WIDTH> queries[HEAD_TILES];
    Tile<WIDTH> keys[HEAD_TILES];
    Tile<WIDTH> values[HEAD_TILES];
};

// The outputs of such a head. A warp has an early and a late strip of queries.
template <u32 WIDTH> __device__ __forceinline__ void head_attend(const Attention &run) {
    HeadForwardTiles<WIDTH> &tiles = *reinterpret_cast<HeadForwardTiles<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 warp = uniform(threadIdx.x / WARP), count = (run.context + TILE - 1) / TILE;
    const bf16 *queries = static_cast<const bf16 *>(run.qkv) + head.qkv;
    for (u32 tile = 0; tile < HEAD_TILES; ++tile) {
        if (tile < count) {
            const auto copy = [&](Tile<WIDTH> &to, const bf16 *rows) {
                to.template copy<HEAD_THREADS>(rows, head.stride, tile * TILE, run.context,
                                               run.head_width);
            };
            copy(tiles.queries[tile], queries);
            copy(tiles.keys[tile], queries + head.keys);
            copy(tiles.values[tile], queries + 2 * head.keys);
        }
        copy_async_commit();
    }
    for (u32 late = 0; late < 2; ++late) {
        if (late == 0) {
            copy_async_wait<HEAD_TILES / 2>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        const u32 strip = late == 0 ? warp : STRIPS - 1 - warp;
        const u32 own = strip * WARP_ROWS / TILE, row = strip * WARP_ROWS % TILE;
        if (own >= count) {
            continue;
        }
        Left<WIDTH> query;
        query.load(tiles.queries[own], row);
        Seen<WIDTH> seen;
        for (u32 key = 0; key < (strip + 1) * WARP_ROWS; key += HEAD_KEYS) {
            float scores[HEAD_KEYS / 8][4] = {};
            add_rows_by_rows(scores, query, tiles.keys[key / TILE], key % TILE);
            if (key + HEAD_KEYS > strip * WARP_ROWS) {
                hide_later_keys(scores, strip * WARP_ROWS, key);
            }
            u32 weights[HEAD_KEYS / 16][4];
            seen.weigh(weights, scores, run.scale);
            add_rows_by_columns(seen.out, weights, tiles.values[key / TILE], key % TILE);
        }
        seen.write(run, head, own * TILE, row, tiles.queries[own]);
    }
}

extern "C" __global__ void __launch_bounds__(HEAD_THREADS, 2) head_attend_bf16_64(const Attention run) {
    head_attend<64>(run);
}

extern "C" __global__ void __launch_bounds__(HEAD_THREADS, 1)
    head_gradient_bf16_64(const Attention run) {
    head_gradient<64>(run);
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
