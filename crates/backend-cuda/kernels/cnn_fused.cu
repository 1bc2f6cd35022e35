// The CNN trained whole epochs in one launch. 112 resident blocks: each has one filter and one row
// of its pooled values, for all 32 samples of a step, and the 140 weights of fc that take them. So
// fc's gradient needs no exchange but that of the logits (exchange.cuh); the ten parameters of a
// filter are kept by all 14 blocks of the filter, which tell each other their shares of the
// gradient.
//
// A warp has one column of the pooled values, a lane one sample: arrays are (..., samples).
#include "exchange.cuh"

constexpr u32 FILTERS = 8;
constexpr u32 TAPS = 9;
constexpr u32 HALF = SIDE / 2;            // 14: rows and columns after pooling
constexpr u32 SPOTS = HALF * HALF;
constexpr u32 POOLED = FILTERS * SPOTS;
constexpr u32 WARPS = HALF;
constexpr u32 THREADS = WARPS * WARP;     // 448
constexpr u32 ROWS = 4;                   // of the image, for a row of pooled values
constexpr u32 COLUMNS = SIDE + 2;         // with a border of zeros
constexpr u32 STRIDE = BATCH_ROWS + 1;    // of samples, padded against bank conflicts
constexpr u32 FEATURES = HALF + 1;        // of fc in a block: its pooled values, and 1 for the bias
constexpr u32 FC_STRIDE = 16;
constexpr u32 EXCHANGE_WARPS = 4; // a word for each thread: 32 samples, 4 words
constexpr u32 GRADIENT_WARPS = 4;         // add up the filter's gradient while the others update fc
constexpr u32 ROW_WORDS = SIDE / 4;       // of four pixels
constexpr u32 COPIES_OF_PIXELS = BATCH_ROWS * ROWS * ROW_WORDS / THREADS; // words of a thread: 2

// Named barriers.
constexpr u32 SHARES_SUMMED = 1; // exchange warps

struct CnnFused : Run {
    Exchange exchange;
    Word *conv_words; // (2, 8 filters, 14 rows, 4): shares of the filter's gradient
};

struct Shared {
    float image[2][ROWS][COLUMNS][STRIDE]; // of this step and the next
    float pooled[FEATURES][STRIDE];        // the last is 1
    float logit_delta[CLASS_STRIDE][STRIDE];
    float partial[TAPS + 1][THREADS];      // of the filter's gradient
    float fc[CLASS_STRIDE][FC_STRIDE];     // fc.weight's columns, and fc.bias
    float4 sums[EXCHANGE_WARPS * WORDS];   // of the owned sample's logits
    float filter[CLASS_STRIDE];            // conv.weight, and conv.bias
    float gradient[CLASS_STRIDE];          // the block's share
};

struct CnnBlock {
    const CnnFused &run;
    Shared &shared;
    u32 thread, lane, warp, block, filter, row;
    float rate, last_rate;
    u32 next_words[COPIES_OF_PIXELS];                     // pixels of the next step
    u32 later_images[COPIES_OF_PIXELS];                   // images of the step after it
    u32 label, next_label, later_image;                   // of the exchange thread's sample

    __device__ __forceinline__ float rate_of(u32 step) const {
        return step + 1 < run.steps ? rate : last_rate;
    }

    // Pixels are copied as words of four: of sample `pixel_sample`, at `pixel_row` of the block's
    // four rows and `pixel_word` of seven.
    __device__ __forceinline__ u32 pixel_sample(u32 index) const {
        return (thread + index * THREADS) / (ROWS * ROW_WORDS);
    }
    __device__ __forceinline__ u32 pixel_row() const { return thread % (ROWS * ROW_WORDS) / ROW_WORDS; }
    __device__ __forceinline__ u32 pixel_word() const { return thread % ROW_WORDS; }

    __device__ __forceinline__ void find_images(u32 step) {
#pragma unroll
        for (u32 index = 0; index < COPIES_OF_PIXELS; ++index) {
            later_images[index] = image_at(run, step, pixel_sample(index));
        }
    }

