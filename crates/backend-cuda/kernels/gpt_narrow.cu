// Everything between two attentions in one launch, for narrow models in bf16, whose steps are bound by
// launches and latency. A block has 16 rows, all 128 elements of each. The weights that it multiplies
// with come from the L2 cache by the bulk copy engine, box after box in the order in which they are
// needed, as far ahead as shared memory has room. Sums, LayerNorm and all between the products are
// float32; what the general kernels keep in bf16, and the gradients of the weights need, is written so.
#include "bulk_copy.cuh"
#include "gpt.cuh"

constexpr u32 WORKERS = 256;      // threads that compute
constexpr u32 THREADS = WORKERS + WARP; // and a warp that asks for weights
constexpr u32 WARPS = WORKERS / WARP;
constexpr u32 ROWS = 16;          // of a block: of the tensor cores' fragments
constexpr u32 ROWS_OF_WARP = ROWS / WARPS;
constexpr u32 WIDTH = 128;
constexpr u32 WIDE = 4 * WIDTH;   // of the MLP
constexpr u32 PACKED = 3 * WIDTH; // queries, keys, values
constexpr u32 CLASSES_PADDED = 128;
constexpr float EPSILON = 1e-5f;

// A box of weights: 128 outputs by 64 inputs, rows of 128 bytes, swizzled.
constexpr u32 BOX_INNER = 64;
constexpr u32 BOX_BYTES = WIDTH * BOX_INNER * 2;
constexpr u32 SLOTS = 10;

// Rows are 16 bytes longer than they need be, so that eight of them are in different banks.
constexpr u32 NARROW_STRIDE = WIDTH + 8;
constexpr u32 WIDE_STRIDE = WIDE + 8;
constexpr u32 FLOAT_STRIDE = WIDTH + 4;

struct __align__(1024) Shared {
    u8 boxes[SLOTS][BOX_BYTES];
    __align__(16) bf16 narrow[ROWS * NARROW_STRIDE]; // left operand of width 128
    __align__(16) bf16 wide[ROWS * WIDE_STRIDE];     // left operand of the MLP's width, or packed
    __align__(16) bf16 kept[ROWS * WIDE_STRIDE];     // on its way to memory, or from it
    __align__(16) float x[ROWS * FLOAT_STRIDE];      // the residual stream, or its gradient
    __align__(16) float y[ROWS * FLOAT_STRIDE];      // a product of width 128
    u64 full[SLOTS];
    u64 empty[SLOTS];
};

struct Narrow {
    // Weights in bf16, as (out, in) for the way forward, as (in, out) for the way back.
    TensorMap out;
    TensorMap up;
    TensorMap down;
    TensorMap qkv;
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
    bf16 *up_values; // (rows, wide): before GELU
    bf16 *active;    // (rows, wide): after it
    bf16 *packed;    // (rows, packed): queries, keys, values
    const bf16 *packed_delta;
    bf16 *up_delta;
    const bf16 *x_delta_before; // (rows, width): what comes past the LayerNorm
    bf16 *x_delta_after;
    bf16 *x_delta_middle;
    float *gain_partial_first; // (blocks, width)
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
    const u32 address = shared_address(shared_arena());
    return *reinterpret_cast<Shared *>(shared_arena() + (1024 - address % 1024) % 1024);
}

// Of the threads that compute.
__device__ __forceinline__ void workers_sync() { barrier_sync(1, WORKERS); }

// The warp that asks for weights: one thread of it.
struct Supply {
    u32 count = 0;

    // All boxes of a matrix, 128 outputs after the other, along the inputs within.
    __device__ __forceinline__ void send(const TensorMap &map, u32 outputs, u32 inputs) {
        Shared &own = shared();
        for (u32 first = 0; first < outputs; first += WIDTH) {
            for (u32 inner = 0; inner < inputs; inner += BOX_INNER, ++count) {
                const u32 slot = count % SLOTS;
                barrier_wait(&own.empty[slot], count / SLOTS % 2 ^ 1);
                barrier_expect(&own.full[slot], BOX_BYTES);
                copy_box(own.boxes[slot], map, inner, first, &own.full[slot]);
            }
        }
    }
};

