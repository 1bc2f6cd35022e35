// Causal attention in float32, on the plain multiply-add units: the same algorithm as
// `gpt_attention.cu`, for exactness and not for speed. A block of 256 threads has 64 queries, or 64 keys,
// of one head; a thread has a tile of four rows and every sixteenth column.
#include "gpt_attention.cuh"

constexpr u32 BLOCK = 256;
constexpr u32 ACROSS = 16;           // threads beside each other
constexpr u32 DOWN = 4;              // rows of a thread
constexpr u32 SCORES = TILE / ACROSS; // columns of a thread in a tile of scores
constexpr u32 SCORE_STRIDE = TILE + 1;

// Rows of a head, its width rounded up to `WIDTH` with zeros. The odd stride lets lanes read
// neighbouring rows from different banks.
template <u32 WIDTH> struct Rows {
    static constexpr u32 STRIDE = WIDTH + 1;
    float of[TILE * STRIDE];

    __device__ __forceinline__ void copy(const float *rows, u64 stride, u32 first, u32 end,
                                         u32 width) {
        for (u32 index = threadIdx.x; index < TILE * WIDTH; index += BLOCK) {
            const u32 row = index / WIDTH, column = index % WIDTH;
            const bool there = first + row < end && column < width;
            of[row * STRIDE + column] = there ? rows[(first + row) * stride + column] : 0.0f;
        }
    }
};

struct Scores {
    float of[TILE * SCORE_STRIDE]; // (query, key)

    __device__ __forceinline__ void keep(const float (&sums)[DOWN][SCORES]) {
        const u32 row = DOWN * (threadIdx.x / ACROSS), column = threadIdx.x % ACROSS;
#pragma unroll
        for (u32 i = 0; i < DOWN; ++i) {
#pragma unroll
            for (u32 j = 0; j < SCORES; ++j) {
                of[(row + i) * SCORE_STRIDE + column + ACROSS * j] = sums[i][j];
            }
        }
    }
};

// sums += left right^T
template <u32 WIDTH>
__device__ __forceinline__ void add_rows_by_rows(float (&sums)[DOWN][SCORES],
                                                 const Rows<WIDTH> &left,
                                                 const Rows<WIDTH> &right) {
    constexpr u32 STRIDE = Rows<WIDTH>::STRIDE;
    const float *a = left.of + DOWN * (threadIdx.x / ACROSS) * STRIDE;
    const float *b = right.of + threadIdx.x % ACROSS * STRIDE;
#pragma unroll 4
    for (u32 k = 0; k < WIDTH; ++k) {
        float beside[SCORES];
#pragma unroll
        for (u32 j = 0; j < SCORES; ++j) {
            beside[j] = b[ACROSS * j * STRIDE + k];
        }
#pragma unroll
        for (u32 i = 0; i < DOWN; ++i) {
            const float value = a[i * STRIDE + k];
#pragma unroll
            for (u32 j = 0; j < SCORES; ++j) {
                sums[i][j] = fmaf(value, beside[j], sums[i][j]);
            }
        }
    }
}

// sums += scores rows, or scores^T rows where `TURNED`.
template <bool TURNED, u32 WIDTH>
__device__ __forceinline__ void add_scores_by_rows(float (&sums)[DOWN][WIDTH / ACROSS],
                                                   const Scores &scores, const Rows<WIDTH> &rows) {
    const u32 row = DOWN * (threadIdx.x / ACROSS), column = threadIdx.x % ACROSS;
#pragma unroll 4
    for (u32 k = 0; k < TILE; ++k) {
        float left[DOWN];
#pragma unroll
        for (u32 i = 0; i < DOWN; ++i) {
            left[i] = TURNED ? scores.of[k * SCORE_STRIDE + row + i]
                             : scores.of[(row + i) * SCORE_STRIDE + k];
        }
#pragma unroll
        for (u32 j = 0; j < WIDTH / ACROSS; ++j) {
            const float value = rows.of[k * Rows<WIDTH>::STRIDE + column + ACROSS * j];
#pragma unroll
            for (u32 i = 0; i < DOWN; ++i) {
                sums[i][j] = fmaf(left[i], value, sums[i][j]);
            }
        }
    }
}

