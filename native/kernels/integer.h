// y = x @ weight.T for q8 and q4: int8 activations, an exact integer sum for each group of 32 inputs, and
//
//     y <- fma(float(sum), weight scale * activation scale, y)        groups in ascending order
#pragma once

#include "rounded_tile.h"

namespace ingot::INGOT_ISA {

inline const uint8_t* group_at(const uint8_t* panel, int64_t g, Format format) {
  return panel + g / 2 * block_bytes(format) + scale_bytes + g % 2 * (format == Format::q8 ? q8_group : q4_group);
}
inline V group_scale(const uint8_t* panel, int64_t g, Format format) {
  const uint8_t* at = panel + g / 2 * block_bytes(format) + g % 2 * (scale_bytes / 2);
  return floats(shift_left<16>(load_halves(reinterpret_cast<const uint16_t*>(at))));
}

// Bytes between a weight in use and the one fetched from memory: measured, docs/why/decode-bandwidth.md.
inline constexpr int64_t stream_ahead = 2048;

// How the eight vectors of a group are had: spread says that they were unpacked before.
struct Q8Group {
  static constexpr Format format = Format::q8;
  void load(const uint8_t* panel, int64_t g, B (&w)[8]) const {
    const uint8_t* at = group_at(panel, g, format);
    INGOT_UNROLL
    for (int j = 0; j < 8; ++j) {
      prefetch(at + stream_ahead + j * 64);
      w[j] = dot_weights(load_bytes(at + j * 64));
    }
  }
};

struct Q4Group {
  static constexpr Format format = Format::q4;
  Codebook book;

  explicit Q4Group(const int8_t* entries) : book(entries) {}
  void load(const uint8_t* panel, int64_t g, B (&w)[8]) const {
    const uint8_t* at = group_at(panel, g, format);
    INGOT_UNROLL
    for (int j = 0; j < 4; ++j) {
      prefetch(at + stream_ahead + j * 64);
      const B both = load_bytes(at + j * 64);
      w[j] = book(low_nibbles(both));
      w[j + 4] = book(high_nibbles(both));
    }
  }
};

// The codebook as `dot` wants its weights.
struct DotCodebook {
  alignas(lanes) int8_t entries[lanes];
  DotCodebook() {
    for (int i = 0; i < lanes; ++i) entries[i] = dot_weights(codebook[i]);
  }
};

// Groups that were spread to int8 beforehand; their scales are still in the panel.
struct SpreadGroup {
  const int8_t* spread;
  Format format;
  void load(const uint8_t*, int64_t g, B (&w)[8]) const {
    INGOT_UNROLL
    for (int j = 0; j < 8; ++j) w[j] = load_bytes(spread + g * q8_group + j * 64);
  }
};

template <class Group>
struct IntegerPanels {
  const Rounded& x;
  int64_t first;  // first row of the tile
  const uint8_t* weight;
  int64_t panel;
  Group group;
  int64_t apart = 1;

  template <int C>
  static constexpr int tallest = C == 1             ? integer_rows
                                 : integer_rows > 2 ? integer_rows / 2
                                                    : 1;

  template <int R, int C>
  void multiply(int64_t row, int64_t p, Groups range, V (&sum)[R][C]) const {
    row += first;
    for (int64_t g = range.begin; g < range.end; ++g) {
      const int64_t place = (row / row_tile * x.groups + g) * row_tile + row % row_tile;
      const int8_t* a = static_cast<const int8_t*>(x.values) + place * group_inputs;
      INGOT_UNROLL
      for (int c = 0; c < C; ++c) {
        const uint8_t* at = weight + (p + c * apart) * panel;
        const V scale = group_scale(at, g, group.format);
        B w[8];
        group.load(at, g, w);
        INGOT_UNROLL
        for (int r = 0; r < R; ++r) {
          B total = dot_start(x.total[place + r]);
          INGOT_UNROLL
          for (int j = 0; j < 8; ++j) total = dot(total, w[j], a + r * group_inputs + 4 * j);
          sum[r][c] = fma(from_int(total), scale * all(x.scale[place + r]), sum[r][c]);
        }
      }
    }
  }
};

template <class Group>
inline void few_rows(const Linear& op, const Group& group, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  const int64_t size = panel_bytes(op.format, op.inputs);
  IntegerPanels<Group> w{op.rounded, row, op.weight + panel * size, size, group};
  const LinearSink sink = linear_sink(op, row, panel);
  const Groups all_groups{0, op.rounded.groups};
  int64_t p = 0;
  if (rows <= IntegerPanels<Group>::template tallest<4> && panels >= 4) {  // four long streams from memory
    for (w.apart = panels / 4; p < w.apart; ++p) rounded_panels<4>(w, sink, rows, p, all_groups);
    p = 4 * w.apart;
    w.apart = 1;
  }
  for (; p < panels; ++p) rounded_panels<1>(w, sink, rows, p, all_groups);
}

// Many rows: a panel's chunk is spread once, then every row passes it.
template <class Group>
inline void many_rows(const Linear& op, const Group& group, int64_t row, int64_t rows, int64_t panel, int64_t panels,
                      int8_t* spread) {
  const int64_t size = panel_bytes(op.format, op.inputs), groups = op.rounded.groups;
  const IntegerPanels<SpreadGroup> w{op.rounded, row, op.weight + panel * size, size, {spread, op.format}};
  for (int64_t p = 0; p < panels; ++p)
    for (int64_t g = 0; g < groups; g += chunk_groups) {
      const Groups range{g, g + chunk_groups < groups ? g + chunk_groups : groups};
      for (int64_t i = range.begin; i < range.end; ++i) {
        B eight[8];
        group.load(w.weight + p * size, i, eight);
        for (int j = 0; j < 8; ++j) store_bytes(spread + i * q8_group + j * 64, eight[j]);
      }
      rounded_panels<1>(w, linear_sink(op, row, panel, g == 0), rows, p, range);
    }
}

template <class Group>
inline void integer_linear(const Linear& op, const Group& group, int64_t row, int64_t rows, int64_t panel,
                           int64_t panels, int8_t* spread) {
  if (rows <= row_tile) few_rows(op, group, row, rows, panel, panels);
  else many_rows(op, group, row, rows, panel, panels, spread);
}

}  // namespace ingot::INGOT_ISA