// Whether this thread computes; the others have sent what `supply` sends when they come back.
template <class SupplyAll> __device__ __forceinline__ bool works(SupplyAll supply) {
    Shared &own = shared();
    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            barrier_begin(&own.full[slot], 1);
            barrier_begin(&own.empty[slot], WARPS);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (uniform(threadIdx.x / WARP) < WARPS) {
        return true;
    }
    if (threadIdx.x == WORKERS) {
        Supply to;
        supply(to);
    }
    return false;
}

__device__ __forceinline__ void load_matrices(u32 (&out)[4], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

// What the threads that compute take of the weights, in the order in which they were sent.
struct Boxes {
    u32 count = 0;

    // sums (16, 16 of this warp) = left (16, 64 PARTS) in shared memory times the next boxes.
    template <u32 PARTS>
    __device__ __forceinline__ void multiply(float (&sums)[2][4], const bf16 *left, u32 stride) {
        Shared &own = shared();
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const u32 row = 16 * warp + lane % 8 + lane / 16 * 8;
        const bf16 *left_row = left + lane % 16 * stride + lane / 16 * 8;
#pragma unroll
        for (u32 tile = 0; tile < 2; ++tile) {
#pragma unroll
            for (u32 index = 0; index < 4; ++index) {
                sums[tile][index] = 0.0f;
            }
        }
#pragma unroll 2
        for (u32 part = 0; part < PARTS; ++part, ++count) {
            const u32 slot = count % SLOTS;
            barrier_wait(&own.full[slot], count / SLOTS % 2);
            const u8 *box_row = own.boxes[slot] + row * (BOX_INNER * 2);
#pragma unroll
            for (u32 step = 0; step < BOX_INNER / 16; ++step) {
                u32 a[4], b[4];
                load_matrices(a, left_row + part * BOX_INNER + 16 * step);
                load_matrices(b, box_row + ((2 * step + lane / 8 % 2) ^ (row % 8)) * 16);
                multiply_add_bf16(sums[0], a, b[0], b[1]);
                multiply_add_bf16(sums[1], a, b[2], b[3]);
            }
            __syncwarp();
            if (lane == 0) {
                barrier_arrive(&own.empty[slot]);
            }
        }
    }
};

// Calls `take` with row, column and two values beside each other, for each pair of the lane's, of which
// the warp's first column is `first`.
template <class Take>
__device__ __forceinline__ void each_pair(const float (&sums)[2][4], u32 first, Take take) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 tile = 0; tile < 2; ++tile) {
        const u32 column = first + threadIdx.x / WARP * 16 + 8 * tile + 2 * (lane % 4);
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
    for (u32 index = threadIdx.x; index < ROWS * PIECES; index += WORKERS) {
        const u32 row = index / PIECES, piece = index % PIECES;
        copy_async(to + row * stride + piece * 8, from + row * COLUMNS + piece * 8, 16);
    }
    copy_async_commit();
}

template <u32 COLUMNS>
__device__ __forceinline__ void write_rows(bf16 *to, const bf16 *from, u32 stride) {
    constexpr u32 PIECES = COLUMNS / 8;
    to += static_cast<u64>(blockIdx.x) * ROWS * COLUMNS;
    for (u32 index = threadIdx.x; index < ROWS * PIECES; index += WORKERS) {
        const u32 row = index / PIECES, piece = index % PIECES;
        *reinterpret_cast<uint4 *>(to + row * COLUMNS + piece * 8) =
            *reinterpret_cast<const uint4 *>(from + row * stride + piece * 8);
    }
}

__device__ __forceinline__ u64 global_row(u32 row) {
    return static_cast<u64>(blockIdx.x) * ROWS + row;
}

// A warp's row of its two.
__device__ __forceinline__ u32 row_of_warp(u32 index) {
    return threadIdx.x / WARP + index * WARPS;
}

__device__ __forceinline__ float4 own_four(const float *row) {
    return load_four(row + 4 * (threadIdx.x % WARP));
}

