// What the GPT does to each token's row by itself: embedding, LayerNorm, GELU, and their gradients. A
// warp has a row; each lane has fours of it, 128 elements apart, in registers. All of it is bound by the
// memory, so what can be read together is.
#include "gpt_norm.cuh"

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / WARP;

// out = (row - mean) / deviation * gain
template <u32 FOURS, class T>
__device__ __forceinline__ void normalise(const Row<FOURS> &row, float2 moments, const float *gain,
                                          T *out, u32 width) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 part = 0; part < FOURS; ++part) {
        const u32 index = part * WARP + lane;
        if (index < width / 4) {
            const float4 four = row.of[part], g = load_four(gain + 4 * index);
            const float mean = moments.x, scale = moments.y;
            store_four(out + 4 * index,
                       make_float4((four.x - mean) * scale * g.x, (four.y - mean) * scale * g.y,
                                   (four.z - mean) * scale * g.z, (four.w - mean) * scale * g.w));
        }
    }
}

struct Embed {
    const u16 *tokens;        // all that there is to train on
    const u32 *windows;       // (steps, batch): where each begins
    const GptProgress *progress;
    const float *token_table; // (vocabulary, width)
    const float *place_table; // (context, width)
    const float *gain;        // (width), of the first LayerNorm
    u32 *inputs;              // (batch, context)
    u32 *targets;             // (batch, context)
    void *x;                  // (batch, context, width)
    void *normal;             // (batch, context, width)
    float2 *moments;          // (batch, context)
    u32 rows;
    u32 context;
    u32 batch;
    u32 width;
};

// x = token embedding + position embedding; normal = LayerNorm(x).
template <u32 FOURS, class T> __device__ __forceinline__ void embed_row(const Embed &run) {
    const u32 row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= run.rows) {
        return;
    }
    const u32 step = run.progress->next;
    const u32 window = row / run.context, place = row % run.context;
    const u32 at = run.windows[step * run.batch + window] + place;
    const u32 token = run.tokens[at];
    if (threadIdx.x % WARP == 0) {
        run.inputs[row] = token;
        run.targets[row] = run.tokens[at + 1];
    }
    const u32 fours = run.width / 4;
    Row<FOURS> x, shift;
    x.load(run.token_table + static_cast<u64>(token) * run.width, fours);
    shift.load(run.place_table + static_cast<u64>(place) * run.width, fours);
#pragma unroll
    for (u32 part = 0; part < FOURS; ++part) {
        x.of[part].x += shift.of[part].x;
        x.of[part].y += shift.of[part].y;
        x.of[part].z += shift.of[part].z;
        x.of[part].w += shift.of[part].w;
    }
    const u64 first = static_cast<u64>(row) * run.width;
    x.store(static_cast<T *>(run.x) + first, fours);
    const float2 moments = statistics(x, run.width);
    if (threadIdx.x % WARP == 0) {
        run.moments[row] = moments;
    }
    normalise(x, moments, run.gain, static_cast<T *>(run.normal) + first, run.width);
}

struct Normalise {
    const void *x;     // (rows, width)
    const float *gain; // (width)
    void *normal;      // (rows, width)
    float2 *moments;   // (rows)
    u32 rows;
    u32 width;
};

template <u32 FOURS, class T> __device__ __forceinline__ void normalise_row(const Normalise &run) {
    const u32 row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= run.rows) {
        return;
    }
    const u64 first = static_cast<u64>(row) * run.width;
    Row<FOURS> x;
    x.load(static_cast<const T *>(run.x) + first, run.width / 4);
    const float2 moments = statistics(x, run.width);
    if (threadIdx.x % WARP == 0) {
        run.moments[row] = moments;
    }
    normalise(x, moments, run.gain, static_cast<T *>(run.normal) + first, run.width);
}

struct NormaliseGradient {
    const void *normal_delta; // (rows, width)
    const void *x;            // (rows, width)
    const float *gain;        // (width)
    const float2 *moments;    // (rows)
    const void *residual;     // (rows, width): what comes past the LayerNorm; none if null
    void *x_delta;            // (rows, width), = residual + the LayerNorm's; may be `residual`
    float *gain_partial;      // (blocks, width)
    u32 rows;
    u32 width;
};

// A lane's fours of a row as they are in memory: in bf16 half the registers.
template <class T> struct Stored;
template <> struct Stored<float> {
    using Four = float4;
};
template <> struct Stored<bf16> {
    using Four = uint2;
};

