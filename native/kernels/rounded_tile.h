// The walk that the kernels over rounded activations share: chunks of groups, then panels, then rows, so that a
// panel's chunk is near while all rows pass it.
#pragma once

#include "linear.h"
#include "rounded.h"

namespace ingot::INGOT_ISA {

struct Groups {
  int64_t begin, end;
};

// Sums of R rows x C panels, which lie w.apart from one another, go on over `groups`. W is an accumulating kernel:
// w.multiply<R, C>(row, panel, groups, sum), row and panel counted from the tile's first.
template <int R, int C, class W>
inline void rounded_tile(const W& w, const LinearSink& sink, int64_t row, int64_t panel, Groups groups) {
  V sum[R][C];
  INGOT_UNROLL
  for (int r = 0; r < R; ++r) INGOT_UNROLL
  for (int c = 0; c < C; ++c) sum[r][c] = sink.begin(row + r, panel + c * w.apart);
  w.template multiply<R, C>(row, panel, groups, sum);
  INGOT_UNROLL
  for (int r = 0; r < R; ++r) INGOT_UNROLL
  for (int c = 0; c < C; ++c) sink.end(row + r, panel + c * w.apart, sum[r][c]);
}

template <int R, int C, class W>
inline void rounded_rows(int rows, const W& w, const LinearSink& sink, int64_t row, int64_t panel, Groups groups) {
  if (rows == R) return rounded_tile<R, C>(w, sink, row, panel, groups);
  if constexpr (R > 1) rounded_rows<R - 1, C>(rows, w, sink, row, panel, groups);
}

// All rows against C panels, in pieces of nearly equal height that stay inside tiles of 16 rows.
template <int C, class W>
inline void rounded_panels(const W& w, const LinearSink& sink, int64_t rows, int64_t panel, Groups groups) {
  constexpr int tallest = W::template tallest<C>;
  for (int64_t tile = 0; tile < rows; tile += row_tile) {
    const int64_t here = rows - tile < row_tile ? rows - tile : row_tile, pieces = (here + tallest - 1) / tallest;
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t begin = here * p / pieces, end = here * (p + 1) / pieces;
      rounded_rows<tallest, C>(int(end - begin), w, sink, tile + begin, panel, groups);
    }
  }
}

}  // namespace ingot::INGOT_ISA
