// What the fused MLP's warps have in common: its arguments, how the first layer is spread over blocks,
// a block's shared memory and who may touch it when, float32 as three bf16.
#pragma once
#include "exchange.cuh"

constexpr u32 UNITS = 16; // of a fragment
constexpr u32 COMPUTE_WARPS = 14;
constexpr u32 EXCHANGE_WARPS = 4;
constexpr u32 COMPUTE_THREADS = COMPUTE_WARPS * WARP;
constexpr u32 EXCHANGE_THREADS = EXCHANGE_WARPS * WARP;
constexpr u32 THREADS = COMPUTE_THREADS + EXCHANGE_THREADS;
constexpr u32 GROUP = 16;                                  // pixels: 16 bytes, one copy
constexpr u32 ROW_GROUPS = PIXELS / GROUP;                 // 49 of an image
constexpr u32 PARTS = 3;                                   // bf16 of a float32
constexpr u32 PAIRS = BATCH_ROWS / 2;                      // of neighbouring samples
constexpr u32 PAIR_WARPS = UNITS * PAIRS / WARP;           // a thread for each unit and pair: 8
constexpr u32 UNIT_SET = 4;                                // own units of an exchange warp at a time
constexpr u32 SAMPLE_STRIDE = BATCH_ROWS + 4;              // padded against bank conflicts
constexpr u32 PARTIAL_STRIDE = BATCH_ROWS + 8;             // likewise
constexpr u32 PRODUCT_ROWS = BATCH_ROWS + 2;               // likewise

// Named barriers; 0 is __syncthreads'. In step t, which lasts from one STEP_DONE to the next,
//
//   compute warps   read   hidden, logit_delta, delta and their own units' fragments, all of t - 1
//                   write  output; bias1 of t; the siblings' fragments of t - 1; product of t + 1;
//                          gram of t, with the next step; and for themselves partial, pixels, images
//   exchange warps  read   product of t; gram, delta and bias1 of t - 1; output
//                   write  hidden, logit_delta, delta, own units' fragments of t; for themselves sums
//
// What has two places takes them in turn, so that within a step neither kind of warps touches what
// the other writes, but for `output`; and STEP_DONE orders a step's accesses and the next step's.
//
// - `output` is written before OUTPUT_UPDATED and read after it, and written anew after STEP_DONE.
// - `partial` is written before COMPUTE_MEETS and read after it, and written anew after STEP_DONE.
// - Fragments that come from siblings are written before COMPUTE_MEETS and read after it.
// - `pixels` of t + 2 take the place of those of t - 1 after a COMPUTE_MEETS that follows the update
//   with these. They arrive before their threads come to STEP_DONE, and so does `gram`.
// - `images` of t + 3 are written by one warp while all read those of t + 2.
// - `sums` are written before SHARES_SUMMED and read after it, and written anew after STEP_DONE.
//
// compute-sanitizer's racecheck reports some of these pairs all the same: docs/cuda.md says which, and
// why they are no races.
constexpr u32 STEP_DONE = 1;      // all: deltas and the next product are there
constexpr u32 OUTPUT_UPDATED = 2; // some compute warps arrive: fc2 and the biases are those of this step
constexpr u32 COMPUTE_MEETS = 3;  // compute warps
constexpr u32 SHARES_SUMMED = 4;  // exchange warps

constexpr float WEIGHT_SCALE = 0x1p100f;
constexpr float DELTA_SCALE = 0x1p110f / 255.0f;  // pixels are bytes / 255
constexpr float UPDATE_UNIT = 0x1p123f;           // 100 - (110 - 133)
constexpr float PRODUCT_UNIT = 0x1p33f / 255.0f;  // 133 - 100

struct MlpFused : Run {
    const float *gram;      // (steps - 1, 32 rows of the next step, 32 rows of this), of mlp_gram
    Exchange exchange;
    Word *sibling_deltas;   // (2, blocks, own units, 16 pairs)
    Word *sibling_products; // (2, blocks, siblings, own units, 16 pairs)
    u32 hidden_units;
};

template <u32 SIBLINGS> struct Split {
    static constexpr u32 OWN = UNITS / SIBLINGS;                     // own units
    static constexpr u32 SETS = OWN / UNIT_SET;
    static constexpr u32 OWN_WARPS = OWN * PAIRS / WARP;             // a thread for each of their pairs
    static constexpr u32 MOST_GROUPS = (ROW_GROUPS + SIBLINGS - 1) / SIBLINGS; // odd: no conflicts
    static constexpr u32 ROW_BYTES = MOST_GROUPS * GROUP;
    static constexpr u32 WARP_GROUPS = (MOST_GROUPS + COMPUTE_WARPS - 1) / COMPUTE_WARPS;
    static constexpr u32 REMAINDER = ROW_GROUPS % SIBLINGS;

    __device__ __forceinline__ static u32 groups(u32 sibling) {
        return ROW_GROUPS / SIBLINGS + (sibling + 1 <= REMAINDER ? 1 : 0);
    }
    __device__ __forceinline__ static u32 first_group(u32 sibling) {
        return ROW_GROUPS / SIBLINGS * sibling + min(sibling, REMAINDER);
    }
};

