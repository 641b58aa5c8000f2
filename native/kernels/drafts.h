// A run of which only the first tokens are certain. Before its own tokens the state takes the accepted ones of the last
// pass, from their window; after `commit` of its own it stays as it is, and the others go to the window.
#pragma once

#include "rows.h"

namespace ingot::INGOT_ISA {

struct Span {
  int64_t tokens, accepted, commit;
  float* rows;  // of its window, or null
  int64_t width;

  bool empty() const { return tokens + accepted == 0; }
  float* draft(int64_t row) const { return rows + row * width; }
};

inline Span span_of(const Drafts& drafts, const Ragged& seg, int64_t segment) {
  const int64_t tokens = seg.offset[segment + 1] - seg.offset[segment];
  const int64_t window = drafts.rows && seg.window ? seg.window[segment] : -1;
  if (window < 0) return {tokens, 0, tokens, nullptr, 0};
  return {tokens, seg.accepted ? seg.accepted[segment] : 0, seg.commit ? seg.commit[segment] : tokens,
          drafts.rows + window * drafts.length * drafts.width, drafts.width};
}

// Where the parts of a row are that the delta rule needs.
struct DraftParts {
  int64_t k, v, decay, beta;
};

template <class Op>
DraftParts draft_parts(const Op& op, const Drafts& drafts) {
  const int64_t beta = drafts.width - op.heads, decay = beta - op.heads, v = decay - op.heads * op.value_dim;
  return {v - op.key_heads * op.key_dim, v, decay, beta};
}

inline void copy_row(const float* from, int64_t size, float* to) {
  each_vector(size, [&](int64_t i, int n) { store_part(to + i, load_part(from + i, n), n); });
}

}  // namespace ingot::INGOT_ISA
