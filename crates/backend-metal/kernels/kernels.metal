// naga's translation of kernels.wgsl: not written by hand, kept equal by the tests of
// src/mps/translation.rs, which also say how to write it anew.
// language: metal2.4
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size2;
    uint size3;
    uint size4;
    uint size5;
    uint size6;
    uint size7;
    uint size8;
    uint size9;
    uint size10;
    uint size11;
    uint size12;
    uint size13;
    uint size14;
    uint size15;
    uint size16;
    uint size17;
    uint size18;
};

struct Arguments {
    uint first;
    uint step;
    uint rows;
    uint columns;
    float factor;
};
typedef uint type_2[1];
typedef float type_3[1];
typedef metal::float4 type_5[1];
struct type_6 {
    float inner[640];
};
struct type_10 {
    float inner[10];
};
struct type_11 {
    float inner[4];
};
constant uint WORDS = 196u;
constant uint CLASSES = 10u;
constant uint TOKENS = 49u;
constant uint FILTERS = 8u;
constant uint PLACES = 196u;
constant uint POOLED = 1568u;
constant uint SIDE = 28u;

float relu(
    float value
) {
    return (value <= 0.0) ? 0.0 : value;
}

metal::float4 pixels_of(
    uint word
) {
    return static_cast<metal::float4>((metal::uint4(word) >> metal::uint4(0u, 8u, 16u, 24u)) & metal::uint4(255u)) / metal::float4(255.0);
}

float pixel(
    uint image,
    uint line,
    uint column,
    device type_3 const& input,
    constant _mslBufferSizes& _buffer_sizes
) {
    bool local_1 = {};
    bool local_2 = {};
    bool local_3 = {};
    if (line >= 1u) {
        local_1 = line <= SIDE;
    } else {
        local_1 = false;
    }
    bool _e10 = local_1;
    if (_e10) {
        local_2 = column >= 1u;
    } else {
        local_2 = false;
    }
    bool _e16 = local_2;
    if (_e16) {
        local_3 = column <= SIDE;
    } else {
        local_3 = false;
    }
    bool inside = local_3;
    uint at = ((image + ((metal::max(line, 1u) - 1u) * SIDE)) + metal::max(column, 1u)) - 1u;
    float _e38 = input[inside ? at : image];
    return inside ? _e38 : 0.0;
}

