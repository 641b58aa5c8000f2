// Depthwise causal convolution and SiLU, channel by channel: c[t] = silu(sum_j w[j] u[t - (W - 1) + j]).
#pragma once

#include "rows.h"

namespace ingot::INGOT_ISA {

// Rows before the segment: the tail keeps the last W - 1 rows of u; a segment that starts at 0 has zeros there.
struct ConvHistory {
  const float* u;     // row 0 of the segment, at this tile's first channel
  const float* tail;  // or null
  const float* zeros;
  int64_t channels, width;

  const float* row(int64_t t) const {
    if (t >= 0) return u + t * channels;
    return tail ? tail + (t + width - 1) * channels : zeros;
  }
};

// [channels][W] to [channels / 16][W][16].
inline void spread_taps(const float* weight, int64_t width, int64_t channels, float* taps) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t j = 0; j < width; ++j) taps[(c / lanes * width + j) * lanes + c % lanes] = weight[c * width + j];
}

inline void conv_token(const float* const* rows, const float* taps, int64_t width, int64_t channels, float* y) {
  each_vector(channels, [&](int64_t c, int n) {
    V sum = zero();
    for (int64_t j = 0; j < width; ++j) sum = fma(load(taps + c * width + j * lanes), load_part(rows[j] + c, n), sum);
    store_part(y + c, silu(sum), n);
  });
}

// New tail row r is row T - (W - 1) + r. Ascending r only reads tail rows that are still old.
inline void keep_tail(const ConvHistory& past, int64_t tokens, int64_t channels, float* tail) {
  for (int64_t r = 0; r < past.width - 1; ++r) {
    const float* from = past.row(tokens - (past.width - 1) + r);
    float* to = tail + r * past.channels;
    for (int64_t c = 0; c < channels; ++c) to[c] = from[c];
  }
}

inline void causal_conv1d(const Conv& op, int64_t segment, int64_t channel, int64_t channels) {
  alignas(64) float taps[conv_channels * conv_max_width];
  alignas(64) float zeros[conv_channels];
  for (int64_t c = 0; c < conv_channels * op.width; ++c) taps[c] = 0.0f;
  for (float& z : zeros) z = 0.0f;
  spread_taps(op.weight + channel * op.width, op.width, channels, taps);

  const int64_t first = op.seg.offset[segment], tokens = op.seg.offset[segment + 1] - first;
  const int32_t slot = op.seg.slot[segment];
  float* tail = op.tail && slot >= 0 ? op.tail + slot * (op.width - 1) * op.channels + channel : nullptr;
  const bool fresh = op.seg.start[segment] == 0;
  const ConvHistory past{op.u + first * op.channels + channel, fresh ? nullptr : tail, zeros, op.channels, op.width};

  const float* rows[conv_max_width];
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t j = 0; j < op.width; ++j) rows[j] = past.row(t - (op.width - 1) + j);
    conv_token(rows, taps, op.width, channels, op.y + (first + t) * op.channels + channel);
  }
  if (tail && tokens > 0) keep_tail(past, tokens, channels, tail);
}

}  // namespace ingot::INGOT_ISA
