// 16 lanes as four q registers of AArch64. Same operations, in the same order, as isa/scalar.h.
#pragma once

#include <arm_neon.h>

#include "../table.h"

namespace ingot::INGOT_ISA {

// 32 registers: 6 rows x 1 panel is 24 accumulators, 4 for the weights, 1 broadcast.
inline constexpr int max_rows = 6;
inline constexpr int panels_for(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
inline constexpr int delta_strips = 1;

struct V {
  float32x4_t a, b, c, d;
};
struct B {
  int32x4_t a, b, c, d;
};

#define INGOT_QUADS(f, x, y) {f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)}

inline V all(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline V zero() { return all(0.0f); }
inline V load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
inline void store(float* p, V x) {
  vst1q_f32(p, x.a), vst1q_f32(p + 4, x.b), vst1q_f32(p + 8, x.c), vst1q_f32(p + 12, x.d);
}
inline V load(const float* p, int n) {
  float copy[lanes];
  for (int i = 0; i < lanes; ++i) copy[i] = i < n ? p[i] : 0.0f;
  return load(copy);
}
inline void store(float* p, V x, int n) {
  float copy[lanes];
  store(copy, x);
  for (int i = 0; i < n && i < lanes; ++i) p[i] = copy[i];
}

inline V operator+(V x, V y) { return INGOT_QUADS(vaddq_f32, x, y); }
inline V operator-(V x, V y) { return INGOT_QUADS(vsubq_f32, x, y); }
inline V operator*(V x, V y) { return INGOT_QUADS(vmulq_f32, x, y); }
inline V operator/(V x, V y) { return INGOT_QUADS(vdivq_f32, x, y); }
inline V fma(V x, V y, V z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
inline V sqrt(V x) { return {vsqrtq_f32(x.a), vsqrtq_f32(x.b), vsqrtq_f32(x.c), vsqrtq_f32(x.d)}; }
// not vmaxq: it returns NaN where x86 returns the second operand.
inline float32x4_t max4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline float32x4_t min4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline V max(V x, V y) { return INGOT_QUADS(max4, x, y); }
inline V min(V x, V y) { return INGOT_QUADS(min4, x, y); }
inline V if_greater(V x, V y, V yes, V no) {
  return {vbslq_f32(vcgtq_f32(x.a, y.a), yes.a, no.a), vbslq_f32(vcgtq_f32(x.b, y.b), yes.b, no.b),
          vbslq_f32(vcgtq_f32(x.c, y.c), yes.c, no.c), vbslq_f32(vcgtq_f32(x.d, y.d), yes.d, no.d)};
}
inline float32x4_t first4(float32x4_t x, int n, float32x4_t other) {
  static constexpr int32_t index[4] = {0, 1, 2, 3};
  return vbslq_f32(vcltq_s32(vld1q_s32(index), vdupq_n_s32(n)), x, other);
}
inline V first_lanes(V x, int n, V other) {
  return {first4(x.a, n, other.a), first4(x.b, n - 4, other.b), first4(x.c, n - 8, other.c),
          first4(x.d, n - 12, other.d)};
}

inline B bits(V x) {
  return {vreinterpretq_s32_f32(x.a), vreinterpretq_s32_f32(x.b), vreinterpretq_s32_f32(x.c),
          vreinterpretq_s32_f32(x.d)};
}
inline V floats(B x) {
  return {vreinterpretq_f32_s32(x.a), vreinterpretq_f32_s32(x.b), vreinterpretq_f32_s32(x.c),
          vreinterpretq_f32_s32(x.d)};
}
inline B all_bits(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}; }
inline B operator+(B x, B y) { return INGOT_QUADS(vaddq_s32, x, y); }
inline B operator-(B x, B y) { return INGOT_QUADS(vsubq_s32, x, y); }
inline B operator&(B x, B y) { return INGOT_QUADS(vandq_s32, x, y); }
template <int N>
inline B shift_left(B x) {
  return {vshlq_n_s32(x.a, N), vshlq_n_s32(x.b, N), vshlq_n_s32(x.c, N), vshlq_n_s32(x.d, N)};
}
template <int N>
inline B shift_right(B x) {
  return {vshrq_n_s32(x.a, N), vshrq_n_s32(x.b, N), vshrq_n_s32(x.c, N), vshrq_n_s32(x.d, N)};
}

inline B load_pairs(const uint16_t* p) {
  const auto quad = [](const uint16_t* at) { return vreinterpretq_s32_u16(vld1q_u16(at)); };
  return {quad(p), quad(p + 8), quad(p + 16), quad(p + 24)};
}

// lanes i and i + 8, then i + 4, then i + 2, then i + 1: the tree of isa/scalar.h.
inline float sum(V x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float max(V x) {
  const float32x4_t four = max4(max4(x.a, x.c), max4(x.b, x.d));
  const float p = vgetq_lane_f32(four, 0), q = vgetq_lane_f32(four, 1);
  const float r = vgetq_lane_f32(four, 2), s = vgetq_lane_f32(four, 3);
  const float even = p > r ? p : r, odd = q > s ? q : s;
  return even > odd ? even : odd;
}

inline void prefetch(const void* p) { __builtin_prefetch(p); }

#undef INGOT_QUADS

}  // namespace ingot::INGOT_ISA
