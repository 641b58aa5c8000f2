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

inline constexpr int lanes = 16;                // floats in one vector, on every instruction set
inline constexpr int page_keys = 64;            // keys in a page, and in a block of the softmax
inline constexpr int conv_channels = 1024;      // channels in one convolution tile: a memory page of a token's row
inline constexpr int conv_tokens = 16;          // tokens in one convolution tile: its weights are spread once for them
inline constexpr int conv_max_width = 16;       // taps: bounds the tile's buffer of weights
inline constexpr int delta_block = 64;          // tokens whose gates, or rows in the fused mixer, are ready at a time
inline constexpr int draft_length = 32;         // uncertain tokens of a run at most: half of such a block
inline constexpr int linear_panels = 4;         // panels of 16 outputs in one matmul tile of many rows
inline constexpr int linear_rows = 512;         // rows in one matmul tile
inline constexpr int64_t linear_bytes = 65536;  // weights in a matmul tile of few rows, at least
inline constexpr int row_tile = 16;             // rows that are rounded together, and that a matrix instruction takes
inline constexpr int group_inputs = 32;         // inputs that share a scale, and that bf16 sums by themselves
inline constexpr int attention_rows = 64;       // (token, head) rows in one attention tile
inline constexpr int pair_rows = 256;    // the same for keys and values in bf16 and q8: widened once for all of them
inline constexpr int pair_slice = 32;    // of these, rows whose scores stay in L1
inline constexpr int run_blocks = 16;    // blocks of 64 keys that are combined before the runs are
inline constexpr int kv_group = 32;      // elements of a key or value in q8 that share a scale
inline constexpr int choice_block = 64;  // scores of which one maximum is kept

enum class Format : int { f32, bf16, q8, q4 };
enum class KvFormat : int { f32, bf16, q8 };
inline constexpr int formats = 4;

// The values of the 4-bit format, in units of its group's scale. Lloyd's algorithm over groups of 32 normal and
// t-distributed numbers and a trained model's weights, each under its best scale: bench/quantisation.py.
inline constexpr int8_t codebook[16] = {-127, -98, -76, -59, -45, -31, -19, -8, 2, 12, 22, 34, 47, 62, 80, 104};

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Bytes of one panel: 16 outputs of packed weights.
//   f32   [I, 16]
//   bf16  [I/2, 16, 2]: pairs along I share 32 bits; I is padded to 32
//   q8    blocks of 64 inputs: bf16 scales [2, 16], then two groups of int8 [8, 16, 4]; I is padded to 64
//   q4    the same with groups of [4, 16, 4] bytes: row j of q8 in the low nibbles, row j + 4 in the high ones
inline constexpr int64_t scale_bytes = 64, q8_group = 512, q4_group = 256;
constexpr int64_t block_bytes(Format format) { return scale_bytes + 2 * (format == Format::q8 ? q8_group : q4_group); }
constexpr int64_t panel_bytes(Format format, int64_t inputs) {
  if (format == Format::f32) return 4 * lanes * inputs;
  if (format == Format::bf16) return 2 * lanes * round_up(inputs, 32);
  return round_up(inputs, 64) / 64 * block_bytes(format);
}

// Where the tokens of every segment are, as in Python's Segments. Borrowed host arrays.
struct Ragged {
  const int32_t* offset;                      // [S + 1]
  const int32_t* start;                       // [S]
  const int32_t* slot;                        // [S]
  const int32_t* pages;                       // [S, P]
  int64_t count;                              // S
  int64_t width;                              // P
  const int32_t *window, *accepted, *commit;  // [S]; null: no drafts, and every token is written to the state
};

// Tokens that a state has not taken, windows [N, L, R] of rows: u [C], k [G, K], v [H, V], decay [H], beta [H].
struct Drafts {
  float* rows;  // or null
  int64_t length, width;
};

// A piece of one segment's work: tokens first .. first + count (inside the segment), for one head.
struct Tile {
  int32_t segment, head, first, count;
};

