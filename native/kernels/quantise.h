// Weights to q8 and q4: 16 outputs in lanes, one group of 32 inputs at a time. Round to nearest; deterministic, and the
// same on every instruction set.
#pragma once

#include "rounded.h"

namespace ingot::INGOT_ISA {

// x[k]: input k of the group, of 16 outputs. Outputs and inputs past the matrix are zeros.
struct WeightGroup {
  V x[group_inputs];

  WeightGroup(const Unpacked& from, int64_t panel, int64_t first) {
    alignas(64) float rows[group_inputs][lanes];
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t i = 0; i < group_inputs; ++i) {
        const int64_t o = panel * lanes + lane, k = first + i;
        rows[i][lane] = o < from.outputs && k < from.inputs ? value(from, o * from.inputs + k) : 0.0f;
      }
    for (int i = 0; i < group_inputs; ++i) x[i] = load(rows[i]);
  }

  static float value(const Unpacked& from, int64_t i) {
    if (from.format == Format::f32) return static_cast<const float*>(from.data)[i];
    float wide;
    const uint32_t u = uint32_t(static_cast<const uint16_t*>(from.data)[i]) << 16;
    __builtin_memcpy(&wide, &u, 4);
    return wide;
  }

  // Divides by each output's power of two at or below the largest magnitude, which it returns: squares stay in range.
  V normalise() {
    const V top = largest(), none = all(1.17549435e-38f);
    const V unit = if_greater(top, none, floats(bits(top) & all_bits(0x7f800000)), all(1.0f));
    for (int i = 0; i < group_inputs; ++i) x[i] = x[i] / unit;
    return unit;
  }

  V largest() const {
    B top = magnitude(x[0]);
    for (int i = 1; i < group_inputs; ++i) top = max(top, magnitude(x[i]));
    return floats(top);
  }
};

// x / scale, and zero where the scale is.
inline V ratio(V x, V scale, V nonzero) { return if_greater(nonzero, zero(), x / scale, zero()); }

// Nearest int8 under a scale of largest / 127, itself rounded to bf16 first.
inline V quantise_q8(const WeightGroup& group, uint8_t* to) {
  const V largest = group.largest(), scale = round_bf16(largest / all(127.0f)), there = scale;
  alignas(64) int32_t q[lanes];
  for (int k = 0; k < group_inputs; ++k) {
    const V nearest = max(all(-127.0f), min(all(127.0f), ratio(group.x[k], scale, there)));
    store_bytes(q, round_int(nearest));
    for (int lane = 0; lane < lanes; ++lane) to[k / 4 * 64 + lane * 4 + k % 4] = uint8_t(q[lane]);
  }
  return scale;
}

// The codebook's nearest entry to u, and its index.
struct Entry {
  V value, index;
  explicit Entry(V u) : value(all(codebook[0])), index(zero()) {
    INGOT_UNROLL
    for (int i = 1; i < 16; ++i) {
      const V between = all(0.5f * float(codebook[i - 1] + codebook[i]));
      value = if_greater(u, between, all(float(codebook[i])), value);
      index = if_greater(u, between, all(float(i)), index);
    }
  }
};

// A candidate scale: what squared error its best codes leave, and the scale that least squares would give those codes.
struct Trial {
  V error = zero(), cross = zero(), square = zero();

  Trial(const WeightGroup& group, V scale) {
    const V there = floats(magnitude(scale));
    for (int k = 0; k < group_inputs; ++k) {
      const V v = Entry(ratio(group.x[k], scale, there)).value;
      const V miss = fma(zero() - v, scale, group.x[k]);
      error = fma(miss, miss, error);
      cross = fma(v, group.x[k], cross);
      square = fma(v, v, square);
    }
  }
};

// The scale with the least squared error among eight that put the largest magnitude near an end of the codebook, and
// for each the scale that fits its codes best.
inline V quantise_q4(WeightGroup& group, uint8_t* to) {
  const V unit = group.normalise(), largest = group.largest();
  V best = zero(), least = floats(all_bits(0x7f800000));
  const auto consider = [&](V scale) {
    const Trial trial(group, scale);
    best = if_greater(least, trial.error, scale, best);
    least = if_greater(least, trial.error, trial.error, least);
    return round_bf16(trial.cross / trial.square);
  };
  constexpr float ends[] = {-140.0f, -127.0f, -115.0f, -103.0f, 103.0f, 115.0f, 127.0f, 140.0f};
  for (const float end : ends) {
    const V fitted = consider(round_bf16(largest / all(end)));
    consider(fitted);
  }
  alignas(64) float q[lanes];
  const V there = floats(magnitude(best));
  for (int k = 0; k < group_inputs; ++k) {
    store(q, Entry(ratio(group.x[k], best, there)).index);
    const int row = k / 4;
    for (int lane = 0; lane < lanes; ++lane) {
      uint8_t& byte = to[row % 4 * 64 + lane * 4 + k % 4];
      byte = row < 4 ? uint8_t(q[lane]) : uint8_t(byte | uint8_t(q[lane]) << 4);
    }
  }
  return best * unit;
}

inline void quantise(const Unpacked& from, int64_t panel, Format format, uint8_t* to) {
  for (int64_t first = 0; first < from.inputs; first += 2 * group_inputs, to += block_bytes(format))
    for (int half = 0; half < 2; ++half) {
      WeightGroup group(from, panel, first + half * group_inputs);
      uint8_t* values = to + scale_bytes + half * (format == Format::q8 ? q8_group : q4_group);
      const V scale = format == Format::q8 ? quantise_q8(group, values) : quantise_q4(group, values);
      store_high_halves(reinterpret_cast<uint16_t*>(to) + half * lanes, bits(round_bf16(scale)));
    }
}

}  // namespace ingot::INGOT_ISA
