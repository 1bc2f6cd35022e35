// What the kernels of the GPT share: values in float32 or bf16, four at a time, and sums over blocks.
#pragma once
#include "device.cuh"

typedef unsigned short u16;

constexpr float LARGEST = 3.402823466e38f;

// A float's leading 16 bits, rounded to nearest even.
struct bf16 {
    u16 bits;
};

// The leading halves of two floats in a word, `low` in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(bf16 value) {
    return __uint_as_float(static_cast<u32>(value.bits) << 16);
}

// Four values, aligned to their size together.
__device__ __forceinline__ float4 load_four(const float *values) {
    return *reinterpret_cast<const float4 *>(values);
}

__device__ __forceinline__ float4 load_four(const bf16 *values) {
    const uint2 pairs = *reinterpret_cast<const uint2 *>(values);
    return make_float4(low_bf16(pairs.x), high_bf16(pairs.x), low_bf16(pairs.y),
                       high_bf16(pairs.y));
}

__device__ __forceinline__ void store_four(float *values, float4 four) {
    *reinterpret_cast<float4 *>(values) = four;
}

__device__ __forceinline__ void store_four(bf16 *values, float4 four) {
    *reinterpret_cast<uint2 *>(values) =
        make_uint2(pack_bf16(four.x, four.y), pack_bf16(four.z, four.w));
}

__device__ __forceinline__ float sum_of(float4 four) {
    return (four.x + four.y) + (four.z + four.w);
}

// Sum over a block of up to 1024 threads, the same in every thread and every time. `partial` is
// shared memory for 32 floats; it may be used again after the block's next barrier.
__device__ __forceinline__ float block_sum(float value, float *partial) {
    const u32 lane = threadIdx.x % WARP;
    value = warp_sum(value);
    if (lane == 0) {
        partial[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    value = lane < blockDim.x / WARP ? partial[lane] : 0.0f;
    return warp_sum(value);
}

__device__ __forceinline__ float warp_max(float value) {
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

__device__ __forceinline__ float block_max(float value, float *partial) {
    const u32 lane = threadIdx.x % WARP;
    value = warp_max(value);
    if (lane == 0) {
        partial[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    value = lane < blockDim.x / WARP ? partial[lane] : -LARGEST;
    return warp_max(value);
}

// Which step of a call it is. `current` is `next` as it was before the loss was known; what runs after
// that reads `current`.
struct GptProgress {
    u32 next;
    u32 current;
};

// What the host knows of each step of a call beforehand.
struct StepRates {
    float learning_rate;
    float first_correction;  // 1 / (1 - beta1^step)
    float second_correction; // 1 / (1 - beta2^step)
    float unused;
};

struct AdamWConstants {
    float beta1;
    float beta2;
    float epsilon;
    float decay;
    float clip; // largest norm of the whole gradient
    float unused;
};

// PyTorch's AdamW after clip_grad_norm_, from the gradient's squares summed.
struct AdamWStep {
    AdamWConstants constants;
    float clip;
    float keep;
    float rate;
    float correction; // of the second moment

    __device__ __forceinline__ AdamWStep(const AdamWConstants &run, const StepRates &rates,
                                         float squares)
        : constants(run), clip(run.clip / (sqrtf(squares) + 1e-6f)),
          keep(1.0f - rates.learning_rate * run.decay),
          rate(rates.learning_rate * rates.first_correction), correction(rates.second_correction) {
        clip = clip >= 1.0f ? 1.0f : clip; // NaN stays
    }

    // A parameter, its gradient, the mean of gradients and that of their squares.
    __device__ __forceinline__ void take(float gradient, bool decays, float &parameter, float &first,
                                         float &second) const {
        const float g = gradient * clip;
        first += (1.0f - constants.beta1) * (g - first);
        second = constants.beta2 * second + (1.0f - constants.beta2) * g * g;
        parameter = parameter * (decays ? keep : 1.0f) -
                    rate * first / (sqrtf(second * correction) + constants.epsilon);
    }
};

template <class T> struct Pack; // 16 bytes of values
template <> struct Pack<float> {
    static constexpr u32 VALUES = 4;
    static __device__ __forceinline__ void open(float (&values)[4], uint4 pack) {
        values[0] = __uint_as_float(pack.x);
        values[1] = __uint_as_float(pack.y);
        values[2] = __uint_as_float(pack.z);
        values[3] = __uint_as_float(pack.w);
    }
    static __device__ __forceinline__ uint4 close(const float (&values)[4]) {
        return make_uint4(__float_as_uint(values[0]), __float_as_uint(values[1]),
                          __float_as_uint(values[2]), __float_as_uint(values[3]));
    }
};
template <> struct Pack<bf16> {
    static constexpr u32 VALUES = 8;
    static __device__ __forceinline__ void open(float (&values)[8], uint4 pack) {
        const u32 words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            values[2 * index] = low_bf16(words[index]);
            values[2 * index + 1] = high_bf16(words[index]);
        }
    }
    static __device__ __forceinline__ uint4 close(const float (&values)[8]) {
        return make_uint4(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]),
                          pack_bf16(values[4], values[5]), pack_bf16(values[6], values[7]));
    }
};

// GELU in its tanh form: value / 2 (1 + tanh(sqrt(2/pi) (value + 0.044715 value^3))).
constexpr float GELU_SLOPE = 0.7978845608028654f;
constexpr float GELU_CUBIC = 0.044715f;

// In bf16 the machine's tanh will do, whose error is 2^-11.
template <class T> __device__ __forceinline__ float tanh_for(float value);
template <> __device__ __forceinline__ float tanh_for<float>(float value) { return tanhf(value); }
template <> __device__ __forceinline__ float tanh_for<bf16>(float value) {
    float result;
    asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}

template <class T> __device__ __forceinline__ float gelu(float value) {
    const float inner = GELU_SLOPE * (value + GELU_CUBIC * value * value * value);
    return 0.5f * value * (1.0f + tanh_for<T>(inner));
}

template <class T> __device__ __forceinline__ float gelu_slope(float value) {
    const float tanh_inner = tanh_for<T>(GELU_SLOPE * (value + GELU_CUBIC * value * value * value));
    const float inner_slope = GELU_SLOPE * (1.0f + 3.0f * GELU_CUBIC * value * value);
    return 0.5f * (1.0f + tanh_inner) +
           0.5f * value * (1.0f - tanh_inner * tanh_inner) * inner_slope;
}
