// Everything between two attentions in one launch, for narrow models in bf16, whose steps are bound by
// launches and latency: a block has 16 rows, all of a row's 128 elements, and reads the weights that it
// multiplies with from the L2 cache straight into the tensor cores' fragments. Sums, LayerNorm and what
// is between the products are float32; what the general kernels keep in bf16, and the gradients of the
// weights need, is written in bf16.
#include "gpt.cuh"

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 ROWS = 16;          // of a block: of the tensor cores' fragments
constexpr u32 WIDTH = 128;
constexpr u32 WIDE = 4 * WIDTH;   // of the MLP
constexpr u32 PACKED = 3 * WIDTH; // queries, keys, values
constexpr u32 CLASSES_PADDED = 128;
constexpr float EPSILON = 1e-5f;

// Rows are so far apart that lanes read 16 bytes of eight of them without meeting in a bank.
constexpr u32 PAD = 32;
constexpr u32 NARROW_STRIDE = WIDTH + PAD;
constexpr u32 WIDE_STRIDE = WIDE + PAD;
constexpr u32 FLOAT_STRIDE = WIDTH + 4;

struct Shared {
    __align__(16) bf16 narrow[ROWS * NARROW_STRIDE]; // left operand of width 128
    __align__(16) bf16 wide[ROWS * WIDE_STRIDE];     // left operand of the MLP's width, or packed
    __align__(16) bf16 kept[ROWS * WIDE_STRIDE];     // on its way to memory
    __align__(16) float x[ROWS * FLOAT_STRIDE];      // the residual stream, or its gradient
    __align__(16) float y[ROWS * FLOAT_STRIDE];      // a product of width 128
};

// A layer's weights in bf16, as (out, in) for the way forward, as (in, out) for the way back.
struct NarrowLayer {
    const bf16 *qkv;
    const bf16 *out;
    const bf16 *up;
    const bf16 *down;
};

struct Narrow {
    // Of the layer before the attention that comes first, or after the one that comes next; see each kernel.
    NarrowLayer layer;
    const bf16 *next_qkv; // the next layer's, (out, in)
    const bf16 *tokens;   // (classes, width), or turned
    const bf16 *turned_tokens;
    const float *gain;      // of the first LayerNorm here
    const float *next_gain; // of the second
    const bf16 *attended;   // (rows, width)
    bf16 *attended_delta;   // (rows, width)
    const bf16 *x_before;   // (rows, width)
    bf16 *x_middle;         // (rows, width)
    bf16 *x_after;          // (rows, width)
    bf16 *normal_middle;
    bf16 *normal_after;
    float2 *moments_middle; // (rows)
    float2 *moments_after;
    bf16 *up;     // (rows, wide)
    bf16 *active; // (rows, wide)
    bf16 *qkv;    // (rows, packed)
    const bf16 *qkv_delta;
    bf16 *up_delta;
    const bf16 *x_delta_before; // (rows, width): what comes past the LayerNorm
    bf16 *x_delta_after;
    bf16 *x_delta_middle;
    float *gain_partial_first;  // (blocks, width)
    float *gain_partial_second;
    // Only where the model begins or ends.
    const u16 *text;
    const u32 *windows;
    const GptProgress *progress;
    const float *token_table;
    const float *place_table;
    u32 *inputs;
    u32 *targets;
    bf16 *logits; // (rows, 128)
    float *losses;
    u32 context;
    u32 batch;
    u32 vocabulary;
    float loss_scale;
};

__device__ __forceinline__ Shared &shared() {
    return *reinterpret_cast<Shared *>(shared_arena());
}