// Rows of x as the kernels of bf16, q8 and q4 read them: tiles of 16 rows by groups of 32 inputs, [T/16, G, 16, 32].
// bf16 weights meet values rounded to bf16 (held as the instruction set likes), q8 and q4 meet int8 with one scale a
// group. Padding inputs are zeros; padding rows are anything.
struct Rounded {
  void* values;
  float* scale;    // [T/16, G, 16]
  int32_t* total;  // [T/16, G, 16]: the sum of a group's int8
  int64_t groups;
};

struct Linear {
  const float* x;     // [T, I]
  const float* gate;  // null; or [T, I], and silu(gate) * x takes the place of x (not for f32 weights)
  Rounded rounded;
  const uint8_t* weight;  // [O/16, panel_bytes]
  float* y;               // [T, O]
  int64_t rows, inputs, outputs;
  Format format;
};

// A matrix [O, I] as a checkpoint stores it: rows of f32 or of bf16 bit patterns.
struct Unpacked {
  const void* data;
  int64_t outputs, inputs;
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
  const float* bias;    // [size]; of layer_norm
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
  Drafts drafts;
  int64_t channels, width;
  Ragged seg;
};

struct DeltaRule {
  const float *q, *k;             // [T, G, K]
  Rows v;                         // [T, H, V]
  const float *log_decay, *beta;  // [T, H]
  float *state, *o;               // [slots, H, V/16, K, 16] or null, [T, H, V]
  Drafts drafts;
  int64_t heads, key_heads, key_dim, value_dim;
  Ragged seg;
};

// A linear-attention layer between its matrices. Taps are the convolution's weights with lanes last.
struct DeltaMixer {
  Conv conv;                              // u, tail, drafts, sizes and segments; no weight, no y
  const float *q_taps, *k_taps, *v_taps;  // [G, K/16, W, 16] twice, [H, V/16, W, 16]
  const float *z, *b, *a;                 // [T, H, V], [T, H] twice
  const float *a_log, *dt_bias, *norm;    // [H], [H], [V]
  float *state, *y;                       // [slots, H, V/16, K, 16] or null, [T, H, V]
  int64_t heads, key_heads, key_dim, value_dim;
  float key_scale, key_eps, norm_eps;
};

struct Attention {
  const float *q, *k, *v;  // [T, H, E], [T, G, E] twice
  void *keys, *values;     // f32: [pages, G, E, 64], [pages, G, 64, E]; bf16, q8: kernels/kv_pages.h
  float* o;                // [T, H, E]
  int64_t heads, kv_heads, size;
  KvFormat format;
  bool causal;
  Ragged seg;
};

