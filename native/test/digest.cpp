// One line for each operation and instruction set that this machine runs: a digest of the bits of its results, on as
// many threads as the first argument says. Two machines that print the same digests compute alike:
// tests/ops/test_emulated.py compares x86 with an emulated ARM, test_sanitized.py four watched threads with one.
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "context.h"

namespace {

using namespace ingot;

// Numbers in (-1, 1) that are a function of their index alone, on every machine.
std::vector<float> draw(size_t count, uint32_t seed) {
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) {
    uint32_t u = uint32_t(i) * 2654435761u ^ seed * 40503u;
    u = (u ^ u >> 15) * 2246822519u;
    u ^= u >> 13;
    x[i] = float(int32_t(u)) * 0x1p-31f;
  }
  return x;
}

template <class T>
void show(const char* isa, const char* name, const std::vector<T>& values) {
  uint64_t digest = 1469598103934665603ull;
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  for (size_t i = 0; i < values.size() * sizeof(T); ++i) digest = (digest ^ bytes[i]) * 1099511628211ull;
  std::printf("%s %s %016llx\n", isa, name, static_cast<unsigned long long>(digest));
}

void linears(Context& context) {
  constexpr const char* names[formats] = {"f32", "bf16", "q8", "q4"};
  const int64_t outputs = 75, inputs = 1100, rows = 21;
  const auto weight = draw(size_t(outputs * inputs), 1), x = draw(size_t(rows * inputs), 2);
  for (int f = 0; f < formats; ++f) {
    std::vector<uint8_t> packed(size_t(round_up(outputs, lanes) / lanes * panel_bytes(Format(f), inputs)));
    context.pack({weight.data(), outputs, inputs, Format::f32}, Format(f), packed.data());
    show(context.isa(), names[f], packed);
    for (const int64_t some : {int64_t(1), int64_t(5), rows}) {
      std::vector<float> y(size_t(some * outputs));
      Linear op{};
      op.x = x.data(), op.weight = packed.data(), op.y = y.data();
      op.rows = some, op.inputs = inputs, op.outputs = outputs, op.format = Format(f);
      context.linears({op});
      show(context.isa(), names[f], y);
    }
  }
}

void rows(Context& context) {
  const int64_t count = 9, size = 1030;
  const auto x = draw(size_t(count * size), 3), weight = draw(size_t(size), 4);
  std::vector<float> y(x.size());
  Norm norm{};
  norm.x = {x.data(), 1, size, size};
  norm.weight = weight.data(), norm.y = y.data(), norm.rows = count, norm.size = size, norm.eps = 1e-6f;
  context.rms_norm(norm);
  show(context.isa(), "rms_norm", y);
  norm.bias = weight.data();
  context.layer_norm(norm);
  show(context.isa(), "layer_norm", y);
  Elementwise map{};
  map.a = {x.data(), 1, size, size}, map.y = y.data(), map.rows = count, map.size = size;
  context.exp(map);
  show(context.isa(), "exp", y);
  context.softplus(map);
  show(context.isa(), "softplus", y);
  context.gelu_tanh(map);
  show(context.isa(), "gelu_tanh", y);
  context.gelu(map);
  show(context.isa(), "gelu", y);
}

// Two segments, of 70 and 3 tokens; the second goes on after 5, the last two of which wait as drafts, and only its
// first token is certain.
struct Runs {
  int32_t offset[3] = {0, 70, 73}, start[2] = {0, 5}, slot[2] = {0, 1}, pages[4] = {0, 1, 2, 2};
  int32_t window[2] = {-1, 0}, accepted[2] = {0, 2}, commit[2] = {70, 1};
  Ragged ragged() const { return {offset, start, slot, pages, 2, 2, window, accepted, commit}; }
};

