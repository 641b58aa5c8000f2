#include "dispatch.h"

#include <stdexcept>

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ingot {

namespace scalar {
extern const Kernels kernels;
}
#ifdef INGOT_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif
#ifdef INGOT_ARM
namespace neon {
extern const Kernels kernels;
}
#endif

namespace {

#ifdef INGOT_X86

struct Leaf {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Leaf cpuid(uint32_t leaf) {
  Leaf r;
#ifdef _MSC_VER
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), 0);
  r = {uint32_t(out[0]), uint32_t(out[1]), uint32_t(out[2]), uint32_t(out[3])};
#else
  __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d);  // zeros for a leaf the machine lacks
#endif
  return r;
}

uint64_t saved_registers() {  // XCR0: what the operating system keeps across a switch of threads
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
#endif
}

bool has(uint32_t word, std::initializer_list<int> wanted) {
  for (int bit : wanted)
    if (!(word >> bit & 1)) return false;
  return true;
}

struct Machine {
  bool avx2 = false, avx512 = false;

  Machine() {
    const Leaf one = cpuid(1), seven = cpuid(7);
    if (!has(one.c, {12, 27, 28})) return;  // FMA, OSXSAVE, AVX
    const uint64_t kept = saved_registers();
    avx2 = (kept & 0x06) == 0x06 && has(seven.b, {5});
    avx512 = avx2 && (kept & 0xe6) == 0xe6 && has(seven.b, {16, 17, 30, 31});  // F, DQ, BW, VL
  }
};

#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#ifdef INGOT_X86
  static const Machine machine;
  if (machine.avx512) found.push_back(&avx512::kernels);
  if (machine.avx2) found.push_back(&avx2::kernels);
#endif
#ifdef INGOT_ARM
  found.push_back(&neon::kernels);
#endif
  found.push_back(&scalar::kernels);
  return found;
}

const Kernels& find_kernels(const std::string& name) {
  const auto found = available_kernels();
  if (name.empty()) return *found.front();
  std::string names;
  for (const Kernels* kernels : found) {
    if (name == kernels->name) return *kernels;
    names += names.empty() ? kernels->name : std::string(", ") + kernels->name;
  }
  throw std::invalid_argument("isa is \"" + name + "\"; this machine runs " + names);
}

}  // namespace ingot