// LayerNorm of the rows of `shared().x`: written to memory and to `narrow`.
__device__ __forceinline__ void normalise_rows(float4 gain, bf16 *x, bf16 *normal,
                                               float2 *moments) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 index = 0; index < ROWS_OF_WARP; ++index) {
        const u32 row = row_of_warp(index);
        const float4 four = own_four(own.x + row * FLOAT_STRIDE);
        const float mean = warp_sum(sum_of(four)) * (1.0f / WIDTH);
        const float a = four.x - mean, b = four.y - mean, c = four.z - mean, d = four.w - mean;
        const float variance = warp_sum((a * a + b * b) + (c * c + d * d)) * (1.0f / WIDTH);
        const float scale = 1.0f / sqrtf(variance + EPSILON);
        const float4 result = make_float4(a * scale * gain.x, b * scale * gain.y,
                                          c * scale * gain.z, d * scale * gain.w);
        const u64 at = global_row(row) * WIDTH + 4 * lane;
        store_four(x + at, four);
        store_four(normal + at, result);
        store_four(own.narrow + row * NARROW_STRIDE + 4 * lane, result);
        if (lane == 0) {
            moments[global_row(row)] = make_float2(mean, scale);
        }
    }
}

// x += the product of `left` with the next boxes, rounded.
template <u32 PARTS>
__device__ __forceinline__ void add_product(Boxes &boxes, const bf16 *left, u32 stride) {
    Shared &own = shared();
    float sums[2][4];
    boxes.multiply<PARTS>(sums, left, stride);
    each_pair(sums, 0, [&](u32 row, u32 column, float low, float high) {
        float *x = own.x + row * FLOAT_STRIDE + column;
        const float2 pair = rounded(x[0] + low, x[1] + high);
        x[0] = pair.x;
        x[1] = pair.y;
    });
}

// y = the product of `left` with the next boxes, rounded as the general kernels have it.
template <u32 PARTS>
__device__ __forceinline__ void product(Boxes &boxes, const bf16 *left, u32 stride) {
    Shared &own = shared();
    float sums[2][4];
    boxes.multiply<PARTS>(sums, left, stride);
    each_pair(sums, 0, [&](u32 row, u32 column, float low, float high) {
        const float2 pair = rounded(low, high);
        own.y[row * FLOAT_STRIDE + column] = pair.x;
        own.y[row * FLOAT_STRIDE + column + 1] = pair.y;
    });
}

// Rows of bf16 in memory as the residual stream.
__device__ __forceinline__ void read_x(const bf16 *x) {
    Shared &own = shared();
    for (u32 index = threadIdx.x; index < ROWS * WIDTH / 4; index += WORKERS) {
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
__device__ __forceinline__ void pack_qkv(Boxes &boxes, bf16 *packed) {
    Shared &own = shared();
#pragma unroll 1
    for (u32 first = 0; first < PACKED; first += WIDTH) {
        float sums[2][4];
        boxes.multiply<WIDTH / BOX_INNER>(sums, own.narrow, NARROW_STRIDE);
        each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
            store_pair(own.kept + row * WIDE_STRIDE + column, low, high);
        });
    }
    workers_sync();
    write_rows<PACKED>(packed, own.kept, WIDE_STRIDE);
}

// The first kernel: embeddings, the first LayerNorm, the first layer's queries, keys and values.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    narrow_begin(const __grid_constant__ Narrow run) {
    if (!works([&](Supply &to) { to.send(run.qkv, PACKED, WIDTH); })) {
        return;
    }
    Shared &own = shared();
    Boxes boxes;
    const u32 lane = threadIdx.x % WARP;
    const float4 gain = own_four(run.gain);
    const u32 step = run.progress->next;
#pragma unroll
    for (u32 index = 0; index < ROWS_OF_WARP; ++index) {
        const u32 row = row_of_warp(index), at_row = static_cast<u32>(global_row(row));
        const u32 window = at_row / run.context, place = at_row % run.context;
        const u32 at = run.windows[step * run.batch + window] + place;
        const u32 token = run.text[at];
        if (lane == 0) {
            run.inputs[at_row] = token;
            run.targets[at_row] = run.text[at + 1];
        }
        const float4 a = own_four(run.token_table + token * WIDTH);
        const float4 b = own_four(run.place_table + place * WIDTH);
        const float2 left = rounded(a.x + b.x, a.y + b.y), right = rounded(a.z + b.z, a.w + b.w);
        store_four(own.x + row * FLOAT_STRIDE + 4 * lane,
                   make_float4(left.x, left.y, right.x, right.y));
    }
    __syncwarp();
    normalise_rows(gain, run.x_after, run.normal_after, run.moments_after);
    workers_sync();
    pack_qkv(boxes, run.packed);
}

