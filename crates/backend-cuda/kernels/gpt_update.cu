// What follows the GPT's products: the loss over the vocabulary with its gradient, the gradient's norm,
// AdamW.
#include "gpt.cuh"

struct CrossEntropy {
    void *logits;       // (rows, stride): becomes the gradient; 0 beyond the vocabulary
    const u32 *targets; // (rows)
    float *losses;      // (rows)
    u32 rows;
    u32 vocabulary;
    u32 stride;  // a multiple of 8
    float scale; // of the gradient: 1 / all rows of the step
    u32 grade;   // whether the gradient is wanted
};

constexpr float LOG2_E = 1.4426950408889634f;

// A group of threads has a row, of which each keeps `PACKS` times 16 bytes in registers, so that the
// logits are read once and the gradient is written over them.
template <class T, u32 PACKS, bool BLOCK>
__device__ __forceinline__ void cross_entropy_row(const CrossEntropy &run) {
    __shared__ float partial[2][WARP];
    constexpr u32 VALUES = Pack<T>::VALUES;
    const u32 group = BLOCK ? blockDim.x : WARP;
    const u32 member = threadIdx.x % group;
    const u32 row = BLOCK ? blockIdx.x : blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= run.rows) {
        return;
    }
    T *logits = static_cast<T *>(run.logits) + static_cast<u64>(row) * run.stride;
    uint4 *packs = reinterpret_cast<uint4 *>(logits);
    const u32 target = run.targets[row];
    const float target_logit = as_float(logits[target]);
    uint4 kept[PACKS];
    float most = -LARGEST;
    const auto used = [&](u32 part) { return part * group * VALUES < run.stride; };
#pragma unroll
    for (u32 part = 0; part < PACKS; ++part) {
        const u32 pack = part * group + member;
        if (pack * VALUES < run.stride) {
            kept[part] = packs[pack];
        }
    }
#pragma unroll
    for (u32 part = 0; part < PACKS && used(part); ++part) {
        const u32 first = (part * group + member) * VALUES;
        float values[VALUES];
        Pack<T>::open(values, kept[part]);
#pragma unroll
        for (u32 index = 0; index < VALUES; ++index) {
            most = first + index < run.vocabulary ? fmaxf(most, values[index]) : most;
        }
    }
    most = BLOCK ? block_max(most, partial[0]) : warp_max(most);
    float sum = 0.0f;
#pragma unroll
    for (u32 part = 0; part < PACKS && used(part); ++part) {
        const u32 first = (part * group + member) * VALUES;
        float values[VALUES];
        Pack<T>::open(values, kept[part]);
#pragma unroll
        for (u32 index = 0; index < VALUES; ++index) {
            const float power = power_of_two((values[index] - most) * LOG2_E);
            sum += first + index < run.vocabulary ? power : 0.0f;
        }
    }
    sum = BLOCK ? block_sum(sum, partial[1]) : warp_sum(sum);
    if (member == 0) {
        run.losses[row] = logf(sum) + most - target_logit;
    }
    if (run.grade == 0) {
        return;
    }
    const float scale = run.scale / sum;
#pragma unroll
    for (u32 part = 0; part < PACKS; ++part) {
        const u32 pack = part * group + member, first = pack * VALUES;
        if (first >= run.stride) {
            continue;
        }
        float values[VALUES];
        Pack<T>::open(values, kept[part]);
#pragma unroll
        for (u32 index = 0; index < VALUES; ++index) {
            float value = power_of_two((values[index] - most) * LOG2_E) * scale;
            value -= first + index == target ? run.scale : 0.0f;
            values[index] = first + index < run.vocabulary ? value : 0.0f;
        }
        packs[pack] = Pack<T>::close(values);
    }
}

