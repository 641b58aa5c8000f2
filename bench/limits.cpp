// What this machine can do at most: read bandwidth, arithmetic peaks, and how far apart its CPUs are.
//
//   limits read MIB THREADS PASSES [PAGES STREAMS DISTANCE TILE]   bytes a second, one JSON line a pattern
//   limits update MIB THREADS PASSES                                read, change, write back (the state sweep)
//   limits peaks THREADS                                            operations a second of every unit there is
//   limits pingpong                                                 ns one way between pairs of CPUs; clock in GHz
//
// Compiled for the machine it runs on (-march=native); bench/limits.py does that and reads the lines.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#endif
#include <sys/mman.h>
#include <unistd.h>

namespace {

using Clock = std::chrono::steady_clock;
// 64 bytes: one AVX-512 register, two of AVX2, four of NEON; the compiler splits it.
typedef uint32_t Line __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

template <class T>
inline void keep(T& value) {  // the optimiser must believe that `value` is read and changed here
  asm volatile("" : "+m"(value));
}

void pin(int cpu) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
#else
  (void)cpu;
#endif
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
#if defined(__linux__)
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
#else
  for (unsigned cpu = 0; cpu < std::thread::hardware_concurrency(); ++cpu) cpus.push_back(int(cpu));
#endif
  return cpus;
}

// Seconds from the moment all threads stand ready to the moment the last has done work(thread); each on its own CPU.
double together(int threads, const std::function<void(int)>& work) {
  static const std::vector<int> cpus = allowed_cpus();
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) {
    team.emplace_back([&, t] {
      pin(cpus[size_t(t) % cpus.size()]);
      ready++;
      while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
      work(t);
    });
  }
  while (ready < threads) std::this_thread::yield();
  auto begin = Clock::now();
  go = true;
  for (auto& member : team) member.join();
  return seconds_since(begin);
}

// --- bandwidth ---

struct Buffer {
  char* data;
  size_t size;
};

