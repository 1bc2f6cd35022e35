// The attention model for one sample and one block of threads: forward and backward, from padded
// arrays in one arena (shared memory, or global where that is too small) to the sample's gradient in
// global memory, which lies there as the parameters do in the arena.
//
// A phase between two barriers has one product of matrices or several, cut into strips of four tokens,
// or into tiles where the sum is over the tokens (tiles.cuh); a warp takes one, or a few. Padding is
// zero and stays zero: loops run over it, nothing is written to it.
//
// `ff2` is linear and what follows it is a mean over the tokens, so it is applied to the mean of its
// inputs: the same sum, 49 times fewer products.
#pragma once
#include "attention_layout.cuh"
#include "classes.cuh"

// A block that has a sample for itself.
struct Alone {
    static constexpr u32 PEERS = 1;
    __device__ __forceinline__ u32 rank() const { return 0; }
    // The same place in a peer's shared memory.
    template <class T> __device__ __forceinline__ T *in_peer(T *own, u32) const { return own; }
    __device__ __forceinline__ void meet() const { __syncthreads(); }
};

// One sample's pass, by one block or by the blocks of a cluster, its `Peers`: each has every so
// many-th strip of the tokens, and what it takes of all tokens its peers write into its memory. All
// threads of all peers call all functions; each ends with the block in step, unless it says otherwise.
template <class Sizes, class Peers> struct AttentionPass {
    static constexpr u32 PEERS = Peers::PEERS;
    static constexpr u32 MOST_STRIPS = (STRIPS + PEERS - 1) / PEERS; // of a block
    Sizes sizes;
    Peers peers;
    float *arena;
    float *received; // (2, peers, own tokens): shares of the gradients of keys and values
    float *gradient; // the block's share, global; lies as the parameters do in the arena
    u32 thread, lane, warp;

    __device__ __forceinline__ float *in(u32 offset) const { return arena + offset; }

    // A matrix of canonical parameters with its rows padded.
    __device__ __forceinline__ void load_matrix(u32 to, const float *from, u32 rows, u32 columns,
                                                u32 stride) const {
        for (u32 index = thread; index < rows * columns; index += ATTENTION_THREADS) {
            arena[to + index / columns * stride + index % columns] = from[index];
        }
    }

    __device__ __forceinline__ void clear() const {
        for (u32 index = thread; index < sizes.at.size; index += ATTENTION_THREADS) {
            arena[index] = 0.0f;
        }
        __syncthreads();
    }

    // The block is not in step after it: `store_patches` ends with that.
    __device__ __forceinline__ void load_parameters(const float *from) const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff, stride = sizes.at.d_stride;
        load_matrix(sizes.at.patch_weight, from + sizes.at.c_patch_weight, d, PATCH,
                    sizes.at.patch_stride);
        load_matrix(sizes.at.patch_bias, from + sizes.at.c_patch_bias, 1, d, 0);
        load_matrix(sizes.at.position, from + sizes.at.c_position, TOKENS, d, stride);
        for (u32 index = 0; index < 3; ++index) {
            load_matrix(sizes.at.weight[index], from + sizes.at.c_weight[index], d, d, stride);
            load_matrix(sizes.at.bias[index], from + sizes.at.c_bias[index], 1, d, 0);
        }
        load_matrix(sizes.at.ff1_weight, from + sizes.at.c_ff1_weight, f, d, stride);
        load_matrix(sizes.at.ff1_bias, from + sizes.at.c_ff1_bias, 1, f, 0);
        load_matrix(sizes.at.ff2_weight, from + sizes.at.c_ff2_weight, d, f, sizes.at.ff_stride);
        load_matrix(sizes.at.ff2_bias, from + sizes.at.c_ff2_bias, 1, d, 0);
        load_matrix(sizes.at.out_weight, from + sizes.at.c_out_weight, CLASSES, d, stride);
        load_matrix(sizes.at.out_bias, from + sizes.at.c_out_bias, 1, CLASSES, 0);
    }

    // This thread's four pixels of an image, if it has some.
    __device__ __forceinline__ u32 image_word(const u8 *image) const {
        return thread < IMAGE_WORDS ? *reinterpret_cast<const u32 *>(image + thread * 4) : 0;
    }

    // The image as (49 tokens, 16 pixels).
    __device__ __forceinline__ void store_patches(u32 word) const {
        if (thread < IMAGE_WORDS) {
            const u32 row = thread / GRID_SIDE, column = thread % GRID_SIDE;
            const u32 token = row / PATCH_SIDE * GRID_SIDE + column;
            float values[4];
            floats_of_bytes(values, word);
            float *to = in(sizes.at.patches) + token * sizes.at.patch_stride +
                        row % PATCH_SIDE * PATCH_SIDE;
            *reinterpret_cast<float4 *>(to) =
                float4{values[0] * PIXEL_SCALE, values[1] * PIXEL_SCALE, values[2] * PIXEL_SCALE,
                       values[3] * PIXEL_SCALE};
        }
        __syncthreads();
    }

    // Warps that strips of `width` columns take, `columns` for a lane, and tiles of a result.
    __device__ __forceinline__ static u32 strip_tasks(u32 width, u32 columns) {
        return MOST_STRIPS * ((width + columns * WARP - 1) / (columns * WARP));
    }
    __device__ __forceinline__ static u32 tile_tasks(u32 rows, u32 columns) {
        return warps_of(tiles_of(rows) * tiles_of(columns));
    }
    __device__ __forceinline__ u32 strip_of(u32 task) const {
        return task % MOST_STRIPS * PEERS + peers.rank();
    }
    // Some blocks have one strip less.
    __device__ __forceinline__ bool has_strip(u32 task) const {
        return STRIPS % PEERS == 0 || PEERS == 1 || strip_of(task) < STRIPS;
    }
    // Calls `work(task)` for this warp's strips of (49, width), `columns` for a lane.
    template <class Work>
    __device__ __forceinline__ void for_strips(u32 width, u32 columns, Work work) const {
        for (u32 task = warp; task < strip_tasks(width, columns); task += ATTENTION_WARPS) {
            if (has_strip(task)) {
                work(task);
            }
        }
    }
    __device__ __forceinline__ u32 first_token(u32 task) const { return strip_of(task) * TILE; }
    __device__ __forceinline__ u32 first_column(u32 task, u32 columns) const {
        return task / MOST_STRIPS * (columns * WARP) + lane;
    }
    // Whether a strip has all of its rows: the last one has a single token.
    __device__ __forceinline__ bool is_whole(u32 task) const {
        return strip_of(task) != STRIPS - 1;
    }

    // The block's tokens, counted from 0; 49 and more are none.
    __device__ __forceinline__ u32 token_of(u32 own) const {
        return (own / TILE * PEERS + peers.rank()) * TILE + own % TILE;
    }

    // Where a strip of `columns` for each lane begins in an array of tokens.
    __device__ __forceinline__ u32 strip_start(u32 task, u32 columns, u32 stride) const {
        return first_token(task) * stride + first_column(task, columns);
    }

    // Calls `keep(row, index, sum)` for what exists of a strip of (49, width), as seen from its start.
    // Of the last strip only the first row does.
    template <u32 COLUMNS, class Keep>
    __device__ __forceinline__ void keep_strip(const Strip<COLUMNS> &strip, u32 task, u32 width,
                                               Keep keep) const {
        static_assert(TOKENS == (STRIPS - 1) * TILE + 1, "one row in the last strip");
        const bool whole = is_whole(task);
        const u32 column = first_column(task, COLUMNS);
#pragma unroll
        for (u32 index = 0; index < COLUMNS; ++index) {
            if (width % (COLUMNS * WARP) == 0 || column + index * WARP < width) {
#pragma unroll
                for (u32 row = 0; row < TILE; ++row) {
                    if (row == 0 || whole) {
                        keep(row, index, strip.of[row][index]);
                    }
                }
            }
        }
    }

    // `keep` for the task-th strip of (49, width) = a (49, inner) b^T (width, inner).
    template <u32 COLUMNS, class Keep>
    __device__ __forceinline__ void by_rows(u32 task, u32 a, u32 a_stride, u32 b, u32 b_stride,
                                            u32 inner, u32 width, Keep keep) const {
        const float *rows[COLUMNS];
#pragma unroll
        for (u32 index = 0; index < COLUMNS; ++index) {
            const u32 column = first_column(task, COLUMNS) + index * WARP;
            const bool all = width % (COLUMNS * WARP) == 0;
            rows[index] = in(b) + (all ? column : min(column, width - 1)) * b_stride;
        }
        Strip<COLUMNS> strip;
        strip.add_rows_by_rows(in(a) + first_token(task) * a_stride, a_stride, rows, fours(inner));
        keep_strip(strip, task, width, keep);
    }

    // strip += a (49, inner) b (inner, d_model).
    __device__ __forceinline__ void add_by_columns(Strip<1> &strip, u32 task, u32 a, u32 a_stride,
                                                   u32 b, u32 inner) const {
        const u32 d = sizes.at.d_model, column = first_column(task, 1);
        const float *const columns[1] = {in(b) + (d % WARP == 0 ? column : min(column, d - 1))};
        strip.add_rows_by_columns(in(a) + first_token(task) * a_stride, a_stride, columns,
                                  sizes.at.d_stride, inner);
    }

    // out (49, d) = a (49, inner) b (inner, d).
    __device__ __forceinline__ void by_columns(u32 task, u32 a, u32 a_stride, u32 b, u32 inner,
                                               u32 out) const {
        if (!has_strip(task)) {
            return;
        }
        Strip<1> strip;
        add_by_columns(strip, task, a, a_stride, b, inner);
        const u32 stride = sizes.at.d_stride;
        float *to = in(out) + strip_start(task, 1, stride);
        keep_strip(strip, task, sizes.at.d_model,
                   [&](u32 row, u32, float sum) { to[row * stride] = sum; });
    }

    // A tile of (rows, columns) = a^T b, sums over the own tokens.
    __device__ __forceinline__ Tile over_tokens(u32 a, u32 a_stride, u32 row0, u32 b, u32 b_stride,
                                                u32 column0) const {
        Tile tile;
#pragma unroll 2
        for (u32 strip = peers.rank(); strip < STRIPS; strip += PEERS) {
            tile.add_columns_by_columns(in(a) + strip * TILE * a_stride + row0, a_stride,
                                        in(b) + strip * TILE * b_stride + column0, b_stride);
        }
        return tile;
    }

    // The gradient at `to` (rows, columns) = d_out^T in; the task-th tiles. Rows of the gradient are
    // padded as those of `input`, whose padding is zero.
    __device__ __forceinline__ void weight_task(u32 task, u32 d_out, u32 d_out_stride, u32 rows,
                                                u32 input, u32 input_stride, u32 columns,
                                                u32 to) const {
        const u32 across = tiles_of(columns), wanted = task * WARP + lane;
        if (wanted >= tiles_of(rows) * across) {
            return;
        }
        const u32 row0 = wanted / across * TILE, column0 = wanted % across * TILE;
        const Tile tile = over_tokens(d_out, d_out_stride, row0, input, input_stride, column0);
        float *out = gradient + to + row0 * input_stride + column0;
#pragma unroll
        for (u32 row = 0; row < TILE; ++row) {
            if (rows % TILE == 0 || row0 + row < rows) {
                tile.store(row, out + row * input_stride);
            }
        }
    }

    // What a (49, 49) and b (49, d) of the own tokens give to a^T b (49, d): each strip to the block
    // that has it, as its array `which`.
    __device__ __forceinline__ void scatter_task(u32 task, u32 a, u32 b, u32 which) const {
        const u32 across = tiles_of(sizes.at.d_model), stride = sizes.at.d_stride;
        const u32 wanted = task * WARP + lane;
        if (wanted >= STRIPS * across) {
            return;
        }
        const u32 strip = wanted / across, column0 = wanted % across * TILE;
        const Tile tile = over_tokens(a, sizes.at.token_stride, strip * TILE, b, stride, column0);
        float *out = PEERS == 1
                         ? in(sizes.at.d_projected[which]) + strip * TILE * stride
                         : peers.in_peer(share(which, peers.rank()), strip % PEERS) +
                               strip / PEERS * TILE * stride;
#pragma unroll
        for (u32 row = 0; row < TILE; ++row) {
            if (row == 0 || strip != STRIPS - 1) {
                tile.store(row, out + row * stride + column0);
            }
        }
    }
    __device__ __forceinline__ static u32 scatter_tasks(u32 width) {
        return warps_of(STRIPS * tiles_of(width));
    }

    // The shares of array 1 or 2 (own tokens, d) that a peer sends.
    __device__ __forceinline__ float *share(u32 which, u32 from) const {
        return received + ((which - 1) * PEERS + from) * (MOST_STRIPS * TILE * sizes.at.d_stride);
    }

    // Adds up the shares of the peers, in their order.
    __device__ __forceinline__ void gather_shares() const {
        const u32 across = tiles_of(sizes.at.d_model), stride = sizes.at.d_stride;
        const u32 each = MOST_STRIPS * TILE * across;
        for (u32 index = thread; index < 2 * each; index += ATTENTION_THREADS) {
            const u32 which = 1 + index / each, row = index % each / across;
            const u32 column = index % across * TILE;
            const u32 token = (row / TILE * PEERS + peers.rank()) * TILE + row % TILE;
            if (token < TOKENS) {
                float4 sum = four(share(which, 0) + row * stride + column);
#pragma unroll
                for (u32 from = 1; from < PEERS; ++from) {
                    const float4 more = four(share(which, from) + row * stride + column);
                    sum = float4{sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
                }
                *reinterpret_cast<float4 *>(in(sizes.at.d_projected[which]) + token * stride +
                                            column) = sum;
            }
        }
        __syncthreads();
    }

    // The gradient at `to` (rows, columns) = the outer product of two vectors.
    __device__ __forceinline__ void outer_product(u32 a, u32 rows, u32 b, u32 columns, u32 stride,
                                                  u32 to) const {
        const u32 across = tiles_of(columns);
        for (u32 index = thread; index < rows * across; index += ATTENTION_THREADS) {
            const u32 row = index / across, column = index % across * TILE;
            const float left = arena[a + row];
            const float4 right = four(in(b) + column);
            *reinterpret_cast<float4 *>(gradient + to + row * stride + column) =
                float4{left * right.x, left * right.y, left * right.z, left * right.w};
        }
    }

    // gradient (width) = the sum of d_out over the own tokens; the task-th 32 columns.
    __device__ __forceinline__ void bias_task(u32 task, u32 d_out, u32 stride, u32 width,
                                              u32 to) const {
        const u32 column = task * WARP + lane;
        if (column < width) {
            float sums[TILE] = {};
#pragma unroll 4
            for (u32 strip = peers.rank(); strip < STRIPS; strip += PEERS) {
                const float *from = in(d_out) + strip * TILE * stride + column;
#pragma unroll
                for (u32 row = 0; row < TILE; ++row) {
                    sums[row] += from[row * stride];
                }
            }
            gradient[to + column] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    }

    // The product of two vectors by eight lanes, which all get it; both padded to whole fours.
    __device__ __forceinline__ float dot_by_lanes(const float *a, const float *b, u32 inner) const {
        float sum = 0.0f;
        for (u32 k = lane % DOT_LANES * 4; k < inner; k += DOT_LANES * 4) {
            const float4 left = four(a + k), right = four(b + k);
            sum += (left.x * right.x + left.y * right.y) + (left.z * right.z + left.w * right.w);
        }
#pragma unroll
        for (u32 distance = 1; distance < DOT_LANES; distance *= 2) {
            sum += __shfl_xor_sync(ALL_LANES, sum, distance);
        }
        return sum;
    }

    // out (rows) = matrix (rows, inner) vector + bias, eight lanes for a row.
    __device__ __forceinline__ void multiply_vector(u32 matrix, u32 stride, u32 bias, u32 vector,
                                                    u32 inner, u32 rows, u32 out) const {
        constexpr u32 AT_A_TIME = ATTENTION_THREADS / DOT_LANES;
        for (u32 first = 0; first < rows; first += AT_A_TIME) { // whole warps: they shuffle
            const u32 wanted = first + thread / DOT_LANES;
            const u32 row = min(wanted, rows - 1);
            const float sum = dot_by_lanes(in(matrix) + row * stride, in(vector), fours(inner));
            if (wanted < rows && lane % DOT_LANES == 0) {
                arena[out + row] = sum + arena[bias + row];
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ void embed() const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        for_strips(d, 1, [&](u32 task) {
            const u32 start = strip_start(task, 1, stride);
            float *to = in(sizes.at.embedded) + start;
            const float *position = in(sizes.at.position) + start; // rows past the end are not kept
            const float *bias = in(sizes.at.patch_bias) + first_column(task, 1);
            by_rows<1>(task, sizes.at.patches, sizes.at.patch_stride, sizes.at.patch_weight,
                       sizes.at.patch_stride, PATCH, d, [&](u32 row, u32, float sum) {
                           to[row * stride] = relu(sum + *bias + position[row * stride]);
                       });
        });
        __syncthreads();
    }

    // A lane has a column of query, one of key and one of value; keys and values go to all peers.
    __device__ __forceinline__ void project() const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        for_strips(d, 1, [&](u32 task) {
            const u32 wanted = first_column(task, 1);
            const u32 column = d % WARP == 0 ? wanted : min(wanted, d - 1);
            const float *rows[3];
#pragma unroll
            for (u32 which = 0; which < 3; ++which) {
                rows[which] = in(sizes.at.weight[which]) + column * stride;
            }
            Strip<3> strip;
            strip.add_rows_by_rows(in(sizes.at.embedded) + first_token(task) * stride, stride, rows,
                                   fours(d));
            const bool whole = is_whole(task);
            const bool exists = d % WARP == 0 || wanted < d;
#pragma unroll
            for (u32 which = 0; which < 3; ++which) {
                const float bias = in(sizes.at.bias[which])[column];
                float *own = in(sizes.at.projected[which]) + first_token(task) * stride + column;
#pragma unroll
                for (u32 peer = 0; peer < (which == 0 ? 1 : PEERS); ++peer) {
                    float *to = which == 0 ? own : peers.in_peer(own, peer);
#pragma unroll
                    for (u32 row = 0; row < TILE; ++row) {
                        if (exists && (row == 0 || whole)) {
                            to[row * stride] = strip.of[row][which] + bias;
                        }
                    }
                }
            }
        });
        peers.meet();
    }

    // out (49, 49) = a (49, d) b^T, times `scale`.
    __device__ __forceinline__ void token_products_task(u32 task, u32 a, u32 b, u32 out,
                                                        float scale) const {
        if (!has_strip(task)) {
            return;
        }
        const u32 stride = sizes.at.d_stride;
        float *to = in(out) + strip_start(task, 2, sizes.at.token_stride);
        by_rows<2>(task, a, stride, b, stride, sizes.at.d_model, TOKENS,
                   [&](u32 row, u32 index, float sum) {
                       to[row * sizes.at.token_stride + index * WARP] = sum * scale;
                   });
    }

    __device__ __forceinline__ float score_scale() const {
        return 1.0f / sqrtf(static_cast<float>(sizes.at.d_model));
    }

    // The attention of each token to each: a warp for a row.
    __device__ __forceinline__ void attend() const {
        for_strips(TOKENS, 2, [&](u32 task) {
            token_products_task(task, sizes.at.projected[0], sizes.at.projected[1],
                                sizes.at.scores, score_scale());
        });
        __syncthreads();
        for (u32 own = warp; own < MOST_STRIPS * TILE; own += ATTENTION_WARPS) {
            const u32 token = token_of(own);
            if (token >= TOKENS) {
                continue;
            }
            float *row = in(sizes.at.scores) + token * sizes.at.token_stride;
            const bool has_second = lane + WARP < TOKENS;
            const float first = row[lane];
            const float second = has_second ? row[lane + WARP] : first;
            float largest = fmaxf(first, second);
            for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, distance));
            }
            const float near = exp_of(first - largest);
            const float far = has_second ? exp_of(second - largest) : 0.0f;
            const float scale = 1.0f / warp_sum(near + far);
            row[lane] = near * scale;
            if (has_second) {
                row[lane + WARP] = far * scale;
            }
        }
        __syncthreads();
    }

    // The mean over the tokens of what the output layer takes.
    __device__ __forceinline__ void feed_forward() const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff;
        for_strips(d, 1, [&](u32 task) {
            by_columns(task, sizes.at.scores, sizes.at.token_stride, sizes.at.projected[2],
                       PADDED_TOKENS, sizes.at.mixed);
        });
        __syncthreads();
        for_strips(f, 2, [&](u32 task) {
            float *to = in(sizes.at.wide) + strip_start(task, 2, sizes.at.ff_stride);
            const float *bias = in(sizes.at.ff1_bias) + first_column(task, 2);
            by_rows<2>(task, sizes.at.mixed, sizes.at.d_stride, sizes.at.ff1_weight,
                       sizes.at.d_stride, d, f, [&](u32 row, u32 index, float sum) {
                           to[row * sizes.at.ff_stride + index * WARP] =
                               relu(sum + bias[index * WARP]);
                       });
        });
        __syncthreads();
        for (u32 index = thread; index < MOST_STRIPS * f; index += ATTENTION_THREADS) {
            const u32 strip = index / f * PEERS + peers.rank(), feature = index % f;
            if (strip < STRIPS) {
                const float *from = in(sizes.at.wide) + strip * TILE * sizes.at.ff_stride + feature;
                const float sum = (from[0] + from[sizes.at.ff_stride]) +
                                  (from[2 * sizes.at.ff_stride] + from[3 * sizes.at.ff_stride]);
#pragma unroll
                for (u32 peer = 0; peer < PEERS; ++peer) {
                    *peers.in_peer(in(sizes.at.strip_sums) + strip * f + feature, peer) = sum;
                }
            }
        }
        peers.meet();
        for (u32 feature = thread; feature < f; feature += ATTENTION_THREADS) {
            float sums[CHAINS] = {};
#pragma unroll
            for (u32 strip = 0; strip < STRIPS; ++strip) {
                sums[strip % CHAINS] += (in(sizes.at.strip_sums) + feature)[strip * f];
            }
            const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            arena[sizes.at.mean_wide + feature] = sum * (1.0f / TOKENS);
        }
        __syncthreads();
        multiply_vector(sizes.at.ff2_weight, sizes.at.ff_stride, sizes.at.ff2_bias,
                        sizes.at.mean_wide, f, d, sizes.at.mean);
    }

    // From patches that are stored to the features.
    __device__ __forceinline__ void forward() const {
        embed();
        project();
        attend();
        feed_forward();
    }

    // Logits, loss, and the gradients of everything after `ff1`. Writes the sample's loss.
    __device__ __forceinline__ void classify(u32 label, float *loss) const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff;
        multiply_vector(sizes.at.out_weight, sizes.at.d_stride, sizes.at.out_bias, sizes.at.mean, d,
                        CLASSES, sizes.at.logits);
        if (warp == 0) {
            const ClassGradient own = softmax_gradient(in(sizes.at.logits), lane, label);
            if (lane < CLASSES) {
                arena[sizes.at.d_logits + lane] = own.delta;
                if (peers.rank() == 0) {
                    gradient[sizes.at.out_bias + lane] = own.delta;
                }
            }
            if (lane == 0 && peers.rank() == 0) {
                *loss = own.loss;
            }
        }
        __syncthreads();
        for (u32 feature = thread; feature < d; feature += ATTENTION_THREADS) {
            const float *column = in(sizes.at.out_weight) + feature;
            float sum = 0.0f;
#pragma unroll
            for (u32 output = 0; output < CLASSES; ++output) {
                sum += in(sizes.at.d_logits)[output] * column[output * sizes.at.d_stride];
            }
            arena[sizes.at.d_mean + feature] = sum;
            if (peers.rank() == 0) {
                gradient[sizes.at.ff2_bias + feature] = sum;
            }
        }
        __syncthreads();
        for (u32 feature = thread; feature < f; feature += ATTENTION_THREADS) {
            const float *column = in(sizes.at.ff2_weight) + feature;
            float sums[4] = {};
#pragma unroll 2
            for (u32 index = 0; index < d; index += 4) { // d_mean is zero past the end
                const float4 deltas = four(in(sizes.at.d_mean) + index);
#pragma unroll
                for (u32 part = 0; part < 4; ++part) {
                    sums[part] += (&deltas.x)[part] * column[(index + part) * sizes.at.ff_stride];
                }
            }
            arena[sizes.at.d_mean_wide + feature] =
                ((sums[0] + sums[1]) + (sums[2] + sums[3])) * (1.0f / TOKENS);
        }
        __syncthreads();
        // d_wide takes the place of wide.
        const u32 across = tiles_of(f);
        for (u32 index = thread; index < MOST_STRIPS * TILE * across; index += ATTENTION_THREADS) {
            const u32 token = token_of(index / across), column = index % across * TILE;
            if (token >= TOKENS) {
                continue;
            }
            const float4 delta = four(in(sizes.at.d_mean_wide) + column);
            float4 *value = reinterpret_cast<float4 *>(
                in(sizes.at.wide) + token * sizes.at.ff_stride + column);
            const float4 wide = *value;
            *value = float4{wide.x > 0.0f ? delta.x : 0.0f, wide.y > 0.0f ? delta.y : 0.0f,
                            wide.z > 0.0f ? delta.z : 0.0f, wide.w > 0.0f ? delta.w : 0.0f};
        }
        if (peers.rank() == 0) { // the others have computed the same
            outer_product(sizes.at.d_mean, d, sizes.at.mean_wide, f, sizes.at.ff_stride,
                          sizes.at.ff2_weight);
            outer_product(sizes.at.d_logits, CLASSES, sizes.at.mean, d, sizes.at.d_stride,
                          sizes.at.out_weight);
        }
        __syncthreads();
    }

    __device__ __forceinline__ void backward_feed_forward() const {
        const u32 d = sizes.at.d_model, f = sizes.at.ff, stride = sizes.at.d_stride;
        const u32 inputs = strip_tasks(d, 1), weights = tile_tasks(f, d);
        const u32 total = inputs + weights + warps_of(f);
        for (u32 task = warp; task < total; task += ATTENTION_WARPS) {
            if (task < inputs) {
                by_columns(task, sizes.at.wide, sizes.at.ff_stride, sizes.at.ff1_weight, f,
                           sizes.at.d_mixed);
            } else if (task < inputs + weights) {
                weight_task(task - inputs, sizes.at.wide, sizes.at.ff_stride, f, sizes.at.mixed,
                            stride, d, sizes.at.ff1_weight);
            } else {
                bias_task(task - inputs - weights, sizes.at.wide, sizes.at.ff_stride, f,
                          sizes.at.ff1_bias);
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ void backward_attention() const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        const u32 products = strip_tasks(TOKENS, 2), scatters = scatter_tasks(d);
        for (u32 task = warp; task < products + scatters; task += ATTENTION_WARPS) {
            if (task < products) {
                token_products_task(task, sizes.at.d_mixed, sizes.at.projected[2],
                                    sizes.at.d_scores, 1.0f);
            } else {
                scatter_task(task - products, sizes.at.scores, sizes.at.d_mixed, 2);
            }
        }
        __syncthreads();
        const float scale = score_scale();
        for (u32 own = warp; own < MOST_STRIPS * TILE; own += ATTENTION_WARPS) {
            const u32 token = token_of(own);
            if (token >= TOKENS) {
                continue;
            }
            const float *weights = in(sizes.at.scores) + token * sizes.at.token_stride;
            float *deltas = in(sizes.at.d_scores) + token * sizes.at.token_stride;
            const bool has_second = lane + WARP < TOKENS;
            const float near = weights[lane], far = has_second ? weights[lane + WARP] : 0.0f;
            const float first = deltas[lane], second = has_second ? deltas[lane + WARP] : 0.0f;
            const float mean = warp_sum(near * first + far * second);
            deltas[lane] = near * (first - mean) * scale;
            if (has_second) {
                deltas[lane + WARP] = far * (second - mean) * scale;
            }
        }
        __syncthreads();
        const u32 queries = strip_tasks(d, 1);
        for (u32 task = warp; task < queries + scatters; task += ATTENTION_WARPS) {
            if (task < queries) {
                by_columns(task, sizes.at.d_scores, sizes.at.token_stride, sizes.at.projected[1],
                           PADDED_TOKENS, sizes.at.d_projected[0]);
            } else {
                scatter_task(task - queries, sizes.at.d_scores, sizes.at.projected[0], 1);
            }
        }
        peers.meet();
        if (PEERS > 1) {
            gather_shares();
        }
    }

    __device__ __forceinline__ void backward_embedding() const {
        const u32 d = sizes.at.d_model, stride = sizes.at.d_stride;
        const u32 inputs = strip_tasks(d, 1), weights = tile_tasks(d, d);
        const u32 total = inputs + 3 * weights + 3 * warps_of(d);
        for (u32 task = warp; task < total; task += ATTENTION_WARPS) {
            if (task < inputs) {
                if (!has_strip(task)) {
                    continue;
                }
                Strip<1> strip;
#pragma unroll
                for (u32 which = 0; which < 3; ++which) {
                    add_by_columns(strip, task, sizes.at.d_projected[which], stride,
                                   sizes.at.weight[which], d);
                }
                const u32 start = strip_start(task, 1, stride);
                const float *embedded = in(sizes.at.embedded) + start;
                float *to = in(sizes.at.d_embedded) + start;
                float *position = gradient + sizes.at.position + start;
                keep_strip(strip, task, d, [&](u32 row, u32, float sum) {
                    const float delta = embedded[row * stride] > 0.0f ? sum : 0.0f;
                    to[row * stride] = delta;
                    position[row * stride] = delta;
                });
            } else if (task < inputs + 3 * weights) {
                const u32 which = (task - inputs) / weights;
                weight_task((task - inputs) % weights, sizes.at.d_projected[which], stride, d,
                            sizes.at.embedded, stride, d, sizes.at.weight[which]);
            } else {
                const u32 column = task - inputs - 3 * weights;
                const u32 which = column / warps_of(d);
                bias_task(column % warps_of(d), sizes.at.d_projected[which], stride, d,
                          sizes.at.bias[which]);
            }
        }
        __syncthreads();
        // Too small for tiles: a number for each thread.
        for (u32 index = thread; index < d * PATCH; index += ATTENTION_THREADS) {
            const float *deltas = in(sizes.at.d_embedded) + index / PATCH;
            const float *pixels = in(sizes.at.patches) + index % PATCH;
            float sums[TILE] = {};
#pragma unroll 4
            for (u32 strip = peers.rank(); strip < STRIPS; strip += PEERS) {
                const u32 token = strip * TILE;
#pragma unroll
                for (u32 row = 0; row < TILE; ++row) {
                    sums[row] += deltas[(token + row) * stride] *
                                 pixels[(token + row) * sizes.at.patch_stride];
                }
            }
            const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            gradient[sizes.at.patch_weight + index / PATCH * sizes.at.patch_stride + index % PATCH] =
                sum;
        }
        for (u32 task = ATTENTION_WARPS - 1 - warp; task < warps_of(d); task += ATTENTION_WARPS) {
            bias_task(task, sizes.at.d_embedded, stride, d, sizes.at.patch_bias);
        }
        __syncthreads();
    }

    __device__ __forceinline__ void backward() const {
        backward_feed_forward();
        backward_attention();
        backward_embedding();
    }
};
