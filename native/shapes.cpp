#include "shapes.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace ingot {

namespace {

// Calls each(word) for the words of "T H V/16 K 16".
template <class Each>
void for_words(std::string_view dims, const Each& each) {
  while (!dims.empty()) {
    const size_t end = std::min(dims.find(' '), dims.size());
    each(dims.substr(0, end));
    dims.remove_prefix(std::min(end + 1, dims.size()));
  }
}

size_t count_words(std::string_view dims) {
  size_t n = 0;
  for_words(dims, [&](std::string_view) { ++n; });
  return n;
}

template <class Size>
std::string join(size_t n, const Size& size) {
  std::string text = "(";
  for (size_t i = 0; i < n; ++i) text += (i ? ", " : "") + size(i);
  return text + (n == 1 ? ",)" : ")");
}

const char* dtype_name(nb::dlpack::dtype t) {
  using Code = nb::dlpack::dtype_code;
  const bool single = t.lanes == 1;
  if (single && t.code == uint8_t(Code::Float)) return t.bits == 64 ? "float64" : t.bits == 16 ? "float16" : "float32";
  if (single && t.code == uint8_t(Code::Int)) return t.bits == 64 ? "int64" : t.bits == 32 ? "int32" : "a small int";
  if (single && t.code == uint8_t(Code::UInt))
    return t.bits == 16 ? "uint16" : t.bits == 8 ? "uint8" : "an unsigned int";
  return t.code == uint8_t(Code::Bool) ? "bool" : "of another dtype";
}

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::float32:
      return "float32";
    case Kind::int32:
      return "int32";
    case Kind::uint8:
      return "uint8";
    default:
      return "uint16 (bf16 bit patterns)";
  }
}

bool has_kind(nb::dlpack::dtype t, Kind kind) {
  switch (kind) {
    case Kind::float32:
      return t == nb::dtype<float>();
    case Kind::int32:
      return t == nb::dtype<int32_t>();
    case Kind::uint8:
      return t == nb::dtype<uint8_t>();
    default:
      return t == nb::dtype<uint16_t>();
  }
}

// Strides are those of a C-contiguous array in the last `dims` dimensions.
bool is_contiguous(const int64_t* shape, const int64_t* stride, size_t ndim, size_t dims) {
  if (std::find(shape, shape + ndim, 0) != shape + ndim) return true;
  int64_t step = 1;
  for (size_t i = ndim; i > ndim - dims; --i) {
    if (shape[i - 1] != 1 && stride[i - 1] != step) return false;
    step *= shape[i - 1];
  }
  return true;
}

const int32_t* integers(const In& array) { return static_cast<const int32_t*>(array.data()); }

}  // namespace

void Shapes::fail(const std::string& text) const { throw std::invalid_argument(std::string(op_) + ": " + text); }

const int64_t* Shapes::find(std::string_view dim) const {
  for (const auto& [name, size] : sizes_)
    if (name == dim) return &size;
  return nullptr;
}

bool Shapes::agrees(std::string_view word, int64_t size) {
  if (word[0] >= '0' && word[0] <= '9') {
    int64_t number = 0;
    std::from_chars(word.data(), word.data() + word.size(), number);
    return size == number;
  }
  if (const size_t slash = word.find('/'); slash != word.npos) {
    const int64_t* whole = find(word.substr(0, slash));
    return whole && size == (*whole + lanes - 1) / lanes;
  }
  if (const int64_t* known = find(word)) return size == *known;
  sizes_.emplace_back(word, size);
  return true;
}

std::string Shapes::expected(std::string_view dims) const {
  std::vector<std::string> names, sizes;
  bool known = false;  // at least one
  for_words(dims, [&](std::string_view word) {
    names.emplace_back(word);
    const size_t slash = word.find('/');
    const int64_t* size = find(word.substr(0, slash));
    if (word[0] >= '0' && word[0] <= '9') sizes.emplace_back(word);
    else if (!size) sizes.emplace_back("?");
    else known = true, sizes.push_back(std::to_string(slash == word.npos ? *size : (*size + lanes - 1) / lanes));
  });
  const std::string letters = join(names.size(), [&](size_t i) { return names[i]; });
  return known ? letters + " = " + join(sizes.size(), [&](size_t i) { return sizes[i]; }) : letters;
}

