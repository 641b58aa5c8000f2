// y = x @ weight.T for bf16 weights and activations. 32 inputs are summed by themselves, even and odd ones apart, and
// even + odd is added to the output: what one matrix instruction does (tiles.h), so every machine gives its bits.
#pragma once

#include "rounded_tile.h"

namespace ingot::INGOT_ISA {

struct Bf16Panels {
  const float* x;  // first row of the tile, first group
  const uint16_t* weight;
  int64_t groups, panel;
  static constexpr int64_t apart = 1;

  // three vectors for each row and panel: even, odd, and the output's own sum
  template <int C>
  static constexpr int tallest = max_rows / (2 * C) > 0 ? max_rows / (2 * C) : 1;

  template <int R, int C>
  void multiply(int64_t row, int64_t p, Groups range, V (&sum)[R][C]) const {
    const uint16_t* w = weight + p * panel;
    for (int64_t g = range.begin; g < range.end; ++g) {
      const int64_t place = (row / row_tile * groups + g) * row_tile + row % row_tile;
      block<R, C>(x + place * group_inputs, w + g * group_inputs * lanes, sum);
    }
  }

  template <int R, int C>
  void block(const float* rows, const uint16_t* w, V (&sum)[R][C]) const {
    const B high = all_bits(int32_t(0xffff0000u));
    V even[R][C], odd[R][C];
    INGOT_UNROLL
    for (int r = 0; r < R; ++r) INGOT_UNROLL
    for (int c = 0; c < C; ++c) even[r][c] = odd[r][c] = zero();
    for (int k = 0; k < group_inputs; k += 2) {
      INGOT_UNROLL
      for (int c = 0; c < C; ++c) {
        const B pairs = load_pairs(w + c * panel + k * lanes);
        const V low = floats(shift_left<16>(pairs)), top = floats(pairs & high);
        INGOT_UNROLL
        for (int r = 0; r < R; ++r) {
          even[r][c] = fma(all(rows[r * group_inputs + k]), low, even[r][c]);
          odd[r][c] = fma(all(rows[r * group_inputs + k + 1]), top, odd[r][c]);
        }
      }
    }
    INGOT_UNROLL
    for (int r = 0; r < R; ++r) INGOT_UNROLL
    for (int c = 0; c < C; ++c) sum[r][c] = sum[r][c] + (even[r][c] + odd[r][c]);
  }
};

inline void bf16_linear(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  const int64_t groups = op.rounded.groups, size = panel_bytes(op.format, op.inputs) / 2;
  const Bf16Panels w{static_cast<const float*>(op.rounded.values) + row * groups * group_inputs,
                     reinterpret_cast<const uint16_t*>(op.weight) + panel * size, groups, size};
  const int64_t depth = rows > row_tile ? chunk_groups : groups;
  for (int64_t g = 0; g < groups; g += depth) {
    const Groups range{g, g + depth < groups ? g + depth : groups};
    const LinearSink sink = linear_sink(op, row, panel, g == 0);
    int64_t p = 0;
    for (; p + 2 <= panels; p += 2) rounded_panels<2>(w, sink, rows, p, range);
    if (p < panels) rounded_panels<1>(w, sink, rows, p, range);
  }
}

}  // namespace ingot::INGOT_ISA