struct gatherInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void gather(
  metal::uint3 id [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_2 const& words [[buffer(0)]]
, device type_2 const& order [[buffer(1)]]
, device type_5& gathered [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint row_2 = id.x / WORDS;
    uint _e6 = arguments.rows;
    if (row_2 < _e6) {
        uint _e11 = arguments.first;
        uint sample = order[_e11 + row_2];
        uint _e26 = words[(sample * WORDS) + (id.x % WORDS)];
        metal::float4 _e27 = pixels_of(_e26);
        gathered[id.x] = _e27;
        return;
    } else {
        return;
    }
}


struct gather_patchesInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void gather_patches(
  metal::uint3 id_1 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_2 const& words [[buffer(0)]]
, device type_2 const& order [[buffer(1)]]
, device type_5& gathered [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint row_3 = id_1.x / WORDS;
    uint _e6 = arguments.rows;
    if (row_3 < _e6) {
        uint _e11 = arguments.first;
        uint sample_1 = order[_e11 + row_3];
        uint word_1 = id_1.x % WORDS;
        uint line_1 = word_1 / 7u;
        uint token_1 = ((line_1 / 4u) * 7u) + (word_1 % 7u);
        uint _e42 = words[(sample_1 * WORDS) + word_1];
        metal::float4 _e43 = pixels_of(_e42);
        gathered[((row_3 * WORDS) + (token_1 * 4u)) + (line_1 % 4u)] = _e43;
        return;
    } else {
        return;
    }
}


struct biasInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void bias(
  metal::uint3 id_2 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3& values [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint _e4 = arguments.rows;
    uint _e7 = arguments.columns;
    if (id_2.x < (_e4 * _e7)) {
        float _e13 = values[id_2.x];
        uint _e18 = arguments.columns;
        float _e21 = second[id_2.x % _e18];
        values[id_2.x] = _e13 + _e21;
        return;
    } else {
        return;
    }
}


struct bias_reluInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void bias_relu(
  metal::uint3 id_3 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3& values [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint _e4 = arguments.rows;
    uint _e7 = arguments.columns;
    if (id_3.x < (_e4 * _e7)) {
        float _e16 = values[id_3.x];
        uint _e21 = arguments.columns;
        float _e24 = second[id_3.x % _e21];
        float _e26 = relu(_e16 + _e24);
        values[id_3.x] = _e26;
        return;
    } else {
        return;
    }
}


struct bias_position_reluInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void bias_position_relu(
  metal::uint3 id_4 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3& values [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, device type_3 const& third [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint _e4 = arguments.rows;
    uint _e7 = arguments.columns;
    if (id_4.x < (_e4 * _e7)) {
        uint _e15 = arguments.columns;
        float position = third[id_4.x % (TOKENS * _e15)];
        float _e26 = values[id_4.x];
        uint _e31 = arguments.columns;
        float _e34 = second[id_4.x % _e31];
        float _e37 = relu((_e26 + _e34) + position);
        values[id_4.x] = _e37;
        return;
    } else {
        return;
    }
}


struct relu_backInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void relu_back(
  metal::uint3 id_5 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3& values [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint _e4 = arguments.rows;
    uint _e7 = arguments.columns;
    if (id_5.x < (_e4 * _e7)) {
        float _e16 = values[id_5.x];
        float _e20 = second[id_5.x];
        values[id_5.x] = (_e20 <= 0.0) ? 0.0 : _e16;
        return;
    } else {
        return;
    }
}


struct step_columnsInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void step_columns(
  metal::uint3 workgroup [[threadgroup_position_in_grid]]
, uint thread_ [[thread_index_in_threadgroup]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3 const& input [[buffer(0)]]
, device type_3& output [[buffer(1)]]
, threadgroup type_6& exchange
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    float sum = 0.0;
    uint row = {};
    bool local = {};
    uint other = 1u;
    uint column_1 = (workgroup.x * 16u) + (thread_ % 16u);
    uint _e12 = arguments.columns;
    if (column_1 < _e12) {
        row = thread_ / 16u;
        bool loop_init = true;
        while(true) {
            if (!loop_init) {
                uint _e33 = row;
                row = _e33 + 16u;
            }
            loop_init = false;
            uint _e17 = row;
            uint _e20 = arguments.rows;
            if (_e17 < _e20) {
            } else {
                break;
            }
            {
                float _e22 = sum;
                uint _e24 = row;
                uint _e27 = arguments.columns;
                float _e31 = input[(_e24 * _e27) + column_1];
                sum = _e22 + _e31;
            }
        }
    }
    float _e38 = sum;
    exchange.inner[thread_] = _e38;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    if (thread_ < 16u) {
        uint _e45 = arguments.columns;
        local = column_1 < _e45;
    } else {
        local = false;
    }
    bool _e48 = local;
    if (_e48) {
        bool loop_init_1 = true;
        while(true) {
            if (!loop_init_1) {
                uint _e64 = other;
                other = _e64 + 1u;
            }
            loop_init_1 = false;
            uint _e51 = other;
            if (_e51 < 16u) {
            } else {
                break;
            }
            {
                float _e54 = sum;
                uint _e56 = other;
                float _e61 = exchange.inner[(_e56 * 16u) + thread_];
                sum = _e54 + _e61;
            }
        }
        float _e68 = output[column_1];
        float _e71 = arguments.factor;
        float _e72 = sum;
        output[column_1] = _e68 - (_e71 * _e72);
        return;
    } else {
        return;
    }
}


struct cross_entropyInput {
};
[[max_total_threads_per_threadgroup(64)]] kernel void cross_entropy(
  metal::uint3 id_6 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3& values [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, device type_2 const& labels [[buffer(2)]]
, device type_2 const& order_of_labels [[buffer(3)]]
, device type_3& sample_losses [[buffer(4)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    type_10 logits = {};
    uint digit = 0u;
    float largest = {};
    uint digit_1 = 1u;
    float sum_1 = 0.0;
    uint digit_2 = 0u;
    uint digit_3 = 0u;
    uint row_4 = id_6.x;
    uint _e4 = arguments.rows;
    if (row_4 >= _e4) {
        return;
    }
    uint _e9 = arguments.first;
    uint sample_2 = order_of_labels[_e9 + row_4];
    uint _e17 = labels[sample_2 / 4u];
    uint label = (_e17 >> ((sample_2 % 4u) * 8u)) & 255u;
    bool loop_init_2 = true;
    while(true) {
        if (!loop_init_2) {
            uint _e46 = digit;
            digit = _e46 + 1u;
        }
        loop_init_2 = false;
        uint _e28 = digit;
        if (_e28 < CLASSES) {
        } else {
            break;
        }
        {
            uint _e31 = digit;
            uint _e36 = digit;
            float _e39 = values[(row_4 * CLASSES) + _e36];
            uint _e41 = digit;
            float _e43 = second[_e41];
            logits.inner[_e31] = _e39 + _e43;
        }
    }
    float _e49 = logits.inner[0];
    largest = _e49;
    bool loop_init_3 = true;
    while(true) {
        if (!loop_init_3) {
            uint _e62 = digit_1;
            digit_1 = _e62 + 1u;
        }
        loop_init_3 = false;
        uint _e53 = digit_1;
        if (_e53 < CLASSES) {
        } else {
            break;
        }
        {
            float _e56 = largest;
            uint _e57 = digit_1;
            float _e59 = logits.inner[_e57];
            largest = metal::max(_e56, _e59);
        }
    }
    float _e65 = logits.inner[label];
    float _e66 = largest;
    float at_label = _e65 - _e66;
    bool loop_init_4 = true;
    while(true) {
        if (!loop_init_4) {
            uint _e89 = digit_2;
            digit_2 = _e89 + 1u;
        }
        loop_init_4 = false;
        uint _e72 = digit_2;
        if (_e72 < CLASSES) {
        } else {
            break;
        }
        {
            uint _e75 = digit_2;
            uint _e77 = digit_2;
            float _e79 = logits.inner[_e77];
            float _e80 = largest;
            logits.inner[_e75] = metal::exp(_e79 - _e80);
            float _e83 = sum_1;
            uint _e84 = digit_2;
            float _e86 = logits.inner[_e84];
            sum_1 = _e83 + _e86;
        }
    }
    bool loop_init_5 = true;
    while(true) {
        if (!loop_init_5) {
            uint _e114 = digit_3;
            digit_3 = _e114 + 1u;
        }
        loop_init_5 = false;
        uint _e93 = digit_3;
        if (_e93 < CLASSES) {
        } else {
            break;
        }
        {
            uint _e96 = digit_3;
            float hit = (_e96 == label) ? 1.0 : 0.0;
            uint _e104 = digit_3;
            uint _e107 = digit_3;
            float _e109 = logits.inner[_e107];
            float _e110 = sum_1;
            values[(row_4 * CLASSES) + _e104] = (_e109 / _e110) - hit;
        }
    }
    float _e118 = sum_1;
    sample_losses[row_4] = metal::log(_e118) - at_label;
    return;
}


struct mean_lossInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void mean_loss(
  uint thread_1 [[thread_index_in_threadgroup]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3 const& input [[buffer(0)]]
, device type_3& output [[buffer(1)]]
, threadgroup type_6& exchange
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    float sum_2 = 0.0;
    uint row_1 = {};
    uint other_1 = 1u;
    row_1 = thread_1;
    bool loop_init_6 = true;
    while(true) {
        if (!loop_init_6) {
            uint _e15 = row_1;
            row_1 = _e15 + 256u;
        }
        loop_init_6 = false;
        uint _e4 = row_1;
        uint _e7 = arguments.rows;
        if (_e4 < _e7) {
        } else {
            break;
        }
        {
            float _e9 = sum_2;
            uint _e11 = row_1;
            float _e13 = input[_e11];
            sum_2 = _e9 + _e13;
        }
    }
    float _e20 = sum_2;
    exchange.inner[thread_1] = _e20;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    if (thread_1 == 0u) {
        bool loop_init_7 = true;
        while(true) {
            if (!loop_init_7) {
                uint _e39 = other_1;
                other_1 = _e39 + 1u;
            }
            loop_init_7 = false;
            uint _e25 = other_1;
            uint _e29 = arguments.rows;
            if (_e25 < metal::min(256u, _e29)) {
            } else {
                break;
            }
            {
                float _e32 = sum_2;
                uint _e34 = other_1;
                float _e36 = exchange.inner[_e34];
                sum_2 = _e32 + _e36;
            }
        }
        uint _e44 = arguments.step;
        float _e46 = sum_2;
        uint _e49 = arguments.rows;
        output[_e44] = _e46 / static_cast<float>(_e49);
        return;
    } else {
        return;
    }
}


struct predictInput {
};
[[max_total_threads_per_threadgroup(64)]] kernel void predict(
  metal::uint3 id_7 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3 const& input [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, device type_2& predicted [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint best = 0u;
    float largest_1 = {};
    uint digit_4 = 1u;
    uint _e4 = arguments.rows;
    if (id_7.x >= _e4) {
        return;
    }
    float _e13 = input[id_7.x * CLASSES];
    float _e16 = second[0];
    largest_1 = _e13 + _e16;
    bool loop_init_8 = true;
    while(true) {
        if (!loop_init_8) {
            uint _e41 = digit_4;
            digit_4 = _e41 + 1u;
        }
        loop_init_8 = false;
        uint _e21 = digit_4;
        if (_e21 < CLASSES) {
        } else {
            break;
        }
        {
            uint _e28 = digit_4;
            float _e31 = input[(id_7.x * CLASSES) + _e28];
            uint _e33 = digit_4;
            float _e35 = second[_e33];
            float logit = _e31 + _e35;
            float _e37 = largest_1;
            if (logit > _e37) {
                uint _e39 = digit_4;
                best = _e39;
                largest_1 = logit;
            }
        }
    }
    uint _e46 = best;
    predicted[id_7.x] = _e46;
    return;
}


struct convolveInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void convolve(
  metal::uint3 id_8 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3 const& input [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, device type_3 const& third [[buffer(2)]]
, device type_3& pooled [[buffer(3)]]
, device type_2& choices [[buffer(4)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    type_11 sums = {};
    uint corner = 0u;
    uint tap = 0u;
    uint corner_1 = {};
    float largest_2 = {};
    uint choice = 0u;
    uint corner_2 = 1u;
    uint row_5 = id_8.x / POOLED;
    uint _e6 = arguments.rows;
    if (row_5 >= _e6) {
        return;
    }
    uint filter_index = (id_8.x % POOLED) / PLACES;
    uint place_1 = id_8.x % PLACES;
    uint line_2 = (place_1 / 14u) * 2u;
    uint column_2 = (place_1 % 14u) * 2u;
    bool loop_init_9 = true;
    while(true) {
        if (!loop_init_9) {
            uint _e36 = corner;
            corner = _e36 + 1u;
        }
        loop_init_9 = false;
        uint _e27 = corner;
        if (_e27 < 4u) {
        } else {
            break;
        }
        {
            uint _e30 = corner;
            float _e34 = third[filter_index];
            sums.inner[_e30] = _e34;
        }
    }
    bool loop_init_10 = true;
    while(true) {
        if (!loop_init_10) {
            uint _e86 = tap;
            tap = _e86 + 1u;
        }
        loop_init_10 = false;
        uint _e40 = tap;
        if (_e40 < 9u) {
        } else {
            break;
        }
        {
            uint _e46 = tap;
            float weight_1 = second[(filter_index * 9u) + _e46];
            corner_1 = 0u;
            bool loop_init_11 = true;
            while(true) {
                if (!loop_init_11) {
                    uint _e83 = corner_1;
                    corner_1 = _e83 + 1u;
                }
                loop_init_11 = false;
                uint _e52 = corner_1;
                if (_e52 < 4u) {
                } else {
                    break;
                }
                {
                    uint _e55 = tap;
                    uint _e58 = corner_1;
                    uint down = (_e55 / 3u) + (_e58 / 2u);
                    uint _e62 = tap;
                    uint _e65 = corner_1;
                    uint right = (_e62 % 3u) + (_e65 % 2u);
                    uint _e69 = corner_1;
                    float _e77 = pixel((row_5 * SIDE) * SIDE, line_2 + down, column_2 + right, input, _buffer_sizes);
                    uint _e78 = corner_1;
                    float _e80 = sums.inner[_e78];
                    sums.inner[_e69] = metal::fma(weight_1, _e77, _e80);
                }
            }
        }
    }
    float _e89 = sums.inner[0];
    largest_2 = _e89;
    bool loop_init_12 = true;
    while(true) {
        if (!loop_init_12) {
            uint _e108 = corner_2;
            corner_2 = _e108 + 1u;
        }
        loop_init_12 = false;
        uint _e95 = corner_2;
        if (_e95 < 4u) {
        } else {
            break;
        }
        {
            uint _e98 = corner_2;
            float _e100 = sums.inner[_e98];
            float _e101 = largest_2;
            if (_e100 > _e101) {
                uint _e103 = corner_2;
                float _e105 = sums.inner[_e103];
                largest_2 = _e105;
                uint _e106 = corner_2;
                choice = _e106;
            }
        }
    }
    float _e113 = largest_2;
    float _e114 = relu(_e113);
    pooled[id_8.x] = _e114;
    uint _e118 = choice;
    float _e121 = largest_2;
    choices[id_8.x] = _e118 + ((_e121 <= 0.0) ? 0u : 4u);
    return;
}


struct convolve_backInput {
};
[[max_total_threads_per_threadgroup(64)]] kernel void convolve_back(
  metal::uint3 workgroup_1 [[threadgroup_position_in_grid]]
, uint thread_2 [[thread_index_in_threadgroup]]
, device type_3 const& input [[buffer(0)]]
, device type_2 const& choices_kept [[buffer(1)]]
, device type_3 const& third [[buffer(2)]]
, device type_3& weight_shares [[buffer(3)]]
, device type_3& bias_shares [[buffer(4)]]
, threadgroup type_6& exchange
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    type_10 sums_1 = {};
    uint place = {};
    uint tap_1 = {};
    uint tap_2 = 0u;
    float sum_3 = 0.0;
    uint other_2 = 0u;
    uint row_6 = workgroup_1.x / FILTERS;
    place = thread_2;
    bool loop_init_13 = true;
    while(true) {
        if (!loop_init_13) {
            uint _e71 = place;
            place = _e71 + 64u;
        }
        loop_init_13 = false;
        uint _e7 = place;
        if (_e7 < PLACES) {
        } else {
            break;
        }
        {
            uint _e13 = place;
            uint at_1 = (workgroup_1.x * PLACES) + _e13;
            uint choice_1 = choices_kept[at_1];
            if (choice_1 >= 4u) {
                float gradient_1 = third[at_1];
                uint _e23 = place;
                uint line_3 = ((_e23 / 14u) * 2u) + ((choice_1 - 4u) / 2u);
                uint _e33 = place;
                uint column_3 = ((_e33 % 14u) * 2u) + (choice_1 % 2u);
                tap_1 = 0u;
                bool loop_init_14 = true;
                while(true) {
                    if (!loop_init_14) {
                        uint _e66 = tap_1;
                        tap_1 = _e66 + 1u;
                    }
                    loop_init_14 = false;
                    uint _e43 = tap_1;
                    if (_e43 < 9u) {
                    } else {
                        break;
                    }
                    {
                        uint _e50 = tap_1;
                        uint _e54 = tap_1;
                        float _e58 = pixel((row_6 * SIDE) * SIDE, line_3 + (_e50 / 3u), column_3 + (_e54 % 3u), input, _buffer_sizes);
                        uint _e59 = tap_1;
                        uint _e61 = tap_1;
                        float _e63 = sums_1.inner[_e61];
                        sums_1.inner[_e59] = metal::fma(gradient_1, _e58, _e63);
                    }
                }
                float _e69 = sums_1.inner[9];
                sums_1.inner[9] = _e69 + gradient_1;
            }
        }
    }
    bool loop_init_15 = true;
    while(true) {
        if (!loop_init_15) {
            uint _e89 = tap_2;
            tap_2 = _e89 + 1u;
        }
        loop_init_15 = false;
        uint _e76 = tap_2;
        if (_e76 < 10u) {
        } else {
            break;
        }
        {
            uint _e82 = tap_2;
            uint _e85 = tap_2;
            float _e87 = sums_1.inner[_e85];
            exchange.inner[(thread_2 * 10u) + _e82] = _e87;
        }
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    if (thread_2 < 10u) {
        bool loop_init_16 = true;
        while(true) {
            if (!loop_init_16) {
                uint _e110 = other_2;
                other_2 = _e110 + 1u;
            }
            loop_init_16 = false;
            uint _e97 = other_2;
            if (_e97 < 64u) {
            } else {
                break;
            }
            {
                float _e100 = sum_3;
                uint _e102 = other_2;
                float _e107 = exchange.inner[(_e102 * 10u) + thread_2];
                sum_3 = _e100 + _e107;
            }
        }
        if (thread_2 < 9u) {
            float _e120 = sum_3;
            weight_shares[(workgroup_1.x * 9u) + thread_2] = _e120;
            return;
        } else {
            float _e124 = sum_3;
            bias_shares[workgroup_1.x] = _e124;
            return;
        }
    } else {
        return;
    }
}


struct softmaxInput {
};
[[max_total_threads_per_threadgroup(64)]] kernel void softmax(
  metal::uint3 workgroup_2 [[threadgroup_position_in_grid]]
, uint thread_3 [[thread_index_in_threadgroup]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3& values [[buffer(0)]]
, threadgroup type_6& exchange
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    float score = 0.0;
    float largest_3 = {};
    uint other_3 = 1u;
    float sum_4 = 0.0;
    uint other_4 = 0u;
    uint _e5 = arguments.columns;
    uint at_2 = (workgroup_2.x * _e5) + thread_3;
    uint _e10 = arguments.columns;
    bool inside_1 = thread_3 < _e10;
    if (inside_1) {
        float _e16 = values[at_2];
        score = _e16;
    }
    float _e19 = score;
    exchange.inner[thread_3] = _e19;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    float _e22 = exchange.inner[0];
    largest_3 = _e22;
    bool loop_init_17 = true;
    while(true) {
        if (!loop_init_17) {
            uint _e38 = other_3;
            other_3 = _e38 + 1u;
        }
        loop_init_17 = false;
        uint _e26 = other_3;
        uint _e29 = arguments.columns;
        if (_e26 < _e29) {
        } else {
            break;
        }
        {
            float _e31 = largest_3;
            uint _e33 = other_3;
            float _e35 = exchange.inner[_e33];
            largest_3 = metal::max(_e31, _e35);
        }
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    float _e40 = score;
    float _e41 = largest_3;
    float weight_2 = metal::exp(_e40 - _e41);
    exchange.inner[thread_3] = weight_2;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    bool loop_init_18 = true;
    while(true) {
        if (!loop_init_18) {
            uint _e62 = other_4;
            other_4 = _e62 + 1u;
        }
        loop_init_18 = false;
        uint _e50 = other_4;
        uint _e53 = arguments.columns;
        if (_e50 < _e53) {
        } else {
            break;
        }
        {
            float _e55 = sum_4;
            uint _e57 = other_4;
            float _e59 = exchange.inner[_e57];
            sum_4 = _e55 + _e59;
        }
    }
    if (inside_1) {
        float _e66 = sum_4;
        values[at_2] = weight_2 / _e66;
        return;
    } else {
        return;
    }
}


struct softmax_backInput {
};
[[max_total_threads_per_threadgroup(64)]] kernel void softmax_back(
  metal::uint3 workgroup_3 [[threadgroup_position_in_grid]]
, uint thread_4 [[thread_index_in_threadgroup]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3& values [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, threadgroup type_6& exchange
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    float gradient = 0.0;
    float weight = 0.0;
    float sum_5 = 0.0;
    uint other_5 = 0u;
    uint _e5 = arguments.columns;
    uint at_3 = (workgroup_3.x * _e5) + thread_4;
    uint _e10 = arguments.columns;
    bool inside_2 = thread_4 < _e10;
    if (inside_2) {
        float _e18 = values[at_3];
        gradient = _e18;
        float _e21 = second[at_3];
        weight = _e21;
    }
    float _e24 = gradient;
    float _e25 = weight;
    exchange.inner[thread_4] = _e24 * _e25;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    bool loop_init_19 = true;
    while(true) {
        if (!loop_init_19) {
            uint _e43 = other_5;
            other_5 = _e43 + 1u;
        }
        loop_init_19 = false;
        uint _e31 = other_5;
        uint _e34 = arguments.columns;
        if (_e31 < _e34) {
        } else {
            break;
        }
        {
            float _e36 = sum_5;
            uint _e38 = other_5;
            float _e40 = exchange.inner[_e38];
            sum_5 = _e36 + _e40;
        }
    }
    if (inside_2) {
        float _e47 = weight;
        float _e48 = gradient;
        float _e49 = sum_5;
        values[at_3] = _e47 * (_e48 - _e49);
        return;
    } else {
        return;
    }
}


struct mean_tokensInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void mean_tokens(
  metal::uint3 id_9 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3 const& input [[buffer(0)]]
, device type_3& output [[buffer(1)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    float sum_6 = 0.0;
    uint token = 0u;
    uint _e4 = arguments.rows;
    uint _e7 = arguments.columns;
    if (id_9.x < (_e4 * _e7)) {
        uint _e13 = arguments.columns;
        uint _e19 = arguments.columns;
        uint _e24 = arguments.columns;
        uint first = (((id_9.x / _e13) * TOKENS) * _e19) + (id_9.x % _e24);
        bool loop_init_20 = true;
        while(true) {
            if (!loop_init_20) {
                uint _e46 = token;
                token = _e46 + 1u;
            }
            loop_init_20 = false;
            uint _e31 = token;
            if (_e31 < TOKENS) {
            } else {
                break;
            }
            {
                float _e34 = sum_6;
                uint _e36 = token;
                uint _e39 = arguments.columns;
                float _e43 = input[first + (_e36 * _e39)];
                sum_6 = _e34 + _e43;
            }
        }
        float _e51 = sum_6;
        output[id_9.x] = _e51 / 49.0;
        return;
    } else {
        return;
    }
}


struct mean_tokens_backInput {
};
[[max_total_threads_per_threadgroup(256)]] kernel void mean_tokens_back(
  metal::uint3 id_10 [[thread_position_in_grid]]
, constant Arguments& arguments [[buffer(8)]]
, device type_3 const& input [[buffer(0)]]
, device type_3 const& second [[buffer(1)]]
, device type_3& by_wide [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(9)]]
) {
    uint _e4 = arguments.rows;
    uint _e9 = arguments.columns;
    if (id_10.x < ((_e4 * TOKENS) * _e9)) {
        uint _e16 = arguments.columns;
        uint row_7 = id_10.x / (TOKENS * _e16);
        uint _e22 = arguments.columns;
        uint _e27 = arguments.columns;
        float _e31 = second[(row_7 * _e22) + (id_10.x % _e27)];
        float gradient_2 = _e31 / 49.0;
        float _e40 = input[id_10.x];
        by_wide[id_10.x] = (_e40 <= 0.0) ? 0.0 : gradient_2;
        return;
    } else {
        return;
    }
}
