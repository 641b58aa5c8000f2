// Cuts every operation into tiles and runs them: one instruction set, one thread pool, scratch for every thread.
// Arguments have been checked (bind.cpp); nothing here throws but an allocation that fails.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "choice.h"
#include "dispatch.h"
#include "layers.h"
#include "portable/pack.h"
#include "portable/read.h"
#include "portable/rotary.h"
#include "table.h"
#include "threads.h"

namespace ingot {

class Scratch;

class Context {
 public:
  // `isa` empty: the best this machine runs. Throws std::invalid_argument.
  Context(int threads, const std::string& isa) : kernels_(find_kernels(isa)), pool_(threads) {}

  const char* isa() const { return kernels_.name; }
  int threads() const { return pool_.threads(); }

  void pack(const Unpacked& from, Format format, uint8_t* to);
  uint64_t read_memory(const uint8_t* data, int64_t size);  // the sum of its words: memory read, nothing else done
  void linears(std::vector<Linear> ops);                    // one parallel region; all of the same x
  void rms_norm(const Norm& op) { rows(op, kernels_.rms_norm); }
  void layer_norm(const Norm& op) { rows(op, kernels_.layer_norm); }
  void gated_rms_norm(const Norm& op) { rows(op, kernels_.gated_rms_norm); }
  void l2_norm(const Norm& op) { rows(op, kernels_.l2_norm); }
  void silu_mul(const Elementwise& op) { elements(op, kernels_.silu_mul); }
  void sigmoid_mul(const Elementwise& op) { elements(op, kernels_.sigmoid_mul); }
  void gelu_tanh(const Elementwise& op) { elements(op, kernels_.gelu_tanh); }
  void gelu(const Elementwise& op) { elements(op, kernels_.gelu); }
  void exp(const Elementwise& op) { elements(op, kernels_.exp); }
  void sigmoid(const Elementwise& op) { elements(op, kernels_.sigmoid); }
  void softplus(const Elementwise& op) { elements(op, kernels_.softplus); }
  void rotary(const Rotary& op);
  void rope(const Rope& q, const Rope& k, int64_t tokens);
  void delta_gates(const DeltaGates& op, int64_t tokens);
  void causal_conv1d(const Conv& op);
  void gated_delta_rule(const DeltaRule& op);
  void delta_mixer(const DeltaMixer& op);
  void attention(const Attention& op);
  void delta_layer(DeltaLayer op);
  void full_layer(FullLayer op);
  int64_t choose(const Choice& op) { return chosen(op, kernels_, pool_); }
  int64_t rank(const float* scores, int64_t count, int32_t* ids, int64_t best) {
    return ranked(scores, count, ids, best, kernels_, pool_);
  }

 private:
  void rows(const Norm& op, void (*kernel)(const Norm&, int64_t, int64_t));
  void elements(const Elementwise& op, void (*kernel)(const Elementwise&, int64_t, int64_t));
  bool attend_in_parts(const Attention& op, const std::vector<Tile>& tiles, bool stores, const Scratch& scratch);

  void round_rows(std::vector<Linear>& ops, bool bf16, uint8_t* memory);
  int64_t rounded_bytes(const Linear& op) const;

  // Memory that only grows: rounded rows and each thread's scratch. Callers take turns.
  struct Workspace {
    std::mutex turn;
    std::unique_ptr<uint8_t[]> memory;
    int64_t size = 0;
    uint8_t* reserve(int64_t bytes);  // aligned to a cache line
  };

  void normalise(const Layer& layer, Rows x, int64_t rows, int64_t size, const float* weight, float* y);
  void add(const float* a, const float* b, float* y, int64_t count);
  void swiglu(const Layer& layer);

  // What the threads began with in the call of linears that came after the one of a matrix, the last time: the order
  // of a model's matrices is the same in every step. Addresses only, for nothing but asking ahead.
  struct Followers {
    std::unordered_map<const uint8_t*, std::vector<Ahead>> of;
    const uint8_t* last = nullptr;
    const std::vector<Ahead>& after(const uint8_t* weight, std::vector<Ahead> begins);
  };

  const Kernels& kernels_;
  ThreadPool pool_;
  Workspace workspace_;    // of linears
  Followers followers_;    // of linears
  Workspace activations_;  // between the operations of a layer
};

}  // namespace ingot
