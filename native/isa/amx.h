// Matrix instructions beside AVX-512: eight tiles of 16 rows of 64 bytes. The sums are those of the other instruction
// sets: integers are exact; for bf16, one instruction adds even + odd to the output, where even and odd are chains of
// fused multiply-adds from zero over a block of 32 inputs (subnormals are flushed), which kernels/bf16.h repeats.
// Written as assembly with memory clobbers: compilers' intrinsics let stores pass a tile load.
#pragma once

#include "avx512.h"

namespace ingot::INGOT_ISA {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void tile(int n, int64_t count, int bytes) {
    rows[n] = static_cast<uint8_t>(count);
    row_bytes[n] = static_cast<uint16_t>(bytes);
  }
};

// Tiles are configured for as long as this lives.
class Tiles {
 public:
  explicit Tiles(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }
  ~Tiles() { __asm__ volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

template <int T>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
inline void tile_load(const void* p, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void tile_store(void* p, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
// sum += a (rows x 4 int8) * b (4 int8 x 16)
template <int Sum, int A, int W>
inline void tile_dot_int8() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(W));
}
template <int Sum, int A, int W>
inline void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(W));
}

// Lines that will be written whole much later: without this the stores wait, and tiles that are stored wait behind
// them.
inline void prefetch_to_write(void* p) { __builtin_prefetch(p, 1, 3); }

}  // namespace ingot::INGOT_ISA
