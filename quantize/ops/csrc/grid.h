// SPDX-License-Identifier: MIT
// The arithmetic of one element, shared by the CPU loops and the CUDA kernels. quantize/reference.py is the judge:
// float32, in the order written there, no contraction to fused multiply-add.
#ifndef QUANTIZE_OPS_GRID_H_
#define QUANTIZE_OPS_GRID_H_

#include <cmath>

#ifdef __CUDACC__
#define FQ_INLINE __host__ __device__ __forceinline__
#else
#define FQ_INLINE inline __attribute__((always_inline))
#endif

namespace fq {

enum Rounding { kHalfAway = 0, kHalfEven = 1, kMidRise = 2 };

struct Grid {
  float qmin;
  float qmax;
  Rounding rounding;
};

// Numbers of one scaled part of a tensor. `multiplier` is used instead of dividing where it is not 0.
struct Part {
  float scale;
  float zero_point;
  float multiplier;
};

// 2^22 lies beyond every code of up to 16 bits and leaves the roundings below exact; NaN becomes the lower bound.
FQ_INLINE float bounded(float t) {
  const float big = 4194304.f;
  t = t > -big ? t : -big;
  return t < big ? t : big;
}

template <Rounding R>
FQ_INLINE float round_steps(float t);

// Half away from zero: the largest float below one half is added, so that what lies just below a half stays below.
template <>
FQ_INLINE float round_steps<kHalfAway>(float t) {
  t = bounded(t);
  return static_cast<float>(static_cast<int>(t + copysignf(0.49999997f, t)));
}

// Half to even: adding 1.5 * 2^23 leaves no bits for a fraction, and float addition itself rounds half to even.
template <>
FQ_INLINE float round_steps<kHalfEven>(float t) {
  return (bounded(t) + 12582912.f) - 12582912.f;
}

// Floor: the code of a mid-rise grid.
template <>
FQ_INLINE float round_steps<kMidRise>(float t) {
  t = bounded(t);
  const float whole = static_cast<float>(static_cast<int>(t));
  return whole > t ? whole - 1.f : whole;
}

FQ_INLINE float clip(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// The largest level in units of the scale.
FQ_INLINE float max_level(const Grid& grid) { return grid.rounding == kMidRise ? grid.qmax + 0.5f : grid.qmax; }

// threshold / level in float32; 1 for a part that is all zero (or underflows).
FQ_INLINE float scale_of(float threshold, float level) {
  const float scale = threshold / level;
  return scale == 0.f ? 1.f : scale;
}

// The grid with a zero point that covers [low, high]. Jacob et al., arXiv:1712.05877, section 3.
FQ_INLINE Part part_of(float low, float high, const Grid& grid) {
  Part part = {scale_of(high - low, grid.qmax - grid.qmin), 0.f, 0.f};
  const float steps = low / part.scale;
  const float rounded = grid.rounding == kHalfEven ? round_steps<kHalfEven>(steps) : round_steps<kHalfAway>(steps);
  part.zero_point = clip(grid.qmin - rounded, grid.qmin, grid.qmax);
  return part;
}

template <bool kMultiply>
FQ_INLINE float steps(float x, const Part& p) {
  return kMultiply ? x * p.multiplier : x / p.scale;
}

// Value of x on the grid; NaN stays NaN.
template <Rounding R, bool kMultiply>
FQ_INLINE float fake(float x, const Part& p, float qmin, float qmax) {
  const float code = clip(round_steps<R>(steps<kMultiply>(x, p)) + p.zero_point, qmin, qmax);
  const float value = (R == kMidRise ? code + 0.5f : code - p.zero_point) * p.scale;
  return x == x ? value : x;
}

// Whether the unclipped code of x lies on the grid: where the straight-through gradient is 1.
template <Rounding R, bool kMultiply>
FQ_INLINE bool inside(float x, const Part& p, float qmin, float qmax) {
  const float t = steps<kMultiply>(x, p);
  if (R == kMidRise) return (t >= qmin) & (t <= qmax + 1.f);
  const float code = round_steps<R>(t) + p.zero_point;
  return (code >= qmin) & (code <= qmax) & (t == t);
}

// LSQ, Esser et al., arXiv:1902.08153, equation 3: dy/dstep is round(t) - t inside the grid, the clipped code outside.
template <Rounding R>
FQ_INLINE float step_slope(float x, float step, float qmin, float qmax) {
  const float t = x / step;
  const float code = round_steps<R>(t);
  const float clipped = clip(code, qmin, qmax);
  return clipped == code ? code - t : clipped;
}

// PACT, Choi et al., arXiv:1805.06085: clip to [0, alpha], then `levels` equal steps.
FQ_INLINE float pact(float x, float alpha, float levels) {
  const float scale = alpha / levels;
  const float value = round_steps<kHalfAway>(clip(x, 0.f, alpha) / scale) * scale;
  return x == x ? value : x;
}

// dy/dalpha: 1 above alpha; inside 0 (PACT), or q / levels - x / alpha (CG-PACT, Jin et al., arXiv:1912.10207, eq. 12).
FQ_INLINE float pact_slope(float x, float alpha, float levels, bool calibrated) {
  if (x >= alpha) return 1.f;
  if (!calibrated || !(x > 0.f)) return 0.f;
  return round_steps<kHalfAway>(x / (alpha / levels)) / levels - x / alpha;
}

// Where dx is dy.
FQ_INLINE bool pact_inside(float x, float alpha) { return (x >= 0.f) & (x < alpha); }

// DoReFa weights, Zhou et al., arXiv:1606.06160, equation 9; the divisor is max|tanh(w)|, 0 levels only clamp.
FQ_INLINE float dorefa(float w, double divisor, float levels) {
  const float clamped = static_cast<float>(tanh(static_cast<double>(w)) / divisor);
  return levels > 0.f ? 2.f * (round_steps<kHalfAway>((clamped * 0.5f + 0.5f) * levels) / levels) - 1.f : clamped;
}

FQ_INLINE float dorefa_gradient(float w, float dy, double divisor) {
  const double t = tanh(static_cast<double>(w));
  return static_cast<float>(dy * ((1 - t * t) / divisor));
}

FQ_INLINE float sign(float x) { return x >= 0.f ? 1.f : (x < 0.f ? -1.f : x); }

// Where dx is dy.
FQ_INLINE bool sign_inside(float x) { return (x >= -1.f) & (x <= 1.f); }

}  // namespace fq

#endif  // QUANTIZE_OPS_GRID_H_