// sums (16, 8 TILES) += left (16, INNER), in shared memory, times rows of `weight` (columns, INNER).
// Of 32 inner elements a lane takes eight that stand beside each other, of both operands, in place of
// the four pairs that the fragments would have: a sum does not ask for order.
template <u32 INNER, u32 TILES>
__device__ __forceinline__ void multiply(float (&sums)[TILES][4], const bf16 *left, u32 left_stride,
                                         const bf16 *weight) {
    const u32 lane = threadIdx.x % WARP;
    const bf16 *above = left + lane / 4 * left_stride + lane % 4 * 8;
    const bf16 *below = above + 8 * left_stride;
    const bf16 *right = weight + lane / 4 * INNER + lane % 4 * 8;
#pragma unroll(TILES > 4 ? 2 : 4)
    for (u32 inner = 0; inner < INNER; inner += 32) {
        uint4 b[TILES];
#pragma unroll
        for (u32 tile = 0; tile < TILES; ++tile) {
            b[tile] = __ldg(reinterpret_cast<const uint4 *>(right + tile * 8 * INNER + inner));
        }
        const uint4 a = *reinterpret_cast<const uint4 *>(above + inner);
        const uint4 c = *reinterpret_cast<const uint4 *>(below + inner);
        const u32 first[4] = {a.x, c.x, a.y, c.y}, second[4] = {a.z, c.z, a.w, c.w};
#pragma unroll
        for (u32 tile = 0; tile < TILES; ++tile) {
            multiply_add_bf16(sums[tile], first, b[tile].x, b[tile].y);
            multiply_add_bf16(sums[tile], second, b[tile].z, b[tile].w);
        }
    }
}

// Calls `take` with row, column and two values beside each other, for each pair of the lane's.
template <u32 TILES, class Take>
__device__ __forceinline__ void each_pair(const float (&sums)[TILES][4], u32 first_column,
                                          Take take) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 tile = 0; tile < TILES; ++tile) {
        const u32 column = first_column + 8 * tile + 2 * (lane % 4);
        take(lane / 4, column, sums[tile][0], sums[tile][1]);
        take(lane / 4 + 8, column, sums[tile][2], sums[tile][3]);
    }
}

__device__ __forceinline__ void store_pair(bf16 *values, float low, float high) {
    *reinterpret_cast<u32 *>(values) = pack_bf16(low, high);
}

__device__ __forceinline__ float2 load_pair(const bf16 *values) {
    const u32 pair = *reinterpret_cast<const u32 *>(values);
    return make_float2(low_bf16(pair), high_bf16(pair));
}

__device__ __forceinline__ float2 rounded(float low, float high) {
    const u32 pair = pack_bf16(low, high);
    return make_float2(low_bf16(pair), high_bf16(pair));
}

// Rows between memory and shared memory, 16 bytes at a time.
template <u32 COLUMNS>
__device__ __forceinline__ void read_rows(bf16 *to, u32 stride, const bf16 *from) {
    constexpr u32 PIECES = COLUMNS / 8;
    from += static_cast<u64>(blockIdx.x) * ROWS * COLUMNS;
    for (u32 index = threadIdx.x; index < ROWS * PIECES; index += THREADS) {
        const u32 row = index / PIECES, piece = index % PIECES;
        *reinterpret_cast<uint4 *>(to + row * stride + piece * 8) =
            *reinterpret_cast<const uint4 *>(from + row * COLUMNS + piece * 8);
    }
}

template <u32 COLUMNS>
__device__ __forceinline__ void write_rows(bf16 *to, const bf16 *from, u32 stride) {
    constexpr u32 PIECES = COLUMNS / 8;
    to += static_cast<u64>(blockIdx.x) * ROWS * COLUMNS;
    for (u32 index = threadIdx.x; index < ROWS * PIECES; index += THREADS) {
        const u32 row = index / PIECES, piece = index % PIECES;
        *reinterpret_cast<uint4 *>(to + row * COLUMNS + piece * 8) =
            *reinterpret_cast<const uint4 *>(from + row * stride + piece * 8);
    }
}

__device__ __forceinline__ u64 global_row(u32 row) {
    return static_cast<u64>(blockIdx.x) * ROWS + row;
}

// LayerNorm of the rows of `shared().x`: written to memory and to `narrow`. A warp has two rows.
__device__ __forceinline__ void normalise_rows(const float *gain, bf16 *x, bf16 *normal,
                                               float2 *moments) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float4 g = load_four(gain + 4 * lane);
