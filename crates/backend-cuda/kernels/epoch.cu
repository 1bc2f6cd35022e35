// What every model needs beside its own kernels: the mean loss of each step, and the last layer's
// labels.
#include "classes.cuh"

struct MeanLosses {
    const float *sample_loss; // (steps, batch)
    float *step_loss;         // (steps)
    u32 samples;
    u32 batch;
};

// One warp per step; block of 256.
extern "C" __global__ void __launch_bounds__(256) mean_losses(const MeanLosses run) {
    const u32 lane = threadIdx.x % WARP;
    const u32 step = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    const Batch batch = batch_of(step, run.batch, run.samples);
    if (batch.count == 0) {
        return;
    }
    float sum = 0.0f;
    for (u32 sample = lane; sample < batch.count; sample += WARP) {
        sum += run.sample_loss[batch.first + sample];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        run.step_loss[step] = sum / static_cast<float>(batch.count);
    }
}

struct Classify {
    const float *features; // (samples, width)
    const float *weight;   // (10, width)
    const float *bias;     // (10)
    u8 *labels;            // (samples)
    u32 samples;
    u32 width;
};

// A linear layer and the first of its largest outputs; one warp per sample, block of 256.
extern "C" __global__ void __launch_bounds__(256) classify(const Classify layer) {
    const u32 lane = threadIdx.x % WARP;
    const u32 sample = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (sample >= layer.samples) {
        return;
    }
    float sums[CLASSES] = {};
    const float *features = layer.features + static_cast<u64>(sample) * layer.width;
    for (u32 index = lane; index < layer.width; index += WARP) {
        const float feature = features[index];
#pragma unroll
        for (u32 output = 0; output < CLASSES; ++output) {
            sums[output] += feature * layer.weight[output * layer.width + index];
        }
    }
    float logit = 0.0f;
#pragma unroll
    for (u32 output = 0; output < CLASSES; ++output) {
        const float sum = warp_sum(sums[output]);
        logit = lane == output ? sum + layer.bias[output] : logit;
    }
    const u32 label = first_largest(logit, lane);
    if (lane == 0) {
        layer.labels[sample] = static_cast<u8>(label);
    }
}
