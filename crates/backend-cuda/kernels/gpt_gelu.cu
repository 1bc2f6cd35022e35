// The MLP's first product with GELU behind it, and the gradient that comes back to it with GELU's slope
// behind it, for Hopper: what cuBLASLt has for the second takes twice the time that its memory would.
// Operands come through the bulk copy engine, products are wgmma's, and while one group of warps
// multiplies a tile the other one applies GELU to its own and writes it.
#include "bulk_copy.cuh"
#include "gpt.cuh"

constexpr u32 TILE = 128;        // rows and columns of a result's tile
constexpr u32 INNER = 64;        // of a stage: 128 bytes of bf16, as wide as a swizzle
constexpr u32 STAGES = 4;
constexpr u32 GROUP = 128;       // threads that issue wgmma together
constexpr u32 THREADS = 3 * GROUP;
constexpr u32 PIECES = TILE / 8; // 16 bytes each, of a tile's row

struct GeluProduct {
    TensorMap left;  // (rows, inner)
    TensorMap right; // (columns, inner)
    bf16 *aux;       // (rows, columns): what goes into GELU; written, or read by the gradient
    bf16 *result;    // (rows, columns)
    u32 rows;        // a multiple of 128
    u32 columns;     // a multiple of 128
    u32 inner;       // a multiple of 64
    u32 unused;
};

struct __align__(1024) Stage {
    bf16 left[TILE * INNER];
    bf16 right[TILE * INNER];
};

struct Shared {
    Stage stages[STAGES];
    bf16 tiles[2][TILE * TILE]; // each group's, in pieces that are spread over the banks
    u64 full[STAGES];
    u64 empty[STAGES];
};

// Rows of 128 bytes, swizzled, eight of them 1024 bytes from the next eight.
__device__ __forceinline__ u64 operand(const bf16 *rows) {
    const u64 address = (shared_address(rows) & 0x3ffff) >> 4;
    return address | 1ull << 16 | static_cast<u64>(1024 >> 4) << 32 | 1ull << 62;
}

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

__device__ __forceinline__ void group_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void group_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <u32 LEFT> __device__ __forceinline__ void group_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Where piece `piece` of a row is in a group's tile.
__device__ __forceinline__ bf16 *piece_at(bf16 *tile, u32 row, u32 piece) {
    return tile + (row * PIECES + (piece ^ (row % 8))) * 8;
}

// The groups multiply in turns, so that one has the tensor cores to itself while the other one writes. It
// also keeps a group from waiting for a stage's use after the next one, which its barrier's parity could
// not tell from the use before.
__device__ __forceinline__ void wait_for_turn(u32 group) { barrier_sync(3 + group, 2 * GROUP); }
__device__ __forceinline__ void give_turn_to(u32 group) { barrier_arrive(3 + group, 2 * GROUP); }

// One thread keeps the stages filled with the tiles of both groups, in turns.
__device__ __forceinline__ void produce(const GeluProduct &run, Shared &own) {
    const u32 across = run.columns / TILE, tiles = run.rows / TILE * across;
    const u32 parts = run.inner / INNER;
    u32 count = 0;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        for (u32 part = 0; part < parts; ++part, ++count) {
            const u32 slot = count % STAGES;
            barrier_wait(&own.empty[slot], count / STAGES % 2 ^ 1);
            barrier_expect(&own.full[slot], sizeof(Stage));
            Stage &stage = own.stages[slot];
            copy_box(stage.left, run.left, part * INNER, tile / across * TILE, &own.full[slot]);
            copy_box(stage.right, run.right, part * INNER, tile % across * TILE, &own.full[slot]);
        }
    }
}

// Multiplies a tile whose stages are counted from `count` on.
__device__ __forceinline__ void multiply_tile(float (&sums)[2][64], Shared &own, u32 count,
                                              u32 parts) {
    const bool first_lane = threadIdx.x % WARP == 0;
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
        const u64 left = operand(own.stages[slot].left), right = operand(own.stages[slot].right);
        group_fence();
#pragma unroll
        for (u32 step = 0; step < INNER / 16; ++step) { // 32 bytes each
            multiply_add(sums[0], left + 2 * step, right + 2 * step);
            multiply_add(sums[1], left + 64 * 128 / 16 + 2 * step, right + 2 * step);
        }
        group_commit();
        if (part > 0) {
            group_wait<1>();
            if (first_lane) {
                barrier_arrive(&own.empty[(slot + STAGES - 1) % STAGES]);
            }
        }
    }
    group_wait<0>();
    if (first_lane) {
        barrier_arrive(&own.empty[(count + parts - 1) % STAGES]);
    }
}

