// The MLP's first product with GELU behind it, and the gradient that comes back to it, times GELU's slope, which the
// first one leaves; for Hopper. Both operands pass through shared memory; two blocks, one below the other, share what
// passes of the right one. While one group of warps multiplies a tile, the other one finishes its own.
#include "wgmma.cuh"

// The wider a tile, the less of shared memory's bandwidth its product takes, which is what limits 128 columns.
constexpr u32 ROWS = 128;       // of a result's tile
constexpr u32 COLUMNS = 192;
constexpr u32 EDGE = 64;        // of a box, which is 128 bytes wide: as wide as a swizzle
constexpr u32 BOX = EDGE * EDGE;
constexpr u32 DOWN_BOXES = ROWS / EDGE;
constexpr u32 ACROSS_BOXES = COLUMNS / EDGE;
constexpr u32 RESULT_BOXES = DOWN_BOXES * ACROSS_BOXES;
constexpr u32 SLOTS = 4;        // boxes of a group, of what it writes
constexpr u32 STAGES = 4;       // of EDGE of the inner side
constexpr u32 SUMS = COLUMNS / 2; // of a thread, for 64 rows
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
    u32 columns;      // a multiple of 64
    u32 inner;        // a multiple of 64
    u32 unused;
};

struct __align__(1024) Shared {
    bf16 left[STAGES][DOWN_BOXES * BOX];    // rows of the tile, one box above the other
    bf16 right[STAGES][ACROSS_BOXES * BOX]; // its columns, above each other; for the gradient side by side
    bf16 results[2][SLOTS * BOX];           // each group's
    u64 full[STAGES];
    u64 empty[STAGES];
    u64 slope_full[2][SLOTS];
};

constexpr u32 STAGE_BYTES = (DOWN_BOXES + ACROSS_BOXES) * BOX * sizeof(bf16);

#define SUM(I) d[I]

// d (64, 192) += a (64, 16) b (16, 192), of which b's inner side is the slow one if TURNED
template <u32 TURNED>
__device__ __forceinline__ void multiply_add(float (&d)[SUMS], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" WGMMA_NAMES_96
        "}, %96, %97, 1, 1, 1, 0, %98;"
        : WGMMA_SUMS_32(SUM, 0), WGMMA_SUMS_32(SUM, 32), WGMMA_SUMS_32(SUM, 64)
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

    __device__ __forceinline__ Tiles(const GeluProduct &run)
        : across((run.columns + COLUMNS - 1) / COLUMNS) {
        const u32 pairs = (run.rows + PEERS * ROWS - 1) / (PEERS * ROWS) * across;
        const u32 clusters = gridDim.x / PEERS;
        count = (pairs + clusters - 1 - blockIdx.x / PEERS) / clusters;
    }

    __device__ __forceinline__ u32 pair(u32 turn) const {
        return blockIdx.x / PEERS + turn * (gridDim.x / PEERS);
    }
    __device__ __forceinline__ u32 row(u32 turn) const {
        return (pair(turn) / across * PEERS + cluster_rank()) * ROWS; // the last one may have none
    }
    __device__ __forceinline__ u32 column(u32 turn) const { return pair(turn) % across * COLUMNS; }
};

