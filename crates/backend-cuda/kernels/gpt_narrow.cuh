// What the kernels for narrow models share: how a block's 16 rows lie in registers and shared memory,
// weights on their way there, products of the rows, LayerNorm.
#pragma once
#include "bulk_copy.cuh"
#include "gpt.cuh"

constexpr u32 WORKERS = 256;      // threads that compute
constexpr u32 THREADS = WORKERS + WARP; // and a warp that asks for weights
constexpr u32 WARPS = WORKERS / WARP;
constexpr u32 ROWS = 16; // of a block: of the tensor cores' fragments
constexpr u32 WIDTH = 128;
constexpr u32 WIDE = 4 * WIDTH;   // of the MLP
constexpr u32 PACKED = 3 * WIDTH; // queries, keys, values
constexpr u32 CLASSES_PADDED = 128;
constexpr u32 HEADS = 4;
constexpr u32 HEAD = WIDTH / HEADS;
constexpr u32 CONTEXT = 64; // of the longest window: up to four blocks have one
constexpr float EPSILON = 1e-5f;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// A unit of weights: 128 outputs by 128 inputs, as two boxes of 64 inputs, rows of 128 bytes, swizzled.
constexpr u32 BOX_INNER = 64;
constexpr u32 BOX_BYTES = WIDTH * BOX_INNER * 2;
constexpr u32 SLOTS = 5;

// Rows are 16 bytes longer than they need be, so that eight of them are in different banks.
constexpr u32 NARROW_STRIDE = WIDTH + 8;
constexpr u32 WIDE_STRIDE = WIDE + 8;
constexpr u32 PAIR_STRIDE = 2 * WIDTH + 8;

struct __align__(1024) Shared {
    u8 units[SLOTS][2 * BOX_BYTES];
    __align__(16) bf16 narrow[ROWS * NARROW_STRIDE]; // left operand of width 128
    __align__(16) bf16 wide[ROWS * WIDE_STRIDE];     // left operand of the MLP's width, or packed
    // The window's rows: keys beside values of each up to the block's own, and, from a block's rows
    // further down, queries beside their outputs' gradients from the block's own on.
    __align__(16) bf16 window[(CONTEXT + ROWS) * PAIR_STRIDE];
    __align__(16) float2 partial[ROWS][WARPS]; // of sums over a row
    __align__(16) float log_sums[HEADS][CONTEXT];
    __align__(16) float products[HEADS][CONTEXT]; // of the window's outputs times their gradients
    u32 tokens[ROWS];
    u32 targets[ROWS];
    u64 full[SLOTS];
    u64 empty[SLOTS];
    u64 arrived;  // what the other blocks send to `window`
    u64 consumed; // it is read, in all blocks
};

extern __shared__ __align__(1024) u8 narrow_arena[];

__device__ __forceinline__ Shared &shared() { return *reinterpret_cast<Shared *>(narrow_arena); }

// Of the threads that compute.
__device__ __forceinline__ void workers_sync() { barrier_sync(1, WORKERS); }

// The warp that asks for weights: one thread of it.
struct Supply {
    u32 slot = 0, parity = 0;

    // The unit of the matrix of this map that begins at this column and row.
    __device__ __forceinline__ void send(const TensorMap &map, u32 column, u32 row) {
        Shared &own = shared();
        barrier_wait(&own.empty[slot], parity ^ 1);
        barrier_expect(&own.full[slot], 2 * BOX_BYTES);
        copy_box(own.units[slot], map, column, row, &own.full[slot]);
        copy_box(own.units[slot] + BOX_BYTES, map, column + BOX_INNER, row, &own.full[slot]);
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        parity ^= slot == 0 ? 1 : 0;
    }
};

__device__ __forceinline__ void load_matrices(u32 (&out)[4], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

// The block's rows, 16 PARTS columns of them, as the left operand.
template <u32 PARTS> struct Left {
    u32 of[PARTS][4];

    __device__ __forceinline__ void load(const bf16 *rows, u32 stride) {
        const u32 lane = threadIdx.x % WARP;
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) {
            load_matrices(of[part], rows + lane % 16 * stride + lane / 16 * 8 + 16 * part);
        }
    }
};

