// Attention over pages in bf16 and q8. Queries, probabilities, keys and values are bf16, their products as in pairs.h;
// everything else is fp32. Scores are logarithms of base 2: q carries log2(e) / sqrt(E).
//
// A block of 64 absolute positions is reduced alone; the 16 blocks of a run are combined from left to right, then the
// runs from left to right. So a token's result depends on its own keys only, and long runs may be reduced in parallel.
// A key that a token may not see has probability zero, which changes no sum as long as the value is finite: in a block
// where some token sees less than another, values nobody sees are zeros in a copy, and if others are not finite, the
// tokens go one by one, the last one first, each hiding what it does not see.
#pragma once

#include "attention.h"
#include "kv_pages.h"

namespace ingot::INGOT_ISA {

// 2^x for x <= 0, within 3e-6: what comes of it is rounded to 8 bits, or weighs a whole block. Zero is 1; below -64,
// where bf16 is zero, it stays 2^-64.
inline V power_of_two(V x) {
  x = max(all(-64.0f), x);
  const V magic = all(12582912.0f);
  const V shifted = x + magic;
  const V r = x - (shifted - magic);
  V p = all(0.009582853f);
  p = fma(p, r, all(0.055906426f));
  p = fma(p, r, all(0.24024099f));
  p = fma(p, r, all(0.6931242f));
  p = fma(p, r, all(1.0f));
  return p * floats(shift_left<23>(bits(shifted) - bits(magic) + all_bits(127)));
}

// The softmax of some rows over some of their keys: o is the sum of 2^(score - top) v, total that of 2^(score - top).
struct Softmax {
  float *o, *top, *total;
  int64_t size;  // floats between rows of o

  Softmax(float* at, int64_t rows, int64_t stride) : o(at), top(o + rows * stride), total(top + rows), size(stride) {}
};

// What one thread needs for a tile (attention_pairs_scratch counts it).
struct PairScratch {
  Softmax whole, run;
  float *scores, *keep, *add, *row;
  Left *q, *p;
  uint16_t* copy;

