// Pages of 64 keys and values in bf16 and q8. A bf16 page of keys is a packed matrix [64, E], one of values [E, 64]:
// panels of 16 outputs, pairs along what is summed; E is padded to a multiple of 32 (F). q8 has the same order within
// its units, int8 with one bf16 scale for 32 elements of a key or value, and is widened to bf16 before it is read.
//
//     bf16   keys [4, F/2, 16, 2]                               values [F/16, 32, 16, 2]
//     q8     keys [4, F/32] of 16 scales, int8 [16, 16, 2]      values [F/32] of 64 scales, int8 [2, 32, 16, 2]
#pragma once

#include "pairs.h"

namespace ingot::INGOT_ISA {

inline constexpr int64_t key_unit = 16 * 34;    // bytes of 32 elements of 16 keys: 34 a key
inline constexpr int64_t value_unit = 64 * 34;  // bytes of 32 elements of 64 values
inline constexpr int64_t key_panels = page_keys / lanes;

inline float widen(uint16_t x) { return __builtin_bit_cast(float, uint32_t(x) << 16); }
inline uint16_t high_half(float x) { return uint16_t(__builtin_bit_cast(uint32_t, x) >> 16); }

// The pages of one KV head of one page: where its keys or its values begin.
template <class T>
inline T* page_of(void* pool, const Attention& op, int64_t page, int64_t head) {
  const int64_t bytes = op.format == KvFormat::bf16 ? page_keys * padded_head(op.size) * 2
                                                    : page_keys * padded_head(op.size) / kv_group * 34;
  return reinterpret_cast<T*>(static_cast<uint8_t*>(pool) + (page * op.kv_heads + head) * bytes);
}

// A row of 32 floats as int8 and its scale: x / scale to nearest, |x| <= 127 since the scale is max|x| / 127 to 8 bits.
// A row with a NaN or an infinity has a scale of NaN, and reads as NaN.
inline uint16_t quantise_group(const float* x, int8_t* q) {
  int32_t most = 0;  // of the magnitudes' bits: a NaN is the greatest
  for (int i = 0; i < kv_group; ++i) {
    const int32_t size = __builtin_bit_cast(int32_t, x[i]) & 0x7fffffff;
    most = size > most ? size : most;
  }
  const bool finite = most < 0x7f800000;
  float scale[lanes];
  store(scale, to_bf16(all(__builtin_bit_cast(float, most)) / all(127.0f)));
  const bool some = finite && scale[0] > 0.0f;
  const float by = some ? scale[0] : 1.0f;
  const float magic = 12582912.0f;  // 1.5 * 2^23 leaves the nearest integer in the low bits
  for (int i = 0; i < kv_group; ++i) {
    const int32_t whole = __builtin_bit_cast(int32_t, x[i] / by + magic) - 0x4b400000;
    q[i] = int8_t(some ? whole : 0);
  }
  return finite ? high_half(scale[0]) : uint16_t(0x7fc0);
}

inline void keep_bf16(const Attention& op, const float* k, const float* v, int64_t page, int64_t head, int64_t row) {
  const int64_t size = padded_head(op.size);
  uint16_t* keys = page_of<uint16_t>(op.keys, op, page, head) + row / lanes * size * lanes + row % lanes * 2;
  uint16_t* values = page_of<uint16_t>(op.values, op, page, head) + row / 2 * lanes * 2 + row % 2;
  for (int64_t e = 0; e < size; e += lanes) {
    float key[lanes], value[lanes];
    store(key, to_bf16(load(k + e)));
    store(value, to_bf16(load(v + e)));
    for (int i = 0; i < lanes; ++i) keys[(e + i) / 2 * lanes * 2 + i % 2] = high_half(key[i]);
    for (int i = 0; i < lanes; ++i) values[e * page_keys + i * 2] = high_half(value[i]);
  }
}

inline void keep_q8(const Attention& op, const float* k, const float* v, int64_t page, int64_t head, int64_t row) {
  const int64_t groups = padded_head(op.size) / kv_group;
  uint8_t* keys = page_of<uint8_t>(op.keys, op, page, head) + row / lanes * groups * key_unit;
  uint8_t* values = page_of<uint8_t>(op.values, op, page, head);
  for (int64_t g = 0; g < groups; ++g, keys += key_unit, values += value_unit) {
    int8_t key[kv_group], value[kv_group];
    reinterpret_cast<uint16_t*>(keys)[row % lanes] = quantise_group(k + g * kv_group, key);
    reinterpret_cast<uint16_t*>(values)[row] = quantise_group(v + g * kv_group, value);
    int8_t* key_at = reinterpret_cast<int8_t*>(keys) + 2 * lanes + row % lanes * 2;
    int8_t* value_at = reinterpret_cast<int8_t*>(values) + 2 * page_keys + row / 2 * lanes * 2 + row % 2;
    for (int i = 0; i < kv_group; ++i) {
      key_at[i / 2 * lanes * 2 + i % 2] = key[i];
      value_at[i / lanes * page_keys * lanes + i % lanes * 2] = value[i];
    }
  }
}

// Tokens first .. first + count of a segment go to their pages. row: scratch of 2 padded_head(E) floats.
inline void store_rows(const Attention& op, int32_t segment, int64_t head, int64_t first, int64_t count, float* row) {
  const int64_t size = padded_head(op.size);
  float *k = row, *v = row + size;
  for (int64_t e = 0; e < 2 * size; ++e) row[e] = 0.0f;
  for (int64_t t = first; t < first + count; ++t) {
    const int64_t from = ((op.seg.offset[segment] + t) * op.kv_heads + head) * op.size;
    const int64_t position = op.seg.start[segment] + t;
    const int64_t page = op.seg.pages[segment * op.seg.width + position / page_keys];
    for (int64_t e = 0; e < op.size; ++e) k[e] = op.k[from + e], v[e] = op.v[from + e];
    if (op.format == KvFormat::bf16) keep_bf16(op, k, v, page, head, position % page_keys);
    else keep_q8(op, k, v, page, head, position % page_keys);
  }
}

// int8 times scales, rounded to bf16: exact products of 15 bits, then ties to even. A scale of NaN stays one.
inline void widen_bytes(const int8_t* q, const float* scale, uint16_t* to) {
  for (int i = 0; i < 2 * lanes; ++i) {
    const uint32_t b = __builtin_bit_cast(uint32_t, float(q[i]) * scale[i]);
    to[i] = uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16);
  }
}

