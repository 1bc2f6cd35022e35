// The MLP trained whole epochs in one launch. All blocks are resident, and weights never leave the
// chip: a block has the weights of 16 hidden units for a part of the image, and *owns* a part of the
// 16 units for everything after the first layer. Its siblings have the same units and the other
// parts of the image: with four, a block has 16 units x 196 pixels and owns 4 units. Everything that
// blocks tell each other goes through tagged words (exchange.cuh).
//
// A step at batch 32 is bound by the latency of the exchange of logits, so nothing else may wait
// for it:
//
// - Fourteen *compute* warps hold fc1.weight in registers. While the exchange warps are busy with step
//   t, they apply step t - 1's update and then multiply the updated weights with the images of step
//   t + 1, which is one update too early.
// - Four *exchange* warps correct that product when the deltas of step t are known. The weights of
//   step t + 1 are W - rate d_t^T x_t, so its preactivations are W x_{t+1} - rate d_t^T G with G the
//   inner products of the images of step t with those of step t + 1: 32 multiplications for each
//   preactivation instead of 784. G does not depend on weights: `mlp_gram` computes it for all
//   steps beforehand, in exact integers. This is the same step of SGD, added up in another order.
//
// The products run on the tensor cores in float32: a pixel is an integer below 256 and so exact in
// bf16; a weight or delta is cut into three bf16 (8 + 8 + 8 bits) whose sum is exact; products of
// bf16 are exact and their sums are float32.
//
// A pixel's byte bb needs no conversion: 0x00bb read as bf16 is bb 2^-133 (a subnormal, or the first
// normal binade, which continues the same line). Weights are kept times 2^100 and deltas are taken
// times 2^110 to meet it; both leave float32's range only when training has long diverged.
//
// Fragments. Of 16 units and a group of 16 pixels, lane (g = lane / 4, t = lane % 4) holds units g
// and g + 8 and pixels 4t to 4t + 3, which are one word of an image. The even ones of these are the
// first eight columns of a fragment, the odd ones the last eight; so they arrive, from the update's
// even and odd products.
#include "mlp_compute.cuh"
#include "mlp_exchange.cuh"

template <u32 SIBLINGS> __device__ __forceinline__ void mlp_epoch(const MlpFused &run) {
    constexpr u32 OWN = Split<SIBLINGS>::OWN;
    Shared<SIBLINGS> &shared = *reinterpret_cast<Shared<SIBLINGS> *>(shared_arena());
    float *bias1 = run.parameters + static_cast<u64>(run.hidden_units) * PIXELS;
    float *weight2 = bias1 + run.hidden_units;
    float *bias2 = weight2 + CLASSES * run.hidden_units;
    const u32 thread = thread_index();
    const u32 block = block_index();
    const u32 own0 = block * OWN;
    const u32 last = batch_of(run.steps - 1, run.batch, run.samples).count;
    const Part<SIBLINGS> part{run,
                              shared,
                              block,
                              block % SIBLINGS,
                              block / SIBLINGS * UNITS,
                              run.learning_rate / static_cast<float>(run.batch),
                              run.learning_rate / static_cast<float>(last)};

    for (u32 index = thread; index < CLASSES * OWN; index += THREADS) {
        const u32 unit = own0 + index % OWN;
        shared.output[index / OWN][index % OWN] =
            unit < run.hidden_units ? weight2[index / OWN * run.hidden_units + unit] : 0.0f;
    }
    if (thread < OWN) {
        shared.bias1[0][thread] = own0 + thread < run.hidden_units ? bias1[own0 + thread] : 0.0f;
    }
    if (thread < CLASSES) {
        shared.output[thread][OWN] = bias2[thread];
    }
    if (thread < 2 * OWN) { // classes 10 and 11, which are none
        shared.output[CLASSES + thread / OWN][thread % OWN] = 0.0f;
    }
    if (thread < CLASS_STRIDE - CLASSES) {
        shared.output[CLASSES + thread][OWN] = 0.0f;
    }
    if (thread < 2 * BATCH_ROWS) {
        shared.hidden[thread / BATCH_ROWS][OWN][thread % BATCH_ROWS] = 1.0f;
    }
    __syncthreads();

    if (uniform(thread / WARP) < EXCHANGE_WARPS) {
        exchange<SIBLINGS>(part, thread);
    } else {
        compute<SIBLINGS>(part, thread - EXCHANGE_THREADS);
    }
    __syncthreads(); // the last update

    for (u32 index = thread; index < CLASSES * OWN; index += THREADS) {
        const u32 unit = own0 + index % OWN;
        if (unit < run.hidden_units) {
            weight2[index / OWN * run.hidden_units + unit] =
                shared.output[index / OWN][index % OWN];
        }
    }
    if (thread < OWN && own0 + thread < run.hidden_units) {
        bias1[own0 + thread] = shared.bias1[run.steps % 2][thread];
    }
    if (block == 0 && thread < CLASSES) {
        bias2[thread] = shared.output[thread][OWN];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_by_4(const MlpFused run) {
    mlp_epoch<4>(run);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_by_2(const MlpFused run) {
    mlp_epoch<2>(run);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) mlp_epoch_by_1(const MlpFused run) {
    mlp_epoch<1>(run);
}

struct MlpGram {
    const u8 *images; // (?, 784)
    const u32 *order; // (samples)
    float *gram;      // (steps - 1, 32, 32)
    u32 samples;
    u32 batch;        // at most 32
};

// gram[step][next][row] = 1 + the inner product of two images, pixels in [0, 1]: row `next` of the
// next step with row `row` of this. The 1 is the bias's input. Rows past the end are black.
// Grid steps - 1, block 256. Shared: pixels of both steps (2, 32, 784).
extern "C" __global__ void __launch_bounds__(256) mlp_gram(const MlpGram run) {
    u8 *pixels = shared_arena();
    const u32 step = blockIdx.x;
    for (u32 index = threadIdx.x; index < 2 * BATCH_ROWS * ROW_GROUPS; index += blockDim.x) {
        const u32 row = index / ROW_GROUPS % BATCH_ROWS;
        const Batch batch =
            batch_of(step + index / (ROW_GROUPS * BATCH_ROWS), run.batch, run.samples);
        const bool exists = row < batch.count;
        const u64 image = exists ? run.order[batch.first + row] : 0;
        copy_async(pixels + index * GROUP, run.images + image * PIXELS + index % ROW_GROUPS * GROUP,
                   exists ? 16 : 0);
    }
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    const uint4 *groups = reinterpret_cast<const uint4 *>(pixels); // (2, 32, 49)
    const u32 next = threadIdx.x / 8;
    const u32 column = threadIdx.x % 8;
    u32 sums[4] = {};
    for (u32 group = 0; group < ROW_GROUPS; ++group) {
        const uint4 a = groups[(BATCH_ROWS + next) * ROW_GROUPS + group];
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            const uint4 b = groups[(column + index * 8) * ROW_GROUPS + group];
            sums[index] = dot_bytes(a.x, b.x, sums[index]);
            sums[index] = dot_bytes(a.y, b.y, sums[index]);
            sums[index] = dot_bytes(a.z, b.z, sums[index]);
            sums[index] = dot_bytes(a.w, b.w, sums[index]);
        }
    }
    float *out = run.gram + (static_cast<u64>(step) * BATCH_ROWS + next) * BATCH_ROWS;
#pragma unroll
    for (u32 index = 0; index < 4; ++index) {
        out[column + index * 8] =
            1.0f + static_cast<float>(sums[index]) * (PIXEL_SCALE * PIXEL_SCALE);
    }
}