#pragma unroll
    for (u32 row = warp; row < ROWS; row += WARPS) {
        const float4 four = load_four(own.x + row * FLOAT_STRIDE + 4 * lane);
        const float mean = warp_sum(sum_of(four)) * (1.0f / WIDTH);
        const float a = four.x - mean, b = four.y - mean, c = four.z - mean, d = four.w - mean;
        const float variance = warp_sum((a * a + b * b) + (c * c + d * d)) * (1.0f / WIDTH);
        const float scale = 1.0f / sqrtf(variance + EPSILON);
        const float4 result =
            make_float4(a * scale * g.x, b * scale * g.y, c * scale * g.z, d * scale * g.w);
        const u64 at = global_row(row) * WIDTH + 4 * lane;
        store_four(x + at, four);
        store_four(normal + at, result);
        store_four(own.narrow + row * NARROW_STRIDE + 4 * lane, result);
        if (lane == 0) {
            moments[global_row(row)] = make_float2(mean, scale);
        }
    }
}

// x = what `shared().x` has plus the product of `left` with `weight` (128, INNER), rounded.
template <u32 INNER>
__device__ __forceinline__ void add_product(const bf16 *left, u32 stride, const bf16 *weight) {
    Shared &own = shared();
    const u32 first = threadIdx.x / WARP * 16;
    float sums[2][4] = {};
    multiply<INNER>(sums, left, stride, weight + first * INNER);
    each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
        float *x = own.x + row * FLOAT_STRIDE + column;
        const float2 pair = rounded(x[0] + low, x[1] + high);
        x[0] = pair.x;
        x[1] = pair.y;
    });
}

// y = the product of `left` with `weight` (128, INNER), rounded as the general kernels have it.
template <u32 INNER>
__device__ __forceinline__ void product(const bf16 *left, u32 stride, const bf16 *weight) {
    Shared &own = shared();
    const u32 first = threadIdx.x / WARP * 16;
    float sums[2][4] = {};
    multiply<INNER>(sums, left, stride, weight + first * INNER);
    each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
        const float2 pair = rounded(low, high);
        own.y[row * FLOAT_STRIDE + column] = pair.x;
        own.y[row * FLOAT_STRIDE + column + 1] = pair.y;
    });
}

// Rows of bf16 in memory as the residual stream.
__device__ __forceinline__ void read_x(const bf16 *x) {
    Shared &own = shared();
    for (u32 index = threadIdx.x; index < ROWS * WIDTH / 4; index += THREADS) {
        const u32 row = index / (WIDTH / 4), column = index % (WIDTH / 4) * 4;
        store_four(own.x + row * FLOAT_STRIDE + column,
                   load_four(x + global_row(row) * WIDTH + column));
    }
}

constexpr float SLOPE = 0.7978845608028654f; // sqrt(2 / pi)
constexpr float CUBIC = 0.044715f;

__device__ __forceinline__ float tanh_of(float value) {
    float result;
    asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}

__device__ __forceinline__ float gelu(float value) {
    return 0.5f * value * (1.0f + tanh_of(SLOPE * (value + CUBIC * value * value * value)));
}

__device__ __forceinline__ float gelu_slope(float value) {
    const float tanh_inner = tanh_of(SLOPE * (value + CUBIC * value * value * value));
    const float inner_slope = SLOPE * (1.0f + 3.0f * CUBIC * value * value);
    return 0.5f * (1.0f + tanh_inner) +
           0.5f * value * (1.0f - tanh_inner * tanh_inner) * inner_slope;
}

// Queries, keys and values of the next attention, from `narrow`.
__device__ __forceinline__ void pack_qkv(const bf16 *weight, bf16 *qkv) {
    Shared &own = shared();
    const u32 first = threadIdx.x / WARP * (PACKED / WARPS);
    float sums[PACKED / WARPS / 8][4] = {};
    multiply<WIDTH>(sums, own.narrow, NARROW_STRIDE, weight + first * WIDTH);
    each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
        store_pair(own.kept + row * WIDE_STRIDE + column, low, high);
    });
    __syncthreads();
    write_rows<PACKED>(qkv, own.kept, WIDE_STRIDE);
}

