// The MLP's first product with GELU behind it, and the gradient that comes back to it, times GELU's slope, which the
// first one leaves; for Hopper. Both operands pass through shared memory; two blocks, one below the other, share what
// passes of the right one. While one group of warps multiplies a tile, the other one finishes its own.
#include "wgmma.cuh"

constexpr u32 TILE = 128;       // rows and columns of a result's tile
constexpr u32 EDGE = 64;        // of a box, which is 128 bytes wide: as wide as a swizzle
constexpr u32 BOX = EDGE * EDGE;
constexpr u32 STAGES = 5;       // of EDGE of the inner side
constexpr u32 PEERS = 2;        // blocks of a cluster
constexpr u32 GROUP = 128;      // threads that issue wgmma together
constexpr u32 WORKERS = 2 * GROUP;
constexpr u32 THREADS = WORKERS + GROUP;
constexpr u32 PAIRS = EDGE / 16; // of pieces of 8 columns, in a box's row

struct GeluProduct {
    TensorMap left;   // (rows, inner)
    TensorMap right;  // (columns, inner); for the gradient (inner, columns)
    TensorMap slope;  // (rows, columns): GELU's; written, or read by the gradient
    TensorMap result; // (rows, columns); the gradient's may be `slope`
    u32 rows;         // a multiple of 128
    u32 columns;      // a multiple of 128
    u32 inner;        // a multiple of 64
    u32 unused;
};

struct __align__(1024) Shared {
    bf16 left[STAGES][2 * BOX];  // rows of the tile, one box above the other
    bf16 right[STAGES][2 * BOX]; // columns of the tile, above each other; for the gradient side by side
    bf16 tiles[2][4 * BOX];      // each group's
    u64 full[STAGES];
    u64 empty[STAGES];
    u64 slope_full[2];
};

constexpr u32 STAGE_BYTES = 4 * BOX * sizeof(bf16);

#define SUM(I) d[I]

// d (64, 128) += a (64, 16) b (16, 128), of which b's inner side is the slow one if TURNED
template <u32 TURNED>
__device__ __forceinline__ void multiply_add(float (&d)[64], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_NAMES_64
        "}, %64, %65, 1, 1, 1, 0, %66;"
        : WGMMA_SUMS_32(SUM, 0), WGMMA_SUMS_32(SUM, 32)
        : "l"(a), "l"(b), "n"(TURNED));
}

// The groups multiply in turns, so that one has the tensor cores to itself while the other one writes. It
// also keeps a group from waiting for a stage's use after the next one, which its barrier's parity could
// not tell from the use before.
__device__ __forceinline__ void wait_for_turn(u32 group) { barrier_sync(3 + group, WORKERS); }
__device__ __forceinline__ void give_turn_to(u32 group) { barrier_arrive(3 + group, WORKERS); }
__device__ __forceinline__ void group_sync(u32 group) { barrier_sync(1 + group, GROUP); }

// A block's tiles, one after the other: those of its cluster stand side by side, so that clusters ask for the same
// rows at the same time.
struct Tiles {
    u32 across;
    u32 count; // of a cluster

    __device__ __forceinline__ Tiles(const GeluProduct &run) : across(run.columns / TILE) {
        const u32 pairs = (run.rows + PEERS * TILE - 1) / (PEERS * TILE) * across;
        const u32 clusters = gridDim.x / PEERS;
        count = (pairs + clusters - 1 - blockIdx.x / PEERS) / clusters;
    }

    __device__ __forceinline__ u32 pair(u32 turn) const {
        return blockIdx.x / PEERS + turn * (gridDim.x / PEERS);
    }
    __device__ __forceinline__ u32 row(u32 turn) const {
        return (pair(turn) / across * PEERS + cluster_rank()) * TILE; // the last one may have none
    }
    __device__ __forceinline__ u32 column(u32 turn) const { return pair(turn) % across * TILE; }
};

// One thread of each block keeps its stages filled, and its half of what both share in both.
template <bool FORWARD>
__device__ __forceinline__ void produce(const GeluProduct &run, Shared &own) {
    const u32 rank = cluster_rank(), parts = run.inner / EDGE;
    const Tiles tiles(run);
    Ring<STAGES> ring;
    for (u32 turn = 0; turn < tiles.count; ++turn) {
        const u32 row = tiles.row(turn), column = tiles.column(turn) + rank * EDGE;
        for (u32 part = 0; part < parts; ++part, ring.advance()) {
            u64 *full = &own.full[ring.slot];
            barrier_wait(&own.empty[ring.slot], ring.parity ^ 1);
            barrier_expect(full, STAGE_BYTES);
            for (u32 box = 0; box < 2; ++box) {
                copy_box(own.left[ring.slot] + box * BOX, run.left, part * EDGE, row + box * EDGE,
                         full);
            }
            copy_box_to((1 << PEERS) - 1, own.right[ring.slot] + rank * BOX, run.right,
                        FORWARD ? part * EDGE : column, FORWARD ? column : part * EDGE, full);
        }
    }
}