// "4k" and "huge": anonymous memory without and with transparent huge pages; "file": a mapped file in the page cache.
Buffer buffer_of(const std::string& pages, size_t size, int threads) {
  constexpr size_t HUGE = size_t(2) << 20;
  void* at = MAP_FAILED;
  if (pages == "file") {
    const char* place = getenv("TMPDIR");
    std::string name = std::string(place ? place : "/tmp") + "/ingot-limits-XXXXXX";
    int file = mkstemp(name.data());
    unlink(name.c_str());
    std::vector<char> block(1 << 20, 1);
    for (size_t done = 0; done < size; done += block.size()) {
      if (write(file, block.data(), block.size()) < 0) exit(3);
    }
    at = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  } else {
    at = mmap(nullptr, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (at == MAP_FAILED) {
    fprintf(stderr, "limits: no %zu MiB of %s memory\n", size >> 20, pages.c_str());
    exit(3);
  }
  char* data = static_cast<char*>(at);
  if (pages != "file") {
    data += -uintptr_t(data) % HUGE;
#if defined(MADV_HUGEPAGE)
    madvise(data, size, pages == "huge" ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
  }
  together(threads, [&](int t) {  // first touch where it will be read
    size_t share = size / size_t(threads), begin = share * size_t(t);
    if (pages != "file") {
      memset(data + begin, t + 1, share);
      return;
    }
    volatile char seen = 0;
    for (size_t i = begin; i < begin + share; i += 4096) seen = char(seen + data[i]);
  });
  return {data, size};
}

// Sums `size` bytes read as STREAMS sequences side by side, each prefetched `distance` bytes ahead (0: not at all).
template <int STREAMS>
void read_bytes(const char* data, size_t size, size_t distance) {
  constexpr size_t BLOCK = 512;  // bytes of one stream before the next has its turn
  size_t stretch = size / STREAMS / BLOCK * BLOCK;
  Line sum[8] = {};
  for (size_t at = 0; at < stretch; at += BLOCK) {
    for (int s = 0; s < STREAMS; ++s) {
      const char* from = data + size_t(s) * stretch + at;
      for (int i = 0; i < 8; ++i) {
        if (distance) __builtin_prefetch(from + i * 64 + distance, 0, 3);
        sum[i] += *reinterpret_cast<const Line*>(from + i * 64);
      }
    }
  }
  for (auto& part : sum) keep(part);
}

void read_pattern(const char* data, size_t size, int streams, size_t distance) {
  switch (streams) {
    case 1:
      return read_bytes<1>(data, size, distance);
    case 2:
      return read_bytes<2>(data, size, distance);
    case 4:
      return read_bytes<4>(data, size, distance);
    default:
      return read_bytes<8>(data, size, distance);
  }
}

double best_of(int passes, const std::function<double()>& pass) {
  double best = 0;
  for (int i = 0; i < passes; ++i) best = std::max(best, pass());
  return best;
}

// tile 0: each thread has one contiguous share; else the threads take tiles of so many bytes in turn.
void read_line(Buffer buffer, const std::string& pages, int threads, int passes, int streams, size_t distance,
               size_t tile) {
  const size_t share = buffer.size / size_t(threads) / 4096 * 4096;
  const size_t piece = tile && tile < share ? tile : share;
  const size_t pieces = buffer.size / piece;
  // Several sweeps in one pass when the buffer is small: a pass must last far longer than a thread takes to start.
  int sweeps = int(std::max<size_t>(1, (size_t(256) << 20) / buffer.size));
  double rate = best_of(passes, [&] {
    double s = together(threads, [&](int t) {
      for (int i = 0; i < sweeps; ++i) {
        for (size_t p = size_t(t); p < pieces; p += size_t(threads)) {
          read_pattern(buffer.data + piece * p, piece, streams, distance);
        }
      }
    });
    return double(piece) * double(pieces) * sweeps / s;
  });
  printf(
      "{\"kind\": \"read\", \"mib\": %zu, \"threads\": %d, \"pages\": \"%s\", \"streams\": %d, \"distance\": %zu, "
      "\"tile\": %zu, \"bytes_s\": %.4g}\n",
      buffer.size >> 20, threads, pages.c_str(), streams, distance, tile, rate);
  fflush(stdout);
}

void read_all(size_t size, int threads, int passes) {
  for (std::string pages : {"huge", "4k", "file"}) {
    Buffer buffer = buffer_of(pages, size, threads);
    for (size_t tile : {size_t(0), size_t(2) << 20}) {
      if (tile && threads == 1) continue;
      for (int streams : {1, 2, 4, 8}) {
        for (size_t distance : {0, 512, 1024, 2048, 4096, 8192}) {
          read_line(buffer, pages, threads, passes, streams, distance, tile);
        }
      }
    }
    munmap(buffer.data, buffer.size);
  }
}

// One sweep reads and writes every line once, so it moves twice `size` bytes.
void update_line(size_t size, int threads, int passes) {
  Buffer buffer = buffer_of("huge", size, threads);
  size_t share = size / size_t(threads);
  int sweeps = int(std::max<size_t>(1, (size_t(256) << 20) / size));
  double rate = best_of(passes, [&] {
    double s = together(threads, [&](int t) {
      for (int i = 0; i < sweeps; ++i) {
        char* from = buffer.data + share * size_t(t);
        for (size_t at = 0; at < share; at += 64) {
          __builtin_prefetch(from + at + 2048, 1, 3);
          *reinterpret_cast<Floats*>(from + at) *= 0.5f;
        }
      }
    });
    return 2.0 * double(share) * threads * sweeps / s;
  });
  printf("{\"kind\": \"update\", \"mib\": %zu, \"threads\": %d, \"bytes_s\": %.4g}\n", size >> 20, threads, rate);
}

// --- arithmetic ---

constexpr int CHAINS = 12;  // independent sums: more than latency times units of any core we know
constexpr long ROUNDS = 1500000;

// The sums are kept after the loops only: inside, gcc would spill them.
#if defined(__AVX512F__)
void fp32_fma() {
  __m512 sum[CHAINS], x = _mm512_set1_ps(1.5f), y = _mm512_set1_ps(0.5f);
  for (auto& s : sum) s = x;
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = _mm512_fmadd_ps(x, y, s);
  }
  for (auto& s : sum) keep(s);
}
constexpr double FMA_OPS = double(ROUNDS) * CHAINS * 16 * 2;
#elif defined(__FMA__)
void fp32_fma() {
  __m256 sum[CHAINS], x = _mm256_set1_ps(1.5f), y = _mm256_set1_ps(0.5f);
  for (auto& s : sum) s = x;
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = _mm256_fmadd_ps(x, y, s);
  }
  for (auto& s : sum) keep(s);
}
constexpr double FMA_OPS = double(ROUNDS) * CHAINS * 8 * 2;
#elif defined(__ARM_NEON)
void fp32_fma() {
  float32x4_t sum[16], x = vdupq_n_f32(1.5f);
  for (auto& s : sum) s = x;
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = vfmaq_f32(s, x, x);
  }
  for (auto& s : sum) keep(s);
}
constexpr double FMA_OPS = double(ROUNDS) * 16 * 4 * 2;
#else
void fp32_fma() {  // whatever the compiler makes of it
  float sum[64] = {}, x = 1.5f;
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = s * x + x;
  }
  for (auto& s : sum) keep(s);
}
constexpr double FMA_OPS = double(ROUNDS) * 64 * 2;
#endif