template <bool GRADIENT>
__device__ __forceinline__ void consume(const GeluProduct &run, Shared &own, u32 group) {
    const u32 across = run.columns / TILE, tiles = run.rows / TILE * across;
    const u32 parts = run.inner / INNER;
    const u32 thread = threadIdx.x % GROUP, lane = thread % WARP, warp = thread / WARP;
    bf16 *tile_values = own.tiles[group];
    u32 count = group * parts;
    if (group == 1) {
        give_turn_to(0); // every block has a first tile
    }
    for (u32 tile = blockIdx.x + group * gridDim.x; tile < tiles;
         tile += 2 * gridDim.x, count += 2 * parts) {
        const u64 corner =
            static_cast<u64>(tile / across * TILE) * run.columns + tile % across * TILE;
        if (GRADIENT) { // on its way while the tile is multiplied
#pragma unroll
            for (u32 index = thread; index < TILE * PIECES; index += GROUP) {
                const u32 row = index / PIECES, piece = index % PIECES;
                copy_async(piece_at(tile_values, row, piece),
                           run.aux + corner + static_cast<u64>(row) * run.columns + piece * 8, 16);
            }
            copy_async_commit();
        }
        float sums[2][64];
        wait_for_turn(group);
        multiply_tile(sums, own, count, parts);
        if (tile + gridDim.x < tiles) {
            give_turn_to(1 - group);
        }
        if (GRADIENT) {
            copy_async_wait<0>();
            barrier_sync(1 + group, GROUP);
        }
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
#pragma unroll
            for (u32 piece = 0; piece < PIECES; ++piece) {
#pragma unroll
                for (u32 below = 0; below < 2; ++below) {
                    const u32 row = 64 * half + 16 * warp + lane / 4 + 8 * below;
                    u32 *pair =
                        reinterpret_cast<u32 *>(piece_at(tile_values, row, piece)) + lane % 4;
                    float low = sums[half][4 * piece + 2 * below];
                    float high = sums[half][4 * piece + 2 * below + 1];
                    if (GRADIENT) {
                        const u32 at = *pair;
                        low *= gelu_slope<bf16>(low_bf16(at));
                        high *= gelu_slope<bf16>(high_bf16(at));
                    }
                    *pair = pack_bf16(low, high);
                }
            }
        }
        barrier_sync(1 + group, GROUP);
#pragma unroll 4
        for (u32 index = thread; index < TILE * PIECES; index += GROUP) {
            const u32 row = index / PIECES, piece = index % PIECES;
            const u64 at = corner + static_cast<u64>(row) * run.columns + piece * 8;
            uint4 pack = *reinterpret_cast<const uint4 *>(piece_at(tile_values, row, piece));
            if (!GRADIENT) {
                *reinterpret_cast<uint4 *>(run.aux + at) = pack;
                float values[8];
                Pack<bf16>::open(values, pack);
#pragma unroll
                for (u32 part = 0; part < 8; ++part) {
                    values[part] = gelu<bf16>(values[part]);
                }
                pack = Pack<bf16>::close(values);
            }
            *reinterpret_cast<uint4 *>(run.result + at) = pack;
        }
        barrier_sync(1 + group, GROUP); // the tile may be written again
    }
}

template <bool GRADIENT> __device__ __forceinline__ void gelu_product(const GeluProduct &run) {
    const u32 address = shared_address(shared_arena());
    Shared &own = *reinterpret_cast<Shared *>(shared_arena() + (1024 - address % 1024) % 1024);
    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < STAGES; ++slot) {
            barrier_begin(&own.full[slot], 1);
            barrier_begin(&own.empty[slot], GROUP / WARP);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    const u32 group = uniform(threadIdx.x / GROUP);
    if (group == 2) {
        if (threadIdx.x == 2 * GROUP) {
            produce(run, own);
        }
    } else {
        consume<GRADIENT>(run, own, group);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    up_with_gelu(const __grid_constant__ GeluProduct run) {
    gelu_product<false>(run);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    down_gradient_with_slope(const __grid_constant__ GeluProduct run) {
    gelu_product<true>(run);
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
