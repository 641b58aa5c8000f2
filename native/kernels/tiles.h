// Matmuls on matrix instructions (isa/amx.h): 16 rows meet 16 outputs and 32 inputs in one of them.
#pragma once

#include "integer.h"

namespace ingot::INGOT_ISA {

// Fewer rows are not worth spreading a panel for: the four-way dot products are as fast (docs/why/decode-bandwidth.md).
inline constexpr int64_t tile_rows = 5;

// bf16: R tiles of rows by C panels, whose sums stay in tiles 0 .. R * C - 1 over a chunk of groups.
struct Bf16Tiles {
  const Linear& op;
  int64_t row, panel;  // first of the matmul tile
  bool from_memory;    // the weights are used once, as they arrive
  int64_t apart = 1;   // panels between those of one run

  template <int R, int C>
  void run(const LinearSink& sink, int64_t tile, int64_t p, int64_t last_rows, Groups groups) const {
    TileConfig config;
    const auto rows_of = [&](int r) { return r == R - 1 ? last_rows : row_tile; };
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) config.tile(r * C + c, rows_of(r), 64);
      config.tile(4 + r, rows_of(r), 64);
    }
    for (int c = 0; c < 2; ++c) config.tile(6 + c, row_tile, 64);
    const Tiles tiles(config);
    each_sum<R, C>([&](auto r, auto c) {
      constexpr int sum = r * C + c;
      if (sink.fresh) return tile_zero<sum>();
      alignas(64) float part[row_tile][lanes];
      for (int64_t i = 0; i < rows_of(r); ++i)
        store(part[i], sink.begin(tile * row_tile + r * row_tile + i, p + c * apart));
      tile_load<sum>(part, 64);
    });
    const int64_t total = op.rounded.groups, size = panel_bytes(op.format, op.inputs);
    const uint16_t* x =
        static_cast<const uint16_t*>(op.rounded.values) + (row / row_tile + tile) * total * row_tile * group_inputs;
    const uint8_t* w = op.weight + (panel + p) * size;
    for (int64_t g = groups.begin; g < groups.end; ++g) {
      tile_load<4>(x + g * row_tile * group_inputs, 64);
      if constexpr (R > 1) tile_load<5>(x + (total + g) * row_tile * group_inputs, 64);
      each_panel<C>([&](auto c) {
        constexpr int at = 6 + c % 2;
        const uint8_t* from = w + c * apart * size + g * 1024;
        if (from_memory)
          for (int line = 0; line < 16; ++line) prefetch(from + stream_ahead + line * 64);
        tile_load<at>(from, 64);
        tile_dot_bf16<c, 4, at>();
        if constexpr (R > 1) tile_dot_bf16<C + c, 5, at>();
      });
    }
    each_sum<R, C>([&](auto r, auto c) {
      constexpr int sum = r * C + c;
      const int64_t first = tile * row_tile + r * row_tile;
      const int64_t at = p + c * apart;
      if (sink.room(at) == lanes) return tile_store<sum>(sink.at(first, at), sink.stride * 4);
      alignas(64) float part[row_tile][lanes];
      tile_store<sum>(part, 64);
      for (int64_t i = 0; i < rows_of(r); ++i) sink.end(first + i, at, load(part[i]));
    });
  }

  template <int N>
  struct Index {
    static constexpr int value = N;
    constexpr operator int() const { return N; }
  };
  template <int C, int I = 0, class Body>
  static void each_panel(const Body& body) {
    if constexpr (I < C) {
      body(Index<I>{});
      each_panel<C, I + 1>(body);
    }
  }
  template <int R, int C, class Body>
  static void each_sum(const Body& body) {
    each_panel<R>([&](auto r) { each_panel<C>([&](auto c) { body(r, c); }); });
  }
};

inline void bf16_tiles(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  Bf16Tiles kernel{op, row, panel, rows <= row_tile};
  const int64_t groups = op.rounded.groups, tiles = (rows + row_tile - 1) / row_tile;
  const int64_t depth = tiles > 2 ? chunk_groups / 2 : groups, last = rows - (tiles - 1) * row_tile;
  for (int64_t g = 0; g < groups; g += depth) {
    const Groups range{g, g + depth < groups ? g + depth : groups};
    const LinearSink sink = linear_sink(op, row, panel, g == 0);
    int64_t p = 0;
    if (tiles == 1 && panels >= 4) {  // four long streams from memory
      for (kernel.apart = panels / 4; p < kernel.apart; ++p) kernel.run<1, 4>(sink, 0, p, last, range);
      p = 4 * kernel.apart;
      kernel.apart = 1;
    }
    for (; p < panels; p += 2) {
      const bool pair = p + 2 <= panels;
      int64_t t = 0;
      for (; t + 2 <= tiles; t += 2) {
        const int64_t count = t + 2 == tiles ? last : row_tile;
        if (pair) kernel.run<2, 2>(sink, t, p, count, range);
        else kernel.run<2, 1>(sink, t, p, count, range);
      }
      if (t < tiles && pair) kernel.run<1, 2>(sink, t, p, last, range);
      else if (t < tiles) kernel.run<1, 1>(sink, t, p, last, range);
    }
  }
}

// q8 and q4: one tile of rows against one panel. A group's sums leave their tile while the matrix unit has begun the
// next group: tiles 0, 1 are sums, 2, 3 rows, 4, 5 weights. Rows up to R are computed; those past the last are padding,
// whose scales are zeros.
struct IntegerTile {
  const int8_t* x;     // [G, 16, 32]
  const float* scale;  // [G, 16]
  const uint8_t* panel;
  const int8_t* spread;  // q4: [G, 8, 16, 4], of which the groups at hand are there; q8 lies so in the panel
  Format format;
  bool from_memory;                  // the weights are used once, as they arrive
  int32_t (*part)[row_tile][lanes];  // two

