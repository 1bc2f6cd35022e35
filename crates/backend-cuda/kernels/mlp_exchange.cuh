// The fused MLP's exchange warps: from the products to the logits of all blocks, and back to deltas.
#pragma once
#include "mlp_fused.cuh"

// Adds up each of four values over four neighbouring lanes; lane l gets the sum of value l % 4.
__device__ __forceinline__ float sum_of_four_lanes(float4 values, u32 lane) {
    const bool upper = (lane & 2) != 0, odd = (lane & 1) != 0;
    const float first = (upper ? values.z : values.x) +
                        __shfl_xor_sync(ALL_LANES, upper ? values.x : values.z, 2);
    const float second = (upper ? values.w : values.y) +
                         __shfl_xor_sync(ALL_LANES, upper ? values.y : values.w, 2);
    return (odd ? second : first) + __shfl_xor_sync(ALL_LANES, odd ? first : second, 1);
}

__device__ __forceinline__ float4 add_product(float4 sums, float factor, float4 values) {
    return float4{sums.x + factor * values.x, sums.y + factor * values.y,
                  sums.z + factor * values.z, sums.w + factor * values.w};
}

__device__ __forceinline__ float add_dot(float sum, float4 a, float4 b) {
    sum += a.x * b.x;
    sum += a.y * b.y;
    sum += a.z * b.z;
    return sum + a.w * b.w;
}

