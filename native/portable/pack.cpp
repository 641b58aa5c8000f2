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

// Where input k of lane 0 lies in a panel, and how far the next lane is.
template <class To>
int64_t place(int64_t k) {
  return sizeof(To) == 4 ? k * lanes : k / 2 * 2 * lanes + k % 2;
}
template <class To>
inline constexpr int lane_step = sizeof(To) == 4 ? 1 : 2;

template <class To, class From>
void pack(const From* from, int64_t rows, int64_t inputs, To* to) {
  constexpr int64_t block = 32;  // inputs at a time: 16 rows of a block stay in L1 while its panel part is written
  for (int64_t k0 = 0; k0 < inputs; k0 += block) {
    const int64_t end = k0 + block < inputs ? k0 + block : inputs;
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t k = k0; k < end; ++k)
        to[place<To>(k) + lane * lane_step<To>] = lane < rows ? convert<To>(from[lane * inputs + k]) : To(0);
  }
  if (sizeof(To) == 2 && inputs % 2)
    for (int64_t lane = 0; lane < lanes; ++lane) to[place<To>(inputs) + lane * 2] = To(0);
}

template <class To>
void pack_from(const Unpacked& from, int64_t panel, To* to) {
  const int64_t left = from.outputs - panel * lanes, rows = left < lanes ? left : lanes;
  const int64_t first = panel * lanes * from.inputs;
  if (from.format == Format::f32) pack(static_cast<const float*>(from.data) + first, rows, from.inputs, to);
  else pack(static_cast<const uint16_t*>(from.data) + first, rows, from.inputs, to);
}

template <class From>
void unpack(const From* panel, int64_t inputs, int64_t lane, float* y) {
  for (int64_t k = 0; k < inputs; ++k) y[k] = convert<float>(panel[place<From>(k) + lane * lane_step<From>]);
}

}  // namespace

void pack_panel(const Unpacked& from, int64_t panel, Format format, void* to) {
  const int64_t at = panel * panel_size(format, from.inputs);
  if (format == Format::f32) pack_from(from, panel, static_cast<float*>(to) + at);
  else pack_from(from, panel, static_cast<uint16_t*>(to) + at);
}

void unpack_row(const void* packed, Format format, int64_t inputs, int64_t id, float* y) {
  const int64_t at = id / lanes * panel_size(format, inputs), lane = id % lanes;
  if (format == Format::f32) unpack(static_cast<const float*>(packed) + at, inputs, lane, y);
  else unpack(static_cast<const uint16_t*>(packed) + at, inputs, lane, y);
}

}  // namespace ingot