// Parameters of fc2 and fc1.bias that a block owns, and the compute warps that update them, two lanes
// for each.
template <u32 SIBLINGS> struct OutputUpdate {
    static constexpr u32 OWN = Split<SIBLINGS>::OWN;
    static constexpr u32 NUMBERS = CLASSES * (OWN + 1) + OWN;
    static constexpr u32 WARPS = (2 * NUMBERS + WARP - 1) / WARP;
    static constexpr u32 MEETING = WARPS * WARP + EXCHANGE_THREADS; // threads at OUTPUT_UPDATED
    static_assert(WARPS <= COMPUTE_WARPS, "one parameter for two lanes");
};

template <u32 SIBLINGS> struct __align__(16) Shared {
    static constexpr u32 OWN = Split<SIBLINGS>::OWN;
    static constexpr u32 OUTPUT_STRIDE = OWN + 4;
    u8 pixels[3][BATCH_ROWS * Split<SIBLINGS>::ROW_BYTES]; // steps t - 1, t, t + 1 in turn
    uint4 fragments[2][PARTS][2][WARP];                    // deltas of 16 units: (part, half batch)
    float partial[COMPUTE_WARPS][UNITS][PARTIAL_STRIDE];   // each warp's share of the product
    float product[2][SIBLINGS][PRODUCT_ROWS][OWN];         // each sibling's, own units; padded
    float gram[2][BATCH_ROWS][SAMPLE_STRIDE];              // (next row, row)
    float delta[2][OWN][SAMPLE_STRIDE];                    // -rate dLoss/dPreactivation
    float4 sums[EXCHANGE_WARPS * WORDS];                   // of the owned sample's logits
    float output[CLASS_STRIDE][OUTPUT_STRIDE];             // fc2.weight, and fc2.bias behind it
    float logit_delta[2][CLASS_STRIDE][SAMPLE_STRIDE];
    float hidden[2][OWN + 1][SAMPLE_STRIDE];               // and a 1, the input of fc2.bias
    float bias1[2][OWN];
    u32 images[2][BATCH_ROWS];                             // of steps t + 2, t + 3 in turn; ~0: none
};

// A run as one block sees it.
template <u32 SIBLINGS> struct Part {
    const MlpFused &run;
    Shared<SIBLINGS> &shared;
    u32 block, sibling;
    u32 unit0;              // of the 16
    float rate, last_rate;  // what sums of gradients are multiplied with

    __device__ __forceinline__ float rate_of(u32 step) const {
        return step + 1 < run.steps ? rate : last_rate;
    }
    __device__ __forceinline__ Word *delta_word(u32 step, u32 of_sibling, u32 own, u32 pair) const {
        const u32 of_block = block - sibling + of_sibling;
        return run.sibling_deltas +
               ((step % 2 * gridDim.x + of_block) * Split<SIBLINGS>::OWN + own) * PAIRS + pair;
    }
    __device__ __forceinline__ Word *product_word(u32 step, u32 to, u32 from, u32 own,
                                                  u32 pair) const {
        const u32 to_block = block - sibling + to;
        return run.sibling_products +
               (((step % 2 * gridDim.x + to_block) * SIBLINGS + from) * Split<SIBLINGS>::OWN +
                own) * PAIRS +
               pair;
    }
};

// The three bf16 of two float32, pairwise: the first number in the lower halves.
__device__ __forceinline__ uint3 cut(float first, float second) {
    const float numbers[2] = {first, second};
    u32 high[2], middle[2], low[2];
#pragma unroll
    for (u32 index = 0; index < 2; ++index) {
        high[index] = __float_as_uint(numbers[index]) & 0xffff0000u;
        const float rest = numbers[index] - __uint_as_float(high[index]);
        middle[index] = __float_as_uint(rest) & 0xffff0000u;
        low[index] = __float_as_uint(rest - __uint_as_float(middle[index]));
    }
    return uint3{__byte_perm(high[0], high[1], 0x7632), __byte_perm(middle[0], middle[1], 0x7632),
                 __byte_perm(low[0], low[1], 0x7632)};
}

// Of a word of four pixels, the even or the odd ones as bf16.
__device__ __forceinline__ u32 even_pixels(u32 bytes) { return bytes & 0x00ff00ffu; }
__device__ __forceinline__ u32 odd_pixels(u32 bytes) { return __byte_perm(bytes, 0, 0x4341); }

constexpr u32 PART_STRIDE = 2 * WARP * 4; // of fragments, in words

// Where `update_weights` wants the cut deltas of a unit (of 16) and a pair of samples, in words.
__device__ __forceinline__ u32 fragment_place(u32 step, u32 unit, u32 pair) {
    const u32 half = pair / 8;
    const u32 lane = unit % 8 * 4 + pair % 4;
    const u32 element = unit / 8 + pair % 8 / 4 * 2; // of the lane's four words
    return step % 2 * (PARTS * PART_STRIDE) + (half * WARP + lane) * 4 + element;
}

template <u32 SIBLINGS>
__device__ __forceinline__ void store_fragment(Shared<SIBLINGS> &shared, u32 place, uint3 parts) {
    u32 *to = &shared.fragments[0][0][0][0].x + place;
    to[0] = parts.x;
    to[PART_STRIDE] = parts.y;
    to[2 * PART_STRIDE] = parts.z;
}