// What a row of the gradient needs from memory.
template <u32 FOURS, class T> struct Passing {
    using Four = typename Stored<T>::Four;
    Four x[FOURS], delta[FOURS];
    float2 moments;

    __device__ __forceinline__ void load(const NormaliseGradient &run, u32 row) {
        const u32 fours = run.width / 4;
        const u64 first = static_cast<u64>(row) * fours + threadIdx.x % WARP;
        moments = run.moments[row];
#pragma unroll
        for (u32 part = 0; part < FOURS; ++part) {
            const bool there = part * WARP + threadIdx.x % WARP < fours;
            const u64 at = first + part * WARP;
            x[part] = there ? static_cast<const Four *>(run.x)[at] : Four{};
            delta[part] = there ? static_cast<const Four *>(run.normal_delta)[at] : Four{};
        }
    }
};

// So that it is opened again instead of kept open.
__device__ __forceinline__ void close_four(float4 &) {}
__device__ __forceinline__ void close_four(uint2 &four) {
    keep(four.x);
    keep(four.y);
}

template <class T> __device__ __forceinline__ float4 open_four(const typename Stored<T>::Four &four) {
    return load_four(reinterpret_cast<const T *>(&four));
}

// The warps of all blocks take rows in turns, the next one on its way while they work on one, and sum their
// share of the gain's gradient in registers. In float32 two rows would be too many registers.
template <u32 FOURS, class T>
__device__ __forceinline__ void normalise_gradient_rows(const NormaliseGradient &run) {
    constexpr bool AHEAD = sizeof(T) == 2;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 fours = run.width / 4, stride = gridDim.x * WARPS;
    const float per_width = 1.0f / static_cast<float>(run.width);
    Row<FOURS> gain_delta;
#pragma unroll
    for (u32 part = 0; part < FOURS; ++part) {
        gain_delta.of[part] = make_float4(0, 0, 0, 0);
    }
    Passing<FOURS, T> next;
    u32 row = blockIdx.x * WARPS + warp;
    if (AHEAD && row < run.rows) {
        next.load(run, row);
    }
    for (; row < run.rows; row += stride) {
        if (!AHEAD) {
            next.load(run, row);
        }
        Passing<FOURS, T> here = next;
        if (AHEAD && row + stride < run.rows) {
            next.load(run, row + stride);
        }
        typename Stored<T>::Four past[FOURS] = {};
#pragma unroll
        for (u32 part = 0; run.residual != nullptr && part < FOURS; ++part) {
            const u32 four = part * WARP + lane;
            if (four < fours) {
                past[part] = static_cast<const typename Stored<T>::Four *>(
                    run.residual)[static_cast<u64>(row) * fours + four];
            }
        }
        const float mean = here.moments.x, scale = here.moments.y;
        float sum = 0.0f, product = 0.0f;
#pragma unroll
        for (u32 part = 0; part < FOURS; ++part) {
            const u32 four = min(part * WARP + lane, fours - 1);
            const float4 x = open_four<T>(here.x[part]), delta = open_four<T>(here.delta[part]);
            const float4 gain = load_four(run.gain + 4 * four);
#pragma unroll
            for (u32 index = 0; index < 4; ++index) {
                const float value = ((&x.x)[index] - mean) * scale, d = (&delta.x)[index];
                (&gain_delta.of[part].x)[index] += d * value;
                sum += d * (&gain.x)[index];
                product += d * (&gain.x)[index] * value;
            }
        }
        sum = warp_sum(sum) * per_width;
        product = warp_sum(product) * per_width;
        T *out = static_cast<T *>(run.x_delta) + static_cast<u64>(row) * run.width;
#pragma unroll
        for (u32 part = 0; part < FOURS; ++part) {
            const u32 four = part * WARP + lane;
            if (four >= fours) {
                continue;
            }
            close_four(here.x[part]);
            close_four(here.delta[part]);
            const float4 x = open_four<T>(here.x[part]), delta = open_four<T>(here.delta[part]);
            const float4 gain = load_four(run.gain + 4 * four);
            float4 sum_four = open_four<T>(past[part]);
#pragma unroll
            for (u32 index = 0; index < 4; ++index) {
                const float value = ((&x.x)[index] - mean) * scale;
                const float d = (&delta.x)[index] * (&gain.x)[index];
                (&sum_four.x)[index] += scale * (d - sum - value * product);
            }
            store_four(out + 4 * four, sum_four);
        }
    }
    __shared__ float4 sums[WARPS][FOURS * WARP];
#pragma unroll
    for (u32 part = 0; part < FOURS; ++part) {
        sums[warp][part * WARP + lane] = gain_delta.of[part];
    }
    __syncthreads();
    for (u32 index = threadIdx.x; index < fours; index += THREADS) {
        float4 total = sums[0][index];
#pragma unroll
        for (u32 other = 1; other < WARPS; ++other) {
            const float4 four = sums[other][index];
            total.x += four.x;
            total.y += four.y;
            total.z += four.z;
            total.w += four.w;
        }
        store_four(run.gain_partial + static_cast<u64>(blockIdx.x) * run.width + 4 * index, total);
    }
}