// Tells both blocks that a group needs a stage no longer.
__device__ __forceinline__ void release(Shared &own, u32 slot) {
    if (threadIdx.x % WARP < PEERS) {
        barrier_arrive_at(threadIdx.x % WARP, &own.empty[slot]);
    }
}

// Multiplies a tile whose stages are counted from `count` on. The next turn may begin when all is enqueued.
template <bool FORWARD>
__device__ __forceinline__ void multiply_tile(float (&sums)[2][64], Shared &own, u32 count,
                                              u32 parts, u32 group, bool more) {
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
#pragma unroll
        for (u32 index = 0; index < 64; ++index) {
            sums[half][index] = 0.0f;
        }
    }
    for (u32 part = 0; part < parts; ++part) {
        const u32 slot = (count + part) % STAGES;
        barrier_wait(&own.full[slot], (count + part) / STAGES % 2);
        const u64 left = operand(own.left[slot]);
        const u64 right = FORWARD ? operand(own.right[slot])
                                  : turned_operand(own.right[slot], BOX * sizeof(bf16));
        constexpr u32 BELOW = BOX * sizeof(bf16) >> 4, LEFT_STEP = 16 * sizeof(bf16) >> 4;
        constexpr u32 RIGHT_STEP = FORWARD ? LEFT_STEP : LEFT_STEP * EDGE;
        group_fence();
#pragma unroll
        for (u32 step = 0; step < EDGE / 16; ++step) {
            multiply_add<!FORWARD>(sums[0], left + step * LEFT_STEP, right + step * RIGHT_STEP);
            multiply_add<!FORWARD>(sums[1], left + BELOW + step * LEFT_STEP,
                                   right + step * RIGHT_STEP);
        }
        group_commit();
        if (part > 0) {
            group_wait<1>();
            release(own, (slot + STAGES - 1) % STAGES);
        }
    }
    if (more) {
        give_turn_to(1 - group);
    }
    group_wait<0>();
    settle(sums);
    release(own, (count + parts - 1) % STAGES);
}

// Where this lane finds its row of the four 8 by 8 matrices of 16 rows and 16 columns, in a box.
__device__ __forceinline__ bf16 *fragment(bf16 *box, u32 pair) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    const u32 row = 16 * warp + lane % 16, piece = 2 * pair + lane / 16;
    return box + row * EDGE + (piece ^ (lane % 8)) * 8;
}

__device__ __forceinline__ void load_fragment(u32 (&values)[4], bf16 *box, u32 pair) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
                 : "r"(shared_address(fragment(box, pair)))
                 : "memory");
}

// GELU of `value`, which becomes its slope.
__device__ __forceinline__ float gelu_and_slope(float &value) {
    const float square = value * value, half = 0.5f * value;
    const float tanh_inner =
        tanh_for<bf16>(value * fmaf(GELU_SLOPE * GELU_CUBIC, square, GELU_SLOPE));
    const float inner_slope = fmaf(3.0f * GELU_SLOPE * GELU_CUBIC, square, GELU_SLOPE);
    value = fmaf(half * inner_slope, fmaf(-tanh_inner, tanh_inner, 1.0f),
                 fmaf(0.5f, tanh_inner, 0.5f));
    return fmaf(half, tanh_inner, half);
}

// Writes a tile with its slope, 64 by 64 of both at a time, two of which have room.
__device__ __forceinline__ void finish_with_gelu(const GeluProduct &run, float (&sums)[2][64],
                                                 bf16 *boxes, u32 group, u32 row, u32 column) {
    const bool leads = threadIdx.x % GROUP == 0;
#pragma unroll
    for (u32 quarter = 0; quarter < 4; ++quarter) {
        const u32 half = quarter / 2, side = quarter % 2;
        u32 active[PAIRS][4], slope[PAIRS][4];
#pragma unroll
        for (u32 index = 0; index < 4 * PAIRS; ++index) {
            float &low = sums[half][32 * side + 2 * index];
            float &high = sums[half][32 * side + 2 * index + 1];
            const float low_gelu = gelu_and_slope(low), high_gelu = gelu_and_slope(high);
            active[index / 4][index % 4] = pack_bf16(low_gelu, high_gelu);
            slope[index / 4][index % 4] = pack_bf16(low, high);
        }
        if (leads) { // what was written two quarters before has left
            bulk_wait_read<1>();
        }
        group_sync(group);
        bf16 *box = boxes + side * 2 * BOX;
#pragma unroll
        for (u32 pair = 0; pair < PAIRS; ++pair) {
            store_fragment(active[pair], fragment(box, pair));
            store_fragment(slope[pair], fragment(box + BOX, pair));
        }
        show_shared();
        group_sync(group);
        if (leads) {
            store_box(run.result, column + side * EDGE, row + half * EDGE, box);
            store_box(run.slope, column + side * EDGE, row + half * EDGE, box + BOX);
            bulk_commit();
        }
    }
}

