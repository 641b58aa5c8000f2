#include "context.h"

#include <algorithm>
#include <new>
#include <numeric>

namespace ingot {

namespace {

// Floats in one tile of an elementwise operation or of rows. Taste: some microseconds of work, so that one token's
// rows never leave the calling thread.
constexpr int64_t tile_floats = 16384;

// Weights that a thread asks for while it waits for the others: more stays in no second cache, less is read before the
// wait ends (64, 128 and 256 KiB measured: docs/why/decode-bandwidth.md).
constexpr int64_t ahead_bytes = 256 << 10;

int64_t tiles_of(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }

int64_t tokens_of(const Ragged& seg, int64_t s) { return seg.offset[s + 1] - seg.offset[s]; }

// Whether a run changes what its slot holds: its own tokens do, and accepted ones of the pass before.
bool has_work(const Ragged& seg, int64_t s) { return tokens_of(seg, s) + (seg.accepted ? seg.accepted[s] : 0) > 0; }

// body(first, count) over [0, total) in pieces of `tile`.
template <class Body>
void run_range(ThreadPool& pool, int64_t total, int64_t tile, const Body& body) {
  pool.run(tiles_of(total, tile), [&](int64_t t, int) { body(t * tile, std::min(tile, total - t * tile)); });
}

// The tiles of matrices that meet the same rows: rows by panels of one matrix.
class MatmulTiles {
 public:
  struct Tile {
    const Linear& op;
    int64_t row, rows, panel, panels;
  };

  // Few rows wait for the weights, and long runs of them are read fastest; but threads must end together.
  MatmulTiles(const std::vector<Linear>& ops, int threads) : ops_(ops), row_tiles_(tiles_of(ops[0].rows, linear_rows)) {
    int64_t bytes = 0;
    for (const Linear& op : ops) bytes += tiles_of(op.outputs, lanes) * panel_bytes(op.format, op.inputs);
    bytes = ops[0].rows > row_tile ? 0 : std::clamp(bytes / (4 * threads), linear_bytes, 16 * linear_bytes);
    for (const Linear& op : ops) {
      panels_.push_back(round_up(std::max<int64_t>(bytes / panel_bytes(op.format, op.inputs), 1), linear_panels));
      first_.push_back(first_.back() + row_tiles_ * tiles_of(tiles_of(op.outputs, lanes), panels_.back()));
    }
  }

  int64_t count() const { return first_.back(); }

  Tile at(int64_t tile) const {
    const size_t i = size_t(std::upper_bound(first_.begin(), first_.end(), tile) - first_.begin()) - 1;
    const Linear& op = ops_[i];
    const int64_t panel = (tile - first_[i]) / row_tiles_ * panels_[i],
                  row = (tile - first_[i]) % row_tiles_ * linear_rows;
    return {op, row, std::min<int64_t>(linear_rows, op.rows - row), panel,
            std::min(panels_[i], tiles_of(op.outputs, lanes) - panel)};
  }

