// The gradients of all parameters of a narrow model, and AdamW with them, in one launch, from what the way
// forward and back left in memory. A block finds a tile of one matrix's gradient, delta^T activations, over all
// rows of the step; others sum the LayerNorms' gains, the places, the losses. When all have written their sums of
// squares, each knows the norm, and takes AdamW's step with what it has in registers. Where several devices share
// a step, or not all blocks are resident at once, gradients are written instead. The token embedding's gradient is that of the logits' weights plus that of the embedded rows,
// which is a product too: of the tokens as rows of zeros with a one. So nothing is added atomically.
#include "gpt_narrow_trail.cuh"

constexpr u32 THREADS = 256;
constexpr u32 WIDTH = 128;
constexpr u32 WIDE = 4 * WIDTH;
constexpr u32 PACKED = 3 * WIDTH;

// A tile of a result has up to 64 rows, columns of the delta, and up to 128 columns; it takes 64 rows of both
// operands at a time.
constexpr u32 DELTA_COLUMNS = 64;
constexpr u32 DEPTH = 64;
constexpr u32 STAGES = 6;

struct Stage {
    bf16 delta[DEPTH * DELTA_COLUMNS]; // pieces of 16 bytes, where eight rows' are in different banks
    bf16 active[DEPTH * WIDTH];
};

struct NarrowWeights {
    NarrowTrail trail;
    // Flat buffers: tokens (128, width), places (context, width), each layer's matrices, gains (2 layers + 1,
    // width).
    float *gradient; // only written, and only without `parameter`
    float *parameter;
    float *first;
    float *second;
    bf16 *half;            // the parameters rounded
    float *square_partial; // (blocks of this kernel)
    u32 *finished;         // how many of them are
    const StepRates *rates; // (steps)
    float *step_loss;       // (steps)
    GptProgress *progress;
    u32 rows;
    u32 layers;
    u32 context;
    u32 blocks;
    AdamWConstants adamw;
};

// A pair of values of a thread's, at an even place of the flat buffers.
__device__ __forceinline__ float2 &pair_at(float *values, u32 at) {
    return *reinterpret_cast<float2 *>(values + at);
}

// The end of every block: the gradient's norm and AdamW, for COUNT pairs of each thread's if it has any.
template <u32 COUNT>
__device__ __forceinline__ void finish(const NarrowWeights &run, const float2 (&gradient)[COUNT],
                                       const u32 (&at)[COUNT], bool any, bool decays) {
    __shared__ float partial[WARP];
    const bool updates = run.parameter != nullptr;
    const u32 lane = threadIdx.x % WARP;
    float2 parameter[COUNT], first[COUNT], second[COUNT];
    float squares = 0.0f;
#pragma unroll
    for (u32 index = 0; index < COUNT; ++index) {
        if (any && updates) { // on their way while all blocks wait for each other
            parameter[index] = pair_at(run.parameter, at[index]);
            first[index] = pair_at(run.first, at[index]);
            second[index] = pair_at(run.second, at[index]);
        } else if (any) {
            pair_at(run.gradient, at[index]) = gradient[index];
        }
        squares += gradient[index].x * gradient[index].x + gradient[index].y * gradient[index].y;
    }
    const StepRates rates = run.rates[run.progress->next];
    squares = block_sum(any ? squares : 0.0f, partial);
    if (threadIdx.x == 0) {
        run.square_partial[blockIdx.x] = squares;
    }
    if (!updates) {
        return;
    }
    if (threadIdx.x == 0) {
        add_release(run.finished, 1);
        while (load_acquire(run.finished) < gridDim.x) {
        }
    }
    __syncthreads();
    squares = 0.0f;
    for (u32 block = lane; block < gridDim.x; block += WARP) {
        squares += load_fresh(run.square_partial + block);
    }
    const AdamWStep step(run.adamw, rates, warp_sum(squares));
#pragma unroll
    for (u32 index = 0; index < COUNT; ++index) {
        if (any) {
            float2 &p = parameter[index], &m = first[index], &v = second[index];
            step.take(gradient[index].x, decays, p.x, m.x, v.x);
            step.take(gradient[index].y, decays, p.y, m.y, v.y);
            pair_at(run.parameter, at[index]) = p;
            pair_at(run.first, at[index]) = m;
            pair_at(run.second, at[index]) = v;
            *reinterpret_cast<u32 *>(run.half + at[index]) = pack_bf16(p.x, p.y);
        }
    }
}

