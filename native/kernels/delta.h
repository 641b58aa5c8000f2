// The gated delta rule, token by token, one strip of 16 values of one head at a time: S[K][16] stays in L1.
//
//     S <- decay S;   delta = beta (v - S^T k);   S <- S + k delta^T;   o = S^T q
//
// decay multiplies the product, not the stored rows: (decay S)^T k == decay (S^T k). The sweep that updates S for one
// token also reads it for o and for the next token's S^T k, so a token costs one sweep. Sums over K run in two
// accumulators, even and odd k: one would wait for its own latency.
#pragma once

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

inline void gated_delta_rule(const DeltaRule& op, const Tile& tile, float* scratch) {
  const int64_t K = op.key_dim, strip = K * lanes, strips = (op.value_dim + lanes - 1) / lanes;
  const int64_t value = tile.first * int64_t(lanes), left = op.value_dim - value, here = tile.count * int64_t(lanes);
  const int64_t key_head = tile.head / (op.heads / op.key_heads), head_size = strips * strip;
  float* state = run_state(op.state, op.seg, tile.segment, op.heads * head_size,
                           tile.head * head_size + tile.first * strip, scratch);
  begin_state(state, scratch, op.seg.start[tile.segment] == 0, tile.count * strip);
  alignas(64) float decay[delta_block], beta[delta_block];
  const int64_t end = op.seg.offset[tile.segment + 1];
  for (int64_t t = op.seg.offset[tile.segment]; t < end; t += delta_block) {
    const int64_t tokens = end - t < delta_block ? end - t : delta_block;
    for (int64_t i = 0; i < tokens; ++i) {
      decay[i] = op.log_decay[(t + i) * op.heads + tile.head];
      beta[i] = op.beta[(t + i) * op.heads + tile.head];
    }
    each_vector(tokens, [&](int64_t i, int n) { store_part(decay + i, exp(load_part(decay + i, n)), n); });
    const int64_t key = (t * op.key_heads + key_head) * K;
    const DeltaRows rows{op.q + key,
                         op.k + key,
                         row_of(op.v, t * op.heads + tile.head) + value,
                         decay,
                         beta,
                         op.o + (t * op.heads + tile.head) * op.value_dim + value,
                         op.key_heads * K,
                         op.v.token_stride,
                         op.heads * op.value_dim,
                         tokens};
    delta_tokens(rows, K, left < here ? left : here, state);
  }
}

}  // namespace ingot::INGOT_ISA