// By the largest vocabulary: a warp for each row, or a block of 1024.
#define CROSS_ENTROPY_KERNELS(TYPE, NAME, SMALL, LARGE)                                            \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        cross_entropy_##NAME##_1024(const CrossEntropy run) {                                      \
        cross_entropy_row<TYPE, SMALL, false>(run);                                                \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(1024)                                             \
        cross_entropy_##NAME##_57344(const CrossEntropy run) {                                     \
        cross_entropy_row<TYPE, LARGE, true>(run);                                                 \
    }

CROSS_ENTROPY_KERNELS(float, float32, 8, 14)
CROSS_ENTROPY_KERNELS(bf16, bf16, 4, 7)

// The larger of two pairs, each half by itself; NaN stays.
__device__ __forceinline__ u32 larger_pair(u32 a, u32 b) {
    u32 result;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

constexpr u32 STREAM_THREADS = 1024;
constexpr u32 STREAM_PACKS = 7;             // of a thread
constexpr u32 LEAST_PAIR = 0xff7fff7fu;     // twice the least number

// The same for large vocabularies of bf16: a block that stays on its multiprocessor takes a row from shared
// memory to registers and has the next two copied there while it works, so that the memory never waits for
// it. Powers are kept as bf16, as what they become is; the target's, from which 1 is taken, is not.
extern "C" __global__ void __launch_bounds__(STREAM_THREADS)
    cross_entropy_stream_bf16(const CrossEntropy run) {
    __shared__ float partial[2][WARP];
    constexpr u32 VALUES = Pack<bf16>::VALUES;
    const u32 packs = run.stride / VALUES;
    uint4 *room = reinterpret_cast<uint4 *>(shared_arena()), *next_room = room + packs;
    bf16 *all = static_cast<bf16 *>(run.logits);
    const auto fetch = [&](u32 row, uint4 *to) { // each thread reads only what it copied itself
        if (row < run.rows) {
            const uint4 *from =
                reinterpret_cast<const uint4 *>(all + static_cast<u64>(row) * run.stride);
            for (u32 pack = threadIdx.x; pack < packs; pack += STREAM_THREADS) {
                copy_async(to + pack, from + pack, 16);
            }
        }
        copy_async_commit();
    };
    fetch(blockIdx.x, room);
    fetch(blockIdx.x + gridDim.x, next_room);
    u32 next_target = run.targets[blockIdx.x];
    for (u32 row = blockIdx.x; row < run.rows; row += gridDim.x) {
        const u32 target = next_target;
        next_target = run.targets[min(row + gridDim.x, run.rows - 1)];
        const bool has_target = target / VALUES % STREAM_THREADS == threadIdx.x;
        copy_async_wait<1>();
        u32 kept[STREAM_PACKS][4];
#pragma unroll
        for (u32 part = 0; part < STREAM_PACKS; ++part) {
            const u32 pack = part * STREAM_THREADS + threadIdx.x;
            uint4 four = make_uint4(LEAST_PAIR, LEAST_PAIR, LEAST_PAIR, LEAST_PAIR);
            if (pack < packs) {
                four = room[pack];
            }
            kept[part][0] = four.x, kept[part][1] = four.y;
            kept[part][2] = four.z, kept[part][3] = four.w;
            if ((pack + 1) * VALUES > run.vocabulary) { // the row's end
#pragma unroll
                for (u32 word = 0; word < 4; ++word) {
                    const u32 first = pack * VALUES + 2 * word;
                    u32 &pair = kept[part][word];
                    pair = first >= run.vocabulary ? LEAST_PAIR : pair;
                    pair = first + 1 >= run.vocabulary ? pair & 0xffff | LEAST_PAIR << 16 : pair;
                }
            }
        }
        const float target_logit =
            has_target ? as_float(reinterpret_cast<const bf16 *>(room)[target]) : 0.0f;
        fetch(row + 2 * gridDim.x, room);
        uint4 *const filling = room;
        room = next_room;
        next_room = filling;
        u32 largest = LEAST_PAIR;
#pragma unroll
        for (u32 part = 0; part < STREAM_PACKS; ++part) {
            largest = larger_pair(larger_pair(largest, larger_pair(kept[part][0], kept[part][1])),
                                  larger_pair(kept[part][2], kept[part][3]));
        }
        const float most = block_max(fmaxf(low_bf16(largest), high_bf16(largest)), partial[0]);
        const float shift = most * LOG2_E;
        float sum = 0.0f;
#pragma unroll
        for (u32 part = 0; part < STREAM_PACKS; ++part) {
#pragma unroll
            for (u32 word = 0; word < 4; ++word) {
                u32 &pair = kept[part][word];
                const float low = power_of_two(fmaf(low_bf16(pair), LOG2_E, -shift));
                const float high = power_of_two(fmaf(high_bf16(pair), LOG2_E, -shift));
                sum += low + high;
                pair = pack_bf16(low, high);
            }
        }
        sum = block_sum(sum, partial[1]);
        const float scale = run.scale / sum;
        bf16 *out = all + static_cast<u64>(row) * run.stride;
#pragma unroll
        for (u32 part = 0; part < STREAM_PACKS; ++part) {
            const u32 pack = part * STREAM_THREADS + threadIdx.x;
            if (pack < packs) {
                u32 words[4];
#pragma unroll
                for (u32 word = 0; word < 4; ++word) {
                    const u32 pair = kept[part][word];
                    words[word] = pack_bf16(low_bf16(pair) * scale, high_bf16(pair) * scale);
                }
                reinterpret_cast<uint4 *>(out)[pack] =
                    make_uint4(words[0], words[1], words[2], words[3]);
            }
        }
        if (has_target) {
            const float power = power_of_two(fmaf(target_logit, LOG2_E, -shift));
            out[target] = bf16{static_cast<u16>(pack_bf16(power * scale - run.scale, 0.0f))};
            run.losses[row] = logf(sum) + most - target_logit;
        }
    }
}

struct MeanLoss {
    const float *losses;   // (rows)
    float *step_loss;      // (steps)
    GptProgress *progress; // null: no step is counted, and `at` is the place
    u32 rows;
    u32 at;
};

// One block of 1024. Nothing later in the step reads `next`.
extern "C" __global__ void __launch_bounds__(1024) mean_loss(const MeanLoss run) {
    __shared__ float partial[WARP];
    float sum = 0.0f;
    for (u32 row = threadIdx.x; row < run.rows; row += blockDim.x) {
        sum += run.losses[row];
    }
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) {
        const u32 step = run.progress == nullptr ? run.at : run.progress->next;
        run.step_loss[step] = sum / static_cast<float>(run.rows);
        if (run.progress != nullptr) {
            run.progress->current = step;
            run.progress->next = step + 1;
        }
    }
}