// Rows of an operand: `columns` of each, from the one on that the tile has.
struct Rows {
    const bf16 *from;
    u32 columns;

    // PIECES times 8 columns of the rows from `first` on to shared memory; beyond `end` there are zeros.
    template <u32 PIECES> __device__ __forceinline__ void copy(bf16 *to, u32 first, u32 end) const {
#pragma unroll
        for (u32 part = 0; part < DEPTH * PIECES / THREADS; ++part) {
            const u32 index = threadIdx.x + part * THREADS;
            const u32 row = index / PIECES, piece = index % PIECES;
            const bool there = first + row < end;
            copy_async(to + (row * PIECES + (piece ^ row % 8)) * 8,
                       from + static_cast<u64>(there ? first + row : 0) * columns + piece * 8,
                       there ? 16 : 0);
        }
    }
};

// Two operands of which the product is wanted, and a second pair that is added, or the same again.
struct Operands {
    Rows delta;
    Rows active;
};

// A tile of 32 TILES rows and COLUMNS columns of a gradient, which begins at `to` in the flat buffers, rows `stride` apart. Its first row
// is column `offset` of the delta's 64.
template <u32 TILES, u32 COLUMNS>
__device__ __forceinline__ void tile_gradient(const NarrowWeights &run, const Operands (&pairs)[2],
                                              u32 used, u32 offset, u32 to, u32 stride) {
    Stage *stages = reinterpret_cast<Stage *>(shared_arena());
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 per_pair = (run.rows + DEPTH - 1) / DEPTH, chunks = used * per_pair;
    const auto fetch = [&](u32 chunk) {
        if (chunk < chunks) {
            const bool second = chunk >= per_pair;
            const Operands pair = second ? pairs[1] : pairs[0];
            const u32 first = (second ? chunk - per_pair : chunk) * DEPTH;
            Stage &stage = stages[chunk % STAGES];
            pair.delta.template copy<DELTA_COLUMNS / 8>(stage.delta, first, run.rows);
            pair.active.template copy<COLUMNS / 8>(stage.active, first, run.rows);
        }
        copy_async_commit();
    };
    for (u32 chunk = 0; chunk < STAGES - 1; ++chunk) {
        fetch(chunk);
    }
    const u32 warp_row = warp / 4 * 16 * TILES, warp_column = warp % 4 * (COLUMNS / 4);
    float sums[TILES][COLUMNS / 32][4] = {};
    for (u32 chunk = 0; chunk < chunks; ++chunk) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(chunk + STAGES - 1); // where the chunk before was
        const Stage &stage = stages[chunk % STAGES];
#pragma unroll
        for (u32 step = 0; step < DEPTH / 16; ++step) {
            u32 left[TILES][4], right[COLUMNS / 64][4];
#pragma unroll
            for (u32 tile = 0; tile < TILES; ++tile) {
                // (columns, rows): (0, 0), (8, 0), (0, 8), (8, 8)
                const u32 row = 16 * step + lane % 8 + lane / 16 * 8;
                const u32 piece = (offset + warp_row) / 8 + 2 * tile + lane / 8 % 2;
                load_matrices_transposed(
                    left[tile], stage.delta + (row * (DELTA_COLUMNS / 8) + (piece ^ row % 8)) * 8);
            }
#pragma unroll
            for (u32 half = 0; half < COLUMNS / 64; ++half) {
                // (rows, columns): (0, 0), (8, 0), (0, 8), (8, 8)
                const u32 row = 16 * step + lane % 16;
                const u32 piece = warp_column / 8 + 2 * half + lane / 16;
                load_matrices_transposed(
                    right[half], stage.active + (row * (COLUMNS / 8) + (piece ^ row % 8)) * 8);
            }
#pragma unroll
            for (u32 tile = 0; tile < TILES; ++tile) {
#pragma unroll
                for (u32 column = 0; column < COLUMNS / 32; ++column) {
                    multiply_add_bf16(sums[tile][column], left[tile],
                                      right[column / 2][column % 2 * 2],
                                      right[column / 2][column % 2 * 2 + 1]);
                }
            }
        }
    }
    constexpr u32 PAIRS = COLUMNS / 16; // of a tile
    float2 gradient[TILES * PAIRS];
    u32 at[TILES * PAIRS];
