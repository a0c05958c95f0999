// SPDX-License-Identifier: MIT
// Kernels that treat every element by itself.
#include "kernels.cuh"

namespace fq {
namespace {

// Passing the gradient where the element is inside, or the element's value on the grid.
template <Rounding R, bool kMultiply, bool kMask>
struct GridOp {
  static const bool kReadsGradient = kMask;
  typedef Part Numbers;

  Scales scales;
  float qmin;
  float qmax;

  FQ_DEVICE Part numbers(int64_t part) const {
    return {__ldg(scales.scale + part), scales.zero_point ? __ldg(scales.zero_point + part) : 0.f,
            kMultiply ? __ldg(scales.multiplier + part) : 0.f};
  }
  FQ_DEVICE float operator()(float x, float dy, const Part& p) const {
    if (kMask) return inside<R, kMultiply>(x, p, qmin, qmax) ? dy : 0.f;
    return fake<R, kMultiply>(x, p, qmin, qmax);
  }
};

struct PactOp {
  static const bool kReadsGradient = false;
  typedef float Numbers;

  const float* alpha;
  float levels;

  FQ_DEVICE float numbers(int64_t) const { return __ldg(alpha); }
  FQ_DEVICE float operator()(float x, float, float a) const { return pact(x, a, levels); }
};

struct SignOp {
  static const bool kReadsGradient = false;
  typedef Nothing Numbers;

  FQ_DEVICE Nothing numbers(int64_t) const { return Nothing(); }
  FQ_DEVICE float operator()(float x, float, const Nothing&) const { return sign(x); }
};

struct SignBackOp {
  static const bool kReadsGradient = true;
  typedef Nothing Numbers;

  FQ_DEVICE Nothing numbers(int64_t) const { return Nothing(); }
  FQ_DEVICE float operator()(float x, float dy, const Nothing&) const { return sign_inside(x) ? dy : 0.f; }
};

template <Rounding R, bool kMask>
void map_grid(const float* x, const float* dy, float* y, const View& view, const Scales& scales, const Grid& grid,
              cudaStream_t stream) {
  if (scales.multiplier)
    map(x, dy, y, view, GridOp<R, true, kMask>{scales, grid.qmin, grid.qmax}, stream);
  else
    map(x, dy, y, view, GridOp<R, false, kMask>{scales, grid.qmin, grid.qmax}, stream);
}

template <bool kMask>
void map_rounding(const float* x, const float* dy, float* y, const View& view, const Scales& scales, const Grid& grid,
                  cudaStream_t stream) {
  switch (grid.rounding) {
    case kHalfAway: return map_grid<kHalfAway, kMask>(x, dy, y, view, scales, grid, stream);
    case kHalfEven: return map_grid<kHalfEven, kMask>(x, dy, y, view, scales, grid, stream);
    case kMidRise: return map_grid<kMidRise, kMask>(x, dy, y, view, scales, grid, stream);
  }
}

}  // namespace

void fake_gpu(const float* x, float* y, const View& view, const Scales& scales, const Grid& grid, cudaStream_t stream) {
  map_rounding<false>(x, nullptr, y, view, scales, grid, stream);
}

void mask_gpu(const float* x, const float* dy, float* dx, const View& view, const Scales& scales, const Grid& grid,
              cudaStream_t stream) {
  map_rounding<true>(x, dy, dx, view, scales, grid, stream);
}

Scales stats_scales(const float* stats, const View& view, bool asymmetric) {
  return {stats, asymmetric ? stats + view.parts : nullptr, nullptr};
}

void pact_gpu(const float* x, float* y, int64_t n, const float* alpha, float levels, cudaStream_t stream) {
  map(x, nullptr, y, flat(n), PactOp{alpha, levels}, stream);
}

void sign_gpu(const float* x, float* y, int64_t n, cudaStream_t stream) {
  map(x, nullptr, y, flat(n), SignOp(), stream);
}

void sign_backward_gpu(const float* x, const float* dy, float* dx, int64_t n, cudaStream_t stream) {
  map(x, dy, dx, flat(n), SignBackOp(), stream);
}

void zero_gpu(float* y, int64_t n, cudaStream_t stream) { check(cudaMemsetAsync(y, 0, n * sizeof(float), stream)); }

}  // namespace fq
