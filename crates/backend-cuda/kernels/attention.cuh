// The attention model for one sample and one block of threads: forward and backward, from padded
// arrays in one arena (shared memory, or global where that is too small) to the sample's gradient in
// global memory, canonical layout.
//
// A warp computes a few rows of a product, a lane one column: of each four terms the rows' values
// are one 16-byte load for the whole warp. Rows are padded to an odd number of 16 bytes, so that
// lanes that read neighbouring rows never meet in a bank. Padding is zero and stays zero: loops run
// over it, nothing is written to it.
//
// `ff2` is linear and what follows it is a mean over the tokens, so it is applied to the mean of its
// inputs: the same sum, 49 times fewer products.
#pragma once
#include "classes.cuh"

constexpr u32 TOKENS = 49;
constexpr u32 PADDED_TOKENS = 52;      // rows that exist; and columns of scores, to whole fours
constexpr u32 PATCH_SIDE = 4;
constexpr u32 PATCH = 16;
constexpr u32 GRID_SIDE = 7;           // patches in a row of the image
constexpr u32 ATTENTION_WARPS = 21;    // three matrices of seven groups of seven tokens
constexpr u32 ATTENTION_THREADS = ATTENTION_WARPS * WARP;
constexpr u32 TOKEN_ROWS = 7;          // tokens of a warp's task
constexpr u32 TOKEN_GROUPS = 7;
constexpr u32 FEATURE_ROWS = 8;        // rows of a task whose rows are not tokens

__host__ __device__ constexpr u32 fours(u32 width) { return (width + 3) / 4 * 4; }
__host__ __device__ constexpr u32 stride_of(u32 width) { return 4 * ((width + 3) / 4 | 1); }
__host__ __device__ constexpr u32 columns_of(u32 width) { return (width + WARP - 1) / WARP; }
__host__ __device__ constexpr u32 groups_of(u32 width) {
    return (width + FEATURE_ROWS - 1) / FEATURE_ROWS;
}

// Where everything is: in the arena, in elements, and in the canonical parameters.
struct Layout {
    u32 d_model = 0, ff = 0;
    u32 d_stride = 0, ff_stride = 0, patch_stride = 0, token_stride = 0;
    // Parameters, padded.
    u32 patch_weight = 0, patch_bias = 0, position = 0;
    u32 weight[3] = {}, bias[3] = {}; // query, key, value
    u32 ff1_weight = 0, ff1_bias = 0, ff2_weight = 0, ff2_bias = 0, out_weight = 0, out_bias = 0;
    // Activations and their gradients; rows are tokens.
    u32 patches = 0, embedded = 0, projected[3] = {}, scores = 0, mixed = 0, wide = 0;
    u32 d_mixed = 0, d_scores = 0, d_projected[3] = {}, d_embedded = 0;
    u32 mean_wide = 0, mean = 0, logits = 0, d_logits = 0, d_mean = 0, d_mean_wide = 0;
    u32 size = 0;
    // Canonical parameters.
    u32 c_patch_weight = 0, c_patch_bias = 0, c_position = 0, c_weight[3] = {}, c_bias[3] = {};
    u32 c_ff1_weight = 0, c_ff1_bias = 0, c_ff2_weight = 0, c_ff2_bias = 0, c_out_weight = 0;
    u32 c_out_bias = 0, parameters = 0;

    __host__ __device__ constexpr u32 take(u32 len) {
        const u32 at = size;
        size += fours(len);
        return at;
    }
    __host__ __device__ constexpr u32 take_canonical(u32 len) {
        const u32 at = parameters;
        parameters += len;
        return at;
    }