#pragma unroll
    for (u32 index = 0; index < TILES * PAIRS; ++index) {
        const u32 tile = index / PAIRS, column = index / 2 % (PAIRS / 2), half = index % 2;
        const float(&four)[4] = sums[tile][column];
        gradient[index] = make_float2(four[2 * half], four[2 * half + 1]);
        at[index] = to + (warp_row + 16 * tile + lane / 4 + 8 * half) * stride + warp_column +
                    8 * column + 2 * (lane % 4);
    }
    finish(run, gradient, at, true, true);
}

// Tiles of a layer: queries, keys and values; out; up; down.
constexpr u32 PACKED_TILES = PACKED / DELTA_COLUMNS;
constexpr u32 OUT_TILES = WIDTH / DELTA_COLUMNS;
constexpr u32 UP_TILES = WIDE / DELTA_COLUMNS;
constexpr u32 LAYER_TILES = PACKED_TILES + OUT_TILES + 2 * UP_TILES;
constexpr u32 TOKEN_ROWS = 32; // two products, so a tile is smaller
constexpr u32 TOKEN_COLUMNS = 64;
constexpr u32 TOKEN_TILES = WIDTH / TOKEN_ROWS * (WIDTH / TOKEN_COLUMNS);

__device__ __forceinline__ void layer_tile(const NarrowWeights &run, u32 index) {
    const u32 layer = index / LAYER_TILES;
    const u64 layer_rows = static_cast<u64>(layer) * run.rows;
    const bf16 *normal = run.trail.normal + 2 * layer_rows * WIDTH;
    const bf16 *x_delta = run.trail.x_delta + (2 * layer_rows + run.rows) * WIDTH;
    u32 to = (WIDTH + run.context + layer * (PACKED + WIDTH + 2 * WIDE)) * WIDTH;
    u32 tile = index % LAYER_TILES, stride = WIDTH;
    Operands pair;
    if (tile < PACKED_TILES) {
        pair = {{run.trail.packed_delta + layer_rows * PACKED, PACKED}, {normal, WIDTH}};
    } else if ((tile -= PACKED_TILES) < OUT_TILES) {
        pair = {{x_delta, WIDTH}, {run.trail.attended + layer_rows * WIDTH, WIDTH}};
        to += PACKED * WIDTH;
    } else if ((tile -= OUT_TILES) < UP_TILES) {
        pair = {{run.trail.up_delta + layer_rows * WIDE, WIDE},
                {normal + static_cast<u64>(run.rows) * WIDTH, WIDTH}};
        to += (PACKED + WIDTH) * WIDTH;
    } else {
        tile -= UP_TILES;
        const u32 column = tile / OUT_TILES * WIDTH;
        tile %= OUT_TILES;
        pair = {{x_delta + static_cast<u64>(run.rows) * WIDTH, WIDTH},
                {run.trail.active + layer_rows * WIDE + column, WIDE}};
        to += (PACKED + WIDTH + WIDE) * WIDTH + column;
        stride = WIDE;
    }
    pair.delta.from += tile * DELTA_COLUMNS;
    const Operands pairs[2] = {pair, pair};
    tile_gradient<2, WIDTH>(run, pairs, 1, 0, to + tile * DELTA_COLUMNS * stride, stride);
}

