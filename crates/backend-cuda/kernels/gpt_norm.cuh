// A row of activations that a warp keeps in registers, and what LayerNorm needs of it.
#pragma once
#include "gpt.cuh"

constexpr float EPSILON = 1e-5f; // of LayerNorm: PyTorch's

template <u32 FOURS> struct Row {
    float4 of[FOURS];

    // The row at `values`; `fours` of them are real and the others 0.
    template <class T> __device__ __forceinline__ void load(const T *values, u32 fours) {
        const u32 lane = threadIdx.x % WARP;
#pragma unroll
        for (u32 part = 0; part < FOURS; ++part) {
            const u32 index = part * WARP + lane;
            of[part] = index < fours ? load_four(values + 4 * index) : make_float4(0, 0, 0, 0);
        }
    }

    template <class T> __device__ __forceinline__ void store(T *values, u32 fours) const {
        const u32 lane = threadIdx.x % WARP;
#pragma unroll
        for (u32 part = 0; part < FOURS; ++part) {
            const u32 index = part * WARP + lane;
            if (index < fours) {
                store_four(values + 4 * index, of[part]);
            }
        }
    }
};

// Mean and reciprocal standard deviation of a row; the variance is that of the centred values.
template <u32 FOURS> __device__ __forceinline__ float2 statistics(const Row<FOURS> &row, u32 width) {
    float sum = 0.0f;
#pragma unroll
    for (u32 part = 0; part < FOURS; ++part) {
        sum += sum_of(row.of[part]);
    }
    const float mean = warp_sum(sum) / static_cast<float>(width);
    const u32 lane = threadIdx.x % WARP;
    float squares = 0.0f;
#pragma unroll
    for (u32 part = 0; part < FOURS; ++part) {
        if (part * WARP + lane < width / 4) {
            const float4 four = row.of[part];
            const float x = four.x - mean, y = four.y - mean, z = four.z - mean, w = four.w - mean;
            squares += (x * x + y * y) + (z * z + w * w);
        }
    }
    const float variance = warp_sum(squares) / static_cast<float>(width);
    return make_float2(mean, 1.0f / sqrtf(variance + EPSILON));
}
