// A decoder layer as one call, without Python between its operations.
#pragma once

#include "table.h"

namespace ingot {

// What both kinds have. A matrix is a Linear without rows; x, y and the number of rows are set where it is used.
struct Layer {
  const float* x;  // [T, D]
  float* y;        // [T, D]
  int64_t tokens;
  const float *mixer_norm, *mlp_norm;  // [D]
  float eps;
  bool one_plus;
  Linear gate, up, down;
};

struct DeltaLayer {
  Layer layer;
  Linear qkv, z, b, a, out;
  DeltaMixer mixer;  // without u, z, b, a, y
};

struct FullLayer {
  Layer layer;
  Linear q, k, v, out;           // q: for each head, E query rows and then E gate rows
  const float *q_norm, *k_norm;  // [E]
  const float *cos, *sin;        // [T, N]
  int64_t pairs;
  Attention attention;  // without q, k, v, o
};

}  // namespace ingot
