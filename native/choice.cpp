#include "choice.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "environment.h"

namespace ingot {

namespace {

constexpr double unit = 0x1p42;           // of a weight, as in ops/choice.py
constexpr int64_t tile_blocks = 64;       // 4,096 scores in a tile (taste: a microsecond of reading)
constexpr int64_t piece = 1024;           // scores weighed at a time, on the stack
constexpr int64_t bins = 4096;            // of scores, best first; one of them is sorted, not the row (taste)
constexpr double smallest_weight = 30.0;  // e^-30 is less than half a unit: weight 0

using Ids = std::vector<int32_t>;

class Chooser {
 public:
  Chooser(const Choice& op, const Kernels& kernels, ThreadPool& pool)
      : op_(op), kernels_(kernels), pool_(pool), maxima_(size_t((op.count + choice_block - 1) / choice_block)) {}

  int64_t run() {
    if (!find_maxima()) return -1;
    const auto best = std::max_element(maxima_.begin(), maxima_.end());
    top_ = *best;
    if (op_.temperature == 0 || op_.top_k == 1) return first_of(best - maxima_.begin());
    rate_ = std::min(1 / op_.temperature, 0x1p1000);
    if (op_.top_k > 0 && op_.top_k < op_.count) return from_ids(best_ids());
    return truncates() ? from_bins() : from_all();
  }

  int64_t rank(int32_t* ids) {
    if (!find_maxima()) return -1;
    top_ = *std::max_element(maxima_.begin(), maxima_.end());
    rate_ = 1;
    Ids best = best_ids();
    sort_best_first(best);
    std::copy(best.begin(), best.end(), ids);
    const std::vector<int64_t> sums = tile_sums();
    return std::accumulate(sums.begin(), sums.end(), int64_t(0));
  }

 private:
  bool truncates() const { return op_.top_p < 1 || op_.min_p > 0; }
  bool better(int32_t a, int32_t b) const {
    return op_.scores[a] != op_.scores[b] ? op_.scores[a] > op_.scores[b] : a < b;
  }
  void sort_best_first(Ids& ids) const {
    std::sort(ids.begin(), ids.end(), [this](int32_t a, int32_t b) { return better(a, b); });
  }
  int64_t smallest_kept() const { return int64_t(std::ceil(op_.min_p * unit)); }
  int64_t reached(int64_t total) const {  // a token stays while those before it weigh less
    return op_.top_p < 1 ? int64_t(std::ceil(op_.top_p * double(total))) : total;
  }
  int64_t drawn(int64_t total) const { return int64_t(op_.u * double(total)); }

  // body(first, count, thread) for tiles of scores.
  template <class Body>
  void each_tile(const Body& body) {
    constexpr int64_t tile = tile_blocks * choice_block;
    pool_.run((op_.count + tile - 1) / tile,
              [&](int64_t t, int thread) { body(t * tile, std::min(tile, op_.count - t * tile), thread); });
  }

  bool find_maxima() {
    std::atomic<bool> numbers{true};
    each_tile([&](int64_t first, int64_t count, int) {
      if (!kernels_.block_maxima(op_.scores + first, count, maxima_.data() + first / choice_block)) numbers = false;
    });
    return numbers;
  }

  int64_t first_of(int64_t block) const {
    int64_t i = block * choice_block;
    while (op_.scores[i] != top_) ++i;
    return i;
  }

  // Ids whose score is `wanted`, ascending; blocks whose greatest score is not `reaching` are passed over.
  template <class Reaching, class Wanted>
  Ids ids_of(const Reaching& reaching, const Wanted& wanted) const {
    Ids ids;
    for (size_t b = 0; b < maxima_.size(); ++b) {
      if (!reaching(maxima_[b])) continue;
      const int64_t first = int64_t(b) * choice_block, end = std::min(first + choice_block, op_.count);
      for (int64_t i = first; i < end; ++i)
        if (wanted(op_.scores[i])) ids.push_back(int32_t(i));
    }
    return ids;
  }

  static float greatest(std::vector<float> values, size_t k) {
    std::nth_element(values.begin(), values.begin() + int64_t(k) - 1, values.end(), std::greater<>());
    return values[k - 1];
  }

  // The top_k best, in ascending order. The k-th greatest of the blocks' maxima is no greater than the k-th score.
  Ids best_ids() const {
    const size_t k = size_t(op_.top_k);
    const float edge = k <= maxima_.size() ? greatest(maxima_, k) : greatest({op_.scores, op_.scores + op_.count}, k);
    const auto reaches = [&](float score) { return score >= edge; };
    Ids ids = ids_of(reaches, reaches);
    std::nth_element(ids.begin(), ids.begin() + int64_t(k) - 1, ids.end(),
                     [this](int32_t a, int32_t b) { return better(a, b); });
    ids.resize(k);
    std::sort(ids.begin(), ids.end());
    return ids;
  }

  std::vector<int64_t> weights_of(const Ids& ids) const {
    std::vector<float> scores(ids.size());
    std::transform(ids.begin(), ids.end(), scores.begin(), [this](int32_t i) { return op_.scores[i]; });
    std::vector<int64_t> weights(ids.size());
    kernels_.weigh(scores.data(), int64_t(scores.size()), top_, rate_, weights.data());
    return weights;
  }

  int64_t from_ids(Ids ids) const {
    if (truncates()) sort_best_first(ids);
    const std::vector<int64_t> weights = weights_of(ids);
    const int64_t limit = reached(std::accumulate(weights.begin(), weights.end(), int64_t(0)));
    return ids[walk(weights, drawn(kept(weights, limit, smallest_kept())))];
  }

  // The sum of the weights that stay, best first.
  static int64_t kept(const std::vector<int64_t>& weights, int64_t limit, int64_t smallest) {
    int64_t total = 0;
    for (int64_t w : weights)
      if (total < limit && w >= smallest) total += w;
    return total;
  }

