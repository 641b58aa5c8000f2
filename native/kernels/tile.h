// The one matrix product: rows of x times panels of 16 outputs. Every output has one accumulator and K ascends, so its
// bits do not depend on how many rows or panels share a register tile, nor on where K is interrupted: accumulators
// that go to memory and come back are the same numbers. Matmul, attention scores and attention values all run here.
#pragma once

// Register tiles are arrays that live in registers only if every loop over them is unrolled before anything else.
#if defined(__clang__)
#define INGOT_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define INGOT_UNROLL _Pragma("GCC unroll 16")
#else
#define INGOT_UNROLL
#endif

namespace ingot::INGOT_ISA {

// Panels of float weights: panel p, step k at base + p * panel + k * row.
struct FloatPanels {
  const float* base;
  int64_t panel, row;

  FloatPanels at(int64_t p) const { return {base + p * panel, panel, row}; }

  template <int R, int C>
  void multiply(const float* x, int64_t stride, int64_t k0, int64_t k1, V (&sum)[R][C]) const {
    for (int64_t k = k0; k < k1; ++k) {
      V w[C];
      INGOT_UNROLL
      for (int c = 0; c < C; ++c) w[c] = load(base + c * panel + k * row);
      INGOT_UNROLL
      for (int r = 0; r < R; ++r) {
        const V a = all(x[r * stride + k]);
        INGOT_UNROLL
        for (int c = 0; c < C; ++c) sum[r][c] = fma(a, w[c], sum[r][c]);
      }
    }
  }
};

// One panel of fewer than 16 outputs whose rows must not be read past their end.
struct FloatEdge {
  const float* base;
  int64_t row;
  int count;

  FloatEdge at(int64_t) const { return *this; }

  template <int R, int C>
  void multiply(const float* x, int64_t stride, int64_t k0, int64_t k1, V (&sum)[R][C]) const {
    for (int64_t k = k0; k < k1; ++k) {
      const V w = load(base + k * row, count);
      INGOT_UNROLL
      for (int r = 0; r < R; ++r) sum[r][0] = fma(all(x[r * stride + k]), w, sum[r][0]);
    }
  }
};

struct Block {
  const float* x;  // rows at x + r * stride
  int64_t stride, k0, k1;
};

template <int R, int C, class Panels, class Sink>
inline void register_tile(const Block& in, const Panels& w, const Sink& sink, int64_t row, int64_t panel) {
  V sum[R][C];
  INGOT_UNROLL
  for (int r = 0; r < R; ++r) INGOT_UNROLL
  for (int c = 0; c < C; ++c) sum[r][c] = sink.begin(row + r, panel + c);
  w.at(panel).template multiply<R, C>(in.x + row * in.stride, in.stride, in.k0, in.k1, sum);
  INGOT_UNROLL
  for (int r = 0; r < R; ++r) INGOT_UNROLL
  for (int c = 0; c < C; ++c) sink.end(row + r, panel + c, sum[r][c]);
}

template <int R, class Panels, class Sink>
inline void panel_loop(const Block& in, const Panels& w, int64_t panels, const Sink& sink, int64_t row) {
  constexpr int wide = panels_for(R);
  int64_t p = 0;
  for (; p + wide <= panels; p += wide) register_tile<R, wide>(in, w, sink, row, p);
  for (; p < panels; ++p) register_tile<R, 1>(in, w, sink, row, p);
}

template <int R, class Panels, class Sink>
inline void exact_rows(int rows, const Block& in, const Panels& w, int64_t panels, const Sink& sink, int64_t row) {
  if (rows == R) return panel_loop<R>(in, w, panels, sink, row);
  if constexpr (R > 1) exact_rows<R - 1>(rows, in, w, panels, sink, row);
}

// rows x panels in register tiles of nearly equal height: 13 rows are 7 and 6, not 12 and 1.
template <class Panels, class Sink>
inline void multiply_rows(const Block& in, int64_t rows, const Panels& w, int64_t panels, const Sink& sink) {
  const int64_t tiles = (rows + max_rows - 1) / max_rows;
  for (int64_t t = 0, row = 0; t < tiles; ++t) {
    const int64_t end = rows * (t + 1) / tiles;
    exact_rows<max_rows>(int(end - row), in, w, panels, sink, row);
    row = end;
  }
}

}  // namespace ingot::INGOT_ISA