// One thread of each block keeps its stages filled, and its half of what both share in both.
template <bool FORWARD>
__device__ __forceinline__ void produce(const GeluProduct &run, Shared &own) {
    const u32 rank = cluster_rank(), parts = run.inner / EDGE;
    const Tiles tiles(run);
    Ring<STAGES> ring;
    for (u32 turn = 0; turn < tiles.count; ++turn) {
        const u32 row = tiles.row(turn), column = tiles.column(turn);
        for (u32 part = 0; part < parts; ++part, ring.advance()) {
            u64 *full = &own.full[ring.slot];
            barrier_wait(&own.empty[ring.slot], ring.parity ^ 1);
            barrier_expect(full, STAGE_BYTES);
            for (u32 box = 0; box < DOWN_BOXES; ++box) {
                copy_box(own.left[ring.slot] + box * BOX, run.left, part * EDGE, row + box * EDGE,
                         full);
            }
            bf16 *right = own.right[ring.slot];
            if (FORWARD) { // half of the columns
                copy_box_to((1 << PEERS) - 1, right + rank * ACROSS_BOXES * BOX / PEERS, run.right,
                            part * EDGE, column + rank * COLUMNS / PEERS, full);
            } else { // half of the inner side
                for (u32 box = 0; box < ACROSS_BOXES; ++box) {
                    copy_box_to((1 << PEERS) - 1, right + box * BOX + rank * BOX / PEERS, run.right,
                                column + box * EDGE, part * EDGE + rank * EDGE / PEERS, full);
                }
            }
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
__device__ __forceinline__ void multiply_tile(float (&sums)[DOWN_BOXES][SUMS], Shared &own, u32 count,
                                              u32 parts, u32 group, bool more) {
#pragma unroll
    for (u32 half = 0; half < DOWN_BOXES; ++half) {
#pragma unroll
        for (u32 index = 0; index < SUMS; ++index) {
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
__device__ __forceinline__ void finish_with_gelu(const GeluProduct &run,
                                                 float (&sums)[DOWN_BOXES][SUMS], bf16 *boxes,
                                                 u32 group, u32 row, u32 column) {
    const bool leads = threadIdx.x % GROUP == 0;
#pragma unroll
    for (u32 index = 0; index < RESULT_BOXES; ++index) {
        const u32 half = index / ACROSS_BOXES, side = index % ACROSS_BOXES;
        bf16 *box = boxes + index % 2 * 2 * BOX;
        if (leads) { // what was written two times before has left
            bulk_wait_read<1>();
        }
        group_sync(group);
#pragma unroll
        for (u32 pair = 0; pair < PAIRS; ++pair) {
            u32 active[4], slope[4];
#pragma unroll
            for (u32 word = 0; word < 4; ++word) {
                float &low = sums[half][32 * side + 8 * pair + 2 * word];
                float &high = sums[half][32 * side + 8 * pair + 2 * word + 1];
                const float low_gelu = gelu_and_slope(low), high_gelu = gelu_and_slope(high);
                active[word] = pack_bf16(low_gelu, high_gelu);
                slope[word] = pack_bf16(low, high);
            }
            store_fragment(active, fragment(box, pair));
            store_fragment(slope, fragment(box + BOX, pair));
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

// Brings the slope of one of a tile's boxes.
__device__ __forceinline__ void fetch_slope(const GeluProduct &run, Shared &own, u32 group, u32 row,
                                            u32 column, u32 index) {
    const u32 half = index / ACROSS_BOXES, side = index % ACROSS_BOXES, slot = index % SLOTS;
    barrier_expect(&own.slope_full[group][slot], BOX * sizeof(bf16));
    copy_box(own.results[group] + slot * BOX, run.slope, column + side * EDGE, row + half * EDGE,
             &own.slope_full[group][slot]);
}

// Writes a tile, times the slope, over it. The slopes of its first boxes are on their way; the slots of the first
// ones take those of the last ones.
__device__ __forceinline__ void finish_with_slope(const GeluProduct &run, Shared &own,
                                                  float (&sums)[DOWN_BOXES][SUMS], u32 group,
                                                  u32 row, u32 column, u32 taken) {
    constexpr u32 AGAIN = RESULT_BOXES - SLOTS; // slots that are used twice
#pragma unroll
    for (u32 index = 0; index < RESULT_BOXES; ++index) {
        const u32 half = index / ACROSS_BOXES, side = index % ACROSS_BOXES, slot = index % SLOTS;
        bf16 *box = own.results[group] + slot * BOX;
        barrier_wait(&own.slope_full[group][slot], slot < AGAIN ? index / SLOTS : taken % 2);
#pragma unroll
        for (u32 pair = 0; pair < PAIRS; ++pair) {
            u32 values[4];
            load_fragment(values, box, pair);
#pragma unroll
            for (u32 word = 0; word < 4; ++word) {
                const u32 at = 32 * side + 8 * pair + 2 * word;
                values[word] = pack_bf16(sums[half][at] * low_bf16(values[word]),
                                         sums[half][at + 1] * high_bf16(values[word]));
            }
            store_fragment(values, fragment(box, pair));
        }
        show_shared();
        group_sync(group);
        if (threadIdx.x % GROUP == 0) {
            store_box(run.result, column + side * EDGE, row + half * EDGE, box);
            bulk_commit();
            if (index >= 1 && index <= AGAIN) { // the box before has left
                bulk_wait_read<1>();
                fetch_slope(run, own, group, row, column, index - 1 + SLOTS);
            }
        }
    }
}

template <bool FORWARD>
__device__ __forceinline__ void consume(const GeluProduct &run, Shared &own, u32 group) {
    const u32 parts = run.inner / EDGE;
    const Tiles tiles(run);
    const bool leads = threadIdx.x % GROUP == 0;
    if (group == 1) {
        give_turn_to(0);
    }
    for (u32 turn = group; turn < tiles.count; turn += 2) {
        const u32 row = tiles.row(turn), column = tiles.column(turn);
        if (!FORWARD && leads) { // on its way while the tile is multiplied
            bulk_wait_read<0>();
            for (u32 index = 0; index < SLOTS; ++index) {
                fetch_slope(run, own, group, row, column, index);
            }
        }
        float sums[DOWN_BOXES][SUMS];
        wait_for_turn(group);
        multiply_tile<FORWARD>(sums, own, turn * parts, parts, group, turn + 1 < tiles.count);
        if (FORWARD) {
            finish_with_gelu(run, sums, own.results[group], group, row, column);
        } else {
            finish_with_slope(run, own, sums, group, row, column, turn / 2);
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
        for (u32 slot = 0; slot < 2 * SLOTS; ++slot) {
            barrier_begin(&own.slope_full[slot / SLOTS][slot % SLOTS], 1);
        }
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