// The first kernel: embeddings, the first LayerNorm, the first layer's queries, keys and values.
extern "C" __global__ void __launch_bounds__(THREADS) narrow_begin(const __grid_constant__ Narrow run) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 step = run.progress->next;
    for (u32 row = warp; row < ROWS; row += WARPS) {
        const u32 at_row = static_cast<u32>(global_row(row));
        const u32 window = at_row / run.context, place = at_row % run.context;
        const u32 at = run.windows[step * run.batch + window] + place;
        const u32 token = run.text[at];
        if (lane == 0) {
            run.inputs[at_row] = token;
            run.targets[at_row] = run.text[at + 1];
        }
        const float4 a = load_four(run.token_table + token * WIDTH + 4 * lane);
        const float4 b = load_four(run.place_table + place * WIDTH + 4 * lane);
        const float2 left = rounded(a.x + b.x, a.y + b.y), right = rounded(a.z + b.z, a.w + b.w);
        store_four(own.x + row * FLOAT_STRIDE + 4 * lane,
                   make_float4(left.x, left.y, right.x, right.y));
    }
    __syncthreads();
    normalise_rows(run.gain, run.x_after, run.normal_after, run.moments_after);
    __syncthreads();
    pack_qkv(run.next_qkv, run.qkv);
}

// A layer after its attention, up to the next LayerNorm, whose result is in `narrow`.
__device__ __forceinline__ void layer_forward(const Narrow &run) {
    Shared &own = shared();
    const u32 warp = threadIdx.x / WARP;
    read_rows<WIDTH>(own.narrow, NARROW_STRIDE, run.attended);
    read_x(run.x_before);
    __syncthreads();
    add_product<WIDTH>(own.narrow, NARROW_STRIDE, run.layer.out);
    __syncthreads();
    normalise_rows(run.gain, run.x_middle, run.normal_middle, run.moments_middle);
    __syncthreads();
    const u32 first = warp * (WIDE / WARPS);
    float sums[WIDE / WARPS / 8][4] = {};
    multiply<WIDTH>(sums, own.narrow, NARROW_STRIDE, run.layer.up + first * WIDTH);
    each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
        const u32 at = row * WIDE_STRIDE + column;
        store_pair(own.kept + at, low, high);
        store_pair(own.wide + at, gelu(low), gelu(high));
    });
    __syncthreads();
    write_rows<WIDE>(run.up, own.kept, WIDE_STRIDE);
    write_rows<WIDE>(run.active, own.wide, WIDE_STRIDE);
    add_product<WIDE>(own.wide, WIDE_STRIDE, run.layer.down);
    __syncthreads();
    normalise_rows(run.next_gain, run.x_after, run.normal_after, run.moments_after);
    __syncthreads();
}

// A layer after its attention, and the next layer's queries, keys and values.
extern "C" __global__ void __launch_bounds__(THREADS)
    narrow_forward(const __grid_constant__ Narrow run) {
    layer_forward(run);
    pack_qkv(run.next_qkv, run.qkv);
}

// From `y`, the gradient of a LayerNorm's result, and `x`, what comes past it, the gradient of what went
// in: in `x`, rounded, in `narrow`, and in memory. The gain's gradient is summed over the block's rows.
__device__ __forceinline__ void normalise_gradient(const float *gain, const bf16 *values,
                                                   const float2 *moments, bf16 *x_delta,
                                                   float *gain_partial) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float4 g = load_four(gain + 4 * lane);
