// Checks of array arguments, before any memory is touched. A letter or word for a dimension binds to the first size
// seen and must agree afterwards: `gated_delta_rule: beta is (5, 3), expected (T, H) = (5, 2)`.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "table.h"

namespace ingot {

namespace nb = nanobind;

using In = nb::ndarray<nb::ro, nb::device::cpu>;
using Out = nb::ndarray<nb::device::cpu>;

enum class Kind { float32, int32, bf16, uint8 };

class Shapes {
 public:
  explicit Shapes(const char* op) : op_(op) {}

  // `dims` are words between spaces: a name (T), a name divided by 16 and rounded up (V/16), or a number.
  // C-contiguous. Throws TypeError for a wrong dtype, ValueError otherwise.
  template <class Array>
  Shapes& is(const char* name, const Array& array, std::string_view dims, Kind kind = Kind::float32) {
    check(View(name, array), dims, kind, true);
    return *this;
  }

  // Two or three dimensions of float32 of which only the last must be contiguous, as rows.
  Rows rows(const char* name, const In& array, std::string_view dims);

  // Gives a dimension its size. Throws when it is bound to another.
  Shapes& bind(std::string_view dim, int64_t size);
  int64_t operator[](std::string_view dim) const { return *find(dim); }

  // size must be a multiple of `of`.
  Shapes& divides(std::string_view of, std::string_view size);

  // Every value in [low, high). `rule` says why in the error: "a row of the table".
  Shapes& within(const char* name, const In& array, int64_t low, int64_t high, const char* rule);

  // offset, start: runs of T tokens. Every shape is checked and bound: S.
  Shapes& runs(const In& offset, const In& start, int64_t tokens);
  // Of each run -1 or a row of a pool, none twice.
  Shapes& rows_of(const char* name, const In& row, int64_t pool);
  // pages: every run's tokens, past and present, have a page of the pool.
  Shapes& pages(const In& offset, const In& start, const In& pages, int64_t pool);

  [[noreturn]] void fail(const std::string& text) const;

 private:
  struct View {
    template <class Array>
    View(const char* n, const Array& a)
        : name(n), dtype(a.dtype()), ndim(a.ndim()), shape(a.shape_ptr()), stride(a.stride_ptr()) {}
    const char* name;
    nb::dlpack::dtype dtype;
    size_t ndim;
    const int64_t *shape, *stride;
  };

  void check(const View& view, std::string_view dims, Kind kind, bool contiguous);
  const int64_t* find(std::string_view dim) const;
  bool agrees(std::string_view word, int64_t size);
  std::string expected(std::string_view dims) const;

  const char* op_;
  std::vector<std::pair<std::string_view, int64_t>> sizes_;
};

}  // namespace ingot
