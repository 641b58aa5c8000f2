// Bindings of whole layers: weights whose sizes agree, checked once, then one call a pass.
#include "bind.h"

namespace ingot {

using namespace nb::literals;

namespace {

// A layer's matrices and small arrays: keeps them alive.
struct LayerWeights {
  std::vector<Matrix> matrices;
  std::vector<In> norms;
  Layer op;

  // The matrices' rows and columns are of the named sizes; the last three are the MLP's.
  LayerWeights(Shapes& shapes, const std::vector<const Matrix*>& given, const std::vector<std::string_view>& dims,
               std::vector<In> arrays, float eps, bool one_plus)
      : norms(std::move(arrays)), op{} {
    if (given.size() != dims.size() / 2) shapes.fail("matrices are " + std::to_string(given.size()));
    for (size_t i = 0; i < given.size(); ++i) {
      matrices.push_back(*given[i]);
      shapes.bind(dims[2 * i], given[i]->op.outputs).bind(dims[2 * i + 1], given[i]->op.inputs);
    }
    shapes.is("norms[0]", norms.at(0), "D").is("norms[1]", norms.at(1), "D");
    op.mixer_norm = f32(norms[0]), op.mlp_norm = f32(norms[1]), op.eps = eps, op.one_plus = one_plus;
    op.gate = matrix(3), op.up = matrix(2), op.down = matrix(1);
  }

  const Linear& matrix(size_t from_last) const { return matrices[matrices.size() - from_last].op; }

  // The layer's input and output, checked.
  Layer layer(Shapes& shapes, const In& x, const Out& y) const {
    shapes.bind("D", op.gate.inputs).is("x", x, "T D").is("y", y, "T D");
    Layer layer = op;
    layer.x = f32(x), layer.y = f32(y), layer.tokens = shapes["T"];
    return layer;
  }
};

struct DeltaLayerWeights {
  DeltaWeights mixer;
  LayerWeights weights;
  DeltaLayer op;

  DeltaLayerWeights(const std::vector<const Matrix*>& matrices, std::vector<In> norms, float eps, bool one_plus,
                    const DeltaWeights& small)
      : mixer(small), weights(checked(matrices, std::move(norms), eps, one_plus, small.op)), op{} {
    op.qkv = weights.matrix(8), op.z = weights.matrix(7), op.b = weights.matrix(6), op.a = weights.matrix(5);
    op.out = weights.matrix(4), op.mixer = mixer.op;
  }

  static LayerWeights checked(const std::vector<const Matrix*>& matrices, std::vector<In> norms, float eps,
                              bool one_plus, const DeltaMixer& mixer) {
    Shapes shapes("DeltaLayer");
    shapes.bind("C", mixer.conv.channels).bind("HV", mixer.heads * mixer.value_dim).bind("H", mixer.heads);
    return {
        shapes,           matrices, {"C", "D", "HV", "D", "H", "D", "H", "D", "D", "HV", "F", "D", "F", "D", "D", "F"},
        std::move(norms), eps,      one_plus};
  }
};

struct FullLayerWeights {
  LayerWeights weights;
  FullLayer op;

  FullLayerWeights(const std::vector<const Matrix*>& matrices, std::vector<In> norms, float eps, bool one_plus,
                   int64_t head_dim)
      : weights(checked(matrices, std::move(norms), eps, one_plus)), op{} {
    op.q = weights.matrix(7), op.k = weights.matrix(6), op.v = weights.matrix(5), op.out = weights.matrix(4);
    Shapes shapes("FullLayer");
    shapes.bind("E", head_dim).is("norms[2]", weights.norms.at(2), "E").is("norms[3]", weights.norms.at(3), "E");
    shapes.bind("HE", op.out.inputs).divides("E", "HE");
    shapes.bind("GE", op.k.outputs).divides("E", "GE").divides("GE", "HE");
    op.q_norm = f32(weights.norms[2]), op.k_norm = f32(weights.norms[3]);
    op.attention.heads = op.out.inputs / head_dim, op.attention.kv_heads = op.k.outputs / head_dim;
    op.attention.size = head_dim;
  }

  static LayerWeights checked(const std::vector<const Matrix*>& matrices, std::vector<In> norms, float eps,
                              bool one_plus) {
    Shapes shapes("FullLayer");
    if (matrices.size() == 7) shapes.bind("Q", 2 * matrices[3]->op.inputs);
    return {shapes,           matrices, {"Q", "D", "GE", "D", "GE", "D", "D", "HE", "F", "D", "F", "D", "D", "F"},
            std::move(norms), eps,      one_plus};
  }
};

void delta_layer(Context& context, const DeltaLayerWeights& weights, const In& x, const In& offset, const In& start,
                 const In& slot, const std::optional<Out>& tail, const std::optional<Out>& state, const Out& y,
                 const std::optional<Out>& drafts, const std::optional<In>& window, const std::optional<In>& accepted,
                 const std::optional<In>& commit) {
  Shapes shapes("delta_layer");
  DeltaLayer op = weights.op;
  op.layer = weights.weights.layer(shapes, x, y);
  remember(shapes, op.mixer, offset, start, slot, tail, state, {drafts, window, accepted, commit});
  without_gil([&] { context.delta_layer(op); });
}

void full_layer(Context& context, const FullLayerWeights& weights, const In& x, const In& cos, const In& sin,
                const In& offset, const In& start, const In& pages, bool causal, const Out& keys, const Out& values,
                const Out& y) {
  Shapes shapes("full_layer");
  FullLayer op = weights.op;
  op.layer = weights.weights.layer(shapes, x, y);
  shapes.bind("H", op.attention.heads).bind("G", op.attention.kv_heads).bind("E", op.attention.size);
  shapes.is("cos", cos, "T N").is("sin", sin, "T N");
  op.cos = f32(cos), op.sin = f32(sin), op.pairs = rotary_pairs(shapes);
  remember(shapes, op.attention, offset, start, pages, keys, values);
  op.attention.causal = causal;
  without_gil([&] { context.full_layer(op); });
}

}  // namespace

void bind_layers(nb::module_& m, nb::class_<Context>& context) {
  nb::class_<DeltaLayerWeights>(m, "DeltaLayer")
      .def(nb::init<const std::vector<const Matrix*>&, std::vector<In>, float, bool, const DeltaWeights&>(),
           "matrices"_a, "norms"_a.noconvert(), "eps"_a, "one_plus"_a, "mixer"_a);
  nb::class_<FullLayerWeights>(m, "FullLayer")
      .def(nb::init<const std::vector<const Matrix*>&, std::vector<In>, float, bool, int64_t>(), "matrices"_a,
           "norms"_a.noconvert(), "eps"_a, "one_plus"_a, "head_dim"_a);
  context
      .def("delta_layer", &delta_layer, "weights"_a, "x"_a.noconvert(), "offset"_a.noconvert(), "start"_a.noconvert(),
           "slot"_a.noconvert(), "tail"_a.noconvert().none(), "state"_a.noconvert().none(), "y"_a.noconvert(),
           "drafts"_a.noconvert().none() = nb::none(), "window"_a.noconvert().none() = nb::none(),
           "accepted"_a.noconvert().none() = nb::none(), "commit"_a.noconvert().none() = nb::none())
      .def("full_layer", &full_layer, "weights"_a, "x"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(),
           "offset"_a.noconvert(), "start"_a.noconvert(), "pages"_a.noconvert(), "causal"_a, "keys"_a.noconvert(),
           "values"_a.noconvert(), "y"_a.noconvert());
}

}  // namespace ingot
