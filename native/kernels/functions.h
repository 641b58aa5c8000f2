// exp, sigmoid, silu, softplus: 16 lanes, within 1 ulp or so, the same bits on every instruction set because every
// step is one IEEE operation. Polynomials: Chebyshev fits (mpmath.chebyfit); native/test/functions.cpp measures them.
// A NaN comes out as NaN: `max` and `min` return their second operand when either is NaN, so limits come first.
#pragma once

namespace ingot::INGOT_ISA {

// exp(x) = 2^n exp(r), |r| <= ln2 / 2. Adding 1.5 * 2^23 leaves the nearest integer in the low bits. 2^n goes on in two
// halves, so that results round once into the subnormals and overflow to infinity.
inline V exp(V x) {
  x = max(all(-104.0f), x);
  x = min(all(89.0f), x);
  const V magic = all(12582912.0f);
  const V shifted = fma(x, all(1.44269504f), magic);
  const V n = shifted - magic;
  V r = fma(n, all(-0.693147182f), x);
  r = fma(n, all(1.90465421e-9f), r);
  V p = all(0.0001989103f);
  p = fma(p, r, all(0.0013933686f));
  p = fma(p, r, all(0.0083333105f));
  p = fma(p, r, all(0.041666463f));
  p = fma(p, r, all(0.16666667f));
  p = fma(p, r, all(0.5f));
  p = fma(p * r, r, r) + all(1.0f);
  const B whole = bits(shifted) - bits(magic);
  const B half = shift_right<1>(whole);
  const B bias = all_bits(127);
  p = p * floats(shift_left<23>(half + bias));
  return p * floats(shift_left<23>(whole - half + bias));
}

inline V minus_abs(V x) { return zero() - floats(bits(x) & all_bits(0x7fffffff)); }

// 1 / (1 + exp(-x)) for x >= 0, exp(x) / (1 + exp(x)) below: exp never overflows, and small results keep their digits.
inline V sigmoid(V x) {
  const V e = exp(minus_abs(x));
  return if_greater(zero(), x, e, all(1.0f)) / (all(1.0f) + e);
}

inline V silu(V x) { return x * sigmoid(x); }

// x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), which is gelu with tanh written another way.
inline V gelu_tanh(V x) {
  const V cube = x * x * x;
  return x * sigmoid(all(1.5957691216f) * (x + all(0.044715f) * cube));
}

// The normal distribution's tail beyond x >= 0: t exp(g(t) - x^2 / 2) / 2 with t = 1 / (1 + x / sqrt(8)). The
// polynomial is within 2e-7 of g, so is the tail of itself (but for the rounding of a large x^2).
inline V normal_tail(V x) {
  const V t = all(1.0f) / (all(1.0f) + x * all(0.35355339f));
  V g = all(0.18207152f);
  g = fma(g, t, all(-0.87277315f));
  g = fma(g, t, all(1.5838733f));
  g = fma(g, t, all(-1.2320808f));
  g = fma(g, t, all(0.33622652f));
  g = fma(g, t, all(-0.20623165f));
  g = fma(g, t, all(0.10067695f));
  g = fma(g, t, all(0.37371178f));
  g = fma(g, t, all(1.000038f));
  g = fma(g, t, all(-1.2655123f));
  return all(0.5f) * t * exp(fma(all(-0.5f) * x, x, g));
}

// x times the normal distribution's function at x.
inline V gelu(V x) {
  const V tail = normal_tail(zero() - minus_abs(x));
  return x * if_greater(x, zero(), all(1.0f) - tail, tail);
}

// log(1 + x) for x in [0, 1]. u = 1 + x loses the low digits of x; (x - (u - 1)) / u gives them back.
// log(u) = k ln2 + f - f^2/2 + s (f^2/2 + R(s^2)), s = f / (2 + f), with f = u - 1 or u/2 - 1.
inline V log1p_unit(V x) {
  const V one = all(1.0f);
  const V u = one + x;
  const V lost = (x - (u - one)) / u;
  const V root2 = all(1.41421356f);
  const V f = if_greater(u, root2, u * all(0.5f), u) - one;
  const V k = if_greater(u, root2, one, zero());
  const V half_square = all(0.5f) * f * f;
  const V s = f / (all(2.0f) + f);
  const V z = s * s;
  V p = all(0.2333083f);
  p = fma(p, z, all(0.28550807f));
  p = fma(p, z, all(0.40000123f));
  p = fma(p, z, all(0.6666667f)) * z;
  const V low = fma(s, half_square + p, fma(k, all(-1.90465421e-9f), lost));
  return fma(k, all(0.693147182f), f - (half_square - low));
}

// log(1 + exp(x)); x itself above 20, as torch has it.
inline V softplus(V x) {
  const V curve = max(zero(), x) + log1p_unit(exp(minus_abs(x)));
  return if_greater(x, all(20.0f), x, curve);
}

}  // namespace ingot::INGOT_ISA
