#include "portable/read.h"

#include <cstring>

namespace ingot {

namespace {

constexpr int64_t line = 64, block = 8 * line;
constexpr int64_t ahead = 2048;  // bytes to prefetch; bench/limits.cpp searches such patterns, this one is good on all
constexpr int streams = 4;

void prefetch(const uint8_t* at) {
#if defined(__GNUC__)
  __builtin_prefetch(at);
#else
  (void)at;
#endif
}

void add_line(const uint8_t* from, uint64_t (&sum)[8]) {
  uint64_t words[8];
  std::memcpy(words, from, sizeof words);
  for (int i = 0; i < 8; ++i) sum[i] += words[i];
}

}  // namespace

uint64_t sum_words(const uint8_t* data, int64_t size) {
  uint64_t sum[8] = {};
  const int64_t stretch = size / streams / block * block;
  for (int64_t at = 0; at < stretch; at += block) {
    for (int s = 0; s < streams; ++s) {
      const uint8_t* from = data + s * stretch + at;
      for (int64_t i = 0; i < block; i += line) {
        prefetch(from + i + ahead);
        add_line(from + i, sum);
      }
    }
  }
  for (int64_t at = streams * stretch; at < size; at += line) add_line(data + at, sum);
  uint64_t all = 0;
  for (uint64_t part : sum) all += part;
  return all;
}

}  // namespace ingot
