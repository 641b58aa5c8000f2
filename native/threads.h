// A pool that runs the tiles of one operation. Tiles are fixed by the operation's shapes and write disjoint outputs,
// so which thread takes which tile changes no bit. Every thread begins on a run of neighbouring tiles, so that it reads
// weights in order; who is done helps another with the back half of his.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace ingot {

// Memory that a thread will read when an operation to come begins.
struct Ahead {
  const uint8_t *at = nullptr, *end = nullptr;
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // the caller counts as one
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(tile, thread) once for every tile in [0, tiles), in the kernels' floating-point environment, and
  // returns when all are done. Safe from several callers at once (they take turns) and after a fork. body must not
  // throw or call run. `ahead`, one for every thread: what a thread asks for while it waits, from the end of this
  // operation on.
  template <class Body>
  void run(int64_t tiles, const Body& body, const std::vector<Ahead>& ahead = {}) {
    run_erased(
        tiles, [](const void* b, int64_t tile, int thread) { (*static_cast<const Body*>(b))(tile, thread); }, &body,
        ahead);
  }

  // The tile that a thread of run(tiles, ...) begins with.
  int64_t first_tile(int64_t tiles, int thread) const { return tiles * thread / threads_; }

 private:
  using Call = void (*)(const void* body, int64_t tile, int thread);
  struct Shared;

  void run_erased(int64_t tiles, Call call, const void* body, const std::vector<Ahead>& ahead);
  Shared& shared();

  int threads_;
  std::mutex revive_;
  std::atomic<Shared*> shared_;
};

}  // namespace ingot
