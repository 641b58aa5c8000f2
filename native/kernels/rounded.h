// Activations as the kernels of bf16, q8 and q4 read them (Rounded in table.h).
#pragma once

#include "rows.h"

namespace ingot::INGOT_ISA {

#ifdef INGOT_TILES
using Bf16Value = uint16_t;  // matrix instructions read pairs
#else
using Bf16Value = float;  // already widened: the kernel broadcasts it
#endif

inline B magnitude(V x) { return bits(x) & all_bits(0x7fffffff); }

// The nearest bf16, ties to even, widened. Subnormal results are zeros, as matrix instructions have it; NaN stays NaN.
inline V round_bf16(V x) {
  const B odd = shift_right<16>(bits(x)) & all_bits(1);
  const V nearest = floats((bits(x) + odd + all_bits(0x7fff)) & all_bits(int32_t(0xffff0000u)));
  const V infinity = floats(all_bits(0x7f800000));
  const V whole = if_greater(infinity, floats(magnitude(x)), nearest, x + x);  // x + x: a NaN whose top bits tell
  return if_greater(all(1.17549435e-38f), floats(magnitude(whole)), zero(), whole);
}

inline void store_bf16(float* to, V x) { store(to, x); }
inline void store_bf16(uint16_t* to, V x) { store_high_halves(to, bits(x)); }

// The nearest integer of |x| < 2^22, ties to even.
inline B round_int(V x) {
  const V magic = all(12582912.0f);
  return bits(x + magic) - bits(magic);
}

// 32 values of one row as int8, their scale and their total. The scale is the largest magnitude / 127; where that is
// a NaN or infinity, so is the scale, and every output it reaches is a NaN. Below 1e-30 all are zeros: 127 / it would
// overflow.
inline void round_group(V low, V high, int8_t* values, float* scale, int32_t* total) {
  const int32_t largest = max(max(magnitude(low), magnitude(high)));  // integers order NaN above infinity
  float top;
  __builtin_memcpy(&top, &largest, sizeof top);
  const bool none = top < 1e-30f;
  *scale = none ? 0.0f : top / 127.0f;
  const V times = all(none ? 0.0f : 127.0f / top);
  const B a = round_int(low * times), b = round_int(high * times);
  store_low_bytes(values, a);
  store_low_bytes(values + lanes, b);
  *total = sum(a + b);
}

// 16 inputs of one row; those past the end are zeros.
inline V input_at(const Linear& op, int64_t row, int64_t k) {
  const int64_t left = op.inputs - k, at = row * op.inputs + k;
  if (left <= 0) return zero();
  const int n = left < lanes ? int(left) : lanes;
  const V x = load_part(op.x + at, n);
  if (!op.gate) return x;
  return silu(load_part(op.gate + at, n)) * x;
}

// Rows tile * 16 .. of x. Inputs past the end count as zeros; rows past the end get the scale zero.
inline void round_rows(const Linear& op, int64_t tile) {
  const int64_t first = tile * row_tile, left = op.rows - first, rows = left < row_tile ? left : row_tile;
  const int64_t groups = op.rounded.groups;
  if (op.format != Format::bf16)
    for (int64_t place = tile * groups * row_tile; place < (tile + 1) * groups * row_tile; ++place)
      if (place % row_tile >= rows) op.rounded.scale[place] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t k = g * group_inputs, place = (tile * groups + g) * row_tile + r;
      V part[2];
      for (int i = 0; i < 2; ++i) part[i] = input_at(op, first + r, k + i * lanes);
      if (op.format == Format::bf16) {
        Bf16Value* to = static_cast<Bf16Value*>(op.rounded.values) + place * group_inputs;
        for (int i = 0; i < 2; ++i) store_bf16(to + i * lanes, round_bf16(part[i]));
      } else {
        int8_t* to = static_cast<int8_t*>(op.rounded.values) + place * group_inputs;
        round_group(part[0], part[1], to, op.rounded.scale + place, op.rounded.total + place);
      }
    }
  }
}

}  // namespace ingot::INGOT_ISA
