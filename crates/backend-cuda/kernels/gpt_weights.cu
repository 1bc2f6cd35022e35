// The gradients of all matrices of several layers in one launch, on Hopper: delta^T input, both operands as
// they lie in memory, so that the inner side, which is the tokens, is the slow one of both. A cluster of two
// blocks has two tiles that stand one below the other and shares what they have in common. Each cluster takes
// whole tiles; those that are left over are cut along the tokens, so that no multiprocessor waits for another,
// and a second kernel adds the parts in a fixed order.
#include "wgmma.cuh"

constexpr u32 DOWN = 128;     // rows of a tile: columns of the operand `down`
constexpr u32 ACROSS = 384;   // its columns: columns of the operand `across`
constexpr u32 EDGE = 64;      // columns of a box, which is 128 bytes wide: as wide as a swizzle
constexpr u32 DEPTH = 32;     // tokens of a stage
constexpr u32 BOX = EDGE * DEPTH;
constexpr u32 DOWN_BOXES = DOWN / EDGE;
constexpr u32 ACROSS_BOXES = ACROSS / EDGE;
constexpr u32 STAGES = 7;
constexpr u32 PEERS = 2;      // blocks of a cluster
constexpr u32 GROUP = 128;    // threads that issue wgmma together
constexpr u32 WORKERS = 2 * GROUP;
constexpr u32 THREADS = WORKERS + GROUP;
constexpr u32 HALF = ACROSS / 2; // columns of one wgmma
constexpr u32 SUMS = HALF / 2;   // of a thread, for a half
constexpr u32 TILE = DOWN * ACROSS;
constexpr u32 PRODUCTS = 4;
constexpr u32 SQUARES = WORKERS / WARP; // sums of a tile's squares: of each warp, or of each block that adds parts

// The gradient of one matrix in every layer.
struct Product {
    TensorMap down;    // (layers x rows, columns) and more rows between layers
    TensorMap across;
    float *result;     // of the first layer: (down, across), or turned
    u32 down_step;     // rows from a layer's to the next one's
    u32 across_step;
    u32 tiles_down;
    u32 tiles_across;
    u32 row_step;      // of the result, from a row of a tile to the next one; 1 if turned
    u32 column_step;   // 1 if not
};

struct WeightGradients {
    Product products[PRODUCTS];
    float *partial;    // (pairs of parts, PEERS, TILE)
    float *squares;    // (tiles, SQUARES): sums of them add up to the result's squared norm
    u64 layer_step;    // of results
    u32 pairs;         // of tiles, in all layers
    u32 depths;        // stages of a tile: rows / DEPTH
};

struct __align__(1024) Shared {
    bf16 down[STAGES][DOWN_BOXES * BOX];
    bf16 across[STAGES][ACROSS_BOXES * BOX];
    u64 full[STAGES];
    u64 empty[STAGES];
};

constexpr u32 STAGE_BYTES = (DOWN + ACROSS) * DEPTH * sizeof(bf16);

struct Tile {
    const Product *product;
    u32 layer;
    u32 down;   // in tiles
    u32 across;

    __device__ __forceinline__ Tile(const WeightGradients &run, u32 index) {
        u32 of_layer = 0;
#pragma unroll
        for (u32 which = 0; which < PRODUCTS; ++which) {
            of_layer += run.products[which].tiles_down * run.products[which].tiles_across;
        }
        layer = index / of_layer;
        index %= of_layer;
        product = run.products;
        while (index >= product->tiles_down * product->tiles_across) {
            index -= product->tiles_down * product->tiles_across;
            ++product;
        }
        down = index % product->tiles_down;
        across = index / product->tiles_down;
    }

    __device__ __forceinline__ bool shares_with(const Tile &other) const {
        return product == other.product && layer == other.layer && across == other.across;
    }

    __device__ __forceinline__ float *result(const WeightGradients &run) const {
        return product->result + layer * run.layer_step +
               static_cast<u64>(down * DOWN) * product->row_step +
               static_cast<u64>(across * ACROSS) * product->column_step;
    }
};

