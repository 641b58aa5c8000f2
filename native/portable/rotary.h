// cos and sin of rotary angles. Plain double arithmetic without FMA, so every machine computes the same bits; few
// enough of them (tokens x rotary pairs, once a pass) that vectors would buy nothing.
#pragma once

#include <cstdint>

namespace ingot {

struct SinCos {
  float sin, cos;
};

// Correct to half a ulp or so for |angle| below 2^28; NaN for an infinite angle.
SinCos sin_cos(float angle);

struct Rotary {
  const int32_t* position;  // [3, T]
  const float* inv_freq;    // [N]
  const int32_t* axis;      // [N], each 0, 1 or 2
  float scale;
  float *cos, *sin;  // [T, N]
  int64_t tokens, pairs;
};

void fill_rotary(const Rotary& op, int64_t token, int64_t tokens);

}  // namespace ingot
