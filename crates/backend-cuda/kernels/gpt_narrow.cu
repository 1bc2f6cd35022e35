// The whole way forward and back of a step in one launch, for narrow models in bf16, whose steps are bound by
// launches and latency. A cluster of blocks has a window, a block 16 of its rows, all 128 elements of each;
// blocks exchange only what attention needs of other rows. The weights come from the L2 cache by the bulk copy
// engine, unit after unit in the order in which they are needed, as far ahead as shared memory has room.
// Sums, LayerNorm and all between the products are float32; what the gradients of the weights need is written
// in bf16.
#include "gpt_narrow_attention.cuh"
#include "gpt_narrow_trail.cuh"

struct NarrowStep {
    // All rounded parameters, from the tokens on, as rows of 128 and as rows of 512.
    TensorMap by_width;
    TensorMap by_wide; // for the matrices back from the MLP's width
    const u16 *text;
    const u32 *windows;
    const GptProgress *progress;
    const float *token_table;
    const float *place_table;
    const float *gains; // (2 layers + 1, width)
    NarrowTrail trail;
    u32 *finished; // blocks of what finds those gradients: none yet
    // From the way forward for the way back.
    bf16 *value;     // 2 layers + 1: each thread's own, before the gain
    float *scales;   // 2 layers + 1: (rows)
    bf16 *packed;    // layers: (rows, packed)
    bf16 *up;        // layers: each thread's own, (rows, wide) together
    float *log_sums; // layers: (rows, heads)
    u32 first_layer; // its row in `by_width`
    u32 layers;
    u32 context;
    u32 batch;
    u32 vocabulary;
    float loss_scale;
};

// A layer's matrices in `by_width`, one after the other.
constexpr u32 OUT_ROW = PACKED;
constexpr u32 UP_ROW = OUT_ROW + WIDTH;
constexpr u32 DOWN_ROW = UP_ROW + WIDE;
constexpr u32 LAYER_ROWS = DOWN_ROW + WIDE;

// Sends all weights of a step, in the order in which the others take them.
__device__ __forceinline__ void supply(const NarrowStep &run) {
    Supply to;
    const auto rows = [&](u32 first, u32 count) {
        for (u32 row = first; row < first + count; row += WIDTH) {
            to.send(run.by_width, 0, row);
        }
    };
    const auto down = [&](u32 layer_row) {
        for (u32 column = 0; column < WIDE; column += WIDTH) {
            to.send(run.by_wide, column, (layer_row + DOWN_ROW) / (WIDE / WIDTH));
        }
    };
    for (u32 layer = 0; layer < run.layers; ++layer) {
        const u32 first = run.first_layer + layer * LAYER_ROWS;
        rows(first + WIDTH, PACKED - WIDTH); // the queries last
        rows(first, WIDTH);
        rows(first + OUT_ROW, DOWN_ROW - OUT_ROW);
        down(first);
    }
    rows(0, WIDTH);
    rows(0, WIDTH);
    for (u32 layer = run.layers; layer-- > 0;) {
        const u32 first = run.first_layer + layer * LAYER_ROWS;
        down(first);
        rows(first + UP_ROW, WIDE);
        rows(first + OUT_ROW, WIDTH);
        rows(first, PACKED);
    }
}

// What the threads that compute carry along.
struct Work {
    const NarrowStep &run;
    Units units;
    Exchange exchange;
    Share x; // the residual stream, and on the way back its gradient
    Norm norm;

    __device__ __forceinline__ Work(const NarrowStep &step) : run(step) {}

    __device__ __forceinline__ u64 rows() const { return static_cast<u64>(gridDim.x) * ROWS; }

    // A matrix of (rows, columns) among those of one kind.
    template <class T> __device__ __forceinline__ T *at(T *first, u32 index, u32 columns) const {
        return first + index * rows() * columns;
    }

    __device__ __forceinline__ float score_scale() const { return LOG2_E * 0.1767766952966369f; }

