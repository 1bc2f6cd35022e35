// The MLP's first product, with LayerNorm before it and GELU behind it, and the gradient that comes back to it,
// times GELU's slope; for Hopper and rows of at most 384. The left rows stay on the chip while all columns of
// the right operand pass by. Two blocks share what passes, which halves what the L2 cache has to deliver.
// While one group of warps multiplies a tile, the other one finishes its own.
#include "gpt_norm.cuh"
#include "wgmma.cuh"

constexpr u32 ROWS = 128;       // of a block
constexpr u32 TILE = 128;       // columns of a result's tile
constexpr u32 EDGE = 64;        // of a box, which is 128 bytes wide: as wide as a swizzle
constexpr u32 BOX = EDGE * EDGE;
constexpr u32 PARTS = 6;        // boxes along the longest inner side
constexpr u32 STAGES = 4;
constexpr u32 PEERS = 2;        // blocks of a cluster
constexpr u32 GROUP = 128;      // threads that issue wgmma together
constexpr u32 WORKERS = 2 * GROUP;
constexpr u32 THREADS = WORKERS + WARP;
constexpr u32 PAIRS = TILE / 16; // of pieces of 8 columns, in a tile's row

struct RowProduct {
    TensorMap left;       // (rows, inner); with LayerNorm it is written
    TensorMap right;      // (columns, inner)
    TensorMap slope;      // (rows, columns): GELU's; written, or read by the gradient
    TensorMap result;     // (rows, columns); the gradient's may be `slope`
    const bf16 *x;        // (rows, inner): what LayerNorm takes
    const float *gain;    // (inner)
    float2 *moments;      // (rows), written
    u32 rows;             // a multiple of 128
    u32 columns;
    u32 inner;            // a multiple of 64
    u32 unused;
};

struct __align__(1024) Shared {
    bf16 left[PARTS][2 * BOX];
    bf16 right[STAGES][2 * BOX];
    bf16 tiles[2][4 * BOX]; // each group's
    u64 full[STAGES];
    u64 empty[STAGES];
    u64 left_full;
    u64 slope_full[2];
};

// d (64, 128) += a (64, 16) b (128, 16)^T
__device__ __forceinline__ void multiply_add(float (&d)[64], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b));
}

// The groups multiply in turns, so that one has the tensor cores to itself while the other one writes. It
// also keeps a group from waiting for a stage's use after the next one, which its barrier's parity could
// not tell from the use before.
__device__ __forceinline__ void wait_for_turn(u32 group) { barrier_sync(3 + group, WORKERS); }
__device__ __forceinline__ void give_turn_to(u32 group) { barrier_arrive(3 + group, WORKERS); }
__device__ __forceinline__ void group_sync(u32 group) { barrier_sync(1 + group, GROUP); }
__device__ __forceinline__ void workers_sync() { barrier_sync(5, WORKERS); }

// How often a cluster takes new rows.
__device__ __forceinline__ u32 rounds(const RowProduct &run) {
    const u32 pairs = (run.rows + PEERS * ROWS - 1) / (PEERS * ROWS);
    const u32 clusters = gridDim.x / PEERS, cluster = blockIdx.x / PEERS;
    return (pairs + clusters - 1 - cluster) / clusters;
}

__device__ __forceinline__ u32 tiles_of(const RowProduct &run) {
    return (run.columns + TILE - 1) / TILE;
}

// The columns of a cluster's `turn`-th tile: clusters begin at different ones, so that they do not ask the same
// parts of the cache for the same things at once.
__device__ __forceinline__ u32 tile_column(u32 turn, u32 across) {
    return (turn + blockIdx.x / PEERS) % across * TILE;
}

// One thread of each block keeps the stages of both filled with its half of the right operand's tiles.
__device__ __forceinline__ void produce(const RowProduct &run, Shared &own) {
    const u32 across = tiles_of(run), parts = run.inner / EDGE, rank = cluster_rank();
    u32 count = 0;
    for (u32 round = rounds(run); round > 0; --round) {
        for (u32 tile = 0; tile < across; ++tile) {
            const u32 column = tile_column(tile, across);
            for (u32 part = 0; part < parts; ++part, ++count) {
                const u32 slot = count % STAGES;
                barrier_wait(&own.empty[slot], count / STAGES % 2 ^ 1);
                barrier_expect(&own.full[slot], sizeof(own.right[slot]));
                for (u32 box = rank; box < 2; box += PEERS) {
                    copy_box_to((1 << PEERS) - 1, own.right[slot] + box * BOX, run.right,
                                part * EDGE, column + box * EDGE, &own.full[slot]);
                }
            }
        }
    }
}

