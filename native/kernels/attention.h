// Softmax attention over pages of 64 keys. Each block of 64 absolute positions is reduced alone (its maximum,
// exponentials, sum and weighted values) and blocks are combined from left to right, so a token's result does not
// depend on which tokens are computed beside it. Keys a token may not see are skipped or masked to exact zeros.
#pragma once

#include "functions.h"
#include "rows.h"
#include "tile.h"

namespace ingot::INGOT_ISA {

// tile.first .. + tile.count: tokens of one segment that fall into one page; tile.head is a KV head.
inline void store_float_keys(const Attention& op, const Tile& tile) {
  const int64_t E = op.size, token = op.seg.offset[tile.segment] + tile.first;
  const int64_t position = op.seg.start[tile.segment] + int64_t(tile.first);
  const int64_t page = op.seg.pages[tile.segment * op.seg.width + position / page_keys];
  const int64_t row = position % page_keys;
  float* keys = static_cast<float*>(op.keys) + (page * op.kv_heads + tile.head) * E * page_keys + row;
  float* values = static_cast<float*>(op.values) + ((page * op.kv_heads + tile.head) * page_keys + row) * E;
  for (int64_t e = 0; e < E; ++e)
    for (int64_t t = 0; t < tile.count; ++t)
      keys[e * page_keys + t] = op.k[((token + t) * op.kv_heads + tile.head) * E + e];
  for (int64_t t = 0; t < tile.count; ++t)
    for (int64_t e = 0; e < E; ++e) values[t * E + e] = op.v[((token + t) * op.kv_heads + tile.head) * E + e];
}

// Scratch of one tile: its queries, outputs and scores, and the running softmax of every row.
struct AttentionRows {
  float *q, *o, *scores, *top, *total, *keep, *add;
  int64_t stride;  // floats between rows of q and of o

  AttentionRows(float* at, int64_t rows, int64_t size) : stride((size + lanes - 1) / lanes * lanes) {
    q = at;
    o = q + rows * stride;
    scores = o + rows * stride;
    top = scores + rows * page_keys;
    total = top + rows;
    keep = total + rows;
    add = keep + rows;
  }
};

struct ScoreSink {
  float* scores;
  V begin(int64_t, int64_t) const { return zero(); }
  void end(int64_t row, int64_t panel, V sum) const { store(scores + row * page_keys + panel * lanes, sum); }
};

// o <- keep o + add (this block's weighted values); the first block is taken as it is.
struct ValueSink {
  const AttentionRows* rows;
  int64_t row0, panel0;
  bool first;