// Over the threads beside each other, which share rows.
__device__ __forceinline__ float across_sum(float value) {
    for (u32 distance = ACROSS / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

__device__ __forceinline__ float across_max(float value) {
    for (u32 distance = ACROSS / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// Writes the thread's part of a result, row i times `scale[i]`.
template <u32 WIDTH>
__device__ __forceinline__ void write_part(float *rows, u64 stride, u32 first, const Attention &run,
                                           const float (&sums)[DOWN][WIDTH / ACROSS],
                                           const float (&scale)[DOWN]) {
    const u32 row = first + DOWN * (threadIdx.x / ACROSS), column = threadIdx.x % ACROSS;
#pragma unroll
    for (u32 i = 0; i < DOWN; ++i) {
#pragma unroll
        for (u32 j = 0; j < WIDTH / ACROSS; ++j) {
            if (row + i < run.context && column + ACROSS * j < run.head_width) {
                rows[(row + i) * stride + column + ACROSS * j] = sums[i][j] * scale[i];
            }
        }
    }
}

template <u32 WIDTH> struct ForwardRows {
    Rows<WIDTH> queries, keys, values;
    Scores scores;
};

template <u32 WIDTH> __device__ __forceinline__ void attend(const Attention &run) {
    ForwardRows<WIDTH> &tiles = *reinterpret_cast<ForwardRows<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 row = DOWN * (threadIdx.x / ACROSS), column = threadIdx.x % ACROSS;
    const u32 block = gridDim.x - 1 - blockIdx.x, first_query = block * TILE;
    const float *queries = static_cast<const float *>(run.qkv) + head.qkv;
    const float *keys = queries + head.keys, *values = keys + head.keys;
    tiles.queries.copy(queries, head.stride, first_query, run.context, run.head_width);
    float out[DOWN][WIDTH / ACROSS] = {};
    float most[DOWN], sum[DOWN];
#pragma unroll
    for (u32 i = 0; i < DOWN; ++i) {
        most[i] = -LARGEST;
        sum[i] = 0.0f;
    }
    for (u32 tile = 0; tile <= block; ++tile) {
        __syncthreads();
        tiles.keys.copy(keys, head.stride, tile * TILE, run.context, run.head_width);
        tiles.values.copy(values, head.stride, tile * TILE, run.context, run.head_width);
        __syncthreads();
        float scores[DOWN][SCORES] = {};
        add_rows_by_rows(scores, tiles.queries, tiles.keys);
#pragma unroll
        for (u32 i = 0; i < DOWN; ++i) {
            float larger = most[i];
#pragma unroll
            for (u32 j = 0; j < SCORES; ++j) {
                const bool later = tile == block && column + ACROSS * j > row + i;
                scores[i][j] = later ? -LARGEST : scores[i][j] * run.scale;
                larger = fmaxf(larger, scores[i][j]);
            }
            larger = across_max(larger);
            const float shrink = exp2f(most[i] - larger);
            most[i] = larger;
            sum[i] *= shrink;
#pragma unroll
            for (u32 j = 0; j < SCORES; ++j) {
                scores[i][j] = exp2f(scores[i][j] - larger);
                sum[i] += scores[i][j];
            }
#pragma unroll
            for (u32 j = 0; j < WIDTH / ACROSS; ++j) {
                out[i][j] *= shrink;
            }
        }
        tiles.scores.keep(scores);
        __syncthreads();
        add_scores_by_rows<false>(out, tiles.scores, tiles.values);
    }
    float scale[DOWN];
#pragma unroll
    for (u32 i = 0; i < DOWN; ++i) {
        sum[i] = across_sum(sum[i]);
        scale[i] = 1.0f / sum[i];
        if (column == 0 && first_query + row + i < run.context) {
            run.log_sums[head.row + first_query + row + i] = most[i] + log2f(sum[i]);
        }
    }
    write_part<WIDTH>(static_cast<float *>(run.out) + head.out, head.out_stride, first_query, run,
                      out, scale);
}

template <u32 WIDTH> struct GradientRows {
    Rows<WIDTH> queries, out_deltas, keys, values;
    Scores scores;
};

template <u32 WIDTH>
__device__ __forceinline__ void copy_queries(GradientRows<WIDTH> &tiles, u32 first,
                                             const Attention &run, const Head &head) {
    tiles.queries.copy(static_cast<const float *>(run.qkv) + head.qkv, head.stride, first,
                       run.context, run.head_width);
    tiles.out_deltas.copy(static_cast<const float *>(run.out_delta) + head.out, head.out_stride,
                          first, run.context, run.head_width);
}

template <u32 WIDTH>
__device__ __forceinline__ void copy_keys(GradientRows<WIDTH> &tiles, u32 first,
                                          const Attention &run, const Head &head) {
    const float *keys = static_cast<const float *>(run.qkv) + head.qkv + head.keys;
    tiles.keys.copy(keys, head.stride, first, run.context, run.head_width);
    tiles.values.copy(keys + head.keys, head.stride, first, run.context, run.head_width);
}

// weights = softmax of the tile's scores, deltas = gradients of the scores.
template <u32 WIDTH>
__device__ __forceinline__ void score_gradients(float (&weights)[DOWN][SCORES],
                                                float (&deltas)[DOWN][SCORES],
                                                const GradientRows<WIDTH> &tiles, u32 first_query,
                                                bool diagonal, const Attention &run,
                                                const Head &head) {
    const u32 row = DOWN * (threadIdx.x / ACROSS), column = threadIdx.x % ACROSS;
    add_rows_by_rows(weights, tiles.queries, tiles.keys);
    add_rows_by_rows(deltas, tiles.out_deltas, tiles.values);
#pragma unroll
    for (u32 i = 0; i < DOWN; ++i) {
        const u32 query = first_query + row + i;
        const bool there = query < run.context;
        const float log_sum = there ? run.log_sums[head.row + query] : LARGEST;
        const float product = there ? run.products[head.row + query] : 0.0f;
#pragma unroll
        for (u32 j = 0; j < SCORES; ++j) {
            const bool later = diagonal && column + ACROSS * j > row + i;
            weights[i][j] = later ? 0.0f : exp2f(weights[i][j] * run.scale - log_sum);
            deltas[i][j] = weights[i][j] * (deltas[i][j] - product);
        }
    }
}

template <u32 WIDTH> __device__ __forceinline__ void query_gradient(const Attention &run) {
    GradientRows<WIDTH> &tiles = *reinterpret_cast<GradientRows<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 block = gridDim.x - 1 - blockIdx.x, first_query = block * TILE;
    copy_queries(tiles, first_query, run, head);
    // Sums of outputs times their gradients, by the first 64 threads; kept for the other kernel too.
    const u32 query = first_query + threadIdx.x;
    if (threadIdx.x < TILE && query < run.context) {
        const u64 at = head.out + query * head.out_stride;
        float sum = 0.0f;
        for (u32 index = 0; index < run.head_width; ++index) {
            sum = fmaf(static_cast<const float *>(run.out)[at + index],
                       static_cast<const float *>(run.out_delta)[at + index], sum);
        }
        run.products[head.row + query] = sum;
    }
    float query_delta[DOWN][WIDTH / ACROSS] = {};
    for (u32 tile = 0; tile <= block; ++tile) {
        __syncthreads();
        copy_keys(tiles, tile * TILE, run, head);
        __syncthreads();
        float weights[DOWN][SCORES] = {}, deltas[DOWN][SCORES] = {};
        score_gradients(weights, deltas, tiles, first_query, tile == block, run, head);
        tiles.scores.keep(deltas);
        __syncthreads();
        add_scores_by_rows<false>(query_delta, tiles.scores, tiles.keys);
    }
    const float scale = run.scale * LN_2; // 1 / sqrt(head_width)
    const float scales[DOWN] = {scale, scale, scale, scale};
    write_part<WIDTH>(static_cast<float *>(run.qkv_delta) + head.qkv, head.stride, first_query, run,
                      query_delta, scales);
}

template <u32 WIDTH> __device__ __forceinline__ void key_gradient(const Attention &run) {
    GradientRows<WIDTH> &tiles = *reinterpret_cast<GradientRows<WIDTH> *>(shared_arena());
    const Head head(run, blockIdx.y);
    const u32 block = blockIdx.x, first_key = block * TILE;
    copy_keys(tiles, first_key, run, head);
    float key_delta[DOWN][WIDTH / ACROSS] = {}, value_delta[DOWN][WIDTH / ACROSS] = {};
    for (u32 tile = block; tile < gridDim.x; ++tile) {
        __syncthreads();
        copy_queries(tiles, tile * TILE, run, head);
        __syncthreads();
        float weights[DOWN][SCORES] = {}, deltas[DOWN][SCORES] = {};
        score_gradients(weights, deltas, tiles, tile * TILE, tile == block, run, head);
        tiles.scores.keep(weights);
        __syncthreads();
        add_scores_by_rows<true>(value_delta, tiles.scores, tiles.out_deltas);
        __syncthreads();
        tiles.scores.keep(deltas);
        __syncthreads();
        add_scores_by_rows<true>(key_delta, tiles.scores, tiles.queries);
    }
    const float scale = run.scale * LN_2;
    const float scales[DOWN] = {scale, scale, scale, scale}, ones[DOWN] = {1.0f, 1.0f, 1.0f, 1.0f};
    float *key_rows = static_cast<float *>(run.qkv_delta) + head.qkv + head.keys;
    write_part<WIDTH>(key_rows, head.stride, first_key, run, key_delta, scales);
    write_part<WIDTH>(key_rows + head.keys, head.stride, first_key, run, value_delta, ones);
}

#define ATTENTION_KERNELS(WIDTH)                                                                   \
    extern "C" __global__ void __launch_bounds__(BLOCK) attend_float32_##WIDTH(                    \
        const Attention run) {                                                                     \
        attend<WIDTH>(run);                                                                        \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK) query_gradient_float32_##WIDTH(            \
        const Attention run) {                                                                     \
        query_gradient<WIDTH>(run);                                                                \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK) key_gradient_float32_##WIDTH(              \
        const Attention run) {                                                                     \
        key_gradient<WIDTH>(run);                                                                  \
    }

ATTENTION_KERNELS(32)
ATTENTION_KERNELS(64)
ATTENTION_KERNELS(128)