 private:
  const std::vector<Linear>& ops_;
  int64_t row_tiles_;
  std::vector<int64_t> first_{0}, panels_;  // first tile of every matrix; panels of its tiles
};

// Groups of 32 inputs in a rounded row, padding too: integers come in blocks of two.
int64_t rounded_groups(const Linear& op) {
  return round_up(op.inputs, op.format == Format::bf16 ? group_inputs : 2 * group_inputs) / group_inputs;
}

// The rounded rows of x in `memory`.
Rounded rounded_arrays(const Linear& op, uint8_t* memory) {
  const int64_t groups = rounded_groups(op), count = round_up(op.rows, row_tile) * groups;
  if (op.format == Format::bf16) return {memory, nullptr, nullptr, groups};
  float* scale = reinterpret_cast<float*>(memory + count * group_inputs);
  return {memory, scale, reinterpret_cast<int32_t*>(scale + count), groups};
}

// Floats that runs of attention may leave to be combined: 8 MB, decoding over 262,144 keys at 16 query heads (taste).
constexpr int64_t part_floats = int64_t(1) << 21;

}  // namespace

// Scratch of every thread of one operation, each part on its own cache lines.
class Scratch {
 public:
  Scratch(int threads, int64_t floats) : stride_((floats + lanes - 1) / lanes * lanes) {
    data_ = static_cast<float*>(::operator new(sizeof(float) * size_t(stride_ * threads), std::align_val_t(64)));
  }
  ~Scratch() { ::operator delete(data_, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* of(int thread) const { return data_ + thread * stride_; }

 private:
  int64_t stride_;
  float* data_;
};

uint8_t* Context::Workspace::reserve(int64_t bytes) {
  if (bytes > size) {
    memory.reset();
    memory.reset(new uint8_t[size_t(bytes) + 64]);
    size = bytes;
  }
  return memory.get() + (-reinterpret_cast<uintptr_t>(memory.get()) & 63);
}

void Context::pack(const Unpacked& from, Format format, uint8_t* to) {
  const int64_t size = panel_bytes(format, from.inputs);
  const bool integers = format == Format::q8 || format == Format::q4;
  pool_.run(tiles_of(from.outputs, lanes), [&](int64_t p, int) {
    if (integers) kernels_.quantise(from, p, format, to + p * size);
    else pack_panel(from, p, format, to + p * size);
  });
}

// Rounds x once for all matrices of one kind. The first op of the kind carries the arrays; the others borrow them.
void Context::round_rows(std::vector<Linear>& ops, bool bf16, uint8_t* memory) {
  Linear* first = nullptr;
  for (Linear& op : ops) {
    if (op.format == Format::f32 || (op.format == Format::bf16) != bf16) continue;
    if (!first) {
      first = &op;
      op.rounded = rounded_arrays(op, memory);
      run_range(pool_, tiles_of(op.rows, row_tile), 1, [&](int64_t tile, int64_t) { kernels_.round_rows(op, tile); });
    }
    op.rounded = first->rounded;
  }
}

int64_t Context::rounded_bytes(const Linear& op) const {
  if (op.format == Format::f32) return 0;
  const int64_t group = op.format == Format::bf16 ? group_inputs * kernels_.bf16_bytes : group_inputs + 8;
  return round_up(op.rows, row_tile) * rounded_groups(op) * group;
}

void Context::linears(std::vector<Linear> ops) {
  if (ops.empty() || ops[0].rows == 0) return;
  const int64_t rows = ops[0].rows;
  int64_t integers = 0, bf16 = 0;
  for (const Linear& op : ops) {
    int64_t& bytes = op.format == Format::bf16 ? bf16 : integers;
    bytes = std::max(bytes, rounded_bytes(op));
  }
  const int64_t scratch = round_up(linear_scratch(ops[0].inputs), 64);
  const std::lock_guard turn(workspace_.turn);
  uint8_t* memory = workspace_.reserve(integers + bf16 + scratch * threads());
  round_rows(ops, false, memory + scratch * threads());
  round_rows(ops, true, memory + scratch * threads() + integers);

  const MatmulTiles tiles(ops, threads());
  const auto body = [&](int64_t t, int thread) {
    const MatmulTiles::Tile tile = tiles.at(t);
    kernels_.linear(tile.op, tile.row, tile.rows, tile.panel, tile.panels, memory + thread * scratch);
  };
  if (rows > row_tile || tiles.count() == 0) return pool_.run(tiles.count(), body);
  std::vector<Ahead> begins;
  for (int thread = 0; thread < threads(); ++thread) {
    const MatmulTiles::Tile tile = tiles.at(std::min(pool_.first_tile(tiles.count(), thread), tiles.count() - 1));
    const int64_t size = panel_bytes(tile.op.format, tile.op.inputs);
    const uint8_t* at = tile.op.weight + tile.panel * size;
    begins.push_back({at, at + std::min(tile.panels * size, ahead_bytes)});
  }
  pool_.run(tiles.count(), body, followers_.after(ops[0].weight, std::move(begins)));
}

// What followed `weight` the last time. `begins`, where the threads begin with it, follows the call before this one.
const std::vector<Ahead>& Context::Followers::after(const uint8_t* weight, std::vector<Ahead> begins) {
  if (last) of[last] = std::move(begins);
  last = weight;
  return of[weight];
}

void Context::rows(const Norm& op, void (*kernel)(const Norm&, int64_t, int64_t)) {
  run_range(pool_, op.rows, std::max<int64_t>(1, tile_floats / op.size),
            [&](int64_t first, int64_t count) { kernel(op, first, count); });
}

void Context::elements(const Elementwise& op, void (*kernel)(const Elementwise&, int64_t, int64_t)) {
  run_range(pool_, op.rows, std::max<int64_t>(1, tile_floats / op.size),
            [&](int64_t first, int64_t count) { kernel(op, first, count); });
}

void Context::add(const float* a, const float* b, float* y, int64_t count) {
  run_range(pool_, count, tile_floats, [&](int64_t first, int64_t some) {
    for (int64_t i = first; i < first + some; ++i) y[i] = a[i] + b[i];
  });
}

uint64_t Context::read_memory(const uint8_t* data, int64_t size) {
  const int64_t tiles = (size + read_tile - 1) / read_tile;
  std::vector<uint64_t> sums(static_cast<size_t>(tiles));
  pool_.run(tiles, [&](int64_t tile, int) {
    const int64_t first = tile * read_tile;
    sums[static_cast<size_t>(tile)] = sum_words(data + first, std::min(read_tile, size - first));
  });
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0});
}

void Context::rotary(const Rotary& op) {
  run_range(pool_, op.tokens, std::max<int64_t>(1, 2048 / op.pairs),
            [&](int64_t first, int64_t count) { fill_rotary(op, first, count); });
}

void Context::rope(const Rope& q, const Rope& k, int64_t tokens) {
  const int64_t tile = std::max<int64_t>(1, tile_floats / ((q.heads + k.heads) * q.size));
  run_range(pool_, tokens, tile, [&](int64_t first, int64_t count) {
    kernels_.rope(q, first, count);
    kernels_.rope(k, first, count);
  });
}

void Context::delta_gates(const DeltaGates& op, int64_t tokens) {
  run_range(pool_, tokens, std::max<int64_t>(1, tile_floats / op.heads),
            [&](int64_t first, int64_t count) { kernels_.delta_gates(op, first, count); });
}

void Context::causal_conv1d(const Conv& op) {
  std::vector<Tile> tiles;
  for (int64_t s = 0; s < op.seg.count; ++s)
    for (int t = 0; t < tokens_of(op.seg, s); t += conv_tokens)
      for (int group = 0; group < tiles_of(op.channels, conv_channels); ++group)
        tiles.push_back({int32_t(s), group, t, std::min(conv_tokens, int(tokens_of(op.seg, s)) - t)});
  const Scratch scratch(threads(), conv_channels * op.width);
  pool_.run(int64_t(tiles.size()),
            [&](int64_t t, int thread) { kernels_.causal_conv1d(op, tiles[size_t(t)], scratch.of(thread)); });
  if (op.tail) pool_.run(op.seg.count, [&](int64_t s, int) { kernels_.keep_tail(op, s); });
}

void Context::gated_delta_rule(const DeltaRule& op) {
  const int strips = int(tiles_of(op.value_dim, lanes));
  std::vector<Tile> tiles;
  for (int64_t s = 0; s < op.seg.count; ++s)
    for (int h = 0; has_work(op.seg, s) && h < op.heads; ++h)
      for (int strip = 0; strip < strips; strip += kernels_.delta_strips)
        tiles.push_back({int32_t(s), h, strip, std::min(kernels_.delta_strips, strips - strip)});
  const Scratch scratch(threads(), kernels_.delta_strips * op.key_dim * lanes);
  pool_.run(int64_t(tiles.size()),
            [&](int64_t t, int thread) { kernels_.gated_delta_rule(op, tiles[size_t(t)], scratch.of(thread)); });
  if (op.drafts.rows) pool_.run(op.seg.count, [&](int64_t s, int) { kernels_.keep_drafts(op, s); });
}

void Context::delta_mixer(const DeltaMixer& op) {
  const Ragged& seg = op.conv.seg;
  const Scratch scratch(threads(), delta_mixer_scratch(op));
  pool_.run(seg.count * op.key_heads, [&](int64_t t, int thread) {
    const int32_t segment = int32_t(t / op.key_heads), head = int32_t(t % op.key_heads);
    if (has_work(seg, segment)) kernels_.delta_mixer(op, {segment, head, 0, 0}, scratch.of(thread));
  });
}

void Context::attention(const Attention& op) {
  const bool pairs = op.format != KvFormat::f32;
  const int group = int(op.heads / op.kv_heads), step = std::max(1, (pairs ? pair_rows : attention_rows) / group);
  std::vector<Tile> writes, reads;
  int most = 0;        // tokens of a tile
  bool alone = pairs;  // every tile has all of its segment's tokens, and can store their keys itself
  for (int64_t s = 0; s < op.seg.count; ++s) {
    const int tokens = int(tokens_of(op.seg, s)), start = op.seg.start[s];
    most = std::max(most, std::min(step, tokens));
    alone &= tokens <= step;
    for (int head = 0; head < op.kv_heads; ++head) {
      for (int t = 0, count; t < tokens; t += count) {
        count = std::min(tokens - t, page_keys - (start + t) % page_keys);
        writes.push_back({int32_t(s), head, t, count});
      }
      for (int t = 0; t < tokens; t += step) reads.push_back({int32_t(s), head, t, std::min(step, tokens - t)});
    }
  }
  const int64_t rows = int64_t(most) * group;
  const Scratch scratch(threads(), pairs ? attention_pairs_scratch(rows, op.size) : attention_scratch(rows, op.size));
  if (!alone)
    pool_.run(int64_t(writes.size()),
              [&](int64_t t, int thread) { kernels_.store_keys(op, writes[size_t(t)], scratch.of(thread)); });
  if (pairs && attend_in_parts(op, reads, alone, scratch)) return;
  pool_.run(int64_t(reads.size()), [&](int64_t t, int thread) {
    if (pairs) kernels_.attention_pairs(op, reads[size_t(t)], alone, scratch.of(thread));
    else kernels_.attention(op, reads[size_t(t)], scratch.of(thread));
  });
}

// Every run of blocks as a tile of its own, where the tiles are too few for the threads to share evenly and what the
// runs leave behind is not too much. The same bits either way. False: nothing was done.
bool Context::attend_in_parts(const Attention& op, const std::vector<Tile>& tiles, bool stores,
                              const Scratch& scratch) {
  if (int64_t(tiles.size()) >= 4 * threads()) return false;
  struct Part {
    size_t tile;
    int64_t run, at;
  };
  std::vector<Part> parts;
  int64_t floats = 0;
  for (size_t t = 0; t < tiles.size(); ++t) {
    const Tile& tile = tiles[t];
    const int64_t last = op.causal ? tile.first + tile.count : tokens_of(op.seg, tile.segment);
    const int64_t size = attention_part_floats(tile.count * (op.heads / op.kv_heads), op.size);
    for (int64_t run = 0; run < tiles_of(op.seg.start[tile.segment] + last, run_blocks * page_keys); ++run) {
      parts.push_back({t, run, floats});
      floats += size;
    }
  }
  if (parts.size() == tiles.size() || floats > part_floats) return false;
  const Scratch left(1, floats);
  pool_.run(int64_t(parts.size()), [&](int64_t p, int thread) {
    const Part& part = parts[size_t(p)];
    kernels_.attention_part(op, tiles[part.tile], stores, part.run, left.of(0) + part.at, scratch.of(thread));
  });
  std::vector<Part> first;
  for (const Part& part : parts)
    if (part.run == 0) first.push_back(part);
  pool_.run(int64_t(first.size()), [&](int64_t p, int) {
    kernels_.combine_parts(op, tiles[first[size_t(p)].tile], left.of(0) + first[size_t(p)].at);
  });
  return true;
}

}  // namespace ingot
