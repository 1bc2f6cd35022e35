// Everything between two attentions in one launch, for narrow models in bf16, whose steps are bound by
// launches and latency. A block has 16 rows, all 128 elements of each. The weights that it multiplies
// with come from the L2 cache by the bulk copy engine, box after box in the order in which they are
// needed, as far ahead as shared memory has room. Sums, LayerNorm and all between the products are
// float32; what the general kernels keep in bf16, and the gradients of the weights need, is written so.
#include "gpt_narrow.cuh"

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
            store_pair(own.wide + at, gelu<bf16>(low), gelu<bf16>(high));
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
            store_pair(own.wide + at, low * gelu_slope<bf16>(up.x), high * gelu_slope<bf16>(up.y));
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
