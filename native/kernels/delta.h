// The gated delta rule, token by token, one strip of 16 values of one head at a time: S[K][16] stays in L1.
//
//     S <- decay S;   delta = beta (v - S^T k);   S <- S + k delta^T;   o = S^T q
//
// decay multiplies the product, not the stored rows: (decay S)^T k == decay (S^T k). The sweep that updates S for one
// token also reads it for o and for the next token's S^T k, so a token costs one sweep. Sums over K run in two
// accumulators, even and odd k: one would wait for its own latency.
#pragma once

#include "rows.h"

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
    for (int n = 0; n < N; ++n) even[n] = odd[n] = zero();
  }
  V total(int n) const { return even[n] + odd[n]; }
};

template <int N>
inline void read_strips(const float* state, int64_t size, const float* k, Strips<N>& p) {
  const int64_t strip = size * lanes;
  p.clear();
  int64_t i = 0;
  for (; i + 1 < size; i += 2)
    for (int n = 0; n < N; ++n) {
      p.even[n] = fma(load(state + n * strip + i * lanes), all(k[i]), p.even[n]);
      p.odd[n] = fma(load(state + n * strip + (i + 1) * lanes), all(k[i + 1]), p.odd[n]);
    }
  if (i < size)
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
    for (int n = 0; n < N; ++n) s[n] = decay * load(state + n * strip + i * lanes);
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

// exp(log_decay) and beta of up to 16 tokens of one head.
struct DeltaScalars {
  alignas(64) float decay[lanes], beta[lanes];

  void fetch(const DeltaRule& op, int64_t token, int64_t tokens, int64_t head) {
    const int64_t n = tokens < lanes ? tokens : lanes;
    for (int64_t i = 0; i < lanes; ++i) {
      decay[i] = i < n ? op.log_decay[(token + i) * op.heads + head] : 0.0f;
      beta[i] = i < n ? op.beta[(token + i) * op.heads + head] : 0.0f;
    }
    store(decay, exp(load(decay)));
  }
};

template <int N>
inline void delta_strips_of(const DeltaRule& op, const Tile& tile, float* state) {
  const int64_t K = op.key_dim, vdim = op.value_dim, value = tile.first * int64_t(lanes);
  const int64_t key_head = tile.head / (op.heads / op.key_heads);
  const int64_t first = op.seg.offset[tile.segment], end = op.seg.offset[tile.segment + 1];
  const auto key = [&](const float* x, int64_t t) { return x + (t * op.key_heads + key_head) * K; };
  const auto room = [&](int n) { return vdim - value - n * lanes < lanes ? int(vdim - value - n * lanes) : lanes; };

  DeltaScalars scalars;
  Strips<N> p, o;
  read_strips<N>(state, K, key(op.k, first), p);
  for (int64_t t = first; t < end; ++t) {
    const int64_t at = (t - first) % lanes;
    if (at == 0) scalars.fetch(op, t, end - t, tile.head);
    const int64_t values = (t * op.heads + tile.head) * vdim + value;
    const V decay = all(scalars.decay[at]), beta = all(scalars.beta[at]);
    const float* v = row_of(op.v, t * op.heads + tile.head) + value;
    V delta[N];
    for (int n = 0; n < N; ++n) delta[n] = beta * (load_part(v + n * lanes, room(n)) - decay * p.total(n));
    const auto sweep = [&](auto more) {
      DeltaSweep<N, more.value> s{state, K * lanes, key(op.q, t), key(op.k, t), nullptr, decay, {}};
      if constexpr (more.value) s.next_k = key(op.k, t + 1);
      for (int n = 0; n < N; ++n) s.delta[n] = delta[n];
      s.run(K, o, p);
    };
    if (t + 1 < end) sweep(Yes{});
    else sweep(No{});
    for (int n = 0; n < N; ++n) store_part(op.o + values + n * lanes, o.total(n), room(n));
  }
}

inline void gated_delta_rule(const DeltaRule& op, const Tile& tile, float* scratch) {
  const int64_t strip = op.key_dim * lanes, strips = (op.value_dim + lanes - 1) / lanes;
  const int32_t slot = op.seg.slot[tile.segment];
  float* state = scratch;
  if (op.state && slot >= 0) state = op.state + ((slot * op.heads + tile.head) * strips + tile.first) * strip;
  if (state == scratch || op.seg.start[tile.segment] == 0)
    for (int64_t i = 0; i < tile.count * strip; ++i) state[i] = 0.0f;
  if constexpr (delta_strips > 1)
    if (tile.count == delta_strips) return delta_strips_of<delta_strips>(op, tile, state);
  delta_strips_of<1>(op, tile, state);
}

}  // namespace ingot::INGOT_ISA