// How pairs of tiles are shared out. Of those that are left over when each cluster has taken as many as all
// the others, the first clusters take the beginnings, side by side, and the others take the ends.
struct Cut {
    u32 clusters;
    u32 whole;  // pairs that are not cut
    u32 left;   // pairs that are
    u32 begin;  // stages of each that are its beginning
    u32 rest;   // stages of each that are its end
    u32 takers; // clusters that take ends

    __device__ __forceinline__ Cut(const WeightGradients &run, u32 clusters) : clusters(clusters) {
        left = run.pairs % clusters;
        whole = run.pairs - left;
        begin = left * run.depths / clusters;
        rest = run.depths - begin;
        takers = min(clusters - left, left * rest);
    }

    // Where the ends that a cluster takes begin, all of them in a row.
    __device__ __forceinline__ u32 first_of(u32 taker) const { return taker * (left * rest) / takers; }
    __device__ __forceinline__ u32 taker_of(u32 stage) const {
        return ((stage + 1) * takers - 1) / (left * rest);
    }
    // The place of a part among partial sums.
    __device__ __forceinline__ u32 part_of(u32 pair, u32 taker) const { return left + pair + taker; }
};

// A cluster's stretches of stages, one after the other.
struct Stretches {
    Cut cut;
    u32 depths;
    u32 cluster;
    u32 pair;  // of this stretch
    u32 first; // stages
    u32 last;
    u32 part;  // WHOLE: it is the tile
    u32 next_pair;
    u32 next;  // of the ends
    u32 end;

    static constexpr u32 WHOLE = 0xffffffff;

    __device__ __forceinline__ Stretches(const WeightGradients &run)
        : cut(run, gridDim.x / PEERS), depths(run.depths), cluster(blockIdx.x / PEERS) {
        next_pair = cluster;
        next = end = 0;
        if (cluster >= cut.left && cluster - cut.left < cut.takers) {
            next = cut.first_of(cluster - cut.left);
            end = cut.first_of(cluster - cut.left + 1);
        }
    }

    __device__ __forceinline__ bool advance() {
        if (next_pair < cut.whole) {
            pair = next_pair;
            next_pair += cut.clusters;
            first = 0, last = depths, part = WHOLE;
            return true;
        }
        if (cluster < cut.left && next_pair != WHOLE) {
            pair = cut.whole + cluster;
            next_pair = WHOLE;
            first = 0, last = cut.begin, part = cluster;
            return true;
        }
        if (next < end) {
            const u32 of_left = next / cut.rest, at = next % cut.rest;
            const u32 count = min(cut.rest - at, end - next);
            pair = cut.whole + of_left;
            first = cut.begin + at, last = first + count;
            part = cut.part_of(of_left, cluster - cut.left);
            next += count;
            return true;
        }
        return false;
    }
};

// One thread of each block keeps its stages filled, and half of what both share in both.
__device__ __forceinline__ void produce(const WeightGradients &run, Shared &own) {
    const u32 rank = cluster_rank();
    Stretches stretches(run);
    Ring<STAGES> ring;
    while (stretches.advance()) {
        const Tile tile(run, PEERS * stretches.pair + rank);
        const bool shares = tile.shares_with(Tile(run, PEERS * stretches.pair + 1 - rank));
        const Product &product = *tile.product;
        const u32 down_row = tile.layer * product.down_step;
        const u32 across_row = tile.layer * product.across_step;
        for (u32 stage = stretches.first; stage < stretches.last; ++stage, ring.advance()) {
            u64 *full = &own.full[ring.slot];
            barrier_wait(&own.empty[ring.slot], ring.parity ^ 1);
            barrier_expect(full, STAGE_BYTES);
            for (u32 box = 0; box < DOWN_BOXES; ++box) {
                copy_box(own.down[ring.slot] + box * BOX, product.down,
                         tile.down * DOWN + box * EDGE, down_row + stage * DEPTH, full);
            }
            bf16 *across = own.across[ring.slot];
            const u32 column = tile.across * ACROSS, row = across_row + stage * DEPTH;
            if (shares) {
                for (u32 box = rank; box < ACROSS_BOXES; box += PEERS) {
                    copy_box_to((1 << PEERS) - 1, across + box * BOX, product.across,
                                column + box * EDGE, row, full);
                }
            } else {
                for (u32 box = 0; box < ACROSS_BOXES; ++box) {
                    copy_box(across + box * BOX, product.across, column + box * EDGE, row, full);
                }
            }
        }
    }
}

