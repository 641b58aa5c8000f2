// Matmuls on matrix instructions (isa/amx.h): 16 rows meet 16 outputs and 32 inputs in one of them.
#pragma once

#include "integer.h"

namespace ingot::INGOT_ISA {

// Fewer rows are not worth spreading a panel for: the four-way dot products are as fast (docs/why/decode-bandwidth.md).
inline constexpr int64_t tile_rows = 5;

// bf16: R tiles of rows by C panels, whose sums stay in tiles 0 .. R * C - 1 over a chunk of groups. Between chunks
// they are kept in a place of their own: rows of y are often a multiple of 4 KiB apart, and would meet in one set of
// the cache. The matrix unit is configured for as long as this lives: that takes as long as ten products.
struct Bf16Tiles {
  const Linear& op;
  int64_t row, panel;  // first of the matmul tile
  bool from_memory;    // the weights are used once, as they arrive
  float* kept;         // [tiles, 2, 16, 16]: sums of two panels
  int64_t tall;        // rows of a tile; those past the last row are computed and left
  const Tiles configured{configuration(tall)};
  int64_t apart = 1;  // panels between those of one run

  static TileConfig configuration(int64_t tall) {
    TileConfig config;
    for (int i = 0; i < 6; ++i) config.tile(i, tall, 64);
    for (int i = 6; i < 8; ++i) config.tile(i, row_tile, 64);
    return config;
  }

  float* kept_at(int64_t tile, int64_t c) const { return kept + (2 * tile + c) * row_tile * lanes; }

