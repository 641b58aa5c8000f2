#include "dispatch.h"

#include <stdexcept>

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif
#ifdef INGOT_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(INGOT_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ingot {

#define INGOT_TABLE(isa)        \
  namespace isa {               \
  extern const Kernels kernels; \
  }
INGOT_TABLE(scalar)
#ifdef INGOT_X86
INGOT_TABLE(avx2)
INGOT_TABLE(avx2_vnni)
INGOT_TABLE(avx512)
INGOT_TABLE(avx512_vnni)
#endif
#ifdef INGOT_AMX
INGOT_TABLE(amx)
#endif
#ifdef INGOT_ARM
INGOT_TABLE(neon)
INGOT_TABLE(neon_dotprod)
#endif
#undef INGOT_TABLE

namespace {

#ifdef INGOT_X86

struct Leaf {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Leaf cpuid(uint32_t leaf, uint32_t part = 0) {
  Leaf r;
#ifdef _MSC_VER
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(part));
  r = {uint32_t(out[0]), uint32_t(out[1]), uint32_t(out[2]), uint32_t(out[3])};
#else
  __get_cpuid_count(leaf, part, &r.a, &r.b, &r.c, &r.d);  // zeros for a leaf the machine lacks
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

// Tiles are big: the system keeps them for those processes only that ask.
bool may_use_tiles() {
#ifdef INGOT_AMX
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}

struct Machine {
  bool avx2 = false, avx2_vnni = false, avx512 = false, avx512_vnni = false, amx = false;

  Machine() {
    const Leaf one = cpuid(1), seven = cpuid(7);
    if (!has(one.c, {12, 27, 28})) return;  // FMA, OSXSAVE, AVX
    const uint64_t kept = saved_registers();
    avx2 = (kept & 0x06) == 0x06 && has(seven.b, {5});
    avx2_vnni = avx2 && has(cpuid(7, 1).a, {4});
    avx512 = avx2 && (kept & 0xe6) == 0xe6 && has(seven.b, {16, 17, 30, 31});  // F, DQ, BW, VL
    avx512_vnni = avx512 && has(seven.c, {11});
    amx = avx512_vnni && (kept & 0x60000) == 0x60000 && has(seven.d, {22, 24, 25}) && may_use_tiles();
  }
};

#elif defined(INGOT_ARM)

bool has_dotprod() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#else
  return true;  // every Apple and Windows machine of this architecture
#endif
}

#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#ifdef INGOT_X86
  static const Machine machine;
#ifdef INGOT_AMX
  if (machine.amx) found.push_back(&amx::kernels);
#endif
  if (machine.avx512_vnni) found.push_back(&avx512_vnni::kernels);
  if (machine.avx512) found.push_back(&avx512::kernels);
  if (machine.avx2_vnni) found.push_back(&avx2_vnni::kernels);
  if (machine.avx2) found.push_back(&avx2::kernels);
#endif
#ifdef INGOT_ARM
  if (has_dotprod()) found.push_back(&neon_dotprod::kernels);
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
