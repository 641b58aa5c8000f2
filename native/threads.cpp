#include "threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

#include "environment.h"

namespace ingot {

namespace {

// Taste: longer than the Python code between two operations takes, shorter than anybody notices on a shared core.
constexpr auto spin_time = std::chrono::microseconds(50);

// How many times this process is the child of a fork: threads of an earlier generation do not exist here.
std::atomic<unsigned> generation{0};

void count_forks() {
#ifndef _WIN32
  static const int registered = pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });
  (void)registered;
#endif
}

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Asks for a few lines of it, for the second cache: false when there are none left. An address that is no longer
// memory does no harm.
bool ask_for(Ahead& ahead) {
  for (int line = 0; line < 4; ++line, ahead.at += 64) {
    if (ahead.at >= ahead.end) return false;
    __builtin_prefetch(ahead.at, 0, 2);
  }
  return true;
}

// Waits a little for done() without giving up the core, and uses the time for `ahead`. False: it took longer.
template <class Done>
bool spin_until(const Done& done, Ahead& ahead) {
  const auto end = std::chrono::steady_clock::now() + spin_time;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      if (!ask_for(ahead)) relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

// The tiles first .. end that one thread has before it, on a cache line of its own: it takes from the front, and a
// thread that has none left takes the back half. In one word, so that a tile belongs to one thread at any time; no
// range comes twice, because tiles that are taken do not return.
struct alignas(64) TileRange {
  std::atomic<uint64_t> span{0};

  static uint64_t pack(uint64_t first, uint64_t end) { return first << 32 | end; }

  void set(int64_t first, int64_t end) { span.store(pack(uint64_t(first), uint64_t(end))); }

  // The next tile, or -1.
  int64_t take() {
    uint64_t now = span.load(std::memory_order_relaxed);
    while (now >> 32 < (now & 0xffffffffu))
      if (span.compare_exchange_weak(now, now + pack(1, 0))) return int64_t(now >> 32);
    return -1;
  }

  // Moves the back half of `victim` here; false when it has nothing.
  bool steal(TileRange& victim) {
    uint64_t now = victim.span.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t first = now >> 32, end = now & 0xffffffffu, middle = first + (end - first) / 2;
      if (first >= end) return false;
      if (!victim.span.compare_exchange_weak(now, pack(first, middle))) continue;
      span.store(pack(middle, end));
      return true;
    }
  }
};

}  // namespace

struct ThreadPool::Shared {
  std::mutex entry;  // one operation at a time
  std::mutex mutex;  // sleeping and waking
  std::condition_variable work, idle;
  std::vector<std::thread> workers;
  const unsigned born = generation.load();

  // The job. The caller writes it while nobody is inside, opens it, closes it when its tiles are taken, and waits for
  // those inside. A worker goes inside before it looks whether the job is open, so a late one touches nothing.
  Call call = nullptr;
  const void* body = nullptr;
  std::vector<TileRange> ranges;  // of every thread
  std::vector<Ahead> ahead;       // of every thread, or none
  std::atomic<uint64_t> open{0};  // number of the job that may be taken, or 0
  std::atomic<int> inside{0};
  std::atomic<bool> stop{false};
  uint64_t jobs = 0;

  explicit Shared(int threads) : ranges(size_t(threads)) {
    try {
      for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { serve(i); });
    } catch (...) {
      finish();
      throw;
    }
  }
  ~Shared() { finish(); }

  void finish() {
    {
      std::lock_guard lock(mutex);
      stop.store(true);
    }
    work.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void take_tiles(int thread) {
    TileRange& mine = ranges[size_t(thread)];
    do {
      for (int64_t tile; (tile = mine.take()) >= 0;) call(body, tile, thread);
    } while (steal(size_t(thread)));
  }

  bool steal(size_t thread) {
    for (size_t i = 1; i < ranges.size(); ++i)
      if (ranges[thread].steal(ranges[(thread + i) % ranges.size()])) return true;
    return false;
  }

  void serve(int thread) {
    const FloatEnvironment environment;
    uint64_t last = 0;
    Ahead mine;
    const auto called = [&] {
      const uint64_t job = open.load();
      return (job != 0 && job != last) || stop.load();
    };
    for (;;) {
      if (!spin_until(called, mine)) {
        std::unique_lock lock(mutex);
        work.wait(lock, called);
      }
      if (stop.load()) return;
      inside.fetch_add(1);
      if (const uint64_t job = open.load()) {
        last = job;
        if (!ahead.empty()) mine = ahead[size_t(thread)];
        take_tiles(thread);
      }
      if (inside.fetch_sub(1) == 1) {
        std::lock_guard lock(mutex);
        idle.notify_one();
      }
    }
  }

  void run(const ThreadPool& pool, int64_t count, Call function, const void* argument, const std::vector<Ahead>& next) {
    std::lock_guard turn_taking(entry);
    call = function, body = argument, ahead = next;
    for (int i = 0; i < pool.threads(); ++i)
      ranges[size_t(i)].set(pool.first_tile(count, i), pool.first_tile(count, i + 1));
    {
      std::lock_guard lock(mutex);  // a worker between its last look and its sleep must not miss this
      open.store(++jobs);
    }
    work.notify_all();
    take_tiles(0);
    open.store(0);
    const auto done = [&] { return inside.load() == 0; };
    Ahead mine = next.empty() ? Ahead{} : next[0];
    if (spin_until(done, mine)) return;
    std::unique_lock lock(mutex);
    idle.wait(lock, done);
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  count_forks();
  shared_.store(new Shared(threads));
}

ThreadPool::~ThreadPool() {
  Shared* shared = shared_.load();
  // in a forked child the workers are gone and their locks may be held for ever: leave them
  if (shared->born == generation.load()) delete shared;
}

ThreadPool::Shared& ThreadPool::shared() {
  Shared* shared = shared_.load();
  if (shared->born == generation.load()) return *shared;
  std::lock_guard lock(revive_);
  shared = shared_.load();
  if (shared->born != generation.load()) shared_.store(shared = new Shared(threads_));
  return *shared;
}

void ThreadPool::run_erased(int64_t tiles, Call call, const void* body, const std::vector<Ahead>& ahead) {
  const FloatEnvironment environment;
  if (tiles > 1 && threads_ > 1) return shared().run(*this, tiles, call, body, ahead);
  for (int64_t tile = 0; tile < tiles; ++tile) call(body, tile, 0);
}

}  // namespace ingot
