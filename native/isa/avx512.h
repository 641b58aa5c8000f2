// 16 lanes as one zmm register. Same operations, in the same order, as isa/scalar.h.
// INGOT_VNNI: the four-way dot product is one instruction, whose weights are unsigned.
#pragma once

#include <immintrin.h>

#include "../table.h"

namespace ingot::INGOT_ISA {

// 32 registers: 12 rows x 2 panels is 24 accumulators, 4 for the weights and their halves, 2 spare.
inline constexpr int max_rows = 12;
inline constexpr int panels_for(int rows) { return rows <= 5 ? 4 : 2; }
// 4 strips: 16 accumulators, 4 rows, 4 deltas, decay, k, q and the next k.
inline constexpr int delta_strips = 4;
inline constexpr int integer_rows = 8;  // 8 sums beside the 8 vectors of a group

struct V {
  __m512 v;
};
struct B {
  __m512i v;
};

inline __mmask16 lanes_below(int n) {
  return static_cast<__mmask16>(n >= lanes ? 0xffffu : n < 1 ? 0u : (1u << n) - 1u);
}

inline V all(float x) { return {_mm512_set1_ps(x)}; }
inline V zero() { return {_mm512_setzero_ps()}; }
inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline V load(const float* p, int n) { return {_mm512_maskz_loadu_ps(lanes_below(n), p)}; }
inline void store(float* p, V x) { _mm512_storeu_ps(p, x.v); }
inline void store(float* p, V x, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), x.v); }

inline V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V sqrt(V a) { return {_mm512_sqrt_ps(a.v)}; }
inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
inline V if_greater(V a, V b, V yes, V no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v)};
}
inline V first_lanes(V x, int n, V other) { return {_mm512_mask_blend_ps(lanes_below(n), other.v, x.v)}; }

inline B bits(V a) { return {_mm512_castps_si512(a.v)}; }
inline V floats(B a) { return {_mm512_castsi512_ps(a.v)}; }
inline B all_bits(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline B operator+(B a, B b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline B operator-(B a, B b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline B operator&(B a, B b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int N>
inline B shift_left(B a) {
  return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
inline B shift_right(B a) {
  return {_mm512_srai_epi32(a.v, N)};
}

inline B load_pairs(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }

// 64 bytes, and 16 halves in the low 16 bits of each lane.
inline B load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(void* p, B x) { _mm512_storeu_si512(p, x.v); }
inline B load_halves(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_low_bytes(int8_t* p, B x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
inline void store_high_halves(uint16_t* p, B x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(x.v, 16)));
}
inline int32_t sum(B a) { return _mm512_reduce_add_epi32(a.v); }
inline int32_t max(B a) { return _mm512_reduce_max_epi32(a.v); }
inline B max(B a, B b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline V from_int(B a) { return {_mm512_cvtepi32_ps(a.v)}; }

// The bytes of an integer dot product. Nibbles become entries of the codebook, 16 int8 values.
inline B low_nibbles(B a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline B high_nibbles(B a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
struct Codebook {
  __m512i table;
  explicit Codebook(const int8_t* entries)
      : table(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)))) {}
  B operator()(B nibbles) const { return {_mm512_shuffle_epi8(table, nibbles.v)}; }
};

// dot(sum, w, a) adds w[4i .. 4i+3] . a[0 .. 3] to lane i, exactly, for int8 between -127 and 127. w comes from
// dot_weights; the sum starts at dot_start(the a's total of the whole chain).
#ifdef INGOT_VNNI
inline int8_t dot_weights(int8_t w) { return int8_t(w ^ -128); }
inline B dot_weights(B w) { return {_mm512_xor_si512(w.v, _mm512_set1_epi8(-128))}; }  // w + 128, unsigned
inline B dot_start(int32_t total) { return {_mm512_set1_epi32(-128 * total)}; }
inline B dot(B sum, B w, const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(four))};
}
#else
inline int8_t dot_weights(int8_t w) { return w; }
inline B dot_weights(B w) { return w; }
inline B dot_start(int32_t) { return {_mm512_setzero_si512()}; }
inline B dot(B sum, B w, const int8_t* a) {
  uint32_t four;
  __builtin_memcpy(&four, a, 4);
  const uint32_t negative = four >> 7 & 0x01010101u, all_ones = negative * 255;  // a byte each; |a| takes no sign
  const __m512i minus = _mm512_set1_epi32(int32_t(all_ones)),
                size = _mm512_set1_epi32(int32_t((four ^ all_ones) + negative));
  const __m512i pairs = _mm512_maddubs_epi16(size, _mm512_sub_epi8(_mm512_xor_si512(w.v, minus), minus));
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
#endif

inline float sum(V a) {
  const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), high);
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float max(V a) {
  const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), high);
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace ingot::INGOT_ISA
