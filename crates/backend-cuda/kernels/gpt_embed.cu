// Gradients of the embeddings, without atomic additions, so that they have the same bits each time. The
// step's tokens are sorted first, which needs nothing of the step but them; rows of one token then stand
// beside each other.
#include "gpt.cuh"

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / WARP;

struct SortTokens {
    const u32 *inputs; // (rows)
    u32 *runs;         // (rows, and more up to a multiple of RUN): keys, ascending in each run
    u32 *sorted;       // (rows): token * rows + row, ascending
    u32 rows;
};

constexpr u32 RUN = 1024; // keys that a block sorts

// Sorts each run of keys, by a bitonic network in shared memory. Beyond the rows keys are larger than any.
extern "C" __global__ void __launch_bounds__(RUN / 2) sort_runs(const SortTokens run) {
    __shared__ u32 keys[RUN];
    const u32 first = blockIdx.x * RUN, thread = threadIdx.x;
    for (u32 at = thread; at < RUN; at += RUN / 2) {
        const u32 row = first + at;
        keys[at] = row < run.rows ? run.inputs[row] * run.rows + row : ~0u;
    }
    for (u32 size = 2; size <= RUN; size *= 2) {
        for (u32 apart = size / 2; apart > 0; apart /= 2) {
            __syncthreads();
            const u32 low = thread / apart * 2 * apart + thread % apart, high = low + apart;
            const u32 a = keys[low], b = keys[high];
            if ((a > b) == ((low & size) == 0)) {
                keys[low] = b;
                keys[high] = a;
            }
        }
    }
    __syncthreads();
    for (u32 at = thread; at < RUN; at += RUN / 2) {
        run.runs[first + at] = keys[at];
    }
}

// How many keys of a run are below `key`.
__device__ __forceinline__ u32 count_below(const u32 *keys, u32 key) {
    u32 count = 0;
#pragma unroll
    for (u32 step = RUN / 2; step > 0; step /= 2) {
        count += keys[count + step - 1] < key ? step : 0;
    }
    return count + (keys[count] < key ? 1 : 0);
}

