// SPDX-License-Identifier: MIT
// What the CUDA kernels are made of: tiles, positions in a view, accesses of four floats, the element-wise kernel.
#ifndef QUANTIZE_OPS_KERNELS_CUH_
#define QUANTIZE_OPS_KERNELS_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "grid.h"
#include "kernels.h"

#define FQ_DEVICE __device__ __forceinline__

namespace fq {

// A thread works on kVectors groups of four floats, which it loads before it computes: enough bytes on their way to
// hide the memory's latency. A block works on one tile after the other.
const int kThreads = 256;
const int kVectors = 4;
const int kTile = kThreads * kVectors * 4;

#ifndef FQ_MAX_BLOCKS  // made small where loops over tiles are tested
#define FQ_MAX_BLOCKS (1 << 20)
#endif

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

template <class T>
struct Same {
  typedef T type;
};

// Starts the kernel on at most FQ_MAX_BLOCKS blocks; the launch itself is checked, its completion is not awaited.
template <class... P>
void launch(void (*kernel)(P...), int64_t blocks, int threads, cudaStream_t stream, typename Same<P>::type... args) {
  void* pointers[] = {&args...};
  const unsigned count = static_cast<unsigned>(blocks < FQ_MAX_BLOCKS ? blocks : FQ_MAX_BLOCKS);
  check(cudaLaunchKernel(kernel, dim3(count), dim3(threads), pointers, 0, stream));
}

// How often a length fits into a value that lies less than kTile beyond it, without a division: a 32-bit multiplication
// by the reciprocal, exact below 2^31 (Granlund and Montgomery, PLDI 1994); lengths too large for it fit at most once.
struct Wrap {
  int64_t length;
  uint32_t magic;
  uint32_t shift;

  explicit Wrap(int64_t n) : length(n), magic(0), shift(0) {
    if (!small()) return;
    while ((int64_t{1} << shift) < length) ++shift;
    magic = static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - length) / length + 1);
  }

  FQ_INLINE bool small() const { return length <= (int64_t{1} << 30); }

  FQ_INLINE int64_t times(int64_t value) const {
    if (!small()) return value >= length;
    const uint32_t v = static_cast<uint32_t>(value);
    return (static_cast<uint32_t>((static_cast<uint64_t>(v) * magic) >> 32) + v) >> shift;
  }
};

// A tensor of one part has one row, whatever the view said.
inline View merged(View view) {
  if (view.parts == 1) view.inner *= view.outer, view.outer = 1;
  return view;
}

inline View flat(int64_t n) {
  View view;
  view.inner = n;
  return view;
}

struct Nothing {};  // the numbers of an operator without any