    __device__ __forceinline__ void load_pixels() {
        const u32 image_row = row * 2 + pixel_row() - 1; // wraps above the image
#pragma unroll
        for (u32 index = 0; index < COPIES_OF_PIXELS; ++index) {
            const u32 image = later_images[index];
            const bool exists = image != ~0u && image_row < SIDE;
            const u8 *from = run.images + static_cast<u64>(exists ? image : 0) * PIXELS +
                             (exists ? image_row : 0) * SIDE + pixel_word() * 4;
            const u32 word = *reinterpret_cast<const u32 *>(from);
            next_words[index] = exists ? word : 0;
        }
    }

    __device__ __forceinline__ void store_pixels(u32 step) const {
#pragma unroll
        for (u32 index = 0; index < COPIES_OF_PIXELS; ++index) {
            float values[4];
            floats_of_bytes(values, next_words[index]);
            float(&row_of)[COLUMNS][STRIDE] = shared.image[step % 2][pixel_row()];
#pragma unroll
            for (u32 byte = 0; byte < 4; ++byte) {
                row_of[1 + pixel_word() * 4 + byte][pixel_sample(index)] =
                    values[byte] * PIXEL_SCALE;
            }
        }
    }

    // Convolution, ReLU and pooling of this thread's column and sample: the pooled value, and which
    // of the four it was; the first of equal values in row order.
    __device__ __forceinline__ u32 convolve(u32 step) const {
        float weights[TAPS];
#pragma unroll
        for (u32 tap = 0; tap < TAPS; ++tap) {
            weights[tap] = shared.filter[tap];
        }
        float pixels[ROWS][ROWS];
#pragma unroll
        for (u32 y = 0; y < ROWS; ++y) {
#pragma unroll
            for (u32 x = 0; x < ROWS; ++x) {
                pixels[y][x] = shared.image[step % 2][y][warp * 2 + x][lane];
            }
        }
        float largest = 0.0f;
        u32 which = 0;
#pragma unroll
        for (u32 inner = 0; inner < 4; ++inner) {
            float sum = shared.filter[TAPS];
#pragma unroll
            for (u32 tap = 0; tap < TAPS; ++tap) {
                sum += weights[tap] * pixels[inner / 2 + tap / 3][inner % 2 + tap % 3];
            }
            if (inner == 0 || sum > largest) {
                largest = sum;
                which = inner;
            }
        }
        shared.pooled[warp][lane] = relu(largest);
        return which;
    }

    // Exchange threads: a word of a sample's classes each.
    __device__ __forceinline__ u32 sample() const { return thread / WORDS; }
    __device__ __forceinline__ u32 word() const { return thread % WORDS; }

    __device__ __forceinline__ void look_ahead(u32 step) {
        label = next_label;
        next_label = later_image != ~0u ? run.labels[later_image] : ~0u;
        later_image = image_at(run, step + 2, sample());
    }

    // The block's share of the logits.
    __device__ __forceinline__ void send_shares(u32 step, u32 tag) const {
        float share[WORD_VALUES] = {};
#pragma unroll
        for (u32 column = 0; column < HALF; ++column) {
            const float value = shared.pooled[column][sample()];
#pragma unroll
            for (u32 index = 0; index < WORD_VALUES; ++index) {
                share[index] += value * shared.fc[word() * WORD_VALUES + index][column];
            }
        }
        const u32 turn = step % 2 * (BATCH_ROWS * WORDS) * gridDim.x;
        send(share_word(run.exchange, sample(), word(), block) + turn, share[0], share[1], share[2],
             tag);
    }

