// y = x @ weight.T for packed weights.
#pragma once

#include "tile.h"

namespace ingot::INGOT_ISA {

// k steps between visits of a block of rows: 2 panels of bf16 then take 32 KiB, and stay near while the rows pass.
inline constexpr int64_t linear_depth = 512;

// Accumulators start at zero or continue from y, and go to y.
struct LinearSink {
  float* y;         // first row and first panel of this tile
  int64_t stride;   // floats between rows of y
  int64_t outputs;  // from y to the end of its row
  bool fresh;

  int room(int64_t panel) const {
    const int64_t left = outputs - panel * lanes;
    return left < lanes ? int(left) : lanes;
  }
  V begin(int64_t row, int64_t panel) const {
    if (fresh) return zero();
    const float* at = y + row * stride + panel * lanes;
    return room(panel) == lanes ? load(at) : load(at, room(panel));
  }
  void end(int64_t row, int64_t panel, V sum) const {
    float* at = y + row * stride + panel * lanes;
    if (room(panel) == lanes) store(at, sum);
    else store(at, sum, room(panel));
  }
};

template <class Panels>
inline void linear_tile(const Linear& op, const Panels& w, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  const int64_t depth = rows > max_rows ? linear_depth : op.inputs;
  int64_t k = 0;
  do {
    const int64_t end = k + depth < op.inputs ? k + depth : op.inputs;
    const Block in{op.x + row * op.inputs, op.inputs, k, end};
    const LinearSink sink{op.y + row * op.outputs + panel * lanes, op.outputs, op.outputs - panel * lanes, k == 0};
    multiply_rows(in, rows, w, panels, sink);
    k = end;
  } while (k < op.inputs);
}

inline void linear(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  if (op.format == Format::f32) {
    const int64_t size = op.inputs * lanes;
    const FloatPanels w{static_cast<const float*>(op.weight) + panel * size, size, lanes};
    linear_tile(op, w, row, rows, panel, panels);
  } else {
    const int64_t size = (op.inputs + 1) / 2 * 2 * lanes;
    const BfPanels w{static_cast<const uint16_t*>(op.weight) + panel * size, size};
    linear_tile(op, w, row, rows, panel, panels);
  }
}

}  // namespace ingot::INGOT_ISA
