// What the attention kernels of the GPT share: where the heads lie, and tiles of bf16 in shared memory.
#pragma once
#include "gpt.cuh"

// One layer's attention. Of `qkv` a token's row has the queries of all heads, then keys, then values.
struct Attention {
    const void *qkv;       // (batch, context, 3 heads head_width)
    void *out;             // (batch, context, heads head_width)
    float *log_sums;       // (batch, heads, context): log2 of the sum of 2^score
    const void *out_delta; // as `out`
    void *qkv_delta;       // as `qkv`
    float *products;       // (batch, heads, context): sums of out times out_delta
    u32 context;
    u32 heads;
    u32 head_width;
    float scale;    // of a score to a power of two: log2(e) / sqrt(head_width)
    float log_unit; // of `log_sums` that another library left: to logarithms to the base of two
    u32 unused;
};

constexpr float LN_2 = 0.6931471805599453f;
constexpr u32 TILE = 64; // queries or keys of a tile
constexpr u32 THREADS = 128;
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 WARP_ROWS = 16; // of a fragment of the tensor cores

// A tile of 64 rows of a head in bf16. Pieces of 16 bytes are stored where eight rows' pieces of one
// column are in different banks.
template <u32 WIDTH> struct Tile {
    static constexpr u32 PIECES = WIDTH / 8;
    bf16 of[TILE * WIDTH];

    static __device__ __forceinline__ u32 place(u32 row, u32 piece) {
        const u32 twist = PIECES >= 8 ? row : PIECES == 4 ? row / 2 : row / 4;
        return (row * PIECES + (piece ^ (twist % PIECES))) * 8;
    }

    __device__ __forceinline__ bf16 *at(u32 row, u32 piece) { return of + place(row, piece); }
    __device__ __forceinline__ const bf16 *at(u32 row, u32 piece) const {
        return of + place(row, piece);
    }

    // Copies rows from `first` on, `stride` apart, of which `end` is the first that is not there; what a
    // head has less than `WIDTH` is zero.
    template <u32 COPIERS = THREADS>
    __device__ __forceinline__ void copy(const bf16 *rows, u64 stride, u32 first, u32 end,
                                         u32 width) {
#pragma unroll
        for (u32 index = threadIdx.x; index < TILE * PIECES; index += COPIERS) {
            const u32 row = index / PIECES, piece = index % PIECES;
            const bool there = first + row < end && piece * 8 < width;
            const bf16 *from = rows + (there ? (first + row) * stride + piece * 8 : 0);
            copy_async(at(row, piece), from, there ? 16 : 0);
        }
    }
};

__device__ __forceinline__ void load_matrices(u32 (&out)[4], const void *shared_row) {
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(shared_row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// Sixteen rows of a tile as the left operand: fragments for each 16 columns.
template <u32 WIDTH> struct Left {
    u32 of[WIDTH / 16][4];

    __device__ __forceinline__ void load(const Tile<WIDTH> &tile, u32 first_row) {
        const u32 lane = threadIdx.x % WARP;
#pragma unroll
        for (u32 part = 0; part < WIDTH / 16; ++part) {
            load_matrices(of[part], tile.at(first_row + lane % 16, 2 * part + lane / 16));
        }
    }
};

// sums (16, 8 EIGHTS) += left (16, WIDTH) tile^T from row `first` on: row by row products.
template <u32 WIDTH, u32 EIGHTS>
__device__ __forceinline__ void add_rows_by_rows(float (&sums)[EIGHTS][4], const Left<WIDTH> &left,
                                                 const Tile<WIDTH> &tile, u32 first = 0) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 part = 0; part < WIDTH / 16; ++part) {
#pragma unroll
        for (u32 column = 0; column < EIGHTS / 2; ++column) {
            u32 right[4]; // (rows, columns): (0, 0), (0, 8), (8, 0), (8, 8)
            load_matrices(right, tile.at(first + 16 * column + lane % 8 + lane / 16 * 8,
                                         2 * part + lane / 8 % 2));
            multiply_add_bf16(sums[2 * column], left.of[part], right[0], right[1]);
            multiply_add_bf16(sums[2 * column + 1], left.of[part], right[2], right[3]);
        }
    }
}

