// Everything of a linear-attention layer between its matrices, one key head at a time: convolution and SiLU of q, k and
// v, l2 norms, gates, the delta rule, the gated norm. A block of tokens stays in the L2 cache from the first to the
// last. Every step is the function that the operation of its own runs, so the bits are the same.
#pragma once

#include "conv.h"
#include "delta.h"

namespace ingot::INGOT_ISA {

// Scratch of one tile, a block of tokens at a time. o takes the place of v.
struct MixerRows {
  float *q, *k, *v, *decay, *beta, *states;
  int64_t key_stride, value_stride;

  MixerRows(const DeltaMixer& op, float* at)
      : key_stride((op.key_dim + lanes - 1) / lanes * lanes), value_stride((op.value_dim + lanes - 1) / lanes * lanes) {
    q = at;
    k = q + delta_block * key_stride;
    v = k + delta_block * key_stride;
    decay = v + delta_block * value_stride;
    beta = decay + delta_block;
    states = beta + delta_block;
  }
};

// Begins to fetch a head's part of the row 8 tokens further down: a few cache lines in a page of their own, which no
// hardware foresees. Without it the sweep of 256 tokens takes half as long again (bench.kernels delta_mixer, Xeon with
// 2 MiB of L2). The address may lie behind the array: nothing is read.
inline void ahead(const float* row, int64_t stride, int64_t size) {
  for (int64_t i = 0; i < size; i += lanes) prefetch(reinterpret_cast<const char*>(row) + (8 * stride + i) * 4);
}

// One head's q, k or v: its channels and their taps [size / 16][W][16].
struct MixerPart {
  const float* taps;
  int64_t channel, size;

  // Tokens first .. first + tokens of the run into rows y + t * stride.
  void convolve(const Conv& op, const ConvHistory& past, int64_t first, int64_t tokens, float* y,
                int64_t stride) const {
    const float* rows[conv_max_width];
    for (int64_t t = first; t < first + tokens; ++t, y += stride) {
      ahead(past.u + t * past.channels + channel, past.channels, size);
      const bool whole = conv_rows(past, t, channel, rows);
      if (op.width == 4 && whole) conv_token<4>(rows, taps, 4, size, y);
      else conv_token<0>(rows, taps, op.width, size, y);
    }
  }
};

// decay and beta of consecutive tokens of one head; lanes are tokens.
inline void mixer_gates(const DeltaMixer& op, int64_t token, int64_t tokens, int64_t head, float* decay, float* beta) {
  if (tokens <= 0) return;
  for (int64_t i = 0; i < tokens; ++i) {
    decay[i] = op.a[(token + i) * op.heads + head];
    beta[i] = op.b[(token + i) * op.heads + head];
  }
  const V a_log = all(op.a_log[head]), dt_bias = all(op.dt_bias[head]);
  each_vector(tokens, [&](int64_t i, int n) {
    store_part(decay + i, exp(log_decay(load_part(decay + i, n), a_log, dt_bias)), n);
    store_part(beta + i, sigmoid(load_part(beta + i, n)), n);
  });
}

// One key head of one run.
struct MixerHead {
  const DeltaMixer& op;
  const Tile& tile;
  const ConvHistory past;
  const MixerRows rows;
  const int64_t begin, group, keys, head_size;
  const DraftParts parts;

  MixerHead(const DeltaMixer& o, const Tile& t, float* scratch)
      : op(o),
        tile(t),
        past(conv_history(o.conv, t.segment)),
        rows(o, scratch),
        begin(o.conv.seg.offset[t.segment]),
        group(o.heads / o.key_heads),
        keys(o.key_heads * o.key_dim),
        head_size(rows.value_stride * o.key_dim),
        parts(draft_parts(o, o.conv.drafts)) {}

  MixerPart key_part(const float* taps, int64_t channel) const {
    const int64_t head = tile.head;
    return {taps + head * rows.key_stride * op.conv.width, channel + head * op.key_dim, op.key_dim};
  }
  MixerPart value_part(int64_t head) const {
    return {op.v_taps + head * rows.value_stride * op.conv.width, 2 * keys + head * op.value_dim, op.value_dim};
  }
  float* scratch_state(int64_t head) const { return rows.states + (head - tile.head * group) * head_size; }
  float* state(int64_t head) const {
    return run_state(op.state, op.conv.seg, tile.segment, op.heads * head_size, head * head_size, scratch_state(head));
  }

  void key_rows(const MixerPart& part, int64_t first, int64_t count, float scale, float* y) const {
    part.convolve(op.conv, past, first, count, y, rows.key_stride);
    for (int64_t t = 0; t < count; ++t, y += rows.key_stride) l2_row(y, op.key_dim, scale, op.key_eps, y);
  }

