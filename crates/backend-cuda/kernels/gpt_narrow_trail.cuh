// What the step of a narrow model leaves for the gradients of its weights.
#pragma once
#include "gpt.cuh"

// (rows, width) unless said.
struct NarrowTrail {
    bf16 *one_hot;       // (rows, 128): 1 at the row's token
    bf16 *normal;        // 2 layers + 1
    bf16 *attended;      // layers
    bf16 *active;        // layers: (rows, wide)
    bf16 *x_delta;       // 2 layers + 1
    bf16 *up_delta;      // layers: (rows, wide)
    bf16 *packed_delta;  // layers: (rows, packed)
    bf16 *logits_delta;  // (rows, 128)
    float *gain_partial; // 2 layers + 1: (blocks, width)
    float *losses;       // (rows)
};