// The kernels of one instruction set. Every call computes one tile and writes nothing else, so tiles may run in any
// order on any thread; the result of an output never depends on the tile it falls in.
struct Kernels {
  const char* name;
  void (*round_rows)(const Linear&, int64_t tile);  // 16 rows of x into op.rounded, as op.format needs them
  int bf16_bytes;                                   // of one rounded value, for bf16 weights
  // scratch: linear_scratch(inputs) bytes
  void (*linear)(const Linear&, int64_t row, int64_t rows, int64_t panel, int64_t panels, void* scratch);
  void (*quantise)(const Unpacked&, int64_t panel, Format, uint8_t* to);  // to: the panel's own bytes
  void (*rms_norm)(const Norm&, int64_t row, int64_t rows);
  void (*layer_norm)(const Norm&, int64_t row, int64_t rows);
  void (*gated_rms_norm)(const Norm&, int64_t row, int64_t rows);
  void (*l2_norm)(const Norm&, int64_t row, int64_t rows);
  void (*silu_mul)(const Elementwise&, int64_t row, int64_t rows);
  void (*sigmoid_mul)(const Elementwise&, int64_t row, int64_t rows);
  void (*gelu_tanh)(const Elementwise&, int64_t row, int64_t rows);
  void (*gelu)(const Elementwise&, int64_t row, int64_t rows);
  void (*rope)(const Rope&, int64_t token, int64_t tokens);
  void (*delta_gates)(const DeltaGates&, int64_t token, int64_t tokens);
  // tile.head: a group of conv_channels channels. scratch: conv_channels * W floats.
  void (*causal_conv1d)(const Conv&, const Tile&, float* scratch);
  void (*keep_tail)(const Conv&, int64_t segment);
  // tile: head, and first = a strip of 16 values; `strips` says how many follow. scratch: strips * K * 16 floats.
  void (*gated_delta_rule)(const DeltaRule&, const Tile&, float* scratch);
  void (*keep_drafts)(const DeltaRule&, int64_t segment);
  // tile.head: a key head. scratch: delta_mixer_scratch.
  void (*delta_mixer)(const DeltaMixer&, const Tile&, float* scratch);
  int delta_strips;  // strips a tile should take together: what the registers hold
  void (*store_keys)(const Attention&, const Tile&, float* scratch);
  void (*attention)(const Attention&, const Tile&, float* scratch);  // f32
  // bf16 and q8: a tile, or one run of its blocks and later all of them. `stores`: its tokens' keys are not stored yet.
  void (*attention_pairs)(const Attention&, const Tile&, bool stores, float* scratch);
  void (*attention_part)(const Attention&, const Tile&, bool stores, int64_t run, float* part, float* scratch);
  void (*combine_parts)(const Attention&, const Tile&, float* parts);
  bool (*block_maxima)(const float* scores, int64_t count, float* maxima);
  void (*weigh)(const float* scores, int64_t count, float top, double rate, int64_t* weight);
  // functions of one variable, y[i] = f(x[i]); for tests
  void (*exp)(const Elementwise&, int64_t row, int64_t rows);
  void (*sigmoid)(const Elementwise&, int64_t row, int64_t rows);
  void (*softplus)(const Elementwise&, int64_t row, int64_t rows);
};

inline constexpr int chunk_groups = 32;  // groups between visits of a block of rows: 16 KiB of a panel in int8

// Bytes of scratch one matmul tile needs: a panel's groups or some panels' chunks spread to int8, and two tiles of
// sums.
constexpr int64_t linear_scratch(int64_t inputs) {
  const int64_t groups = round_up(inputs, 64) / group_inputs, chunks = linear_panels * chunk_groups;
  return (groups > chunks ? groups : chunks) * q8_group + 2 * row_tile * lanes * 4;
}

// Floats of scratch one tile of the fused mixer needs: a block of q, k, v rows and gates, and the states of its heads.
constexpr int64_t delta_mixer_scratch(const DeltaMixer& op) {
  const int64_t keys = (op.key_dim + lanes - 1) / lanes * lanes, values = (op.value_dim + lanes - 1) / lanes * lanes;
  return delta_block * (2 * keys + values + 2) + op.heads / op.key_heads * values * op.key_dim;
}

// Floats of scratch one attention tile of `tokens` tokens needs: q, o, scores, and four numbers a row.
constexpr int64_t attention_scratch(int64_t rows, int64_t size) {
  return rows * (2 * ((size + lanes - 1) / lanes * lanes) + page_keys + 4);
}

// The same for keys and values in bf16 and q8: the softmax of a run and of all, a slice's scores, probabilities and
// shares, one row to store, one block of keys and values, q with rows to spare for whole register tiles.
constexpr int64_t padded_head(int64_t size) { return round_up(size, kv_group); }
constexpr int64_t attention_part_floats(int64_t rows, int64_t size) {
  return round_up(rows * (padded_head(size) + 2), lanes);
}
constexpr int64_t attention_pairs_scratch(int64_t rows, int64_t size) {
  return 2 * attention_part_floats(rows, size) + 2 * pair_slice * (page_keys + 1) +
         (2 + page_keys + rows + lanes) * padded_head(size);
}

}  // namespace ingot