  template <int R, int C>
  void run(const LinearSink& sink, int64_t tile, int64_t p, int64_t last_rows, Groups groups) const {
    const auto rows_of = [&](int r) { return r == R - 1 ? last_rows : row_tile; };
    const bool last_chunk = groups.end == op.rounded.groups;
    if (!from_memory && last_chunk)
      for (int r = 0; r < R; ++r)
        for (int64_t i = 0; i < rows_of(r); ++i)
          for (int c = 0; c < C; ++c) prefetch_to_write(sink.at((tile + r) * row_tile + i, p + c * apart));
    each_sum<R, C>([&](auto r, auto c) {
      constexpr int sum = r * C + c;
      if (groups.begin == 0) tile_zero<sum>();
      else tile_load<sum>(kept_at(tile + r, c), 64);
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
      if (!last_chunk) return tile_store<sum>(kept_at(tile + r, c), 64);
      const int64_t first = tile * row_tile + r * row_tile;
      const int64_t at = p + c * apart;
      if (sink.room(at) == lanes && rows_of(r) == tall) return tile_store<sum>(sink.at(first, at), sink.stride * 4);
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

// scratch: 1 KiB for each of two panels and every tile of rows, which is 64 KiB at most.
inline void bf16_tiles(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels, int8_t* scratch) {
  const bool few = rows <= row_tile;
  Bf16Tiles kernel{op, row, panel, few, reinterpret_cast<float*>(scratch), few ? rows : row_tile};
  const int64_t groups = op.rounded.groups, tiles = (rows + row_tile - 1) / row_tile;
  const int64_t depth = tiles > 2 ? chunk_groups / 2 : groups, last = rows - (tiles - 1) * row_tile;
  const LinearSink sink = linear_sink(op, row, panel);
  int64_t p = 0;
  if (tiles == 1 && panels >= 4) {  // four long streams from memory
    for (kernel.apart = panels / 4; p < kernel.apart; ++p) kernel.run<1, 4>(sink, 0, p, last, {0, groups});
    p = 4 * kernel.apart;
    kernel.apart = 1;
  }
  for (; p < panels; p += 2) {
    const bool pair = p + 2 <= panels;
    for (int64_t g = 0; g < groups; g += depth) {
      const Groups range{g, g + depth < groups ? g + depth : groups};
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

// Writes one group of a q4 panel as int8; the next ones are asked for.
inline void spread_group(const Codebook& book, const uint8_t* panel, int64_t g, int8_t* to) {
  const uint8_t* from = group_at(panel, g, Format::q4);
  INGOT_UNROLL
  for (int j = 0; j < 4; ++j) {
    prefetch(from + stream_ahead + j * 64);
    const B both = load_bytes(from + j * 64);
    store_bytes(to + j * 64, book(low_nibbles(both)));
    store_bytes(to + (j + 4) * 64, book(high_nibbles(both)));
  }
}

// Groups that are asked for or spread before the matrix unit needs them, where weights are used once.
inline constexpr int64_t groups_ahead = 4;

// q8 and q4: one tile of rows against one panel. A group's sums leave their tile while the matrix unit has begun the
// next group: tiles 0, 1 are sums, 2, 3 rows, 4, 5 weights. Rows up to R are computed; those past the last are padding,
// whose scales are zeros. Once: the weights are used once, as they arrive from memory, and nobody has spread them.
template <bool Once>
struct IntegerTile {
  const int8_t* x;     // [G, 16, 32]
  const float* scale;  // [G, 16]
  const uint8_t* panel;
  int8_t* spread;  // q4: [chunk_groups, 8, 16, 4], group g at g % chunk_groups; q8 lies so in the panel
  Format format;
  int64_t groups;
  const Codebook& book;
  int32_t (*part)[row_tile][lanes];  // two

  int8_t* spread_at(int64_t g) const { return spread + g % chunk_groups * q8_group; }
  void bring(int64_t g) const {
    if (format == Format::q4) {
      if (g < groups) spread_group(book, panel, g, spread_at(g));
    } else {
      for (int j = 0; j < 8; ++j) prefetch(group_at(panel, g, format) + stream_ahead + j * 64);
    }
  }

  template <int P>
  void multiply(int64_t g) const {
    if constexpr (Once) bring(g + groups_ahead);
    tile_zero<P>();
    tile_load<2 + P>(x + g * row_tile * group_inputs, group_inputs);
    tile_load<4 + P>(format == Format::q8 ? group_at(panel, g, format) : static_cast<const void*>(spread_at(g)), 64);
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
  void run(const float* from, float* to, int64_t stride, Groups range) const {
    V sum[R];
    INGOT_UNROLL
    for (int r = 0; r < R; ++r) sum[r] = from ? load(from + r * stride) : zero();
    if constexpr (Once)
      for (int64_t g = 0; g < groups_ahead; ++g) bring(range.begin + g);
    multiply<0>(range.begin);
    multiply<1>(range.begin + 1);
    tile_store<0>(part[0], 64);
    int64_t g = range.begin + 2;
    for (; g < range.end; g += 2) {  // an even number: K is padded to two groups
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
  void run(const LinearSink& sink, int64_t row, int64_t rows, int64_t p, Groups range) const {
    if (rows >= R && sink.room(p) == lanes) {
      float* y = sink.at(row, p);
      for (int64_t r = 0; r < R; ++r) prefetch_to_write(y + r * sink.stride);
      return run<R>(sink.fresh ? nullptr : y, y, sink.stride, range);
    }
    alignas(64) float edge[R][lanes] = {};  // rows and outputs past the end are computed beside y
    const int64_t count = rows < R ? rows : R;
    for (int64_t r = 0; r < count; ++r) store(edge[r], sink.begin(row + r, p));
    run<R>(edge[0], edge[0], lanes, range);
    for (int64_t r = 0; r < count; ++r) sink.end(row + r, p, load(edge[r]));
  }
};

// What the tiles of one matmul tile share; configures the matrix unit for as long as it lives.
template <bool Once>
struct IntegerTiles {
  const Linear& op;
  int64_t row, rows, panel;
  int8_t* scratch;
  const Codebook book{codebook};
  const Tiles configured{configuration(rows)};

  static TileConfig configuration(int64_t rows) {
    TileConfig config;
    const int64_t tall = rows <= row_tile / 2 ? row_tile / 2 : row_tile;
    for (int i = 0; i < 2; ++i) {
      config.tile(i, tall, 64);
      config.tile(2 + i, tall, group_inputs);
      config.tile(4 + i, group_inputs / 4, 64);
    }
    return config;
  }

  // Rows r .. r + 16 against panel p, whose groups are spread in the chunk-th part of the scratch.
  IntegerTile<Once> at(int64_t r, int64_t p, int64_t chunk) const {
    const int64_t groups = op.rounded.groups, place = (row + r) / row_tile * groups * row_tile;
    const auto part = reinterpret_cast<int32_t (*)[row_tile][lanes]>(scratch);
    int8_t* spread = scratch + sizeof(int32_t) * 2 * row_tile * lanes + chunk * chunk_groups * q8_group;
    return {static_cast<const int8_t*>(op.rounded.values) + place * group_inputs,
            op.rounded.scale + place,
            op.weight + (panel + p) * panel_bytes(op.format, op.inputs),
            spread,
            op.format,
            groups,
            book,
            part};
  }
  void run(int64_t r, int64_t p, int64_t chunk, Groups range) const {
    const LinearSink sink = linear_sink(op, row, panel, range.begin == 0);
    const IntegerTile<Once> tile = at(r, p, chunk);
    if (rows - r <= row_tile / 2) tile.template run<row_tile / 2>(sink, r, rows - r, p, range);
    else tile.template run<row_tile>(sink, r, rows - r, p, range);
  }
};

// Up to 16 rows: a panel at a time, its groups spread a little before they are multiplied.
inline void few_rows_tiles(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels,
                           int8_t* scratch) {
  const IntegerTiles<true> tiles{op, row, rows, panel, scratch};
  for (int64_t p = 0; p < panels; ++p) tiles.run(0, p, 0, {0, op.rounded.groups});
}

// Many rows: some panels' chunks are spread once, then every row passes them.
inline void many_rows_tiles(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels,
                            int8_t* scratch) {
  const IntegerTiles<false> tiles{op, row, rows, panel, scratch};
  const int64_t groups = op.rounded.groups;
  for (int64_t p0 = 0; p0 < panels; p0 += linear_panels) {
    const int64_t end = p0 + linear_panels < panels ? p0 + linear_panels : panels;
    for (int64_t g = 0; g < groups; g += chunk_groups) {
      const Groups range{g, g + chunk_groups < groups ? g + chunk_groups : groups};
      if (op.format == Format::q4)
        for (int64_t p = p0; p < end; ++p)
          for (int64_t i = range.begin; i < range.end; ++i) tiles.at(0, p, p - p0).bring(i);
      for (int64_t r = 0; r < rows; r += row_tile)  // 16 rows stay near while the panels pass
        for (int64_t p = p0; p < end; ++p) tiles.run(r, p, p - p0, range);
    }
  }
}

inline void integer_tiles(const Linear& op, int64_t row, int64_t rows, int64_t panel, int64_t panels, int8_t* scratch) {
  if (rows <= row_tile) few_rows_tiles(op, row, rows, panel, panels, scratch);
  else many_rows_tiles(op, row, rows, panel, panels, scratch);
}

}  // namespace ingot::INGOT_ISA
