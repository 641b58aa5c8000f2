#include "pack.h"

#include <bit>

namespace ingot {

namespace {

uint16_t round_to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);  // rounding could make it Inf
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

float widen(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }

template <class To, class From>
To convert(From x) {
  if constexpr (sizeof(To) == sizeof(From)) return x;
  else if constexpr (sizeof(To) == 2) return round_to_bf16(x);
  else return widen(x);
}

// `width`: inputs with the panel's padding. bf16 keeps pairs of inputs together.
template <class To, class From>
void pack(const From* from, int64_t rows, int64_t inputs, int64_t width, To* to) {
  constexpr int64_t pair = sizeof(To) == 4 ? 1 : 2;
  constexpr int64_t block = 32;  // inputs at a time: 16 rows of a block stay in L1 while its panel part is written
  for (int64_t k0 = 0; k0 < width; k0 += block) {
    const int64_t end = k0 + block < width ? k0 + block : width;
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t k = k0; k < end; ++k)
        to[k / pair * pair * lanes + lane * pair + k % pair] =
            lane < rows && k < inputs ? convert<To>(from[lane * inputs + k]) : To(0);
  }
}

template <class To>
void pack_from(const Unpacked& from, int64_t panel, int64_t width, To* to) {
  const int64_t left = from.outputs - panel * lanes, rows = left < lanes ? left : lanes;
  const int64_t first = panel * lanes * from.inputs;
  if (from.format == Format::f32) pack(static_cast<const float*>(from.data) + first, rows, from.inputs, width, to);
  else pack(static_cast<const uint16_t*>(from.data) + first, rows, from.inputs, width, to);
}

}  // namespace

void pack_panel(const Unpacked& from, int64_t panel, Format format, uint8_t* to) {
  if (format == Format::f32) pack_from(from, panel, from.inputs, reinterpret_cast<float*>(to));
  else pack_from(from, panel, round_up(from.inputs, group_inputs), reinterpret_cast<uint16_t*>(to));
}

}  // namespace ingot