  // Tokens first .. first + count of the run; `taken` accepted ones of the last pass are in the rows before. q and k
  // are ready.
  void value_head(int64_t head, int64_t first, int64_t count, int64_t taken, float* state) const {
    float *v = rows.v + taken * rows.value_stride, *decay = rows.decay + taken, *beta = rows.beta + taken;
    value_part(head).convolve(op.conv, past, first, count, v, rows.value_stride);
    mixer_gates(op, begin + first, count, head, decay, beta);
    if (first >= past.span.commit) keep_values(head, first, count);
    const DeltaRows x{rows.q,
                      rows.k,
                      rows.v,
                      rows.decay,
                      rows.beta,
                      rows.v,
                      rows.key_stride,
                      rows.value_stride,
                      rows.value_stride,
                      taken + count};
    delta_tokens(x, op.key_dim, op.value_dim, state);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = ((begin + first + t) * op.heads + head) * op.value_dim;
      ahead(op.z + at, op.heads * op.value_dim, op.value_dim);
      ahead(op.y + at, op.heads * op.value_dim, op.value_dim);
      gated_norm_row(v + t * rows.value_stride, op.z + at, op.norm, op.value_dim, op.norm_eps, op.y + at);
    }
  }

  // Accepted tokens of the last pass into the rows of a block, for one value head. What they read is nobody's; q is
  // set so that they do not compute with anything.
  void take_keys(int64_t taken) const {
    for (int64_t t = 0; t < taken; ++t) {
      const float* k = past.span.draft(t) + parts.k + tile.head * op.key_dim;
      copy_row(k, op.key_dim, rows.q + t * rows.key_stride);
      copy_row(k, op.key_dim, rows.k + t * rows.key_stride);
    }
  }
  void take_values(int64_t head, int64_t taken) const {
    for (int64_t t = 0; t < taken; ++t) {
      const float* row = past.span.draft(t);
      copy_row(row + parts.v + head * op.value_dim, op.value_dim, rows.v + t * rows.value_stride);
      rows.decay[t] = row[parts.decay + head], rows.beta[t] = row[parts.beta + head];
    }
  }

  // Uncertain tokens first .. first + count into the drafts. The accepted ones there have been taken.
  void keep_keys(int64_t first, int64_t count) const {
    for (int64_t t = 0; t < count; ++t)
      copy_row(rows.k + t * rows.key_stride, op.key_dim,
               past.span.draft(first - past.span.commit + t) + parts.k + tile.head * op.key_dim);
  }
  void keep_values(int64_t head, int64_t first, int64_t count) const {
    for (int64_t t = 0; t < count; ++t) {
      float* row = past.span.draft(first - past.span.commit + t);
      copy_row(rows.v + t * rows.value_stride, op.value_dim, row + parts.v + head * op.value_dim);
      row[parts.decay + head] = rows.decay[t], row[parts.beta + head] = rows.beta[t];
    }
  }

  void run() const {
    const int64_t head0 = tile.head * group;
    const Span& span = past.span;
    const MixerPart q = key_part(op.q_taps, 0), k = key_part(op.k_taps, keys);
    for (int64_t r = 0; r < group; ++r)
      begin_state(state(head0 + r), scratch_state(head0 + r), op.conv.seg.start[tile.segment] == 0, head_size);
    static_assert(draft_length <= delta_block);  // accepted and uncertain tokens are each of one block
    int64_t taken = span.accepted;
    for (int64_t first = 0, count; first < span.tokens || taken > 0; first += count, taken = 0) {
      const bool certain = first < span.commit || taken > 0;
      const int64_t left = (certain ? span.commit : span.tokens) - first;
      count = left < delta_block - taken ? left : delta_block - taken;
      take_keys(taken);
      key_rows(q, first, count, op.key_scale, rows.q + taken * rows.key_stride);
      key_rows(k, first, count, 1.0f, rows.k + taken * rows.key_stride);
      if (!certain) keep_keys(first, count);
      for (int64_t r = 0; r < group; ++r) {
        const int64_t head = head0 + r;
        take_values(head, taken);
        float* certainly = state(head);
        value_head(head, first, count, taken,
                   certain ? certainly : uncertain(certainly, scratch_state(head), head_size));
      }
    }
    keep_tail(op.conv, tile.segment, q.channel, q.size);
    keep_tail(op.conv, tile.segment, k.channel, k.size);
    keep_tail(op.conv, tile.segment, value_part(head0).channel, group * op.value_dim);
  }
};

// tile.head: a key head, with its heads / key_heads value heads.
inline void delta_mixer(const DeltaMixer& op, const Tile& tile, float* scratch) { MixerHead(op, tile, scratch).run(); }

}  // namespace ingot::INGOT_ISA