    // x = the embeddings' sum.
    __device__ __forceinline__ void embed() {
        Shared &own = shared();
        const u32 thread = threadIdx.x, step = run.progress->next;
        const u32 window = blockIdx.x / exchange.blocks;
        const u16 *text = run.text + run.windows[step * run.batch + window];
        const u32 place = exchange.rank * ROWS + thread % WARP / 4;
        const u32 upper = text[place], lower = text[place + 8];
        if (thread < WARP && thread % 4 == 0) {
            own.tokens[thread / 4] = upper;
            own.tokens[thread / 4 + 8] = lower;
            own.targets[thread / 4] = text[place + 1];
            own.targets[thread / 4 + 8] = text[place + 9];
        }
        const u32 column = thread / WARP * 16 + 2 * (thread % 4);
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            const u32 token = part % 2 == 0 ? upper : lower, at = column + part / 2 * 8;
            const float2 a = *reinterpret_cast<const float2 *>(run.token_table + token * WIDTH + at);
            const float2 b = *reinterpret_cast<const float2 *>(
                run.place_table + (place + part % 2 * 8) * WIDTH + at);
            x.of[part / 2][part % 2 * 2] = a.x + b.x;
            x.of[part / 2][part % 2 * 2 + 1] = a.y + b.y;
        }
    }

    __device__ __forceinline__ void write_one_hot() const {
        const u32 row = threadIdx.x / 16, piece = threadIdx.x % 16;
        const u32 token = shared().tokens[row];
        u32 words[4];
#pragma unroll
        for (u32 index = 0; index < 4; ++index) {
            const u32 first = 8 * piece + 2 * index; // 1 is 0x3f80
            words[index] = token == first ? 0x3f80u : token == first + 1 ? 0x3f800000u : 0;
        }
        uint4 *to = reinterpret_cast<uint4 *>(run.trail.one_hot) +
                    (static_cast<u64>(blockIdx.x) * ROWS + row) * 16 + piece;
        *to = make_uint4(words[0], words[1], words[2], words[3]);
    }

    __device__ __forceinline__ void read_gain(u32 index) {
        norm.gain.read_columns(run.gains + index * WIDTH);
    }

    // The LayerNorm `index` of x, in `narrow`, and kept for the way back.
    __device__ __forceinline__ void normalise(u32 index) {
        norm.forward(x);
        norm.kept = norm.value.pack();
        *own_place(at(run.value, index, WIDTH)) = norm.kept;
        const u32 lane = threadIdx.x % WARP;
        if (threadIdx.x < WARP && lane % 4 == 0) {
            float *to = run.scales + index * rows() + blockIdx.x * ROWS + lane / 4;
            to[0] = norm.scales[0];
            to[8] = norm.scales[1];
        }
        workers_sync();
    }

    __device__ __forceinline__ void write_normal(u32 index) const {
        write_narrow(at(run.trail.normal, index, WIDTH));
    }

    __device__ __forceinline__ void add_to_x(const Share &share) {
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            x.of[index / 4][index % 4] += share.of[index / 4][index % 4];
        }
    }

    // Keys and values, which are on their way to the other blocks while queries are found; attention, in
    // `narrow`.
    __device__ __forceinline__ void attention(u32 layer) {
        Shared &own = shared();
        bf16 *keys = Exchange::keys(exchange.rank);
        Left<WIDTH / 16> left;
        left.load(own.narrow, NARROW_STRIDE);
#pragma unroll 1
        for (u32 part = 0; part < 2; ++part) {
            Sums sums;
            units.multiply<false>(sums, left);
            sums.total().each_pair([&](u32 row, u32 column, float low, float high) {
                store_pair(keys + row * PAIR_STRIDE + part * WIDTH + column, low, high);
            });
        }
        exchange.begin(exchange.rank * 2 * ROW_BYTES);
        workers_sync();
        uint4 fours[2];
#pragma unroll
        for (u32 part = 0; part < 2; ++part) {
            fours[part] = *pair_piece(keys, threadIdx.x + part * WORKERS);
        }
        Exchange::to_blocks(exchange.rank + 1, exchange.blocks, [&](const Peer &peer) {
#pragma unroll
            for (u32 part = 0; part < 2; ++part) {
                peer.put(pair_piece(keys, threadIdx.x + part * WORKERS), fours[part]);
            }
        });
        Sums sums;
        units.multiply<false>(sums, left);
        sums.total().each_pair([&](u32 row, u32 column, float low, float high) {
            store_pair(own.wide + row * WIDE_STRIDE + column, low, high);
        });
        workers_sync();
        const u32 warp = uniform(threadIdx.x / WARP);
        if (warp < HEADS) {
            exchange.wait();
            attend(warp, exchange, at(run.log_sums, layer, HEADS), score_scale());
        } else {
            write_packed(at(run.packed, layer, PACKED), keys);
        }
        workers_sync();
        exchange.end();
    }

    // The piece `index` of 16 rows of keys and values.
    static __device__ __forceinline__ uint4 *pair_piece(bf16 *keys, u32 index) {
        return reinterpret_cast<uint4 *>(keys + index / 32 * PAIR_STRIDE + index % 32 * 8);
    }

    // Queries, keys and values to memory, by the warps that have no head.
    static __device__ __forceinline__ void write_packed(bf16 *to, const bf16 *keys) {
        constexpr u32 PIECES = PACKED / 8, COUNT = WORKERS - HEADS * WARP;
        to += static_cast<u64>(blockIdx.x) * ROWS * PACKED;
#pragma unroll
        for (u32 part = 0; part < ROWS * PIECES / COUNT; ++part) {
            const u32 index = threadIdx.x - HEADS * WARP + part * COUNT;
            const u32 row = index / PIECES, column = index % PIECES * 8;
            const bf16 *from = column < WIDTH ? shared().wide + row * WIDE_STRIDE + column
                                              : keys + row * PAIR_STRIDE + column - WIDTH;
            *reinterpret_cast<uint4 *>(to + row * PACKED + column) =
                *reinterpret_cast<const uint4 *>(from);
        }
    }

    // From the LayerNorm in `narrow` to that of the next layer.
    __device__ __forceinline__ void layer_forward(u32 layer) {
        Shared &own = shared();
        attention(layer);
        read_gain(2 * layer + 1);
        write_narrow(at(run.trail.attended, layer, WIDTH));
        add_to_x(units.product<false, 1>(own.narrow, NARROW_STRIDE));
        normalise(2 * layer + 1);
        Left<WIDTH / 16> left;
        left.load(own.narrow, NARROW_STRIDE);
#pragma unroll 1
        for (u32 part = 0; part < WIDE / WIDTH; ++part) {
            Sums sums;
            units.multiply<false>(sums, left);
            Share up = sums.total();
            *own_place(at(run.up, layer * (WIDE / WIDTH) + part, WIDTH)) = up.pack();
            up.each_pair([&](u32 row, u32 column, float low, float high) {
                store_pair(own.wide + row * WIDE_STRIDE + part * WIDTH + column, gelu<bf16>(low),
                           gelu<bf16>(high));
            });
        }
        read_gain(2 * layer + 2);
        write_normal(2 * layer + 1);
        workers_sync();
        write_rows<WIDE>(at(run.trail.active, layer, WIDE), own.wide, WIDE_STRIDE);
        add_to_x(units.product<false, WIDE / WIDTH>(own.wide, WIDE_STRIDE));
        normalise(2 * layer + 2);
        write_normal(2 * layer + 2);
    }

    // Losses and the logits' gradient, in `narrow`.
    __device__ __forceinline__ void cross_entropy() {
        Shared &own = shared();
        const u32 lane = threadIdx.x % WARP;
        Share logits = units.product<false, 1>(own.narrow, NARROW_STRIDE);
        const auto column = [&](u32 tile, u32 index) {
            return threadIdx.x / WARP * 16 + 8 * tile + 2 * (lane % 4) + index % 2;
        };
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float most = -LARGEST, sum = 0.0f;
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const u32 tile = part / 2, index = 2 * half + part % 2;
                const bool there = column(tile, index) < run.vocabulary;
                most = there ? fmaxf(most, logits.of[tile][index]) : most;
            }
            most = quad_max(most);
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const u32 tile = part / 2, index = 2 * half + part % 2;
                const bool there = column(tile, index) < run.vocabulary;
                const float power = power_of_two((logits.of[tile][index] - most) * LOG2_E);
                sum += there ? power : 0.0f;
            }
            RowParts::write(half, make_float2(most, quad_sum(sum)));
        }
        workers_sync();
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const RowParts parts(half);
            float most = parts.of[0].x, sum = 0.0f;
