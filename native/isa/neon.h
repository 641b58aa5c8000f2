// 16 lanes as four q registers of AArch64. Same operations, in the same order, as isa/scalar.h.
// __ARM_FEATURE_DOTPROD: the four-way dot product is one instruction.
#pragma once

#include <arm_neon.h>

#include "../table.h"

namespace ingot::INGOT_ISA {

// 32 registers: 6 rows x 1 panel is 24 accumulators, 4 for the weights, 1 broadcast.
inline constexpr int max_rows = 6;
inline constexpr int panels_for(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
inline constexpr int delta_strips = 1;
inline constexpr int integer_rows = 4;  // a group's 32 registers of weights are read again for each row

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

// 64 bytes, and 16 halves in the low 16 bits of each lane.
inline B load_bytes(const void* p) {
  const int8_t* at = static_cast<const int8_t*>(p);
  const auto quad = [](const int8_t* q) { return vreinterpretq_s32_s8(vld1q_s8(q)); };
  return {quad(at), quad(at + 16), quad(at + 32), quad(at + 48)};
}
inline void store_bytes(void* p, B x) {
  int8_t* at = static_cast<int8_t*>(p);
  vst1q_s8(at, vreinterpretq_s8_s32(x.a)), vst1q_s8(at + 16, vreinterpretq_s8_s32(x.b));
  vst1q_s8(at + 32, vreinterpretq_s8_s32(x.c)), vst1q_s8(at + 48, vreinterpretq_s8_s32(x.d));
}
inline B load_halves(const uint16_t* p) {
  const auto quad = [](const uint16_t* q) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(q))); };
  return {quad(p), quad(p + 4), quad(p + 8), quad(p + 12)};
}
inline void store_low_bytes(int8_t* p, B x) {
  const int16x8_t low = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)),
                  high = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
inline void store_high_halves(uint16_t* p, B x) {
  const auto quad = [](uint16_t* q, int32x4_t v) { vst1_u16(q, vshrn_n_u32(vreinterpretq_u32_s32(v), 16)); };
  quad(p, x.a), quad(p + 4, x.b), quad(p + 8, x.c), quad(p + 12, x.d);
}
inline int32_t sum(B x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }
inline int32_t max(B x) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.b), vmaxq_s32(x.c, x.d))); }
inline B max(B x, B y) { return INGOT_QUADS(vmaxq_s32, x, y); }
inline V from_int(B x) { return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)}; }

// The bytes of an integer dot product. Nibbles become entries of the codebook, 16 int8 values.
inline int32x4_t low4(int32x4_t x) { return vandq_s32(x, vdupq_n_s32(0x0f0f0f0f)); }
inline int32x4_t high4(int32x4_t x) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(x), 4)); }
inline B low_nibbles(B x) { return {low4(x.a), low4(x.b), low4(x.c), low4(x.d)}; }
inline B high_nibbles(B x) { return {high4(x.a), high4(x.b), high4(x.c), high4(x.d)}; }
struct Codebook {
  int8x16_t table;
  explicit Codebook(const int8_t* entries) : table(vld1q_s8(entries)) {}
  int32x4_t look(int32x4_t x) const { return vreinterpretq_s32_s8(vqtbl1q_s8(table, vreinterpretq_u8_s32(x))); }
  B operator()(B nibbles) const { return {look(nibbles.a), look(nibbles.b), look(nibbles.c), look(nibbles.d)}; }
};

// dot(sum, w, a) adds w[4i .. 4i+3] . a[0 .. 3] to lane i, exactly, for int8 between -127 and 127. w comes from
// dot_weights; the sum starts at dot_start(the a's total of the whole chain).
inline int8_t dot_weights(int8_t w) { return w; }
inline B dot_weights(B w) { return w; }
inline B dot_start(int32_t) { return all_bits(0); }
inline int32x4_t dot4(int32x4_t sum, int32x4_t w, int8x16_t x) {
  const int8x16_t bytes = vreinterpretq_s8_s32(w);
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_s32(sum, bytes, x);
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(bytes), vget_low_s8(x)));
  const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(bytes), vget_high_s8(x)));
  return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}
inline B dot(B sum, B w, const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  return {dot4(sum.a, w.a, x), dot4(sum.b, w.b, x), dot4(sum.c, w.c, x), dot4(sum.d, w.d, x)};
}

inline void prefetch(const void* p) { __builtin_prefetch(p); }

#undef INGOT_QUADS

}  // namespace ingot::INGOT_ISA
