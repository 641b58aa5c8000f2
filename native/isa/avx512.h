// 16 lanes as one zmm register. Same operations, in the same order, as isa/scalar.h.
#pragma once

#include <immintrin.h>

#include "../table.h"

namespace ingot::INGOT_ISA {

// 32 registers: 12 rows x 2 panels is 24 accumulators, 4 for the weights and their halves, 2 spare.
inline constexpr int max_rows = 12;
inline constexpr int panels_for(int rows) { return rows <= 5 ? 4 : 2; }
inline constexpr int delta_strips = 2;

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
