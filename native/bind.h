// What the bindings share: views of checked arrays, and the weights that Python holds.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "context.h"
#include "shapes.h"

namespace ingot {

inline const float* f32(const In& array) { return static_cast<const float*>(array.data()); }
inline float* f32(const Out& array) { return static_cast<float*>(array.data()); }
inline float* f32(const std::optional<Out>& array) { return array ? f32(*array) : nullptr; }
inline const int32_t* i32(const In& array) { return static_cast<const int32_t*>(array.data()); }

template <class Body>
void without_gil(const Body& body) {
  nb::gil_scoped_release release;
  body();
}

// A packed weight: keeps its array alive.
struct Matrix {
  In data;
  Linear op;

  Matrix(In array, const std::string& format, int64_t outputs, int64_t inputs);
};

// What a linear-attention layer has beside its matrices: keeps its arrays alive.
struct DeltaWeights {
  In q_taps, k_taps, v_taps, a_log, dt_bias, norm;
  DeltaMixer op;

  DeltaWeights(In q, In k, In v, In log, In bias, In w, int64_t key_dim, float key_scale, float norm_eps);
};

// The integer arrays of Segments that an operation reads.
Ragged ragged(const In& offset, const In& start, const In* slot, const In* pages);

// Tokens that are not certain: windows of those that wait, which of them were accepted, and how many of a run's own are
// certain.
struct Uncertain {
  const std::optional<Out>& drafts;
  const std::optional<In>&window, &accepted, &commit;

  // Checked, for runs and slots that are: rows of `width`, or of at least `least`.
  Drafts write(Shapes& shapes, Ragged& seg, int64_t least, int64_t width = 0) const;
};

// The runs of T tokens and what they remember, checked and written into the operation.
void remember(Shapes& shapes, DeltaMixer& op, const In& offset, const In& start, const In& slot,
              const std::optional<Out>& tail, const std::optional<Out>& state, const Uncertain& uncertain);
void remember(Shapes& shapes, Attention& op, const In& offset, const In& start, const In& pages, const Out& keys,
              const Out& values);

// The number N of cos [T, N], for which a head of E dims must have room.
int64_t rotary_pairs(const Shapes& shapes);

void bind_layers(nb::module_& m, nb::class_<Context>& context);

}  // namespace ingot
