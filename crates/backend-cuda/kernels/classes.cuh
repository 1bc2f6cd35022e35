// The end of every model: softmax over ten classes, its loss and its gradient.
#pragma once
#include "device.cuh"

struct ClassGradient {
    float delta; // of class `lane`, for lane < 10: probability minus target
    float loss;  // the sample's cross-entropy in nats
};

// e^value for values up to 0.
__device__ __forceinline__ float exp_of(float value) {
    return power_of_two(value * 1.442695041f); // log2(e)
}

// Every lane reads all ten logits, 16-byte aligned, and does the sums itself, which saves passing
// maxima and sums around the warp.
__device__ __forceinline__ ClassGradient softmax_gradient(const float *logits, u32 lane,
                                                          u32 label) {
    const float4 a = reinterpret_cast<const float4 *>(logits)[0];
    const float4 b = reinterpret_cast<const float4 *>(logits)[1];
    const float2 c = reinterpret_cast<const float2 *>(logits)[4];
    const float own = logits[lane < CLASSES ? lane : 0];
    const float of_label = logits[label];
    const float largest = fmaxf(fmaxf(fmaxf(fmaxf(a.x, a.y), fmaxf(a.z, a.w)),
                                      fmaxf(fmaxf(b.x, b.y), fmaxf(b.z, b.w))),
                                fmaxf(c.x, c.y));
    const float sum = (((exp_of(a.x - largest) + exp_of(a.y - largest)) +
                        (exp_of(a.z - largest) + exp_of(a.w - largest))) +
                       ((exp_of(b.x - largest) + exp_of(b.y - largest)) +
                        (exp_of(b.z - largest) + exp_of(b.w - largest)))) +
                      (exp_of(c.x - largest) + exp_of(c.y - largest));
    return ClassGradient{exp_of(own - largest) * reciprocal(sum) - (lane == label ? 1.0f : 0.0f),
                         logf(sum) - (of_label - largest)};
}

// The first of the largest logits. Lane c < 10 of a warp brings class c's; every lane gets the answer.
__device__ __forceinline__ u32 first_largest(float logit, u32 lane) {
    float best = lane < CLASSES ? logit : __int_as_float(0xff800000); // -infinity
    u32 label = lane;
    for (u32 distance = 8; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, best, distance);
        const u32 other_label = __shfl_xor_sync(ALL_LANES, label, distance);
        if (other > best || (other == best && other_label < label)) {
            best = other;
            label = other_label;
        }
    }
    return __shfl_sync(ALL_LANES, label, 0);
}