struct GainSums {
    const float *partial; // (norms, blocks, width)
    float *gradient;      // (norms, width)
    u32 blocks;
    u32 width;
};

// Gradients of all gains from the sums of each LayerNorm's blocks: a block has 32 columns of one, a
// warp every eighth block's sum.
extern "C" __global__ void __launch_bounds__(256) gain_sums(const GainSums run) {
    __shared__ float sums[WARPS][WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 column = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (column < run.width) {
        for (u32 block = warp; block < run.blocks; block += WARPS) {
            const u64 row = static_cast<u64>(blockIdx.y) * run.blocks + block;
            sum += run.partial[row * run.width + column];
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < run.width) {
        for (u32 other = 1; other < WARPS; ++other) {
            sum += sums[other][lane];
        }
        run.gradient[blockIdx.y * run.width + column] = sum;
    }
}

// By the most elements of a row: 128, 256, ... (`FOURS` x 128).
#define ROW_KERNELS(FOURS, TYPE, NAME)                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) embed_##NAME(const Embed run) {          \
        embed_row<FOURS, TYPE>(run);                                                               \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) normalise_##NAME(const Normalise run) {  \
        normalise_row<FOURS, TYPE>(run);                                                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, FOURS > 6 ? 1 : 2)                       \
        normalise_gradient_##NAME(const NormaliseGradient run) {                                   \
        normalise_gradient_rows<FOURS, TYPE>(run);                                                 \
    }

ROW_KERNELS(1, float, float32_128)
ROW_KERNELS(3, float, float32_384)
ROW_KERNELS(6, float, float32_768)
ROW_KERNELS(10, float, float32_1280)
ROW_KERNELS(1, bf16, bf16_128)
ROW_KERNELS(3, bf16, bf16_384)
ROW_KERNELS(6, bf16, bf16_768)
ROW_KERNELS(10, bf16, bf16_1280)

struct Gelu {
    const uint4 *value; // (packs)
    uint4 *result;      // (packs); the gradient's kernel multiplies it by the slope
    u32 packs;
};

constexpr u32 AT_A_TIME = 2; // packs of a thread: loads under way together

template <class T, bool GRADIENT> __device__ __forceinline__ void gelu_packs(const Gelu &run) {
    constexpr u32 VALUES = Pack<T>::VALUES;
    const u32 first = blockIdx.x * (AT_A_TIME * THREADS) + threadIdx.x;
    uint4 value_packs[AT_A_TIME], delta_packs[AT_A_TIME];
#pragma unroll
    for (u32 part = 0; part < AT_A_TIME; ++part) {
        const u32 index = first + part * THREADS;
        if (index < run.packs) {
            value_packs[part] = run.value[index];
            if (GRADIENT) {
                delta_packs[part] = run.result[index];
            }
        }
    }
#pragma unroll
    for (u32 part = 0; part < AT_A_TIME; ++part) {
        const u32 index = first + part * THREADS;
        if (index < run.packs) {
            float values[VALUES], deltas[VALUES];
            Pack<T>::open(values, value_packs[part]);
            if (GRADIENT) {
                Pack<T>::open(deltas, delta_packs[part]);
            }
#pragma unroll
            for (u32 at = 0; at < VALUES; ++at) {
                values[at] = GRADIENT ? deltas[at] * gelu_slope<T>(values[at]) : gelu<T>(values[at]);
            }
            run.result[index] = Pack<T>::close(values);
        }
    }
}

#define GELU_KERNELS(TYPE, NAME)                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) gelu_##NAME(const Gelu run) {            \
        gelu_packs<TYPE, false>(run);                                                              \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) gelu_gradient_##NAME(const Gelu run) {   \
        gelu_packs<TYPE, true>(run);                                                               \
    }

GELU_KERNELS(float, float32)
GELU_KERNELS(bf16, bf16)
