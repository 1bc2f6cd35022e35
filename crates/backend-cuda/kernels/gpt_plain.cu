// Any product, an element of a thread, in place of the library's: slow, and nothing but our own code runs, which
// compute-sanitizer's racecheck needs.
#include "gpt.cuh"

constexpr u32 THREADS = 256;

struct PlainProduct {
    const void *left;  // (rows, inner), or (inner, rows): see the steps
    const void *right; // (inner, columns), or (columns, inner)
    const void *add;   // (rows, columns), like the result; none if null
    void *result;      // (rows, columns)
    u32 rows;
    u32 columns;
    u32 inner;
    u32 left_row; // from a row to the next one
    u32 left_inner;
    u32 right_column;
    u32 right_inner;
    u32 unused;
};

__device__ __forceinline__ void store(float *to, float value) { *to = value; }
__device__ __forceinline__ void store(bf16 *to, float value) {
    to->bits = static_cast<u16>(pack_bf16(value, 0.0f));
}

template <class T, class R> __device__ __forceinline__ void plain_product(const PlainProduct &run) {
    const u64 index = static_cast<u64>(blockIdx.x) * THREADS + threadIdx.x;
    if (index >= static_cast<u64>(run.rows) * run.columns) {
        return;
    }
    const u32 row = index / run.columns, column = index % run.columns;
    const T *left = static_cast<const T *>(run.left) + static_cast<u64>(row) * run.left_row;
    const T *right = static_cast<const T *>(run.right) + static_cast<u64>(column) * run.right_column;
    float sum = run.add == nullptr ? 0.0f : as_float(static_cast<const R *>(run.add)[index]);
    for (u32 at = 0; at < run.inner; ++at) {
        sum = fmaf(as_float(left[static_cast<u64>(at) * run.left_inner]),
                   as_float(right[static_cast<u64>(at) * run.right_inner]), sum);
    }
    store(static_cast<R *>(run.result) + index, sum);
}

#define PLAIN_KERNEL(OPERANDS, RESULT, NAME)                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        plain_product_##NAME(const PlainProduct run) {                                             \
        plain_product<OPERANDS, RESULT>(run);                                                      \
    }

PLAIN_KERNEL(float, float, float32)
PLAIN_KERNEL(bf16, bf16, bf16)
PLAIN_KERNEL(bf16, float, bf16_float32)
