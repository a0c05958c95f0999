// SPDX-License-Identifier: MIT
// Device memory for the harness: between guard words, optionally not aligned, poisoned before use.
#ifndef TESTS_BENCH_CUDA_BUFFER_H_
#define TESTS_BENCH_CUDA_BUFFER_H_

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define CUDA_OK(call) cuda_ok((call), #call)

inline void cuda_ok(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", call, cudaGetErrorString(error));
  std::exit(2);
}

class Buffer {
 public:
  // `shift` floats past an address that is aligned to 256 bytes.
  Buffer(size_t count, int shift) : count_(count), shift_(shift) {
    CUDA_OK(cudaMalloc(&base_, bytes()));
    CUDA_OK(cudaMemset(base_, kPoison, bytes()));
  }
  Buffer(const std::vector<float>& values, int shift) : Buffer(values.size(), shift) {
    CUDA_OK(cudaMemcpy(data(), values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(base_); }

  float* data() { return base_ + kGuard + shift_; }

  std::vector<float> values() {
    std::vector<float> result(count_);
    CUDA_OK(cudaMemcpy(result.data(), data(), count_ * sizeof(float), cudaMemcpyDeviceToHost));
    return result;
  }

  // Whether nothing was written beside the data.
  bool guarded() {
    std::vector<unsigned char> all(bytes());
    CUDA_OK(cudaMemcpy(all.data(), base_, bytes(), cudaMemcpyDeviceToHost));
    const size_t first = (kGuard + shift_) * sizeof(float), last = first + count_ * sizeof(float);
    for (size_t i = 0; i < all.size(); ++i)
      if ((i < first || i >= last) && all[i] != kPoison) return false;
    return true;
  }

 private:
  static const size_t kGuard = 64;
  static const int kPoison = 0xff;  // NaN, should an element not be written

  size_t bytes() const { return (count_ + 2 * kGuard + shift_) * sizeof(float); }

  size_t count_;
  int shift_;
  float* base_ = nullptr;
};

#endif  // TESTS_BENCH_CUDA_BUFFER_H_
