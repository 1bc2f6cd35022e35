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

// The lane's two rows of a (16, 64) tile of scores: lane / 4 and 8 below it.
struct RowPair {
    float upper;
    float lower;
};

// Scores that a query may not see become -infinity: those of keys after it.
template <u32 EIGHTS>
__device__ __forceinline__ void hide_later_keys(float (&scores)[EIGHTS][4], u32 first_query,
                                                u32 first_key) {
    const u32 lane = threadIdx.x % WARP;
    const u32 upper = first_query + lane / 4;
#pragma unroll
    for (u32 column = 0; column < EIGHTS; ++column) {
        const u32 key = first_key + 8 * column + 2 * (lane % 4);
        scores[column][0] = key > upper ? -LARGEST : scores[column][0];
        scores[column][1] = key + 1 > upper ? -LARGEST : scores[column][1];
        scores[column][2] = key > upper + 8 ? -LARGEST : scores[column][2];
        scores[column][3] = key + 1 > upper + 8 ? -LARGEST : scores[column][3];
    }
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// What a warp's 16 queries have of the keys that they have seen.
template <u32 WIDTH> struct Seen {
    float out[WIDTH / 8][4];
    RowPair most;
    RowPair sum;

    __device__ __forceinline__ Seen() : out{}, most{-LARGEST, -LARGEST}, sum{0.0f, 0.0f} {}

    // The weights of more keys from their scores; the outputs shrink as the sum does.
    template <u32 PARTS>
    __device__ __forceinline__ void weigh(u32 (&weights)[PARTS][4], float (&scores)[2 * PARTS][4],
                                          float scale) {
        RowPair larger = most;
#pragma unroll
        for (u32 column = 0; column < 2 * PARTS; ++column) {
            larger.upper = fmaxf(larger.upper, fmaxf(scores[column][0], scores[column][1]));
            larger.lower = fmaxf(larger.lower, fmaxf(scores[column][2], scores[column][3]));
        }
        larger.upper = quad_max(larger.upper);
        larger.lower = quad_max(larger.lower);
        const float upper_shift = larger.upper * scale, lower_shift = larger.lower * scale;
        const float upper_shrink = power_of_two(most.upper * scale - upper_shift);
        const float lower_shrink = power_of_two(most.lower * scale - lower_shift);
        most = larger;
        sum.upper *= upper_shrink;
        sum.lower *= lower_shrink;
#pragma unroll
        for (u32 column = 0; column < 2 * PARTS; ++column) {
            float(&four)[4] = scores[column];
            four[0] = power_of_two(fmaf(four[0], scale, -upper_shift));
            four[1] = power_of_two(fmaf(four[1], scale, -upper_shift));
            four[2] = power_of_two(fmaf(four[2], scale, -lower_shift));
            four[3] = power_of_two(fmaf(four[3], scale, -lower_shift));
            sum.upper += four[0] + four[1];
            sum.lower += four[2] + four[3];
        }
#pragma unroll
        for (u32 column = 0; column < WIDTH / 8; ++column) {
            out[column][0] *= upper_shrink;
            out[column][1] *= upper_shrink;
            out[column][2] *= lower_shrink;
            out[column][3] *= lower_shrink;
        }
        pack(weights, scores);
    }

    // Writes outputs and sums of the queries from `warp_row` of the tile that begins at `first`.
    __device__ __forceinline__ void write(const Attention &run, const Head &head, u32 first,
                                          u32 warp_row, Tile<WIDTH> &room) {
        const u32 lane = threadIdx.x % WARP, upper = first + warp_row + lane / 4;
        sum.upper = quad_sum(sum.upper);
        sum.lower = quad_sum(sum.lower);
        if (lane % 4 == 0) {
            float *log_sums = run.log_sums + head.row;
            if (upper < run.context) {
                log_sums[upper] = most.upper * run.scale + log2f(sum.upper);
            }
            if (upper + 8 < run.context) {
                log_sums[upper + 8] = most.lower * run.scale + log2f(sum.lower);
            }
        }
        write_rows(static_cast<bf16 *>(run.out) + head.out, head.out_stride, first, run, out,
                   1.0f / sum.upper, 1.0f / sum.lower, room, warp_row);
    }
};

constexpr u32 HEAD_TILES = 4; // of the longest context that one block takes
constexpr u32 HEAD_THREADS = 256;

// The two numbers of each query.
template <u32 WIDTH, class Tiles>
__device__ __forceinline__ void fill_numbers(Tiles &tiles, const Attention &run, const Head &head) {
    constexpr u32 SHARERS = 4; // threads of a query
    const bool there = threadIdx.x < run.context;
    tiles.log_sums[threadIdx.x] =
        there ? run.log_sums[head.row + threadIdx.x] * run.log_unit : LARGEST;
#pragma unroll
    for (u32 tile = 0; tile < HEAD_TILES; ++tile) {
        const u32 query = tile * TILE + threadIdx.x / SHARERS;
        const u64 at = head.out + query * head.out_stride;
        float sum = 0.0f;
#pragma unroll
        for (u32 piece = threadIdx.x % SHARERS; piece < WIDTH / 8; piece += SHARERS) {
            if (query < run.context && piece * 8 < run.head_width) {
                float out[8], delta[8];
                Pack<bf16>::open(out, *reinterpret_cast<const uint4 *>(
                                          static_cast<const bf16 *>(run.out) + at + piece * 8));
                Pack<bf16>::open(delta, *reinterpret_cast<const uint4 *>(
                                            static_cast<const bf16 *>(run.out_delta) + at + piece * 8));
#pragma unroll
                for (u32 index = 0; index < 8; ++index) {
                    sum += out[index] * delta[index];
                }
            }
        }
        sum = quad_sum(sum);
        if (threadIdx.x % SHARERS == 0) {
            tiles.products[query] = sum;
        }
    }
}