constexpr u32 NORM_BLOCKS = 512;
constexpr u32 THREADS = 256;

struct SquareSum {
    const float *gradient; // (fours x 4)
    float *partial;        // (512)
    u64 fours;             // of those that are not left out
    u64 first_out;         // fours from here on are left out,
    u64 out;               // so many: their squares are summed in `known`
    const float *known;    // (known_count)
    u64 known_count;
};

extern "C" __global__ void __launch_bounds__(THREADS) square_sum(const SquareSum run) {
    __shared__ float partial[WARP];
    float sum = 0.0f;
    const u64 stride = NORM_BLOCKS * THREADS;
#pragma unroll 4
    for (u64 index = blockIdx.x * THREADS + threadIdx.x; index < run.fours; index += stride) {
        const u64 at = index < run.first_out ? index : index + run.out;
        const float4 four = load_four(run.gradient + 4 * at);
        sum += (four.x * four.x + four.y * four.y) + (four.z * four.z + four.w * four.w);
    }
    for (u64 index = blockIdx.x * THREADS + threadIdx.x; index < run.known_count; index += stride) {
        sum += run.known[index];
    }
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) {
        run.partial[blockIdx.x] = sum;
    }
}

struct AdamW {
    float *parameter;
    const float *gradient;
    float *first;                 // mean of gradients
    float *second;                // mean of their squares
    bf16 *half;                   // the parameters rounded; none if null
    const float *square_partial;  // (512)
    const StepRates *rates;       // (steps)
    const GptProgress *progress;
    u64 begin;         // of four parameters each, from the first that gets a step,
    u64 fours;         // so many get one that are not left out:
    u64 first_out;     // after so many
    u64 out;           // so many are,
    u64 apart;         // and the same so far behind them, for each row of blocks
    u64 decayed_fours; // the parameters before this one are matrices, which decay
    AdamWConstants constants;
};