  PairScratch(float* at, int64_t rows, int64_t size)
      : whole(at, rows, size), run(at + attention_part_floats(rows, size), rows, size) {
    scores = at + 2 * attention_part_floats(rows, size);
    keep = scores + pair_slice * page_keys;
    add = keep + pair_slice;
    row = add + pair_slice;
    copy = reinterpret_cast<uint16_t*>(row + 2 * size);
    float* left = row + 2 * size + page_keys * size;
    p = reinterpret_cast<Left*>(left);
    q = reinterpret_cast<Left*>(left + pair_slice * page_keys);
  }
};

// The running softmax of up to 16 rows takes (top, total): how much what it had and what comes now count, in keep, add.
inline void take_shares(const Softmax& into, int64_t row, int n, V top, V total, V* keep, V* add) {
  const V before = load_part(into.top + row, n), higher = if_greater(before, top, before, top);
  *keep = power_of_two(before - higher);
  *add = power_of_two(top - higher);
  store_part(into.total + row, load_part(into.total + row, n) * *keep + total * *add, n);
  store_part(into.top + row, higher, n);
}

// A probability as bf16: rounded to 8 bits, zero below 2^-56 (pairs.h says why). NaN stays NaN.
inline V round_probability(V x) {
  const V wide = x * all(65537.0f);
  const V nearest = wide - (wide - x);
  return if_greater(all(1.3877788e-17f), x, zero(), nearest);
}

// Scores of some rows become probabilities of their first `limit(row)` keys; All says that every row sees all. What is
// across lanes goes in loops of its own: inside the others, rows would wait for each other.
template <bool All, class Limit>
inline void soften_rows(const PairScratch& at, int64_t rows, const Limit& limit, float* top, float* total) {
  const V least = all(-3.40282347e38f);
  alignas(64) float across[pair_slice * lanes];
  const auto part_of = [&](int64_t row, int i) {
    const V part = load(at.scores + row * page_keys + i * lanes);
    return All ? part : first_lanes(part, int(limit(row)) - i * lanes, least);
  };
  for (int64_t row = 0; row < rows; ++row)
    store(across + row * lanes, max(max(part_of(row, 0), part_of(row, 1)), max(part_of(row, 2), part_of(row, 3))));
  for (int64_t row = 0; row < rows; ++row) top[row] = max(load(across + row * lanes));
  for (int64_t row = 0; row < rows; ++row) {
    const V highest = all(top[row]);
    V part[4];
    INGOT_UNROLL
    for (int i = 0; i < 4; ++i) {
      part[i] = round_probability(power_of_two(part_of(row, i) - highest));
      if constexpr (!All) part[i] = first_lanes(part[i], int(limit(row)) - i * lanes, zero());
      store_bf16(at.p + row * page_keys + i * lanes, part[i]);
    }
    store(across + row * lanes, (part[0] + part[1]) + (part[2] + part[3]));
  }
  for (int64_t row = 0; row < rows; ++row) total[row] = sum(load(across + row * lanes));
}

// Rows row0 .. row1 of a tile (at most pair_slice) take one block, of which they see `limit(row)` keys.
template <bool All, class Limit>
inline void attend_slice(const Attention& op, const PairScratch& at, const KvBlock& block, int64_t row0, int64_t row1,
                         const Limit& limit, bool first) {
  const int64_t size = padded_head(op.size), most = limit(row1 - 1), rows = row1 - row0;
  const PairSums sums{at.scores, page_keys};
  multiply_pairs(at.q + row0 * size, size, rows, block.keys, size * lanes, (most + lanes - 1) / lanes,
                 size / group_inputs, sums);
  alignas(64) float top[pair_slice], total[pair_slice];
  soften_rows<All>(at, rows, [&](int64_t row) { return limit(row0 + row); }, top, total);
  each_vector(rows, [&](int64_t row, int n) {  // the first block is taken as it is
    if (first) {
      store_part(at.run.top + row0 + row, load_part(top + row, n), n);
      store_part(at.run.total + row0 + row, load_part(total + row, n), n);
      return;
    }
    V keep, add;
    take_shares(at.run, row0 + row, n, load_part(top + row, n), load_part(total + row, n), &keep, &add);
    store_part(at.keep + row, keep, n);
    store_part(at.add + row, add, n);
  });
  for (int64_t e = 0; e < size; e += page_keys) {  // the scores have been read: their place takes weighted values
    const int64_t panels = (size - e < page_keys ? size - e : page_keys) / lanes;
    multiply_pairs(at.p, page_keys, rows, block.values + e * page_keys, page_keys * lanes, panels,
                   (most + group_inputs - 1) / group_inputs, sums);
    for (int64_t row = 0; row < rows; ++row) {
      float* o = at.run.o + (row0 + row) * at.run.size + e;
      const float* y = at.scores + row * page_keys;
      if (first) {
        for (int64_t c = 0; c < panels; ++c) store(o + c * lanes, load(y + c * lanes));
        continue;
      }
      const V keep = all(at.keep[row]), add = all(at.add[row]);
      for (int64_t c = 0; c < panels; ++c)
        store(o + c * lanes, fma(load(y + c * lanes), add, load(o + c * lanes) * keep));
    }
  }
}

inline void attend_group_inputs(const Attention& op, const Tile& tile, const PairScratch& at, int64_t index,
                                bool first) {
  const int64_t group = op.heads / op.kv_heads, rows = tile.count * group;
  const auto limit = [&](int64_t row) { return keys_seen(op, tile.segment, tile.first + row / group, index); };
  int64_t from = 0;
  while (limit(from) == 0) from += group;
  const int64_t least = limit(from), most = limit(rows - 1), page = op.seg.pages[tile.segment * op.seg.width + index];
  const KvBlock block = open_block(op, page, tile.head, most, least < page_keys, at.copy);
  if (least == most || finite_values(op.size, least, most, block.values)) {
    for (int64_t row = from; row < rows; row += pair_slice) {
      const int64_t end = row + pair_slice < rows ? row + pair_slice : rows;
      if (least == page_keys) attend_slice<true>(op, at, block, row, end, limit, first);
      else attend_slice<false>(op, at, block, row, end, limit, first);
    }
    return;
  }
  for (int64_t end = rows; end > from; end -= group) {
    hide_values(op.size, limit(end - 1), at.copy + page_keys * padded_head(op.size));
    for (int64_t row = end - group; row < end; row += pair_slice)
      attend_slice<false>(op, at, block, row, row + pair_slice < end ? row + pair_slice : end, limit, first);
  }
}

// at.run <- the softmax over one run of blocks. Returns the first row that sees any of it.
inline int64_t attend_run(const Attention& op, const Tile& tile, const PairScratch& at, int64_t run) {
  const int64_t last = tile.first + tile.count - 1;
  for (int64_t block = run * run_blocks; block < (run + 1) * run_blocks; ++block)
    if (keys_seen(op, tile.segment, last, block) > 0)
      attend_group_inputs(op, tile, at, block, block == run * run_blocks);
  int64_t token = 0;
  while (keys_seen(op, tile.segment, tile.first + token, run * run_blocks) == 0) ++token;
  return token * (op.heads / op.kv_heads);
}

// whole <- whole and run, for rows from .. rows, which all see the first key of the run.
inline void combine(const Softmax& whole, const Softmax& run, int64_t from, int64_t rows) {
  each_vector(rows - from, [&](int64_t row, int n) {
    row += from;
    V shares[2];
    take_shares(whole, row, n, load_part(run.top + row, n), load_part(run.total + row, n), shares, shares + 1);
    alignas(64) float keep[lanes], add[lanes];
    store(keep, shares[0]);
    store(add, shares[1]);
    for (int r = 0; r < n; ++r)
      for (int64_t e = 0; e < whole.size; e += lanes) {
        float* o = whole.o + (row + r) * whole.size + e;
        store(o, fma(load(run.o + (row + r) * run.size + e), all(add[r]), load(o) * all(keep[r])));
      }
  });
}

// Where the row of a tile is in q and o, [T, H, E].
inline int64_t row_at(const Attention& op, const Tile& tile, int64_t row) {
  const int64_t group = op.heads / op.kv_heads, token = op.seg.offset[tile.segment] + tile.first;
  return ((token + row / group) * op.heads + tile.head * group + row % group) * op.size;
}

inline void load_queries(const Attention& op, const Tile& tile, const PairScratch& at, int64_t rows) {
  const int64_t size = padded_head(op.size);
  const V scale = all(1.44269504f) / sqrt(all(float(op.size)));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t e = op.size / lanes * lanes; e < size; e += lanes) store_bf16(at.q + row * size + e, zero());
    each_vector(op.size, [&](int64_t e, int n) {
      store_bf16(at.q + row * size + e, to_bf16(load_part(op.q + row_at(op, tile, row) + e, n) * scale));
    });
  }
}

