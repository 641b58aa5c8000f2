#include "rotary.h"

#include <bit>

namespace ingot {

// angle = n pi/2 + r, |r| <= pi/4. The first part of pi/2 has 25 bits, so n times it is exact below 2^28.
SinCos sin_cos(float angle) {
  const double x = angle;
  const double magic = 0x1.8p52;
  const double shifted = x * 0.63661977236758134308 + magic;
  const double n = shifted - magic;
  const double r = (x - n * 1.57079631090164184570) - n * 1.58932547735281966916e-8;
  const double z = r * r;
  double s = -2.480514540674743e-08;
  s = s * z + 2.7555985625200863e-06;
  s = s * z + -0.00019841266899437397;
  s = s * z + 0.00833333333106116;
  s = s * z + -0.16666666666663857;
  s = s * z * r + r;
  double c = -2.723650327085515e-07;
  c = c * z + 2.4799855304504668e-05;
  c = c * z + -0.0013888885068618752;
  c = c * z + 0.041666666637161585;
  c = c * z + -0.4999999999996353;
  c = c * z + 1.0;
  const uint64_t quarter = std::bit_cast<uint64_t>(shifted) & 3;
  const double sine = quarter & 1 ? c : s, cosine = quarter & 1 ? s : c;
  return {float(quarter & 2 ? -sine : sine), float((quarter + 1) & 2 ? -cosine : cosine)};
}

void fill_rotary(const Rotary& op, int64_t token, int64_t tokens) {
  for (int64_t t = token; t < token + tokens; ++t)
    for (int64_t i = 0; i < op.pairs; ++i) {
      const float position = float(op.position[op.axis[i] * op.tokens + t]);
      const SinCos at = sin_cos(position * op.inv_freq[i]);
      op.cos[t * op.pairs + i] = at.cos * op.scale;
      op.sin[t * op.pairs + i] = at.sin * op.scale;
    }
}

}  // namespace ingot
