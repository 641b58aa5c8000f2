// Packed weights: panels of 16 outputs, [O/16, I, 16] in f32 or [O/16, I/2, 16, 2] in bf16 (pairs along I in 32 bits).
// Outputs past O and the partner of an odd last input are zeros. Integer work: the same on every machine.
#pragma once

#include <cstdint>

#include "../table.h"

namespace ingot {

// A matrix [O, I] as a checkpoint stores it: rows of f32 or of bf16 bit patterns.
struct Unpacked {
  const void* data;
  int64_t outputs, inputs;
  Format format;
};

inline int64_t panel_size(Format format, int64_t inputs) {
  return lanes * (format == Format::f32 ? inputs : (inputs + 1) / 2 * 2);
}

// Writes one panel of `to` in `format`. f32 to bf16 rounds to nearest even; NaN stays NaN.
void pack_panel(const Unpacked& from, int64_t panel, Format format, void* to);

// Copies row `id` of packed weights to y[I] as floats.
void unpack_row(const void* packed, Format format, int64_t inputs, int64_t id, float* y);

}  // namespace ingot