// A lane's share of (16, 128) values: rows lane / 4 and 8 below it, in two tiles of 8 columns of the
// warp's 16, in each of which it has two columns beside each other; in the order of the fragments.
struct Share {
    float of[2][4];

    // Calls `take` with row, column, and the pair's values, for each pair.
    template <class Take> __device__ __forceinline__ void each_pair(Take take) {
        const u32 lane = threadIdx.x % WARP;
#pragma unroll
        for (u32 tile = 0; tile < 2; ++tile) {
            const u32 column = threadIdx.x / WARP * 16 + 8 * tile + 2 * (lane % 4);
            take(lane / 4, column, of[tile][0], of[tile][1]);
            take(lane / 4 + 8, column, of[tile][2], of[tile][3]);
        }
    }

    // Two values for each tile's two columns, the same in all rows.
    __device__ __forceinline__ void read_columns(const float *row) {
        const u32 column = threadIdx.x / WARP * 16 + 2 * (threadIdx.x % 4);
#pragma unroll
        for (u32 tile = 0; tile < 2; ++tile) {
            const float2 pair = *reinterpret_cast<const float2 *>(row + column + 8 * tile);
            of[tile][0] = of[tile][2] = pair.x;
            of[tile][1] = of[tile][3] = pair.y;
        }
    }

    __device__ __forceinline__ uint4 pack() const {
        return make_uint4(pack_bf16(of[0][0], of[0][1]), pack_bf16(of[0][2], of[0][3]),
                          pack_bf16(of[1][0], of[1][1]), pack_bf16(of[1][2], of[1][3]));
    }

    __device__ __forceinline__ void unpack(uint4 pack) {
        const u32 words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            const u32 word = words[index / 2];
            of[index / 4][index % 4] = index % 2 == 0 ? low_bf16(word) : high_bf16(word);
        }
    }
};

__device__ __forceinline__ void store_pair(bf16 *values, float low, float high) {
    *reinterpret_cast<u32 *>(values) = pack_bf16(low, high);
}

// Sums of a product on their way: two of each, which wait less for each other.
struct Sums {
    float even[2][4] = {};
    float odd[2][4] = {};

    __device__ __forceinline__ Share total() const {
        Share share;
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            share.of[index / 4][index % 4] =
                even[index / 4][index % 4] + odd[index / 4][index % 4];
        }
        return share;
    }
};

// What the threads that compute take of the weights, in the order in which they were sent.
struct Units {
    u32 slot = 0, parity = 0;

    // Adds the product of `left` (16, 128) with the next unit: with its inputs, or on the way back with
    // its outputs.
    template <bool BACK>
    __device__ __forceinline__ void multiply(Sums &sums, const Left<WIDTH / 16> &left) {
        Shared &own = shared();
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        barrier_wait(&own.full[slot], parity);
        const u8 *unit = own.units[slot];
#pragma unroll
        for (u32 part = 0; part < WIDTH / 16; ++part) {
            u32 right[4]; // (inner, columns): (0, 0), (8, 0), (0, 8), (8, 8)
            if (BACK) {
                const u32 row = 16 * part + lane % 16, piece = 2 * (warp % 4) + lane / 16;
                load_matrices_transposed(right, unit + warp / 4 * BOX_BYTES + row * 128 +
                                                    (piece ^ (row % 8)) * 16);
            } else {
                const u32 row = 16 * warp + lane % 8 + lane / 16 * 8;
                const u32 piece = 2 * (part % 4) + lane / 8 % 2;
                load_matrices(right, unit + part / 4 * BOX_BYTES + row * 128 +
                                         (piece ^ (row % 8)) * 16);
            }
            float(&to)[2][4] = part % 2 == 0 ? sums.even : sums.odd;
            multiply_add_bf16(to[0], left.of[part], right[0], right[1]);
            multiply_add_bf16(to[1], left.of[part], right[2], right[3]);
        }
        __syncwarp();
        if (lane == 0) {
            barrier_arrive(&own.empty[slot]);
        }
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        parity ^= slot == 0 ? 1 : 0;
    }

