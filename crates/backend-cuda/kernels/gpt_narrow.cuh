// What the kernels for narrow models share: shared memory, weights on their way to it, products of a block's
// 16 rows, LayerNorm, GELU.
#pragma once
#include "bulk_copy.cuh"
#include "gpt.cuh"

constexpr u32 WORKERS = 256;      // threads that compute
constexpr u32 THREADS = WORKERS + WARP; // and a warp that asks for weights
constexpr u32 WARPS = WORKERS / WARP;
constexpr u32 ROWS = 16;          // of a block: of the tensor cores' fragments
constexpr u32 ROWS_OF_WARP = ROWS / WARPS;
constexpr u32 WIDTH = 128;
constexpr u32 WIDE = 4 * WIDTH;   // of the MLP
constexpr u32 PACKED = 3 * WIDTH; // queries, keys, values
constexpr u32 CLASSES_PADDED = 128;
constexpr float EPSILON = 1e-5f;

// A box of weights: 128 outputs by 64 inputs, rows of 128 bytes, swizzled.
constexpr u32 BOX_INNER = 64;
constexpr u32 BOX_BYTES = WIDTH * BOX_INNER * 2;
constexpr u32 SLOTS = 10;

// Rows are 16 bytes longer than they need be, so that eight of them are in different banks.
constexpr u32 NARROW_STRIDE = WIDTH + 8;
constexpr u32 WIDE_STRIDE = WIDE + 8;
constexpr u32 FLOAT_STRIDE = WIDTH + 4;

struct __align__(1024) Shared {
    u8 boxes[SLOTS][BOX_BYTES];
    __align__(16) bf16 narrow[ROWS * NARROW_STRIDE]; // left operand of width 128
    __align__(16) bf16 wide[ROWS * WIDE_STRIDE];     // left operand of the MLP's width, or packed
    __align__(16) bf16 kept[ROWS * WIDE_STRIDE];     // on its way to memory, or from it
    __align__(16) float x[ROWS * FLOAT_STRIDE];      // the residual stream, or its gradient
    __align__(16) float y[ROWS * FLOAT_STRIDE];      // a product of width 128
    u64 full[SLOTS];
    u64 empty[SLOTS];
};

struct Narrow {
    // Weights in bf16, as (out, in) for the way forward, as (in, out) for the way back.
    TensorMap out;
    TensorMap up;
    TensorMap down;
    TensorMap qkv;
    const float *gain;      // of the first LayerNorm here
    const float *next_gain; // of the second
    const bf16 *attended;   // (rows, width)
    bf16 *attended_delta;   // (rows, width)
    const bf16 *x_before;   // (rows, width)
    bf16 *x_middle;         // (rows, width)
    bf16 *x_after;          // (rows, width)
    bf16 *normal_middle;
    bf16 *normal_after;
    float2 *moments_middle; // (rows)
    float2 *moments_after;
    bf16 *up_values; // (rows, wide): before GELU
    bf16 *active;    // (rows, wide): after it
    bf16 *packed;    // (rows, packed): queries, keys, values
    const bf16 *packed_delta;
    bf16 *up_delta;
    const bf16 *x_delta_before; // (rows, width): what comes past the LayerNorm
    bf16 *x_delta_after;
    bf16 *x_delta_middle;
    float *gain_partial_first; // (blocks, width)
    float *gain_partial_second;
    // Only where the model begins or ends.
    const u16 *text;
    const u32 *windows;
    const GptProgress *progress;
    const float *token_table;
    const float *place_table;
    u32 *inputs;
    u32 *targets;
    bf16 *logits; // (rows, 128)
    float *losses;
    u32 context;
    u32 batch;
    u32 vocabulary;
    float loss_scale;
};

__device__ __forceinline__ Shared &shared() {
    const u32 address = shared_address(shared_arena());
    return *reinterpret_cast<Shared *>(shared_arena() + (1024 - address % 1024) % 1024);
}

// Of the threads that compute.
__device__ __forceinline__ void workers_sync() { barrier_sync(1, WORKERS); }

// The warp that asks for weights: one thread of it.
struct Supply {
    u32 count = 0;