__device__ __forceinline__ void token_tile(const NarrowWeights &run, u32 index) {
    const u32 row = index / 2 * TOKEN_ROWS, column = index % 2 * TOKEN_COLUMNS;
    const u32 first = row / DELTA_COLUMNS * DELTA_COLUMNS; // of the delta's columns
    const u64 last = 2ull * run.layers * run.rows * WIDTH;
    const Operands pairs[2] = {
        {{run.trail.logits_delta + first, WIDTH}, {run.trail.normal + last + column, WIDTH}},
        {{run.trail.one_hot + first, WIDTH}, {run.trail.x_delta + column, WIDTH}}};
    tile_gradient<1, TOKEN_COLUMNS>(run, pairs, 2, row - first, row * WIDTH + column, WIDTH);
}

// Two columns of a place, summed over the windows.
__device__ __forceinline__ void place_gradient(const NarrowWeights &run, u32 index) {
    const u32 window = run.context * WIDTH, place = 2 * (index * THREADS + threadIdx.x);
    const bool any = place < window;
    float2 sum[1] = {make_float2(0, 0)};
    if (any) {
#pragma unroll 4
        for (u32 row = 0; row < run.rows; row += run.context) {
            const u32 pair = *reinterpret_cast<const u32 *>(run.trail.x_delta + row * WIDTH + place);
            sum[0].x += low_bf16(pair);
            sum[0].y += high_bf16(pair);
        }
    }
    const u32 at[1] = {WIDTH * WIDTH + place};
    finish(run, sum, at, any, true);
}

// A LayerNorm's gain: four threads for each two columns.
__device__ __forceinline__ void gain_gradient(const NarrowWeights &run, u32 norm) {
    constexpr u32 PAIRS = WIDTH / 2, PARTS = THREADS / PAIRS;
    float2 *parts = reinterpret_cast<float2 *>(shared_arena());
    const u32 pair = threadIdx.x % PAIRS;
    const float2 *partial =
        reinterpret_cast<const float2 *>(run.trail.gain_partial) + norm * run.blocks * PAIRS + pair;
    float2 sum[1] = {make_float2(0, 0)};
#pragma unroll 4
    for (u32 block = threadIdx.x / PAIRS; block < run.blocks; block += PARTS) {
        sum[0].x += partial[block * PAIRS].x;
        sum[0].y += partial[block * PAIRS].y;
    }
    parts[threadIdx.x] = sum[0];
    __syncthreads();
    const bool any = threadIdx.x < PAIRS;
    if (any) {
        for (u32 part = 1; part < PARTS; ++part) {
            sum[0].x += parts[part * PAIRS + pair].x;
            sum[0].y += parts[part * PAIRS + pair].y;
        }
    }
    const u32 gains = (WIDTH + run.context + run.layers * (PACKED + WIDTH + 2 * WIDE)) * WIDTH;
    const u32 at[1] = {gains + norm * WIDTH + 2 * pair};
    finish(run, sum, at, any, false);
}

// The step's mean loss; counts the step when all have read which one it is.
__device__ __forceinline__ void mean_loss(const NarrowWeights &run) {
    __shared__ float partial[WARP];
    float sum = 0.0f;
    for (u32 row = threadIdx.x; row < run.rows; row += THREADS) {
        sum += run.trail.losses[row];
    }
    sum = block_sum(sum, partial);
    const u32 step = run.progress->next;
    const float2 nothing[1] = {make_float2(0, 0)};
    const u32 at[1] = {0};
    finish(run, nothing, at, false, false);
    if (threadIdx.x == 0) {
        run.step_loss[step] = sum / static_cast<float>(run.rows);
        run.progress->current = step;
        run.progress->next = step + 1;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    narrow_weights(const __grid_constant__ NarrowWeights run) {
    const u32 place_blocks = (run.context * WIDTH / 2 + THREADS - 1) / THREADS;
    const u32 norms = 2 * run.layers + 1;
    u32 index = blockIdx.x;
    if (index < TOKEN_TILES) {
        token_tile(run, index);
    } else if ((index -= TOKEN_TILES) < run.layers * LAYER_TILES) {
        layer_tile(run, index);
    } else if ((index -= run.layers * LAYER_TILES) < place_blocks) {
        place_gradient(run, index);
    } else if ((index -= place_blocks) < norms) {
        gain_gradient(run, index);
    } else {
        mean_loss(run);
    }
}
