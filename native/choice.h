// One id drawn from a row of scores, and the row's best ids: `choose` and `rank` of ops/choice.py, the same for every
// thread count and instruction set, without sorting the row.
#pragma once

#include "table.h"
#include "threads.h"

namespace ingot {

struct Choice {
  const float* scores;
  int64_t count;  // at least 1
  double temperature, top_p, min_p, u;
  int64_t top_k;
};

// The id, or -1 when a score is NaN.
int64_t chosen(const Choice& op, const Kernels& kernels, ThreadPool& pool);

// `rank` of ops/choice.py: writes the `best` ids of the greatest scores, best first; returns the sum of all weights, or
// -1 when a score is NaN.
int64_t ranked(const float* scores, int64_t count, int32_t* ids, int64_t best, const Kernels& kernels,
               ThreadPool& pool);

}  // namespace ingot