#pragma unroll
            for (u32 warp = 1; warp < WARPS; ++warp) {
                most = fmaxf(most, parts.of[warp].x);
            }
#pragma unroll
            for (u32 warp = 0; warp < WARPS; ++warp) {
                sum += parts.of[warp].y * power_of_two((parts.of[warp].x - most) * LOG2_E);
            }
            const u32 row = lane / 4 + 8 * half, target = own.targets[row];
            const float scale = run.loss_scale / sum;
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const u32 tile = part / 2, index = 2 * half + part % 2;
                float &logit = logits.of[tile][index];
                const bool there = column(tile, index) < run.vocabulary;
                const bool wanted = column(tile, index) == target;
                if (wanted) {
                    run.trail.losses[static_cast<u64>(blockIdx.x) * ROWS + row] =
                        logf(sum) + most - logit;
                }
                const float power = power_of_two((logit - most) * LOG2_E) * scale;
                logit = there ? power - (wanted ? run.loss_scale : 0.0f) : 0.0f;
            }
        }
        logits.each_pair([&](u32 row, u32 at, float low, float high) {
            store_pair(own.narrow + row * NARROW_STRIDE + at, low, high);
        });
        workers_sync();
        write_narrow(run.trail.logits_delta);
    }

    // The LayerNorm's values of the way forward, on their way while products are found.
    __device__ __forceinline__ void read_norm(u32 index) {
        norm.kept = *own_place(at(run.value, index, WIDTH));
        const float *scales =
            run.scales + index * rows() + blockIdx.x * ROWS + threadIdx.x % WARP / 4;
        norm.scales[0] = scales[0];
        norm.scales[1] = scales[8];
        read_gain(index);
    }

    // x = its gradient before the LayerNorm `index`, from that after it.
    __device__ __forceinline__ void normalise_gradient(u32 index, const Share &y) {
        norm.value.unpack(norm.kept);
        norm.backward(y, x, run.trail.gain_partial + static_cast<u64>(index) * gridDim.x * WIDTH);
        workers_sync();
        write_narrow(at(run.trail.x_delta, index, WIDTH));
    }

    // Sends the block's queries, keys and values, which are needed again.
    __device__ __forceinline__ void send_packed(const uint4 (&packed)[3]) {
        const u32 later = exchange.blocks - 1 - exchange.rank;
        exchange.begin(exchange.rank * 2 * ROW_BYTES +
                       later * (2 * ROW_BYTES + 2 * NUMBER_BYTES));
#pragma unroll
        for (u32 part = 0; part < 3; ++part) {
            const u32 index = threadIdx.x + part * WORKERS;
            const u32 row = index / (PACKED / 8), column = index % (PACKED / 8) * 8;
            const bool query = column < WIDTH;
            bf16 *to = query ? Exchange::queries(exchange.rank) + row * PAIR_STRIDE + column
                             : Exchange::keys(exchange.rank) + row * PAIR_STRIDE + column - WIDTH;
            *reinterpret_cast<uint4 *>(to) = packed[part];
            Exchange::to_blocks(query ? 0 : exchange.rank + 1,
                                query ? exchange.rank : exchange.blocks,
                                [&](const Peer &peer) { peer.put(to, packed[part]); });
        }
    }

    // From the gradient of the attention's result, beside the queries in the window, to that of queries,
    // keys and values, in `wide`. A thread has 8 elements of a row of the result.
    __device__ __forceinline__ void attention_gradient(uint4 attended, float log_sum) {
        Shared &own = shared();
        const u32 row = threadIdx.x / 16, piece = threadIdx.x % 16, head = piece / 4;
        const u32 place = exchange.rank * ROWS + row;
        bf16 *to = Exchange::queries(exchange.rank) + row * PAIR_STRIDE + WIDTH + piece * 8;
        const uint4 four = *reinterpret_cast<const uint4 *>(to);
        Exchange::to_blocks(0, exchange.rank, [&](const Peer &peer) { peer.put(to, four); });
        float a[8], b[8], product = 0.0f;
        Pack<bf16>::open(a, four);
        Pack<bf16>::open(b, attended);
#pragma unroll
        for (u32 index = 0; index < 8; ++index) {
            product += a[index] * b[index];
        }
        product = quad_sum(product);
        if (piece % 4 == 0) {
            own.products[head][place] = product;
            own.log_sums[head][place] = log_sum;
            Exchange::to_blocks(0, exchange.rank, [&](const Peer &peer) {
                peer.put(&own.products[head][place], product);
                peer.put(&own.log_sums[head][place], log_sum);
            });
        }
        workers_sync();
        exchange.wait();
        const u32 warp = uniform(threadIdx.x / WARP);
        if (warp < HEADS) {
            query_gradient(warp, exchange, score_scale());
        } else {
            key_gradient(warp - HEADS, exchange, score_scale());
        }
        workers_sync();
        exchange.end();
    }

    // From x, the gradient of a layer's result, which is in `narrow` too, to that of what went in.
    __device__ __forceinline__ void layer_backward(u32 layer) {
        Shared &own = shared();
        const uint4 *packed_rows =
            reinterpret_cast<const uint4 *>(at(run.packed, layer, PACKED)) +
            static_cast<u64>(blockIdx.x) * ROWS * (PACKED / 8);
        uint4 up[WIDE / WIDTH], packed[3]; // on their way while products are found, as are the norms
#pragma unroll
        for (u32 part = 0; part < WIDE / WIDTH; ++part) {
            up[part] = *own_place(at(run.up, layer * (WIDE / WIDTH) + part, WIDTH));
        }
#pragma unroll
        for (u32 part = 0; part < 3; ++part) {
            packed[part] = packed_rows[threadIdx.x + part * WORKERS];
        }
        read_norm(2 * layer + 1);
        Left<WIDTH / 16> left;
        left.load(own.narrow, NARROW_STRIDE);
#pragma unroll
        for (u32 part = 0; part < WIDE / WIDTH; ++part) {
            Sums sums;
            units.multiply<true>(sums, left);
            Share delta = sums.total(), before;
            before.unpack(up[part]);
#pragma unroll
            for (u32 index = 0; index < 8; ++index) {
                delta.of[index / 4][index % 4] *=
                    gelu_slope<bf16>(before.of[index / 4][index % 4]);
            }
            delta.each_pair([&](u32 row, u32 column, float low, float high) {
                store_pair(own.wide + row * WIDE_STRIDE + part * WIDTH + column, low, high);
            });
        }
        send_packed(packed);
        const u64 row = static_cast<u64>(blockIdx.x) * ROWS + threadIdx.x / 16;
        const uint4 attended = reinterpret_cast<const uint4 *>(
            at(run.trail.attended, layer, WIDTH))[row * 16 + threadIdx.x % 16];
        const float log_sum =
            at(run.log_sums, layer, HEADS)[row * HEADS + threadIdx.x % 16 / 4];
        workers_sync();
        write_rows<WIDE>(at(run.trail.up_delta, layer, WIDE), own.wide, WIDE_STRIDE);
        normalise_gradient(2 * layer + 1, units.product<true, WIDE / WIDTH>(own.wide, WIDE_STRIDE));

        read_norm(2 * layer);
        units.product<true, 1>(own.narrow, NARROW_STRIDE)
            .each_pair([&](u32 row, u32 column, float low, float high) {
                store_pair(Exchange::queries(exchange.rank) + row * PAIR_STRIDE + WIDTH + column,
                           low, high);
            });
        workers_sync();
        attention_gradient(attended, log_sum);
        write_rows<PACKED>(at(run.trail.packed_delta, layer, PACKED), own.wide, WIDE_STRIDE);
        normalise_gradient(2 * layer,
                           units.product<true, PACKED / WIDTH>(own.wide, WIDE_STRIDE));
    }

    __device__ __forceinline__ void step() {
        Shared &own = shared();
        read_gain(0);
        embed();
        normalise(0);
        write_one_hot();
        write_normal(0);
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            *run.finished = 0;
        }
#pragma unroll 1
        for (u32 layer = 0; layer < run.layers; ++layer) {
            layer_forward(layer);
        }
        cross_entropy();
        x = Share{}; // nothing comes past the last LayerNorm, which is still at hand
        normalise_gradient(2 * run.layers, units.product<true, 1>(own.narrow, NARROW_STRIDE));
#pragma unroll 1
        for (u32 layer = run.layers; layer-- > 0;) {
            layer_backward(layer);
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    narrow_step(const __grid_constant__ NarrowStep run) {
    Shared &own = shared();
    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            barrier_begin(&own.full[slot], 1);
            barrier_begin(&own.empty[slot], WARPS);
        }
        barrier_begin(&own.arrived, 1);
        barrier_begin(&own.consumed, blocks_of_cluster());
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    cluster_sync();
    if (uniform(threadIdx.x / WARP) < WARPS) {
        Work(run).step();
    } else if (threadIdx.x == WORKERS) {
        supply(run);
    }
    __syncwarp();
    cluster_sync(); // nobody sends to a block that has ended
}
