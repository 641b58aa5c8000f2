// The two sweeps over a row of logits that choosing a token needs. Which id comes out is decided in choice.cpp.
#pragma once

#include "rows.h"

namespace ingot::INGOT_ISA {

// The greatest of every block of choice_block scores. Returns false when a score is NaN (maxima are then void).
inline bool block_maxima(const float* scores, int64_t count, float* maxima) {
  const V least = all(-__builtin_inff());
  V zeros = zero();  // NaN once a score is NaN or infinite
  for (int64_t first = 0; first < count; first += choice_block) {
    V best = least;
    const int64_t left = count - first;
    each_vector(left < choice_block ? left : choice_block, [&](int64_t i, int n) {
      const V x = load_part(scores + first + i, n);
      zeros = fma(x, zero(), zeros);
      best = max(n == lanes ? x : first_lanes(x, n, least), best);
    });
    maxima[first / choice_block] = max(best);
  }
  if (sum(zeros) == 0.0f) return true;
  for (int64_t i = 0; i < count; ++i)
    if (scores[i] != scores[i]) return false;
  return true;
}

// exp((score - top) rate) in whole units, 1 / choice_unit of top's weight each: `weights` of ops/choice.py, the same
// operations in double. Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits; so does adding 2^10,
// whose last place is one unit.
inline void weigh(const float* scores, int64_t count, float top, double rate, int64_t* weight) {
  constexpr double magic = 0x1.8p52, offset = 0x1p10;
  constexpr double taylor[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0};
  for (int64_t i = 0; i < count; ++i) {
    const double scaled = (double(scores[i]) - double(top)) * rate;
    const double below = scores[i] == top ? 0.0 : scaled;
    const double x = below > -700.0 ? below : -700.0;
    const double shifted = x * 1.4426950408889634 + magic;
    const double n = shifted - magic;
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double y = taylor[0];
    for (int c = 1; c < 14; ++c) y = y * r + taylor[c];
    const int64_t whole = __builtin_bit_cast(int64_t, shifted) - __builtin_bit_cast(int64_t, magic);
    y *= __builtin_bit_cast(double, (whole + 1023) << 52);
    weight[i] = __builtin_bit_cast(int64_t, y + offset) - __builtin_bit_cast(int64_t, offset);
  }
}

}  // namespace ingot::INGOT_ISA