// A (16, 16 PARTS) result as the left operand of the next product.
template <u32 PARTS>
__device__ __forceinline__ void pack(u32 (&left)[PARTS][4], const float (&values)[2 * PARTS][4]) {
#pragma unroll
    for (u32 part = 0; part < PARTS; ++part) {
        left[part][0] = pack_bf16(values[2 * part][0], values[2 * part][1]);
        left[part][1] = pack_bf16(values[2 * part][2], values[2 * part][3]);
        left[part][2] = pack_bf16(values[2 * part + 1][0], values[2 * part + 1][1]);
        left[part][3] = pack_bf16(values[2 * part + 1][2], values[2 * part + 1][3]);
    }
}

// sums (16, WIDTH) += left (16, 16 PARTS) tile (from row `first` on, WIDTH).
template <u32 WIDTH, u32 PARTS>
__device__ __forceinline__ void add_rows_by_columns(float (&sums)[WIDTH / 8][4],
                                                    const u32 (&left)[PARTS][4],
                                                    const Tile<WIDTH> &tile, u32 first = 0) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 part = 0; part < PARTS; ++part) {
#pragma unroll
        for (u32 column = 0; column < WIDTH / 16; ++column) {
            u32 right[4]; // (rows, columns): (0, 0), (8, 0), (0, 8), (8, 8)
            load_matrices_transposed(right, tile.at(first + 16 * part + lane % 16,
                                                    2 * column + lane / 16));
            multiply_add_bf16(sums[2 * column], left[part], right[0], right[1]);
            multiply_add_bf16(sums[2 * column + 1], left[part], right[2], right[3]);
        }
    }
}

// Writes a warp's (16, WIDTH) result, times `scale` of each row (the lane's upper and lower one), through
// its own rows of a tile of which nobody reads any longer, so that whole pieces are written.
template <u32 WIDTH>
__device__ __forceinline__ void write_rows(bf16 *rows, u64 stride, u32 first, const Attention &run,
                                           const float (&sums)[WIDTH / 8][4], float upper,
                                           float lower, Tile<WIDTH> &tile, u32 warp_row) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 column = 0; column < WIDTH / 8; ++column) {
        u32 *above = reinterpret_cast<u32 *>(tile.at(warp_row + lane / 4, column));
        u32 *below = reinterpret_cast<u32 *>(tile.at(warp_row + lane / 4 + 8, column));
        above[lane % 4] = pack_bf16(sums[column][0] * upper, sums[column][1] * upper);
        below[lane % 4] = pack_bf16(sums[column][2] * lower, sums[column][3] * lower);
    }
    __syncwarp();
    constexpr u32 PIECES = WIDTH / 8;
#pragma unroll
    for (u32 index = lane; index < WARP_ROWS * PIECES; index += WARP) {
        const u32 row = index / PIECES, piece = index % PIECES;
        if (first + warp_row + row < run.context && piece * 8 < run.head_width) {
            *reinterpret_cast<uint4 *>(rows + (first + warp_row + row) * stride + piece * 8) =
                *reinterpret_cast<const uint4 *>(tile.at(warp_row + row, piece));
        }
    }
}

// Where one head of one window begins.
struct Head {
    u64 qkv;    // of its first query, in `qkv`
    u64 out;    // in `out`
    u64 row;    // in `log_sums` and `products`
    u64 stride; // of rows of `qkv`
    u64 out_stride;
    u32 keys; // from a query to its key, and from that to its value

    __device__ __forceinline__ Head(const Attention &run, u32 index) {
        const u32 window = index / run.heads, head = index % run.heads;
        keys = run.heads * run.head_width;
        stride = 3ull * keys;
        out_stride = keys;
        qkv = static_cast<u64>(window) * run.context * stride + head * run.head_width;
        out = static_cast<u64>(window) * run.context * keys + head * run.head_width;
        row = static_cast<u64>(index) * run.context;
    }
};