__device__ __forceinline__ void supply_layer(Supply &to, const Narrow &run) {
    to.send(run.out, WIDTH, WIDTH);
    to.send(run.up, WIDE, WIDTH);
    to.send(run.down, WIDTH, WIDE);
}

// A layer after its attention, up to the next LayerNorm, whose result is in `narrow`.
__device__ __forceinline__ void layer_forward(const Narrow &run, Boxes &boxes) {
    Shared &own = shared();
    const float4 gain = own_four(run.gain), next_gain = own_four(run.next_gain);
    read_rows<WIDTH>(own.narrow, NARROW_STRIDE, run.attended);
    read_x(run.x_before);
    copy_async_wait<0>();
    workers_sync();
    add_product<WIDTH / BOX_INNER>(boxes, own.narrow, NARROW_STRIDE);
    workers_sync();
    normalise_rows(gain, run.x_middle, run.normal_middle, run.moments_middle);
    workers_sync();
#pragma unroll 1
    for (u32 first = 0; first < WIDE; first += WIDTH) {
        float sums[2][4];
        boxes.multiply<WIDTH / BOX_INNER>(sums, own.narrow, NARROW_STRIDE);
        each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
            const u32 at = row * WIDE_STRIDE + column;
            store_pair(own.kept + at, low, high);
            store_pair(own.wide + at, gelu(low), gelu(high));
        });
    }
    workers_sync();
    write_rows<WIDE>(run.up_values, own.kept, WIDE_STRIDE);
    write_rows<WIDE>(run.active, own.wide, WIDE_STRIDE);
    add_product<WIDE / BOX_INNER>(boxes, own.wide, WIDE_STRIDE);
    workers_sync();
    normalise_rows(next_gain, run.x_after, run.normal_after, run.moments_after);
    workers_sync();
}

// A layer after its attention, and the next layer's queries, keys and values.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    narrow_forward(const __grid_constant__ Narrow run) {
    if (!works([&](Supply &to) {
            supply_layer(to, run);
            to.send(run.qkv, PACKED, WIDTH);
        })) {
        return;
    }
    Boxes boxes;
    layer_forward(run, boxes);
    pack_qkv(boxes, run.packed);
}

// What a LayerNorm's gradient needs of the way forward, asked for long before it is needed.
struct Normalised {
    float4 gain;
    float4 value[ROWS_OF_WARP];
    float2 moments[ROWS_OF_WARP];

    __device__ __forceinline__ void read(const float *from_gain, const bf16 *values,
                                         const float2 *from_moments) {
        gain = own_four(from_gain);
#pragma unroll
        for (u32 index = 0; index < ROWS_OF_WARP; ++index) {
            const u64 row = global_row(row_of_warp(index));
            value[index] = load_four(values + row * WIDTH + 4 * (threadIdx.x % WARP));
            moments[index] = from_moments[row];
        }
    }
};

