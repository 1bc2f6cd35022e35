// The end of every model: softmax over ten classes, its loss and its gradient.
#pragma once
#include "device.cuh"

struct ClassGradient {
    float delta; // of this lane's class: probability minus target
    float loss;  // the sample's cross-entropy in nats, in every lane
};

// Lane c < 10 of a warp brings the logit of class c; other lanes bring anything and get nothing of
// use in `delta`. All 32 lanes must call.
__device__ __forceinline__ ClassGradient softmax_gradient(float logit, u32 lane, u32 label) {
    const bool is_class = lane < CLASSES;
    float largest = is_class ? logit : __int_as_float(0xff800000); // -infinity
    for (u32 distance = 8; distance > 0; distance /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, distance));
    }
    const float above = logit - largest;
    const float power = is_class ? expf(above) : 0.0f;
    float sum = power;
    for (u32 distance = 8; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    }
    // Lanes 16 to 31 hold no class: their sum is 0 and is not used.
    sum = __shfl_sync(ALL_LANES, sum, 0);
    const float of_label = __shfl_sync(ALL_LANES, above, label);
    return ClassGradient{power / sum - (lane == label ? 1.0f : 0.0f), logf(sum) - of_label};
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