  V begin(int64_t, int64_t) const { return zero(); }
  void end(int64_t row, int64_t panel, V sum) const {
    float* at = rows->o + (row0 + row) * rows->stride + (panel0 + panel) * lanes;
    if (first) return store(at, sum);
    store(at, fma(load(at), all(rows->keep[row0 + row]), sum * all(rows->add[row0 + row])));
  }
};

// Scores of one row become exp(score - top) in place, zero past `limit`; then the running softmax takes the block.
inline void soften(const AttentionRows& rows, int64_t row, int limit, bool first) {
  float* s = rows.scores + row * page_keys;
  const V least = all(-3.40282347e38f);
  V part[4];
  for (int i = 0; i < 4; ++i) part[i] = first_lanes(load(s + i * lanes), limit - i * lanes, least);
  const float top = max(max(max(part[0], part[1]), max(part[2], part[3])));
  for (int i = 0; i < 4; ++i) {
    part[i] = first_lanes(exp(part[i] - all(top)), limit - i * lanes, zero());
    store(s + i * lanes, part[i]);
  }
  const float total = sum((part[0] + part[1]) + (part[2] + part[3]));
  if (first) {
    rows.top[row] = top;
    rows.total[row] = total;
    return;
  }
  const float higher = rows.top[row] > top ? rows.top[row] : top;
  alignas(64) float shift[lanes] = {rows.top[row] - higher, top - higher};
  store(shift, exp(load(shift)));
  rows.keep[row] = shift[0];
  rows.add[row] = shift[1];
  rows.total[row] = rows.total[row] * shift[0] + total * shift[1];
  rows.top[row] = higher;
}

// Values of one block for rows that see the same number of its keys: row r never touches a key past its limit, so a
// NaN in a later token cannot reach an earlier one.
inline void add_values(const Attention& op, const AttentionRows& rows, const float* values, int64_t row, int64_t count,
                       int limit, bool first) {
  const Block in{rows.scores + row * page_keys, page_keys, 0, limit};
  const int64_t full = op.size / lanes;
  if (full > 0) {
    const FloatPanels w{values, lanes, op.size};
    multiply_rows(in, count, w, full, ValueSink{&rows, row, 0, first});
  }
  if (op.size % lanes) {
    const FloatEdge w{values + full * lanes, op.size, int(op.size % lanes)};
    multiply_rows(in, count, w, 1, ValueSink{&rows, row, full, first});
  }
}

// How many keys of block b token i of the segment sees.
inline int64_t keys_seen(const Attention& op, int32_t segment, int64_t i, int64_t block) {
  const int64_t last = op.causal ? i + 1 : op.seg.offset[segment + 1] - op.seg.offset[segment];
  const int64_t seen = op.seg.start[segment] + last - block * page_keys;
  return seen < 0 ? 0 : seen > page_keys ? page_keys : seen;
}

inline void attend_block(const Attention& op, const Tile& tile, const AttentionRows& rows, int64_t block) {
  const int64_t group = op.heads / op.kv_heads, E = op.size;
  const int64_t page = op.seg.pages[tile.segment * op.seg.width + block] * op.kv_heads + tile.head;
  const float* keys = static_cast<const float*>(op.keys) + page * E * page_keys;
  const float* values = static_cast<const float*>(op.values) + page * page_keys * E;
  const auto limit = [&](int64_t i) { return keys_seen(op, tile.segment, tile.first + i, block); };

  int64_t from = 0;
  while (limit(from) == 0) ++from;
  const Block in{rows.q + from * group * rows.stride, rows.stride, 0, E};
  const int64_t panels = (limit(tile.count - 1) + lanes - 1) / lanes;
  multiply_rows(in, (tile.count - from) * group, FloatPanels{keys, lanes, page_keys}, panels,
                ScoreSink{rows.scores + from * group * page_keys});
  while (from < tile.count) {
    const int64_t seen = limit(from);
    int64_t to = from + 1;
    while (to < tile.count && limit(to) == seen) ++to;
    for (int64_t row = from * group; row < to * group; ++row) soften(rows, row, int(seen), block == 0);
    add_values(op, rows, values, from * group, (to - from) * group, int(seen), block == 0);
    from = to;
  }
}

inline void attention(const Attention& op, const Tile& tile, float* scratch) {
  const int64_t group = op.heads / op.kv_heads, E = op.size, token = op.seg.offset[tile.segment] + tile.first;
  const AttentionRows rows(scratch, tile.count * group, E);
  const V scale = all(1.0f) / sqrt(all(float(E)));
  const auto at = [&](int64_t row) {  // row = (token, head of this group) in [T, H, E]
    return ((token + row / group) * op.heads + tile.head * group + row % group) * E;
  };
  for (int64_t row = 0; row < tile.count * group; ++row)
    each_vector(
        E, [&](int64_t e, int n) { store(rows.q + row * rows.stride + e, load_part(op.q + at(row) + e, n) * scale); });

  for (int64_t block = 0; keys_seen(op, tile.segment, tile.first + tile.count - 1, block) > 0; ++block)
    attend_block(op, tile, rows, block);

  for (int64_t row = 0; row < tile.count * group; ++row) {
    const V total = all(rows.total[row]);
    each_vector(
        E, [&](int64_t e, int n) { store_part(op.o + at(row) + e, load(rows.o + row * rows.stride + e) / total, n); });
  }
}

}  // namespace ingot::INGOT_ISA