#define SUM(I) d[I]

// d (64, 192) += a^T b, of operands (16, 64) and (16, 192)
__device__ __forceinline__ void multiply_add_turned(float (&d)[SUMS], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" WGMMA_NAMES_96
        "}, %96, %97, 1, 1, 1, 1, 1;"
        : WGMMA_SUMS_32(SUM, 0), WGMMA_SUMS_32(SUM, 32), WGMMA_SUMS_32(SUM, 64)
        : "l"(a), "l"(b));
}

// A group's 64 rows of a tile from one stage on.
__device__ __forceinline__ void multiply(float (&sums)[2][SUMS], Shared &own, Ring<STAGES> &ring, u32 group,
                                         u32 stages) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
#pragma unroll
        for (u32 index = 0; index < SUMS; ++index) {
            sums[half][index] = 0.0f;
        }
    }
    u32 before = 0;
    for (u32 stage = 0; stage < stages; ++stage) {
        barrier_wait(&own.full[ring.slot], ring.parity);
        const u64 down = turned_operand(own.down[ring.slot] + group * BOX, BOX * sizeof(bf16));
        const u64 across = turned_operand(own.across[ring.slot], BOX * sizeof(bf16));
        group_fence();
#pragma unroll
        for (u32 step = 0; step < DEPTH / 16; ++step) {
            constexpr u32 STEP = 16 * EDGE * sizeof(bf16) >> 4;
            constexpr u32 SECOND = ACROSS_BOXES / 2 * BOX * sizeof(bf16) >> 4;
            multiply_add_turned(sums[0], down + step * STEP, across + step * STEP);
            multiply_add_turned(sums[1], down + step * STEP, across + SECOND + step * STEP);
        }
        group_commit();
        if (stage > 0) {
            group_wait<1>();
            if (lane < PEERS) {
                barrier_arrive_at(lane, &own.empty[before]);
            }
        }
        before = ring.slot;
        ring.advance();
    }
    group_wait<0>();
    if (lane < PEERS && stages > 0) {
        barrier_arrive_at(lane, &own.empty[before]);
    }
}

// Writes a group's rows; eight lanes or four fill 32 bytes.
__device__ __forceinline__ void write(const float (&sums)[2][SUMS], float *tile, u32 group, u32 row_step,
                                      u32 column_step) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    const u32 row = group * EDGE + 16 * warp + lane / 4, column = 2 * (lane % 4);
    float *at = tile + static_cast<u64>(row) * row_step + static_cast<u64>(column) * column_step;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
#pragma unroll
        for (u32 index = 0; index < SUMS; index += 2) {
            const u32 below = index / 2 % 2 * 8, beside = half * HALF + index / 4 * 8;
            const float low = sums[half][index], high = sums[half][index + 1];
            float *to = at + static_cast<u64>(below) * row_step + static_cast<u64>(beside) * column_step;
            if (column_step == 1) {
                *reinterpret_cast<float2 *>(to) = make_float2(low, high);
            } else {
                to[0] = low;
                to[column_step] = high;
            }
        }
    }
}

__device__ __forceinline__ void consume(const WeightGradients &run, Shared &own, u32 group) {
    const u32 rank = cluster_rank();
    Stretches stretches(run);
    Ring<STAGES> ring;
    while (stretches.advance()) {
        float sums[2][SUMS];
        multiply(sums, own, ring, group, stretches.last - stretches.first);
        settle(sums);
        const Tile tile(run, PEERS * stretches.pair + rank);
        const Product &product = *tile.product;
        if (stretches.part == Stretches::WHOLE) {
            float squares = 0.0f;
#pragma unroll
            for (u32 index = 0; index < 2 * SUMS; ++index) {
                squares += sums[index / SUMS][index % SUMS] * sums[index / SUMS][index % SUMS];
            }
            squares = warp_sum(squares);
            if (threadIdx.x % WARP == 0) {
                run.squares[(PEERS * stretches.pair + rank) * SQUARES + threadIdx.x / WARP] = squares;
            }
            write(sums, tile.result(run), group, product.row_step, product.column_step);
        } else {
            float *part = run.partial + static_cast<u64>(PEERS * stretches.part + rank) * TILE;
            const bool turned = product.column_step != 1;
            write(sums, part, group, turned ? 1 : ACROSS, turned ? DOWN : 1);
        }
    }
}

