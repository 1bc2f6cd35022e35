// The attention model's plain plan: two launches per step, for any widths. A block takes a sample
// through the forward and the backward pass; the update then adds the samples up, so that nothing
// is added in a random order. The arena is shared memory, or global where that is too small.
#include "attention.cuh"

struct AttentionStep {
    const u8 *images;   // (?, 784)
    const u8 *labels;   // (?)
    const u32 *order;   // (samples), or null: in the order of `images`
    Progress *progress;
    float *parameters;  // canonical
    float *gradients;   // (batch, Layout::gradient)
    float *arenas;      // (batch, Layout::size), or null: in shared memory
    float *features;    // (samples, d_model): of attention_features
    float *sample_loss; // (samples)
    u32 batch;
    u32 d_model;
    u32 ff;
    u32 parameter_count;
};

__device__ __forceinline__ AttentionPass<AnySizes, Alone> pass_of(const AttentionStep &step) {
    const Layout layout(step.d_model, step.ff);
    float *arena = step.arenas ? step.arenas + static_cast<u64>(blockIdx.x) * layout.size
                               : reinterpret_cast<float *>(shared_arena());
    float *gradient = step.gradients + static_cast<u64>(blockIdx.x) * layout.gradient;
    const u32 thread = thread_index();
    return AttentionPass<AnySizes, Alone>{AnySizes{layout}, Alone{},       arena,         nullptr,
                                          gradient,         thread,        thread % WARP, thread / WARP};
}

// A sample's gradient and loss. Grid batch.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1)
    attention_sample(const AttentionStep step) {
    const Batch batch = batch_of(step.progress->next, step.batch, step.progress->samples);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        step.progress->current = step.progress->next;
    }
    if (blockIdx.x >= batch.count) {
        return;
    }
    const AttentionPass<AnySizes, Alone> pass = pass_of(step);
    const u32 place = batch.first + blockIdx.x;
    const u64 image = step.order[place];
    pass.clear();
    pass.load_parameters(step.parameters);
    pass.store_patches(pass.image_word(step.images + image * PIXELS));
    pass.forward();
    pass.classify(step.labels[image], step.sample_loss + place);
    pass.backward();
}

// What the output layer takes. Grid-stride over the samples.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1)
    attention_features(const AttentionStep step) {
    const AttentionPass<AnySizes, Alone> pass = pass_of(step);
    pass.clear();
    pass.load_parameters(step.parameters);
    for (u32 sample = blockIdx.x; sample < step.progress->samples; sample += gridDim.x) {
        pass.store_patches(pass.image_word(step.images + static_cast<u64>(sample) * PIXELS));
        pass.forward();
        for (u32 feature = pass.thread; feature < step.d_model; feature += ATTENTION_THREADS) {
            step.features[static_cast<u64>(sample) * step.d_model + feature] =
                pass.arena[pass.sizes.at.mean + feature];
        }
        __syncthreads();
    }
}

// parameters -= learning_rate * mean gradient. Grid ceil(parameters / 256), block 256.
extern "C" __global__ void __launch_bounds__(256) attention_update(const AttentionStep step) {
    const u32 current = step.progress->current;
    const Batch batch = batch_of(current, step.batch, step.progress->samples);
    const float rate = step.progress->learning_rate / static_cast<float>(batch.count);
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < step.parameter_count) {
        const Layout layout(step.d_model, step.ff);
        const float *from = step.gradients + place_of(layout, index);
        float sum = 0.0f;
#pragma unroll 8
        for (u32 sample = 0; sample < batch.count; ++sample) {
            sum += from[static_cast<u64>(sample) * layout.gradient];
        }
        step.parameters[index] -= rate * sum;
    }
    if (index == 0) {
        step.progress->next = current + 1;
    }
}
