// SPDX-License-Identifier: MIT
// Stands in for CUDA's header so that g++ compiles the kernels and the harness, and one CPU thread runs them: every CUDA
// thread is a coroutine that gives way at barriers and shuffles. It judges the logic; it says nothing about speed, or
// about the device's own arithmetic.
#ifndef EMULATED_CUDA_RUNTIME_H_
#define EMULATED_CUDA_RUNTIME_H_

#include <setjmp.h>
#include <ucontext.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after the other
#define __forceinline__ inline
#define __launch_bounds__(n)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

struct Barrier {
  unsigned waiting = 0;
  unsigned turn = 0;
};

// One coroutine for each thread of a block; they are kept from block to block. ucontext makes them, the setjmp that does
// not touch signals changes between them, which is many times faster.
struct Block {
  static const unsigned kMost = 1024;
  static const size_t kStack = 64 * 1024;
  std::vector<ucontext_t> threads;
  std::vector<char> stacks, done;
  jmp_buf resume[kMost];
  jmp_buf scheduler;
  std::vector<Barrier> warps;
  std::vector<double> slots;  // what the threads of a warp show each other
  Barrier all;
  std::function<void()> kernel;
};
inline Block block;

inline void give_way() {
  if (_setjmp(block.resume[threadIdx.x]) == 0) _longjmp(block.scheduler, 1);
}

inline void wait(Barrier* barrier, unsigned count) {
  const unsigned turn = barrier->turn;
  if (++barrier->waiting == count) {
    barrier->waiting = 0;
    ++barrier->turn;
  }
  while (barrier->turn == turn) give_way();
}

inline void wait_warp() { wait(&block.warps[threadIdx.x / 32], blockDim.x < 32 ? blockDim.x : 32); }

inline void thread_main() {
  for (;;) {
    block.kernel();
    block.done[threadIdx.x] = 1;
    give_way();
  }
}

// Runs a thread until it gives way or ends.
inline void resume(unsigned t) {
  threadIdx.x = t;
  if (_setjmp(block.scheduler) != 0) return;
  if (t < block.threads.size()) _longjmp(block.resume[t], 1);
  block.threads.emplace_back();
  ucontext_t* context = &block.threads.back();
  getcontext(context);
  context->uc_stack.ss_sp = block.stacks.data() + t * Block::kStack;
  context->uc_stack.ss_size = Block::kStack;
  makecontext(context, thread_main, 0);
  setcontext(context);
}

inline void run_block() {
  const unsigned count = blockDim.x;
  if (block.stacks.empty()) {
    block.stacks.resize(Block::kMost * Block::kStack);
    block.threads.reserve(Block::kMost);
  }
  block.done.assign(count, 0);
  block.warps.assign((count + 31) / 32, Barrier());
  block.slots.resize(count);
  for (;;) {
    bool left = false;
    for (unsigned t = 0; t < count; ++t) {
      if (!block.done[t]) resume(t), left = true;
    }
    if (!left) return;
  }
}

template <class... P, size_t... I>
void run(void (*kernel)(P...), void** args, std::index_sequence<I...>) {
  block.kernel = [=] { kernel(*static_cast<P*>(args[I])...); };
  for (unsigned b = 0; b < gridDim.x; ++b) {
    blockIdx.x = b;
    run_block();
  }
}

}  // namespace emulated

typedef int cudaError_t;
typedef struct CUstream_st* cudaStream_t;
typedef std::chrono::steady_clock::time_point* cudaEvent_t;
enum { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

struct cudaDeviceProp {
  char name[64] = "no GPU: emulated on the CPU";
  int major = 0, minor = 0;
};

template <class... P>
cudaError_t cudaLaunchKernel(void (*kernel)(P...), dim3 grid, dim3 threads, void** args, size_t, cudaStream_t) {
  gridDim = grid;
  blockDim = threads;
  emulated::run(kernel, args, std::index_sequence_for<P...>());
  return cudaSuccess;
}

inline void __syncthreads() { emulated::wait(&emulated::block.all, blockDim.x); }

template <class T>
T __shfl_down_sync(unsigned, T value, int distance) {
  double* slots = emulated::block.slots.data();
  slots[threadIdx.x] = value;  // holds every int and float exactly
  emulated::wait_warp();
  const T found = threadIdx.x % 32 + distance < 32 ? static_cast<T>(slots[threadIdx.x + distance]) : value;
  emulated::wait_warp();
  return found;
}

template <class T>
T __ldg(const T* p) { return *p; }
inline int __float_as_int(float x) { int bits; std::memcpy(&bits, &x, 4); return bits; }
inline float __int_as_float(int bits) { float x; std::memcpy(&x, &bits, 4); return x; }

inline const char* cudaGetErrorString(cudaError_t) { return "none"; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  return *properties = cudaDeviceProp(), cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  return *available = *total = size_t{1} << 30, cudaSuccess;
}
template <class T>
cudaError_t cudaMalloc(T** p, size_t bytes) {
  return *p = static_cast<T*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256)), cudaSuccess;
}
inline cudaError_t cudaFree(void* p) { return std::free(p), cudaSuccess; }
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemset(void* p, int value, size_t bytes) { return std::memset(p, value, bytes), cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) { return cudaMemset(p, value, bytes); }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return *event = new std::chrono::steady_clock::time_point, cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  return *event = std::chrono::steady_clock::now(), cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  return *ms = std::chrono::duration<float, std::milli>(*to - *from).count(), cudaSuccess;
}

#endif  // EMULATED_CUDA_RUNTIME_H_
