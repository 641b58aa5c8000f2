// Products of bf16 rows with bf16 panels of 16 outputs, summed as Intel's AMX sums them: K goes in blocks of 32, and
// each adds (even + odd) to the sum, two chains of fused multiply-adds over its even and its odd k that begin at zero.
// AMX has no subnormal numbers; numbers here are zero or at least 2^-56, so that products and their sums are zero or
// normal, and every instruction set gives the same bits. Nothing is ever -0, so a term of zero changes no sum.
#pragma once

#include "rounded.h"
#include "tile.h"

namespace ingot::INGOT_ISA {

// x as the nearest bf16, ties to even; zero below 2^-56. A NaN stays one: adding zero makes it quiet, so that cutting
// off its low bits cannot leave an infinity.
inline V to_bf16(V x) {
  x = x + zero();
  const B b = bits(x), high = all_bits(int32_t(0xffff0000u));
  const V size = floats(b & all_bits(0x7fffffff));
  const V nearest = floats((b + all_bits(0x7fff) + (shift_right<16>(b) & all_bits(1))) & high);
  const V finite = if_greater(floats(all_bits(0x7f800000)), size, nearest, floats(b & high));
  return if_greater(floats(all_bits(0x23800000)), size, zero(), finite);
}

// The left operand: rows of rounded values as the instruction set likes them (rounded.h).
using Left = Bf16Value;

// Where sums go: [rows, stride], with room for whole tiles of 16 rows.
struct PairSums {
  float* y;
  int64_t stride;
  float* at(int64_t row, int64_t panel) const { return y + row * stride + panel * lanes; }
};

#ifndef INGOT_TILES

struct PairTiles {};  // nothing to set up

template <int R, int C>
inline void pair_tile(const Left* a, int64_t stride, const uint16_t* w, int64_t panel, int64_t blocks,
                      const PairSums& sums, int64_t row, int64_t p) {
  V sum[R][C];
  INGOT_UNROLL
  for (int r = 0; r < R; ++r) INGOT_UNROLL
  for (int c = 0; c < C; ++c) sum[r][c] = zero();
  const B high = all_bits(int32_t(0xffff0000u));
  for (int64_t block = 0; block < blocks; ++block) {
    V even[R][C], odd[R][C];
    INGOT_UNROLL
    for (int r = 0; r < R; ++r) INGOT_UNROLL
    for (int c = 0; c < C; ++c) even[r][c] = odd[r][c] = zero();
    for (int64_t k = block * group_inputs; k < (block + 1) * group_inputs; k += 2) {
      V low[C], up[C];
      INGOT_UNROLL
      for (int c = 0; c < C; ++c) {
        const B both = load_pairs(w + (p + c) * panel + k * lanes);
        low[c] = floats(shift_left<16>(both));
        up[c] = floats(both & high);
      }
      INGOT_UNROLL
      for (int r = 0; r < R; ++r) {
        const V first = all(a[(row + r) * stride + k]), second = all(a[(row + r) * stride + k + 1]);
        INGOT_UNROLL
        for (int c = 0; c < C; ++c) {
          even[r][c] = fma(first, low[c], even[r][c]);
          odd[r][c] = fma(second, up[c], odd[r][c]);
        }
      }
    }
    INGOT_UNROLL
    for (int r = 0; r < R; ++r) INGOT_UNROLL
    for (int c = 0; c < C; ++c) sum[r][c] = sum[r][c] + (even[r][c] + odd[r][c]);
  }
  INGOT_UNROLL
  for (int r = 0; r < R; ++r) INGOT_UNROLL
  for (int c = 0; c < C; ++c) store(sums.at(row + r, p + c), sum[r][c]);
}

template <int R>
inline void pair_rows(int rows, const Left* a, int64_t stride, const uint16_t* w, int64_t panel, int64_t panels,
                      int64_t blocks, const PairSums& sums, int64_t row) {
  if (rows == R) {
    constexpr int wide = panels_for(2 * R);  // two chains an output
    int64_t p = 0;
    for (; p + wide <= panels; p += wide) pair_tile<R, wide>(a, stride, w, panel, blocks, sums, row, p);
    for (; p < panels; ++p) pair_tile<R, 1>(a, stride, w, panel, blocks, sums, row, p);
    return;
  }
  if constexpr (R > 1) pair_rows<R - 1>(rows, a, stride, w, panel, panels, blocks, sums, row);
}

// The sums of `rows` rows of a [rows, 32 blocks] with the panels of w [panels, 16 blocks, 16, 2]; `stride` and `panel`
// are the distances between rows and between panels.
inline void multiply_pairs(const Left* a, int64_t stride, int64_t rows, const uint16_t* w, int64_t panel,
                           int64_t panels, int64_t blocks, const PairSums& sums) {
  constexpr int most = max_rows / 2;
  const int64_t tiles = (rows + most - 1) / most;
  for (int64_t t = 0, row = 0; t < tiles; ++t) {
    const int64_t end = rows * (t + 1) / tiles;
    pair_rows<most>(int(end - row), a, stride, w, panel, panels, blocks, sums, row);
    row = end;
  }
}

#endif

}  // namespace ingot::INGOT_ISA

#ifdef INGOT_TILES
#include "pair_tiles.h"
#endif