inline void store_outputs(const Attention& op, const Tile& tile, const Softmax& from, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    const V total = all(from.total[row]);
    each_vector(op.size, [&](int64_t e, int n) {
      store_part(op.o + row_at(op, tile, row) + e, load(from.o + row * from.size + e) / total, n);
    });
  }
}

inline void attention_pairs(const Attention& op, const Tile& tile, bool stores, float* scratch) {
  const int64_t rows = tile.count * (op.heads / op.kv_heads), size = padded_head(op.size);
  PairScratch at(scratch, rows, size);
  [[maybe_unused]] const PairTiles tiles;
  if (stores) store_rows(op, tile.segment, tile.head, tile.first, tile.count, at.row);
  load_queries(op, tile, at, rows);
  attend_run(op, tile, at, 0);
  if (keys_seen(op, tile.segment, tile.first + tile.count - 1, run_blocks) == 0)
    return store_outputs(op, tile, at.run, rows);
  const Softmax other = at.whole;
  at.whole = at.run;
  at.run = other;
  for (int64_t run = 1; keys_seen(op, tile.segment, tile.first + tile.count - 1, run * run_blocks) > 0; ++run)
    combine(at.whole, at.run, attend_run(op, tile, at, run), rows);
  store_outputs(op, tile, at.whole, rows);
}

// One run of a tile, left in `part` for combine_parts: Softmax of the tile's rows.
inline void attention_part(const Attention& op, const Tile& tile, bool stores, int64_t run, float* part,
                           float* scratch) {
  const int64_t rows = tile.count * (op.heads / op.kv_heads), size = padded_head(op.size);
  PairScratch at(scratch, rows, size);
  [[maybe_unused]] const PairTiles tiles;
  at.run = Softmax(part, rows, size);
  if (stores) {
    const int64_t begin = run * run_blocks * page_keys - op.seg.start[tile.segment];
    const int64_t end = begin + run_blocks * page_keys;
    const int64_t first = begin > tile.first ? begin : tile.first;
    const int64_t last = end < tile.first + tile.count ? end : tile.first + tile.count;
    if (first < last) store_rows(op, tile.segment, tile.head, first, last - first, at.row);
  }
  load_queries(op, tile, at, rows);
  attend_run(op, tile, at, run);
}

// The parts of a tile's runs lie one behind the other; the first becomes the whole.
inline void combine_parts(const Attention& op, const Tile& tile, float* parts) {
  const int64_t group = op.heads / op.kv_heads, rows = tile.count * group, size = padded_head(op.size);
  const Softmax whole(parts, rows, size);
  for (int64_t run = 1; keys_seen(op, tile.segment, tile.first + tile.count - 1, run * run_blocks) > 0; ++run) {
    int64_t token = 0;
    while (keys_seen(op, tile.segment, tile.first + token, run * run_blocks) == 0) ++token;
    combine(whole, Softmax(parts + run * attention_part_floats(rows, size), rows, size), token * group, rows);
  }
  store_outputs(op, tile, whole, rows);
}

inline void store_keys(const Attention& op, const Tile& tile, float* scratch) {
  if (op.format == KvFormat::f32) return store_float_keys(op, tile);
  store_rows(op, tile.segment, tile.head, tile.first, tile.count, scratch);
}

}  // namespace ingot::INGOT_ISA