FQ_DEVICE bool aligned(const float* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// Four floats, or as many as `count` says; kWide: p is known to be aligned and count to be 4.
template <bool kWide>
FQ_DEVICE void load4(const float* p, int64_t count, float* v) {
  if (kWide) {
    const float4 all = *reinterpret_cast<const float4*>(p);
    v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = e < count ? p[e] : 0.f;
  }
}

template <bool kWide>
FQ_DEVICE void store4(float* p, int64_t count, const float* v) {
  if (kWide) {
    float4 all;
    all.x = v[0], all.y = v[1], all.z = v[2], all.w = v[3];
    *reinterpret_cast<float4*>(p) = all;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (e < count) p[e] = v[e];
  }
}

// ---- element by element. An Op holds device pointers and attributes:
//   static const bool kReadsGradient; struct or type Numbers;
//   Numbers numbers(int64_t part); float operator()(float x, float dy, const Numbers&)

// How a flat tensor falls into parts.
struct Layout {
  int64_t size;
  Wrap inner;
  Wrap parts;

  explicit Layout(const View& view) : size(view.size()), inner(view.inner), parts(view.parts) {}
};

// The part of an element, and how many elements of its row follow, itself included.
struct Place {
  int64_t part;
  int64_t left;
};

// `first`: part and offset in the row of the element that lies `ahead` elements before the one asked for.
FQ_INLINE Place place_after(const Layout& layout, int64_t part, int64_t offset, int ahead) {
  const int64_t rows = layout.inner.times(offset + ahead);
  const int64_t moved = part + rows;
  return {moved - layout.parts.times(moved) * layout.parts.length,
          (rows + 1) * layout.inner.length - offset - ahead};
}

// Steps to the next element.
FQ_INLINE bool advance(const Layout& layout, Place* place) {
  if (--place->left > 0) return false;
  place->left = layout.inner.length;
  place->part = place->part + 1 == layout.parts.length ? 0 : place->part + 1;
  return true;
}

template <class Op>
FQ_DEVICE void apply4(const Op& op, const Layout& layout, Place place, const float* x, const float* dy, float* y) {
  typename Op::Numbers numbers = op.numbers(place.part);
  if (place.left >= 4) {
#pragma unroll
    for (int e = 0; e < 4; ++e) y[e] = op(x[e], dy[e], numbers);
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    y[e] = op(x[e], dy[e], numbers);
    if (e < 3 && advance(layout, &place)) numbers = op.numbers(place.part);
  }
}

template <bool kOnePart, bool kWide, class Op>
FQ_DEVICE void map_tile(const float* x, const float* dy, float* y, const Layout& layout, const Op& op,
                        const typename Op::Numbers& numbers, int64_t start) {
  float xs[kVectors][4], dys[kVectors][4], ys[4];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int64_t i = start + (v * kThreads + threadIdx.x) * 4;
    load4<kWide>(x + i, layout.size - i, xs[v]);
    if (Op::kReadsGradient) load4<kWide>(dy + i, layout.size - i, dys[v]);
  }
  const int64_t row = kOnePart ? 0 : start / layout.inner.length;
  const int64_t offset = kOnePart ? 0 : start - row * layout.inner.length;
  const int64_t part = kOnePart ? 0 : row % layout.parts.length;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int ahead = (v * kThreads + threadIdx.x) * 4;
    if (kOnePart) {
#pragma unroll
      for (int e = 0; e < 4; ++e) ys[e] = op(xs[v][e], Op::kReadsGradient ? dys[v][e] : 0.f, numbers);
    } else {
      apply4(op, layout, place_after(layout, part, offset, ahead), xs[v], Op::kReadsGradient ? dys[v] : xs[v], ys);
    }
    store4<kWide>(y + start + ahead, layout.size - start - ahead, ys);
  }
}

// y may be x or dy: every element is read before it is written, by the thread that writes it.
template <bool kOnePart, class Op>
__global__ void __launch_bounds__(kThreads) map_kernel(const float* x, const float* dy, float* y, Layout layout, Op op) {
  const bool wide = aligned(x) && aligned(y) && (!Op::kReadsGradient || aligned(dy));
  const typename Op::Numbers numbers = op.numbers(0);
  for (int64_t start = int64_t{blockIdx.x} * kTile; start < layout.size; start += int64_t{gridDim.x} * kTile) {
    if (wide && start + kTile <= layout.size)
      map_tile<kOnePart, true>(x, dy, y, layout, op, numbers, start);
    else
      map_tile<kOnePart, false>(x, dy, y, layout, op, numbers, start);
  }
}

template <class Op>
void map(const float* x, const float* dy, float* y, const View& view, const Op& op, cudaStream_t stream) {
  const int64_t tiles = (view.size() + kTile - 1) / kTile;
  if (view.parts == 1)
    launch(map_kernel<true, Op>, tiles, kThreads, stream, x, dy, y, Layout(merged(view)), op);
  else
    launch(map_kernel<false, Op>, tiles, kThreads, stream, x, dy, y, Layout(view), op);
}

}  // namespace fq

#endif  // QUANTIZE_OPS_KERNELS_CUH_