    __host__ __device__ constexpr Layout(u32 d, u32 f) {
        d_model = d;
        ff = f;
        d_stride = stride_of(d);
        ff_stride = stride_of(f);
        patch_stride = stride_of(PATCH);
        token_stride = stride_of(PADDED_TOKENS);
        patch_weight = take(d * patch_stride);
        patch_bias = take(d);
        position = take(TOKENS * d_stride);
        for (u32 index = 0; index < 3; ++index) {
            weight[index] = take(d * d_stride);
            bias[index] = take(d);
        }
        ff1_weight = take(f * d_stride);
        ff1_bias = take(f);
        ff2_weight = take(d * ff_stride);
        ff2_bias = take(d);
        out_weight = take(CLASSES * d_stride);
        out_bias = take(CLASSES);

        patches = take(PADDED_TOKENS * patch_stride);
        embedded = take(PADDED_TOKENS * d_stride);
        for (u32 index = 0; index < 3; ++index) {
            projected[index] = take(PADDED_TOKENS * d_stride);
        }
        scores = take(PADDED_TOKENS * token_stride);
        mixed = take(PADDED_TOKENS * d_stride);
        wide = take(PADDED_TOKENS * ff_stride);
        d_mixed = take(PADDED_TOKENS * d_stride);
        d_scores = take(PADDED_TOKENS * token_stride);
        for (u32 index = 0; index < 3; ++index) {
            d_projected[index] = take(PADDED_TOKENS * d_stride);
        }
        d_embedded = take(PADDED_TOKENS * d_stride);
        mean_wide = take(f);
        mean = take(d);
        logits = take(CLASS_STRIDE);
        d_logits = take(CLASS_STRIDE);
        d_mean = take(d);
        d_mean_wide = take(f);
        size += FEATURE_ROWS; // the last rows of a task may be read past an array's end

        c_patch_weight = take_canonical(d * PATCH);
        c_patch_bias = take_canonical(d);
        c_position = take_canonical(TOKENS * d);
        for (u32 index = 0; index < 3; ++index) {
            c_weight[index] = take_canonical(d * d);
            c_bias[index] = take_canonical(d);
        }
        c_ff1_weight = take_canonical(f * d);
        c_ff1_bias = take_canonical(f);
        c_ff2_weight = take_canonical(d * f);
        c_ff2_bias = take_canonical(d);
        c_out_weight = take_canonical(CLASSES * d);
        c_out_bias = take_canonical(CLASSES);
    }
};

// Widths known when the kernel is compiled, and widths that its arguments bring.
template <u32 D_MODEL, u32 FF> struct FixedSizes {
    static constexpr Layout at = Layout(D_MODEL, FF);
};

struct AnySizes {
    Layout at;
};

__device__ __forceinline__ float4 four(const float *values) {
    return *reinterpret_cast<const float4 *>(values);
}

// sums[i] += a's row i times b's row, both `inner` long (a multiple of 4).
template <u32 ROWS>
__device__ __forceinline__ void rows_by_row(float (&sums)[ROWS], const float *a, u32 a_stride,
                                            const float *b, u32 inner) {
#pragma unroll 2
    for (u32 k = 0; k < inner; k += 4) {
        const float4 right = four(b + k);
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) {
            const float4 left = four(a + row * a_stride + k);
            sums[row] += left.x * right.x;
            sums[row] += left.y * right.y;
            sums[row] += left.z * right.z;
            sums[row] += left.w * right.w;
        }
    }
}

// sums[i] += a's row i times b's column.
template <u32 ROWS>
__device__ __forceinline__ void rows_by_column(float (&sums)[ROWS], const float *a, u32 a_stride,
                                               const float *b, u32 b_stride, u32 inner) {
#pragma unroll 2
    for (u32 k = 0; k < inner; k += 4) {
        const float right[4] = {b[k * b_stride], b[(k + 1) * b_stride], b[(k + 2) * b_stride],
                                b[(k + 3) * b_stride]};
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) {
            const float4 left = four(a + row * a_stride + k);
            sums[row] += left.x * right[0];
            sums[row] += left.y * right[1];
            sums[row] += left.z * right[2];
            sums[row] += left.w * right[3];
        }
    }
}

// sums[i] += a's column i (of eight, the first at `a`) times b's column; over all tokens.
__device__ __forceinline__ void columns_by_column(float (&sums)[FEATURE_ROWS], const float *a,
                                                  u32 a_stride, const float *b, u32 b_stride) {
#pragma unroll 7
    for (u32 token = 0; token < TOKENS; ++token) {
        const float right = b[token * b_stride];
        const float4 near = four(a + token * a_stride), far = four(a + token * a_stride + 4);
        sums[0] += near.x * right;
        sums[1] += near.y * right;
        sums[2] += near.z * right;
        sums[3] += near.w * right;
        sums[4] += far.x * right;
        sums[5] += far.y * right;
        sums[6] += far.z * right;
        sums[7] += far.w * right;
    }
}