// Writes a tile, times the slope, over it.
__device__ __forceinline__ void finish_with_slope(const GeluProduct &run, float (&sums)[2][64],
                                                  bf16 *boxes, u32 group, u32 row, u32 column) {
#pragma unroll
    for (u32 quarter = 0; quarter < 4; ++quarter) {
        const u32 half = quarter / 2, side = quarter % 2;
        bf16 *box = boxes + quarter * BOX;
        u32 values[PAIRS][4];
#pragma unroll
        for (u32 pair = 0; pair < PAIRS; ++pair) {
            load_fragment(values[pair], box, pair);
        }
#pragma unroll
        for (u32 pair = 0; pair < PAIRS; ++pair) {
#pragma unroll
            for (u32 word = 0; word < 4; ++word) {
                const u32 at = 32 * side + 8 * pair + 2 * word;
                u32 &value = values[pair][word];
                value = pack_bf16(sums[half][at] * low_bf16(value),
                                  sums[half][at + 1] * high_bf16(value));
            }
            store_fragment(values[pair], fragment(box, pair));
        }
    }
    show_shared();
    group_sync(group);
    if (threadIdx.x % GROUP == 0) {
        for (u32 box = 0; box < 4; ++box) {
            store_box(run.result, column + box % 2 * EDGE, row + box / 2 * EDGE, boxes + box * BOX);
        }
        bulk_commit();
    }
}

template <bool FORWARD>
__device__ __forceinline__ void consume(const GeluProduct &run, Shared &own, u32 group) {
    const u32 parts = run.inner / EDGE;
    const Tiles tiles(run);
    const bool leads = threadIdx.x % GROUP == 0;
    bf16 *boxes = own.tiles[group];
    if (group == 1) {
        give_turn_to(0);
    }
    for (u32 turn = group; turn < tiles.count; turn += 2) {
        const u32 row = tiles.row(turn), column = tiles.column(turn);
        if (!FORWARD && leads) { // on its way while the tile is multiplied
            bulk_wait_read<0>();
            barrier_expect(&own.slope_full[group], sizeof(own.tiles[group]));
            for (u32 box = 0; box < 4; ++box) {
                copy_box(boxes + box * BOX, run.slope, column + box % 2 * EDGE,
                         row + box / 2 * EDGE, &own.slope_full[group]);
            }
        }
        float sums[2][64];
        wait_for_turn(group);
        multiply_tile<FORWARD>(sums, own, turn * parts, parts, group, turn + 1 < tiles.count);
        if (FORWARD) {
            finish_with_gelu(run, sums, boxes, group, row, column);
        } else {
            barrier_wait(&own.slope_full[group], turn / 2 % 2);
            finish_with_slope(run, sums, boxes, group, row, column);
        }
    }
    if (leads) {
        bulk_wait();
    }
}

template <bool FORWARD> __device__ __forceinline__ void gelu_product(const GeluProduct &run) {
    const u32 address = shared_address(shared_arena());
    Shared &own = *reinterpret_cast<Shared *>(shared_arena() + (1024 - address % 1024) % 1024);
    if (threadIdx.x == 0) {
        barrier_begin(&own.slope_full[0], 1);
        barrier_begin(&own.slope_full[1], 1);
    }
    begin_stages<STAGES>(own.full, own.empty, PEERS * GROUP / WARP);
    const u32 group = uniform(threadIdx.x / GROUP);
    if (group < 2) {
        take_registers<232>();
        consume<FORWARD>(run, own, group);
    } else {
        give_registers<40>();
        if (threadIdx.x == WORKERS) {
            produce<FORWARD>(run, own);
        }
    }
    __syncwarp();
    cluster_sync(); // the peer may write here, and arrive at barriers, until then
}

extern "C" __global__ void __cluster_dims__(PEERS, 1, 1) __launch_bounds__(THREADS, 1)
    up_with_gelu(const __grid_constant__ GeluProduct run) {
    gelu_product<true>(run);
}

extern "C" __global__ void __cluster_dims__(PEERS, 1, 1) __launch_bounds__(THREADS, 1)
    down_gradient_with_slope(const __grid_constant__ GeluProduct run) {
    gelu_product<false>(run);
}
