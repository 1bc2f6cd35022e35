// A head of 64 elements and 256 tokens in one block, on Hopper: its outputs, and all of its gradients. Scores pass
// from one product to the next in registers, and no gradient's product is found twice. Each of two groups of warps
// has two of the four tiles of queries, or of keys, one with much to do and one with little. What the queries'
// gradients need of the keys' waits in shared memory until all is there. Nothing is added atomically.
#include "gpt_attention.cuh"
#include "wgmma.cuh"

constexpr u32 WIDTH = 64;
constexpr u32 GROUP = 128; // threads that issue wgmma together
constexpr u32 EIGHTS = TILE / 8;
constexpr u32 STEPS = TILE / 16;
constexpr u32 PAIRS = HEAD_TILES * (HEAD_TILES + 1) / 2; // of a tile of keys and one of queries that see them

// Tiles are swizzled as the tensor cores expect it.
struct __align__(1024) Shared {
    Tile<WIDTH> queries[HEAD_TILES];
    Tile<WIDTH> out_deltas[HEAD_TILES];
    Tile<WIDTH> keys[HEAD_TILES];
    Tile<WIDTH> values[HEAD_TILES];
    Tile<TILE> score_deltas[PAIRS]; // rows are keys
    float log_sums[HEAD_TILES * TILE];
    float products[HEAD_TILES * TILE];

    __device__ __forceinline__ Tile<TILE> &score_delta(u32 key_tile, u32 query_tile) {
        return score_deltas[key_tile * HEAD_TILES - key_tile * (key_tile + 1) / 2 + query_tile];
    }
};

using Sums = float[EIGHTS][4];

// Of 16 rows of an operand whose inner side is the slow one.
constexpr u32 TURNED_STEP = 16 * WIDTH * sizeof(bf16) >> 4;
constexpr u32 TILE_BYTES = TILE * WIDTH * sizeof(bf16);

#define SUM(I) d[(I) / 4][(I) % 4]

// d (64, 64) = or += a b, of which the inner side is the slow one if TURNED
template <u32 ADD, u32 TURNED>
__device__ __forceinline__ void multiply(Sums &d, u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_NAMES_32
        "}, %32, %33, %34, 1, 1, %35, %35;"
        : WGMMA_SUMS_32(SUM, 0)
        : "l"(a), "l"(b), "n"(ADD), "n"(TURNED));
}

// d (64, 64) += a b, of which a is the group's and of b the inner side is the slow one
__device__ __forceinline__ void multiply_add_own(Sums &d, const u32 (&a)[4], u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_NAMES_32
        "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
        : WGMMA_SUMS_32(SUM, 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Waits until at most so many of the tiles' copies are still under way, for all threads.
template <int LEFT> __device__ __forceinline__ void wait_for_tiles() {
    copy_async_wait<LEFT>();
    show_shared();
    __syncthreads();
}

// What a tile of keys and one of queries are to each other: adds to the gradients of the keys and values, and leaves
// that of the scores.
__device__ __forceinline__ void pair_gradient(Shared &own, const Attention &run, u32 key_tile,
                                              u32 query_tile, Sums &key_delta, Sums &value_delta) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    Sums scores, deltas;
    const u64 keys = operand(own.keys[key_tile].of), values = operand(own.values[key_tile].of);
    const u64 queries = operand(own.queries[query_tile].of);
    const u64 out_deltas = operand(own.out_deltas[query_tile].of);
    group_fence();
    multiply<0, 0>(scores, keys, queries);
#pragma unroll
    for (u32 step = 1; step < STEPS; ++step) {
        multiply<1, 0>(scores, keys + 2 * step, queries + 2 * step);
    }
    multiply<0, 0>(deltas, values, out_deltas);
#pragma unroll
    for (u32 step = 1; step < STEPS; ++step) {
        multiply<1, 0>(deltas, values + 2 * step, out_deltas + 2 * step);
    }
    group_commit();
    group_wait<0>();
    settle(scores);
    settle(deltas);
#pragma unroll
    for (u32 column = 0; column < EIGHTS; ++column) {
        const u32 query = 8 * column + 2 * (lane % 4), at = query_tile * TILE + query;
        const float2 log_sum = *reinterpret_cast<const float2 *>(&own.log_sums[at]);
        const float2 product = *reinterpret_cast<const float2 *>(&own.products[at]);
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            const float log = part % 2 == 0 ? log_sum.x : log_sum.y;
            float weight = power_of_two(fmaf(scores[column][part], run.scale, -log));
            const u32 key = WARP_ROWS * warp + lane / 4 + part / 2 * 8; // not seen by queries before it
            weight = key_tile == query_tile && query + part % 2 < key ? 0.0f : weight;
            scores[column][part] = weight;
            deltas[column][part] =
                weight * (deltas[column][part] - (part % 2 == 0 ? product.x : product.y));
        }
    }
    u32 weights[STEPS][4], score_deltas[STEPS][4];
    pack(weights, scores);
    pack(score_deltas, deltas);
    group_fence();
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
        multiply_add_own(value_delta, weights[step],
                         turned_operand(own.out_deltas[query_tile].of, TILE_BYTES) +
                             step * TURNED_STEP);
    }
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
        multiply_add_own(key_delta, score_deltas[step],
                         turned_operand(own.queries[query_tile].of, TILE_BYTES) +
                             step * TURNED_STEP);
    }
    group_commit();
    Tile<TILE> &to = own.score_delta(key_tile, query_tile);
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
        store_fragment(score_deltas[step],
                       to.at(WARP_ROWS * warp + lane % 16, 2 * step + lane / 16));
    }
    group_wait<0>();
    settle(key_delta);
    settle(value_delta);
}