// LayerNorm of the block's rows, eight of a warp at a time, which is what is on its way together.
__device__ __forceinline__ void normalise_left(const RowProduct &run, Shared &own, u32 first_row) {
    constexpr u32 FOURS = PARTS * EDGE / (4 * WARP), AT_A_TIME = 8;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, fours = run.inner / 4;
    Row<FOURS> gain;
    gain.load(run.gain, fours);
    for (u32 batch = 0; batch < ROWS; batch += AT_A_TIME * WORKERS / WARP) {
        const u32 first = batch + AT_A_TIME * warp;
        Row<FOURS> rows[AT_A_TIME];
#pragma unroll
        for (u32 index = 0; index < AT_A_TIME; ++index) {
            rows[index].load(run.x + static_cast<u64>(first_row + first + index) * run.inner, fours);
        }
#pragma unroll
        for (u32 index = 0; index < AT_A_TIME; ++index) {
            const u32 row = first + index;
            const float2 moments = statistics(rows[index], run.inner);
            if (lane == 0) {
                run.moments[first_row + row] = moments;
            }
#pragma unroll
            for (u32 part = 0; part < FOURS; ++part) {
                const u32 four = part * WARP + lane;
                float4 value = rows[index].of[part];
#pragma unroll
                for (u32 at = 0; at < 4; ++at) {
                    float &one = (&value.x)[at];
                    one = (one - moments.x) * moments.y * (&gain.of[part].x)[at];
                }
                if (four < fours) {
                    bf16 *box_row = own.left[four / 16] + row * EDGE;
                    store_four(box_row + ((four % 16 / 2) ^ (row % 8)) * 8 + four % 2 * 4, value);
                }
            }
        }
    }
}

// Brings the rows of a round, when nobody needs those before any longer.
template <bool FORWARD>
__device__ __forceinline__ void fill_left(const RowProduct &run, Shared &own, u32 first_row,
                                          u32 round) {
    const u32 parts = run.inner / EDGE;
    if (FORWARD && threadIdx.x == 0) {
        bulk_wait_read();
    }
    workers_sync();
    if (FORWARD && first_row < run.rows) { // the last cluster's second block may have none
        normalise_left(run, own, first_row);
        show_shared();
    }
    if (FORWARD) {
        workers_sync();
    }
    if (threadIdx.x == 0) {
        if (!FORWARD) {
            barrier_expect(&own.left_full, parts * sizeof(own.left[0]));
        }
        for (u32 part = 0; part < parts; ++part) {
            for (u32 half = 0; half < 2; ++half) {
                const u32 column = part * EDGE, row = first_row + half * EDGE;
                bf16 *box = own.left[part] + half * BOX;
                if (FORWARD) {
                    store_box(run.left, column, row, box);
                } else {
                    copy_box(box, run.left, column, row, &own.left_full);
                }
            }
        }
        if (FORWARD) {
            bulk_commit();
        }
    }
    if (!FORWARD) {
        barrier_wait(&own.left_full, round % 2);
    }
}

// Multiplies the block's rows by a tile whose stages are counted from `count` on.
__device__ __forceinline__ void multiply_tile(float (&sums)[2][64], Shared &own, u32 count,
                                              u32 parts) {
    const u32 lane = threadIdx.x % WARP;
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
        const u64 left = operand(own.left[part]), right = operand(own.right[slot]);
        group_fence();
#pragma unroll
        for (u32 step = 0; step < EDGE / 16; ++step) { // 32 bytes each
            multiply_add(sums[0], left + 2 * step, right + 2 * step);
            multiply_add(sums[1], left + BOX * 2 / 16 + 2 * step, right + 2 * step);
        }
        group_commit();
        if (part > 0) {
            group_wait<1>();
            if (lane < PEERS) {
                barrier_arrive_at(lane, &own.empty[(slot + STAGES - 1) % STAGES]);
            }
        }
    }
    group_wait<0>();
    if (lane < PEERS) {
        barrier_arrive_at(lane, &own.empty[(count + parts - 1) % STAGES]);
    }
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

// Writes a tile with its slope, 64 rows of both at a time: so many have room.
__device__ __forceinline__ void finish_with_gelu(const RowProduct &run, float (&sums)[2][64],
                                                 bf16 *boxes, u32 group, u32 row, u32 column) {
    const bool leads = threadIdx.x % GROUP == 0;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
#pragma unroll
        for (u32 side = 0; side < 2; ++side) {
            u32 active[PAIRS / 2][4], slope[PAIRS / 2][4];
#pragma unroll
            for (u32 index = 0; index < 16; ++index) {
                float &low = sums[half][32 * side + 2 * index];
                float &high = sums[half][32 * side + 2 * index + 1];
                const float low_gelu = gelu_and_slope(low), high_gelu = gelu_and_slope(high);
                active[index / 4][index % 4] = pack_bf16(low_gelu, high_gelu);
                slope[index / 4][index % 4] = pack_bf16(low, high);
            }
            if (side == 0) { // what was written before has left
                if (leads) {
                    bulk_wait_read();
                }
                group_sync(group);
            }
#pragma unroll
            for (u32 pair = 0; pair < PAIRS / 2; ++pair) {
                store_fragment(active[pair], fragment(boxes + side * BOX, pair));
                store_fragment(slope[pair], fragment(boxes + (2 + side) * BOX, pair));
            }
        }
        show_shared();
        group_sync(group);
        if (leads) {
            for (u32 box = 0; box < 4; ++box) {
                store_box(box < 2 ? run.result : run.slope, column + box % 2 * EDGE,
                          row + half * EDGE, boxes + box * BOX);
            }
            bulk_commit();
        }
    }
}

