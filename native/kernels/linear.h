// y = x @ weight.T for packed weights, one file a format.
#pragma once

#include "tile.h"

namespace ingot::INGOT_ISA {

// Where the sums of a matmul tile begin and end: they start at zero or continue from y, and go to y.
struct LinearSink {
  float* y;         // first row and first panel of this tile
  int64_t stride;   // floats between rows of y
  int64_t outputs;  // from y to the end of its row
  bool fresh;

  float* at(int64_t row, int64_t panel) const { return y + row * stride + panel * lanes; }
  int room(int64_t panel) const {
    const int64_t left = outputs - panel * lanes;
    return left < lanes ? int(left) : lanes;
  }
  V begin(int64_t row, int64_t panel) const {
    if (fresh) return zero();
    const float* from = at(row, panel);
    if (room(panel) == lanes) return load(from);
    return load(from, room(panel));
  }
  void end(int64_t row, int64_t panel, V sum) const {
    if (room(panel) == lanes) store(at(row, panel), sum);
    else store(at(row, panel), sum, room(panel));
  }
};

inline LinearSink linear_sink(const Linear& op, int64_t row, int64_t panel, bool fresh = true) {
  return {op.y + row * op.outputs + panel * lanes, op.outputs, op.outputs - panel * lanes, fresh};
}

// k steps between visits of a block of rows: 4 panels then take 64 KiB, and stay near while the rows pass.
inline constexpr int64_t float_depth = 256;

inline void float_linear(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  const int64_t size = op.inputs * lanes;
  const FloatPanels w{reinterpret_cast<const float*>(op.weight) + panel * size, size, lanes};
  const int64_t depth = rows > max_rows ? float_depth : op.inputs;
  int64_t k = 0;
  do {
    const int64_t end = k + depth < op.inputs ? k + depth : op.inputs;
    const Block in{op.x + row * op.inputs, op.inputs, k, end};
    multiply_rows(in, rows, w, panels, linear_sink(op, row, panel, k == 0));
    k = end;
  } while (k < op.inputs);
}

}  // namespace ingot::INGOT_ISA
