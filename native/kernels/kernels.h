// The table of one instruction set. Included once, at the end of its translation unit.
#pragma once

#include "attention.h"
#include "attention_pairs.h"
#include "choice.h"
#include "conv.h"
#include "delta.h"
#include "matmul.h"
#include "mixer.h"
#include "quantise.h"
#include "rows.h"

namespace ingot::INGOT_ISA {

#define INGOT_QUOTE_(x) #x
#define INGOT_QUOTE(x) INGOT_QUOTE_(x)

extern const Kernels kernels;
const Kernels kernels{
    INGOT_QUOTE(INGOT_ISA),
    round_rows,
    sizeof(Bf16Value),
    linear,
    quantise,
    rms_norm,
    layer_norm,
    gated_rms_norm,
    l2_norm,
    silu_mul,
    sigmoid_mul,
    gelu_tanh_each,
    gelu_each,
    rope,
    delta_gates,
    causal_conv1d,
    keep_tails,
    gated_delta_rule,
    keep_drafts,
    delta_mixer,
    delta_strips,
    store_keys,
    attention,
    attention_pairs,
    attention_part,
    combine_parts,
    block_maxima,
    weigh,
    exp_each,
    sigmoid_each,
    softplus_each,
};

}  // namespace ingot::INGOT_ISA
