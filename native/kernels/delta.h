// The gated delta rule, token by token, one strip of 16 values of one head at a time: S[K][16] stays in L1.
//
//     S <- decay S;   delta = beta (v - S^T k);   S <- S + k delta^T;   o = S^T q
//
// decay multiplies the product, not the stored rows: (decay S)^T k == decay (S^T k). The sweep that updates S for one
// token also reads it for o and for the next token's S^T k, so a token costs one sweep. Sums over K run in two
// accumulators, even and odd k: one would wait for its own latency.
#pragma once

#include "drafts.h"
#include "rows.h"
#include "tile.h"

namespace ingot::INGOT_ISA {

struct Yes {
  static constexpr bool value = true;
};
struct No {
  static constexpr bool value = false;
};

template <int N>
struct Strips {
  V even[N], odd[N];
  void clear() {
    INGOT_UNROLL
    for (int n = 0; n < N; ++n) even[n] = odd[n] = zero();
  }
  V total(int n) const { return even[n] + odd[n]; }
};

template <int N>
inline void read_strips(const float* state, int64_t size, const float* k, Strips<N>& p) {
  const int64_t strip = size * lanes;
  p.clear();
  int64_t i = 0;
  for (; i + 1 < size; i += 2) INGOT_UNROLL
  for (int n = 0; n < N; ++n) {
    p.even[n] = fma(load(state + n * strip + i * lanes), all(k[i]), p.even[n]);
    p.odd[n] = fma(load(state + n * strip + (i + 1) * lanes), all(k[i + 1]), p.odd[n]);
  }
  if (i < size) INGOT_UNROLL
  for (int n = 0; n < N; ++n) p.even[n] = fma(load(state + n * strip + i * lanes), all(k[i]), p.even[n]);
}

template <int N, bool More>
struct DeltaSweep {
  float* state;
  int64_t strip;
  const float *q, *k, *next_k;
  V decay, delta[N];

  void step(int64_t i, V (&o)[N], V (&p)[N]) const {
    const V key = all(k[i]), query = all(q[i]), next = More ? all(next_k[i]) : zero();
    // every load before any store: strips lie a multiple of 4 KiB apart, and a load that follows a store to the same
    // offset in another page waits for it
    V s[N];
    INGOT_UNROLL
    for (int n = 0; n < N; ++n) s[n] = decay * load(state + n * strip + i * lanes);
    INGOT_UNROLL
    for (int n = 0; n < N; ++n) {
      s[n] = fma(key, delta[n], s[n]);
      store(state + n * strip + i * lanes, s[n]);
      o[n] = fma(s[n], query, o[n]);
      if constexpr (More) p[n] = fma(s[n], next, p[n]);
    }
  }
  void run(int64_t size, Strips<N>& o, Strips<N>& p) const {
    o.clear();
    if constexpr (More) p.clear();
    int64_t i = 0;
    for (; i + 1 < size; i += 2) {
      step(i, o.even, p.even);
      step(i + 1, o.odd, p.odd);
    }
    if (i < size) step(i, o.even, p.even);
  }
};

// Consecutive tokens of one head: rows a stride apart; decay and beta one number a token. v and o may be the same rows.
struct DeltaRows {
  const float *q, *k, *v, *decay, *beta;
  float* o;
  int64_t key_stride, v_stride, o_stride, tokens;
};

// N strips through all tokens; `values` of their lanes exist.
template <int N>
inline void delta_strips_of(const DeltaRows& x, int64_t size, int64_t values, float* state) {
  const auto room = [&](int n) { return values - n * lanes < lanes ? int(values - n * lanes) : lanes; };
  Strips<N> p, o;
  read_strips<N>(state, size, x.k, p);
  for (int64_t t = 0; t < x.tokens; ++t) {
    const V decay = all(x.decay[t]), beta = all(x.beta[t]);
    const float *v = x.v + t * x.v_stride, *q = x.q + t * x.key_stride, *k = x.k + t * x.key_stride;
    V delta[N];
    INGOT_UNROLL
    for (int n = 0; n < N; ++n) delta[n] = beta * (load_part(v + n * lanes, room(n)) - decay * p.total(n));
    const auto sweep = [&](auto more) {
      DeltaSweep<N, more.value> s{state, size * lanes, q, k, more.value ? k + x.key_stride : nullptr, decay, {}};
      INGOT_UNROLL
      for (int n = 0; n < N; ++n) s.delta[n] = delta[n];
      s.run(size, o, p);
    };
    if (t + 1 < x.tokens) sweep(Yes{});
    else sweep(No{});
    INGOT_UNROLL
    for (int n = 0; n < N; ++n) store_part(x.o + t * x.o_stride + n * lanes, o.total(n), room(n));
  }
}

// All strips of `values` values, as many at a time as the registers hold.
template <int N = delta_strips>
inline void delta_tokens(DeltaRows x, int64_t size, int64_t values, float* state) {
  constexpr int64_t step = N * lanes;
  for (; values > step - lanes; values -= step, state += step * size, x.v += step, x.o += step)
    delta_strips_of<N>(x, size, values, state);
  if constexpr (N > 1)
    if (values > 0) delta_tokens<N / 2>(x, size, values, state);
}

// The state of a run's strips: its slot's, or scratch. `at` is where it begins in a slot.
inline float* run_state(float* pool, const Ragged& seg, int32_t segment, int64_t slot_size, int64_t at,
                        float* scratch) {
  const int32_t slot = seg.slot[segment];
  return pool && slot >= 0 ? pool + slot * slot_size + at : scratch;
}

// Zeros, unless the run goes on from what its slot holds.
inline void begin_state(float* state, const float* scratch, bool fresh, int64_t size) {
  if (state == scratch || fresh)
    for (int64_t i = 0; i < size; ++i) state[i] = 0.0f;
}

// Goes on with a copy: what follows is not certain.
inline float* uncertain(float* state, float* scratch, int64_t size) {
  if (state != scratch) copy_row(state, size, scratch);
  return scratch;
}

// One head's strips of 16 values, through the tokens of one run.
struct DeltaTile {
  const DeltaRule& op;
  const int64_t head, key_head, value, values, begin;

