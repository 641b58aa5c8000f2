// Depthwise causal convolution and SiLU, channel by channel: c[t] = silu(sum_j w[j] u[t - (W - 1) + j]).
#pragma once

#include "drafts.h"
#include "rows.h"

namespace ingot::INGOT_ISA {

// Rows before the segment: accepted drafts, and before them the tail, the last W - 1 rows of u that were committed; a
// segment that starts at 0 has zeros there.
struct ConvHistory {
  const float* u;     // row 0 of the segment
  const float* tail;  // or null: zeros
  int64_t channels, width;
  Span span;

  const float* row(int64_t t) const {
    if (t >= 0) return u + t * channels;
    if (t >= -span.accepted) return span.draft(t + span.accepted);
    return tail ? tail + (t + span.accepted + width - 1) * channels : nullptr;
  }
};

inline ConvHistory conv_history(const Conv& op, int32_t segment) {
  const float* u = op.u + op.seg.offset[segment] * op.channels;
  const int64_t slot = op.seg.slot[segment], size = (op.width - 1) * op.channels;
  const bool fresh = !op.tail || slot < 0 || op.seg.start[segment] == 0;
  return {u, fresh ? nullptr : op.tail + slot * size, op.channels, op.width, span_of(op.drafts, op.seg, segment)};
}

// Weights [channels][W] as [channels / 16][W][16].
inline void spread_taps(const float* weight, int64_t width, int64_t channels, float* taps) {
  for (int64_t c = 0; c < channels; c += lanes, weight += lanes * width) {
    const int64_t n = channels - c < lanes ? channels - c : lanes;
    for (int64_t j = 0; j < width; ++j, taps += lanes)
      for (int64_t lane = 0; lane < lanes; ++lane) taps[lane] = lane < n ? weight[lane * width + j] : 0.0f;
  }
}

// One token. W is the width when the compiler knows it, or 0. A null row is zeros.
template <int W>
inline void conv_token(const float* const* rows, const float* taps, int64_t width, int64_t channels, float* y) {
  const int64_t count = W > 0 ? W : width;
  each_vector(channels, [&](int64_t c, int n) {
    V sum = zero();
    for (int64_t j = 0; j < count; ++j) {
      const V u = W == 0 && !rows[j] ? zero() : load_part(rows[j] + c, n);
      sum = fma(load(taps + c * count + j * lanes), u, sum);
    }
    store_part(y + c, silu(sum), n);
  });
}

// The W rows of u that token t needs, from `channel` on; null where the past is zeros. Returns whether none is.
inline bool conv_rows(const ConvHistory& past, int64_t t, int64_t channel, const float** rows) {
  bool whole = true;
  for (int64_t j = 0; j < past.width; ++j) {
    const float* row = past.row(t - (past.width - 1) + j);
    rows[j] = row ? row + channel : nullptr;
    whole &= row != nullptr;
  }
  return whole;
}

// tile: tokens of one segment; head counts groups of conv_channels. taps: scratch of conv_channels * W floats.
inline void causal_conv1d(const Conv& op, const Tile& tile, float* taps) {
  const ConvHistory past = conv_history(op, tile.segment);
  const int64_t channel = int64_t(tile.head) * conv_channels, left = op.channels - channel;
  const int64_t channels = left < conv_channels ? left : conv_channels;
  spread_taps(op.weight + channel * op.width, op.width, channels, taps);
  const float* rows[conv_max_width];
  for (int64_t t = tile.first; t < tile.first + tile.count; ++t) {
    const bool whole = conv_rows(past, t, channel, rows);
    float* y = op.y + (op.seg.offset[tile.segment] + t) * op.channels + channel;
    if (op.width == 4 && whole) conv_token<4>(rows, taps, 4, channels, y);
    else conv_token<0>(rows, taps, op.width, channels, y);
  }
}

// The tail becomes the last W - 1 rows of the past and of the segment's committed u, and the window its other rows, for
// channels first .. first + count. Ascending r reads only tail rows that are still old. Runs after every convolution of
// the segment and its channels.
inline void keep_tail(const Conv& op, int64_t segment, int64_t first, int64_t count) {
  const ConvHistory past = conv_history(op, int32_t(segment));
  const Span& span = past.span;
  const int64_t slot = op.seg.slot[segment];
  if (!op.tail || slot < 0 || span.empty()) return;
  for (int64_t r = 0; r < op.width - 1; ++r) {
    const float* from = past.row(span.commit - (op.width - 1) + r);
    float* to = op.tail + (slot * (op.width - 1) + r) * op.channels;
    each_vector(count, [&](int64_t c, int n) {
      store_part(to + first + c, from ? load_part(from + first + c, n) : zero(), n);
    });
  }
  for (int64_t t = span.commit; t < span.tokens; ++t)
    copy_row(past.row(t) + first, count, span.draft(t - span.commit) + first);
}

inline void keep_tails(const Conv& op, int64_t segment) { keep_tail(op, segment, 0, op.channels); }

}  // namespace ingot::INGOT_ISA
