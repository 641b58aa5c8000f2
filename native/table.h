// What crosses the border between the host code and one instruction set: argument structs and a table of function
// pointers. Plain data only, and no standard library: this header is seen by translation units compiled with
// different instruction sets, and an inline function shared between them could run AVX-512 on a machine without it.
//
// T tokens, D hidden, I inputs, O outputs; attention H query heads, G KV heads, E head dim; delta net H value heads,
// G key heads, K key dim, V value dim; C conv channels, W conv width; S segments, P pages a segment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ingot {

inline constexpr int lanes = 16;            // floats in one vector, on every instruction set
inline constexpr int page_keys = 64;        // keys in a page, and in a block of the softmax
inline constexpr int conv_channels = 1024;  // channels in one convolution tile: a memory page of a token's row
inline constexpr int conv_tokens = 16;      // tokens in one convolution tile: its weights are spread once for them
inline constexpr int conv_max_width = 16;   // taps: bounds the tile's buffer of weights
inline constexpr int linear_panels = 4;     // panels of 16 outputs in one matmul tile
inline constexpr int linear_rows = 240;     // rows in one matmul tile: a multiple of every register tile
inline constexpr int attention_rows = 64;   // (token, head) rows in one attention tile
inline constexpr int choice_block = 64;     // scores of which one maximum is kept

enum class Format : int { f32, bf16 };

// Where the tokens of every segment are, as in Python's Segments. Borrowed host arrays.
struct Ragged {
  const int32_t* offset;  // [S + 1]
  const int32_t* start;   // [S]
  const int32_t* slot;    // [S]
  const int32_t* pages;   // [S, P]
  int64_t count;          // S
  int64_t width;          // P
};

// A piece of one segment's work: tokens first .. first + count (inside the segment), for one head.
struct Tile {
  int32_t segment, head, first, count;
};

struct Linear {
  const float* x;      // [T, I]
  const void* weight;  // f32 [O/16, I, 16]; bf16 [O/16, I/2, 16, 2]: pairs along I share 32 bits
  float* y;            // [T, O]
  int64_t rows, inputs, outputs;
  Format format;
};

// Rows of floats inside a larger array, as a slice of the last axis of a reshaped one is: row r belongs to token
// r / heads. A row itself is contiguous.
struct Rows {
  const float* data;
  int64_t heads, token_stride, head_stride;
};

struct Norm {
  Rows x, gate;         // [rows, size]; gate only where there is one
  const float* weight;  // [size] or null
  float* y;             // contiguous
  int64_t rows, size;
  float eps, scale;
  bool one_plus;
};

struct Elementwise {
  Rows a, b;  // [rows, size]; b only where there are two
  float* y;
  int64_t rows, size;
};

struct Rope {
  const float *x, *cos, *sin;  // [T, H, E], [T, N], [T, N]
  float* y;
  int64_t heads, size, pairs;
};

struct DeltaGates {
  const float *a, *b, *a_log, *dt_bias;  // [T, H], [T, H], [H], [H]
  float *log_decay, *beta;               // [T, H]
  int64_t heads;
};

struct Conv {
  const float *u, *weight;  // [T, C], [C, W]
  float *tail, *y;          // [slots, W - 1, C] or null, [T, C]
  int64_t channels, width;
  Ragged seg;
};

struct DeltaRule {
  const float *q, *k;             // [T, G, K]
  Rows v;                         // [T, H, V]
  const float *log_decay, *beta;  // [T, H]
  float *state, *o;               // [slots, H, V/16, K, 16] or null, [T, H, V]
  int64_t heads, key_heads, key_dim, value_dim;
  Ragged seg;
};

struct Attention {
  const float *q, *k, *v;  // [T, H, E], [T, G, E] twice
  float *keys, *values;    // [pages, G, E, 64], [pages, G, 64, E]
  float* o;                // [T, H, E]
  int64_t heads, kv_heads, size;
  bool causal;
  Ragged seg;
};

// The kernels of one instruction set. Every call computes one tile and writes nothing else, so tiles may run in any
// order on any thread; the result of an output never depends on the tile it falls in.
struct Kernels {
  const char* name;
  void (*linear)(const Linear&, int64_t row, int64_t rows, int64_t panel, int64_t panels);
  void (*rms_norm)(const Norm&, int64_t row, int64_t rows);
  void (*gated_rms_norm)(const Norm&, int64_t row, int64_t rows);
  void (*l2_norm)(const Norm&, int64_t row, int64_t rows);
  void (*silu_mul)(const Elementwise&, int64_t row, int64_t rows);
  void (*sigmoid_mul)(const Elementwise&, int64_t row, int64_t rows);
  void (*rope)(const Rope&, int64_t token, int64_t tokens);
  void (*delta_gates)(const DeltaGates&, int64_t token, int64_t tokens);
  // tile.head: a group of conv_channels channels. scratch: conv_channels * W floats.
  void (*causal_conv1d)(const Conv&, const Tile&, float* scratch);
  void (*keep_tail)(const Conv&, int64_t segment);
  // tile: head, and first = a strip of 16 values; `strips` says how many follow. scratch: strips * K * 16 floats.
  void (*gated_delta_rule)(const DeltaRule&, const Tile&, float* scratch);
  int delta_strips;  // strips a tile should take together: what the registers hold
  void (*store_keys)(const Attention&, const Tile&);
  void (*attention)(const Attention&, const Tile&, float* scratch);
  bool (*block_maxima)(const float* scores, int64_t count, float* maxima);
  void (*weigh)(const float* scores, int64_t count, float top, double rate, int64_t* weight);
  // functions of one variable, y[i] = f(x[i]); for tests
  void (*exp)(const Elementwise&, int64_t row, int64_t rows);
  void (*sigmoid)(const Elementwise&, int64_t row, int64_t rows);
  void (*softplus)(const Elementwise&, int64_t row, int64_t rows);
};

// Floats of scratch one attention tile of `tokens` tokens needs: q, o, scores, and four numbers a row.
constexpr int64_t attention_scratch(int64_t rows, int64_t size) {
  return rows * (2 * ((size + lanes - 1) / lanes * lanes) + page_keys + 4);
}

}  // namespace ingot