// A key's place is the number of smaller ones. A block has 32 keys; each warp counts in every eighth run.
extern "C" __global__ void __launch_bounds__(THREADS) merge_runs(const SortTokens run) {
    __shared__ u32 counts[WARPS][WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 at = blockIdx.x * WARP + lane, runs = (run.rows + RUN - 1) / RUN;
    const u32 key = run.runs[at]; // at < runs * RUN
    u32 count = 0;
    for (u32 other = warp; other < runs; other += WARPS) {
        count += count_below(run.runs + other * RUN, key);
    }
    counts[warp][lane] = count;
    __syncthreads();
    if (warp == 0 && key != ~0u) {
        for (u32 other = 1; other < WARPS; ++other) {
            count += counts[other][lane];
        }
        run.sorted[count] = key;
    }
}

struct EmbedGradient {
    const void *x_delta;   // (rows, width)
    const u32 *inputs;     // (rows)
    const u32 *sorted;     // (rows): see `SortTokens`; only for many different tokens
    float *token_gradient; // (vocabulary, width), +=
    float *place_gradient; // (context, width), =
    u32 rows;
    u32 context;
    u32 width;
};

__device__ __forceinline__ void add_to(float4 &sum, float4 four) {
    sum.x += four.x;
    sum.y += four.y;
    sum.z += four.z;
    sum.w += four.w;
}

// Gradient of the position embeddings: a thread has four columns of one position.
template <class T> __device__ __forceinline__ void place_gradient_fours(const EmbedGradient &run) {
    const u32 index = blockIdx.x * THREADS + threadIdx.x;
    const u64 stride = static_cast<u64>(run.context) * run.width;
    if (4ull * index >= stride) {
        return;
    }
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (u32 window = 0; window < run.rows / run.context; ++window) {
        add_to(sum, load_four(static_cast<const T *>(run.x_delta) + window * stride + 4ull * index));
    }
    store_four(run.place_gradient + 4ull * index, sum);
}

// Sum of the rows of one token, every `step`-th from `next` on in the sorted order.
template <class T>
__device__ __forceinline__ float4 sum_rows(const EmbedGradient &run, u32 token, u32 next, u32 step,
                                           u32 column) {
    constexpr u32 AT_A_TIME = 4;
    float4 sum = make_float4(0, 0, 0, 0);
    for (;; next += AT_A_TIME * step) {
        u32 row[AT_A_TIME];
        float4 four[AT_A_TIME];
#pragma unroll
        for (u32 part = 0; part < AT_A_TIME; ++part) {
            const u32 at = next + part * step;
            row[part] = at < run.rows ? run.sorted[at] - token * run.rows : run.rows;
        }
#pragma unroll
        for (u32 part = 0; part < AT_A_TIME; ++part) {
            four[part] = row[part] < run.rows
                             ? load_four(static_cast<const T *>(run.x_delta) +
                                         static_cast<u64>(row[part]) * run.width + column)
                             : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (u32 part = 0; part < AT_A_TIME; ++part) {
            add_to(sum, four[part]);
        }
        if (row[AT_A_TIME - 1] >= run.rows) {
            return sum; // another token's, or the end
        }
    }
}

constexpr u32 LONG = 16; // rows of a token that are worth the whole block

// Many different tokens: the warp of a token's first row in the sorted order sums all its rows, or the
// block does if there are many. A warp has 128 columns.
template <class T> __device__ __forceinline__ void token_gradient_runs(const EmbedGradient &run) {
    __shared__ u32 long_token[WARPS];
    __shared__ float4 sums[WARPS][WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 column = 4 * (blockIdx.y * WARP + lane), first = blockIdx.x * WARPS;
    const u32 at = first + warp;
    const bool there = at < run.rows;
    const u32 token = there ? run.sorted[at] / run.rows : 0;
    const bool head = there && (at == 0 || run.sorted[at - 1] / run.rows != token);
    const bool many =
        head && at + LONG < run.rows && run.sorted[at + LONG] / run.rows == token;
    if (lane == 0) {
        long_token[warp] = many ? token : ~0u;
    }
    if (head && !many && column < run.width) {
        float *gradient = run.token_gradient + static_cast<u64>(token) * run.width + column;
        float4 sum = load_four(gradient);
        add_to(sum, sum_rows<T>(run, token, at, 1, column));
        store_four(gradient, sum);
    }
    __syncthreads();
    for (u32 turn = 0; turn < WARPS; ++turn) {
        const u32 whose = long_token[turn];
        if (whose == ~0u) {
            continue;
        }
        if (column < run.width) {
            sums[warp][lane] = sum_rows<T>(run, whose, first + turn + warp, WARPS, column);
        }
        __syncthreads();
        if (warp == 0 && column < run.width) {
            float *gradient = run.token_gradient + static_cast<u64>(whose) * run.width + column;
            float4 total = load_four(gradient);
            for (u32 other = 0; other < WARPS; ++other) {
                add_to(total, sums[other][lane]);
            }
            store_four(gradient, total);
        }
        __syncthreads();
    }
}

constexpr u32 MANY_WARPS = 32;
constexpr u32 MANY = MANY_WARPS * WARP;
constexpr u32 LISTED = 4 * MANY; // rows of a token that are summed at a time

// Few tokens with many rows each: a block for 128 columns of each token lists its rows in their order, and
// the warps sum them in turns.
template <class T> __device__ __forceinline__ void token_gradient_block(const EmbedGradient &run) {
    __shared__ u32 list[LISTED];
    __shared__ u32 counts[MANY_WARPS];
    __shared__ float4 sums[MANY_WARPS][WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 token = blockIdx.x;
    const u32 column = 4 * (blockIdx.y * WARP + lane);
    float4 sum = make_float4(0, 0, 0, 0);
    u32 listed = 0;
    for (u32 base = 0; base < run.rows; base += MANY) {
        const u32 row = base + threadIdx.x;
        const bool mine = row < run.rows && run.inputs[row] == token;
        const u32 votes = __ballot_sync(ALL_LANES, mine);
        if (lane == 0) {
            counts[warp] = __popc(votes);
        }
        __syncthreads();
        const u32 others = counts[lane];
        u32 before = listed + static_cast<u32>(__reduce_add_sync(ALL_LANES, lane < warp ? others : 0));
        listed += __reduce_add_sync(ALL_LANES, others);
        if (mine) {
            list[before + __popc(votes & ((1u << lane) - 1))] = row;
        }
        __syncthreads();
        if (listed > LISTED - MANY || base + MANY >= run.rows) {
            if (column < run.width) {
#pragma unroll 4
                for (u32 entry = warp; entry < listed; entry += MANY_WARPS) {
                    add_to(sum, load_four(static_cast<const T *>(run.x_delta) +
                                          static_cast<u64>(list[entry]) * run.width + column));
                }
            }
            listed = 0;
            __syncthreads();
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < run.width) {
        float *gradient = run.token_gradient + static_cast<u64>(token) * run.width + column;
        float4 total = load_four(gradient);
        for (u32 other = 0; other < MANY_WARPS; ++other) {
            add_to(total, sums[other][lane]);
        }
        store_four(gradient, total);
    }
}

#define EMBED_GRADIENT_KERNELS(TYPE, NAME)                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        place_gradient_##NAME(const EmbedGradient run) {                                           \
        place_gradient_fours<TYPE>(run);                                                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        token_gradient_runs_##NAME(const EmbedGradient run) {                                      \
        token_gradient_runs<TYPE>(run);                                                            \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(MANY_WARPS *WARP)                                 \
        token_gradient_block_##NAME(const EmbedGradient run) {                                     \
        token_gradient_block<TYPE>(run);                                                           \
    }

EMBED_GRADIENT_KERNELS(float, float32)
EMBED_GRADIENT_KERNELS(bf16, bf16)