void Shapes::check(const View& view, std::string_view dims, Kind kind, bool contiguous) {
  if (!has_kind(view.dtype, kind))
    throw nb::type_error(
        (std::string(op_) + ": " + view.name + " is " + dtype_name(view.dtype) + ", expected " + kind_name(kind))
            .c_str());
  bool same = view.ndim == count_words(dims);
  const size_t bound = sizes_.size();
  if (same) {
    size_t i = 0;
    for_words(dims, [&](std::string_view word) { same &= agrees(word, view.shape[i++]); });
  }
  if (!same) {
    sizes_.resize(bound);  // the message must not repeat this array's own sizes as expected ones
    fail(std::string(view.name) + " is " + join(view.ndim, [&](size_t i) { return std::to_string(view.shape[i]); }) +
         ", expected " + expected(dims));
  }
  if (!is_contiguous(view.shape, view.stride, view.ndim, contiguous ? view.ndim : 1))
    fail(std::string(view.name) + (contiguous ? " is not C-contiguous" : " is not contiguous in its last axis"));
}

Rows Shapes::rows(const char* name, const In& array, std::string_view dims) {
  check(View(name, array), dims, Kind::float32, false);
  const auto* data = static_cast<const float*>(array.data());
  if (array.ndim() == 2) return {data, 1, array.stride(0), 0};
  return {data, std::max<int64_t>(1, int64_t(array.shape(1))), array.stride(0), array.stride(1)};
}

Shapes& Shapes::bind(std::string_view dim, int64_t size) {
  if (!agrees(dim, size))
    fail(std::string(dim) + " is " + std::to_string(size) + ", expected " + std::to_string(*find(dim)));
  return *this;
}

Shapes& Shapes::divides(std::string_view of, std::string_view size) {
  const int64_t small = (*this)[of], large = (*this)[size];
  if (small < 1 || large % small)
    fail(std::string(size) + " = " + std::to_string(large) + " heads are not a multiple of " + std::string(of) + " = " +
         std::to_string(small));
  return *this;
}

Shapes& Shapes::within(const char* name, const In& array, int64_t low, int64_t high, const char* rule) {
  const int32_t* values = integers(array);
  for (size_t i = 0; i < array.size(); ++i)
    if (values[i] < low || values[i] >= high)
      fail(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(values[i]) + ", expected " + rule +
           ": " + std::to_string(low) + " to " + std::to_string(high - 1));
  return *this;
}

Shapes& Shapes::runs(const In& offset, const In& start, int64_t tokens) {
  is("start", start, "S", Kind::int32);
  const int64_t count = (*this)["S"];
  bind("S+1", count + 1).is("offset", offset, "S+1", Kind::int32);
  const int32_t* at = integers(offset);
  if (at[0] != 0) fail("offset[0] is " + std::to_string(at[0]) + ", expected 0");
  for (int64_t s = 0; s < count; ++s)
    if (at[s + 1] < at[s])
      fail("offset[" + std::to_string(s + 1) + "] is " + std::to_string(at[s + 1]) + ", expected at least " +
           std::to_string(at[s]) + ": offsets ascend");
  if (at[count] != tokens)
    fail("offset[" + std::to_string(count) + "] is " + std::to_string(at[count]) +
         ", expected T = " + std::to_string(tokens));
  return within("start", start, 0, int64_t(1) << 31, "a number of tokens");
}

Shapes& Shapes::rows_of(const char* name, const In& row, int64_t pool) {
  is(name, row, "S", Kind::int32).within(name, row, -1, pool, "-1 or a row of the pool");
  std::vector<int32_t> sorted(integers(row), integers(row) + row.size());
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 1; i < sorted.size(); ++i)
    if (sorted[i] >= 0 && sorted[i] == sorted[i - 1])
      fail(std::string(name) + " holds " + std::to_string(sorted[i]) + " twice; two runs cannot share one state");
  return *this;
}

Shapes& Shapes::pages(const In& offset, const In& start, const In& pages, int64_t pool) {
  is("pages", pages, "S P", Kind::int32);
  const int64_t width = (*this)["P"];
  for (int64_t s = 0; s < (*this)["S"]; ++s) {
    const int64_t tokens = integers(offset)[s + 1] - integers(offset)[s];
    const int64_t total = integers(start)[s] + tokens, needed = tokens ? (total + page_keys - 1) / page_keys : 0;
    if (needed > width)
      fail("pages has " + std::to_string(width) + " columns; run " + std::to_string(s) + " of " +
           std::to_string(total) + " tokens needs " + std::to_string(needed));
    for (int64_t p = 0; p < needed; ++p) {
      const int32_t page = integers(pages)[s * width + p];
      if (page < 0 || page >= pool)
        fail("pages[" + std::to_string(s) + ", " + std::to_string(p) + "] is " + std::to_string(page) +
             ", expected a page of the pool: 0 to " + std::to_string(pool - 1));
    }
  }
  return *this;
}

}  // namespace ingot