// What AdamW has of four parameters.
struct Four {
    float4 parameter, gradient, first, second;

    __device__ __forceinline__ void load(const AdamW &run, u64 index) {
        parameter = load_four(run.parameter + 4 * index);
        gradient = load_four(run.gradient + 4 * index);
        first = load_four(run.first + 4 * index);
        second = load_four(run.second + 4 * index);
    }
};

// The first four are on their way while the norm is found.
extern "C" __global__ void __launch_bounds__(THREADS) adamw(const AdamW run) {
    __shared__ float partial[WARP];
    const u64 stride = static_cast<u64>(gridDim.x) * THREADS;
    const u64 begin = run.begin + blockIdx.y * run.apart;
    u64 index = static_cast<u64>(blockIdx.x) * THREADS + threadIdx.x;
    const auto place = [&] { return begin + index + (index < run.first_out ? 0 : run.out); };
    Four four;
    if (index < run.fours) {
        four.load(run, place());
    }
    float squares = 0.0f;
    for (u32 part = threadIdx.x; part < NORM_BLOCKS; part += THREADS) {
        squares += run.square_partial[part];
    }
    const AdamWStep step(run.constants, run.rates[run.progress->current],
                         block_sum(squares, partial));
    while (index < run.fours) {
        const u64 at = place();
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            step.take((&four.gradient.x)[part], at < run.decayed_fours,
                      (&four.parameter.x)[part], (&four.first.x)[part], (&four.second.x)[part]);
        }
        store_four(run.parameter + 4 * at, four.parameter);
        store_four(run.first + 4 * at, four.first);
        store_four(run.second + 4 * at, four.second);
        if (run.half != nullptr) {
            store_four(run.half + 4 * at, four.parameter);
        }
        index += stride;
        if (index < run.fours) {
            four.load(run, place());
        }
    }
}

struct Halve {
    const float *value; // (fours x 4)
    bf16 *half;         // (fours x 4)
    u64 fours;
};

extern "C" __global__ void __launch_bounds__(THREADS) halve(const Halve run) {
    const u64 stride = static_cast<u64>(gridDim.x) * THREADS;
    for (u64 index = blockIdx.x * THREADS + threadIdx.x; index < run.fours; index += stride) {
        store_four(run.half + 4 * index, load_four(run.value + 4 * index));
    }
}

struct Noise {
    float *parameter; // (fours x 4)
    u64 fours;
    u64 decayed_fours; // from here on around 1
};

// Any numbers of the usual size, for products to be timed on: on zeros they are faster than in training.
extern "C" __global__ void __launch_bounds__(THREADS) noise(const Noise run) {
    const u64 stride = static_cast<u64>(gridDim.x) * THREADS;
    for (u64 index = blockIdx.x * THREADS + threadIdx.x; index < run.fours; index += stride) {
        float4 four;
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            u64 word = (4 * index + part + 1) * 0x9E3779B97F4A7C15ull;
            word = (word ^ (word >> 29)) * 0xBF58476D1CE4E5B9ull;
            const float unit = static_cast<float>(static_cast<u32>(word >> 40)) * 0x1p-24f;
            (&four.x)[part] = 0.08f * (unit - 0.5f) + (index < run.decayed_fours ? 0.0f : 1.0f);
        }
        store_four(run.parameter + 4 * index, four);
    }
}
