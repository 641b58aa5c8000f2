// The functions against the C library in higher precision, on every instruction set: every STRIDE-th float of the line
// (default 4,099: half a million values; 1: all of them, minutes). Fails past the limits in `checks`, when instruction
// sets differ in one bit, or when a NaN is lost.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include "context.h"

namespace {

using ingot::Context;
using ingot::Elementwise;

double exact_softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double exact_exp(double x) { return std::exp(x); }

struct Check {
  const char* name;
  void (Context::*function)(const Elementwise&);
  double (*exact)(double);
  double limit;  // ulps
};

constexpr Check checks[] = {
    {"exp", &Context::exp, exact_exp, 1.1},
    {"sigmoid", &Context::sigmoid, exact_sigmoid, 2.5},
    {"softplus", &Context::softplus, exact_softplus, 2.0},
};

// |got - want| in units of the last place of a float near want; subnormals count in the smallest float.
double ulps(float got, double want) {
  const float near = static_cast<float>(want);
  if (std::isinf(near) || std::isinf(got)) return near == got ? 0 : std::numeric_limits<double>::infinity();
  int exponent;
  std::frexp(want, &exponent);
  return std::abs(got - want) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

struct Worst {
  double ulps = 0;
  float at = 0;
  void take(double error, float x) {
    if (!(error <= ulps)) ulps = error, at = x;
  }
};

struct Line {
  std::vector<float> x;
  explicit Line(uint32_t stride) {
    for (uint64_t u = 0; u <= 0xffffffffu; u += stride) x.push_back(std::bit_cast<float>(uint32_t(u)));
    for (float edge : {-0.0f, 1.0f, -1.0f, 20.0f, 88.72284f, -87.33655f, -103.97f, 3.4e38f}) x.push_back(edge);
    const float infinity = std::numeric_limits<float>::infinity();
    for (float edge : {infinity, -infinity, std::nanf("")}) x.push_back(edge);
  }
};

std::vector<float> apply(Context& context, const Check& check, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  (context.*check.function)({{x.data(), 1, 0, 0}, {}, y.data(), 1, int64_t(x.size())});
  return y;
}

bool same(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

bool run(const Check& check, const Line& line) {
  bool good = true;
  std::vector<float> first;
  for (const ingot::Kernels* kernels : ingot::available_kernels()) {
    Context context(1, kernels->name);
    const std::vector<float> y = apply(context, check, line.x);
    if (first.empty()) first = y;
    Worst worst;
    int64_t lost = 0, differ = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      if (std::isnan(line.x[i])) lost += !std::isnan(y[i]);
      else worst.take(ulps(y[i], check.exact(line.x[i])), line.x[i]), differ += !same(y[i], first[i]);
    }
    const bool ok = worst.ulps <= check.limit && lost == 0 && differ == 0;
    std::printf("%-9s %-7s %.3f ulp at %a (limit %.1f), %lld NaN lost, %lld differ%s\n", check.name, kernels->name,
                worst.ulps, worst.at, check.limit, (long long)lost, (long long)differ, ok ? "" : "  FAILED");
    good &= ok;
  }
  return good;
}

// Angles up to 2^28: the longest context is 2^18 tokens and frequencies are at most 1.
bool run_sin_cos(uint32_t stride) {
  Worst sine, cosine;
  for (uint64_t u = 1; u < 0x4d800000u; u += stride) {
    const float x = std::bit_cast<float>(uint32_t(u));
    const ingot::SinCos at = ingot::sin_cos(x), minus = ingot::sin_cos(-x);
    sine.take(ulps(at.sin, std::sin(double(x))), x);
    cosine.take(ulps(at.cos, std::cos(double(x))), x);
    if (!same(minus.sin, -at.sin) || !same(minus.cos, at.cos)) return std::printf("sin, cos: not odd, even\n"), false;
  }
  const bool nan = std::isnan(ingot::sin_cos(std::numeric_limits<float>::infinity()).sin);
  const bool ok = sine.ulps <= 0.501 && cosine.ulps <= 0.501 && nan;
  std::printf("sin       %.4f ulp at %a\ncos       %.4f ulp at %a (limit 0.501)%s\n", sine.ulps, sine.at, cosine.ulps,
              cosine.at, ok ? "" : "  FAILED");
  return ok;
}

}  // namespace

int main(int count, char** arguments) {
  const uint32_t stride = count > 1 ? uint32_t(std::atol(arguments[1])) : 4099;
  const Line line(stride < 1 ? 1 : stride);
  bool good = true;
  for (const Check& check : checks) good &= run(check, line);
  good &= run_sin_cos(stride < 1 ? 1 : stride);
  return good ? 0 : 1;
}