  // The first whose sum of weights exceeds `target`.
  static size_t walk(const std::vector<int64_t>& weights, int64_t target) {
    size_t i = 0;
    for (; target >= weights[i]; ++i) target -= weights[i];
    return i;
  }

  // visit(id, weight) for scores first .. first + count.
  template <class Visit>
  void weigh(int64_t first, int64_t count, const Visit& visit) const {
    int64_t weights[piece];
    for (int64_t i = 0; i < count; i += piece) {
      const int64_t n = std::min(piece, count - i);
      kernels_.weigh(op_.scores + first + i, n, top_, rate_, weights);
      for (int64_t j = 0; j < n; ++j) visit(first + i + j, weights[j]);
    }
  }

  std::vector<int64_t> tile_sums() {
    constexpr int64_t tile = tile_blocks * choice_block;
    std::vector<int64_t> sums(size_t((op_.count + tile - 1) / tile));
    each_tile([&](int64_t first, int64_t count, int) {
      int64_t sum = 0;
      weigh(first, count, [&](int64_t, int64_t w) { sum += w; });
      sums[size_t(first / tile)] = sum;
    });
    return sums;
  }

  // Every id stays, in ascending order: sums of tiles, then the tile of the draw once more.
  int64_t from_all() {
    constexpr int64_t tile = tile_blocks * choice_block;
    std::vector<int64_t> sums = tile_sums();
    int64_t target = drawn(std::accumulate(sums.begin(), sums.end(), int64_t(0))), id = -1;
    const size_t t = walk_down(sums, target);
    weigh(int64_t(t) * tile, std::min(tile, op_.count - int64_t(t) * tile), [&](int64_t i, int64_t w) {
      if (id < 0 && target < w) id = i;
      target -= w;
    });
    return id;
  }

  // As `walk`, and takes the sum before the place found from `target`.
  static size_t walk_down(const std::vector<int64_t>& sums, int64_t& target) {
    size_t i = 0;
    for (; target >= sums[i]; ++i) target -= sums[i];
    return i;
  }

  // Best first without sorting: weights are summed into bins of ascending distance from the best score, and only the
  // bins where the kept set ends and where the draw falls are sorted.
  int64_t from_bins() {
    std::vector<int64_t> sums(bins);
    int64_t target = drawn(kept_of_bins(sums));
    const size_t bin = walk_down(sums, target);
    const Ids ids = bin_ids(int64_t(bin));
    return ids[walk(weights_of(ids), target)];
  }

  int64_t bin_of(float score) const {
    return score == top_ ? 0 : int64_t(std::min((double(top_) - double(score)) * rate_ * bin_scale, double(bins - 1)));
  }
  static constexpr double bin_scale = double(bins) / smallest_weight;

  // Fills the bins with the weights of min_p's ids; returns the sum of those that stay.
  int64_t kept_of_bins(std::vector<int64_t>& sums) {
    const size_t threads = size_t(pool_.threads());
    const int64_t smallest = std::max<int64_t>(1, smallest_kept());
    std::vector<int64_t> parts(bins * threads), totals(8 * threads);  // a cache line of totals each
    each_tile([&](int64_t first, int64_t count, int thread) {
      int64_t* mine = parts.data() + thread * bins;
      int64_t total = 0;
      weigh(first, count, [&](int64_t i, int64_t w) {
        total += w;
        if (w >= smallest) mine[bin_of(op_.scores[i])] += w;
      });
      totals[size_t(8 * thread)] += total;
    });
    for (size_t i = 0; i < parts.size(); ++i) sums[i % bins] += parts[i];
    const int64_t limit = reached(std::accumulate(totals.begin(), totals.end(), int64_t(0)));
    int64_t before = 0;
    size_t bin = 0;
    while (bin < sums.size() && before + sums[bin] < limit) before += sums[bin++];
    if (bin == sums.size()) return before;
    return before + kept(weights_of(bin_ids(int64_t(bin))), limit - before, smallest);
  }

  Ids bin_ids(int64_t bin) const {
    const float least = least_of(bin), above = bin ? least_of(bin - 1) : std::numeric_limits<float>::infinity();
    const bool first = bin == 0;
    Ids ids = ids_of([&](float score) { return score >= least; },
                     [&](float score) { return (score >= least) & ((score < above) | first); });
    sort_best_first(ids);
    return ids;
  }

  // The least score of bin 0 .. bin, by halving the floats that are left.
  float least_of(int64_t bin) const {
    int32_t low = ordered(-std::numeric_limits<float>::infinity()), high = ordered(top_);
    while (low < high) {
      const int32_t middle = int32_t((int64_t(low) + high) >> 1);
      if (bin_of(std::bit_cast<float>(ordered(middle))) <= bin) high = middle;
      else low = middle + 1;
    }
    return std::bit_cast<float>(ordered(low));
  }

  // Integers in the order of the floats; its own inverse.
  static int32_t ordered(float x) { return ordered(std::bit_cast<int32_t>(x)); }
  static int32_t ordered(int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); }

  const Choice& op_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<float> maxima_;
  float top_ = 0;
  double rate_ = 0;
};

}  // namespace

int64_t chosen(const Choice& op, const Kernels& kernels, ThreadPool& pool) {
  const FloatEnvironment environment;
  return Chooser(op, kernels, pool).run();
}

int64_t ranked(const float* scores, int64_t count, int32_t* ids, int64_t best, const Kernels& kernels,
               ThreadPool& pool) {
  const FloatEnvironment environment;
  const Choice op{scores, count, 1, 1, 0, 0, best};
  return Chooser(op, kernels, pool).rank(ids);
}

}  // namespace ingot