// Writes a tile, times the slope, over it.
__device__ __forceinline__ void finish_with_slope(const RowProduct &run, float (&sums)[2][64],
                                                  bf16 *boxes, u32 group, u32 row, u32 column) {
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
#pragma unroll
        for (u32 side = 0; side < 2; ++side) {
            bf16 *box = boxes + (2 * half + side) * BOX;
            u32 values[PAIRS / 2][4];
#pragma unroll
            for (u32 pair = 0; pair < PAIRS / 2; ++pair) {
                load_fragment(values[pair], box, pair);
            }
#pragma unroll
            for (u32 pair = 0; pair < PAIRS / 2; ++pair) {
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
__device__ __forceinline__ void consume(const RowProduct &run, Shared &own, u32 group) {
    const u32 across = tiles_of(run), parts = run.inner / EDGE;
    const bool leads = threadIdx.x % GROUP == 0;
    bf16 *boxes = own.tiles[group];
    u32 taken = 0;
    for (u32 round = 0; round < rounds(run); ++round) {
        const u32 row = (blockIdx.x + round * gridDim.x) * ROWS;
        fill_left<FORWARD>(run, own, row, round);
        if (group == 1) {
            give_turn_to(0);
        }
        for (u32 tile = group; tile < across; tile += 2, ++taken) {
            const u32 column = tile_column(tile, across);
            if (!FORWARD && leads) { // on its way while the tile is multiplied
                bulk_wait_read();
                barrier_expect(&own.slope_full[group], sizeof(own.tiles[group]));
                for (u32 box = 0; box < 4; ++box) {
                    copy_box(boxes + box * BOX, run.slope, column + box % 2 * EDGE,
                             row + box / 2 * EDGE, &own.slope_full[group]);
                }
            }
            float sums[2][64];
            wait_for_turn(group);
            multiply_tile(sums, own, (round * across + tile) * parts, parts);
            if (tile + 1 < across) {
                give_turn_to(1 - group);
            }
            if (FORWARD) {
                finish_with_gelu(run, sums, boxes, group, row, column);
            } else {
                barrier_wait(&own.slope_full[group], taken % 2);
                finish_with_slope(run, sums, boxes, group, row, column);
            }
        }
    }
    if (leads) {
        bulk_wait();
    }
}

template <bool FORWARD> __device__ __forceinline__ void row_product(const RowProduct &run) {
    const u32 address = shared_address(shared_arena());
    Shared &own = *reinterpret_cast<Shared *>(shared_arena() + (1024 - address % 1024) % 1024);
    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < STAGES; ++slot) {
            barrier_begin(&own.full[slot], 1);
            barrier_begin(&own.empty[slot], PEERS * GROUP / WARP);
        }
        barrier_begin(&own.left_full, 1);
        barrier_begin(&own.slope_full[0], 1);
        barrier_begin(&own.slope_full[1], 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        show_shared();
    }
    cluster_sync();
    const u32 group = uniform(threadIdx.x / GROUP);
    if (group < 2) {
        consume<FORWARD>(run, own, group);
    } else if (threadIdx.x == WORKERS) {
        produce(run, own);
    }
    __syncwarp();
    cluster_sync(); // the peer may write here, and arrive at barriers, until then
}

extern "C" __global__ void __cluster_dims__(PEERS, 1, 1) __launch_bounds__(THREADS, 1)
    normalise_then_up(const __grid_constant__ RowProduct run) {
    row_product<true>(run);
}

extern "C" __global__ void __cluster_dims__(PEERS, 1, 1) __launch_bounds__(THREADS, 1)
    down_gradient_with_slope(const __grid_constant__ RowProduct run) {
    row_product<false>(run);
}

struct Turn {
    const bf16 *from; // (down, across), `matrices` of them, `stride` apart
    bf16 *to;         // (across, down), beside each other
    u64 stride;
    u32 down;         // multiples of 32
    u32 across;
};

// Turns matrices, 32 by 32 elements a block.
extern "C" __global__ void __launch_bounds__(256) turn_matrices(const Turn run) {
    __shared__ bf16 tile[32][34];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 first_row = blockIdx.x / (run.across / 32) * 32;
    const u32 first_column = blockIdx.x % (run.across / 32) * 32;
    const bf16 *from = run.from + blockIdx.y * run.stride;
    bf16 *to = run.to + static_cast<u64>(blockIdx.y) * run.down * run.across;
    for (u32 row = warp; row < 32; row += 8) {
        tile[row][lane] = from[static_cast<u64>(first_row + row) * run.across + first_column + lane];
    }
    __syncthreads();
    for (u32 row = warp; row < 32; row += 8) {
        to[static_cast<u64>(first_column + row) * run.down + first_row + lane] = tile[lane][row];
    }
}
