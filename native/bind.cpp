// The module ingot._native: checks arguments, releases the GIL, calls the context. No arithmetic here.
// Every array argument is named and .noconvert(): nanobind would otherwise copy a strided or float64 array, and an
// in-place update would be lost.
#include "bind.h"

#include <algorithm>

namespace ingot {

using namespace nb::literals;

namespace {

constexpr const char* format_names[formats] = {"f32", "bf16", "q8", "q4"};

Format parse_format(const std::string& name) {
  for (int i = 0; i < formats; ++i)
    if (name == format_names[i]) return Format(i);
  throw std::invalid_argument("fmt is \"" + name + "\", expected f32, bf16, q8 or q4");
}

// Pages say their format by their dtype.
KvFormat kv_format(const Out& keys) {
  if (keys.dtype() == nb::dtype<uint16_t>()) return KvFormat::bf16;
  return keys.dtype() == nb::dtype<uint8_t>() ? KvFormat::q8 : KvFormat::f32;
}

}  // namespace

Matrix::Matrix(In array, const std::string& format, int64_t outputs, int64_t inputs) : data(std::move(array)), op{} {
  op.format = parse_format(format);
  op.outputs = outputs, op.inputs = inputs;
  Shapes shapes("Matrix");
  shapes.bind("O", outputs).bind("panel", panel_bytes(op.format, inputs));
  shapes.is("data", data, "O/16 panel", Kind::uint8);
  op.weight = static_cast<const uint8_t*>(data.data());
}

DeltaWeights::DeltaWeights(In q, In k, In v, In log, In bias, In w, int64_t key_dim, float key_scale, float norm_eps)
    : q_taps(std::move(q)),
      k_taps(std::move(k)),
      v_taps(std::move(v)),
      a_log(std::move(log)),
      dt_bias(std::move(bias)),
      norm(std::move(w)),
      op{} {
  Shapes shapes("DeltaWeights");
  shapes.bind("K", key_dim).is("norm", norm, "V").is("A_log", a_log, "H").is("dt_bias", dt_bias, "H");
  shapes.is("q_taps", q_taps, "G K/16 W 16").is("k_taps", k_taps, "G K/16 W 16").is("v_taps", v_taps, "H V/16 W 16");
  shapes.divides("G", "H");
  if (shapes["W"] < 1 || shapes["W"] > conv_max_width) shapes.fail("W is " + std::to_string(shapes["W"]));
  op.q_taps = f32(q_taps), op.k_taps = f32(k_taps), op.v_taps = f32(v_taps);
  op.a_log = f32(a_log), op.dt_bias = f32(dt_bias), op.norm = f32(norm);
  op.heads = shapes["H"], op.key_heads = shapes["G"], op.key_dim = key_dim, op.value_dim = shapes["V"];
  op.key_scale = key_scale, op.key_eps = 1e-6f, op.norm_eps = norm_eps;
  op.conv.width = shapes["W"], op.conv.channels = 2 * op.key_heads * key_dim + op.heads * op.value_dim;
}

Ragged ragged(const In& offset, const In& start, const In* slot, const In* pages) {
  return {i32(offset),
          i32(start),
          slot ? i32(*slot) : nullptr,
          pages ? i32(*pages) : nullptr,
          int64_t(start.shape(0)),
          pages ? int64_t(pages->shape(1)) : 0,
          nullptr,
          nullptr,
          nullptr};
}

Drafts Uncertain::write(Shapes& shapes, Ragged& seg, int64_t least, int64_t width) const {
  int64_t length = 0, found = 0;
  if (drafts) {
    shapes.is("drafts", *drafts, "windows L R");
    length = shapes["L"], found = shapes["R"];
    if (length > draft_length)
      shapes.fail("drafts has L = " + std::to_string(length) + " rows, expected at most " +
                  std::to_string(draft_length));
    if (width ? found != width : found < least)
      shapes.fail("drafts has R = " + std::to_string(found) + " columns, expected " + (width ? "" : "at least ") +
                  std::to_string(width ? width : least));
    if (window) shapes.rows_of("window", *window, shapes["windows"]), seg.window = i32(*window);
  }
  if (accepted) shapes.is("accepted", *accepted, "S", Kind::int32), seg.accepted = i32(*accepted);
  if (commit) shapes.is("commit", *commit, "S", Kind::int32), seg.commit = i32(*commit);
  for (int64_t s = 0; s < seg.count; ++s) {
    const int64_t tokens = seg.offset[s + 1] - seg.offset[s];
    const int64_t most = seg.window && seg.window[s] >= 0 && seg.slot[s] >= 0 ? length : 0;
    const auto check = [&](const char* name, int64_t value, int64_t low, int64_t high) {
      if (value < low || value > high)
        shapes.fail(std::string(name) + "[" + std::to_string(s) + "] is " + std::to_string(value) + ", expected " +
                    std::to_string(low) + " to " + std::to_string(high) + ": the run has room for " +
                    std::to_string(most) + " drafts");
    };
    if (accepted) check("accepted", seg.accepted[s], 0, std::min<int64_t>(most, seg.start[s]));
    if (commit) check("commit", seg.commit[s], std::max<int64_t>(0, tokens - most), tokens);
  }
  return {drafts ? f32(*drafts) : nullptr, length, found};
}

void remember(Shapes& shapes, DeltaMixer& op, const In& offset, const In& start, const In& slot,
              const std::optional<Out>& tail, const std::optional<Out>& state, const Uncertain& uncertain) {
  shapes.bind("H", op.heads).bind("K", op.key_dim).bind("V", op.value_dim).bind("C", op.conv.channels);
  shapes.bind("W-1", op.conv.width - 1).runs(offset, start, shapes["T"]);
  if (tail) shapes.is("tail", *tail, "slots W-1 C");
  if (state) shapes.is("state", *state, "slots H V/16 K 16");
  if (tail || state) shapes.rows_of("slot", slot, shapes["slots"]);
  else shapes.is("slot", slot, "S", Kind::int32);
  op.conv.tail = f32(tail), op.state = f32(state), op.conv.seg = ragged(offset, start, &slot, nullptr);
  if (uncertain.drafts && !(tail && state)) shapes.fail("drafts wait for a tail and a state; both are needed");
  const int64_t row = op.conv.channels + op.key_heads * op.key_dim + op.heads * (op.value_dim + 2);
  op.conv.drafts = uncertain.write(shapes, op.conv.seg, 0, row);
}

void remember(Shapes& shapes, Attention& op, const In& offset, const In& start, const In& pages, const Out& keys,
              const Out& values) {
  op.heads = shapes["H"], op.kv_heads = shapes["G"], op.size = shapes["E"], op.format = kv_format(keys);
  const int64_t whole = padded_head(op.size);
  shapes.bind("F", whole).bind("pairs", whole / 2).bind("groups", whole / kv_group);
  if (op.format == KvFormat::f32) shapes.is("kv[0]", keys, "pages G E 64").is("kv[1]", values, "pages G 64 E");
  else if (op.format == KvFormat::bf16)
    shapes.is("kv[0]", keys, "pages G 4 pairs 16 2", Kind::bf16)
        .is("kv[1]", values, "pages G F/16 32 16 2", Kind::bf16);
  else
    shapes.is("kv[0]", keys, "pages G 4 groups 544", Kind::uint8)
        .is("kv[1]", values, "pages G groups 2176", Kind::uint8);
  shapes.runs(offset, start, shapes["T"]).pages(offset, start, pages, shapes["pages"]);
  op.keys = keys.data(), op.values = values.data(), op.seg = ragged(offset, start, nullptr, &pages);
}

int64_t rotary_pairs(const Shapes& shapes) {
  const int64_t size = shapes["E"], pairs = shapes["N"];
  if (2 * pairs > size)
    shapes.fail("cos has N = " + std::to_string(pairs) + " pairs; a head of E = " + std::to_string(size) +
                " dims has room for " + std::to_string(size / 2));
  return pairs;
}

namespace {

std::string_view row_dims(const In& x) { return x.ndim() == 3 ? "T H D" : "T D"; }
int64_t row_count(const Shapes& shapes, const In& x) { return x.ndim() == 3 ? shapes["T"] * shapes["H"] : shapes["T"]; }

void pack(Context& context, const In& from, const std::string& from_format, const Out& to, const std::string& format) {
  const Format source = parse_format(from_format), target = parse_format(format);
  Shapes shapes("pack");
  shapes.is("weight", from, "O I", source == Format::f32 ? Kind::float32 : Kind::bf16);
  shapes.bind("panel", panel_bytes(target, shapes["I"])).is("data", to, "O/16 panel", Kind::uint8);
  const Unpacked weight{from.data(), shapes["O"], shapes["I"], source};
  without_gil([&] { context.pack(weight, target, static_cast<uint8_t*>(to.data())); });
}

void linears(Context& context, const In& x, const std::vector<const Matrix*>& leaves, const std::vector<Out>& y,
             const std::optional<In>& gate) {
  std::vector<Linear> ops;
  for (size_t i = 0; i < leaves.size(); ++i) {
    Shapes shapes("linears");
    shapes.bind("I", leaves[i]->op.inputs).bind("O", leaves[i]->op.outputs);
    shapes.is("x", x, "T I").is("y", y.at(i), "T O");
    Linear op = leaves[i]->op;
    if (gate) {
      shapes.is("gate", *gate, "T I");
      if (op.format == Format::f32) shapes.fail("gate is given; f32 weights take none");
      op.gate = f32(*gate);
    }
    op.x = f32(x), op.y = f32(y[i]), op.rows = shapes["T"];
    ops.push_back(op);
  }
  without_gil([&] { context.linears(std::move(ops)); });
}

void rms_norm(Context& context, const In& x, const In& w, float eps, bool one_plus, const Out& y) {
  Shapes shapes("rms_norm");
  Norm op{};
  op.x = shapes.rows("x", x, row_dims(x));
  shapes.is("w", w, "D").is("y", y, row_dims(x));
  op.weight = f32(w), op.y = f32(y), op.eps = eps, op.one_plus = one_plus;
  op.rows = row_count(shapes, x), op.size = shapes["D"];
  without_gil([&] { context.rms_norm(op); });
}

void layer_norm(Context& context, const In& x, const In& w, const In& b, float eps, const Out& y) {
  Shapes shapes("layer_norm");
  Norm op{};
  op.x = shapes.rows("x", x, row_dims(x));
  shapes.is("w", w, "D").is("b", b, "D").is("y", y, row_dims(x));
  op.weight = f32(w), op.bias = f32(b), op.y = f32(y), op.eps = eps;
  op.rows = row_count(shapes, x), op.size = shapes["D"];
  without_gil([&] { context.layer_norm(op); });
}

void gated_rms_norm(Context& context, const In& o, const In& z, const In& w, float eps, const Out& y) {
  Shapes shapes("gated_rms_norm");
  Norm op{};
  op.x = shapes.rows("o", o, row_dims(o)), op.gate = shapes.rows("z", z, row_dims(o));
  shapes.is("w", w, "D").is("y", y, row_dims(o));
  op.weight = f32(w), op.y = f32(y), op.eps = eps;
  op.rows = row_count(shapes, o), op.size = shapes["D"];
  without_gil([&] { context.gated_rms_norm(op); });
}

void l2_norm(Context& context, const In& x, float scale, float eps, const Out& y) {
  Shapes shapes("l2_norm");
  Norm op{};
  op.x = shapes.rows("x", x, row_dims(x));
  shapes.is("y", y, row_dims(x));
  op.y = f32(y), op.eps = eps, op.scale = scale;
  op.rows = row_count(shapes, x), op.size = shapes["D"];
  without_gil([&] { context.l2_norm(op); });
}

Elementwise pairwise(Shapes& shapes, const char* first, const In& a, const char* second, const In& b, const Out& y) {
  Elementwise op{};
  op.a = shapes.rows(first, a, row_dims(a)), op.b = shapes.rows(second, b, row_dims(a));
  shapes.is("y", y, row_dims(a));
  op.y = f32(y), op.rows = row_count(shapes, a), op.size = shapes["D"];
  return op;
}

void silu_mul(Context& context, const In& gate, const In& up, const Out& y) {
  Shapes shapes("silu_mul");
  const Elementwise op = pairwise(shapes, "gate", gate, "up", up, y);
  without_gil([&] { context.silu_mul(op); });
}

void sigmoid_mul(Context& context, const In& o, const In& gate, const Out& y) {
  Shapes shapes("sigmoid_mul");
  const Elementwise op = pairwise(shapes, "o", o, "gate", gate, y);
  without_gil([&] { context.sigmoid_mul(op); });
}

template <void (Context::*function)(const Elementwise&)>
void apply(Context& context, const In& x, const Out& y) {
  Shapes shapes("function");
  Elementwise op{};
  op.a = shapes.rows("x", x, "T D");
  shapes.is("y", y, "T D");
  op.y = f32(y), op.rows = shapes["T"], op.size = shapes["D"];
  without_gil([&] { (context.*function)(op); });
}

uint64_t read_memory(Context& context, const In& data) {
  Shapes shapes("read_memory");
  shapes.is("data", data, "N", Kind::uint8);
  if (shapes["N"] % 64 != 0)
    shapes.fail("data has " + std::to_string(shapes["N"]) + " bytes, expected a multiple of 64");
  uint64_t sum = 0;
  without_gil([&] { sum = context.read_memory(static_cast<const uint8_t*>(data.data()), shapes["N"]); });
  return sum;
}

void rotary(Context& context, const In& position, const In& inv_freq, const In& axis, float scale, const Out& cos,
            const Out& sin) {
  Shapes shapes("rotary");
  shapes.is("position", position, "3 T", Kind::int32).is("inv_freq", inv_freq, "N");
  shapes.is("axis", axis, "N", Kind::int32).is("cos", cos, "T N").is("sin", sin, "T N");
  shapes.within("axis", axis, 0, 3, "a row of position");
  const Rotary op{i32(position), f32(inv_freq), i32(axis), scale, f32(cos), f32(sin), shapes["T"], shapes["N"]};
  without_gil([&] { context.rotary(op); });
}

void rope(Context& context, const In& q, const In& k, const In& cos, const In& sin, const Out& q_out,
          const Out& k_out) {
  Shapes shapes("rope");
  shapes.is("q", q, "T H E").is("k", k, "T G E").is("cos", cos, "T N").is("sin", sin, "T N");
  shapes.is("q_out", q_out, "T H E").is("k_out", k_out, "T G E");
  const int64_t size = shapes["E"], pairs = rotary_pairs(shapes);
  const Rope query{f32(q), f32(cos), f32(sin), f32(q_out), shapes["H"], size, pairs};
  const Rope key{f32(k), f32(cos), f32(sin), f32(k_out), shapes["G"], size, pairs};
  without_gil([&] { context.rope(query, key, shapes["T"]); });
}

void delta_gates(Context& context, const In& a, const In& b, const In& a_log, const In& dt_bias, const Out& log_decay,
                 const Out& beta) {
  Shapes shapes("delta_gates");
  shapes.is("a", a, "T H").is("b", b, "T H").is("A_log", a_log, "H").is("dt_bias", dt_bias, "H");
  shapes.is("log_decay", log_decay, "T H").is("beta", beta, "T H");
  const DeltaGates op{f32(a), f32(b), f32(a_log), f32(dt_bias), f32(log_decay), f32(beta), shapes["H"]};
  without_gil([&] { context.delta_gates(op, shapes["T"]); });
}

void causal_conv1d(Context& context, const In& u, const In& w, const In& offset, const In& start, const In& slot,
                   const std::optional<Out>& tail, const Out& y, const std::optional<Out>& drafts,
                   const std::optional<In>& window, const std::optional<In>& accepted,
                   const std::optional<In>& commit) {
  Shapes shapes("causal_conv1d");
  shapes.is("u", u, "T C").is("w", w, "C W").is("y", y, "T C").runs(offset, start, shapes["T"]);
  const int64_t width = shapes["W"];
  if (width < 1 || width > conv_max_width)
    shapes.fail("w has W = " + std::to_string(width) + " taps, expected 1 to " + std::to_string(conv_max_width));
  if (tail) shapes.bind("W-1", width - 1).is("tail", *tail, "slots W-1 C").rows_of("slot", slot, shapes["slots"]);
  else shapes.is("slot", slot, "S", Kind::int32);
  Conv op{f32(u), f32(w), f32(tail), f32(y), {}, shapes["C"], width, ragged(offset, start, &slot, nullptr)};
  if (drafts && !tail) shapes.fail("drafts wait for a tail; it is needed");
  op.drafts = Uncertain{drafts, window, accepted, commit}.write(shapes, op.seg, op.channels);
  without_gil([&] { context.causal_conv1d(op); });
}

void gated_delta_rule(Context& context, const In& q, const In& k, const In& v, const In& log_decay, const In& beta,
                      const In& offset, const In& start, const In& slot, const std::optional<Out>& state, const Out& o,
                      const std::optional<Out>& drafts, const std::optional<In>& window,
                      const std::optional<In>& accepted, const std::optional<In>& commit) {
  Shapes shapes("gated_delta_rule");
  shapes.is("q", q, "T G K").is("k", k, "T G K");
  const Rows values = shapes.rows("v", v, "T H V");
  shapes.divides("G", "H").is("log_decay", log_decay, "T H").is("beta", beta, "T H").is("o", o, "T H V");
  shapes.runs(offset, start, shapes["T"]);
  if (state) shapes.is("state", *state, "slots H V/16 K 16").rows_of("slot", slot, shapes["slots"]);
  else shapes.is("slot", slot, "S", Kind::int32);
  DeltaRule op{f32(q),
               f32(k),
               values,
               f32(log_decay),
               f32(beta),
               f32(state),
               f32(o),
               {},
               shapes["H"],
               shapes["G"],
               shapes["K"],
               shapes["V"],
               ragged(offset, start, &slot, nullptr)};
  if (drafts && !state) shapes.fail("drafts wait for a state; it is needed");
  const int64_t row = op.key_heads * op.key_dim + op.heads * (op.value_dim + 2);
  op.drafts = Uncertain{drafts, window, accepted, commit}.write(shapes, op.seg, row);
  without_gil([&] { context.gated_delta_rule(op); });
}

void delta_mixer(Context& context, const DeltaWeights& weights, const In& u, const In& z, const In& b, const In& a,
                 const In& offset, const In& start, const In& slot, const std::optional<Out>& tail,
                 const std::optional<Out>& state, const Out& y, const std::optional<Out>& drafts,
                 const std::optional<In>& window, const std::optional<In>& accepted, const std::optional<In>& commit) {
  DeltaMixer op = weights.op;
  Shapes shapes("delta_mixer");
  shapes.bind("H", op.heads).bind("C", op.conv.channels).bind("HV", op.heads * op.value_dim);
  shapes.is("u", u, "T C").is("z", z, "T HV").is("b", b, "T H").is("a", a, "T H").is("y", y, "T HV");
  remember(shapes, op, offset, start, slot, tail, state, {drafts, window, accepted, commit});
  op.conv.u = f32(u), op.z = f32(z), op.b = f32(b), op.a = f32(a), op.y = f32(y);
  without_gil([&] { context.delta_mixer(op); });
}

void attention(Context& context, const In& q, const In& k, const In& v, const In& offset, const In& start,
               const In& pages, bool causal, const Out& keys, const Out& values, const Out& o) {
  Shapes shapes("attention");
  shapes.is("q", q, "T H E").is("k", k, "T G E").is("v", v, "T G E").is("o", o, "T H E").divides("G", "H");
  Attention op{};
  remember(shapes, op, offset, start, pages, keys, values);
  op.q = f32(q), op.k = f32(k), op.v = f32(v), op.o = f32(o), op.causal = causal;
  without_gil([&] { context.attention(op); });
}

std::optional<int64_t> choose(Context& context, const In& scores, double temperature, int64_t top_k, double top_p,
                              double min_p, double u) {
  Shapes shapes("choose");
  shapes.is("scores", scores, "Z");
  if (shapes["Z"] < 1) shapes.fail("scores is empty");
  const Choice op{f32(scores), shapes["Z"], temperature, top_p, min_p, u, top_k};
  int64_t id = -1;
  without_gil([&] { id = context.choose(op); });
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<int64_t> rank(Context& context, const In& scores, const Out& ids) {
  Shapes shapes("rank");
  shapes.is("scores", scores, "Z").is("ids", ids, "K", Kind::int32);
  if (shapes["K"] < 1 || shapes["K"] > shapes["Z"]) shapes.fail("ids must have 1 to Z places");
  int64_t total = -1;
  without_gil([&] { total = context.rank(f32(scores), shapes["Z"], static_cast<int32_t*>(ids.data()), shapes["K"]); });
  return total < 0 ? std::nullopt : std::optional(total);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
  return names;
}

}  // namespace
}  // namespace ingot

NB_MODULE(_native, m) {
  using namespace ingot;
  // A model held by a global lives until the interpreter is gone: no leak, and nothing its owner should read about.
  nb::set_leak_warnings(false);
  m.doc() = "The kernels. Python callers use ingot.ops.native.OpSet, which allocates the outputs.";
  m.def("available_isas", &available_isas, "Instruction sets this machine runs, best first.");
  nb::class_<Matrix>(m, "Matrix")
      .def(nb::init<In, const std::string&, int64_t, int64_t>(), "data"_a.noconvert(), "fmt"_a, "outputs"_a,
           "inputs"_a);
  nb::class_<DeltaWeights>(m, "DeltaWeights")
      .def(nb::init<In, In, In, In, In, In, int64_t, float, float>(), "q_taps"_a.noconvert(), "k_taps"_a.noconvert(),
           "v_taps"_a.noconvert(), "A_log"_a.noconvert(), "dt_bias"_a.noconvert(), "norm"_a.noconvert(), "key_dim"_a,
           "key_scale"_a, "norm_eps"_a);
  nb::class_<Context> context(m, "Context");
  bind_layers(m, context);
  context.def(nb::init<int, const std::string&>(), "threads"_a, "isa"_a = "")
      .def_prop_ro("isa", &Context::isa)
      .def_prop_ro("threads", &Context::threads)
      .def("pack", &pack, "weight"_a.noconvert(), "weight_fmt"_a, "data"_a.noconvert(), "fmt"_a)
      .def("read_memory", &read_memory, "data"_a.noconvert())
      .def("linears", &linears, "x"_a.noconvert(), "leaves"_a, "y"_a.noconvert(),
           "gate"_a.noconvert().none() = nb::none())
      .def("rms_norm", &rms_norm, "x"_a.noconvert(), "w"_a.noconvert(), "eps"_a, "one_plus"_a, "y"_a.noconvert())
      .def("layer_norm", &layer_norm, "x"_a.noconvert(), "w"_a.noconvert(), "b"_a.noconvert(), "eps"_a,
           "y"_a.noconvert())
      .def("gated_rms_norm", &gated_rms_norm, "o"_a.noconvert(), "z"_a.noconvert(), "w"_a.noconvert(), "eps"_a,
           "y"_a.noconvert())
      .def("l2_norm", &l2_norm, "x"_a.noconvert(), "scale"_a, "eps"_a, "y"_a.noconvert())
      .def("silu_mul", &silu_mul, "gate"_a.noconvert(), "up"_a.noconvert(), "y"_a.noconvert())
      .def("sigmoid_mul", &sigmoid_mul, "o"_a.noconvert(), "gate"_a.noconvert(), "y"_a.noconvert())
      .def("gelu_tanh", &apply<&Context::gelu_tanh>, "x"_a.noconvert(), "y"_a.noconvert())
      .def("gelu", &apply<&Context::gelu>, "x"_a.noconvert(), "y"_a.noconvert())
      .def("exp", &apply<&Context::exp>, "x"_a.noconvert(), "y"_a.noconvert())
      .def("sigmoid", &apply<&Context::sigmoid>, "x"_a.noconvert(), "y"_a.noconvert())
      .def("softplus", &apply<&Context::softplus>, "x"_a.noconvert(), "y"_a.noconvert())
      .def("rotary", &rotary, "position"_a.noconvert(), "inv_freq"_a.noconvert(), "axis"_a.noconvert(), "scale"_a,
           "cos"_a.noconvert(), "sin"_a.noconvert())
      .def("rope", &rope, "q"_a.noconvert(), "k"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(),
           "q_out"_a.noconvert(), "k_out"_a.noconvert())
      .def("delta_gates", &delta_gates, "a"_a.noconvert(), "b"_a.noconvert(), "A_log"_a.noconvert(),
           "dt_bias"_a.noconvert(), "log_decay"_a.noconvert(), "beta"_a.noconvert())
      .def("causal_conv1d", &causal_conv1d, "u"_a.noconvert(), "w"_a.noconvert(), "offset"_a.noconvert(),
           "start"_a.noconvert(), "slot"_a.noconvert(), "tail"_a.noconvert().none(), "y"_a.noconvert(),
           "drafts"_a.noconvert().none() = nb::none(), "window"_a.noconvert().none() = nb::none(),
           "accepted"_a.noconvert().none() = nb::none(), "commit"_a.noconvert().none() = nb::none())
      .def("gated_delta_rule", &gated_delta_rule, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(),
           "log_decay"_a.noconvert(), "beta"_a.noconvert(), "offset"_a.noconvert(), "start"_a.noconvert(),
           "slot"_a.noconvert(), "state"_a.noconvert().none(), "o"_a.noconvert(),
           "drafts"_a.noconvert().none() = nb::none(), "window"_a.noconvert().none() = nb::none(),
           "accepted"_a.noconvert().none() = nb::none(), "commit"_a.noconvert().none() = nb::none())
      .def("delta_mixer", &delta_mixer, "weights"_a, "u"_a.noconvert(), "z"_a.noconvert(), "b"_a.noconvert(),
           "a"_a.noconvert(), "offset"_a.noconvert(), "start"_a.noconvert(), "slot"_a.noconvert(),
           "tail"_a.noconvert().none(), "state"_a.noconvert().none(), "y"_a.noconvert(),
           "drafts"_a.noconvert().none() = nb::none(), "window"_a.noconvert().none() = nb::none(),
           "accepted"_a.noconvert().none() = nb::none(), "commit"_a.noconvert().none() = nb::none())
      .def("attention", &attention, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(), "offset"_a.noconvert(),
           "start"_a.noconvert(), "pages"_a.noconvert(), "causal"_a, "keys"_a.noconvert(), "values"_a.noconvert(),
           "o"_a.noconvert())
      .def("choose", &choose, "scores"_a.noconvert(), "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "u"_a)
      .def("rank", &rank, "scores"_a.noconvert(), "ids"_a.noconvert());
}
