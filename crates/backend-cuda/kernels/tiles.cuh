// Products of small matrices in a block's memory. Reading shared memory would bound them, which hands
// out 32 words a cycle to 128 multiply-adds, so a value that was read serves several of these: as one
// value of four rows that all lanes of a warp read together, or as one of a tile of four by four.
//
// Rows are padded to whole fours, and to an odd number of 16 bytes, so that lanes that read
// neighbouring rows never meet in a bank. Padding is zero: loops run over it.
#pragma once
#include "device.cuh"

constexpr u32 TILE = 4; // rows of a warp's strip; rows and columns of a lane's tile

__device__ __forceinline__ float4 four(const float *values) {
    return *reinterpret_cast<const float4 *>(values);
}

// Four rows of a product, of which each lane has a few columns. All lanes read the same of `a`.
template <u32 COLUMNS> struct Strip {
    float of[TILE][COLUMNS] = {};

    __device__ __forceinline__ void add(const float4 (&left)[TILE], u32 part,
                                        const float (&right)[COLUMNS]) {
#pragma unroll
        for (u32 row = 0; row < TILE; ++row) {
#pragma unroll
            for (u32 column = 0; column < COLUMNS; ++column) {
                of[row][column] = fmaf((&left[row].x)[part], right[column], of[row][column]);
            }
        }
    }

    // += rows of a times rows of b, of which `b` names the lane's. `inner` is a multiple of 4.
    __device__ __forceinline__ void add_rows_by_rows(const float *a, u32 a_stride,
                                                     const float *const (&b)[COLUMNS], u32 inner) {
#pragma unroll 2
        for (u32 k = 0; k < inner; k += 4) {
            float4 left[TILE], right[COLUMNS];
#pragma unroll
            for (u32 row = 0; row < TILE; ++row) {
                left[row] = four(a + row * a_stride + k);
            }
#pragma unroll
            for (u32 column = 0; column < COLUMNS; ++column) {
                right[column] = four(b[column] + k);
            }
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                float values[COLUMNS];
#pragma unroll
                for (u32 column = 0; column < COLUMNS; ++column) {
                    values[column] = (&right[column].x)[part];
                }
                add(left, part, values);
            }
        }
    }

    // += rows of a times columns of b, of which `b` names the lane's. `inner` is rounded up to whole
    // fours, where a's rows are zero.
    __device__ __forceinline__ void add_rows_by_columns(const float *a, u32 a_stride,
                                                        const float *const (&b)[COLUMNS],
                                                        u32 b_stride, u32 inner) {
#pragma unroll 2
        for (u32 k = 0; k < inner; k += 4) {
            float4 left[TILE];
#pragma unroll
            for (u32 row = 0; row < TILE; ++row) {
                left[row] = four(a + row * a_stride + k);
            }
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                float values[COLUMNS];
#pragma unroll
                for (u32 column = 0; column < COLUMNS; ++column) {
                    values[column] = b[column][(k + part) * b_stride];
                }
                add(left, part, values);
            }
        }
    }
};

// Four rows and four columns of a product, a lane's.
struct Tile {
    float of[TILE][TILE] = {};

    // += columns of a times columns of b, four neighbouring ones of each, over four rows.
    __device__ __forceinline__ void add_columns_by_columns(const float *a, u32 a_stride,
                                                           const float *b, u32 b_stride) {
#pragma unroll
        for (u32 k = 0; k < TILE; ++k) {
            const float4 left = four(a + k * a_stride), right = four(b + k * b_stride);
#pragma unroll
            for (u32 row = 0; row < TILE; ++row) {
#pragma unroll
                for (u32 column = 0; column < TILE; ++column) {
                    of[row][column] = fmaf((&left.x)[row], (&right.x)[column], of[row][column]);
                }
            }
        }
    }

    __device__ __forceinline__ void store(u32 row, float *to) const {
        *reinterpret_cast<float4 *>(to) = float4{of[row][0], of[row][1], of[row][2], of[row][3]};
    }
};