  template <int P>
  void multiply(int64_t g) const {
    if (from_memory)
      for (int j = 0; j < 8; ++j) prefetch(group_at(panel, g, format) + stream_ahead + j * 64);
    tile_zero<P>();
    tile_load<2 + P>(x + g * row_tile * group_inputs, group_inputs);
    tile_load<4 + P>(
        format == Format::q8 ? group_at(panel, g, format) : static_cast<const void*>(spread + g * q8_group), 64);
    tile_dot_int8<P, 2 + P, 4 + P>();
  }
  template <int R>
  void add(int64_t g, int p, V (&sum)[R]) const {
    const V weight = group_scale(panel, g, format);
    INGOT_UNROLL
    for (int r = 0; r < R; ++r)
      sum[r] = fma(from_int(load_bytes(part[p][r])), weight * all(scale[g * row_tile + r]), sum[r]);
  }

  // Sums begin at zero or at `from`, and go to `to`: R rows, `stride` floats apart.
  template <int R>
  void run(const float* from, float* to, int64_t stride, Groups groups) const {
    V sum[R];
    INGOT_UNROLL
    for (int r = 0; r < R; ++r) sum[r] = from ? load(from + r * stride) : zero();
    multiply<0>(groups.begin);
    multiply<1>(groups.begin + 1);
    tile_store<0>(part[0], 64);
    int64_t g = groups.begin + 2;
    for (; g < groups.end; g += 2) {  // an even number: K is padded to two groups
      multiply<0>(g);
      tile_store<1>(part[1], 64);
      add(g - 2, 0, sum);
      multiply<1>(g + 1);
      tile_store<0>(part[0], 64);
      add(g - 1, 1, sum);
    }
    tile_store<1>(part[1], 64);
    add(g - 2, 0, sum);
    add(g - 1, 1, sum);
    INGOT_UNROLL
    for (int r = 0; r < R; ++r) store(to + r * stride, sum[r]);
  }

  template <int R>
  void run(const LinearSink& sink, int64_t row, int64_t rows, int64_t p, Groups groups) const {
    if (rows >= R && sink.room(p) == lanes) {
      float* y = sink.at(row, p);
      for (int64_t r = 0; r < R; ++r) prefetch_to_write(y + r * sink.stride);
      return run<R>(sink.fresh ? nullptr : y, y, sink.stride, groups);
    }
    alignas(64) float edge[R][lanes] = {};  // rows and outputs past the end are computed beside y
    const int64_t count = rows < R ? rows : R;
    for (int64_t r = 0; r < count; ++r) store(edge[r], sink.begin(row + r, p));
    run<R>(edge[0], edge[0], lanes, groups);
    for (int64_t r = 0; r < count; ++r) sink.end(row + r, p, load(edge[r]));
  }
};

// Writes groups of a q4 panel as int8.
inline void spread_groups(const uint8_t* panel, Groups groups, int8_t* spread) {
  const Codebook book(codebook);
  for (int64_t g = groups.begin; g < groups.end; ++g) {
    const uint8_t* from = group_at(panel, g, Format::q4);
    for (int j = 0; j < 4; ++j) prefetch(from + stream_ahead + j * 64);
    int8_t* to = spread + g * q8_group;
    for (int j = 0; j < 4; ++j) {
      const B both = load_bytes(from + j * 64);
      store_bytes(to + j * 64, book(low_nibbles(both)));
      store_bytes(to + (j + 4) * 64, book(high_nibbles(both)));
    }
  }
}

inline void integer_tiles(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels, int8_t* scratch) {
  TileConfig config;
  for (int i = 0; i < 2; ++i) {
    config.tile(i, row_tile, 64);
    config.tile(2 + i, row_tile, group_inputs);
    config.tile(4 + i, group_inputs / 4, 64);
  }
  const Tiles configured(config);
  const int64_t size = panel_bytes(op.format, op.inputs), groups = op.rounded.groups;
  const auto part = reinterpret_cast<int32_t (*)[row_tile][lanes]>(scratch);
  int8_t* spread = scratch + sizeof(int32_t) * 2 * row_tile * lanes;
  for (int64_t p0 = 0; p0 < panels; p0 += linear_panels) {
    const int64_t end = p0 + linear_panels < panels ? p0 + linear_panels : panels;
    for (int64_t g = 0; g < groups; g += chunk_groups) {
      const Groups range{g, g + chunk_groups < groups ? g + chunk_groups : groups};
      const auto chunk_of = [&](int64_t p) { return spread + ((p - p0) * chunk_groups - g) * q8_group; };
      if (op.format == Format::q4)
        for (int64_t p = p0; p < end; ++p) spread_groups(op.weight + (panel + p) * size, range, chunk_of(p));
      const LinearSink sink = linear_sink(op, row, panel, g == 0);
      for (int64_t r = 0; r < rows; r += row_tile) {  // 16 rows stay near while the panels pass
        const int64_t place = (row + r) / row_tile * groups * row_tile;
        for (int64_t p = p0; p < end; ++p) {
          const IntegerTile tile{static_cast<const int8_t*>(op.rounded.values) + place * group_inputs,
                                 op.rounded.scale + place,
                                 op.weight + (panel + p) * size,
                                 chunk_of(p),
                                 op.format,
                                 op.format == Format::q8 && rows <= row_tile,
                                 part};
          if (rows - r <= row_tile / 2) tile.run<row_tile / 2>(sink, r, rows - r, p, range);
          else tile.run<row_tile>(sink, r, rows - r, p, range);
        }
      }
    }
  }
}

}  // namespace ingot::INGOT_ISA