    __device__ __forceinline__ void receive_logits(u32 step, u32 tag) const {
        const Batch batch = batch_of(step, run.batch, run.samples);
        const bool exists = sample() < batch.count;
        float bias[WORD_VALUES];
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            bias[index] = shared.fc[word() * WORD_VALUES + index][HALF];
        }
        const Word *sums = sum_word(run.exchange, block % COPIES, sample(), word());
        const float3 logits = receive(sums + step % 2 * SUMS_TURN, tag);
        QuadSoftmax softmax;
        softmax.of(float3{logits.x + bias[0], logits.y + bias[1], logits.z + bias[2]}, word(),
                   label);
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            shared.logit_delta[word() * WORD_VALUES + index][sample()] =
                exists ? softmax.delta[index] : 0.0f;
        }
        if (exists && sample() % gridDim.x == block && label / WORD_VALUES == word()) {
            run.sample_loss[batch.first + sample()] = softmax.loss();
        }
    }

    // This thread's share of the filter's gradient.
    __device__ __forceinline__ void share_gradient(u32 step, u32 which) const {
        float delta = 0.0f;
#pragma unroll
        for (u32 output = 0; output < CLASSES; ++output) {
            delta += shared.logit_delta[output][lane] * shared.fc[output][warp];
        }
        delta = shared.pooled[warp][lane] > 0.0f ? delta : 0.0f;
        const u32 y = which / 2, x = warp * 2 + which % 2;
#pragma unroll
        for (u32 tap = 0; tap < TAPS; ++tap) {
            shared.partial[tap][thread] =
                delta * shared.image[step % 2][y + tap / 3][x + tap % 3][lane];
        }
        shared.partial[TAPS][thread] = delta;
    }

    // The first warps add up the ten sums of the filter's gradient.
    __device__ __forceinline__ void sum_gradient() const {
        for (u32 own = warp; own < TAPS + 1; own += GRADIENT_WARPS) {
            float sum = 0.0f;
#pragma unroll
            for (u32 from = 0; from < WARPS; ++from) {
                sum += shared.partial[own][from * WARP + lane];
            }
            sum = warp_sum(sum);
            if (lane == 0) {
                shared.gradient[own] = sum;
            }
        }
    }

    // The other warps, two lanes for each number, 16 samples each: fc and its bias.
    __device__ __forceinline__ void update_fc(u32 step) const {
        static_assert(CLASSES * FEATURES * 2 <= THREADS - GRADIENT_WARPS * WARP, "enough lanes");
        const u32 wanted = (thread - GRADIENT_WARPS * WARP) / 2;
        const u32 number = min(wanted, CLASSES * FEATURES - 1);
        const u32 output = number / FEATURES, feature = number % FEATURES, half = thread % 2;
        float sum = 0.0f;
#pragma unroll
        for (u32 index = 0; index < BATCH_ROWS / 2; ++index) {
            const u32 of_sample = index * 2 + half;
            sum += shared.logit_delta[output][of_sample] * shared.pooled[feature][of_sample];
        }
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        if (half == 0 && wanted < CLASSES * FEATURES) {
            shared.fc[output][feature] -= rate_of(step) * sum;
        }
    }

    // Warp 0: tells the filter's other blocks the share of its gradient, and adds up theirs in the
    // order of the rows.
    __device__ __forceinline__ void update_filter(u32 step, u32 tag) const {
        const u32 own_word = lane % WORDS, from = lane / WORDS;
        Word *words = run.conv_words + (step % 2 * FILTERS + filter) * (HALF * WORDS) + own_word;
        if (lane < WORDS) {
            const float *share = shared.gradient + own_word * WORD_VALUES;
            send(words + row * WORDS, share[0], share[1], share[2], tag);
        }
        const float3 near = receive(words + from * WORDS, tag);
        // Rows 8 to 13; the lanes of two more ask for row 13 again and count nothing.
        const float3 far = receive(words + min(from + 8, HALF - 1) * WORDS, tag);
        const float counts = from + 8 < HALF ? 1.0f : 0.0f;
        float3 sum{near.x + counts * far.x, near.y + counts * far.y, near.z + counts * far.z};
#pragma unroll
        for (u32 distance = WORDS; distance < WARP; distance *= 2) {
            sum.x += __shfl_xor_sync(ALL_LANES, sum.x, distance);
            sum.y += __shfl_xor_sync(ALL_LANES, sum.y, distance);
            sum.z += __shfl_xor_sync(ALL_LANES, sum.z, distance);
        }
        if (lane < WORDS) {
            float *to = shared.filter + own_word * WORD_VALUES;
            to[0] -= rate_of(step) * sum.x;
            to[1] -= rate_of(step) * sum.y;
            to[2] -= rate_of(step) * sum.z;
        }
    }
};

