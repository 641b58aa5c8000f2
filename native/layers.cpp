#include "layers.h"

#include <array>

#include "context.h"

namespace ingot {

namespace {

// The matrix applied to T rows of x.
Linear applied(Linear matrix, const float* x, int64_t rows, float* y, const float* gate = nullptr) {
  matrix.x = x, matrix.gate = gate, matrix.y = y, matrix.rows = rows;
  return matrix;
}

Rows contiguous(const float* data, int64_t heads, int64_t size) { return {data, heads, heads * size, size}; }

// Arrays of `tokens` rows of the given widths, one after the other, each on its own cache lines.
template <size_t N, class Reserve>
std::array<float*, N> arrays(int64_t tokens, const int64_t (&widths)[N], const Reserve& reserve) {
  int64_t total = 0;
  for (const int64_t width : widths) total += round_up(tokens * width, lanes);
  std::array<float*, N> found;
  float* next = reinterpret_cast<float*>(reserve(total * int64_t(sizeof(float))));
  for (size_t i = 0; i < N; ++i) {
    found[i] = next;
    next += round_up(tokens * widths[i], lanes);
  }
  return found;
}

}  // namespace

void Context::normalise(const Layer& layer, Rows x, int64_t rows, int64_t size, const float* weight, float* y) {
  Norm op{};
  op.x = x, op.weight = weight, op.y = y, op.rows = rows, op.size = size;
  op.eps = layer.eps, op.one_plus = layer.one_plus;
  rms_norm(op);
}

// layer.y holds the mixer's sum already: the input, and what is added to.
void Context::swiglu(const Layer& layer) {
  const int64_t tokens = layer.tokens, size = layer.gate.inputs, width = layer.gate.outputs;
  const auto [h, gate, up] =
      arrays(tokens, {size, width, width}, [&](int64_t bytes) { return activations_.reserve(bytes); });
  normalise(layer, contiguous(layer.y, 1, size), tokens, size, layer.mlp_norm, h);
  linears({applied(layer.gate, h, tokens, gate), applied(layer.up, h, tokens, up)});
  if (layer.down.format == Format::f32) {
    silu_mul({contiguous(gate, 1, width), contiguous(up, 1, width), gate, tokens, width});
    linears({applied(layer.down, gate, tokens, h)});
  } else {
    linears({applied(layer.down, up, tokens, h, gate)});
  }
  add(layer.y, h, layer.y, tokens * size);
}

void Context::delta_layer(DeltaLayer op) {
  const Layer& layer = op.layer;
  const int64_t tokens = layer.tokens, size = op.qkv.inputs, values = op.z.outputs, heads = op.b.outputs;
  const std::lock_guard turn(activations_.turn);
  const auto [h, u, z, b, a, mixed] = arrays(tokens, {size, op.qkv.outputs, values, heads, heads, values},
                                             [&](int64_t bytes) { return activations_.reserve(bytes); });
  normalise(layer, contiguous(layer.x, 1, size), tokens, size, layer.mixer_norm, h);
  linears({applied(op.qkv, h, tokens, u), applied(op.z, h, tokens, z), applied(op.b, h, tokens, b),
           applied(op.a, h, tokens, a)});
  op.mixer.conv.u = u, op.mixer.z = z, op.mixer.b = b, op.mixer.a = a, op.mixer.y = mixed;
  delta_mixer(op.mixer);
  linears({applied(op.out, mixed, tokens, h)});
  add(layer.x, h, layer.y, tokens * size);
  swiglu(layer);
}

void Context::full_layer(FullLayer op) {
  const Layer& layer = op.layer;
  const int64_t tokens = layer.tokens, size = op.q.inputs, dim = op.attention.size;
  const int64_t heads = op.attention.heads, kv_heads = op.attention.kv_heads;
  const int64_t queries = heads * dim, keys = kv_heads * dim;
  const std::lock_guard turn(activations_.turn);
  const auto [h, q_gate, k, v, q, k_normal, q_turned, k_turned] =
      arrays(tokens, {size, 2 * queries, keys, keys, queries, keys, queries, keys},
             [&](int64_t bytes) { return activations_.reserve(bytes); });
  normalise(layer, contiguous(layer.x, 1, size), tokens, size, layer.mixer_norm, h);
  linears({applied(op.q, h, tokens, q_gate), applied(op.k, h, tokens, k), applied(op.v, h, tokens, v)});
  normalise(layer, {q_gate, heads, 2 * queries, 2 * dim}, tokens * heads, dim, op.q_norm, q);
  normalise(layer, contiguous(k, kv_heads, dim), tokens * kv_heads, dim, op.k_norm, k_normal);
  rope({q, op.cos, op.sin, q_turned, heads, dim, op.pairs},
       {k_normal, op.cos, op.sin, k_turned, kv_heads, dim, op.pairs}, tokens);
  op.attention.q = q_turned, op.attention.k = k_turned, op.attention.v = v, op.attention.o = q;
  attention(op.attention);
  sigmoid_mul({contiguous(q, heads, dim), {q_gate + dim, heads, 2 * queries, 2 * dim}, q_turned, tokens * heads, dim});
  linears({applied(op.out, q_turned, tokens, h)});
  add(layer.x, h, layer.y, tokens * size);
  swiglu(layer);
}

}  // namespace ingot