  DeltaTile(const DeltaRule& o, const Tile& tile)
      : op(o),
        head(tile.head),
        key_head(tile.head / (o.heads / o.key_heads)),
        value(tile.first * int64_t(lanes)),
        values(o.value_dim - value < tile.count * lanes ? o.value_dim - value : tile.count * int64_t(lanes)),
        begin(o.seg.offset[tile.segment]) {}

  // Tokens of the last pass; what they read is nobody's.
  void take(const Span& span, float* state) const {
    const DraftParts parts = draft_parts(op, op.drafts);
    alignas(64) float unread[delta_strips * lanes];
    for (int64_t t = 0; t < span.accepted; ++t) {
      const float *row = span.draft(t), *k = row + parts.k + key_head * op.key_dim;
      const float* v = row + parts.v + head * op.value_dim + value;
      delta_tokens({k, k, v, row + parts.decay + head, row + parts.beta + head, unread, 0, 0, 0, 1}, op.key_dim, values,
                   state);
    }
  }

  void run(int64_t first, int64_t end, float* state) const {
    alignas(64) float decay[delta_block], beta[delta_block];
    for (int64_t tokens; first < end; first += tokens) {
      tokens = end - first < delta_block ? end - first : delta_block;
      const int64_t t = begin + first;
      for (int64_t i = 0; i < tokens; ++i) {
        decay[i] = op.log_decay[(t + i) * op.heads + head];
        beta[i] = op.beta[(t + i) * op.heads + head];
      }
      each_vector(tokens, [&](int64_t i, int n) { store_part(decay + i, exp(load_part(decay + i, n)), n); });
      const int64_t key = (t * op.key_heads + key_head) * op.key_dim;
      const float* v = row_of(op.v, t * op.heads + head) + value;
      float* o = op.o + (t * op.heads + head) * op.value_dim + value;
      delta_tokens({op.q + key, op.k + key, v, decay, beta, o, op.key_heads * op.key_dim, op.v.token_stride,
                    op.heads * op.value_dim, tokens},
                   op.key_dim, values, state);
    }
  }
};

inline void gated_delta_rule(const DeltaRule& op, const Tile& tile, float* scratch) {
  const int64_t strip = op.key_dim * lanes, head_size = (op.value_dim + lanes - 1) / lanes * strip;
  const Span span = span_of(op.drafts, op.seg, tile.segment);
  const DeltaTile work(op, tile);
  float* state = run_state(op.state, op.seg, tile.segment, op.heads * head_size,
                           tile.head * head_size + tile.first * strip, scratch);
  begin_state(state, scratch, op.seg.start[tile.segment] == 0, tile.count * strip);
  if (span.accepted) work.take(span, state);
  work.run(0, span.commit, state);
  if (span.commit < span.tokens) work.run(span.commit, span.tokens, uncertain(state, scratch, tile.count * strip));
}

// The rows of the run's uncertain tokens, for the pass after. Runs after every tile of the run.
inline void keep_drafts(const DeltaRule& op, int64_t segment) {
  const Span span = span_of(op.drafts, op.seg, segment);
  for (int64_t t = span.commit; t < span.tokens; ++t) {
    const DraftParts parts = draft_parts(op, op.drafts);
    const int64_t token = op.seg.offset[segment] + t, keys = op.key_heads * op.key_dim;
    float* row = span.draft(t - span.commit);
    copy_row(op.k + token * keys, keys, row + parts.k);
    for (int64_t h = 0; h < op.heads; ++h)
      copy_row(row_of(op.v, token * op.heads + h), op.value_dim, row + parts.v + h * op.value_dim);
    each_vector(op.heads, [&](int64_t h, int n) {
      store_part(row + parts.decay + h, exp(load_part(op.log_decay + token * op.heads + h, n)), n);
    });
    copy_row(op.beta + token * op.heads, op.heads, row + parts.beta);
  }
}

}  // namespace ingot::INGOT_ISA
