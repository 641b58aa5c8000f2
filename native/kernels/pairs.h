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

#ifndef INGOT_TILES

struct PairTiles {};  // nothing to set up

template <int R, int C, class Sink>
inline void pair_tile(const Left* a, int64_t stride, const uint16_t* w, int64_t panel, int64_t blocks, const Sink& sink,
                      int64_t row, int64_t p) {
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
  for (int c = 0; c < C; ++c) sink.end(row + r, p + c, sum[r][c]);
}

template <int R, class Sink>
inline void pair_rows(int rows, const Left* a, int64_t stride, const uint16_t* w, int64_t panel, int64_t panels,
                      int64_t blocks, const Sink& sink, int64_t row) {
  if (rows == R) {
    constexpr int wide = panels_for(2 * R);  // two chains an output
    int64_t p = 0;
    for (; p + wide <= panels; p += wide) pair_tile<R, wide>(a, stride, w, panel, blocks, sink, row, p);
    for (; p < panels; ++p) pair_tile<R, 1>(a, stride, w, panel, blocks, sink, row, p);
    return;
  }
  if constexpr (R > 1) pair_rows<R - 1>(rows, a, stride, w, panel, panels, blocks, sink, row);
}

// sink.end(row, panel, sum) for each of `rows` rows of a [rows, 32 blocks] and each panel of w [panels, 16 blocks, 16,
// 2]; `stride` and `panel` are the distances between rows and between panels.
template <class Sink>
inline void multiply_pairs(const Left* a, int64_t stride, int64_t rows, const uint16_t* w, int64_t panel,
                           int64_t panels, int64_t blocks, const Sink& sink) {
  constexpr int most = max_rows / 2;
  const int64_t tiles = (rows + most - 1) / most;
  for (int64_t t = 0, row = 0; t < tiles; ++t) {
    const int64_t end = rows * (t + 1) / tiles;
    pair_rows<most>(int(end - row), a, stride, w, panel, panels, blocks, sink, row);
    row = end;
  }
}

#else

// Matrix instructions, configured while this lives: tiles 0 .. 3 are sums, 4 and 5 rows, 6 and 7 panels. All have 16
// rows; what is computed of rows that are not there is dropped.
class PairTiles {
  TileConfig config_;
  const Tiles tiles_;

  static const TileConfig& whole(TileConfig& config) {
    for (int n = 0; n < 8; ++n) config.tile(n, row_tile, 64);
    return config;
  }

 public:
  PairTiles() : tiles_(whole(config_)) {}
};

// R tiles of rows by C panels.
template <int R, int C>
inline void pair_sums(const Left* a, int64_t stride, const uint16_t* w, int64_t panel, int64_t blocks) {
  tile_zero<0>();
  if constexpr (R * C > 1) tile_zero<1>();
  if constexpr (R * C > 2) tile_zero<2>(), tile_zero<3>();
  for (int64_t b = 0; b < blocks; ++b, a += group_inputs, w += group_inputs * lanes) {
    tile_load<4>(a, stride * 2);
    if constexpr (R > 1) tile_load<5>(a + row_tile * stride, stride * 2);
    tile_load<6>(w, 64);
    tile_dot_bf16<0, 4, 6>();
    if constexpr (R > 1) tile_dot_bf16<C, 5, 6>();
    if constexpr (C > 1) tile_load<7>(w + panel, 64), tile_dot_bf16<1, 4, 7>();
    if constexpr (C > 1 && R > 1) tile_dot_bf16<C + 1, 5, 7>();
    if constexpr (C > 2) {
      tile_load<6>(w + 2 * panel, 64), tile_dot_bf16<2, 4, 6>();
      tile_load<7>(w + 3 * panel, 64), tile_dot_bf16<3, 4, 7>();
    }
  }
}

template <int T, class Sink>
inline void pair_end(const Sink& sink, int64_t row, int64_t rows, int64_t panel) {
  alignas(64) float part[row_tile][lanes];
  tile_store<T>(part, 64);
  for (int64_t r = 0; r < rows - row && r < row_tile; ++r) sink.end(row + r, panel, load(part[r]));
}

template <int R, int C, class Sink>
inline void pair_tile(const Left* a, int64_t stride, int64_t rows, const uint16_t* w, int64_t panel, int64_t blocks,
                      const Sink& sink, int64_t row, int64_t p) {
  pair_sums<R, C>(a + row * stride, stride, w + p * panel, panel, blocks);
  pair_end<0>(sink, row, rows, p);
  if constexpr (C > 1) pair_end<1>(sink, row, rows, p + 1);
  if constexpr (C > 2) pair_end<2>(sink, row, rows, p + 2), pair_end<3>(sink, row, rows, p + 3);
  if constexpr (R > 1) pair_end<C>(sink, row + row_tile, rows, p);
  if constexpr (R > 1 && C > 1) pair_end<C + 1>(sink, row + row_tile, rows, p + 1);
}

template <class Sink>
inline void multiply_pairs(const Left* a, int64_t stride, int64_t rows, const uint16_t* w, int64_t panel,
                           int64_t panels, int64_t blocks, const Sink& sink) {
  int64_t row = 0;
  for (; row + row_tile < rows; row += 2 * row_tile) {
    int64_t p = 0;
    for (; p + 2 <= panels; p += 2) pair_tile<2, 2>(a, stride, rows, w, panel, blocks, sink, row, p);
    if (p < panels) pair_tile<2, 1>(a, stride, rows, w, panel, blocks, sink, row, p);
  }
  if (row >= rows) return;
  int64_t p = 0;
  for (; p + 4 <= panels; p += 4) pair_tile<1, 4>(a, stride, rows, w, panel, blocks, sink, row, p);
  for (; p < panels; ++p) pair_tile<1, 1>(a, stride, rows, w, panel, blocks, sink, row, p);
}

#endif

}  // namespace ingot::INGOT_ISA