#if defined(__AVX512VNNI__)
void int8_vnni() {
  __m512i sum[CHAINS], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
  for (auto& s : sum) s = x;
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = _mm512_dpbusd_epi32(s, x, y);
  }
  for (auto& s : sum) keep(s);
}
constexpr double VNNI_OPS = double(ROUNDS) * CHAINS * 64 * 2;
#elif defined(__AVXVNNI__)
void int8_vnni() {
  __m256i sum[CHAINS], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2);
  for (auto& s : sum) s = x;
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = _mm256_dpbusd_avx_epi32(s, x, y);
  }
  for (auto& s : sum) keep(s);
}
constexpr double VNNI_OPS = double(ROUNDS) * CHAINS * 32 * 2;
#elif defined(__AVX2__)
void int8_maddubs() {  // multiply pairs, widen, add: what a CPU without VNNI has
  __m256i sum[CHAINS], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2), one = _mm256_set1_epi16(1);
  for (auto& s : sum) s = x;
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) {
      asm volatile("" : "+x"(x));
      s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), one));
      asm volatile("" : "+x"(s));
    }
  }
}
constexpr double MADDUBS_OPS = double(ROUNDS) * CHAINS * 32 * 2;
#endif

#if defined(__AVX512BF16__)
void bf16_avx512() {
  __m512 sum[CHAINS];
  __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80), y = x;
  for (auto& s : sum) s = _mm512_set1_ps(1);
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = _mm512_dpbf16_ps(s, x, y);
  }
  for (auto& s : sum) keep(s);
}
constexpr double BF16_OPS = double(ROUNDS) * CHAINS * 32 * 2;
#endif

#if defined(__AMX_TILE__) && defined(__linux__)
constexpr long TILE_ROUNDS = 150000;
struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

bool tiles_allowed() {
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

void load_tiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
  asm volatile("" : : "r"(&config) : "memory");  // gcc's intrinsic says it reads eight bytes: the rest would be dropped
  _tile_loadconfig(&config);
  alignas(64) static const uint8_t ones[1024] = {};
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
}