inline void widen_keys(const Attention& op, const uint8_t* from, int64_t seen, uint16_t* to) {
  const int64_t groups = padded_head(op.size) / kv_group;
  for (int64_t unit = 0; unit < (seen + lanes - 1) / lanes * groups; ++unit, from += key_unit) {
    float scale[2 * lanes];
    for (int i = 0; i < 2 * lanes; ++i) scale[i] = widen(reinterpret_cast<const uint16_t*>(from)[i / 2]);
    const int8_t* q = reinterpret_cast<const int8_t*>(from) + 2 * lanes;
    for (int pair = 0; pair < kv_group / 2; ++pair, to += 2 * lanes) widen_bytes(q + pair * 2 * lanes, scale, to);
  }
}

inline void widen_values(const Attention& op, const uint8_t* from, int64_t seen, uint16_t* to) {
  const int64_t pairs = (seen + 1) / 2;
  for (int64_t g = 0; g < padded_head(op.size) / kv_group; ++g, from += value_unit) {
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(from);
    for (int64_t half = 0; half < 2; ++half, to += page_keys * lanes) {
      const int8_t* q = reinterpret_cast<const int8_t*>(from) + 2 * page_keys + half * page_keys * lanes;
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const float even = widen(scales[2 * pair]), odd = widen(scales[2 * pair + 1]);
        float scale[2 * lanes];
        for (int i = 0; i < 2 * lanes; ++i) scale[i] = i % 2 ? odd : even;
        widen_bytes(q + pair * 2 * lanes, scale, to + pair * 2 * lanes);
      }
    }
  }
}

// Zeros for values seen .. 64, up to the end of the last block of 32 that is multiplied.
inline void hide_values(int64_t size, int64_t seen, uint16_t* values) {
  const int64_t end = (seen + group_inputs - 1) / group_inputs * group_inputs;
  for (int64_t panel = 0; panel < padded_head(size) / lanes; ++panel)
    for (int64_t key = seen; key < end; ++key)
      for (int64_t i = 0; i < lanes; ++i) values[(panel * page_keys / 2 + key / 2) * lanes * 2 + i * 2 + key % 2] = 0;
}

// Whether no value of keys from .. to is a NaN or an infinity.
inline bool finite_values(int64_t size, int64_t from, int64_t to, const uint16_t* values) {
  int bad = 0;
  for (int64_t panel = 0; panel < padded_head(size) / lanes; ++panel)
    for (int64_t i = from / 2 * lanes * 2; i < (to + 1) / 2 * lanes * 2; ++i)
      bad |= (values[panel * page_keys * lanes + i] & 0x7f80) == 0x7f80;
  return !bad;
}

// One block as bf16 panels. `copy` holds 2 * 64 * padded_head(E) and is where values are once they are changed or
// widened.
struct KvBlock {
  const uint16_t *keys, *values;
};

// The first `seen` keys of a page, the values behind them zero if `hide`.
inline KvBlock open_block(const Attention& op, int64_t page, int64_t head, int64_t seen, bool hide, uint16_t* copy) {
  const int64_t size = padded_head(op.size);
  uint16_t* values = copy + page_keys * size;
  if (op.format == KvFormat::q8) {
    widen_keys(op, page_of<uint8_t>(op.keys, op, page, head), seen, copy);
    widen_values(op, page_of<uint8_t>(op.values, op, page, head), seen, values);
    if (hide) hide_values(op.size, seen, values);
    return {copy, values};
  }
  const uint16_t *keys = page_of<uint16_t>(op.keys, op, page, head),
                 *from = page_of<uint16_t>(op.values, op, page, head);
  if (!hide) return {keys, from};
  const int64_t used = (seen + 1) / 2 * lanes * 2;
  for (int64_t panel = 0; panel < size / lanes; ++panel)
    for (int64_t i = 0; i < used; ++i) values[panel * page_keys * lanes + i] = from[panel * page_keys * lanes + i];
  hide_values(op.size, seen, values);
  return {keys, values};
}

}  // namespace ingot::INGOT_ISA