extern "C" __global__ void __cluster_dims__(PEERS, 1, 1) __launch_bounds__(THREADS, 1)
    weight_gradients(const __grid_constant__ WeightGradients run) {
    const u32 address = shared_address(shared_arena());
    Shared &own = *reinterpret_cast<Shared *>(shared_arena() + (1024 - address % 1024) % 1024);
    begin_stages<STAGES>(own.full, own.empty, PEERS * WORKERS / WARP);
    const u32 group = uniform(threadIdx.x / GROUP);
    if (group < 2) {
        take_registers<232>();
        consume(run, own, group);
    } else {
        give_registers<40>();
        if (threadIdx.x == WORKERS) {
            produce(run, own);
        }
    }
    __syncwarp();
    cluster_sync(); // the peer may write here, and arrive at barriers, until then
}

constexpr u32 SUM_THREADS = 256;
constexpr u32 SUM_FOURS = 8; // of a thread
static_assert(TILE / (4 * SUM_FOURS * SUM_THREADS) <= SQUARES, "each block has a place for its squares");

struct SumParts {
    WeightGradients weights;
    u32 clusters; // of the launch before
};

// Adds the parts of a tile that was cut, each `SUM_FOURS` fours of a thread in a block.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    sum_parts(const __grid_constant__ SumParts sum) {
    const WeightGradients &run = sum.weights;
    const Cut cut(run, sum.clusters);
    const u32 rank = blockIdx.x % PEERS, pair = blockIdx.x / PEERS;
    const Tile tile(run, PEERS * (cut.whole + pair) + rank);
    const Product &product = *tile.product;
    const u32 first = blockIdx.y * (SUM_FOURS * SUM_THREADS) + threadIdx.x;
    float4 totals[SUM_FOURS];
    const auto part = [&](u32 index) {
        return run.partial + static_cast<u64>(PEERS * index + rank) * TILE + 4 * first;
    };
#pragma unroll
    for (u32 index = 0; index < SUM_FOURS; ++index) {
        totals[index] = load_four(part(pair) + 4 * SUM_THREADS * index);
    }
    const u32 last = cut.taker_of((pair + 1) * cut.rest - 1);
    for (u32 taker = cut.taker_of(pair * cut.rest); taker <= last; ++taker) {
        const float *more = part(cut.part_of(pair, taker));
#pragma unroll
        for (u32 index = 0; index < SUM_FOURS; ++index) {
            const float4 four = load_four(more + 4 * SUM_THREADS * index);
            totals[index].x += four.x;
            totals[index].y += four.y;
            totals[index].z += four.z;
            totals[index].w += four.w;
        }
    }
    __shared__ float partial[WARP];
    float squares = 0.0f;
#pragma unroll
    for (u32 index = 0; index < SUM_FOURS; ++index) {
        const float4 four = totals[index];
        squares += (four.x * four.x + four.y * four.y) + (four.z * four.z + four.w * four.w);
    }
    squares = block_sum(squares, partial);
    if (threadIdx.x == 0) {
        run.squares[(PEERS * (cut.whole + pair) + rank) * SQUARES + blockIdx.y] = squares;
    }
    const bool turned = product.column_step != 1;
    const u32 row_fours = (turned ? DOWN : ACROSS) / 4;
    const u32 step = turned ? product.column_step : product.row_step;
#pragma unroll
    for (u32 index = 0; index < SUM_FOURS; ++index) {
        const u32 four = first + index * SUM_THREADS;
        store_four(tile.result(run) + static_cast<u64>(four / row_fours) * step + four % row_fours * 4,
                   totals[index]);
    }
}