    // The product of PARTS times 128 inner columns of `rows`.
    template <bool BACK, u32 PARTS>
    __device__ __forceinline__ Share product(const bf16 *rows, u32 stride) {
        Sums sums;
#pragma unroll 1
        for (u32 part = 0; part < PARTS; ++part) {
            Left<WIDTH / 16> left;
            left.load(rows + part * WIDTH, stride);
            multiply<BACK>(sums, left);
        }
        return sums.total();
    }
};

// Rows of shared memory to memory, 16 bytes at a time, by `COUNT` threads of which this is `thread`.
template <u32 COLUMNS, u32 COUNT = WORKERS>
__device__ __forceinline__ void write_rows(bf16 *to, const bf16 *from, u32 stride,
                                           u32 thread = threadIdx.x) {
    constexpr u32 PIECES = COLUMNS / 8;
    to += static_cast<u64>(blockIdx.x) * ROWS * COLUMNS;
#pragma unroll
    for (u32 part = 0; part < ROWS * PIECES / COUNT; ++part) {
        const u32 index = thread + part * COUNT, row = index / PIECES, piece = index % PIECES;
        *reinterpret_cast<uint4 *>(to + row * COLUMNS + piece * 8) =
            *reinterpret_cast<const uint4 *>(from + row * stride + piece * 8);
    }
}

// `narrow` to memory.
__device__ __forceinline__ void write_narrow(bf16 *to) {
    write_rows<WIDTH>(to, shared().narrow, NARROW_STRIDE);
}