// An exchange warp: eight samples of the step, four lanes for each. A lane of a sample has one word
// of its classes, and of each set of four own units it ends up with one.
template <u32 SIBLINGS> struct ExchangeWarp {
    using Sizes = Split<SIBLINGS>;
    const Part<SIBLINGS> &part;
    const MlpFused &run;
    Shared<SIBLINGS> &shared;
    u32 lane, sample, word;
    Word *shares;     // of even steps
    const Word *sums; // likewise
    u32 label, next_label, later_image; // of this step, the next, and the one after
    // Where things of a step are, in shared arrays by number. They are found out while the warp has to
    // wait, as what is left of a step is bound by how many instructions follow each other.
    Word *share;                                     // to send
    u32 gram_at, delta_at, product_at, hidden_at, bias1_at, output_at;
    float hidden[Sizes::SETS];               // of unit `word` of each set
    float4 output[Sizes::SETS][WORD_VALUES]; // fc2.weight, of this word's classes
    float bias[WORD_VALUES];                 // fc2.bias, likewise
    QuadSoftmax softmax;                     // of the last logits that came
    u32 loss_place;                          // and where its loss belongs; ~0: nowhere
    u32 keeps_loss;                          // whether it is this block that stores the sample's loss

    __device__ __forceinline__ void begin(u32 thread) {
        lane = thread % WARP;
        sample = thread / WORDS;
        word = thread % WORDS;
        keep(lane);
        keep(sample);
        keep(word);
        shares = share_word(run.exchange, sample, word, part.block);
        sums = sum_word(run.exchange, part.block % COPIES, sample, word);
        output_at = word * (WORD_VALUES * Shared<SIBLINGS>::OUTPUT_STRIDE);
        keep(output_at);
        find_places(0);
        loss_place = ~0u;
        keeps_loss = sample % gridDim.x == part.block;
        keep(keeps_loss); // a division
        next_label = label_of(image_at(run, 0, sample));
        later_image = image_at(run, 1, sample);
    }

    // Of what `step` uses until its shares are sent.
    __device__ __forceinline__ void find_places(u32 step) {
        const u32 now = step % 2, before = (step + 1) % 2;
        share = shares + now * (BATCH_ROWS * WORDS) * gridDim.x;
        gram_at = (before * BATCH_ROWS + sample) * SAMPLE_STRIDE + word * 8;
        delta_at = before * Sizes::OWN * SAMPLE_STRIDE + word * 8;
        product_at = ((now * SIBLINGS + word) * PRODUCT_ROWS + sample) * Sizes::OWN;
        hidden_at = (now * (Sizes::OWN + 1) + word) * SAMPLE_STRIDE + sample;
        bias1_at = (step > 0 ? before : 0) * Sizes::OWN + word;
        keep(share);
        keep(gram_at);
        keep(delta_at);
        keep(product_at);
        keep(hidden_at);
        keep(bias1_at);
    }

    // Looks up what the samples of the next steps are, so early that nobody waits for it.
    __device__ __forceinline__ void look_ahead(u32 step) {
        label = next_label;
        next_label = label_of(later_image);
        later_image = image_at(run, step + 2, sample);
    }

    __device__ __forceinline__ u32 label_of(u32 image) const {
        return image != ~0u ? run.labels[image] : ~0u;
    }

    // Hidden values of `step`, from the product that is one update behind. Each lane of a sample
    // takes one sibling's product, and a quarter of the samples whose update is missing.
    __device__ __forceinline__ void hidden_values(u32 step) {
        const float4 *gram = reinterpret_cast<const float4 *>(&shared.gram[0][0][0] + gram_at);
#pragma unroll
        for (u32 set = 0; set < Sizes::SETS; ++set) {
            float4 sums{};
            if (step > 0) {
                float *of_unit[UNIT_SET] = {&sums.x, &sums.y, &sums.z, &sums.w};
                const float *deltas =
                    &shared.delta[0][0][0] + delta_at + set * UNIT_SET * SAMPLE_STRIDE;
#pragma unroll
                for (u32 index = 0; index < 2; ++index) {
#pragma unroll
                    for (u32 unit = 0; unit < UNIT_SET; ++unit) {
                        const float *delta = deltas + unit * SAMPLE_STRIDE;
                        *of_unit[unit] = add_dot(
                            *of_unit[unit], reinterpret_cast<const float4 *>(delta)[index],
                            gram[index]);
                    }
                }
            }
            if (SIBLINGS == WORDS || word < SIBLINGS) {
                const float *product = &shared.product[0][0][0][0] + product_at;
                sums = add_product(sums, PRODUCT_UNIT,
                                   reinterpret_cast<const float4 *>(product)[set]);
            }
            const float bias1 = (&shared.bias1[0][0] + bias1_at)[set * UNIT_SET];
            hidden[set] = relu(sum_of_four_lanes(sums, lane) + bias1);
            (&shared.hidden[0][0][0] + hidden_at)[set * UNIT_SET * SAMPLE_STRIDE] = hidden[set];
        }
    }

    // The block's share of the logits of `step`.
    __device__ __forceinline__ void send_shares(u32 tag) {
        const float *rows = &shared.output[0][0] + output_at;
        float values[WORD_VALUES] = {};
#pragma unroll
        for (u32 set = 0; set < Sizes::SETS; ++set) {
            const u32 first = lane / WORDS * WORDS;
            const float4 of_sample{__shfl_sync(ALL_LANES, hidden[set], first),
                                   __shfl_sync(ALL_LANES, hidden[set], first + 1),
                                   __shfl_sync(ALL_LANES, hidden[set], first + 2),
                                   __shfl_sync(ALL_LANES, hidden[set], first + 3)};
#pragma unroll
            for (u32 index = 0; index < WORD_VALUES; ++index) {
                const float *row = rows + index * Shared<SIBLINGS>::OUTPUT_STRIDE;
                output[set][index] = reinterpret_cast<const float4 *>(row)[set];
                values[index] = add_dot(values[index], of_sample, output[set][index]);
            }
        }
        send(share, values[0], values[1], values[2], tag);
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            bias[index] = rows[index * Shared<SIBLINGS>::OUTPUT_STRIDE + Sizes::OWN];
        }
    }

    // The sample's logits, and with them the deltas: of the logits and of the own units, for this
    // block and for its siblings.
    __device__ __forceinline__ void receive_logits(u32 step, u32 tag) {
        const u32 now = step % 2;
        const Batch batch = batch_of(step, run.batch, run.samples);
        const float rate = part.rate_of(step);
        const bool exists = sample < batch.count;
        const Word *from = sums + now * SUMS_TURN;
        u32 logit_delta_at = (now * CLASS_STRIDE + word * WORD_VALUES) * SAMPLE_STRIDE + sample;
        u32 own_delta_at = (now * Sizes::OWN + word) * SAMPLE_STRIDE + sample;
        Word *sibling_delta = part.delta_word(step, part.sibling, word, sample / 2);
        u32 fragments[Sizes::SETS];
#pragma unroll
        for (u32 set = 0; set < Sizes::SETS; ++set) {
            const u32 unit = part.sibling * Sizes::OWN + set * UNIT_SET + word;
            fragments[set] = fragment_place(step, unit, sample / 2);
            keep(fragments[set]);
        }
        const bool stores_loss = exists && keeps_loss != 0 && label / WORD_VALUES == word;
        loss_place = stores_loss ? batch.first + sample : ~0u;
        keep(loss_place);
        keep(from);
        keep(logit_delta_at);
        keep(own_delta_at);
        keep(sibling_delta);

        const float3 logits = receive(from, tag);
        softmax.of(float3{logits.x + bias[0], logits.y + bias[1], logits.z + bias[2]}, word, label);
#pragma unroll
        for (u32 index = 0; index < WORD_VALUES; ++index) {
            softmax.delta[index] = exists ? softmax.delta[index] : 0.0f;
            (&shared.logit_delta[0][0][0] + logit_delta_at)[index * SAMPLE_STRIDE] =
                softmax.delta[index];
        }
#pragma unroll
        for (u32 set = 0; set < Sizes::SETS; ++set) {
            float4 sums{};
#pragma unroll
            for (u32 index = 0; index < WORD_VALUES; ++index) {
                sums = add_product(sums, softmax.delta[index], output[set][index]);
            }
            const float sum = sum_of_four_lanes(sums, lane);
            const float delta = hidden[set] > 0.0f ? -rate * sum : 0.0f;
            const float neighbour = __shfl_xor_sync(ALL_LANES, delta, WORDS); // next sample's
            (&shared.delta[0][0][0] + own_delta_at)[set * UNIT_SET * SAMPLE_STRIDE] = delta;
            if (sample % 2 == 0) {
                const uint3 parts = cut(delta * DELTA_SCALE, neighbour * DELTA_SCALE);
                if (SIBLINGS > 1) {
                    send(sibling_delta + set * (UNIT_SET * PAIRS), parts, tag);
                }
                store_fragment(shared, fragments[set], parts);
            }
        }
    }

    // Of the last logits that came. Nobody waits for it, so it is left for when there is time.
    __device__ __forceinline__ void store_loss() const {
        if (loss_place != ~0u) {
            run.sample_loss[loss_place] = softmax.loss();
        }
    }
};

template <u32 SIBLINGS>
__device__ __forceinline__ void exchange(const Part<SIBLINGS> &part, u32 thread) {
    const MlpFused &run = part.run;
    ExchangeWarp<SIBLINGS> own{part, run, part.shared};
    own.begin(thread);
    Owner<EXCHANGE_WARPS> owner;
    owner.begin(run.exchange, part.shared.sums, thread, SHARES_SUMMED);
    barrier_sync(STEP_DONE, THREADS);
    for (u32 step = 0; step < run.steps; ++step) {
        const u32 tag = run.first_tag + step;
        own.hidden_values(step);
        if (step > 0) {
            barrier_sync(OUTPUT_UPDATED, OutputUpdate<SIBLINGS>::MEETING);
        }
        own.send_shares(tag);
        owner.reply_all(step, tag, part.block);
        own.store_loss();
        own.look_ahead(step);
        own.find_places(step + 1);
        own.receive_logits(step, tag);
        barrier_sync(STEP_DONE, THREADS);
    }
    own.store_loss();
}