// Where a block's parameters are among the canonical ones.
__device__ __forceinline__ float *filter_parameter(const CnnBlock &own, u32 index) {
    float *conv = own.run.parameters;
    return index < TAPS ? conv + own.filter * TAPS + index : conv + FILTERS * TAPS + own.filter;
}

__device__ __forceinline__ float *fc_parameter(const CnnBlock &own, u32 output, u32 feature) {
    float *weight = own.run.parameters + FILTERS * (TAPS + 1);
    return feature < HALF
               ? weight + output * POOLED + own.filter * SPOTS + own.row * HALF + feature
               : weight + CLASSES * POOLED + output;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) cnn_epoch(const CnnFused run) {
    Shared &shared = *reinterpret_cast<Shared *>(shared_arena());
    const u32 thread = thread_index(), block = block_index();
    const u32 warp = uniform(thread / WARP);
    const u32 last = batch_of(run.steps - 1, run.batch, run.samples).count;
    CnnBlock own{run,          shared,
                 thread,       thread % WARP,
                 warp,         block,
                 block / HALF, block % HALF,
                 run.learning_rate / static_cast<float>(run.batch),
                 run.learning_rate / static_cast<float>(last),
                 {},           {},
                 0,            0,
                 0};

    // Zeros for borders and for classes that are none.
    for (u32 index = thread; index < sizeof(Shared) / 4; index += THREADS) {
        reinterpret_cast<float *>(&shared)[index] = 0.0f;
    }
    __syncthreads();
    if (thread < TAPS + 1) {
        shared.filter[thread] = *filter_parameter(own, thread);
    }
    if (thread < CLASSES * FEATURES) {
        const u32 output = thread / FEATURES, feature = thread % FEATURES;
        shared.fc[output][feature] = *fc_parameter(own, output, feature);
    }
    if (thread < BATCH_ROWS) {
        shared.pooled[HALF][thread] = 1.0f;
    }
    own.find_images(0);
    own.load_pixels();
    own.store_pixels(0);
    own.find_images(1);
    const bool exchanges = warp < EXCHANGE_WARPS;
    if (exchanges) {
        const u32 first = image_at(run, 0, own.sample());
        own.next_label = first != ~0u ? run.labels[first] : ~0u;
        own.later_image = image_at(run, 1, own.sample());
    }
    Owner<EXCHANGE_WARPS> owner;
    owner.begin(run.exchange, shared.sums, thread, SHARES_SUMMED);
    __syncthreads();

    for (u32 step = 0; step < run.steps; ++step) {
        const u32 tag = run.first_tag + step;
        own.load_pixels();
        own.find_images(step + 2);
        const u32 which = own.convolve(step);
        __syncthreads(); // pooled
        if (exchanges) {
            own.look_ahead(step);
            own.send_shares(step, tag);
            owner.reply_all(step, tag, block);
            own.receive_logits(step, tag);
        }
        own.store_pixels(step + 1);
        __syncthreads(); // logit_delta
        own.share_gradient(step, which);
        __syncthreads(); // partial; fc was read
        if (own.warp < GRADIENT_WARPS) {
            own.sum_gradient();
        } else {
            own.update_fc(step);
        }
        __syncthreads(); // gradient
        if (own.warp == 0) {
            own.update_filter(step, tag);
        }
        __syncthreads(); // the filter and fc of the next step
    }

    if (own.row == 0 && thread < TAPS + 1) {
        *filter_parameter(own, thread) = shared.filter[thread];
    }
    if (thread < CLASSES * FEATURES) {
        const u32 output = thread / FEATURES, feature = thread % FEATURES;
        if (feature < HALF || block == 0) {
            *fc_parameter(own, output, feature) = shared.fc[output][feature];
        }
    }
}
