// The attention model's sizes, and where everything is: in a block's arena and in the canonical
// parameters.
#pragma once
#include "tiles.cuh"

constexpr u32 TOKENS = 49;
constexpr u32 PADDED_TOKENS = 52;      // rows that exist; and columns of scores, to whole fours
constexpr u32 PATCH_SIDE = 4;
constexpr u32 PATCH = 16;
constexpr u32 GRID_SIDE = 7;           // patches in a row of the image
constexpr u32 ATTENTION_WARPS = 20; // five for each of the schedulers: 96 registers a thread
constexpr u32 ATTENTION_THREADS = ATTENTION_WARPS * WARP;
constexpr u32 STRIPS = PADDED_TOKENS / TILE; // 13, of four tokens
constexpr u32 CHAINS = 4;              // sums that go on beside each other
constexpr u32 DOT_LANES = 8;           // that share a product of two vectors
constexpr u32 IMAGE_WORDS = PIXELS / 4; // a row of a patch each

__host__ __device__ constexpr u32 fours(u32 width) { return (width + 3) / 4 * 4; }
__host__ __device__ constexpr u32 stride_of(u32 width) { return 4 * ((width + 3) / 4 | 1); }
__host__ __device__ constexpr u32 tiles_of(u32 width) { return (width + TILE - 1) / TILE; }
__host__ __device__ constexpr u32 warps_of(u32 lanes) { return (lanes + WARP - 1) / WARP; }

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
    u32 strip_sums = 0, mean_wide = 0, mean = 0, logits = 0, d_logits = 0, d_mean = 0, d_mean_wide = 0;
    u32 gradient = 0; // elements of a gradient
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

        gradient = size;
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
        strip_sums = take(STRIPS * f);
        mean_wide = take(f);
        mean = take(d);
        logits = take(CLASS_STRIDE);
        d_logits = take(CLASS_STRIDE);
        d_mean = take(d);
        d_mean_wide = take(f);

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

// Where a canonical parameter is in the arena. Ranges in the order of the canonical layout.
__device__ __forceinline__ u32 place_of(const Layout &at, u32 index) {
    const u32 d = at.d_model, f = at.ff;
    if (index < at.c_patch_bias) {
        return at.patch_weight + index / PATCH * at.patch_stride + index % PATCH;
    }
    if (index < at.c_position) {
        return at.patch_bias + index - at.c_patch_bias;
    }
    if (index < at.c_weight[0]) {
        const u32 own = index - at.c_position;
        return at.position + own / d * at.d_stride + own % d;
    }
    if (index < at.c_ff1_weight) { // query, key, value: the same distances in both layouts
        const u32 which = (index - at.c_weight[0]) / (at.c_weight[1] - at.c_weight[0]);
        const u32 own = (index - at.c_weight[0]) % (at.c_weight[1] - at.c_weight[0]);
        const u32 matrix = at.weight[0] + which * (at.weight[1] - at.weight[0]);
        return own < d * d ? matrix + own / d * at.d_stride + own % d
                           : matrix + (at.bias[0] - at.weight[0]) + own - d * d;
    }
    if (index < at.c_ff1_bias) {
        const u32 own = index - at.c_ff1_weight;
        return at.ff1_weight + own / d * at.d_stride + own % d;
    }
    if (index < at.c_ff2_weight) {
        return at.ff1_bias + index - at.c_ff1_bias;
    }
    if (index < at.c_ff2_bias) {
        const u32 own = index - at.c_ff2_weight;
        return at.ff2_weight + own / f * at.ff_stride + own % f;
    }
    if (index < at.c_out_weight) {
        return at.ff2_bias + index - at.c_ff2_bias;
    }
    if (index < at.c_out_bias) {
        const u32 own = index - at.c_out_weight;
        return at.out_weight + own / d * at.d_stride + own % d;
    }
    return at.out_bias + index - at.c_out_bias;
}
