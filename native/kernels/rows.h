// Kernels whose lanes run along the last axis of a row: norms, gates, rotary. A reduction runs in 16 virtual lanes,
// element i in lane i % 16, and ends in the tree of sum(); lanes past the end hold zeros.
#pragma once

#include "functions.h"

namespace ingot::INGOT_ISA {

// body(i, n): elements i .. i + n of a row, n = 16 but for the last.
template <class Body>
inline void each_vector(int64_t size, Body body) {
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) body(i, lanes);
  if (i < size) body(i, int(size - i));
}

inline V load_part(const float* p, int n) { return n == lanes ? load(p) : load(p, n); }
inline void store_part(float* p, V x, int n) {
  if (n == lanes) store(p, x);
  else store(p, x, n);
}

inline const float* row_of(const Rows& x, int64_t r) {
  return x.data + r / x.heads * x.token_stride + r % x.heads * x.head_stride;
}

inline float sum_squares(const float* x, int64_t size) {
  V squares = zero();
  each_vector(size, [&](int64_t i, int n) {
    const V part = load_part(x + i, n);
    squares = fma(part, part, squares);
  });
  return sum(squares);
}

// 1 / sqrt(x), both steps IEEE: no approximate reciprocal.
inline V inverse_root(float x) { return all(1.0f) / sqrt(all(x)); }

inline void rms_norm(const Norm& op, int64_t row, int64_t rows) {
  const V offset = all(op.one_plus ? 1.0f : 0.0f);
  for (; rows > 0; ++row, --rows) {
    const float* x = row_of(op.x, row);
    float* y = op.y + row * op.size;
    const V scale = inverse_root(sum_squares(x, op.size) / float(op.size) + op.eps);
    each_vector(op.size, [&](int64_t i, int n) {
      store_part(y + i, load_part(x + i, n) * scale * (offset + load_part(op.weight + i, n)), n);
    });
  }
}

// Mean first, then the variance of what is left: one pass over x * x would lose the digits of a large mean.
inline void layer_norm(const Norm& op, int64_t row, int64_t rows) {
  for (; rows > 0; ++row, --rows) {
    const float* x = row_of(op.x, row);
    float* y = op.y + row * op.size;
    V total = zero();
    each_vector(op.size, [&](int64_t i, int n) { total = total + load_part(x + i, n); });
    const V mean = all(sum(total) / float(op.size));
    each_vector(op.size, [&](int64_t i, int n) { store_part(y + i, load_part(x + i, n) - mean, n); });
    const V scale = inverse_root(sum_squares(y, op.size) / float(op.size) + op.eps);
    each_vector(op.size, [&](int64_t i, int n) {
      store_part(y + i, load_part(y + i, n) * scale * load_part(op.weight + i, n) + load_part(op.bias + i, n), n);
    });
  }
}

inline void gated_norm_row(const float* x, const float* gate, const float* w, int64_t size, float eps, float* y) {
  const V scale = inverse_root(sum_squares(x, size) / float(size) + eps);
  each_vector(size, [&](int64_t i, int n) {
    const V normed = load_part(x + i, n) * scale * load_part(w + i, n);
    store_part(y + i, normed * silu(load_part(gate + i, n)), n);
  });
}

inline void gated_rms_norm(const Norm& op, int64_t row, int64_t rows) {
  for (; rows > 0; ++row, --rows)
    gated_norm_row(row_of(op.x, row), row_of(op.gate, row), op.weight, op.size, op.eps, op.y + row * op.size);
}

inline void l2_row(const float* x, int64_t size, float scale, float eps, float* y) {
  const V inverse = inverse_root(sum_squares(x, size) + eps);
  each_vector(size, [&](int64_t i, int n) { store_part(y + i, load_part(x + i, n) * inverse * all(scale), n); });
}

inline void l2_norm(const Norm& op, int64_t row, int64_t rows) {
  for (; rows > 0; ++row, --rows) l2_row(row_of(op.x, row), op.size, op.scale, op.eps, op.y + row * op.size);
}

template <class F>
inline void map(const Elementwise& op, int64_t row, int64_t rows, F f) {
  for (; rows > 0; ++row, --rows) {
    const float *a = row_of(op.a, row), *b = op.b.data ? row_of(op.b, row) : a;
    float* y = op.y + row * op.size;
    each_vector(op.size, [&](int64_t i, int n) { store_part(y + i, f(load_part(a + i, n), load_part(b + i, n)), n); });
  }
}

inline void silu_mul(const Elementwise& op, int64_t row, int64_t rows) {
  map(op, row, rows, [](V gate, V up) { return silu(gate) * up; });
}
inline void sigmoid_mul(const Elementwise& op, int64_t row, int64_t rows) {
  map(op, row, rows, [](V x, V gate) { return x * sigmoid(gate); });
}
inline void gelu_tanh_each(const Elementwise& op, int64_t row, int64_t rows) {
  map(op, row, rows, [](V x, V) { return gelu_tanh(x); });
}
inline void gelu_each(const Elementwise& op, int64_t row, int64_t rows) {
  map(op, row, rows, [](V x, V) { return gelu(x); });
}
inline void exp_each(const Elementwise& op, int64_t row, int64_t rows) {
  map(op, row, rows, [](V x, V) { return exp(x); });
}
inline void sigmoid_each(const Elementwise& op, int64_t row, int64_t rows) {
  map(op, row, rows, [](V x, V) { return sigmoid(x); });
}
inline void softplus_each(const Elementwise& op, int64_t row, int64_t rows) {
  map(op, row, rows, [](V x, V) { return softplus(x); });
}

// Rotate-half inside the first 2N dims of every head: (x[i], x[i + N]) turns by angle i; the rest is copied.
inline void rope(const Rope& op, int64_t token, int64_t tokens) {
  const int64_t n_pairs = op.pairs;
  for (; tokens > 0; ++token, --tokens) {
    const float *cos = op.cos + token * n_pairs, *sin = op.sin + token * n_pairs;
    for (int64_t head = 0; head < op.heads; ++head) {
      const float* x = op.x + (token * op.heads + head) * op.size;
      float* y = op.y + (token * op.heads + head) * op.size;
      each_vector(n_pairs, [&](int64_t i, int n) {
        const V c = load_part(cos + i, n), s = load_part(sin + i, n);
        const V a = load_part(x + i, n), b = load_part(x + n_pairs + i, n);
        store_part(y + i, a * c - b * s, n);
        store_part(y + n_pairs + i, b * c + a * s, n);
      });
      for (int64_t i = 2 * n_pairs; i < op.size; ++i) y[i] = x[i];
    }
  }
}

inline V log_decay(V a, V a_log, V dt_bias) { return zero() - exp(a_log) * softplus(a + dt_bias); }

inline void delta_gates(const DeltaGates& op, int64_t token, int64_t tokens) {
  for (; tokens > 0; ++token, --tokens) {
    const int64_t row = token * op.heads;
    each_vector(op.heads, [&](int64_t i, int n) {
      const V a = load_part(op.a + row + i, n), a_log = load_part(op.a_log + i, n);
      store_part(op.log_decay + row + i, log_decay(a, a_log, load_part(op.dt_bias + i, n)), n);
      store_part(op.beta + row + i, sigmoid(load_part(op.b + row + i, n)), n);
    });
  }
}

}  // namespace ingot::INGOT_ISA
