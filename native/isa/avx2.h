// 16 lanes as two ymm registers, with FMA. Same operations, in the same order, as isa/scalar.h.
// INGOT_VNNI: the four-way dot product is one instruction, whose weights are unsigned.
#pragma once

#include <immintrin.h>

#include "../table.h"

namespace ingot::INGOT_ISA {

// 16 registers: 6 rows x 1 panel is 12 accumulators, 2 for the weights, 1 broadcast.
inline constexpr int max_rows = 6;
inline constexpr int panels_for(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
inline constexpr int delta_strips = 1;
inline constexpr int integer_rows = 2;  // a group's 16 registers of weights are read again for each row

struct V {
  __m256 lo, hi;
};
struct B {
  __m256i lo, hi;
};

inline V all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, V x) { _mm256_storeu_ps(p, x.lo), _mm256_storeu_ps(p + 8, x.hi); }

inline B lanes_below(int n) {
  const __m256i bound = _mm256_set1_epi32(n);
  return {_mm256_cmpgt_epi32(bound, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(bound, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline V load(const float* p, int n) {
  const B m = lanes_below(n);
  return {_mm256_maskload_ps(p, m.lo), _mm256_maskload_ps(p + 8, m.hi)};
}
inline void store(float* p, V x, int n) {
  const B m = lanes_below(n);
  _mm256_maskstore_ps(p, m.lo, x.lo);
  _mm256_maskstore_ps(p + 8, m.hi, x.hi);
}

inline V operator+(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline V operator-(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline V operator*(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline V operator/(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline V sqrt(V a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline V max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline V min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline V if_greater(V a, V b, V yes, V no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))};
}
inline V first_lanes(V x, int n, V other) {
  const B m = lanes_below(n);
  return {_mm256_blendv_ps(other.lo, x.lo, _mm256_castsi256_ps(m.lo)),
          _mm256_blendv_ps(other.hi, x.hi, _mm256_castsi256_ps(m.hi))};
}

inline B bits(V a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline V floats(B a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline B all_bits(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline B operator+(B a, B b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline B operator-(B a, B b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
inline B operator&(B a, B b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
template <int N>
inline B shift_left(B a) {
  return {_mm256_slli_epi32(a.lo, N), _mm256_slli_epi32(a.hi, N)};
}
template <int N>
inline B shift_right(B a) {
  return {_mm256_srai_epi32(a.lo, N), _mm256_srai_epi32(a.hi, N)};
}

inline B load_pairs(const uint16_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16))};
}

// 64 bytes, and 16 halves in the low 16 bits of each lane.
inline B load_bytes(const void* p) {
  const __m256i* at = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline void store_bytes(void* p, B x) {
  __m256i* at = static_cast<__m256i*>(p);
  _mm256_storeu_si256(at, x.lo);
  _mm256_storeu_si256(at + 1, x.hi);
}
inline B load_halves(const uint16_t* p) {
  const __m128i* at = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(at)), _mm256_cvtepu16_epi32(_mm_loadu_si128(at + 1))};
}
inline __m128i narrow(__m256i a) {  // the low half of every 32 bits
  const __m256i even = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12,
                                        13, -1, -1, -1, -1, -1, -1, -1, -1);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_shuffle_epi8(a, even), 0x08));
}
inline void store_low_bytes(int8_t* p, B x) {
  const __m128i mask = _mm_set1_epi16(0xff);
  const __m128i lo = _mm_and_si128(narrow(x.lo), mask), hi = _mm_and_si128(narrow(x.hi), mask);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(lo, hi));
}
inline void store_high_halves(uint16_t* p, B x) {
  __m128i* at = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(at, narrow(_mm256_srli_epi32(x.lo, 16)));
  _mm_storeu_si128(at + 1, narrow(_mm256_srli_epi32(x.hi, 16)));
}
inline int32_t sum(B a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
inline int32_t max(B a) {
  const __m256i eight = _mm256_max_epi32(a.lo, a.hi);
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
inline B max(B a, B b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
inline V from_int(B a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

// The bytes of an integer dot product. Nibbles become entries of the codebook, 16 int8 values.
inline B low_nibbles(B a) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
inline B high_nibbles(B a) { return low_nibbles({_mm256_srli_epi16(a.lo, 4), _mm256_srli_epi16(a.hi, 4)}); }
struct Codebook {
  __m256i table;
  explicit Codebook(const int8_t* entries)
      : table(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)))) {}
  B operator()(B nibbles) const {
    return {_mm256_shuffle_epi8(table, nibbles.lo), _mm256_shuffle_epi8(table, nibbles.hi)};
  }
};

// dot(sum, w, a) adds w[4i .. 4i+3] . a[0 .. 3] to lane i, exactly, for int8 between -127 and 127. w comes from
// dot_weights; the sum starts at dot_start(the a's total of the whole chain).
inline __m256i four_bytes(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return _mm256_set1_epi32(four);
}
#ifdef INGOT_VNNI
inline int8_t dot_weights(int8_t w) { return int8_t(w ^ -128); }
inline B dot_weights(B w) {  // w + 128, unsigned
  const __m256i sign = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(w.lo, sign), _mm256_xor_si256(w.hi, sign)};
}
inline B dot_start(int32_t total) { return all_bits(-128 * total); }
inline B dot(B sum, B w, const int8_t* a) {
  const __m256i x = four_bytes(a);
  return {_mm256_dpbusd_avx_epi32(sum.lo, w.lo, x), _mm256_dpbusd_avx_epi32(sum.hi, w.hi, x)};
}
#else
inline int8_t dot_weights(int8_t w) { return w; }
inline B dot_weights(B w) { return w; }
inline B dot_start(int32_t) { return all_bits(0); }
inline B dot(B sum, B w, const int8_t* a) {
  const __m256i x = four_bytes(a), size = _mm256_abs_epi8(x), one = _mm256_set1_epi16(1);
  const __m256i lo = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w.lo, x));  // |a| takes no sign
  const __m256i hi = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w.hi, x));
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(lo, one)), _mm256_add_epi32(sum.hi, _mm256_madd_epi16(hi, one))};
}
#endif

inline float sum(V a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float max(V a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace ingot::INGOT_ISA
