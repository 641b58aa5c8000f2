// Floating-point environment of the kernels: round to nearest, subnormals kept, no traps. Somebody else's library may
// have set flush-to-zero in this thread; results must not depend on it, and it must find its setting again.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif defined(_M_ARM64)
#include <intrin.h>
#endif

namespace ingot {

class FloatEnvironment {
 public:
  FloatEnvironment() : saved_(read()) { write(plain); }
  ~FloatEnvironment() { write(saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
#if defined(__x86_64__) || defined(_M_X64)
  static constexpr uint64_t plain = 0x1f80;  // MXCSR: all exceptions masked, everything else zero
  static uint64_t read() { return _mm_getcsr(); }
  static void write(uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
  static constexpr uint64_t plain = 0;  // FPCR
  static uint64_t read() {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#elif defined(_M_ARM64)
  static constexpr uint64_t plain = 0;
  static uint64_t read() { return _ReadStatusReg(ARM64_FPCR); }
  static void write(uint64_t value) { _WriteStatusReg(ARM64_FPCR, value); }
#else
  static constexpr uint64_t plain = 0;
  static uint64_t read() { return 0; }
  static void write(uint64_t) {}
#endif
  uint64_t saved_;
};

}  // namespace ingot