#pragma unroll
    for (u32 row = warp; row < ROWS; row += WARPS) {
        const u64 at = global_row(row) * WIDTH + 4 * lane;
        float *y = own.y + row * FLOAT_STRIDE + 4 * lane, *x = own.x + row * FLOAT_STRIDE + 4 * lane;
        const float2 moment = moments[global_row(row)];
        float4 value = load_four(values + at), delta = load_four(y), past = load_four(x);
        float4 share;
        float sum = 0.0f, product = 0.0f;
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            float &v = (&value.x)[index], &d = (&delta.x)[index];
            v = (v - moment.x) * moment.y;
            (&share.x)[index] = d * v;
            d *= (&g.x)[index];
            sum += d;
            product += d * v;
        }
        sum = warp_sum(sum) * (1.0f / WIDTH);
        product = warp_sum(product) * (1.0f / WIDTH);
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            (&past.x)[index] +=
                moment.y * ((&delta.x)[index] - sum - (&value.x)[index] * product);
        }
        const float2 left = rounded(past.x, past.y), right = rounded(past.z, past.w);
        past = make_float4(left.x, left.y, right.x, right.y);
        store_four(x, past);
        store_four(y, share);
        store_four(own.narrow + row * NARROW_STRIDE + 4 * lane, past);
        store_four(x_delta + at, past);
    }
    __syncthreads();
    if (threadIdx.x < WIDTH) {
        float sum = 0.0f;
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) {
            sum += own.y[row * FLOAT_STRIDE + threadIdx.x];
        }
        gain_partial[static_cast<u64>(blockIdx.x) * WIDTH + threadIdx.x] = sum;
    }
    __syncthreads();
}

// From the gradient of a layer's result, in `x` and `narrow`, back to its attention's.
__device__ __forceinline__ void layer_backward(const Narrow &run) {
    Shared &own = shared();
    const u32 warp = threadIdx.x / WARP;
    const u32 first = warp * (WIDE / WARPS);
    float sums[WIDE / WARPS / 8][4] = {};
    multiply<WIDTH>(sums, own.narrow, NARROW_STRIDE, run.layer.down + first * WIDTH);
    each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
        const float2 up = load_pair(run.up + global_row(row) * WIDE + column);
        store_pair(own.wide + row * WIDE_STRIDE + column, low * gelu_slope(up.x),
                   high * gelu_slope(up.y));
    });
    __syncthreads();
    write_rows<WIDE>(run.up_delta, own.wide, WIDE_STRIDE);
    product<WIDE>(own.wide, WIDE_STRIDE, run.layer.up);
    __syncthreads();
    normalise_gradient(run.gain, run.x_middle, run.moments_middle, run.x_delta_middle,
                       run.gain_partial_first);
    const u32 column_first = warp * 16;
    float deltas[2][4] = {};
    multiply<WIDTH>(deltas, own.narrow, NARROW_STRIDE, run.layer.out + column_first * WIDTH);
    each_pair(deltas, column_first, [&](u32 row, u32 column, float low, float high) {
        store_pair(run.attended_delta + global_row(row) * WIDTH + column, low, high);
    });
}

// Softmax of the rows of `y`, which are logits: losses, and the logits' gradient in `narrow` and memory.
__device__ __forceinline__ void cross_entropy(const Narrow &run) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (u32 row = warp; row < ROWS; row += WARPS) {
        const float *logits = own.y + row * FLOAT_STRIDE;
        const u32 target = run.targets[global_row(row)];
        const float4 four = load_four(logits + 4 * lane);
        float most = -LARGEST;
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            const bool there = 4 * lane + index < run.vocabulary;
            most = there ? fmaxf(most, (&four.x)[index]) : most;
        }
        most = warp_max(most);
        float4 power;
        float sum = 0.0f;
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            const bool there = 4 * lane + index < run.vocabulary;
            const float raised = power_of_two(((&four.x)[index] - most) * 1.4426950408889634f);
            (&power.x)[index] = there ? raised : 0.0f;
            sum += (&power.x)[index];
        }
        sum = warp_sum(sum);
        const float scale = run.loss_scale / sum;
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            (&power.x)[index] *= scale;
            (&power.x)[index] -= 4 * lane + index == target ? run.loss_scale : 0.0f;
        }
        store_four(own.narrow + row * NARROW_STRIDE + 4 * lane, power);
        store_four(run.logits + global_row(row) * CLASSES_PADDED + 4 * lane, power);
        if (lane == 0) {
            run.losses[global_row(row)] = logf(sum) + most - logits[target];
        }
    }
}

// What the kernel at the turning point has of the way back beside its way forward.
struct NarrowTurn {
    Narrow forward;
    Narrow backward;
};