#if defined(__AMX_INT8__)
void int8_amx() {
  load_tiles();
  for (long i = 0; i < TILE_ROUNDS; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}
constexpr double AMX_INT8_OPS = double(TILE_ROUNDS) * 4 * 16 * 16 * 64 * 2;
#endif
#if defined(__AMX_BF16__)
void bf16_amx() {
  load_tiles();
  for (long i = 0; i < TILE_ROUNDS; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
constexpr double AMX_BF16_OPS = double(TILE_ROUNDS) * 4 * 16 * 16 * 32 * 2;
#endif
#endif

#if defined(__ARM_FEATURE_DOTPROD)
void int8_dotprod() {
  int32x4_t sum[16];
  int8x16_t x = vdupq_n_s8(1);
  for (auto& s : sum) s = vdupq_n_s32(0);
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = vdotq_s32(s, x, x);
  }
  for (auto& s : sum) keep(s);
}
constexpr double DOTPROD_OPS = double(ROUNDS) * 16 * 16 * 2;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
void int8_i8mm() {
  int32x4_t sum[16];
  int8x16_t x = vdupq_n_s8(1);
  for (auto& s : sum) s = vdupq_n_s32(0);
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = vmmlaq_s32(s, x, x);
  }
  for (auto& s : sum) keep(s);
}
constexpr double I8MM_OPS = double(ROUNDS) * 16 * 32 * 2;
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
void bf16_mmla() {
  float32x4_t sum[16];
  bfloat16x8_t x = vreinterpretq_bf16_u16(vdupq_n_u16(0x3f80));
  for (auto& s : sum) s = vdupq_n_f32(0);
  for (long i = 0; i < ROUNDS; ++i) {
    for (auto& s : sum) s = vbfmmlaq_f32(s, x, x);
  }
  for (auto& s : sum) keep(s);
}
constexpr double BFMMLA_OPS = double(ROUNDS) * 16 * 16 * 2;
#endif

void peak_line(const char* unit, int threads, double operations, void (*work)()) {
  work();  // wakes wide units and clocks
  double rate = best_of(5, [&] { return operations * threads / together(threads, [&](int) { work(); }); });
  printf("{\"kind\": \"peak\", \"unit\": \"%s\", \"threads\": %d, \"ops_s\": %.4g}\n", unit, threads, rate);
  fflush(stdout);
}

void peaks(int threads) {
  peak_line("fp32 fma", threads, FMA_OPS, fp32_fma);
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
  peak_line("int8 vnni", threads, VNNI_OPS, int8_vnni);
#elif defined(__AVX2__)
  peak_line("int8 maddubs", threads, MADDUBS_OPS, int8_maddubs);
#endif
#if defined(__AVX512BF16__)
  peak_line("bf16 avx512", threads, BF16_OPS, bf16_avx512);
#endif
#if defined(__AMX_TILE__) && defined(__linux__)
  if (tiles_allowed()) {
#if defined(__AMX_INT8__)
    peak_line("int8 amx", threads, AMX_INT8_OPS, int8_amx);
#endif
#if defined(__AMX_BF16__)
    peak_line("bf16 amx", threads, AMX_BF16_OPS, bf16_amx);
#endif
  }
#endif
#if defined(__ARM_FEATURE_DOTPROD)
  peak_line("int8 dotprod", threads, DOTPROD_OPS, int8_dotprod);
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
  peak_line("int8 i8mm", threads, I8MM_OPS, int8_i8mm);
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  peak_line("bf16 mmla", threads, BFMMLA_OPS, bf16_mmla);
#endif
}

// --- neighbours and clock ---

double ping_pong_ns(int first, int second) {
  constexpr int TURNS = 100000;
  alignas(128) static std::atomic<int> ball;
  ball = 0;
  std::thread other([&] {
    pin(second);
    for (int i = 0; i < TURNS; ++i) {
      while (ball.load(std::memory_order_acquire) != 2 * i + 1) {
      }
      ball.store(2 * i + 2, std::memory_order_release);
    }
  });
  double begin_ns = 0;
  std::thread one([&] {
    pin(first);
    ball.store(1, std::memory_order_release);
    while (ball.load(std::memory_order_acquire) != 2) {
    }
    auto begin = Clock::now();
    for (int i = 1; i < TURNS; ++i) {
      ball.store(2 * i + 1, std::memory_order_release);
      while (ball.load(std::memory_order_acquire) != 2 * i + 2) {
      }
    }
    begin_ns = seconds_since(begin) * 1e9;
  });
  one.join(), other.join();
  return begin_ns / (TURNS - 1) / 2;
}

// A chain of additions, one a cycle on every core we know.
double clock_ghz() {
  constexpr long ADDS = 50000000;
  uint64_t x = 1, step = 3;
  asm volatile("" : "+r"(step));  // an addition of a constant can be free (Golden Cove)
  auto begin = Clock::now();
  for (long i = 0; i < ADDS / 10; ++i) {
    for (int j = 0; j < 10; ++j) {
      x += step;
      asm volatile("" : "+r"(x));
    }
  }
  return double(ADDS) / seconds_since(begin) / 1e9;
}

void ping_pong() {
  std::vector<int> cpus = allowed_cpus();
  size_t shown = std::min<size_t>(cpus.size(), 8);
  for (size_t i = 1; i < shown; ++i) {
    double ns = 1e9;
    for (int run = 0; run < 3; ++run) ns = std::min(ns, ping_pong_ns(cpus[0], cpus[i]));
    printf("{\"kind\": \"pingpong\", \"cpus\": [%d, %d], \"ns\": %.1f}\n", cpus[0], cpus[i], ns);
  }
  double ghz = best_of(5, clock_ghz);
  printf("{\"kind\": \"clock\", \"ghz\": %.3f}\n", ghz);
}

}  // namespace

int main(int count, char** words) {
  auto number = [&](int i) { return count > i ? atoi(words[i]) : 0; };
  std::string what = count > 1 ? words[1] : "";
  size_t size = size_t(number(2)) << 20;
  if (what == "read" && count == 5) {
    read_all(size, number(3), number(4));
  } else if (what == "read" && count == 9) {
    Buffer buffer = buffer_of(words[5], size, number(3));
    read_line(buffer, words[5], number(3), number(4), number(6), size_t(number(7)), size_t(number(8)));
  } else if (what == "update" && count == 5) {
    update_line(size, number(3), number(4));
  } else if (what == "peaks" && count == 3) {
    peaks(number(2));
  } else if (what == "pingpong") {
    ping_pong();
  } else {
    fprintf(stderr, "usage: limits read|update|peaks|pingpong ...; see the top of limits.cpp\n");
    return 2;
  }
  return 0;
}