// Values that only the thread that wrote them reads again: 16 bytes of each thread side by side.
__device__ __forceinline__ uint4 *own_place(bf16 *values) {
    return reinterpret_cast<uint4 *>(values) + static_cast<u64>(blockIdx.x) * WORKERS + threadIdx.x;
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// What all warps know of a row: each writes its part, and after a barrier each lane reads all parts of its
// two rows, in their order.
struct RowParts {
    float2 of[WARPS];
    float2 sum;

    // `half`: 0 for the lane's upper row, 1 for its lower one.
    static __device__ __forceinline__ void write(u32 half, float2 part) {
        const u32 lane = threadIdx.x % WARP;
        if (lane % 4 == 0) {
            shared().partial[lane / 4 + 8 * half][threadIdx.x / WARP] = part;
        }
    }

    __device__ __forceinline__ explicit RowParts(u32 half) {
        const float4 *parts = reinterpret_cast<const float4 *>(
            shared().partial[threadIdx.x % WARP / 4 + 8 * half]);
#pragma unroll
        for (u32 index = 0; index < WARPS / 2; ++index) {
            const float4 two = parts[index];
            of[2 * index] = make_float2(two.x, two.y);
            of[2 * index + 1] = make_float2(two.z, two.w);
        }
        sum = of[0];
#pragma unroll
        for (u32 index = 1; index < WARPS; ++index) {
            sum.x += of[index].x;
            sum.y += of[index].y;
        }
    }
};

// A LayerNorm of the block's rows, and what its gradient needs.
struct Norm {
    Share gain;
    Share value;     // before the gain
    uint4 kept;      // the same from memory
    float scales[2]; // 1 / deviation, of the lane's two rows

    // Of `x`, into `narrow`. Means and squares are put together as Chan, Golub and LeVeque (1979) do, which
    // takes one pass and loses nothing to cancellation. All warps have read `narrow` when they get to the
    // barrier in here, and another one has to follow.
    __device__ __forceinline__ void forward(const Share &x) {
        Shared &own = shared();
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const float a = x.of[0][2 * half], b = x.of[0][2 * half + 1];
            const float c = x.of[1][2 * half], d = x.of[1][2 * half + 1];
            float mean = 0.25f * ((a + b) + (c + d));
            float squares = ((a - mean) * (a - mean) + (b - mean) * (b - mean)) +
                            ((c - mean) * (c - mean) + (d - mean) * (d - mean));
#pragma unroll
            for (u32 distance = 1; distance <= 2; distance *= 2) {
                const float other = __shfl_xor_sync(ALL_LANES, mean, distance);
                const float difference = mean - other;
                squares += __shfl_xor_sync(ALL_LANES, squares, distance);
                squares += difference * difference * (2.0f * distance); // half as many as each has
                mean = 0.5f * (mean + other);
            }
            RowParts::write(half, make_float2(mean, squares));
        }
        workers_sync();
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const RowParts parts(half);
            const float mean = parts.sum.x * (1.0f / WARPS);
            float between = 0.0f;
#pragma unroll
            for (u32 warp = 0; warp < WARPS; ++warp) {
                between += (parts.of[warp].x - mean) * (parts.of[warp].x - mean);
            }
            const float variance = (parts.sum.y + between * (WIDTH / WARPS)) * (1.0f / WIDTH);
            scales[half] = rsqrtf(variance + EPSILON);
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const u32 tile = part / 2, index = 2 * half + part % 2;
                value.of[tile][index] = (x.of[tile][index] - mean) * scales[half];
            }
        }
        Share result;
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            result.of[index / 4][index % 4] =
                value.of[index / 4][index % 4] * gain.of[index / 4][index % 4];
        }
        result.each_pair([&](u32 row, u32 column, float low, float high) {
            store_pair(own.narrow + row * NARROW_STRIDE + column, low, high);
        });
    }

    // From `y`, the gradient of the result: the gradient of what went in is added to `past`, which comes past
    // the norm, and is in `narrow` too. The gain's gradient is summed over the block's rows. Barriers as above.
    __device__ __forceinline__ void backward(const Share &y, Share &past, float *gain_partial) {
        Shared &own = shared();
        const u32 lane = threadIdx.x % WARP;
        Share delta;
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            delta.of[index / 4][index % 4] =
                y.of[index / 4][index % 4] * gain.of[index / 4][index % 4];
        }
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float sum = 0.0f, product = 0.0f;
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const u32 tile = part / 2, index = 2 * half + part % 2;
                sum += delta.of[tile][index];
                product += delta.of[tile][index] * value.of[tile][index];
            }
            RowParts::write(half, make_float2(quad_sum(sum), quad_sum(product)));
        }
        float share[4]; // of the gain's gradient
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            const u32 tile = part / 2, index = part % 2;
            share[part] = y.of[tile][index] * value.of[tile][index] +
                          y.of[tile][index + 2] * value.of[tile][index + 2];
#pragma unroll
            for (u32 distance = 4; distance < WARP; distance *= 2) {
                share[part] += __shfl_xor_sync(ALL_LANES, share[part], distance);
            }
        }
        if (lane < 4) {
            float *to = gain_partial + static_cast<u64>(blockIdx.x) * WIDTH +
                        threadIdx.x / WARP * 16 + 2 * lane;
            *reinterpret_cast<float2 *>(to) = make_float2(share[0], share[1]);
            *reinterpret_cast<float2 *>(to + 8) = make_float2(share[2], share[3]);
        }
        workers_sync();
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const float2 sum = RowParts(half).sum;
            const float mean = sum.x * (1.0f / WIDTH), slope = sum.y * (1.0f / WIDTH);
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const u32 tile = part / 2, index = 2 * half + part % 2;
                past.of[tile][index] += scales[half] * (delta.of[tile][index] - mean -
                                                        value.of[tile][index] * slope);
            }
        }
        past.each_pair([&](u32 row, u32 column, float low, float high) {
            store_pair(own.narrow + row * NARROW_STRIDE + column, low, high);
        });
    }
};