// The last layer after its attention, the loss, and the way back to that attention.
extern "C" __global__ void __launch_bounds__(THREADS)
    narrow_turn(const __grid_constant__ NarrowTurn turn) {
    Shared &own = shared();
    layer_forward(turn.forward);
    product<WIDTH>(own.narrow, NARROW_STRIDE, turn.forward.tokens);
    __syncthreads();
    cross_entropy(turn.forward);
    __syncthreads();
    product<CLASSES_PADDED>(own.narrow, NARROW_STRIDE, turn.forward.turned_tokens);
    for (u32 index = threadIdx.x; index < ROWS * FLOAT_STRIDE; index += THREADS) {
        own.x[index] = 0.0f; // nothing comes past the last LayerNorm
    }
    __syncthreads();
    const Narrow &run = turn.backward;
    normalise_gradient(turn.forward.next_gain, turn.forward.x_after, turn.forward.moments_after,
                       run.x_delta_after, run.gain_partial_second);
    layer_backward(run);
}

// From an attention's gradient to that of its layer's first `x`.
__device__ __forceinline__ void qkv_backward(const Narrow &run) {
    Shared &own = shared();
    read_rows<PACKED>(own.wide, WIDE_STRIDE, run.qkv_delta);
    read_x(run.x_delta_before);
    __syncthreads();
    product<PACKED>(own.wide, WIDE_STRIDE, run.next_qkv);
    __syncthreads();
    normalise_gradient(run.next_gain, run.x_after, run.moments_after, run.x_delta_after,
                       run.gain_partial_second);
}

// From an attention's gradient to that of the attention before.
extern "C" __global__ void __launch_bounds__(THREADS)
    narrow_backward(const __grid_constant__ Narrow run) {
    qkv_backward(run);
    layer_backward(run);
}

// From the first attention's gradient to that of the embeddings' sum.
extern "C" __global__ void __launch_bounds__(THREADS) narrow_end(const __grid_constant__ Narrow run) {
    qkv_backward(run);
}

struct TurnMatrix {
    const bf16 *from; // the flat buffer of rounded parameters
    bf16 *to;         // the same, each matrix turned
    u64 tokens;       // offsets of (128, 128)
    u64 first_layer;  // and of the first layer's matrices, one after the other
    u64 layer_stride;
};

// Turns all matrices, 32 by 32 elements a block; a layer has 192 of these tiles, the tokens have 16.
extern "C" __global__ void __launch_bounds__(THREADS) narrow_turn_weights(const TurnMatrix run) {
    __shared__ bf16 tile[32][34];
    constexpr u32 EDGE = 32, TOKENS = CLASSES_PADDED * WIDTH / (EDGE * EDGE);
    constexpr u32 QKV = 48, OUT = 16, UP = 64, LAYER = QKV + OUT + 2 * UP; // tiles
    u64 base = run.tokens;
    u32 index = blockIdx.x, down = CLASSES_PADDED, across = WIDTH;
    if (index >= TOKENS) {
        index -= TOKENS;
        base = run.first_layer + index / LAYER * run.layer_stride;
        index %= LAYER;
        if (index < QKV) {
            down = PACKED;
        } else if (index < QKV + OUT) {
            index -= QKV;
            base += PACKED * WIDTH;
            down = WIDTH;
        } else if (index < QKV + OUT + UP) {
            index -= QKV + OUT;
            base += (PACKED + WIDTH) * WIDTH;
            down = WIDE;
        } else {
            index -= QKV + OUT + UP;
            base += (PACKED + WIDTH + WIDE) * WIDTH;
            down = WIDTH;
            across = WIDE;
        }
    }
    const u32 first_row = index / (across / EDGE) * EDGE, first_column = index % (across / EDGE) * EDGE;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (u32 row = warp; row < EDGE; row += WARPS) {
        tile[row][lane] = run.from[base + (first_row + row) * across + first_column + lane];
    }
    __syncthreads();
    for (u32 row = warp; row < EDGE; row += WARPS) {
        run.to[base + (first_column + row) * down + first_row + lane] = tile[lane][row];
    }
}