// From `y`, the gradient of a LayerNorm's result, and `x`, what comes past it, the gradient of what went
// in: in `x`, rounded, in `narrow`, and in memory. The gain's gradient is summed over the block's rows.
__device__ __forceinline__ void normalise_gradient(const Normalised &norm, bf16 *x_delta,
                                                   float *gain_partial) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 index = 0; index < ROWS_OF_WARP; ++index) {
        const u32 row = row_of_warp(index);
        float *y = own.y + row * FLOAT_STRIDE + 4 * lane, *x = own.x + row * FLOAT_STRIDE + 4 * lane;
        const float2 moment = norm.moments[index];
        float4 value = norm.value[index], delta = load_four(y), past = load_four(x), share;
        float sum = 0.0f, product = 0.0f;
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            float &v = (&value.x)[part], &d = (&delta.x)[part];
            v = (v - moment.x) * moment.y;
            (&share.x)[part] = d * v;
            d *= (&norm.gain.x)[part];
            sum += d;
            product += d * v;
        }
        sum = warp_sum(sum) * (1.0f / WIDTH);
        product = warp_sum(product) * (1.0f / WIDTH);
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            (&past.x)[part] += moment.y * ((&delta.x)[part] - sum - (&value.x)[part] * product);
        }
        const float2 left = rounded(past.x, past.y), right = rounded(past.z, past.w);
        past = make_float4(left.x, left.y, right.x, right.y);
        store_four(x, past);
        store_four(y, share);
        store_four(own.narrow + row * NARROW_STRIDE + 4 * lane, past);
        store_four(x_delta + global_row(row) * WIDTH + 4 * lane, past);
    }
    workers_sync();
    if (threadIdx.x < WIDTH) {
        float sum = 0.0f;
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) {
            sum += own.y[row * FLOAT_STRIDE + threadIdx.x];
        }
        gain_partial[static_cast<u64>(blockIdx.x) * WIDTH + threadIdx.x] = sum;
    }
    workers_sync();
}

__device__ __forceinline__ void supply_layer_back(Supply &to, const Narrow &run) {
    to.send(run.down, WIDE, WIDTH);
    to.send(run.up, WIDTH, WIDE);
    to.send(run.out, WIDTH, WIDTH);
}

// From the gradient of a layer's result, in `x` and `narrow`, back to its attention's. What went into GELU
// is in `kept`, or on its way there.
__device__ __forceinline__ void layer_backward(const Narrow &run, const Normalised &norm,
                                               Boxes &boxes) {
    Shared &own = shared();
    copy_async_wait<0>();
    workers_sync();
#pragma unroll 1
    for (u32 first = 0; first < WIDE; first += WIDTH) {
        float sums[2][4];
        boxes.multiply<WIDTH / BOX_INNER>(sums, own.narrow, NARROW_STRIDE);
        each_pair(sums, first, [&](u32 row, u32 column, float low, float high) {
            const u32 at = row * WIDE_STRIDE + column;
            const float2 up = load_pair(own.kept + at);
            store_pair(own.wide + at, low * gelu_slope(up.x), high * gelu_slope(up.y));
        });
    }
    workers_sync();
    write_rows<WIDE>(run.up_delta, own.wide, WIDE_STRIDE);
    product<WIDE / BOX_INNER>(boxes, own.wide, WIDE_STRIDE);
    workers_sync();
    normalise_gradient(norm, run.x_delta_middle, run.gain_partial_first);
    float sums[2][4];
    boxes.multiply<WIDTH / BOX_INNER>(sums, own.narrow, NARROW_STRIDE);
    each_pair(sums, 0, [&](u32 row, u32 column, float low, float high) {
        store_pair(own.kept + row * WIDE_STRIDE + column, low, high);
    });
    workers_sync();
    write_rows<WIDTH>(run.attended_delta, own.kept, WIDE_STRIDE);
}

// Softmax of the rows of `y`, which are logits: losses, and the logits' gradient in `narrow` and memory.
__device__ __forceinline__ void cross_entropy(const Narrow &run) {
    Shared &own = shared();
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 index = 0; index < ROWS_OF_WARP; ++index) {
        const u32 row = row_of_warp(index);
        const float *logits = own.y + row * FLOAT_STRIDE;
        const u32 target = run.targets[global_row(row)];
        const float4 four = own_four(logits);
        float most = -LARGEST;
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            const bool there = 4 * lane + part < run.vocabulary;
            most = there ? fmaxf(most, (&four.x)[part]) : most;
        }
        most = warp_max(most);
        float4 power;
        float sum = 0.0f;
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            const bool there = 4 * lane + part < run.vocabulary;
            const float raised = power_of_two(((&four.x)[part] - most) * 1.4426950408889634f);
            (&power.x)[part] = there ? raised : 0.0f;
            sum += (&power.x)[part];
        }
        sum = warp_sum(sum);
        const float scale = run.loss_scale / sum;
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            (&power.x)[part] *= scale;
            (&power.x)[part] -= 4 * lane + part == target ? run.loss_scale : 0.0f;
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
    TensorMap tokens;
    TensorMap turned_tokens;
};

