// The products of pairs.h on matrix instructions (isa/amx.h).
#pragma once

namespace ingot::INGOT_ISA {

// Matrix instructions, configured while this lives: tiles 0 .. 3 are sums, 4 and 5 rows, 6 and 7 panels. All have 16
// rows; what is computed of rows that are not there is dropped.
class PairTiles {
  TileConfig config_;
  const Tiles tiles_;

  static const TileConfig& whole(TileConfig& config) {
    for (int n = 0; n < 8; ++n) config.tile(n, row_tile, 64);
    return config;
  }

 public:
  PairTiles() : tiles_(whole(config_)) {}
};

// Tiles 0 .. R C - 1: R tiles of rows by C panels.
template <int R, int C>
inline void pair_sums(const Left* a, int64_t stride, const uint16_t* w, int64_t panel, int64_t blocks) {
  tile_zero<0>();
  if constexpr (R * C > 1) tile_zero<1>();
  if constexpr (R * C > 2) tile_zero<2>(), tile_zero<3>();
  for (int64_t b = 0; b < blocks; ++b, a += group_inputs, w += group_inputs * lanes) {
    tile_load<4>(a, stride * 2);
    if constexpr (R > 1) tile_load<5>(a + row_tile * stride, stride * 2);
    tile_load<6>(w, 64);
    tile_dot_bf16<0, 4, 6>();
    if constexpr (R > 1) tile_dot_bf16<C, 5, 6>();
    if constexpr (C > 1) tile_load<7>(w + panel, 64), tile_dot_bf16<1, 4, 7>();
    if constexpr (C > 1 && R > 1) tile_dot_bf16<C + 1, 5, 7>();
    if constexpr (C > 2) {
      tile_load<6>(w + 2 * panel, 64), tile_dot_bf16<2, 4, 6>();
      tile_load<7>(w + 3 * panel, 64), tile_dot_bf16<3, 4, 7>();
    }
  }
}

template <int R, int C>
inline void pair_tile(const Left* a, int64_t stride, const uint16_t* w, int64_t panel, int64_t blocks,
                      const PairSums& sums, int64_t row, int64_t p) {
  pair_sums<R, C>(a + row * stride, stride, w + p * panel, panel, blocks);
  const int64_t apart = sums.stride * 4;
  tile_store<0>(sums.at(row, p), apart);
  if constexpr (C > 1) tile_store<1>(sums.at(row, p + 1), apart);
  if constexpr (C > 2) tile_store<2>(sums.at(row, p + 2), apart), tile_store<3>(sums.at(row, p + 3), apart);
  if constexpr (R > 1) tile_store<C>(sums.at(row + row_tile, p), apart);
  if constexpr (R > 1 && C > 1) tile_store<C + 1>(sums.at(row + row_tile, p + 1), apart);
}

inline void multiply_pairs(const Left* a, int64_t stride, int64_t rows, const uint16_t* w, int64_t panel,
                           int64_t panels, int64_t blocks, const PairSums& sums) {
  int64_t row = 0;
  for (; row + row_tile < rows; row += 2 * row_tile) {
    int64_t p = 0;
    for (; p + 2 <= panels; p += 2) pair_tile<2, 2>(a, stride, w, panel, blocks, sums, row, p);
    if (p < panels) pair_tile<2, 1>(a, stride, w, panel, blocks, sums, row, p);
  }
  if (row >= rows) return;
  int64_t p = 0;
  for (; p + 4 <= panels; p += 4) pair_tile<1, 4>(a, stride, w, panel, blocks, sums, row, p);
  for (; p < panels; ++p) pair_tile<1, 1>(a, stride, w, panel, blocks, sums, row, p);
}

}  // namespace ingot::INGOT_ISA