    // All boxes of a matrix, 128 outputs after the other, along the inputs within.
    __device__ __forceinline__ void send(const TensorMap &map, u32 outputs, u32 inputs) {
        Shared &own = shared();
        for (u32 first = 0; first < outputs; first += WIDTH) {
            for (u32 inner = 0; inner < inputs; inner += BOX_INNER, ++count) {
                const u32 slot = count % SLOTS;
                barrier_wait(&own.empty[slot], count / SLOTS % 2 ^ 1);
                barrier_expect(&own.full[slot], BOX_BYTES);
                copy_box(own.boxes[slot], map, inner, first, &own.full[slot]);
            }
        }
    }
};

// Whether this thread computes; the others have sent what `supply` sends when they come back.
template <class SupplyAll> __device__ __forceinline__ bool works(SupplyAll supply) {
    Shared &own = shared();
    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            barrier_begin(&own.full[slot], 1);
            barrier_begin(&own.empty[slot], WARPS);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (uniform(threadIdx.x / WARP) < WARPS) {
        return true;
    }
    if (threadIdx.x == WORKERS) {
        Supply to;
        supply(to);
    }
    return false;
}

__device__ __forceinline__ void load_matrices(u32 (&out)[4], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

// What the threads that compute take of the weights, in the order in which they were sent.
struct Boxes {
    u32 count = 0;

    // sums (16, 16 of this warp) = left (16, 64 PARTS) in shared memory times the next boxes.
    template <u32 PARTS>
    __device__ __forceinline__ void multiply(float (&sums)[2][4], const bf16 *left, u32 stride) {
        Shared &own = shared();
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const u32 row = 16 * warp + lane % 8 + lane / 16 * 8;
        const bf16 *left_row = left + lane % 16 * stride + lane / 16 * 8;
#pragma unroll
        for (u32 tile = 0; tile < 2; ++tile) {
#pragma unroll
            for (u32 index = 0; index < 4; ++index) {
                sums[tile][index] = 0.0f;
            }
        }
#pragma unroll 2
        for (u32 part = 0; part < PARTS; ++part, ++count) {
            const u32 slot = count % SLOTS;
            barrier_wait(&own.full[slot], count / SLOTS % 2);
            const u8 *box_row = own.boxes[slot] + row * (BOX_INNER * 2);
#pragma unroll
            for (u32 step = 0; step < BOX_INNER / 16; ++step) {
                u32 a[4], b[4];
                load_matrices(a, left_row + part * BOX_INNER + 16 * step);
                load_matrices(b, box_row + ((2 * step + lane / 8 % 2) ^ (row % 8)) * 16);
                multiply_add_bf16(sums[0], a, b[0], b[1]);
                multiply_add_bf16(sums[1], a, b[2], b[3]);
            }
            __syncwarp();
            if (lane == 0) {
                barrier_arrive(&own.empty[slot]);
            }
        }
    }
};

// Calls `take` with row, column and two values beside each other, for each pair of the lane's, of which
// the warp's first column is `first`.
template <class Take>
__device__ __forceinline__ void each_pair(const float (&sums)[2][4], u32 first, Take take) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 tile = 0; tile < 2; ++tile) {
        const u32 column = first + threadIdx.x / WARP * 16 + 8 * tile + 2 * (lane % 4);
        take(lane / 4, column, sums[tile][0], sums[tile][1]);
        take(lane / 4 + 8, column, sums[tile][2], sums[tile][3]);
    }
}

__device__ __forceinline__ void store_pair(bf16 *values, float low, float high) {
    *reinterpret_cast<u32 *>(values) = pack_bf16(low, high);
}

__device__ __forceinline__ float2 load_pair(const bf16 *values) {
    const u32 pair = *reinterpret_cast<const u32 *>(values);
    return make_float2(low_bf16(pair), high_bf16(pair));
}

__device__ __forceinline__ float2 rounded(float low, float high) {
    const u32 pair = pack_bf16(low, high);
    return make_float2(low_bf16(pair), high_bf16(pair));
}

// Rows between memory and shared memory, 16 bytes at a time.
template <u32 COLUMNS>
__device__ __forceinline__ void read_rows(bf16 *to, u32 stride, const bf16 *from) {
    constexpr u32 PIECES = COLUMNS / 8;
    from += static_cast<u64>(blockIdx.x) * ROWS * COLUMNS;
    for (u32 index = threadIdx.x; index < ROWS * PIECES; index += WORKERS) {
        const u32 row = index / PIECES, piece = index % PIECES;
        copy_async(to + row * stride + piece * 8, from + row * COLUMNS + piece * 8, 16);
    }
    copy_async_commit();
}