// One sample's pass. All threads of the block call all functions; each ends with the block in step.
template <class Sizes> struct AttentionPass {
    Sizes sizes;
    float *arena;
    float *gradient; // of the sample, canonical, global
    u32 thread, lane, warp;

    __device__ __forceinline__ float *in(u32 offset) const { return arena + offset; }

    // A matrix of canonical parameters with its rows padded.
    __device__ __forceinline__ void load_matrix(u32 to, const float *from, u32 rows, u32 columns,
                                                u32 stride) const {
        for (u32 index = thread; index < rows * columns; index += ATTENTION_THREADS) {
            arena[to + index / columns * stride + index % columns] = from[index];
        }
    }

    __device__ __forceinline__ void clear() const {
        for (u32 index = thread; index < sizes.at.size; index += ATTENTION_THREADS) {
            arena[index] = 0.0f;
        }
        __syncthreads();
    }

    __device__ __forceinline__ void load_parameters(const float *from) const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff, stride = sizes.at.d_stride;
        load_matrix(sizes.at.patch_weight, from + sizes.at.c_patch_weight, d, PATCH,
                    sizes.at.patch_stride);
        load_matrix(sizes.at.patch_bias, from + sizes.at.c_patch_bias, 1, d, 0);
        load_matrix(sizes.at.position, from + sizes.at.c_position, TOKENS, d, stride);
        for (u32 index = 0; index < 3; ++index) {
            load_matrix(sizes.at.weight[index], from + sizes.at.c_weight[index], d, d, stride);
            load_matrix(sizes.at.bias[index], from + sizes.at.c_bias[index], 1, d, 0);
        }
        load_matrix(sizes.at.ff1_weight, from + sizes.at.c_ff1_weight, f, d, stride);
        load_matrix(sizes.at.ff1_bias, from + sizes.at.c_ff1_bias, 1, f, 0);
        load_matrix(sizes.at.ff2_weight, from + sizes.at.c_ff2_weight, d, f, sizes.at.ff_stride);
        load_matrix(sizes.at.ff2_bias, from + sizes.at.c_ff2_bias, 1, d, 0);
        load_matrix(sizes.at.out_weight, from + sizes.at.c_out_weight, CLASSES, d, stride);
        load_matrix(sizes.at.out_bias, from + sizes.at.c_out_bias, 1, CLASSES, 0);
    }

    // The image as (49 tokens, 16 pixels).
    __device__ __forceinline__ void load_patches(const u8 *image) const {
        constexpr u32 WORDS_OF_IMAGE = PIXELS / 4; // a row of a patch each
        if (thread < WORDS_OF_IMAGE) {
            const u32 row = thread / GRID_SIDE, column = thread % GRID_SIDE;
            const u32 token = row / PATCH_SIDE * GRID_SIDE + column;
            float values[4];
            floats_of_bytes(values, *reinterpret_cast<const u32 *>(image + thread * 4));
            float *to = in(sizes.at.patches) + token * sizes.at.patch_stride +
                        row % PATCH_SIDE * PATCH_SIDE;
#pragma unroll
            for (u32 byte = 0; byte < 4; ++byte) {
                to[byte] = values[byte] * PIXEL_SCALE;
            }
        }
        __syncthreads();
    }

    // The task-th group of seven tokens and block of 32 columns, of `width` columns.
    struct TokenTask {
        u32 row0, column, safe_column;
        bool exists;
    };
    __device__ __forceinline__ TokenTask token_task(u32 task, u32 width) const {
        const u32 column = task / TOKEN_GROUPS * WARP + lane;
        return TokenTask{task % TOKEN_GROUPS * TOKEN_ROWS, column, min(column, width - 1),
                         column < width};
    }
    __device__ __forceinline__ static u32 token_tasks(u32 width) {
        return TOKEN_GROUPS * columns_of(width);
    }

    __device__ __forceinline__ void embed() const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        for (u32 task = warp; task < token_tasks(d); task += ATTENTION_WARPS) {
            const TokenTask own = token_task(task, d);
            float sums[TOKEN_ROWS] = {};
            rows_by_row(sums, in(sizes.at.patches) + own.row0 * sizes.at.patch_stride,
                        sizes.at.patch_stride,
                        in(sizes.at.patch_weight) + own.safe_column * sizes.at.patch_stride, PATCH);
            const float bias = arena[sizes.at.patch_bias + own.safe_column];
            if (own.exists) {
#pragma unroll
                for (u32 row = 0; row < TOKEN_ROWS; ++row) {
                    const u32 at = (own.row0 + row) * stride + own.column;
                    arena[sizes.at.embedded + at] =
                        relu(sums[row] + bias + arena[sizes.at.position + at]);
                }
            }
        }
        __syncthreads();
    }

    // out = rows weight^T + bias, ReLU if `rectified`.
    __device__ __forceinline__ void linear_task(u32 task, u32 input, u32 weight, u32 bias, u32 out,
                                                u32 width, u32 out_stride, bool rectified) const {
        const u32 stride = sizes.at.d_stride;
        const TokenTask own = token_task(task, width);
        float sums[TOKEN_ROWS] = {};
        rows_by_row(sums, in(input) + own.row0 * stride, stride,
                    in(weight) + own.safe_column * stride, fours(sizes.at.d_model));
        const float shift = arena[bias + own.safe_column];
        if (own.exists) {
#pragma unroll
            for (u32 row = 0; row < TOKEN_ROWS; ++row) {
                const float value = sums[row] + shift;
                arena[out + (own.row0 + row) * out_stride + own.column] =
                    rectified ? relu(value) : value;
            }
        }
    }

    // Query, key and value lie at equal distances.
    __device__ __forceinline__ void project() const {
        const u32 d = sizes.at.d_model, each = token_tasks(d);
        const u32 parameters = sizes.at.weight[1] - sizes.at.weight[0];
        const u32 outputs = sizes.at.projected[1] - sizes.at.projected[0];
        for (u32 task = warp; task < 3 * each; task += ATTENTION_WARPS) {
            const u32 which = task / each;
            linear_task(task % each, sizes.at.embedded, sizes.at.weight[0] + which * parameters,
                        sizes.at.bias[0] + which * parameters,
                        sizes.at.projected[0] + which * outputs, d, sizes.at.d_stride, false);
        }
        __syncthreads();
    }

    // out (49, 49) = a (49, d) b^T, times `scale`.
    __device__ __forceinline__ void token_products_task(u32 task, u32 a, u32 b, u32 out,
                                                        float scale) const {
        const u32 stride = sizes.at.d_stride;
        const TokenTask own = token_task(task, TOKENS);
        float sums[TOKEN_ROWS] = {};
        rows_by_row(sums, in(a) + own.row0 * stride, stride, in(b) + own.safe_column * stride,
                    fours(sizes.at.d_model));
        if (own.exists) {
#pragma unroll
            for (u32 row = 0; row < TOKEN_ROWS; ++row) {
                arena[out + (own.row0 + row) * sizes.at.token_stride + own.column] =
                    sums[row] * scale;
            }
        }
    }

    __device__ __forceinline__ float score_scale() const {
        return 1.0f / sqrtf(static_cast<float>(sizes.at.d_model));
    }

    // The attention of each token to each: a warp for a row.
    __device__ __forceinline__ void attend() const {
        for (u32 task = warp; task < token_tasks(TOKENS); task += ATTENTION_WARPS) {
            token_products_task(task, sizes.at.projected[0], sizes.at.projected[1],
                                sizes.at.scores, score_scale());
        }
        __syncthreads();
        for (u32 token = warp; token < TOKENS; token += ATTENTION_WARPS) {
            float *row = in(sizes.at.scores) + token * sizes.at.token_stride;
            const bool has_second = lane + WARP < TOKENS;
            const float first = row[lane];
            const float second = has_second ? row[lane + WARP] : first;
            float largest = fmaxf(first, second);
            for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, distance));
            }
            const float near = exp_of(first - largest);
            const float far = has_second ? exp_of(second - largest) : 0.0f;
            const float scale = 1.0f / warp_sum(near + far);
            row[lane] = near * scale;
            if (has_second) {
                row[lane + WARP] = far * scale;
            }
        }
        __syncthreads();
    }

    // out (49, d) = a (49, 49) b (49, d).
    __device__ __forceinline__ void mix_task(u32 task, u32 a, u32 b, u32 out) const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        const TokenTask own = token_task(task, d);
        float sums[TOKEN_ROWS] = {};
        rows_by_column(sums, in(a) + own.row0 * sizes.at.token_stride, sizes.at.token_stride,
                       in(b) + own.safe_column, stride, PADDED_TOKENS);
        if (own.exists) {
#pragma unroll
            for (u32 row = 0; row < TOKEN_ROWS; ++row) {
                arena[out + (own.row0 + row) * stride + own.column] = sums[row];
            }
        }
    }

    // The mean over the tokens of what the output layer takes.
    __device__ __forceinline__ void feed_forward() const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff;
        for (u32 task = warp; task < token_tasks(d); task += ATTENTION_WARPS) {
            mix_task(task, sizes.at.scores, sizes.at.projected[2], sizes.at.mixed);
        }
        __syncthreads();
        for (u32 task = warp; task < token_tasks(f); task += ATTENTION_WARPS) {
            linear_task(task, sizes.at.mixed, sizes.at.ff1_weight, sizes.at.ff1_bias,
                        sizes.at.wide, f, sizes.at.ff_stride, true);
        }
        __syncthreads();
        for (u32 feature = thread; feature < f; feature += ATTENTION_THREADS) {
            float sums[TOKEN_ROWS] = {};
#pragma unroll
            for (u32 token = 0; token < TOKENS; ++token) {
                sums[token % TOKEN_ROWS] +=
                    arena[sizes.at.wide + token * sizes.at.ff_stride + feature];
            }
            float sum = 0.0f;
#pragma unroll
            for (u32 index = 0; index < TOKEN_ROWS; ++index) {
                sum += sums[index];
            }
            arena[sizes.at.mean_wide + feature] = sum * (1.0f / TOKENS);
        }
        __syncthreads();
        for (u32 feature = thread; feature < d; feature += ATTENTION_THREADS) {
            float sums[1] = {arena[sizes.at.ff2_bias + feature]};
            rows_by_row(sums, in(sizes.at.ff2_weight) + feature * sizes.at.ff_stride, 0,
                        in(sizes.at.mean_wide), fours(f));
            arena[sizes.at.mean + feature] = sums[0];
        }
        __syncthreads();
    }

    __device__ __forceinline__ void forward(const u8 *image) const {
        load_patches(image);
        embed();
        project();
        attend();
        feed_forward();
    }

    // Logits, loss, and the gradients of everything after `ff1`. Writes the sample's loss.
    __device__ __forceinline__ void classify(u32 label, float *loss) const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff;
        if (warp == 0) {
            if (lane < CLASSES) {
                float sums[1] = {arena[sizes.at.out_bias + lane]};
                rows_by_row(sums, in(sizes.at.out_weight) + lane * sizes.at.d_stride, 0,
                            in(sizes.at.mean), fours(d));
                arena[sizes.at.logits + lane] = sums[0];
            }
            __syncwarp();
            const ClassGradient own = softmax_gradient(in(sizes.at.logits), lane, label);
            if (lane < CLASSES) {
                arena[sizes.at.d_logits + lane] = own.delta;
                gradient[sizes.at.c_out_bias + lane] = own.delta;
            }
            if (lane == 0) {
                *loss = own.loss;
            }
        }
        __syncthreads();
        for (u32 feature = thread; feature < d; feature += ATTENTION_THREADS) {
            float sum = 0.0f;
#pragma unroll
            for (u32 output = 0; output < CLASSES; ++output) {
                sum += arena[sizes.at.d_logits + output] *
                       arena[sizes.at.out_weight + output * sizes.at.d_stride + feature];
            }
            arena[sizes.at.d_mean + feature] = sum;
            gradient[sizes.at.c_ff2_bias + feature] = sum;
        }
        __syncthreads();
        for (u32 feature = thread; feature < f; feature += ATTENTION_THREADS) {
            float sum = 0.0f;
            for (u32 index = 0; index < d; ++index) {
                sum += arena[sizes.at.d_mean + index] *
                       arena[sizes.at.ff2_weight + index * sizes.at.ff_stride + feature];
            }
            arena[sizes.at.d_mean_wide + feature] = sum * (1.0f / TOKENS);
        }
        __syncthreads();
        // d_wide takes the place of wide.
        for (u32 index = thread; index < TOKENS * f; index += ATTENTION_THREADS) {
            const u32 feature = index % f;
            float *value = in(sizes.at.wide) + index / f * sizes.at.ff_stride + feature;
            *value = *value > 0.0f ? arena[sizes.at.d_mean_wide + feature] : 0.0f;
        }
        for (u32 index = thread; index < d * f; index += ATTENTION_THREADS) {
            gradient[sizes.at.c_ff2_weight + index] =
                arena[sizes.at.d_mean + index / f] * arena[sizes.at.mean_wide + index % f];
        }
        for (u32 index = thread; index < CLASSES * d; index += ATTENTION_THREADS) {
            gradient[sizes.at.c_out_weight + index] =
                arena[sizes.at.d_logits + index / d] * arena[sizes.at.mean + index % d];
        }
        __syncthreads();
    }

    // gradient (rows, columns) = d_out^T in, sums over the tokens; the task-th eight rows.
    __device__ __forceinline__ void weight_task(u32 task, u32 d_out, u32 d_out_stride, u32 rows,
                                                u32 input, u32 input_stride, u32 columns,
                                                u32 to) const {
        const u32 row0 = task % groups_of(rows) * FEATURE_ROWS;
        const u32 column = task / groups_of(rows) * WARP + lane;
        float sums[FEATURE_ROWS] = {};
        columns_by_column(sums, in(d_out) + row0, d_out_stride,
                          in(input) + min(column, columns - 1), input_stride);
        if (column < columns) {
#pragma unroll
            for (u32 row = 0; row < FEATURE_ROWS; ++row) {
                if (row0 + row < rows) {
                    gradient[to + (row0 + row) * columns + column] = sums[row];
                }
            }
        }
    }
    __device__ __forceinline__ static u32 weight_tasks(u32 rows, u32 columns) {
        return groups_of(rows) * columns_of(columns);
    }

    // gradient (width) = the sum of d_out over the tokens; the task-th 32 columns.
    __device__ __forceinline__ void bias_task(u32 task, u32 d_out, u32 stride, u32 width,
                                              u32 to) const {
        const u32 column = task * WARP + lane;
        if (column < width) {
            float sums[TOKEN_ROWS] = {};
#pragma unroll
            for (u32 token = 0; token < TOKENS; ++token) {
                sums[token % TOKEN_ROWS] += arena[d_out + token * stride + column];
            }
            float sum = 0.0f;
#pragma unroll
            for (u32 index = 0; index < TOKEN_ROWS; ++index) {
                sum += sums[index];
            }
            gradient[to + column] = sum;
        }
    }

    // out (49, d) = a^T b with a (49, 49) and b (49, d); the task-th eight rows.
    __device__ __forceinline__ void scatter_task(u32 task, u32 a, u32 b, u32 out) const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        const u32 row0 = task % groups_of(TOKENS) * FEATURE_ROWS;
        const u32 column = task / groups_of(TOKENS) * WARP + lane;
        float sums[FEATURE_ROWS] = {};
        columns_by_column(sums, in(a) + row0, sizes.at.token_stride, in(b) + min(column, d - 1),
                          stride);
        if (column < d) {
#pragma unroll
            for (u32 row = 0; row < FEATURE_ROWS; ++row) {
                if (row0 + row < TOKENS) {
                    arena[out + (row0 + row) * stride + column] = sums[row];
                }
            }
        }
    }
    __device__ __forceinline__ u32 scatter_tasks() const {
        return groups_of(TOKENS) * columns_of(sizes.at.d_model);
    }

    __device__ __forceinline__ void backward_feed_forward() const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff, stride = sizes.at.d_stride;
        const u32 inputs = token_tasks(d), weights = weight_tasks(f, d);
        for (u32 task = warp; task < inputs + weights + columns_of(f); task += ATTENTION_WARPS) {
            if (task < inputs) {
                const TokenTask own = token_task(task, d);
                float sums[TOKEN_ROWS] = {};
                rows_by_column(sums, in(sizes.at.wide) + own.row0 * sizes.at.ff_stride,
                               sizes.at.ff_stride, in(sizes.at.ff1_weight) + own.safe_column,
                               stride, f);
                if (own.exists) {
#pragma unroll
                    for (u32 row = 0; row < TOKEN_ROWS; ++row) {
                        arena[sizes.at.d_mixed + (own.row0 + row) * stride + own.column] =
                            sums[row];
                    }
                }
            } else if (task < inputs + weights) {
                weight_task(task - inputs, sizes.at.wide, sizes.at.ff_stride, f, sizes.at.mixed,
                            stride, d, sizes.at.c_ff1_weight);
            } else {
                bias_task(task - inputs - weights, sizes.at.wide, sizes.at.ff_stride, f,
                          sizes.at.c_ff1_bias);
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ void backward_attention() const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        const u32 products = token_tasks(TOKENS);
        for (u32 task = warp; task < products + scatter_tasks(); task += ATTENTION_WARPS) {
            if (task < products) {
                token_products_task(task, sizes.at.d_mixed, sizes.at.projected[2],
                                    sizes.at.d_scores, 1.0f);
            } else {
                scatter_task(task - products, sizes.at.scores, sizes.at.d_mixed,
                             sizes.at.d_projected[2]);
            }
        }
        __syncthreads();
        const float scale = score_scale();
        for (u32 token = warp; token < TOKENS; token += ATTENTION_WARPS) {
            const float *weights = in(sizes.at.scores) + token * sizes.at.token_stride;
            float *deltas = in(sizes.at.d_scores) + token * sizes.at.token_stride;
            const bool has_second = lane + WARP < TOKENS;
            const float near = weights[lane], far = has_second ? weights[lane + WARP] : 0.0f;
            const float first = deltas[lane], second = has_second ? deltas[lane + WARP] : 0.0f;
            const float mean = warp_sum(near * first + far * second);
            deltas[lane] = near * (first - mean) * scale;
            if (has_second) {
                deltas[lane + WARP] = far * (second - mean) * scale;
            }
        }
        __syncthreads();
        const u32 queries = token_tasks(d), keys = scatter_tasks(), weights = weight_tasks(d, d);
        const u32 total = queries + keys + weights + columns_of(d);
        for (u32 task = warp; task < total; task += ATTENTION_WARPS) {
            if (task < queries) {
                mix_task(task, sizes.at.d_scores, sizes.at.projected[1], sizes.at.d_projected[0]);
            } else if (task < queries + keys) {
                scatter_task(task - queries, sizes.at.d_scores, sizes.at.projected[0],
                             sizes.at.d_projected[1]);
            } else if (task < queries + keys + weights) {
                weight_task(task - queries - keys, sizes.at.d_projected[2], stride, d,
                            sizes.at.embedded, stride, d, sizes.at.c_weight[2]);
            } else {
                bias_task(task - queries - keys - weights, sizes.at.d_projected[2], stride, d,
                          sizes.at.c_bias[2]);
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ void backward_embedding() const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        const u32 inputs = token_tasks(d), weights = weight_tasks(d, d);
        const u32 total = inputs + 2 * weights + 2 * columns_of(d);
        for (u32 task = warp; task < total; task += ATTENTION_WARPS) {
            if (task < inputs) {
                const TokenTask own = token_task(task, d);
                float sums[TOKEN_ROWS] = {};
#pragma unroll
                for (u32 which = 0; which < 3; ++which) {
                    rows_by_column(sums, in(sizes.at.d_projected[which]) + own.row0 * stride,
                                   stride, in(sizes.at.weight[which]) + own.safe_column, stride, d);
                }
                if (own.exists) {
#pragma unroll
                    for (u32 row = 0; row < TOKEN_ROWS; ++row) {
                        const u32 at = (own.row0 + row) * stride + own.column;
                        const float delta =
                            arena[sizes.at.embedded + at] > 0.0f ? sums[row] : 0.0f;
                        arena[sizes.at.d_embedded + at] = delta;
                        gradient[sizes.at.c_position + (own.row0 + row) * d + own.column] = delta;
                    }
                }
            } else if (task < inputs + weights) {
                weight_task(task - inputs, sizes.at.d_projected[0], stride, d, sizes.at.embedded,
                            stride, d, sizes.at.c_weight[0]);
            } else if (task < inputs + 2 * weights) {
                weight_task(task - inputs - weights, sizes.at.d_projected[1], stride, d,
                            sizes.at.embedded, stride, d, sizes.at.c_weight[1]);
            } else if (task < inputs + 2 * weights + columns_of(d)) {
                bias_task(task - inputs - 2 * weights, sizes.at.d_projected[0], stride, d,
                          sizes.at.c_bias[0]);
            } else {
                bias_task(task - inputs - 2 * weights - columns_of(d), sizes.at.d_projected[1],
                          stride, d, sizes.at.c_bias[1]);
            }
        }
        __syncthreads();
        const u32 patch_weights = weight_tasks(d, PATCH);
        for (u32 task = warp; task < patch_weights + columns_of(d); task += ATTENTION_WARPS) {
            if (task < patch_weights) {
                weight_task(task, sizes.at.d_embedded, stride, d, sizes.at.patches,
                            sizes.at.patch_stride, PATCH, sizes.at.c_patch_weight);
            } else {
                bias_task(task - patch_weights, sizes.at.d_embedded, stride, d,
                          sizes.at.c_patch_bias);
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ void backward() const {
        backward_feed_forward();
        backward_attention();
        backward_embedding();
    }
};
