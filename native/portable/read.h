// Reading memory as fast as it goes, for the bound that a decoding step cannot beat (`ingot bench`). Not a kernel:
// plain code, which is fast enough wherever memory is what limits.
#pragma once

#include <cstdint>

namespace ingot {

constexpr int64_t read_tile = 2 << 20;  // bytes

// The 64-bit words of [data, data + size) added up; size is a multiple of 64.
uint64_t sum_words(const uint8_t* data, int64_t size);

}  // namespace ingot
