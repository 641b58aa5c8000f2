// 16 lanes as an array of floats: the definition of the vector type, and the fallback of every machine.
#pragma once

#include "../table.h"

namespace ingot::INGOT_ISA {

inline constexpr int max_rows = 4;
inline constexpr int panels_for(int) { return 1; }
inline constexpr int delta_strips = 1;
inline constexpr int integer_rows = 1;

struct V {
  float v[lanes];
};
struct B {
  int32_t v[lanes];
};

#define INGOT_EACH for (int i = 0; i < lanes; ++i)

inline V all(float x) {
  V r;
  INGOT_EACH r.v[i] = x;
  return r;
}
inline V zero() { return all(0.0f); }
inline V load(const float* p) {
  V r;
  INGOT_EACH r.v[i] = p[i];
  return r;
}
inline V load(const float* p, int n) {
  V r;
  INGOT_EACH r.v[i] = i < n ? p[i] : 0.0f;
  return r;
}
inline void store(float* p, V x) { INGOT_EACH p[i] = x.v[i]; }
inline void store(float* p, V x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}

inline V operator+(V a, V b) {
  INGOT_EACH a.v[i] += b.v[i];
  return a;
}
inline V operator-(V a, V b) {
  INGOT_EACH a.v[i] -= b.v[i];
  return a;
}
inline V operator*(V a, V b) {
  INGOT_EACH a.v[i] *= b.v[i];
  return a;
}
inline V operator/(V a, V b) {
  INGOT_EACH a.v[i] /= b.v[i];
  return a;
}
inline V fma(V a, V b, V c) {
  INGOT_EACH c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
}
inline V sqrt(V a) {
  INGOT_EACH a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
// a > b ? a : b and a < b ? a : b: a NaN in either gives b, as the x86 instructions do.
inline V max(V a, V b) {
  INGOT_EACH b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return b;
}
inline V min(V a, V b) {
  INGOT_EACH b.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return b;
}
inline V if_greater(V a, V b, V yes, V no) {
  INGOT_EACH no.v[i] = a.v[i] > b.v[i] ? yes.v[i] : no.v[i];
  return no;
}
inline V first_lanes(V x, int n, V other) {
  INGOT_EACH other.v[i] = i < n ? x.v[i] : other.v[i];
  return other;
}

inline B bits(V a) { return __builtin_bit_cast(B, a); }
inline V floats(B a) { return __builtin_bit_cast(V, a); }
inline B all_bits(int32_t x) {
  B r;
  INGOT_EACH r.v[i] = x;
  return r;
}
inline B operator+(B a, B b) {
  INGOT_EACH a.v[i] = int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]));
  return a;
}
inline B operator-(B a, B b) {
  INGOT_EACH a.v[i] = int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i]));
  return a;
}
inline B operator&(B a, B b) {
  INGOT_EACH a.v[i] &= b.v[i];
  return a;
}
template <int N>
inline B shift_left(B a) {
  INGOT_EACH a.v[i] = int32_t(uint32_t(a.v[i]) << N);
  return a;
}
template <int N>
inline B shift_right(B a) {
  INGOT_EACH a.v[i] >>= N;
  return a;
}

// 16 pairs of bf16: the first and the second of every pair, widened.
inline B load_pairs(const uint16_t* p) {
  B r;
  INGOT_EACH r.v[i] = int32_t(uint32_t(p[2 * i]) | uint32_t(p[2 * i + 1]) << 16);
  return r;
}

// 64 bytes, and 16 halves in the low 16 bits of each lane.
inline B load_bytes(const void* p) {
  B r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
inline void store_bytes(void* p, B x) { __builtin_memcpy(p, &x, sizeof x); }
inline B load_halves(const uint16_t* p) {
  B r;
  INGOT_EACH r.v[i] = p[i];
  return r;
}
inline void store_low_bytes(int8_t* p, B x) { INGOT_EACH p[i] = int8_t(x.v[i]); }
inline void store_high_halves(uint16_t* p, B x) { INGOT_EACH p[i] = uint16_t(uint32_t(x.v[i]) >> 16); }
inline int32_t sum(B a) {
  int32_t r = 0;
  INGOT_EACH r += a.v[i];
  return r;
}
inline int32_t max(B a) {
  int32_t r = a.v[0];
  INGOT_EACH r = a.v[i] > r ? a.v[i] : r;
  return r;
}
inline B max(B a, B b) {
  INGOT_EACH b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return b;
}
inline V from_int(B a) {
  V r;
  INGOT_EACH r.v[i] = float(a.v[i]);
  return r;
}

// The bytes of an integer dot product. Nibbles become entries of the codebook, 16 int8 values.
inline B low_nibbles(B a) {
  INGOT_EACH a.v[i] &= 0x0f0f0f0f;
  return a;
}
inline B high_nibbles(B a) {
  INGOT_EACH a.v[i] = int32_t(uint32_t(a.v[i]) >> 4 & 0x0f0f0f0fu);
  return a;
}
struct Codebook {
  const int8_t* entries;
  explicit Codebook(const int8_t* table) : entries(table) {}
  B operator()(B nibbles) const {
    int8_t bytes[4 * lanes];
    __builtin_memcpy(bytes, &nibbles, sizeof bytes);
    for (int8_t& byte : bytes) byte = entries[byte];
    return load_bytes(bytes);
  }
};

// dot(sum, w, a) adds w[4i .. 4i+3] . a[0 .. 3] to lane i, exactly, for int8 between -127 and 127. w comes from
// dot_weights; the sum starts at dot_start(the a's total of the whole chain).
inline int8_t dot_weights(int8_t w) { return w; }
inline B dot_weights(B w) { return w; }
inline B dot_start(int32_t) { return all_bits(0); }
inline B dot(B sum, B w, const int8_t* a) {
  int8_t bytes[4 * lanes];
  __builtin_memcpy(bytes, &w, sizeof bytes);
  INGOT_EACH for (int j = 0; j < 4; ++j) sum.v[i] += bytes[4 * i + j] * a[j];
  return sum;
}

inline float lane_tree(V a, float (*f)(float, float)) {
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = f(a.v[i], a.v[i + half]);
  return a.v[0];
}
inline float sum(V a) {
  return lane_tree(a, [](float x, float y) { return x + y; });
}
inline float max(V a) {
  return lane_tree(a, [](float x, float y) { return x > y ? x : y; });
}

inline void prefetch(const void*) {}

#undef INGOT_EACH

}  // namespace ingot::INGOT_ISA
