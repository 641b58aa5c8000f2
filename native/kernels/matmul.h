// One matmul tile in any format.
#pragma once

#include "integer.h"
#ifdef INGOT_TILES
#include "tiles.h"
#else
#include "bf16.h"
#endif

namespace ingot::INGOT_ISA {

// scratch: linear_scratch(inputs) bytes
inline void linear(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels, void* scratch) {
  if (op.format == Format::f32) return float_linear(op, row, rows, panel, panels);
  int8_t* bytes = static_cast<int8_t*>(scratch);
#ifdef INGOT_TILES
  if (op.format == Format::bf16) return bf16_tiles(op, row, rows, panel, panels, bytes);
  if (rows >= tile_rows) return integer_tiles(op, row, rows, panel, panels, bytes);
#else
  if (op.format == Format::bf16) return bf16_linear(op, row, rows, panel, panels);
#endif
  if (op.format == Format::q8) return integer_linear(op, Q8Group(), row, rows, panel, panels, bytes);
  const DotCodebook entries;
  integer_linear(op, Q4Group(entries.entries), row, rows, panel, panels, bytes);
}

}  // namespace ingot::INGOT_ISA