__device__ __forceinline__ void zero(Sums &sums) {
#pragma unroll
    for (u32 index = 0; index < 4 * EIGHTS; ++index) {
        sums[index / 4][index % 4] = 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(HEAD_THREADS, 1)
    head_gradient_bf16_64x256(const Attention run) {
    const u32 address = shared_address(shared_arena());
    Shared &own = *reinterpret_cast<Shared *>(shared_arena() + (1024 - address % 1024) % 1024);
    const Head head(run, blockIdx.y);
    const u32 group = uniform(threadIdx.x / GROUP), warp_row = threadIdx.x % GROUP / WARP * WARP_ROWS;
    const bf16 *qkv = static_cast<const bf16 *>(run.qkv) + head.qkv;
    const bf16 *out_deltas = static_cast<const bf16 *>(run.out_delta) + head.out;
    for (u32 tile = 0; tile < HEAD_TILES; ++tile) {
        const auto copy = [&](Tile<WIDTH> &to, const bf16 *rows, u64 stride) {
            to.template copy<HEAD_THREADS>(rows, stride, tile * TILE, run.context, run.head_width);
        };
        copy(own.keys[tile], qkv + head.keys, head.stride);
        copy(own.queries[tile], qkv, head.stride);
        copy(own.values[tile], qkv + 2 * head.keys, head.stride);
        copy(own.out_deltas[tile], out_deltas, head.out_stride);
        copy_async_commit();
    }
    fill_numbers<WIDTH>(own, run, head);

    bf16 *to = static_cast<bf16 *>(run.qkv_delta) + head.qkv; // may be `qkv`, all of which is read by then
    const float scale = run.scale * LN_2;
    u32 turn = 0;
    for (u32 late = 0; late < 2; ++late) {
        const u32 key_tile = late == 0 ? group : HEAD_TILES - 1 - group;
        Sums key_delta, value_delta;
        zero(key_delta);
        zero(value_delta);
        for (u32 query_tile = key_tile; query_tile < HEAD_TILES; ++query_tile, ++turn) {
            if (turn == 0) { // both groups take their first turns together
                wait_for_tiles<2>();
            } else if (turn == 1) {
                wait_for_tiles<1>();
            } else if (turn == 2) {
                wait_for_tiles<0>();
            }
            pair_gradient(own, run, key_tile, query_tile, key_delta, value_delta);
        }
        barrier_sync(1 + group, GROUP); // the group alone has read these values: room for results
        Tile<WIDTH> &room = own.values[key_tile];
        write_rows(to + 2 * head.keys, head.stride, key_tile * TILE, run, value_delta, 1.0f, 1.0f,
                   room, warp_row);
        __syncwarp();
        write_rows(to + head.keys, head.stride, key_tile * TILE, run, key_delta, scale, scale, room,
                   warp_row);
    }
    show_shared();
    __syncthreads();
    for (u32 early = 0; early < 2; ++early) {
        const u32 query_tile = early == 0 ? HEAD_TILES - 1 - group : group;
        Sums query_delta;
        zero(query_delta);
        for (u32 key_tile = 0; key_tile <= query_tile; ++key_tile) {
            const u64 left = turned_operand(own.score_delta(key_tile, query_tile).of, TILE_BYTES);
            const u64 right = turned_operand(own.keys[key_tile].of, TILE_BYTES);
            group_fence();
#pragma unroll
            for (u32 step = 0; step < STEPS; ++step) {
                multiply<1, 1>(query_delta, left + step * TURNED_STEP, right + step * TURNED_STEP);
            }
        }
        group_commit();
        group_wait<0>();
        settle(query_delta);
        write_rows(to, head.stride, query_tile * TILE, run, query_delta, scale, scale,
                   own.queries[query_tile], warp_row);
    }
}

struct __align__(1024) ForwardTiles {
    Tile<WIDTH> queries[HEAD_TILES];
    Tile<WIDTH> keys[HEAD_TILES];
    Tile<WIDTH> values[HEAD_TILES];
};

extern "C" __global__ void __launch_bounds__(HEAD_THREADS, 2)
    head_attend_bf16_64x256(const Attention run) {
    const u32 address = shared_address(shared_arena());
    ForwardTiles &own =
        *reinterpret_cast<ForwardTiles *>(shared_arena() + (1024 - address % 1024) % 1024);
    const Head head(run, blockIdx.y);
    const u32 group = uniform(threadIdx.x / GROUP), warp_row = threadIdx.x % GROUP / WARP * WARP_ROWS;
    const bf16 *qkv = static_cast<const bf16 *>(run.qkv) + head.qkv;
    for (u32 tile = 0; tile < HEAD_TILES; ++tile) {
        const auto copy = [&](Tile<WIDTH> &to, const bf16 *rows) {
            to.template copy<HEAD_THREADS>(rows, head.stride, tile * TILE, run.context,
                                           run.head_width);
        };
        copy(own.queries[tile], qkv);
        copy(own.keys[tile], qkv + head.keys);
        copy(own.values[tile], qkv + 2 * head.keys);
        copy_async_commit();
    }
    for (u32 late = 0; late < 2; ++late) {
        if (late == 0) {
            wait_for_tiles<HEAD_TILES / 2>();
        } else {
            wait_for_tiles<0>();
        }
        const u32 query_tile = late == 0 ? group : HEAD_TILES - 1 - group;
        const u64 queries = operand(own.queries[query_tile].of);
        Seen<WIDTH> seen;
        for (u32 key_tile = 0; key_tile <= query_tile; ++key_tile) {
            Sums scores;
            const u64 keys = operand(own.keys[key_tile].of);
            group_fence();
            multiply<0, 0>(scores, queries, keys);
#pragma unroll
            for (u32 step = 1; step < STEPS; ++step) {
                multiply<1, 0>(scores, queries + 2 * step, keys + 2 * step);
            }
            group_commit();
            group_wait<0>();
            settle(scores);
            if (key_tile == query_tile) {
                hide_later_keys(scores, warp_row, 0);
            }
            u32 weights[STEPS][4];
            seen.weigh(weights, scores, run.scale);
            const u64 values = turned_operand(own.values[key_tile].of, TILE_BYTES);
            group_fence();
#pragma unroll
            for (u32 step = 0; step < STEPS; ++step) {
                multiply_add_own(seen.out, weights[step], values + step * TURNED_STEP);
            }
            group_commit();
            group_wait<0>();
            settle(seen.out);
        }
        barrier_sync(1 + group, GROUP); // the group alone has read these queries: room for results
        seen.write(run, head, query_tile * TILE, warp_row, own.queries[query_tile]);
    }
}