// The last layer after its attention, the loss, and the way back to that attention.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    narrow_turn(const __grid_constant__ NarrowTurn turn) {
    if (!works([&](Supply &to) {
            supply_layer(to, turn.forward);
            to.send(turn.tokens, CLASSES_PADDED, WIDTH);
            to.send(turn.turned_tokens, WIDTH, CLASSES_PADDED);
            supply_layer_back(to, turn.backward);
        })) {
        return;
    }
    Shared &own = shared();
    Boxes boxes;
    layer_forward(turn.forward, boxes);
    Normalised after, middle; // each thread reads what it wrote itself
    after.read(turn.forward.next_gain, turn.forward.x_after, turn.forward.moments_after);
    middle.read(turn.backward.gain, turn.backward.x_middle, turn.backward.moments_middle);
    product<WIDTH / BOX_INNER>(boxes, own.narrow, NARROW_STRIDE);
    workers_sync();
    cross_entropy(turn.forward);
    for (u32 index = threadIdx.x; index < ROWS * FLOAT_STRIDE; index += WORKERS) {
        own.x[index] = 0.0f; // nothing comes past the last LayerNorm
    }
    workers_sync();
    product<CLASSES_PADDED / BOX_INNER>(boxes, own.narrow, NARROW_STRIDE);
    workers_sync();
    normalise_gradient(after, turn.backward.x_delta_after, turn.backward.gain_partial_second);
    layer_backward(turn.backward, middle, boxes);
}

// From an attention's gradient to that of its layer's first `x`.
__device__ __forceinline__ void qkv_backward(const Narrow &run, const Normalised &norm,
                                             Boxes &boxes) {
    Shared &own = shared();
    product<PACKED / BOX_INNER>(boxes, own.wide, WIDE_STRIDE);
    workers_sync();
    normalise_gradient(norm, run.x_delta_after, run.gain_partial_second);
}

// From an attention's gradient to that of the attention before.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    narrow_backward(const __grid_constant__ Narrow run) {
    if (!works([&](Supply &to) {
            to.send(run.qkv, WIDTH, PACKED);
            supply_layer_back(to, run);
        })) {
        return;
    }
    Shared &own = shared();
    Boxes boxes;
    Normalised after, middle;
    read_rows<PACKED>(own.wide, WIDE_STRIDE, run.packed_delta);
    read_rows<WIDE>(own.kept, WIDE_STRIDE, run.up_values);
    read_x(run.x_delta_before);
    after.read(run.next_gain, run.x_after, run.moments_after);
    middle.read(run.gain, run.x_middle, run.moments_middle);
    copy_async_wait<1>();
    workers_sync();
    qkv_backward(run, after, boxes);
    layer_backward(run, middle, boxes);
}

// From the first attention's gradient to that of the embeddings' sum.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    narrow_end(const __grid_constant__ Narrow run) {
    if (!works([&](Supply &to) { to.send(run.qkv, WIDTH, PACKED); })) {
        return;
    }
    Shared &own = shared();
    Boxes boxes;
    Normalised after;
    read_rows<PACKED>(own.wide, WIDE_STRIDE, run.packed_delta);
    read_x(run.x_delta_before);
    after.read(run.next_gain, run.x_after, run.moments_after);
    copy_async_wait<0>();
    workers_sync();
    qkv_backward(run, after, boxes);
}

struct TurnMatrix {
    const bf16 *from; // the flat buffer of rounded parameters
    bf16 *to;         // the same, each matrix turned
    u64 tokens;       // offsets of (128, 128)
    u64 first_layer;  // and of the first layer's matrices, one after the other
    u64 layer_stride;
};

// Turns all matrices, 32 by 32 elements a block; a layer has 192 of these tiles, the tokens have 16.
extern "C" __global__ void __launch_bounds__(WORKERS) narrow_turn_weights(const TurnMatrix run) {
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