template <u32 COLUMNS>
__device__ __forceinline__ void write_rows(bf16 *to, const bf16 *from, u32 stride) {
    constexpr u32 PIECES = COLUMNS / 8;
    to += static_cast<u64>(blockIdx.x) * ROWS * COLUMNS;
    for (u32 index = threadIdx.x; index < ROWS * PIECES; index += WORKERS) {
        const u32 row = index / PIECES, piece = index % PIECES;
        *reinterpret_cast<uint4 *>(to + row * COLUMNS + piece * 8) =
            *reinterpret_cast<const uint4 *>(from + row * stride + piece * 8);
    }
}

__device__ __forceinline__ u64 global_row(u32 row) {
    return static_cast<u64>(blockIdx.x) * ROWS + row;
}

// A warp's row of its two.
__device__ __forceinline__ u32 row_of_warp(u32 index) {
    return threadIdx.x / WARP + index * WARPS;
}

__device__ __forceinline__ float4 own_four(const float *row) {
    return load_four(row + 4 * (threadIdx.x % WARP));
}

// LayerNorm of the rows of `shared().x`: written to memory and to `narrow`.
__device__ __forceinline__ void normalise_rows(float4 gain, bf16 *x, bf16 *normal,
                                               float2 *moments) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 index = 0; index < ROWS_OF_WARP; ++index) {
        const u32 row = row_of_warp(index);
        const float4 four = own_four(own.x + row * FLOAT_STRIDE);
        const float mean = warp_sum(sum_of(four)) * (1.0f / WIDTH);
        const float a = four.x - mean, b = four.y - mean, c = four.z - mean, d = four.w - mean;
        const float variance = warp_sum((a * a + b * b) + (c * c + d * d)) * (1.0f / WIDTH);
        const float scale = 1.0f / sqrtf(variance + EPSILON);
        const float4 result = make_float4(a * scale * gain.x, b * scale * gain.y,
                                          c * scale * gain.z, d * scale * gain.w);
        const u64 at = global_row(row) * WIDTH + 4 * lane;
        store_four(x + at, four);
        store_four(normal + at, result);
        store_four(own.narrow + row * NARROW_STRIDE + 4 * lane, result);
        if (lane == 0) {
            moments[global_row(row)] = make_float2(mean, scale);
        }
    }
}

// x += the product of `left` with the next boxes, rounded.
template <u32 PARTS>
__device__ __forceinline__ void add_product(Boxes &boxes, const bf16 *left, u32 stride) {
    Shared &own = shared();
    float sums[2][4];
    boxes.multiply<PARTS>(sums, left, stride);
    each_pair(sums, 0, [&](u32 row, u32 column, float low, float high) {
        float *x = own.x + row * FLOAT_STRIDE + column;
        const float2 pair = rounded(x[0] + low, x[1] + high);
        x[0] = pair.x;
        x[1] = pair.y;
    });
}

// y = the product of `left` with the next boxes, rounded as the general kernels have it.
template <u32 PARTS>
__device__ __forceinline__ void product(Boxes &boxes, const bf16 *left, u32 stride) {
    Shared &own = shared();
    float sums[2][4];
    boxes.multiply<PARTS>(sums, left, stride);
    each_pair(sums, 0, [&](u32 row, u32 column, float low, float high) {
        const float2 pair = rounded(low, high);
        own.y[row * FLOAT_STRIDE + column] = pair.x;
        own.y[row * FLOAT_STRIDE + column + 1] = pair.y;
    });
}

// Rows of bf16 in memory as the residual stream.
__device__ __forceinline__ void read_x(const bf16 *x) {
    Shared &own = shared();
    for (u32 index = threadIdx.x; index < ROWS * WIDTH / 4; index += WORKERS) {
        const u32 row = index / (WIDTH / 4), column = index % (WIDTH / 4) * 4;
        store_four(own.x + row * FLOAT_STRIDE + column,
                   load_four(x + global_row(row) * WIDTH + column));
    }
}