void recurrence(Context& context) {
  const Runs runs;
  const int64_t tokens = 73, heads = 4, key_heads = 2, size = 48;
  const auto q = draw(size_t(tokens * key_heads * size), 5), k = draw(q.size(), 6);
  const auto v = draw(size_t(tokens * heads * size), 7), beta = draw(size_t(tokens * heads), 8);
  auto log_decay = draw(beta.size(), 9), state = draw(size_t(2 * heads * size * size), 10);
  for (float& x : log_decay) x = x < 0 ? x : -x;
  const int64_t length = 3, width = key_heads * size + heads * (size + 2);
  auto drafts = draw(size_t(length * width), 22);
  std::vector<float> o(v.size());
  const DeltaRule op{q.data(),
                     k.data(),
                     {v.data(), heads, heads * size, size},
                     log_decay.data(),
                     beta.data(),
                     state.data(),
                     o.data(),
                     {drafts.data(), length, width},
                     heads,
                     key_heads,
                     size,
                     size,
                     runs.ragged()};
  context.gated_delta_rule(op);
  show(context.isa(), "delta", o);
  show(context.isa(), "delta", state);
  show(context.isa(), "delta", drafts);
}

void mixer(Context& context) {
  const Runs runs;
  const int64_t tokens = 73, heads = 4, key_heads = 2, size = 48, taps = 4, length = 3;
  const int64_t channels = (2 * key_heads + heads) * size, width = channels + key_heads * size + heads * (size + 2);
  const auto u = draw(size_t(tokens * channels), 14), weight = draw(size_t(channels * taps), 15);
  auto tail = draw(size_t(2 * (taps - 1) * channels), 16), drafts = draw(size_t(length * width), 17);
  std::vector<float> c(u.size());
  context.causal_conv1d(
      {u.data(), weight.data(), tail.data(), c.data(), {drafts.data(), length, width}, channels, taps, runs.ragged()});
  for (const auto& x : {c, tail, drafts}) show(context.isa(), "conv", x);

  const auto z = draw(size_t(tokens * heads * size), 18), gates = draw(size_t(tokens * heads), 19);
  const auto small = draw(size_t(heads), 20), norm = draw(size_t(size), 21);
  auto state = draw(size_t(2 * heads * size * size), 23);
  std::vector<float> y(z.size());
  DeltaMixer op{};
  op.conv = {u.data(), nullptr, tail.data(), nullptr, {drafts.data(), length, width}, channels, taps, runs.ragged()};
  op.q_taps = weight.data(), op.k_taps = op.q_taps + key_heads * size * taps;
  op.v_taps = op.k_taps + key_heads * size * taps;
  op.z = z.data(), op.b = gates.data(), op.a = gates.data(), op.a_log = small.data(), op.dt_bias = small.data();
  op.norm = norm.data(), op.state = state.data(), op.y = y.data();
  op.heads = heads, op.key_heads = key_heads, op.key_dim = op.value_dim = size;
  op.key_scale = 0.2f, op.key_eps = op.norm_eps = 1e-6f;
  context.delta_mixer(op);
  for (const auto& x : {y, tail, state, drafts}) show(context.isa(), "mixer", x);
}

void attention(Context& context) {
  const Runs runs;
  const int64_t tokens = 73, heads = 4, kv_heads = 2, size = 64, pages = 3;
  const auto q = draw(size_t(tokens * heads * size), 11), k = draw(size_t(tokens * kv_heads * size), 12);
  const auto v = draw(k.size(), 13);
  for (const KvFormat format : {KvFormat::f32, KvFormat::bf16, KvFormat::q8}) {
    std::vector<float> keys(size_t(pages * kv_heads * size * page_keys)), values(keys.size()), o(q.size());
    Attention op{};
    op.q = q.data(), op.k = k.data(), op.v = v.data(), op.keys = keys.data(), op.values = values.data(),
    op.o = o.data();
    op.heads = heads, op.kv_heads = kv_heads, op.size = size, op.format = format, op.causal = true;
    op.seg = runs.ragged();
    context.attention(op);
    show(context.isa(), "attention", o);
  }
}

}  // namespace

int main(int count, char** arguments) {
  for (const Kernels* kernels : available_kernels()) {
    Context context(count > 1 ? std::atoi(arguments[1]) : 1, kernels->name);
    linears(context);
    rows(context);
    recurrence(context);
    mixer(context);
    attention(context);
  }
}
